//! State and history under real processes: killed under load, and on a disk that is really full.
//!
//! The writer is this program itself, started again with [`ROLE`] set: the test of that name then is the writer.
//! It says on its standard output what it was told is durable, one line each, and ends only by being killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use changeover::model::{BackendName, EventRecord, PoolName, StorePlan};
use changeover::store::{Applied, Change, Filter, Opened, PAGE_MAX, PoolCounters, StoreHandle, open};
use changeover::sys::Clock;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use support::DEADLINE;
use support::process::Guarded;

/// What says to this program that it is the writer, and in which directory.
const ROLE: &str = "CHANGEOVER_TEST_WRITER";
/// How many bytes the writer's files may have.
const FILE_LIMIT: &str = "CHANGEOVER_TEST_FILE_LIMIT";
/// How often the writer is killed.
const KILLS: u64 = 40;
/// So much is behind it before it is killed, and more with each time, so that it is never at the same place.
const ACKNOWLEDGED: u64 = 5;

fn open_in(directory: &Path) -> Opened {
    let plan = StorePlan { state_dir: Some(directory.to_owned()), ..StorePlan::default() };
    open(&plan, DEADLINE, Clock::start()).unwrap()
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    support::block_on("the store has answered", work)
}

fn event(kind: &str, run: u64, number: u64) -> EventRecord {
    let clock = Clock::start();
    let mut event = EventRecord::new(clock.wall(clock.now()), kind);
    event.detail.insert("run".to_owned(), run.into());
    event.detail.insert("number".to_owned(), number.into());
    event
}

fn all(store: &StoreHandle) -> Vec<(u64, String)> {
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let page = wait(store.events(Filter::default(), Some(after), PAGE_MAX)).unwrap();
        assert!(!page.is_partial);
        after = page.next;
        events.extend(page.events.iter().map(|event| (event.id, event.kind.clone())));
        if page.events.len() < PAGE_MAX {
            return events;
        }
    }
}

/// The writer: changes and events by turns, several at once, for ever. Not a test unless [`ROLE`] is set.
#[test]
fn writer() {
    let Some(directory) = std::env::var_os(ROLE) else { return };
    if let Some(limit) = std::env::var_os(FILE_LIMIT) {
        let limit = limit.to_str().unwrap().parse().unwrap();
        let maximum = getrlimit(Resource::Fsize).maximum;
        // Only the soft limit, so that it can be lifted from outside; the test has SIGXFSZ ignored for us.
        setrlimit(Resource::Fsize, Rlimit { current: Some(limit), maximum }).unwrap();
    }
    let Opened { handle, state } = open_in(Path::new(&directory));
    let pool = PoolName::from("p");
    let run = state.counters.get(&pool).map_or(0, |counters| counters.recoveries) + 1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        // The reader may be gone, and then we are about to be killed.
        let _gone = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    };
    runtime.block_on(async {
        for number in 1_u64.. {
            let counters = Change::Counters(
                pool.clone(),
                Some(PoolCounters { last_failover: number, failovers: number, recoveries: run }),
            );
            let key = (pool.clone(), BackendName::from(format!("b{}", number % 50).as_str()));
            let table = Change::Registration(key, Some(format!("{{\"run\":{run},\"number\":{number}}}")));
            handle.append(event("appended", run, number));
            let first = handle.change(vec![counters, table], vec![event("first", run, number)]);
            handle.append(event("appended", run, number));
            let second = handle.change(Vec::new(), vec![event("second", run, number)]);
            let said = |name: &str, applied: Applied| {
                let durable = if applied.is_durable { "durable" } else { "kept" };
                say(format!("{durable} {name} {} {run} {number}\n", applied.events[0].id));
            };
            said("first", first.await.unwrap());
            said("second", second.await.unwrap());
        }
    });
}

/// What a writer said.
#[derive(Debug, Clone)]
struct Said {
    is_durable: bool,
    name: String,
    id: u64,
    run: u64,
    number: u64,
}

fn parse(line: &str) -> Option<Said> {
    let words: Vec<&str> = line.split(' ').collect();
    let [durable, name, id, run, number] = words[..] else { return None };
    let is_durable = match durable {
        "durable" => true,
        "kept" => false,
        _ => return None,
    };
    let number_of = |word: &str| word.parse::<u64>().ok();
    Some(Said {
        is_durable,
        name: name.to_owned(),
        id: number_of(id)?,
        run: number_of(run)?,
        number: number_of(number)?,
    })
}

struct Writer {
    child: Guarded,
    said: Receiver<Said>,
}

impl Writer {
    fn start(directory: &Path, limit: Option<u64>) -> Self {
        // The shell ignores SIGXFSZ, and what it becomes inherits that: writes beyond the limit then fail.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" --exact writer --nocapture --test-threads=1"]);
        command.arg(std::env::current_exe().unwrap()).env(ROLE, directory);
        if let Some(limit) = limit {
            command.env(FILE_LIMIT, limit.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child: Child = command.spawn().unwrap();
        let stdout: ChildStdout = child.stdout.take().unwrap();
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The line that a kill cut short is not one.
                if let Some(said) = parse(&line) {
                    tell.send(said).ok();
                }
            }
        });
        Self { child: Guarded(child), said }
    }

    #[track_caller]
    fn hear(&self) -> Said {
        self.said.recv_timeout(DEADLINE).expect("the writer says something")
    }

    /// Kills it, and gives the rest of what it said.
    fn kill(mut self) -> Vec<Said> {
        self.child.0.kill().unwrap();
        self.child.wait();
        self.said.iter().collect()
    }
}

#[test]
fn what_was_acknowledged_is_there_after_forty_kills() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    let mut latest = (0, 0);
    for kill in 0..KILLS {
        let writer = Writer::start(directory.path(), None);
        let mut said: Vec<Said> = (0..ACKNOWLEDGED + kill).map(|_| writer.hear()).collect();
        said.extend(writer.kill());
        let before = acknowledged.last_key_value().map_or(0, |(id, _)| *id);
        assert!(said[0].id > before, "run {kill}: ids go on");
        for pair in said.windows(2) {
            // Between one answer and the next lies at most the event that was appended without one.
            assert!((1..=2).contains(&(pair[1].id - pair[0].id)), "run {kill}: {pair:?}");
        }
        for said in said {
            assert!(said.is_durable, "run {kill}: {said:?}");
            latest = (said.run, said.number);
            acknowledged.insert(said.id, said.name);
        }
        let Opened { handle, state } = open_in(directory.path());
        let there = all(&handle);
        assert!(there.windows(2).all(|pair| pair[0].0 < pair[1].0), "run {kill}: in order, none twice");
        let by_id: BTreeMap<u64, String> = there.into_iter().collect();
        for (id, name) in &acknowledged {
            assert_eq!(by_id.get(id), Some(name), "run {kill}: event {id}");
        }
        // What this process gave out has no gap either, whether it was acknowledged or not.
        let first = acknowledged.range(before + 1..).next().map_or(0, |(id, _)| *id);
        let last = by_id.last_key_value().map_or(0, |(id, _)| *id);
        assert_eq!(by_id.range(first..).count() as u64, last - first + 1, "run {kill}: no gap");
        let counters = state.counters[&PoolName::from("p")];
        assert_eq!(counters.recoveries, latest.0, "run {kill}");
        assert!(counters.failovers >= latest.1, "run {kill}: {counters:?}, {latest:?}");
        // The counter and the registration of one transaction are of the same.
        let (run, number) = (counters.recoveries, counters.failovers);
        let key = (PoolName::from("p"), BackendName::from(format!("b{}", number % 50).as_str()));
        assert_eq!(state.registrations[&key], format!("{{\"run\":{run},\"number\":{number}}}"), "run {kill}");
        assert_eq!(handle.figures().unreadable, 0);
        assert!(wait(handle.close()));
    }
    println!("{} acknowledged, over {KILLS} kills", acknowledged.len());
    let aside = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(aside, 1, "nothing was taken for corrupt");
}

#[test]
fn a_disk_that_is_really_full_stops_nobody_and_what_was_written_stays() {
    const LIMIT: u64 = 3 << 20;
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::start(directory.path(), Some(LIMIT));
    let pid = rustix::process::Pid::from_child(&writer.child.0);
    let (begun, mut durable) = (Instant::now(), Vec::new());
    let kept = loop {
        let said = writer.hear();
        assert!(begun.elapsed() < 4 * DEADLINE, "{} events, and the disk is not full", durable.len());
        if !said.is_durable {
            break said;
        }
        durable.push(said.id);
    };
    assert!(durable.len() > 100, "the limit is not reached at once: {}", durable.len());
    assert!(kept.id > *durable.last().unwrap());
    // It goes on, and says that it does not know more.
    assert!((0..1000).all(|_| !writer.hear().is_durable));
    // Room is made, and it mends itself.
    let lifted = Rlimit { current: None, maximum: getrlimit(Resource::Fsize).maximum };
    rustix::process::prlimit(Some(pid), Resource::Fsize, lifted).unwrap();
    let give_up = Instant::now() + DEADLINE;
    let mended = loop {
        let said = writer.hear();
        if said.is_durable {
            break said.id;
        }
        assert!(Instant::now() < give_up, "it is not durable again");
    };
    kill_process(pid, Signal::KILL).unwrap();
    let rest = writer.kill();
    durable.push(mended);
    durable.extend(rest.iter().filter(|said| said.is_durable).map(|said| said.id));
    let Opened { handle, .. } = open_in(directory.path());
    let by_id: BTreeMap<u64, String> = all(&handle).into_iter().collect();
    assert!(durable.iter().all(|id| by_id.contains_key(id)), "everything that was acknowledged");
    assert_eq!(by_id.values().filter(|kind| *kind == "store.recovered").count(), 1);
    assert!(wait(handle.close()));
}
