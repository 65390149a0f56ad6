//! Requests at a fixed rate, whether or not answers come: the open loop. Latency counts from the moment at
//! which a request was due, so that a proxy that falls behind cannot hide it.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::echo::{Answer, Sessions};
use super::{Meter, Outcome, PATIENCE};

/// Requests a second.
const RATE: u32 = 5_000;
const TICK: u64 = u64::MAX;

impl Sessions {
    /// [`RATE`] requests a second, spread over the sessions by turns, for `time`.
    pub(crate) fn open_loop(&mut self, time: Duration, meter: Meter<'_>) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let period = Duration::from_secs(1) / RATE;
        // A timer of the kernel's: the time limit of a poll is rounded up by the slack that threads have.
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let spec = Timespec { tv_sec: 0, tv_nsec: i64::from(period.subsec_nanos()) };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: spec, it_value: spec })?;
        self.poller.add(&timer, TICK, crate::poller::Interest::Read)?;

        let mut late: Vec<VecDeque<Instant>> = vec![VecDeque::new(); self.sessions.len()];
        let mut ready = Vec::new();
        let start = Instant::now();
        let mut due = start + period;
        let mut turn = 0;
        let mut last_answer = start;
        loop {
            self.poller.wait(Some(PATIENCE), &mut ready)?;
            let now = Instant::now();
            for event in &ready {
                if event.token == TICK {
                    let mut ticks = [0; 8];
                    rustix::io::read(&timer, &mut ticks).ok();
                    continue;
                }
                let index = usize::try_from(event.token).unwrap();
                let session = &mut self.sessions[index];
                match session.receive() {
                    Answer::Partial => {}
                    Answer::Wrong => outcome.errors += session.fail(),
                    Answer::Whole => {
                        last_answer = now;
                        outcome.units += 1;
                        outcome.latencies.push(now - session.since);
                        if let Some(due) = late[index].pop_front() {
                            session.send(due);
                        }
                    }
                }
            }
            while due <= now && due - start < time {
                let index = turn % self.sessions.len();
                turn += 1;
                let session = &mut self.sessions[index];
                if session.busy {
                    late[index].push_back(due);
                } else if session.alive {
                    session.send(due);
                } else {
                    outcome.errors += 1;
                }
                due += period;
            }
            if now - start >= time {
                if !self.sessions.iter().any(|session| session.busy) {
                    break;
                }
                if now - last_answer > PATIENCE {
                    outcome.errors += self.give_up();
                    break;
                }
            }
        }
        meter.stop(&mut outcome);
        Ok(outcome)
    }
}
