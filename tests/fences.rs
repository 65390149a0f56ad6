//! Sessions that are fenced in the middle of what they say: whatever they do at that moment, nothing of it arrives once the
//! fence has returned.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use changeover::failover::Sessions;
use changeover::model::{BackendId, Epoch, MonoTime, OutReason, SessionEnd};
use changeover::relay::{Loans, Pulse, RelayEnd, Splicing, Start, relay};
use changeover::routing::{Admission, BackendLive, PACE_AT_ONCE, Pace, Pair, Registry, SessionFacts};
use changeover::telemetry::Metrics;
use rustix::net::sockopt;
use support::relayed::{Ours, copied, pair, spliced};
use support::sock::Sock;
use support::{DEADLINE, wait_until};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

const BACKEND: BackendId = BackendId(1);
const ROUNDS: usize = 30;
const SESSIONS: usize = 4;

fn facts(metrics: &Metrics) -> SessionFacts {
    let (metrics, load) = (metrics.backend(&"orders".into(), &"a".into()), Arc::default());
    let backend = BackendLive::new("orders".into(), "a".into(), metrics, load);
    SessionFacts { listener: "front".into(), backend: Arc::new(backend), client: None, since: MonoTime::default() }
}

fn tcp(sock: Sock) -> TcpStream {
    let Sock::Tcp(stream) = sock else { panic!("not TCP") };
    stream
}

/// Asks, and waits for the whole answer before it asks again. Each step is one under its lock.
struct Client {
    stream: TcpStream,
    /// Bytes of an answer that are still to come.
    wanted: usize,
    /// Nobody asks any more.
    is_over: bool,
}

impl Client {
    /// Whether there may be more to do.
    fn step(&mut self, answer: usize, answers: &AtomicUsize) -> bool {
        if self.is_over {
            return false;
        }
        if self.wanted == 0 {
            self.wanted = answer;
            return self.stream.write_all(b"?").is_ok();
        }
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("a clean end"),
            Ok(length) => {
                // Acknowledged at once, not with the next question or 40 ms later: else most are behind at any time.
                sockopt::set_tcp_quickack(&self.stream, true).expect("TCP_QUICKACK");
                self.wanted -= length;
                if self.wanted == 0 {
                    answers.fetch_add(1, Ordering::SeqCst);
                }
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// What has arrived and was not looked at, and the error after it; none for an end, which is also what the kernel
    /// tells of a reset once it has been told to a write.
    fn rest(&mut self) -> (usize, Option<ErrorKind>) {
        let (mut buffer, mut got) = ([0; 65_536], 0);
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return (got, None),
                Ok(length) => got += length,
                Err(error) => return (got, Some(error.kind())),
            }
        }
    }
}

/// Gives `answer` bytes for each byte, until it is cut.
fn serve(mut stream: TcpStream, answer: usize) -> ErrorKind {
    let bytes = vec![7; answer];
    loop {
        if let Err(error) = stream.read_exact(&mut [0]).and_then(|()| stream.write_all(&bytes)) {
            return error.kind();
        }
    }
}

/// How a session ended, and whether its client was left to be closed in its turn.
type Over = (SessionEnd, bool);

/// The thread that relays: each session to its end, after which it holds the sockets until it is told to go on.
fn relay_all(
    sessions: Vec<(Ours, Ours, Admission)>,
    splicing: Splicing,
    attached: &mpsc::Sender<()>,
    over: &mpsc::Sender<Vec<Over>>,
    go_on: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (local, loans) = (LocalSet::new(), std::rc::Rc::new(Loans::with(65_536, splicing)));
    local.block_on(&runtime, async {
        let relays = sessions.into_iter().map(|(client, server, mut admission)| {
            let pair = Pair::new([client.watched(), server.watched()]);
            admission.attach_client(&pair.client, &pair.server, || ()).expect("not fenced yet");
            let loans = std::rc::Rc::clone(&loans);
            tokio::task::spawn_local(async move {
                let pulse = Pulse::new(0, 0);
                let end = match relay(&pair.client, &pair.server, Start::default(), &pulse, &loans).await {
                    RelayEnd::Over(end) => end,
                    RelayEnd::AtRest => unreachable!("nobody lets it rest"),
                };
                let waits = admission.end_unless_leaving().is_err();
                ((end, waits), pair, admission)
            })
        });
        let relays: Vec<_> = relays.collect();
        attached.send(()).expect("wanted");
        let mut kept = Vec::new();
        for relayed in relays {
            kept.push(relayed.await.expect("no panic"));
        }
        over.send(kept.iter().map(|(over, ..)| *over).collect()).expect("wanted");
        go_on.await.expect("told");
    });
}

/// One fence at a random moment. How many of the sessions were left to be closed later.
fn one_fence(answer: usize, splicing: Splicing, after: usize) -> usize {
    let (registry, metrics) = (Registry::new(2), Metrics::new().expect("metrics"));
    let admit = |worker| registry.admit(worker, BACKEND, Epoch(0), facts(&metrics)).expect("admitted");
    // Those that may be closed at once; they are looked at first.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let ((one, _one), (other, _other)) = (pair(true), pair(true));
    let first = Pair::new([one.watched(), other.watched()]);
    let others: Vec<_> = (0..PACE_AT_ONCE).map(|_| admit(0)).collect();
    others.iter().for_each(|admission| admission.attach_client(&first.client, &first.server, || ()).expect("attached"));

    let (mut inner, mut clients, mut servers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SESSIONS {
        let ((ours, client), (theirs, server)) = (pair(false), pair(false));
        inner.push((ours, theirs, admit(1)));
        let (stream, server) = (tcp(client), tcp(server));
        stream.set_nonblocking(true).expect("O_NONBLOCK");
        clients.push(Arc::new(Mutex::new(Client { stream, wanted: 0, is_over: false })));
        servers.push(thread::spawn(move || serve(server, answer)));
    }
    let ((attached, is_attached), (over, are_over), (go_on, told)) =
        (mpsc::channel(), mpsc::channel(), oneshot::channel());
    let relaying = thread::spawn(move || relay_all(inner, splicing, &attached, &over, told));
    is_attached.recv_timeout(DEADLINE).expect("attached");
    let answers = Arc::new(AtomicUsize::new(0));
    let asking: Vec<_> = clients
        .iter()
        .map(|client| {
            let (client, answers) = (Arc::clone(client), Arc::clone(&answers));
            thread::spawn(move || {
                while client.lock().unwrap().step(answer, &answers) {
                    thread::yield_now()
                }
            })
        })
        .collect();
    wait_until("they talk", DEADLINE, || answers.load(Ordering::SeqCst) >= after);

    let fenced = registry.fence(BACKEND, Epoch(1), Sessions::All, OutReason::Dead, &mut Pace::new(MonoTime::ZERO));
    let arrived: Vec<Option<ErrorKind>> = clients
        .iter()
        .map(|client| {
            let mut client = client.lock().unwrap();
            client.is_over = true;
            client.rest().1
        })
        .collect();
    let overs = are_over.recv_timeout(DEADLINE).expect("all relays end");
    assert_eq!(fenced.sessions, PACE_AT_ONCE + SESSIONS);
    let waiting = overs.iter().filter(|(_, waits)| *waits).count();
    assert_eq!(fenced.at_once, fenced.sessions - waiting);
    for ((client, kind), (end, waits)) in clients.iter().zip(&arrived).zip(&overs) {
        // What arrived before the fence returned was taken above.
        assert_eq!(client.lock().unwrap().rest().0, 0, "bytes after the fence: {end:?} {waits}");
        if *waits {
            assert_eq!(
                (*kind, *end),
                (Some(ErrorKind::WouldBlock), SessionEnd::BackendReset),
                "neither bytes nor an end"
            );
        } else {
            assert_ne!(*kind, Some(ErrorKind::WouldBlock));
        }
    }
    asking.into_iter().for_each(|thread| thread.join().unwrap());
    go_on.send(()).expect("waited for");
    relaying.join().unwrap();
    for (client, _) in clients.iter().zip(&overs).filter(|(_, (_, waits))| *waits) {
        assert_eq!(client.lock().unwrap().rest(), (0, Some(ErrorKind::ConnectionReset)), "all are reset in the end");
    }
    servers.into_iter().for_each(|server| assert_eq!(server.join().unwrap(), ErrorKind::ConnectionReset));
    waiting
}

fn fences_at_random(name: &str, answer: usize, splicing: Splicing) {
    let mut random = fastrand::Rng::new();
    let waiting: usize = (0..ROUNDS).map(|_| one_fence(answer, splicing, random.usize(1..200))).sum();
    println!("{name}: {waiting} of {} sessions in conversation were closed in their turn", ROUNDS * SESSIONS);
    assert!(waiting > 0, "{name}");
}

#[test]
fn nothing_of_a_message_arrives_after_its_fence() {
    fences_at_random("messages", 100, copied());
}

#[test]
fn nothing_of_a_long_answer_arrives_after_its_fence() {
    fences_at_random("long answers", 200_000, copied());
}

#[test]
fn nothing_of_a_spliced_answer_arrives_after_its_fence() {
    fences_at_random("spliced answers", 200_000, spliced());
}
