//! Writes down what the controller is told and what it decides, for `changeover replay`.
//!
//! A thread of its own writes, behind a bounded queue: whoever decides never waits for a disk. A recording with a hole is worth
//! nothing, so that one which cannot be kept up with, or written, or has become too large, ends there and says so. The
//! daemon goes on.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crate::failover::recording::{FORMAT, Header, Line, Scribe};
use crate::failover::{Command, Controller, Event, Figures, PoolRoutes};
use crate::model::MonoTime;
use crate::telemetry::Metrics;

/// Turns that may wait to be written: what a thousand targets bring in some seconds.
const QUEUE: usize = 8192;

/// Routes and pools in the tables that wait: at some 200 bytes each, 200 MB that a disk which stands still may cost.
const ROUTES: usize = 1 << 20;

/// What is kept free of the most that a file may have, for its last line.
const LAST_LINE_MAX: u64 = 256;

/// How long the last lines may take to be written when the daemon ends.
const LAST_LINES: Duration = Duration::from_secs(2);

const STOPPED: &str = "the daemon stopped";
const PANICKED: &str = "the control thread panicked";
const TOO_SLOW: &str = "turns came faster than they could be written";
const TOO_LARGE: &str = "the limit of --record-max was reached";

/// Where to, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordTo {
    /// The file, which must not be there yet.
    pub path: PathBuf,
    /// The most that it may have, in bytes.
    pub max: u64,
}

/// A recording under way. When it is dropped, what was noted is written.
#[derive(Debug)]
pub struct Recorder {
    queue: Option<SyncSender<Turn>>,
    /// Routes and pools in the tables that wait.
    waiting: Arc<AtomicUsize>,
    routes_max: usize,
    /// The turn under way.
    turn: Option<Turn>,
    /// Why it ended; set before the queue is closed.
    why: Arc<OnceLock<&'static str>>,
    /// Ends with the thread.
    done: Receiver<()>,
}

/// A controller that is told nothing which is not recorded, if anything is.
pub(super) struct Recorded {
    controller: Controller,
    recorder: Option<Recorder>,
}

impl Recorded {
    pub(super) const fn new(controller: Controller, recorder: Option<Recorder>) -> Self {
        Self { controller, recorder }
    }

    /// [`Controller::handle`].
    pub(super) fn handle(&mut self, now: MonoTime, event: Event, out: &mut Vec<Command>) {
        self.hand_over();
        self.recorder.iter_mut().for_each(|recorder| recorder.told(now, &event));
        self.controller.handle(now, event, out);
        self.recorder.iter_mut().for_each(|recorder| recorder.decided(out));
    }

    /// [`Controller::tell_figures`]. What is shown decides nothing, and is in no recording.
    pub(super) fn tell_figures(&mut self, tell: &mut dyn FnMut(Figures<'_>)) {
        self.controller.tell_figures(tell);
    }

    /// The commands are carried out: now there is time to have the turn written.
    pub(super) fn hand_over(&mut self) {
        self.recorder.iter_mut().for_each(Recorder::note);
    }
}

impl Deref for Recorded {
    type Target = Controller;

    fn deref(&self) -> &Controller {
        &self.controller
    }
}

/// A turn on its way to the file.
#[derive(Debug)]
struct Turn {
    at: MonoTime,
    event: Event,
    commands: Vec<Command>,
}

impl Turn {
    /// Routes and pools in the tables that it keeps.
    fn routes(&self) -> usize {
        let of_pool = |pool: &Arc<PoolRoutes>| 1 + pool.tiers.iter().map(|tier| tier.routes().len()).sum::<usize>();
        let of = |command: &Command| match command {
            Command::PublishTable(table) => table.pools.values().map(of_pool).sum(),
            Command::StartProbe { .. }
            | Command::StopProbe { .. }
            | Command::StartWatch { .. }
            | Command::StopWatch { .. }
            | Command::Knock { .. }
            | Command::StartTunnel { .. }
            | Command::StopTunnel { .. }
            | Command::FenceSessions { .. }
            | Command::KeepLineage { .. }
            | Command::Report(_) => 0,
        };
        self.commands.iter().map(of).sum()
    }
}

impl Recorder {
    /// Begins a recording of a controller with this seed, whose time zero is `started` (RFC 3339).
    ///
    /// # Errors
    ///
    /// If the file is there already or cannot be written, or the thread cannot be started.
    pub fn start(to: &RecordTo, seed: u64, started: String, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to.path)?;
        let header = Header { format: FORMAT, changeover: env!("CARGO_PKG_VERSION").to_owned(), seed, started };
        tracing::info!(file = %to.path.display(), max = to.max, "decisions are recorded");
        Self::write_to(BufWriter::new(file), header, to, [QUEUE, ROUTES], Arc::clone(metrics))
    }

    fn write_to<W: Write + Send + 'static>(
        file: W,
        header: Header,
        to: &RecordTo,
        [turns_max, routes_max]: [usize; 2],
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let (queue, turns) = sync_channel(turns_max);
        let (ends, done) = sync_channel(0);
        let why = Arc::new(OnceLock::new());
        let told = Arc::clone(&why);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = to.max.saturating_sub(LAST_LINE_MAX);
        let mut writer = Writer { file, scribe: Scribe::default(), left, waiting: Arc::clone(&waiting) };
        let path = to.path.clone();
        metrics.set_recording(true);
        thread::Builder::new().name("recorder".to_owned()).spawn(move || {
            let ended = writer.write_all(&header, &turns, &told);
            metrics.set_recording(false);
            tell_end(&path, ended);
            drop::<SyncSender<()>>(ends);
        })?;
        Ok(Self { queue: Some(queue), waiting, routes_max, turn: None, why, done })
    }

    /// The controller is about to be told `event`. Should it panic, this is the last that is noted.
    fn told(&mut self, at: MonoTime, event: &Event) {
        self.turn = self.queue.as_ref().map(|_| Turn { at, event: event.clone(), commands: Vec::new() });
    }

    /// It wants this done.
    fn decided(&mut self, commands: &[Command]) {
        if let Some(turn) = &mut self.turn {
            turn.commands = commands.to_vec();
        }
    }

    /// Hands the turn over. Never waits.
    fn note(&mut self) {
        let Some((queue, turn)) = self.queue.as_ref().zip(self.turn.take()) else { return };
        let routes = turn.routes();
        // However large a table is, one may wait.
        let before = self.waiting.fetch_add(routes, Ordering::Relaxed);
        if routes > 0 && before > 0 && before.saturating_add(routes) > self.routes_max {
            return self.end(TOO_SLOW);
        }
        match queue.try_send(turn) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.end(TOO_SLOW),
            // The thread has said why it has ended.
            Err(TrySendError::Disconnected(_)) => self.queue = None,
        }
    }

    /// What was noted is the end.
    fn end(&mut self, why: &'static str) {
        // A first reason is the reason.
        let _told_before = self.why.set(why);
        self.queue = None;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if thread::panicking() {
            self.note();
            self.end(PANICKED);
        } else {
            self.end(STOPPED);
        }
        match self.done.recv_timeout(LAST_LINES) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("the last of the recording is not written after {LAST_LINES:?}: it will lack its end");
            }
        }
    }
}

/// Says in the log that nothing is recorded any more.
fn tell_end(path: &Path, ended: Result<&'static str, io::Error>) {
    let file = path.display();
    match ended {
        Ok(why @ (STOPPED | PANICKED)) => tracing::info!(%file, "the recording has ended: {why}"),
        Ok(why) => tracing::error!(%file, "the recording has ended, and the daemon goes on: {why}"),
        Err(error) => tracing::error!(%file, %error, "the recording cannot be written, and the daemon goes on without"),
    }
}

/// The thread's hands.
struct Writer<W> {
    file: W,
    scribe: Scribe,
    /// Bytes that the file may grow by.
    left: u64,
    waiting: Arc<AtomicUsize>,
}

impl<W: Write> Writer<W> {
    /// Writes until there is an end, and says why there is.
    fn write_all(
        &mut self,
        header: &Header,
        turns: &Receiver<Turn>,
        why: &OnceLock<&'static str>,
    ) -> io::Result<&'static str> {
        let mut fits = self.write(&header.line()?)?;
        while fits && let Some(turn) = self.next(turns)? {
            let line = self.scribe.line(turn.at, &turn.event, &turn.commands)?;
            fits = self.write(&line)?;
            self.waiting.fetch_sub(turn.routes(), Ordering::Relaxed);
        }
        let why = if fits { why.get().copied().unwrap_or(STOPPED) } else { TOO_LARGE };
        self.file.write_all(Line::end(why)?.as_bytes())?;
        self.file.flush()?;
        Ok(why)
    }

    /// The next turn; none when there will be no more.
    fn next(&mut self, turns: &Receiver<Turn>) -> io::Result<Option<Turn>> {
        match turns.try_recv() {
            Ok(turn) => Ok(Some(turn)),
            Err(TryRecvError::Disconnected) => Ok(None),
            Err(TryRecvError::Empty) => {
                // Nobody waits: a good time to see to it that all is in the file. While somebody always does, the buffer
                // fills by itself, and sooner than in a second.
                self.file.flush()?;
                Ok(turns.recv().ok())
            }
        }
    }

    /// Writes a line, or says that it would be too much.
    fn write(&mut self, line: &str) -> io::Result<bool> {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(length) else { return Ok(false) };
        self.left = left;
        self.file.write_all(line.as_bytes())?;
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]
mod tests {
    use std::io::{self, Write};
    use std::path::PathBuf;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::{PANICKED, RecordTo, Recorder, TOO_LARGE, TOO_SLOW};
    use crate::failover::recording::{FORMAT, Header, Line};
    use crate::failover::{Command, Event, PoolRoutes, RouteTable};
    use crate::model::{DialPlan, Generation, HoldPlan, MonoTime, PoolKind, PoolName, Resend, WhenDown};
    use crate::telemetry::Metrics;

    /// A disk that writes nothing before it is let go, and says when it is asked to for the first time.
    struct Disk {
        asked: Option<Sender<()>>,
        gate: Receiver<()>,
        kept: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(asked) = self.asked.take() {
                asked.send(()).ok();
            }
            // Its other end is gone once it is let go.
            assert!(self.gate.recv().is_err());
            let mut kept = self.kept.lock().unwrap();
            if kept.len() + bytes.len() > self.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            kept.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Rig {
        recorder: Recorder,
        asked: Receiver<()>,
        gate: Sender<()>,
        kept: Arc<Mutex<Vec<u8>>>,
        metrics: Arc<Metrics>,
    }

    fn rig(max: u64, queue: [usize; 2], room: usize) -> Rig {
        let (asks, asked) = channel();
        let (gate, opened) = channel();
        let kept = Arc::default();
        let disk = Disk { asked: Some(asks), gate: opened, kept: Arc::clone(&kept), room };
        let header = Header { format: FORMAT, changeover: "0".to_owned(), seed: 1, started: String::new() };
        let to = RecordTo { path: PathBuf::from("disk"), max };
        let metrics = Arc::new(Metrics::new().unwrap());
        let recorder = Recorder::write_to(disk, header, &to, queue, Arc::clone(&metrics)).unwrap();
        Rig { recorder, asked, gate, kept, metrics }
    }

    /// A turn in which nothing happened but this.
    fn note(recorder: &mut Recorder, at: u64, commands: &[Command]) {
        recorder.told(MonoTime::from_nanos(at), &Event::Tick);
        recorder.decided(commands);
        recorder.note();
    }

    /// A table of so many pools without a route.
    fn publish(pools: u32) -> Command {
        let second = Duration::from_secs(1);
        let routes = |number: u32| PoolRoutes {
            others: Default::default(),
            kind: PoolKind::Tcp,
            servers: Vec::new(),
            lingering: Vec::new(),
            name: PoolName::from(number.to_string().as_str()),
            dial: DialPlan { connect_timeout: second, connect_attempts: 1, resend: Resend::Never },
            hold: HoldPlan { when_down: WhenDown::Hold, hold: second, hold_limit: 1 },
            pending: false,
            paused: false,
            tiers: Vec::new(),
        };
        let pools = (0..pools).map(routes).map(|routes| (routes.name.clone(), Arc::new(routes))).collect();
        Command::PublishTable(Arc::new(RouteTable { generation: Generation(1), pools }))
    }

    /// Waits for what the thread does.
    #[track_caller]
    fn until(mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(30), "waited in vain");
            std::thread::yield_now();
        }
    }

    fn is_recording(metrics: &Metrics) -> bool {
        metrics.text().contains("\nchangeover_recording_active 1\n")
    }

    /// The numbers of the turns that were kept, and the end.
    fn read(kept: &Mutex<Vec<u8>>) -> (Vec<u64>, Option<String>) {
        let (mut turns, mut end) = (Vec::new(), None);
        for line in kept.lock().unwrap().split_inclusive(|&byte| byte == b'\n').skip(1) {
            match Line::read(line).unwrap() {
                Line::Turn(turn) => turns.push(turn.at.as_nanos()),
                Line::End(why) => end = Some(why),
            }
        }
        (turns, end)
    }

    #[test]
    fn a_disk_that_does_not_keep_up_ends_the_recording_and_delays_nobody() {
        let Rig { mut recorder, asked, gate, kept, metrics } = rig(1 << 20, [4, 1000], usize::MAX);
        // The thread is at the header, and will stay there: four more fit in the queue.
        asked.recv().unwrap();
        assert!(is_recording(&metrics));
        for at in 0..100 {
            note(&mut recorder, at, &[]);
        }
        assert!(recorder.queue.is_none(), "it is noted that there is a hole");
        drop(gate);
        drop(recorder);
        assert_eq!(read(&kept), (vec![0, 1, 2, 3], Some(TOO_SLOW.to_owned())), "what is written has no hole");
        assert!(!is_recording(&metrics));
    }

    #[test]
    fn large_tables_that_wait_are_limited_too() {
        let Rig { mut recorder, asked, gate, kept, .. } = rig(1 << 20, [1000, 100], usize::MAX);
        asked.recv().unwrap();
        note(&mut recorder, 0, &[publish(150)]);
        note(&mut recorder, 1, &[]);
        assert!(recorder.queue.is_some(), "however large a table is, one may wait, and what is small behind it");
        note(&mut recorder, 2, &[publish(1)]);
        assert!(recorder.queue.is_none(), "what waits is more than the limit");
        drop(gate);
        drop(recorder);
        assert_eq!(read(&kept), (vec![0, 1], Some(TOO_SLOW.to_owned())));

        let Rig { mut recorder, gate, kept, .. } = rig(1 << 20, [1000, 100], usize::MAX);
        drop(gate);
        for at in 0..10 {
            note(&mut recorder, at, &[publish(80)]);
            // What is written waits no more.
            until(|| recorder.waiting.load(Ordering::Relaxed) == 0);
        }
        drop(recorder);
        assert_eq!(read(&kept).0, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn what_the_controller_died_of_is_the_last_turn() {
        let Rig { recorder, gate, kept, .. } = rig(1 << 20, [1000, 1000], usize::MAX);
        drop(gate);
        let control = std::thread::spawn(move || {
            let mut recorder = recorder;
            note(&mut recorder, 1, &[]);
            recorder.told(MonoTime::from_nanos(2), &Event::Tick);
            panic!("for the test");
        });
        assert!(control.join().is_err());
        assert_eq!(read(&kept), (vec![1, 2], Some(PANICKED.to_owned())));
    }

    #[test]
    fn a_recording_ends_at_its_limit() {
        let Rig { mut recorder, gate, kept, metrics, .. } = rig(1000, [1000, 1000], usize::MAX);
        for at in 0..500 {
            note(&mut recorder, at, &[]);
        }
        drop(gate);
        drop(recorder);
        let (turns, end) = read(&kept);
        assert_eq!(end.as_deref(), Some(TOO_LARGE));
        assert!(!turns.is_empty() && turns.len() < 500, "{turns:?}");
        assert_eq!(turns, (0..u64::try_from(turns.len()).unwrap()).collect::<Vec<_>>(), "what is written has no hole");
        assert!(kept.lock().unwrap().len() <= 1000);
        assert!(!is_recording(&metrics));
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_the_next_turns_are_let_go() {
        let Rig { mut recorder, gate, kept, metrics, .. } = rig(1 << 20, [1000, 1000], 200);
        for at in 0..100 {
            note(&mut recorder, at, &[]);
        }
        drop(gate);
        // The thread has ended when nobody takes the turns any more.
        until(|| {
            note(&mut recorder, 100, &[]);
            recorder.queue.is_none()
        });
        drop(recorder);
        let (turns, end) = read(&kept);
        assert_eq!(end, None);
        assert_eq!(turns, (0..u64::try_from(turns.len()).unwrap()).collect::<Vec<_>>());
        assert!(!is_recording(&metrics));
    }
}
