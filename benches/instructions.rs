//! What the hot paths cost in instructions, counted by callgrind: of one build they are the same on every run, however
//! busy the machine (`turn` reads the clock, and differs by a few). `cargo bench --bench instructions`.
//!
//! The kernel's are not among them: what is counted is what the program, its libraries and the C library do. Who lacks
//! valgrind or the runner is told so and nothing fails; under `cargo test` nothing is counted.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on gives up")]
#![allow(clippy::print_stderr, reason = "a program for the terminal")]
#![allow(missing_docs, reason = "the macros make public functions")]

mod fixture;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use changeover::failover::{Arrival, PoolRoutes, Route};
use changeover::model::{Balance, Direction, Place, PoolName, ProxyProtocol};
use changeover::relay::{Loans, Pulse, RelayEnd, Splicing, Start, relay};
use changeover::routing::{BackendLive, Live, PoolLive, Published, RouteReader, route_cell};
use changeover::sys::{Gated, Stream};
use changeover::telemetry::Metrics;
use changeover::wire::{is_greeting, parse_proxy_header, proxy_header};
use gungraun::{library_benchmark, library_benchmark_group};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// Some client and some chance.
const WORD: u64 = 0x9e37_79b9_7f4a_7c15;

// --- picks ---------------------------------------------------------------------------------------------------

fn pool(balance: Balance, backends: u32, max_connections: u32) -> Arc<PoolRoutes> {
    Arc::clone(&fixture::table(balance, backends, max_connections).pools[fixture::POOL])
}

fn open_pool(balance: Balance, backends: u32) -> (Arc<PoolRoutes>, Vec<Place>) {
    (pool(balance, backends, 0), Vec::new())
}

/// One backend has room. One pick has looked for it before, and noted in the blocks that the others are full.
fn nearly_full_pool(balance: Balance, backends: u32) -> (Arc<PoolRoutes>, Vec<Place>) {
    let pool = pool(balance, backends, 1);
    let mut places: Vec<Place> = pool.tiers[0].routes().iter().map(|route| route.load.take(1).unwrap()).collect();
    places.swap_remove(places.len() / 2);
    assert!(pool.pick(&Arrival::default()).is_ok());
    (pool, places)
}

// What a benchmark returns is dropped uncounted.
#[library_benchmark]
#[benches::open(args = [
    (Balance::RoundRobin, 10), (Balance::RoundRobin, 10_000),
    (Balance::LeastConnections, 10), (Balance::LeastConnections, 10_000),
    (Balance::Random, 10), (Balance::Random, 10_000),
    (Balance::SourceHash, 10), (Balance::SourceHash, 10_000),
    (Balance::Latency, 10), (Balance::Latency, 10_000),
], setup = open_pool)]
#[benches::nearly_full(args = [
    (Balance::RoundRobin, 10_000), (Balance::LeastConnections, 10_000), (Balance::Random, 10_000),
    (Balance::SourceHash, 10_000), (Balance::Latency, 10_000),
], setup = nearly_full_pool)]
fn pick((pool, places): (Arc<PoolRoutes>, Vec<Place>)) -> (u32, Arc<PoolRoutes>, Vec<Place>) {
    let arrival = Arrival { target: None, turn: 7, client: WORD, chance: WORD, tried: &[], will_wait: false };
    let picked = black_box(&*pool).pick(black_box(&arrival)).unwrap().backend.0;
    (picked, pool, places)
}

/// A thread's view of what is published, as it is after its first look.
struct Thread {
    routes: RouteReader,
    pool: PoolName,
}

fn thread(balance: Balance, backends: u32) -> Thread {
    let (writer, routes) = route_cell();
    let table = fixture::table(balance, backends, 0);
    let (metrics, pool) = (Metrics::new().unwrap(), PoolName::from(fixture::POOL));
    let live = |route: &Route| {
        let (metrics, name) = (metrics.backend(&pool, &route.name), route.name.clone());
        (route.backend, Arc::new(BackendLive::new(pool.clone(), name, metrics, Arc::clone(&route.load))))
    };
    let backends = table.pools[&pool].tiers[0].routes().iter().map(live).collect();
    let pools = BTreeMap::from([(pool.clone(), Arc::new(PoolLive::new(metrics.pool(&pool))))]);
    writer.publish(Published { table, live: Arc::new(Live { pools, backends }) });
    assert!(routes.load().table.pools.contains_key(&pool));
    Thread { routes, pool }
}

// All that a session does to know where it goes: the table, the pool, its turn, the pick, a place there, and what it keeps.
#[library_benchmark]
#[benches::session(args = [
    (Balance::RoundRobin, 10), (Balance::RoundRobin, 10_000), (Balance::LeastConnections, 10_000),
], setup = thread)]
fn choose(thread: Thread) -> (Place, Route, Arc<BackendLive>, Arc<PoolLive>, Thread) {
    let (place, route, backend, pool) = {
        let published = thread.routes.load();
        let routes = &published.table.pools[&thread.pool];
        let pool = Arc::clone(&published.live.pools[&thread.pool]);
        let arrival =
            Arrival { target: None, turn: pool.next_turn(), client: WORD, chance: WORD, tried: &[], will_wait: false };
        let route = routes.pick(black_box(&arrival)).unwrap();
        let place = route.load.take(route.max_connections).unwrap();
        (place, route.clone(), Arc::clone(&published.live.backends[&route.backend]), pool)
    };
    (place, route, backend, pool, thread)
}

// --- messages ------------------------------------------------------------------------------------------------

/// One message.
const MESSAGE: [u8; 200] = [7; 200];
/// The daemon's default.
const BUFFER: usize = 64 * 1024;

fn copied() -> Splicing {
    Splicing::default()
}

/// All but the first read goes through a pipe.
fn spliced() -> Splicing {
    Splicing { large_read: 0, stream: 0, small_move: 0, ..Splicing::default() }
}

fn runtime() -> LocalRuntime {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap()
}

/// A socket of the relay's, and its other end. What is written there can be read here at once.
fn pair() -> (Stream, UnixStream) {
    let (ours, other) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Stream::Unix(tokio::net::UnixStream::from_std(ours).unwrap()), other)
}

/// A session that is relayed by whoever polls it.
struct Relayed {
    relay: Pin<Box<dyn Future<Output = RelayEnd>>>,
    pulse: Rc<Pulse>,
    direction: Direction,
    speaker: UnixStream,
    _listener: UnixStream,
}

fn relayed(direction: Direction, splicing: Splicing) -> Relayed {
    let ((client, person), (backend, server)) = (pair(), pair());
    let client = Gated::new(client);
    let (pulse, loans) = (Rc::new(Pulse::new(0, 0)), Loans::with(BUFFER, splicing));
    let own = Rc::clone(&pulse);
    let relay = Box::pin(async move { relay(&client, &backend, Start::default(), &own, &loans).await });
    let (speaker, _listener) = match direction {
        Direction::ClientToBackend => (person, server),
        Direction::BackendToClient => (server, person),
    };
    Relayed { relay, pulse, direction, speaker, _listener }
}

impl Relayed {
    fn poll(&mut self, cx: &mut Context<'_>) {
        assert!(self.relay.as_mut().poll(cx).is_pending(), "a session goes on");
    }

    fn carried(&self) -> u64 {
        self.pulse.total()[self.direction.index()]
    }

    /// Sends a message and waits until the runtime has heard of it. The relay has not looked.
    fn hear(&mut self, runtime: &LocalRuntime) {
        let mut sent = false;
        runtime.block_on(poll_fn(|cx| {
            if std::mem::replace(&mut sent, true) {
                return Poll::Ready(());
            }
            // From here on the runtime wakes this task when bytes come.
            self.poll(cx);
            self.speaker.write_all(&MESSAGE).unwrap();
            Poll::Pending
        }));
    }
}

/// A message is there, and messages before it have had buffers and pipes made.
fn before_a_message(direction: Direction, splicing: fn() -> Splicing) -> (Relayed, LocalRuntime) {
    let runtime = runtime();
    let mut relayed = runtime.block_on(async { relayed(direction, splicing()) });
    for _ in 0..3 {
        relayed.hear(&runtime);
        relayed.poll(&mut Context::from_waker(Waker::noop()));
    }
    relayed.hear(&runtime);
    assert_eq!(relayed.carried(), 3 * 200);
    (relayed, runtime)
}

// The relay's own part, when it is woken: it receives, sends, gives back what it borrowed, and waits again.
#[library_benchmark]
#[bench::copied(args = (Direction::ClientToBackend, copied), setup = before_a_message)]
#[bench::spliced(args = (Direction::ClientToBackend, spliced), setup = before_a_message)]
#[bench::to_client_copied(args = (Direction::BackendToClient, copied), setup = before_a_message)]
#[bench::to_client_spliced(args = (Direction::BackendToClient, spliced), setup = before_a_message)]
fn message((mut relayed, runtime): (Relayed, LocalRuntime)) -> (u64, Relayed, LocalRuntime) {
    relayed.poll(&mut Context::from_waker(Waker::noop()));
    (relayed.carried(), relayed, runtime)
}

/// A thread with one session, and whoever waits until that has moved something.
struct Busy {
    runtime: LocalRuntime,
    waiting: Rc<Cell<Option<Waker>>>,
    pulse: Rc<Pulse>,
    person: UnixStream,
    _server: UnixStream,
}

impl Busy {
    /// The thread works until so many bytes were carried.
    fn carry(&self, bytes: u64) {
        self.runtime.block_on(poll_fn(|cx| {
            if self.pulse.total()[0] >= bytes {
                return Poll::Ready(());
            }
            self.waiting.set(Some(cx.waker().clone()));
            Poll::Pending
        }));
    }
}

fn busy() -> Busy {
    let runtime = runtime();
    let waiting: Rc<Cell<Option<Waker>>> = Rc::default();
    let Relayed { mut relay, pulse, speaker: mut person, _listener: _server, .. } =
        runtime.block_on(async { relayed(Direction::ClientToBackend, copied()) });
    let told = Rc::clone(&waiting);
    runtime.spawn_local(poll_fn(move |cx| {
        let polled = relay.as_mut().poll(cx);
        if let Some(waiter) = told.take() {
            waiter.wake();
        }
        polled
    }));
    person.write_all(&MESSAGE).unwrap();
    let busy = Busy { runtime, waiting, pulse, person, _server };
    busy.carry(200);
    (&busy.person).write_all(&MESSAGE).unwrap();
    busy
}

// The same with what the runtime does about it: it waits for the socket, wakes the session's task and runs it.
#[library_benchmark]
#[bench::copied(setup = busy)]
fn turn(busy: Busy) -> Busy {
    busy.carry(400);
    busy
}

// --- bytes of protocols --------------------------------------------------------------------------------------

fn postgres() -> Vec<u8> {
    let body = b"user\0app\0database\0orders\0application_name\0psql\0client_encoding\0UTF8\0\0";
    let length = u32::try_from(8 + body.len()).unwrap();
    [&length.to_be_bytes()[..], &(3_u32 << 16).to_be_bytes(), body].concat()
}

fn tls() -> Vec<u8> {
    let hello = [&[1, 0, 1, 252][..], &[7; 508]].concat();
    [&[22, 3, 1, 2, 0][..], &hello].concat()
}

fn order() -> Vec<u8> {
    b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec()
}

#[library_benchmark]
#[bench::postgres(postgres())]
#[bench::tls(tls())]
#[bench::none(order())]
fn greeting(first: Vec<u8>) -> (bool, Vec<u8>) {
    (is_greeting(black_box(&first)), first)
}

fn header(version: ProxyProtocol, source: &str, destination: &str) -> Vec<u8> {
    proxy_header(version, Some((source.parse().unwrap(), destination.parse().unwrap())))
}

#[library_benchmark]
#[benches::of(args = [
    (ProxyProtocol::V1, "203.0.113.77:54321", "192.0.2.10:5432"),
    (ProxyProtocol::V1, "[2001:db8::1234:5678]:54321", "[2001:db8::10]:5432"),
    (ProxyProtocol::V2, "203.0.113.77:54321", "192.0.2.10:5432"),
    (ProxyProtocol::V2, "[2001:db8::1234:5678]:54321", "[2001:db8::10]:5432"),
], setup = header)]
fn proxy(header: Vec<u8>) -> (usize, Vec<u8>) {
    let (_, length) = parse_proxy_header(black_box(&header)).unwrap().unwrap();
    (length, header)
}

library_benchmark_group!(name = picks, benchmarks = [pick, choose]);
library_benchmark_group!(name = relays, benchmarks = [message, turn]);
library_benchmark_group!(name = protocols, benchmarks = [greeting, proxy]);

// --- whether it can be counted -------------------------------------------------------------------------------

/// The version of the library, which the runner's must be. Cargo keeps it in the lock file.
fn library_version() -> &'static str {
    let lock = include_str!("../Cargo.lock");
    lock.split_once("name = \"gungraun\"\nversion = \"").and_then(|(_, rest)| rest.split('"').next()).unwrap()
}

/// What `program --version` prints.
fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What is missing, with how to get it.
fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if version_of("valgrind").is_none() {
        missing.push("valgrind; on Debian and Ubuntu: apt-get install valgrind".to_owned());
    }
    let (wanted, runner) = (library_version(), option_env!("GUNGRAUN_RUNNER").unwrap_or("gungraun-runner"));
    let found = version_of(runner);
    if found.as_deref().and_then(|found| found.split_whitespace().last()) != Some(wanted) {
        let found = found.map_or(String::new(), |found| format!(" (found: {found})"));
        missing.push(format!(
            "gungraun-runner {wanted}{found}: cargo install gungraun-runner --version {wanted} --locked"
        ));
    }
    missing
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Under callgrind the runner starts this program again, and has looked.
    let is_counted = arguments.first().is_some_and(|first| first == "--gungraun-run");
    if !is_counted {
        if !arguments.iter().any(|argument| argument == "--bench") {
            eprintln!("instructions: counted by `cargo bench --bench instructions` only");
            return;
        }
        let missing = missing();
        if !missing.is_empty() {
            eprintln!("instructions: not counted, for want of\n  {}", missing.join("\n  "));
            return;
        }
    }
    gungraun::main!(library_benchmark_groups = picks, relays, protocols);
    main();
}
