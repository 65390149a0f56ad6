//! A tunnel's program for tests: the test program itself, which does as its environment says. Each test program that uses
//! it has a test named [`NAME`] that comes to [`act`].

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The name of the test that is the program.
pub const NAME: &str = "the_fake_tunnel_does_as_it_is_told";
/// What it is to do, one of [`MODES`].
const MODE: &str = "FAKE_TUNNEL";
/// The port to open.
const PORT: &str = "FAKE_PORT";
/// Where to forward to.
const TARGET: &str = "FAKE_TARGET";
/// By which all of a test's are found.
pub const ID: &str = "FAKE_ID";
/// What is said by one that says secrets.
const SECRET: &str = "FAKE_SECRET";
/// What one waits for before it goes on.
const SOON: Duration = Duration::from_millis(50);

/// The arguments by which this test program is the tunnel's.
pub fn argv() -> Vec<String> {
    let program = std::env::current_exe().expect("our own path").display().to_string();
    vec![program, NAME.to_owned(), "--exact".to_owned(), "--nocapture".to_owned()]
}

/// The environment by which it does `mode`; the port is filled in where `{local_port}` stands.
pub fn env(mode: &str, id: &str, target: &str) -> Vec<(String, String)> {
    [(MODE, mode), (PORT, "{local_port}"), (ID, id), (TARGET, target)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Does as the environment says, if that says anything, and ends the process then. What else a test program may be is
/// done by `other`.
pub fn act(other: impl FnOnce(&str)) {
    let Ok(mode) = std::env::var(MODE) else { return };
    match mode.as_str() {
        "forward" => forward(),
        "slow" => {
            thread::park_timeout(SOON * 6);
            forward();
        }
        "bind-only" => hold(&listener()),
        "waits" => wait(),
        "accept-close" => listener().incoming().for_each(drop),
        "accept-hang" => {
            let kept: Vec<_> = listener().incoming().collect();
            drop(kept);
        }
        "exit-3" | "exit-0" => {
            thread::park_timeout(SOON);
            eprintln!("I have had enough");
            exit(if mode == "exit-3" { 3 } else { 0 });
        }
        "ignore-term" => {
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal_hook::consts::SIGTERM, flag).expect("a handler");
            forward();
        }
        "impatient" => {
            // The first time it is asked to end it does so in order, and the second time at once: as many programs do.
            let asked = Arc::new(AtomicBool::new(false));
            let term = signal_hook::consts::SIGTERM;
            signal_hook::flag::register_conditional_shutdown(term, 9, Arc::clone(&asked)).expect("a handler");
            signal_hook::flag::register(term, Arc::clone(&asked)).expect("a handler");
            // Many that left the group: whoever is asked one after the other is asked over some time.
            for _ in 0..50 {
                let left = Command::new("setsid").args(["--fork", "sleep", "1000"]).status();
                assert!(left.expect("setsid").success());
            }
            let _listener = listener();
            while !asked.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(1));
            }
            thread::park_timeout(SOON * 4);
        }
        "grandchild" => {
            // It holds the port, and outlives whoever has started it.
            let child = Command::new(&argv()[0]).args(&argv()[1..]).env(MODE, "forward").spawn();
            eprintln!("grandchild {}", child.expect("a child").id());
            wait();
        }
        "grandchild-left" => {
            Command::new(&argv()[0]).args(&argv()[1..]).env(MODE, "forward").spawn().expect("a child");
            // Until it listens.
            while TcpStream::connect(("127.0.0.1", port())).is_err() {
                thread::park_timeout(Duration::from_millis(1));
            }
            exit(1);
        }
        "daemonized" => {
            let argv = argv();
            let mut command = Command::new("setsid");
            command.arg("--fork").args(&argv).env(MODE, "ignore-term");
            assert!(command.status().expect("setsid").success());
            wait();
        }
        "flood" => {
            let line = [b'x'; 200];
            for number in 0..20_000 {
                let mut err = std::io::stderr().lock();
                err.write_all(number.to_string().as_bytes()).and_then(|()| err.write_all(&line)).expect("it is read");
                err.write_all(b"\n").expect("it is read");
            }
            eprintln!("flooded");
            forward();
        }
        "fatal" => {
            eprintln!("tun@bastion: Permission denied (publickey).\nPermission denied once more");
            wait();
        }
        "secrets" => {
            let secret = std::env::var(SECRET).expect("a secret");
            println!(
                "\u{1b}[31mtoken {secret}\u{1b}[0m and {secret:?} and k={}",
                secret.replace('/', "%2F").replace('"', "%22")
            );
            eprintln!("fatal: {secret} is wrong");
            exit(1);
        }
        "close-stdout" => {
            let null = || std::fs::OpenOptions::new().write(true).open("/dev/null").expect("null");
            rustix::stdio::dup2_stdout(null()).expect("dup2");
            rustix::stdio::dup2_stderr(null()).expect("dup2");
            forward();
        }
        "ready-text" => {
            thread::park_timeout(SOON);
            eprintln!("Connected (Latency 3ms)");
            wait();
        }
        other_mode => other(other_mode),
    }
    exit(0);
}

fn port() -> u16 {
    std::env::var(PORT).expect("a port").parse().expect("a number")
}

fn listener() -> TcpListener {
    match TcpListener::bind(("127.0.0.1", port())) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen: {error}");
            exit(255);
        }
    }
}

fn wait() {
    loop {
        thread::park();
    }
}

fn hold(_listener: &TcpListener) {
    wait();
}

fn forward() {
    let target = std::env::var(TARGET).expect("a target");
    for client in listener().incoming().flatten() {
        let Ok(server) = TcpStream::connect(&target) else { continue };
        for (mut from, mut to) in
            [(client.try_clone(), server.try_clone()), (server.try_clone(), client.try_clone())].map(both)
        {
            thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(length @ 1..) = from.read(&mut part) {
                    if to.write_all(&part[..length]).is_err() {
                        break;
                    }
                }
                to.shutdown(std::net::Shutdown::Both).ok();
            });
        }
    }
}

fn both((a, b): (std::io::Result<TcpStream>, std::io::Result<TcpStream>)) -> (TcpStream, TcpStream) {
    (a.expect("a clone"), b.expect("a clone"))
}
