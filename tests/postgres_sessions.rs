//! Sessions of postgres pools, through the data plane's own parts: requests to cancel, and clients that are turned away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use changeover::config::{OsSources, parse};
use changeover::failover::{Controller, Event, PoolRoutes, Route, RouteTable, Sessions, TargetRoutes};
use changeover::model::{
    Actor, BackendId, CheckKind, Epoch, Generation, MonoTime, OutReason, Plan, PoolKind, PoolName, Target,
};
use changeover::routing::{
    BackendLive, FOLLOWED_MAX, Live, Pace, PoolLive, Published, Registry, RouteWriter, mailbox, route_cell,
};
use changeover::session::{BROADCASTS_MAX, Caller, Entrance, Guard, Places, Seats, Worker, run};
use changeover::sys::{Clock, Stream};
use changeover::telemetry::Metrics;
use support::postgres::{Postgres, client, must};
use support::process::{Running, run as run_program};
use support::servers::Server;
use support::talker::SSL_REQUEST;
use support::{DEADLINE, dial, fresh_addr, wait_until};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

const GSS_ENC_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";
const STARTUP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";

/// One worker thread with a listener for each target.
struct Site {
    metrics: Arc<Metrics>,
    registry: Registry,
    backends: BTreeMap<String, BackendId>,
    fronts: Vec<SocketAddr>,
    writer: RouteWriter,
    /// A table by which those who want a standby may have any server.
    with_standby: Option<Published>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Listeners for `targets` of a postgres pool `orders` of `servers`, all of which are fit, with these lines of
    /// configuration for the pool and for each server. What wants a standby finds none.
    fn start(lines: [&str; 2], servers: &[SocketAddr], targets: &[Target]) -> Self {
        let [of_pool, of_server] = lines;
        let mut text =
            format!("[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\n{of_pool}\n");
        for (number, addr) in (1..).zip(servers) {
            let rest = of_server.replace("{number}", &number.to_string());
            text += &format!("[pools.orders.backends.pg{number}]\naddress = \"{addr}\"\n{rest}\n");
        }
        let mut plan = parse("a file", &text, &OsSources).unwrap();
        let pool = Arc::make_mut(plan.pools.get_mut(&PoolName::from("orders")).unwrap());
        pool.kind = PoolKind::Postgres;
        pool.backends.iter_mut().for_each(|backend| backend.check.kind = CheckKind::None);
        let listener = Arc::clone(plan.listeners.values().next().unwrap());
        let (metrics, registry, plan) = (Arc::new(Metrics::new().unwrap()), Registry::new(1), Arc::new(plan));
        let (live, backends) = live(&decided(&plan).0, &metrics);
        let live = Arc::new(live);
        let mut table = decided(&plan).1;
        let with_standby = Published { table: Arc::new(table), live: Arc::clone(&live) };
        table = decided(&plan).1;
        for routes in table.pools.values_mut() {
            let routes = Arc::get_mut(routes).expect("nobody else has it");
            routes.others.insert(Target::Standby, TargetRoutes { pending: false, tiers: Vec::new() });
        }
        table.generation = Generation(1);
        let table = Arc::new(table);
        let (writer, routes) = route_cell();
        writer.publish(Published { table, live });
        let (_, feedback, _) = mailbox();
        let seats = Seats::new(1000, 1);
        let (stop, stopped) = oneshot::channel();
        let (ready, fronts) = mpsc::channel();
        let (counted, of_worker) = (Arc::clone(&metrics), registry.clone());
        let targets = targets.to_vec();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let served = async {
                let worker = Worker::new(0, Clock::start(), routes, of_worker, feedback, seats, 65_536);
                let worker = Rc::new(worker);
                let releasing = Rc::clone(&worker);
                drop(spawn_local(async move { releasing.release_held_forever().await }));
                drop(spawn_local(Rc::clone(&worker).tick_forever()));
                for target in targets {
                    let mut plan = (*listener).clone();
                    (plan.target, plan.name) = (target, target.label().into());
                    let series = counted.listener(&plan.name);
                    let entrance = Rc::new(Entrance::new(Arc::new(plan), series));
                    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    ready.send(socket.local_addr().unwrap()).unwrap();
                    drop(spawn_local(accept(Rc::clone(&worker), entrance, socket)));
                }
                drop(ready);
                drop(stopped.await);
                worker.cut();
            };
            LocalSet::new().block_on(&runtime, served);
        });
        let fronts = fronts.iter().collect();
        let (stop, thread, with_standby) = (Some(stop), Some(thread), Some(with_standby));
        Self { metrics, registry, backends, fronts, writer, with_standby, stop, thread }
    }

    /// Publishes the table by which all servers are fit, with `change` made to the pool's routes.
    fn publish_with(&mut self, change: impl Fn(&mut PoolRoutes)) {
        let mut published = self.with_standby.take().unwrap();
        let table = Arc::get_mut(&mut published.table).expect("nobody else has it");
        table.pools.values_mut().for_each(|routes| change(Arc::get_mut(routes).expect("nobody else has them")));
        self.writer.publish(published);
    }

    /// The number behind `series` in the metrics.
    fn count(&self, series: &str) -> f64 {
        let mut text = Vec::new();
        let take = &mut |piece: Vec<u8>| {
            text.extend(piece);
            true
        };
        self.metrics.write(MonoTime::ZERO, take).unwrap();
        let text = String::from_utf8(text).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("changeover_{series} ")));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    fn wait_count(&self, series: &str, value: f64) {
        wait_until(&format!("{series} is {value}"), DEADLINE, || (self.count(series) - value).abs() < 0.1);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the worker panicked");
    }
}

/// What the core decides on `plan`, all of whose servers are fit.
fn decided(plan: &Arc<Plan>) -> (Controller, RouteTable) {
    let (mut core, mut commands) = (Controller::new(7), Vec::new());
    let replaced = Event::PlanReplaced { plan: Arc::clone(plan), actor: Actor::changeover() };
    core.handle(MonoTime::ZERO, replaced, &mut commands);
    drop(commands);
    // A second core decides the same, and lets its table go.
    let table = RouteTable { generation: Generation(2), pools: core.table().pools.clone() };
    (core, table)
}

/// Counters for what `core` knows, and the numbers of its backends.
fn live(core: &Controller, metrics: &Metrics) -> (Live, BTreeMap<String, BackendId>) {
    let (mut live, mut numbers) = (Live::default(), BTreeMap::new());
    for (id, pool, name, load) in core.backends() {
        numbers.insert(name.to_string(), id);
        let series = metrics.backend(pool, name);
        live.pools.entry(pool.clone()).or_insert_with(|| Arc::new(PoolLive::new(metrics.pool(pool))));
        let backend = BackendLive::new(pool.clone(), name.clone(), series, Arc::clone(load));
        live.backends.insert(id, Arc::new(backend));
    }
    (live, numbers)
}

async fn accept(worker: Rc<Worker>, entrance: Rc<Entrance>, socket: TcpListener) {
    let guard = Arc::<Guard>::default();
    loop {
        let (client, peer) = socket.accept().await.unwrap();
        let pass = guard.enter(&entrance.plan().limits).unwrap();
        let places = Places { pass, seat: worker.seats.take(0).unwrap() };
        let (worker, entrance, client) = (Rc::clone(&worker), Rc::clone(&entrance), Stream::Tcp(client));
        drop(spawn_local(run(worker, entrance, client, Caller::peer(Some(peer)), places)));
    }
}

/// The packets that clients have cancelled with at a server.
type Cancels = Arc<Mutex<Vec<Vec<u8>>>>;

/// One packet without a type byte.
fn packet(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet)?;
    packet.resize(u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize, 0);
    stream.read_exact(&mut packet[4..])?;
    Ok(packet)
}

/// The key that the `number`-th session of a server has, and of a server with that `name`.
fn key(name: u8, number: usize, secret: usize) -> Vec<u8> {
    [&[0, 0, name, u8::try_from(number).unwrap()][..], &vec![name; secret]].concat()
}

/// A server that has no encryption and lets everybody in; then it echoes. Before the end of a request to cancel it waits
/// for `gate`.
fn server(name: u8, secret: usize, gate: Arc<AtomicBool>) -> (Server, Cancels) {
    let cancels = Cancels::default();
    let kept = Arc::clone(&cancels);
    let server = Server::start(fresh_addr(), move |number, mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        loop {
            let packet = packet(&mut stream)?;
            match packet[4..8] {
                [4, 0xd2, 0x16, 0x2e] => {
                    kept.lock().unwrap().push(packet[8..].to_vec());
                    wait_until("the gate is open", DEADLINE, || gate.load(Ordering::SeqCst));
                    return Ok(());
                }
                [4, 0xd2, ..] => stream.write_all(b"N")?,
                _ => break,
            }
        }
        let key = key(name, number, secret);
        let length = u32::try_from(4 + key.len()).unwrap().to_be_bytes();
        let login = [&b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0K"[..], &length, &key, b"Z\0\0\0\x05I"].concat();
        // In two pieces, so that one side of the proxy or the other sees the middle of a message.
        let (first, second) = login.split_at(13);
        stream.write_all(first)?;
        stream.write_all(second)?;
        let mut back = stream.try_clone()?;
        std::io::copy(&mut stream, &mut back).map(drop)
    });
    (server, cancels)
}

fn open() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

/// Logs in, and gives the connection and its key.
fn log_in(addr: SocketAddr, before: &[&[u8]]) -> (TcpStream, Vec<u8>) {
    let mut stream = dial(addr).unwrap();
    for request in before {
        stream.write_all(request).unwrap();
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"N");
    }
    stream.write_all(STARTUP).unwrap();
    read_key(stream)
}

/// Reads until the session is open.
fn read_key(mut stream: TcpStream) -> (TcpStream, Vec<u8>) {
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header).unwrap();
        let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
        stream.read_exact(&mut body).unwrap();
        if header[0] == b'K' {
            let mut ready = [0; 6];
            stream.read_exact(&mut ready).unwrap();
            return (stream, body);
        }
    }
}

fn cancel_request(key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + key.len()).unwrap().to_be_bytes();
    [&length[..], b"\x04\xd2\x16\x2e", key].concat()
}

/// Cancels, and waits for the end, before which nothing may come.
fn cancel(addr: SocketAddr, key: &[u8]) {
    let mut stream = dial(addr).unwrap();
    stream.write_all(&cancel_request(key)).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

fn took(cancels: &Cancels) -> Vec<Vec<u8>> {
    std::mem::take(&mut cancels.lock().unwrap())
}

#[test]
fn a_cancel_reaches_the_one_server_whose_key_it_is_and_all_if_nobody_knows() {
    let ((pg1, first), (pg2, second)) = (server(1, 4, open()), server(2, 32, open()));
    let site = Site::start([""; 2], &[pg1.addr, pg2.addr], &[Target::Any, Target::Primary]);
    let (any, primary) = (site.fronts[0], site.fronts[1]);
    let ways: [&[&[u8]]; 4] = [&[], &[SSL_REQUEST], &[GSS_ENC_REQUEST], &[GSS_ENC_REQUEST, SSL_REQUEST]];
    let mut sessions: Vec<_> = (0..12).map(|number| log_in(any, ways[number % 4])).collect();
    for (number, (stream, key)) in sessions.iter_mut().enumerate() {
        // Through whichever listener it comes.
        cancel(if number % 2 == 0 { any } else { primary }, key);
        let (own, other) = if key[2] == 1 { (&first, &second) } else { (&second, &first) };
        assert_eq!((took(own), took(other)), (vec![key.clone()], vec![]));
        stream.write_all(b"still there?").unwrap();
        let mut back = [0; 12];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, *b"still there?");
    }
    assert!(sessions.iter().any(|(_, key)| key[2] == 1) && sessions.iter().any(|(_, key)| key[2] == 2));
    let learned = |target| site.count(&format!("postgres_cancels_total{{listener=\"{target}\",way=\"learned\"}}"));
    assert_eq!((learned("any"), learned("primary")), (6.0, 6.0));
    let keys: Vec<_> = sessions.drain(..).map(|(_, key)| key).collect();
    site.wait_count("listener_connections_active{listener=\"any\"}", 0.0);
    cancel(any, &keys[0]);
    assert_eq!((took(&first), took(&second)), (vec![keys[0].clone()], vec![keys[0].clone()]), "it is forgotten");
    assert_eq!(site.count("postgres_cancels_total{listener=\"any\",way=\"broadcast\"}"), 1.0);
}

#[test]
fn a_client_that_cancels_reads_the_end_after_the_servers_have_ended() {
    let gate = Arc::new(AtomicBool::new(false));
    let ((pg1, first), (pg2, second)) = (server(1, 4, open()), server(2, 4, Arc::clone(&gate)));
    let site = Site::start([""; 2], &[pg1.addr, pg2.addr], &[Target::Any]);
    let mut stream = dial(site.fronts[0]).unwrap();
    stream.write_all(&cancel_request(&key(9, 9, 4))).unwrap();
    wait_until("both are asked", DEADLINE, || [&first, &second].iter().all(|of| !of.lock().unwrap().is_empty()));
    stream.set_nonblocking(true).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    gate.store(true, Ordering::SeqCst);
    stream.set_nonblocking(false).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_server_that_hangs_keeps_nobody_who_cancels() {
    let gate = Arc::new(AtomicBool::new(false));
    let (pg1, cancels) = server(1, 4, Arc::clone(&gate));
    let site = Site::start([""; 2], &[pg1.addr], &[Target::Any]);
    cancel(site.fronts[0], &key(9, 9, 4));
    assert_eq!(took(&cancels), [key(9, 9, 4)]);
    gate.store(true, Ordering::SeqCst);
}

#[test]
fn a_client_that_says_nothing_for_long_is_turned_away() {
    let site = Site::start([""; 2], &[fresh_addr()], &[Target::Any]);
    let silent = dial(site.fronts[0]).unwrap();
    let mut slow = dial(site.fronts[0]).unwrap();
    slow.write_all(&STARTUP[..12]).unwrap();
    assert_eq!((rest(silent), rest(slow)), (vec![], vec![]));
    assert_eq!(site.count("listener_rejected_total{listener=\"any\",reason=\"first_packet\"}"), 2.0);
}

#[test]
fn tls_without_asking_goes_on_as_it_is() {
    let echo = Server::start(fresh_addr(), |_, mut stream| {
        let mut back = stream.try_clone()?;
        std::io::copy(&mut stream, &mut back).map(drop)
    });
    let site = Site::start([""; 2], &[echo.addr], &[Target::Any]);
    let mut stream = dial(site.fronts[0]).unwrap();
    stream.write_all(b"\x16\x03\x01 hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(stream), b"\x16\x03\x01 hello");
}

#[test]
fn a_cancel_after_encryption_was_refused_finds_its_server_too() {
    let ((pg1, first), (pg2, second)) = (server(1, 4, open()), server(2, 4, open()));
    let site = Site::start([""; 2], &[pg1.addr, pg2.addr], &[Target::Any]);
    let (_session, key) = log_in(site.fronts[0], &[]);
    // Round-robin sends the two after one another to both servers.
    for _ in 0..2 {
        let mut stream = dial(site.fronts[0]).unwrap();
        stream.write_all(SSL_REQUEST).unwrap();
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"N");
        stream.write_all(&cancel_request(&key)).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    }
    let (own, other) = if key[2] == 1 { (first, second) } else { (second, first) };
    assert_eq!((took(&own), took(&other)), (vec![key.clone(), key], vec![]));
}

#[test]
fn a_cancel_is_never_held_and_ends_where_there_is_no_server() {
    let gone = fresh_addr();
    let site = Site::start(["hold = \"10m\"", ""], &[gone], &[Target::Standby]);
    cancel(site.fronts[0], &key(1, 1, 256));
    assert_eq!(site.count("postgres_cancels_total{listener=\"standby\",way=\"broadcast\"}"), 1.0);
    assert_eq!(site.count("listener_held{listener=\"standby\"}"), 0.0);
}

/// Asks for encryption, and does not wait for the answer.
fn ask_first(addr: SocketAddr) -> TcpStream {
    let mut stream = dial(addr).unwrap();
    stream.write_all(SSL_REQUEST).unwrap();
    stream
}

/// Goes on to cancel with `key` when encryption is refused, and waits for the end.
fn then_cancel(mut stream: TcpStream, key: &[u8]) {
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"N");
    stream.write_all(&cancel_request(key)).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_cancel_that_asked_for_encryption_and_was_held_is_not_passed_on_late() {
    let (pg1, cancels) = server(1, 4, open());
    let targets = [Target::Standby, Target::Primary];
    let mut site = Site::start(["hold = \"10m\"", ""], &[pg1.addr], &targets);
    let (held, primary) = (site.fronts[0], site.fronts[1]);
    let (_session, key) = log_in(primary, &[]);
    let late = ask_first(held);
    site.wait_count("listener_held{listener=\"standby\"}", 1.0);
    site.writer.publish(site.with_standby.take().unwrap());
    // Whatever the session does now is not what was to be cancelled.
    then_cancel(late, &key);
    assert_eq!(site.count("postgres_cancels_total{listener=\"standby\",way=\"late\"}"), 1.0);
    then_cancel(ask_first(primary), &key);
    assert_eq!(took(&cancels), [key], "the one that came in time");
}

#[test]
fn a_cancel_whose_first_server_let_it_down_is_not_passed_on_late() {
    let silent = Server::start(fresh_addr(), |_, mut stream| packet(&mut stream).map(drop));
    let (pg2, cancels) = server(2, 4, open());
    let site = Site::start(["", "priority = {number}"], &[silent.addr, pg2.addr], &[Target::Primary]);
    let (_session, key) = log_in(site.fronts[0], &[]);
    then_cancel(ask_first(site.fronts[0]), &key);
    assert_eq!(site.count("postgres_cancels_total{listener=\"primary\",way=\"late\"}"), 1.0);
    // One that says at once what it is goes straight to its server.
    cancel(site.fronts[0], &key);
    assert_eq!(took(&cancels), [key]);
}

/// A server that takes requests to cancel and does nothing, until the other side has gone: then it tells its name.
fn hanging(name: u8, gone: &mpsc::Sender<(u8, Vec<u8>)>) -> Server {
    let gone = gone.clone();
    Server::start(fresh_addr(), move |_, mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        let request = packet(&mut stream)?;
        assert_eq!(stream.read(&mut [0; 8])?, 0);
        gone.send((name, request[8..].to_vec())).map_err(|_| ErrorKind::BrokenPipe.into())
    })
}

/// The `number`-th request to cancel that comes to the first listener, for any server, and is passed on to all.
fn broadcast(site: &Site, number: usize) -> TcpStream {
    let mut stream = dial(site.fronts[0]).unwrap();
    stream.write_all(&cancel_request(&key(9, number, 4))).unwrap();
    site.wait_count("postgres_cancels_total{listener=\"any\",way=\"broadcast\"}", number as f64);
    stream
}

#[test]
fn servers_that_hang_keep_nothing_of_a_client_that_has_gone() {
    let (gone, ends) = mpsc::channel();
    let pg1 = hanging(1, &gone);
    let site = Site::start([""; 2], &[pg1.addr], &[Target::Any]);
    let waiting = broadcast(&site, 1);
    drop(broadcast(&site, 2));
    let ended = [(); 2].map(|()| ends.recv_timeout(DEADLINE).unwrap().1[3]);
    assert_eq!(ended, [2, 1], "the one that waits came first, and is kept until its time is up");
    assert_eq!(rest(waiting), b"");
}

#[test]
fn a_server_that_is_out_is_waited_for_less_long() {
    // On a machine with other things to do the last may come after the first is let go by both: another round tells then.
    let mut rounds = (0..10).map(|_| {
        let (gone, ends) = mpsc::channel();
        let (pg1, pg2) = (hanging(1, &gone), hanging(2, &gone));
        let mut site = Site::start(["", "priority = {number}"], &[pg1.addr, pg2.addr], &[Target::Any]);
        site.publish_with(|routes| drop(routes.tiers.remove(1)));
        // One after the other, so that the first would be let go by both before the last.
        let begun = Instant::now();
        let waiting: Vec<_> = (1..=4).map(|number| broadcast(&site, number)).collect();
        let in_time = begun.elapsed() < Duration::from_secs(1);
        let ended = [(); 8].map(|()| ends.recv_timeout(DEADLINE).unwrap().0);
        drop(waiting);
        (in_time, ended)
    });
    let (_, ended) = rounds.find(|(in_time, _)| *in_time).expect("one of ten rounds goes quickly");
    assert_eq!(ended, [2, 2, 2, 2, 1, 1, 1, 1]);
}

#[test]
fn a_stranger_makes_servers_work_no_more_than_the_limit_and_stops_nobody_who_has_a_key() {
    let gate = Arc::new(AtomicBool::new(false));
    let ((pg1, first), (pg2, second)) = (server(1, 4, Arc::clone(&gate)), server(2, 4, Arc::clone(&gate)));
    let site = Site::start([""; 2], &[pg1.addr, pg2.addr], &[Target::Any]);
    let front = site.fronts[0];
    let (_session, own) = log_in(front, &[]);
    let count = |way: &str| site.count(&format!("postgres_cancels_total{{listener=\"any\",way=\"{way}\"}}"));
    let strangers: Vec<_> = (0..2 * BROADCASTS_MAX)
        .map(|number| {
            let mut stream = dial(front).unwrap();
            stream.write_all(&cancel_request(&key(9, number % 200, 4))).unwrap();
            stream
        })
        .collect();
    wait_until("all were heard", DEADLINE, || count("broadcast") + count("limited") >= strangers.len() as f64);
    assert!(count("limited") > 0.0, "{} were passed on", count("broadcast"));
    let mut stream = dial(front).unwrap();
    stream.write_all(&cancel_request(&own)).unwrap();
    let of_own = if own[2] == 1 { &first } else { &second };
    wait_until("it arrives", DEADLINE, || of_own.lock().unwrap().contains(&own));
    assert_eq!(count("learned"), 1.0);
    gate.store(true, Ordering::SeqCst);
    for stream in strangers {
        assert_eq!(rest(stream), b"");
    }
    for cancels in [first, second] {
        let strange = took(&cancels).iter().filter(|key| key[2] == 9).count();
        assert!(strange as f64 <= count("broadcast"), "{strange}");
    }
}

/// A server that encrypts, or so it says: then it tells its name.
fn encrypting(name: u8) -> Server {
    Server::start(fresh_addr(), move |_, mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        packet(&mut stream)?;
        stream.write_all(&[b'S', name])?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map(drop)
    })
}

/// Asks for encryption, and gives the connection and the name of the server.
fn encrypt(addr: SocketAddr) -> (TcpStream, u8) {
    let mut stream = dial(addr).unwrap();
    stream.write_all(SSL_REQUEST).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], b'S');
    (stream, answer[1])
}

#[test]
fn what_is_encrypted_follows_the_clients_last_session_while_it_has_few() {
    let (one, two) = (encrypting(b'1'), encrypting(b'2'));
    let site = Site::start([""; 2], &[one.addr, two.addr], &[Target::Any, Target::PreferStandby]);
    let (front, other) = (site.fronts[0], site.fronts[1]);
    let open: Vec<_> = (0..FOLLOWED_MAX).map(|_| encrypt(front)).collect();
    let last = open[0].1;
    assert!(open.iter().all(|&(_, name)| name == last), "all follow the first");
    // One that is like a request to cancel: it comes, and goes again.
    let (cancel, name) = encrypt(front);
    assert_eq!(name, last);
    let others: Vec<u8> = (0..2).map(|_| encrypt(other)).map(|(_, name)| name).collect();
    assert!(others.iter().any(|&name| name != last), "through another listener it follows nobody: {others:?}");
    let more: Vec<_> = (0..4).map(|_| encrypt(front)).collect();
    assert!(more.iter().any(|&(_, name)| name != last), "there are too many");
    drop((open, cancel, more));
    site.wait_count("listener_connections_active{listener=\"any\"}", 0.0);
    let names: Vec<u8> = (0..2)
        .map(|_| {
            let (stream, name) = encrypt(front);
            drop(stream);
            site.wait_count("listener_connections_active{listener=\"any\"}", 0.0);
            name
        })
        .collect();
    assert_ne!(names[0], names[1], "nobody is there to be followed");
}

#[test]
fn what_is_encrypted_follows_nobody_to_a_server_that_was_second_best() {
    let (one, two) = (encrypting(b'1'), encrypting(b'2'));
    let mut site = Site::start(["", "priority = {number}"], &[one.addr, two.addr], &[Target::PreferStandby]);
    let last = encrypt(site.fronts[0]);
    assert_eq!(last.1, b'1');
    // A standby has come, and is tried first.
    site.publish_with(|routes| routes.tiers.reverse());
    assert_eq!(encrypt(site.fronts[0]).1, b'2');
    waits_and_is_followed(&site, last, b'1');
}

/// Has the session speak, and waits until what comes next goes where it is, to the server of this name.
fn waits_and_is_followed(site: &Site, (mut session, at): (TcpStream, u8), name: u8) {
    assert_eq!(at, name);
    session.write_all(b"a question").unwrap();
    wait_until("what comes next goes to the same server", DEADLINE, || encrypt(site.fronts[0]).1 == name);
    assert_eq!(site.count("postgres_encrypted_elsewhere_total{listener=\"prefer-standby\"}"), 0.0);
}

#[test]
fn what_is_encrypted_follows_one_that_waits_for_an_answer_to_a_server_that_lingers() {
    let (one, two) = (encrypting(b'1'), encrypting(b'2'));
    let mut site = Site::start(["", "priority = {number}"], &[one.addr, two.addr], &[Target::PreferStandby]);
    let last = encrypt(site.fronts[0]);
    let lingers = |routes: &mut PoolRoutes| {
        let out = routes.tiers.remove(0);
        routes.lingering.extend(out.routes().iter().map(|route| Route { epoch: Epoch(9), ..route.clone() }));
    };
    site.publish_with(lingers);
    assert_eq!(encrypt(site.fronts[0]).1, b'2', "it waits for nothing");
    site.wait_count("listener_connections_active{listener=\"prefer-standby\"}", 1.0);
    let kept = last.0.try_clone().unwrap();
    waits_and_is_followed(&site, last, b'1');
    let follower = encrypt(site.fronts[0]);
    assert_eq!(follower.1, b'1');
    site.wait_count("listener_connections_active{listener=\"prefer-standby\"}", 2.0);
    // Whoever came after it goes when it goes.
    let mut pace = Pace::new(MonoTime::ZERO);
    let cut = site.registry.fence(site.backends["pg1"], Epoch(9), Sessions::All, OutReason::Drained, &mut pace);
    assert_eq!(cut.sessions, 2);
    drop(kept);
}

#[test]
fn what_is_encrypted_and_may_have_missed_is_counted() {
    let (one, two) = (encrypting(b'1'), encrypting(b'2'));
    let mut site = Site::start(["", "priority = {number}"], &[one.addr, two.addr], &[Target::PreferStandby]);
    let (mut session, _) = encrypt(site.fronts[0]);
    site.publish_with(|routes| drop(routes.tiers.remove(0)));
    session.write_all(b"a question").unwrap();
    wait_until("one is counted", DEADLINE, || {
        assert_eq!(encrypt(site.fronts[0]).1, b'2');
        site.count("postgres_encrypted_elsewhere_total{listener=\"prefer-standby\"}") > 0.0
    });
}

/// All that comes until the end.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    heard
}

const ERROR: &[u8] = b"SFATAL\0VFATAL\0C57P03\0Mchangeover: no standby is available in pool orders\0";

#[test]
fn whoever_gets_no_server_is_told_so_after_any_request() {
    let (pg1, _) = server(1, 4, open());
    let site = Site::start(["hold = \"20ms\"", ""], &[pg1.addr], &[Target::Standby]);
    let hint = b"Hheld for 20ms; the primary: pg1; `changeover explain orders` tells why\0\0";
    let ways: [&[&[u8]]; 4] = [&[], &[SSL_REQUEST], &[GSS_ENC_REQUEST], &[GSS_ENC_REQUEST, SSL_REQUEST]];
    for way in ways {
        let mut stream = dial(site.fronts[0]).unwrap();
        for request in way {
            stream.write_all(request).unwrap();
            let mut answer = [0; 1];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, *b"N");
        }
        stream.write_all(STARTUP).unwrap();
        let mut error = vec![b'E', 0, 0, 0, u8::try_from(4 + ERROR.len() + hint.len()).unwrap()];
        error.extend([ERROR, hint].concat());
        assert_eq!(rest(stream), error, "{way:?}");
    }
    assert_eq!(site.count("listener_rejected_total{listener=\"standby\",reason=\"hold_timeout\"}"), 4.0);
    // A third request, and bytes that could not wait for the answer, are answered by no error.
    let mut stream = dial(site.fronts[0]).unwrap();
    stream.write_all(&[SSL_REQUEST, STARTUP].concat()).unwrap();
    assert_eq!(rest(stream), b"");
}

#[test]
fn a_pool_that_does_not_hold_says_so_at_once() {
    let site = Site::start(["when_down = \"refuse\"", ""], &[fresh_addr()], &[Target::Standby, Target::Primary]);
    for (front, why) in [
        (0, "clients are not held here; the primary: pg1; "),
        (1, "no connection to one that was taken to be fit could be made; the primary: pg1; "),
    ] {
        let mut stream = dial(site.fronts[front]).unwrap();
        stream.write_all(STARTUP).unwrap();
        let error = String::from_utf8_lossy(&rest(stream)).into_owned();
        assert!(error.contains("C57P03") && error.contains(why), "{error:?}");
    }
}

#[test]
fn a_client_that_says_nothing_or_nonsense_or_leaves_takes_no_place_of_those_who_wait() {
    let (pg1, _) = server(1, 4, open());
    let site = Site::start(["hold = \"10m\"", ""], &[pg1.addr], &[Target::Standby, Target::Primary]);
    let front = site.fronts[0];
    let rejected = |reason: &str| format!("listener_rejected_total{{listener=\"standby\",reason=\"{reason}\"}}");
    let silent = dial(front).unwrap();
    let mut waiting = dial(front).unwrap();
    waiting.write_all(STARTUP).unwrap();
    site.wait_count("listener_held{listener=\"standby\"}", 1.0);
    assert_eq!(site.count("listener_connections_active{listener=\"standby\"}"), 2.0);
    let mut nonsense = dial(front).unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    // An end or a reset, for what was left unread.
    drop(nonsense.read_to_end(&mut heard));
    assert_eq!(heard, b"");
    site.wait_count(&rejected("first_packet"), 1.0);
    drop(silent);
    site.wait_count(&rejected("client_left"), 1.0);
    // Who has said what it wants and closes leaves its place, though the kernel tells only of the end of what it sends.
    waiting.shutdown(Shutdown::Write).unwrap();
    site.wait_count("listener_held{listener=\"standby\"}", 0.0);
    site.wait_count(&rejected("client_left"), 2.0);
    // Nobody at the other listener has to wait for those.
    let _held = dial(front).map(|mut held| held.write_all(STARTUP).map(|()| held)).unwrap().unwrap();
    site.wait_count("listener_held{listener=\"standby\"}", 1.0);
    log_in(site.fronts[1], &[]);
}

#[test]
fn the_sessions_of_a_demoted_server_are_cut_and_those_of_another_go_on() {
    let ((pg1, _), (pg2, cancels)) = (server(1, 4, open()), server(2, 4, open()));
    let targets = [Target::Primary, Target::Any, Target::Standby];
    let mut site = Site::start(["", "priority = {number}"], &[pg1.addr, pg2.addr], &targets);
    site.publish_with(|routes| {
        let tiers = routes.tiers.split_off(1);
        routes.others.insert(Target::Standby, TargetRoutes { pending: false, tiers });
    });
    // The listener for any server leads to the primary too.
    let writing = [0, 1].map(|front| log_in(site.fronts[front], &[]).0);
    let (mut reading, key) = log_in(site.fronts[2], &[]);
    assert_eq!(key[2], 2, "it reads from the standby");
    let fenced = {
        let (backend, mut pace) = (site.backends["pg1"], Pace::new(MonoTime::ZERO));
        site.registry.fence(backend, Epoch(100), Sessions::All, OutReason::Demoted, &mut pace).sessions
    };
    assert_eq!(fenced, 2);
    for mut writing in writing {
        assert_eq!(writing.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    reading.write_all(b"rows").unwrap();
    let mut back = [0; 4];
    reading.read_exact(&mut back).unwrap();
    assert_eq!(back, *b"rows");
    cancel(site.fronts[0], &key);
    assert_eq!(took(&cancels), [key]);
}

#[test]
fn a_client_held_goes_on_when_what_it_wants_is_there() {
    let (pg1, _) = server(1, 4, open());
    let mut site = Site::start(["hold = \"10m\"", ""], &[pg1.addr], &[Target::Standby]);
    let front = site.fronts[0];
    let waiting = std::thread::spawn(move || log_in(front, &[]).1);
    site.wait_count("listener_held{listener=\"standby\"}", 1.0);
    site.writer.publish(site.with_standby.take().unwrap());
    assert_eq!(waiting.join().unwrap()[2], 1, "it got what the first server says");
    site.wait_count("listener_held{listener=\"standby\"}", 0.0);
}

#[test]
fn a_client_waits_while_its_server_lets_nobody_in() {
    // The first is asked to encrypt twice, and nobody is after that: whoever was told no goes on without.
    let ways: [&[&[u8]]; 3] = [&[], &[SSL_REQUEST], &[GSS_ENC_REQUEST, SSL_REQUEST]];
    for way in ways {
        let server = Server::start(fresh_addr(), move |number, mut stream| {
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut requests = 0;
            while packet(&mut stream)?[4..6] == [4, 0xd2] {
                stream.write_all(b"N")?;
                requests += 1;
            }
            assert_eq!(requests, if number == 0 { way.len() } else { 0 });
            match number {
                0 => stream.write_all(b"E\0\0\0\x23SFATAL\0VFATAL\0C57P03\0Mnot now\0\0"),
                1 => stream.write_all(b"R\0\0\0\x08\0\0\0\0E\0\0\0\x23SFATAL\0VFATAL\0C57P01\0Mnot now\0\0"),
                _ => {
                    stream.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07abcdZ\0\0\0\x05I")?;
                    stream.read(&mut [0; 8]).map(drop)
                }
            }
        });
        let site = Site::start(["hold = \"10m\"", ""], &[server.addr], &[Target::Primary]);
        let (_session, key) = log_in(site.fronts[0], way);
        assert_eq!(key, b"\0\0\0\x07abcd");
        let failures = "backend_connect_failures_total{backend=\"pg1\",pool=\"orders\",reason=\"unanswered\"}";
        assert_eq!(site.count(failures), 2.0, "each is a failed dial");
    }
}

#[test]
fn a_client_that_was_told_no_goes_elsewhere_when_its_server_is_fenced() {
    let ((pg1, _), (pg2, _)) = (server(1, 4, open()), server(2, 4, open()));
    let mut site = Site::start(["", "priority = {number}"], &[pg1.addr, pg2.addr], &[Target::Primary]);
    let mut stream = ask_to_encrypt(site.fronts[0]);
    site.publish_with(|routes| routes.tiers.reverse());
    let mut pace = Pace::new(MonoTime::ZERO);
    let cut = site.registry.fence(site.backends["pg1"], Epoch(100), Sessions::All, OutReason::Dead, &mut pace);
    assert_eq!(cut.sessions, 0, "it is none yet");
    stream.write_all(STARTUP).unwrap();
    assert_eq!(read_key(stream).1[2], 2);
}

/// Asks for encryption and is told that there is none.
fn ask_to_encrypt(addr: SocketAddr) -> TcpStream {
    let mut stream = dial(addr).unwrap();
    stream.write_all(SSL_REQUEST).unwrap();
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"N");
    stream
}

const FULL: &[u8] = b"E\0\0\0\x24SFATAL\0VFATAL\0C53300\0Mtoo many\0\0";

#[test]
fn whoever_is_one_too_many_for_a_server_waits_in_line_and_one_at_a_time_tries() {
    const CLIENTS: usize = 20;
    const ROOM: usize = 3;
    let (inside, dials) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (Arc::clone(&inside), Arc::clone(&dials));
    let server = Server::start(fresh_addr(), move |_, mut stream| {
        let (inside, dials) = &counted;
        stream.set_read_timeout(Some(DEADLINE))?;
        packet(&mut stream)?;
        dials.fetch_add(1, Ordering::SeqCst);
        let enter = |inside| if inside < ROOM { Some(inside + 1) } else { None };
        if inside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter).is_err() {
            return stream.write_all(FULL);
        }
        stream.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07abcdZ\0\0\0\x05I")?;
        let end = stream.read(&mut [0; 8]);
        inside.fetch_sub(1, Ordering::SeqCst);
        end.map(drop)
    });
    let site = Site::start(["hold = \"10m\"", ""], &[server.addr], &[Target::Primary]);
    let front = site.fronts[0];
    let (served, sessions) = mpsc::channel();
    for _ in 0..CLIENTS {
        let served = served.clone();
        std::thread::spawn(move || served.send(log_in(front, &[])));
    }
    let first: Vec<_> = (0..ROOM).map(|_| sessions.recv_timeout(DEADLINE).unwrap()).collect();
    site.wait_count("listener_held{listener=\"primary\"}", (CLIENTS - ROOM) as f64);
    // Each has tried once at most, and then the first in line does, four times a second.
    let (before, begun) = (dials.load(Ordering::SeqCst), Instant::now());
    wait_until("some time has passed", DEADLINE, || begun.elapsed() > Duration::from_secs(2));
    let more = dials.load(Ordering::SeqCst) - before;
    let quarters = usize::try_from(begun.elapsed().as_millis() / 250).unwrap();
    assert!((1..=CLIENTS + quarters + 4).contains(&more), "{more} dials in {:?}", begun.elapsed());
    drop(first);
    for _ in ROOM..CLIENTS {
        drop(sessions.recv_timeout(DEADLINE).unwrap());
    }
    let of = |reason: &str| {
        site.count(&format!("backend_connect_failures_total{{backend=\"pg1\",pool=\"orders\",reason=\"{reason}\"}}"))
    };
    assert_eq!((of("full") + CLIENTS as f64, of("unanswered")), (dials.load(Ordering::SeqCst) as f64, 0.0));
}

#[test]
fn one_too_many_for_a_server_is_given_the_next_or_told_which_was_full() {
    let full = || {
        Server::start(fresh_addr(), |_, mut stream| {
            packet(&mut stream)?;
            stream.write_all(FULL)
        })
    };
    let (pg1, (pg2, _)) = (full(), server(2, 4, open()));
    let site = Site::start(["", "priority = {number}"], &[pg1.addr, pg2.addr], &[Target::Any]);
    assert_eq!(log_in(site.fronts[0], &[]).1[2], 2);
    for (pool, why) in [("hold = \"20ms\"", "held for 20ms"), ("when_down = \"refuse\"", "each has as many")] {
        let pg1 = full();
        let site = Site::start([pool, ""], &[pg1.addr], &[Target::Primary]);
        let mut stream = dial(site.fronts[0]).unwrap();
        stream.write_all(STARTUP).unwrap();
        let error = String::from_utf8_lossy(&rest(stream)).into_owned();
        assert!(error.contains(why) && error.contains("; pg1 has no free connection; "), "{error:?}");
    }
}

#[test]
fn those_who_wait_for_a_standby_take_no_place_of_those_who_wait_for_the_primary() {
    let (pg1, _) = server(1, 4, open());
    let targets = [Target::Standby, Target::Primary];
    let mut site = Site::start(["hold = \"10m\"\nhold_limit = 2", ""], &[pg1.addr], &targets);
    let (standby, primary) = (site.fronts[0], site.fronts[1]);
    site.publish_with(|routes| {
        routes.tiers.clear();
        routes.others.insert(Target::Standby, TargetRoutes { pending: false, tiers: Vec::new() });
    });
    let wait = |front| {
        let mut stream = dial(front).unwrap();
        stream.write_all(STARTUP).unwrap();
        stream
    };
    let held = |target: &str| format!("listener_held{{listener=\"{target}\"}}");
    let readers = [wait(standby), wait(standby)];
    site.wait_count(&held("standby"), 2.0);
    assert!(String::from_utf8_lossy(&rest(wait(standby))).contains("2 clients wait already"));
    let writers = [wait(primary), wait(primary)];
    site.wait_count(&held("primary"), 2.0);
    drop((readers, writers));
    site.wait_count(&held("standby"), 0.0);
    site.wait_count(&held("primary"), 0.0);
}

#[test]
fn a_client_that_leaves_with_something_unread_is_noticed() {
    let site = Site::start(["hold = \"10m\"", ""], &[fresh_addr()], &[Target::Standby]);
    let mut waiting = dial(site.fronts[0]).unwrap();
    waiting.write_all(STARTUP).unwrap();
    site.wait_count("listener_held{listener=\"standby\"}", 1.0);
    waiting.write_all(b"more").unwrap();
    drop(waiting);
    site.wait_count("listener_held{listener=\"standby\"}", 0.0);
    site.wait_count("listener_rejected_total{listener=\"standby\",reason=\"client_left\"}", 1.0);
}

#[test]
fn psql_cancels_its_query_through_two_servers() {
    let real = Postgres::start();
    let (other, cancels) = server(2, 4, open());
    let site = Site::start(["", "priority = {number}"], &[real.addr, other.addr], &[Target::Primary]);
    let front = site.fronts[0];
    let through = |name: &str, mode: &str| client(name, front, &[("PGSSLMODE", mode)]);
    for (mode, learned) in [("disable", 1.0), ("require", 1.0)] {
        let mut command = through("psql", mode);
        let psql = Running::start(command.args(["-XAtc", "select 42, pg_sleep(600)"]));
        wait_until("the query runs", DEADLINE, || {
            let asked = "select count(*) from pg_stat_activity where query like 'select 42%' and state = 'active'";
            let mut direct = client("psql", real.addr, &[]);
            run_program(direct.args(["-XAtc", asked])).stdout.trim() == "1"
        });
        psql.signal(rustix::process::Signal::INT);
        let ended = psql.wait();
        assert!(ended.stderr.contains("canceling statement due to user request"), "{mode}: {}", ended.stderr);
        assert_eq!(site.count("postgres_cancels_total{listener=\"primary\",way=\"learned\"}"), learned, "{mode}");
    }
    // The session was encrypted, its key could not be read, and everybody is asked.
    assert_eq!(site.count("postgres_cancels_total{listener=\"primary\",way=\"broadcast\"}"), 1.0);
    assert_eq!(took(&cancels).len(), 1);
}

#[test]
fn psql_reads_why_and_goes_on_to_its_next_host() {
    let real = Postgres::start();
    let site = Site::start(["hold = \"1ms\"", ""], &[fresh_addr()], &[Target::Standby]);
    let hosts = format!("{},{}", site.fronts[0].ip(), real.addr.ip());
    let ports = format!("{},{}", site.fronts[0].port(), real.addr.port());
    for (mode, words, goes_on) in [
        ("disable", "FATAL:  changeover: no standby is available in pool orders", true),
        ("prefer", "FATAL:  changeover: no standby is available in pool orders", true),
        // Nothing that can be said makes it go on; see the table in src/session/refusal.rs.
        ("require", "server does not support SSL, but SSL was required", false),
    ] {
        let ended = run_program(client("psql", site.fronts[0], &[("PGSSLMODE", mode)]).args(["-XAtc", "select 1"]));
        assert!(ended.code == Some(2) && ended.stderr.contains(words), "{mode}: {}", ended.stderr);
        if goes_on {
            assert!(ended.stderr.contains("HINT:  held for 1ms; the primary: pg1; "), "{}", ended.stderr);
        }
        let options = [("PGSSLMODE", mode), ("PGHOST", &*hosts), ("PGPORT", &*ports)];
        let ended = run_program(client("psql", real.addr, &options).args(["-XAtc", "select 1"]));
        assert_eq!(ended.stdout.trim() == "1", goes_on, "{mode}: {}", ended.stderr);
    }
    must(&run_program(client("psql", real.addr, &[]).args(["-XAtc", "select 1"])), "psql");
    let ready = run_program(client("pg_isready", site.fronts[0], &[]).arg("-q"));
    assert_eq!(ready.code, Some(1), "connections are rejected");
}
