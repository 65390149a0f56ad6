//! What a server's monitor tells, and what that does to its health.
//!
//! An anomaly on the session path is a doubt. The accept path is asked at once, and is the judge: it refuses, and the server is
//! dead; it answers, and the server lives; it is silent for as long as a heartbeat may be, and the server is unreachable.

use std::time::Duration;

use crate::model::{
    BackendId, CheckError, CheckPlan, DialError, HealthState, MonoTime, OutReason, ProbeError, ProbeOutcome,
    SessionPath, WatchEnd, WatchError, WatchId, WatchNews,
};

use super::controller::{Controller, Turn};
use super::health::{Health, Verdict};
use super::meanings::Fate;
use super::pool::{Effects, Pool};
use super::recovery::{Pace, has_given_up};
use super::server::{Server, is_sign, session_of};

/// While a server is in doubt the accept path is asked this often within the time in which it must answer.
const QUESTIONS: u32 = 4;

impl Controller {
    /// A server's monitor has something to tell.
    pub(super) fn watched(&mut self, now: MonoTime, id: BackendId, watch: WatchId, news: &WatchNews, turn: &mut Turn) {
        let Some((name, pool)) = self.home_mut(id) else { return };
        let Some(member) = pool.member(id) else { return };
        let target = member.target;
        if member.server.as_ref().is_none_or(|server| server.watch != watch) {
            return;
        }
        let mut effects = Effects::default();
        let ask = pool.watched(now, id, news, &mut effects);
        // One that is given up is asked no more, whatever its monitor hears of it.
        let ask = ask && pool.member(id).is_some_and(|member| !member.has_given_up());
        turn.touched.insert(name.clone());
        self.take(now, &name, effects, turn);
        if ask {
            self.schedule.suspect(now, target);
        }
    }
}

impl Pool {
    /// Takes news of member `id` in. Says whether the accept path is to be asked at once.
    fn watched(&mut self, now: MonoTime, id: BackendId, news: &WatchNews, effects: &mut Effects) -> bool {
        if let WatchNews::TurnedAway { detail } = news {
            self.is_turned_away(id, detail);
        }
        let Some(member) = self.member_mut(id) else { return false };
        let (health, check) = (&mut member.health, &member.plan.check);
        let Some(server) = &mut member.server else { return false };
        let was_out = health.state == HealthState::Unhealthy && !health.is_slow();
        let (verdict, ask) = match news {
            WatchNews::Opened(facts) => {
                server.learn(facts);
                server.let_in();
                (health.vouch(now, check), was_out)
            }
            WatchNews::Seen(facts) => {
                server.learn(facts);
                (Verdict::None, false)
            }
            WatchNews::Late { waited, slowest } if server.is_open() => {
                let last_sign = MonoTime::from_nanos(now.as_nanos().saturating_sub(nanos(*waited)));
                server.says(SessionPath::Late, "");
                health.stalled(last_sign);
                server.begin_doubt_of_slow(now, last_sign, *slowest);
                (Verdict::None, true)
            }
            WatchNews::OnTime { .. } if server.is_open() => {
                server.says(SessionPath::Open, "");
                // It is the same session still, and would have told if its server were something else by now.
                (server.sworn, server.doubt) = (server.facts.is_some(), None);
                (health.vouch(now, check), was_out)
            }
            WatchNews::LetIn => {
                server.lets_in();
                (Verdict::None, false)
            }
            WatchNews::Late { .. } | WatchNews::OnTime { .. } | WatchNews::TurnedAway { .. } => (Verdict::None, false),
            WatchNews::Ended { end, detail } => {
                ended(now, server, health, *end, detail);
                (Verdict::None, true)
            }
            WatchNews::Failed { error, detail } => failed(now, server, health, check, *error, detail),
        };
        let is_out = health.state == HealthState::Unhealthy && !health.is_slow();
        // Where there is no way nobody answers, and it is the tunnel that is to say so.
        server.review(now, is_out || health.has_no_way);
        self.judge(now, id, &verdict, effects);
        if matches!(news, WatchNews::Opened(_) | WatchNews::Seen(_)) {
            self.measure(now, id, effects);
        }
        ask
    }

    /// Another login at member `id` than the session that is open was turned away.
    fn is_turned_away(&mut self, id: BackendId, detail: &str) {
        let Some(member) = self.member_mut(id) else { return };
        let (tier, server) = (member.tier, member.server.as_mut());
        if server.is_some_and(|server| server.turns_away(detail)) {
            let evidence = format!("it lets nobody in that is new: {detail}");
            self.lose(tier, OutReason::CheckFailed, Duration::ZERO, &evidence);
        }
    }

    /// Takes an answer of the accept path in. What a server that takes no sessions answers there is no sign of health.
    pub(super) fn accepted(&mut self, now: MonoTime, id: BackendId, outcome: &ProbeOutcome) -> Option<ProbeOutcome> {
        let server = self.member_mut(id)?.server.as_mut()?;
        server.accepts(now, outcome);
        let passes = matches!(outcome, ProbeOutcome::Passed { .. });
        let error = ProbeError::Check(CheckError::UnexpectedStatus);
        let detail = format!("it takes no sessions: {}", server.detail);
        if !passes || server.fate() != Fate::Out {
            return None;
        }
        // Before the first word of one that is starting, that it does is no verdict.
        let is_early = server.owes_first_word(now);
        Some(if is_early {
            ProbeOutcome::Inconclusive { error: None, detail }
        } else {
            ProbeOutcome::Failed { error, detail }
        })
    }

    /// Turns doubts into verdicts whose time is up, if it was not so long ago that we did not run then.
    pub(super) fn end_doubts(&mut self, now: MonoTime, effects: &mut Effects) {
        if self.cluster.is_none() {
            return;
        }
        let is_due = |server: &Server| server.verdict_at().is_some_and(|at| at <= now);
        let due = self.members().iter().filter(|member| member.server.as_ref().is_some_and(is_due));
        let due: Vec<BackendId> = due.map(|member| member.id).collect();
        for id in due {
            let Some(member) = self.member_mut(id) else { continue };
            let Some(server) = &mut member.server else { continue };
            let deadline = server.deadline();
            let Some(doubt) = server.doubt.take_if(|doubt| !doubt.is_excused(now, deadline)) else { continue };
            let silence = now.since(doubt.last_sign);
            let detail = format!("no sign of life for {silence:.1?}, neither on its session nor where it accepts");
            let verdict = member.health.prove(now, OutReason::Unreachable, detail);
            self.judge(now, id, &verdict, effects);
        }
    }

    /// When the next doubt becomes a verdict, or the next first word is waited for no longer.
    pub(super) fn next_word(&self) -> Option<MonoTime> {
        let of = |server: &Server| server.verdict_at().into_iter().chain(server.heard_by).min();
        self.members().iter().filter_map(|member| of(member.server.as_ref()?)).min()
    }
}

/// How often a server in doubt is asked.
pub(super) fn pace_in_doubt(server: Option<&Server>) -> Option<Pace> {
    server.filter(|server| server.is_in_doubt()).map(|server| Pace::every(server.deadline() / QUESTIONS))
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The session is over: the first of two refusals, for whoever lives and is asked now will answer.
fn ended(now: MonoTime, server: &mut Server, health: &mut Health, end: WatchEnd, detail: &str) {
    let was_shut = server.path() == SessionPath::Shut;
    server.says(SessionPath::Lost, detail);
    server.was_ended = was_shut || end == WatchEnd::Terminated;
    server.retries = true;
    health.suspect(now, DialError::Refused);
    let silent_since = server.doubt.map_or(now, |doubt| doubt.last_sign);
    server.begin_doubt(now, if is_sign(end) { now } else { silent_since });
}

/// No session could be opened.
fn failed(
    now: MonoTime,
    server: &mut Server,
    health: &mut Health,
    check: &CheckPlan,
    error: WatchError,
    detail: &str,
) -> (Verdict, bool) {
    // While there is no way to it, its tunnel says all that is to be said.
    let has_no_way = health.has_no_way || error == WatchError::Dial(DialError::TunnelDown);
    let session = if has_no_way { SessionPath::Untried } else { session_of(error, server.was_ended) };
    let is_news = server.session != session;
    if session == SessionPath::Untried {
        // Our own fault says nothing of the server, but that there is something to say.
        server.could_not_ask(now);
        if server.session == SessionPath::Silent {
            server.says(session, detail);
        }
        return (Verdict::None, false);
    }
    server.says(session, detail);
    server.was_ended &= matches!(session, SessionPath::Stopping | SessionPath::Lost);
    if health.has_no_way {
        return (Verdict::None, false);
    }
    if server.fate() == Fate::Out {
        server.doubt = None;
        if server.owes_first_word(now) {
            return (Verdict::None, false);
        }
        let is_alien = session == SessionPath::Alien;
        let (reason, said) =
            if is_alien { (OutReason::CheckFailed, "") } else { (OutReason::Dead, "it takes no sessions: ") };
        return (health.prove(now, reason, format!("{said}{detail}")), false);
    }
    let is_fit = health.state == HealthState::Healthy;
    match session {
        SessionPath::Refused if is_fit => {
            let error = ProbeError::Dial(DialError::Refused);
            let outcome = ProbeOutcome::Failed { error, detail: detail.to_owned() };
            server.begin_doubt(now, now);
            (health.observe(now, &outcome, check), true)
        }
        SessionPath::Lost | SessionPath::Unanswered => {
            if is_news {
                server.begin_doubt(now, now);
            }
            (Verdict::None, is_news)
        }
        SessionPath::Full | SessionPath::Denied => {
            server.doubt = None;
            (Verdict::None, false)
        }
        // Of those that are turned away and of what is no PostgreSQL, the accept path has said worse already.
        SessionPath::Refused
        | SessionPath::Stopping
        | SessionPath::Starting
        | SessionPath::Alien
        | SessionPath::Silent
        | SessionPath::Open
        | SessionPath::Shut
        | SessionPath::Late
        | SessionPath::Untried => (Verdict::None, false),
    }
}

impl Health {
    /// A session was opened, or goes on: as good as a probe that passed, but for the time that it took. Nobody would have probed
    /// what is given up.
    fn vouch(&mut self, now: MonoTime, check: &CheckPlan) -> Verdict {
        if self.is_slow() || self.has_no_way || has_given_up(self.attempts, check) {
            return Verdict::None;
        }
        (self.failures, self.hard_failures, self.attempts) = (0, 0, 0);
        (self.streak, self.first_failure) = (None, None);
        self.successes = self.successes.saturating_add(1);
        self.answers = self.answers.saturating_add(1);
        let may_return = self.may_return(now, check);
        self.forgiven = false;
        match self.state {
            HealthState::Unhealthy if may_return => self.recover(now),
            HealthState::Healthy | HealthState::Unhealthy => Verdict::None,
            HealthState::Unknown => {
                self.turn(now, HealthState::Healthy, None);
                Verdict::Healthy { downtime: None }
            }
        }
    }
}
