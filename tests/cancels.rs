//! Requests to cancel through the real daemon, in front of a real PostgreSQL cluster: in clear and encrypted.
//!
//! Clients up to libpq 16 send theirs in clear, also for a session that is encrypted; libpq 17 asks for encryption first. The
//! client in here does either.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::cluster::{Cluster, PASSWORD};
use support::talker::SSL_REQUEST;
use support::{DEADLINE, Site, dial, wait_until};

/// Before the key.
const CANCEL_REQUEST: &[u8] = b"\0\0\0\x10\x04\xd2\x16\x2e";
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
const SLEEP: &str = "select 42, pg_sleep(600)";
/// The ways in which a client may cancel.
const WAYS: [Way; 2] = [Way::Clear, Way::Encrypted];
const RUNS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Clear,
    Encrypted,
}

/// Two standbys that share those who read, behind the daemon with these lines in its pool, and who may be trusted.
struct Rig {
    site: Site,
    reads: SocketAddr,
    tls: Tls,
    cluster: Cluster,
}

/// What encrypted connections are made with. All nodes have the certificate of the first.
#[derive(Clone)]
struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Rig {
    fn start(settings: &str) -> Self {
        Self::over(Cluster::start(2), settings)
    }

    fn over(cluster: Cluster, settings: &str) -> Self {
        let priority = |number: usize| if number == 0 { 1 } else { 2 };
        let servers: String = (0..)
            .zip(&cluster.nodes)
            .map(|(number, node)| {
                let (name, addr, priority) = (&node.name, node.addr, priority(number));
                format!("[pools.orders.backends.{name}]\naddress = \"{addr}\"\npriority = {priority}\n")
            })
            .collect();
        // By chance: turns would send each session, which has a request to cancel after it, to the same one.
        let site = Site::with(&format!(
            "kind = \"postgres\"\nbalance = \"random\"\n[pools.orders.postgres]\npassword = \"{PASSWORD}\"\n{settings}\n\
             {servers}[listeners.reads]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"standby\"\n"
        ));
        let mut roots = RootCertStore::empty();
        let trusted = CertificateDer::pem_file_iter(cluster.ca_file()).unwrap();
        assert!(roots.add_parsable_certificates(trusted.map(Result::unwrap)).0 > 0);
        let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        let tls = Tls { config, name: ServerName::IpAddress(cluster.nodes[0].addr.ip().into()) };
        let rig = Self { reads: site.daemon.listener("reads"), site, tls, cluster };
        wait_until("both standbys are there to be read from", DEADLINE, || {
            let healthy = |name| rig.site.daemon.metric("standby_healthy", &[("pool", "orders"), ("backend", name)]);
            ["pg2", "pg3"].iter().all(|name| healthy(name) == Some(1.0))
        });
        rig
    }

    fn session(&self) -> Session {
        Session::log_in(self.tls.connect(self.reads))
    }

    /// The number of a node by its address.
    fn node(&self, ip: &str) -> usize {
        let mut nodes = self.cluster.nodes.iter();
        nodes.position(|node| node.addr.ip().to_string() == ip).unwrap_or_else(|| panic!("whose is {ip:?}?"))
    }

    /// Begins to sleep in `session`, at this node, and waits until that is known to run.
    fn sleep(&self, session: &mut Session, node: usize) {
        session.send(b'Q', &format!("{SLEEP}\0"));
        wait_until("the query runs", DEADLINE, || self.asleep(node) == "1");
    }

    /// How many queries sleep at this node.
    fn asleep(&self, node: usize) -> String {
        let asked = format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{SLEEP}' AND state = 'active'");
        Session::log_in(dial(self.cluster.nodes[node].addr).unwrap()).ask(&asked)
    }

    /// Cancels what `session` does.
    fn cancel(&self, session: &Session, way: Way) {
        let request = [CANCEL_REQUEST, &session.key].concat();
        match way {
            Way::Clear => say_and_hear_the_end(dial(self.reads).unwrap(), &request),
            Way::Encrypted => say_and_hear_the_end(self.tls.connect(self.reads), &request),
        }
    }

    fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = [&[("listener", "reads")], labels].concat();
        self.site.daemon.metric(name, &labels).unwrap_or_default()
    }
}

fn say_and_hear_the_end(mut stream: impl Read + Write, request: &[u8]) {
    stream.write_all(request).unwrap();
    match stream.read(&mut [0; 8]) {
        Ok(0) => {}
        // It may end without a word of TLS.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        other => panic!("{other:?}"),
    }
}

type Encrypted = StreamOwned<ClientConnection, TcpStream>;

/// A connection, encrypted or not.
trait Line: Read + Write {}

impl Line for Encrypted {}
impl Line for TcpStream {}

impl Tls {
    fn connect(&self, addr: SocketAddr) -> Encrypted {
        let mut stream = dial(addr).unwrap();
        stream.write_all(SSL_REQUEST).unwrap();
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"S");
        StreamOwned::new(ClientConnection::new(Arc::clone(&self.config), self.name.clone()).unwrap(), stream)
    }
}

/// A session that is open, and its key.
struct Session {
    stream: Box<dyn Line>,
    key: Vec<u8>,
}

impl Session {
    fn log_in(mut stream: impl Line + 'static) -> Self {
        stream.write_all(STARTUP).unwrap();
        let mut session = Self { stream: Box::new(stream), key: Vec::new() };
        for (kind, body) in session.until_ready() {
            assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body));
            if kind == b'K' {
                session.key = body;
            }
        }
        assert_eq!(session.key.len(), 8);
        session
    }

    fn send(&mut self, kind: u8, body: &str) {
        let length = u32::try_from(4 + body.len()).unwrap().to_be_bytes();
        self.stream.write_all(&[&[kind][..], &length, body.as_bytes()].concat()).unwrap();
    }

    /// All that is said until the server is ready for a query.
    fn until_ready(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut said = Vec::new();
        loop {
            let mut header = [0; 5];
            self.stream.read_exact(&mut header).unwrap();
            let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
            self.stream.read_exact(&mut body).unwrap();
            if header[0] == b'Z' {
                return said;
            }
            said.push((header[0], body));
        }
    }

    /// The one value that `query` is answered with.
    fn ask(&mut self, query: &str) -> String {
        self.send(b'Q', &format!("{query}\0"));
        let said = self.until_ready();
        let row = said.iter().find(|(kind, _)| *kind == b'D').unwrap_or_else(|| panic!("{query}: {said:?}"));
        // The number of columns, and the length of the first.
        String::from_utf8(row.1[6..].to_vec()).unwrap()
    }

    fn whom(&mut self) -> String {
        self.ask("SELECT host(inet_server_addr())")
    }

    /// Waits for the end of the query, which was cancelled.
    fn was_cancelled(&mut self) {
        let said = self.until_ready();
        let told = said.iter().any(|(kind, body)| *kind == b'E' && body.windows(6).any(|field| field == b"C57014"));
        assert!(told, "{said:?}");
    }
}

#[test]
fn a_hundred_of_a_hundred_cancels_reach_their_query_behind_two_standbys_in_clear_and_encrypted() {
    let rig = Rig::start("");
    for way in WAYS {
        let mut at = [0; 3];
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let mut session = rig.session();
            let node = rig.node(&session.whom());
            at[node] += 1;
            rig.sleep(&mut session, node);
            let begun = Instant::now();
            rig.cancel(&session, way);
            session.was_cancelled();
            times.push(begun.elapsed());
            session.send(b'X', "");
            drop(session);
            rig.site.daemon.wait_metric("listener_connections_active", &[("listener", "reads")], 0.0);
        }
        times.sort();
        println!("{way:?}: p50 {:?}, max {:?}, at {at:?}", times[RUNS / 2], times[RUNS - 1]);
        assert!(at[1] > 0 && at[2] > 0, "{at:?}");
    }
    assert_eq!(rig.count("postgres_cancels_total", &[("way", "broadcast")]), RUNS as f64);
    assert_eq!(rig.count("postgres_encrypted_elsewhere_total", &[]), 0.0);
}

#[test]
fn a_standby_that_hangs_keeps_no_cancel_from_the_other() {
    let rig = Rig::start("");
    let mut session = rig.session();
    let node = rig.node(&session.whom());
    let frozen = &rig.cluster.nodes[3 - node];
    frozen.freeze();
    rig.site.daemon.wait_health("orders", &frozen.name, "unhealthy");
    rig.sleep(&mut session, node);
    let begun = Instant::now();
    // All are asked, and the client is kept until the one that hangs is waited for no longer.
    rig.cancel(&session, Way::Clear);
    println!("over after {:?}", begun.elapsed());
    session.was_cancelled();
}

#[test]
fn a_cancel_that_was_held_hits_no_later_query() {
    let rig = Rig::over(Cluster::with_settings(2, "ssl = off\n"), "");
    let mut session = Session::log_in(dial(rig.reads).unwrap());
    let node = rig.node(&session.whom());
    rig.site.done("POST", "/orders/pause", r#"{"timeout": "10m"}"#);
    let mut late = dial(rig.reads).unwrap();
    late.write_all(SSL_REQUEST).unwrap();
    rig.site.daemon.wait_held("reads", 1);
    rig.sleep(&mut session, node);
    rig.site.done("POST", "/orders/resume", "");
    let mut answer = [0; 1];
    late.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"N");
    say_and_hear_the_end(late, &[CANCEL_REQUEST, &session.key].concat());
    assert_eq!(rig.count("postgres_cancels_total", &[("way", "late")]), 1.0);
    assert_eq!(rig.asleep(node), "1", "it sleeps on");
    rig.cancel(&session, Way::Clear);
    session.was_cancelled();
}

/// What a session on the standby `out` meets when that gets no new sessions any more: a cancel still does.
fn is_followed_only_for_a_cancel(rig: &Rig, session: &mut Session, out: usize) {
    rig.sleep(session, out);
    rig.cancel(session, Way::Encrypted);
    session.was_cancelled();
    // It waits for nothing now, and whoever comes is a new session.
    let other = rig.node(&rig.session().whom());
    assert!(other != out && other > 0, "{other}");
}

#[test]
fn an_encrypted_cancel_reaches_a_standby_that_is_drained() {
    let rig = Rig::start("[pools.orders.failover.sessions]\ndrained = \"keep\"");
    let mut session = rig.session();
    let node = rig.node(&session.whom());
    let name = rig.cluster.nodes[node].name.clone();
    rig.site.told(&["drain", &format!("orders/{name}")]);
    is_followed_only_for_a_cancel(&rig, &mut session, node);
    assert_eq!(rig.count("postgres_encrypted_elsewhere_total", &[]), 0.0);
}

#[test]
fn an_encrypted_cancel_reaches_a_standby_that_lags() {
    let rig = Rig::start("max_lag = \"64KiB\"");
    let mut session = rig.session();
    let node = rig.node(&session.whom());
    rig.cluster.nodes[node].psql("SELECT pg_wal_replay_pause()");
    rig.cluster.nodes[0].psql("CREATE TABLE t AS SELECT repeat('x', 100) FROM generate_series(1, 10000)");
    let labels = [("pool", "orders"), ("backend", rig.cluster.nodes[node].name.as_str())];
    rig.site.daemon.wait_metric("standby_healthy", &labels, 0.0);
    is_followed_only_for_a_cancel(&rig, &mut session, node);
}
