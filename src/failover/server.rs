//! A PostgreSQL server as its two paths show it: what each said last. What that means and what follows is written in two
//! tables ([`meanings`](super::meanings)).
//!
//! The **session path** is the monitoring session that is held open. The **accept path** is the probe, which asks for TLS
//! and needs no login. What becomes of a server's health by their words is [`watched`](super::watched)'s; who is primary is
//! [`cluster`](super::cluster)'s.
//!
//! # How long a role is believed
//!
//! A server says its role on an open session. When that is lost and no new one is let in, because the monitor is denied or the server
//! full, the role is believed without limit of time, but only for as long as the server has visibly not been down since:
//!
//! - while the accept path keeps answering: out, by whatever verdict, and the role is gone until a session tells it again;
//! - a single refusal there, or a single "cannot connect now", is proof of a restart, which may have made a standby of it: the role
//!   is gone though one refusal is no verdict;
//! - what another server claims is weighed against it by what both lines of history prove (`cluster`), not by whose word is newer: a
//!   promotion that descends from its line wins at once, and an old primary that comes back does not.
//!
//! A limit of time would take a good primary out for a password that was changed on the server alone. What is left is a restart
//! that both paths missed, between two questions: then clients that write are sent to a standby, which refuses their writes.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    AcceptPath, CheckError, DialError, Epoch, LoginError, Meaning, MonoTime, ProbeError, ProbeOutcome, Role,
    ServerFacts, SessionPath, WatchEnd, WatchError, WatchId, WatchSpec,
};

use super::doubt::Doubt;
use super::lag::Lag;
use super::meanings::{Fate, fate, meaning};

/// What makes a server of a backend.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) watch: WatchId,
    pub(super) spec: Arc<WatchSpec>,
    pub(super) session: SessionPath,
    /// Whether another login than the session that is open was turned away last.
    turns_away: bool,
    /// The server's words, or the kernel's.
    pub(super) detail: String,
    /// Whether the last session was ended in order, and nothing else was heard since.
    pub(super) was_ended: bool,
    /// Whether a session has ended, and what comes of the next login is not known yet.
    pub(super) retries: bool,
    /// What the accept path has said since: what came before that tells of another time.
    accept: AcceptPath,
    /// What it said of itself last.
    pub(super) facts: Option<ServerFacts>,
    /// Whether that still counts: it was said, or confirmed, since it was last out.
    pub(super) sworn: bool,
    pub(super) doubt: Option<Doubt>,
    /// Until when its first word is waited for; nothing once it has come, or the time was up.
    pub(super) heard_by: Option<MonoTime>,
    /// The epoch under which sessions were sent to it last; none if none ever were.
    pub(super) routed: Option<Epoch>,
    /// Sessions of epochs below this one have been cut, or are to go because it is not the primary.
    pub(super) cut: Epoch,
    pub(super) lag: Lag,
    /// Whether it is of another cluster.
    pub(super) is_foreign: bool,
    /// What its part in the cluster is.
    pub(super) part: Part,
}

/// A server's part in its cluster, as the cluster machine gave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It may take the seat: the primary; and every backend of a pool that is no cluster.
    Leads,
    /// It is the primary, and that is being written down: nobody is sent there before.
    Elected,
    /// Its first word is waited for.
    Awaited,
    /// It is a standby.
    Follows,
    /// It says that it is the primary, and is not held to be.
    Refused,
    /// It lives, and nobody knows what it is.
    Roleless,
    /// It is of another cluster.
    Foreign,
    /// Whatever it is, it lets nobody in that is new.
    Shut,
}

impl Server {
    /// One that nobody has heard of; within `way` at most there is a way to it.
    pub(super) fn new(now: MonoTime, watch: WatchId, spec: Arc<WatchSpec>, way: Duration) -> Self {
        let heard_by = Some(now + way + spec.timeout);
        Self {
            watch,
            spec,
            session: SessionPath::Silent,
            turns_away: false,
            detail: String::new(),
            was_ended: false,
            retries: false,
            accept: AcceptPath::Silent,
            facts: None,
            sworn: false,
            doubt: None,
            heard_by,
            routed: None,
            cut: Epoch::default(),
            lag: Lag { as_of: now, ..Lag::default() },
            is_foreign: false,
            part: Part::Awaited,
        }
    }

    /// The longest that it may give no sign of life.
    pub(super) fn deadline(&self) -> Duration {
        self.spec.postgres.heartbeat_deadline
    }

    /// The session path says something.
    pub(super) fn says(&mut self, session: SessionPath, detail: &str) {
        if self.session != session && session != SessionPath::Open {
            self.accept = AcceptPath::Silent;
        }
        self.session = session;
        // What comes of a login that came to no end is as open as before it.
        self.retries &= session == SessionPath::Lost;
        self.turns_away &= self.is_open();
        if !self.turns_away {
            detail.clone_into(&mut self.detail);
        }
    }

    /// A login beside the session that is open was turned away. Says whether that is news.
    pub(super) fn turns_away(&mut self, detail: &str) -> bool {
        let is_news = self.is_open() && !self.turns_away;
        if is_news {
            self.turns_away = true;
            detail.clone_into(&mut self.detail);
        }
        is_news
    }

    /// A login beside the session that is open was not turned away.
    pub(super) fn lets_in(&mut self) {
        if std::mem::take(&mut self.turns_away) {
            self.detail.clear();
        }
    }

    /// What the session path says, all in all.
    pub(super) const fn path(&self) -> SessionPath {
        if self.turns_away && self.is_open() { SessionPath::Shut } else { self.session }
    }

    /// The accept path says something.
    pub(super) fn accepts(&mut self, now: MonoTime, outcome: &ProbeOutcome) {
        let Some(accept) = accept_of(outcome) else { return self.could_not_ask(now) };
        self.accept = accept;
        self.sworn &= !(matches!(self.session, SessionPath::Denied | SessionPath::Full) && was_down(outcome));
        let (deadline, retries) = (self.deadline(), self.retries);
        if accept == AcceptPath::Answers
            && let Some(doubt) = &mut self.doubt
        {
            // A server that stops still answers here: the login that is tried again at once will say.
            doubt.answered |= !(retries && now < doubt.since + deadline);
            doubt.last_sign = now;
        }
        if self.fate() == Fate::Doubted
            && let Some(doubt) = &mut self.doubt
        {
            doubt.answered = false;
        }
    }

    /// We could not ask, by our own fault: that it did not answer meanwhile is no sign of anything.
    pub(super) fn could_not_ask(&mut self, now: MonoTime) {
        self.doubt = self.doubt.map(|doubt| doubt.from(now));
    }

    /// There is a way to it from now on.
    pub(super) fn may_be_heard(&mut self, now: MonoTime) {
        self.heard_by = self.heard_by.map(|by| by.min(now + self.spec.timeout));
    }

    /// A login proves all that the accept path could.
    pub(super) const fn let_in(&mut self) {
        self.accept = AcceptPath::Answers;
    }

    /// It says what it is. Whatever tells that has a session.
    pub(super) fn learn(&mut self, facts: &ServerFacts) {
        self.says(SessionPath::Open, "");
        self.facts = Some(facts.clone());
        (self.sworn, self.was_ended, self.doubt) = (true, false, None);
    }

    /// Something is wrong, and the last sign of life came then at the latest. What was allayed before is open again.
    pub(super) fn begin_doubt(&mut self, now: MonoTime, last_sign: MonoTime) {
        self.begin_doubt_of_slow(now, last_sign, Duration::ZERO);
    }

    /// The same of a server whose slowest answer of late took so long.
    pub(super) fn begin_doubt_of_slow(&mut self, now: MonoTime, last_sign: MonoTime, slowest: Duration) {
        self.doubt = Some(Doubt::begin(self.doubt, now, last_sign, slowest));
    }

    /// We did not run until now: whatever is doubted is judged anew from here. It stays doubted until the question that is put now is
    /// answered: who was frozen before may be so still.
    pub(super) fn acquit(&mut self, now: MonoTime) {
        self.could_not_ask(now);
        if self.fate() == Fate::Doubted {
            self.accept = AcceptPath::Silent;
        }
    }

    /// It is out, or is not: what it said before it was lost counts no more, unless its session has lasted.
    pub(super) fn review(&mut self, now: MonoTime, is_out: bool) {
        let waits = self.owes_first_word(now);
        self.heard_by = self.heard_by.filter(|_| waits);
        if is_out {
            self.doubt = None;
            self.sworn &= self.is_open();
        }
    }

    /// Whether it may still say what it is for the first time. Where nobody listens, or no PostgreSQL does, nobody will. Whatever
    /// else keeps us out says nothing of its role: one that is full, starts, or does not answer yet may be the newer primary.
    pub(super) fn owes_first_word(&self, now: MonoTime) -> bool {
        let has_spoken = self.facts.is_some() || matches!(self.session, SessionPath::Refused | SessionPath::Alien);
        !has_spoken && self.heard_by.is_some_and(|by| now < by)
    }

    /// Whether a session is open.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self.session, SessionPath::Open | SessionPath::Late)
    }

    /// What is to be done about it, by the written table.
    pub(super) const fn fate(&self) -> Fate {
        fate(self.path(), meaning(self.path(), self.accept))
    }

    /// Whether there is a doubt that nothing has allayed.
    pub(super) fn is_suspect(&self) -> bool {
        self.doubt.map_or_else(|| self.fate() == Fate::Doubted, |doubt| !doubt.answered)
    }

    /// Whether there is a doubt, allayed or not.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some() || self.fate() == Fate::Doubted
    }

    /// When the doubt becomes a verdict, if there is one.
    pub(super) fn verdict_at(&self) -> Option<MonoTime> {
        self.doubt.map(|doubt| doubt.verdict_at(self.deadline()))
    }

    /// Whether it says that it is the primary.
    pub(super) fn says_primary(&self) -> bool {
        self.role() == Some(Role::Primary)
    }

    /// Whether it says so, and is of the right cluster.
    pub(super) fn claims(&self) -> bool {
        self.says_primary() && !self.is_foreign
    }

    /// Whether it was the primary when it was last heard, be that long ago: then its sessions can write, whatever they
    /// came for, since none outlives the restart that makes a standby of it.
    pub(super) fn was_primary(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.role == Role::Primary)
    }

    /// Whether sessions may be left of those that were sent to it.
    pub(super) fn may_have_sessions(&self) -> bool {
        self.routed.is_some_and(|epoch| epoch >= self.cut)
    }

    /// Whether a standby may be read from.
    pub(super) const fn is_good_standby(&self) -> bool {
        !self.lag.is_lagging && !self.lag.is_unknown && !self.lag.has_diverged && !matches!(self.fate(), Fate::Shut)
    }

    /// Its part, as far as it can be played.
    pub(super) fn plays(&self) -> Part {
        if self.fate() == Fate::Shut { Part::Shut } else { self.part }
    }

    /// What it says it is, as far as that still counts.
    pub(super) fn role(&self) -> Option<Role> {
        self.facts.as_ref().filter(|_| self.sworn).map(|facts| facts.role)
    }

    /// Whether its first word is still waited for.
    pub(super) const fn is_awaited(&self) -> bool {
        self.heard_by.is_some()
    }

    /// What the two paths mean.
    pub(super) fn meaning(&self) -> Meaning {
        let meaning = meaning(self.path(), self.accept);
        let lives = matches!(meaning, Meaning::Alive | Meaning::Overloaded | Meaning::SessionKilled);
        if lives && self.is_foreign { Meaning::WrongSystem } else { meaning }
    }

    /// The same in words.
    pub(super) fn words(&self) -> String {
        let (meaning, session, accept) = (self.meaning(), self.path(), self.accept);
        let said = if self.detail.is_empty() { String::new() } else { format!(" ({})", self.detail) };
        format!("{meaning}: the session {session}{said}, the accept path {accept}")
    }
}

/// What a probe's answer says of the accept path; nothing if it says nothing.
fn accept_of(outcome: &ProbeOutcome) -> Option<AcceptPath> {
    let error = match outcome {
        ProbeOutcome::Passed { .. } => return Some(AcceptPath::Answers),
        ProbeOutcome::Inconclusive { .. } => return None,
        ProbeOutcome::Failed { error, .. } => *error,
    };
    match error {
        ProbeError::Dial(DialError::Refused | DialError::TargetRefused) => Some(AcceptPath::Refuses),
        ProbeError::Dial(
            DialError::TimedOut
            | DialError::Unreachable
            | DialError::Unresolved
            | DialError::TunnelDown
            | DialError::ProxyRefused
            | DialError::TargetUnreachable
            | DialError::Other,
        ) => Some(AcceptPath::Unreachable),
        ProbeError::Dial(DialError::SourceAddress | DialError::Local) => None,
        ProbeError::Check(CheckError::AnswerTimedOut | CheckError::ClosedEarly) => Some(AcceptPath::Mute),
        ProbeError::Check(CheckError::Slow) => Some(AcceptPath::Answers),
        ProbeError::Check(
            CheckError::UnexpectedStatus | CheckError::UnexpectedAnswer | CheckError::CannotConnectNow,
        ) => Some(AcceptPath::Errs),
        ProbeError::Check(
            CheckError::Malformed | CheckError::SourceRefused | CheckError::AgentDown | CheckError::CommandFailed,
        ) => Some(AcceptPath::Alien),
    }
}

/// Whether it proves that the server has been down since it was last heard of.
const fn was_down(outcome: &ProbeOutcome) -> bool {
    let ProbeOutcome::Failed { error, .. } = outcome else { return false };
    matches!(
        error,
        ProbeError::Dial(DialError::Refused | DialError::TargetRefused)
            | ProbeError::Check(CheckError::CannotConnectNow)
    )
}

/// What it says of the session path that no session could be opened; `ended` is whether the last one was ended in order.
pub(super) const fn session_of(error: WatchError, ended: bool) -> SessionPath {
    match error {
        WatchError::Dial(DialError::Refused | DialError::TargetRefused) => SessionPath::Refused,
        WatchError::Dial(DialError::SourceAddress | DialError::Local) => SessionPath::Untried,
        WatchError::Dial(
            DialError::TimedOut
            | DialError::Unreachable
            | DialError::Unresolved
            | DialError::TunnelDown
            | DialError::ProxyRefused
            | DialError::TargetUnreachable
            | DialError::Other,
        )
        | WatchError::Login(LoginError::TimedOut) => SessionPath::Unanswered,
        WatchError::Login(LoginError::CannotConnectNow) if ended => SessionPath::Stopping,
        WatchError::Login(LoginError::CannotConnectNow) => SessionPath::Starting,
        WatchError::Login(LoginError::TooManyConnections) => SessionPath::Full,
        WatchError::Login(
            LoginError::NotAuthorized | LoginError::NotPermitted | LoginError::Tls | LoginError::Other,
        ) => SessionPath::Denied,
        WatchError::Login(LoginError::NotPostgres) => SessionPath::Alien,
        WatchError::Login(LoginError::ClosedEarly) => SessionPath::Lost,
    }
}

/// Whether the end of a session was itself a sign of life: something of the host answered.
pub(super) const fn is_sign(end: WatchEnd) -> bool {
    !matches!(end, WatchEnd::Silent)
}
