//! changeover: the automatic changeover switch for TCP.

pub mod failover;
pub mod model;
