//! The control plane's threads: one has the deciding task and the admin server, the other asks backends and watches servers.
//!
//! The one that asks ends with the deciding task, be that told to stop or panicking. Should it panic itself, that is
//! told as any thread's end is that nobody asked for: a daemon that asks nobody any more must not go on.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use crate::admin::{Admin, serve};
use crate::control::{self, Control};
use crate::probe::{Asked, Service as ProbeService};
use crate::sys::{BoundSocket, Clock, Listener};
use crate::watch::{Service as WatchService, Watched};

use super::Mourn;
use super::thread::spawn_with_runtime;

/// Admin sockets that may wait to be served.
const ORDERS: usize = 16;

/// An admin socket, and what ends its service.
pub(super) type AdminSocket = (BoundSocket, watch::Receiver<bool>);

/// What runs on the thread that asks.
pub(super) struct Askers {
    prober: ProbeService,
    watcher: WatchService,
}

/// The running threads.
pub(super) struct ControlThreads {
    admin_sockets: mpsc::Sender<AdminSocket>,
    deciding: JoinHandle<()>,
    asking: JoinHandle<()>,
}

impl ControlThreads {
    /// Starts both. If the second cannot be started, the first ends with what it was to be given orders by.
    pub(super) fn start(control: Control, admin: Admin, askers: Askers, mourn: &Mourn) -> io::Result<Self> {
        let asking = spawn_with_runtime("probes".to_owned(), mourn.clone(), || askers.run())?;
        let (admin_sockets, inbox) = mpsc::channel(ORDERS);
        let deciding = spawn_with_runtime("control".to_owned(), mourn.clone(), move || async move {
            drop(spawn_local(serve_sockets(admin, inbox)));
            control::run(control).await;
        })?;
        Ok(Self { admin_sockets, deciding, asking })
    }

    /// Has the admin server listen at one more socket.
    pub(super) fn serve(&self, socket: AdminSocket) {
        // A thread that is gone has been mourned already.
        drop(self.admin_sockets.blocking_send(socket));
    }

    /// Waits for the threads, of which the deciding one has been told to stop.
    pub(super) fn join(self) {
        // A panic was mourned when it happened.
        drop(self.deciding.join());
        drop(self.asking.join());
    }
}

impl Askers {
    /// Those that ask nobody yet, and the ends for whoever gives them orders.
    pub(super) fn new(clock: Clock) -> (Self, Asked, Watched) {
        let ((prober, asked), (watcher, watched)) = (ProbeService::new(clock), WatchService::new(clock));
        (Self { prober, watcher }, asked, watched)
    }

    /// Both end when there is nobody left to give orders.
    async fn run(self) {
        tokio::join!(self.prober.run(), self.watcher.run());
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
