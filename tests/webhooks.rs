//! Webhooks, posted to a real receiver: signed, in order, and until they are taken; and nobody who decides waits for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use aws_lc_rs::hmac;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use support::callers::certificate;
use support::net::{listen, stop_listening};
use support::{Backend, DEADLINE, Daemon, fresh_addr, http, visit, wait_for, wait_until};

const SECRET: &str = "what only the two of them know";

/// A request that a receiver was sent.
#[derive(Debug, Clone)]
struct Post {
    head: String,
    body: String,
}

impl Post {
    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    fn id(&self) -> u64 {
        let id = self.json()["id"].as_u64().expect("a number");
        assert_eq!(self.header("changeover-delivery"), id.to_string());
        id
    }
}

/// What a receiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers(u16),
    /// 429, and to be left alone for a second.
    Asks,
    Hangs,
    /// Answers 200, but not before its mood is another one.
    Ponders,
}

/// Somebody who takes webhooks.
struct Receiver {
    scheme: &'static str,
    addr: SocketAddr,
    listener: TcpListener,
    posts: Arc<Mutex<Vec<Post>>>,
    mood: Arc<Mutex<Mood>>,
}

impl Receiver {
    fn start(mood: Mood) -> Self {
        Self::at(fresh_addr(), mood)
    }

    fn at(addr: SocketAddr, mood: Mood) -> Self {
        Self::by("http", addr, mood, Some)
    }

    /// One that speaks TLS, with the certificate `dir/NAME.pem`.
    fn secured(dir: &Path, name: &str, mood: Mood) -> Self {
        let chain = vec![CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a pair");
        let config = Arc::new(config);
        Self::by("https", SocketAddr::from(([127, 0, 0, 1], 0)), mood, move |stream| {
            Some(StreamOwned::new(ServerConnection::new(Arc::clone(&config)).ok()?, stream))
        })
    }

    /// One that reads and writes what `open` makes of a connection.
    fn by<S: Read + Write>(
        scheme: &'static str,
        addr: SocketAddr,
        mood: Mood,
        open: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
    ) -> Self {
        let (listener, open) = (listen(addr), Arc::new(open));
        let addr = listener.local_addr().expect("bound");
        let (posts, mood) = (Arc::default(), Arc::new(Mutex::new(mood)));
        let receiver = Self { scheme, addr, listener, posts, mood };
        let (accepting, posts) = (receiver.listener.try_clone().expect("a copy"), Arc::clone(&receiver.posts));
        let mood = Arc::clone(&receiver.mood);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let (posts, mood, open) = (Arc::clone(&posts), Arc::clone(&mood), Arc::clone(&open));
                thread::spawn(move || answer(open(stream)?, &posts, &mood));
            }
        });
        receiver
    }

    fn url(&self) -> String {
        format!("{}://{}/hook?token=s3cret", self.scheme, self.addr)
    }

    fn posts(&self) -> Vec<Post> {
        self.posts.lock().expect("lock").clone()
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().expect("lock") = mood;
    }

    /// Waits for so many posts, and gives them.
    #[track_caller]
    fn wait(&self, number: usize) -> Vec<Post> {
        wait_for(&format!("{number} posts"), DEADLINE, || Some(self.posts()).filter(|posts| posts.len() >= number))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        stop_listening(&self.listener);
    }
}

fn answer(stream: impl Read + Write, posts: &Mutex<Vec<Post>>, mood: &Mutex<Mood>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        stream.read_line(&mut head).ok().filter(|length| *length > 0)?;
    }
    let post = Post { head, body: String::new() };
    let mut body = vec![0; post.header("content-length").parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    // Kept and judged under one lock, so that a change of mood is between two posts.
    let now = *mood.lock().expect("lock");
    posts.lock().expect("lock").push(Post { body: String::from_utf8(body).ok()?, ..post });
    let said = match now {
        Mood::Answers(status) => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
        Mood::Asks => "HTTP/1.1 429 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        Mood::Hangs => {
            // Until the other side has had enough.
            let _gone = stream.read_to_end(&mut Vec::new());
            return None;
        }
        Mood::Ponders => {
            wait_until("it has another mood", DEADLINE, || *mood.lock().expect("lock") != Mood::Ponders);
            "HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
    };
    stream.get_mut().write_all(said.as_bytes()).ok()?;
    stream.get_mut().flush().ok()
}

/// A daemon whose state is in a directory, with an admin socket there.
struct Home {
    dir: tempfile::TempDir,
    more: String,
}

impl Home {
    fn new(backends: &[&Backend], webhooks: &str) -> Self {
        let tables: String = (1..).zip(backends).map(|(priority, backend)| backend.toml("orders", priority)).collect();
        let more = format!(
            "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders.check]\ninterval = \"50ms\"\n\
             [pools.orders.failover]\nfailback_after = \"0s\"\n{tables}{webhooks}"
        );
        Self { dir: tempfile::tempdir().expect("a directory"), more }
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        format!(
            "[daemon]\nworkers = 1\nstate_dir = \"{dir}/state\"\ndrain_timeout = \"100ms\"\n\
             [admin]\nbind = [\"unix:{dir}/admin.sock\", \"127.0.0.1:0\"]\n{}",
            self.more
        )
    }

    #[track_caller]
    fn start(&self) -> Daemon {
        let daemon = Daemon::start(&self.config());
        if self.more.contains("[webhooks.") {
            wait_until("the webhooks have begun", DEADLINE, || daemon.metric("webhook_pending", &[]).is_some());
        }
        daemon
    }

    #[track_caller]
    fn order(&self, path: &str) {
        order(&self.dir.path().join("admin.sock"), path);
    }

    /// So many events of the kind `backend.admin_state`: their numbers in order, as the history has them.
    #[track_caller]
    fn toggle(&self, daemon: &Daemon, number: usize) -> Vec<u64> {
        let before = states(daemon).len();
        for round in before..before + number {
            self.order(if round % 2 == 0 { "/orders/backends/b/drain" } else { "/orders/backends/b/ready" });
        }
        wait_until("they are in the history", DEADLINE, || states(daemon).len() == before + number);
        states(daemon).split_off(before)
    }
}

fn states(daemon: &Daemon) -> Vec<u64> {
    let page = daemon.admin_get("/api/v1/events?kind=backend.admin_state&limit=1000").json();
    page["events"].as_array().expect("events").iter().map(|event| event["id"].as_u64().expect("a number")).collect()
}

#[track_caller]
fn order(socket: &Path, path: &str) {
    let answer = http::send_unix(socket, "POST", &format!("/api/v1/pools{path}"), "").expect("answered");
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
}

fn hook(name: &str, receiver: &Receiver, more: &str) -> String {
    format!(
        "[webhooks.{name}]\nurl = \"{}\"\nkinds = [\"backend.admin_state\"]\nsecret = \"{SECRET}\"\n{more}\n",
        receiver.url()
    )
}

fn two() -> [Backend; 2] {
    ["a", "b"].map(Backend::start)
}

/// What the API's own arithmetic says of a signature.
fn is_signed(post: &Post) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = format!("{}.{}", post.header("changeover-timestamp"), post.body);
    let digits = post.header("changeover-signature").strip_prefix("v1=").unwrap_or_default();
    let bytes: Vec<u8> = digits
        .as_bytes()
        .chunks(2)
        .filter_map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
        .collect();
    hmac::verify(&key, signed.as_bytes(), &bytes).is_ok()
}

#[test]
fn events_are_posted_in_order_signed_and_as_the_history_has_them() {
    let ([a, b], receiver) = (two(), Receiver::start(Mood::Answers(204)));
    let home = Home::new(&[&a, &b], &hook("pager", &receiver, ""));
    let daemon = home.start();
    let ids = home.toggle(&daemon, 20);
    let posts = receiver.wait(20);
    assert_eq!(posts.iter().map(Post::id).collect::<Vec<_>>(), ids);
    for post in &posts {
        assert!(post.head.starts_with("POST /hook?token=s3cret HTTP/1.1\r\n"), "{post:?}");
        assert_eq!(post.header("host"), receiver.addr.to_string());
        assert_eq!(post.header("content-type"), "application/json");
        assert_eq!(post.header("user-agent"), concat!("changeover/", env!("CARGO_PKG_VERSION")));
        assert_eq!(post.header("changeover-event"), "backend.admin_state");
        assert!(is_signed(post), "{post:?}");
        assert!(!is_signed(&Post { body: format!("{} ", post.body), ..post.clone() }), "{post:?}");
        let kept = daemon.admin_get(&format!("/api/v1/events?after={}&limit=1", post.id() - 1)).json();
        assert_eq!(kept["events"][0], post.json());
    }
    daemon.wait_metric("webhook_deliveries_total", &[("webhook", "pager"), ("result", "delivered")], 20.0);
    daemon.wait_metric("webhook_pending", &[("webhook", "pager")], 0.0);
    let log = daemon.log().join("\n");
    assert!(!log.contains("s3cret") && !log.contains(SECRET), "{log}");
}

#[test]
fn a_secret_from_a_file_is_what_stands_in_it_less_one_newline_at_its_end() {
    for end in ["", "\n", "\r\n"] {
        let ([a, b], receiver) = (two(), Receiver::start(Mood::Answers(204)));
        let dir = tempfile::tempdir().expect("a directory");
        let secret = dir.path().join("pager.secret");
        std::fs::write(&secret, format!("{SECRET}{end}")).expect("written");
        let from_file = format!("{{ file = \"{}\" }}", secret.display());
        let home = Home::new(&[&a, &b], &hook("pager", &receiver, "").replace(&format!("\"{SECRET}\""), &from_file));
        let daemon = home.start();
        home.toggle(&daemon, 1);
        assert!(receiver.wait(1).iter().all(is_signed), "{end:?}: {:?}", receiver.posts());
    }
}

#[test]
fn whatever_a_receiver_does_it_gets_all_of_them_in_order_once_it_takes_them() {
    for mood in [Mood::Answers(500), Mood::Asks, Mood::Hangs] {
        let ([a, b], receiver) = (two(), Receiver::start(mood));
        let home = Home::new(&[&a, &b], &hook("pager", &receiver, "timeout = \"200ms\""));
        let daemon = home.start();
        let ids = home.toggle(&daemon, 10);
        receiver.wait(2);
        daemon.wait_metric("webhook_pending", &[("webhook", "pager")], 10.0);
        let tried: BTreeSet<u64> = receiver.posts().iter().map(Post::id).collect();
        assert_eq!(tried, BTreeSet::from([ids[0]]), "{mood:?}: the first is tried again, and none overtakes it");
        receiver.becomes(Mood::Answers(200));
        daemon.wait_metric("webhook_pending", &[("webhook", "pager")], 0.0);
        let mut got: Vec<u64> = receiver.posts().iter().map(Post::id).collect();
        got.dedup();
        assert_eq!(got, ids, "{mood:?}");
        assert!(daemon.metric("webhook_deliveries_total", &[("result", "retried")]) > Some(0.0));
    }
}

#[test]
fn a_receiver_that_refuses_connections_gets_all_of_them_once_it_is_there() {
    let ([a, b], addr) = (two(), fresh_addr());
    let url = format!("[webhooks.pager]\nurl = \"http://{addr}/\"\nkinds = [\"backend.admin_state\"]\n");
    let home = Home::new(&[&a, &b], &url);
    let daemon = home.start();
    let ids = home.toggle(&daemon, 4);
    wait_until("it is tried again", DEADLINE, || {
        daemon.metric("webhook_deliveries_total", &[("result", "retried")]) > Some(1.0)
    });
    let receiver = Receiver::at(addr, Mood::Answers(200));
    assert_eq!(receiver.wait(4).iter().map(Post::id).collect::<Vec<_>>(), ids);
    assert_eq!(receiver.posts()[0].header("changeover-signature"), "", "nothing to sign it with");
}

#[test]
fn what_is_given_up_is_an_event_and_the_next_one_is_posted() {
    let ([a, b], receiver) = (two(), Receiver::start(Mood::Answers(410)));
    let late = Receiver::start(Mood::Answers(503));
    let hooks = [
        hook("gone", &receiver, ""),
        hook("late", &late, "give_up_after = \"300ms\"").replace("backend.admin_state", "*"),
    ];
    let home = Home::new(&[&a, &b], &hooks.concat());
    let daemon = home.start();
    let ids = home.toggle(&daemon, 1);
    let failed = |hook: &str| -> Vec<Value> {
        let page = daemon.admin_get("/api/v1/events?kind=webhook.failed&limit=1000").json();
        let all = page["events"].as_array().expect("events").clone();
        all.into_iter().filter(|event| event["detail"]["webhook"] == hook).collect()
    };
    let gone = wait_for("a dead letter", DEADLINE, || failed("gone").pop());
    assert_eq!((gone["detail"]["event"].as_u64(), &gone["reason"]), (Some(ids[0]), &Value::from("it answered 410")));
    assert_eq!((&gone["pool"], &gone["detail"]["attempts"]), (&Value::from("orders"), &Value::from(1)));
    wait_until("the other one's", DEADLINE, || failed("late").iter().any(|event| event["detail"]["event"] == ids[0]));
    let letter = wait_for("it is told of another's dead letter", DEADLINE, || {
        late.posts().into_iter().find(|post| post.header("changeover-event") == "webhook.failed")
    });
    assert_eq!(letter.json()["detail"]["webhook"], "gone");
    receiver.becomes(Mood::Answers(200));
    let next = home.toggle(&daemon, 2);
    wait_until("the next ones", DEADLINE, || receiver.posts().len() == 3);
    assert_eq!(receiver.posts().iter().map(Post::id).collect::<Vec<_>>(), [ids, next].concat());
    let own = |post: &Post| post.json()["detail"]["webhook"] == "late";
    assert!(!late.posts().iter().any(own), "nobody is told that he could not be told");
}

#[test]
fn receivers_that_take_nothing_are_not_told_of_each_other_without_end() {
    let ([a, b], receiver) = (two(), Receiver::start(Mood::Answers(404)));
    let hooks = ["x", "y"].map(|name| hook(name, &receiver, "").replace("backend.admin_state", "*"));
    let home = Home::new(&[&a, &b], &hooks.concat());
    let daemon = home.start();
    let last = home.toggle(&daemon, 1)[0];
    let events = || daemon.admin_get("/api/v1/events?limit=1000").json()["events"].as_array().unwrap().clone();
    let letters = |of: u64| events().iter().filter(|event| event["detail"]["event"] == of).count();
    wait_until("both have given it up", DEADLINE, || letters(last) == 2);
    let told = || receiver.posts().iter().filter(|post| post.header("changeover-event") == "webhook.failed").count();
    let failed = || events().iter().filter(|event| event["kind"] == "webhook.failed").count();
    // Each letter is told to the other one, which takes it as little, and that is the end.
    wait_until("each is told of the other's", DEADLINE, || told() >= failed());
    let of_letters = events().iter().filter(|event| event["detail"]["kind"] == "webhook.failed").count();
    assert_eq!(of_letters, 0, "a letter about a letter");
}

#[test]
fn only_what_is_wanted_is_posted_and_a_new_webhook_begins_with_now() {
    let ([a, b], receiver, other) = (two(), Receiver::start(Mood::Answers(200)), Receiver::start(Mood::Answers(200)));
    let pools = "[pools.payments]\nbackends = [\"127.0.0.1:1\"]\n";
    let mut home = Home::new(&[&a, &b], pools);
    let daemon = home.start();
    home.toggle(&daemon, 4);
    let first = hook("pager", &receiver, "pools = [\"orders\"]") + &hook("other", &other, "pools = [\"payments\"]");
    let before = home.more.clone();
    home.more = format!("{before}{first}");
    daemon.reload(&home.config()).expect("taken");
    let reloaded = daemon.logged("reloaded").pop().expect("logged").to_string();
    assert!(reloaded.contains("webhook pager added"), "{reloaded}");
    daemon.wait_metric("webhook_pending", &[("webhook", "pager")], 0.0);
    wait_until("it has begun", DEADLINE, || daemon.metric("webhook_pending", &[("webhook", "pager")]).is_some());
    let ids = home.toggle(&daemon, 4);
    assert_eq!(receiver.wait(4).iter().map(Post::id).collect::<Vec<_>>(), ids, "nothing of what was before");
    order(&home.dir.path().join("admin.sock"), "/payments/pause");
    // It is changed, and goes on where it was.
    home.more = format!("{before}{}", first.replace("backend.admin_state", "*"));
    receiver.becomes(Mood::Answers(500));
    let waiting = home.toggle(&daemon, 2);
    receiver.wait(5);
    daemon.reload(&home.config()).expect("taken");
    receiver.becomes(Mood::Answers(200));
    let posted = |id: u64| receiver.posts().iter().any(|post| post.id() == id);
    wait_until("what waited is posted", DEADLINE, || waiting.iter().all(|id| posted(*id)));
    assert!(receiver.posts().iter().all(|post| post.json()["pool"] == "orders"), "only of its pool");
    assert!(other.posts().iter().all(|post| post.json()["pool"] == "payments"));
    // It is taken out, and nothing of it is left.
    home.more = before;
    daemon.reload(&home.config()).expect("taken");
    wait_until("its series go", DEADLINE, || daemon.metric("webhook_pending", &[("webhook", "pager")]).is_none());
}

#[test]
fn nothing_is_lost_when_the_daemon_is_killed() {
    let ([a, b], receiver) = (two(), Receiver::start(Mood::Answers(200)));
    let home = Home::new(&[&a, &b], &hook("pager", &receiver, "timeout = \"200ms\""));
    let mut daemon = home.start();
    let mut ids = Vec::new();
    for round in 0..4 {
        receiver.becomes(if round % 2 == 0 { Mood::Hangs } else { Mood::Answers(200) });
        ids.extend(home.toggle(&daemon, 6));
        daemon.kill();
        daemon = home.start();
    }
    receiver.becomes(Mood::Answers(200));
    let posted = |id: u64| receiver.posts().iter().any(|post| post.id() == id);
    wait_until("all are posted", DEADLINE, || posted(*ids.last().unwrap()));
    let mut seen = Vec::new();
    for post in receiver.posts() {
        // One that was posted may be again, and all after it: whoever takes them knows it by its number.
        if !seen.contains(&post.id()) {
            seen.push(post.id());
        }
    }
    assert_eq!(seen, ids, "each one, and first in order");
}

#[test]
fn what_was_taken_before_an_orderly_stop_is_not_posted_again() {
    let ([a, b], receiver) = (two(), Receiver::start(Mood::Answers(200)));
    let home = Home::new(&[&a, &b], &hook("pager", &receiver, "timeout = \"20s\""));
    let (mut daemon, mut ids) = (home.start(), Vec::new());
    for round in 0..6 {
        ids.extend(home.toggle(&daemon, 4));
        receiver.wait(ids.len());
        // The second time the stop comes before the answer to the last one.
        receiver.becomes(if round % 2 == 0 { Mood::Answers(200) } else { Mood::Ponders });
        if round % 2 == 1 {
            ids.extend(home.toggle(&daemon, 1));
            receiver.wait(ids.len());
        }
        daemon.signal(Signal::TERM);
        wait_until("it stops", DEADLINE, || !daemon.logged("stopping").is_empty());
        receiver.becomes(Mood::Answers(200));
        assert!(daemon.wait_exit().success());
        daemon = home.start();
    }
    ids.extend(home.toggle(&daemon, 1));
    receiver.wait(ids.len());
    daemon.wait_metric("webhook_pending", &[("webhook", "pager")], 0.0);
    assert_eq!(receiver.posts().iter().map(Post::id).collect::<Vec<_>>(), ids, "each one once");
}

#[test]
fn what_a_changed_webhook_was_posting_is_not_posted_again() {
    let ([a, b], receiver) = (two(), Receiver::start(Mood::Answers(200)));
    let mut own = hook("pager", &receiver, "timeout = \"20s\"");
    let mut home = Home::new(&[&a, &b], &own);
    let (daemon, mut ids) = (home.start(), Vec::new());
    for round in 0..6 {
        receiver.becomes(Mood::Ponders);
        ids.extend(home.toggle(&daemon, 1));
        receiver.wait(ids.len());
        let changed = hook("pager", &receiver, &format!("timeout = \"{}s\"", 21 + round));
        home.more = home.more.replace(&own, &changed);
        own = changed;
        // The webhook is another one before the answer comes.
        daemon.reload(&home.config()).expect("taken");
        receiver.becomes(Mood::Answers(200));
        ids.extend(home.toggle(&daemon, 1));
        receiver.wait(ids.len());
    }
    daemon.wait_metric("webhook_pending", &[("webhook", "pager")], 0.0);
    assert_eq!(receiver.posts().iter().map(Post::id).collect::<Vec<_>>(), ids, "each one once");
}

#[test]
fn a_receiver_that_hangs_keeps_no_daemon_from_stopping() {
    let ([a, b], receiver) = (two(), Receiver::start(Mood::Hangs));
    let home = Home::new(&[&a, &b], &hook("pager", &receiver, "timeout = \"60s\""));
    let mut daemon = home.start();
    let ids = home.toggle(&daemon, 2);
    receiver.wait(1);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait_exit().success());
    receiver.becomes(Mood::Answers(200));
    let _daemon = home.start();
    let posts = receiver.wait(3);
    assert_eq!(
        posts.iter().map(Post::id).collect::<Vec<_>>(),
        [ids[0], ids[0], ids[1]],
        "what was not taken comes again"
    );
}

#[test]
fn nothing_is_sent_to_a_receiver_that_is_not_trusted_and_the_log_says_why() {
    let [a, b] = two();
    let dir = tempfile::tempdir().expect("a directory");
    ["own", "other"].iter().for_each(|name| certificate(dir.path(), name));
    let receiver = Receiver::secured(dir.path(), "own", Mood::Answers(200));
    let trusted = dir.path().join("trusted.pem");
    std::fs::copy(dir.path().join("other.pem"), &trusted).expect("copied");
    let more = format!("timeout = \"20s\"\nca_file = \"{}\"", trusted.display());
    let home = Home::new(&[&a, &b], &hook("pager", &receiver, &more));
    let daemon = home.start();
    let ids = home.toggle(&daemon, 3);
    wait_until("it is tried again", DEADLINE, || {
        daemon.metric("webhook_deliveries_total", &[("result", "retried")]) > Some(1.0)
    });
    let told = daemon.wait_logged("the webhook is not taken", |told| !told.is_empty());
    let why = told[0]["error"].as_str().expect("a reason");
    assert!(why.starts_with("TLS: ") && why.contains("certificate"), "{why}");
    assert!(why.contains(&format!("must be signed by one in ca_file {}", trusted.display())), "{why}");
    assert_eq!(told.len(), 1, "once, and not at each attempt");
    assert!(receiver.posts().is_empty(), "{:?}", receiver.posts());
    // The file is put right: it is read again, without a reload.
    std::fs::copy(dir.path().join("own.pem"), &trusted).expect("copied");
    let posts = receiver.wait(3);
    assert_eq!(posts.iter().map(Post::id).collect::<Vec<_>>(), ids);
    assert!(posts.iter().all(is_signed));
    daemon.wait_metric("webhook_pending", &[("webhook", "pager")], 0.0);
    assert!(!daemon.log().join("\n").contains("s3cret"));
}

#[test]
fn a_receiver_that_hangs_holds_up_no_failover() {
    let receiver = Receiver::start(Mood::Hangs);
    let switch = |webhooks: &str| {
        let ([a, b], mut times) = (two(), Vec::new());
        let home = Home::new(&[&a, &b], webhooks);
        let daemon = home.start();
        let front = daemon.listener("orders");
        for _ in 0..10 {
            daemon.wait_active("orders", "a");
            order(&home.dir.path().join("admin.sock"), "/orders/failover");
            assert_eq!(visit(front).expect("served"), "b");
            order(&home.dir.path().join("admin.sock"), "/orders/failback");
        }
        let page = daemon.admin_get("/api/v1/events?kind=pool.failover&limit=1000").json();
        for event in page["events"].as_array().expect("events") {
            times.extend(event["duration_ms"].as_f64().filter(|_| event["status"] == "completed"));
        }
        let failovers: Vec<Value> = page["events"].as_array().expect("events").clone();
        let steps: Vec<&str> = failovers.iter().filter_map(|event| event["status"].as_str()).collect();
        let pending = daemon.metric("webhook_pending", &[("webhook", "pager")]);
        times.sort_by(f64::total_cmp);
        (steps.into_iter().map(str::to_owned).collect::<Vec<_>>(), times, pending)
    };
    let (steps, without, _) = switch("");
    let url = format!("[webhooks.pager]\nurl = \"{}\"\nkinds = [\"*\"]\n", receiver.url());
    let (steps_beside, beside, pending) = switch(&url);
    println!("without a webhook: {without:.2?} ms");
    println!("beside one that hangs: {beside:.2?} ms, with {pending:?} events waiting");
    assert_eq!(steps, steps_beside, "the same steps in the same order");
    assert_eq!(without.len(), beside.len());
    assert!(pending > Some(10.0), "{pending:?}");
    // The receiver hangs for 5 s at each attempt: whoever waited for it would need as long.
    assert!(beside.iter().all(|millis| *millis < 2500.0), "{beside:?}");
}

#[test]
fn receivers_of_other_forms_get_theirs() {
    let ([a, b], slack, alerts) = (two(), Receiver::start(Mood::Answers(200)), Receiver::start(Mood::Answers(200)));
    let hooks = [
        hook("slack", &slack, "format = \"slack\"").replace("backend.admin_state", "pool.*"),
        hook("alerts", &alerts, "format = \"alertmanager\"").replace("backend.admin_state", "pool.*"),
    ];
    let home = Home::new(&[&a, &b], &hooks.concat());
    let _daemon = home.start();
    home.order("/orders/pause");
    home.order("/orders/resume");
    let text = slack.wait(1)[0].json()["text"].as_str().expect("a text").to_owned();
    assert!(text.starts_with("*pool.paused* orders"), "{text}");
    let posts = alerts.wait(2);
    let [begun, ended] = [&posts[0], &posts[1]].map(|post| post.json()[0].clone());
    assert_eq!(begun["labels"], ended["labels"]);
    assert_eq!(begun["labels"]["alertname"], "ChangeoverPoolPaused");
    assert!(begun["endsAt"].as_str() > begun["startsAt"].as_str(), "{begun}");
    assert_eq!(ended["endsAt"], ended["startsAt"], "{ended}");
}
