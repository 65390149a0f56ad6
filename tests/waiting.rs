//! Backends that are busy or in a hurry, clients that do not wait, and peers that vanish.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::narrow;
use support::net::{echo, meet, read_line};
use support::proc_net::established;
use support::servers::Server;
use support::{Backend, DEADLINE, Daemon, dial, fresh_addr, fresh_ip, wait_until};

#[test]
fn a_unix_backend_whose_queue_is_full_for_a_moment_is_not_dead() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("back");
    let listener = narrow::listen(&path);
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nwhen_down = \"refuse\"\n\
         [pools.orders.check]\ninterval = \"300ms\"\ntimeout = \"20s\"\n\
         [pools.orders.backends.a]\naddress = \"unix:{}\"\n",
        path.display()
    ));
    daemon.wait_health("orders", "a", "healthy");
    // From here on it accepts nobody, for half a second; these take what places the probes leave.
    let crowd = narrow::crowd(&path);
    let start = Instant::now();
    let mut clients: Vec<_> = (0..3).map(|_| dial(daemon.listener("orders")).expect("accepted")).collect();
    wait_until("half a second is over", DEADLINE, || start.elapsed() >= Duration::from_millis(500));
    drop(crowd);
    narrow::serve(listener);
    for client in &mut clients {
        assert_eq!(read_line(client).expect("served"), "a");
        echo(client, b"that was not long").expect("echoed");
    }
    assert_eq!(daemon.backend("orders", "a")["health"], "healthy");
    let labels = [("pool", "orders"), ("backend", "a")];
    assert_eq!(daemon.metric("check_failures_total", &labels).unwrap_or(0.0), 0.0);
    assert!(daemon.logged("backend a is unhealthy").is_empty());
}

#[test]
fn a_held_client_that_goes_away_is_counted() {
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\nhold = \"10m\"\nbackends = [\"{}:1\"]\n",
        fresh_ip()
    ));
    let client = dial(daemon.listener("orders")).expect("accepted");
    daemon.wait_held("orders", 1);
    assert_eq!(daemon.rejected("orders", "client_left"), 0.0);
    drop(client);
    daemon.wait_held("orders", 0);
    wait_until("it is counted", DEADLINE, || daemon.rejected("orders", "client_left") == 1.0);
}

#[test]
fn connections_are_not_kept_alive_where_that_is_not_wanted() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&format!(
        "[daemon]\ntcp_keepalive = \"0s\"\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1h\"\n{}",
        a.toml("orders", 1)
    ));
    let orders = daemon.listener("orders");
    let (mut client, _) = meet(orders).expect("served");
    echo(&mut client, b"hello").expect("echoed");
    let ours = client.local_addr().expect("bound");
    // Once everything is acknowledged, no timer runs; one of keepalive would then.
    wait_until("all is acknowledged", DEADLINE, || {
        let rows = established();
        let of = |row: &&support::proc_net::Row| {
            (row.local == orders && row.remote == ours) || (row.remote == a.addr && row.local.port() != 0)
        };
        let mut ends = rows.iter().filter(of).peekable();
        ends.peek().is_some() && ends.all(|row| row.unacknowledged == 0 && !row.keepalive)
    });
}

#[test]
fn a_peer_that_vanishes_is_noticed_by_the_kernel() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1h\"\n{}",
        a.toml("orders", 1)
    ));
    let orders = daemon.listener("orders");
    let (mut client, _) = meet(orders).expect("served");
    echo(&mut client, b"hello").expect("echoed");
    let ours = client.local_addr().expect("bound");
    wait_until("the client's connection is kept alive", DEADLINE, || {
        established().iter().any(|row| row.local == orders && row.remote == ours && row.keepalive)
    });
    wait_until("the backend's connection is kept alive", DEADLINE, || {
        established().iter().any(|row| row.remote == a.addr && row.keepalive)
    });
}

#[test]
fn a_backend_that_has_not_answered_yet_is_kept_alive_too() {
    let silent = Server::start(fresh_addr(), |_, mut stream| stream.read_to_end(&mut Vec::new()).map(drop));
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1h\"\n[pools.orders.backends.a]\naddress = \"{}\"\n",
        silent.addr
    ));
    let mut client = dial(daemon.listener("orders")).expect("accepted");
    client.write_all(b"anybody there?").expect("sent");
    wait_until("the backend's connection is kept alive", DEADLINE, || {
        established().iter().any(|row| row.remote == silent.addr && row.keepalive)
    });
}
