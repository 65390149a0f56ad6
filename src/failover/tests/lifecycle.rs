//! The life of a failover: numbered, told in order, and ended.

use super::build::{ms, plan};
use super::rig::{Rig, passed, refused, timed_out};
use crate::failover::Change;
use crate::model::{AdminState, FailoverStatus, PoolState};

fn two() -> Rig {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig
}

#[test]
fn a_failover_that_is_decided_at_once_is_told_in_one_turn() {
    let mut rig = two();
    rig.kill("a");
    let all = ["1 pending: a >  (dead)", "1 in_progress: a > b (dead)", "1 completed: a > b (dead)"];
    assert_eq!(rig.failovers(), all);
    rig.revive("a");
    rig.live(ms(10_000), &[]);
    rig.kill("a");
    assert_eq!(rig.failovers().last().unwrap(), "2 completed: a > b (dead)");
    let status = rig.status("pg");
    assert_eq!((status.failovers, status.recoveries), (2, 1));
}

#[test]
fn a_failover_waits_for_verdicts_that_are_out() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2).backend("c", 3));
    rig.fit(&["a"]);
    rig.kill("a");
    assert_eq!(
        (rig.failovers(), rig.state()),
        (vec!["1 pending: a >  (dead)".to_owned()], PoolState::FailoverInProgress)
    );
    let lost = rig.now;
    rig.now = rig.now + ms(300);
    rig.answer("b", refused());
    assert_eq!(rig.failovers().len(), 1);
    rig.answer("c", passed());
    let decided = rig.now;
    assert_eq!(rig.failovers()[1..], ["1 in_progress: a > c (dead)", "1 completed: a > c (dead)"]);
    let duration = rig.told.iter().rev().find_map(|change| match change {
        Change::PoolFailover { status: FailoverStatus::Completed, detect, duration, .. } => Some((*detect, *duration)),
        _ => None,
    });
    let (detect, duration) = duration.unwrap();
    assert_eq!(duration, detect + decided.since(lost), "from the first evidence on");
    assert!(evidence(&rig).iter().all(|evidence| evidence.as_deref() == Some("refused")), "{:?}", evidence(&rig));
}

/// What each step of a failover was told with.
fn evidence(rig: &Rig) -> Vec<Option<String>> {
    let evidence = rig.told.iter().filter_map(|change| match change {
        Change::PoolFailover { evidence, .. } => Some(evidence.clone()),
        _ => None,
    });
    evidence.collect()
}

#[test]
fn what_was_ordered_is_the_evidence_of_what_follows_from_it() {
    let mut rig = two();
    rig.order("a", AdminState::Drain);
    assert_eq!(evidence(&rig), vec![Some("backend a goes from ready to drain".to_owned()); 3]);
    let mut rig = two();
    rig.replan(plan().pool("pg").backend("b", 2));
    assert_eq!(evidence(&rig), vec![Some("backend a was removed".to_owned()); 3]);
    let mut rig = two();
    rig.fail_over("pg", Some("b")).unwrap();
    assert_eq!(evidence(&rig), [None, None, None], "nothing was found out: the operator's words are its note");
}

#[test]
fn a_failover_with_nowhere_to_go_fails_once() {
    let mut rig = two();
    rig.kill("b");
    rig.kill("a");
    assert_eq!(rig.failovers(), ["1 pending: a >  (dead)", "1 failed: a >  (dead)"]);
    assert_eq!(rig.kinds(), ["backend.unhealthy", "pool.failover", "pool.down"]);
    rig.live(ms(60_000), &["a", "b"]);
    assert_eq!(rig.failovers().len(), 2);
    rig.revive("a");
    assert_eq!((rig.failovers().len(), rig.kinds()), (2, vec!["backend.healthy", "pool.recovered"]), "the same tier");
    rig.kill("a");
    rig.revive("b");
    let rest = ["2 pending: a >  (dead)", "2 failed: a >  (dead)"];
    assert_eq!(rig.failovers()[2..4], rest);
    let rest = ["3 pending: a >  (dead)", "3 in_progress: a > b (dead)", "3 completed: a > b (dead)"];
    assert_eq!(rig.failovers()[4..], rest, "another tier is another failover");
    assert_eq!(rig.kinds(), ["backend.healthy", "pool.failover", "pool.recovered"]);
}

#[test]
fn a_failover_is_over_if_what_was_lost_is_back_first() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a"]);
    rig.kill("a");
    rig.revive("a");
    assert_eq!(rig.failovers(), ["1 pending: a >  (dead)", "1 failed: a >  (dead)"]);
    let note = rig.told.iter().rev().find_map(|change| match change {
        Change::PoolFailover { note, .. } => note.clone(),
        _ => None,
    });
    assert_eq!(note.unwrap(), "the tier that was lost serves again");
    assert_eq!(rig.count("pool.down"), 0);
}

#[test]
fn an_order_ends_the_failover_that_is_under_way() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("a2", 1).backend("b", 2));
    rig.fit(&["a", "a2"]);
    rig.kill("a");
    rig.order("a2", AdminState::Drain);
    assert_eq!(rig.failovers(), ["1 pending: a2 >  (drained)"]);
    rig.replan(plan().pool("pg").manual_failover().backend("a", 1).backend("a2", 1).backend("b", 2));
    assert_eq!(rig.failovers()[1..], ["1 failed: a2 >  (drained)"], "automatic is off");
}

#[test]
fn without_automatic_failover_none_is_begun() {
    let mut rig = Rig::new(plan().pool("pg").manual_failover().backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.kill("a");
    assert_eq!((rig.failovers().len(), rig.count("pool.down")), (0, 1));
    rig.replan(plan().pool("pg").backend("a", 1).backend("b", 2));
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > b (dead)");
    assert_eq!(rig.kinds(), ["pool.failover", "pool.recovered"]);
}

#[test]
fn worse_news_does_not_change_the_reason_on_the_way() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a"]);
    for _ in 0..3 {
        rig.answer("a", timed_out());
    }
    for _ in 0..2 {
        rig.answer("a", refused());
    }
    rig.fit(&["b"]);
    assert_eq!(rig.backend("a").reason, "dead: refused");
    assert!(rig.failovers().iter().all(|told| told.starts_with('1') && told.ends_with("(unreachable)")));
    assert_eq!(rig.failovers().len(), 3);
}

#[test]
fn an_ordered_failover_is_told_with_its_words() {
    let mut rig = two();
    rig.fail_over("pg", Some("b")).unwrap();
    let all = ["1 pending: a >  (manual)", "1 in_progress: a > b (manual)", "1 completed: a > b (manual)"];
    assert_eq!(rig.failovers(), all);
    let words = rig
        .told
        .iter()
        .filter(|change| matches!(change, Change::PoolFailover { note: Some(note), .. } if note == "because"));
    assert_eq!(words.count(), 3);
    assert_eq!(rig.told.last().unwrap().to_string(), "failover from a to b (manual): completed; because");
}
