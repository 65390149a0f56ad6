//! Clients with deadlines, and addresses that nobody else uses.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::wait::DEADLINE;

/// The port of everything that must come back at its address; the address is its own, and the port
/// lies below those which the kernel hands out.
const PORT: u16 = 5433;

/// Addresses that are tried. Who finds none free is not unlucky: something listens at the port of all of them.
const ADDRESSES_MAX: usize = 1000;

/// A loopback address of one's own, out of sixteen million.
#[track_caller]
pub fn fresh_ip() -> IpAddr {
    let mut last = None;
    for _ in 0..ADDRESSES_MAX {
        let ip = Ipv4Addr::new(127, fastrand::u8(1..=254), fastrand::u8(..), fastrand::u8(1..=254));
        match TcpListener::bind((ip, PORT)) {
            Ok(tried) => {
                stop_listening(&tried);
                return IpAddr::V4(ip);
            }
            Err(error) => last = Some(error),
        }
    }
    panic!("port {PORT} is free at none of {ADDRESSES_MAX} addresses of 127.0.0.0/8: {last:?}");
}

/// An address at which nobody listens, and which stays so until the caller does.
#[track_caller]
pub fn fresh_addr() -> SocketAddr {
    SocketAddr::new(fresh_ip(), PORT)
}

/// Listens at `addr`. A program that another test starts at this moment may hold a copy of the socket with which the
/// address was tried, until it has begun.
#[track_caller]
pub fn listen(addr: SocketAddr) -> TcpListener {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(addr) {
            Ok(listener) => return listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < DEADLINE => {
                std::thread::yield_now();
            }
            Err(error) => panic!("cannot listen at {addr}: {error}"),
        }
    }
}

/// Has `listener` refuse whoever comes from now on. Closing alone does not: a program that another test starts at this
/// moment holds a copy of the socket until it has begun, and a copy goes on listening.
pub fn stop_listening(listener: &TcpListener) {
    // On Linux this also wakes a thread that accepts.
    socket2::SockRef::from(listener).shutdown(Shutdown::Both).ok();
}

/// A connection that waits for nothing longer than the deadline.
pub fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The same over a Unix socket.
pub fn dial_unix(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// A connection through which the backend has said its name.
pub fn meet(addr: SocketAddr) -> io::Result<(TcpStream, String)> {
    let mut stream = dial(addr)?;
    let name = read_line(&mut stream)?;
    Ok((stream, name))
}

/// What a client does who comes, learns who serves it, gets its bytes back, and leaves.
pub fn visit(addr: SocketAddr) -> io::Result<String> {
    let (mut stream, name) = meet(addr)?;
    echo(&mut stream, b"are you there?")?;
    Ok(name)
}

/// One line, without its end, and not one byte more than that.
pub fn read_line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        line.extend(byte);
    }
}

/// Sends `bytes` and wants them back.
pub fn echo(stream: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    if back == bytes { Ok(()) } else { Err(io::Error::other("the echo is not what was sent")) }
}

/// How a connection ended on the reader's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With an end of file.
    Closed,
    /// With a reset.
    Reset,
}

/// Reads to the end of the connection: what came, and how it ended. Panics if it does not end.
#[track_caller]
pub fn drain(stream: &mut impl Read) -> (Vec<u8>, End) {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => (all, End::Closed),
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => (all, End::Reset),
        Err(e) => panic!("the connection did not end: {e}, after {} bytes", all.len()),
    }
}

/// Panics unless the connection ends, either way, without another byte.
#[track_caller]
pub fn ends(stream: &mut impl Read) -> End {
    let (rest, end) = drain(stream);
    assert!(rest.is_empty(), "{} bytes came where the end was due", rest.len());
    end
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}

/// Whether nobody listens at `addr`.
pub fn refused(addr: SocketAddr) -> bool {
    matches!(TcpStream::connect_timeout(&addr, DEADLINE), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}
