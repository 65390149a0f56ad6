//! Many clients and servers at once, on one thread, through relays that share another.

use std::cell::Cell;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use changeover::sys::Stream;
use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::relayed::Ours;

/// The longest piece that is written or read at once.
const PIECE: usize = 64 * 1024;

/// A client's socket and a backend's.
type Pair = (Ours, Ours);

/// What `number` sessions relay, and the other ends of that, over TCP and Unix sockets by turns.
#[track_caller]
pub fn sessions(number: usize) -> (Vec<Pair>, Vec<Pair>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("bound");
    let tcp = || {
        let other = std::net::TcpStream::connect(addr).expect("dialled");
        let (ours, _) = listener.accept().expect("accepted");
        (Ours::Tcp(ours), Ours::Tcp(other))
    };
    let unix = || {
        let (ours, other) = UnixStream::pair().expect("a pair");
        (Ours::Unix(ours), Ours::Unix(other))
    };
    let session = |number: usize| {
        let (ours, client) = if number % 4 < 2 { tcp() } else { unix() };
        let (theirs, server) = if number.is_multiple_of(2) { tcp() } else { unix() };
        ((ours, theirs), (client, server))
    };
    (0..number).map(session).unzip()
}

/// A socket's two directions.
pub fn split(end: Ours) -> (Box<dyn AsyncRead + Unpin>, Box<dyn AsyncWrite + Unpin>) {
    match end.watched() {
        Stream::Tcp(stream) => {
            let (reader, writer) = stream.into_split();
            (Box::new(reader), Box::new(writer))
        }
        Stream::Unix(stream) => {
            let (reader, writer) = stream.into_split();
            (Box::new(reader), Box::new(writer))
        }
        stream @ Stream::Program(_) => {
            let (reader, writer) = tokio::io::split(stream);
            (Box::new(reader), Box::new(writer))
        }
    }
}

/// Writes `words` in pieces of random size, and then the end.
pub async fn say(mut writer: Box<dyn AsyncWrite + Unpin>, mut words: &[u8], seed: u64) {
    let mut random = Rng::with_seed(seed);
    while !words.is_empty() {
        let (piece, rest) = words.split_at(words.len().min(random.usize(1..PIECE)));
        writer.write_all(piece).await.expect("sent");
        words = rest;
        if random.bool() {
            tokio::task::yield_now().await;
        }
    }
    writer.shutdown().await.expect("shutdown");
}

/// Wants to read `words` and then the end, byte for byte. A slow one reads little at a time.
pub async fn hear(mut reader: Box<dyn AsyncRead + Unpin>, mut words: &[u8], is_slow: bool) {
    let mut piece = vec![0; if is_slow { PIECE / 16 } else { PIECE }];
    loop {
        let length = reader.read(&mut piece).await.expect("received");
        assert!(words.starts_with(&piece[..length]), "other bytes came than were sent, {} before the end", words.len());
        words = &words[length..];
        if length == 0 {
            break;
        }
        if is_slow {
            tokio::task::yield_now().await;
        }
    }
    assert!(words.is_empty(), "the end came {} bytes early", words.len());
}

/// Reads and counts for ever, and lets others run after each piece.
pub async fn count(mut reader: Box<dyn AsyncRead + Unpin>, counted: Rc<Cell<usize>>) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = reader.read(&mut piece).await {
        counted.set(counted.get() + length);
        tokio::task::yield_now().await;
    }
}

/// Writes for ever, and lets others run after each piece.
pub async fn pour(mut writer: Box<dyn AsyncWrite + Unpin>) {
    let piece = vec![7; PIECE];
    while writer.write_all(&piece).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
