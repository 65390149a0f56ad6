//! A real PostgreSQL behind the daemon, as its clients see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::SocketAddr;

use support::postgres::{Postgres, client, must};
use support::process::Running;
use support::servers::HttpServer;
use support::{Daemon, run};

fn in_front_of(server: &Postgres, rest: &str) -> Daemon {
    Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\nhold = \"10m\"\n\
         [pools.orders.backends.pg1]\naddress = \"{}\"\n{rest}\n",
        server.addr
    ))
}

/// Runs pgbench, which must not lose one transaction, and returns how many it has made.
#[track_caller]
fn pgbench(addr: SocketAddr, args: &[&str]) -> u64 {
    let ended = run(client("pgbench", addr, &[("PGSSLMODE", "prefer")]).args(args));
    must(&ended, "pgbench");
    let number = |label: &str| {
        let line = ended.stdout.lines().find_map(|line| line.strip_prefix(label));
        let line = line.unwrap_or_else(|| panic!("no `{label}` in\n{}", ended.stdout)).trim();
        line.split([' ', '/']).next().unwrap().parse::<u64>().expect("a number")
    };
    assert_eq!(number("number of failed transactions:"), 0, "{}", ended.stdout);
    number("number of transactions actually processed:")
}

#[test]
fn pgbench_loses_no_transaction() {
    let server = Postgres::start();
    let daemon = in_front_of(&server, "");
    let orders = daemon.listener("orders");
    must(&run(client("pgbench", orders, &[]).args(["-i", "-q", "-s", "1"])), "pgbench -i");
    let read = pgbench(orders, &["-S", "-c", "8", "-j", "2", "-T", "5"]);
    let written = pgbench(orders, &["-c", "4", "-j", "2", "-T", "3"]);
    println!("{read} reading transactions, {written} writing ones");
    assert!(read > 100 && written > 10, "{read} and {written} are hardly any");
    daemon.wait_metric("listener_connections_active", &[("listener", "orders")], 0.0);
    let sum = |name| daemon.metric(name, &[("pool", "orders"), ("backend", "pg1")]);
    assert!(sum("backend_connections_total") >= Some(13.0));
    assert!(sum("backend_bytes_total") > Some(100_000.0));
}

#[test]
fn tls_and_channel_binding_work_from_end_to_end() {
    let server = Postgres::start();
    let daemon = in_front_of(&server, "");
    let ways: [&[(&str, &str)]; 3] = [
        &[("PGSSLMODE", "disable")],
        &[("PGSSLMODE", "require")],
        &[("PGSSLMODE", "require"), ("PGCHANNELBINDING", "require")],
    ];
    for way in ways {
        let query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let ended = run(client("psql", daemon.listener("orders"), way).args(["-XAtc", query]));
        must(&ended, "psql");
        let encrypted = if way[0].1 == "require" { "t" } else { "f" };
        assert_eq!(ended.stdout.trim(), encrypted, "{way:?}");
    }
}

#[test]
fn a_client_that_comes_while_the_server_is_down_waits_and_succeeds() {
    let mut server = Postgres::start();
    // While it recovers from a crash the server accepts and turns everybody away: only its own word counts.
    let word = HttpServer::start(server.addr.ip(), 200);
    let daemon = in_front_of(
        &server,
        &format!(
            "check = {{ kind = \"http\", interval = \"100ms\", http = {{ path = \"/\", port = {} }} }}",
            word.addr().port()
        ),
    );
    let orders = daemon.listener("orders");
    let psql = |query: &str| {
        let mut command = client("psql", orders, &[("PGSSLMODE", "require")]);
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", query]);
        command
    };
    must(&run(&mut psql("create table kept as select 42 as answer")), "psql");
    word.answer(503);
    server.kill();
    let mut waiting = Running::start(&mut psql("select answer from kept"));
    daemon.wait_held("orders", 1);
    daemon.wait_state("orders", "down");
    assert!(waiting.is_running());
    server.restart();
    assert!(waiting.is_running());
    word.answer(200);
    let ended = waiting.wait();
    must(&ended, "psql");
    assert_eq!(ended.stdout.trim(), "42");
}
