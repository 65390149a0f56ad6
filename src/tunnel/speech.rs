//! What a program says that matters to its run: that the way is open, or that it never will be; and its last words.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::outputs::Sink;
use crate::model::TunnelPlan;

/// How much of the rest of an output is read, in bytes: somebody who is not killed may go on writing.
const REST_MAX: usize = 1 << 20;
/// How much is read at once, in bytes.
const READ: usize = 4 << 10;
/// What a program has said that matters, and that may wait: each is said once.
pub(super) const SPEECH: usize = 2;

/// What a program has said that matters.
pub(super) enum Speech {
    /// The way is open.
    Ready,
    /// It will never work, in these words.
    Fatal(String),
}

/// The last line that a program has said, as it may be shown.
pub(super) type Last = Rc<RefCell<Option<String>>>;

/// Reads what a program writes, always: a full pipe would hold it up.
pub(super) struct Reader {
    pub(super) sink: Sink,
    pub(super) plan: Arc<TunnelPlan>,
    pub(super) said: mpsc::Sender<Speech>,
    pub(super) last: Last,
}

impl Reader {
    /// Reads until there is no more, or `over` says that nobody is left who writes.
    pub(super) async fn read(mut self, output: Option<OwnedFd>, mut over: oneshot::Receiver<()>) {
        let Some(Ok(pipe)) = output.map(pipe::Receiver::from_owned_fd) else { return };
        let (mut is_ready, mut is_fatal) = (false, false);
        loop {
            // Cancel-safety: nothing is read while readiness is waited for.
            tokio::select! {
                ready = pipe.readable() => if ready.is_err() { break },
                _ = &mut over => break,
            }
            let mut part = [0; READ];
            match pipe.try_read(&mut part) {
                Ok(0) => break,
                Ok(length) => self.take(part.get(..length).unwrap_or_default(), &mut is_ready, &mut is_fatal),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        // What is in the pipe may not have been told of yet.
        let mut rest = pipe.into_nonblocking_fd().map(File::from).ok();
        let mut read = 0;
        while let Some(file) = rest.as_mut().filter(|_| read < REST_MAX) {
            let mut part = [0; READ];
            let length = file.read(&mut part).unwrap_or_default();
            if length == 0 {
                break;
            }
            read += length;
            self.take(part.get(..length).unwrap_or_default(), &mut is_ready, &mut is_fatal);
        }
        let Self { sink, plan, said, last } = &mut self;
        sink.end_each(|line, shown| heed(plan, said, last, (&mut is_ready, &mut is_fatal), line, shown));
    }

    fn take(&mut self, bytes: &[u8], is_ready: &mut bool, is_fatal: &mut bool) {
        let Self { sink, plan, said, last } = self;
        sink.feed_each(bytes, |line, shown| heed(plan, said, last, (is_ready, is_fatal), line, shown));
    }
}

/// Looks for what matters in a `line`, which may be `shown` so.
fn heed(
    plan: &TunnelPlan,
    said: &mpsc::Sender<Speech>,
    last: &Last,
    (is_ready, is_fatal): (&mut bool, &mut bool),
    line: &str,
    shown: &str,
) {
    *last.borrow_mut() = Some(shown.to_owned());
    // The channel has room for one of each.
    if !*is_ready && plan.ready.as_ref().is_some_and(|text| line.contains(&**text)) {
        *is_ready = true;
        drop(said.try_send(Speech::Ready));
    }
    if !*is_fatal && plan.fatal.iter().any(|text| line.contains(&**text)) {
        *is_fatal = true;
        drop(said.try_send(Speech::Fatal(shown.to_owned())));
    }
}
