//! The log: configured here and nowhere else. Lines are handed to a thread of their own through a
//! bounded queue, so that a full disk, a stalled reader or a closed pipe delays no verdict and ends
//! nothing: what cannot be written is dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{MakeWriter, fmt};

use crate::model::{LogFormat, LogLevel, LogPlan};

/// Lines that may wait to be written.
const QUEUE: usize = 4096;

/// What the writing thread is given.
enum Item {
    Line(Vec<u8>),
    /// Say when everything before this is written.
    Flush(SyncSender<()>),
}

/// The log in use.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    /// Begins to log to standard error as `plan` says. Only the first call in a process counts.
    ///
    /// # Errors
    ///
    /// If the writing thread cannot be started.
    pub fn start(plan: LogPlan) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let log = Self { queue, dropped: Arc::default() };
        let dropped = Arc::clone(&log.dropped);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&lines, &dropped))?;
        let terminal = io::stderr().is_terminal();
        let builder = fmt()
            .with_max_level(level(plan.level))
            .with_writer(log.clone())
            .with_target(false)
            .log_internal_errors(false);
        let started = match plan.format {
            LogFormat::Auto if !terminal => builder.json().flatten_event(true).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
            LogFormat::Auto | LogFormat::Text => builder.with_ansi(terminal).try_init(),
        };
        if let Err(error) = started {
            tracing::debug!(%error, "the log goes where it went before");
        }
        Ok(log)
    }

    /// Waits until everything that was logged is written, but no longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            // In time or not: nobody waits longer for a log.
            let _late = written.recv_timeout(limit);
        }
    }
}

const fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Writes until nobody can log any more.
fn write_all(lines: &Receiver<Item>, dropped: &AtomicU64) {
    let mut told = 0;
    for item in lines {
        match item {
            Item::Line(line) => {
                if io::stderr().write_all(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Item::Flush(done) => {
                let _nobody_waits = done.send(());
            }
        }
        let lost = dropped.load(Ordering::Relaxed);
        if lost > told {
            told = lost;
            // If this cannot be written either, it is at least in the count.
            let _unwritten = writeln!(io::stderr(), "changeover: {lost} lines of this log were lost so far");
        }
    }
}

/// One event's line on its way to the queue.
pub struct Line {
    log: Log,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if self.log.queue.try_send(Item::Line(text)).is_err() {
            self.log.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { log: self.clone(), text: Vec::new() }
    }
}
