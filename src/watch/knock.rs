//! Another login beside the session that is open, which tells how those fare who have none: a server that waits for its clients to
//! go (`pg_ctl stop -m smart`) goes on with the sessions that it has, answers whoever asks for encryption, and turns away whoever
//! then logs in, with 57P03. A login costs the server a process and a password, so it is tried when there is a reason, and on as
//! long as it is turned away.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout_at};

use crate::model::{LoginError, WatchError, WatchNews, WatchSpec};
use crate::sys::Clock;

use super::login::{Kind, Means, log_in};

/// From one such login to the next: one that is turned away is a line in the server's log.
const PAUSE: Duration = Duration::from_secs(1);

/// Where it is knocked, and as whom.
pub(super) struct Door<'a> {
    spec: &'a WatchSpec,
    kind: Kind,
    clock: Clock,
    means: &'a Means,
    /// What is to be told of it.
    pub(super) said: Cell<Option<WatchNews>>,
}

impl<'a> Door<'a> {
    pub(super) fn new(spec: &'a WatchSpec, kind: Kind, clock: Clock, means: &'a Means) -> Self {
        Self { spec, kind, clock, means, said: Cell::new(None) }
    }

    /// Tries whenever `knocks` rings, and again and again while it is turned away.
    pub(super) async fn knock(&self, knocks: &Notify) -> Infallible {
        let mut is_shut = false;
        loop {
            if !is_shut {
                knocks.notified().await;
            }
            match self.is_turned_away().await {
                Some(Some(detail)) if !std::mem::replace(&mut is_shut, true) => {
                    self.said.set(Some(WatchNews::TurnedAway { detail }));
                }
                Some(None) => {
                    is_shut = false;
                    self.said.set(Some(WatchNews::LetIn));
                }
                Some(Some(_)) | None => {}
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether a login is turned away, and in which words; nothing if it came to no answer, which says nothing of others.
    async fn is_turned_away(&self) -> Option<Option<String>> {
        let deadline = self.clock.instant(self.clock.now() + self.spec.timeout);
        let connected = Cell::default();
        let attempt = Box::pin(log_in(self.spec, self.kind, self.means, &connected));
        match timeout_at(deadline, attempt).await.ok()? {
            Ok(_) => Some(None),
            Err(failure) => match failure.error {
                WatchError::Login(LoginError::CannotConnectNow) => Some(Some(failure.detail)),
                WatchError::Login(
                    LoginError::TooManyConnections
                    | LoginError::NotAuthorized
                    | LoginError::NotPermitted
                    | LoginError::Other,
                ) => Some(None),
                WatchError::Login(
                    LoginError::Tls | LoginError::NotPostgres | LoginError::TimedOut | LoginError::ClosedEarly,
                )
                | WatchError::Dial(_) => None,
            },
        }
    }
}
