//! On what the figures were taken.

use std::fs;

use crate::peer::Peer;

/// One paragraph: date, kernel, processor, versions of the peers, load.
pub(crate) fn describe(peers: &[Peer]) -> String {
    let versions: Vec<String> = peers
        .iter()
        .filter(|peer| !matches!(peer, Peer::Direct | Peer::ChangeoverBusy | Peer::HaproxySplice))
        .filter(|peer| peer.bare().is_none())
        .map(|&peer| format!("{} {}", peer.name(), peer.version().as_deref().unwrap_or("of unknown version")))
        .collect();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    format!(
        "{}, Linux {}, {} ({} cores), load {}.\n{}.",
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        read("/proc/sys/kernel/osrelease").trim(),
        model.trim_start_matches([' ', '\t', ':']),
        std::thread::available_parallelism().map_or(0, usize::from).max(cores(&cpu)),
        read("/proc/loadavg").split(' ').next().unwrap_or("unknown"),
        versions.join(", "),
    )
}

/// This thread is pinned to one of them, so the kernel's list is asked.
fn cores(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
