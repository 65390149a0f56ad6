//! The floor: connects and closes at a pace on one thread, with epoll and nothing else.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::daemon::address;

/// Once in this time, those that are due are begun: as coarse as the daemon's timers.
const TICK: Duration = Duration::from_millis(1);

/// Connections at once, as in the daemon.
const IN_FLIGHT_MAX: usize = 512;

pub(crate) struct Floor {
    /// Of a core.
    pub(crate) share: f64,
    /// A connection's processor time, in microseconds.
    pub(crate) each_us: f64,
}

/// Connects to `count` addresses in turn, each once a second, for `time`.
pub(crate) fn measure(port: u16, count: usize, time: Duration) -> Floor {
    thread::spawn(move || {
        let begun = Instant::now();
        let before = own_time();
        let done = connect(port, count, begun, time);
        let spent = (own_time() - before).as_secs_f64();
        Floor { share: spent / begun.elapsed().as_secs_f64(), each_us: spent * 1e6 / done as f64 }
    })
    .join()
    .unwrap()
}

fn connect(port: u16, count: usize, begun: Instant, time: Duration) -> usize {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let (mut open, mut begun_so_far, mut done) = (Slab::new(), 0, 0);
    let mut events = Vec::with_capacity(256);
    while begun.elapsed() < time {
        let due = usize::try_from(begun.elapsed().as_micros()).unwrap() * count / 1_000_000;
        while begun_so_far < due && open.len() < IN_FLIGHT_MAX {
            begin(&poller, &mut open, address(begun_so_far % count, port));
            begun_so_far += 1;
        }
        let next = begun + TICK * u32::try_from(begun.elapsed().as_millis() + 1).unwrap();
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            events.clear();
            epoll::wait(&poller, spare_capacity(&mut events), Some(&limit)).unwrap();
            for event in &events {
                let socket: Socket = open.remove(usize::try_from(event.data.u64()).unwrap());
                assert!(socket.take_error().unwrap().is_none());
                done += 1;
            }
            if left.is_zero() {
                break;
            }
        }
    }
    done
}

fn begin(poller: &OwnedFd, open: &mut Slab<Socket>, address: SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP)).unwrap();
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => panic!("{error}"),
        Ok(()) | Err(_) => {}
    }
    let place = open.vacant_entry();
    let (data, flags) = (epoll::EventData::new_u64(place.key() as u64), epoll::EventFlags::OUT | epoll::EventFlags::ET);
    epoll::add(poller, &socket, data, flags).unwrap();
    place.insert(socket);
}

/// What this thread has had of its processor.
fn own_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}
