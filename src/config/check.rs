//! `[pools.NAME.check]` and what single backends have different from it.

use std::time::Duration;

use crate::model::{CheckKind, CheckPlan, HttpCheck};

use super::key::Key;
use super::keys;
use super::read::Reader;
use super::value::{Given, Raw, Value, unknown_word};
use super::view::View;

/// What a probe asks, as the file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Tcp,
    Http,
}

impl Value for Ask {
    fn blank() -> Self {
        Self::Tcp
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        match &given.raw {
            Raw::Text(word) if word == "tcp" => Ok(Self::Tcp),
            Raw::Text(word) if word == "http" => Ok(Self::Http),
            Raw::Text(_) | Raw::Flag(_) | Raw::Integer(_) => Err(unknown_word(given, key, keys::CHECKS)),
        }
    }
}

/// A check with the settings of both kinds, so that a backend can change single keys of it.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    ask: Ask,
    http: HttpCheck,
    plan: CheckPlan,
}

impl Draft {
    /// The check that the file describes.
    pub(super) fn plan(self) -> CheckPlan {
        let kind = match self.ask {
            Ask::Tcp => CheckKind::Tcp,
            Ask::Http => CheckKind::Http(self.http),
        };
        CheckPlan { kind, ..self.plan }
    }
}

/// `[pools.NAME.check]`.
pub(super) fn of_pool(reader: &mut Reader<'_>, pool: &View<'_>) -> Draft {
    let preset = Draft {
        ask: Ask::preset(&keys::CHECK_KIND),
        http: HttpCheck {
            method: Value::preset(&keys::METHOD),
            path: Value::preset(&keys::PATH),
            port: Value::preset(&keys::PORT),
            expect: Value::preset(&keys::EXPECT),
            authorization: None,
        },
        plan: CheckPlan {
            kind: CheckKind::Tcp,
            interval: Value::preset(&keys::INTERVAL),
            timeout: Value::preset(&keys::TIMEOUT),
            unhealthy_threshold: Value::preset(&keys::UNHEALTHY_THRESHOLD),
            healthy_threshold: Value::preset(&keys::HEALTHY_THRESHOLD),
            recovery_interval: None,
            recovery_attempts: 0,
            recovery_backoff: Duration::from_secs(5),
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
    let Draft { ask, http, plan } = base;
    let given: Option<Ask> = reader.given(view, &keys::CHECK_KIND);
    let is_known = given.is_some() || view.node(&keys::CHECK_KIND).is_none();
    let ask = given.unwrap_or(*ask);
    let table = reader.table(view, &keys::HTTP);
    if let (Ask::Tcp, true, Some(node)) = (ask, is_known, view.node(&keys::HTTP)) {
        reader.faults.wrong(
            node.span(),
            format!(
                "[{}] is given, but the check's kind is \"tcp\"; write kind = \"http\" in [{}], or leave `http` out",
                table.label, view.label
            ),
        );
    }
    Draft {
        ask,
        http: HttpCheck {
            method: reader.given(&table, &keys::METHOD).unwrap_or_else(|| http.method.clone()),
            path: reader.given(&table, &keys::PATH).unwrap_or_else(|| http.path.clone()),
            port: reader.given(&table, &keys::PORT).unwrap_or(http.port),
            expect: reader.given(&table, &keys::EXPECT).unwrap_or_else(|| http.expect.clone()),
            authorization: reader.given(&table, &keys::AUTHORIZATION).or_else(|| http.authorization.clone()),
        },
        plan: CheckPlan {
            kind: CheckKind::Tcp,
            interval: reader.given(view, &keys::INTERVAL).unwrap_or(plan.interval),
            timeout: reader.given(view, &keys::TIMEOUT).unwrap_or(plan.timeout),
            unhealthy_threshold: reader.given(view, &keys::UNHEALTHY_THRESHOLD).unwrap_or(plan.unhealthy_threshold),
            healthy_threshold: reader.given(view, &keys::HEALTHY_THRESHOLD).unwrap_or(plan.healthy_threshold),
            recovery_interval: reader.given(view, &keys::RECOVERY_INTERVAL).or(plan.recovery_interval),
            recovery_attempts: plan.recovery_attempts,
            recovery_backoff: plan.recovery_backoff,
            max_latency: plan.max_latency,
        },
    }
}
