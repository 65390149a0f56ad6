//! The table that follows from what the pools have decided, and what has to happen before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{BackendId, PoolName};

use super::controller::Controller;
use super::event::Command;
use super::table::RouteTable;

impl Controller {
    /// Publishes the routes of these pools, if they are not what is published; of those among `waiting`, the routes before
    /// their fences.
    pub(super) fn publish(&mut self, names: &BTreeSet<PoolName>, waiting: &BTreeSet<PoolName>, out: &mut Vec<Command>) {
        let mut pools = None;
        for name in names {
            let published = self.table.pools.get(name);
            let pool = self.pools.get_mut(name);
            let routes = pool.as_deref().map(|pool| match waiting.contains(name) {
                true => pool.routes_before_fences(),
                false => pool.routes(),
            });
            if routes.as_ref() == published.map(Arc::as_ref) {
                continue;
            }
            let pools = pools.get_or_insert_with(|| self.table.pools.clone());
            if let Some((pool, mut routes)) = pool.zip(routes) {
                pool.note_routes(&routes);
                routes.lay_out(published.map(Arc::as_ref));
                pools.insert(name.clone(), Arc::new(routes));
            } else {
                pools.remove(name);
            }
        }
        if let Some(pools) = pools {
            self.table = Arc::new(RouteTable { generation: self.table.generation.next(), pools });
            out.push(Command::PublishTable(Arc::clone(&self.table)));
        }
    }

    /// Whether the write target of a cluster may only be published when these fences have returned: others of its servers
    /// may have sessions that write until then.
    pub(super) fn must_fence_first(&self, name: &PoolName, fences: &[Command]) -> bool {
        let Some(pool) = self.pools.get(name).filter(|pool| pool.cluster.is_some()) else { return false };
        let of_its_own = |fence: &Command| match fence {
            Command::FenceSessions { backend, .. } => {
                self.homes.get(backend).is_none_or(|home| home == name).then_some(*backend)
            }
            Command::StartProbe { .. }
            | Command::StopProbe { .. }
            | Command::StartWatch { .. }
            | Command::StopWatch { .. }
            | Command::Knock { .. }
            | Command::KeepLineage { .. }
            | Command::StartTunnel { .. }
            | Command::StopTunnel { .. }
            | Command::PublishTable(_)
            | Command::Report(_) => None,
        };
        let fenced: BTreeSet<BackendId> = fences.iter().filter_map(of_its_own).collect();
        // Most turns fence nobody: then the routes need not be built for this.
        if fenced.is_empty() {
            return false;
        }
        let Some((target, _)) = pool.routes().write_route() else { return false };
        let is_led_there = self.table.pools.get(name).is_some_and(|published| published.is_write_route(target));
        !is_led_there && fenced.iter().any(|backend| *backend != target)
    }
}
