//! What the core was told and what it decided, in words.

use std::time::Duration;

use serde_json::Value;

use crate::failover::recording::{Decision, Replay, Share};
use crate::failover::{Event, Lineage, Sessions};
use crate::model::{
    BackendId, BackendName, Epoch, PoolName, ProbeId, ProbeOutcome, ServerFacts, TargetId, TunnelNews, WatchNews,
};

/// Names written out in one line at most; the rest is counted.
const NAMES_SHOWN: usize = 5;

/// Who is meant by numbers.
pub(super) trait Names {
    /// The pool of a backend, and its name.
    fn backend(&self, id: BackendId) -> Option<(String, String)>;
    /// The backends behind a target.
    fn target(&self, id: TargetId) -> Vec<BackendId>;
}

impl Names for Replay {
    fn backend(&self, id: BackendId) -> Option<(String, String)> {
        self.name(id).map(|(pool, name)| (pool.to_string(), name.to_string()))
    }

    fn target(&self, id: TargetId) -> Vec<BackendId> {
        self.subscribers(id).to_vec()
    }
}

fn backend(id: BackendId, names: &dyn Names) -> String {
    names.backend(id).map_or_else(|| format!("backend {id}"), |(pool, name)| format!("{pool}/{name}"))
}

fn list(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 if shown.is_empty() => "nothing".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn target(id: TargetId, names: &dyn Names) -> String {
    let backends: Vec<String> = names.target(id).into_iter().map(|id| backend(id, names)).collect();
    if backends.is_empty() { format!("target {id}") } else { list(&backends) }
}

/// Whether it is more than a question that is put, or no longer put.
pub(super) const fn is_news(decision: &Decision) -> bool {
    match decision {
        Decision::Ask(..) | Decision::Stop(_) | Decision::Watch(..) | Decision::Knock(_) | Decision::Unwatch(_) => {
            false
        }
        Decision::Open(..) | Decision::Close(_) => true,
        Decision::Publish { .. } | Decision::Fence { .. } | Decision::Keep { .. } | Decision::Report { .. } => true,
    }
}

/// Whether it is about this pool, or about all.
pub(super) fn concerns(decision: &Decision, pool: &PoolName, names: &dyn Names) -> bool {
    match decision {
        Decision::Ask(..) | Decision::Stop(_) => false,
        Decision::Watch(of, _)
        | Decision::Knock(of)
        | Decision::Unwatch(of)
        | Decision::Open(of, _)
        | Decision::Close(of) => names.backend(*of).is_some_and(|(of, _)| of == pool.as_str()),
        Decision::Publish { pools, .. } => pools.contains_key(pool),
        Decision::Fence { backend, .. } => names.backend(*backend).is_some_and(|(of, _)| of == pool.as_str()),
        Decision::Keep { pool: of, .. } => of == pool,
        Decision::Report { pool: of, .. } => of.as_ref().is_none_or(|of| of == pool),
    }
}

/// The evidence, in a line.
pub(super) fn event(event: &Event, names: &dyn Names) -> String {
    match event {
        Event::Tick => "time passed".to_owned(),
        Event::ProbeFinished { target: of, probe, outcome } => probe_answer(*of, *probe, outcome, names),
        Event::ProbesFinished { answers } => {
            let told = answers.iter().map(|(of, probe, outcome)| probe_answer(*of, *probe, outcome, names));
            let shown = told.take(NAMES_SHOWN).collect::<Vec<_>>().join("; ");
            match answers.len().saturating_sub(NAMES_SHOWN) {
                0 => shown,
                more => format!("{shown}; and {more} more answers"),
            }
        }
        Event::DialFailed { backend: of, error, .. } => {
            format!("a client could not connect to {}: {error}", backend(*of, names))
        }
        Event::EndedEarly { backend: of, sessions, answered, .. } => {
            let meanwhile = if *answered { ", and it has answered others" } else { "" };
            format!("{sessions} sessions of {} ended badly right after they had begun{meanwhile}", backend(*of, names))
        }
        Event::DataStalled { backend: of, silent, .. } => {
            format!("{} has not acknowledged what was sent for {silent:.1?}", backend(*of, names))
        }
        Event::Watched { backend: of, news, .. } => format!("the monitor of {}: {}", backend(*of, names), heard(news)),
        Event::Tunnel { backend: of, run, news } => {
            format!("run {run} of the tunnel of {}: {}", backend(*of, names), tunnel(news))
        }
        Event::TunnelMoved { backend: of, moved } => {
            format!("sessions of {} have moved {moved} bytes by now", backend(*of, names))
        }
        Event::WorldChanged { what } => format!("the network has changed, or the machine was asleep: {what}"),
        Event::WasStalled { since } => format!("the daemon itself did not run since {since:?}"),
        Event::Ordered { actor, order } => {
            let words = serde_json::to_value(order).map_or_else(|_| format!("{order:?}"), |order| spoken(&order));
            format!("{actor} ordered: {words}")
        }
        Event::Restored { pools } => {
            let pools: Vec<String> = pools.keys().map(PoolName::to_string).collect();
            format!("what an earlier process remembered is given back, of pools {}", list(&pools))
        }
        Event::LineageKept { pool, lineage } => {
            format!("{} is on disk as the primary of {pool}, or waits for it no longer", line(lineage))
        }
        Event::PlanReplaced { plan, actor } => {
            let pools: Vec<String> = plan.pools.keys().map(PoolName::to_string).collect();
            format!("{actor} put a configuration in force; its pools: {}", list(&pools))
        }
    }
}

fn probe_answer(of: TargetId, probe: ProbeId, outcome: &ProbeOutcome, names: &dyn Names) -> String {
    format!("probe {probe} of {}: {}", target(of, names), answer(outcome))
}

fn answer(outcome: &ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Passed { latency, .. } => format!("passed in {}", millis(*latency)),
        ProbeOutcome::Failed { error, detail } => format!("failed ({}): {detail}", error.label()),
        ProbeOutcome::Inconclusive { detail, .. } => format!("no evidence: {detail}"),
    }
}

fn tunnel(news: &TunnelNews) -> String {
    match news {
        TunnelNews::Started { pid } => format!("its program runs as process {pid}"),
        TunnelNews::Open => "it is open".to_owned(),
        TunnelNews::Fatal { line } => format!("its program says that it will never work: {line}"),
        TunnelNews::Lost { detail } => format!("its program has ended by itself: {detail}"),
        TunnelNews::Ended { how, detail } => format!("it has ended ({how}): {detail}"),
    }
}

fn heard(news: &WatchNews) -> String {
    let facts = |facts: &ServerFacts| {
        let known =
            |name: &str, value: Option<String>| value.map_or_else(String::new, |value| format!(", {name} {value}"));
        let (timeline, written) = (facts.timeline.map(|of| of.to_string()), facts.written.map(|at| at.to_string()));
        format!("{}{}{}", facts.role, known("timeline", timeline), known("at", written))
    };
    match news {
        WatchNews::Opened(of) => format!("a session is open: {}", facts(of)),
        WatchNews::Seen(of) => facts(of),
        WatchNews::Late { waited, slowest } => {
            format!("no heartbeat for {}, the slowest of late took {}", millis(*waited), millis(*slowest))
        }
        WatchNews::OnTime { took } => format!("a heartbeat after {}", millis(*took)),
        WatchNews::Ended { end, detail } => format!("the session ended ({end}): {detail}"),
        WatchNews::TurnedAway { detail } => format!("another session was turned away: {detail}"),
        WatchNews::LetIn => "another session was not turned away".to_owned(),
        WatchNews::Failed { error, detail } => format!("no session ({}): {detail}", error.label()),
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1}ms", time.as_secs_f64() * 1000.0)
}

/// `{"verb_of_it":{"key":"value"}}` as `verb of it, key value`.
fn spoken(order: &Value) -> String {
    let Some((verb, keys)) = order.as_object().and_then(|order| order.iter().next()) else { return order.to_string() };
    let keys = keys.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let said = keys.map(|(key, value)| match value {
        Value::String(text) => format!(", {key} {text}"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            format!(", {key} {value}")
        }
    });
    format!("{}{}", verb.replace('_', " "), said.collect::<String>())
}

/// A decision, in a line.
pub(super) fn decision(decision: &Decision, names: &dyn Names) -> String {
    match decision {
        Decision::Ask(of, probe) => format!("probe {probe} of {} begins", target(*of, names)),
        Decision::Stop(of) => format!("{} is probed no more", target(*of, names)),
        Decision::Publish { generation, pools } => {
            let pools: Vec<String> = pools.iter().map(|(pool, share)| share_of(pool, share.as_ref())).collect();
            format!("table {generation}: {}", pools.join("; "))
        }
        Decision::Watch(of, watch) => format!("watch {watch} of {} begins", backend(*of, names)),
        Decision::Knock(of) => format!("another session to {} is tried", backend(*of, names)),
        Decision::Unwatch(of) => format!("{} is watched no more", backend(*of, names)),
        Decision::Open(of, run) => format!("run {run} of the tunnel of {} begins", backend(*of, names)),
        Decision::Close(of) => format!("the tunnel of {} is stopped", backend(*of, names)),
        Decision::Fence { backend: of, epoch, reason, which } => {
            let which = match which {
                Sessions::All => "sessions",
                Sessions::Opening => "sessions that have not begun",
            };
            format!("{which} of {} are closed ({reason}); its epoch is {epoch}", backend(*of, names))
        }
        Decision::Keep { pool, lineage } => format!("{} is to be on disk as the primary of {pool}", line(lineage)),
        Decision::Report { pool, actor, kind, text } => {
            let pool = pool.as_ref().map_or_else(String::new, |pool| format!("{pool}: "));
            let by = if actor.as_str() == "changeover" { String::new() } else { format!(", by {actor}") };
            format!("{pool}{text}{by} [{kind}]")
        }
    }
}

/// A line of history.
fn line(lineage: &Lineage) -> String {
    let on = |timeline| format!(" on timeline {timeline}");
    format!("{}{}", lineage.server, lineage.timeline.map_or_else(String::new, on))
}

/// Where new sessions of a pool go.
fn share_of(pool: &PoolName, share: Option<&Share>) -> String {
    let Some(Share { pending, paused, tiers, others }) = share else { return format!("pool {pool} is gone") };
    let targets: String =
        others.iter().map(|(target, of)| format!(", {target} from {}", from(&of.tiers, *paused, of.pending))).collect();
    format!("{pool} serves from {}{targets}", from(tiers, *paused, *pending))
}

fn from(tiers: &[Vec<(BackendName, Epoch, u32)>], paused: bool, pending: bool) -> String {
    let tier = |routes: &Vec<(BackendName, _, _)>| {
        list(&routes.iter().map(|(name, ..)| format!("{name}")).collect::<Vec<_>>())
    };
    let Some((active, others)) = tiers.split_first() else {
        let why = match (paused, pending) {
            (true, _) => "it is paused",
            (false, true) => "first verdicts are out",
            (false, false) => "nothing is fit",
        };
        return format!("nothing: {why}");
    };
    let others: String = others.iter().map(|routes| format!(", then {}", tier(routes))).collect();
    format!("{}{others}", tier(active))
}
