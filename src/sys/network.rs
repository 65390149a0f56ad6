//! Whether the host's network has changed, as the kernel tells it, and how long the host has slept.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netdevice, recv, socket_with};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `RTMGRP_LINK`, and for both families `…_IFADDR` and `…_ROUTE`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100 | 0x40 | 0x400;
/// Of messages, from `linux/rtnetlink.h`.
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
/// Of attributes: a link's name, an address, and a route's interface and its gateway.
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// What is not the network, but made on this host; tunnels' programs make some themselves.
const OURS: &[&str] = &[
    "lo",
    "tun",
    "tap",
    "wg",
    "tailscale",
    "zt",
    "nebula",
    "docker",
    "podman",
    "veth",
    "br-",
    "cni",
    "flannel",
    "cali",
    "cilium",
    "weave",
    "kube",
    "lxc",
    "virbr",
    "vnet",
    "dummy",
];
/// The largest message.
const MESSAGE_MAX: usize = 32 << 10;

/// Tells when links, addresses or default routes change. Belongs to the runtime that it is made in.
#[derive(Debug)]
pub struct NetworkWatch {
    socket: AsyncFd<OwnedFd>,
    known: Known,
}

/// What was told before: some of it is told again and again.
#[derive(Debug, Default)]
struct Known {
    names: BTreeMap<u32, String>,
    addresses: BTreeSet<(u32, Vec<u8>)>,
    routes: BTreeSet<(u32, Vec<u8>)>,
}

impl NetworkWatch {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// If the kernel does not let this process.
    pub fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol is number 0, which is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        // SAFETY: an `OwnedFd` is one open descriptor, the same for as long as it lives, and it is never
        // taken out of the `AsyncFd`.
        #[expect(unsafe_code, reason = "AsyncFd has no safe constructor")]
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self { socket: registered?, known: Known::default() })
    }

    /// Waits for a change, and says in words what it is. Cancel-safe: what was not returned is told by the next one.
    ///
    /// # Errors
    ///
    /// If there will be no more to hear.
    pub async fn changed(&mut self) -> io::Result<String> {
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let mut ready = self.socket.readable().await?;
            match recv(self.socket.get_ref(), &mut *buffer, RecvFlags::empty()) {
                Ok((_, length)) => {
                    let named = |index| netdevice::index_to_name(self.socket.get_ref(), index).ok();
                    let told = self.known.take(buffer.get(..length).unwrap_or_default(), named);
                    if let Some(change) = told {
                        return Ok(change);
                    }
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                // More was told than there is room for: so much has changed.
                Err(rustix::io::Errno::NOBUFS) => return Ok("much of it".to_owned()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Known {
    /// The last change in `messages` that is one.
    fn take(&mut self, mut messages: &[u8], named: impl Fn(u32) -> Option<String>) -> Option<String> {
        let mut told = None;
        while let Some(length) = number(messages, 0).and_then(|length| usize::try_from(length).ok()) {
            let Some(message) = messages.get(..length).filter(|message| message.len() >= 16) else { break };
            told = self.one(message, &named).or(told);
            messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        told
    }

    fn one(&mut self, message: &[u8], named: &impl Fn(u32) -> Option<String>) -> Option<String> {
        let kind = short(message, 4)?;
        let body = message.get(16..)?;
        match kind {
            NEW_LINK | DEL_LINK => {
                let index = number(body, 4)?;
                let name = attribute(body.get(16..)?, IFLA_IFNAME).map(text);
                let name = name.or_else(|| self.names.get(&index).cloned())?;
                self.names.insert(index, name.clone());
                if kind == DEL_LINK {
                    self.names.remove(&index);
                    return told(&name, "is gone");
                }
                // Wireless interfaces tell of scans in messages that change nothing.
                let (flags, changed) = (number(body, 8)?, number(body, 12)?);
                if changed == 0 {
                    return None;
                }
                // IFF_RUNNING: there is a carrier.
                told(&name, if flags & 0x40 == 0 { "is down" } else { "is up" })
            }
            NEW_ADDRESS | DEL_ADDRESS => {
                let index = number(body, 4)?;
                let address = attribute(body.get(8..)?, IFA_ADDRESS)?.to_vec();
                let is_news = match kind {
                    // Lifetimes are renewed.
                    NEW_ADDRESS => self.addresses.insert((index, address)),
                    _ => {
                        self.addresses.remove(&(index, address));
                        true
                    }
                };
                let name = self.name(index, named).filter(|_| is_news)?;
                told(&name, if kind == NEW_ADDRESS { "has a new address" } else { "has lost an address" })
            }
            NEW_ROUTE | DEL_ROUTE if body.get(1) == Some(&0) => {
                let attributes = body.get(12..)?;
                let index = number(attribute(attributes, RTA_OIF)?, 0)?;
                let gateway = attribute(attributes, RTA_GATEWAY).unwrap_or_default().to_vec();
                let is_news = match kind {
                    NEW_ROUTE => self.routes.insert((index, gateway)),
                    _ => {
                        self.routes.remove(&(index, gateway));
                        true
                    }
                };
                let name = self.name(index, named).filter(|_| is_news)?;
                told(&name, if kind == NEW_ROUTE { "has a default route" } else { "has lost a default route" })
            }
            _ => None,
        }
    }

    fn name(&mut self, index: u32, named: &impl Fn(u32) -> Option<String>) -> Option<String> {
        if let Some(name) = self.names.get(&index) {
            return Some(name.clone());
        }
        let name = named(index)?;
        self.names.insert(index, name.clone());
        Some(name)
    }
}

/// A change of the interface `name` in words; none if that is no part of the network.
fn told(name: &str, change: &str) -> Option<String> {
    let is_ours = OURS.iter().any(|prefix| name.starts_with(prefix));
    (!is_ours).then(|| format!("{name} {change}"))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The attribute `kind` among `attributes`.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(length) = short(attributes, 0).map(usize::from) {
        let this = attributes.get(4..length)?;
        if short(attributes, 2)? == kind {
            return Some(this);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).escape_default().to_string()
}

/// How long the host has slept since it was started.
#[must_use]
pub fn slept() -> Duration {
    let read = |clock| {
        let time = clock_gettime(clock);
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default());
        seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
    };
    // In this order nothing is taken for sleep that was none.
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(awake)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, head: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = head.to_vec();
        for (kind, value) in attributes {
            body.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = u32::try_from(body.len() + 16).unwrap().to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn link(kind: u16, index: u32, name: &str, flags: u32, changed: u32) -> Vec<u8> {
        let head = [0, index, flags, changed].map(u32::to_ne_bytes).concat();
        message(kind, &head, &[(IFLA_IFNAME, format!("{name}\0").as_bytes())])
    }

    fn address(kind: u16, index: u32, last: u8) -> Vec<u8> {
        message(kind, &[0, index].map(u32::to_ne_bytes).concat(), &[(IFA_ADDRESS, &[10, 0, 0, last])])
    }

    fn route(kind: u16, prefix: u8, index: u32) -> Vec<u8> {
        message(kind, &[2, prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[(RTA_OIF, &index.to_ne_bytes())])
    }

    #[test]
    fn what_changes_on_a_link_is_told_once_and_what_is_our_own_is_not() {
        let mut known = Known::default();
        let mut take =
            |messages: &[Vec<u8>]| known.take(&messages.concat(), |index| (index == 2).then(|| "eth0".to_owned()));
        for (messages, told) in [
            (vec![address(NEW_ADDRESS, 2, 1)], Some("eth0 has a new address")),
            (vec![address(NEW_ADDRESS, 2, 1)], None),
            (vec![address(DEL_ADDRESS, 2, 1)], Some("eth0 has lost an address")),
            (vec![route(NEW_ROUTE, 24, 2)], None),
            (vec![route(NEW_ROUTE, 0, 2)], Some("eth0 has a default route")),
            (vec![route(NEW_ROUTE, 0, 2)], None),
            (vec![route(DEL_ROUTE, 0, 2), link(NEW_LINK, 3, "tun0", 0x40, 1)], Some("eth0 has lost a default route")),
            (vec![address(NEW_ADDRESS, 3, 1)], None),
            (vec![address(NEW_ADDRESS, 9, 1)], None),
            (vec![link(NEW_LINK, 4, "wlan0", 0x40, 0)], None),
            (vec![link(NEW_LINK, 4, "wlan0", 0, 0x40)], Some("wlan0 is down")),
            (vec![link(NEW_LINK, 4, "wlan0", 0x40, 0x40)], Some("wlan0 is up")),
            (vec![link(DEL_LINK, 4, "wlan0", 0, 0)], Some("wlan0 is gone")),
            (vec![link(DEL_LINK, 5, "veth12", 0, 0)], None),
            (vec![link(NEW_LINK, 6, "cali0a1b2c3d4e5", 0x40, 0x40)], None),
            (vec![link(NEW_LINK, 7, "lxc0a1b2c3d4e5f", 0x40, 0x40)], None),
        ] {
            assert_eq!(take(&messages).as_deref(), told, "{messages:?}");
        }
    }

    #[test]
    fn no_message_makes_it_panic() {
        let whole = [link(NEW_LINK, 4, "wlan0", 0x40, 1), address(NEW_ADDRESS, 4, 1), route(NEW_ROUTE, 0, 4)].concat();
        for end in 0..whole.len() {
            for flip in 0..end {
                let mut bytes = whole[..end].to_vec();
                bytes[flip] ^= 0xff;
                Known::default().take(&bytes, |_| None);
            }
        }
    }

    #[tokio::test]
    async fn the_kernel_lets_us_listen_and_we_have_not_slept_backwards() {
        let mut watch = NetworkWatch::new().unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(1), watch.changed()).await;
        assert!(nothing.is_err() || nothing.is_ok_and(|told| told.is_ok()));
        let first = slept();
        assert!(slept() + Duration::from_millis(10) >= first);
    }
}
