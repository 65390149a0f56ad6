//! A pulse: the kernel's own periodic timer, for what happens a hundred times a second.
//!
//! A timer of the runtime that is set anew after it has fired has the runtime wake itself: a write and a turn of its loop, each time. This
//! one is set once.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Ticks for as long as it is there. Ticks that nobody waited for are one.
#[derive(Debug)]
pub struct Ticker {
    timer: AsyncFd<OwnedFd>,
}

impl Ticker {
    /// One that ticks every `period`, the first time after one. Belongs to the runtime it is made in.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for it, or the period is zero or longer than the kernel can count.
    pub fn new(period: Duration) -> io::Result<Self> {
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
        Ok(Self { timer: registered.map_err(|error| error.into_parts().1)? })
    }

    /// Waits for the next tick, or takes one that came meanwhile. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What read(2) said, or that the runtime is going down.
    pub async fn tick(&self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            // How many ticks there were. The kernel sets the timer anew only when that is read.
            let read = rustix::io::read(self.timer.get_ref(), &mut [0_u8; 8]);
            ready.clear_ready();
            match read {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ticker;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn it_ticks_at_its_pace_and_missed_ticks_are_one() {
        let ticker = Ticker::new(Duration::from_millis(20)).unwrap();
        let begun = Instant::now();
        for _ in 0..3 {
            ticker.tick().await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(59), "{:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(200));
        let begun = Instant::now();
        for _ in 0..4 {
            ticker.tick().await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(39), "{:?}", begun.elapsed());
        assert!(Ticker::new(Duration::ZERO).is_err());
    }
}
