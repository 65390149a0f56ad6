//! Sessions as operators see them, and what they cost while nothing moves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;
use support::narrow;
use support::net::{End, echo, meet};
use support::servers::Server;
use support::{Backend, DEADLINE, Daemon, changeover, ends, wait_until};

fn config(backends: &[String], more: &str) -> String {
    format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{more}\n\
         [pools.orders.check]\ninterval = \"50ms\"\n{}",
        backends.concat()
    )
}

fn daemon_before(server: &Server, more: &str) -> Daemon {
    Daemon::start(&config(&[format!("[pools.orders.backends.a]\naddress = \"{}\"\n", server.addr)], more))
}

#[track_caller]
fn sessions(daemon: &Daemon, query: &str) -> Vec<Value> {
    let answer = daemon.admin_get(&format!("/api/v1/sessions{query}"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    body["sessions"].as_array().unwrap().clone()
}

#[track_caller]
fn wait_idle(daemon: &Daemon, count: usize) {
    wait_until(&format!("{count} sessions are idle"), DEADLINE, || {
        sessions(daemon, "").iter().filter(|session| session["state"] == "idle").count() == count
    });
}

#[test]
fn a_session_at_rest_goes_on_whoever_speaks_first() {
    let server = Server::echo("a");
    let daemon = daemon_before(&server, "");
    let mut clients: Vec<TcpStream> = (0..10).map(|_| meet(daemon.listener("orders")).unwrap().0).collect();
    for round in 1..=2 {
        wait_idle(&daemon, 10);
        for client in &mut clients {
            echo(client, &[7; 100_000]).unwrap();
        }
        let moved = |session: &Value| session["bytes_to_backend"] == round * 100_000;
        wait_until("the bytes are counted", DEADLINE, || sessions(&daemon, "").iter().all(moved));
    }
    // The name and its line's end, and the echo.
    wait_until("both ways", DEADLINE, || sessions(&daemon, "").iter().all(|s| s["bytes_to_client"] == 200_002));
    wait_idle(&daemon, 10);
    // An end is news, too; the other direction goes on.
    for mut client in clients {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ends(&mut client), End::Closed);
    }
    wait_until("all are over", DEADLINE, || sessions(&daemon, "").is_empty());
    daemon.wait_closed("orders", "completed", 10);
    assert_eq!(daemon.metric("backend_connections_active", &[("backend", "a")]), Some(0.0));
    assert_eq!(daemon.metric("listener_connections_active", &[("listener", "orders")]), Some(0.0));
}

#[test]
fn a_backend_may_wake_a_session() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::start(support::fresh_addr(), move |_, mut stream| {
        // A probe leaves at once.
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        stream.write_all(b"hello")?;
        wait.lock().unwrap().recv_timeout(DEADLINE).ok();
        stream.write_all(b"news")
    });
    let daemon = daemon_before(&server, "");
    let mut client = support::dial(daemon.listener("orders")).unwrap();
    client.write_all(b"x").unwrap();
    wait_idle(&daemon, 1);
    go.send(()).unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "hellonews");
}

#[test]
fn sessions_at_rest_are_fenced_like_all_others() {
    let (mut a, b) = (Server::echo("a"), Backend::start("b"));
    let first = format!("[pools.orders.backends.a]\naddress = \"{}\"\npriority = 1\n", a.addr);
    let daemon = Daemon::start(&config(&[first, b.toml("orders", 2)], ""));
    let mut clients: Vec<TcpStream> = (0..100).map(|_| meet(daemon.listener("orders")).unwrap().0).collect();
    wait_idle(&daemon, 100);
    a.close();
    for client in &mut clients {
        assert_eq!(ends(client), End::Reset);
    }
    daemon.wait_closed("orders", "dead", 100);
    wait_until("none is left", DEADLINE, || sessions(&daemon, "").is_empty());
}

#[test]
fn a_session_at_rest_is_closed_when_its_idle_time_is_up() {
    let server = Server::echo("a");
    let daemon = daemon_before(&server, "idle_timeout = \"5s\"");
    let (mut client, _) = meet(daemon.listener("orders")).unwrap();
    let begun = std::time::Instant::now();
    wait_idle(&daemon, 1);
    assert_eq!(ends(&mut client), End::Reset);
    assert!(begun.elapsed() >= std::time::Duration::from_secs(5), "after {:?}", begun.elapsed());
    daemon.wait_closed("orders", "idle_timeout", 1);
}

#[test]
fn sessions_at_rest_end_with_the_drain() {
    let server = Server::echo("a");
    let text = config(&[format!("[pools.orders.backends.a]\naddress = \"{}\"\n", server.addr)], "");
    let mut daemon = Daemon::start(&format!("[daemon]\ndrain_timeout = \"100ms\"\n{text}"));
    let (mut client, _) = meet(daemon.listener("orders")).unwrap();
    wait_idle(&daemon, 1);
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(ends(&mut client), End::Reset);
    assert!(daemon.wait_exit().success());
}

#[test]
fn the_table_is_filtered_paged_and_printed() {
    let server = Server::echo("a");
    let daemon = daemon_before(&server, "");
    let clients: Vec<TcpStream> = (0..5).map(|_| meet(daemon.listener("orders")).unwrap().0).collect();
    let all = sessions(&daemon, "?listener=orders&pool=orders&backend=a");
    assert_eq!(all.len(), 5);
    let mut from: Vec<String> = all.iter().map(|session| session["client"].as_str().unwrap().to_owned()).collect();
    let mut here: Vec<String> = clients.iter().map(|client| client.local_addr().unwrap().to_string()).collect();
    from.sort();
    here.sort();
    assert_eq!(from, here);
    let page = sessions(&daemon, &format!("?limit=2&after={}", all[1]["id"]));
    assert_eq!(page, all[2..4].iter().map(|s| same_but_age(s, &page)).collect::<Vec<_>>());
    for bad in ["?limit=0", "?limit=10001", "?limit=x", "?pol=orders"] {
        let answer = daemon.admin_get(&format!("/api/v1/sessions{bad}"));
        assert!(answer.status == 400 && answer.body.contains("bad_query"), "{bad}: {}", answer.body);
    }
    let admin = format!("http://{}", daemon.admin());
    let printed = changeover(&["sessions", "--admin", &admin, "--pool", "orders", "--limit", "3"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    for word in ["CLIENT", "orders/a", "there are more"] {
        assert!(printed.stdout.contains(word), "no {word} in\n{}", printed.stdout);
    }
    assert!(printed.stdout.lines().all(|line| line.chars().count() <= 100), "{}", printed.stdout);
    let json = changeover(&["sessions", "--admin", &admin, "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["sessions"].as_array().unwrap().len(), 5);
}

#[test]
fn a_filter_by_a_name_that_nothing_has_is_an_error_and_one_of_what_is_gone_is_not() {
    let server = Server::echo("primary");
    let pool = |name: &str| format!("[pools.{name}.backends.primary]\naddress = \"{}\"\n", server.addr);
    let listener = |pool: &str| format!("[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n");
    let daemon = Daemon::start(&format!("{}{}", listener("orders"), pool("orders")));
    let admin = format!("http://{}", daemon.admin());
    for (option, name, meant) in [
        ("--pool", "ordres", "there is no pool `ordres`; did you mean `orders`?"),
        ("--listener", "frnt", "there is no listener `frnt`; did you mean `front`?"),
        ("--backend", "primray", "there is no backend `primray`; did you mean `primary`?"),
        ("--pool", "billing", "there is no pool `billing` ("),
    ] {
        let ended = changeover(&["sessions", option, name, "--admin", &admin]);
        assert!(ended.code == Some(1) && ended.stderr.contains(meant), "{option} {name}: {ended:?}");
        let answer = daemon.admin_get(&format!("/api/v1/sessions?{}={name}", option.trim_start_matches('-')));
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, &problem["code"]), (400, &Value::from("bad_query")), "{problem}");
    }
    assert!(sessions(&daemon, "?listener=front&pool=orders&backend=primary").is_empty(), "nobody is connected");
    assert!(sessions(&daemon, "?pool=ordres&after=7").is_empty(), "what a later page is of may have gone");
    // The pool goes, and its session stays.
    let (client, _) = meet(daemon.listener("front")).unwrap();
    wait_idle(&daemon, 1);
    daemon.reload(&format!("{}{}", listener("other"), pool("other"))).expect("taken");
    wait_until("the pool is gone", DEADLINE, || !daemon.admin_get("/api/v1/pools").body.contains("orders"));
    assert_eq!(sessions(&daemon, "?pool=orders&backend=primary").len(), 1);
    assert!(sessions(&daemon, "?pool=orders&listener=front").len() == 1);
    drop(client);
    wait_until("nothing is left of it", DEADLINE, || daemon.admin_get("/api/v1/sessions?pool=orders").status == 400);
}

/// `session` with the age and the state that it has in `page`: those change between two looks.
fn same_but_age(session: &Value, page: &[Value]) -> Value {
    let mut session = session.clone();
    if let Some(seen) = page.iter().find(|seen| seen["id"] == session["id"]) {
        for key in ["age_seconds", "state", "bytes_to_client", "bytes_to_backend"] {
            session[key] = seen[key].clone();
        }
    }
    session
}

#[test]
fn the_daemons_own_user_may_close_a_session_and_nobody_over_tcp_may() {
    let server = Server::echo("a");
    let dir = tempfile::tempdir().unwrap();
    let (socket, front) = (dir.path().join("admin.sock"), support::fresh_addr());
    let text = config(&[format!("[pools.orders.backends.a]\naddress = \"{}\"\n", server.addr)], "");
    let text = text.replace("127.0.0.1:0", &front.to_string());
    let daemon = Daemon::start(&format!("{text}[admin]\nbind = [\"unix:{}\", \"127.0.0.1:0\"]\n", socket.display()));
    let (mut kept, _) = meet(front).unwrap();
    let (mut closed, _) = meet(front).unwrap();
    let here = closed.local_addr().unwrap().to_string();
    let id =
        sessions(&daemon, "").into_iter().find(|session| session["client"] == here.as_str()).unwrap()["id"].clone();
    let path = format!("/api/v1/sessions/{id}");
    let over_tcp = support::http::request(daemon.admin(), "DELETE", &path).unwrap();
    assert_eq!(over_tcp.status, 403, "{}", over_tcp.body);
    assert!(over_tcp.body.contains("not_authorized"));
    echo(&mut closed, b"still here").unwrap();
    let over_unix = |path: &str| support::http::request_unix(&socket, "DELETE", path).unwrap();
    assert_eq!(over_unix(&path).status, 204);
    assert_eq!(ends(&mut closed), End::Reset);
    daemon.wait_closed("orders", "closed", 1);
    assert_eq!(over_unix(&path).status, 404);
    assert_eq!(over_unix("/api/v1/sessions/x").status, 404);
    echo(&mut kept, b"still here").unwrap();
}

/// A client of a pool in which `a` lets everybody in and hangs up without a word, `b` does not answer a dial for
/// as long as its listener is there and does not serve, and `c` would be glad to have it. It is at `b`.
struct Undecided {
    client: TcpStream,
    b: std::os::unix::net::UnixListener,
    daemon: Daemon,
    dir: tempfile::TempDir,
    _others: (Server, Server, Vec<socket2::Socket>),
}

impl Undecided {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, admin) = (dir.path().join("b"), dir.path().join("admin.sock"));
        let (a, b, c) = (Server::start(support::fresh_addr(), |_, _| Ok(())), narrow::listen(&path), Server::echo("c"));
        let daemon = Daemon::start(&format!(
            "[admin]\nbind = [\"unix:{}\", \"127.0.0.1:0\"]\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
             [pools.orders]\nconnect_timeout = \"1m\"\nbackends = [\"{}\", \"unix:{}\", \"{}\"]\n\
             [pools.orders.check]\ninterval = \"1h\"\n",
            admin.display(),
            a.addr,
            path.display(),
            c.addr
        ));
        let crowd = narrow::crowd(&path);
        let client = support::dial(daemon.listener("orders")).unwrap();
        let undecided = Self { client, b, daemon, dir, _others: (a, c, crowd) };
        wait_until("it dials b", DEADLINE, || sessions(&undecided.daemon, "").len() == 2);
        undecided
    }

    /// Closes its session at `b`, or the one at `a`.
    #[track_caller]
    fn close(&self, at_b: bool) {
        let all = sessions(&self.daemon, "");
        let at = all.iter().find(|session| session["backend"].as_str().unwrap().starts_with("unix:") == at_b).unwrap();
        let path = format!("/api/v1/sessions/{}", at["id"]);
        let answer = support::http::request_unix(&self.dir.path().join("admin.sock"), "DELETE", &path).unwrap();
        assert_eq!(answer.status, 204, "{}", answer.body);
    }

    #[track_caller]
    fn ends(mut self) {
        assert_eq!(ends(&mut self.client), End::Reset);
        self.daemon.wait_metric("listener_rejected_total", &[("listener", "orders"), ("reason", "closed")], 1.0);
        wait_until("none is left", DEADLINE, || sessions(&self.daemon, "").is_empty());
    }
}

#[test]
fn a_client_whose_session_was_closed_while_its_backend_was_in_doubt_is_given_no_other() {
    let undecided = Undecided::start();
    undecided.close(false);
    narrow::serve(undecided.b.try_clone().unwrap());
    undecided.ends();
}

#[test]
fn a_client_whose_session_was_closed_while_it_dialled_is_given_no_other_if_the_dial_fails() {
    let undecided = Undecided::start();
    undecided.close(true);
    // Whoever dials it is refused from now on.
    socket2::SockRef::from(&undecided.b).shutdown(Shutdown::Both).unwrap();
    undecided.ends();
}

#[test]
fn long_sessions_are_shared_evenly_among_the_threads() {
    let server = Server::echo("a");
    let text = config(&[format!("[pools.orders.backends.a]\naddress = \"{}\"\n", server.addr)], "");
    let daemon = Daemon::start(&format!("[daemon]\nworkers = 2\n{text}"));
    // Half of them leave: whichever thread is left with more than the other gets none before they are even.
    let mut clients: Vec<TcpStream> = (0..200).map(|_| meet(daemon.listener("orders")).unwrap().0).collect();
    let by_thread = || {
        let ids: Vec<u64> = sessions(&daemon, "").iter().map(|session| session["id"].as_u64().unwrap()).collect();
        ids.iter().fold([0_usize; 2], |mut counts, id| {
            counts[usize::try_from(id % 2).unwrap()] += 1;
            counts
        })
    };
    let even = |[a, b]: [usize; 2]| a.abs_diff(b) <= 4 + a.max(b) / 16 + 1;
    assert!(even(by_thread()), "{:?}", by_thread());
    let of_first: Vec<String> = sessions(&daemon, "")
        .iter()
        .filter(|session| session["id"].as_u64().unwrap() % 2 == 0)
        .map(|session| session["client"].as_str().unwrap().to_owned())
        .collect();
    clients.retain(|client| !of_first.contains(&client.local_addr().unwrap().to_string()));
    wait_until("one thread has none left", DEADLINE, || by_thread()[0] == 0);
    let more: Vec<TcpStream> = (0..clients.len()).map(|_| meet(daemon.listener("orders")).unwrap().0).collect();
    assert!(even(by_thread()), "{:?}", by_thread());
    for client in more.iter().chain(&clients) {
        echo(&mut &*client, b"still here").unwrap();
    }
}
