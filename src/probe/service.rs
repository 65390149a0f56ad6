//! What runs on the thread that asks: it carries out orders, each question a task of its own so that a slow one delays
//! nobody, and hands the answers back.
//!
//! The thread that decides and this one can each stand still without the other, and neither may make a verdict of it:
//!
//! - This one alone: a question whose time has run out is judged here, by the clock of the thread that was to read the
//!   answer. What notices the end of its time too late has found out nothing, nor has what failed in whose time the thread
//!   stood still (`pulse`), unless it was refused: that is the other kernel's word. Orders wait meanwhile, and the core
//!   puts each question anew that is not answered in twice its time: the last one is asked.
//! - The other alone: questions are asked and judged in time, and the answers wait: as many as the channel has room for,
//!   then each in its task. Whoever decides voids all questions that were open while it stood still, by their numbers
//!   (`control::stall`), and asks again: their answers are lost and do no harm.
//! - Both, as on a paused machine: both of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::sleep;

use crate::dial::Ways;
use crate::model::{ProbeId, ProbeSpec, TargetId};
use crate::sys::{self, Clock, OrderInbox, orders};

use super::pulse::{HEARTBEAT, Stalls};
use super::{Answer, IN_FLIGHT_MAX, Prober};

/// What to do about a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Ask it; an older question to it is dropped.
    Start {
        /// The number that the answer must carry.
        probe: ProbeId,
        /// What to ask.
        spec: Arc<ProbeSpec>,
    },
    /// Ask it no more.
    Stop,
}

/// Where orders are given: the last one about a target is the one that counts.
pub type Orders = sys::Orders<TargetId, Order>;

/// A question that has its answer.
#[derive(Debug)]
pub struct Finished {
    /// Whom it asked.
    pub target: TargetId,
    /// Its number.
    pub probe: ProbeId,
    /// The address that was dialled from, if that was not left to the kernel.
    pub source: Option<IpAddr>,
    /// The answer.
    pub answer: Answer,
}

/// The ends that whoever decides has.
#[derive(Debug)]
pub struct Asked {
    /// Where it says whom to ask.
    pub orders: Orders,
    /// Where the answers come.
    pub answers: mpsc::Receiver<Finished>,
    /// Whether the thread that asks stood still itself.
    pub stalls: Stalls,
}

/// What is to run on the thread that asks.
#[derive(Debug)]
pub struct Service {
    clock: Clock,
    inbox: OrderInbox<TargetId, Order>,
    answers: mpsc::Sender<Finished>,
    prober: Prober,
}

impl Service {
    /// One that has asked nothing yet and dials backends by `ways`, and the ends for whoever gives it orders.
    #[must_use]
    pub fn new(clock: Clock, ways: Ways) -> (Self, Asked) {
        let (orders, inbox) = orders();
        let (sender, answers) = mpsc::channel(IN_FLIGHT_MAX);
        let prober = Prober::new(clock, ways);
        let stalls = Stalls::of(&prober.pulse);
        (Self { clock, inbox, answers: sender, prober }, Asked { orders, answers, stalls })
    }

    /// Asks until nobody can give orders any more. On a thread of its own, in a runtime for local tasks, with which
    /// whatever is still being asked ends.
    pub async fn run(self) {
        let Self { clock, mut inbox, answers, prober } = self;
        let mut running = Running { prober, answers, tasks: BTreeMap::new() };
        loop {
            if running.tasks.is_empty() {
                running.prober.pulse.rest();
            } else {
                running.prober.pulse.beat(clock.now());
            }
            // Cancel-safety: orders that are not returned stay where they are; the sleep is made anew.
            tokio::select! {
                orders = inbox.take() => {
                    let Some(orders) = orders else { return };
                    orders.into_iter().for_each(|(target, order)| running.carry_out(target, order));
                }
                () = sleep(HEARTBEAT), if !running.tasks.is_empty() => {}
            }
        }
    }
}

/// The questions in flight, and the last of each target that has none.
struct Running {
    prober: Prober,
    answers: mpsc::Sender<Finished>,
    tasks: BTreeMap<TargetId, AbortHandle>,
}

impl Running {
    fn carry_out(&mut self, target: TargetId, order: Order) {
        if let Some(task) = self.tasks.remove(&target) {
            task.abort();
        }
        match order {
            Order::Start { probe, spec } => {
                let (prober, answers) = (self.prober.clone(), self.answers.clone());
                let task = spawn_local(ask(prober, answers, target, probe, spec));
                self.tasks.insert(target, task.abort_handle());
            }
            Order::Stop => {}
        }
    }
}

async fn ask(prober: Prober, answers: mpsc::Sender<Finished>, target: TargetId, probe: ProbeId, spec: Arc<ProbeSpec>) {
    let answer = prober.probe(&spec.address, &spec.kind, spec.timeout, &spec.approach).await;
    let source = spec.approach.source_address;
    // Nobody listens any more only when the daemon ends.
    drop(answers.send(Finished { target, probe, source, answer }).await);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;
    use crate::model::{Address, AgentCheck, Approach, CheckKind, ProbeOutcome};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn spec(address: &str, kind: CheckKind, timeout: Duration) -> Arc<ProbeSpec> {
        let address: Address = address.parse().unwrap();
        Arc::new(ProbeSpec { address, kind, timeout, approach: Approach::PLAIN })
    }

    fn agent() -> CheckKind {
        CheckKind::Agent(AgentCheck { port: 0, send: String::new() })
    }

    /// A server that says nothing, and tells when it has `count` connections.
    fn silent(count: usize) -> (String, oneshot::Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, there) = oneshot::channel();
        thread::spawn(move || {
            let mut taken: Vec<_> = (0..count).map(|_| listener.accept().unwrap()).collect();
            sender.send(()).unwrap();
            taken.extend(std::iter::from_fn(|| listener.accept().ok()));
        });
        (address, there)
    }

    /// Runs `test` with a service beside it, which comes to its end after it.
    async fn with_service<F: Future<Output = ()>>(test: impl FnOnce(Asked) -> F) {
        let (service, asked) = Service::new(Clock::start(), Ways::default());
        let local = LocalSet::new();
        let service = local.spawn_local(service.run());
        local.run_until(test(asked)).await;
        timeout(PATIENCE, local.run_until(service)).await.unwrap().unwrap();
    }

    async fn answer(asked: &mut Asked) -> Finished {
        timeout(PATIENCE, asked.answers.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_thread_that_stood_still_has_found_out_nothing() {
        // So that the end of the stall is not long after that of the question.
        const LIMIT: Duration = Duration::from_secs(2);
        with_service(async |mut asked| {
            let (address, there) = silent(1);
            let order = Order::Start { probe: ProbeId::default(), spec: spec(&address, agent(), LIMIT) };
            asked.orders.give(TargetId::default(), order);
            timeout(PATIENCE, there).await.unwrap().unwrap();
            thread::sleep(LIMIT);
            let Finished { answer, .. } = answer(&mut asked).await;
            assert!(matches!(answer.outcome, ProbeOutcome::Inconclusive { error: None, .. }), "{answer:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn answers_that_nobody_takes_for_a_while_are_right_when_they_are_taken() {
        let count = IN_FLIGHT_MAX + 100;
        with_service(async |mut asked| {
            let (address, there) = silent(count);
            let spec = spec(&address, CheckKind::Tcp, PATIENCE);
            let targets = std::iter::successors(Some(TargetId::default()), |id| Some(id.next())).take(count);
            for target in targets {
                asked.orders.give(target, Order::Start { probe: ProbeId::default(), spec: Arc::clone(&spec) });
            }
            timeout(PATIENCE, there).await.unwrap().unwrap();
            for _ in 0..count {
                let finished = answer(&mut asked).await;
                assert!(matches!(finished.answer.outcome, ProbeOutcome::Passed { .. }), "{finished:?}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_question_voids_the_one_before_and_who_is_to_be_asked_no_more_answers_nothing() {
        with_service(async |mut asked| {
            let (address, there) = silent(2);
            let (first, second) = (TargetId::default(), TargetId::default().next());
            let (old, new) = (ProbeId::default(), ProbeId::default().next());
            for target in [first, second] {
                asked.orders.give(target, Order::Start { probe: old, spec: spec(&address, agent(), PATIENCE) });
            }
            timeout(PATIENCE, there).await.unwrap().unwrap();
            asked.orders.give(second, Order::Stop);
            asked.orders.give(first, Order::Start { probe: new, spec: spec(&address, CheckKind::Tcp, PATIENCE) });
            let finished = answer(&mut asked).await;
            assert_eq!((finished.target, finished.probe), (first, new));
            let Asked { orders, mut answers, .. } = asked;
            drop(orders);
            assert!(timeout(PATIENCE, answers.recv()).await.unwrap().is_none(), "and no other");
        })
        .await;
    }
}
