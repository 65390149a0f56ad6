//! What systemd is told, where it listens (`NOTIFY_SOCKET`). A thread of its own does the telling: a
//! service manager that does not read must not keep the daemon from obeying signals.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// Words that may wait to be told; more are dropped.
const QUEUE: usize = 16;

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(200);

enum Word {
    Ready(String),
    Reloading,
    Stopping(String),
    Status(String),
    /// Say when everything before this is told.
    Done(SyncSender<()>),
}

/// Tells the service manager how things stand.
pub struct Notifier {
    words: SyncSender<Word>,
}

impl Notifier {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start() -> io::Result<Self> {
        let (words, queue) = sync_channel(QUEUE);
        thread::Builder::new().name("notify".to_owned()).spawn(move || tell_all(&queue))?;
        Ok(Self { words })
    }

    /// The service is up.
    pub fn ready(&self, status: &str) {
        self.say(Word::Ready(status.to_owned()));
    }

    /// The configuration is being read anew; [`Self::ready`] ends it.
    pub fn reloading(&self) {
        self.say(Word::Reloading);
    }

    /// The service is going down.
    pub fn stopping(&self, status: &str) {
        self.say(Word::Stopping(status.to_owned()));
    }

    /// One line on how things stand.
    pub fn status(&self, status: &str) {
        self.say(Word::Status(status.to_owned()));
    }

    fn say(&self, word: Word) {
        if self.words.try_send(word).is_err() {
            tracing::debug!("the service manager does not listen");
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        let (done, told) = sync_channel(1);
        if self.words.try_send(Word::Done(done)).is_ok() {
            // In time or not: nobody waits longer for it.
            let _late = told.recv_timeout(LAST_WORDS);
        }
    }
}

/// Tells every word. Nobody need listen, and a failure to tell is no reason to stop working.
fn tell_all(queue: &Receiver<Word>) {
    for word in queue {
        let told = match word {
            Word::Ready(status) => sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]),
            Word::Reloading => {
                NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]))
            }
            Word::Stopping(status) => sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(&status)]),
            Word::Status(status) => sd_notify::notify(&[NotifyState::Status(&status)]),
            Word::Done(done) => {
                let _nobody_waits = done.send(());
                Ok(())
            }
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the service manager could not be told");
        }
    }
}
