//! The audit trail: each change by the API is an event, `admin.action`, with who wanted it, from where, and what came
//! of it; those that were refused, too.

use serde_json::json;

use crate::model::{Actor, BackendName, EventRecord, PoolName};

use super::Admin;
use super::caller::Caller;

/// What somebody wants done.
#[derive(Debug, Clone)]
pub(super) struct Action {
    /// What: `backend.register`.
    pub(super) what: &'static str,
    pub(super) pool: Option<PoolName>,
    pub(super) backend: Option<BackendName>,
    pub(super) session: Option<u64>,
}

impl Caller {
    /// Its name in history.
    pub(super) fn actor(self) -> Actor {
        Actor::from(self.to_string().as_str())
    }
}

/// The entry for `action` of `caller`, with `result`: `done`, or the code of the refusal.
pub(super) fn entry(admin: &Admin, caller: Caller, action: &Action, result: &str) -> EventRecord {
    let address = match caller {
        Caller::Tcp | Caller::Loopback => "tcp",
        Caller::Local { .. } => "unix",
    };
    let detail = json!({ "action": action.what, "address": address, "result": result, "session": action.session });
    EventRecord {
        pool: action.pool.clone(),
        backend: action.backend.clone(),
        status: Some(if result == "done" { "completed" } else { "failed" }.to_owned()),
        actor: caller.actor(),
        ..admin.settings.event("admin.action", detail)
    }
}

/// Notes in the history what came of `action`. Never waits.
pub(super) fn note(admin: &Admin, caller: Caller, action: &Action, result: &str) {
    admin.settings.store().append(entry(admin, caller, action, result));
}
