//! Floor 2: metrics and logs. Handles are made once for each listener, pool and backend and then
//! only counted on; labels come from the configuration and from enums, never from clients.
//! Families of the process, of listeners and of pools are the `prometheus` crate's; those of backends, of which there are many, are our own.

mod backends;
mod exposition;
mod family;
mod log;
mod metrics;
mod outward;
mod series;

pub use backends::BackendMetrics;
pub use log::Log;
pub use metrics::{Metrics, Phase};
pub use outward::{SubscriberMetrics, WebhookMetrics};
pub use series::{Counted, ListenerMetrics, PipeMetrics, PoolMetrics};
