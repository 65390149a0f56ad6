//! One HTTP request at a time, over whatever connection is given.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use super::net::{dial, dial_unix};

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Response {
    /// The value of the header `name`, given in lower case; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }
}

/// GET over TCP.
pub fn get(addr: SocketAddr, path: &str) -> io::Result<Response> {
    request(addr, "GET", path)
}

/// A request without a body over TCP.
pub fn request(addr: SocketAddr, method: &str, path: &str) -> io::Result<Response> {
    exchange(dial(addr)?, method, path)
}

/// GET over a Unix socket.
pub fn get_unix(socket: &Path, path: &str) -> io::Result<Response> {
    request_unix(socket, "GET", path)
}

/// A request without a body over a Unix socket.
pub fn request_unix(socket: &Path, method: &str, path: &str) -> io::Result<Response> {
    exchange(dial_unix(socket)?, method, path)
}

/// A request with a body over a Unix socket.
pub fn send_unix(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Response> {
    send(dial_unix(socket)?, method, path, body)
}

/// The same over whatever connection is given.
pub fn send(stream: impl Read + Write, method: &str, path: &str, body: &str) -> io::Result<Response> {
    send_with(stream, method, path, "", body)
}

/// The same with more `headers`, each with its end of line.
pub fn send_with(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> io::Result<Response> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}");
    // The server may have answered before it has read all of it, and hung up.
    write!(stream, "{head}Connection: close\r\n\r\n{body}").ok();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    parse(&raw).ok_or_else(|| io::Error::other(format!("no HTTP: {}", String::from_utf8_lossy(&raw))))
}

fn exchange(stream: impl Read + Write, method: &str, path: &str) -> io::Result<Response> {
    exchange_head(stream, &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n"))
}

/// The answer to the request that begins with `head`.
pub fn exchange_head(mut stream: impl Read + Write, head: &str) -> io::Result<Response> {
    write!(stream, "{head}Connection: close\r\n\r\n")?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    parse(&raw).ok_or_else(|| io::Error::other(format!("no HTTP: {}", String::from_utf8_lossy(&raw))))
}

fn parse(raw: &[u8]) -> Option<Response> {
    let raw = std::str::from_utf8(raw).ok()?;
    let (head, body) = raw.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let body = if header("transfer-encoding") == Some("chunked") {
        unchunk(body)?
    } else {
        let whole = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(body.len());
        (body.len() == whole).then(|| body.to_owned())?
    };
    Some(Response { status, headers, body })
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}
