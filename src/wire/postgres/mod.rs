//! PostgreSQL's protocol, version 3: what a server says to a monitor and the monitor to it, what clients say first, and
//! what a session says until it is open. Slices in, values out.
//!
//! Messages, SCRAM and MD5 are `postgres-protocol`'s; here are the limits around them. Nothing in here waits, and no bytes
//! make it panic.

mod facts;
mod message;
mod startup;
mod startup_tap;

pub use facts::{HISTORY_MAX, Identity, parse_history, parse_lsn};
pub use message::{Demand, MESSAGE_MAX, NotPostgres, Row, Said, Told, is_bare_ready, next_said, scram_iterations};
pub use startup::{
    FirstAnswer, FirstPacket, NotAFirstPacket, STARTUP_MAX, cancel_request, cannot_connect_now, first_answer,
    parse_first_packet,
};
pub use startup_tap::{StartupTap, Tapped};

/// Asks whether the server encrypts by GSSAPI: one byte is the answer, or an error from servers before version 12.
pub const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// Asks whether the server encrypts by TLS: `S` or `N` is the answer.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// Has the server say that it is ready, and before it whatever has changed.
pub const SYNC: [u8; 5] = [b'S', 0, 0, 0, 4];
/// Ends a session in order.
pub const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
