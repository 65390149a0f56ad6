//! Floor 2: the kernel. The only unsafe code, the only clock, sockets and their options, signals,
//! limits, and the word to systemd. Nothing here knows what a pool or a session is.

mod accept_error;
mod clock;
mod dial;
mod gated;
mod keepalive;
mod limits;
mod marked;
mod notify;
mod orders;
mod pipe;
mod program;
mod rest;
mod signal;
mod socket;
mod source_address;
mod stream;
mod ticker;

pub use accept_error::AcceptErrorClass;
pub use clock::Clock;
pub use dial::{DialOptions, connect, connect_with, dial_error};
pub use gated::Gated;
pub use limits::{Descriptors, cores, own_uid, raise_descriptor_limit, release_memory};
pub use marked::MarkedStream;
pub use notify::Notifier;
pub use orders::{OrderInbox, Orders, orders};
pub use pipe::Pipe;
pub use program::{Ended, Program, RunError, Running};
pub use rest::{RestWatch, Resting};
pub use signal::{Signal, on_signals};
pub use socket::{BoundSocket, Listener, SocketMode, bind};
pub use stream::Stream;
#[cfg(test)]
pub(crate) use stream::tally;
pub use ticker::{Ticker, Tickers};
