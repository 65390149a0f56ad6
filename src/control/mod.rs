//! Floor 5: the only task that decides, or rather has decided: it tells the controller what happens,
//! one event a turn, and carries out its commands in order before the next.

mod execute;
mod probes;
mod record;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use crate::failover::{Controller, Event, Transition};
use crate::model::Actor;
use crate::routing::{Message, Registry, RouteWriter};
use crate::sys::Clock;
use crate::telemetry::Metrics;

use execute::Executor;
use probes::Probes;
use record::Recorded;
pub use record::{RecordTo, Recorder};

/// Is told of each transition, on the control thread: it must not block.
pub type Observer = Box<dyn FnMut(&Transition) + Send>;

/// What the control task works with.
pub struct Control {
    /// The time.
    pub clock: Clock,
    /// Where tables are published.
    pub writer: RouteWriter,
    /// Where sessions are fenced.
    pub registry: Registry,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// What it is told and asked.
    pub inbox: mpsc::Receiver<Message>,
    /// Who is told of transitions besides the log.
    pub observer: Option<Observer>,
    /// Called once, when every backend has its first verdict.
    pub on_first_verdicts: Option<Box<dyn FnOnce() + Send>>,
    /// What spreads the probes in time.
    pub seed: u64,
    /// Where each turn is written down, if anywhere.
    pub recorder: Option<Recorder>,
}

/// What woke the task.
enum Wake {
    Event(Event),
    Ask(Message),
    Replace(Event, oneshot::Sender<()>),
    Stop,
}

/// Decides until told to stop.
pub async fn run(control: Control) {
    let Control { clock, writer, registry, metrics, mut inbox, observer, mut on_first_verdicts, seed, recorder } =
        control;
    let mut controller = Recorded::new(Controller::new(seed), recorder);
    let (mut probes, mut answers) = Probes::new(clock);
    let mut executor = Executor::new(clock, writer, registry, metrics, observer);
    let mut commands = Vec::new();
    let mut planned = false;
    loop {
        let deadline = controller.next_deadline();
        // Cancel-safety: both receivers keep what they have not returned; the sleep is made anew.
        let wake = tokio::select! {
            biased;
            Some(answer) = answers.recv() => {
                executor.count_check(controller.subscribers(answer.target), &answer.outcome, answer.time);
                Wake::Event(answer.event())
            }
            message = inbox.recv() => message.map_or(Wake::Stop, wake),
            () = sleep_until(clock.instant(deadline.unwrap_or_default())), if deadline.is_some() => {
                Wake::Event(Event::Tick)
            }
        };
        let now = clock.now();
        let (event, done) = match wake {
            Wake::Stop => return,
            Wake::Ask(question) => {
                answer(&controller, &clock, question);
                continue;
            }
            Wake::Event(event) => (event, None),
            Wake::Replace(event, done) => (event, Some(done)),
        };
        let replaced = matches!(event, Event::PlanReplaced { .. });
        controller.handle(now, event, &mut commands);
        if replaced {
            executor.adopt(&controller);
            planned = true;
        }
        executor.carry_out(now, &mut commands, &mut probes);
        controller.hand_over();
        if let Some(done) = done {
            // Whoever asked may have gone meanwhile.
            let _asker_gone = done.send(());
        }
        if planned
            && controller.has_first_verdicts()
            && let Some(ready) = on_first_verdicts.take()
        {
            ready();
        }
    }
}

fn wake(message: Message) -> Wake {
    match message {
        Message::DialFailed { backend, epoch, error } => Wake::Event(Event::DialFailed { backend, epoch, error }),
        Message::Replace(plan, done) => Wake::Replace(Event::PlanReplaced { plan, actor: Actor::changeover() }, done),
        Message::Stop => Wake::Stop,
        Message::Pools(_) | Message::Pool(..) => Wake::Ask(message),
    }
}

/// Answers a question that changes nothing. An asker that has gone meanwhile is no error.
fn answer(controller: &Controller, clock: &Clock, question: Message) {
    match question {
        Message::Pools(reply) => drop(reply.send(controller.pool_statuses(clock.now()))),
        Message::Pool(name, reply) => drop(reply.send(controller.pool_status(clock.now(), &name))),
        Message::DialFailed { .. } | Message::Replace(..) | Message::Stop => {}
    }
}
