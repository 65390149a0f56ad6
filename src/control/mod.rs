//! Floor 5: the only task that decides, or rather has decided: it tells the controller what happens,
//! one event a turn, and carries out its commands in order before the next.

mod asker;
mod execute;
mod givers;
mod history;
mod keep;
mod lineage;
mod probes;
mod record;
mod stall;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use crate::failover::{Controller, Event, Transition};
use crate::model::MonoTime;
use crate::probe::{Asked, IN_FLIGHT_MAX, Stalls};
use crate::routing::{Message, Registry, RouteWriter};
use crate::store::{State, StoreHandle};
use crate::sys::Clock;
use crate::telemetry::Metrics;
use crate::tunnel::{self, Tunnels, World};
use crate::watch::{Told, Watched};

use asker::Asker;
use execute::Executor;
use keep::Keeper;
use probes::Probes;
use record::Recorded;
pub use record::{RecordTo, Recorder};
use stall::{stalled_since, wake_by};

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
    /// Where it has backends asked, and where their answers come.
    pub asked: Asked,
    /// Where it has servers watched, and where the news of them come.
    pub watched: Watched,
    /// Where it has tunnels started and stopped, and where the news of them and of the network come.
    pub tunnels: Tunnels,
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
    /// Where history and whatever outlives a restart are kept.
    pub store: StoreHandle,
    /// What the last process left there; it is in force with the first plan.
    pub state: State,
}

/// How long the store may take to write the last of it, when the daemon stops.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// What woke the task.
enum Wake {
    Ask(Message),
    Tell(Event, Asker),
    Stop,
}

/// Decides until told to stop.
pub async fn run(control: Control) {
    let Control { clock, writer, registry, metrics, asked, watched, mut inbox, observer, seed, .. } = control;
    let (mut on_first_verdicts, store, mut state) = (control.on_first_verdicts, control.store, Some(control.state));
    let (mut keeper, mut kept) = Keeper::new(store.clone(), clock);
    let mut controller = Recorded::new(Controller::new(seed), control.recorder);
    let (mut probes, mut answers, mut stalls) = (Probes::new(asked.orders), asked.answers, asked.stalls);
    let (mut news, mut tunnels) = (watched.news, control.tunnels);
    let programs = (tunnels.orders, tunnels.outputs);
    let mut executor = Executor::new(clock, writer, registry, metrics, observer, watched.orders, programs);
    // The last: since when the last plan is in force.
    let (mut ready, mut moved, mut commands, mut planned) = (Vec::new(), Vec::new(), Vec::new(), None::<MonoTime>);
    loop {
        let deadline = wake_by(clock.now(), controller.next_deadline(), controller.has_open_questions());
        // Nobody comes first: answers of a crowd must not keep orders waiting.
        // Cancel-safety: the receivers keep what they have not returned; the sleep is made anew.
        let wake = tokio::select! {
            1.. = answers.recv_many(&mut ready, IN_FLIGHT_MAX) => {
                ready.iter().for_each(|finished| probes.note_source(finished));
                executor.count_checks(&controller, &ready, &mut moved);
                Wake::Tell(probes::event(&mut ready), Asker::Nobody)
            }
            Some(told) = news.recv() => Wake::Tell(watched_event(told), Asker::Nobody),
            Some(told) = tunnels.news.recv() => Wake::Tell(tunnel_event(told), Asker::Nobody),
            Some(world) = tunnels.world.recv() => Wake::Tell(world_event(&world), Asker::Nobody),
            Some(kept) = kept.recv() => Wake::Tell(kept, Asker::Nobody),
            message = inbox.recv() => message.map_or(Wake::Stop, wake),
            () = sleep_until(clock.instant(deadline.unwrap_or_default())), if deadline.is_some() => {
                Wake::Tell(instead_of_a_tick(&mut news), Asker::Nobody)
            }
        };
        let now = clock.now();
        if let Some(since) = stood_still(now, deadline, planned, &mut stalls) {
            // Before all that has come meanwhile is judged.
            controller.handle(now, Event::WasStalled { since }, &mut commands);
            let reports = executor.carry_out(now, &mut commands, &probes, &mut keeper);
            executor.show(&mut controller);
            let left = keeper.after(&controller, now, &reports, false);
            keeper.write(left);
        }
        let (event, asker) = match wake {
            Wake::Stop => break,
            Wake::Ask(question) => {
                answer(&controller, &keeper, &clock, question);
                continue;
            }
            Wake::Tell(event, asker) => (event, asker),
        };
        let Some(asker) = refuse(&controller, now, &event, asker) else { continue };
        let replaced = probes.adopt_of(&event);
        if replaced && let Some(state) = state.take() {
            let pools = keeper.recall(now, &state);
            // Nothing is to be done yet: it is in force with the plan.
            controller.handle(now, Event::Restored { pools }, &mut commands);
        }
        // What sessions have moved by then is part of what a failed check is judged by.
        moved.drain(..).for_each(|event| controller.handle(now, event, &mut commands));
        controller.handle(now, event, &mut commands);
        if replaced {
            executor.adopt(&controller);
        }
        let reports = executor.carry_out(now, &mut commands, &probes, &mut keeper);
        executor.show(&mut controller);
        controller.hand_over();
        let left = keeper.after(&controller, now, &reports, replaced);
        asker.answer(&mut keeper, left, reports);
        planned = if replaced { Some(clock.now()) } else { planned };
        planned.inspect(|_| tell_first_verdicts(&controller, &mut on_first_verdicts));
    }
    close(&mut keeper, &controller, clock.now(), &store).await;
}

/// Since when this thread or the one that asks did not run, if something is due that is not to be judged by it.
fn stood_still(
    now: MonoTime,
    due: Option<MonoTime>,
    planned: Option<MonoTime>,
    stalls: &mut Stalls,
) -> Option<MonoTime> {
    let asking = due.filter(|&due| due <= now).and_then(|_| stalls.news(now));
    stalled_since(now, due, planned.unwrap_or_default()).or(asking)
}

/// Time passes in every turn: what a monitor has told comes before what is due is judged without it.
fn instead_of_a_tick(news: &mut mpsc::Receiver<Told>) -> Event {
    news.try_recv().map_or(Event::Tick, watched_event)
}

fn watched_event(told: Told) -> Event {
    let Told { backend, watch, news } = told;
    Event::Watched { backend, watch, news }
}

fn world_event(world: &World) -> Event {
    Event::WorldChanged { what: world.to_string() }
}

fn tunnel_event(told: tunnel::Told) -> Event {
    let tunnel::Told { backend, run, news } = told;
    Event::Tunnel { backend, run, news }
}

/// Tells, once, that every backend has its first verdict. Looks at every backend, so only for as long as it is of interest.
fn tell_first_verdicts(controller: &Controller, tell: &mut Option<Box<dyn FnOnce() + Send>>) {
    if tell.is_some()
        && controller.has_first_verdicts()
        && let Some(tell) = tell.take()
    {
        tell();
    }
}

/// Has the last of it written, for a while.
async fn close(keeper: &mut Keeper, controller: &Controller, now: MonoTime, store: &StoreHandle) {
    keeper.end(controller, now);
    let has_disk = store.figures().is_durable;
    if !timeout(CLOSE_WITHIN, store.close()).await.unwrap_or(false) && has_disk {
        tracing::warn!("not everything that should outlive the daemon could be written");
    }
}

fn wake(message: Message) -> Wake {
    match message {
        Message::DialFailed { backend, epoch, error } => {
            Wake::Tell(Event::DialFailed { backend, epoch, error }, Asker::Nobody)
        }
        Message::EndedEarly { backend, epoch, live } => {
            // In this order: one that ends after the first look is told of the next time.
            let (sessions, answered) = (live.early_ends.take(), live.has_answered());
            Wake::Tell(Event::EndedEarly { backend, epoch, sessions, answered }, Asker::Nobody)
        }
        Message::DataStalled { backend, epoch, silent } => {
            Wake::Tell(Event::DataStalled { backend, epoch, silent }, Asker::Nobody)
        }
        Message::Replace { plan, actor, reply } => {
            Wake::Tell(Event::PlanReplaced { plan, actor }, Asker::Planner(reply))
        }
        Message::Order { actor, order, reply } => {
            let asker = Asker::Operator { pool: order.pool().clone(), is_kept: order.is_kept(), reply };
            Wake::Tell(Event::Ordered { actor, order }, asker)
        }
        Message::Stop => Wake::Stop,
        Message::Pools(_) | Message::Pool(..) | Message::Evaluate(..) | Message::Explain(..) => Wake::Ask(message),
    }
}

/// Says no to an order that cannot be carried out; returns who waits for anything else.
fn refuse(controller: &Controller, now: MonoTime, event: &Event, asker: Asker) -> Option<Asker> {
    let Event::Ordered { order, .. } = event else { return Some(asker) };
    match (controller.refusal(now, order), asker) {
        (Some(refusal), Asker::Operator { reply, .. }) => {
            // Whoever asked may have gone meanwhile.
            drop(reply.send(Err(refusal)));
            None
        }
        (_, asker) => Some(asker),
    }
}

/// Answers a question that changes nothing. An asker that has gone meanwhile is no error.
fn answer(controller: &Controller, keeper: &Keeper, clock: &Clock, question: Message) {
    let (now, givers) = (clock.now(), keeper.givers());
    match question {
        Message::Pools(reply) => {
            let statuses = controller.pool_statuses(now).into_iter().map(|status| givers.tell(status));
            drop(reply.send(statuses.collect()));
        }
        Message::Pool(name, reply) => {
            drop(reply.send(controller.pool_status(now, &name).map(|status| givers.tell(status))));
        }
        Message::Evaluate(name, reply) => drop(reply.send(controller.evaluate(now, &name))),
        Message::Explain(name, reply) => {
            drop(reply.send(controller.explain(now, &name).map(|explanation| givers.explain(explanation))));
        }
        Message::DialFailed { .. }
        | Message::EndedEarly { .. }
        | Message::DataStalled { .. }
        | Message::Order { .. }
        | Message::Replace { .. }
        | Message::Stop => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::model::{BackendId, WatchId, WatchNews};

    use super::*;

    #[test]
    fn what_waits_to_be_heard_comes_before_the_tick() {
        let (sender, mut news) = mpsc::channel(4);
        for backend in [BackendId(1), BackendId(2)] {
            sender.try_send(Told { backend, watch: WatchId(7), news: WatchNews::LetIn }).unwrap();
        }
        for expected in [1, 2] {
            let event = instead_of_a_tick(&mut news);
            assert!(matches!(event, Event::Watched { backend: BackendId(id), .. } if id == expected), "{event:?}");
        }
        assert_eq!(instead_of_a_tick(&mut news), Event::Tick);
    }
}
