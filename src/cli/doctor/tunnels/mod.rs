//! Each backend behind a tunnel: what that needs of this host, and then the tunnel itself, by the daemon's own hands. Where
//! a daemon runs, nothing is started beside it: it is asked.

mod needs;
mod running;
mod trial;
mod words;

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use crate::config::TunnelNeeds;
use crate::model::{BackendId, BackendPlan, Plan, PoolPlan, TunnelPlan};
use crate::sys::{Clock, Spawner};

use super::backends::few_at_once;
use super::cluster::{Login, Logins};
use super::{Finding, Level};

use self::trial::Bench;
use self::words::About;

/// The provider whose command line is known here.
const SSH: &str = "ssh";

/// A backend behind a tunnel.
struct Subject {
    /// Its number, in this run of the program.
    id: BackendId,
    pool: Arc<PoolPlan>,
    backend: BackendPlan,
    tunnel: Arc<TunnelPlan>,
    needs: Option<TunnelNeeds>,
}

impl Subject {
    /// What its findings are on.
    fn what(&self) -> String {
        format!("tunnel {}/{}", self.pool.name, self.backend.name)
    }

    fn about(&self) -> About {
        let needs = self.needs.as_ref();
        let path = |name: &str| needs?.paths.iter().find(|(option, _)| option == name).map(|(_, path)| path.clone());
        let is_ssh = &*self.tunnel.provider == SSH;
        About {
            server: needs.and_then(|needs| needs.servers.first()).map(|(_, server)| needs::host(server).to_owned()),
            port: needs::after(&self.tunnel, "-p").filter(|_| is_ssh),
            key: needs.and_then(|needs| needs.keys.first()).cloned(),
            known_hosts: path("known_hosts"),
            target: self.tunnel.via.target.to_string(),
        }
    }
}

/// All backends behind tunnels, in the order of the plan, and what logins to servers there came to. `pools` is what a daemon that
/// runs says of all pools, or why it does not; none if none runs.
pub(super) async fn findings(
    plan: &Plan,
    needs: &[TunnelNeeds],
    pools: Option<Result<Value, String>>,
    clock: Clock,
) -> (Vec<Finding>, Logins) {
    let subjects = subjects(plan, needs);
    if subjects.is_empty() {
        return (Vec::new(), Logins::new());
    }
    let grace = subjects.iter().map(|subject| subject.tunnel.stop_grace).max().unwrap_or_default();
    let (bench, ended) = match bench(plan, clock) {
        Ok(bench) => bench,
        Err(error) => {
            let found = format!("they could not be tried: {error}");
            return (vec![Finding::warn("tunnels", found, "run this again when the host is less busy")], Logins::new());
        }
    };
    let (bench, pools) = (Rc::new(bench), Rc::new(pools));
    let all = subjects.into_iter().map(|subject| {
        let (bench, pools) = (Rc::clone(&bench), Rc::clone(&pools));
        async move {
            let name = (subject.pool.name.clone(), subject.backend.name.clone());
            let (findings, login) = one(&bench, &subject, pools.as_ref().as_ref()).await;
            (findings, login.map(|login| (name, login)))
        }
    });
    let found = few_at_once(all).await;
    // Its last handle: the hands come to their end.
    drop(bench);
    ended.wait(grace).await;
    let (findings, logins): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    (findings.into_iter().flatten().collect(), logins.into_iter().flatten().collect())
}

fn bench(plan: &Plan, clock: Clock) -> io::Result<(Bench, trial::Ending)> {
    let ours = plan.listeners.values().flat_map(|listener| &listener.bind).chain(&plan.admin.bind);
    Ok(Bench::set_up(Spawner::start()?, clock, ours.cloned().collect()))
}

fn subjects(plan: &Plan, needs: &[TunnelNeeds]) -> Vec<Subject> {
    let all = plan.pools.values().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
    let tunnels = all.filter_map(|(pool, backend)| Some((pool, backend, backend.tunnel.as_ref()?)));
    let subject =
        |(number, (pool, backend, tunnel)): (u32, (&Arc<PoolPlan>, &BackendPlan, &Arc<TunnelPlan>))| Subject {
            id: BackendId(number),
            needs: needs.iter().find(|needs| needs.pool == pool.name && needs.backend == backend.name).cloned(),
            pool: Arc::clone(pool),
            backend: backend.clone(),
            tunnel: Arc::clone(tunnel),
        };
    (0..).zip(tunnels).map(subject).collect()
}

async fn one(bench: &Bench, subject: &Subject, pools: Option<&Result<Value, String>>) -> (Vec<Finding>, Option<Login>) {
    let (what, tunnel) = (subject.what(), &*subject.tunnel);
    let mut findings = needs::programs(&what, tunnel, subject.needs.as_ref(), bench.spawner()).await;
    let is_missing = findings.iter().any(|finding| finding.level == Level::Fail);
    if let Some(needs) = &subject.needs {
        findings.extend(needs::files(&what, tunnel, needs));
        findings.extend(needs::servers(&what, tunnel, needs).await);
    }
    if let Some(pools) = pools {
        let name = (subject.pool.name.as_str(), subject.backend.name.as_str());
        findings.push(running::finding(what, name, pools, &subject.about()));
        return (findings, None);
    }
    if is_missing {
        return (findings, None);
    }
    let tried = trial::tried(bench, subject).await;
    findings.extend(tried.findings);
    (findings, tried.login)
}
