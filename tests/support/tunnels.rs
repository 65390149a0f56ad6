//! The hands of tunnels on a thread of their own, doors that remember, and plans for the fake program.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use changeover::dial::{Programs, Ways};
use changeover::model::{
    Address, Attach, BackendId, HIDDEN, Part, ProgramPlan, RunEnd, RunId, Secret, Text, TunnelNews, TunnelPlan, Via,
};
use changeover::sys::{Clock, Spawner, is_marked, processes};
use changeover::tunnel::{Doors, Order, Service, Told, Tunnels};

use super::fake_tunnel::{self, ID};
use super::wait::{DEADLINE, wait_for, wait_until};

/// Doors that remember which are open.
#[derive(Debug, Default)]
pub struct Remembered {
    open: Mutex<BTreeMap<String, Address>>,
    /// Where programs are started for connections.
    pub ways: Ways,
}

impl Doors for Remembered {
    fn open(&self, via: &Via, at: Address) {
        self.open.lock().unwrap().insert(via.backend.to_string(), at);
    }

    fn open_found(&self, via: &Via, at: Address) {
        self.open(via, at);
    }

    /// Where a program is started for each connection, the door leads to what is behind it.
    fn open_programs(&self, via: &Via, programs: Programs) {
        self.open(via, via.target.clone());
        self.ways.open_program(via, programs);
    }

    fn shut(&self, via: &Via) {
        self.open.lock().unwrap().remove(via.backend.as_str());
        self.ways.shut(via);
    }

    /// None of them does.
    fn lead_back(&self, _: &Address) -> bool {
        false
    }
}

impl Remembered {
    /// Where the door of `backend` leads, if it is open.
    pub fn at(&self, backend: u32) -> Option<Address> {
        self.open.lock().unwrap().get(&format!("b{backend}")).cloned()
    }
}

/// The hands, and what orders them.
#[derive(Debug)]
pub struct Rig {
    pub tunnels: Option<Tunnels>,
    pub doors: Arc<Remembered>,
    /// Waits for what is left to us, also after the end of the hands.
    pub spawner: Option<Spawner>,
    thread: Option<JoinHandle<()>>,
}

/// The guard of the real program.
pub fn guard() -> Vec<String> {
    vec![super::process::PROGRAM.to_owned(), "tunnel-guard".to_owned()]
}

impl Rig {
    /// Hands that write down in `record` what runs, with a guard if they are to have one.
    pub fn start(record: Option<PathBuf>, guarded_by: Option<Vec<String>>) -> Self {
        let doors = Arc::new(Remembered::default());
        let spawner = Spawner::start().expect("a thread");
        let (service, tunnels) = Service::new(Clock::start(), spawner.clone(), doors.clone(), record);
        let service = match guarded_by {
            Some(argv) => service.guarded_by(argv),
            None => service,
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, service.run());
        });
        Self { tunnels: Some(tunnels), doors, spawner: Some(spawner), thread: Some(thread) }
    }

    fn tunnels(&mut self) -> &mut Tunnels {
        self.tunnels.as_mut().expect("not ended")
    }

    /// Orders a run.
    pub fn begin(&mut self, backend: u32, run: u64, plan: &Arc<TunnelPlan>) {
        let order = Order::Start { run: RunId(run), plan: Arc::clone(plan) };
        self.tunnels().orders.give(BackendId(backend), order);
    }

    /// Orders that there is none.
    pub fn stop(&mut self, backend: u32) {
        self.tunnels().orders.give(BackendId(backend), Order::Stop);
    }

    /// What is told next, if anything is told already.
    pub fn told(&mut self) -> Option<Told> {
        self.tunnels().news.try_recv().ok()
    }

    /// What is told next.
    #[track_caller]
    pub fn next(&mut self) -> TunnelNews {
        wait_for("something is told", DEADLINE, || self.told()).news
    }

    /// The number of the process that is told to be started next.
    #[track_caller]
    pub fn started(&mut self) -> u32 {
        let told = self.next();
        let TunnelNews::Started { pid } = told else { panic!("not started: {told:?}") };
        pid
    }

    /// Waits until it is open, and says where.
    #[track_caller]
    pub fn open(&mut self, backend: u32) -> Address {
        let told = self.next();
        assert_eq!(told, TunnelNews::Open);
        self.doors.at(backend).expect("the door is open before that is told")
    }

    /// Waits for the end.
    #[track_caller]
    pub fn ended(&mut self) -> (RunEnd, String) {
        // That it has ended by itself is told before what it has left is cleared away.
        let mut told = self.next();
        if matches!(told, TunnelNews::Lost { .. }) {
            told = self.next();
        }
        let TunnelNews::Ended { how, detail } = told else { panic!("not ended: {told:?}") };
        (how, detail)
    }

    /// What was said of `backend`.
    pub fn said(&mut self, backend: u32) -> Vec<String> {
        let page = self.tunnels().outputs.lines(&("p".into(), format!("b{backend}").as_str().into()), 0, 1000);
        page.map(|page| page.lines.into_iter().map(|line| line.text).collect()).unwrap_or_default()
    }

    /// Ends all.
    #[track_caller]
    pub fn end(&mut self) {
        drop(self.tunnels.take().map(|tunnels| tunnels.orders));
        if let Some(thread) = self.thread.take() {
            wait_until("the hands have ended", DEADLINE, || thread.is_finished());
            thread.join().expect("in order");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// A plan by which the fake program does `mode`.
pub fn fake(backend: u32, mode: &str, id: &str, target: &str) -> TunnelPlan {
    let shown = |text: &str| Part::Shown(text.into());
    let value = |text: &str| Text(vec![if text == "{local_port}" { Part::LocalPort } else { shown(text) }]);
    let program = ProgramPlan {
        argv: fake_tunnel::argv().iter().map(|word| value(word)).collect(),
        env: fake_tunnel::env(mode, id, target).iter().map(|(k, v)| (k.as_str().into(), value(v))).collect(),
        file: None,
    };
    TunnelPlan { program: Some(Arc::new(program)), ..bare(backend, Attach::Listen) }
}

/// `plan` with a secret in its environment.
pub fn with_secret(mut plan: TunnelPlan, secret: &str) -> TunnelPlan {
    let mut program = plan.program.as_deref().cloned().expect("a program");
    program.env.push(("FAKE_SECRET".into(), Text(vec![Part::Hidden(Secret::new(secret))])));
    assert!(!format!("{program:?}{HIDDEN}").contains(secret));
    plan.program = Some(Arc::new(program));
    plan
}

/// A plan without a program.
pub fn bare(backend: u32, attach: Attach) -> TunnelPlan {
    let via = Via {
        pool: "p".into(),
        backend: format!("b{backend}").as_str().into(),
        attach,
        target: "192.0.2.1:5432".parse().expect("an address"),
    };
    TunnelPlan {
        via: Arc::new(via),
        provider: "command".into(),
        program: None,
        proxy: None,
        lookup: None,
        ready: None,
        ready_timeout: DEADLINE,
        fatal: Vec::new(),
        restart_after: 0,
        retry_initial: Duration::from_millis(100),
        retry_max: Duration::from_secs(1),
        retry_reset: DEADLINE,
        stop_grace: DEADLINE,
    }
}

/// The living processes of the test `id`.
pub fn of(id: &str) -> Vec<u32> {
    let sought = format!("{ID}={id}");
    let lives = processes().into_iter().filter(|process| !process.is_zombie);
    lives.map(|process| process.pid).filter(|pid| is_marked(*pid, &sought)).collect()
}

/// Waits until there are none, and says how long that took.
#[track_caller]
pub fn wait_gone(id: &str) -> Duration {
    let start = Instant::now();
    wait_until("nothing is left", DEADLINE, || of(id).is_empty());
    start.elapsed()
}
