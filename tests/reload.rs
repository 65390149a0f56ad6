//! A new configuration under load: nothing that it does not concern notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::net::{End, echo, ends, listen, meet, refused};
use support::{Backend, DEADLINE, Daemon, StopOnDrop, dial, pace, visit, wait_until};

/// One listener, one pool, `a` and what else is given.
fn config(settings: &str, backends: &[&Backend], more: &str) -> String {
    let backends: String = backends.iter().map(|backend| backend.toml("orders", 1)).collect();
    format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\n{settings}\n[pools.orders.check]\ninterval = \"100ms\"\n{backends}{more}"
    )
}

/// Fifty visits a second until `stop`. The first that fails ends it.
fn keep_coming(addr: SocketAddr, stop: &AtomicBool, served: &AtomicUsize) -> Result<(), String> {
    let mut next = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        visit(addr).map_err(|e| format!("visit: {e}"))?;
        served.fetch_add(1, Ordering::SeqCst);
        pace(&mut next, Duration::from_millis(20));
    }
    Ok(())
}

/// Numbers through one session, each waited for, until `stop`; at least one after it.
fn keep_talking(mut session: TcpStream, stop: &AtomicBool) -> Result<u64, String> {
    let mut next = Instant::now();
    for number in 1_u64.. {
        let last = stop.load(Ordering::SeqCst);
        session.write_all(&number.to_be_bytes()).map_err(|e| format!("number {number}: {e}"))?;
        let mut back = [0; 8];
        session.read_exact(&mut back).map_err(|e| format!("number {number}: {e}"))?;
        if u64::from_be_bytes(back) != number {
            return Err(format!("{back:?} came back instead of {number}"));
        }
        if last {
            return Ok(number);
        }
        pace(&mut next, Duration::from_millis(5));
    }
    Ok(0)
}

#[test]
fn reloads_under_load_cost_no_client_and_no_byte() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let plain = config("hold = \"10s\"", &[&a], "");
    let daemon = Daemon::start(&plain);
    let orders = daemon.listener("orders");
    let extra = "[listeners.extra]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n";
    let other = config("hold = \"20s\"", &[&a, &b], extra);
    let long: Vec<TcpStream> = (0..4).map(|_| meet(orders).expect("served").0).collect();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (stop, served) = (&stop, &served);
        let coming: Vec<_> = (0..2).map(|_| scope.spawn(move || keep_coming(orders, stop, served))).collect();
        let talking: Vec<_> = long.into_iter().map(|s| scope.spawn(move || keep_talking(s, stop))).collect();
        let stopping = StopOnDrop(stop);
        let (start, mut reloads) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(3) || reloads < 6 {
            daemon.reload(if reloads % 2 == 0 { &other } else { &plain }).expect("taken");
            reloads += 1;
            let before = served.load(Ordering::SeqCst);
            wait_until("clients have come since", DEADLINE, || {
                served.load(Ordering::SeqCst) > before + 20 || coming.iter().any(|client| client.is_finished())
            });
        }
        drop(stopping);
        for client in coming {
            assert_eq!(client.join().unwrap(), Ok(()));
        }
        for session in talking {
            assert!(session.join().unwrap().expect("goes on") > 50);
        }
        println!("{reloads} reloads, {} clients", served.load(Ordering::SeqCst));
        assert_eq!(daemon.metric("config_reloads_total", &[("result", "reloaded")]), Some(f64::from(reloads)));
        assert_eq!(daemon.metric("config_reloads_total", &[("result", "rejected")]).unwrap_or(0.0), 0.0);
    });
    assert_eq!(daemon.listener("orders"), orders, "an unchanged listener stays where it is");
}

#[test]
fn a_bad_file_changes_nothing_and_the_log_says_where_and_why() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&config("", &[&a], ""));
    let orders = daemon.listener("orders");
    let (mut session, _) = meet(orders).expect("served");
    let before = daemon.pool("orders")["generation"].clone();
    let bad = config("holdd = \"1s\"", &[&a], "");
    let line = 1 + bad.lines().position(|line| line.starts_with("holdd")).unwrap();
    let said = daemon.reload(&bad).expect_err("rejected").to_string();
    let place = format!("{}:{line}:1", daemon.config().display());
    assert!(said.contains(&place), "no `{place}` in {said}");
    assert!(said.contains("holdd") && said.contains("hold"), "neither what is wrong nor what would be right: {said}");
    assert_eq!(daemon.metric("config_reloads_total", &[("result", "rejected")]), Some(1.0));
    assert_eq!(daemon.pool("orders")["generation"], before);
    echo(&mut session, b"not disturbed").expect("echoed");
    assert_eq!(visit(orders).expect("served"), "a");
    // Not TOML at all, and then not there at all.
    daemon.reload("[pools\n").expect_err("rejected");
    echo(&mut session, b"not disturbed").expect("echoed");
    assert_eq!(visit(orders).expect("served"), "a");
    assert_eq!(daemon.metric("config_reloads_total", &[("result", "rejected")]), Some(2.0));
}

#[test]
fn a_listener_that_cannot_be_bound_is_a_rejected_reload() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&config("", &[&a], ""));
    let orders = daemon.listener("orders");
    let taken = listen(support::fresh_addr());
    let address = taken.local_addr().unwrap().to_string();
    let more = format!("[listeners.extra]\nbind = \"{address}\"\npool = \"orders\"\n");
    let said = daemon.reload(&config("", &[&a], &more)).expect_err("rejected").to_string();
    assert!(said.contains(&address), "no `{address}` in {said}");
    assert_eq!(visit(orders).expect("served"), "a");
}

#[test]
fn a_removed_listener_accepts_no_more_and_an_added_one_does() {
    let a = Backend::start("a");
    let listener = |name: &str| format!("[listeners.{name}]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n");
    let daemon = Daemon::start(&config("", &[&a], &listener("first")));
    let first = daemon.listener("first");
    let (mut session, _) = meet(first).expect("served");
    daemon.reload(&config("", &[&a], &listener("second"))).expect("taken");
    wait_until("the removed listener refuses", DEADLINE, || refused(first));
    assert_eq!(visit(daemon.listener("second")).expect("served"), "a");
    echo(&mut session, b"its sessions go on").expect("echoed");
}

/// A session with `b`, which shares the pool with `a`; then `b` is removed.
fn removal(policy: &str) -> (Daemon, TcpStream, [Backend; 2]) {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let more =
        format!("[pools.orders.failover.sessions]\ndrained = \"{policy}\"\n[daemon]\ndrain_timeout = \"400ms\"\n");
    let daemon = Daemon::start(&config("", &[&a, &b], &more));
    let orders = daemon.listener("orders");
    let on_b = || meet(orders).ok().filter(|(_, name)| name == "b").map(|(session, _)| session);
    let session = support::wait_for("b serves", DEADLINE, on_b);
    daemon.reload(&config("", &[&a], &more)).expect("taken");
    for _ in 0..4 {
        assert_eq!(visit(orders).expect("served"), "a", "a removed backend gets no new client");
    }
    (daemon, session, [a, b])
}

#[test]
fn sessions_of_a_removed_backend_are_reset_at_once_if_drained_is_close() {
    let (daemon, mut session, _backends) = removal("close");
    assert_eq!(ends(&mut session), End::Reset);
    daemon.wait_closed("orders", "drained", 1);
}

#[test]
fn sessions_of_a_removed_backend_go_on_if_drained_is_keep() {
    let (daemon, mut session, _backends) = removal("keep");
    let start = Instant::now();
    let mut next = start;
    while start.elapsed() < Duration::from_millis(900) {
        echo(&mut session, b"it goes on").expect("echoed");
        pace(&mut next, Duration::from_millis(50));
    }
    assert_eq!(daemon.metric("sessions_closed_total", &[("reason", "drained")]).unwrap_or(0.0), 0.0);
}

#[test]
fn sessions_of_a_removed_backend_are_cut_after_the_drain_timeout_if_drained_is_drain() {
    let (_daemon, mut session, _backends) = removal("drain");
    ends(&mut session);
}

/// What says how the pool `old` is.
fn gauges_of_old(daemon: &Daemon) -> Vec<String> {
    let page = daemon.admin_get("/metrics").body;
    let gauges = ["pool_state", "pool_redundancy", "pool_paused", "pool_pinned", "primary_healthy"];
    let is_one = |line: &&str| gauges.iter().any(|name| line.starts_with(&format!("changeover_{name}{{pool=\"old\"")));
    page.lines().filter(is_one).map(str::to_owned).collect()
}

#[test]
fn nothing_says_how_a_pool_is_that_is_gone_while_its_last_session_goes_on() {
    let (a, old) = (Backend::start("a"), Backend::start("old"));
    let both = format!(
        "[listeners.old]\nbind = \"127.0.0.1:0\"\npool = \"old\"\n[pools.old]\n\
         [pools.old.failover.sessions]\ndrained = \"keep\"\n[pools.old.check]\ninterval = \"100ms\"\n{}",
        old.toml("old", 1)
    );
    let daemon = Daemon::start(&config("", &[&a], &both));
    let (mut session, _) = meet(daemon.listener("old")).expect("served");
    assert!(gauges_of_old(&daemon).len() > 3, "{:?}", gauges_of_old(&daemon));
    let closed = || daemon.metric("sessions_closed_total", &[("pool", "old")]);
    daemon.reload(&config("", &[&a], "")).expect("taken");
    assert_eq!(gauges_of_old(&daemon), Vec::<String>::new(), "alerts are made of these");
    echo(&mut session, b"it goes on").expect("echoed");
    assert!(closed().is_some(), "how it ends will be counted");
    // One that is put back says it anew.
    daemon.reload(&config("", &[&a], &both)).expect("taken");
    daemon.wait_metric("pool_state", &[("pool", "old"), ("state", "healthy")], 1.0);
    daemon.reload(&config("", &[&a], "")).expect("taken");
    assert_eq!(gauges_of_old(&daemon), Vec::<String>::new());
    drop(session);
    wait_until("nothing is left of it", DEADLINE, || closed().is_none());
}

#[test]
fn a_reload_is_announced_to_the_service_manager() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&config("", &[&a], ""));
    daemon.reload(&config("hold = \"3s\"", &[&a], "")).expect("taken");
    wait_until("it is ready again", DEADLINE, || daemon.notified("READY=1") >= 2);
    let notices = daemon.notices();
    let place = |what: &str| notices.iter().position(|notice| notice.starts_with(what)).expect("said");
    let again = notices.iter().rposition(|notice| notice == "READY=1").unwrap();
    assert!(place("RELOADING=1") < again, "{notices:?}");
    let stamp = notices[place("MONOTONIC_USEC=")].split_once('=').unwrap().1.parse::<u64>();
    assert!(stamp.is_ok_and(|micros| micros > 0), "{notices:?}");
    // Rejected or not, it is ready afterwards.
    daemon.reload("nonsense").expect_err("rejected");
    wait_until("it is ready once more", DEADLINE, || daemon.notified("READY=1") >= 3);
    assert!(dial(daemon.listener("orders")).is_ok());
}
