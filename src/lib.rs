//! changeover: the automatic changeover switch for TCP.

pub mod model;
