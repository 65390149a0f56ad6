//! What is said to a proxy until it has made the connection that was asked for. Not one byte is taken that is the target's.

use std::io;

use crate::model::{Address, DialError};
use crate::sys::{Stream, graded_error};
use crate::wire::http_connect::{self, HEAD_MAX, parse_head};
use crate::wire::socks5::{self, GREETING, REPLY_MAX, Reply, parse_method, parse_reply};

/// Has the SOCKS5 proxy behind `stream` connect it to `target`.
pub(super) async fn socks5(stream: Stream, target: &Address) -> io::Result<Stream> {
    const WHO: &str = "the SOCKS5 proxy";
    let request = socks5::connect_request(target).ok_or_else(|| unaskable(WHO, target))?;
    // The request waits for the answer to the greeting: there are proxies that throw away what comes with it.
    send(&stream, WHO, &GREETING).await?;
    hear(&stream, WHO, &mut [0; 2], |said| {
        parse_method(said).map(|length| length.map(|length| ((), length))).map_err(|wrong| wrong.to_string())
    })
    .await?;
    send(&stream, WHO, &request).await?;
    let mut buffer = [0; REPLY_MAX];
    let reply = hear(&stream, WHO, &mut buffer, |said| parse_reply(said).map_err(|wrong| wrong.to_string()));
    let reply = reply.await?;
    let grade = match reply {
        Reply::Granted => return Ok(stream),
        Reply::ConnectionRefused => DialError::TargetRefused,
        Reply::NetworkUnreachable | Reply::HostUnreachable | Reply::TtlExpired => DialError::TargetUnreachable,
        Reply::GeneralFailure
        | Reply::NotAllowed
        | Reply::CommandNotSupported
        | Reply::AddressNotSupported
        | Reply::Unassigned(_) => DialError::ProxyRefused,
    };
    Err(graded_error(grade, format!("{WHO}, of {target}: {reply}")))
}

/// Has the HTTP proxy behind `stream` connect it to `target`.
pub(super) async fn http_connect(stream: Stream, target: &Address) -> io::Result<Stream> {
    const WHO: &str = "the HTTP proxy";
    let request = http_connect::connect_request(target).ok_or_else(|| unaskable(WHO, target))?;
    send(&stream, WHO, &request).await?;
    // On the heap: it is the largest part of a dial by far.
    let mut buffer = vec![0; HEAD_MAX];
    let head = hear(&stream, WHO, &mut buffer, |said| {
        let head = parse_head(said).map_err(|wrong| wrong.to_string())?;
        Ok(head.map(|head| (head.clone(), head.length)))
    });
    let head = head.await?;
    let grade = match head.status {
        200..300 => return Ok(stream),
        502..505 => DialError::TargetUnreachable,
        _ => DialError::ProxyRefused,
    };
    Err(graded_error(grade, format!("{WHO}, of {target}: {} {}", head.status, head.reason).trim_end()))
}

/// Waits until `parse` finds something in what has come, and takes just that out of the socket.
async fn hear<T>(
    stream: &Stream,
    who: &str,
    buffer: &mut [u8],
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, String>,
) -> io::Result<T> {
    let mut seen = 0;
    loop {
        seen = stream.peek_more(buffer, seen).await.map_err(|error| gone(who, &error))?;
        let said = buffer.get(..seen).unwrap_or_default();
        match parse(said) {
            Ok(Some((found, length))) => {
                stream.skip(length).map_err(|error| gone(who, &error))?;
                return Ok(found);
            }
            Ok(None) if seen < buffer.len() => {}
            Ok(None) => return Err(refused(format!("{who} has said too much"))),
            Err(wrong) => return Err(refused(format!("{who}: {wrong}"))),
        }
    }
}

async fn send(stream: &Stream, who: &str, bytes: &[u8]) -> io::Result<()> {
    stream.send_all(bytes).await.map_err(|error| gone(who, &error))
}

fn gone(who: &str, error: &io::Error) -> io::Error {
    let has_ended = error.kind() == io::ErrorKind::UnexpectedEof;
    let why = if has_ended { "it ended".to_owned() } else { error.to_string() };
    refused(format!("{who}, before its answer: {why}"))
}

fn unaskable(who: &str, target: &Address) -> io::Error {
    refused(format!("{who} cannot be asked for {target}"))
}

fn refused(detail: String) -> io::Error {
    graded_error(DialError::ProxyRefused, detail)
}
