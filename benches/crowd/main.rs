//! What ten thousand backends that are probed each second cost, on the real daemon: the processor time of its control
//! thread and of the thread that probes, how late probes and verdicts are, and what it costs when all die, stay dead and come back.
//!
//! `cargo bench --bench crowd` prints a table, each row from one daemon, and first the floor: a bare loop that connects
//! and closes as often and does nothing else. All backends are one listener of this process at all addresses of the
//! loopback network, which closes at once whatever it takes in. Compare processor times only: the two processes share
//! the machine. Arguments (after `--`): `--backends`, `--pools` (a list: a daemon for each), `--seconds` of a measurement.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for the terminal that gives up at a fault")]

mod backends;
mod daemon;
mod floor;

use std::thread::sleep;
use std::time::{Duration, Instant};

use backends::Backends;
use daemon::{Daemon, Figures, Verdict};

/// Backends that die while the others live.
const FEW: usize = 100;
/// Times that the metrics are read.
const SCRAPES: usize = 21;
/// What the start leaves behind has come to rest after this time.
const REST: Duration = Duration::from_secs(3);

struct Options {
    backends: usize,
    pools: Vec<usize>,
    time: Duration,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { backends: 10_000, pools: vec![1, 100], time: Duration::from_secs(20) };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{word} wants a value"));
            match word.as_str() {
                "--backends" => options.backends = value.parse().unwrap(),
                "--pools" => options.pools = value.split(',').map(|count| count.parse().unwrap()).collect(),
                "--seconds" => options.time = Duration::from_secs(value.parse().unwrap()),
                _ => panic!("{word} is unknown: --backends, --pools, --seconds"),
            }
        }
        options
    }
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("crowd: measures only as `cargo bench --bench crowd`");
        return;
    }
    let options = Options::read();
    println!("{} backends, each probed once a second; measured for {:?}\n", options.backends, options.time);
    let backends = Backends::start();
    let floor = floor::measure(backends.port(), options.backends, options.time);
    println!("bare loop: {:.1} % of a core, {:.1} us for each connection", floor.share * 100.0, floor.each_us);
    drop(backends);
    for &pools in &options.pools {
        println!("\n{pools} pools of {}", options.backends / pools);
        run(&options, pools, floor.each_us);
    }
}

/// One daemon's life: start, calm, a few die, all die, all are dead, all come back.
fn run(options: &Options, pools: usize, floor_us: f64) {
    let (mut all, mut few) = (Backends::start(), Backends::start());
    let count = options.backends;
    let ports: Vec<u16> = (0..count).map(|at| if at < FEW { few.port() } else { all.port() }).collect();
    let begun = Instant::now();
    let daemon = Daemon::start(pools, &ports);
    let seen = daemon.wait_for(&Verdict::Healthy, count);
    let took = seen[count - 1] - begun;
    let [control, probes] = daemon.sample().spent().map(|spent| spent.as_secs_f64());
    println!("- start: the last first verdict after {took:.2?}; control {control:.2} s, probes {probes:.2} s");

    sleep(REST);
    let before = daemon.sample();
    sleep(options.time);
    let calm = daemon.sample().since(&before);
    tell_calm(&calm, count, floor_us);
    tell_scrapes(&daemon);

    daemon.forget_verdicts();
    let died = Instant::now();
    few.stop();
    let mut late: Vec<Duration> = daemon.wait_for(&Verdict::Unhealthy, FEW).iter().map(|at| *at - died).collect();
    late.sort();
    println!("- {FEW} die: verdicts after {:.2?} (median), {:.2?} (last)", late[FEW / 2], late[FEW - 1]);

    daemon.forget_verdicts();
    let before = daemon.sample();
    let died = Instant::now();
    all.stop();
    let seen = daemon.wait_for(&Verdict::Unhealthy, count - FEW);
    tell_crowd(&daemon.sample().since(&before), "all die", seen[seen.len() - 1] - died);

    let before = daemon.sample();
    sleep(options.time / 4);
    let dead = daemon.sample().since(&before);
    println!(
        "- all dead: {:.0} probes a second, control {:.1} % of a core, probes {:.1} %",
        dead.checks_per_second,
        dead.share(dead.control.run) * 100.0,
        dead.share(dead.probes.run) * 100.0,
    );

    daemon.forget_verdicts();
    let before = daemon.sample();
    let back = Instant::now();
    all.again();
    few.again();
    let seen = daemon.wait_for(&Verdict::Healthy, count);
    tell_crowd(&daemon.sample().since(&before), "all come back", seen[seen.len() - 1] - back);
}

fn tell_calm(calm: &Figures, count: usize, floor_us: f64) {
    for (name, thread) in [("control", &calm.control), ("probes", &calm.probes)] {
        println!(
            "- calm: {name} {:.1} % of a core ({:.0} % of it in the kernel; waited for a core {:.1} %), {:.1} us a probe",
            calm.share(thread.run) * 100.0,
            thread.in_kernel() * 100.0,
            calm.share(thread.waited) * 100.0,
            calm.each_us(thread),
        );
    }
    let each_us = calm.each_us(&calm.control) + calm.each_us(&calm.probes);
    println!("- both {each_us:.1} us a probe: {:.2} of the bare loop's", each_us / floor_us);
    println!("- whole daemon {:.1} % of a core", calm.share(calm.process) * 100.0);
    println!(
        "- {:.0} probes a second, one of each backend every {:.3} s; {} failed, {} brought no evidence",
        calm.checks_per_second,
        count as f64 / calm.checks_per_second,
        calm.failed,
        calm.inconclusive,
    );
    println!("- {} tables published; {} MB resident", calm.tables, calm.resident >> 20);
}

fn tell_scrapes(daemon: &Daemon) {
    let mut scrapes: Vec<(Duration, usize)> = (0..SCRAPES).map(|_| daemon.scrape()).collect();
    scrapes.sort();
    let (least, _) = scrapes[0];
    let (median, bytes) = scrapes[SCRAPES / 2];
    println!(
        "- a scrape of {} MB of metrics: {median:.1?} (median of {SCRAPES}), {least:.1?} (least)",
        bytes / 1_000_000
    );
}

fn tell_crowd(figures: &Figures, what: &str, took: Duration) {
    println!(
        "- {what}: the last verdict after {took:.2?}; control {:.2} s, probes {:.2} s; {} tables published",
        figures.control.run.as_secs_f64(),
        figures.probes.run.as_secs_f64(),
        figures.tables
    );
}
