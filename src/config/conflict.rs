//! Addresses that get in each other's way: two that listen on the same one, and a pool that would
//! connect to its own listener or to the admin server.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;

use crate::model::{Address, BackendPlan, ListenerPlan};

use super::fault::Faults;
use super::listeners::{Bind, ListenerDraft};
use super::pools::PoolDraft;
use super::tunnel;

/// An address that is listened on, and by whom.
struct Claim<'a> {
    bind: &'a Bind,
    who: String,
}

/// The addresses of one port and one IP version.
#[derive(Default)]
struct Port {
    exact: HashMap<IpAddr, usize>,
    first: Option<usize>,
    wildcard: Option<usize>,
}

/// No address is listened on twice.
pub(super) fn binds(faults: &mut Faults, admin: &[Bind], listeners: &[ListenerDraft]) {
    let mut claims: Vec<Claim<'_>> = listeners
        .iter()
        .flat_map(|listener| {
            listener.binds.iter().map(|bind| Claim { bind, who: format!("[listeners.{}]", listener.plan.name) })
        })
        .chain(admin.iter().map(|bind| Claim { bind, who: "[admin]".to_owned() }))
        .collect();
    // The default of [admin] has no place of its own; the other side of the conflict is shown then.
    claims.sort_by_key(|claim| (claim.bind.place.start, claim.bind.place.end));
    let mut ports: HashMap<(u16, bool), Port> = HashMap::new();
    let mut paths: HashMap<&Path, usize> = HashMap::new();
    for (at, claim) in claims.iter().enumerate() {
        let other = match &claim.bind.address {
            Address::Ip(addr) if addr.port() != 0 => claim_port(&mut ports, *addr, at),
            Address::Unix(path) => paths.insert(path, at),
            Address::Ip(_) | Address::Name { .. } => None,
        };
        if let Some(other) = other.and_then(|other| claims.get(other)) {
            let (mine, theirs) = (&claim.bind.address, &other.bind.address);
            let clash = if mine == theirs {
                format!("{} listens on {theirs} already", other.who)
            } else {
                format!("{} listens on {theirs} already, which takes in {mine} or is part of it", other.who)
            };
            faults.wrong(
                claim.bind.place.clone(),
                format!("`bind` of {}: {clash}; give each listener an address of its own", claim.who),
            );
        }
    }
}

/// Notes that claim number `at` is on `addr`; answers with the number of an earlier one in its way.
fn claim_port(ports: &mut HashMap<(u16, bool), Port>, addr: SocketAddr, at: usize) -> Option<usize> {
    let ip = addr.ip().to_canonical();
    let port = ports.entry((addr.port(), ip.is_ipv4())).or_default();
    let other = match port.exact.get(&ip) {
        Some(same) => Some(*same),
        None if ip.is_unspecified() => port.first,
        None => port.wildcard,
    };
    port.exact.entry(ip).or_insert(at);
    port.first.get_or_insert(at);
    if ip.is_unspecified() {
        port.wildcard.get_or_insert(at);
    }
    other
}

/// The backends of a pool that are dialled at their address, with its place: what is at the far side of a tunnel is not here.
fn dialled(pool: &PoolDraft) -> impl Iterator<Item = (&BackendPlan, &Range<usize>)> {
    pool.plan.backends.iter().zip(&pool.places).filter(|(backend, _)| tunnel::is_dialled(backend))
}

/// No pool connects to a listener that it serves.
pub(super) fn loops<'a>(
    faults: &mut Faults,
    listeners: impl Iterator<Item = &'a ListenerPlan> + Clone,
    pools: impl Iterator<Item = &'a PoolDraft>,
) {
    for pool in pools {
        let serving: Vec<&ListenerPlan> =
            listeners.clone().filter(|listener| listener.pool == pool.plan.name).collect();
        for (backend, place) in dialled(pool) {
            let own = serving.iter().find(|listener| listener.bind.iter().any(|bind| backend.address.reaches(bind)));
            if let Some(listener) = own {
                faults.wrong(
                    place.clone(),
                    format!(
                        "backend `{}` is at {}, where [listeners.{}] itself listens: it would connect to itself; \
                         write the address of the real backend",
                        backend.name, backend.address, listener.name
                    ),
                );
            }
        }
    }
}

/// No pool connects to the admin server: whoever comes to a listener would come to it as if of this host.
pub(super) fn doors<'a>(faults: &mut Faults, admin: &[Address], pools: impl Iterator<Item = &'a PoolDraft>) {
    for pool in pools {
        for (backend, place) in dialled(pool) {
            if let Some(message) = door(&backend.address, admin) {
                faults.wrong(place.clone(), format!("backend `{}` is at {message}", backend.name));
            }
        }
    }
}

/// What is wrong with a backend at `address` if that leads to the admin server at `admin`.
pub(super) fn door(address: &Address, admin: &[Address]) -> Option<String> {
    let bind = admin.iter().find(|bind| address.reaches(bind))?;
    Some(format!(
        "{address}, where [admin] itself listens ({bind}): clients would come to it as if they were of this host; \
         write the address of the real backend"
    ))
}
