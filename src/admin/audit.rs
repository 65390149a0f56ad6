//! The audit trail: each change by the API is an event, `admin.action`, with who wanted it, from where, and what came
//! of it; those that were refused, too.

use serde_json::{Value, json};

use crate::model::{BackendName, EventRecord, PoolName};

use super::Admin;
use super::caller::Changer;

/// What somebody wants done.
#[derive(Debug, Clone)]
pub(super) struct Action {
    /// What: `backend.register`.
    pub(super) what: &'static str,
    pub(super) pool: Option<PoolName>,
    pub(super) backend: Option<BackendName>,
    pub(super) session: Option<u64>,
    /// What was said with it: figures of a backend are kept over time by this.
    pub(super) said: Option<Value>,
}

/// The entry for `action` of `changer`, with `result`: `done`, or the code of the refusal.
pub(super) fn entry(admin: &Admin, changer: &Changer, action: &Action, result: &str) -> EventRecord {
    let Action { what, session, said, .. } = action;
    let detail =
        json!({ "action": what, "address": changer.address, "result": result, "session": session, "said": said });
    EventRecord {
        pool: action.pool.clone(),
        backend: action.backend.clone(),
        status: Some(if result == "done" { "completed" } else { "failed" }.to_owned()),
        actor: changer.actor.clone(),
        ..admin.settings.event("admin.action", detail)
    }
}

/// Notes in the history what came of `action`. Never waits.
pub(super) fn note(admin: &Admin, changer: &Changer, action: &Action, result: &str) {
    admin.settings.store().append(entry(admin, changer, action, result));
}
