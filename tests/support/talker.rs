//! A client of PostgreSQL's protocol by hand: none of the time that it takes to start a program is in what it measures, and it
//! can leave a query unanswered for as long as it likes.
//!
//! It is the superuser, who is trusted, and does without TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wait::DEADLINE;

/// Protocol 3.0, and the number that says "cancel" in its place.
const PROTOCOL: i32 = 3 << 16;
const CANCEL: i32 = (1234 << 16) | 5678;

/// A session.
#[derive(Debug)]
pub struct Talker {
    stream: TcpStream,
    /// The server's process, and its secret, as `CancelRequest` has them.
    pub key: Vec<u8>,
}

impl Talker {
    /// Opens one through `at`.
    ///
    /// # Errors
    ///
    /// Why not: the server's code and message, or how the connection ended.
    pub fn open(at: SocketAddr) -> Result<Self, String> {
        let connected = TcpStream::connect_timeout(&at, DEADLINE).and_then(|stream| {
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        let mut talker = Self { stream: connected.map_err(told)?, key: Vec::new() };
        talker.send(None, &[&PROTOCOL.to_be_bytes()[..], b"user\0postgres\0database\0postgres\0\0"].concat())?;
        talker.finish()?;
        Ok(talker)
    }

    /// Sends `query`, whose answer [`Self::finish`] takes.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    pub fn begin(&mut self, query: &str) -> Result<(), String> {
        self.send(Some(b'Q'), &[query.as_bytes(), b"\0"].concat())
    }

    /// The first column of each row that is answered.
    ///
    /// # Errors
    ///
    /// The server's code and message, or how the connection ended.
    pub fn finish(&mut self) -> Result<Vec<String>, String> {
        let (mut rows, mut error) = (Vec::new(), None);
        loop {
            let (kind, body) = self.receive().map_err(|end| error.take().unwrap_or_else(|| told(end)))?;
            match kind {
                b'K' => self.key = body,
                b'D' => rows.push(first_column(&body)),
                b'E' => error = Some(spoken(&body)),
                b'Z' => return error.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Both.
    ///
    /// # Errors
    ///
    /// As [`Self::finish`].
    pub fn ask(&mut self, query: &str) -> Result<Vec<String>, String> {
        self.begin(query)?;
        self.finish()
    }

    /// The number of the server's process.
    pub fn pid(&self) -> u32 {
        u32::from_be_bytes(*self.key.first_chunk().expect("a key"))
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<(), String> {
        let length = i32::try_from(body.len() + 4).expect("short").to_be_bytes();
        let message: Vec<u8> = kind.into_iter().chain(length).chain(body.iter().copied()).collect();
        self.stream.write_all(&message).map_err(told)
    }

    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
        self.stream.read_exact(&mut body)?;
        Ok((kind, body))
    }
}

/// Cancels through `at`, and waits for the end of the connection, after which the request has arrived.
#[track_caller]
pub fn cancel(at: SocketAddr, key: &[u8]) {
    let mut stream = TcpStream::connect_timeout(&at, DEADLINE).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let length = i32::try_from(key.len() + 8).expect("short");
    stream.write_all(&[&length.to_be_bytes()[..], &CANCEL.to_be_bytes(), key].concat()).expect("write");
    assert_eq!(stream.read_to_end(&mut Vec::new()).expect("an end"), 0, "nothing is answered");
}

fn told(end: io::Error) -> String {
    end.to_string()
}

/// The fields of an `ErrorResponse` that say what: its code and its message.
fn spoken(body: &[u8]) -> String {
    let fields = body.split(|&byte| byte == 0).filter(|field| matches!(field.first(), Some(b'C' | b'M')));
    fields.map(|field| String::from_utf8_lossy(&field[1..])).collect::<Vec<_>>().join(" ")
}

fn first_column(body: &[u8]) -> String {
    let length = body.get(2..6).and_then(<[u8]>::first_chunk).map_or(-1, |bytes| i32::from_be_bytes(*bytes));
    let value = usize::try_from(length).ok().and_then(|length| body.get(6..6 + length));
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}
