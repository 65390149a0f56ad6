//! Tunnels in their place: what a step of one does to its backend, to its pool, and to whoever is asked; and whom people's
//! orders, news and plans are for.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{
    AdminState, BackendId, BackendName, DialError, HealthState, MonoTime, OutReason, PoolName, ProbeError,
    ProbeOutcome, RunId, TunnelCause, TunnelNews, TunnelState, TunnelStatus,
};

use super::change::Change;
use super::controller::{Controller, Turn};
use super::event::Command;
use super::health::Verdict;
use super::member::Member;
use super::order::{Refusal, TunnelOrder};
use super::phase::{Act, Closed, Step};
use super::pool::{Effects, Pool};
use super::schedule::Again;
use super::tunnel::{STOPPED, Tunnel};

/// Tunnels that come with one plan are started within this time for each of them.
const FIRST_START_SPREAD: Duration = Duration::from_millis(50);

/// And within this at most.
const FIRST_START_MAX: Duration = Duration::from_secs(1);

/// The longest text of a program that is kept, in characters.
const TEXT_MAX: usize = 400;

impl Controller {
    /// A run of a tunnel has something to tell.
    pub(super) fn tunnel_told(
        &mut self,
        now: MonoTime,
        backend: BackendId,
        run: RunId,
        news: &TunnelNews,
        turn: &mut Turn,
    ) {
        let Some((name, pool)) = self.home_mut(backend) else { return };
        let Some(member) = pool.member(backend) else { return };
        if member.tunnel.as_ref().is_none_or(|tunnel| tunnel.run() != run) {
            return;
        }
        let (unchecked, news) = (!member.is_checked(), shortened(news));
        let mut effects = Effects::default();
        pool.drive(now, backend, &mut effects, |tunnel| tunnel.told(now, &news, unchecked));
        turn.touched.insert(name.clone());
        self.take(now, &name, effects, turn);
    }

    /// The network is another, or the machine was asleep.
    pub(super) fn world_changed(&mut self, now: MonoTime, turn: &mut Turn) {
        let names: Vec<PoolName> = self.pools.keys().cloned().collect();
        for name in names {
            let Some(pool) = self.pools.get_mut(&name).filter(|pool| pool.has_tunnels()) else { continue };
            let mut effects = Effects::default();
            pool.nudge_silences(now);
            for member in &mut pool.members {
                let gave_up = member.has_given_up();
                let Some(tunnel) = member.tunnel.as_deref_mut() else { continue };
                if tunnel.phase.is_open() && !gave_up {
                    effects.suspects.push((member.target, Again::IfOlder));
                }
                tunnel.nudge(now);
            }
            turn.touched.insert(name.clone());
            self.take(now, &name, effects, turn);
        }
    }

    /// So many bytes have been moved by all sessions of `backend` by now.
    pub(super) fn tunnel_moved(&mut self, backend: BackendId, bytes: u64) {
        let member = self.home_mut(backend).and_then(|(_, pool)| pool.member_mut(backend));
        let tunnel = member.and_then(|member| member.tunnel.as_deref_mut());
        tunnel.into_iter().for_each(|tunnel| tunnel.checks.moved(bytes));
    }

    /// Carries out an order about a tunnel, which is not refused.
    pub(super) fn order_tunnel(
        &mut self,
        now: MonoTime,
        pool: &PoolName,
        backend: &BackendName,
        wanted: TunnelOrder,
        turn: &mut Turn,
    ) {
        let Some(id) = self.named(pool, backend) else { return };
        let Some((name, pool)) = self.home_mut(id) else { return };
        let mut effects = Effects::default();
        pool.drive(now, id, &mut effects, |tunnel| match wanted {
            TunnelOrder::Stop => tunnel.stop(now),
            TunnelOrder::Start => tunnel.start_anew(now, TunnelCause::Ordered, "an operator has it started"),
            TunnelOrder::Restart => tunnel.start_anew(now, TunnelCause::Ordered, "an operator has it started anew"),
        });
        turn.touched.insert(name.clone());
        self.take(now, &name, effects, turn);
    }

    /// The backends that tunnels lead to.
    pub(super) fn tunnelled(&self) -> BTreeSet<BackendId> {
        let members = self.pools.values().flat_map(Pool::members);
        members.filter(|member| member.tunnel.is_some()).map(|member| member.id).collect()
    }

    /// After a new plan: tunnels that came with it are started, those that are planned otherwise anew, and those that led to
    /// backends `before` it, and lead to none now, are stopped.
    pub(super) fn replan_tunnels(&mut self, now: MonoTime, before: &BTreeSet<BackendId>, turn: &mut Turn) {
        let after = self.tunnelled();
        let stop = |&backend: &BackendId| Command::StopTunnel { backend };
        turn.tunnels.extend(before.difference(&after).map(stop));
        let fresh: BTreeSet<BackendId> = after.difference(before).copied().collect();
        let all = u32::try_from(fresh.len()).unwrap_or(u32::MAX);
        let spread = FIRST_START_SPREAD.saturating_mul(all).min(FIRST_START_MAX);
        let names: Vec<PoolName> = self.pools.keys().cloned().collect();
        for name in names {
            let Some(pool) = self.pools.get_mut(&name).filter(|pool| pool.has_tunnels()) else { continue };
            let mut effects = Effects::default();
            for id in pool.tunnels() {
                let plan = pool.member(id).and_then(|member| member.plan.tunnel.clone());
                if fresh.contains(&id) {
                    let tunnel = pool.member_mut(id).and_then(|member| member.tunnel.as_deref_mut());
                    tunnel.into_iter().filter(|_| all > 1).for_each(|tunnel| tunnel.spread(now, spread));
                } else if let Some(plan) = plan {
                    pool.drive(now, id, &mut effects, |tunnel| tunnel.replan(now, &plan));
                }
            }
            self.take(now, &name, effects, turn);
        }
    }
}

impl Pool {
    /// The members that tunnels lead to.
    fn tunnels(&self) -> Vec<BackendId> {
        self.members.iter().filter(|member| member.tunnel.is_some()).map(|member| member.id).collect()
    }

    fn has_tunnels(&self) -> bool {
        self.members.iter().any(|member| member.tunnel.is_some())
    }

    /// Takes a step with the tunnel of member `id`, and does what follows from it.
    pub(super) fn drive(
        &mut self,
        now: MonoTime,
        id: BackendId,
        effects: &mut Effects,
        step: impl FnOnce(&mut Tunnel) -> Step,
    ) {
        let Some(member) = self.member_mut(id) else { return };
        let (health, target) = (&mut member.health, member.target);
        let Some(tunnel) = member.tunnel.as_deref_mut() else { return };
        let was_open = tunnel.phase.is_open();
        let Step { act, closed } = step(tunnel);
        let is_open = tunnel.phase.is_open();
        effects.tunnels.extend(act.map(|act| match act {
            Act::Start => Command::StartTunnel { backend: id, run: tunnel.run(), plan: tunnel.plan.clone() },
            Act::Stop => Command::StopTunnel { backend: id },
        }));
        let is_first = act == Some(Act::Start) && tunnel.restarts() == 0 && tunnel.cause == TunnelCause::Planned;
        if is_first {
            let told = told(now, &member.plan.name, tunnel);
            effects.changes.push(told);
        }
        if was_open != is_open {
            effects.ways.push((target, is_open));
        }
        health.has_no_way = !is_open;
        self.review_tunnel(now, id, effects);
        match closed {
            Some(Closed::Lost(words)) => self.way_is_lost(now, id, &words, effects),
            Some(Closed::Ordered(words)) => self.way_is_shut(now, id, words, effects),
            None if is_open && !was_open => self.way_is_open(now, id, effects),
            None => {}
        }
        self.member_mut(id).into_iter().for_each(|member| member.settle(now));
    }

    /// The way to member `id` is open: it is asked at once.
    fn way_is_open(&mut self, now: MonoTime, id: BackendId, effects: &mut Effects) {
        let Some(member) = self.member_mut(id) else { return };
        member.health.attempts = 0;
        member.server.iter_mut().for_each(|server| server.may_be_heard(now));
        if !member.is_checked() && member.health.state == HealthState::Unhealthy {
            member.health.clear();
            let verdict = member.health.recover(now);
            self.judge(now, id, &verdict, effects);
        }
    }

    /// There is no way to member `id`, which is proof: nobody need be asked.
    fn way_is_lost(&mut self, now: MonoTime, id: BackendId, words: &str, effects: &mut Effects) {
        let detail = format!("its tunnel is not up: {words}");
        let Some(member) = self.member_mut(id) else { return };
        if let Some(server) = &mut member.server {
            let error = ProbeError::Dial(DialError::Refused);
            server.accepts(now, &ProbeOutcome::Failed { error, detail: detail.clone() });
        }
        let verdict = member.health.prove(now, OutReason::Dead, detail.clone());
        if verdict == Verdict::None {
            member.health.note_error(now, detail);
        }
        (member.health.answers, member.health.successes) = (0, 0);
        member.server.iter_mut().for_each(|server| server.review(now, true));
        self.judge(now, id, &verdict, effects);
    }

    /// People want the way to member `id` closed: what was known of it is known no more.
    fn way_is_shut(&mut self, now: MonoTime, id: BackendId, words: &str, effects: &mut Effects) {
        let Some(member) = self.member_mut(id) else { return };
        let was_known = member.health.state != HealthState::Unknown;
        member.health.forget(now);
        member.server.iter_mut().for_each(|server| server.review(now, true));
        member.settle(now);
        let tier = member.tier;
        if was_known {
            self.lose(tier, OutReason::Drained, Duration::ZERO, words);
            self.evict(id, OutReason::Drained, effects);
        }
    }

    /// Brings the tunnel of member `id` in line with its backend's health, and tells people if it fares otherwise than before.
    pub(super) fn review_tunnel(&mut self, now: MonoTime, id: BackendId, effects: &mut Effects) {
        let Some(member) = self.member(id) else { return };
        let health = &member.health;
        let is_healthy = health.state == HealthState::Healthy || health.is_slow();
        let (cause, words) = match self.silence(member) {
            Some(words) => (TunnelCause::TargetDown, words.to_owned()),
            None => (TunnelCause::ChecksFailed, health.last_error.clone().unwrap_or_default()),
        };
        let Some(member) = self.member_mut(id) else { return };
        let Some(tunnel) = member.tunnel.as_deref_mut() else { return };
        tunnel.verify(now, is_healthy, cause, &words);
        let state = tunnel.fares();
        if std::mem::replace(&mut tunnel.state, state) != state {
            tunnel.since = now;
            let told = told(now, &member.plan.name, tunnel);
            effects.changes.push(told);
        }
    }

    /// Lets the time of every tunnel pass, after verdicts that need no evidence were given.
    pub(super) fn pass_tunnels(&mut self, now: MonoTime, effects: &mut Effects) {
        if !self.has_tunnels() && self.targets.is_empty() {
            return;
        }
        self.pass_silences(now, effects);
        for id in self.tunnels() {
            let is_due = |tunnel: &Tunnel| tunnel.deadline().is_some_and(|at| at <= now);
            if self.member(id).and_then(|member| member.tunnel.as_deref()).is_some_and(is_due) {
                if self.is_behind_silence(now, id, effects) {
                    let tunnel = self.member_mut(id).and_then(|member| member.tunnel.as_deref_mut());
                    tunnel.into_iter().for_each(|tunnel| tunnel.has_time(now));
                }
                self.drive(now, id, effects, |tunnel| tunnel.pass_time(now));
            }
            self.review_tunnel(now, id, effects);
        }
    }

    /// We did not run for so long. Says whether that matters to a tunnel.
    pub(super) fn excuse_tunnels(&mut self, lasted: Duration) -> bool {
        let tunnels = self.members.iter_mut().filter_map(|member| member.tunnel.as_deref_mut());
        tunnels.map(|tunnel| tunnel.excuse(lasted)).count() > 0
    }

    /// When a tunnel wants to be driven though nothing happens.
    pub(super) fn next_of_tunnels(&self) -> Option<MonoTime> {
        let own = self.members.iter().filter_map(|member| member.tunnel.as_ref()?.deadline()).min();
        own.into_iter().chain(self.next_of_silences()).min()
    }

    /// Why `order` for the tunnel of `backend` cannot be carried out.
    pub(super) fn refuses_tunnel(&self, backend: &BackendName, wanted: TunnelOrder) -> Option<Refusal> {
        let (name, member) = (&self.plan.name, self.named(backend)?);
        let of = format!("the tunnel of backend {backend} of pool {name}");
        let Some(tunnel) = &member.tunnel else {
            return Some(Refusal::Conflict(format!("backend {backend} of pool {name} has no tunnel")));
        };
        let why = match wanted {
            TunnelOrder::Start if tunnel.phase.is_verified() => "is up already",
            TunnelOrder::Start if tunnel.phase.is_wanted_up() => "is being set up already",
            TunnelOrder::Stop if tunnel.phase.is_stopped() => "is stopped already",
            TunnelOrder::Start | TunnelOrder::Stop | TunnelOrder::Restart => return None,
        };
        Some(Refusal::Conflict(format!("{of} {why}")))
    }
}

impl Member {
    /// Whether an operator has stopped the tunnel that leads to it.
    pub(super) fn is_cut_off(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.phase.is_stopped())
    }

    /// What people say as far as new sessions go: whoever has stopped the tunnel wants none to come.
    pub(super) fn people_say(&self) -> AdminState {
        if self.is_cut_off() { AdminState::Maintenance } else { self.admin }
    }

    /// The tunnel that leads to it, as it stands.
    pub(super) fn tunnel_status(&self) -> Option<TunnelStatus> {
        let tunnel = self.tunnel.as_deref()?;
        let plan = &tunnel.plan;
        Some(TunnelStatus {
            state: tunnel.state,
            since: tunnel.since,
            provider: plan.provider.clone(),
            attach: plan.via.attach,
            pid: tunnel.pid(),
            restarts: tunnel.restarts(),
            up_since: tunnel.phase.up_since(),
            next_retry: tunnel.phase.next_retry(),
            reason: (tunnel.state != TunnelState::Connected).then(|| reason(tunnel)).flatten(),
        })
    }

    /// How the tunnel that leads to it fares, in words.
    pub(super) fn tunnel_words(&self) -> Option<String> {
        let tunnel = self.tunnel.as_deref()?;
        let (name, plan) = (&self.plan.name, &tunnel.plan);
        let why = reason(tunnel).filter(|_| tunnel.state != TunnelState::Connected);
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        Some(format!(
            "{name} is reached through {} ({}), which is {}{why}",
            plan.provider, plan.via.target, tunnel.state
        ))
    }
}

/// Why it is not connected, in words.
fn reason(tunnel: &Tunnel) -> Option<String> {
    if tunnel.phase.is_stopped() {
        return Some(STOPPED.to_owned());
    }
    (!tunnel.words.is_empty()).then(|| tunnel.words.clone())
}

/// How it fares, as it is told.
fn told(now: MonoTime, backend: &BackendName, tunnel: &Tunnel) -> Change {
    let plan = &tunnel.plan;
    Change::Tunnel {
        backend: backend.clone(),
        state: tunnel.fares(),
        reason: tunnel.cause,
        detail: (!tunnel.words.is_empty()).then(|| tunnel.words.clone()),
        provider: plan.provider.clone(),
        attach: plan.via.attach,
        run: tunnel.run(),
        pid: tunnel.pid(),
        next_retry: tunnel.phase.next_retry().map(|at| at.since(now)),
    }
}

/// The same, its texts no longer than anybody reads.
fn shortened(news: &TunnelNews) -> TunnelNews {
    let short = |text: &str| text.chars().take(TEXT_MAX).collect::<String>();
    match news {
        TunnelNews::Fatal { line } => TunnelNews::Fatal { line: short(line) },
        TunnelNews::Lost { detail } => TunnelNews::Lost { detail: short(detail) },
        TunnelNews::Ended { how, detail } => TunnelNews::Ended { how: *how, detail: short(detail) },
        TunnelNews::Started { .. } | TunnelNews::Open => news.clone(),
    }
}
