//! The last that tunnels' programs have said, for people to read, and for the log as far as that can take it.
//!
//! What was said outlives the run that said it: why a tunnel ended is asked after its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{BackendName, MonoTime, PoolName, Secret, TunnelPlan, Via, WallTime};
use crate::sys::Clock;
use crate::wire::Lines;

use super::mask::Mask;

/// The most lines that are kept of a tunnel.
pub const LINES_MAX: usize = 500;
/// The most bytes of them.
pub const BYTES_MAX: usize = 64 << 10;
/// How many lines of a tunnel go to the log in a second.
const LOGGED_PER_SECOND: u32 = 20;

/// What was logged is not logged again for so long; who wants all of it asks for the lines.
const REPEAT_AFTER: Duration = Duration::from_secs(600);
/// How many lines are known of which that is so.
const REPEATS_KNOWN: usize = 16;

/// A backend by its pool's name and its own.
type Name = (PoolName, BackendName);

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number; grows, and is never used twice for a tunnel. A line that is said again is one line with a new number.
    pub seq: u64,
    /// When it was said, for the last time.
    pub time: WallTime,
    /// What was said, and how often if more than once.
    pub text: String,
}

/// Some lines of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The lines, the oldest first.
    pub lines: Vec<Line>,
    /// After which number to go on.
    pub next: u64,
    /// Whether lines were lost that nobody read before them.
    pub is_gap: bool,
}

#[derive(Debug)]
struct Kept {
    seq: u64,
    time: WallTime,
    text: String,
    times: u64,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Kept>,
    bytes: usize,
    last: u64,
    /// The number of the last line that went.
    lost: u64,
    /// How many lines may go to the log now, and when that was reckoned; and how many did not.
    tokens: f64,
    reckoned: Option<MonoTime>,
    unlogged: u64,
    /// What was logged of late, and when: a check that fails each second has many programs say the same each second.
    logged: VecDeque<(String, MonoTime)>,
}

/// Who says a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    /// The program.
    Program,
    /// We, about it.
    Us,
}

/// What there is of all tunnels. A handle on it; from any thread.
#[derive(Clone)]
pub struct Outputs {
    clock: Clock,
    rings: Arc<Mutex<BTreeMap<Name, Ring>>>,
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outputs").field("tunnels", &self.lock().len()).finish()
    }
}

impl Outputs {
    /// Nothing yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, rings: Arc::default() }
    }

    /// At most `limit` lines of a tunnel after the one with the number `after`, 0 being before the first; none if nothing
    /// was ever said there.
    #[must_use]
    pub fn lines(&self, of: &(PoolName, BackendName), after: u64, limit: usize) -> Option<Page> {
        let rings = self.lock();
        let ring = rings.get(of)?;
        let new = ring.lines.iter().filter(|line| line.seq > after).take(limit);
        let lines: Vec<Line> =
            new.map(|line| Line { seq: line.seq, time: line.time, text: told(&line.text, line.times) }).collect();
        let next = lines.last().map_or(after.min(ring.last), |line| line.seq);
        Some(Page { lines, next, is_gap: ring.lost > after })
    }

    /// The last lines of a tunnel, at most `limit`.
    #[must_use]
    pub fn last_lines(&self, of: &(PoolName, BackendName), limit: usize) -> Option<Page> {
        let after = {
            let rings = self.lock();
            let ring = rings.get(of)?;
            ring.lines.len().checked_sub(limit + 1).and_then(|at| ring.lines.get(at)).map_or(ring.lost, |line| line.seq)
        };
        self.lines(of, after, limit)
    }

    /// Forgets all but these.
    pub fn retain(&self, names: &BTreeSet<(PoolName, BackendName)>) {
        self.lock().retain(|name, _| names.contains(name));
    }

    /// Where what a program says goes whose backend is reached by `plan`.
    #[must_use]
    pub fn sink(&self, plan: &TunnelPlan) -> Sink {
        Sink { ear: self.ear(plan), lines: Lines::default() }
    }

    /// Where lines go that programs of `plan` say which are one for each connection. From any thread.
    pub(super) fn ear(&self, plan: &TunnelPlan) -> Ear {
        Ear { outputs: self.clone(), via: Arc::clone(&plan.via), mask: Mask::of(secrets(plan)) }
    }

    /// Held for a moment only: nothing in it can panic or wait.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Ring>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, via: &Via, text: String, speaker: Speaker) {
        let (now, mut is_logged, mut unlogged) = (self.clock.now(), false, 0);
        let time = self.clock.wall(now);
        {
            let mut rings = self.lock();
            let ring = rings.entry((via.pool.clone(), via.backend.clone())).or_default();
            if ring.is_new(now, &text, speaker) && ring.may_log(now) {
                (is_logged, unlogged) = (true, std::mem::take(&mut ring.unlogged));
            } else {
                ring.unlogged += 1;
            }
            ring.push(time, text.clone());
        }
        let (pool, backend) = (&via.pool, &via.backend);
        if unlogged > 0 {
            tracing::info!(%pool, %backend, lines = unlogged, "its tunnel said more, which `changeover tunnel logs` shows");
        }
        if is_logged {
            tracing::info!(%pool, %backend, line = text, "its tunnel says");
        }
    }
}

/// All that may be a secret of a plan.
pub(super) fn secrets(plan: &TunnelPlan) -> impl Iterator<Item = &Secret> {
    use crate::model::LookupSource;

    let asked = plan.lookup.as_ref().map(|lookup| &lookup.source);
    let (command, authorization) = match asked {
        Some(LookupSource::Command(program)) => (Some(program), None),
        Some(LookupSource::Http { request, .. }) => (None, request.authorization.as_ref()),
        None => (None, None),
    };
    plan.program.iter().chain(command).flat_map(|program| program.secrets()).chain(authorization)
}

fn told(text: &str, times: u64) -> String {
    if times > 1 { format!("{text} … {times} times") } else { text.to_owned() }
}

impl Ring {
    fn push(&mut self, time: WallTime, text: String) {
        self.last += 1;
        if let Some(last) = self.lines.back_mut().filter(|last| last.text == text) {
            (last.seq, last.time, last.times) = (self.last, time, last.times + 1);
            return;
        }
        self.bytes += text.len();
        self.lines.push_back(Kept { seq: self.last, time, text, times: 1 });
        while self.lines.len() > LINES_MAX || self.bytes > BYTES_MAX {
            let Some(gone) = self.lines.pop_front() else { return };
            self.bytes -= gone.text.len();
            self.lost = gone.seq;
        }
    }

    /// Whether nothing like it was logged of late. What programs say differs by the number of a channel, a port or a time.
    fn is_new(&mut self, now: MonoTime, text: &str, speaker: Speaker) -> bool {
        let is_kept = |c: &char| speaker == Speaker::Us || !c.is_ascii_digit();
        let shape: String = text.chars().filter(is_kept).collect();
        self.logged.retain(|(_, at)| now.since(*at) < REPEAT_AFTER);
        if self.logged.iter().any(|(known, _)| *known == shape) {
            return false;
        }
        self.logged.push_back((shape, now));
        if self.logged.len() > REPEATS_KNOWN {
            self.logged.pop_front();
        }
        true
    }

    /// Whether one more line may go to the log.
    fn may_log(&mut self, now: MonoTime) -> bool {
        let most = f64::from(LOGGED_PER_SECOND);
        let since = self.reckoned.replace(now).map_or(1.0, |last| now.since(last).as_secs_f64());
        self.tokens = since.mul_add(most, self.tokens).min(most);
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

/// Takes what a program says. Its secrets stay here.
pub struct Sink {
    ear: Ear,
    lines: Lines,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("via", &self.ear.via).finish_non_exhaustive()
    }
}

impl Sink {
    /// Takes bytes as they come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.feed_each(bytes, |_, _| {});
    }

    /// The same; `each` is given every line as it was said and as it may be shown.
    pub(super) fn feed_each(&mut self, bytes: &[u8], mut each: impl FnMut(&str, &str)) {
        let Self { ear, lines } = self;
        lines.feed(bytes, |line| each(&line, &ear.hear(&line)));
    }

    /// Nothing more will be said: what was begun is a line.
    pub fn end(&mut self) {
        self.end_each(|_, _| {});
    }

    pub(super) fn end_each(&mut self, mut each: impl FnMut(&str, &str)) {
        let Self { ear, lines } = self;
        lines.end(|line| each(&line, &ear.hear(&line)));
    }

    /// A line of our own about it.
    pub fn note(&self, text: &str) {
        let Ear { outputs, via, mask } = &self.ear;
        outputs.say(via, mask.apply(text.to_owned()), Speaker::Us);
    }

    /// `text` without its secrets.
    pub(super) fn masked(&self, text: String) -> String {
        self.ear.mask.apply(text)
    }
}

/// Takes lines, whoever has split them.
pub(super) struct Ear {
    outputs: Outputs,
    via: Arc<Via>,
    mask: Mask,
}

impl Ear {
    /// Keeps a line; gives it as it may be shown.
    pub(super) fn hear(&self, line: &str) -> String {
        let shown = self.mask.apply(line.to_owned());
        self.outputs.say(&self.via, shown.clone(), Speaker::Program);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::plan;

    fn name() -> Name {
        ("p".into(), "b".into())
    }

    fn said(outputs: &Outputs, after: u64, limit: usize) -> (Vec<String>, u64, bool) {
        let Page { lines, next, is_gap } = outputs.lines(&name(), after, limit).unwrap();
        (lines.into_iter().map(|line| line.text).collect(), next, is_gap)
    }

    #[test]
    fn lines_are_read_in_pages_and_repeats_are_one() {
        let outputs = Outputs::new(Clock::start());
        assert_eq!(outputs.lines(&name(), 0, 9), None);
        let mut sink = outputs.sink(&plan(&[]));
        sink.feed(b"a\nb\nb\nb\nc");
        assert_eq!(said(&outputs, 0, 9), (vec!["a".to_owned(), "b … 3 times".to_owned()], 4, false));
        sink.end();
        assert_eq!(said(&outputs, 0, 1), (vec!["a".to_owned()], 1, false));
        assert_eq!(said(&outputs, 1, 1), (vec!["b … 3 times".to_owned()], 4, false));
        assert_eq!(said(&outputs, 4, 9), (vec!["c".to_owned()], 5, false));
        assert_eq!(said(&outputs, 5, 9), (vec![], 5, false));
        assert_eq!(outputs.last_lines(&name(), 1).unwrap().lines.len(), 1);
        assert_eq!(outputs.last_lines(&name(), 9).unwrap().lines.len(), 3);
        outputs.retain(&BTreeSet::from([name()]));
        assert!(outputs.lines(&name(), 0, 9).is_some());
        outputs.retain(&BTreeSet::new());
        assert_eq!(outputs.lines(&name(), 0, 9), None);
    }

    #[test]
    fn what_is_kept_has_limits_and_what_went_is_told() {
        let outputs = Outputs::new(Clock::start());
        let mut sink = outputs.sink(&plan(&[]));
        for number in 0..=LINES_MAX {
            sink.feed(format!("{number}\n").as_bytes());
        }
        let (lines, _, is_gap) = said(&outputs, 0, usize::MAX);
        assert_eq!((lines.len(), lines[0].as_str(), is_gap), (LINES_MAX, "1", true));
        assert!(!said(&outputs, 1, usize::MAX).2, "whoever has read that one has lost nothing");
        for number in 0..100 {
            sink.feed(format!("{number}{}\n", "x".repeat(1000)).as_bytes());
        }
        let kept: usize = said(&outputs, 0, usize::MAX).0.iter().map(String::len).sum();
        assert!((BYTES_MAX - 2000..=BYTES_MAX).contains(&kept), "{kept}");
    }

    #[test]
    fn a_flood_does_not_reach_the_log() {
        let mut ring = Ring::default();
        let (start, mut logged) = (MonoTime::ZERO, 0);
        for _ in 0..1000 {
            logged += u32::from(ring.may_log(start));
        }
        assert_eq!(logged, LOGGED_PER_SECOND);
        assert!(ring.may_log(start + std::time::Duration::from_millis(50)));
        assert!(!ring.may_log(start + std::time::Duration::from_millis(50)));
    }

    #[test]
    fn what_is_said_again_is_not_logged_again_for_a_while() {
        let mut ring = Ring::default();
        let (mut now, second) = (MonoTime::ZERO, Duration::from_secs(1));
        let refused = |number: u32| format!("channel {number}: open failed: connect failed: Connection refused");
        let mut logged = 0;
        for number in 0..1200 {
            logged += u32::from(ring.is_new(now, &refused(number), Speaker::Program));
            now = now + second;
        }
        assert_eq!(logged, 2, "twice within twenty minutes");
        assert!(
            ring.is_new(now, "started with pid 7", Speaker::Us) && ring.is_new(now, "started with pid 8", Speaker::Us)
        );
        assert!(!ring.is_new(now, "started with pid 8", Speaker::Us));
        for number in 0..1000 {
            ring.is_new(now, &number.to_string(), Speaker::Us);
        }
        assert_eq!(ring.logged.len(), REPEATS_KNOWN);
    }
}
