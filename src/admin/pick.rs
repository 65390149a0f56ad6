//! The choice that a new session would get now, and why. It is made as for a session, from the same table, and nothing is
//! counted or moved on by it.

use std::net::IpAddr;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::failover::{Arrival, NoRoute, PoolRoutes, Refusal, Route, client_key};
use crate::model::{BackendId, BackendStatus, PoolKind, PoolStatus, Target, WhenDown, quote};

use super::Admin;
use super::answer::Json;
use super::path::PoolPath;
use super::problem::{Problem, Refused};
use super::query::{self, Pairs};
use super::tag;

/// So many backends are told of at most where none may serve.
const TOLD_MAX: usize = 20;

/// So often the status is asked for at most until it is of the table in force: two changes in a row are rare.
const ASKED_MAX: usize = 8;

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/api/v1/pools/{pool}/pick", get(pick))
}

/// Whose choice.
#[derive(Debug, IntoParams)]
pub(super) struct Asked {
    /// What the session wants, in a postgres pool: `primary` (unless it is said), `standby`, `prefer-standby` or `any`.
    #[param(value_type = Option<String>)]
    target: Option<Target>,
    /// The client's IP address, by which a pool with `source-hash` chooses. Without it the client is one over a Unix socket.
    #[param(value_type = Option<String>)]
    client: Option<IpAddr>,
}

impl Asked {
    const KEYS: &[&str] = &["target", "client"];

    fn read(pairs: Pairs, pool: &PoolStatus) -> Result<Self, Refused> {
        let mut asked = query::Asked::read(pairs, Problem::BadPickQuery, Self::KEYS);
        let target = asked.text("target").map(|target| self::target(&target, pool));
        let target = target.transpose().unwrap_or_else(|wrong| {
            asked.wrong("target", wrong);
            None
        });
        let client = asked.value("client", "IP address; write one, such as 10.0.0.7", |text| text.parse().ok());
        asked.finish().map(|()| Self { target, client })
    }
}

/// The choice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PickView {
    pool: String,
    backend: String,
    address: String,
    priority: u32,
    /// How the backends of one priority take turns.
    balance: &'static str,
    /// Why, in words.
    reason: String,
    /// The backends that may not serve, or serve behind it.
    passed: Vec<PassedView>,
    /// The number of the table that it is from.
    generation: u64,
}

/// A backend that is not chosen from.
#[derive(Debug, Serialize, ToSchema)]
struct PassedView {
    backend: String,
    priority: u32,
    /// Why.
    reason: String,
}

/// `GET /pools/{pool}/pick`.
async fn pick(State(admin): State<Admin>, PoolPath(name): PoolPath, pairs: Pairs) -> Result<Json<PickView>, Refused> {
    let gone = || Refusal::PoolNotFound(name.clone());
    let of_one_table = of_one_table(
        || {
            let (control, name) = (admin.control.clone(), name.clone());
            async move { control.pool(name).await.ok_or(Problem::Internal) }
        },
        || admin.routes.load(),
        |status, published| status.as_ref().is_none_or(|status| status.generation == published.table.generation),
    );
    let (status, published) = of_one_table.await?;
    let status = status.ok_or_else(gone)?;
    let Asked { target, client } = Asked::read(pairs, &status)?;
    let routes = published.table.pools.get(&name).ok_or_else(gone)?;
    let live = published.live.pools.get(&name).ok_or_else(gone)?;
    let arrival = Arrival {
        target,
        turn: live.coming_turn(),
        will_wait: false,
        client: client_key(client),
        // A draw, as a session has one of its own.
        chance: tag::hash(&admin.clock.now().as_nanos().to_le_bytes()),
        tried: &[],
    };
    match routes.pick(&arrival) {
        Ok(route) => Ok(Json(view(&status, routes, target, route, published.table.generation.0))),
        Err(why) => Err(Refused::because(Problem::NothingServes, obstacle(why, routes, &status))),
    }
}

fn target(text: &str, pool: &PoolStatus) -> Result<Target, String> {
    let all = Target::LABELS.join(", ");
    let target = Target::from_label(text).ok_or_else(|| format!("`target`: {} is none of {all}", quote(text)))?;
    match pool.kind {
        PoolKind::Postgres => Ok(target),
        PoolKind::Tcp => {
            let tcp = &pool.name;
            Err(format!("`target`: {} is for a postgres pool, and {tcp} is a tcp pool; leave it out", quote(text)))
        }
    }
}

/// What `ask` says and what `load` has, so that both are of one moment: what came with a new table is in either or in neither. If they
/// change as often as they are asked for, the last of them.
async fn of_one_table<S, T, E, F: Future<Output = Result<S, E>>>(
    ask: impl Fn() -> F,
    load: impl Fn() -> T,
    is_of_one: impl Fn(&S, &T) -> bool,
) -> Result<(S, T), E> {
    let mut left = ASKED_MAX;
    loop {
        let (status, table) = (ask().await?, load());
        left -= 1;
        if left == 0 || is_of_one(&status, &table) {
            return Ok((status, table));
        }
    }
}

fn view(pool: &PoolStatus, routes: &PoolRoutes, target: Option<Target>, route: &Route, generation: u64) -> PickView {
    let (_, tiers) = routes.wanted(target);
    let is_chosen = |other: &Route| other.backend == route.backend;
    let at = tiers.iter().position(|tier| tier.routes().iter().any(is_chosen)).unwrap_or(0);
    let balance = tiers.get(at).map_or("", |tier| tier.balance().label());
    let known = pool.backends.iter().find(|backend| backend.id == route.backend);
    let priority = known.map_or(0, |backend| backend.priority);
    // Those that take turns with it.
    let peers = tiers.get(at).map_or(&[][..], |tier| tier.routes());
    let peers: Vec<BackendId> =
        peers.iter().filter(|peer| is_chosen(peer) || !peer.is_full()).map(|peer| peer.backend).collect();
    let is_resort = routes.hold.when_down == WhenDown::UsePreferred;
    let mut reason = if is_resort && known.is_some_and(|backend| !backend.eligible) {
        format!(
            "nothing is fit, and when_down of the pool is {}: {} is preferred",
            routes.hold.when_down.label(),
            route.name
        )
    } else if is_resort && target == Some(Target::Standby) && routes.is_write_route(route.backend) {
        format!(
            "no standby is fit, and when_down of the pool is {}: {} is the primary",
            routes.hold.when_down.label(),
            route.name
        )
    } else if let [_] = peers[..] {
        format!("{} is the one backend of priority {priority} that may serve", route.name)
    } else {
        let count = peers.len();
        format!("{} is the next by {balance} of the {count} backends of priority {priority} that may serve", route.name)
    };
    if at > 0 {
        reason.push_str("; all before it have as many sessions as they may");
    }
    if let Some(pinned) = &pool.pinned {
        reason.push_str(&format!("; the pool is pinned to {pinned}"));
    }
    let others = pool.backends.iter().filter(|backend| !peers.contains(&backend.id));
    let passed = others.map(|backend| PassedView {
        backend: backend.name.to_string(),
        priority: backend.priority,
        reason: why_passed(backend, routes, target),
    });
    PickView {
        pool: pool.name.to_string(),
        backend: route.name.to_string(),
        address: route.address.to_string(),
        priority,
        balance,
        reason,
        passed: passed.collect(),
        generation,
    }
}

/// Why a session that wants `target` is not sent to `backend`.
fn why_passed(backend: &BackendStatus, routes: &PoolRoutes, target: Option<Target>) -> String {
    let (_, tiers) = routes.wanted(target);
    let route = tiers.iter().flat_map(|tier| tier.routes()).find(|route| route.backend == backend.id);
    match route {
        Some(full) if full.is_full() => format!("it has as many sessions as it may ({})", full.max_connections),
        _ if !backend.reason.is_empty() => backend.reason.clone(),
        Some(_) => "another serves before it".to_owned(),
        None if routes.is_write_route(backend.id) => "it is the primary".to_owned(),
        None => "it is none of those that are wanted".to_owned(),
    }
}

/// Why no session would get a backend now.
fn obstacle(why: NoRoute, routes: &PoolRoutes, pool: &PoolStatus) -> String {
    let what = match why {
        NoRoute::Paused => "the pool is paused",
        NoRoute::Pending => "first verdicts are still out",
        NoRoute::Down | NoRoute::Exhausted => "no backend may serve",
        NoRoute::Full => "every backend that may serve has as many sessions as it may",
    };
    let out = pool.backends.iter().filter(|backend| !backend.reason.is_empty());
    let out: Vec<String> = out.take(TOLD_MAX).map(|backend| format!("{}: {}", backend.name, backend.reason)).collect();
    let out = if out.is_empty() { String::new() } else { format!(" ({})", out.join("; ")) };
    format!("{what}{out}; when_down of the pool is {}", routes.hold.when_down.label())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::of_one_table;

    #[tokio::test]
    async fn what_is_said_and_what_is_chosen_from_are_of_one_table() {
        let (table, asked) = (Cell::new(1), Cell::new(0));
        // The first answer is of a table that is replaced before the routes are looked at.
        let ask = || async {
            asked.set(asked.get() + 1);
            let said = table.get();
            table.set(table.get().max(2));
            Ok::<_, ()>(said)
        };
        let both = of_one_table(ask, || table.get(), |said, table| said == table).await;
        assert_eq!((both, asked.get()), (Ok((2, 2)), 2));
        // Whoever changes it without end keeps nobody.
        let ask = || async { Ok::<_, ()>(table.replace(table.get() + 1)) };
        let both = of_one_table(ask, || table.get(), |said, table| said == table).await;
        assert!(both.is_ok());
        let failed = of_one_table(|| async { Err::<(), _>("gone") }, || (), |(), ()| true).await;
        assert_eq!(failed, Err("gone"));
    }
}
