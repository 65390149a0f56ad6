//! The tables, as text that is also Markdown, and what each target came to.

use std::fmt::Write;

use crate::cell::Figure;
use crate::machine;
use crate::options::Options;
use crate::peer::Peer;
use crate::results::Results;

/// The share of waiting for the CPU, as the median of all cells, above which not even ratios are good: a generator
/// that others keep from its CPU lets bulk pile up in small pieces, and peers differ in how they take that.
const LOADED: f64 = 0.25;

/// What a figure of changeover's is held to.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// At most so many times the peer's.
    Times(f64, Peer),
    /// At most so much.
    AtMost(f64),
}

const TARGETS: &[(Figure, Bound)] = &[
    (Figure::PpC64Cpu, Bound::Times(0.92, Peer::Haproxy)),
    (Figure::PpC1Cpu, Bound::Times(0.78, Peer::Haproxy)),
    (Figure::DownCpu, Bound::Times(0.27, Peer::Haproxy)),
    (Figure::DownCpu, Bound::Times(0.95, Peer::HaproxySplice)),
    (Figure::BothCpu, Bound::Times(0.27, Peer::Haproxy)),
    (Figure::BothCpu, Bound::Times(0.95, Peer::HaproxySplice)),
    (Figure::ConnectCpu, Bound::Times(0.85, Peer::Haproxy)),
    (Figure::MemoryOne, Bound::AtMost(1_000.0)),
    (Figure::MemoryMuch, Bound::AtMost(1_000.0)),
    (Figure::MemoryAfter, Bound::AtMost(10.0)),
    (Figure::Rate5kP50, Bound::Times(0.90, Peer::Haproxy)),
];

/// Everything: the machine, the figures, the targets.
pub(crate) fn write(results: &Results, options: &Options, peers: &[Peer]) -> String {
    let mut text = String::new();
    writeln!(text, "{}", machine::describe(peers)).unwrap();
    let seconds = options.seconds;
    write!(text, "{} rounds of {seconds} s, {} sessions at rest. ", options.rounds, options.sessions()).unwrap();
    if let Some((median, worst)) = results.waits() {
        if median > LOADED {
            text.push_str("**Not to be quoted: this machine was busy with other things.** ");
        }
        let (median, worst) = (100.0 * median, 100.0 * worst);
        write!(
            text,
            "While others ran, proxies waited\nfor their CPU {median:.0} % of the time (worst cell: {worst:.0} %)."
        )
        .unwrap();
    }
    text.push_str("\n\nMedians; after the x the median of the rounds' ratios to haproxy.\n\n");
    figures(&mut text, results, peers);
    text.push('\n');
    targets(&mut text, results, options);
    for note in &results.notes {
        writeln!(text, "\n{note}").unwrap();
    }
    text
}

fn figures(text: &mut String, results: &Results, peers: &[Peer]) {
    let mut row = |name: &str, cells: &[String]| {
        write!(text, "| {name:<15} |").unwrap();
        for cell in cells {
            write!(text, " {cell:>10} |").unwrap();
        }
        text.push('\n');
    };
    row("", &peers.iter().map(|peer| peer.name()).collect::<Vec<_>>());
    row(&"-".repeat(15), &vec!["-".repeat(9) + ":"; peers.len()]);
    for &figure in Figure::ALL.iter().filter(|&&figure| results.has(figure)) {
        let cell = |&peer: &Peer| {
            let Some(value) = results.median(figure, peer) else { return "-".to_owned() };
            let ratio = results.ratio(figure, peer, Peer::Haproxy);
            match ratio.filter(|_| peer != Peer::Haproxy && figure.compares()) {
                Some(ratio) => format!("{} x{}", short(value), short(ratio.median)),
                None => short(value),
            }
        };
        row(figure.label(), &peers.iter().map(cell).collect::<Vec<_>>());
    }
    row("errors", &peers.iter().map(|&peer| results.errors(peer).to_string()).collect::<Vec<_>>());
}

fn targets(text: &mut String, results: &Results, options: &Options) {
    text.push_str("| target of changeover                 | measured [range]    |        |\n");
    text.push_str("|--------------------------------------|---------------------|--------|\n");
    for &(figure, bound) in TARGETS {
        let (limit, measured, range) = match bound {
            Bound::Times(limit, base) => {
                let ratio = results.ratio(figure, Peer::Changeover, base);
                let range = ratio.map(|ratio| format!(" [{:.2}..{:.2}]", ratio.least, ratio.greatest));
                (limit, ratio.map(|ratio| ratio.median), range)
            }
            Bound::AtMost(limit) => (limit, results.median(figure, Peer::Changeover), None),
        };
        let wanted = match bound {
            Bound::Times(limit, base) => format!("{} <= {limit:.2} x {}", figure.label(), base.name()),
            Bound::AtMost(limit) => format!("{} <= {limit}", figure.label()),
        };
        let (value, verdict) = match measured {
            None => ("-".to_owned(), "-"),
            Some(value) => {
                let range = range.unwrap_or_default();
                let verdict = if value <= limit { "pass" } else { "MISS" };
                // With few sessions and short times a figure is no figure.
                (format!("{}{range}", short(value)), if options.quick { "quick" } else { verdict })
            }
        };
        writeln!(text, "| {wanted:<36} | {value:<19} | {verdict:<6} |").unwrap();
    }
}

/// Three digits that matter, in at most four places.
fn short(value: f64) -> String {
    match value.abs() {
        thousands if thousands >= 10_000.0 => format!("{:.0}k", value / 1e3),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
