//! What the end-to-end tests share: the daemon as a child process, backends that can be killed,
//! clients with deadlines, and PostgreSQL.
//!
//! Nothing in here sleeps: whatever has to become true is waited for, with a deadline.

// Each test program uses a part of this, and none exports any of it.
#![allow(dead_code, unused_imports, unreachable_pub)]

pub mod backend;
pub mod bare;
pub mod callers;
pub mod cgroup;
pub mod cluster;
pub mod crowd;
pub mod daemon;
pub mod fake_tunnel;
pub mod hall;
pub mod http;
pub mod metrics;
pub mod namespace;
pub mod narrow;
pub mod net;
pub mod old_server;
pub mod postgres;
pub mod proc_net;
pub mod proc_tree;
pub mod process;
pub mod relayed;
pub mod servers;
pub mod site;
pub mod sock;
pub mod sshd;
pub mod talker;
pub mod terminal;
pub mod tunnels;
pub mod wait;
pub mod watched;
pub mod witness;

pub use backend::Backend;
pub use daemon::Daemon;
pub use net::{dial, dial_unix, ends, fresh_addr, fresh_ip, visit};
pub use process::{changeover, run};
pub use site::Site;
pub use wait::{DEADLINE, StopOnDrop, block_on, in_time, measured, pace, wait_for, wait_stalled, wait_until};
