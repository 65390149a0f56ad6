//! `[pools.NAME]`: what clients are connected to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use crate::model::{
    Address, Approach, BackendName, BackendPlan, DialPlan, FailoverPlan, HoldPlan, PoolName, PoolPlan, SessionPolicies,
};

use super::check::{self, Draft};
use super::command::Subject;
use super::key::Part;
use super::keys;
use super::read::{Named, Reader, View};
use super::value::Value;
use super::wording::quote;

/// The most pools in a file.
const POOLS_MAX: usize = 1000;
/// The most backends in a pool.
const BACKENDS_MAX: usize = 20_000;

/// A pool and where its backends' addresses stand in the file.
pub(super) struct PoolDraft {
    /// The pool.
    pub(super) plan: PoolPlan,
    /// The places of the addresses, in the order of the plan's backends.
    pub(super) places: Vec<Range<usize>>,
}

/// A backend and where its address stands in the file.
struct BackendDraft {
    plan: BackendPlan,
    place: Range<usize>,
    /// Where it has a check by command and no command.
    lacks_command: Option<Range<usize>>,
}

/// Every pool of the file by name.
pub(super) fn all(reader: &mut Reader<'_>, root: &View<'_>) -> BTreeMap<PoolName, PoolDraft> {
    let named = reader.tables(root, &keys::POOLS, Part::Pool, POOLS_MAX);
    named.into_iter().map(|entry| (PoolName::from(entry.name), pool(reader, entry.name, &entry.view))).collect()
}

fn pool(reader: &mut Reader<'_>, name: &str, view: &View<'_>) -> PoolDraft {
    let check = check::of_pool(reader, view);
    let mut drafts = backends(reader, name, view, &check);
    dial_from(reader, view, &mut drafts);
    demand_commands(reader, &drafts);
    drafts.sort_by(|a, b| a.plan.name.cmp(&b.plan.name));
    let (backends, places) = drafts.into_iter().map(|draft| (draft.plan, draft.place)).unzip();
    let plan = PoolPlan {
        name: PoolName::from(name),
        kind: reader.get(view, &keys::POOL_KIND),
        balance: reader.get(view, &keys::BALANCE),
        dial: DialPlan {
            connect_timeout: reader.get(view, &keys::CONNECT_TIMEOUT),
            connect_attempts: reader.get(view, &keys::CONNECT_ATTEMPTS),
            resend: reader.get(view, &keys::RESEND),
        },
        hold: HoldPlan {
            when_down: reader.get(view, &keys::WHEN_DOWN),
            hold: reader.get(view, &keys::HOLD),
            hold_limit: reader.get(view, &keys::HOLD_LIMIT),
        },
        failover: failover(reader, view),
        backends,
    };
    PoolDraft { plan, places }
}

/// Says once for each place that asks for a check by command and gives none.
fn demand_commands(reader: &mut Reader<'_>, drafts: &[BackendDraft]) {
    let mut places: Vec<&Range<usize>> = drafts.iter().filter_map(|draft| draft.lacks_command.as_ref()).collect();
    places.sort_by_key(|place| place.start);
    places.dedup();
    for place in places {
        let message =
            format!("the check's kind is \"command\", but there is none; write command = {}", keys::COMMAND.literal());
        reader.faults.missing(place.clone(), message);
    }
}

/// Has every backend dialled from the pool's `source_address`, which is of their family.
fn dial_from(reader: &mut Reader<'_>, pool: &View<'_>, drafts: &mut [BackendDraft]) {
    let Some(source) = reader.given::<IpAddr>(pool, &keys::SOURCE_ADDRESS) else { return };
    for draft in drafts {
        draft.plan.approach.source_address = Some(source);
        if let Address::Ip(addr) = &draft.plan.address
            && addr.ip().to_canonical().is_ipv4() != source.is_ipv4()
        {
            let (name, key) = (quote(draft.plan.name.as_str()), keys::SOURCE_ADDRESS.name);
            let message = format!("backend {name} cannot be dialled from `{key}`: one is IPv4, the other IPv6");
            reader.faults.wrong(draft.place.clone(), message);
        }
    }
}

fn failover(reader: &mut Reader<'_>, pool: &View<'_>) -> FailoverPlan {
    let view = reader.table(pool, &keys::FAILOVER);
    let sessions = reader.table(&view, &keys::SESSIONS);
    FailoverPlan {
        automatic: reader.get(&view, &keys::AUTOMATIC),
        failback: reader.get(&view, &keys::FAILBACK),
        failback_after: reader.get(&view, &keys::FAILBACK_AFTER),
        sessions: SessionPolicies {
            dead: reader.get(&sessions, &keys::DEAD),
            unreachable: reader.get(&sessions, &keys::UNREACHABLE),
            check_failed: reader.get(&sessions, &keys::CHECK_FAILED),
            drained: reader.get(&sessions, &keys::DRAINED),
            failed_back: reader.get(&sessions, &keys::FAILED_BACK),
        },
    }
}

fn backends(reader: &mut Reader<'_>, name: &str, pool: &View<'_>, check: &Draft) -> Vec<BackendDraft> {
    reader.demand(pool, &keys::BACKENDS);
    let Some(node) = pool.node(&keys::BACKENDS) else { return Vec::new() };
    let label = &pool.label;
    let count = match node.get_ref() {
        DeValue::Array(list) => list.len(),
        DeValue::Table(table) => table.len(),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            // One address alone is no list, and saying so needs no look at it.
            if let Some(given) = reader.scalar(node, &keys::BACKENDS) {
                reader.faults.wrong(node.span(), given.mismatch(&keys::BACKENDS));
            }
            return Vec::new();
        }
    };
    if count == 0 {
        let literal = keys::BACKENDS.literal();
        reader.faults.missing(node.span(), format!("[{label}] has no backends; write backends = {literal}"));
    }
    let drafts = match node.get_ref().as_array() {
        Some(list) if count > BACKENDS_MAX => {
            let message = format!("[{label}] has {} backends; {BACKENDS_MAX} is the most", list.len());
            reader.faults.wrong(node.span(), message);
            Vec::new()
        }
        Some(list) => (1..).zip(list.iter()).filter_map(|(at, node)| short(reader, name, node, at, check)).collect(),
        None => {
            let named = reader.tables(pool, &keys::BACKENDS, Part::Backend, BACKENDS_MAX);
            named.into_iter().filter_map(|entry| long(reader, name, &entry, check)).collect()
        }
    };
    unique(reader, label, &drafts);
    drafts
}

/// One of a list: named by its address, preferred by its place.
fn short(
    reader: &mut Reader<'_>,
    pool: &str,
    node: &Spanned<DeValue<'_>>,
    priority: u32,
    check: &Draft,
) -> Option<BackendDraft> {
    let address: Address = reader.convert(node, &keys::BACKENDS)?;
    // As typed here; one that was looked up elsewhere was not typed, and is named as it prints.
    let name = node.get_ref().as_str().map_or_else(|| address.to_string(), str::to_owned);
    let subject = Subject { pool, backend: &name, address: &address };
    let check_plan = check.clone().plan(reader, &subject, &node.span());
    let plan = BackendPlan {
        name: BackendName::from(name.as_str()),
        priority,
        weight: Value::preset(&keys::WEIGHT),
        max_connections: Value::preset(&keys::BACKEND_MAX_CONNECTIONS),
        check: check_plan,
        approach: Approach::PLAIN,
        address,
    };
    Some(BackendDraft { plan, place: node.span(), lacks_command: check.lacks_command() })
}

/// One with a table of its own.
fn long(reader: &mut Reader<'_>, pool: &str, entry: &Named<'_>, check: &Draft) -> Option<BackendDraft> {
    let Named { name, view } = entry;
    let address: Option<Address> = reader.required(view, &keys::ADDRESS);
    let check = check::of_backend(reader, view, check);
    let (place, lacks_command) = (view.place(&keys::ADDRESS), check.lacks_command());
    // Without an address there is no backend; its other keys are read for what is wrong with them.
    let known = address.as_ref().map(|address| Subject { pool, backend: name, address });
    let check = known.map(|subject| check.plan(reader, &subject, &place));
    let plan = BackendPlan {
        name: BackendName::from(*name),
        priority: reader.get(view, &keys::PRIORITY),
        weight: reader.get(view, &keys::WEIGHT),
        max_connections: reader.get(view, &keys::BACKEND_MAX_CONNECTIONS),
        approach: Approach { send_proxy_protocol: reader.get(view, &keys::SEND_PROXY_PROTOCOL), ..Approach::PLAIN },
        check: check?,
        address: address?,
    };
    Some(BackendDraft { plan, place, lacks_command })
}

/// No two backends of a pool listen at the same address.
fn unique(reader: &mut Reader<'_>, label: &str, drafts: &[BackendDraft]) {
    let mut seen: BTreeMap<String, &BackendDraft> = BTreeMap::new();
    let mut by_place: Vec<&BackendDraft> = drafts.iter().collect();
    by_place.sort_by_key(|draft| draft.place.start);
    for draft in by_place {
        let address = match &draft.plan.address {
            Address::Unix(_) => draft.plan.address.to_string(),
            Address::Ip(_) | Address::Name { .. } => draft.plan.address.to_string().to_ascii_lowercase(),
        };
        match seen.get(&address) {
            Some(first) => reader.faults.wrong(
                draft.place.clone(),
                format!(
                    "{} is already the address of backend {} in [{label}]; each backend of a pool has its own",
                    quote(&address),
                    quote(first.plan.name.as_str())
                ),
            ),
            None => {
                seen.insert(address, draft);
            }
        }
    }
}
