//! One run of a tunnel, from its start until nothing is left of it.

use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::lookup::look_up;
use super::outputs::Sink;
use super::ports::{Seen, listener};
use super::remains::{Leader, run_mark, session_mark, signal};
use super::speech::{Last, Reader, SPEECH, Speech};
use super::way::Way;
use super::{Hands, Order, Told};
use crate::dial::{Programs, launch};
use crate::model::{Address, Attach, BackendId, ProgramPlan, RunEnd, RunId, TunnelNews, TunnelPlan};
use crate::sys::{Child, GroupSignal, RunError};

/// From one look at what is left of a run to the next: the first, and the longest.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(50);
/// What was killed is waited for, for so long; then it is another user's, or the kernel does not let go of it.
const KILLED: Duration = Duration::from_secs(5);
/// How long the rest of the output is waited for.
const REST: Duration = Duration::from_secs(1);

/// A program that runs.
struct Program {
    child: Child,
    leader: Option<Leader>,
    speech: mpsc::Receiver<Speech>,
    reading: JoinHandle<()>,
    /// Dropped when nothing more is to be waited for.
    goes_on: oneshot::Sender<()>,
    last: Last,
}

/// A run.
pub(super) struct Run {
    hands: Rc<Hands>,
    backend: BackendId,
    run: RunId,
    plan: Arc<TunnelPlan>,
    mark: String,
}

impl Run {
    pub(super) fn new(hands: Rc<Hands>, backend: BackendId, run: RunId, plan: Arc<TunnelPlan>) -> Self {
        let mark = run_mark(&hands.token, backend, run);
        Self { hands, backend, run, plan, mark }
    }

    /// Starts it, and is done when its end was told, which comes at the latest with the next order. `kept` is the port that
    /// it had the last time; which one it has had now.
    pub(super) async fn carry_out(&mut self, kept: Option<u16>, mut orders: watch::Receiver<Order>) -> Option<u16> {
        let sink = self.hands.outputs.sink(&self.plan);
        let port = match self.wants_port().then(|| self.hands.ports.choose(kept)).transpose() {
            Ok(port) => port,
            Err(error) => {
                self.end(&sink, RunEnd::Local, format!("there is no port for it: {error}")).await;
                return kept;
            }
        };
        let mut kept = port;
        match self.start(port, &sink, &mut orders).await {
            Err((how, detail)) => {
                if how == RunEnd::Stopped {
                    // It may have begun just then, and have left its group.
                    self.kill(None).await;
                }
                self.end(&sink, how, detail).await;
            }
            Ok(mut program) => {
                let (mut how, mut why) = self.lead(program.as_mut(), port, orders).await;
                if let Some(program) = program.as_ref().filter(|_| how == RunEnd::Exited) {
                    let detail = program.last.borrow().clone().unwrap_or_default();
                    self.hands.tell(self.backend, self.run, TunnelNews::Lost { detail }).await;
                }
                let mut detail = self.clear(program, how == RunEnd::Stopped || how == RunEnd::PortTaken).await;
                // Whoever found its port taken says so in its own words; we know who has it.
                if let Some(by) = port.filter(|_| how == RunEnd::Exited).and_then(listener) {
                    (how, why) = (RunEnd::PortTaken, Some(by));
                }
                if how == RunEnd::PortTaken {
                    kept = None;
                }
                if let Some(by) = why {
                    let port = port.unwrap_or_default();
                    detail = format!("its port 127.0.0.1:{port} belongs to {by}; {detail}");
                }
                self.end(&sink, how, detail).await;
            }
        }
        if let Some(port) = port {
            self.hands.ports.give_back(port);
        }
        kept
    }

    /// Whether its program opens a port that we choose.
    fn wants_port(&self) -> bool {
        let opens = match self.plan.via.attach {
            Attach::Listen | Attach::Socks5 | Attach::HttpConnect => true,
            Attach::Stdio | Attach::Address => false,
        };
        opens && self.plan.program.is_some()
    }

    async fn end(&self, sink: &Sink, how: RunEnd, detail: String) {
        let detail = sink.masked(detail);
        sink.note(&format!("ended: {detail}"));
        self.hands.tell(self.backend, self.run, TunnelNews::Ended { how, detail }).await;
    }

    /// Starts its program, if it has one that we start.
    async fn start(
        &self,
        port: Option<u16>,
        sink: &Sink,
        orders: &mut watch::Receiver<Order>,
    ) -> Result<Option<Program>, (RunEnd, String)> {
        let is_ours = self.plan.via.attach != Attach::Stdio;
        if self.plan.program.is_some() || self.plan.lookup.is_some() {
            self.hands.watch_over();
        }
        if Way::of(&self.plan, port).leads_nowhere(&self.plan) {
            return Err((RunEnd::NotStarted, "it has neither a program nor a proxy".to_owned()));
        }
        let Some(plan) = self.plan.program.as_ref().filter(|_| is_ours) else { return Ok(None) };
        let launch = launch(plan, port.unwrap_or_default(), false, self.mark.clone());
        // Cancel-safety: an order stays seen as new in the receiver that this one was made of, and a program that nobody
        // waits for is killed.
        let spawned = tokio::select! {
            biased;
            _ = orders.changed() => return Err((RunEnd::Stopped, "stopped before it was started".to_owned())),
            spawned = self.hands.spawner.spawn(launch) => spawned,
        };
        let mut child = spawned.map_err(|error| {
            let how = match &error {
                RunError::NotStarted(_) => RunEnd::NotStarted,
                RunError::Local(_) => RunEnd::Local,
            };
            let name = plan.argv.first().map(ToString::to_string).unwrap_or_default();
            (how, format!("`{name}` {error}{}", mend(&error)))
        })?;
        let pid = child.pid();
        let leader = Leader::of(pid);
        leader.inspect(|leader| self.hands.started(*leader));
        sink.note(&format!("started with pid {pid}"));
        let (said, speech) = mpsc::channel(SPEECH);
        let (goes_on, over) = oneshot::channel();
        let last = Last::default();
        let reader = Reader {
            sink: self.hands.outputs.sink(&self.plan),
            plan: Arc::clone(&self.plan),
            said,
            last: Rc::clone(&last),
        };
        let reading = spawn_local(reader.read(child.output.take(), over));
        self.hands.tell(self.backend, self.run, TunnelNews::Started { pid }).await;
        Ok(Some(Program { child, leader, speech, reading, goes_on, last }))
    }

    /// Opens the way once it is open, until the run is to end or ends by itself. Whose its port is, if it is not its own.
    async fn lead(
        &self,
        mut program: Option<&mut Program>,
        port: Option<u16>,
        mut orders: watch::Receiver<Order>,
    ) -> (RunEnd, Option<String>) {
        let mut way = Way::of(&self.plan, port);
        let (found_in, mut found) = mpsc::channel(1);
        let asking = self.plan.lookup.clone().filter(|_| self.plan.via.attach == Attach::Address).map(|lookup| {
            let sink = self.hands.outputs.sink(&self.plan);
            spawn_local(look_up(Rc::clone(&self.hands), lookup, self.mark.clone(), sink, found_in))
        });
        let (child, mut said) = match &mut program {
            Some(program) => (Some(&program.child), Some(&mut program.speech)),
            None => (None, None),
        };
        let (leader, watched) = (child.map_or(0, Child::pid), way.watched);
        let seen = async {
            match watched {
                Some(port) => self.hands.ports.seen(port, leader, &self.mark).await,
                None => pending().await,
            }
        };
        tokio::pin!(seen);
        let (mut is_watched, mut speaks, mut is_asked) = (watched.is_some(), true, asking.is_some());
        let end = loop {
            self.open(&mut way).await;
            // Cancel-safety: an order stays seen as new, speech and addresses stay in their channels, the end of a program
            // stays, and the port's watch is kept from one round to the next.
            tokio::select! {
                biased;
                _ = orders.changed() => break (RunEnd::Stopped, None),
                said = speech(said.as_deref_mut()), if speaks => match said {
                    Some(Speech::Ready) => way.is_ready = true,
                    Some(Speech::Fatal(line)) => self.tell_fatal(line).await,
                    None => speaks = false,
                },
                () = exited(child) => break (RunEnd::Exited, None),
                whose = &mut seen, if is_watched => match whose {
                    Seen::Open => (way.is_ready, is_watched) = (true, false),
                    Seen::Taken(by) => break (RunEnd::PortTaken, Some(by)),
                },
                address = found.recv(), if is_asked => match address {
                    Some(address) => self.leads_to(&mut way, address),
                    None => is_asked = false,
                },
            }
        };
        // At once, and only its own: a newer backend of the same name may open one while something is waited for here.
        if way.is_open {
            self.hands.doors.shut(&self.plan.via);
        }
        if let Some(asking) = asking {
            asking.abort();
            // Its program is dropped with it.
            drop(asking.await);
        }
        end
    }

    async fn open(&self, way: &mut Way) {
        if way.is_open || !way.is_ready {
            return;
        }
        let Some(at) = &way.at else { return };
        match self.plan.program.as_ref().filter(|_| self.plan.via.attach == Attach::Stdio) {
            Some(program) => self.hands.doors.open_programs(&self.plan.via, self.programs(program)),
            None if self.plan.lookup.is_some() => self.hands.doors.open_found(&self.plan.via, at.clone()),
            None => self.hands.doors.open(&self.plan.via, at.clone()),
        }
        way.is_open = true;
        self.hands.tell(self.backend, self.run, TunnelNews::Open).await;
    }

    /// What is run for each connection. What they say is kept with what is said of the run, and one that says that it will never
    /// work says so for all.
    fn programs(&self, program: &Arc<ProgramPlan>) -> Programs {
        let (ear, fatal, is_told) =
            (self.hands.outputs.ear(&self.plan), self.plan.fatal.clone(), AtomicBool::new(false));
        let (news, backend, run) = (self.hands.news.clone(), self.backend, self.run);
        let said = move |line: &str| {
            let shown = ear.hear(line);
            if fatal.iter().any(|text| line.contains(&**text)) && !is_told.swap(true, Ordering::Relaxed) {
                // Should there be no room for it, the next one says it again.
                let told = news.try_send(Told { backend, run, news: TunnelNews::Fatal { line: shown } });
                is_told.store(told.is_ok(), Ordering::Relaxed);
            }
        };
        Programs {
            spawner: self.hands.spawner.clone(),
            program: Arc::clone(program),
            mark: session_mark(&self.hands.token),
            stop_grace: self.plan.stop_grace,
            said: Arc::new(said),
        }
    }

    /// It was found where the backend is now.
    fn leads_to(&self, way: &mut Way, at: Address) {
        if way.is_open {
            self.hands.doors.open_found(&self.plan.via, at.clone());
        }
        way.at = Some(at);
    }

    async fn tell_fatal(&self, line: String) {
        self.hands.tell(self.backend, self.run, TunnelNews::Fatal { line }).await;
    }

    /// Leaves nothing of it; in what words it ended.
    async fn clear(&self, program: Option<Program>, is_asked: bool) -> String {
        let group = program.as_ref().map(|program| program.child.pid());
        // Without a program of its own there may be one that looks something up.
        if group.is_none() && self.plan.lookup.is_none() {
            return "stopped".to_owned();
        }
        if is_asked && let Some(program) = &program {
            // Each once: there are programs that break off what they are asked for twice.
            let mut outside = self.hands.survey.remains(None, &self.mark).await;
            outside.retain(|process| Some(process.group) != group);
            signal(&outside, GroupSignal::Terminate);
            drop(program.child.signal_group(GroupSignal::Terminate));
            drop(timeout(self.plan.stop_grace, self.gone(program)).await);
        }
        let left = self.kill(program.as_ref()).await;
        let mut detail = match program {
            Some(program) => self.bury(program).await,
            None => "stopped".to_owned(),
        };
        if let Some(pid) = left {
            let (pool, backend) = (&self.plan.via.pool, &self.plan.via.backend);
            tracing::warn!(%pool, %backend, pid, "a process of its tunnel cannot be ended");
            detail.push_str(&format!("; process {pid} cannot be ended"));
        }
        detail
    }

    /// Waits until the program has ended, and all else of the run with it.
    async fn gone(&self, program: &Program) {
        drop(program.child.exited().await);
        let mut wait = LOOK;
        while !self.hands.survey.remains(Some(program.child.pid()), &self.mark).await.is_empty() {
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_MAX);
        }
    }

    /// Kills what there is; one that could not be, if so.
    async fn kill(&self, program: Option<&Program>) -> Option<u32> {
        let deadline = self.hands.clock.now() + KILLED;
        let (mut wait, mut is_sure) = (LOOK, true);
        loop {
            if let Some(program) = program {
                // Whoever may not be killed is among those that are left.
                drop(program.child.signal_group(GroupSignal::Kill));
            }
            let group = program.map(|program| program.child.pid());
            let left = self.hands.survey.remains(group, &self.mark).await;
            let Some(first) = left.first() else {
                if is_sure {
                    return None;
                }
                // Whoever was there may have begun another one, which that look has missed.
                is_sure = true;
                continue;
            };
            is_sure = false;
            signal(&left, GroupSignal::Kill);
            if self.hands.clock.now() > deadline {
                return Some(first.pid);
            }
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_MAX);
        }
    }

    /// Takes the last that it has to say, and how it ended.
    async fn bury(&self, program: Program) -> String {
        let Program { mut child, leader, mut speech, reading, goes_on, last } = program;
        let status = timeout(REST, child.ended()).await;
        drop(goes_on);
        let abort = reading.abort_handle();
        if timeout(REST, reading).await.is_err() {
            abort.abort();
        }
        while let Ok(said) = speech.try_recv() {
            match said {
                Speech::Fatal(line) => self.tell_fatal(line).await,
                Speech::Ready => {}
            }
        }
        leader.inspect(|leader| self.hands.ended(*leader));
        let status = match status {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => format!("it cannot be waited for: {error}"),
            Err(_) => "it does not end".to_owned(),
        };
        match last.take() {
            Some(line) => format!("{status}; it said last: {line}"),
            None => format!("{status}; it said nothing"),
        }
    }
}

/// What to do about a program that cannot be started, where that is plain.
fn mend(error: &RunError) -> &'static str {
    match error {
        RunError::NotStarted(error) if error.kind() == io::ErrorKind::NotFound => "; install it, or say where it is",
        RunError::NotStarted(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            "; let the daemon's user run it"
        }
        RunError::NotStarted(_) | RunError::Local(_) => "",
    }
}

async fn speech(said: Option<&mut mpsc::Receiver<Speech>>) -> Option<Speech> {
    match said {
        Some(said) => said.recv().await,
        None => pending().await,
    }
}

async fn exited(child: Option<&Child>) {
    match child {
        // One that cannot be waited for is not waited for.
        Some(child) => drop(child.exited().await),
        None => pending().await,
    }
}
