//! An open session: heartbeats and facts by turns, and a judgement of how late they are.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Sleep, sleep_until};

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

/// What an open session is judged by.
pub(super) struct Talk<'a, N> {
    clock: Clock,
    plan: &'a PostgresPlan,
    judge: Judge,
    ticker: Ticker,
    /// Rings when an answer is late. Set only where the tick of the next heartbeat, which comes anyway, does not say so in time.
    alarm: Pin<Box<Sleep>>,
    news: &'a mut N,
}

impl<'a, N: AsyncFnMut(WatchNews)> Talk<'a, N> {
    /// The error is our own: there is no descriptor left.
    pub(super) fn new(clock: Clock, plan: &'a PostgresPlan, news: &'a mut N) -> io::Result<Self> {
        let alarm = Box::pin(sleep_until(clock.instant(clock.now())));
        let ticker = Ticker::new(plan.heartbeat)?;
        Ok(Self { clock, plan, judge: Judge::new(plan.heartbeat_deadline), ticker, alarm, news })
    }

    /// Talks until the session is over.
    pub(super) async fn run(&mut self, session: &mut Session, kind: Kind, known: &mut Known) -> Over {
        let mut facts_due = self.clock.now() + FACTS_EVERY;
        let facts_every = if session.reported.hot_standby.is_some() { FACTS_EVERY } else { ROLE_EVERY };
        loop {
            let begun = self.clock.now();
            let reported = session.reported;
            let spoke = if begun < facts_due {
                self.judged(1, true, async { Ok(session.beat().await?) }).await
            } else {
                facts_due = begun + facts_every;
                let asked = self.judged(FACTS_MAY_TAKE, false, facts::ask(session, kind, known)).await;
                match asked {
                    Ok(facts) => {
                        (self.news)(WatchNews::Seen(facts)).await;
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
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
            if session.reported != reported {
                // Its role: the rest of it is asked for now.
                facts_due = self.clock.now();
                continue;
            }
            // Cancel-safety: what was read stays in the session; a tick is taken or left.
            tokio::select! {
                biased;
                over = session.rest() => return over,
                tick = self.ticker.tick() => {
                    if let Err(error) = tick {
                        return Over { end: WatchEnd::Closed, detail: error.to_string() };
                    }
                }
            }
        }
    }

    /// Waits for `exchange`, and says so when it takes longer than it should. Its time counts for what others should take if
    /// it `teaches`.
    async fn judged<T>(
        &mut self,
        times: u32,
        teaches: bool,
        exchange: impl Future<Output = Result<T, NoFacts>>,
    ) -> Result<T, NoFacts> {
        let soft = self.judge.soft() * times;
        let silent = self.plan.heartbeat_deadline * SILENT_AFTER;
        let mut since = self.clock.now();
        let (mut is_late, mut was_us) = (false, false);
        let mut is_armed = self.plan.heartbeat >= soft;
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
                    let took = self.clock.now().since(since);
                    if is_late {
                        (self.news)(WatchNews::OnTime { took }).await;
                    }
                    // An answer that took longer than it may, of which the alarm did not tell: we came to it late.
                    if teaches && !was_us && (is_late || took <= soft) {
                        self.judge.answered(took);
                    }
                    return done;
                }
                _ = self.ticker.tick(), if !is_armed => is_armed = true,
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
                        (self.news)(WatchNews::Late { waited: now.since(since) }).await;
                    }
                }
            }
        }
    }
}

/// Whether an alarm that was due at `due` came so late that it says more of us than of the server.
fn was_late_ourselves(now: MonoTime, due: MonoTime, soft: Duration) -> bool {
    now.since(due) > soft / 2
}
