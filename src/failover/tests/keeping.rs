//! A new line of history is on disk before anybody writes to it, unless the disk does not answer.

use super::build::ms;
use super::clustered::{SYSTEM, facts, healthy, primary, standby, three};
use super::rig::Rig;
use crate::failover::{Event, KEPT_WITHIN, Lineage, Order};
use crate::model::{Lsn, PoolState, Role, ServerFacts, SessionPolicy, Target, Timeline};

/// What the disk has to say of what the pool remembers.
fn kept(rig: &super::rig::Rig) -> Event {
    Event::LineageKept { pool: "pg".into(), lineage: rig.remembered().lineage.unwrap() }
}

#[test]
fn a_new_line_of_history_is_written_down_before_anybody_is_sent_there_and_the_fence_waits_for_no_disk() {
    let mut rig = healthy(three());
    rig.has_disk = false;
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.deeds(), "keep:b [-] a:all(demoted)");
    assert_eq!((rig.way("pg"), rig.holds()), (String::new(), true));
    assert_eq!(rig.way_to(Target::Any).0, "c", "it serves nobody at all, for whoever is sent there may write");
    assert_eq!(rig.server_reason("b"), "the primary: that it is so is being written to disk");
    assert_eq!(rig.remembered().lineage.unwrap().timeline, Some(Timeline(2)));
    assert_eq!(rig.failovers().len(), 1, "it is under way: {:?}", rig.failovers());
    rig.after(ms(3));
    rig.feed(kept(&rig));
    assert_eq!((rig.deeds().as_str(), rig.state()), ("[b]", PoolState::FailoverComplete));
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > b (demoted)");
    rig.feed(kept(&rig));
    assert_eq!(rig.deeds(), "", "said twice it is no news");
}

#[test]
fn a_disk_that_does_not_answer_holds_a_failover_up_for_a_tenth_of_a_second() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.has_disk = false;
    rig.sees("b", primary(2, &[900]));
    rig.after(KEPT_WITHIN - ms(1));
    assert!(rig.holds());
    rig.after(ms(1));
    assert_eq!(rig.way("pg"), "b");
    // What comes when nobody waits for it any more changes nothing.
    rig.feed(kept(&rig));
    assert_eq!(rig.deeds(), "");
}

#[test]
fn what_is_on_disk_of_another_line_lets_nobody_in() {
    let mut rig = healthy(three());
    rig.has_disk = false;
    let before = kept(&rig);
    rig.sees("b", primary(2, &[900]));
    rig.feed(before);
    assert!(rig.holds());
    let lineage = Lineage { timeline: Some(Timeline(3)), ..rig.remembered().lineage.unwrap() };
    rig.feed(Event::LineageKept { pool: "pg".into(), lineage });
    assert!(rig.holds());
    rig.feed(Event::LineageKept { pool: "nobody".into(), lineage: rig.remembered().lineage.unwrap() });
    assert!(rig.holds());
    rig.feed(kept(&rig));
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn who_is_back_on_the_line_that_was_served_waits_for_no_disk() {
    let mut rig = healthy(three());
    rig.has_disk = false;
    rig.dies("a");
    rig.comes_back("a", primary(1, &[]));
    assert_eq!(rig.way("pg"), "a");
    // It is promoted before anybody has noticed that it was none: it goes on, and on disk first.
    rig.sees("a", primary(2, &[900]));
    assert_eq!((rig.deeds().as_str(), rig.holds()), ("keep:a [-]", true));
    assert!(!rig.way_to(Target::Any).0.contains('a'), "{:?}", rig.way_to(Target::Any));
    rig.feed(kept(&rig));
    assert_eq!((rig.deeds().as_str(), rig.failovers().len()), ("[a]", 2), "{:?}", rig.failovers());
}

#[test]
fn who_tells_more_of_the_line_that_it_serves_on_goes_on() {
    let mut rig = Rig::new(three());
    let untold = |facts| ServerFacts { system: None, ..facts };
    rig.open_session("a", untold(primary(1, &[])));
    rig.open_session("b", untold(standby(1, &[])));
    rig.open_session("c", untold(standby(1, &[])));
    rig.fit(&["a", "b", "c"]);
    rig.has_disk = false;
    rig.sees("a", primary(1, &[]));
    assert_eq!((rig.deeds().as_str(), rig.way("pg").as_str()), ("keep:a", "a"));
    // What it cannot tell any more is still known.
    rig.sees("a", untold(primary(1, &[])));
    assert_eq!((rig.deeds().as_str(), rig.remembered().lineage.unwrap().system), ("", Some(SYSTEM)));
}

#[test]
fn a_person_is_obeyed_when_it_is_on_disk_too() {
    let mut rig = healthy(three());
    rig.has_disk = false;
    let (pool, reason, sessions) = ("pg".into(), None, SessionPolicy::Close);
    rig.say(Order::Failover { pool, to: Some("b".into()), reason, sessions }).unwrap();
    rig.sees("b", primary(2, &[900]));
    assert!(rig.holds() && rig.deeds().starts_with("keep:b "), "{}", rig.deeds());
    rig.feed(kept(&rig));
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > b (manual)");
}

#[test]
fn a_primary_that_is_lost_while_it_is_written_down_was_never_written_to() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.has_disk = false;
    rig.sees("b", primary(2, &[900]));
    rig.sees("b", standby(2, &[900]));
    rig.feed(kept(&rig));
    assert!(rig.holds());
    rig.sees("c", primary(3, &[900, 990]));
    assert!(rig.deeds().starts_with("keep:c "), "{}", rig.deeds());
    rig.feed(kept(&rig));
    assert_eq!(rig.way("pg"), "c");
}

#[test]
fn how_far_the_primary_has_written_is_written_down_now_and_then_and_nobody_waits_for_it() {
    const SEGMENT: u64 = 16 << 20;
    let mut rig = healthy(three());
    rig.has_disk = false;
    let at = |rig: &mut Rig, at: u64| {
        rig.sees("a", facts(Role::Primary, 1, at, &[]));
        (rig.deeds(), rig.way("pg"), rig.remembered().lineage.unwrap().at)
    };
    assert_eq!(at(&mut rig, 1001), (String::new(), "a".to_owned(), Some(Lsn(1001))));
    let far = 1000 + SEGMENT;
    assert_eq!(at(&mut rig, far), ("keep:a".to_owned(), "a".to_owned(), Some(Lsn(far))), "a segment on");
    rig.now = rig.now + ms(9_999);
    assert_eq!(at(&mut rig, far + 1).0, "");
    rig.now = rig.now + ms(1);
    assert_eq!(at(&mut rig, far + 1).0, "keep:a", "or ten seconds on");
    rig.now = rig.now + ms(60_000);
    assert_eq!(at(&mut rig, far + 1).0, "", "and never while nothing is written");
}

#[test]
fn what_was_written_meanwhile_does_not_undo_what_is_on_disk() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.has_disk = false;
    rig.sees("b", primary(2, &[900]));
    let asked = kept(&rig);
    rig.sees("b", facts(Role::Primary, 2, 1010, &[900]));
    assert!(rig.holds());
    rig.sees("b", facts(Role::Primary, 2, 64 << 20, &[900]));
    assert_eq!((rig.deeds(), rig.holds()), (String::new(), true), "nothing supersedes what is waited for");
    rig.feed(asked);
    assert_eq!(rig.way("pg"), "b");
}
