//! What tunnels cost that run and have nothing to say. Alone in its program, for it weighs that.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use changeover::model::{Attach, Part, ProgramPlan, Text, TunnelNews, TunnelPlan};
use support::tunnels::{Rig, bare};
use support::{DEADLINE, measured, wait_for, wait_until};

const TUNNELS: u32 = 100;
const WHILE: Duration = Duration::from_secs(3);

/// The processor's time that this process has had, in the kernel's hundredths of a second.
fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_hundred_tunnels_at_rest_cost_next_to_nothing() {
    let mut rig = Rig::start(None, None);
    let before = resident();
    let words = ["sleep", "1000"].map(|word| Text(vec![Part::Shown(word.into())]));
    let program = Arc::new(ProgramPlan { argv: words.into(), env: Vec::new(), file: None });
    for backend in 0..TUNNELS {
        let plan = TunnelPlan { program: Some(Arc::clone(&program)), ..bare(backend, Attach::Address) };
        rig.begin(backend, 1, &Arc::new(plan));
    }
    let mut open = 0;
    while open < TUNNELS {
        let told = wait_for("all are open", DEADLINE, || rig.told());
        open += u32::from(told.news == TunnelNews::Open);
    }
    let each = resident().saturating_sub(before) / u64::from(TUNNELS);
    assert!(each < 200, "{each} KiB for each");
    let used = || {
        let (from, start) = (ticks(), Instant::now());
        wait_until("it was looked at for a while", DEADLINE, || start.elapsed() > WHILE);
        ticks() - from
    };
    // The looks at the time are of this process as well.
    let alone = |used: &u64| *used <= WHILE.as_secs() + LOOKING;
    let used = measured(used, alone);
    println!("{each} KiB each, {used} ticks in {WHILE:?}");
    assert!(alone(&used), "{used} ticks in {WHILE:?}");
}

/// What 1,500 looks at the time cost at most, in ticks.
const LOOKING: u64 = 6;
