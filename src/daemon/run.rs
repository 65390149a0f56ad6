//! `changeover run`: a daemon with its signals, its reloads and its word to systemd.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::config::{self, Document};
use crate::control::RecordTo;
use crate::sys::{Notifier, Signal, on_signals};
use crate::telemetry::Log;

use crate::routing::Phase;

use super::{DRAIN_LOOK, Daemon, Options, StartError, start};

/// Why `run` ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has errors.
    #[error("{0}")]
    Config(#[from] config::ConfigErrors),
    /// It could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Signals cannot be handled, or the log or the word to systemd not be set up.
    #[error("the process cannot be set up")]
    SetUp(#[source] std::io::Error),
    /// Something that should not end has ended.
    #[error("{0} has ended, which it never should")]
    Died(String),
}

/// What the main thread waits for.
enum Wake {
    Signal(Signal),
    Ready,
    Died(String),
}

/// This program again, also when its file was replaced since it was started.
const GUARD: [&str; 2] = ["/proc/self/exe", "tunnel-guard"];

/// How long the last lines of the log may take to be written.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Runs the daemon by the file at `config` until it is told to stop, and records its decisions if it is told to.
///
/// # Errors
///
/// [`RunError`].
pub fn run(config: &Path, record: Option<RecordTo>) -> Result<(), RunError> {
    let document = Document::load(config)?;
    let log = Log::start(document.plan().log).map_err(RunError::SetUp)?;
    let ended = run_document(document, config, record);
    // What keeps it from starting is for whoever starts it, who is told as of a file with errors.
    if let Err(error @ RunError::Died(_)) = &ended {
        tracing::error!(%error, "ended");
    }
    log.flush(LAST_LINES);
    ended
}

fn run_document(document: Document, config: &Path, record: Option<RecordTo>) -> Result<(), RunError> {
    let (sender, wakes) = mpsc::channel();
    let signals = sender.clone();
    on_signals(move |signal| signals.send(Wake::Signal(signal)).is_ok()).map_err(RunError::SetUp)?;
    let (readiness, death) = (sender.clone(), sender);
    let options = Options {
        observer: None,
        on_ready: Some(Box::new(move || drop(readiness.send(Wake::Ready)))),
        on_death: Some(Arc::new(move |who: &str| drop(death.send(Wake::Died(who.to_owned()))))),
        guard: Some(GUARD.map(str::to_owned).to_vec()),
        record,
    };
    let notifier = Notifier::start().map_err(RunError::SetUp)?;
    notifier.status("waiting for the first verdicts");
    let mut daemon = start(document, options)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %config.display(), "started");
    loop {
        match wakes.recv() {
            Ok(Wake::Ready) => {
                tracing::info!("ready");
                notifier.ready(&status(&daemon));
            }
            Ok(Wake::Signal(Signal::Reload)) => reload(&mut daemon, config, &notifier),
            Ok(Wake::Signal(Signal::HandOver)) => {
                tracing::warn!("SIGUSR2: this version cannot hand over to a new binary; nothing was done");
            }
            Ok(Wake::Signal(Signal::Terminate)) | Err(_) => break,
            Ok(Wake::Died(who)) => return Err(RunError::Died(who)),
        }
    }
    drain(daemon, &wakes, &notifier);
    Ok(())
}

fn status(daemon: &Daemon) -> String {
    format!("serving {} listeners, {} pools", daemon.plan.listeners.len(), daemon.plan.pools.len())
}

/// Reads the file again and goes over to it, if it has no errors.
fn reload(daemon: &mut Daemon, config: &Path, notifier: &Notifier) {
    let ready = daemon.readiness.phase() == Phase::Ready;
    if ready {
        notifier.reloading();
    }
    let done = Document::load(config).map_err(|error| error.to_string()).and_then(|document| {
        let told = daemon.reload(document);
        told.map_err(|error| error.to_string())
    });
    daemon.metrics.count_reload(done.is_ok());
    if let Err(error) = &done {
        let rejected = daemon.settings.event("config.rejected", serde_json::json!({ "error": error }));
        daemon.settings.store().append(rejected);
    }
    match done {
        Ok(changes) if changes.is_empty() => tracing::info!("reloaded: nothing changed"),
        Ok(changes) => tracing::info!(changes = changes.join("; "), "reloaded"),
        Err(error) => tracing::error!(error, "reload rejected, everything stays as it was"),
    }
    // Before the first verdicts it is not ready, and a reload does not make it so.
    if ready {
        notifier.ready(&status(daemon));
    }
}

/// Drains until nobody is left, the time is up, or a second signal comes.
fn drain(mut daemon: Daemon, wakes: &Receiver<Wake>, notifier: &Notifier) {
    let limit = daemon.plan.daemon.drain_timeout;
    tracing::info!(sessions = daemon.seats.taken(), timeout = ?limit, "stopping: sessions may end by themselves");
    notifier.stopping("draining");
    daemon.begin_drain();
    let hurried = wait_drained(&daemon, limit, wakes);
    if hurried {
        tracing::warn!("told again to stop: ending at once");
    }
    daemon.finish();
    tracing::info!("stopped");
}

/// Waits for the end of the drain. `true` if a second signal cut it short.
fn wait_drained(daemon: &Daemon, limit: Duration, wakes: &Receiver<Wake>) -> bool {
    let mut hurried = false;
    daemon.wait_drained(limit, || {
        match wakes.recv_timeout(DRAIN_LOOK) {
            Ok(Wake::Signal(Signal::Terminate)) => hurried = true,
            Ok(Wake::Signal(Signal::Reload | Signal::HandOver) | Wake::Ready | Wake::Died(_))
            | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => hurried = true,
        }
        !hurried
    });
    hurried
}
