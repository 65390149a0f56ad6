//! The rules of the core, one test a rule.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on shall panic"
)]

mod advice;
mod availability;
mod balance;
mod balances;
mod build;
mod cluster;
mod clustered;
mod crowd;
mod damping;
mod decided;
mod departures;
mod elections;
mod explain;
mod figures;
mod gone;
mod health;
mod keeping;
mod lag;
mod lifecycle;
mod lineage;
mod memory;
mod model;
mod passive;
mod pause;
mod pick;
mod pin;
mod property;
mod pushed;
mod recovery;
mod reload;
mod rig;
mod schedule;
mod seat;
mod server;
mod sessions;
mod shared_target;
mod slow;
mod source_hash;
mod stall;
mod targets;
mod tunnel_clusters;
mod tunnel_orders;
mod tunnel_plans;
mod tunnel_property;
mod tunnel_retries;
mod tunnel_targets;
mod tunnels;
mod unchecked;
