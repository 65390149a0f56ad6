//! How long a death keeps a new client waiting. Alone in its file, so that no other test takes the processor.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::time::Duration;

use support::{Backend, Daemon, measured, visit};

/// The longest that it may take from the kill to the first client served by the standby, in the median of ten rounds.
const LIMIT: Duration = Duration::from_millis(20);

#[test]
fn the_standby_serves_within_twenty_milliseconds_of_a_kill() {
    let (mut a, mut b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"100ms\"\n\
         [pools.orders.failover]\nfailback = \"manual\"\n{}{}",
        a.toml("orders", 1),
        b.toml("orders", 2),
    ));
    let median = measured(|| median_of_ten(&daemon, &mut a, &mut b), |median| *median <= LIMIT);
    assert!(median <= LIMIT, "{median:?} in the median, twice");
}

/// From the kill to the first client on the standby, in the median of ten rounds, in the first of which `a` serves.
fn median_of_ten(daemon: &Daemon, a: &mut Backend, b: &mut Backend) -> Duration {
    let orders = daemon.listener("orders");
    let mut times = Vec::new();
    for round in 0..10 {
        // By turns, as a return that is cut short makes the next one wait.
        let (serves, standby) = if round % 2 == 0 { (&mut *a, &*b) } else { (&mut *b, &*a) };
        assert_eq!(visit(orders).expect("served"), serves.name);
        let killed = serves.kill();
        assert_eq!(visit(orders).expect("served"), standby.name);
        times.push(killed.elapsed());
        daemon.wait_active("orders", &standby.name);
        serves.restart();
        daemon.wait_health("orders", &serves.name, "healthy");
    }
    times.sort();
    let median = (times[4] + times[5]) / 2;
    println!("from the kill to the first client on the standby: {times:?}, median {median:?}");
    median
}
