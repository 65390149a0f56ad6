//! The audit trail of changes that were refused before a handler could write that down, or by one that left it to this. They
//! are told one by one, and what is beyond a number together.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use serde_json::json;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::admin::Admin;
use crate::model::{Actor, BackendName, EventRecord, PoolName};
use crate::settings::Settings;

use super::Access;
use super::identity::Peer;
use super::rate::{Many, Noted, Whose};
use super::table::Route;

/// The longest name of a pool or a backend that is written down as one: none has a longer one.
const NAME_MAX: usize = 64;

/// What the path of a request names, as its handler will read it.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub(super) pool: Option<PoolName>,
    backend: Option<BackendName>,
    session: Option<u64>,
}

impl Names {
    pub(super) async fn of(parts: &mut Parts) -> Self {
        let Ok(params) = RawPathParams::from_request_parts(parts, &()).await else { return Self::default() };
        let of = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        Self {
            pool: of("pool").map(PoolName::from),
            backend: of("backend").map(BackendName::from),
            session: of("id").and_then(|id| id.parse().ok()),
        }
    }
}

/// Writes down that `actor` was refused the change that `route` is, for the reason `code`.
pub(super) fn note(admin: &Admin, route: &Route, actor: &Actor, peer: &Peer, names: &Names, code: &str) {
    let now = admin.clock.now();
    match admin.access.counted(|counts| counts.refusals.add(actor, &peer.host(), now)) {
        Noted::Singly => {
            let detail = json!({
                "action": route.action,
                "request": format!("{} {}", route.method, route.path),
                "address": peer.address(),
                "result": code,
                "session": names.session,
            });
            let is_name = |name: &str| name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_graphic());
            let event = EventRecord {
                pool: names.pool.clone().filter(|name| is_name(name.as_str())),
                backend: names.backend.clone().filter(|name| is_name(name.as_str())),
                actor: actor.clone(),
                ..admin.settings.event("admin.action", detail)
            };
            append(&admin.settings, event);
        }
        Noted::Counted => {}
        Noted::FirstOfMany(whose, after) => {
            let admin = admin.clone();
            drop(spawn_local(async move {
                sleep(after).await;
                tell_counted(&admin.access, &admin.settings, whose);
            }));
        }
    }
}

/// Writes down together those of `whose` that were only counted so far, if there are any.
pub(super) fn tell_counted(access: &Access, settings: &Settings, whose: Whose) {
    let Many { count, actors, addresses } = access.counted(|counts| counts.refusals.take_counted(whose));
    if count == 0 {
        return;
    }
    let detail = json!({
        "action": "refused",
        "result": "refused",
        "count": count,
        "actors": actors.first(),
        "more_actors": actors.more(),
        "addresses": addresses.first(),
        "more_addresses": addresses.more(),
    });
    append(settings, settings.event("admin.action", detail));
}

fn append(settings: &Settings, event: EventRecord) {
    settings.store().append(EventRecord { status: Some("failed".to_owned()), ..event });
}
