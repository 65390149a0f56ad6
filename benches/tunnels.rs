//! What idle tunnels cost the daemon, beside plain backends that are checked as often: processor time and memory.
//!
//! `cargo bench --bench tunnels` starts daemons by turns, each over the same servers: directly, and through as many tunnels,
//! whose programs are this one again, as plain forwarders. The difference between the two is what tunnels cost. A third lot
//! has no checks at all: what it spends is for the tunnels alone. And a bare program, in the same rounds, connects as often
//! and closes: what the kernel takes for that, no daemon can save. Arguments (after `--`): `--tunnels`, `--seconds` of a
//! measurement, `--rounds`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for the terminal that gives up at a fault")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the start leaves behind has come to rest after this time.
const REST: Duration = Duration::from_secs(3);
/// Ticks of a second in /proc/PID/stat: `USER_HZ`, the same on every Linux.
const TICKS: f64 = 100.0;

struct Options {
    tunnels: usize,
    time: Duration,
    rounds: usize,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { tunnels: 100, time: Duration::from_secs(20), rounds: 3 };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{word} wants a value"));
            match word.as_str() {
                "--tunnels" => options.tunnels = value.parse().unwrap(),
                "--seconds" => options.time = Duration::from_secs(value.parse().unwrap()),
                "--rounds" => options.rounds = value.parse().unwrap(),
                _ => panic!("{word} is unknown: --tunnels, --seconds, --rounds"),
            }
        }
        options
    }
}

/// How backends are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lot {
    Direct,
    Tunnelled,
    Unchecked,
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let Some(at) = words.iter().position(|word| word == "--forward") {
        forward(words[at + 1].parse().unwrap(), words[at + 2].parse().unwrap());
    }
    if let Some(at) = words.iter().position(|word| word == "--connect") {
        connect(words[at + 1].parse().unwrap(), words[at + 2].parse().unwrap());
    }
    if !words.iter().any(|word| word == "--bench") {
        println!("tunnels: measures only as `cargo bench --bench tunnels`");
        return;
    }
    let options = Options::read();
    let server = serve();
    println!(
        "{} backends, each checked once a second; the daemon's own processor time over {:?} and memory at rest, {} rounds\n",
        options.tunnels, options.time, options.rounds
    );
    println!("| round | {} |", COLUMNS.join(" | "));
    println!("|---|{}", "---|".repeat(COLUMNS.len()));
    let mut all = Vec::new();
    for round in 1..=options.rounds {
        let bare = measure_bare(&options, server);
        let [direct, tunnelled, unchecked] =
            [Lot::Direct, Lot::Tunnelled, Lot::Unchecked].map(|lot| measure(lot, &options, server));
        let each = (tunnelled.1 - direct.1) / options.tunnels as f64 * 1024.0;
        let row = [bare, direct.0, tunnelled.0, unchecked.0, direct.1, tunnelled.1, each];
        print(&round.to_string(), row);
        all.push(row);
    }
    print("median", std::array::from_fn(|column| median(all.iter().map(|row| row[column]))));
}

/// What is measured in each round.
const COLUMNS: [&str; 7] = [
    "bare connects %",
    "direct %",
    "tunnels %",
    "tunnels, unchecked %",
    "direct MiB",
    "tunnels MiB",
    "KiB for each tunnel",
];

fn print(name: &str, row: [f64; COLUMNS.len()]) {
    println!("| {name} | {} |", row.map(|value| format!("{value:.2}")).join(" | "));
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A server that says hello to all, and closes.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            client.write_all(b"hello\n").ok();
        }
    });
    at
}

/// A tunnel's program: forwards whoever comes to `port`, one after another.
fn forward(port: u16, to: SocketAddr) -> ! {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    loop {
        let Ok((mut client, _)) = listener.accept() else { continue };
        let Ok(mut server) = TcpStream::connect(to) else { continue };
        let mut said = Vec::new();
        if server.read_to_end(&mut said).is_ok() {
            client.write_all(&said).ok();
        }
    }
}

/// What a check is without anything around it: connects to `to` this many times a second, evenly, and closes.
fn connect(rate: u32, to: SocketAddr) -> ! {
    let pace = Duration::from_secs(1) / rate;
    let mut due = Instant::now();
    loop {
        due += pace;
        sleep(due.saturating_duration_since(Instant::now()));
        if let Ok(stream) = TcpStream::connect(to) {
            stream.shutdown(std::net::Shutdown::Write).ok();
        }
    }
}

/// The processor time in percent of a core of a bare program that connects as often as a daemon.
fn measure_bare(options: &Options, server: SocketAddr) -> f64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--connect", &options.tunnels.to_string(), &server.to_string()]);
    let program = Program(command.stdin(Stdio::null()).spawn().unwrap());
    sleep(REST);
    program.share(options.time)
}

/// The processor time of a daemon in percent of a core, and its memory in MiB.
fn measure(lot: Lot, options: &Options, server: SocketAddr) -> (f64, f64) {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("changeover.toml");
    fs::write(&config, configuration(lot, options.tunnels, server, &place)).unwrap();
    let mut daemon = Program(
        Command::new(env!("CARGO_BIN_EXE_changeover"))
            .args(["run", "--config"])
            .arg(&config)
            .env("HOME", place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let socket = place.path().join("admin.sock");
    let begun = Instant::now();
    while healthy(&socket) < options.tunnels {
        assert!(begun.elapsed() < PATIENCE, "{lot:?}: not all are healthy, {}", healthy(&socket));
        assert!(daemon.0.try_wait().unwrap().is_none(), "{lot:?}: it has ended");
        sleep(Duration::from_millis(50));
    }
    sleep(REST);
    (daemon.share(options.time), daemon.resident())
}

fn configuration(lot: Lot, count: usize, server: SocketAddr, place: &TempDir) -> String {
    let own = std::env::current_exe().unwrap();
    let mut text = format!(
        "[daemon]\nworkers = 1\n[log]\nlevel = \"error\"\n[admin]\nbind = \"unix:{}\"\n[listeners.l]\n\
         bind = \"127.0.0.1:0\"\npool = \"p\"\n[pools.p.check]\n{}\n",
        place.path().join("admin.sock").display(),
        if lot == Lot::Unchecked { "kind = \"none\"" } else { "kind = \"tcp\"\ninterval = \"1s\"" },
    );
    for at in 0..count {
        let table = format!("pools.p.backends.b{at}");
        if lot == Lot::Direct {
            // Each at an address of its own, as one answer would do for all of one address.
            let ip = format!("127.0.{}.{}", 1 + at / 250, 1 + at % 250);
            text.push_str(&format!("[{table}]\naddress = \"{ip}:{}\"\n", all_addresses().port()));
        } else {
            text.push_str(&format!(
                "[{table}.tunnel]\nprovider = \"command\"\nattach = \"listen\"\ntarget = \"{server}\"\n\
                 command = [\"{}\", \"--forward\", \"{{local_port}}\", \"{server}\"]\n",
                own.display()
            ));
        }
    }
    text
}

/// One listener at all addresses of the loopback network, that says hello and closes.
fn all_addresses() -> SocketAddr {
    static AT: std::sync::OnceLock<SocketAddr> = std::sync::OnceLock::new();
    *AT.get_or_init(|| {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                client.write_all(b"hello\n").ok();
            }
        });
        at
    })
}

/// How many backends are fit.
fn healthy(socket: &std::path::Path) -> usize {
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { return 0 };
    let asked = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if stream.write_all(asked).is_err() {
        return 0;
    }
    let is_fit = |line: &String| line.starts_with("changeover_backend_healthy{") && line.ends_with(" 1");
    BufReader::new(stream).lines().map_while(Result::ok).filter(is_fit).count()
}

struct Program(Child);

impl Program {
    /// Its processor time so far, in seconds; not that of the programs that it runs.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS
    }

    /// The same over `time` from now on, in percent of a core.
    fn share(&self, time: Duration) -> f64 {
        let (first, begun) = (self.cpu(), Instant::now());
        sleep(time);
        (self.cpu() - first) / begun.elapsed().as_secs_f64() * 100.0
    }

    /// Its memory, in MiB.
    fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // In order, so that its programs go with it.
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().try_into().unwrap()) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.0.wait().ok();
    }
}
