//! Floor 2: metrics and logs. Handles are made once for each listener, pool and backend and then
//! only counted on; labels come from the configuration and from enums, never from clients.

mod family;
mod log;
mod metrics;
mod series;

pub use log::Log;
pub use metrics::{Metrics, Phase};
pub use series::{BackendMetrics, Counted, ListenerMetrics, PipeMetrics, PoolMetrics};
