//! A tunnel tried once, really: started, waited for until it is open, gone through by one check, and ended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use crate::dial::Ways;
use crate::model::{
    Address, Attach, BackendId, MonoTime, ProbeError, ProbeOutcome, RunEnd, RunId, TunnelNews, TunnelPlan, spoken,
};
use crate::probe::Prober;
use crate::sys::{Clock, GroupSignal, MARK_VARIABLE, Spawner, is_marked, processes, signal_process};
use crate::tunnel::{Order, Orders, Outputs, Service, Tunnels};
use crate::watch::Watcher;

use super::super::backends::answered;
use super::super::cluster::{Login, login};
use super::super::{Finding, Level};
use super::Subject;
use super::words::{behind, mend};

/// News of a run that may wait until they are taken; there are no more of one.
const NEWS: usize = 16;
/// From one check to the next, where that a way is open is not seen but by one that comes through.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the last words of a program are waited for that was one connection.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the end of a run is waited for, beside the time that its program has for that: what is killed goes in less.
const END: Duration = Duration::from_secs(15);
/// How many of the last lines are looked at.
const LINES: usize = 40;
/// Beginnings of lines that are not the program's own.
const NOTES: &[&str] = &["started with pid ", "ended: ", FOUND, UNFOUND];
/// How a line begins that tells what was looked up.
const FOUND: &str = "its address is ";
/// How one begins that tells why that came to nothing.
const UNFOUND: &str = "its address is not found: ";
/// From one look at what was said to the next.
const LOOK: Duration = Duration::from_millis(50);
/// What ssh says of its own end, which was asked for.
const ASKED: &str = "Killed by signal 15";

/// Where news of each run go.
type Heard = Rc<RefCell<BTreeMap<BackendId, mpsc::Sender<TunnelNews>>>>;

/// The daemon's own parts, for tunnels that are tried. When it is dropped, they come to their end.
pub(super) struct Bench {
    clock: Clock,
    spawner: Spawner,
    orders: Orders,
    outputs: Outputs,
    prober: Prober,
    watcher: Watcher,
    heard: Heard,
}

/// The end of a bench's parts.
pub(super) struct Ending {
    service: JoinHandle<()>,
    hearing: JoinHandle<()>,
    /// What programs have in their environment that were one connection each.
    session_mark: String,
}

impl Ending {
    /// Waits until nothing is left of any program. Those that were connections have `grace` for that, and are killed then.
    pub(super) async fn wait(self, grace: Duration) {
        // A panic of theirs was shown when it happened.
        drop(self.service.await);
        drop(self.hearing.await);
        let sought = format!("{MARK_VARIABLE}={}", self.session_mark);
        let left = || processes().into_iter().filter(|one| !one.is_zombie && is_marked(one.pid, &sought));
        let gone = async {
            while left().next().is_some() {
                sleep(LOOK).await;
            }
        };
        if timeout(grace + LAST_WORDS, gone).await.is_err() {
            // Whoever may not be killed is another user's.
            let _killed = left().filter(|one| signal_process(one, GroupSignal::Kill)).count();
        }
    }
}

impl Bench {
    /// One whose programs `spawner` starts, of a daemon that would listen at `ours`. In a set of local tasks.
    pub(super) fn set_up(spawner: Spawner, clock: Clock, ours: Vec<Address>) -> (Self, Ending) {
        let ways = Ways::default();
        ways.keep_from(ours);
        // Nothing is written down, and without a guard: the kernel ends the programs with this process.
        let (service, tunnels) = Service::new(clock, spawner.clone(), Arc::new(ways.clone()), None);
        let Tunnels { orders, mut news, outputs, session_mark, .. } = tunnels;
        let heard = Heard::default();
        let all = Rc::clone(&heard);
        let hearing = spawn_local(async move {
            while let Some(told) = news.recv().await {
                let hearer = all.borrow().get(&told.backend).cloned();
                if let Some(hearer) = hearer {
                    // Whoever does not listen any more wants none.
                    drop(hearer.send(told.news).await);
                }
            }
        });
        let service = spawn_local(service.run());
        let (prober, watcher) = (Prober::new(clock, ways.clone()), Watcher::new(clock, ways));
        (Self { clock, spawner, orders, outputs, prober, watcher, heard }, Ending { service, hearing, session_mark })
    }

    pub(super) const fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// The last lines about a tunnel, which secrets are taken out of.
    fn lines(&self, of: &Subject) -> Vec<String> {
        let name = (of.pool.name.clone(), of.backend.name.clone());
        let page = self.outputs.last_lines(&name, LINES);
        page.map(|page| page.lines.into_iter().map(|line| line.text).collect()).unwrap_or_default()
    }
}

/// What a trial came to.
pub(super) struct Tried {
    pub(super) findings: Vec<Finding>,
    /// The login to the server behind it, if that is one and was to be tried.
    pub(super) login: Option<Login>,
}

/// Why a tunnel came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// Its program says that it will never work, in these words.
    Fatal(String),
    /// It has ended by itself.
    Ended(RunEnd, String),
    /// Its address was asked for and is not found.
    Unfound(String),
    /// It was not open in time.
    Late,
}

/// Tries it. Takes no longer than `ready_timeout`, a check or two, and `stop_grace` and what it takes to kill.
pub(super) async fn tried(bench: &Bench, of: &Subject) -> Tried {
    let (heard, mut news) = mpsc::channel(NEWS);
    bench.heard.borrow_mut().insert(of.id, heard);
    let (plan, begun) = (&of.tunnel, bench.clock.now());
    bench.orders.give(of.id, Order::Start { run: RunId(1), plan: Arc::clone(plan) });
    // Cancel-safety: news stay in their channel, and nothing else is taken.
    let opened = async {
        tokio::select! {
            biased;
            opened = opened(&mut news) => opened,
            why = unfound(bench, of) => Err(Why::Unfound(why)),
        }
    };
    let opened = timeout(plan.ready_timeout, opened).await.unwrap_or(Err(Why::Late));
    let took = bench.clock.now().since(begun);
    let (mut outcome, mut why, mut login) = (None, opened.err(), None);
    if why.is_none() {
        // Cancel-safety: a check that is given up has no consequence, and news stay in their channel.
        tokio::select! {
            checked = checked(bench, of, begun + plan.ready_timeout) => outcome = Some(checked),
            failed = failed(&mut news) => why = Some(failed),
        }
        if matches!(outcome, Some(ProbeOutcome::Passed { .. })) {
            login = logged_in(bench, of).await;
        } else if outcome.is_some() && plan.via.attach == Attach::Stdio {
            why = timeout(LAST_WORDS, failed(&mut news)).await.ok();
        }
    }
    bench.orders.give(of.id, Order::Stop);
    let left = match why {
        Some(Why::Ended(..)) => None,
        Some(Why::Fatal(_) | Why::Unfound(_) | Why::Late) | None => ended(&mut news, plan).await,
    };
    bench.heard.borrow_mut().remove(&of.id);
    let lines = bench.lines(of);
    let mut findings = match (why, outcome) {
        (Some(why), _) => vec![failure(of, &why, &lines)],
        (None, outcome) => passed(of, took, outcome, &lines),
    };
    if let Some(left) = left {
        findings.push(Finding::warn(of.what(), left, "see with `ps` what it is, and end it"));
    }
    Tried { findings, login }
}

/// Waits until its way is open.
async fn opened(news: &mut mpsc::Receiver<TunnelNews>) -> Result<(), Why> {
    loop {
        match news.recv().await {
            Some(TunnelNews::Open) => return Ok(()),
            Some(TunnelNews::Started { .. } | TunnelNews::Lost { .. }) => {}
            Some(TunnelNews::Fatal { line }) => return Err(Why::Fatal(line)),
            Some(TunnelNews::Ended { how, detail }) => return Err(Why::Ended(how, detail)),
            None => return Err(Why::Ended(RunEnd::Local, "it was not tried".to_owned())),
        }
    }
}

/// Waits until it was asked in vain where it leads; for ever if a program has to run for the answer.
async fn unfound(bench: &Bench, of: &Subject) -> String {
    if of.tunnel.program.is_some() || of.tunnel.lookup.is_none() {
        return pending().await;
    }
    loop {
        if let Some(why) = bench.lines(of).into_iter().find(|line| line.starts_with(UNFOUND)) {
            return why;
        }
        sleep(LOOK).await;
    }
}

/// Waits until it comes to nothing.
async fn failed(news: &mut mpsc::Receiver<TunnelNews>) -> Why {
    loop {
        if let Err(why) = opened(news).await {
            return why;
        }
    }
}

/// Waits for the end that was ordered. What is left of it, if so.
async fn ended(news: &mut mpsc::Receiver<TunnelNews>, plan: &TunnelPlan) -> Option<String> {
    let end = async {
        loop {
            if let Why::Ended(_, detail) = failed(news).await {
                return detail;
            }
        }
    };
    match timeout(plan.stop_grace + END, end).await {
        Ok(detail) => detail.contains("cannot be ended").then_some(detail),
        Err(_) => Some("it does not come to its end".to_owned()),
    }
}

/// Checks what is behind it: once, or until `until` where nothing else shows that the way is open, and its program has not
/// said what is wrong either.
async fn checked(bench: &Bench, of: &Subject, until: MonoTime) -> ProbeOutcome {
    let (backend, plan) = (&of.backend, &of.tunnel);
    let is_unseen = plan.program.is_some()
        && plan.ready.is_none()
        && match plan.via.attach {
            Attach::Address | Attach::Socks5 | Attach::HttpConnect => true,
            Attach::Listen | Attach::Stdio => false,
        };
    loop {
        let check = &backend.check;
        let answer = bench.prober.probe(&backend.address, &check.kind, check.timeout, &backend.approach).await;
        let is_early =
            matches!(&answer.outcome, ProbeOutcome::Failed { error, .. } if is_unseen && !error.is_of_target());
        if !is_early || bench.clock.now() >= until || mend(&own_words(&bench.lines(of)), &of.about()).is_some() {
            return answer.outcome;
        }
        sleep(AGAIN).await;
    }
}

/// The monitor's login, if it is to log in there.
async fn logged_in(bench: &Bench, of: &Subject) -> Option<Login> {
    let postgres = of.pool.postgres.as_ref()?;
    Some(login(&bench.watcher, &of.pool.name, &of.backend, postgres).await)
}

/// What its program has said, without our own notes.
fn own_words(lines: &[String]) -> Vec<String> {
    let is_own = |line: &&String| !NOTES.iter().any(|note| line.starts_with(note)) && !line.contains(ASKED);
    lines.iter().filter(is_own).cloned().collect()
}

/// What there is to say of one that was not open, or did not stay so.
fn failure(of: &Subject, why: &Why, lines: &[String]) -> Finding {
    let (what, plan, words) = (of.what(), &of.tunnel, own_words(lines));
    let mut said = words.clone();
    let known = |said: &[String]| mend(said, &of.about());
    match why {
        Why::Fatal(line) => {
            said.push(line.clone());
            let mend = known(&said).unwrap_or_else(|| "mend what it says".to_owned());
            Finding::fail(what, format!("its program says that it will never work: {line}"), mend)
        }
        Why::Ended(RunEnd::NotStarted, detail) => {
            let mend = "install it, or name it by its path (`program` of the options, `command` of the tunnel)";
            Finding::fail(what, format!("it cannot be tried: {detail}"), mend)
        }
        Why::Ended(RunEnd::PortTaken, detail) => {
            Finding::warn(what, detail.clone(), "run this again: it gets another port each time")
        }
        Why::Ended(RunEnd::Local, detail) => {
            Finding::warn(what, detail.clone(), "run this again when the host is less busy")
        }
        Why::Ended(RunEnd::Exited | RunEnd::Stopped, detail) => {
            let mend =
                known(&said).unwrap_or_else(|| "run it by hand, as the daemon's user, and see what it says".to_owned());
            Finding::fail(what, format!("its program ended by itself: {detail}"), mend)
        }
        Why::Unfound(why) => {
            let mend = "see whether what `lookup` asks is up, and what it answers when it is asked by hand";
            Finding::fail(format!("{what}, lookup"), why.clone(), mend)
        }
        Why::Late => {
            let mut found = format!("it was not open within {}: {}", spoken(plan.ready_timeout), lacking(plan, lines));
            if let Some(last) = words.last() {
                found.push_str(&format!("; its program said last: {last}"));
            }
            let usual = "see whether its server is up and lets this host in, or raise ready_timeout".to_owned();
            Finding::fail(what, found, known(&said).unwrap_or(usual))
        }
    }
}

/// The address that a note tells of.
fn address(line: &str) -> Option<&str> {
    line.strip_prefix(FOUND).filter(|_| !line.starts_with(UNFOUND))
}

/// What was waited for in vain.
fn lacking(plan: &TunnelPlan, lines: &[String]) -> String {
    let is_found = lines.iter().any(|line| address(line).is_some());
    match (&plan.lookup, &plan.ready) {
        (Some(_), _) if !is_found => {
            let why = lines.iter().rfind(|line| line.starts_with(UNFOUND));
            why.cloned().unwrap_or_else(|| "no address was found".to_owned())
        }
        (_, Some(ready)) => format!("its program has not said `{ready}`"),
        (_, None) => "its program has not opened its port on 127.0.0.1".to_owned(),
    }
}

/// What there is to say of one that was open, and of what is behind it.
fn passed(of: &Subject, took: Duration, outcome: Option<ProbeOutcome>, lines: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if of.tunnel.lookup.is_some()
        && let Some(address) = lines.iter().rev().find_map(|line| address(line))
    {
        findings.push(Finding::ok(format!("{}, lookup", of.what()), format!("it is at {address}")));
    }
    if of.tunnel.program.is_some() {
        findings.push(Finding::ok(of.what(), format!("its way was open after {took:.0?}")));
    }
    let Some(outcome) = outcome else { return findings };
    let error = match &outcome {
        ProbeOutcome::Failed { error, .. } => Some(*error),
        ProbeOutcome::Passed { .. } | ProbeOutcome::Inconclusive { .. } => None,
    };
    let what = format!("backend {}/{}", of.pool.name, of.backend.name);
    let mut finding = answered(what, &of.backend, outcome);
    if let Some(error) = error.filter(|_| finding.level == Level::Fail) {
        explain(&mut finding, of, error, &own_words(lines));
    }
    findings.push(finding);
    findings
}

/// Says of a failed check what the tunnel's program says to it, and what to do.
fn explain(finding: &mut Finding, of: &Subject, error: ProbeError, words: &[String]) {
    if let Some(last) = words.last() {
        finding.found.push_str(&format!("; its tunnel's program said last: {last}"));
    }
    let known = mend(words, &of.about());
    if let Some(mend) = known.or_else(|| behind(error, &of.tunnel.via.target.to_string(), of.tunnel.proxy.as_ref())) {
        finding.mend = mend;
    }
}
