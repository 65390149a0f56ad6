//! What a short connection costs the thread that serves it, counted in system calls, not timed.

#![allow(unsafe_code, reason = "ptrace(2) has no safe wrapper, and only it sees the calls that the runtime makes")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use support::servers::Server;
use support::{DEADLINE, Daemon, dial, fresh_addr};

/// How often each system call was made, by its number.
type Counts = BTreeMap<libc::c_long, usize>;

/// What one connection may cost: one byte there and back, then the client closes.
const COSTS: [(&str, libc::c_long, usize); 13] = [
    // One takes the client, and one may find that nobody else is waiting.
    ("accept4", libc::SYS_accept4, 2),
    ("socket", libc::SYS_socket, 1),
    ("setsockopt", libc::SYS_setsockopt, 1),
    ("connect", libc::SYS_connect, 1),
    ("getsockname", libc::SYS_getsockname, 1),
    ("getpeername", libc::SYS_getpeername, 0),
    ("getsockopt", libc::SYS_getsockopt, 0),
    ("sendto", libc::SYS_sendto, 2),
    // A byte and an end from either side.
    ("recvfrom", libc::SYS_recvfrom, 4),
    // The backend's is told by its own call, the client's by the close.
    ("shutdown", libc::SYS_shutdown, 1),
    ("epoll_ctl", libc::SYS_epoll_ctl, 4),
    ("close", libc::SYS_close, 2),
    // Only a debug build asks whether a descriptor is open, or would block.
    ("fcntl", libc::SYS_fcntl, if cfg!(debug_assertions) { 3 } else { 0 }),
];

/// One request to the kernel about `thread`, which must be stopped unless the request is to stop it.
fn ptrace(request: libc::c_uint, thread: libc::pid_t, data: usize) -> io::Result<()> {
    let none = null_mut::<libc::c_void>();
    // SAFETY: none of the requests made here (seize, interrupt, go on, detach) writes to memory of this process.
    let done = unsafe { libc::ptrace(request, thread, none, data) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until `thread` stops: the status. None if it has ended.
fn wait_stop(thread: libc::pid_t) -> io::Result<Option<libc::c_int>> {
    let mut status = 0;
    // SAFETY: waitpid writes one int to the pointer, which is to a live one.
    let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
    if waited == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::WIFSTOPPED(status).then_some(status))
}

/// The number of the system call that `thread`, which is stopped, is about to make; none if it comes from one.
fn entered(thread: libc::pid_t) -> Option<libc::c_long> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes `size` bytes at most to the pointer, which is to as many; all zeros are a value of
    // this structure, and so is whatever the kernel writes. `entry` is what it wrote if it says so in `op`.
    unsafe {
        let done = libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, info.as_mut_ptr());
        let info = info.assume_init();
        let entered = done > 0 && info.op == libc::PTRACE_SYSCALL_INFO_ENTRY;
        entered.then(|| libc::c_long::try_from(info.u.entry.nr).expect("the number of a system call"))
    }
}

/// Counts the system calls of `thread` until it has made `last` of them `times`, or has ended. Says when it begins.
fn count(thread: libc::pid_t, last: libc::c_long, times: usize, begun: &mpsc::Sender<()>) -> io::Result<Counts> {
    const CALL: libc::c_int = libc::SIGTRAP | 0x80;
    let mut counts = Counts::new();
    ptrace(libc::PTRACE_SEIZE, thread, usize::try_from(libc::PTRACE_O_TRACESYSGOOD).expect("a flag"))?;
    ptrace(libc::PTRACE_INTERRUPT, thread, 0)?;
    let mut stopped = wait_stop(thread)?;
    begun.send(()).ok();
    while let Some(status) = stopped {
        let mut signal = 0;
        match libc::WSTOPSIG(status) {
            CALL => {
                if let Some(number) = entered(thread) {
                    *counts.entry(number).or_default() += 1;
                }
                if counts.get(&last).is_some_and(|&made| made >= times) {
                    ptrace(libc::PTRACE_DETACH, thread, 0)?;
                    return Ok(counts);
                }
            }
            // A stop of ours has an event's number; any other is by a signal, to be passed on.
            other if status >> 16 == 0 => signal = usize::try_from(other).expect("a signal"),
            _ => {}
        }
        ptrace(libc::PTRACE_SYSCALL, thread, signal)?;
        stopped = wait_stop(thread)?;
    }
    Ok(counts)
}

#[test]
fn a_short_connection_costs_no_more_system_calls_than_it_must() {
    const CONNECTIONS: usize = 100;
    let server = Server::start(fresh_addr(), |_, mut stream| {
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let daemon = Daemon::start(&format!(
        "[daemon]\nworkers = 1\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1h\"\n[pools.orders.backends.a]\naddress = \"{}\"\n",
        server.addr
    ));
    let orders = daemon.listener("orders");
    let worker = daemon.thread("worker-0");
    let (begun, begins) = mpsc::channel();
    let (counted, counts) = mpsc::channel();
    // If this test fails the daemon dies, and the thread that counts comes to its end.
    let counter = thread::spawn(move || counted.send(count(worker, libc::SYS_close, 2 * CONNECTIONS, &begun)));
    begins.recv_timeout(DEADLINE).expect("the daemon can be traced");
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut client = dial(orders).expect("accepted");
        client.write_all(b"!").expect("sent");
        client.read_exact(&mut [0]).expect("answered");
    }
    let counts = counts.recv_timeout(DEADLINE).expect("every socket is closed").expect("traced");
    counter.join().expect("no panic").ok();
    // A session that the coarse tick comes upon is kept alive: four calls. A tick is a quarter of a second.
    let ticks = usize::try_from(start.elapsed().as_millis() / Duration::from_millis(250).as_millis()).unwrap() + 1;
    for (name, number, most) in COSTS {
        let made = counts.get(&number).copied().unwrap_or(0);
        let most = most * CONNECTIONS + if name == "setsockopt" { 4 * ticks } else { 0 };
        // A few are the runtime's own, and for what comes piecemeal on a busy machine.
        assert!(made <= most + CONNECTIONS / 20, "{CONNECTIONS} connections made {made} calls of {name}: {counts:?}");
    }
    let known = COSTS.map(|(_, number, _)| number);
    let waits = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
    let others = counts.iter().filter(|(number, _)| !known.contains(number) && !waits.contains(number));
    let others: usize = others.map(|(_, made)| made).sum();
    // Memory, at the beginning; and once in sixteen sockets the runtime wakes itself to forget them.
    assert!(others <= CONNECTIONS, "{CONNECTIONS} connections made {others} calls of other kinds: {counts:?}");
}
