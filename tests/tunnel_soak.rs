//! Many tunnels that are begun, killed, left to end and stopped in any order: nothing is left of any. Alone in its program,
//! for it counts what that has open.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use changeover::model::{TunnelNews, TunnelPlan};
use support::fake_tunnel;
use support::tunnels::{Rig, fake, guard, of, wait_gone};
use support::{DEADLINE, wait_until};

const TUNNELS: u32 = 20;
const EVENTS: u32 = 1000;
const MODES: &[&str] =
    &["forward", "slow", "exit-0", "exit-3", "ignore-term", "grandchild", "daemonized", "accept-hang"];

#[test]
fn the_fake_tunnel_does_as_it_is_told() {
    fake_tunnel::act(|mode| panic!("{mode} is no mode"));
}

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// How many guards this process has.
fn guards() -> usize {
    let own = std::process::id();
    let is_guard = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"tunnel-guard")
    };
    let ours = changeover::sys::processes().into_iter().filter(|process| process.parent == own);
    ours.filter(|process| is_guard(process.pid)).count()
}

/// What is known of a tunnel from what was told of it.
#[derive(Debug, Default)]
struct Seen {
    ordered: u64,
    run: u64,
    pid: Option<u32>,
    ended: u64,
    starts: u64,
}

fn take(rig: &mut Rig, seen: &mut BTreeMap<u32, Seen>) {
    while let Some(told) = rig.told() {
        let tunnel = seen.entry(told.backend.0).or_default();
        assert!(told.run.0 > tunnel.ended, "a run is told nothing of after its end: {told:?} {tunnel:?}");
        match told.news {
            TunnelNews::Started { pid } => {
                assert_eq!(tunnel.pid, None, "one ends before the next begins: {tunnel:?}");
                (tunnel.run, tunnel.pid) = (told.run.0, Some(pid));
                tunnel.starts += 1;
            }
            TunnelNews::Open | TunnelNews::Lost { .. } => assert_eq!(tunnel.run, told.run.0),
            TunnelNews::Fatal { line } => panic!("{line}"),
            TunnelNews::Ended { .. } => (tunnel.pid, tunnel.ended) = (None, told.run.0),
        }
    }
}

#[test]
fn nothing_is_left_after_a_thousand_starts_and_ends_in_any_order() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let id = format!("soak-{}", std::process::id());
    let (files, tasks) = (entries("/proc/self/fd"), entries("/proc/self/task"));
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(Some(dir.path().to_owned()), Some(guard()));
    let plans: Vec<Vec<Arc<TunnelPlan>>> = (0..TUNNELS)
        .map(|backend| {
            let plan = |mode: &&str| {
                let stop_grace = Duration::from_millis(30);
                Arc::new(TunnelPlan { stop_grace, ..fake(backend, mode, &id, "127.0.0.1:9") })
            };
            MODES.iter().map(plan).collect()
        })
        .collect();
    let mut seen: BTreeMap<u32, Seen> = BTreeMap::new();
    for _ in 0..EVENTS {
        let backend = chance.u32(..TUNNELS);
        match chance.u32(..10) {
            0..=3 => {
                let tunnel = seen.entry(backend).or_default();
                tunnel.ordered += 1;
                let plan = &plans[usize::try_from(backend).unwrap()][chance.usize(..MODES.len())];
                rig.begin(backend, tunnel.ordered, plan);
            }
            4 | 5 => rig.stop(backend),
            6 | 7 => {
                if let Some(pid) = seen.get(&backend).and_then(|tunnel| tunnel.pid) {
                    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
                    // It may have ended since.
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
            _ => {}
        }
        std::thread::park_timeout(Duration::from_millis(chance.u64(..25)));
        take(&mut rig, &mut seen);
    }
    assert_eq!(guards(), 1, "one for all of them");
    for backend in 0..TUNNELS {
        rig.stop(backend);
    }
    wait_until("all that ran was told the end of", DEADLINE, || {
        take(&mut rig, &mut seen);
        seen.values().all(|tunnel| tunnel.pid.is_none()) && of(&id).is_empty()
    });
    rig.end();
    wait_gone(&id);
    let starts: u64 = seen.values().map(|tunnel| tunnel.starts).sum();
    println!("{starts} programs ran");
    let all_ran = seen.values().all(|tunnel| tunnel.starts > 0);
    assert!(seen.len() == usize::try_from(TUNNELS).unwrap() && all_ran, "{seen:?}");
    let own = std::process::id();
    let children = || changeover::sys::processes().into_iter().filter(|process| process.parent == own).count();
    wait_until("no zombie is left, and no guard", DEADLINE, || children() == 0);
    drop(rig.spawner.take());
    wait_until("no thread and no descriptor is left", DEADLINE, || {
        // The other test may have had a thread at first.
        entries("/proc/self/fd") <= files && entries("/proc/self/task") <= tasks
    });
}
