//! Which servers are watched, and how: each server of each cluster, by one watch.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{BackendId, BackendPlan, MonoTime, PostgresPlan, WatchSpec};

use super::controller::{Controller, Turn};
use super::event::Command;
use super::pool::Pool;
use super::server::Server;

impl Controller {
    /// Those that are watched now.
    pub(super) fn watched_servers(&self) -> BTreeSet<BackendId> {
        let members = self.pools.values().flat_map(Pool::members);
        members.filter(|member| member.server.is_some()).map(|member| member.id).collect()
    }

    /// Has every server watched as the plan says; `before` it, these were. One that is watched in another way keeps what is
    /// known of it.
    pub(super) fn rewatch(
        &mut self,
        now: MonoTime,
        before: &BTreeSet<BackendId>,
        turn: &mut Turn,
        out: &mut Vec<Command>,
    ) {
        let mut last = self.last_watch;
        for pool in self.pools.values_mut() {
            let Some(postgres) = pool.plan.postgres.clone() else { continue };
            for member in &mut pool.members {
                let spec = Arc::new(spec(&member.plan, &postgres));
                if member.server.as_ref().is_some_and(|server| server.spec == spec) {
                    continue;
                }
                last = last.next();
                // Whoever cannot be asked yet may be the newer primary all the same.
                let way = member.tunnel.as_ref().map(|tunnel| tunnel.plan.ready_timeout);
                match &mut member.server {
                    Some(server) => (server.watch, server.spec) = (last, Arc::clone(&spec)),
                    None => member.server = Some(Server::new(now, last, Arc::clone(&spec), way.unwrap_or_default())),
                }
                member.settle(now);
                turn.watches.push(Command::StartWatch { backend: member.id, watch: last, spec });
            }
        }
        self.last_watch = last;
        let after = self.watched_servers();
        out.extend(before.difference(&after).map(|&backend| Command::StopWatch { backend }));
    }
}

fn spec(plan: &BackendPlan, postgres: &Arc<PostgresPlan>) -> WatchSpec {
    WatchSpec {
        address: plan.address.clone(),
        approach: plan.approach.clone(),
        timeout: plan.check.timeout,
        postgres: Arc::clone(postgres),
    }
}
