//! Operators' orders on a running daemon: who serves, and whether new clients wait.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm
)]

mod support;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use changeover::config::Document;
use changeover::daemon::{self, Options};
use changeover::failover::{Change, Order, Refusal, Transition};
use changeover::model::{Actor, Explanation, FailoverStatus, PoolName, SessionPolicy};
use support::callers::token_table;
use support::net::{echo, meet};
use support::{Backend, DEADLINE, dial, ends, http, in_time, visit, wait_until};

const TOKEN: &str = "t0ken-of-the-test";

/// A daemon in this process, so that it can be given orders.
struct Ordered {
    daemon: Option<daemon::Daemon>,
    runtime: tokio::runtime::Runtime,
}

impl Ordered {
    /// Over `a`, preferred, and `b`.
    fn start(settings: &str, a: &Backend, b: &Backend) -> Self {
        // Whoever asks from the daemon's own process has no rights of its own.
        let token = token_table("test", TOKEN, "viewer", "");
        let text = format!(
            "[daemon]\nworkers = 1\n[admin]\nbind = \"127.0.0.1:0\"\n{token}[listeners.orders]\nbind = \"127.0.0.1:0\"\n\
             pool = \"orders\"\n[pools.orders]\nhold = \"10m\"\n{settings}\n[pools.orders.check]\ninterval = \"50ms\"\n{}{}",
            a.toml("orders", 1),
            b.toml("orders", 2),
        );
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let document = Document::load(file.path()).unwrap();
        let daemon = daemon::start(document, Options::default()).unwrap();
        assert!(daemon.wait_ready(DEADLINE));
        Self {
            daemon: Some(daemon),
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
        }
    }

    fn daemon(&self) -> &daemon::Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.daemon().listener_address("orders").unwrap().to_string().parse().unwrap()
    }

    /// What the control plane answers.
    fn answered<T>(&self, asked: impl Future<Output = T>) -> T {
        self.runtime.block_on(in_time("the control plane answers", asked))
    }

    fn give(&self, order: Order) -> Result<Vec<Transition>, Refusal> {
        self.answered(self.daemon().control().order(Actor::from("ops"), order)).expect("it works")
    }

    fn explain(&self) -> Explanation {
        let asked = self.daemon().control().explain(pool());
        self.answered(asked).expect("it works").expect("the pool is there")
    }

    fn pool(&self) -> serde_json::Value {
        let admin = self.daemon().admin_address().unwrap().to_string().parse().unwrap();
        let authorization = format!("Authorization: Bearer {TOKEN}\r\n");
        http::send_with(dial(admin).unwrap(), "GET", "/api/v1/pools/orders", &authorization, "").unwrap().json()
    }

    fn wait_held(&self, held: usize) {
        wait_until("so many are held", DEADLINE, || self.pool()["held"] == held);
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop(Duration::ZERO);
        }
    }
}

fn pool() -> PoolName {
    PoolName::from("orders")
}

fn fail_over(to: &Backend, sessions: SessionPolicy) -> Order {
    Order::Failover { pool: pool(), to: Some(to.name.as_str().into()), reason: None, sessions }
}

fn kinds(told: &[Transition]) -> Vec<&'static str> {
    told.iter().map(|transition| transition.change.kind()).collect()
}

fn visitor(address: SocketAddr) -> std::thread::JoinHandle<std::io::Result<String>> {
    std::thread::spawn(move || visit(address))
}

/// Whether the connection still carries bytes.
fn lives(session: &mut TcpStream) -> bool {
    echo(session, b"still there?").is_ok()
}

#[test]
fn clients_of_a_paused_pool_wait_whatever_the_policy_and_sessions_go_on() {
    for when_down in ["hold", "refuse", "use-preferred"] {
        let (a, b) = (Backend::start("a"), Backend::start("b"));
        let daemon = Ordered::start(&format!("when_down = \"{when_down}\""), &a, &b);
        let (mut session, name) = meet(daemon.address()).unwrap();
        assert_eq!(name, "a");
        let told = daemon.give(Order::Pause { pool: pool(), until: None }).unwrap();
        assert_eq!(kinds(&told), ["pool.paused"]);
        assert_eq!(told[0].actor, Actor::from("ops"));
        let clients: Vec<_> = (0..3).map(|_| visitor(daemon.address())).collect();
        daemon.wait_held(3);
        assert_eq!((&daemon.pool()["paused"], &daemon.pool()["state"]), (&true.into(), &"healthy".into()));
        assert!(lives(&mut session), "{when_down}");
        assert!(matches!(daemon.give(fail_over(&b, SessionPolicy::Keep)), Ok(told) if told.len() == 3));
        daemon.wait_held(3);
        assert_eq!(kinds(&daemon.give(Order::Resume { pool: pool() }).unwrap()), ["pool.resumed"]);
        for client in clients {
            assert_eq!(client.join().unwrap().expect("served"), "b", "{when_down}");
        }
        daemon.wait_held(0);
        assert_eq!(daemon.pool()["paused"], false);
        assert!(lives(&mut session), "{when_down}");
    }
}

#[test]
fn a_pause_lets_clients_go_on_when_its_time_is_up() {
    let pause = Duration::from_millis(300);
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Ordered::start("when_down = \"refuse\"", &a, &b);
    let began = Instant::now();
    let until = Some(daemon.explain().at + pause);
    daemon.give(Order::Pause { pool: pool(), until }).unwrap();
    assert_eq!(visit(daemon.address()).expect("served"), "a");
    assert!(began.elapsed() >= pause, "let go after {:?}", began.elapsed());
    assert!(matches!(daemon.give(Order::Resume { pool: pool() }), Err(Refusal::Conflict(_))));
}

#[test]
fn a_pool_that_is_down_and_paused_refuses_nobody_before_the_end() {
    let (a, b) = (Backend::absent("a"), Backend::absent("b"));
    let daemon = Ordered::start("when_down = \"refuse\"", &a, &b);
    assert_eq!(daemon.pool()["state"], "down");
    daemon.give(Order::Pause { pool: pool(), until: None }).unwrap();
    let mut client = dial(daemon.address()).unwrap();
    daemon.wait_held(1);
    daemon.give(Order::Resume { pool: pool() }).unwrap();
    ends(&mut client);
    daemon.wait_held(0);
}

#[test]
fn an_ordered_failover_is_in_force_when_it_is_answered_and_holds_until_failback() {
    let (a, mut b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Ordered::start("", &a, &b);
    let (mut session, _) = meet(daemon.address()).unwrap();
    let told = daemon.give(fail_over(&b, SessionPolicy::Close)).unwrap();
    let status = |told: &Transition| match &told.change {
        Change::PoolFailover { number: 1, status, .. } => *status,
        other => panic!("no failover: {other}"),
    };
    let statuses: Vec<FailoverStatus> = told.iter().map(status).collect();
    assert_eq!(statuses, [FailoverStatus::Pending, FailoverStatus::InProgress, FailoverStatus::Completed]);
    assert_eq!(visit(daemon.address()).expect("served"), "b", "the very next client");
    ends(&mut session);
    assert_eq!(daemon.pool()["pinned"], "b");
    // The pinned backend dies: nobody else takes over, and clients are held until it is released.
    b.kill();
    wait_until("the pool is down", DEADLINE, || daemon.pool()["state"] == "down");
    let client = visitor(daemon.address());
    daemon.wait_held(1);
    let told = daemon.give(Order::Failback { pool: pool() }).unwrap();
    assert_eq!(kinds(&told), ["pool.unpinned", "pool.failback", "pool.recovered"]);
    assert_eq!(client.join().unwrap().expect("served"), "a");
    assert_eq!(daemon.explain().serving, ["a".into()]);
}

#[test]
fn an_order_that_is_refused_says_why_and_changes_nothing() {
    let (a, b) = (Backend::start("a"), Backend::absent("b"));
    let daemon = Ordered::start("", &a, &b);
    let generation = daemon.pool()["generation"].clone();
    let refused = daemon.give(fail_over(&b, SessionPolicy::Close)).unwrap_err();
    assert!(refused.to_string().starts_with("backend b of pool orders is not eligible"), "{refused}");
    assert_eq!(daemon.give(Order::Failback { pool: "x".into() }), Err(Refusal::PoolNotFound("x".into())));
    assert!(matches!(daemon.give(Order::Failback { pool: pool() }), Err(Refusal::Conflict(_))));
    assert_eq!(daemon.pool()["generation"], generation);
    let control = daemon.daemon().control();
    let evaluation = daemon.answered(control.evaluate(pool())).unwrap().unwrap();
    assert!(!evaluation.should_failover && evaluation.reason == "a can serve", "{evaluation:?}");
    assert_eq!(daemon.answered(control.explain("x".into())), Some(None));
    let mut client = dial(daemon.address()).unwrap();
    assert_eq!(support::net::read_line(&mut client).unwrap(), "a");
}
