//! changeover: the automatic changeover switch for TCP.

pub mod control;
pub mod failover;
pub mod listener;
pub mod model;
pub mod probe;
pub mod relay;
pub mod routing;
pub mod session;
pub mod sys;
pub mod telemetry;
pub mod admin;
