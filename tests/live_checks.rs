//! What checks bring about in a running daemon: agents' advice, slowness, recovery with an end, no check, and flapping.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use support::net::{echo, meet};
use support::servers::Server;
use support::{Backend, DEADLINE, Site, StopOnDrop, fresh_addr, pace, visit, wait_until};

/// A backend's table with a check of its own.
fn table(backend: &Backend, priority: u32, check: &str) -> String {
    format!("{}check = {{ interval = \"50ms\", {check} }}\n", backend.toml("orders", priority))
}

#[test]
fn what_an_agent_advises_is_done() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let word = Arc::new(Mutex::new("up ready 100%\n"));
    let said = Arc::clone(&word);
    let agent = Server::start(SocketAddr::new(a.addr.ip(), 0), move |_, mut stream| {
        let word = *said.lock().unwrap();
        stream.write_all(word.as_bytes())
    });
    let check = format!("kind = \"agent\", agent = {{ port = {} }}", agent.addr.port());
    let failover = "[pools.orders.failover]\nfailback_after = \"0s\"\n";
    let weight = "weight = 10\n";
    let site = Site::with(&format!("{failover}{}{weight}{}", table(&a, 1, &check), b.toml("orders", 2)));
    let orders = site.daemon.listener("orders");
    let (mut session, name) = meet(orders).unwrap();
    assert_eq!(name, "a");
    let say = |line| *word.lock().unwrap() = line;
    say("up 50%\n");
    wait_until("it has half its weight", DEADLINE, || site.daemon.backend("orders", "a")["weight"] == 5);
    for (line, state, why) in [("drain\n", "drain", "drained by its agent"), ("maint\n", "maintenance", "by its agent")]
    {
        say(line);
        wait_until(line, DEADLINE, || site.daemon.backend("orders", "a")["admin_state"] == state);
        let reason = site.daemon.backend("orders", "a")["reason"].clone();
        assert!(reason.as_str().unwrap().contains(why), "{reason}");
        assert_eq!(visit(orders).unwrap(), "b", "{line}");
        if state == "drain" {
            // It was told to drain, and had no time to end by itself.
            support::ends(&mut session);
        }
        say("up ready\n");
        site.daemon.wait_active("orders", "a");
        assert_eq!(visit(orders).unwrap(), "a");
    }
    assert_eq!(site.daemon.backend("orders", "a")["weight"], 5, "what is not said stays");
}

#[test]
fn a_slow_backend_is_passed_over_and_loses_no_session() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let is_slow = Arc::new(AtomicBool::new(false));
    let look = Arc::clone(&is_slow);
    let side = Server::start(SocketAddr::new(a.addr.ip(), 0), move |_, mut stream| {
        let mut head = [0; 1024];
        if stream.read(&mut head)? > 0 {
            let mut begun = Instant::now();
            if look.load(Ordering::SeqCst) {
                pace(&mut begun, Duration::from_secs(2));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        }
        Ok(())
    });
    let http = format!("http = {{ path = \"/\", port = {} }}", side.addr.port());
    let check = format!("kind = \"http\", timeout = \"20s\", max_latency = \"1s\", {http}");
    let failover = "[pools.orders.failover]\nfailback_after = \"0s\"\n";
    let site = Site::with(&format!("{failover}{}{}", table(&a, 1, &check), b.toml("orders", 2)));
    let orders = site.daemon.listener("orders");
    let (mut session, name) = meet(orders).unwrap();
    assert_eq!(name, "a");
    is_slow.store(true, Ordering::SeqCst);
    site.daemon.wait_active("orders", "b");
    assert_eq!(visit(orders).unwrap(), "b");
    echo(&mut session, b"slow is not dead").unwrap();
    let reason = site.daemon.backend("orders", "a")["reason"].clone();
    assert!(reason.as_str().unwrap().contains("slow"), "{reason}");
    is_slow.store(false, Ordering::SeqCst);
    site.daemon.wait_active("orders", "a");
    echo(&mut session, b"and still here").unwrap();
}

#[test]
fn recovery_that_gave_up_begins_again_with_a_reset() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let check = "recovery_attempts = 2, recovery_backoff = \"50ms\", recovery_interval = \"50ms\"";
    let failover = "[pools.orders.failover]\nfailback_after = \"0s\"\n";
    let site = Site::with(&format!("{failover}{}{}", table(&a, 1, check), table(&b, 2, "kind = \"tcp\"")));
    a.kill();
    let reason = || site.daemon.backend("orders", "a")["reason"].as_str().unwrap().to_owned();
    wait_until("it gave up", DEADLINE, || reason().contains("gave up after 2 attempts"));
    a.restart();
    let seen = |name: &str| site.daemon.backend("orders", name)["consecutive_successes"].as_u64().unwrap();
    let before = seen("b");
    wait_until("b is asked many times more", DEADLINE, || seen("b") > before + 10);
    assert!(reason().contains("gave up after 2 attempts"), "{}", reason());
    assert_eq!(visit(site.daemon.listener("orders")).unwrap(), "b");
    site.told(&["reset", "orders/a"]);
    site.daemon.wait_active("orders", "a");
    assert_eq!(visit(site.daemon.listener("orders")).unwrap(), "a");
}

#[test]
fn a_backend_that_is_not_checked_goes_by_what_clients_meet() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let settings = "[pools.orders.check]\nkind = \"none\"\nrecovery_interval = \"300ms\"\n\
                    [pools.orders.failover]\nfailback_after = \"0s\"";
    let site = Site::start(settings, &[&a, &b]);
    let orders = site.daemon.listener("orders");
    assert_eq!(visit(orders).unwrap(), "a");
    a.kill();
    wait_until("a is taken out", DEADLINE, || {
        assert_eq!(visit(orders).unwrap(), "b", "no client fails meanwhile");
        site.daemon.pool("orders")["active"] == json!(["b"])
    });
    a.restart();
    site.daemon.wait_active("orders", "a");
    wait_until("a serves", DEADLINE, || visit(orders).unwrap() == "a");
}

/// How long the flapping goes on, and from one change to the next.
const FLAPPING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(200));

/// A port comes and goes while clients come one after the other: each is served, and the pool fails over three times at most.
/// The process behind the port lives, and goes on with whom it has let in; what we do with them is for `sessions` to say.
/// Returns how many were cut off in conversation, which is no failure of those who come.
fn flap(sessions: &str) -> usize {
    let (b, addr) = (Backend::start("b"), fresh_addr());
    let serve = |_, mut stream: std::net::TcpStream| {
        stream.write_all(b"a\n")?;
        let mut back = stream.try_clone()?;
        io::copy(&mut stream, &mut back).map(drop)
    };
    let mut up = Some(Server::start(addr, serve));
    let settings = format!(
        "[pools.orders.check]\ninterval = \"50ms\"\n[pools.orders.failover]\nfailback_after = \"0s\"\n{sessions}"
    );
    let a = format!("[pools.orders.backends.a]\naddress = \"{addr}\"\npriority = 1\n");
    let site = Site::with(&format!("{settings}\n{a}{}", b.toml("orders", 2)));
    let (orders, over) = (site.daemon.listener("orders"), AtomicBool::new(false));
    let (served, cut_off) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let stop = StopOnDrop(&over);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        let (mut stream, name) = meet(orders).expect("whoever comes is served");
                        served.fetch_add(1, Ordering::SeqCst);
                        if let Err(error) = echo(&mut stream, b"are you there?") {
                            assert_eq!(name, "a", "{error}");
                            cut_off.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        let (began, mut last) = (Instant::now(), Instant::now());
        while began.elapsed() < FLAPPING.0 {
            pace(&mut last, FLAPPING.1);
            up = if up.is_some() { None } else { Some(Server::start(addr, serve)) };
        }
        drop(stop);
        for client in clients {
            client.join().expect("no client failed");
        }
    });
    let failovers = site.daemon.metric("failover_total", &[("pool", "orders")]).unwrap_or(0.0);
    assert!((1.0..=3.0).contains(&failovers), "{failovers} failovers");
    assert!(served.load(Ordering::SeqCst) > 100, "{served:?}");
    drop(up);
    println!("{served:?} clients were served in {failovers} failovers, and {cut_off:?} cut off in conversation");
    cut_off.into_inner()
}

#[test]
fn a_flapping_backend_has_the_pool_fail_over_three_times_at_most_and_fails_no_client() {
    assert_eq!(flap("sessions = { dead = \"keep\", failed_back = \"keep\" }"), 0);
}

#[test]
fn a_client_that_comes_to_a_flapping_backend_is_served_whatever_becomes_of_those_in_conversation() {
    // By default a dead backend's sessions are closed, here those with a process that lives: as often as the pool fails over,
    // and each time those of the four that were with it.
    let cut_off = flap("");
    assert!(cut_off <= 12, "{cut_off} were cut off");
}
