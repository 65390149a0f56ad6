//! The live stream of events, over real sockets: everybody who reads gets everything in order, whoever does not is
//! dropped and told so, and whoever comes back goes on where it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::callers::token_table;
use support::process::{Ended, Guarded, changeover, lines, program};
use support::{Backend, DEADLINE, Daemon, Site, dial, dial_unix, fresh_addr, http, pace, wait_for, wait_until};

/// An order that changes nothing, and is an event all the same.
const ORDER: &str = "POST /api/v1/pools/orders/backends/a/successes HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Told {
    id: u64,
    kind: String,
    data: String,
}

/// Somebody who follows the events.
struct Subscriber {
    stream: BufReader<TcpStream>,
}

impl Subscriber {
    /// Asks with `query` and more lines of the head. HTTP/1.0 has no chunks: what comes is the stream itself.
    fn ask(mut stream: TcpStream, query: &str, head: &str) -> Self {
        write!(stream, "GET /api/v1/events/stream{query} HTTP/1.0\r\nHost: localhost\r\n{head}\r\n").expect("sent");
        Self { stream: BufReader::new(stream) }
    }

    /// One that has been answered.
    #[track_caller]
    fn follow(admin: SocketAddr, query: &str, head: &str) -> Self {
        let mut subscriber = Self::ask(dial(admin).expect("accepted"), query, head);
        subscriber.answered();
        subscriber
    }

    /// The same, as caller number `caller` of [`callers`].
    #[track_caller]
    fn follow_as(caller: usize, admin: SocketAddr, query: &str) -> Self {
        Self::follow(admin, query, &format!("Authorization: Bearer caller-{caller}\r\n"))
    }

    /// Reads the head, which must be good news.
    #[track_caller]
    fn answered(&mut self) {
        let mut status = String::new();
        self.stream.read_line(&mut status).expect("an answer");
        assert!(status.contains(" 200 "), "{status}");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.stream.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        assert!(head.to_lowercase().contains("content-type: text/event-stream\r\n"), "{head}");
        assert!(head.to_lowercase().contains("cache-control: no-store\r\n"), "{head}");
    }

    /// The next event; none at the end of the stream. What says only that the connection lives is not waited on for ever.
    fn next(&mut self) -> io::Result<Option<Told>> {
        let mut told = Told::default();
        let mut line = String::new();
        let start = Instant::now();
        loop {
            if start.elapsed() > DEADLINE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => told.id = id.parse().expect("a number"),
                Some(("event", kind)) => kind.clone_into(&mut told.kind),
                Some(("data", data)) => data.clone_into(&mut told.data),
                Some(_) => {}
                None if told.kind.is_empty() => {}
                None => return Ok(Some(told)),
            }
        }
    }

    #[track_caller]
    fn must_tell(&mut self) -> Told {
        self.next().expect("in time").expect("not the end")
    }

    /// All ids up to `last`.
    #[track_caller]
    fn ids_to(&mut self, last: u64) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.last().is_none_or(|id| *id < last) {
            ids.push(self.must_tell().id);
        }
        ids
    }
}

fn backend() -> Backend {
    Backend::start("a")
}

/// Has `number` events happen, `rate` a second at most. Returns how long it took.
fn make_events(socket: &Path, number: u32, rate: u32) -> Duration {
    const BATCH: u32 = 10;
    let start = Instant::now();
    let mut last = start;
    for part in 0..number.div_ceil(1000) {
        let count = (number - part * 1000).min(1000);
        let mut stream = dial_unix(socket).expect("accepted");
        let mut answers = BufReader::new(stream.try_clone().expect("a copy"));
        let reading = thread::spawn(move || {
            let (mut line, mut good) = (String::new(), 0);
            while good < count {
                line.clear();
                assert!(answers.read_line(&mut line).expect("an answer") > 0, "{good} of {count}");
                good += u32::from(line.contains("HTTP/1.1 200"));
                assert!(!line.contains("HTTP/1.1 4"), "{line}");
            }
        });
        for batch in 0..count.div_ceil(BATCH) {
            let size = (count - batch * BATCH).min(BATCH);
            stream.write_all(ORDER.repeat(size as usize).as_bytes()).expect("sent");
            pace(&mut last, Duration::from_secs(1) * size / rate);
        }
        reading.join().expect("all are answered");
    }
    start.elapsed()
}

/// The newest event's number.
fn newest(site: &Site) -> u64 {
    site.daemon.admin_get("/api/v1/events?limit=1").json()["next"].as_u64().expect("a number")
}

/// As many callers, whom the daemon knows.
fn callers(count: usize) -> String {
    (0..count).map(|caller| token_table(&format!("c{caller}"), &format!("caller-{caller}"), "viewer", "")).collect()
}

/// A connection from a loopback address that ends in `last`, with a receive buffer if need be.
fn dial_from(last: u8, admin: SocketAddr, buffer: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
    }
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).expect("bound");
    socket.connect(&admin.into()).expect("accepted");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
    stream
}

/// One who asks for the stream and takes as little of it as can be.
fn deaf(admin: SocketAddr, query: &str) -> Subscriber {
    Subscriber::ask(dial_from(1, admin, Some(4096)), query, "")
}

#[test]
fn all_who_read_get_all_in_order_and_those_who_do_not_are_dropped() {
    const READERS: usize = 150;
    const DEAF: usize = 50;
    const EVENTS: u32 = 10_000;
    let a = backend();
    let site = Site::start(&callers(READERS / 50), &[&a]);
    let admin = site.daemon.admin();
    let begin = newest(&site);
    let query = format!("?after={begin}");
    let mut deaf: Vec<Subscriber> = (0..DEAF).map(|_| deaf(admin, &query)).collect();
    let readers: Vec<Subscriber> = (0..READERS).map(|at| Subscriber::follow_as(at / 50, admin, &query)).collect();
    site.daemon.wait_metric("event_subscribers", &[], 200.0);
    let (before, cpu) = (site.daemon.resident(), site.daemon.cpu());
    let last = begin + u64::from(EVENTS);
    let (all, took) = thread::scope(|scope| {
        let read = |mut reader: Subscriber| scope.spawn(move || reader.ids_to(last));
        let readers: Vec<_> = readers.into_iter().map(read).collect();
        let took = make_events(&site.socket(), EVENTS, 1000);
        assert_eq!(site.daemon.admin_get("/healthz").status, 200, "200 streams are in nobody's way");
        (readers.into_iter().map(|reader| reader.join().expect("it got all")).collect::<Vec<_>>(), took)
    });
    let (after, cpu) = (site.daemon.resident(), site.daemon.cpu().saturating_sub(cpu));
    println!(
        "{EVENTS} events in {took:.1?} to {READERS} readers beside {DEAF} who do not read: the daemon took {cpu:.1?}"
    );
    println!("memory: {} KiB before, {} KiB after", before >> 10, after >> 10);
    let wanted: Vec<u64> = (begin + 1..=last).collect();
    for ids in all {
        assert!(ids == wanted, "{} of {EVENTS}, from {:?} to {:?}", ids.len(), ids.first(), ids.last());
    }
    // 200 connections with 100 KiB each, the queue of 1,024 events, and the history's 4 MiB.
    assert!(after.saturating_sub(before) < 48 << 20, "{} KiB more", (after - before) >> 10);
    for subscriber in &mut deaf {
        subscriber.answered();
        let (mut ids, mut notice) = (Vec::new(), None);
        while let Some(told) = subscriber.next().expect("what was sent comes still") {
            match told.kind.as_str() {
                "dropped" => notice = Some(told),
                _ => ids.push(told.id),
            }
        }
        let notice = notice.expect("it is told");
        let data: Value = serde_json::from_str(&notice.data).expect("JSON");
        let resume = data["resume"].as_u64().expect("a number");
        assert_eq!(
            ids,
            (begin + 1..=resume).collect::<Vec<_>>(),
            "what came came in order, up to where it is to go on"
        );
        assert_eq!(notice.id, resume, "a browser goes on there by itself");
        assert!(data["missed"].as_u64().is_some_and(|missed| missed > 0 && resume + missed <= last), "{data}");
    }
    site.daemon.wait_metric("event_subscribers_dropped_total", &[], 50.0);
    site.daemon.wait_metric("event_subscribers", &[], 0.0);
}

#[test]
fn whoever_comes_back_goes_on_without_a_gap_or_a_double() {
    let a = backend();
    let site = Site::start("", &[&a]);
    let admin = site.daemon.admin();
    let (begin, rounds) = (newest(&site), 40);
    let last = begin + 4000;
    let seen = thread::scope(|scope| {
        scope.spawn(|| make_events(&site.socket(), 4000, 2000));
        let (mut seen, mut round) = (vec![begin], 0);
        while *seen.last().unwrap() < last {
            let id = seen.last().unwrap();
            // By turns as a browser says it and as a script does; a browser says both.
            let mut subscriber = match round % 3 {
                0 => Subscriber::follow(admin, "", &format!("Last-Event-ID: {id}\r\n")),
                1 => Subscriber::follow(admin, &format!("?after={id}"), ""),
                _ => Subscriber::follow(admin, &format!("?after={begin}"), &format!("Last-Event-ID: {id}\r\n")),
            };
            // Of all lengths, so that some end in the past and some in the present.
            let wanted = if round < rounds { fastrand::usize(1..200) } else { usize::MAX };
            for _ in 0..wanted {
                if *seen.last().unwrap() >= last {
                    break;
                }
                seen.push(subscriber.must_tell().id);
            }
            round += 1;
        }
        assert!(round > 20, "{round} reconnections");
        seen
    });
    assert_eq!(seen, (begin..=last).collect::<Vec<_>>());
}

#[test]
fn what_is_told_is_what_the_history_has_and_only_what_was_asked_for() {
    let a = backend();
    let payments = "[pools.payments]\nbackends = [\"127.0.0.1:9\"]\ncheck = { kind = \"none\" }";
    let site = Site::start(payments, &[&a]);
    let admin = site.daemon.admin();
    let mut drains = Subscriber::follow(admin, "?kind=backend.admin_state,tunnel.*&pool=orders&backend=a", "");
    let mut past = Subscriber::follow(admin, "?since=2020-01-01T00:00:00Z&kind=backend.*", "");
    let mut other = Subscriber::follow(admin, "?pool=payments", "");
    for _ in 0..3 {
        site.done("POST", "/orders/backends/a/drain", "");
        site.done("POST", "/orders/backends/a/ready", "");
    }
    for to in ["drain", "ready"].repeat(3) {
        let told = drains.must_tell();
        let event: Value = serde_json::from_str(&told.data).expect("JSON");
        assert_eq!((told.kind.as_str(), &event["to"]), ("backend.admin_state", &Value::from(to)), "{event}");
        assert_eq!((event["id"].as_u64(), &event["kind"]), (Some(told.id), &Value::from(told.kind)), "{event}");
        let page = site.daemon.admin_get(&format!("/api/v1/events?after={}&limit=1", told.id - 1)).json();
        assert_eq!(page["events"][0], event);
    }
    assert_eq!(past.must_tell().kind, "backend.healthy", "it begins with what happened before");
    for bad in ["?limit=5", "?colour=red", "?since=now", "?after=x"] {
        let answer = http::get(admin, &format!("/api/v1/events/stream{bad}")).expect("answered");
        assert_eq!((answer.status, &answer.json()["code"]), (400, &Value::from("bad_query")), "{bad}");
    }
    site.daemon.signal(Signal::TERM);
    assert_eq!(other.next().expect("an end"), None, "nothing of another pool");
}

#[test]
fn a_number_of_another_history_is_the_beginning_of_this_one() {
    let a = backend();
    let site = Site::start("", &[&a]);
    let mut subscriber = Subscriber::follow(site.daemon.admin(), "", "Last-Event-ID: 123456789\r\n");
    let gap = subscriber.must_tell();
    assert_eq!((gap.kind.as_str(), gap.id), ("gap", 0), "what followed it there is not kept");
    let first = site.daemon.admin_get("/api/v1/events?after=0&limit=1").json();
    assert_eq!(Some(subscriber.must_tell().id), first["events"][0]["id"].as_u64());
    for bad in ["Last-Event-ID: x\r\n", "Last-Event-ID: -1\r\n"] {
        let head = format!("GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\n{bad}");
        let answer = http::exchange_head(dial(site.daemon.admin()).unwrap(), &head).unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (400, &Value::from("bad_query")), "{bad}");
    }
}

#[test]
fn whoever_pages_on_through_a_restart_without_a_state_dir_misses_nothing_of_what_happens_then() {
    let (a, admin) = (backend(), fresh_addr());
    let config = format!(
        "[daemon]\nworkers = 1\n[admin]\nbind = \"{admin}\"\n[listeners.orders]\nbind = \"127.0.0.1:0\"\n\
         pool = \"orders\"\n{}",
        a.toml("orders", 1)
    );
    let page = |after: u64| http::get(admin, &format!("/api/v1/events?after={after}")).expect("answered").json();
    let ids = |page: &Value| {
        let events = page["events"].as_array().expect("events").iter();
        events.map(|event| event["id"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let mut daemon = Daemon::start(&config);
    let old = page(0)["next"].as_u64().expect("a number");
    daemon.kill();
    let _daemon = Daemon::start(&config);
    wait_until("it has begun", DEADLINE, || !ids(&page(0)).is_empty());
    for after in [old, old + 1_000_000_000_000, 1_000_000, u64::MAX] {
        let (all, paged) = (page(0), page(after));
        assert!(ids(&paged).starts_with(&ids(&all)), "after {after}: {paged}");
        assert_eq!(paged["next"].as_u64(), ids(&paged).last().copied(), "after {after}: {paged}");
        let mut subscriber = Subscriber::follow(admin, "", &format!("Last-Event-ID: {after}\r\n"));
        assert_eq!(subscriber.must_tell().kind, "gap");
        assert_eq!(subscriber.ids_to(*ids(&all).last().unwrap()), ids(&all), "after {after}");
    }
}

#[test]
fn there_are_as_many_subscribers_as_may_be_and_no_more() {
    let a = backend();
    let site = Site::start(&callers(8), &[&a]);
    let admin = site.daemon.admin();
    let mut all: Vec<Subscriber> =
        (0..512).map(|at| Subscriber::follow_as(at / 64, admin, "?kind=admin.action")).collect();
    let refused = http::get(admin, "/api/v1/events/stream").expect("answered");
    assert_eq!((refused.status, &refused.json()["code"]), (503, &Value::from("too_many_subscribers")));
    assert_eq!(site.daemon.metric("event_subscribers", &[]), Some(512.0));
    // More than are served at once: the oldest of them have to go, and no stream is one of them.
    let _idle: Vec<TcpStream> = (0..200).map(|_| dial(admin).expect("accepted")).collect();
    assert_eq!(site.daemon.admin_get("/healthz").status, 200);
    make_events(&site.socket(), 1, 1);
    for subscriber in &mut all {
        assert_eq!(subscriber.must_tell().kind, "admin.action");
    }
    drop(all.split_off(256));
    site.daemon.wait_metric("event_subscribers", &[], 256.0);
    Subscriber::follow(admin, "", "");
}

#[test]
fn one_caller_takes_nobodys_place() {
    let a = backend();
    let site = Site::start(&callers(1), &[&a]);
    let admin = site.daemon.admin();
    // Whatever address of loopback it takes, it is one.
    let of_one = |last: u8| {
        let mut subscriber = Subscriber::ask(dial_from(last, admin, None), "", "");
        subscriber.answered();
        subscriber
    };
    let mut all: Vec<Subscriber> = (1..=64).map(of_one).collect();
    let mut one_more = Subscriber::ask(dial_from(65, admin, None), "", "");
    let mut answer = String::new();
    one_more.stream.read_line(&mut answer).expect("an answer");
    assert!(answer.contains(" 503 "), "{answer}");
    one_more.stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("\"too_many_streams\"") && answer.contains("64"), "{answer}");
    Subscriber::follow_as(0, admin, "");
    drop(all.pop());
    wait_until("the place is free again", DEADLINE, || {
        let mut subscriber = Subscriber::ask(dial_from(66, admin, None), "", "");
        let mut status = String::new();
        subscriber.stream.read_line(&mut status).is_ok() && status.contains(" 200 ")
    });
}

#[test]
fn a_stream_ends_in_order_with_the_daemon() {
    let a = backend();
    let mut site = Site::start("", &[&a]);
    let mut stream = dial(site.daemon.admin()).expect("accepted");
    write!(stream, "GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    site.daemon.wait_metric("event_subscribers", &[], 1.0);
    site.daemon.signal(Signal::TERM);
    // Before it is read, for which there would be no end if the daemon did not come to its own.
    assert!(site.daemon.wait_exit().success());
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("an end, and no reset");
    assert!(all.contains("event: daemon.stopping\n"), "{all}");
    assert!(all.ends_with("\r\n0\r\n\r\n"), "{all}");
}

#[test]
fn streams_of_an_address_that_is_given_up_end() {
    let a = backend();
    let site = Site::start("", &[&a]);
    let mut subscriber = Subscriber::follow(site.daemon.admin(), "", "");
    let config = std::fs::read_to_string(site.daemon.config()).expect("read");
    site.daemon.reload(&config.replace(", \"127.0.0.1:0\"", "")).expect("taken");
    wait_until("its end", DEADLINE, || subscriber.next().expect("an end").is_none());
}

#[test]
fn the_command_shows_what_happened() {
    let a = backend();
    let site = Site::start("", &[&a]);
    site.done("POST", "/orders/backends/a/drain", "");
    site.done("POST", "/orders/backends/a/ready", "");
    let seen = || site.command(&["events", "--kind", "backend.admin_state", "--kind", "pool.*"]).stdout;
    wait_until("it is in the history", DEADLINE, || seen().contains("from drain to ready"));
    let table = seen();
    assert!(table.starts_with("TIME "), "{table}");
    assert!(
        table.contains("  backend.admin_state  orders/a") && table.contains("  backend a goes from ready to drain"),
        "{table}"
    );
    assert!(!table.contains("admin.action"), "{table}");
    let json = |args: &[&str]| {
        let Ended { code, stdout, stderr } = site.command(&[&["events", "--json"][..], args].concat());
        assert_eq!(code, Some(0), "{stderr}");
        stdout
    };
    let lines = json(&["--pool", "orders", "--backend", "a", "--since", "10m", "--limit", "2"]);
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(events.len() == 2 && events.iter().all(|event| event["backend"] == "a"), "{lines}");
    assert_eq!(json(&["--until", "1h"]), "", "nothing is that old");
    assert_eq!(site.told(&["events", "--kind", "tunnel.*"]).lines().count(), 1, "the head alone");
    let unknown = site.send("GET", "/payments/events", "");
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &Value::from("pool_not_found")));
    for (bad, why) in [
        (["--pool", "order"], "there is no pool `order`, nor was there one; did you mean `orders`?"),
        (["--backend", "b"], "there is no backend `b`, nor was there one; did you mean `a`?"),
        (["--kind", "pool.dwon"], "no event is of the kind `pool.dwon`; did you mean `pool.down`?"),
        (["--kind", "pol.*"], "no event is of the kind `pol.*`; did you mean `pool.*`?"),
    ] {
        for more in [&[][..], &["--follow"]] {
            let Ended { code, stderr, .. } = site.command(&[&["events"][..], &bad, more].concat());
            assert!(code == Some(1) && stderr.contains(why), "{bad:?}: {code:?} {stderr}");
        }
    }
    for bad in [&["--since", "yesterday"][..], &["--limit", "0"], &["--limit", "1001"], &["--follow", "--until", "1h"]]
    {
        let Ended { code, stderr, .. } = site.command(&[&["events"][..], bad].concat());
        assert_eq!(code, Some(64), "{bad:?}: {stderr}");
    }
    let Ended { code, .. } = changeover(&["events", "--follow", "--admin", &format!("http://{}", fresh_addr())]);
    assert_eq!(code, Some(69), "who was never there is not waited for");
}

/// `events --follow` while it runs.
struct Following {
    process: Guarded,
    out: Receiver<String>,
    complaints: Arc<Mutex<String>>,
}

impl Following {
    fn start(admin: SocketAddr, args: &[&str]) -> Self {
        let mut command = program();
        command.args(["events", "--follow", "--admin", &format!("http://{admin}")]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let (out, err) = (lines(child.stdout.take().unwrap()), BufReader::new(child.stderr.take().unwrap()));
        let complaints = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&complaints);
        thread::spawn(move || {
            for line in err.lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Self { process: Guarded(child), out, complaints }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.out.recv_timeout(DEADLINE).unwrap_or_else(|e| panic!("no line ({e}); {:?}", self.complaints))
    }

    fn complained(&self, of: &str) -> bool {
        self.complaints.lock().unwrap().contains(of)
    }
}

#[test]
fn the_command_follows_through_a_restart_of_the_daemon_and_ends_when_it_is_told() {
    let (a, admin, dir) = (backend(), fresh_addr(), tempfile::tempdir().unwrap());
    let socket = dir.path().join("admin.sock");
    let config = format!(
        "[daemon]\nworkers = 1\nstate_dir = \"{0}/state\"\n[admin]\nbind = [\"unix:{1}\", \"{admin}\"]\n\
         [listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{2}",
        dir.path().display(),
        socket.display(),
        a.toml("orders", 1)
    );
    let mut daemon = Daemon::start(&config);
    let newest = |daemon: &Daemon| daemon.admin_get("/api/v1/events?limit=1").json()["next"].as_u64().unwrap();
    make_events(&socket, 20, 1000);
    wait_until("they are in the history", DEADLINE, || newest(&daemon) >= 20);
    let mut following = Following::start(admin, &["--json", "--limit", "5", "--kind", "admin.action"]);
    let id = |line: String| serde_json::from_str::<Value>(&line).expect("JSON")["id"].as_u64().expect("a number");
    let mut ids: Vec<u64> = (0..5).map(|_| id(following.line())).collect();
    daemon.wait_metric("event_subscribers", &[], 1.0);
    make_events(&socket, 10, 1000);
    ids.extend((0..10).map(|_| id(following.line())));
    daemon.kill();
    wait_until("it says so", DEADLINE, || following.complained("the connection is lost"));
    daemon = Daemon::start(&config);
    // Also what happens before it is back.
    make_events(&socket, 10, 1000);
    ids.extend((0..10).map(|_| id(following.line())));
    wait_until("it says that it is back", DEADLINE, || following.complained("connected again, going on after event"));
    let page = daemon.admin_get("/api/v1/events?kind=admin.action&limit=25").json();
    let kept: Vec<u64> = page["events"].as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, kept, "each one once, and in order");
    kill_process(Pid::from_child(&following.process.0), Signal::INT).expect("it runs");
    assert_eq!(following.process.wait().code(), Some(0), "{:?}", following.complaints);
}

#[test]
fn the_command_ends_with_its_terminal() {
    let a = backend();
    let site = Site::start("", &[&a]);
    let mut following = Following::start(site.daemon.admin(), &["--kind", "admin.action"]);
    site.daemon.wait_metric("event_subscribers", &[], 1.0);
    kill_process(Pid::from_child(&following.process.0), Signal::HUP).expect("it runs");
    let ended = wait_for("its end", DEADLINE, || following.process.0.try_wait().expect("wait"));
    assert_eq!(ended.signal(), Some(Signal::HUP.as_raw()), "{:?}", following.complaints);
    site.daemon.wait_metric("event_subscribers", &[], 0.0);
}

#[test]
fn what_strangers_ask_for_in_vain_makes_nothing_that_was() {
    let a = backend();
    let site = Site::start("", &[&a]);
    let admin = site.daemon.admin();
    let begin = newest(&site);
    let post = "POST /api/v1/pools/invented/backends/ghost/drain HTTP/1.1\r\nHost: localhost\r\n";
    assert_eq!(http::exchange_head(dial(admin).unwrap(), post).unwrap().status, 403);
    wait_until("the refusal is in the audit trail", DEADLINE, || newest(&site) > begin);
    let audit = site.daemon.admin_get("/api/v1/events?kind=admin.action&limit=1").json();
    assert_eq!(audit["events"][0]["pool"], "invented", "where it stays: {audit}");
    for (path, status) in [
        ("/pools/invented/events", 404),
        ("/events?pool=invented", 400),
        ("/events?backend=ghost", 400),
        ("/events/stream?pool=invented", 400),
    ] {
        assert_eq!(site.daemon.admin_get(&format!("/api/v1{path}")).status, status, "{path}");
    }
}

#[test]
fn the_command_ends_when_nobody_reads_on() {
    let a = backend();
    let site = Site::start("", &[&a]);
    let following = Following::start(site.daemon.admin(), &["--kind", "admin.action"]);
    site.daemon.wait_metric("event_subscribers", &[], 1.0);
    make_events(&site.socket(), 1, 1000);
    assert!(following.line().starts_with("TIME "));
    assert!(following.line().contains("admin.action"));
    let Following { mut process, out, complaints } = following;
    // The next line finds nobody, and then the pipe is closed.
    drop(out);
    let ended = wait_for("its end", DEADLINE, || {
        make_events(&site.socket(), 1, 1000);
        process.0.try_wait().expect("wait")
    });
    assert_eq!(ended.code(), Some(0), "{complaints:?}");
}
