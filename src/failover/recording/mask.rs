//! A plan without its secrets, in which what was equal is equal still.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::failover::event::Event;
use crate::model::{
    AgentCheck, Argument, BackendPlan, CheckKind, CommandCheck, ExpectCheck, HttpCheck, LookupSource, Part, Plan,
    ProgramPlan, Secret, Text, TunnelPlan,
};

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
            | Event::Tunnel { .. }
            | Event::TunnelMoved { .. }
            | Event::WorldChanged { .. }
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
        if let Some(tunnel) = &mut backend.tunnel {
            self.tunnel(Arc::make_mut(tunnel));
        }
        match &mut backend.check.kind {
            CheckKind::Tcp | CheckKind::Tls | CheckKind::Postgres | CheckKind::None => {}
            CheckKind::Http(request) => self.request(request),
            CheckKind::Agent(AgentCheck { send, .. }) => self.text(send),
            CheckKind::Expect(ExpectCheck { send, answer }) => {
                self.text(send);
                self.text(answer);
            }
            CheckKind::Command(CommandCheck { argv, .. }) => {
                // As it is written in Rust, since a list that is only joined could be equal to another.
                let words: Vec<&str> = argv.iter().map(Argument::expose).collect();
                let mask = self.mask(&Secret::new(&format!("{words:?}")));
                *argv = vec![Argument::Hidden(mask)];
            }
        }
    }

    /// A text that may be a secret. An empty one is none.
    fn text(&mut self, text: &mut String) {
        if !text.is_empty() {
            *text = self.mask(&Secret::new(text)).expose().to_owned();
        }
    }

    fn request(&mut self, HttpCheck { path, authorization, .. }: &mut HttpCheck) {
        if let Some((before, query)) = path.split_once('?') {
            *path = format!("{before}?{}", self.mask(&Secret::new(query)).expose());
        }
        *authorization = authorization.as_ref().map(|secret| self.mask(secret));
    }

    fn tunnel(&mut self, tunnel: &mut TunnelPlan) {
        tunnel.program = tunnel.program.as_ref().map(|program| self.program(program));
        match tunnel.lookup.as_mut().map(|lookup| &mut lookup.source) {
            Some(LookupSource::Command(program)) => *program = self.program(program),
            Some(LookupSource::Http { request, .. }) => self.request(request),
            None => {}
        }
    }

    /// One that is equal to another one's if the programs are.
    fn program(&mut self, program: &ProgramPlan) -> Arc<ProgramPlan> {
        fn word(part: &Part) -> (&'static str, &str) {
            match part {
                Part::Shown(shown) => ("shown", shown),
                Part::Hidden(secret) => ("hidden", secret.expose()),
                Part::LocalPort => ("local_port", ""),
                Part::File => ("file", ""),
            }
        }
        let words = |text: &Text| format!("{:?}", text.0.iter().map(word).collect::<Vec<_>>());
        let ProgramPlan { argv, env, file } = program;
        let argv: Vec<String> = argv.iter().map(words).collect();
        let env: Vec<(_, String)> = env.iter().map(|(name, text)| (name, words(text))).collect();
        // As it is written in Rust, since a list that is only joined could be equal to another.
        let all = Secret::new(&format!("{argv:?} {env:?} {:?}", file.as_ref().map(words)));
        let mask = Text(vec![Part::Hidden(self.mask(&all))]);
        Arc::new(ProgramPlan { argv: vec![mask], env: Vec::new(), file: None })
    }

    /// What stands for `secret`.
    fn mask(&mut self, secret: &Secret) -> Secret {
        let next = u64::try_from(self.numbers.len()).unwrap_or(u64::MAX).saturating_add(1);
        Secret::mask(*self.numbers.entry(secret.clone()).or_insert(next))
    }
}
