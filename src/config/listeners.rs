//! `[listeners.NAME]` and `[admin]`: where clients and operators connect.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::DeValue;

use crate::model::{Address, ListenerName, ListenerPlan, PoolKind, PoolName, Target};

use super::access;
use super::key::{Key, Part, listed};
use super::keys;
use super::pools::PoolDraft;
use super::read::Reader;
use super::units;
use super::value::Value;
use super::view::View;
use super::wording::{nearest, quote};

/// The most listeners in a file.
const LISTENERS_MAX: usize = 1000;
/// The most addresses of one listener.
const BINDS_MAX: usize = 64;
/// The most pools that a message lists.
const LISTED_MAX: usize = 10;

/// An address to listen on and where it stands in the file.
#[derive(Debug, Clone)]
pub(super) struct Bind {
    /// The address.
    pub(super) address: Address,
    /// Its place.
    pub(super) place: Range<usize>,
}

/// A listener and where its addresses stand in the file.
pub(super) struct ListenerDraft {
    /// The listener.
    pub(super) plan: ListenerPlan,
    /// Its addresses, as in the plan.
    pub(super) binds: Vec<Bind>,
}

/// Every listener of the file, by name.
pub(super) fn all(
    reader: &mut Reader<'_>,
    root: &View<'_>,
    pools: &BTreeMap<PoolName, PoolDraft>,
) -> Vec<ListenerDraft> {
    let named = reader.tables(root, &keys::LISTENERS, Part::Listener, LISTENERS_MAX);
    if named.is_empty() {
        let message = "nothing to do: there is no [listeners.NAME]; write one with `bind` and `pool`";
        reader.faults.missing(root.place(&keys::LISTENERS), message.to_owned());
    }
    named.into_iter().map(|entry| listener(reader, entry.name, &entry.view, pools)).collect()
}

fn listener(
    reader: &mut Reader<'_>,
    name: &str,
    view: &View<'_>,
    pools: &BTreeMap<PoolName, PoolDraft>,
) -> ListenerDraft {
    reader.demand(view, &keys::BIND);
    let binds = binds(reader, view, &keys::BIND);
    let pool: Option<String> = reader.required(view, &keys::POOL);
    if let Some(pool) = &pool
        && !pools.contains_key(pool.as_str())
    {
        dangling(reader, view, pool, pools);
    }
    let target = target(reader, view, pool.as_deref().and_then(|pool| pools.get(pool)));
    let plan = ListenerPlan {
        name: ListenerName::from(name),
        bind: binds.iter().map(|bind| bind.address.clone()).collect(),
        pool: PoolName::from(pool.unwrap_or_default().as_str()),
        target,
        limits: access::limits(reader, view),
        idle_timeout: reader.get(view, &keys::IDLE_TIMEOUT),
        half_close_timeout: reader.get(view, &keys::HALF_CLOSE_TIMEOUT),
        busy_poll: units::busy_poll(reader, view),
    };
    ListenerDraft { plan, binds }
}

/// Which server the clients want; of `pool`, if that is known.
fn target(reader: &mut Reader<'_>, view: &View<'_>, pool: Option<&PoolDraft>) -> Target {
    let key = &keys::TARGET;
    let given: Option<Target> = reader.given(view, key);
    let Some(pool) = pool else { return Target::Any };
    match (pool.plan.kind, given) {
        (PoolKind::Postgres, given) => given.unwrap_or(Target::Primary),
        (PoolKind::Tcp, Some(target)) if target != Target::Any && pool.is_of_known_kind => {
            let name = &pool.plan.name;
            let message = format!(
                "`{}`: \"{target}\" is for postgres pools, and [pools.{name}] is of kind \"tcp\", which does not know who is \
                 primary; write kind = \"postgres\" there, or leave it out",
                key.name
            );
            reader.faults.wrong(view.place(key), message);
            Target::Any
        }
        (PoolKind::Tcp, _) => Target::Any,
    }
}

fn dangling(reader: &mut Reader<'_>, view: &View<'_>, pool: &str, pools: &BTreeMap<PoolName, PoolDraft>) {
    let is_literal = view.node(&keys::POOL).is_some_and(|node| node.get_ref().is_str());
    let message = no_such_pool(&keys::POOL, pool, is_literal, pools);
    reader.faults.missing(view.place(&keys::POOL), message);
}

/// The message that `pool`, under `key`, is none of `pools`; one that stands elsewhere is not shown.
pub(super) fn no_such_pool(key: &Key, pool: &str, is_literal: bool, pools: &BTreeMap<PoolName, PoolDraft>) -> String {
    let shown = if is_literal { quote(pool) } else { "that name (not shown)".to_owned() };
    let names = || pools.keys().map(PoolName::as_str);
    let meant = match nearest(pool, names()) {
        Some(guess) => format!("did you mean \"{guess}\"?"),
        None if pools.is_empty() => "write [pools.NAME] with its `backends`".to_owned(),
        None => {
            let more = if pools.len() > LISTED_MAX { ", among others" } else { "" };
            format!("there is {}{more}", listed(names().take(LISTED_MAX)))
        }
    };
    format!("`{}`: there is no pool {shown}; {meant}", key.name)
}

/// The addresses under `key`, or its default.
pub(super) fn binds(reader: &mut Reader<'_>, view: &View<'_>, key: &Key) -> Vec<Bind> {
    let Some(node) = view.node(key) else {
        let address = Address::preset(key);
        return vec![Bind { address, place: view.span.clone() }];
    };
    let DeValue::Array(list) = node.get_ref() else {
        let address = reader.convert(node, key);
        return address.map(|address| Bind { address, place: node.span() }).into_iter().collect();
    };
    if list.is_empty() || list.len() > BINDS_MAX {
        let message = format!("`{}` has {} addresses; write 1 to {BINDS_MAX}", key.name, list.len());
        reader.faults.wrong(node.span(), message);
        return Vec::new();
    }
    list.iter()
        .filter_map(|item| reader.convert(item, key).map(|address| Bind { address, place: item.span() }))
        .collect()
}
