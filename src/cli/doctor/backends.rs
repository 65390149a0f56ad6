//! Each backend, asked once as its check would: with the daemon's own probes.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::dial::Ways;
use crate::model::{Address, BackendPlan, CheckKind, DialError, Plan, ProbeError, ProbeOutcome, spoken};
use crate::probe::Prober;
use crate::sys::{Clock, look_up};

use super::Finding;

/// Backends that are asked at the same time: a server that many pools name, or that is short of connections, must not notice.
const AT_ONCE: usize = 4;

/// All backends that no tunnel leads to, in the order of the plan.
pub(super) async fn findings(plan: &Plan, clock: Clock) -> Vec<Finding> {
    let prober = Arc::new(Prober::new(clock, Ways::default()));
    let all = plan.pools.values().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
    // Behind a tunnel nobody is reached before that is up.
    let asked = all.filter(|(_, backend)| backend.tunnel.is_none()).map(|(pool, backend)| {
        let what = format!("backend {}/{}", pool.name, backend.name);
        let (prober, backend) = (Arc::clone(&prober), backend.clone());
        async move { one(&prober, what, &backend).await }
    });
    few_at_once(asked).await.into_iter().flatten().collect()
}

/// What all of them come to, in their order, of which no more than [`AT_ONCE`] are under way at a time.
pub(super) async fn few_at_once<T: 'static>(all: impl Iterator<Item = impl Future<Output = T> + 'static>) -> Vec<T> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for (order, one) in all.enumerate() {
        let places = Arc::clone(&places);
        asked.spawn_local(async move {
            // It is never closed.
            let _place = places.acquire().await;
            (order, one.await)
        });
    }
    let mut found = asked.join_all().await;
    found.sort_by_key(|(order, _)| *order);
    found.into_iter().map(|(_, found)| found).collect()
}

async fn one(prober: &Prober, what: String, backend: &BackendPlan) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Address::Name { host, port } = &backend.address {
        match look_up(host, *port).await {
            Ok(addresses) if !addresses.is_empty() => {
                let all: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
                findings.push(Finding::ok(what.clone(), format!("{host} is {}", all.join(", "))));
            }
            Ok(_) => return vec![unresolved(what, host, "it has no address")],
            Err(error) => return vec![unresolved(what, host, &error.to_string())],
        }
    }
    let check = &backend.check;
    let answer = prober.probe(&backend.address, &check.kind, check.timeout, &backend.approach).await;
    findings.push(answered(what, backend, answer.outcome));
    findings
}

/// What there is to say of what the check of `backend` has found out.
pub(super) fn answered(what: String, backend: &BackendPlan, outcome: ProbeOutcome) -> Finding {
    let check = &backend.check;
    match outcome {
        ProbeOutcome::Passed { .. } if check.kind == CheckKind::None => Finding::warn(
            what,
            "it is not asked: its check is of kind \"none\"",
            "make sure that somebody pushes its verdicts",
        ),
        ProbeOutcome::Passed { latency, .. } => {
            let found = format!("{} passes its check", backend.address);
            match check.max_latency.filter(|limit| latency > *limit) {
                Some(limit) => {
                    let found = format!("{found}, but took {latency:.0?}, and max_latency is {}", spoken(limit));
                    Finding::warn(what, found, "see why it is slow, or raise max_latency")
                }
                None => Finding::ok(what, found),
            }
        }
        ProbeOutcome::Failed { error, detail } => {
            Finding::fail(what, format!("{}: {detail}", error.label()), mend(error, backend))
        }
        ProbeOutcome::Inconclusive { error, detail } => {
            let mend = match error {
                Some(DialError::SourceAddress) => "name a source_address that this host has (`ip address`)",
                Some(_) | None => "run this again when the host is less busy",
            };
            Finding::warn(what, format!("it could not be asked: {detail}"), mend)
        }
    }
}

pub(super) fn unresolved(what: String, host: &str, why: &str) -> Finding {
    let mend = format!("see what `getent hosts {host}` says, or write its address");
    Finding::fail(what, format!("{host} cannot be looked up: {why}"), mend)
}

fn mend(error: ProbeError, backend: &BackendPlan) -> String {
    let address = &backend.address;
    match error {
        ProbeError::Dial(DialError::Refused) => format!("start it, or have it listen at {address}"),
        ProbeError::Dial(DialError::TimedOut | DialError::Unreachable) => {
            "see whether its host is up, and whether a firewall lets this one through".to_owned()
        }
        ProbeError::Dial(DialError::TunnelDown) => {
            "see what its tunnel's program says when it is run by hand".to_owned()
        }
        ProbeError::Dial(DialError::ProxyRefused) => "see the log of its tunnel's proxy".to_owned(),
        ProbeError::Dial(DialError::TargetRefused) => {
            "start it, or see whether `target` is where it listens".to_owned()
        }
        ProbeError::Dial(DialError::TargetUnreachable) => {
            "see whether its host is up, and whether the tunnel's far end reaches it".to_owned()
        }
        ProbeError::Dial(_) => format!("see whether {address} is what is meant"),
        ProbeError::Check(_) => match &backend.check.kind {
            CheckKind::Http(check) => {
                format!("see what it answers to {} {}, or set check.http.expect", check.method, check.path)
            }
            CheckKind::Command(_) => "run the program by hand, as the daemon's user".to_owned(),
            CheckKind::Postgres => "see its log; PostgreSQL has to listen at this port".to_owned(),
            CheckKind::Agent(_) => "see what its agent says, and on which port".to_owned(),
            CheckKind::Expect(_) => "see what it answers, or set check.expect".to_owned(),
            CheckKind::Tls => "see whether it speaks TLS at this port".to_owned(),
            CheckKind::Tcp | CheckKind::None => "see its log".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::task::{LocalSet, yield_now};

    use super::{AT_ONCE, few_at_once};

    #[test]
    fn no_more_than_a_few_are_asked_at_once_and_all_in_the_end() {
        let (under_way, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let all = (0..50).map(|number| {
            let (under_way, most) = (Rc::clone(&under_way), Rc::clone(&most));
            async move {
                under_way.set(under_way.get() + 1);
                most.set(most.get().max(under_way.get()));
                // Those that come later are done sooner.
                for _ in number..50 {
                    yield_now().await;
                }
                under_way.set(under_way.get() - 1);
                number
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = LocalSet::new().block_on(&runtime, few_at_once(all));
        assert_eq!(found, (0..50).collect::<Vec<_>>());
        assert_eq!(most.get(), AT_ONCE);
    }
}
