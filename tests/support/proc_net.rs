//! What the kernel says of the TCP sockets of IPv4, from /proc/net/tcp.

use std::net::{Ipv4Addr, SocketAddr};

/// `st` of a connection that is established.
const ESTABLISHED: &str = "01";

/// A connection as seen from one of its ends.
#[derive(Debug)]
pub struct Row {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Bytes sent that the other end's kernel has not taken.
    pub unacknowledged: u64,
    /// Whether the timer that runs is the one of keepalive.
    pub keepalive: bool,
}

/// Every established connection of this machine, each once for each end that is here.
#[track_caller]
pub fn established() -> Vec<Row> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|fields| fields.get(3) == Some(&ESTABLISHED));
    rows.map(|fields| row(&fields).unwrap_or_else(|| panic!("not a row: {fields:?}"))).collect()
}

fn row(fields: &[&str]) -> Option<Row> {
    let (unsent, _) = fields.get(4)?.split_once(':')?;
    Some(Row {
        local: address(fields.get(1)?)?,
        remote: address(fields.get(2)?)?,
        unacknowledged: u64::from_str_radix(unsent, 16).ok()?,
        keepalive: fields.get(5)?.starts_with("02:"),
    })
}

/// The address is the word in memory, read as a number by this machine; the port is a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    Some(SocketAddr::from((ip, u16::from_str_radix(port, 16).ok()?)))
}
