//! What to do about an address that cannot be listened at, and who does so already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::model::Address;

/// Of a socket in `/proc/net/tcp` that listens: `TCP_LISTEN`.
const TCP_LISTENS: &str = "0A";
/// Of a socket in `/proc/net/unix` that listens: `__SO_ACCEPTCON`.
const UNIX_LISTENS: &str = "00010000";

/// What to do where `address` cannot be listened at for `error`, to stand behind what the error says.
#[must_use]
pub fn unbound(address: &Address, error: &Error) -> String {
    let parent = |path: &Path| path.parent().unwrap_or(path).display().to_string();
    match (error.kind(), address) {
        (ErrorKind::AddrInUse, Address::Unix(_)) => taken(address, "path", "ss -xlp"),
        (ErrorKind::AddrInUse, _) => taken(address, "port", "ss -tlnp"),
        (ErrorKind::AddrNotAvailable, _) => {
            "name an address that this host has (`ip address`), or 0.0.0.0 for all of them".to_owned()
        }
        (ErrorKind::PermissionDenied, Address::Unix(path)) => {
            format!("let the daemon's user make files in {}", parent(path))
        }
        (ErrorKind::PermissionDenied, _) => "a port below 1024 takes CAP_NET_BIND_SERVICE: start it by the unit in \
                                             systemd/, which gives it that, or `setcap cap_net_bind_service=+ep` its \
                                             program, or name a higher port"
            .to_owned(),
        (ErrorKind::NotFound, Address::Unix(path)) => {
            format!("make the directory {}; systemd does with RuntimeDirectory=", parent(path))
        }
        (ErrorKind::AlreadyExists, _) => "move what is there out of the way, or name another path".to_owned(),
        _ => "name an address that can be".to_owned(),
    }
}

fn taken(address: &Address, what: &str, ask: &str) -> String {
    match holder(address) {
        Some((process, name)) => {
            format!("stop process {process} ({name}), which listens there, or name another {what}; `{ask}` shows it")
        }
        None => format!("stop whoever listens there, or name another {what}; `{ask}` says who it is"),
    }
}

/// The process that listens at `address`, and its name, as far as this user may know: root knows of all, others of their own.
fn holder(address: &Address) -> Option<(u32, String)> {
    let inode = match address {
        Address::Ip(wanted) => listening_tcp(*wanted),
        Address::Unix(path) => listening_unix(path),
        Address::Name { .. } => None,
    }?;
    let socket = format!("socket:[{inode}]");
    let has_it = |process: &u32| {
        let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        open.map(|entry| fs::read_link(entry.path())).any(|to| to.is_ok_and(|to| to == Path::new(&socket)))
    };
    let all = fs::read_dir("/proc").ok()?.flatten();
    let process = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(has_it)?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some((process, name.trim().escape_default().to_string()))
}

/// Whoever listens at `address`, as far as that can be known: "process 7 (sshd)".
#[must_use]
pub fn owner(address: &Address) -> Option<String> {
    holder(address).map(|(process, name)| format!("process {process} ({name})"))
}

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Its number.
    pub inode: u64,
    /// The user who has made it.
    pub user: u32,
}

/// The sockets that listen where 127.0.0.1 at one of `ports` is dialled, by their ports. One look for all of them.
#[must_use]
pub fn loopback_listeners(ports: &BTreeSet<u16>) -> BTreeMap<u16, ListeningSocket> {
    let mut found = BTreeMap::new();
    for file in ["/proc/net/tcp6", "/proc/net/tcp"] {
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            let listens = listening(line).filter(|(at, _)| ports.contains(&at.port()));
            let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
            let reached = listens.filter(|(at, _)| in_the_way(at.ip(), localhost).is_some());
            // The narrower one is the one that is dialled, and stands in the later file.
            found.extend(reached.map(|(at, socket)| (at.port(), socket)));
        }
    }
    found
}

/// Where the socket of a line of `/proc/net/tcp` listens, and which it is.
fn listening(line: &str) -> Option<(SocketAddr, ListeningSocket)> {
    let mut fields = line.split_ascii_whitespace();
    let (host, port) = fields.nth(1)?.split_once(':')?;
    let is_it = fields.nth(1)? == TCP_LISTENS;
    let (user, inode) = (fields.nth(3)?.parse().ok()?, fields.nth(1)?.parse().ok()?);
    let at = SocketAddr::new(ip(host)?, u16::from_str_radix(port, 16).ok()?);
    is_it.then_some((at, ListeningSocket { inode, user }))
}

/// Whether `process` has the socket `inode` open; none if that may not be known.
#[must_use]
pub fn has_socket(process: u32, inode: u64) -> Option<bool> {
    let socket = format!("socket:[{inode}]");
    match fs::read_dir(format!("/proc/{process}/fd")) {
        Ok(open) => {
            let mut targets = open.flatten().map(|entry| fs::read_link(entry.path()));
            Some(targets.any(|to| to.is_ok_and(|to| to == Path::new(&socket))))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Err(_) => Some(false),
    }
}

/// The number of the socket that listens where `wanted` would.
fn listening_tcp(wanted: SocketAddr) -> Option<u64> {
    let all = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| fs::read_to_string(file).unwrap_or_default());
    let sockets = all.iter().flat_map(|sockets| sockets.lines()).filter_map(|line| {
        let (at, socket) = listening(line)?;
        let rank = in_the_way(at.ip(), wanted.ip()).filter(|_| at.port() == wanted.port())?;
        Some((rank, socket.inode))
    });
    sockets.min().map(|(_, inode)| inode)
}

/// How surely a socket at `host` is in the way of one at `wanted`, the least number most; none if it is not. One at `[::]` may take
/// IPv4 too, one at `0.0.0.0` never IPv6.
fn in_the_way(host: IpAddr, wanted: IpAddr) -> Option<u8> {
    let takes = |wide: IpAddr, narrow: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4());
    if host == wanted {
        return Some(0);
    }
    let is_wide = takes(host, wanted) || takes(wanted, host);
    is_wide.then_some(if host.is_ipv4() == wanted.is_ipv4() { 1 } else { 2 })
}

/// An address as the kernel prints it: each 32 bits as a number of this host's.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes());
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical())
}

/// The number of the socket that listens at `path`, without a connection to whoever that is.
pub(super) fn listening_unix(path: &Path) -> Option<u64> {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = *fields.get(3)? == UNIX_LISTENS && Path::new(fields.get(7)?) == path;
        if is_it { fields.get(6)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::{in_the_way, unbound};
    use crate::model::Address;

    fn told(address: &str, kind: ErrorKind) -> String {
        unbound(&address.parse::<Address>().unwrap(), &Error::from(kind))
    }

    #[test]
    fn whoever_listens_there_is_named_as_far_as_that_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (four, six) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), std::net::TcpListener::bind("[::1]:0"));
        let us = format!("stop process {} (", std::process::id());
        // Not every host has IPv6.
        let six = six.ok().map(|six| (six.local_addr().unwrap().to_string(), six));
        let port = four.local_addr().unwrap().port();
        for address in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("unix:{}", path.display())]
            .iter()
            .chain(six.as_ref().map(|(address, _)| address))
        {
            let said = told(address, ErrorKind::AddrInUse);
            assert!(said.starts_with(&us) && said.contains("`ss -"), "{address}: {said}");
        }
        let (_held, free) = crate::sys::refusing();
        let said = told(&free.to_string(), ErrorKind::AddrInUse);
        assert!(said.starts_with("stop whoever listens there"), "nobody does, but it is held: {said}");
    }

    #[test]
    fn a_port_is_listened_at_by_whoever_is_dialled_there() {
        use super::{ListeningSocket, has_socket, loopback_listeners};
        let ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let aside = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let (_held, silent) = crate::sys::refusing();
        let port = |at: &std::net::TcpListener| at.local_addr().unwrap().port();
        let ports = [port(&ours), port(&aside), silent.port()].into();
        let found = loopback_listeners(&ports);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [port(&ours)]);
        let ListeningSocket { inode, user } = found[&port(&ours)];
        assert_eq!(user, crate::sys::own_uid());
        assert_eq!(has_socket(std::process::id(), inode), Some(true));
        assert_eq!(has_socket(std::process::id(), 1), Some(false));
        assert_eq!(has_socket(1 << 22, inode), Some(false), "nobody has it who is not there");
    }

    #[test]
    fn nobody_is_named_who_is_not_in_the_way() {
        let rank = |host: &str, wanted: &str| in_the_way(host.parse().unwrap(), wanted.parse().unwrap());
        for (host, wanted, expected) in [
            ("::1", "::1", Some(0)),
            ("0.0.0.0", "127.0.0.1", Some(1)),
            ("127.0.0.1", "0.0.0.0", Some(1)),
            ("::", "::1", Some(1)),
            ("::", "127.0.0.1", Some(2)),
            ("127.0.0.1", "::", Some(2)),
            ("0.0.0.0", "::1", None),
            ("::1", "0.0.0.0", None),
            ("127.0.0.2", "127.0.0.1", None),
        ] {
            assert_eq!(rank(host, wanted), expected, "{host} before {wanted}");
        }
    }

    #[test]
    fn each_error_has_something_to_do_about_it() {
        for (address, kind, words) in [
            ("127.0.0.1:80", ErrorKind::PermissionDenied, "setcap cap_net_bind_service=+ep"),
            ("unix:/run/x/s", ErrorKind::PermissionDenied, "make files in /run/x"),
            ("unix:/run/x/s", ErrorKind::NotFound, "RuntimeDirectory="),
            ("192.0.2.1:1", ErrorKind::AddrNotAvailable, "`ip address`"),
            ("unix:/run/x/s", ErrorKind::AlreadyExists, "out of the way"),
        ] {
            let said = told(address, kind);
            assert!(said.contains(words), "{said}");
        }
    }
}
