//! The echo server, in a process of its own: `changeover demo-backend`, which `demo` starts and kills.
//!
//! It says its name, echoes until the client has ended, and ends. It prints nothing, and lives no
//! longer than whoever holds the other end of its standard input.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections at once; more are closed as they come.
const CONNECTIONS: usize = 4096;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long to wait after an accept that failed, say for want of a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// A client that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(600);

/// Listens at `bind` and serves until standard input ends.
///
/// # Errors
///
/// If it cannot listen there, or not start a thread.
pub fn serve(bind: SocketAddr, name: &str) -> anyhow::Result<()> {
    let listener = listen(bind).with_context(|| format!("cannot listen at {bind}"))?;
    let greeting: Arc<[u8]> = format!("{name}\n").into_bytes().into();
    // Not joined: it ends with the process.
    thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&listener, &greeting))?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).context("cannot read the standard input")?;
    Ok(())
}

/// A socket that may take the address over from a predecessor whose connections still linger.
fn listen(bind: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&bind.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener, greeting: &Arc<[u8]>) {
    loop {
        match listener.accept() {
            // Each connection's thread holds one handle to the greeting, so their number is that of connections.
            Ok((stream, _)) if Arc::strong_count(greeting) <= CONNECTIONS => {
                let greeting = Arc::clone(greeting);
                let connection = move || drop(echo(&stream, &greeting));
                drop(thread::Builder::new().name("echo".to_owned()).spawn(connection));
            }
            Ok((stream, _)) => drop(stream),
            Err(_) => thread::park_timeout(ACCEPT_PAUSE),
        }
    }
}

fn echo(mut stream: &TcpStream, greeting: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.write_all(greeting)?;
    let mut buffer = [0; 16 << 10];
    loop {
        let count = stream.read(&mut buffer)?;
        match buffer.get(..count) {
            Some(bytes) if count > 0 => stream.write_all(bytes)?,
            Some(_) | None => return stream.shutdown(Shutdown::Write),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Shutdown, TcpStream};
    use std::time::Duration;

    #[test]
    fn a_client_gets_the_name_its_bytes_and_the_end() {
        let listener = super::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || super::accept(&listener, &b"alpha\n".as_slice().into()));
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.write_all(b"over and back").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "alpha\nover and back");
    }
}
