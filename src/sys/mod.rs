//! Floor 2: the kernel. The only unsafe code, the only clock, sockets and their options, signals,
//! limits, and the word to systemd. Nothing here knows what a pool or a session is.

mod accept_error;
mod attached;
mod clock;
mod dial;
mod gated;
mod keepalive;
mod limits;
mod marked;
mod network;
mod notify;
mod orders;
mod own_socket;
mod pipe;
mod private_file;
mod processes;
mod program;
mod rest;
mod signal;
mod socket;
mod source_address;
mod spawner;
mod stream;
mod stream_io;
mod survey;
mod ticker;
mod unbound;
mod unsent;

pub use accept_error::AcceptErrorClass;
pub use attached::{Attached, Heard, Said};
pub use clock::Clock;
pub use dial::{DialOptions, connect, connect_with, dial_error, graded_error};
pub use gated::Gated;
pub use limits::{Descriptors, cores, own_uid, raise_descriptor_limit, release_memory};
pub use marked::MarkedStream;
pub use network::{NetworkWatch, slept};
pub use notify::Notifier;
pub use orders::{OrderInbox, Orders, orders};
pub use own_socket::is_with_ourselves;
pub use pipe::Pipe;
pub use private_file::{read_private, replace_private};
pub use processes::{
    ProcessStat, boot_id, is_marked, leave_all, marked, process, processes, signal_process, token, users,
};
pub use program::{Ended, Program, RunError, Running};
pub use rest::{RestWatch, Resting};
pub use signal::{Signal, on_end, on_signals};
pub use socket::{BoundSocket, Listener, SocketMode, bind};
pub use source_address::has_address;
pub use spawner::{Child, FILE_PATH, GroupSignal, Launch, MARK_VARIABLE, Spawner, runnable};
pub use stream::Stream;
#[cfg(test)]
pub(crate) use stream::tally;
pub use survey::{Directory, descriptor_limit, directory, is_clock_set, look_up, may_bind};
pub use ticker::{Ticker, Tickers};
pub use unbound::{ListeningSocket, has_socket, loopback_listeners, owner, unbound};
pub use unsent::bound_unsent;

/// A socket for tests that keeps its port and does not listen, so that whoever connects to its address is refused: a port
/// that was let go might be given to another test.
#[cfg(test)]
pub(crate) fn refusing() -> (socket2::Socket, std::net::SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// What `work` comes to in a test, which fails where that takes for ever.
#[cfg(test)]
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let limit = std::time::Duration::from_secs(60);
    let done = tokio::time::timeout(limit, work).await;
    done.unwrap_or_else(|_| panic!("not done within {limit:?}"))
}
