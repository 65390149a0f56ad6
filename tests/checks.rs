//! Checks by agents, by programs and by what a backend says, and those through tunnels: asked for real, of listeners and of
//! executables that the tests write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use changeover::dial::Ways;
use changeover::model::{
    Address, AdminState, Advice, AgentCheck, Approach, Argument, Attach, BackendName, CheckError, CheckKind,
    CommandCheck, DialError, ExpectCheck, PoolName, ProbeError, ProbeOutcome, Via,
};
use changeover::probe::{Prober, TUNNEL_OPEN_FOR};
use changeover::sys::Clock;
use rustix::process::Signal;
use support::net::{echo, listen, meet, stop_listening};
use support::process::run_reading;
use support::servers::Server;
use support::{Backend, DEADLINE, Daemon, fresh_addr, fresh_ip, in_time, visit, wait_for, wait_until};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Long enough for whatever is not meant to be late.
const PATIENT: Duration = DEADLINE;
/// Short enough to wait for when it is.
const SHORT: Duration = Duration::from_millis(200);

/// One question. One that came to nothing because this machine was late itself is asked again.
async fn ask(prober: &Prober, address: &str, kind: &CheckKind, limit: Duration) -> ProbeOutcome {
    ask_as(prober, address, kind, limit, &Approach::PLAIN).await
}

async fn ask_as(
    prober: &Prober,
    address: &str,
    kind: &CheckKind,
    limit: Duration,
    approach: &Approach,
) -> ProbeOutcome {
    let address: Address = address.parse().expect("an address");
    for _ in 0..20 {
        let outcome = prober.probe(&address, kind, limit, approach).await.outcome;
        match &outcome {
            ProbeOutcome::Inconclusive { detail, .. } if detail.contains("late ourselves") => {}
            ProbeOutcome::Passed { .. } | ProbeOutcome::Failed { .. } | ProbeOutcome::Inconclusive { .. } => {
                return outcome;
            }
        }
    }
    panic!("late twenty times in a row");
}

#[track_caller]
fn failed(outcome: ProbeOutcome) -> (ProbeError, String) {
    match outcome {
        ProbeOutcome::Failed { error, detail } => (error, detail),
        other @ (ProbeOutcome::Passed { .. } | ProbeOutcome::Inconclusive { .. }) => panic!("{other:?}"),
    }
}

#[track_caller]
fn passed(outcome: ProbeOutcome) -> Advice {
    match outcome {
        ProbeOutcome::Passed { advice, .. } => advice,
        other @ (ProbeOutcome::Failed { .. } | ProbeOutcome::Inconclusive { .. }) => panic!("{other:?}"),
    }
}

// Agents.

/// Answers each connection with `parts`, in writes of their own, and ends it if told so.
fn agent(parts: &'static [&'static [u8]], ends: bool) -> Server {
    Server::start(fresh_addr(), move |_, mut stream| {
        stream.set_nodelay(true)?;
        for part in parts {
            stream.write_all(part)?;
        }
        if !ends {
            // Until the other side has had enough.
            std::io::copy(&mut stream, &mut std::io::sink())?;
        }
        Ok(())
    })
}

const fn by_agent(port: u16) -> CheckKind {
    CheckKind::Agent(AgentCheck { port, send: String::new() })
}

#[tokio::test]
async fn what_an_agent_says_is_good_news_and_advice() {
    let prober = Prober::new(Clock::start(), Ways::default());
    let none = Advice::default();
    let cases: &[(&'static [&'static [u8]], bool, Advice)] = &[
        (&[b"up\n"], false, none),
        (&[b"u", b"p", b" re", b"ady\r", b"\n"], false, Advice { admin: Some(AdminState::Ready), weight: None }),
        (&[b"drain 50%"], true, Advice { admin: Some(AdminState::Drain), weight: Some(50) }),
        (&[b"maint\ndown\n"], false, Advice { admin: Some(AdminState::Maintenance), weight: None }),
        (&[b"200%\n"], false, Advice { admin: None, weight: Some(100) }),
    ];
    for (parts, ends, wanted) in cases {
        let server = agent(parts, *ends);
        let advice = passed(ask(&prober, &server.addr.to_string(), &by_agent(0), PATIENT).await);
        assert_eq!(advice, *wanted, "{parts:?}");
    }
}

#[tokio::test]
async fn what_an_agent_says_is_bad_news_or_nonsense() {
    const LONG: &[u8] = &[b'x'; 2000];
    let prober = Prober::new(Clock::start(), Ways::default());
    let cases: &[(&'static [&'static [u8]], bool, CheckError, &str)] = &[
        (&[b"down # disk full\n"], false, CheckError::AgentDown, "the agent said: down: disk full"),
        (&[b"STOPPED\n"], false, CheckError::AgentDown, "the agent said: stopped"),
        (&[b"fail"], true, CheckError::AgentDown, "the agent said: fail"),
        (&[b"HTTP/1.1 200 OK\r\n"], false, CheckError::Malformed, "`HTTP/1.1` is no word of an agent"),
        (&[b"\n"], false, CheckError::Malformed, "the line is empty"),
        (&[LONG], false, CheckError::Malformed, "longer than 1024 bytes"),
        (&[], true, CheckError::ClosedEarly, "the agent's connection, before its answer: it ended"),
    ];
    for (parts, ends, error, words) in cases {
        let server = agent(parts, *ends);
        let (found, detail) = failed(ask(&prober, &server.addr.to_string(), &by_agent(0), PATIENT).await);
        assert_eq!(found, ProbeError::Check(*error), "{parts:?}: {detail}");
        assert!(detail.contains(words), "{detail}");
    }
    let server = agent(&[b"up, as far as I can"], false);
    let (found, detail) = failed(ask(&prober, &server.addr.to_string(), &by_agent(0), SHORT).await);
    assert_eq!(found, ProbeError::Check(CheckError::AnswerTimedOut), "{detail}");
    assert_eq!(detail, "the agent: no answer within 200ms");
}

#[tokio::test]
async fn an_agent_is_sent_what_it_wants_to_hear() {
    let server = Server::start(fresh_addr(), |_, mut stream| {
        let mut said = [0; 10];
        stream.read_exact(&mut said)?;
        stream.write_all(if said == *b"orders/pg\n" { b"ready\n" } else { b"down#who?\n" })
    });
    let prober = Prober::new(Clock::start(), Ways::default());
    let kind = CheckKind::Agent(AgentCheck { port: 0, send: "orders/pg\n".to_owned() });
    let advice = passed(ask(&prober, &server.addr.to_string(), &kind, PATIENT).await);
    assert_eq!(advice.admin, Some(AdminState::Ready));
}

#[tokio::test]
async fn an_agent_at_a_port_of_its_own_speaks_only_for_a_backend_that_accepts() {
    let ip = fresh_ip();
    let own = listen(SocketAddr::new(ip, 0));
    let side = Server::start(SocketAddr::new(ip, 0), |_, mut stream| stream.write_all(b"75%\n"));
    let (address, port) = (own.local_addr().unwrap().to_string(), side.addr.port());
    let prober = Prober::new(Clock::start(), Ways::default());
    assert_eq!(passed(ask(&prober, &address, &by_agent(port), PATIENT).await).weight, Some(75));
    drop(side);
    let (error, detail) = failed(ask(&prober, &address, &by_agent(port), PATIENT).await);
    assert_eq!(error, ProbeError::Check(CheckError::SourceRefused), "{detail}");
    assert!(detail.starts_with(&format!("connecting to {ip}:{port}: ")), "{detail}");
    stop_listening(&own);
    let (error, detail) = failed(ask(&prober, &address, &by_agent(port), PATIENT).await);
    assert_eq!(error, ProbeError::Dial(DialError::Refused), "{detail}");
}

#[tokio::test]
async fn an_agent_may_speak_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    // It may be asked more than once.
    std::thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|mut stream| drop(stream.write_all(b"drain\n")))
    });
    let prober = Prober::new(Clock::start(), Ways::default());
    let advice = passed(ask(&prober, &format!("unix:{}", path.display()), &by_agent(0), PATIENT).await);
    assert_eq!(advice.admin, Some(AdminState::Drain));
}

#[tokio::test]
async fn nothing_is_asked_of_a_backend_without_a_check() {
    let prober = Prober::new(Clock::start(), Ways::default());
    let advice = passed(ask(&prober, &fresh_addr().to_string(), &CheckKind::None, PATIENT).await);
    assert_eq!(advice, Advice::default());
}

// What a backend says.

/// An answer, in the writes that it comes in.
type Parts = &'static [&'static [u8]];

fn by_answer(send: &str, answer: &str) -> CheckKind {
    CheckKind::Expect(ExpectCheck { send: send.to_owned(), answer: answer.to_owned() })
}

/// Answers each message of `asked` bytes with `parts`, in writes of their own, and ends it if told so.
fn answering(asked: usize, parts: Parts, ends: bool) -> Server {
    Server::start(fresh_addr(), move |_, mut stream| {
        stream.set_nodelay(true)?;
        stream.read_exact(&mut vec![0; asked])?;
        for part in parts {
            stream.write_all(part)?;
        }
        if !ends {
            std::io::copy(&mut stream, &mut std::io::sink())?;
        }
        Ok(())
    })
}

#[tokio::test]
async fn what_a_backend_answers_has_to_begin_as_expected() {
    let prober = Prober::new(Clock::start(), Ways::default());
    let cases: &[(&str, &str, Parts, bool)] = &[
        ("PING\r\n", "+PONG", &[b"+PONG\r\n"], false),
        ("PING\r\n", "+PONG", &[b"+", b"PO", b"NG"], true),
        ("", "SSH-2.0", &[b"SSH-2.0-x\r\n"], false),
        ("", "", &[b"\0"], false),
        ("a", "", &[b"b"], false),
    ];
    for (send, answer, parts, ends) in cases {
        let server = answering(send.len(), parts, *ends);
        passed(ask(&prober, &server.addr.to_string(), &by_answer(send, answer), PATIENT).await);
    }
    let cases: &[(&str, Parts, bool, CheckError, &str)] = &[
        ("+PONG", &[b"-ERR no\x1b\r\n"], false, CheckError::UnexpectedAnswer, "answered with `-ERR no\\u{1b}\\r\\n`"),
        ("+PONG", &[b"+P", b"x"], false, CheckError::UnexpectedAnswer, "answered with `+P"),
        ("+PONG", &[b"AUTH hunter2"], false, CheckError::UnexpectedAnswer, "answered with what it was sent"),
        ("+PONG", &[b"+PO"], true, CheckError::ClosedEarly, "of which 3 bytes had come: it ended"),
        ("", &[], true, CheckError::ClosedEarly, "before the end of its answer: it ended"),
    ];
    for (answer, parts, ends, error, words) in cases {
        let server = answering(14, parts, *ends);
        let kind = by_answer("AUTH hunter2\r\n", answer);
        let (found, detail) = failed(ask(&prober, &server.addr.to_string(), &kind, PATIENT).await);
        assert_eq!(found, ProbeError::Check(*error), "{parts:?}: {detail}");
        assert!(detail.contains(words) && !detail.contains("hunter2"), "{detail}");
        assert!(!format!("{kind:?}").contains("hunter2"));
    }
    let silent = answering(1, &[b"+PO"], false);
    let (found, detail) = failed(ask(&prober, &silent.addr.to_string(), &by_answer("x", "+PONG"), SHORT).await);
    assert_eq!(found, ProbeError::Check(CheckError::AnswerTimedOut));
    assert_eq!(detail, "the answer to what it was sent: no answer within 200ms");
    let (found, _) = failed(ask(&prober, &fresh_addr().to_string(), &by_answer("", ""), PATIENT).await);
    assert_eq!(found, ProbeError::Dial(DialError::Refused));
}

/// Reads the first message of a handshake as a server would, and answers with `answer`. Says by which name it was asked.
fn tls_server(answer: &'static [u8]) -> (Server, Arc<Mutex<Option<String>>>) {
    let asked = Arc::<Mutex<Option<String>>>::default();
    let kept = Arc::clone(&asked);
    let server = Server::start(fresh_addr(), move |_, mut stream| {
        let mut acceptor = rustls::server::Acceptor::default();
        let accepted = loop {
            acceptor.read_tls(&mut stream)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => break accepted,
                Ok(None) => {}
                Err((error, _)) => return Err(std::io::Error::other(error)),
            }
        };
        *kept.lock().unwrap() = accepted.client_hello().server_name().map(str::to_owned);
        stream.write_all(answer)?;
        std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
    });
    (server, asked)
}

#[tokio::test]
async fn whoever_answers_a_tls_handshake_speaks_tls_whatever_they_say() {
    let prober = Prober::new(Clock::start(), Ways::default());
    for answer in [b"\x16\x03\x03\0\x7a\x02".as_slice(), b"\x15\x03\x01\0\x02\x02\x28"] {
        let (server, asked) = tls_server(answer);
        passed(ask(&prober, &server.addr.to_string(), &CheckKind::Tls, PATIENT).await);
        assert_eq!(*asked.lock().unwrap(), None, "an address is no name");
        let named = format!("localhost:{}", server.addr.port());
        let (ways, via) = (Ways::default(), via(Attach::Address, "db.internal:5432"));
        ways.open(&via, Address::Ip(server.addr));
        let approach = Approach { via: Some(via), ..Approach::PLAIN };
        passed(ask_as(&Prober::new(Clock::start(), ways), &named, &CheckKind::Tls, PATIENT, &approach).await);
        assert_eq!(asked.lock().unwrap().as_deref(), Some("db.internal"), "the target's name is asked for");
    }
    for (answer, error, words) in [
        (b"HTTP/1.1 400 Bad Request\r\n".as_slice(), CheckError::Malformed, "answered with `HTTP/`: this is no TLS"),
        (b"\x16\x04\0\0\0", CheckError::Malformed, "this is no TLS"),
    ] {
        let (server, _) = tls_server(answer);
        let (found, detail) = failed(ask(&prober, &server.addr.to_string(), &CheckKind::Tls, PATIENT).await);
        assert_eq!(found, ProbeError::Check(error));
        assert!(detail.contains(words), "{detail}");
    }
    let ends = answering(1, &[b"\x16\x03"], true);
    let (found, detail) = failed(ask(&prober, &ends.addr.to_string(), &CheckKind::Tls, PATIENT).await);
    assert_eq!(found, ProbeError::Check(CheckError::ClosedEarly), "{detail}");
    let (silent, _) = tls_server(b"\x16");
    let (found, detail) = failed(ask(&prober, &silent.addr.to_string(), &CheckKind::Tls, SHORT).await);
    assert_eq!(
        (found, detail.as_str()),
        (ProbeError::Check(CheckError::AnswerTimedOut), "TLS: no answer within 200ms")
    );
}

// Through tunnels.

fn via(attach: Attach, target: &str) -> Arc<Via> {
    let (pool, backend) = (PoolName::from("orders"), BackendName::from("pg1"));
    Arc::new(Via { pool, backend, attach, target: target.parse().unwrap() })
}

#[tokio::test]
async fn a_tunnel_that_lets_in_and_closes_at_once_passes_no_tcp_check() {
    let (ways, via) = (Ways::default(), via(Attach::Listen, "db.internal:5432"));
    let approach = Approach { via: Some(Arc::clone(&via)), ..Approach::PLAIN };
    let prober = Prober::new(Clock::start(), ways.clone());
    let asked = async |server: &Server, limit| {
        ways.open(&via, Address::Ip(server.addr));
        ask_as(&prober, "db.internal:5432", &CheckKind::Tcp, limit, &approach).await
    };
    // Takes the connection, and finds out only then that nobody is at its far end.
    let refused = Server::start(fresh_addr(), |_, stream| {
        drop(stream);
        Ok(())
    });
    let reset =
        Server::start(fresh_addr(), |_, stream| socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
    for (server, why) in [(&refused, "it ended"), (&reset, "reset by peer")] {
        let (error, detail) = failed(asked(server, PATIENT).await);
        assert_eq!(error, ProbeError::Check(CheckError::ClosedEarly), "{detail}");
        assert!(error.is_of_target() && detail.contains(why), "{detail}");
        // A backend that is not behind a tunnel only has to accept.
        passed(ask(&prober, &server.addr.to_string(), &CheckKind::Tcp, PATIENT).await);
    }
    let silent =
        Server::start(fresh_addr(), |_, mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop));
    let speaks = answering(0, &[b"220 hello\r\n"], false);
    for limit in [PATIENT, TUNNEL_OPEN_FOR / 3] {
        for server in [&silent, &speaks] {
            let ProbeOutcome::Passed { latency, .. } = asked(server, limit).await else { panic!("it is open") };
            assert!(latency < TUNNEL_OPEN_FOR, "that it stayed open is no latency: {latency:?}");
        }
    }
    ways.shut(&via);
    let shut = ask_as(&prober, "db.internal:5432", &CheckKind::Tcp, PATIENT, &approach).await;
    let (error, detail) = failed(shut);
    assert_eq!(error, ProbeError::Dial(DialError::TunnelDown));
    assert!(!error.is_of_target());
    assert_eq!(detail, "connecting to db.internal:5432: its tunnel is down");
}

#[tokio::test]
async fn a_check_in_a_protocol_goes_through_a_tunnel_to_its_answer() {
    let (ways, via) = (Ways::default(), via(Attach::Listen, "db.internal:5432"));
    let approach = Approach { via: Some(Arc::clone(&via)), ..Approach::PLAIN };
    let prober = Prober::new(Clock::start(), ways.clone());
    let server = answering(6, &[b"+PONG\r\n"], false);
    ways.open(&via, Address::Ip(server.addr));
    let kind = by_answer("PING\r\n", "+PONG");
    passed(ask_as(&prober, "db.internal:5432", &kind, PATIENT, &approach).await);
    // The agent's port is no port of the tunnel's: the way is asked all the same.
    let agent = agent(&[b"75%\n"], false);
    ways.open(&via, Address::Ip(agent.addr));
    assert_eq!(passed(ask_as(&prober, "db.internal:5432", &by_agent(1), PATIENT, &approach).await).weight, Some(75));
}

// Programs.

/// An executable in `dir`. A process of its own writes it: where this one has a file open for writing while another
/// test forks, the child has it too for a moment, and the kernel does not run what is being written.
fn script(dir: &TempDir, name: &str, body: &str) -> PathBuf {
    let path = dir.path().join(name);
    let mut writer = Command::new("/bin/sh");
    writer.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(&path);
    let ended = run_reading(&mut writer, &format!("#!/bin/sh\n{body}\n"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    path
}

fn by_command(program: &Path, arguments: &[&str]) -> CheckKind {
    let program = Argument::Shown(program.to_str().unwrap().to_owned());
    let arguments = arguments.iter().map(|text| Argument::Shown((*text).to_owned()));
    let argv = std::iter::once(program).chain(arguments).collect();
    CheckKind::Command(CommandCheck { argv, pool: PoolName::from("orders"), backend: BackendName::from("pg1") })
}

/// Lets other tasks run until `condition` is true.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let others = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    in_time(what, others).await;
}

/// The state of a process as /proc has it; none once it is gone.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until a process is killed. One that has lost its parent may stay as a zombie for as long as the container's
/// first process does not look after it.
#[track_caller]
fn wait_gone(pid: u32) {
    wait_until(&format!("process {pid} is gone"), DEADLINE, || matches!(state(pid), None | Some('Z')));
}

/// The number that a script has written to `path`, with the end of its line.
fn pid_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()
}

/// Children of this process that have ended and were not waited for.
fn zombies() -> usize {
    let own = std::process::id().to_string();
    let stats =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
            fields.next() == Some("Z") && fields.next() == Some(&own)
        })
        .count()
}

#[tokio::test]
async fn how_a_program_ends_is_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let prober = Prober::new(Clock::start(), Ways::default());
    let program = script(&dir, "check", "eval \"$1\"");
    let name = program.display().to_string();
    for body in ["exit 0", "echo bad news; exit 0", "seq 1 100000"] {
        assert_eq!(passed(ask(&prober, "a:1", &by_command(&program, &[body]), PATIENT).await), Advice::default());
    }
    for (body, words) in [
        ("exit 3", "exit status: 3".to_owned()),
        ("echo; echo ' lag 5 GB '; echo more; exit 1", "exit status: 1: lag 5 GB".to_owned()),
        ("echo to standard error >&2; exit 2", "exit status: 2: to standard error".to_owned()),
        ("printf 'a\\033[2Jb\\007'; exit 1", "exit status: 1: a\\u{1b}[2Jb\\u{7}".to_owned()),
        ("kill -9 $$", "signal: 9 (SIGKILL)".to_owned()),
        ("kill -TERM $$", "signal: 15 (SIGTERM)".to_owned()),
        ("seq 1 100000; exit 4", "exit status: 4: 1".to_owned()),
        ("head -c 5000 /dev/zero | tr '\\0' x; exit 5", format!("exit status: 5: {}", "x".repeat(512))),
    ] {
        let (error, detail) = failed(ask(&prober, "a:1", &by_command(&program, &[body]), PATIENT).await);
        assert_eq!(error, ProbeError::Check(CheckError::CommandFailed), "{body}");
        assert_eq!(detail, format!("{name}: {words}"));
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_a_failed_check_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let prober = Prober::new(Clock::start(), Ways::default());
    let plain = script(&dir, "plain", "exit 0");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    for (path, why) in [
        (dir.path().join("none"), "No such file or directory"),
        (plain, "Permission denied"),
        (dir.path().to_owned(), "Permission denied"),
    ] {
        let (error, detail) = failed(ask(&prober, "a:1", &by_command(&path, &[]), PATIENT).await);
        assert_eq!(error, ProbeError::Check(CheckError::CommandFailed), "{detail}");
        assert!(detail.starts_with(&format!("{}: cannot be started: {why}", path.display())), "{detail}");
    }
}

#[tokio::test]
async fn a_program_gets_its_arguments_as_they_are_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let prober = Prober::new(Clock::start(), Ways::default());
    let body = r#"exec > "$1"; shift; for a in "$@"; do echo "<$a>"; done; env | sort; pwd; cat; ls /proc/self/fd"#;
    let (program, told) = (script(&dir, "check", body), dir.path().join("told"));
    let arguments = [told.to_str().unwrap(), "a b", "$(exit 1)", "`x`;'\"", "", "*"];
    passed(ask(&prober, "[::1]:5432", &by_command(&program, &arguments), PATIENT).await);
    let told = fs::read_to_string(&told).unwrap();
    let mut lines = told.lines();
    for argument in ["a b", "$(exit 1)", "`x`;'\"", "", "*"] {
        assert_eq!(lines.next(), Some(format!("<{argument}>").as_str()), "{told}");
    }
    let named = |name: &str| Some(format!("{name}={}", std::env::var(name).ok()?));
    let mut wanted: Vec<String> = ["HOME", "LANG", "PATH"].iter().filter_map(|name| named(name)).collect();
    wanted.extend(
        ["ADDRESS=[::1]:5432", "BACKEND=pg1", "HOST=::1", "POOL=orders", "PORT=5432"]
            .map(|set| format!("CHANGEOVER_{set}")),
    );
    // The shell's own.
    wanted.push("PWD=/".to_owned());
    let (variables, rest): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains('='));
    // The shell's own as well; only some have them.
    let variables: Vec<&str> = variables.into_iter().filter(|line| !line.starts_with(['_', 'S', 'O'])).collect();
    wanted.sort();
    assert_eq!(variables, wanted);
    // In the root directory, with nothing to read, and with no descriptor but the three and that of `ls` itself. The
    // shell has the script at 10, and what this process has inherited itself stands above that.
    let rest: Vec<&str> = rest.into_iter().filter(|line| line.len() < 2).collect();
    assert_eq!(rest, ["/", "0", "1", "2", "3"], "{told}");
}

#[tokio::test]
async fn a_program_that_is_late_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let prober = Prober::new(Clock::start(), Ways::default());
    let body = "trap '' TERM HUP INT\nsleep 1000 &\necho $! > \"$1\"\nwait";
    let (program, child) = (script(&dir, "check", body), dir.path().join("child"));
    let kind = by_command(&program, &[child.to_str().unwrap()]);
    // However short it is: what counts is the one that got as far as to have a child.
    for _ in 0..100 {
        let (error, detail) = failed(ask(&prober, "a:1", &kind, SHORT).await);
        assert_eq!(error, ProbeError::Check(CheckError::AnswerTimedOut));
        assert_eq!(detail, format!("{}: not finished within 200ms, killed", program.display()));
        if pid_in(&child).is_some() {
            break;
        }
    }
    wait_gone(pid_in(&child).expect("one of a hundred gets as far"));
    wait_until("there is no zombie", DEADLINE, || zombies() == 0);
}

#[tokio::test]
async fn a_program_that_is_not_wanted_any_more_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let prober = Prober::new(Clock::start(), Ways::default());
    let body = "sleep 1000 &\necho $! > \"$1.new\"\nmv \"$1.new\" \"$1\"\nwait";
    let (program, child) = (script(&dir, "check", body), dir.path().join("child"));
    let kind = by_command(&program, &[child.to_str().unwrap()]);
    let asking = tokio::spawn(async move { ask(&prober, "a:1", &kind, Duration::from_secs(3600)).await });
    // The task has to run in order to ask.
    until("the program runs", || pid_in(&child).is_some()).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    wait_gone(pid_in(&child).unwrap());
    wait_until("there is no zombie", DEADLINE, || zombies() == 0);
}

#[tokio::test]
async fn what_a_program_leaves_behind_delays_no_verdict_and_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let prober = Prober::new(Clock::start(), Ways::default());
    // It inherits the pipe, and would hold it for longer than anybody waits.
    let body = "sleep 1000 &\necho $! > \"$1\"\necho left behind\nexit $2";
    let (program, child) = (script(&dir, "check", body), dir.path().join("child"));
    let verdict = async |code: &str| {
        let kind = by_command(&program, &[child.to_str().unwrap(), code]);
        in_time("there is a verdict", ask(&prober, "a:1", &kind, Duration::from_secs(900))).await
    };
    passed(verdict("0").await);
    wait_gone(pid_in(&child).unwrap());
    let (_, detail) = failed(verdict("7").await);
    assert_eq!(detail, format!("{}: exit status: 7: left behind", program.display()));
    wait_gone(pid_in(&child).unwrap());
}

#[tokio::test]
async fn two_hundred_programs_take_turns_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let prober = Prober::new(Clock::start(), Ways::default());
    let running = dir.path().join("running");
    fs::create_dir(&running).unwrap();
    let body = "mkdir \"$1/$$\" && ls \"$1\" | wc -l >> \"$2\" && rmdir \"$1/$$\"";
    let (program, counts) = (script(&dir, "check", body), dir.path().join("counts"));
    let kind = Arc::new(by_command(&program, &[running.to_str().unwrap(), counts.to_str().unwrap()]));
    let mut all = JoinSet::new();
    for _ in 0..200 {
        let (prober, kind) = (prober.clone(), Arc::clone(&kind));
        all.spawn(async move { ask(&prober, "a:1", &kind, PATIENT).await });
    }
    for outcome in all.join_all().await {
        passed(outcome);
    }
    let counts = fs::read_to_string(&counts).unwrap();
    let counts: Vec<usize> = counts.lines().map(|line| line.trim().parse().unwrap()).collect();
    println!("at most {:?} at once", counts.iter().max());
    assert_eq!(counts.len(), 200);
    assert!(counts.iter().all(|count| (1..=32).contains(count)), "{counts:?}");
    wait_until("there is no zombie", DEADLINE, || zombies() == 0);
}

#[tokio::test]
async fn a_program_whose_turn_does_not_come_has_found_out_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let prober = Prober::new(Clock::start(), Ways::default());
    let (program, there) = (script(&dir, "check", "echo > \"$1/$$\"; exec sleep 1000"), dir.path().join("there"));
    fs::create_dir(&there).unwrap();
    let kind = Arc::new(by_command(&program, &[there.to_str().unwrap()]));
    let mut all = JoinSet::new();
    for _ in 0..32 {
        let (prober, kind) = (prober.clone(), Arc::clone(&kind));
        all.spawn(async move { ask(&prober, "a:1", &kind, Duration::from_secs(3600)).await });
    }
    until("as many run as may", || fs::read_dir(&there).unwrap().count() == 32).await;
    let quick = by_command(&script(&dir, "quick", "exit 0"), &[]);
    let outcome = ask(&prober, "a:1", &quick, SHORT).await;
    let ProbeOutcome::Inconclusive { detail, .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(detail, "as many check commands as may be were running for 200ms");
    // Others are asked meanwhile.
    let server = agent(&[b"up\n"], false);
    passed(ask(&prober, &server.addr.to_string(), &by_agent(0), PATIENT).await);
    all.shutdown().await;
    passed(ask(&prober, "a:1", &quick, PATIENT).await);
}

// The daemon.

#[test]
fn a_program_takes_a_backend_out_and_brings_it_back() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let dir = tempfile::tempdir().unwrap();
    let body = "test \"$CHANGEOVER_BACKEND\" = \"$2\" || exit 9\ntest ! -e \"$1/$2\" || { cat \"$1/$2\"; exit 1; }";
    let program = script(&dir, "check", body);
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders.check]\nkind = \"command\"\n\
         interval = \"50ms\"\ncommand = [\"{}\", \"{}\", \"{{backend}}\"]\n\
         [pools.orders.failover]\nfailback_after = \"0s\"\n{}{}",
        program.display(),
        dir.path().display(),
        a.toml("orders", 1),
        b.toml("orders", 2),
    ));
    let (mut session, name) = meet(daemon.listener("orders")).expect("served");
    assert_eq!(name, "a");
    fs::write(dir.path().join("a"), "replica is broken\n").unwrap();
    daemon.wait_health("orders", "a", "unhealthy");
    let out = daemon.backend("orders", "a");
    let words = format!("{}: exit status: 1: replica is broken", program.display());
    assert!(out["last_error"].as_str().unwrap().contains(&words), "{out}");
    assert!(out["reason"].as_str().unwrap().contains("check"), "{out}");
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "b");
    echo(&mut session, b"a failing source of health cuts off nobody").expect("echoed");
    fs::remove_file(dir.path().join("a")).unwrap();
    daemon.wait_active("orders", "a");
}

#[test]
fn an_agent_takes_a_backend_out_and_brings_it_back() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let is_down = Arc::new(AtomicBool::new(false));
    let look = Arc::clone(&is_down);
    let side = Server::start(SocketAddr::new(a.addr.ip(), 0), move |_, mut stream| {
        stream.write_all(if look.load(Ordering::SeqCst) { b"stopped # for the night\n" } else { b"up\n" })
    });
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.failover]\nfailback_after = \"0s\"\n\
         {}check = {{ kind = \"agent\", interval = \"50ms\", agent = {{ port = {} }} }}\n{}",
        a.toml("orders", 1),
        side.addr.port(),
        b.toml("orders", 2),
    ));
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
    is_down.store(true, Ordering::SeqCst);
    daemon.wait_health("orders", "a", "unhealthy");
    let out = daemon.backend("orders", "a");
    assert!(out["last_error"].as_str().unwrap().contains("stopped: for the night"), "{out}");
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "b");
    is_down.store(false, Ordering::SeqCst);
    daemon.wait_active("orders", "a");
}

#[test]
fn a_backend_without_a_check_is_fit_from_the_start() {
    let absent = Backend::absent("a");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders.check]\nkind = \"none\"\n{}",
        absent.toml("orders", 1)
    ));
    assert_eq!(daemon.backend("orders", "a")["health"], "healthy");
}

#[test]
fn a_daemon_that_ends_leaves_no_program_behind_and_one_that_inherits_no_children_sees_them_end() {
    let a = Backend::start("a");
    let dir = tempfile::tempdir().unwrap();
    // The first run gives the verdict, the second one stays.
    let body =
        "mkdir \"$1/first\" 2>&- && exit 0\necho $$ > \"$1/pid.new\"\nmv \"$1/pid.new\" \"$1/pid\"\nexec sleep 1000";
    let program = script(&dir, "check", body);
    let config = format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders.check]\nkind = \"command\"\n\
         interval = \"50ms\"\ntimeout = \"1h\"\ncommand = [\"{}\", \"{}\"]\n{}",
        program.display(),
        dir.path().display(),
        a.toml("orders", 1),
    );
    // Whoever started it did not want to hear of its own children, and that is inherited.
    let mut daemon = Daemon::start_deaf_to_children(&config);
    let pid = wait_for("the second run has begun", DEADLINE, || pid_in(&dir.path().join("pid")));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    wait_gone(pid);
}
