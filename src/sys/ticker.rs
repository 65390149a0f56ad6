//! A pulse: the kernel's own periodic timer, for what happens a hundred times a second.
//!
//! A timer of the runtime that is set anew after it has fired has the runtime wake itself: a write and a turn of its loop, each time. This
//! one is set once, and whoever ticks at the same pace on the same thread shares it: one wake and one read for all of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The timers of one runtime, by their period. A clone has the same.
#[derive(Debug, Clone, Default)]
pub struct Tickers(Rc<RefCell<BTreeMap<Duration, Weak<Timer>>>>);

impl Tickers {
    /// A ticker that ticks every `period` together with all others of that period, the first time after one period at the
    /// latest. Belongs to the runtime it is made in.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for its timer, or the period is zero or longer than the kernel can count.
    pub fn every(&self, period: Duration) -> io::Result<Ticker> {
        let mut timers = self.0.borrow_mut();
        timers.retain(|_, timer| timer.strong_count() > 0);
        let timer = match timers.get(&period).and_then(Weak::upgrade) {
            Some(timer) => timer,
            None => {
                let timer = Rc::new(Timer::new(period)?);
                timers.insert(period, Rc::downgrade(&timer));
                timer
            }
        };
        let seen = timer.ticks.get();
        Ok(Ticker { timer, seen })
    }
}

/// Ticks for as long as it is there. Ticks that nobody waited for are one.
#[derive(Debug)]
pub struct Ticker {
    timer: Rc<Timer>,
    /// The last tick that was taken.
    seen: u64,
}

impl Ticker {
    /// Waits for the next tick, or takes one that came meanwhile. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What read(2) said, or that the runtime is going down.
    pub async fn tick(&mut self) -> io::Result<()> {
        while self.timer.ticks.get() == self.seen {
            self.timer.wait(self.seen).await?;
        }
        self.seen = self.timer.ticks.get();
        Ok(())
    }
}

#[derive(Debug)]
struct Timer {
    fd: AsyncFd<OwnedFd>,
    /// How often it was read.
    ticks: Cell<u64>,
}

impl Timer {
    fn new(period: Duration) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        if period.is_zero() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let period = Timespec::try_from(period).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let ticks = Itimerspec { it_interval: period, it_value: period };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks)?;
        // SAFETY: an `OwnedFd` is one open descriptor, the same for as long as it lives, and it is never
        // taken out of the `AsyncFd`.
        #[expect(unsafe_code, reason = "AsyncFd has no safe constructor")]
        let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self { fd: registered.map_err(|error| error.into_parts().1)?, ticks: Cell::new(0) })
    }

    /// Waits once for the timer, whose last known tick is `seen`. All who wait are woken, and the first of them reads.
    async fn wait(&self, seen: u64) -> io::Result<()> {
        let mut ready = self.fd.readable().await?;
        if self.ticks.get() != seen {
            return Ok(());
        }
        // How many ticks there were. The kernel sets the timer anew only when that is read.
        let read = rustix::io::read(self.fd.get_ref(), &mut [0_u8; 8]);
        ready.clear_ready();
        match read {
            Ok(_) => {
                self.ticks.set(seen.wrapping_add(1));
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tickers;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn it_ticks_at_its_pace_and_missed_ticks_are_one() {
        let tickers = Tickers::default();
        let begun = Instant::now();
        let mut ticker = tickers.every(Duration::from_millis(20)).unwrap();
        for _ in 0..3 {
            ticker.tick().await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(60), "{:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(200));
        let begun = Instant::now();
        for _ in 0..4 {
            ticker.tick().await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(39), "{:?}", begun.elapsed());
        assert!(tickers.every(Duration::ZERO).is_err());
    }

    #[tokio::test]
    async fn who_ticks_at_one_pace_shares_a_timer_and_each_has_every_tick() {
        const PERIOD: Duration = Duration::from_millis(5);
        let tickers = Tickers::default();
        let (mut one, mut two) = (tickers.every(PERIOD).unwrap(), tickers.every(PERIOD).unwrap());
        assert!(std::rc::Rc::ptr_eq(&one.timer, &two.timer));
        for _ in 0..20 {
            let (first, second) = tokio::join!(one.tick(), two.tick());
            first.unwrap();
            second.unwrap();
            assert_eq!((one.seen, two.seen), (one.timer.ticks.get(), one.timer.ticks.get()));
        }
        one.tick().await.unwrap();
        one.tick().await.unwrap();
        two.tick().await.unwrap();
        assert_eq!(one.seen, two.seen, "what came meanwhile is one, and taken at once");
        let other = tickers.every(PERIOD * 2).unwrap();
        assert_eq!(tickers.0.borrow().len(), 2);
        drop((one, two));
        let again = tickers.every(PERIOD * 2).unwrap();
        assert!(std::rc::Rc::ptr_eq(&again.timer, &other.timer));
        assert_eq!(tickers.0.borrow().len(), 1, "a timer goes with the last who ticks by it");
    }
}
