//! A tunnel whose look-up finds an address of the daemon's own: nobody is led round in a circle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use support::{Backend, DEADLINE, Daemon, dial, ends, visit, wait_for, wait_until};

/// A daemon that listens at `binds`, with one backend, which is where the file `at` says.
fn config(at: &Path, binds: &[(&str, &str)]) -> String {
    let listener = |(name, bind): &(&str, &str)| format!("[listeners.{name}]\nbind = \"{bind}\"\npool = \"home\"\n");
    let listeners: String = binds.iter().map(listener).collect();
    format!(
        "{listeners}[pools.home]\nwhen_down = \"refuse\"\nconnect_attempts = 1\n\
         [pools.home.check]\ninterval = \"100ms\"\nunhealthy_threshold = 1\nhealthy_threshold = 1\n\
         [pools.home.backends.far.tunnel]\nprovider = \"command\"\nattach = \"address\"\nrestart_after = 0\n\
         lookup = {{ command = [\"/bin/cat\", \"{}\"], interval = \"1s\" }}\n",
        at.display()
    )
}

/// Has the look-up find `address` from now on.
fn found_at(file: &Path, address: &str) {
    // Whoever reads it finds the one or the other.
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{address}\n")).unwrap();
    std::fs::rename(next, file).unwrap();
}

/// Waits until what was said last of the tunnel is `words`: one line that is said again is one line still.
#[track_caller]
fn wait_said(daemon: &Daemon, words: &str) {
    wait_until(words, DEADLINE, || {
        let answer = daemon.admin_get("/api/v1/pools/home/backends/far/tunnel/logs?limit=1").json();
        answer["lines"][0]["text"].as_str().is_some_and(|line| line.starts_with(words))
    });
}

fn refusal(address: impl std::fmt::Display) -> String {
    format!("its address is not found: {address} is where we listen ourselves")
}

/// An address of this host by which others know it; none if it has none.
fn known_by() -> Option<IpAddr> {
    // Nothing is sent: who is dialled there is nobody.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip())
}

#[test]
fn an_address_of_our_own_is_not_found_and_the_last_good_one_stays() {
    let (db, dir) = (Backend::start("db"), tempfile::tempdir().unwrap());
    let file = dir.path().join("at");
    found_at(&file, &db.addr.to_string());
    let daemon = Daemon::start(&config(&file, &[("one", "127.0.0.1:0"), ("all", "0.0.0.0:0")]));
    let (one, all) = (daemon.listener("one"), daemon.listener("all"));
    daemon.wait_health("home", "far", "healthy");
    assert_eq!(visit(one).unwrap(), "db");
    let at_all = |ip: &str| format!("{ip}:{}", all.port());
    let mut ours = vec![one.to_string(), daemon.admin().to_string(), at_all("127.0.0.9"), at_all("localhost")];
    match known_by() {
        Some(ip) => ours.push(at_all(&ip.to_string())),
        None => println!("this host has no address beside loopback"),
    }
    for ours in ours {
        found_at(&file, &ours);
        wait_said(&daemon, &refusal(&ours));
        assert_eq!(visit(one).unwrap(), "db", "{ours}");
    }
    // Not ours: the same port at an address where we do not listen, and at one that this host does not have.
    for other in [SocketAddr::new([127, 0, 0, 9].into(), one.port()).to_string(), at_all("192.0.2.1")] {
        found_at(&file, &other);
        wait_said(&daemon, &format!("its address is {other}"));
    }
}

#[test]
fn where_a_listener_is_opened_that_a_tunnel_leads_to_nobody_is_led_any_more() {
    let (mut db, dir) = (Backend::start("db"), tempfile::tempdir().unwrap());
    let (place, file) = (db.addr, dir.path().join("at"));
    found_at(&file, &place.to_string());
    let alone = config(&file, &[("one", "127.0.0.1:0")]);
    let daemon = Daemon::start(&alone);
    let one = daemon.listener("one");
    daemon.wait_health("home", "far", "healthy");
    assert_eq!(visit(one).unwrap(), "db");
    // What the file says is where a listener of ours is from now on, and so is what was good until now.
    db.kill();
    let in_place = place.to_string();
    let both = config(&file, &[("one", "127.0.0.1:0"), ("two", &in_place)]);
    wait_for("the address is free", DEADLINE, || daemon.reload(&both).ok());
    wait_said(&daemon, &refusal(place));
    let refused = format!("it leads to {place}, where we listen ourselves");
    let last = || daemon.backend("home", "far")["last_error"].to_string();
    wait_until("its check is not let through", DEADLINE, || last().contains(&refused));
    // A check that comes while the listener is opened is a client of it.
    let came = daemon.metric("listener_connections_total", &[("listener", "two")]).unwrap_or(0.0);
    for listener in [one, place] {
        ends(&mut dial(listener).unwrap());
    }
    let comes = daemon.metric("listener_connections_total", &[("listener", "two")]);
    assert_eq!(comes, Some(came + 1.0), "nobody came but who was sent");
    // It is the other's again.
    daemon.reload(&alone).unwrap();
    db.restart();
    daemon.wait_health("home", "far", "healthy");
    assert_eq!(visit(one).unwrap(), "db");
}
