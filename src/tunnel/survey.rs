//! Looks at all processes of the host, which takes a quarter of a second where there are thousands: not on the thread of the
//! tunnels, and one look for all runs that want one. Else a hundred that are stopped together would take minutes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::{self, SendError, Sender};
use std::thread::Builder;

use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use super::remains::{Found, find, remains};
use crate::sys::{Clock, ProcessStat};

/// Who waits for a look that begins after it was asked for.
type Asker = oneshot::Sender<Rc<Vec<Found>>>;

/// A look of any kind, with whom to tell what was seen.
type Look = Box<dyn FnOnce() + Send>;

/// Where looks are asked for.
pub(super) struct Survey {
    /// The thread that looks; none if there was none to be had: then it is done here.
    thread: Option<Sender<Look>>,
    clock: Clock,
    token: String,
    askers: RefCell<Vec<Asker>>,
    wake: Notify,
    #[cfg(test)]
    looks: std::cell::Cell<u32>,
}

impl Survey {
    /// One that looks for marks of a daemon with this `token`.
    pub(super) fn new(clock: Clock, token: &str) -> Self {
        let (looks, inbox) = mpsc::channel::<Look>();
        let thread = Builder::new().name("tunnel-looks".to_owned());
        let thread = thread.spawn(move || inbox.into_iter().for_each(|look| look()));
        Self {
            thread: thread.is_ok().then_some(looks),
            clock,
            token: token.to_owned(),
            askers: RefCell::default(),
            wake: Notify::new(),
            #[cfg(test)]
            looks: std::cell::Cell::default(),
        }
    }

    /// The processes, other than zombies, that belong to the group now or, among our descendants, have the mark. Cancel-safe.
    pub(super) async fn remains(&self, group: Option<u32>, mark: &str) -> Vec<ProcessStat> {
        let (asker, found) = oneshot::channel();
        self.askers.borrow_mut().push(asker);
        self.wake.notify_one();
        match found.await {
            Ok(found) => remains(&found, group, mark),
            // Nobody looks any more: everything has come to its end.
            Err(_) => std::future::pending().await,
        }
    }

    /// What `look` gives, which may take its time; none if it panicked.
    pub(super) async fn aside<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (reply, seen) = oneshot::channel();
        let look: Look = Box::new(move || drop(reply.send(look())));
        match &self.thread {
            Some(thread) => {
                if let Err(SendError(look)) = thread.send(look) {
                    look();
                }
            }
            None => look(),
        }
        seen.await.ok()
    }

    /// Looks whenever that is asked for. Never ends.
    pub(super) async fn work(&self) {
        loop {
            let mut askers = self.askers.take();
            askers.retain(|asker| !asker.is_closed());
            if askers.is_empty() {
                self.wake.notified().await;
                continue;
            }
            #[cfg(test)]
            self.looks.set(self.looks.get() + 1);
            let (begun, token) = (self.clock.now(), self.token.clone());
            let found = Rc::new(self.aside(move || find(&token)).await.unwrap_or_default());
            for asker in askers {
                drop(asker.send(Rc::clone(&found)));
            }
            // Half of a core at most.
            sleep(self.clock.now().since(begun)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;

    #[tokio::test]
    async fn however_many_runs_want_a_look_at_once_it_is_one() {
        let survey = Survey::new(Clock::start(), "token");
        let group = process(std::process::id()).map(|us| us.group);
        let asked = async {
            let mut asked: Vec<_> = (0..100).map(|_| Box::pin(survey.remains(group, "token."))).collect();
            // All have asked before any is answered.
            for one in &mut asked {
                assert!(futures_are_pending(one).await);
            }
            for one in asked {
                assert!(one.await.iter().any(|process| process.pid == std::process::id()));
            }
        };
        // Cancel-safety: nobody asks after this.
        tokio::select! {
            () = asked => {}
            () = survey.work() => {}
        }
        assert_eq!(survey.looks.get(), 1);
    }

    async fn futures_are_pending(one: &mut (impl Future + Unpin)) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *one).poll(cx).is_pending())).await
    }
}
