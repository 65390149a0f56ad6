//! The order of things: every round runs every cell with every peer, by turns.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;

use crate::backend::ARGUMENT;
use crate::cell::{Cell, Figure};
use crate::load::echo::Sessions;
use crate::load::{Meter, Outcome, bulk, connect, memory};
use crate::options::Options;
use crate::peer::{Peer, Running};
use crate::process::{Guarded, LOAD_CPU, PROXY_CPU, pin, raise_descriptors};
use crate::results::Results;

/// Memory comes out the same each time; more rounds would only take longer.
const MEMORY_ROUNDS: usize = 3;
/// The share of waiting for the CPU below which a latency is believed at once.
const CALM: f64 = 0.1;
/// How often it is tried again.
const CALM_TRIALS: usize = 3;
/// Before each measurement, for caches and the scheduler.
const WARM: Duration = Duration::from_millis(100);
/// Between two cells, so that what one closed is not charged to the next.
const REST: Duration = Duration::from_millis(50);

/// Measures everything into `results`. Who took part, in order.
pub(crate) fn all(options: &Options, results: &mut Results) -> Vec<Peer> {
    let limit = raise_descriptors().unwrap();
    let wanted = u64::try_from(2 * options.sessions() + 500).unwrap();
    if limit < wanted {
        results.notes.push(format!("{limit} descriptors are allowed, {wanted} are wanted: expect errors at rest."));
    }
    let (backend, addresses) = start_backend().unwrap();
    // Both CPUs are there, or pinning to them fails here and not in the middle.
    pin(PROXY_CPU).and_then(|()| pin(LOAD_CPU)).expect("this needs two CPUs");
    let mut running = Vec::new();
    for &peer in &options.peers {
        match Running::start(peer, addresses[peer.number()]) {
            Ok(started) => running.push(started),
            Err(why) => results.notes.push(format!("Missing: {} ({why}).", peer.name())),
        }
    }
    let peers: Vec<Peer> = running.iter().map(|running| running.peer).collect();
    for round in 0..options.rounds {
        for &cell in &options.cells {
            // Everybody comes first once.
            for index in 0..running.len() {
                let running = &running[(index + round) % running.len()];
                eprintln!("round {}: {} {}", round + 1, cell.name(), running.peer.name());
                let measured = match cell {
                    Cell::Memory if round >= MEMORY_ROUNDS => Ok(()),
                    Cell::Memory => at_rest(running.peer, addresses[running.peer.number()], round, options, results),
                    Cell::PpC64 | Cell::PpC1 | Cell::Rate5k | Cell::Down | Cell::Both | Cell::Connect => {
                        under_load(cell, running, round, options, results)
                    }
                };
                if let Err(error) = measured {
                    results.add_errors(running.peer, 1);
                    results.notes.push(format!("{} {}: {error}.", running.peer.name(), cell.name()));
                }
                thread::sleep(REST);
            }
        }
    }
    drop(running);
    drop(backend);
    peers
}

/// The backend, and its addresses.
fn start_backend() -> io::Result<(Guarded, Vec<SocketAddr>)> {
    let program = std::env::current_exe()?;
    let mut backend = Guarded::spawn(&program, LOAD_CPU, |command| {
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
    })?;
    let lines = BufReader::new(backend.child().stdout.take().unwrap()).lines();
    let addresses = lines.take(Peer::value_variants().len()).map(|line| Ok(line?.parse().unwrap()));
    let addresses = addresses.collect::<io::Result<_>>()?;
    Ok((backend, addresses))
}

/// One cell that moves something.
fn under_load(cell: Cell, running: &Running, round: usize, options: &Options, results: &mut Results) -> io::Result<()> {
    let time = Duration::from_secs_f64(options.seconds);
    let (address, proxy) = (running.address, running.process.as_ref());
    let mut outcome = match cell {
        Cell::PpC64 | Cell::PpC1 => {
            let mut sessions = Sessions::open(address, if cell == Cell::PpC1 { 1 } else { 64 })?;
            let warm = sessions.closed_loop(WARM, Meter::start(proxy))?;
            results.add_errors(running.peer, warm.errors);
            sessions.closed_loop(time, Meter::start(proxy))?
        }
        Cell::Rate5k => {
            let mut sessions = Sessions::open(address, 64)?;
            let warm = sessions.closed_loop(WARM, Meter::start(proxy))?;
            results.add_errors(running.peer, warm.errors);
            steady(&mut sessions, time, proxy)?
        }
        Cell::Down | Cell::Both => bulk::run(address, cell == Cell::Both, time, proxy)?,
        Cell::Connect | Cell::Memory => connect::run(address, time, Meter::start(proxy))?,
    };
    results.add_errors(running.peer, outcome.errors);
    if proxy.is_some() {
        results.add_wait(wait_share(&outcome));
    }
    record(cell, running, round, &mut outcome, results);
    Ok(())
}

/// CPU time hardly depends on what others run, latency does: where the proxy had to wait it is measured again,
/// and the calmest time counts.
fn steady(sessions: &mut Sessions, time: Duration, proxy: Option<&Guarded>) -> io::Result<Outcome> {
    let mut best = sessions.open_loop(time, Meter::start(proxy))?;
    for _ in 0..CALM_TRIALS {
        if best.errors > 0 || proxy.is_none() || wait_share(&best) < CALM {
            break;
        }
        let next = sessions.open_loop(time, Meter::start(proxy))?;
        if next.errors > 0 || wait_share(&next) < wait_share(&best) {
            best = next;
        }
    }
    Ok(best)
}

#[allow(clippy::cast_precision_loss)]
fn wait_share(outcome: &Outcome) -> f64 {
    outcome.cpu.wait_ns as f64 / (outcome.cpu.run_ns + outcome.cpu.wait_ns) as f64
}

fn record(cell: Cell, running: &Running, round: usize, outcome: &mut Outcome, results: &mut Results) {
    let (cpu, rate) = match cell {
        Cell::PpC64 => (Figure::PpC64Cpu, Some(Figure::PpC64Rate)),
        Cell::PpC1 => (Figure::PpC1Cpu, Some(Figure::PpC1Rate)),
        Cell::Rate5k => (Figure::Rate5kCpu, None),
        Cell::Down => (Figure::DownCpu, Some(Figure::DownRate)),
        Cell::Both => (Figure::BothCpu, Some(Figure::BothRate)),
        Cell::Connect | Cell::Memory => (Figure::ConnectCpu, Some(Figure::ConnectRate)),
    };
    let bulk = matches!(cell, Cell::Down | Cell::Both);
    let mut add = |figure, value| results.add(figure, running.peer, round, value);
    if running.process.is_some() {
        // Nanoseconds per byte are seconds per GB; per request they are divided to microseconds.
        add(cpu, outcome.cpu_per_unit() * if bulk { 1e3 } else { 1e-3 });
    }
    if let Some(rate) = rate {
        add(rate, outcome.rate() * if bulk { 1e-9 } else { 1e-3 });
    }
    if cell == Cell::PpC1
        && let Some(us) = outcome.latency_us(500)
    {
        add(Figure::PpC1P50, us);
    }
    if cell == Cell::Rate5k {
        for (figure, per_mille) in [(Figure::Rate5kP50, 500), (Figure::Rate5kP99, 990)] {
            if let Some(us) = outcome.latency_us(per_mille) {
                add(figure, us);
            }
        }
    }
}

/// Sessions at rest, through a proxy of its own: what others have left in memory would be reused.
#[allow(clippy::cast_precision_loss)]
fn at_rest(peer: Peer, backend: SocketAddr, round: usize, options: &Options, results: &mut Results) -> io::Result<()> {
    let fresh = Running::start(peer, backend).map_err(io::Error::other)?;
    let Some(process) = &fresh.process else { return Ok(()) };
    let memory = memory::run(fresh.address, options.sessions(), process)?;
    let sessions = options.sessions() as f64;
    results.add_errors(peer, memory.errors);
    results.add(Figure::MemoryOne, peer, round, memory.one as f64 / sessions);
    results.add(Figure::MemoryMuch, peer, round, memory.much as f64 / sessions);
    results.add(Figure::MemoryAfter, peer, round, memory.after as f64 / 1e6);
    Ok(())
}
