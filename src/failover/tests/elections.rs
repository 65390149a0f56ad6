//! Whatever the servers of a cluster claim, and in whatever order, the write target is where a second reckoning says. That one
//! knows of each line of history from which it was promoted, and reads no history.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::clustered::{SYSTEM, three};
use super::rig::{Rig, passed, refused};
use crate::failover::{Command, PoolMemory};
use crate::model::{DialError, Fork, Lsn, PoolName, Role, ServerFacts, SystemId, Timeline, WatchEnd, WatchError};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Lines of history: its number, from which line it was promoted, and where. The standbys of one primary may be promoted by
/// themselves, so that several lines have one number; and one that has seen others' promotions takes a higher number.
const LINES: [(u32, Option<(usize, u64)>); 10] = [
    (1, None),
    (2, Some((0, 900))),
    (2, Some((0, 950))),
    (3, Some((1, 1500))),
    (3, Some((2, 1400))),
    (3, Some((1, 1600))),
    (4, Some((3, 2000))),
    (4, Some((0, 980))),
    (4, Some((5, 1700))),
    (5, Some((6, 2100))),
];

/// Whether line `of` comes from line `from`, by one promotion or more.
fn comes_from(of: usize, from: usize) -> bool {
    LINES[of].1.is_some_and(|(parent, _)| parent == from || comes_from(parent, from))
}

fn history(line: usize) -> Vec<Fork> {
    let Some((parent, at)) = LINES[line].1 else { return Vec::new() };
    let mut forks = history(parent);
    forks.push(Fork { timeline: Timeline(LINES[parent].0), at: Lsn(at) });
    forks
}

/// What a server says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    leads: bool,
    line: usize,
    /// Of another cluster.
    alien: bool,
}

impl Word {
    fn facts(self) -> ServerFacts {
        let role = if self.leads { Role::Primary } else { Role::Standby };
        ServerFacts {
            system: Some(if self.alien { SystemId(1) } else { SYSTEM }),
            timeline: Some(Timeline(LINES[self.line].0)),
            role,
            written: Some(Lsn(3000)),
            replayed: (role == Role::Standby).then_some(Lsn(3000)),
            history: history(self.line).into(),
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// It says this.
    Says(usize, Word),
    Dies(usize),
    /// Its heartbeat is late, and comes after all.
    Lags(usize),
    /// It is late, and is dead then.
    LagsAndDies(usize),
    /// Its monitor's session alone is lost, and opened again.
    Drops(usize),
    /// Another process goes on with what this one remembered.
    Restarts,
}

/// What is known of the servers, by the second reckoning.
#[derive(Debug, Default, Clone, Copy)]
struct Heard {
    /// What it says, as far as that counts.
    word: Option<Word>,
    /// What it said last, whether or not that counts.
    last: Option<Word>,
    /// Whether it has said, to this process, that it is a standby, and has not led since.
    followed: bool,
    dead: bool,
}

struct Trial {
    rig: Rig,
    heard: [Heard; 3],
    /// In doubt.
    late: Option<usize>,
    /// The last that was routed to, and what it said.
    routed: Option<(usize, Word)>,
    /// Who is the primary so far.
    leads: Option<usize>,
    /// Who may have sessions that write.
    open: BTreeSet<String>,
}

impl Trial {
    fn new() -> Self {
        let (heard, late, routed, leads, open) = Default::default();
        Self { rig: Rig::new(three()), heard, late, routed, leads, open }
    }

    /// Of which cluster the servers are, if that can be told.
    fn is_alien(&self) -> Option<bool> {
        if let Some((_, routed)) = self.routed {
            return Some(routed.alien);
        }
        let told: Vec<bool> = self.heard.iter().filter_map(|of| Some(of.last?.alien)).collect();
        let aliens = told.iter().filter(|alien| **alien).count();
        (aliens * 2 != told.len()).then_some(aliens * 2 > told.len())
    }

    /// Who is the primary, by the second reckoning.
    fn elected(&self) -> Option<usize> {
        let awaited = self.heard.iter().any(|of| of.last.is_none() && !of.dead);
        let system = self.is_alien();
        let said = |leads: bool| -> Vec<(usize, Word)> {
            let all = (0..3).filter_map(|number| Some((number, self.heard[number].word?)));
            all.filter(|(_, word)| word.leads == leads && system.is_none_or(|alien| alien == word.alien)).collect()
        };
        let is_level = |word: &Word| self.routed.is_none_or(|(_, routed)| routed.line == word.line);
        // Nobody who was a standby on that line has it by a promotion.
        let is_stray = |number: usize, word: &Word| {
            let was_it = self.routed.is_none_or(|(of, _)| of == number);
            is_level(word) && !was_it && self.heard[number].followed
        };
        let is_behind = |word: &Word| self.routed.is_some_and(|(_, of)| LINES[word.line].0 < LINES[of.line].0);
        let goes_on = |number: usize, word: &Word| self.routed.is_some() && is_level(word) && !is_stray(number, word);
        let mut claims = said(true);
        claims.retain(|(_, word)| !is_behind(word));
        if claims.iter().any(|(number, word)| goes_on(*number, word)) {
            claims.retain(|(number, word)| !is_stray(*number, word));
        }
        let comes_next = |word: &Word| self.routed.is_some_and(|(_, routed)| comes_from(word.line, routed.line));
        let wins = |(number, word): &&(usize, Word)| {
            let may_lead = (is_level(word) && !is_stray(*number, word)) || comes_next(word);
            let yields = |of: &Word| word.alien == of.alien && comes_from(word.line, of.line);
            may_lead && claims.iter().all(|(other, of)| other == number || yields(of))
        };
        let winner = claims.iter().find(wins).filter(|_| !awaited)?;
        // Somebody was promoted from there, and a standby of that one lives.
        let speaks_against =
            |(_, standby): &(usize, Word)| standby.alien == winner.1.alien && comes_from(standby.line, winner.1.line);
        let is_overtaken = said(false).iter().any(speaks_against);
        Some(winner.0).filter(|number| !is_overtaken || self.leads == Some(*number))
    }

    /// After each turn: who is cut before another one is written to, and where those who write go.
    fn look(&mut self) -> Result<(), TestCaseError> {
        let names: Vec<(_, String)> = self.rig.core.backends().map(|(id, _, name, _)| (id, name.to_string())).collect();
        let name_of = |id| names.iter().find(|(known, _)| *known == id).unwrap().1.clone();
        for command in &self.rig.last {
            match command {
                Command::FenceSessions { backend, .. } => _ = self.open.remove(&name_of(*backend)),
                Command::PublishTable(table) => {
                    let tiers = &table.pools[&PoolName::from("pg")].tiers;
                    let Some(target) = tiers.first().map(|tier| tier.routes()[0].name.to_string()) else { continue };
                    let strays: Vec<&String> = self.open.iter().filter(|name| **name != target).collect();
                    prop_assert!(strays.is_empty(), "{target} is routed to, and {strays:?} not cut");
                    self.open.insert(target);
                }
                _ => {}
            }
        }
        let elected = self.elected();
        self.leads = elected;
        let due = elected.filter(|number| self.late != Some(*number)).map_or("", |number| NAMES[number]);
        prop_assert_eq!(self.rig.way("pg"), due, "{:?} after {:?}", self.heard, self.routed);
        if let Some(number) = elected {
            self.routed = self.heard[number].word.map(|word| (number, word));
            // Who leads is no standby any more.
            self.heard[number].followed = false;
        }
        Ok(())
    }

    fn says(&mut self, number: usize, word: Word) -> Result<(), TestCaseError> {
        let (name, Heard { dead: was_dead, last, followed, .. }) = (NAMES[number], self.heard[number]);
        let followed = followed || !word.leads;
        let heard = Heard { word: Some(word), last: Some(word), dead: false, followed };
        if last.is_some() && !was_dead {
            self.heard[number] = heard;
            self.rig.sees(name, word.facts());
            return self.look();
        }
        self.heard[number] = if was_dead { Heard { word: None, dead: true, ..heard } } else { heard };
        self.rig.open_session(name, word.facts());
        self.look()?;
        if was_dead {
            // It is in again when its port has been found open, too.
            self.heard[number] = heard;
            self.rig.answer(name, passed());
            self.look()?;
        }
        Ok(())
    }

    fn dies(&mut self, number: usize) -> Result<(), TestCaseError> {
        if self.heard[number].dead {
            return Ok(());
        }
        if self.heard[number].last.is_some() {
            self.late = Some(number);
            self.rig.ends(NAMES[number], WatchEnd::Closed);
            self.look()?;
        } else {
            // That it refuses is a word, too.
            self.heard[number].dead = true;
            self.rig.fails(NAMES[number], WatchError::Dial(DialError::Refused));
            self.look()?;
        }
        self.late = None;
        self.heard[number] = Heard { word: None, dead: true, ..self.heard[number] };
        self.rig.answer(NAMES[number], refused());
        self.look()
    }

    fn lags(&mut self, number: usize, then_dies: bool) -> Result<(), TestCaseError> {
        if self.heard[number].dead || self.heard[number].word.is_none() {
            return Ok(());
        }
        self.late = Some(number);
        self.rig.late(NAMES[number], 30);
        self.look()?;
        if then_dies {
            return self.dies(number);
        }
        self.late = None;
        self.rig.on_time(NAMES[number]);
        self.look()
    }

    fn drops(&mut self, number: usize) -> Result<(), TestCaseError> {
        let Heard { word: Some(word), dead: false, .. } = self.heard[number] else { return Ok(()) };
        self.late = Some(number);
        self.rig.ends(NAMES[number], WatchEnd::Terminated);
        self.look()?;
        self.late = None;
        self.rig.open_session(NAMES[number], word.facts());
        self.look()
    }

    fn restarts(&mut self) -> Result<(), TestCaseError> {
        let memory: PoolMemory = self.rig.remembered();
        let json = serde_json::to_string(&memory).unwrap();
        let memory: PoolMemory = serde_json::from_str(&json).unwrap();
        self.rig = self.rig.after_restart(three(), memory);
        (self.heard, self.late, self.leads, self.open) = Default::default();
        self.look()
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Says(number, word) => self.says(number, word),
            Op::Dies(number) => self.dies(number),
            Op::Lags(number) => self.lags(number, false),
            Op::LagsAndDies(number) => self.lags(number, true),
            Op::Drops(number) => self.drops(number),
            Op::Restarts => self.restarts(),
        }
    }
}

fn word() -> impl Strategy<Value = Word> {
    let alien = prop_oneof![9 => Just(false), 1 => Just(true)];
    (any::<bool>(), 0..LINES.len(), alien).prop_map(|(leads, line, alien)| Word { leads, line, alien })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..3_usize, word()).prop_map(|(number, word)| Op::Says(number, word)),
        3 => (0..3_usize).prop_map(Op::Dies),
        1 => (0..3_usize).prop_map(Op::Lags),
        1 => (0..3_usize).prop_map(Op::LagsAndDies),
        1 => (0..3_usize).prop_map(Op::Drops),
        1 => Just(Op::Restarts),
    ]
}

#[test]
fn who_has_led_since_it_was_a_standby_claims_as_much_as_another_on_its_line() {
    let word = |leads, line| Word { leads, line, alien: false };
    let mut trial = Trial::new();
    let ops = [
        Op::Says(2, word(false, 0)),
        Op::Says(2, word(true, 0)),
        Op::Says(1, word(false, 0)),
        Op::Dies(0),
        Op::Says(0, word(true, 5)),
        Op::Says(2, word(true, 5)),
    ];
    ops.iter().for_each(|op| trial.apply(op).unwrap());
    assert_eq!(trial.rig.way("pg"), "", "a person decides between them");
}

proptest! {
    #[test]
    fn the_write_target_is_where_a_second_reckoning_says(ops in prop::collection::vec(op(), 1..40)) {
        let mut trial = Trial::new();
        for op in &ops {
            trial.apply(op)?;
        }
    }
}
