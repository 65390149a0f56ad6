//! changeover beside its peers: proxy CPU per request, byte and connection, latency, and memory, in one run,
//! by turns, on loopback. `cargo bench --bench peers`; `-- --help` lists what can be chosen.
//!
//! The proxy has CPU 0 and one thread, the generator and the backend have CPU 1. Rates tell who is slower
//! than the generator, no more; what is compared is the proxy's own CPU time, which other people's load hardly
//! moves, and its ratio to HAProxy's in the same round.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod backend;
mod bare;
mod cell;
mod load;
mod machine;
mod options;
mod pattern;
mod peer;
mod poller;
mod process;
mod report;
mod results;
mod run;
mod setup;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use options::Options;
use peer::Peer;
use results::Results;

fn main() -> ExitCode {
    let first = std::env::args().nth(1).unwrap_or_default();
    if first == backend::ARGUMENT {
        backend::run().unwrap();
        return ExitCode::SUCCESS;
    }
    if let Some(bare) = bare::Loop::named(&first) {
        bare.run(std::env::args_os().nth(2)).unwrap();
        return ExitCode::SUCCESS;
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("peers: measures only as `cargo bench --bench peers`");
        return ExitCode::SUCCESS;
    }
    let options = Options::read();
    let mut results = Results::default();
    let peers = run::all(&options, &mut results);
    let text = report::write(&results, &options, &peers);
    println!("\n{text}");
    if options.write {
        append(&text);
    }
    // Targets are goals and fail nothing; bytes that were lost do.
    let broken = options.peers.contains(&Peer::Changeover)
        && (results.errors(Peer::Changeover) > 0 || !peers.contains(&Peer::Changeover));
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One more section at the end of the file.
fn append(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let title = text.split(',').next().unwrap();
    write!(file, "\n## {title}\n\n{text}").unwrap();
    println!("appended to {}", path.display());
}
