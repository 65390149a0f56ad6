//! The control plane's thread: the deciding task and the admin server.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use crate::admin::{Admin, serve};
use crate::control::{self, Control};
use crate::sys::{BoundSocket, Listener};

use super::Mourn;
use super::thread::spawn_with_runtime;

/// Admin sockets that may wait to be served.
const ORDERS: usize = 16;

/// An admin socket, and what ends its service.
pub(super) type AdminSocket = (BoundSocket, watch::Receiver<bool>);

/// The running thread.
pub(super) struct ControlThread {
    admin_sockets: mpsc::Sender<AdminSocket>,
    thread: JoinHandle<()>,
}

impl ControlThread {
    pub(super) fn start(control: Control, admin: Admin, mourn: Mourn) -> io::Result<Self> {
        let (admin_sockets, inbox) = mpsc::channel(ORDERS);
        let thread = spawn_with_runtime("control".to_owned(), mourn, move || async move {
            drop(spawn_local(serve_sockets(admin, inbox)));
            control::run(control).await;
        })?;
        Ok(Self { admin_sockets, thread })
    }

    /// Has the admin server listen at one more socket.
    pub(super) fn serve(&self, socket: AdminSocket) {
        // A thread that is gone has been mourned already.
        drop(self.admin_sockets.blocking_send(socket));
    }

    /// Waits for the thread, which has been told to stop.
    pub(super) fn join(self) {
        // A panic was mourned when it happened.
        drop(self.thread.join());
    }
}

async fn serve_sockets(admin: Admin, mut inbox: mpsc::Receiver<AdminSocket>) {
    while let Some((socket, stop)) = inbox.recv().await {
        match Listener::from_bound(socket) {
            Ok(listener) => drop(spawn_local(serve(admin.clone(), listener, stop))),
            Err(error) => tracing::error!(%error, "an admin socket cannot be watched"),
        }
    }
}
