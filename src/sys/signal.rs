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

/// Has the kernel keep how children ended, whatever whoever started us thinks of that: where `SIGCHLD` is ignored,
/// which is inherited, nobody learns whether a program succeeded.
fn wait_for_children() {
    // SAFETY: the default action of a signal runs none of our code, and no other handler for it is there to be lost.
    #[expect(unsafe_code, reason = "no safe wrapper sets a signal back to its default")]
    let _was = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Has `deliver` called on a thread of its own for each signal from now on, until it says `false`.
///
/// # Errors
///
/// If the handlers cannot be installed or the thread not be started.
pub fn on_signals(mut deliver: impl FnMut(Signal) -> bool + Send + 'static) -> io::Result<()> {
    wait_for_children();
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
