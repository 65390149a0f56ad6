//! A server as one before PostgreSQL 14 is: a real one behind a go-between that leaves out what those do not say.
//!
//! They do not report `in_hot_standby`, by which a monitor is told of a promotion in the next heartbeat. The go-between does
//! without encryption, and is otherwise not there.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::net::{dial, fresh_addr};
use super::servers::Server;

/// What is left out.
const UNKNOWN: &[u8] = b"in_hot_standby\0";

/// Stands before the server at `real`. When that is gone, connections end at once: [`Server::close`] has them refused.
#[track_caller]
pub fn before_14(real: SocketAddr) -> Server {
    Server::start(fresh_addr(), move |_, client| between(client, real))
}

fn between(mut client: TcpStream, real: SocketAddr) -> io::Result<()> {
    let packet = loop {
        let packet = packet(&mut client)?;
        match packet.get(4..8) {
            // Encryption, by TLS or GSSAPI.
            Some([0x04, 0xd2, 0x16, 0x2f | 0x30]) => client.write_all(b"N")?,
            _ => break packet,
        }
    };
    let mut server = dial(real)?;
    server.set_read_timeout(None)?;
    server.write_all(&packet)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
    });
    let ended = pass(&mut server, &mut client);
    client.shutdown(Shutdown::Both).ok();
    ended
}

/// A packet without a type: its length comes first.
fn packet(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet)?;
    let length = packet.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
    packet.resize(length.clamp(4, 10_000) as usize, 0);
    from.read_exact(packet.get_mut(4..).unwrap_or_default())?;
    Ok(packet)
}

/// Messages, but for the one.
fn pass(server: &mut TcpStream, client: &mut TcpStream) -> io::Result<()> {
    loop {
        let mut kind = [0];
        server.read_exact(&mut kind)?;
        let body = packet(server)?;
        let is_unknown = kind == *b"S" && body.get(4..).is_some_and(|body| body.starts_with(UNKNOWN));
        if !is_unknown {
            client.write_all(&[&kind[..], &body].concat())?;
        }
    }
}
