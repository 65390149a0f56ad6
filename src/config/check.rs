//! `[pools.NAME.check]` and what single backends have different from it.

use std::ops::Range;

use crate::model::{
    AgentCheck, BackendName, CheckKind, CheckPlan, CommandCheck, ExpectCheck, HttpCheck, PoolKind, PoolName, spoken,
};

use super::command::{self, Subject, Template};
use super::key::Key;
use super::keys;
use super::read::Reader;
use super::value::{Given, Raw, Value, unknown_word};
use super::view::View;
use super::wording::quote;

/// What a probe asks, as the file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Tcp,
    Http,
    Expect,
    Tls,
    Agent,
    Command,
    Postgres,
    Nothing,
}

impl Ask {
    const ALL: [Self; 8] =
        [Self::Tcp, Self::Http, Self::Expect, Self::Tls, Self::Agent, Self::Command, Self::Postgres, Self::Nothing];

    const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Expect => "expect",
            Self::Tls => "tls",
            Self::Agent => "agent",
            Self::Command => "command",
            Self::Postgres => "postgres",
            Self::Nothing => "none",
        }
    }
}

impl Value for Ask {
    fn blank() -> Self {
        Self::Tcp
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let known = match &given.raw {
            Raw::Text(word) => Self::ALL.into_iter().find(|ask| ask.label() == word),
            Raw::Flag(_) | Raw::Integer(_) => None,
        };
        known.ok_or_else(|| unknown_word(given, key, keys::CHECKS))
    }
}

/// The keys that say nothing about a check that asks nothing.
const ABOUT_ASKING: &[&Key] =
    &[&keys::INTERVAL, &keys::TIMEOUT, &keys::MAX_LATENCY, &keys::RECOVERY_ATTEMPTS, &keys::RECOVERY_BACKOFF];

/// A check with the settings of all kinds, so that a backend can change single keys of it.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    ask: Ask,
    /// Of the pool; none if what stands there is wrong.
    pool: Option<PoolKind>,
    /// Where that stands, or would.
    place: Range<usize>,
    http: HttpCheck,
    agent: AgentCheck,
    expect: ExpectCheck,
    /// None if none is given; empty if what is given is wrong.
    command: Option<Vec<Template>>,
    plan: CheckPlan,
}

impl Draft {
    /// Where a command is asked for and none is given.
    pub(super) fn lacks_command(&self) -> Option<Range<usize>> {
        (self.ask == Ask::Command && self.command.is_none()).then(|| self.place.clone())
    }

    /// Where it is said what is asked, or would be.
    pub(super) fn place(&self) -> Range<usize> {
        self.place.clone()
    }

    /// The port that it asks at, if that is another one than the backend's.
    pub(super) fn own_port(&self) -> Option<u16> {
        let of_http = (self.ask == Ask::Http).then_some(self.http.port);
        let of_agent = (self.ask == Ask::Agent).then_some(self.agent.port);
        of_http.or(of_agent).filter(|port| *port != 0)
    }

    /// Whether it runs a program that is told where the backend is.
    pub(super) fn tells_address(&self) -> bool {
        self.ask == Ask::Command && self.command.iter().flatten().any(Template::wants_address)
    }

    /// The check of `subject`, whose address stands at `place`.
    pub(super) fn plan(self, reader: &mut Reader<'_>, subject: &Subject<'_>, place: &Range<usize>) -> CheckPlan {
        let kind = match self.ask {
            Ask::Tcp => CheckKind::Tcp,
            Ask::Http => CheckKind::Http(self.http),
            Ask::Expect => CheckKind::Expect(self.expect),
            Ask::Tls => CheckKind::Tls,
            Ask::Agent => CheckKind::Agent(self.agent),
            Ask::Command => {
                let words = self.command.unwrap_or_default();
                if subject.address.port().is_none() && words.iter().any(Template::wants_port) {
                    let name = quote(subject.backend);
                    let message = format!(
                        "backend {name} listens on a Unix socket, which has no {{port}} for its check's `command`; \
                         write {{address}} or {{host}} there, or give this backend a `command` of its own"
                    );
                    reader.faults.wrong(place.clone(), message);
                }
                CheckKind::Command(CommandCheck {
                    argv: words.iter().map(|word| word.fill(subject)).collect(),
                    pool: PoolName::from(subject.pool),
                    backend: BackendName::from(subject.backend),
                })
            }
            Ask::Postgres => CheckKind::Postgres,
            Ask::Nothing => CheckKind::None,
        };
        CheckPlan { kind, ..self.plan }
    }
}

/// What is asked if nothing is said. The one place that knows it: what is printed of a pool asks here too.
pub(super) fn preset_kind(kind: PoolKind) -> &'static str {
    preset(Some(kind)).label()
}

fn preset(kind: Option<PoolKind>) -> Ask {
    match kind {
        Some(PoolKind::Postgres) => Ask::Postgres,
        Some(PoolKind::Tcp) | None => Ask::preset(&keys::CHECK_KIND),
    }
}

/// `[pools.NAME.check]` of a pool of that kind; none if what stands there is wrong.
pub(super) fn of_pool(reader: &mut Reader<'_>, pool: &View<'_>, kind: Option<PoolKind>) -> Draft {
    let preset = Draft {
        ask: preset(kind),
        pool: kind,
        place: pool.place(&keys::CHECK),
        http: HttpCheck {
            method: Value::preset(&keys::METHOD),
            path: Value::preset(&keys::PATH),
            port: Value::preset(&keys::PORT),
            expect: Value::preset(&keys::EXPECT),
            authorization: None,
        },
        agent: AgentCheck { port: Value::preset(&keys::AGENT_PORT), send: Value::preset(&keys::SEND) },
        expect: ExpectCheck { send: Value::preset(&keys::EXPECT_SEND), answer: Value::preset(&keys::ANSWER) },
        command: None,
        plan: CheckPlan {
            kind: CheckKind::Tcp,
            interval: Value::preset(&keys::INTERVAL),
            timeout: Value::preset(&keys::TIMEOUT),
            unhealthy_threshold: Value::preset(&keys::UNHEALTHY_THRESHOLD),
            healthy_threshold: Value::preset(&keys::HEALTHY_THRESHOLD),
            recovery_interval: None,
            recovery_attempts: Value::preset(&keys::RECOVERY_ATTEMPTS),
            recovery_backoff: Value::preset(&keys::RECOVERY_BACKOFF),
            max_latency: None,
        },
    };
    let view = reader.table(pool, &keys::CHECK);
    read(reader, &view, &preset)
}

/// `check` of a backend, on top of its pool's.
pub(super) fn of_backend(reader: &mut Reader<'_>, backend: &View<'_>, base: &Draft) -> Draft {
    if backend.node(&keys::BACKEND_CHECK).is_none() {
        return base.clone();
    }
    let view = reader.table(backend, &keys::BACKEND_CHECK);
    read(reader, &view, base)
}

fn read(reader: &mut Reader<'_>, view: &View<'_>, base: &Draft) -> Draft {
    let Draft { http, agent, expect, plan, .. } = base;
    let given: Option<Ask> = reader.given(view, &keys::CHECK_KIND);
    let is_known = given.is_some() || view.node(&keys::CHECK_KIND).is_none();
    let ask = given.unwrap_or(base.ask);
    let http_table = reader.table(view, &keys::HTTP);
    let agent_table = reader.table(view, &keys::AGENT);
    let expect_table = reader.table(view, &keys::EXPECT_TABLE);
    let fits = refuse_foreign_kind(reader, view, base.pool, given);
    if is_known && fits {
        refuse_foreign_keys(reader, view, ask);
    }
    let draft = Draft {
        ask,
        pool: base.pool,
        place: if given.is_some() { view.place(&keys::CHECK_KIND) } else { base.place.clone() },
        http: HttpCheck {
            method: reader.given(&http_table, &keys::METHOD).unwrap_or_else(|| http.method.clone()),
            path: reader.given(&http_table, &keys::PATH).unwrap_or_else(|| http.path.clone()),
            port: reader.given(&http_table, &keys::PORT).unwrap_or(http.port),
            expect: reader.given(&http_table, &keys::EXPECT).unwrap_or_else(|| http.expect.clone()),
            authorization: reader.given(&http_table, &keys::AUTHORIZATION).or_else(|| http.authorization.clone()),
        },
        agent: AgentCheck {
            port: reader.given(&agent_table, &keys::AGENT_PORT).unwrap_or(agent.port),
            send: reader.given(&agent_table, &keys::SEND).unwrap_or_else(|| agent.send.clone()),
        },
        expect: ExpectCheck {
            send: reader.given(&expect_table, &keys::EXPECT_SEND).unwrap_or_else(|| expect.send.clone()),
            answer: reader.given(&expect_table, &keys::ANSWER).unwrap_or_else(|| expect.answer.clone()),
        },
        command: command::line(reader, view).or_else(|| base.command.clone()),
        plan: CheckPlan {
            kind: CheckKind::Tcp,
            interval: reader.given(view, &keys::INTERVAL).unwrap_or(plan.interval),
            timeout: reader.given(view, &keys::TIMEOUT).unwrap_or(plan.timeout),
            unhealthy_threshold: reader.given(view, &keys::UNHEALTHY_THRESHOLD).unwrap_or(plan.unhealthy_threshold),
            healthy_threshold: reader.given(view, &keys::HEALTHY_THRESHOLD).unwrap_or(plan.healthy_threshold),
            recovery_interval: reader.given(view, &keys::RECOVERY_INTERVAL).or(plan.recovery_interval),
            recovery_attempts: reader.given(view, &keys::RECOVERY_ATTEMPTS).unwrap_or(plan.recovery_attempts),
            recovery_backoff: reader.given(view, &keys::RECOVERY_BACKOFF).unwrap_or(plan.recovery_backoff),
            max_latency: reader.given(view, &keys::MAX_LATENCY).or(plan.max_latency),
        },
    };
    refuse_unreachable_latency(reader, view, &draft.plan);
    draft
}

/// Whether the kind that is given in `view`, if any, is one of those of its pool.
fn refuse_foreign_kind(reader: &mut Reader<'_>, view: &View<'_>, pool: Option<PoolKind>, given: Option<Ask>) -> bool {
    let message = match (pool, given) {
        (Some(PoolKind::Postgres), Some(ask)) if ask != Ask::Postgres => {
            let given = ask.label();
            format!(
                "`kind`: a postgres pool is checked by \"postgres\" alone, and \"{given}\" does not know which server is the \
                 primary; leave it out, or write kind = \"tcp\" for the pool"
            )
        }
        (Some(PoolKind::Postgres | PoolKind::Tcp) | None, _) => return true,
    };
    reader.faults.wrong(view.place(&keys::CHECK_KIND), message);
    false
}

/// What is given in `view` and is not for checks of this kind.
fn refuse_foreign_keys(reader: &mut Reader<'_>, view: &View<'_>, ask: Ask) {
    let of_a_kind = [
        (Ask::Http, &keys::HTTP),
        (Ask::Expect, &keys::EXPECT_TABLE),
        (Ask::Agent, &keys::AGENT),
        (Ask::Command, &keys::COMMAND),
    ];
    for (kind, key) in of_a_kind.into_iter().filter(|(kind, _)| *kind != ask) {
        let Some(node) = view.node(key) else { continue };
        let (is, wanted, label, name) = (ask.label(), kind.label(), &view.label, key.name);
        let message = format!(
            "[{label}.{name}] is given, but the check's kind is \"{is}\"; \
             write kind = \"{wanted}\" in [{label}], or leave `{name}` out"
        );
        reader.faults.wrong(node.span(), message);
    }
    if ask != Ask::Nothing {
        return;
    }
    for key in ABOUT_ASKING {
        let Some(node) = view.node(key) else { continue };
        let name = key.name;
        let message = format!("`{name}` is given, but the check's kind is \"none\", which asks nothing; leave it out");
        reader.faults.wrong(node.span(), message);
    }
}

/// An answer that takes as long as `timeout` is none, so it is never judged by `max_latency`.
fn refuse_unreachable_latency(reader: &mut Reader<'_>, view: &View<'_>, plan: &CheckPlan) {
    let changed = view.node(&keys::MAX_LATENCY).is_some() || view.node(&keys::TIMEOUT).is_some();
    if let Some(limit) = plan.max_latency.filter(|limit| changed && *limit >= plan.timeout) {
        let (timeout, key) = (plan.timeout, &keys::MAX_LATENCY);
        let message = format!(
            "`{}`: {} is no less than `timeout` ({}), after which there is no answer to judge; \
             write less, or leave it out",
            key.name,
            spoken(limit),
            spoken(timeout)
        );
        let place = if view.node(key).is_some() { key } else { &keys::TIMEOUT };
        reader.faults.wrong(view.place(place), message);
    }
}
