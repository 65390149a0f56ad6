//! The ports on 127.0.0.1 that programs open: chosen here, and seen to be open without a connection, which the far end
//! would notice.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use super::survey::Survey;
use crate::model::Address;
use crate::sys::{Clock, ListeningSocket, has_socket, loopback_listeners, owner, users};

/// From one look to the next: the first, and the longest.
const LOOK: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(100);
/// A look takes long where there are many sockets, as there are with many sessions. So many times as long is between two.
const REST: u32 = 4;
/// A socket that none of a run's processes has for so many looks in a row is somebody else's: between two system calls of
/// its owner it may be seen and have none.
const LOOKS: u32 = 3;
/// How many ports are tried that others of our own runs may have by now.
const TRIES: u32 = 64;

/// How a port was seen.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is open, and the run's.
    Open,
    /// Somebody else listens there.
    Taken(String),
}

struct Waiting {
    port: u16,
    leader: u32,
    mark: String,
    foreign: u32,
    reply: oneshot::Sender<Seen>,
}

/// The ports of all runs.
#[derive(Default)]
pub(super) struct Ports {
    chosen: RefCell<BTreeSet<u16>>,
    waiting: RefCell<Vec<Waiting>>,
    wake: Notify,
}

impl Ports {
    /// A port that nobody has, `wanted` if that is so of it. It is ours until [`Self::give_back`].
    pub(super) fn choose(&self, wanted: Option<u16>) -> io::Result<u16> {
        if let Some(port) = wanted {
            if !self.chosen.borrow().contains(&port) && is_free(port) {
                self.chosen.borrow_mut().insert(port);
                return Ok(port);
            }
            let by = owner(&at(port)).unwrap_or_else(|| "nobody who can be named".to_owned());
            tracing::info!(port, by, "a tunnel's port is not free any more: it gets another one");
        }
        for _ in 0..TRIES {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if self.chosen.borrow_mut().insert(port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "there is no free port on 127.0.0.1"))
    }

    /// A run does not need it any more.
    pub(super) fn give_back(&self, port: u16) {
        self.chosen.borrow_mut().remove(&port);
    }

    /// Waits until somebody listens at `port`, which a run's program `leader` is to do, or one with `mark`. Cancel-safe.
    pub(super) async fn seen(&self, port: u16, leader: u32, mark: &str) -> Seen {
        let (reply, seen) = oneshot::channel();
        self.waiting.borrow_mut().push(Waiting { port, leader, mark: mark.to_owned(), foreign: 0, reply });
        self.wake.notify_one();
        match seen.await {
            Ok(seen) => seen,
            // Nobody looks any more: everything comes to its end.
            Err(_) => std::future::pending().await,
        }
    }

    /// Looks as long as there is something to look for. Never ends.
    pub(super) async fn watch(&self, clock: Clock, survey: &Survey) {
        let mut wait = LOOK;
        loop {
            if self.waiting.borrow().is_empty() {
                self.wake.notified().await;
                wait = LOOK;
            }
            let begun = clock.now();
            self.look(survey).await;
            let rest = clock.now().since(begun) * REST;
            // Cancel-safety: a wake that is not returned stays; the sleep is made anew.
            tokio::select! {
                () = self.wake.notified() => {
                    wait = LOOK;
                    sleep(rest).await;
                }
                () = sleep(wait.max(rest)) => wait = (wait * 5 / 4).min(LOOK_MAX),
            }
        }
    }

    async fn look(&self, survey: &Survey) {
        self.waiting.borrow_mut().retain(|one| !one.reply.is_closed());
        let ports: BTreeSet<u16> = self.waiting.borrow().iter().map(|one| one.port).collect();
        if ports.is_empty() {
            return;
        }
        let open = survey.aside(move || loopback_listeners(&ports)).await.unwrap_or_default();
        for mut one in self.waiting.take() {
            let seen = match open.get(&one.port) {
                Some(socket) => one.seen(*socket, survey).await,
                None => {
                    one.foreign = 0;
                    None
                }
            };
            match seen {
                Some(seen) => drop(one.reply.send(seen)),
                None => self.waiting.borrow_mut().push(one),
            }
        }
    }
}

impl Waiting {
    /// Whose `socket` is, once that is sure.
    async fn seen(&mut self, socket: ListeningSocket, survey: &Survey) -> Option<Seen> {
        if has_socket(self.leader, socket.inode) == Some(true) {
            return Some(Seen::Open);
        }
        let mut hides = false;
        for process in survey.remains(Some(self.leader), &self.mark).await {
            match has_socket(process.pid, socket.inode) {
                Some(true) => return Some(Seen::Open),
                Some(false) => {}
                None => hides |= users(process.pid).contains(&socket.user),
            }
        }
        self.foreign += 1;
        if self.foreign < LOOKS {
            return None;
        }
        match owner(&at(self.port)) {
            Some(by) => Some(Seen::Taken(by)),
            // Of a program that became another user we may not know what it has, and of another user's neither. But we know whose
            // the socket is.
            None if hides => Some(Seen::Open),
            None => Some(Seen::Taken("another user's process".to_owned())),
        }
    }
}

/// `port` on 127.0.0.1.
pub(super) fn at(port: u16) -> Address {
    Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// Who listens at `port`; none if nobody does.
pub(super) fn listener(port: u16) -> Option<String> {
    let is_open = loopback_listeners(&[port].into()).contains_key(&port);
    is_open.then(|| owner(&at(port)).unwrap_or_else(|| "another user's process".to_owned()))
}

/// Whether a program may listen at `port` that does not ask for addresses to be used again: connections that have ended
/// keep theirs for a minute.
fn is_free(port: u16) -> bool {
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None)
        .and_then(|socket| socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()));
    bound.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_kept_while_nobody_has_it() {
        let ports = Ports::default();
        let port = ports.choose(None).unwrap();
        assert_ne!(ports.choose(Some(port)).unwrap(), port, "a run of ours has it");
        ports.give_back(port);
        assert_eq!(ports.choose(Some(port)).unwrap(), port);
        ports.give_back(port);
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(ports.choose(Some(port)).unwrap(), port);
        assert!(listener(port).unwrap().starts_with(&format!("process {} (", std::process::id())));
        // The end of a connection that the server has ended stays with the server's port.
        let client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(held.accept().unwrap());
        drop((held, client));
        assert_ne!(ports.choose(Some(port)).unwrap(), port);
        assert_eq!(listener(port), None);
    }
}
