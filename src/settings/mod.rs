//! Floor 4: what is in force: the file, with what was changed at run time over it. There is one owner, and whoever
//! changes anything holds it: a reload and a change by the API cannot overtake each other.
//!
//! A change is validated, kept, put in force and answered, in this order; one that is refused at any step has changed
//! nothing. What may lie over the file and what wins is `config::overlay`'s to say; what is kept how, the store's.

mod kept;

use std::sync::Arc;
use std::thread::{Builder, park_timeout};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::spawn_blocking;

use crate::config::Document;
use crate::config::overlay::{Changed, Effective, Note, Overlay, Request, at_run_time, effective, failover_config};
use crate::model::{Actor, BackendName, EventRecord, Plan, PoolName};
use crate::routing::ControlHandle;
use crate::store::{self, Refused, State, StoreHandle};
use crate::sys::Clock;

pub use crate::config::overlay::{FieldFault, RejectCode, Rejected};

/// From one try to the next while the store has no room: it takes thousands of requests in that time.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What is to be changed.
#[derive(Debug, Clone)]
pub enum Edit {
    /// A backend is registered.
    Register(Value),
    /// A backend's keys are changed, by a JSON merge patch.
    Change(BackendName, Value),
    /// A registered backend is removed.
    Remove(BackendName),
    /// The pool's check and failover are changed, by a JSON merge patch.
    Patch(Value),
}

impl Edit {
    /// What is done, in a word or two, for the audit.
    #[must_use]
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Register(_) => "backend.register",
            Self::Change(..) => "backend.change",
            Self::Remove(_) => "backend.remove",
            Self::Patch(_) => "failover_config.change",
        }
    }

    /// What the request says, if it says anything.
    #[must_use]
    pub const fn document(&self) -> Option<&Value> {
        match self {
            Self::Register(body) | Self::Change(_, body) | Self::Patch(body) => Some(body),
            Self::Remove(_) => None,
        }
    }

    /// The backend that is meant, as far as the request says so.
    #[must_use]
    pub fn backend(&self) -> Option<BackendName> {
        match self {
            Self::Register(body) => body.get("name").and_then(Value::as_str).map(BackendName::from),
            Self::Change(backend, _) | Self::Remove(backend) => Some(backend.clone()),
            Self::Patch(_) => None,
        }
    }
}

/// A change that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edited {
    /// Whether it outlives a restart by now. If not, it is in memory, and is written as soon as the disk works.
    pub is_durable: bool,
}

/// Why something was not changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EditError {
    /// It is wrong.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It cannot be kept.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The daemon is going down. It may be in force after the next start.
    #[error("the daemon is going down")]
    Stopping,
    /// The same once it was kept, with its entry in the audit trail: it comes into force at the next start.
    #[error("the daemon is going down; what was kept comes into force at its next start")]
    Kept,
}

/// The file and what lies over it.
#[derive(Debug)]
pub struct Current {
    document: Arc<Document>,
    overlay: Arc<Overlay>,
    plan: Arc<Plan>,
    /// What is to be forgotten and the store had no room for: it is told with whatever comes next, and again soon.
    owed: Vec<store::Change>,
}

impl Current {
    /// Has `store` forget what lies over the file no more, and what it has had no room for before. Whether it has taken it.
    fn forget(&mut self, store: &StoreHandle, changes: Vec<store::Change>, events: Vec<EventRecord>) -> bool {
        self.owed.extend(changes);
        match store.record(self.owed.clone(), events) {
            Ok(()) => self.owed.clear(),
            Err(Refused::Busy) => {}
            Err(error) => {
                tracing::warn!(%error, "what was dropped may have to be dropped again after a restart");
                self.owed.clear();
            }
        }
        self.owed.is_empty()
    }

    /// What is in force.
    #[must_use]
    pub const fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What `document` makes, with what is registered and patched now over it.
    #[must_use]
    pub fn over(&self, document: &Document) -> Effective {
        effective(document, &self.overlay)
    }
}

/// What is shown of [`Current`].
#[derive(Debug, Clone)]
struct Shown {
    overlay: Arc<Overlay>,
    plan: Arc<Plan>,
}

impl From<&Current> for Shown {
    fn from(current: &Current) -> Self {
        Self { overlay: Arc::clone(&current.overlay), plan: Arc::clone(&current.plan) }
    }
}

/// The owner of what is in force. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settings {
    control: ControlHandle,
    store: StoreHandle,
    clock: Clock,
    current: Arc<Mutex<Current>>,
    /// What is in force, for those who must not wait for one who changes it, and so for the disk.
    shown: watch::Sender<Shown>,
}

impl Settings {
    /// Begins with `document` and what the last process left in `state`. What cannot lie over the file any more is
    /// forgotten; the notes say what and why.
    #[must_use]
    pub fn begin(
        document: Document,
        state: &State,
        control: ControlHandle,
        store: StoreHandle,
        clock: Clock,
    ) -> (Self, Vec<Note>) {
        let (overlay, unreadable) = kept::overlay(state);
        let Effective { plan, overlay, changes, notes } = effective(&document, &overlay);
        let (document, overlay, plan) = (Arc::new(document), Arc::new(overlay), Arc::new(plan));
        let mut current = Current { document, overlay, plan, owed: Vec::new() };
        let gone = unreadable.into_iter().chain(changes.into_iter().map(kept::change)).collect();
        let is_taken = current.forget(&store, gone, Vec::new());
        let shown = watch::Sender::new(Shown::from(&current));
        let settings = Self { control, store, clock, current: Arc::new(Mutex::new(current)), shown };
        if !is_taken {
            settings.forget_later();
        }
        (settings, notes)
    }

    /// Holds what is in force, so that nothing changes it meanwhile. Blocks the thread; not for one that runs a runtime.
    pub fn hold(&self) -> MutexGuard<'_, Current> {
        self.current.blocking_lock()
    }

    /// Where history is kept.
    #[must_use]
    pub const fn store(&self) -> &StoreHandle {
        &self.store
    }

    /// An event of the daemon's own, as of now.
    #[must_use]
    pub fn event(&self, kind: &str, detail: Value) -> EventRecord {
        let mut event = EventRecord::new(self.clock.wall(self.clock.now()), kind);
        if let Value::Object(detail) = detail {
            event.detail = detail;
        }
        event
    }

    /// `document` is in force, as `plan`, with what `effective` left over it. What was dropped is forgotten, and told.
    pub fn reloaded(&self, current: &mut Current, document: Document, plan: Arc<Plan>, left: Left, told: &[String]) {
        let Left { overlay, changes, notes } = left;
        let event = self.event("config.reloaded", json!({ "changes": told, "notes": notes_of(&notes) }));
        if !current.forget(&self.store, changes.into_iter().map(kept::change).collect(), vec![event]) {
            self.forget_later();
        }
        (current.document, current.overlay, current.plan) = (Arc::new(document), Arc::new(overlay), plan);
        self.shown.send_replace(Shown::from(&*current));
    }

    /// Tries again, on a thread of its own, until the store has room for what it is to forget, or somebody has told it meanwhile.
    fn forget_later(&self) {
        let owner = self.clone();
        let again = move || {
            let mut is_taken = false;
            while !is_taken {
                park_timeout(AGAIN_AFTER);
                let mut current = owner.current.blocking_lock();
                is_taken = current.owed.is_empty() || current.forget(&owner.store, Vec::new(), Vec::new());
            }
        };
        if let Err(error) = Builder::new().name("forgetting".to_owned()).spawn(again) {
            tracing::warn!(%error, "what was dropped is forgotten with the next change");
        }
    }

    /// Changes pool `pool`, as `actor` wants. `audit` becomes the audit trail's entry of it, kept in the same
    /// transaction. Once begun it is carried out, whether or not the result is waited for.
    ///
    /// # Errors
    ///
    /// [`EditError`]; unless the daemon is stopping, nothing has changed then.
    pub async fn edit(
        &self,
        pool: PoolName,
        actor: Actor,
        edit: Edit,
        audit: EventRecord,
    ) -> Result<Edited, EditError> {
        let owner = self.clone();
        // A caller that goes away must not leave it half done.
        let done = tokio::spawn(async move {
            let mut current = owner.current.lock().await;
            let (document, overlay) = (Arc::clone(&current.document), Arc::clone(&current.overlay));
            let micros = owner.clock.wall(owner.clock.now()).as_micros();
            let (by, name) = (actor.clone(), pool.clone());
            // Thousands of backends take their time, and the control plane has better things to do meanwhile.
            let changed = spawn_blocking(move || {
                let at = Timestamp::from_microsecond(micros).unwrap_or_default();
                let request = Request { document: &document, overlay: &overlay, pool: &name, at, actor: by };
                match &edit {
                    Edit::Register(body) => request.register(body),
                    Edit::Change(backend, body) => request.change(backend, body),
                    Edit::Remove(backend) => request.remove(backend),
                    Edit::Patch(body) => request.patch(body),
                }
            });
            let Changed { overlay, changes, pool: pool_plan } = changed.await.map_err(|_| EditError::Stopping)??;
            // What is owed comes first: it was dropped before this was changed.
            let all = current.owed.iter().cloned().chain(changes.into_iter().map(kept::change)).collect();
            let kept = owner.store.change(all, vec![audit]).await?;
            current.owed.clear();
            let mut plan = Plan::clone(&current.plan);
            plan.pools.insert(pool, pool_plan);
            let plan = Arc::new(plan);
            current.overlay = Arc::new(overlay);
            current.plan = Arc::clone(&plan);
            owner.shown.send_replace(Shown::from(&*current));
            if owner.control.replace(plan, actor).await {
                Ok(Edited { is_durable: kept.is_durable })
            } else {
                Err(EditError::Kept)
            }
        });
        done.await.unwrap_or(Err(EditError::Stopping))
    }

    /// What was set at run time in `pool`, and goes before its file. Waits for nobody.
    #[must_use]
    pub fn at_run_time(&self, pool: &PoolName) -> Value {
        let overlay = Arc::clone(&self.shown.borrow().overlay);
        at_run_time(&overlay, pool)
    }

    /// What is in force. Waits for nobody.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.shown.borrow().plan)
    }

    /// The check and failover tables of `pool` as they are in force; none if there is no such pool.
    pub async fn failover_config(&self, pool: PoolName) -> Option<Value> {
        let current = self.current.lock().await;
        let (document, overlay) = (Arc::clone(&current.document), Arc::clone(&current.overlay));
        drop(current);
        spawn_blocking(move || failover_config(&document, &overlay, &pool)).await.ok().flatten()
    }
}

/// What is left over a file that was read anew, and what is not.
#[derive(Debug)]
pub struct Left {
    /// What is left.
    pub overlay: Overlay,
    /// What is to be forgotten.
    pub changes: Vec<crate::config::overlay::Change>,
    /// The same for people.
    pub notes: Vec<Note>,
}

/// Notes as the detail of an event.
#[must_use]
pub fn notes_of(notes: &[Note]) -> Value {
    notes.iter().map(Note::to_json).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Settings, park_timeout};
    use crate::config::{Document, OsSources};
    use crate::model::{Actor, EventRecord, WallTime};
    use crate::routing::mailbox;
    use crate::store::{Change, Patch, State, Stuck};
    use crate::sys::Clock;

    #[test]
    fn what_is_to_be_forgotten_is_told_again_when_the_store_had_no_room_for_it() {
        let text = "[listeners.front]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\nbackends = ['127.0.0.1:2']\n";
        let document = Document::parse("test.toml", text, &OsSources).unwrap();
        let (store, handle) = Stuck::new();
        let (control, _feedback, _inbox) = mailbox();
        handle.append(EventRecord::new(WallTime::from_micros(1), "in.the.way"));
        // Nobody can read it.
        let patch =
            Patch { value: "{".to_owned(), file_value: None, since: WallTime::default(), actor: Actor::from("ops") };
        let mut state = State::default();
        state.apply(Change::Patch("p".into(), "check.interval".to_owned(), Some(patch)));
        let (settings, _) = Settings::begin(document, &state, control, handle, Clock::start());
        let owed = [Change::Patch("p".into(), "check.interval".to_owned(), None)];
        assert_eq!(settings.hold().owed, owed);
        let begun = Instant::now();
        let mut told = Vec::new();
        while told.is_empty() && begun.elapsed() < Duration::from_secs(20) {
            told = store.take().unwrap_or_default();
            park_timeout(Duration::from_millis(1));
        }
        assert_eq!(told, owed);
        while !settings.hold().owed.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is owed no more");
            park_timeout(Duration::from_millis(1));
        }
    }
}
