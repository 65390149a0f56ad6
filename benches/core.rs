//! What the decisions cost: a pick, a table, its exchange, a file. `cargo bench --bench core`.
//!
//! Nothing here touches a socket; `peers` measures those. Under `cargo test` each runs once.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// The macros of criterion make public functions.
#![allow(missing_docs)]

mod fixture;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use changeover::config::overlay::{Change, Overlay, Patch, PatchKey, Registration, Request, effective};
use changeover::config::{Document, OsSources, parse};
use changeover::failover::{Arrival, Command, Controller, Event};
use changeover::model::{
    Actor, Advice, BackendName, Balance, DialError, MonoTime, PoolName, ProbeError, ProbeId, ProbeOutcome, TargetId,
};
use changeover::routing::{Published, route_cell};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fixture::Undecided;

/// A few, and more than anybody has behind one pool.
const SIZES: [u32; 2] = [10, 10_000];
/// Threads that read while one writes.
const READERS: usize = 4;

fn pick(criterion: &mut Criterion) {
    for (size, &balance) in SIZES.into_iter().flat_map(|size| Balance::ALL.iter().map(move |balance| (size, balance))) {
        let table = fixture::table(balance, size, 0);
        let pool = &table.pools[fixture::POOL];
        let mut turn = 0_u64;
        criterion.bench_function(&format!("pick/{balance}/{size}"), |bencher| {
            bencher.iter(|| {
                turn += 1;
                // An odd multiplier: every turn is another client and another draw.
                let word = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                pool.pick(&Arrival { turn: black_box(turn), client: word, chance: word, ..Arrival::default() })
                    .unwrap()
                    .backend
            });
        });
        let first = Arrival::default();
        let tried = [pool.pick(&first).unwrap().backend];
        criterion.bench_function(&format!("pick again/{balance}/{size}"), |bencher| {
            bencher.iter(|| pool.pick(&Arrival { tried: black_box(&tried), ..first }).unwrap().backend);
        });
    }
}

/// From the verdict to the table: what is decided, and laid out for picks.
fn build(criterion: &mut Criterion) {
    for &balance in Balance::ALL {
        criterion.bench_function(&format!("table build/{balance}/10000"), |bencher| {
            bencher.iter_batched(|| Undecided::new(balance, 10_000, 0), Undecided::decide, BatchSize::LargeInput);
        });
    }
}

/// A pool of 10,000 backends, each at an address of its own, and the answers that take some of them out in one turn.
struct Doomed {
    core: Controller,
    now: MonoTime,
    verdicts: Event,
}

impl Doomed {
    fn new(dying: usize) -> Self {
        let mut plan = fixture::plan(Balance::RoundRobin, 10_000, 0);
        let pool = Arc::make_mut(plan.pools.values_mut().next().unwrap());
        for (number, backend) in pool.backends.iter_mut().enumerate() {
            backend.address = format!("10.1.{}.{}:5432", number / 256, number % 256).parse().unwrap();
        }
        let event = Event::PlanReplaced { plan: Arc::new(plan), actor: Actor::changeover() };
        let mut doomed = Self { core: Controller::new(7), now: MonoTime::ZERO, verdicts: event };
        for (asked, outcome) in [(10_000, passed as fn() -> ProbeOutcome), (dying, refused), (dying, refused)] {
            doomed.verdicts = Event::ProbesFinished { answers: doomed.asked(asked, outcome) };
        }
        doomed
    }

    /// Tells it what is to be told, and goes on until so many are asked; they all have the same answer.
    fn asked(&mut self, count: usize, outcome: fn() -> ProbeOutcome) -> Vec<(TargetId, ProbeId, ProbeOutcome)> {
        let (mut commands, mut answers) = (Vec::new(), Vec::new());
        let mut event = std::mem::replace(&mut self.verdicts, Event::Tick);
        loop {
            self.core.handle(self.now, event, &mut commands);
            for command in commands.drain(..) {
                if let Command::StartProbe { target, probe, .. } = command
                    && answers.len() < count
                {
                    answers.push((target, probe, outcome()));
                }
            }
            if answers.len() == count {
                return answers;
            }
            self.now = self.core.next_deadline().unwrap();
            event = Event::Tick;
        }
    }

    fn decide(self) -> Controller {
        let (mut core, mut commands) = (self.core, Vec::new());
        let before = core.table().generation;
        core.handle(self.now, self.verdicts, &mut commands);
        assert_eq!(core.table().generation, before.next());
        core
    }
}

fn passed() -> ProbeOutcome {
    ProbeOutcome::Passed { latency: Duration::from_millis(1), advice: Advice::default() }
}

fn refused() -> ProbeOutcome {
    ProbeOutcome::Failed { error: ProbeError::Dial(DialError::Refused), detail: "connection refused".to_owned() }
}

/// From verdicts that are told together to the table without those who died.
fn deaths(criterion: &mut Criterion) {
    for dying in [1, 512] {
        criterion.bench_function(&format!("die in one turn/{dying} of 10000"), |bencher| {
            bencher.iter_batched(|| Doomed::new(dying), Doomed::decide, BatchSize::PerIteration);
        });
    }
}

/// What it costs to publish a table, and to read it, while others read without pause.
fn exchange(criterion: &mut Criterion) {
    let (writer, reader) = route_cell();
    let tables = [0; 2].map(|_| fixture::table(Balance::RoundRobin, 10, 0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..READERS {
            let reader = reader.clone();
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    black_box(reader.load().table.generation);
                }
            });
        }
        let mut turn = 0;
        criterion.bench_function(&format!("publish/{READERS} readers"), |bencher| {
            bencher.iter(|| {
                turn ^= 1;
                writer.publish(Published { table: Arc::clone(&tables[turn]), ..Published::default() });
            });
        });
        criterion.bench_function(&format!("load/{} other readers", READERS), |bencher| {
            bencher.iter(|| black_box(&reader).load().table.generation);
        });
        done.store(true, Ordering::Relaxed);
    });
}

fn configuration(criterion: &mut Criterion) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference.toml");
    let text = std::fs::read_to_string(path).unwrap();
    criterion.bench_function("parse/reference.toml", |bencher| {
        bencher.iter(|| parse("reference.toml", black_box(&text), &OsSources).unwrap());
    });
}

/// What an order of the API costs in a pool of 10,000: the file, what lies over it, and one change more.
fn run_time(criterion: &mut Criterion) {
    let list: String =
        (0..9_900).map(|at| format!("[pools.p.backends.b{at}]\naddress = 'b{at}:1'\nweight = 2\n")).collect();
    let text = format!("[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n{list}");
    let document = Document::parse("bench.toml", &text, &OsSources).unwrap();
    let (pool, at, actor) = (PoolName::from("p"), jiff::Timestamp::UNIX_EPOCH, Actor::from("bench"));
    let mut overlay = Overlay::default();
    for number in 0..100 {
        let table = serde_json::json!({ "address": format!("r{number}:1"), "check": { "interval": "2s" } });
        let table = table.as_object().unwrap().clone();
        let registration = Registration { table, at, actor: actor.clone() };
        let name = BackendName::from(format!("r{number}").as_str());
        overlay.apply(Change::Registration(pool.clone(), name, Some(registration)));
        let key = PatchKey::of_backend(&BackendName::from(format!("b{number}").as_str()), "weight");
        let patch = Patch { value: 7.into(), base: Some(2.into()), at, actor: actor.clone() };
        overlay.apply(Change::Patch(pool.clone(), key, Some(patch)));
    }
    let result = effective(&document, &overlay);
    assert_eq!((result.notes.len(), result.plan.pools["p"].backends.len()), (0, 10_000));
    criterion.bench_function("parse/10000 backends", |bencher| {
        bencher.iter(|| parse("bench.toml", black_box(&text), &OsSources).unwrap());
    });
    criterion.bench_function("effective/10000 backends, nothing changed", |bencher| {
        let none = Overlay::default();
        bencher.iter(|| effective(black_box(&document), &none));
    });
    criterion.bench_function("effective/10000 backends, 200 changes", |bencher| {
        bencher.iter(|| effective(black_box(&document), &overlay));
    });
    let request = Request { document: &document, overlay: &overlay, pool: &pool, at, actor };
    let body = serde_json::json!({ "name": "new", "address": "new:1" });
    criterion.bench_function("register/10000 backends, 200 changes", |bencher| {
        bencher.iter(|| black_box(&request).register(&body).unwrap());
    });
}

criterion_group!(benches, pick, build, deaths, exchange, configuration, run_time);
criterion_main!(benches);
