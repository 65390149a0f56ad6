//! Floor 1: decisions. Pure and deterministic: no socket, task, clock, log, metric or hidden
//! randomness. The same seed and the same events give the same commands, so every decision can be
//! tested, simulated and explained.
//!
//! # The failover rules
//!
//! **First verdict.** A backend begins as `unknown`, and `unknown` is not healthy. Its first
//! conclusive probe decides alone; the thresholds guard only the changes after that.
//!
//! **Thresholds for flaky evidence, none for proof.** `unhealthy_threshold` failures in a row make a
//! backend unhealthy. A refusal by the kernel is stronger: it is asked again at once, and a second
//! refusal in a row ([`REFUSALS_FOR_DEATH`]) is death, whatever the thresholds say. A refused dial of
//! a client counts as the first of the two, but the verdict always wants a probe of our own.
//!
//! **Worse news is told, better news is earned.** An unhealthy backend whose evidence gets worse
//! (`check_failed`, then `unreachable`, then `dead`) is judged again, because the policy for its
//! sessions may differ. It becomes healthy by `healthy_threshold` successes in a row.
//!
//! **No evidence is no evidence.** A probe that we could not make, or judged too late, changes nothing.
//!
//! **Two axes, joined once.** What probes say and what people say are kept apart and meet in one
//! truth table ([`Availability`]).
//!
//! **Tiers.** Backends of one priority are a tier; the lowest number that is fit is preferred. One
//! tier is active and shares the new sessions by weight. A client whose dial fails goes on to the
//! next backend of the tier and then to the other fit tiers, unless `automatic` is off.
//!
//! **Balances share, they do not decide.** Within a tier new sessions are shared by the pool's balance. The counts of sessions
//! and the latency that some balances look at are handed on in the table and read by picks alone: no verdict, seat
//! or table follows from them. Chance comes with each arrival.
//!
//! **Full is not down.** A backend with `max_connections` sessions is passed over as one that was tried is: for the next of its
//! tier, then for the next tier, unless `automatic` is off. It stays fit, and no seat changes.
//!
//! **The first seat is patient.** The first tier ever seated waits until no better tier is still
//! without a verdict, so that a daemon that has just started serves from the preferred backend.
//!
//! **An empty seat is filled at once.** When the active tier has nothing fit left, the best fit tier
//! takes over in the same turn. While nothing at all is fit, backends are asked again every
//! [`EMPTY_POOL_PROBE_INTERVAL`], unless their `recovery_interval` is set, and a success is followed up
//! at once.
//!
//! **Return is a policy.** A better tier that is fit again takes over only after it has been so for
//! `failback_after`, and only if `failback` and `automatic` allow it. A reload that renumbers tiers moves nothing: the backends that
//! serve go on serving, and what is better by the new numbers is returned to like any better tier.
//!
//! **Sessions go by the reason.** What becomes of the sessions of a backend that is taken out depends
//! on why: keep, drain until `drain_timeout`, or close at once. The table is published before
//! sessions are fenced. Sessions that drain stay after all if their backend is healthy, or made ready, again.

mod availability;
mod balance;
mod controller;
mod departures;
mod event;
mod health;
mod invariants;
mod member;
mod order;
mod pool;
pub mod recording;
mod replan;
mod schedule;
mod seat;
mod slots;
mod status;
mod table;
mod tier;

pub use availability::Availability;
pub use controller::Controller;
pub use event::{Change, Command, Event, ProbeSpec, Transition};
pub use health::REFUSALS_FOR_DEATH;
pub use order::{Order, Refusal};
pub use schedule::EMPTY_POOL_PROBE_INTERVAL;
pub use slots::client_key;
pub use table::{Arrival, NoRoute, PoolRoutes, Route, RouteTable};
pub use tier::{DRAWS, EXACT_MAX, LATENCY_GRAIN, Tier};

#[cfg(test)]
mod tests;
