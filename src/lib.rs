//! changeover: the automatic changeover switch for TCP.

pub mod config;
pub mod model;
