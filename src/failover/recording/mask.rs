//! A plan without its secrets, in which what was equal is equal still.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::failover::event::Event;
use crate::model::{AgentCheck, Argument, BackendPlan, CheckKind, CommandCheck, HttpCheck, Plan, Secret};

/// The numbers that stand for secrets: from one, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Masks {
    numbers: BTreeMap<Secret, u64>,
}

impl Masks {
    /// `event` without the secrets of its plan.
    pub(super) fn event(&mut self, event: &Event) -> Event {
        match event {
            Event::PlanReplaced { plan, actor } => {
                Event::PlanReplaced { plan: Arc::new(self.plan(plan)), actor: actor.clone() }
            }
            Event::Tick
            | Event::ProbeFinished { .. }
            | Event::ProbesFinished { .. }
            | Event::DialFailed { .. }
            | Event::EndedEarly { .. }
            | Event::DataStalled { .. }
            | Event::WasStalled { .. }
            | Event::Watched { .. }
            | Event::Restored { .. }
            | Event::LineageKept { .. }
            | Event::Ordered { .. } => event.clone(),
        }
    }

    fn plan(&mut self, plan: &Plan) -> Plan {
        let mut plan = plan.clone();
        for pool in plan.pools.values_mut() {
            let pool = Arc::make_mut(pool);
            for backend in &mut pool.backends {
                self.backend(backend);
            }
            if let Some(postgres) = &mut pool.postgres {
                let postgres = Arc::make_mut(postgres);
                postgres.password = postgres.password.as_ref().map(|password| self.mask(password));
            }
        }
        plan
    }

    fn backend(&mut self, backend: &mut BackendPlan) {
        match &mut backend.check.kind {
            CheckKind::Tcp | CheckKind::Postgres | CheckKind::None => {}
            CheckKind::Http(HttpCheck { path, authorization, .. }) => {
                if let Some((before, query)) = path.split_once('?') {
                    *path = format!("{before}?{}", self.mask(&Secret::new(query)).expose());
                }
                *authorization = authorization.as_ref().map(|secret| self.mask(secret));
            }
            CheckKind::Agent(AgentCheck { send, .. }) => {
                if !send.is_empty() {
                    *send = self.mask(&Secret::new(send)).expose().to_owned();
                }
            }
            CheckKind::Command(CommandCheck { argv, .. }) => {
                // As it is written in Rust, since a list that is only joined could be equal to another.
                let words: Vec<&str> = argv.iter().map(Argument::expose).collect();
                let mask = self.mask(&Secret::new(&format!("{words:?}")));
                *argv = vec![Argument::Hidden(mask)];
            }
        }
    }

    /// What stands for `secret`.
    fn mask(&mut self, secret: &Secret) -> Secret {
        let next = u64::try_from(self.numbers.len()).unwrap_or(u64::MAX).saturating_add(1);
        Secret::mask(*self.numbers.entry(secret.clone()).or_insert(next))
    }
}
