//! The control plane's threads: one has the deciding task, one asks backends and watches servers, one has the hands of tunnels,
//! one has the admin server, and one posts events to others.
//!
//! The admin server's ends when the daemon lets go of it, which is last: whoever asks is answered to the end.
//! The one that asks ends with the deciding task, be that told to stop or panicking. Should it panic itself, that is
//! told as any thread's end is that nobody asked for: a daemon that asks nobody any more must not go on.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use crate::admin::{Access, Admin, Credentials, CredentialsError, Streams, serve};
use crate::control::{self, Control};
use crate::dial::Ways;
use crate::model::{AdminPlan, Plan};
use crate::probe::{Asked, Service as ProbeService};
use crate::routing::{ControlHandle, Readiness, Registry, RouteReader};
use crate::settings::Settings;
use crate::sys::{BoundSocket, Clock, Descriptors, Listener, Spawner};
use crate::telemetry::Metrics;
use crate::tunnel::{Outputs, Service as TunnelService, Tunnels};
use crate::watch::{Service as WatchService, Watched};
use crate::webhook::{Plans, Webhooks};

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
    answering: JoinHandle<()>,
    access: Access,
    posting: JoinHandle<()>,
    supervising: JoinHandle<()>,
    webhooks: watch::Sender<Plans>,
}

impl ControlThreads {
    /// Starts all. If one cannot be started, those before it end with what they were to be given orders by.
    pub(super) fn start(
        control: Control,
        admin: Admin,
        askers: Askers,
        tunnels: TunnelService,
        mourn: &Mourn,
    ) -> io::Result<Self> {
        let (webhooks, plans) = watch::channel(Plans::default());
        let (store, clock, metrics) = (admin.settings.store().clone(), admin.clock, Arc::clone(&admin.metrics));
        let posting = Webhooks { store, control: admin.control.clone(), clock, metrics, plans };
        let supervising = spawn_with_runtime("tunnels".to_owned(), mourn.clone(), || tunnels.run())?;
        let asking = spawn_with_runtime("probes".to_owned(), mourn.clone(), || askers.run())?;
        let (admin_sockets, inbox) = mpsc::channel(ORDERS);
        let access = admin.access.clone();
        let answering = spawn_with_runtime("admin".to_owned(), mourn.clone(), || answer(admin, inbox))?;
        let deciding = spawn_with_runtime("control".to_owned(), mourn.clone(), move || control::run(control))?;
        let posting = spawn_with_runtime("webhooks".to_owned(), mourn.clone(), || posting.run())?;
        Ok(Self { admin_sockets, deciding, asking, answering, access, posting, supervising, webhooks })
    }

    /// Who may what over the admin API.
    pub(super) const fn access(&self) -> &Access {
        &self.access
    }

    /// Has these webhooks posted to from now on.
    pub(super) fn post_to(&self, webhooks: Plans) {
        self.webhooks.send_replace(webhooks);
    }

    /// Has the admin server listen at one more socket.
    pub(super) fn serve(&self, socket: AdminSocket) {
        // A thread that is gone has been mourned already.
        drop(self.admin_sockets.blocking_send(socket));
    }

    /// Ends the threads. Whoever posts is first, for the deciding one closes the store in which it is kept how far they are;
    /// how many were refused lately is written there before.
    pub(super) fn join(self, control: &ControlHandle, settings: &Settings) {
        let Self { admin_sockets, deciding, asking, answering, posting, supervising, webhooks, access } = self;
        drop(webhooks);
        // A panic was mourned when it happened.
        drop(posting.join());
        access.tell_refusals(settings);
        control.stop();
        drop(deciding.join());
        // With the orders that the deciding one gave: its programs are ended by then.
        drop(supervising.join());
        drop(asking.join());
        drop(admin_sockets);
        drop(answering.join());
    }
}

/// What the admin server answers from, and who may ask it by `plan`.
#[allow(clippy::too_many_arguments, reason = "each is one thing that it answers from")]
pub(super) fn admin(
    plan: &AdminPlan,
    control: &ControlHandle,
    routes: &RouteReader,
    registry: &Registry,
    readiness: &Readiness,
    metrics: &Arc<Metrics>,
    settings: &Settings,
    clock: Clock,
    outputs: Outputs,
) -> Result<Admin, CredentialsError> {
    Ok(Admin {
        control: control.clone(),
        routes: routes.clone(),
        registry: registry.clone(),
        readiness: readiness.clone(),
        metrics: Arc::clone(metrics),
        clock,
        settings: settings.clone(),
        access: Access::new(Credentials::of(plan)?, clock),
        streams: Streams::new(settings.store().clone(), metrics.subscribers()),
        outputs,
    })
}

/// Who starts and stops tunnels by `plan`, and the ends for whoever orders it to. What a killed daemon has left is swept away
/// before the first is started, if there is a directory in which it was written down.
pub(super) fn tunnels(
    plan: &Plan,
    clock: Clock,
    ways: &Ways,
    descriptors: Descriptors,
    guard: Option<Vec<String>>,
) -> io::Result<(TunnelService, Tunnels)> {
    let spawner = Spawner::start()?.with_descriptors(descriptors);
    let record_dir = plan.daemon.store.state_dir.clone();
    let (service, tunnels) = TunnelService::new(clock, spawner, Arc::new(ways.clone()), record_dir);
    Ok((guard.into_iter().fold(service, TunnelService::guarded_by), tunnels))
}

impl Askers {
    /// Those that ask nobody yet and dial by `ways`, and the ends for whoever gives them orders.
    pub(super) fn new(clock: Clock, ways: &Ways) -> (Self, Asked, Watched) {
        let (prober, asked) = ProbeService::new(clock, ways.clone());
        let (watcher, watched) = WatchService::new(clock, ways.clone());
        (Self { prober, watcher }, asked, watched)
    }

    /// Both end when there is nobody left to give orders.
    async fn run(self) {
        tokio::join!(self.prober.run(), self.watcher.run());
    }
}

/// Answers until there is nobody left to listen for; then streams end in order.
async fn answer(admin: Admin, inbox: mpsc::Receiver<AdminSocket>) {
    let streams = admin.streams.clone();
    drop(spawn_local(streams.clone().run()));
    serve_sockets(admin, inbox).await;
    streams.end().await;
}

async fn serve_sockets(admin: Admin, mut inbox: mpsc::Receiver<AdminSocket>) {
    while let Some((socket, stop)) = inbox.recv().await {
        match Listener::from_bound(socket) {
            Ok(listener) => drop(spawn_local(serve(admin.clone(), listener, stop))),
            Err(error) => tracing::error!(%error, "an admin socket cannot be watched"),
        }
    }
}
