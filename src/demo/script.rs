//! What happens on stage: servers are killed and restored by turns, until told to stop.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::failover::Change;
use crate::model::MonoTime;
use crate::sys::Clock;

use super::report::{News, Pool, Voice};
use super::tally::Tally;

/// Before the first kill, so that the clients' ordinary wait is seen.
const OVERTURE: Duration = Duration::from_millis(700);
/// Between one round and the next, so that the last return of a round has lasted and is not taken for flapping.
const REST: Duration = Duration::from_secs(2);
/// Between one thing and the next.
const BREATH: Duration = Duration::from_millis(600);
/// What must be left of the time after a restore for everything to be in order again.
const SPARE: Duration = Duration::from_secs(1);
/// How long to wait until the daemon has noticed a server's return.
const RETURN: Duration = Duration::from_secs(5);
/// How long to wait until the daemon has failed back, where it may have nothing to fail back to.
const FAILBACK: Duration = Duration::from_millis(2500);

/// What a script is told.
#[derive(Debug)]
pub(super) enum Cue {
    /// The clients have come. The play ends at this time, or when it is stopped.
    Play(Option<MonoTime>),
    /// Something changed in its pool.
    Saw(Change),
    /// Restore what is down, then wait.
    Stop,
    /// Everybody has gone; shut the servers down.
    Quit,
}

/// Servers that can be killed and restored, by their number in the order of preference.
pub(super) trait Servers {
    /// Its name.
    fn name(&self, index: usize) -> &'static str;
    /// Kills it with SIGKILL; returns when it is dead.
    fn kill(&mut self, index: usize);
    /// Starts it again at the same address.
    fn restore(&mut self, index: usize) -> anyhow::Result<()>;
}

/// Where a script plays: its waits end early when it is told to stop.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    cues: Receiver<Cue>,
    news: Sender<News>,
    clock: Clock,
    tally: &'a Tally,
    pool: Pool,
    end: Option<MonoTime>,
    over: bool,
    quit: bool,
}

impl<'a> Stage<'a> {
    pub(super) fn new(cues: Receiver<Cue>, news: Sender<News>, clock: Clock, tally: &'a Tally, pool: Pool) -> Self {
        Self { cues, news, clock, tally, pool, end: None, over: false, quit: false }
    }

    /// Tells people.
    pub(super) fn say(&self, text: String) {
        // Nobody listens any more only when the demo is over.
        self.news.send(News { at: self.clock.now(), voice: Voice::Demo, pool: self.pool, text }).ok();
    }

    /// Waits for the clients. Whether there is a play at all.
    pub(super) fn begin(&mut self) -> bool {
        while !self.over {
            match self.cues.recv() {
                Ok(Cue::Play(end)) => {
                    self.end = end;
                    return true;
                }
                Ok(cue) => drop(self.heed(cue)),
                Err(_) => self.leave(),
            }
        }
        false
    }

    /// Whether it was told to stop, without waiting.
    pub(super) fn is_over(&mut self) -> bool {
        self.wait(Duration::ZERO, |_| false);
        self.over
    }

    /// Waits until everybody has gone.
    pub(super) fn until_quit(&mut self) {
        while !self.quit {
            match self.cues.recv() {
                Ok(cue) => drop(self.heed(cue)),
                Err(_) => self.leave(),
            }
        }
    }

    /// Takes servers out and back: kills `which`, leaves them dead for `down`, restores them, and waits
    /// until the daemon has noticed and, where `fails_back`, returned to them.
    fn outage(
        &mut self,
        servers: &mut impl Servers,
        which: &[usize],
        down: Duration,
        fails_back: bool,
    ) -> anyhow::Result<()> {
        if !self.has_room(down + SPARE) {
            self.until_over();
        }
        if self.over {
            return Ok(());
        }
        for index in which {
            self.say(format!("SIGKILL to {}", servers.name(*index)));
            self.tally.kill(|| servers.kill(*index));
        }
        self.pause(down);
        for index in which {
            servers.restore(*index)?;
            self.say(format!("restored {}", servers.name(*index)));
        }
        let mut away: Vec<&str> = which.iter().map(|index| servers.name(*index)).collect();
        self.wait(RETURN, |change| {
            if let Change::BackendHealthy { backend, .. } = change {
                away.retain(|name| *name != backend.as_str());
            }
            away.is_empty()
        });
        if fails_back {
            self.wait(FAILBACK, |change| matches!(change, Change::PoolFailback { .. }));
        }
        self.pause(BREATH);
        Ok(())
    }

    fn has_room(&self, time: Duration) -> bool {
        self.end.is_none_or(|end| self.clock.now() + time < end)
    }

    fn pause(&mut self, time: Duration) {
        self.wait(time, |_| false);
    }

    fn until_over(&mut self) {
        while !self.over {
            self.pause(RETURN);
        }
    }

    /// Waits until `reached` says so of a change, up to `limit`, or until it is over.
    fn wait(&mut self, limit: Duration, mut reached: impl FnMut(&Change) -> bool) {
        let deadline = self.clock.now() + limit;
        while !self.over {
            match self.cues.recv_timeout(deadline.since(self.clock.now())) {
                Ok(cue) => {
                    if self.heed(cue).is_some_and(|change| reached(&change)) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => self.leave(),
            }
        }
    }

    fn heed(&mut self, cue: Cue) -> Option<Change> {
        match cue {
            Cue::Saw(change) => return Some(change),
            Cue::Play(end) => self.end = end,
            Cue::Stop => self.over = true,
            Cue::Quit => self.leave(),
        }
        None
    }

    fn leave(&mut self) {
        self.over = true;
        self.quit = true;
    }
}

/// The echo servers: the preferred one, the other one, both at once.
pub(super) fn echo(stage: &mut Stage<'_>, servers: &mut impl Servers) -> anyhow::Result<()> {
    stage.pause(OVERTURE);
    while !stage.over {
        stage.outage(servers, &[0], Duration::from_secs(2), true)?;
        stage.outage(servers, &[1], Duration::from_millis(1500), false)?;
        stage.outage(servers, &[0, 1], Duration::from_secs(1), true)?;
        stage.pause(REST);
    }
    Ok(())
}

/// PostgreSQL: the primary, then the standbys by turns.
pub(super) fn postgres(stage: &mut Stage<'_>, servers: &mut impl Servers) -> anyhow::Result<()> {
    stage.pause(OVERTURE + BREATH);
    let mut standby = 1;
    while !stage.over {
        stage.outage(servers, &[0], Duration::from_secs(3), true)?;
        stage.outage(servers, &[standby], Duration::from_millis(1500), false)?;
        standby = 3 - standby;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Sender};
    use std::time::Duration;

    use super::{Cue, Servers, Stage, echo};
    use crate::demo::report::Pool;
    use crate::demo::tally::Tally;
    use crate::failover::Change;
    use crate::model::BackendName;
    use crate::sys::Clock;

    /// Servers that only remember, and a daemon that notices at once.
    struct Toys {
        cues: Sender<Cue>,
        alive: [bool; 2],
        kills: Vec<usize>,
        stop_after: usize,
    }

    impl Servers for Toys {
        fn name(&self, index: usize) -> &'static str {
            ["alpha", "beta"][index]
        }

        fn kill(&mut self, index: usize) {
            self.alive[index] = false;
            self.kills.push(index);
            if self.kills.len() == self.stop_after {
                self.cues.send(Cue::Stop).unwrap();
            }
        }

        fn restore(&mut self, index: usize) -> anyhow::Result<()> {
            self.alive[index] = true;
            let backend = BackendName::from(self.name(index));
            self.cues.send(Cue::Saw(Change::BackendHealthy { backend, downtime: None })).unwrap();
            self.cues.send(Cue::Saw(Change::PoolFailback { from: Vec::new(), to: Vec::new() })).unwrap();
            Ok(())
        }
    }

    #[test]
    fn a_script_that_is_stopped_restores_what_it_has_killed() {
        let (tally, (cues, heard), (news, said)) = (Tally::default(), mpsc::channel(), mpsc::channel());
        let mut toys = Toys { cues: cues.clone(), alive: [true; 2], kills: Vec::new(), stop_after: 1 };
        let mut stage = Stage::new(heard, news, Clock::start(), &tally, Pool::Echo);
        cues.send(Cue::Play(None)).unwrap();
        assert!(stage.begin());
        echo(&mut stage, &mut toys).unwrap();
        assert_eq!((toys.alive, toys.kills), ([true; 2], vec![0]));
        assert_eq!(tally.kills(), 1);
        let texts: Vec<String> = said.try_iter().map(|news| news.text).collect();
        assert_eq!(texts, ["SIGKILL to alpha", "restored alpha"]);
        cues.send(Cue::Quit).unwrap();
        stage.until_quit();
    }

    #[test]
    fn nothing_is_killed_that_could_not_be_restored_in_time() {
        let (tally, (cues, heard), (news, _said)) = (Tally::default(), mpsc::channel(), mpsc::channel());
        let mut toys = Toys { cues: cues.clone(), alive: [true; 2], kills: Vec::new(), stop_after: 0 };
        let clock = Clock::start();
        let mut stage = Stage::new(heard, news, clock, &tally, Pool::Echo);
        cues.send(Cue::Play(Some(clock.now() + Duration::from_secs(2)))).unwrap();
        assert!(stage.begin());
        cues.send(Cue::Stop).unwrap();
        echo(&mut stage, &mut toys).unwrap();
        assert!(!stage.has_room(Duration::from_secs(3)));
        assert_eq!(toys.kills, Vec::<usize>::new());
    }

    #[test]
    fn a_stage_that_everybody_left_is_over() {
        let (tally, (cues, heard), (news, _said)) = (Tally::default(), mpsc::channel(), mpsc::channel());
        let mut stage = Stage::new(heard, news, Clock::start(), &tally, Pool::Postgres);
        drop(cues);
        assert!(!stage.begin());
        assert!(stage.is_over());
        stage.until_quit();
    }
}
