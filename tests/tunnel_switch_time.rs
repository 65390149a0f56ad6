//! How long the death of a tunnel keeps a new client waiting. Alone in its file, so that no other test takes the processor.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use support::sshd::Sshd;
use support::{Backend, DEADLINE, Site, measured, visit, wait_for, wait_until};

/// The longest that it may take from the kill to the first client served by the next tier, in the median of ten rounds.
const LIMIT: Duration = Duration::from_millis(20);

#[test]
fn the_next_tier_serves_within_twenty_milliseconds_of_the_kill_of_a_tunnel() {
    let (sshd, tunnelled, direct) = (Sshd::start(), Backend::start("tunnelled"), Backend::start("direct"));
    let site = Site::with(&format!(
        "[pools.orders.check]\ninterval = \"100ms\"\n[pools.orders.failover]\nfailback = \"manual\"\n\
         [pools.orders.backends.a]\npriority = 1\n[pools.orders.backends.a.tunnel]\nprovider = \"ssh\"\n\
         target = \"{}\"\noptions = {}\nretry_initial = \"100ms\"\nretry_max = \"200ms\"\nretry_reset = \"1ms\"\n{}",
        tunnelled.addr,
        sshd.options("id"),
        direct.toml("orders", 2),
    ));
    let median = measured(|| median_of_ten(&site), |median| *median <= LIMIT);
    assert!(median <= LIMIT, "{median:?} in the median, twice");
}

/// From the kill of the program to the first client on the next tier, in the median of ten rounds.
fn median_of_ten(site: &Site) -> Duration {
    let (daemon, mut times) = (&site.daemon, Vec::new());
    let orders = daemon.listener("orders");
    for _ in 0..10 {
        daemon.wait_health("orders", "a", "healthy");
        if daemon.pool("orders")["active"] != serde_json::json!(["a"]) {
            site.done("POST", "/orders/failback", "{}");
        }
        daemon.wait_active("orders", "a");
        assert_eq!(visit(orders).expect("served"), "tunnelled");
        let program = wait_for("its program runs", DEADLINE, || {
            Pid::from_raw(daemon.backend("orders", "a")["tunnel"]["pid"].as_i64()?.try_into().ok()?)
        });
        let killed = Instant::now();
        kill_process(program, Signal::KILL).expect("it runs");
        // One that is served before the death shows is of the tunnel, and is no client of the next tier.
        wait_for("the next tier serves", DEADLINE, || (visit(orders).ok()? == "direct").then_some(()));
        times.push(killed.elapsed());
        wait_until("why is told", DEADLINE, || daemon.backend("orders", "a")["tunnel"]["reason"] != "");
    }
    times.sort();
    let median = (times[4] + times[5]) / 2;
    println!("from the kill to the first client on the next tier: {times:?}, median {median:?}");
    median
}
