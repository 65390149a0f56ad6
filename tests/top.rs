//! `changeover top` on a real pseudo-terminal of 80 columns and 24 lines, against a real daemon, by its keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::net::meet;
use support::process::program;
use support::terminal::Seat;
use support::{Backend, Daemon, Site, fresh_addr};

fn top(admin: &str) -> Command {
    let mut command = program();
    command.args(["top", "--admin", admin]).env_remove("NO_COLOR");
    command
}

fn site() -> (Site, [Backend; 2]) {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start("[pools.orders.check]\ninterval = \"50ms\"", &[&a, &b]);
    (site, [a, b])
}

#[test]
fn a_backend_is_drained_by_keys_and_let_serve_again() {
    let (site, _backends) = site();
    let (_first, name) = meet(site.daemon.listener("orders")).expect("served");
    assert_eq!(name, "a");
    let mut seat = Seat::start(&mut top(&format!("unix:{}", site.socket().display())));
    seat.wait("orders  healthy");
    seat.press("2");
    seat.wait("orders/b");
    assert!(seat.is_raw());
    seat.press("d");
    seat.wait("changeover drain orders/a");
    seat.press("n");
    seat.wait("not sent: drain orders/a");
    assert_eq!(site.daemon.backend("orders", "a")["admin_state"], "ready", "nothing is done unless it is confirmed");
    seat.press("dy");
    seat.wait("done: drain orders/a");
    assert_eq!(site.daemon.backend("orders", "a")["admin_state"], "drain");
    site.daemon.wait_active("orders", "b");
    seat.wait("drain ");
    seat.press("ry");
    seat.wait("done: ready orders/a");
    assert_eq!(site.daemon.backend("orders", "a")["admin_state"], "ready");
    // The second backend, by the arrow.
    seat.press("\x1b[Bfy");
    seat.wait("done: failover orders --to b");
    assert_eq!(site.daemon.pool("orders")["pinned"], json!("b"));
    seat.press("1py");
    seat.wait("done: pause orders");
    seat.wait("paused");
    assert_eq!(site.daemon.pool("orders")["paused"], json!(true));
    seat.press("py");
    seat.wait("done: resume orders");
    seat.press("\r");
    seat.wait("BY WHICH RULE");
    seat.press("q");
    // The first went with the drain.
    let (_other, name) = meet(site.daemon.listener("orders")).expect("served");
    assert_eq!(name, "b");
    seat.press("3");
    seat.wait("127.0.0.1:");
    seat.press("4");
    seat.wait("pool.failover");
    seat.press("/drain\r");
    seat.wait("filter: drain");
    seat.press("?");
    seat.wait("Orders ask first");
    seat.press("xq");
    assert_eq!(seat.wait_end(), Some(0));
}

#[test]
fn what_may_not_be_done_is_said() {
    let (site, _backends) = site();
    let mut seat = Seat::start(&mut top(&format!("http://{}", site.daemon.admin())));
    seat.press("2");
    seat.wait("orders/a");
    seat.press("dy");
    seat.wait("the daemon said no");
    assert_eq!(site.daemon.backend("orders", "a")["admin_state"], "ready");
}

#[test]
fn a_daemon_that_is_gone_is_said_to_be_and_found_again() {
    let a = Backend::start("a");
    let config = format!(
        "[admin]\nbind = \"{}\"\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}",
        fresh_addr(),
        a.toml("orders", 1)
    );
    let mut daemon = Daemon::start(&config);
    let mut seat = Seat::start(&mut top(&format!("http://{}", daemon.admin())));
    seat.wait("ready  pools 1");
    daemon.kill();
    seat.wait("NOT REACHABLE since");
    seat.wait("orders");
    let _again = Daemon::start(&config);
    seat.wait("ready  pools 1");
    // Control-C: no signal on a terminal that is raw.
    seat.press("\x03");
    assert_eq!(seat.wait_end(), Some(0));
}

#[test]
fn a_signal_gives_the_terminal_back() {
    for signal in [Signal::TERM, Signal::HUP] {
        let mut seat = Seat::start(&mut top(&format!("http://{}", fresh_addr())));
        seat.wait("NOT REACHABLE since");
        kill_process(Pid::from_child(&seat.process.0), signal).expect("a signal");
        assert_eq!(seat.wait_end(), Some(0));
    }
}

#[test]
fn colour_is_left_out_where_no_color_is_set() {
    let (site, _backends) = site();
    let admin = format!("unix:{}", site.socket().display());
    // Of a table, and of the full screen.
    let colours = |raw: &str| ["\x1b[32m", "\x1b[38;5;2"].iter().any(|code| raw.contains(code));
    for (value, wanted) in [(None, true), (Some("1"), false)] {
        let mut command = top(&admin);
        if let Some(value) = value {
            command.env("NO_COLOR", value);
        }
        let mut seat = Seat::start(&mut command);
        seat.press("2");
        seat.wait("orders/b");
        assert_eq!(colours(&seat.raw()), wanted, "{:?}", seat.raw());
        seat.press("q");
        assert_eq!(seat.wait_end(), Some(0));
        // The same of a table.
        let mut command = program();
        command.args(["backends", "--admin", &admin]).env_remove("NO_COLOR");
        if let Some(value) = value {
            command.env("NO_COLOR", value);
        }
        let mut seat = Seat::start(&mut command);
        seat.process.wait();
        seat.wait("orders/b");
        assert_eq!(colours(&seat.raw()), wanted, "{:?}", seat.raw());
    }
}
