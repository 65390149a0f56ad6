//! The check and failover tables of a pool as they are in force, and what of a pool is not the file's, for people and
//! programs to read.

use serde_json::{Map, Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::check;
use crate::config::document::Document;
use crate::config::key::{Key, Kind, Part, Preset};
use crate::config::keys;
use crate::config::source::Way;
use crate::model::{BackendName, HIDDEN, PoolKind, PoolName};

use super::screen::{join, refusal};
use super::settle::{Ground, json};
use super::shown;
use super::{Overlay, PatchKey};

/// The pool's `check` and `failover` as they are in force, and under `overridden` the keys that come from run time.
/// Keys that nobody set have their defaults, or null; the table of a kind of check is there if that is the kind.
/// Nothing if there is no such pool. The overlay is one that [`super::effective()`] has left over the document.
#[must_use]
pub fn failover_config(document: &Document, overlay: &Overlay, pool: &PoolName) -> Option<Value> {
    let (tree, _) = DeTable::parse_recoverable(document.text());
    let file = Ground::new(document, tree.get_ref(), pool).table()?;
    let walk = Walk { document, overlay, pool };
    let mut config = Map::new();
    for (key, part) in [(&keys::CHECK, Part::Check), (&keys::FAILOVER, Part::Failover)] {
        config.insert(key.name.to_owned(), Value::Object(walk.table(part, below(Some(file), key.name), key.name)));
    }
    let own = overlay.patched(pool).filter(|(key, _)| key.backend.is_none());
    config.insert("overridden".to_owned(), own.map(|(key, _)| json!(key.path)).collect());
    Some(Value::Object(config))
}

/// What was set at run time in `pool`, and so goes before what the file says: the backends that were registered, and the
/// keys that were patched, each with what the file says instead (null where it says nothing), when and by whom.
#[must_use]
pub fn at_run_time(overlay: &Overlay, pool: &PoolName) -> Value {
    let registered = overlay.registered(pool).map(|(name, registration)| {
        let (at, by) = (registration.at.to_string(), registration.actor.as_str());
        json!({ "name": name.as_str(), "at": at, "by": by })
    });
    // Dropped as soon as the file says something else for the key: so what it said then is what it says.
    let patched = overlay.patched(pool).map(|(key, patch)| {
        json!({
            "backend": key.backend.as_ref().map(BackendName::as_str),
            "key": key.path,
            "value": shown::patched(key, &patch.value),
            "file": patch.base.as_ref().map(|base| shown::patched(key, base)),
            "at": patch.at.to_string(),
            "by": patch.actor.as_str(),
        })
    });
    json!({ "registered": registered.collect::<Value>(), "patched": patched.collect::<Value>() })
}

fn below<'t>(table: Option<&'t DeTable<'t>>, name: &str) -> Option<&'t DeTable<'t>> {
    table?.get(name)?.get_ref().as_table()
}

struct Walk<'a> {
    document: &'a Document,
    overlay: &'a Overlay,
    pool: &'a PoolName,
}

impl Walk<'_> {
    fn table(&self, part: Part, file: Option<&DeTable<'_>>, path: &str) -> Map<String, Value> {
        let mut table = Map::new();
        for key in keys::of(part).filter(|key| !matches!(key.kind, Kind::Table(_))) {
            table.insert(key.name.to_owned(), self.value(key, file, path));
        }
        let kind = table.get(keys::CHECK_KIND.name).cloned();
        for key in keys::of(part) {
            let Kind::Table(part) = key.kind else { continue };
            if key.part != Part::Check || kind.as_ref().is_some_and(|kind| kind == key.name) {
                let under = self.table(part, below(file, key.name), &join(path, key.name));
                table.insert(key.name.to_owned(), Value::Object(under));
            }
        }
        table
    }

    fn value(&self, key: &Key, file: Option<&DeTable<'_>>, path: &str) -> Value {
        let patched = (self.pool.clone(), PatchKey::of_pool(&join(path, key.name)));
        if let Some(patch) = self.overlay.patches.get(&patched) {
            return shown::value(key, &patch.value);
        }
        match file.and_then(|file| file.get(key.name)).map(Spanned::get_ref) {
            Some(_) if refusal(key).is_some() => Value::from(HIDDEN),
            Some(DeValue::Table(lookup)) => self.looked_up(key, lookup),
            Some(value) => shown::value(key, &json(value)),
            None if *key == keys::CHECK_KIND => Value::from(self.preset_check()),
            None => match key.preset {
                Preset::Flag(flag) => Value::from(flag),
                Preset::Integer(number) => Value::from(number),
                Preset::Text(text) => Value::from(text),
                Preset::Empty => Value::Array(Vec::new()),
                Preset::Required(_) | Preset::Optional(_) | Preset::Section => Value::Null,
            },
        }
    }

    /// What is asked of the pool's backends if nobody says.
    fn preset_check(&self) -> &'static str {
        let kind = self.document.plan().pools.get(self.pool).map_or(PoolKind::Tcp, |pool| pool.kind);
        check::preset_kind(kind)
    }

    /// What the file leaves to a variable or to another file. It was found to be what its key takes: of these kinds, a word of
    /// ours or figures. Whatever else is there may be anybody's secret.
    fn looked_up(&self, key: &Key, lookup: &DeTable<'_>) -> Value {
        let is_plain =
            matches!(key.kind, Kind::Word(_) | Kind::Duration { .. } | Kind::Size { .. } | Kind::Statuses | Kind::Rate);
        let sources = self.document.sources();
        let found = lookup
            .iter()
            .next()
            .and_then(|(way, name)| Some(Way::from_word(way.get_ref())?.look_up(sources, name.get_ref().as_str()?)));
        found.and_then(Result::ok).filter(|_| is_plain).map_or_else(|| Value::from(HIDDEN), Value::from)
    }
}
