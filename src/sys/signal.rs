//! Signals, on a thread of their own.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: drain and exit; the second time, exit at once.
    Terminate,
    /// SIGHUP: read the configuration anew.
    Reload,
    /// SIGUSR2: hand over to a new binary.
    HandOver,
}

/// Has `deliver` called on a thread of its own for each signal from now on, until it says `false`.
///
/// # Errors
///
/// If the handlers cannot be installed or the thread not be started.
pub fn on_signals(mut deliver: impl FnMut(Signal) -> bool + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR2])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let meaning = match signal {
                SIGHUP => Signal::Reload,
                SIGUSR2 => Signal::HandOver,
                _ => Signal::Terminate,
            };
            if !deliver(meaning) {
                return;
            }
        }
    })?;
    Ok(())
}
