//! An open session: heartbeats and facts by turns, and a judgement of how late they are.
//!
//! Most heartbeats are quiet (`session`): one goes out at a tick, and its answer, which wakes nobody, is looked for at the next one,
//! where the next heartbeat goes out too. So a beat costs one wake, which all servers that are watched at one pace share. What is not
//! there at the first look is waited for exactly, by the alarm. How long answers take is learnt from the heartbeats that are exact
//! from their beginning: each eighth, so that the sample is a fair one, and the one after each that was not there when it was
//! looked for. A heartbeat from whose tick to the next an answer may become late is always exact.

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Sleep, sleep, sleep_until};

use crate::model::{MonoTime, PostgresPlan, WatchEnd, WatchNews};
use crate::sys::{Clock, Ticker};

use super::facts::{self, Known, NoFacts};
use super::judge::Judge;
use super::login::Kind;
use super::session::{Over, Session};

/// From one question for a server's facts to the next.
const FACTS_EVERY: Duration = Duration::from_millis(200);
/// The same for a server that does not report its role by itself (before version 14).
const ROLE_EVERY: Duration = Duration::from_millis(50);
/// Facts are several questions, and some of them take a snapshot: they may take so many times as long as a heartbeat.
const FACTS_MAY_TAKE: u32 = 4;
/// A session is given up after so many times the deadline at which its server is given up.
const SILENT_AFTER: u32 = 4;
/// After an exact heartbeat so many are quiet.
const QUIET: u32 = 7;

/// What an open session is judged by.
pub(super) struct Talk<'a, N> {
    clock: Clock,
    plan: &'a PostgresPlan,
    judge: Judge,
    ticker: &'a mut Ticker,
    /// Rings when an answer is late. Set only where the tick of the next heartbeat, which comes anyway, does not say so in time.
    alarm: Pin<Box<Sleep>>,
    /// So many heartbeats are quiet until one is exact.
    quiet: u32,
    /// What others have found out, to be told with the next heartbeat.
    heard: &'a Cell<Option<WatchNews>>,
    news: &'a mut N,
}

/// An exchange that is waited for.
struct Wait {
    /// When it was begun.
    since: MonoTime,
    /// It may take so many times as long as a heartbeat.
    times: u32,
    /// Whether its time counts for what others should take.
    teaches: bool,
    /// Whether a tick has gone by since it was begun.
    has_ticked: bool,
}

impl<'a, N: AsyncFnMut(WatchNews)> Talk<'a, N> {
    pub(super) fn new(
        clock: Clock,
        plan: &'a PostgresPlan,
        ticker: &'a mut Ticker,
        heard: &'a Cell<Option<WatchNews>>,
        news: &'a mut N,
    ) -> Self {
        let alarm = Box::pin(sleep_until(clock.instant(clock.now())));
        Self { clock, plan, judge: Judge::new(plan.heartbeat_deadline), ticker, alarm, quiet: 0, heard, news }
    }

    /// Talks until the session is over.
    pub(super) async fn run(&mut self, session: &mut Session, kind: Kind, known: &mut Known) -> Over {
        let facts_every = if session.reported.hot_standby.is_some() { FACTS_EVERY } else { ROLE_EVERY };
        let mut facts_due = self.clock.now() + facts_every;
        loop {
            if let Some(heard) = self.heard.take() {
                (self.news)(heard).await;
            }
            let begun = self.clock.now();
            let reported = session.reported;
            let spoke = if begun < facts_due {
                self.beat(begun, session).await
            } else {
                facts_due = begun + facts_every;
                self.facts(begun, session, kind, known).await
            };
            match spoke {
                Ok(()) => {}
                Err(NoFacts::Over(over)) => return over,
                // It lives, and what it said before stays true until it says otherwise.
                Err(NoFacts::Told(told)) => tracing::debug!(%told, "a server does not tell its facts"),
                Err(NoFacts::Strange(what)) => {
                    let detail = format!("the answer to {what} is not what was asked");
                    return Over { end: WatchEnd::Malformed, detail };
                }
            }
            if session.reported == reported
                && let Err(over) = self.rest(session).await
            {
                return over;
            }
            if session.owes()
                && let Err(over) = self.collect(begun, session).await
            {
                return over;
            }
            if session.reported != reported {
                // Its role: the rest of it is asked for now.
                facts_due = self.clock.now();
            }
        }
    }

    async fn facts(
        &mut self,
        begun: MonoTime,
        session: &mut Session,
        kind: Kind,
        known: &mut Known,
    ) -> Result<(), NoFacts> {
        let wait = Wait { since: begun, times: FACTS_MAY_TAKE, teaches: false, has_ticked: false };
        let facts = self.judged(wait, facts::ask(session, kind, known)).await?;
        (self.news)(WatchNews::Seen(facts)).await;
        Ok(())
    }

    /// One heartbeat, whose answer is there if it is an exact one.
    async fn beat(&mut self, begun: MonoTime, session: &mut Session) -> Result<(), NoFacts> {
        if self.quiet > 0 && session.can_be_quiet() && self.plan.heartbeat < self.judge.soft() {
            self.quiet -= 1;
            return Ok(session.beat_quietly().await?);
        }
        self.quiet = QUIET;
        let wait = Wait { since: begun, times: 1, teaches: true, has_ticked: false };
        self.judged(wait, async { Ok(session.beat().await?) }).await
    }

    /// Waits for the next tick, or until the server has something to report.
    async fn rest(&mut self, session: &mut Session) -> Result<(), Over> {
        // Cancel-safety: what was read stays in the session; a tick is taken or left.
        tokio::select! {
            biased;
            rested = session.rest() => rested,
            () = tick(self.ticker, self.plan.heartbeat) => Ok(()),
        }
    }

    /// Has the answer to the quiet heartbeat that was sent at `sent`: it is there, or waited for.
    async fn collect(&mut self, sent: MonoTime, session: &mut Session) -> Result<(), Over> {
        session.look().await?;
        if !session.owes() {
            return Ok(());
        }
        self.quiet = 0;
        let wait = Wait { since: sent, times: 1, teaches: false, has_ticked: true };
        let answered = self.judged(wait, async { Ok(session.answer().await?) }).await;
        match answered {
            Ok(()) => Ok(()),
            Err(NoFacts::Over(over)) => Err(over),
            // A heartbeat asks nothing.
            Err(NoFacts::Told(_) | NoFacts::Strange(_)) => Ok(()),
        }
    }

    /// Waits for `exchange`, and says so when it takes longer than it should.
    async fn judged<T>(
        &mut self,
        wait: Wait,
        exchange: impl Future<Output = Result<T, NoFacts>>,
    ) -> Result<T, NoFacts> {
        let soft = (self.judge.soft() * wait.times).min(self.plan.heartbeat_deadline);
        let silent = self.plan.heartbeat_deadline * SILENT_AFTER;
        let mut since = wait.since;
        let (mut is_late, mut was_us) = (false, false);
        let mut is_armed = wait.has_ticked || self.plan.heartbeat >= soft;
        tokio::pin!(exchange);
        loop {
            let due = since + if is_late { silent } else { soft };
            if is_armed {
                self.alarm.as_mut().reset(self.clock.instant(due));
            }
            // Cancel-safety: the exchange is kept from turn to turn, and dropped with its session.
            tokio::select! {
                biased;
                done = &mut exchange => {
                    // The end of a session is no answer, and no sign of life.
                    if matches!(done, Ok(_) | Err(NoFacts::Told(_))) {
                        let now = self.clock.now();
                        let took = now.since(since);
                        if wait.times == 1 && !was_us {
                            self.judge.came(now, took);
                        }
                        if is_late {
                            (self.news)(WatchNews::OnTime { took }).await;
                        }
                        // An answer that took longer than it may, of which the alarm did not tell: we came to it late.
                        if wait.teaches && !was_us && (is_late || took <= soft) {
                            self.judge.answered(took);
                        }
                    }
                    return done;
                }
                () = tick(self.ticker, self.plan.heartbeat), if !is_armed => is_armed = true,
                () = &mut self.alarm, if is_armed => {
                    let now = self.clock.now();
                    if was_late_ourselves(now, due, soft) {
                        // The answer may be there since long. It has all of its time again, counted from when we look.
                        was_us = true;
                        since = now;
                    } else if is_late {
                        let detail = format!("no answer to a heartbeat within {:.1?}", now.since(since));
                        return Err(Over { end: WatchEnd::Silent, detail }.into());
                    } else {
                        is_late = true;
                        let slowest = self.judge.slowest(now);
                        (self.news)(WatchNews::Late { waited: now.since(since), slowest }).await;
                    }
                }
            }
        }
    }
}

/// Waits for the next tick. A timer that fails us is no fault of the server's: then the runtime's has to do.
async fn tick(ticker: &mut Ticker, heartbeat: Duration) {
    if let Err(error) = ticker.tick().await {
        tracing::debug!(%error, "the timer of a heartbeat failed");
        sleep(heartbeat).await;
    }
}

/// Whether an alarm that was due at `due` came so late that it says more of us than of the server.
fn was_late_ourselves(now: MonoTime, due: MonoTime, soft: Duration) -> bool {
    now.since(due) > soft / 2
}
