//! The daemon, and what is read of it from outside: `/proc`, its metrics and its log.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// What reading the metrics leaves behind has come to rest after this time.
const AFTER_METRICS: Duration = Duration::from_millis(200);

/// Where backend `at` is.
pub(crate) fn address(at: usize, port: u16) -> SocketAddr {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    SocketAddr::from((Ipv4Addr::from(first + u32::try_from(at).unwrap()), port))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Healthy,
    Unhealthy,
}

type Verdicts = Arc<Mutex<Vec<(Verdict, Instant)>>>;

pub(crate) struct Daemon {
    process: Child,
    place: TempDir,
    verdicts: Verdicts,
}

/// A thread's time so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Thread {
    pub(crate) run: Duration,
    /// For a core.
    pub(crate) waited: Duration,
    /// In clock ticks.
    user: u64,
    kernel: u64,
}

impl Thread {
    fn since(self, first: Self) -> Self {
        Self {
            run: self.run - first.run,
            waited: self.waited - first.waited,
            user: self.user - first.user,
            kernel: self.kernel - first.kernel,
        }
    }

    /// Which part of its time it was in the kernel.
    pub(crate) fn in_kernel(&self) -> f64 {
        self.kernel as f64 / (self.kernel + self.user).max(1) as f64
    }
}

/// What threads have had of their processors, at a moment.
#[derive(Debug, Clone, Copy)]
struct Times {
    at: Instant,
    control: Thread,
    probes: Thread,
    process: Duration,
}

/// The figures so far. To read the metrics costs the daemon something, which is no part of what is measured: the times are
/// those before it if it ends a measurement, and those after it if it begins one.
pub(crate) struct Sample {
    before: Times,
    asked: Instant,
    checks: u64,
    failed: u64,
    inconclusive: u64,
    tables: u64,
    resident: u64,
    after: Times,
}

/// What came to pass between two samples.
pub(crate) struct Figures {
    time: Duration,
    pub(crate) control: Thread,
    pub(crate) probes: Thread,
    pub(crate) process: Duration,
    pub(crate) checks_per_second: f64,
    pub(crate) failed: u64,
    pub(crate) inconclusive: u64,
    pub(crate) tables: u64,
    pub(crate) resident: u64,
}

impl Sample {
    pub(crate) fn since(&self, first: &Self) -> Figures {
        let (now, then) = (&self.before, &first.after);
        let checks = self.checks - first.checks;
        Figures {
            time: now.at - then.at,
            control: now.control.since(then.control),
            probes: now.probes.since(then.probes),
            process: now.process - then.process,

            checks_per_second: checks as f64 / (self.asked - first.asked).as_secs_f64(),
            failed: self.failed - first.failed,
            inconclusive: self.inconclusive - first.inconclusive,
            tables: self.tables - first.tables,
            resident: self.resident,
        }
    }

    /// What the control thread and the one that probes have had of their cores, since the daemon began.
    pub(crate) const fn spent(&self) -> [Duration; 2] {
        [self.before.control.run, self.before.probes.run]
    }
}

impl Figures {
    pub(crate) fn share(&self, of: Duration) -> f64 {
        of.as_secs_f64() / self.time.as_secs_f64()
    }

    /// What a check costs `thread`, in microseconds.
    pub(crate) fn each_us(&self, thread: &Thread) -> f64 {
        self.share(thread.run) * 1e6 / self.checks_per_second
    }
}

impl Daemon {
    /// One with `pools` pools, over which backends at these ports are spread.
    pub(crate) fn start(pools: usize, ports: &[u16]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("crowd.toml");
        fs::write(&file, plan(&place, pools, ports)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_changeover"));
        command.arg("run").arg("--config").arg(&file).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let log = process.stderr.take().unwrap();
        let verdicts = Verdicts::default();
        let heard = Arc::clone(&verdicts);
        thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let kinds = [("\"backend.healthy\"", Verdict::Healthy), ("\"backend.unhealthy\"", Verdict::Unhealthy)];
                let found = kinds.iter().find(|(kind, _)| line.contains(kind));
                heard.lock().unwrap().extend(found.map(|(_, verdict)| (*verdict, Instant::now())));
                if line.contains("daemon.stalled") {
                    println!("  {line}");
                }
            }
        });
        Self { process, place, verdicts }
    }

    pub(crate) fn forget_verdicts(&self) {
        self.verdicts.lock().unwrap().clear();
    }

    /// Waits for so many of them, and tells when each was logged.
    pub(crate) fn wait_for(&self, verdict: &Verdict, count: usize) -> Vec<Instant> {
        let begun = Instant::now();
        loop {
            let verdicts = self.verdicts.lock().unwrap();
            let seen: Vec<Instant> = verdicts.iter().filter(|(of, _)| of == verdict).map(|(_, at)| *at).collect();
            drop(verdicts);
            if seen.len() >= count {
                return seen;
            }
            assert!(begun.elapsed() < PATIENCE, "{} of {count} within {PATIENCE:?}", seen.len());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn sample(&self) -> Sample {
        let before = self.times();
        let asked = Instant::now();
        let metrics = self.metrics();
        thread::sleep(AFTER_METRICS);
        let count = |family: &str, part: &str| sum(&metrics, family, part);
        Sample {
            before,
            asked,
            checks: count("changeover_check_total", ""),
            failed: count("changeover_check_total", "\"failed\""),
            inconclusive: count("changeover_check_total", "\"inconclusive\""),
            tables: count("changeover_route_table_generation", ""),
            resident: resident(self.process.id()),
            after: self.times(),
        }
    }

    /// How long a scrape of the metrics takes, and how many bytes it has.
    pub(crate) fn scrape(&self) -> (Duration, usize) {
        let begun = Instant::now();
        let mut socket = self.ask_metrics();
        let (mut piece, mut bytes) = (vec![0; 1 << 18], 0);
        loop {
            match socket.read(&mut piece).unwrap() {
                0 => return (begun.elapsed(), bytes),
                read => bytes += read,
            }
        }
    }

    fn times(&self) -> Times {
        let threads: Vec<(String, Thread)> = fs::read_dir(format!("/proc/{}/task", self.process.id()))
            .unwrap()
            .filter_map(|task| {
                let read = |name: &str| fs::read_to_string(task.as_ref().ok()?.path().join(name)).ok();
                Some((read("comm")?, thread_time(&read("schedstat")?, &read("stat")?)))
            })
            .collect();
        let named = |wanted: &str| threads.iter().find(|(name, _)| name.trim() == wanted).map(|(_, time)| *time);
        let process = threads.iter().map(|(_, time)| time.run).sum();
        Times { at: Instant::now(), control: named("control").unwrap(), probes: named("probes").unwrap(), process }
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        self.ask_metrics().read_to_string(&mut text).unwrap();
        text
    }

    /// By the version of HTTP whose answers are not cut in chunks.
    fn ask_metrics(&self) -> UnixStream {
        let mut socket = UnixStream::connect(self.place.path().join("admin.sock")).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        socket
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn plan(place: &TempDir, pools: usize, ports: &[u16]) -> String {
    let socket = |name: &str| format!("\"unix:{}\"", place.path().join(name).display());
    let mut text = format!("[admin]\nbind = {}\n[log]\nformat = \"json\"\n", socket("admin.sock"));
    write!(text, "[listeners.l]\nbind = {}\npool = \"p0\"\n", socket("listener.sock")).unwrap();
    for pool in 0..pools {
        write!(text, "[pools.p{pool}.check]\nkind = \"tcp\"\ninterval = \"1s\"\n").unwrap();
    }
    for (at, &port) in ports.iter().enumerate() {
        let pool = at * pools / ports.len();
        write!(text, "[pools.p{pool}.backends.b{at}]\naddress = \"{}\"\n", address(at, port)).unwrap();
    }
    text
}

fn thread_time(schedstat: &str, stat: &str) -> Thread {
    let mut times = schedstat.split_whitespace().map(|word| Duration::from_nanos(word.parse().unwrap()));
    // The name stands in brackets and may hold anything; after it the state is the first word.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let mut ticks = rest.split_whitespace().skip(11).map(|word| word.parse().unwrap());
    Thread {
        run: times.next().unwrap(),
        waited: times.next().unwrap(),
        user: ticks.next().unwrap(),
        kernel: ticks.next().unwrap(),
    }
}

/// All series of `family` that have `part` among their labels, summed up.
fn sum(metrics: &str, family: &str, part: &str) -> u64 {
    let of_family = |line: &&str| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let lines = metrics.lines().filter(of_family).filter(|line| line.contains(part));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
