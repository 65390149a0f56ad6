//! `[pools.NAME]`: what clients are connected to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeArray, DeValue};

use crate::model::{
    Address, Approach, BackendName, BackendPlan, DialPlan, FailoverPlan, HoldPlan, PoolKind, PoolName, PoolPlan,
    SessionPolicies,
};

use super::check::{self, Draft};
use super::command::Subject;
use super::key::Part;
use super::keys;
use super::postgres;
use super::read::Reader;
use super::tunnel;
use super::value::Value;
use super::view::{Named, View};
use super::wording::quote;

/// The most pools in a file.
const POOLS_MAX: usize = 1000;
/// The most backends in a pool.
pub(super) const BACKENDS_MAX: usize = 20_000;

/// A pool and where its backends' addresses stand in the file.
pub(super) struct PoolDraft {
    /// The pool.
    pub(super) plan: PoolPlan,
    /// Whether its kind is known; if not, what goes with it is not judged.
    pub(super) is_of_known_kind: bool,
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

/// One pool.
pub(super) fn pool(reader: &mut Reader<'_>, name: &str, view: &View<'_>) -> PoolDraft {
    let given: Option<PoolKind> = reader.given(view, &keys::POOL_KIND);
    let kind = given.unwrap_or_else(|| PoolKind::preset(&keys::POOL_KIND));
    let is_of_known_kind = given.is_some() || view.node(&keys::POOL_KIND).is_none();
    let known = is_of_known_kind.then_some(kind);
    let check = check::of_pool(reader, view, known);
    let postgres = postgres::plan(reader, view, known);
    let mut drafts = backends(reader, name, view, &check);
    unique(reader, &view.label, known, &drafts);
    dial_from(reader, view, &mut drafts);
    demand_commands(reader, &drafts);
    drafts.sort_by(|a, b| a.plan.name.cmp(&b.plan.name));
    let (backends, places) = drafts.into_iter().map(|draft| (draft.plan, draft.place)).unzip();
    let plan = PoolPlan {
        name: PoolName::from(name),
        kind,
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
        postgres,
        backends,
    };
    PoolDraft { plan, is_of_known_kind, places }
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
    // What is on loopback, or is no socket at all, is not dialled from anywhere else.
    for draft in drafts.iter_mut().filter(|draft| tunnel::is_by_address(&draft.plan)) {
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
            demoted: reader.get(&sessions, &keys::DEMOTED),
            lagging: reader.get(&sessions, &keys::LAGGING),
            check_failed: reader.get(&sessions, &keys::CHECK_FAILED),
            drained: reader.get(&sessions, &keys::DRAINED),
            failed_back: reader.get(&sessions, &keys::FAILED_BACK),
        },
    }
}

fn backends(reader: &mut Reader<'_>, name: &str, pool: &View<'_>, check: &Draft) -> Vec<BackendDraft> {
    reader.demand(pool, &keys::BACKENDS);
    // The file's form decides, a list or tables; what was set at run time is tables.
    let (below, above) = pool.nodes(&keys::BACKENDS);
    let Some(node) = below.or(above) else { return Vec::new() };
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
    match node.get_ref().as_array() {
        Some(list) => listed(reader, name, pool, list, check),
        None => {
            let named = reader.tables(pool, &keys::BACKENDS, Part::Backend, BACKENDS_MAX);
            named.into_iter().filter_map(|entry| long(reader, name, &entry, check)).collect()
        }
    }
}

/// The backends of a list, and those that were registered beside them.
fn listed(
    reader: &mut Reader<'_>,
    name: &str,
    pool: &View<'_>,
    list: &DeArray<'_>,
    check: &Draft,
) -> Vec<BackendDraft> {
    let above = reader.tables_above(pool, &keys::BACKENDS, Part::Backend, BACKENDS_MAX);
    let mut above: BTreeMap<&str, Named<'_>> = above.into_iter().map(|entry| (entry.name, entry)).collect();
    if list.len() > BACKENDS_MAX {
        let message = format!("[{}] has {} backends; {BACKENDS_MAX} is the most", pool.label, list.len());
        reader.faults.wrong(pool.place(&keys::BACKENDS), message);
        return Vec::new();
    }
    let mut drafts: Vec<BackendDraft> = Vec::with_capacity(list.len() + above.len());
    for (at, node) in (1..).zip(list.iter()) {
        let Some((short, address)) = short(reader, node) else { continue };
        let patched = above.remove(short.as_str()).map(|entry| entry.view);
        let view = patched.unwrap_or_else(|| View::absent(Part::Backend, node.span()));
        let priority = reader.given(&view, &keys::PRIORITY).unwrap_or(at);
        let found =
            Found { pool: name, name: &short, address: Some(address), tunnel: None, priority, place: node.span() };
        drafts.extend(backend(reader, found, &view, check));
    }
    for entry in above.into_values() {
        reader.check_name(&pool.label, &keys::BACKENDS, &entry);
        drafts.extend(long(reader, name, &entry, check));
    }
    drafts
}

/// Name and address of one of a list: it is named by its address, and preferred by its place.
fn short(reader: &mut Reader<'_>, node: &Spanned<DeValue<'_>>) -> Option<(String, Address)> {
    let address: Address = reader.convert(node, &keys::BACKENDS)?;
    // As typed here; one that was looked up elsewhere was not typed, and is named as it prints.
    let name = node.get_ref().as_str().map_or_else(|| address.to_string(), str::to_owned);
    Some((name, address))
}

/// One with a table of its own.
fn long(reader: &mut Reader<'_>, pool: &str, entry: &Named<'_>, check: &Draft) -> Option<BackendDraft> {
    let Named { name, view, .. } = entry;
    let priority = reader.get(view, &keys::PRIORITY);
    let found = match tunnel::of_backend(reader, pool, name, view) {
        Some(mut tunnel) => {
            let (address, place) = (tunnel.address.take(), tunnel.place.clone());
            Found { pool, name, address, tunnel: Some(tunnel), priority, place }
        }
        None => {
            let address = reader.required(view, &keys::ADDRESS);
            Found { pool, name, address, tunnel: None, priority, place: view.place(&keys::ADDRESS) }
        }
    };
    backend(reader, found, view, check)
}

/// What tells one backend from the others.
struct Found<'a> {
    pool: &'a str,
    name: &'a str,
    /// None if it has none, or one that is wrong: its other keys are read for what is wrong with them.
    address: Option<Address>,
    tunnel: Option<tunnel::Draft>,
    priority: u32,
    /// Where its address stands.
    place: Range<usize>,
}

fn backend(reader: &mut Reader<'_>, found: Found<'_>, view: &View<'_>, check: &Draft) -> Option<BackendDraft> {
    let Found { pool, name, address, tunnel, priority, place } = found;
    let check = check::of_backend(reader, view, check);
    let lacks_command = check.lacks_command();
    if let Some(tunnel) = &tunnel {
        tunnel.refuse_check(reader, view, &check);
    }
    let known = address.as_ref().map(|address| Subject { pool, backend: name, address });
    let check = known.map(|subject| check.plan(reader, &subject, &place));
    let tunnel = tunnel.zip(check.as_ref()).and_then(|(tunnel, check)| tunnel.finish(check)).map(Arc::new);
    let via = tunnel.as_ref().map(|tunnel| tunnel.via.clone());
    let weight = reader.get(view, &keys::WEIGHT);
    let max_connections = reader.get(view, &keys::BACKEND_MAX_CONNECTIONS);
    let send_proxy_protocol = reader.get(view, &keys::SEND_PROXY_PROTOCOL);
    let plan = BackendPlan {
        name: BackendName::from(name),
        address: address?,
        priority,
        weight,
        max_connections,
        check: check?,
        approach: Approach { send_proxy_protocol, via, ..Approach::PLAIN },
        tunnel,
    };
    Some(BackendDraft { plan, place, lacks_command })
}

/// What two addresses of one place have in common: host names are the same in any case.
pub(super) fn same_place(address: &Address) -> String {
    match address {
        Address::Unix(_) => address.to_string(),
        Address::Ip(_) | Address::Name { .. } => address.to_string().to_ascii_lowercase(),
    }
}

/// The same of where a backend is dialled; none if that is not known, because a tunnel leads there: each of two may lead to
/// another of what is called alike at their far sides, or both to one.
pub(super) fn place_of(backend: &BackendPlan) -> Option<String> {
    tunnel::is_dialled(backend).then(|| same_place(&backend.address))
}

/// No two backends of a pool listen at the same address, and none of a cluster is there twice.
fn unique(reader: &mut Reader<'_>, label: &str, kind: Option<PoolKind>, drafts: &[BackendDraft]) {
    let mut seen: BTreeMap<String, &BackendDraft> = BTreeMap::new();
    let mut by_place: Vec<&BackendDraft> = drafts.iter().collect();
    by_place.sort_by_key(|draft| draft.place.start);
    for draft in by_place {
        let Some(address) = place_of(&draft.plan) else { continue };
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
    if kind == Some(PoolKind::Postgres) {
        refuse_two_ways(reader, label, drafts);
    }
}

/// Two ways to one server of a cluster would look like two servers that are both the primary.
fn refuse_two_ways(reader: &mut Reader<'_>, label: &str, drafts: &[BackendDraft]) {
    let mut seen: BTreeMap<String, &BackendDraft> = BTreeMap::new();
    // What a server calls its own loopback is another one behind each tunnel.
    for draft in drafts.iter().filter(|draft| !tunnel::is_far_loopback(&draft.plan)) {
        let Some(first) = seen.insert(same_place(&draft.plan.address), draft) else { continue };
        let behind = [first, draft].into_iter().find(|draft| !tunnel::is_dialled(&draft.plan));
        let Some(behind) = behind else { continue };
        let (one, other) = (quote(first.plan.name.as_str()), quote(draft.plan.name.as_str()));
        let message = format!(
            "backends {one} and {other} of [{label}] are two ways to {}, and a postgres pool would take them for two servers, both \
             of them primary; write kind = \"tcp\" for the pool, and kind = \"postgres\" for its check",
            draft.plan.address
        );
        reader.faults.wrong(behind.place.clone(), message);
    }
}
