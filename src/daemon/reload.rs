//! A new plan for a running daemon: everything that can fail is done first, and then everything that cannot.

use std::sync::Arc;

use crate::admin::Credentials;
use crate::config::Document;
use crate::config::overlay::Effective;
use crate::model::{ListenerName, Plan};
use crate::settings::Left;
use crate::sys::BoundSocket;

use super::sockets::{Opened, Opening};
use super::worker_thread::{Order, SocketKey};
use super::{Daemon, StartError, session_limit, wait_for};

/// Why a plan was not taken over. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// An address that is new in it cannot be listened at, or new credentials cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Daemon {
    /// Goes over to `document`, with what was changed at run time over it as far as that still holds. Sessions go on;
    /// what is the same as before is not touched. Gives what changed, in words, and what needs a restart to change.
    ///
    /// # Errors
    ///
    /// [`ReloadError`]; then everything is as before.
    pub fn reload(&mut self, document: Document) -> Result<Vec<String>, ReloadError> {
        let settings = self.settings.clone();
        // Until the new plan is in force, nobody changes the old one.
        let mut current = settings.hold();
        let Effective { mut plan, overlay, changes, notes } = current.over(&document);
        let mut told = self.keep_what_needs_a_restart(&mut plan);
        let plan = Arc::new(plan);
        let credentials = Credentials::of(&plan.admin).map_err(StartError::from)?;
        let opening = self.sockets.open_missing(&plan, self.workers.len())?;
        told.extend(differences(current.plan(), &plan));
        told.extend(notes.iter().map(ToString::to_string));
        let gone: Vec<ListenerName> =
            self.plan.listeners.keys().filter(|name| !plan.listeners.contains_key(*name)).cloned().collect();
        // Before anything new is listened at.
        self.control_threads.access().replace(credentials);
        self.put_in_force(Arc::clone(&plan), opening);
        settings.reloaded(&mut current, document, plan, Left { overlay, changes, notes }, &told);
        for name in gone {
            self.metrics.forget_listener(&name);
        }
        Ok(told)
    }

    /// What only a start can change stays as it is, and is said.
    fn keep_what_needs_a_restart(&self, plan: &mut Plan) -> Vec<String> {
        let (old, new) = (&self.plan, plan);
        let mut told = Vec::new();
        if (old.daemon.workers, old.daemon.relay_buffer) != (new.daemon.workers, new.daemon.relay_buffer) {
            told.push("daemon.workers and daemon.relay_buffer change at the next start".to_owned());
            new.daemon.workers = old.daemon.workers;
            new.daemon.relay_buffer = old.daemon.relay_buffer;
        }
        if old.daemon.tcp_keepalive != new.daemon.tcp_keepalive {
            told.push("daemon.tcp_keepalive changes at the next start".to_owned());
            new.daemon.tcp_keepalive = old.daemon.tcp_keepalive;
        }
        if old.daemon.store != new.daemon.store {
            told.push("daemon.state_dir and daemon.history_* change at the next start".to_owned());
            new.daemon.store = old.daemon.store.clone();
        }
        if old.log != new.log {
            told.push("log changes at the next start".to_owned());
            new.log = old.log;
        }
        told
    }

    /// Goes over to `plan`, whose new sockets are open already. Pools come first, so that no client
    /// ever comes through a listener whose pool is not known.
    pub(super) fn put_in_force(&mut self, plan: Arc<Plan>, opening: Opening) {
        let opened = opening.keep();
        // Before any tunnel of the new plan leads anywhere.
        self.ways.keep_from(self.sockets.addresses().chain(opened.addresses()).cloned().collect());
        let Opened { listeners, shares, admin } = opened;
        self.seats.set_limit(session_limit(&plan, self.workers.len(), self.descriptors));
        if !self.control.replace_plan(Arc::clone(&plan)) {
            tracing::error!("the control plane did not answer");
        }
        // Before its plan there are no pools to be seen, and whatever was changed would be undone by it. Who comes earlier
        // waits in the socket's queue.
        self.control_threads.post_to(plan.webhooks.clone());
        self.open_admin(admin);
        self.sockets.close_admin(&plan);
        for ((name, _), open) in &listeners {
            if let Some(socket) = open.sockets.first() {
                tracing::info!(listener = %name, address = %socket.address(), "listening");
            }
        }
        let close = self.sockets.to_close(&plan);
        self.sockets.listeners.extend(listeners);
        // Our handles go first: a socket that nobody accepts from must not take anybody in.
        self.sockets.close(&close);
        self.arrange(&plan, shares, &close);
        self.ways.keep_from(self.sockets.addresses().cloned().collect());
        self.plan = plan;
    }

    /// Has every worker go by `plan`'s listeners.
    fn arrange(&mut self, plan: &Plan, shares: Vec<Vec<(SocketKey, BoundSocket)>>, close: &[SocketKey]) {
        self.guards.retain(|name, _| plan.listeners.contains_key(name));
        let mut plans = Vec::with_capacity(plan.listeners.len());
        for (name, listener) in &plan.listeners {
            // One that was there goes on counting.
            let guard = self.guards.entry(name.clone()).or_default();
            plans.push((Arc::clone(listener), Arc::clone(guard)));
        }
        let order = |open| Order::Arrange { plans: plans.clone(), open, close: close.to_vec() };
        let answers: Vec<_> = self.workers.iter().zip(shares).map(|(worker, open)| worker.give(order(open))).collect();
        wait_for(answers);
    }
}

/// What a reload changes, one line each.
fn differences(old: &Plan, new: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    if old.daemon != new.daemon {
        lines.push("daemon changed".to_owned());
    }
    if old.admin != new.admin {
        lines.push("admin changed".to_owned());
    }
    for name in new.listeners.keys().filter(|name| !old.listeners.contains_key(*name)) {
        lines.push(format!("listener {name} added"));
    }
    for (name, before) in &old.listeners {
        match new.listeners.get(name) {
            None => lines.push(format!("listener {name} removed")),
            Some(after) if after != before => lines.push(format!("listener {name} changed")),
            Some(_) => {}
        }
    }
    for name in new.webhooks.keys().filter(|name| !old.webhooks.contains_key(*name)) {
        lines.push(format!("webhook {name} added"));
    }
    for (name, before) in &old.webhooks {
        match new.webhooks.get(name) {
            None => lines.push(format!("webhook {name} removed")),
            Some(after) if after != before => lines.push(format!("webhook {name} changed")),
            Some(_) => {}
        }
    }
    for name in new.pools.keys().filter(|name| !old.pools.contains_key(*name)) {
        lines.push(format!("pool {name} added"));
    }
    for (name, before) in &old.pools {
        match new.pools.get(name) {
            None => lines.push(format!("pool {name} removed")),
            Some(after) if after != before => {
                lines.push(format!("pool {name} changed"));
                for backend in after.backends.iter().filter(|b| !before.backends.iter().any(|o| o.name == b.name)) {
                    lines.push(format!("backend {name}/{} added", backend.name));
                }
                for backend in before.backends.iter().filter(|b| !after.backends.iter().any(|n| n.name == b.name)) {
                    lines.push(format!("backend {name}/{} removed", backend.name));
                }
            }
            Some(_) => {}
        }
    }
    lines
}
