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
    listen(&[SIGTERM, SIGINT, SIGHUP, SIGUSR2], move |signal| {
        deliver(match signal {
            SIGHUP => Signal::Reload,
            SIGUSR2 => Signal::HandOver,
            _ => Signal::Terminate,
        })
    })
}

/// The same for a command that is to end in order, for SIGTERM and SIGINT alone: by the others it ends, or lives on where whoever
/// started it has them ignored, as `nohup` does.
///
/// # Errors
///
/// As [`on_signals`].
pub fn on_end(mut deliver: impl FnMut() -> bool + Send + 'static) -> io::Result<()> {
    listen(&[SIGTERM, SIGINT], move |_| deliver())
}

fn listen(wanted: &[i32], mut deliver: impl FnMut(i32) -> bool + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new(wanted)?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if !deliver(signal) {
                return;
            }
        }
    })?;
    Ok(())
}
