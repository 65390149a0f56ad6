//! The hands of tunnels with a program that does whatever tunnels' programs do: what is told, and what is left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use changeover::model::{
    Approach, Attach, LookupPlan, LookupSource, Part, ProgramPlan, RunEnd, Text, TunnelNews, TunnelPlan,
};
use changeover::sys::{Launch, process};
use support::fake_tunnel;
use support::process::{Guarded, lines, run};
use support::tunnels::{Rig, bare, fake, of, with_secret};
use support::{DEADLINE, in_time, wait_for, wait_until};

/// An address to which nothing is forwarded that anybody sends.
const NOWHERE: &str = "127.0.0.1:9";

#[test]
fn the_fake_tunnel_does_as_it_is_told() {
    fake_tunnel::act(|_| starved());
}

/// A name for the processes of one test.
fn id(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn one(mode: &str, name: &str) -> (Rig, Arc<TunnelPlan>, String) {
    let id = id(name);
    (Rig::start(None, None), Arc::new(fake(1, mode, &id, NOWHERE)), id)
}

fn shell(script: &str) -> ProgramPlan {
    let word = |text: &str| Text(vec![Part::Shown(text.into())]);
    ProgramPlan { argv: vec![word("sh"), word("-c"), word(script)], env: Vec::new(), file: None }
}

#[test]
fn a_tunnel_is_open_when_its_port_is_and_leads_where_it_should() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let id = id("leads");
    let mut rig = Rig::start(None, None);
    rig.begin(1, 7, &Arc::new(fake(1, "slow", &id, &target.local_addr().unwrap().to_string())));
    let pid = rig.started();
    assert_eq!(of(&id), [pid]);
    let at = rig.open(1).to_string();
    let mut client = TcpStream::connect(&at).unwrap();
    client.write_all(b"hello").unwrap();
    let mut server = target.accept().unwrap().0;
    let mut said = [0; 5];
    server.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    rig.stop(1);
    let (how, detail) = rig.ended();
    assert_eq!(how, RunEnd::Stopped);
    assert!(detail.contains("SIGTERM"), "{detail}");
    assert_eq!(rig.doors.at(1), None);
    assert_eq!(of(&id), [] as [u32; 0]);
    assert!(TcpListener::bind(&at).is_ok(), "nobody has the port when the end is told");
}

#[test]
fn nobody_connects_to_find_out_whether_a_port_is_open() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let id = id("unseen");
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(fake(1, "forward", &id, &target.local_addr().unwrap().to_string())));
    rig.started();
    rig.open(1);
    assert!(target.accept().is_err(), "the far end has seen nothing");
}

#[test]
fn whatever_is_behind_an_open_port_is_not_for_the_hands_to_judge() {
    for mode in ["bind-only", "accept-close", "accept-hang"] {
        let (mut rig, plan, id) = one(mode, mode);
        rig.begin(1, 1, &plan);
        rig.started();
        let at = rig.open(1);
        assert!(TcpStream::connect(at.to_string()).is_ok(), "{mode}");
        rig.stop(1);
        assert_eq!(rig.ended().0, RunEnd::Stopped, "{mode}");
        assert_eq!(of(&id), [] as [u32; 0], "{mode}");
    }
}

#[test]
fn an_end_that_nobody_asked_for_is_told_with_its_code_and_the_last_words() {
    for (mode, code) in [("exit-3", 3), ("exit-0", 0)] {
        let (mut rig, plan, _) = one(mode, mode);
        rig.begin(1, 1, &plan);
        rig.started();
        let (how, detail) = rig.ended();
        assert_eq!(how, RunEnd::Exited);
        assert_eq!(detail, format!("exit status: {code}; it said last: I have had enough"));
        let said = rig.said(1);
        assert!(said.first().unwrap().starts_with("started with pid "), "{said:?}");
        assert!(said.contains(&"I have had enough".to_owned()), "{said:?}");
        assert!(said.last().unwrap().starts_with("ended: exit status"), "{said:?}");
    }
}

#[test]
fn a_program_that_does_not_end_when_asked_is_killed_after_its_grace() {
    let id = id("stubborn");
    let grace = Duration::from_millis(200);
    let plan = TunnelPlan { stop_grace: grace, ..fake(1, "ignore-term", &id, NOWHERE) };
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(plan));
    rig.started();
    rig.open(1);
    let start = Instant::now();
    rig.stop(1);
    let (how, detail) = rig.ended();
    assert_eq!(how, RunEnd::Stopped);
    assert!(detail.contains("SIGKILL"), "{detail}");
    assert!(start.elapsed() >= grace);
    assert_eq!(of(&id), [] as [u32; 0]);
}

#[test]
fn a_program_is_asked_once_to_end() {
    let (mut rig, plan, id) = one("impatient", "impatient");
    rig.begin(1, 1, &plan);
    rig.started();
    rig.open(1);
    rig.stop(1);
    let (how, detail) = rig.ended();
    assert_eq!(how, RunEnd::Stopped);
    assert!(detail.starts_with("exit status: 0;"), "{detail}");
    assert_eq!(of(&id), [] as [u32; 0]);
}

#[test]
fn a_port_that_a_grandchild_holds_is_the_runs_and_free_at_its_end() {
    for mode in ["grandchild", "daemonized"] {
        let id = id(mode);
        // The one that left its group does not heed what it is asked.
        let plan = TunnelPlan { stop_grace: Duration::from_millis(300), ..fake(1, mode, &id, NOWHERE) };
        let mut rig = Rig::start(None, None);
        rig.begin(1, 1, &Arc::new(plan));
        rig.started();
        let at = rig.open(1).to_string();
        assert!(of(&id).len() >= 2, "{mode}");
        rig.stop(1);
        assert_eq!(rig.ended().0, RunEnd::Stopped);
        assert_eq!(of(&id), [] as [u32; 0], "{mode}");
        assert!(TcpListener::bind(&at).is_ok(), "{mode}");
    }
}

#[test]
fn what_a_program_leaves_when_it_ends_by_itself_is_killed_before_its_end_is_told() {
    let (mut rig, plan, id) = one("grandchild-left", "left");
    rig.begin(1, 1, &plan);
    rig.started();
    let mut next = rig.next();
    while matches!(next, TunnelNews::Open | TunnelNews::Lost { .. }) {
        next = rig.next();
    }
    assert!(matches!(next, TunnelNews::Ended { how: RunEnd::Exited, .. }), "{next:?}");
    assert_eq!(of(&id), [] as [u32; 0]);
}

#[test]
fn a_flood_holds_up_nobody_and_the_last_of_it_is_kept() {
    let (mut rig, plan, _) = one("flood", "flood");
    rig.begin(1, 1, &plan);
    rig.started();
    rig.open(1);
    wait_until("all of it is read", DEADLINE, || rig.said(1).last().is_some_and(|line| line == "flooded"));
    let said = rig.said(1);
    assert!(said.len() > 100 && said.iter().map(String::len).sum::<usize>() <= changeover::tunnel::BYTES_MAX);
}

#[test]
fn a_line_that_says_it_will_never_work_is_told_once() {
    let id = id("fatal");
    let plan = TunnelPlan { fatal: vec!["Permission denied".into()], ..fake(1, "fatal", &id, NOWHERE) };
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(plan));
    rig.started();
    assert_eq!(rig.next(), TunnelNews::Fatal { line: "tun@bastion: Permission denied (publickey).".to_owned() });
    rig.stop(1);
    assert_eq!(rig.ended().0, RunEnd::Stopped);
}

#[test]
fn no_secret_of_a_tunnel_is_ever_told() {
    let (id, secret) = (id("secrets"), "s3cr/t\"x");
    let plan = TunnelPlan { fatal: vec!["fatal:".into()], ..fake(1, "secrets", &id, NOWHERE) };
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(with_secret(plan, secret)));
    rig.started();
    let mut told = rig.next();
    // Its end may be seen before its last words.
    if matches!(told, TunnelNews::Lost { .. }) {
        told = rig.next();
    }
    assert_eq!(told, TunnelNews::Fatal { line: "fatal: [not shown] is wrong".to_owned() });
    let (_, detail) = rig.ended();
    assert!(detail.ends_with("it said last: fatal: [not shown] is wrong"), "{detail}");
    let said = rig.said(1).join("\n");
    assert!(said.contains("token [not shown] and \"[not shown]\" and k="), "{said}");
    assert!(!said.contains("s3cr"), "{said}");
}

#[test]
fn no_secret_is_told_of_a_tunnel_whose_connections_are_programs() {
    const SECRET: &str = "s3cret/of/many/characters";
    let say = r#"red=$(printf '\033[31m') plain=$(printf '\033[0m')
        printf "${red}fa${plain}tal: $FAKE_SECRET is wrong\n" >&2
        printf "%01010d$FAKE_SECRET is in what was too long\n" 0 >&2"#;
    let program = Some(Arc::new(shell(say)));
    let plan = TunnelPlan { program, fatal: vec!["fatal:".into()], ..bare(1, Attach::Stdio) };
    let plan = Arc::new(with_secret(plan, SECRET));
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &plan);
    let at = rig.open(1);
    let approach = Approach { via: Some(Arc::clone(&plan.via)), ..Approach::PLAIN };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connection = async {
        let stream = rig.doors.ways.dial(&at, DEADLINE, &approach).await.unwrap();
        stream.receive(&mut [0; 1]).await.unwrap()
    };
    assert_eq!(runtime.block_on(in_time("its end", connection)), 0);
    assert_eq!(rig.next(), TunnelNews::Fatal { line: "fatal: [not shown] is wrong".to_owned() });
    let said = rig.said(1);
    assert_eq!(said, ["fatal: [not shown] is wrong", &format!("{}[not shown]…", "0".repeat(1010))]);
}

#[test]
fn a_program_that_closes_its_output_runs_on() {
    let (mut rig, plan, _) = one("close-stdout", "closes");
    rig.begin(1, 1, &plan);
    let pid = rig.started();
    rig.open(1);
    assert!(process(pid).is_some_and(|process| !process.is_zombie));
}

#[test]
fn a_text_says_that_the_way_is_open_where_a_plan_says_so() {
    let id = id("text");
    let plan = TunnelPlan { ready: Some("Connected".into()), ..fake(1, "ready-text", &id, NOWHERE) };
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(plan));
    rig.started();
    rig.open(1);
    assert!(rig.said(1).contains(&"Connected (Latency 3ms)".to_owned()));
}

#[test]
fn what_cannot_be_started_says_so_and_why() {
    let mut rig = Rig::start(None, None);
    let word = |text: &str| Text(vec![Part::Shown(text.into())]);
    let program = ProgramPlan { argv: vec![word("no-such-tunnel")], env: Vec::new(), file: None };
    rig.begin(1, 1, &Arc::new(TunnelPlan { program: Some(Arc::new(program)), ..bare(1, Attach::Listen) }));
    let (how, detail) = rig.ended();
    assert_eq!(how, RunEnd::NotStarted);
    assert!(detail.starts_with("`no-such-tunnel` cannot be started: No such file"), "{detail}");
}

/// Holds a file so that whoever opens it waits, as on a disk that does not answer; until it is killed, or for the 45 s that
/// the kernel allows.
const HOLDS: &str = "
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDONLY)
signal.signal(signal.SIGIO, lambda *_: print('awaited', flush=True))
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
while True: signal.pause()
";

/// A file that nobody else can open, and who holds it; none, which is printed, where that is not to be had for long enough.
fn held_file() -> Option<(tempfile::TempDir, std::path::PathBuf, Guarded, std::sync::mpsc::Receiver<String>)> {
    let skipped = |why: &str| {
        println!("skipped: {why}");
        None
    };
    let time = std::fs::read_to_string("/proc/sys/fs/lease-break-time").ok()?;
    if time.trim().parse::<u32>().is_ok_and(|seconds| seconds < 45) {
        return skipped("leases are broken too early here");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("slow");
    std::fs::copy("/bin/sleep", &file).unwrap();
    let mut holder = Command::new("python3");
    holder.args(["-c", HOLDS]).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
    let Ok(holder) = holder.spawn() else { return skipped("there is no python3") };
    let mut holder = Guarded(holder);
    let said = lines(holder.0.stdout.take().unwrap());
    if !said.recv_timeout(DEADLINE).is_ok_and(|line| line == "held") {
        return skipped("the file system gives no leases");
    }
    Some((dir, file, holder, said))
}

#[test]
fn a_program_that_cannot_be_read_holds_up_no_stop_and_whoever_waits_for_it_is_told() {
    let Some((_dir, file, mut holder, said)) = held_file() else { return };
    let (mut rig, plan, id) = one("forward", "behind");
    let word = |text: &str| Text(vec![Part::Shown(text.into())]);
    let argv = vec![word(file.to_str().unwrap()), word("1000")];
    let slow = Arc::new(ProgramPlan { argv, ..plan.program.as_deref().unwrap().clone() });
    let slow = Arc::new(TunnelPlan { program: Some(slow), ..bare(1, Attach::Address) });
    let behind = Arc::new(TunnelPlan { via: bare(2, Attach::Listen).via, ..(*plan).clone() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    rig.begin(1, 1, &slow);
    assert_eq!(said.recv_timeout(DEADLINE).unwrap(), "awaited");
    drop(listener);
    wait_until("nobody holds on to what is closed", DEADLINE, || TcpListener::bind(at).is_ok());
    rig.stop(1);
    assert_eq!(rig.ended(), (RunEnd::Stopped, "stopped before it was started".to_owned()));
    // Others, who wait for what comes of it.
    let mut waiting = Rig::start(None, None);
    waiting.begin(1, 1, &slow);
    waiting.begin(2, 1, &behind);
    let mut ends = [waiting.ended(), waiting.ended()];
    ends.sort_by_key(|(how, _)| *how == RunEnd::Local);
    let [(own, why), (ours, who)] = &ends;
    assert!(*own == RunEnd::NotStarted && why.ends_with("it has not begun within 10s: can its file be read?"), "{why}");
    assert!(*ours == RunEnd::Local && who.contains("another program has not begun for 10s"), "{who}");
    assert!(holder.0.try_wait().unwrap().is_none() && said.try_recv().is_err(), "it was held all the time");
    holder.0.kill().unwrap();
    waiting.begin(2, 2, &behind);
    let pid = waiting.started();
    wait_until("only who is wanted is there", DEADLINE, || of(&id) == [pid]);
}

#[test]
fn a_newer_run_begins_after_the_end_of_the_older_one_and_has_its_port() {
    let (mut rig, plan, id) = one("forward", "newer");
    rig.begin(1, 1, &plan);
    let first = rig.started();
    let at = rig.open(1);
    rig.begin(1, 2, &plan);
    assert_eq!(rig.ended().0, RunEnd::Stopped);
    let second = rig.started();
    assert_ne!(first, second);
    assert_eq!(rig.open(1), at, "nothing has to learn another address");
    rig.begin(1, 2, &plan);
    assert_eq!(of(&id), [second], "an order that is given twice is one");
    rig.stop(1);
    rig.ended();
    // Somebody takes the port meanwhile.
    rig.begin(1, 3, &plan);
    rig.started();
    let at = rig.open(1);
    assert_eq!(unsafe_kill(&id), 1);
    assert_eq!(rig.ended().0, RunEnd::Exited);
    let _stranger = TcpListener::bind(at.to_string()).unwrap();
    rig.begin(1, 4, &plan);
    rig.started();
    assert_ne!(rig.open(1), at);
}

/// Kills the processes of a test; how many there were.
fn unsafe_kill(id: &str) -> usize {
    let all = of(id);
    for pid in &all {
        let pid = rustix::process::Pid::from_raw((*pid).try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    all.len()
}

#[test]
fn a_strangers_port_is_not_taken_for_the_runs() {
    let id = id("stranger");
    let script = "exec 2>/dev/null; echo $PORT; exec sleep 1000";
    let mut program = shell(script);
    program.env = vec![
        ("PORT".into(), Text(vec![Part::LocalPort])),
        ("FAKE_ID".into(), Text(vec![Part::Shown(id.as_str().into())])),
    ];
    let plan = TunnelPlan { program: Some(Arc::new(program)), ..bare(1, Attach::Socks5) };
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(plan));
    rig.started();
    let port = wait_for("the port is known", DEADLINE, || rig.said(1).iter().find_map(|line| line.parse::<u16>().ok()));
    let _stranger = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let (how, detail) = rig.ended();
    assert_eq!(how, RunEnd::PortTaken);
    let us = format!("its port 127.0.0.1:{port} belongs to process {} (", std::process::id());
    assert!(detail.starts_with(&us), "{detail}");
    assert_eq!(of(&id), [] as [u32; 0]);
}

#[test]
fn two_of_us_do_not_take_each_others_port() {
    let id = id("two");
    let (mut one, mut other) = (Rig::start(None, None), Rig::start(None, None));
    let plan = Arc::new(fake(1, "forward", &id, NOWHERE));
    let mut ports = Vec::new();
    for rig in [&mut one, &mut other] {
        rig.begin(1, 1, &plan);
    }
    for rig in [&mut one, &mut other] {
        rig.started();
        ports.push(rig.open(1));
    }
    assert_ne!(ports[0], ports[1]);
    one.end();
    assert_eq!(of(&id).len(), 1, "each ends its own");
}

#[test]
fn without_a_program_there_is_a_way_at_once() {
    let mut rig = Rig::start(None, None);
    let proxy = "127.0.0.1:1055".parse().unwrap();
    rig.begin(1, 1, &Arc::new(TunnelPlan { proxy: Some(proxy), ..bare(1, Attach::Socks5) }));
    assert_eq!(rig.open(1).to_string(), "127.0.0.1:1055");
    rig.begin(2, 1, &Arc::new(bare(2, Attach::Address)));
    assert_eq!(rig.open(2).to_string(), "192.0.2.1:5432");
    let stdio = TunnelPlan { program: Some(Arc::new(shell("exit 1"))), ..bare(3, Attach::Stdio) };
    rig.begin(3, 1, &Arc::new(stdio));
    assert_eq!(rig.next(), TunnelNews::Open);
    let behind = rig.doors.at(3).map(|at| at.to_string());
    assert_eq!(behind.as_deref(), Some("192.0.2.1:5432"), "each connection has a program of its own");
    for backend in [1, 2, 3] {
        rig.stop(backend);
        assert_eq!(rig.ended(), (RunEnd::Stopped, "stopped".to_owned()));
        assert_eq!(rig.doors.at(backend), None);
    }
}

#[test]
fn a_plan_that_leads_nowhere_is_not_begun() {
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(bare(1, Attach::Listen)));
    assert_eq!(rig.ended(), (RunEnd::NotStarted, "it has neither a program nor a proxy".to_owned()));
}

/// A daemon that has no descriptor left for another program.
fn starved() {
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(bare(1, Attach::Address)));
    rig.open(1);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let none = rustix::process::Rlimit { current: Some(open.try_into().unwrap()), maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, none).unwrap();
    rig.begin(2, 1, &Arc::new(fake(2, "forward", "starved", NOWHERE)));
    let (how, detail) = rig.ended();
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    println!("\n{how}: {detail}");
    rig.begin(2, 2, &Arc::new(fake(2, "forward", "starved", NOWHERE)));
    rig.started();
    rig.open(2);
    rig.end();
    println!("and then it runs");
}

#[test]
fn being_short_of_descriptors_is_our_own_fault_and_passes() {
    let argv = fake_tunnel::argv();
    let ended = support::run(Command::new(&argv[0]).args(&argv[1..]).env("FAKE_TUNNEL", "starved"));
    assert!(ended.stdout.contains("\nlocal: ") && ended.stdout.contains("Too many open files"), "{ended:?}");
    assert!(ended.stdout.contains("and then it runs"), "{ended:?}");
}

/// A program in `dir` by which anybody becomes root.
fn become_root(dir: &std::path::Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;

    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir, 0o755);
    let become_root = dir.join("become-root");
    let path = std::env::var_os("PATH").unwrap();
    let setpriv = std::env::split_paths(&path).map(|dir| dir.join("setpriv")).find(|file| file.is_file()).unwrap();
    std::fs::copy(setpriv, &become_root).unwrap();
    mode(&become_root, 0o4755);
    become_root
}

/// Has this thread, and those that it starts, be another user.
fn be(user: u32) {
    let user = rustix::process::Uid::from_raw(user);
    rustix::thread::set_thread_res_uid(user, user, user).unwrap();
}

#[test]
fn of_a_program_that_became_another_user_only_that_users_port_is_believed() {
    const NOBODY: u32 = 65534;
    const STRANGER: u32 = 12345;
    if !rustix::process::geteuid().is_root() {
        println!("only root can become another user");
        return;
    }
    let (dir, id) = (tempfile::tempdir().unwrap(), id("other"));
    let become_root = become_root(dir.path());
    let plan = |mode: &str| {
        let mut plan = fake(1, mode, &id, NOWHERE);
        let mut program = plan.program.as_deref().unwrap().clone();
        let words = [become_root.to_str().unwrap(), "--reuid", "0", "--regid", "0", "--clear-groups", "--"];
        program.argv.splice(0..0, words.map(|word| Text(vec![Part::Shown(word.into())])));
        (plan.program, plan.stop_grace) = (Some(Arc::new(program)), Duration::from_millis(50));
        Arc::new(plan)
    };
    let rig = || {
        let nobodys = || {
            be(NOBODY);
            Rig::start(None, None)
        };
        std::thread::spawn(nobodys).join().unwrap()
    };
    let end = |mut rig: Rig, pid: u32| {
        let pid_of = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid_of, rustix::process::Signal::KILL).unwrap();
        rig.end();
    };
    let mut own = rig();
    own.begin(1, 1, &plan("forward"));
    let pid = own.started();
    own.open(1);
    end(own, pid);
    let mut strange = rig();
    strange.begin(1, 1, &plan("waits"));
    let pid = strange.started();
    let port = || {
        let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
        environ.split('\0').find_map(|variable| variable.strip_prefix("FAKE_PORT="))?.parse::<u16>().ok()
    };
    let port = wait_for("it has a port", DEADLINE, port);
    let stranger = std::thread::spawn(move || {
        be(STRANGER);
        TcpListener::bind(("127.0.0.1", port)).unwrap()
    });
    // In a process that nobody may look into.
    let held = std::os::fd::OwnedFd::from(stranger.join().unwrap());
    let _stranger = Guarded(Command::new("sleep").arg("1000").stdin(held).spawn().unwrap());
    let (how, detail) = strange.ended();
    assert_eq!(how, RunEnd::PortTaken);
    assert!(detail.contains("belongs to another user's process"), "{detail}");
    end(strange, pid);
}

#[test]
fn a_program_that_became_another_user_holds_up_nobody() {
    if !rustix::process::geteuid().is_root() {
        println!("only root can become another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let become_root = become_root(dir.path());
    let word = |text: &str| Text(vec![Part::Shown(text.into())]);
    let argv = [become_root.to_str().unwrap(), "--reuid", "0", "--regid", "0", "--clear-groups", "--", "sleep", "1000"];
    let program = Arc::new(ProgramPlan { argv: argv.map(word).into(), env: Vec::new(), file: None });
    let stop_grace = Duration::from_millis(50);
    let plan = Arc::new(TunnelPlan { program: Some(program), stop_grace, ..bare(1, Attach::Address) });
    // Threads are who their starter was.
    let nobodys = move || {
        be(65534);
        let mut rig = Rig::start(None, None);
        rig.begin(1, 1, &plan);
        let pid = rig.started();
        rig.open(1);
        let is_it = || std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep");
        wait_until("it is another user's", DEADLINE, is_it);
        rig.stop(1);
        (pid, rig.ended(), rig)
    };
    let (pid, (how, detail), mut rig) = std::thread::spawn(nobodys).join().unwrap();
    let pid_of = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid_of, rustix::process::Signal::KILL).unwrap();
    assert_eq!(how, RunEnd::Stopped);
    assert!(detail.contains(&format!("process {pid} cannot be ended")), "{detail}");
    rig.end();
    wait_until("its end is waited for", DEADLINE, || process(pid).is_none());
}

/// Most containers begin like this: those who lead the group and the session that they are in are outside of what they see.
#[test]
fn where_nobody_is_seen_who_leads_its_group_the_hands_do_the_same() {
    let apart = |program: &std::path::Path| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(program);
        command
    };
    let permitted = run(&mut apart("true".as_ref()));
    if permitted.code != Some(0) {
        println!("skipped: processes cannot be set apart here: {}", permitted.stderr.trim());
        return;
    }
    // Each of them lasts until there was a look at what was left to us.
    let same =
        ["a_flood_holds_up_nobody_and_the_last_of_it_is_kept", "a_program_that_became_another_user_holds_up_nobody"];
    let ended = run(apart(&std::env::current_exe().unwrap()).arg("--exact").args(same));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("2 passed"), "{ended:?}");
}

fn looked_up(source: LookupSource) -> TunnelPlan {
    let lookup = LookupPlan { source, interval: Duration::from_millis(20), timeout: DEADLINE };
    TunnelPlan { lookup: Some(lookup), ..bare(1, Attach::Address) }
}

#[test]
fn an_older_run_does_not_shut_the_door_of_a_newer_backend_of_its_name() {
    let found = Arc::new(looked_up(LookupSource::Command(Arc::new(shell("echo 127.0.0.1:5001")))));
    let plain = Arc::new(bare(1, Attach::Address));
    let mut rig = Rig::start(None, None);
    for round in 0..20 {
        rig.begin(2 * round, 1, &found);
        rig.open(1);
        rig.stop(2 * round);
        rig.begin(2 * round + 1, 1, &plain);
        let mut told = [rig.next(), rig.next()];
        told.sort_by_key(|news| *news == TunnelNews::Open);
        assert!(matches!(&told, [TunnelNews::Ended { how: RunEnd::Stopped, .. }, TunnelNews::Open]), "{told:?}");
        assert_eq!(rig.doors.at(1), Some(plain.via.target.clone()), "round {round}");
        rig.stop(2 * round + 1);
        assert_eq!(rig.ended().0, RunEnd::Stopped);
        assert_eq!(rig.doors.at(1), None);
    }
}

#[test]
fn an_address_that_a_program_finds_is_followed_and_the_last_good_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("at");
    let script = format!("cat {} && echo and more", file.display());
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(looked_up(LookupSource::Command(Arc::new(shell(&script))))));
    wait_until("it has failed", DEADLINE, || {
        rig.said(1).iter().any(|line| line.starts_with("its address is not found: "))
    });
    assert_eq!((rig.told(), rig.doors.at(1)), (None, None), "nothing was found yet");
    std::fs::write(&file, "tcp://127.0.0.1:5001\n").unwrap();
    assert_eq!(rig.open(1).to_string(), "127.0.0.1:5001");
    std::fs::write(&file, "127.0.0.1:5002\n").unwrap();
    let is_at = |rig: &Rig, at: &str| rig.doors.at(1).is_some_and(|address| address.to_string() == at);
    wait_until("it has moved", DEADLINE, || is_at(&rig, "127.0.0.1:5002"));
    std::fs::write(&file, "none\n").unwrap();
    let failed = |rig: &mut Rig| rig.said(1).iter().any(|line| line.contains("`none` is no address"));
    wait_until("it has failed again", DEADLINE, || failed(&mut rig));
    assert!(is_at(&rig, "127.0.0.1:5002"));
    assert_eq!(rig.told(), None, "it is open once");
}

#[test]
fn of_a_secret_in_an_answer_that_is_no_address_nothing_is_told() {
    let secret = "s3cret-of-many-characters";
    let mut program = shell(&format!("echo {}$WORD", "x".repeat(70)));
    let word = Text(vec![Part::Hidden(changeover::model::Secret::new(secret))]);
    program.env = vec![("WORD".into(), word)];
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(looked_up(LookupSource::Command(Arc::new(program)))));
    let line = wait_for("it is no address", DEADLINE, || rig.said(1).into_iter().find(|line| line.contains("xxx")));
    assert!(!line.contains("s3c"), "{line}");
}

#[test]
fn an_address_stands_in_the_json_of_a_server() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap().to_string();
    let source = LookupSource::Http {
        address: at.parse().unwrap(),
        request: changeover::model::HttpCheck {
            method: "GET".to_owned(),
            path: "/api/tunnels".to_owned(),
            port: 0,
            expect: vec![changeover::model::StatusRange { first: 200, last: 299 }],
            authorization: None,
        },
        pointer: "/tunnels/0/public_url".into(),
    };
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(looked_up(source)));
    let body = r#"{"tunnels":[{"public_url":"tcp://127.0.0.1:5003"}]}"#;
    let length = body.len();
    let answers = [
        String::new(),
        "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", length + 1),
        // Its end is that of the connection.
        format!("HTTP/1.1 200 OK\r\n\r\n{body}"),
    ];
    for answer in answers {
        let (mut caller, _) = server.accept().unwrap();
        let mut asked = BufReader::new(caller.try_clone().unwrap()).lines().map(Result::unwrap);
        assert_eq!(asked.next().unwrap(), "GET /api/tunnels HTTP/1.1");
        let headers: Vec<String> = asked.take_while(|line| !line.is_empty()).collect();
        assert!(headers.contains(&format!("host: {at}")) && headers.contains(&"accept: application/json".to_owned()));
        caller.write_all(answer.as_bytes()).unwrap();
    }
    assert_eq!(rig.open(1).to_string(), "127.0.0.1:5003");
    let said = rig.said(1).join("\n");
    for why in ["connection closed before message completed", "answered 503", "nothing at `/tunnels/0/public_url`"] {
        assert!(said.contains(why), "{why}: {said}");
    }
    assert_eq!(said.matches("its address is not found").count(), 4, "{said}");
}

#[test]
fn what_programs_of_connections_have_left_ends_with_the_hands() {
    let id = id("session");
    let mut rig = Rig::start(None, None);
    rig.begin(1, 1, &Arc::new(bare(1, Attach::Address)));
    rig.open(1);
    let launch = Launch {
        argv: ["setsid", "--fork", "sleep", "1000"].map(str::to_owned).to_vec(),
        env: vec![(fake_tunnel::ID.to_owned(), id.clone())],
        file: None,
        connects: true,
        mark: rig.tunnels.as_ref().unwrap().session_mark.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let spawner = rig.spawner.clone().unwrap();
    let ended = runtime.block_on(async { spawner.spawn(launch).await.unwrap().ended().await.unwrap() });
    assert!(ended.success());
    assert_eq!(of(&id).len(), 1, "it has left the group of its connection's program");
    rig.end();
    assert_eq!(of(&id), [] as [u32; 0]);
}
