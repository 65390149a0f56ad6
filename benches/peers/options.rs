//! What is asked for, on the command line or in the environment.

use clap::{Parser, ValueEnum};

use crate::cell::Cell;
use crate::peer::Peer;

/// Compares changeover with its peers on this machine: `cargo bench --bench peers -- [OPTIONS]`.
#[derive(Debug, Parser)]
#[command(name = "peers")]
pub(crate) struct Options {
    /// One short round with fewer sessions: whether everything works, and no figures to quote.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rounds; each measures every cell with every peer once.
    #[arg(long, env = "CHANGEOVER_BENCH_ROUNDS", default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Seconds of measurement in each cell.
    #[arg(long, env = "CHANGEOVER_BENCH_SECONDS", default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Which cells, by comma.
    #[arg(long, env = "CHANGEOVER_BENCH_CELLS", value_delimiter = ',', value_enum)]
    pub(crate) cells: Vec<Cell>,
    /// Which peers, by comma.
    #[arg(long, env = "CHANGEOVER_BENCH_PEERS", value_delimiter = ',', value_enum)]
    pub(crate) peers: Vec<Peer>,
    /// Appends the tables to benches/RESULTS.md.
    #[arg(long)]
    pub(crate) write: bool,
    /// What cargo adds to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub(crate) fn read() -> Self {
        let mut options = Self::parse();
        if options.quick {
            options.rounds = 1;
            options.seconds = 0.2;
        }
        if options.cells.is_empty() {
            options.cells = Cell::value_variants().to_vec();
        }
        if options.peers.is_empty() {
            options.peers = Peer::value_variants().iter().copied().filter(|peer| peer.is_usual()).collect();
        }
        // The tables' order, and each once.
        options.cells.sort_unstable();
        options.cells.dedup();
        options.peers.sort_unstable();
        options.peers.dedup();
        options
    }

    /// Sessions of the memory cell.
    pub(crate) fn sessions(&self) -> usize {
        if self.quick { 1_000 } else { 8_000 }
    }
}
