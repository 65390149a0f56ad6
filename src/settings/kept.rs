//! What was changed at run time, as the store has it.

use jiff::Timestamp;
use serde_json::Value;

use crate::config::overlay::{Change, Overlay, Patch, PatchKey, Registration};
use crate::model::WallTime;
use crate::store::{self, State};

/// `change` as the store has it.
pub(super) fn change(change: Change) -> store::Change {
    match change {
        Change::Registration(pool, backend, to) => {
            store::Change::Registration((pool, backend), to.map(|to| to.to_json().to_string()))
        }
        Change::Patch(pool, key, to) => {
            let to = to.map(|Patch { value, base, at, actor }| store::Patch {
                value: value.to_string(),
                file_value: base.map(|base| base.to_string()),
                since: WallTime::from_micros(at.as_microsecond()),
                actor,
            });
            store::Change::Patch(pool, key.to_string(), to)
        }
    }
}

/// What lies over the file according to `state`, and what of that nobody can read any more: it is to be forgotten.
pub(super) fn overlay(state: &State) -> (Overlay, Vec<store::Change>) {
    let (mut overlay, mut unreadable) = (Overlay::default(), Vec::new());
    for (key, text) in &state.registrations {
        let value = serde_json::from_str(text).ok();
        match value.as_ref().and_then(Registration::from_json) {
            Some(registration) => drop(overlay.registrations.insert(key.clone(), registration)),
            None => {
                tracing::error!(pool = %key.0, backend = %key.1, "a registration cannot be read and is forgotten");
                unreadable.push(store::Change::Registration(key.clone(), None));
            }
        }
    }
    for ((pool, name), kept) in &state.patches {
        match name.parse::<PatchKey>().ok().zip(patch(kept)) {
            Some((key, patch)) => drop(overlay.patches.insert((pool.clone(), key), patch)),
            None => {
                tracing::error!(%pool, key = name, "the change of a key cannot be read and is forgotten");
                unreadable.push(store::Change::Patch(pool.clone(), name.clone(), None));
            }
        }
    }
    (overlay, unreadable)
}

fn patch(kept: &store::Patch) -> Option<Patch> {
    let base: Option<Value> = match &kept.file_value {
        Some(text) => Some(serde_json::from_str(text).ok()?),
        None => None,
    };
    Some(Patch {
        value: serde_json::from_str(&kept.value).ok()?,
        base,
        at: Timestamp::from_microsecond(kept.since.as_micros()).ok()?,
        actor: kept.actor.clone(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::{change, overlay};
    use crate::config::overlay::{Change, Overlay, Patch, PatchKey, Registration};
    use crate::model::{Actor, BackendName, PoolName};
    use crate::store::{self, State};

    fn world() -> Vec<Change> {
        let at = Timestamp::from_microsecond(1_800_000_000_123_456).unwrap();
        let actor = Actor::from("ops");
        let table = json!({ "address": "10.0.0.9:5432", "weight": 3 }).as_object().unwrap().clone();
        let pool = PoolName::from("p");
        let patch = |base| Patch { value: json!("2s"), base, at, actor: actor.clone() };
        vec![
            Change::Registration(pool.clone(), "c".into(), Some(Registration { table, at, actor: actor.clone() })),
            Change::Patch(pool.clone(), PatchKey::of_pool("check.interval"), Some(patch(Some(json!("1s"))))),
            Change::Patch(pool, PatchKey::of_backend(&BackendName::from("a.b:1"), "weight"), Some(patch(None))),
        ]
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let (mut state, mut lies_over) = (State::default(), Overlay::default());
        for one in world() {
            lies_over.apply(one.clone());
            state.apply(change(one));
        }
        assert_eq!(overlay(&state), (lies_over, Vec::new()));
    }

    #[test]
    fn what_nobody_can_read_is_forgotten_and_the_rest_stays() {
        let mut state = State::default();
        world().into_iter().for_each(|one| state.apply(change(one)));
        let before = state.len();
        state.apply(store::Change::Registration(("p".into(), "d".into()), Some("{".to_owned())));
        let some = state.patches.values().next().unwrap().clone();
        state.apply(store::Change::Patch("p".into(), "backends.".to_owned(), Some(some.clone())));
        state.apply(store::Change::Patch(
            "p".into(),
            "x".to_owned(),
            Some(store::Patch { value: "{".to_owned(), ..some }),
        ));
        let (lies_over, unreadable) = overlay(&state);
        assert_eq!((lies_over.registrations.len() + lies_over.patches.len(), unreadable.len()), (before, 3));
        unreadable.into_iter().for_each(|one| state.apply(one));
        assert_eq!(state.len(), before);
    }
}
