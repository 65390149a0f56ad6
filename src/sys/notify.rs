//! What systemd is told, where it listens (`NOTIFY_SOCKET`).

use sd_notify::NotifyState;

/// The service is up.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read anew; [`ready`] ends it.
pub fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    send(&[NotifyState::Reloading, now]);
}

/// The service is going down.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// One line on how things stand.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// Nobody need listen, and a failure to tell is no reason to stop working.
fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
