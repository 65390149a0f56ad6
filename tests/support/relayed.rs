//! The relay alone, between two pairs of real sockets: on a thread of its own, told how to move bytes.

use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread::JoinHandle;

use changeover::model::SessionEnd;
use changeover::relay::{Loans, PipeCounts, Pulse, RelayEnd, Splicing, Start, relay};
use changeover::sys::{Gated, Stream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::net::dial;
use super::sock::Sock;
use super::wait::DEADLINE;

/// Numbers by which every byte is copied.
pub fn copied() -> Splicing {
    Splicing { pipes_max: 0, ..Splicing::default() }
}

/// Numbers by which all but the first read goes through a pipe.
pub fn spliced() -> Splicing {
    Splicing { large_read: 0, stream: 0, small_move: 0, ..Splicing::default() }
}

/// Numbers by which moves go through a buffer and a pipe by turns.
pub fn switching() -> Splicing {
    Splicing { small_move: usize::MAX, small_moves: 1, ..spliced() }
}

/// One end for the relay, to be made a [`Stream`] on its thread.
#[derive(Debug)]
pub enum Ours {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Ours {
    /// Puts it under the eye of the current runtime.
    #[track_caller]
    pub fn watched(self) -> Stream {
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(true).expect("O_NONBLOCK");
                Stream::Tcp(tokio::net::TcpStream::from_std(stream).expect("watched"))
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(true).expect("O_NONBLOCK");
                Stream::Unix(tokio::net::UnixStream::from_std(stream).expect("watched"))
            }
        }
    }
}

impl Ours {
    /// Cuts the connection now, as a fence does from another thread.
    #[track_caller]
    pub fn cut(&self) {
        match self {
            Self::Tcp(stream) => rustix::net::connect_unspec(stream).expect("reset"),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both).expect("shutdown"),
        }
    }

    #[track_caller]
    fn another(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().expect("clone")),
            Self::Unix(stream) => Self::Unix(stream.try_clone().expect("clone")),
        }
    }
}

/// A connected pair: the relay's end and the test's.
#[track_caller]
pub fn pair(unix: bool) -> (Ours, Sock) {
    if unix {
        let (ours, other) = UnixStream::pair().expect("a pair");
        (Ours::Unix(ours), Sock::unix(other).expect("deadlines"))
    } else {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let other = dial(listener.local_addr().expect("bound")).expect("dialled");
        let (ours, _) = listener.accept().expect("accepted");
        ours.set_nodelay(true).expect("TCP_NODELAY");
        // A size that is set stays: the kernel grows others until they hold a whole test.
        for socket in [socket2::SockRef::from(&ours), socket2::SockRef::from(&other)] {
            socket.set_recv_buffer_size(512 * 1024).expect("SO_RCVBUF");
            socket.set_send_buffer_size(512 * 1024).expect("SO_SNDBUF");
        }
        (Ours::Tcp(ours), Sock::Tcp(other))
    }
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Why.
    pub end: SessionEnd,
    /// What it counted, to the backend and to the client.
    pub moved: [u64; 2],
}

/// Relays on a thread of their own, which share what that lends.
#[derive(Debug)]
pub struct Relays {
    thread: JoinHandle<(Vec<Outcome>, PipeCounts)>,
    stop: UnboundedSender<SessionEnd>,
}

impl Relays {
    /// Relays each pair of ends by `splicing`. The thread does `first` before, and keeps what that returns to its end.
    pub fn start<T>(pairs: Vec<(Ours, Ours)>, splicing: Splicing, first: impl FnOnce() -> T + Send + 'static) -> Self {
        let (stop, mut stopped) = unbounded_channel();
        let thread = std::thread::spawn(move || {
            let _kept = first();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (local, loans) = (LocalSet::new(), Rc::new(Loans::with(64 * 1024, splicing)));
            let mut pulses = Vec::new();
            let mut relays = Vec::new();
            local.block_on(&runtime, async {
                for (client, backend) in pairs {
                    let pulse = Rc::new(Pulse::new(0, 0));
                    pulses.push(Rc::clone(&pulse));
                    let loans = Rc::clone(&loans);
                    let (client, backend) = (Gated::new(client.watched()), backend.watched());
                    relays.push(tokio::task::spawn_local(async move {
                        let end = match relay(&client, &backend, Start::default(), &pulse, &loans).await {
                            RelayEnd::Over(end) => end,
                            RelayEnd::AtRest => unreachable!("nobody lets it rest"),
                        };
                        Outcome { end, moved: pulse.total() }
                    }));
                }
                tokio::task::spawn_local(async move {
                    while let Some(end) = stopped.recv().await {
                        pulses.iter().for_each(|pulse| pulse.stop(end));
                    }
                });
                let mut outcomes = Vec::new();
                for relay in relays {
                    outcomes.push(relay.await.expect("no panic"));
                }
                (outcomes, loans.pipes())
            })
        });
        Self { thread, stop }
    }

    /// Has every relay end for this reason.
    pub fn stop(&self, end: SessionEnd) {
        self.stop.send(end).expect("it runs");
    }

    /// Waits for the end of all: how each ended, and the pipes.
    #[track_caller]
    pub fn outcomes(self) -> (Vec<Outcome>, PipeCounts) {
        super::wait_until("the relays have ended", 4 * DEADLINE, || self.thread.is_finished());
        self.thread.join().expect("no panic")
    }
}

/// One relay: the client's end and the backend's, and the thread that relays.
#[derive(Debug)]
pub struct Relayed {
    /// The client's end.
    pub client: Sock,
    /// The backend's.
    pub backend: Sock,
    relays: Relays,
}

impl Relayed {
    /// A relay between sockets of these families.
    #[track_caller]
    pub fn start(client_is_unix: bool, backend_is_unix: bool, splicing: Splicing) -> Self {
        Self::start_within_reach(client_is_unix, backend_is_unix, splicing).0
    }

    /// The same, and the relay's own ends, which stay open until those are dropped too.
    #[track_caller]
    pub fn start_within_reach(client_is_unix: bool, backend_is_unix: bool, splicing: Splicing) -> (Self, [Ours; 2]) {
        let ((ours, client), (theirs, backend)) = (pair(client_is_unix), pair(backend_is_unix));
        let inner = [theirs.another(), ours.another()];
        let relays = Relays::start(vec![(ours, theirs)], splicing, || {});
        (Self { client, backend, relays }, inner)
    }

    /// Has it end for this reason.
    pub fn stop(&self, end: SessionEnd) {
        self.relays.stop(end);
    }

    /// Closes what is left of both ends, waits for the end, and gives it back with the pipes kept. None may still be lent.
    #[track_caller]
    pub fn outcome(self) -> (Outcome, usize) {
        drop((self.client, self.backend));
        let (outcomes, pipes) = self.relays.outcomes();
        assert_eq!(pipes.lent, 0, "pipes are still lent");
        (outcomes[0], pipes.kept)
    }
}
