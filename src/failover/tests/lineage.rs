//! What speaks for and against a server that says that it is the primary, besides other claims: standbys of newer lines, how
//! far it has written, what people decided, and what was known of it before.

use super::build::{ms, plan};
use super::clustered::{denied, facts, healthy, of_system, plain, primary, standby, three};
use super::rig::{Rig, passed, refused};
use crate::failover::{Change, PoolMemory};
use crate::model::{DialError, Role, ServerFacts, SessionPolicy, Target, Timeline, WatchEnd, WatchError, WatchNews};

const MIB: u64 = 1 << 20;

fn leads(timeline: u32, at: u64, left: &[u64]) -> ServerFacts {
    facts(Role::Primary, timeline, at, left)
}

fn follows(timeline: u32, at: u64, left: &[u64]) -> ServerFacts {
    facts(Role::Standby, timeline, at, left)
}

/// As a session says it that cannot read the history.
fn untold(facts: ServerFacts) -> ServerFacts {
    ServerFacts { history: [].into(), ..facts }
}

/// `a` is up as it was, `c` follows who was promoted meanwhile, and that one is down.
fn overtaken(rig: &mut Rig) {
    rig.open_session("a", leads(1, 1200, &[]));
    rig.open_session("c", follows(2, 1500, &[900]));
    rig.fails("b", WatchError::Dial(DialError::Refused));
    rig.answer("a", passed());
    rig.answer("c", passed());
    rig.answer("b", refused());
}

/// How often people were told of a change of this kind, and the last one in words.
fn told(rig: &Rig, kind: &str) -> (usize, String) {
    let of: Vec<&Change> = rig.told.iter().filter(|change| change.kind() == kind).collect();
    (of.len(), of.last().map(ToString::to_string).unwrap_or_default())
}

#[test]
fn an_old_primary_gets_nobody_while_a_standby_of_a_newer_line_lives() {
    let mut rig = Rig::new(three());
    overtaken(&mut rig);
    assert!(rig.holds(), "without memory");
    let split = "a cannot prove to be the primary: a is on timeline 1; c is a standby on timeline 2, which left timeline 1 at 0/384";
    assert_eq!(told(&rig, "pool.split_brain"), (1, split.to_owned()));
    assert_eq!(rig.way_to(Target::Standby).0, "c", "those that read go on");
    let mut rig = healthy(three()).restarted(three());
    overtaken(&mut rig);
    assert!(rig.holds(), "promoted while nobody looked");
    // The one that was promoted is back.
    rig.comes_back("b", leads(2, 1600, &[900]));
    assert_eq!((rig.way("pg"), rig.way_to(Target::Standby).0), ("b".to_owned(), "c".to_owned()));
    // Or it lives, and does not let the monitor in.
    let mut rig = healthy(three()).restarted(three());
    rig.fails("b", denied());
    rig.open_session("a", leads(1, 1200, &[]));
    rig.open_session("c", untold(follows(2, 1500, &[900])));
    rig.fit(&["a", "b", "c"]);
    assert!(rig.holds(), "whoever cannot tell its history has a higher number all the same");
}

#[test]
fn whoever_serves_goes_on_beside_a_standby_that_went_astray_and_people_are_told() {
    let mut rig = healthy(three());
    rig.sees("c", follows(2, 1500, &[900]));
    rig.live(ms(60_000), &[]);
    assert_eq!((rig.way("pg"), rig.way_to(Target::Standby).0), ("a".to_owned(), "b".to_owned()));
    let (count, words) = told(&rig, "pool.split_brain");
    assert!(count == 1 && words.ends_with("a serves on"), "{count}: {words}");
    // Once it was away it is not believed any more, until a person says so.
    rig.dies("a");
    rig.comes_back("a", leads(1, 1000, &[]));
    assert!(rig.holds());
    rig.fail_over("pg", Some("a")).unwrap();
    rig.fail_back("pg").unwrap();
    rig.dies("a");
    rig.comes_back("a", leads(1, 1000, &[]));
    assert_eq!(rig.way("pg"), "a", "what was decided holds");
    let mut next = rig.restarted(three());
    next.open_session("a", leads(1, 1000, &[]));
    next.open_session("b", standby(1, &[]));
    next.open_session("c", follows(2, 1500, &[900]));
    next.fit(&["a", "b", "c"]);
    assert_eq!(next.way("pg"), "a", "after a restart, too");
}

#[test]
fn who_was_never_promoted_is_no_primary_of_the_line_that_it_followed() {
    let mut rig = healthy(three());
    rig.dies("c");
    rig.sees("a", leads(1, 5 * MIB, &[]));
    rig.dies("a");
    // Its standby.signal was removed.
    rig.comes_back("c", leads(1, 6 * MIB, &[]));
    assert_eq!((rig.holds(), told(&rig, "pool.split_brain").0), (true, 1));
    rig.comes_back("a", leads(1, 5 * MIB, &[]));
    assert_eq!(rig.way("pg"), "a");
    let refused = "c takes writes as if it were the primary, and gets no clients: c is on timeline 1";
    assert_eq!(told(&rig, "backend.primary_refused"), (1, refused.to_owned()));
    // Beside the primary it stops nobody either, but those that read there, and could write now.
    let mut rig = healthy(three());
    rig.sees("c", leads(1, 1000, &[]));
    assert_eq!((rig.way("pg"), told(&rig, "pool.split_brain").0), ("a".to_owned(), 0));
    assert_eq!(rig.deeds(), "[a] c:all(demoted)");
}

#[test]
fn after_a_restart_a_copy_is_known_by_what_it_has_not() {
    let mut rig = healthy(three());
    rig.sees("a", leads(1, 5 * MIB, &[]));
    let lone = |at: u64| {
        let mut next = rig.restarted(three());
        next.fails("a", WatchError::Dial(DialError::Refused));
        next.fails("b", WatchError::Dial(DialError::Refused));
        next.open_session("c", leads(1, at, &[]));
        next.answer("c", passed());
        next.way("pg")
    };
    assert_eq!(lone(5 * MIB - 1), "");
    assert_eq!(lone(5 * MIB), "c", "it has all of it");
}

#[test]
fn the_very_server_is_believed_and_told_of_if_it_was_put_back() {
    let mut rig = healthy(three());
    rig.sees("a", leads(1, 64 * MIB, &[]));
    rig.dies("a");
    rig.comes_back("a", leads(1, 63 * MIB, &[]));
    assert_eq!((rig.way("pg"), rig.count("pool.primary_changed")), ("a".to_owned(), 1), "a crash leaves out a little");
    rig.dies("a");
    rig.comes_back("a", leads(1, 3 * MIB, &[]));
    rig.live(ms(1000), &[]);
    let words = "a is the primary on timeline 1; it lacks 62914560 bytes that were written before";
    assert_eq!((rig.way("pg"), told(&rig, "pool.primary_changed")), ("a".to_owned(), (2, words.to_owned())));
}

#[test]
fn what_a_person_decided_is_not_undone_by_what_was_decided_against() {
    let mut rig = healthy(three());
    rig.sees("b", primary(2, &[900]));
    rig.fail_over("pg", Some("a")).unwrap();
    rig.dies("b");
    rig.fail_back("pg").unwrap();
    let again = |rig: &mut Rig| {
        rig.comes_back("b", primary(2, &[900]));
        assert_eq!((rig.way("pg"), rig.deeds()), ("a".to_owned(), String::new()));
        assert!(told(rig, "backend.primary_refused").1.starts_with("b takes writes"));
        // Nor by what was promoted from there; what is promoted from the line that was chosen is followed.
        rig.sees("b", primary(3, &[900, 1100]));
        assert_eq!(rig.way("pg"), "a");
        rig.dies("a");
        assert!(rig.holds() && told(rig, "pool.split_brain").1.starts_with("b cannot prove"));
        rig.sees("c", leads(2, 1200, &[1000]));
        rig.dies("b");
        assert_eq!(rig.way("pg"), "c");
    };
    let json = serde_json::to_string(&rig.remembered()).unwrap();
    let memory: PoolMemory = serde_json::from_str(&json).unwrap();
    let mut next = rig.after_restart(three(), memory);
    next.open_session("a", primary(1, &[]));
    next.fails("b", WatchError::Dial(DialError::Refused));
    next.open_session("c", standby(1, &[]));
    next.fit(&["a", "c"]);
    next.answer("b", refused());
    assert_eq!(next.way("pg"), "a");
    again(&mut next);
    again(&mut rig);
}

#[test]
fn a_person_may_decide_the_other_way_later() {
    let mut rig = healthy(three());
    rig.sees("b", primary(2, &[900]));
    rig.fail_over("pg", Some("a")).unwrap();
    rig.fail_back("pg").unwrap();
    assert_eq!(rig.way("pg"), "a");
    rig.fail_over("pg", Some("b")).unwrap();
    assert_eq!(rig.way("pg"), "b");
    rig.fail_back("pg").unwrap();
    assert_eq!((rig.way("pg"), rig.remembered().lineage.unwrap().rejected), ("b".to_owned(), Vec::new()));
}

#[test]
fn a_branch_from_long_ago_does_not_take_the_role_from_a_primary_that_lives() {
    let mut rig = healthy(three());
    rig.sees("a", leads(1, 5000 * MIB, &[]));
    rig.dies("c");
    rig.comes_back("c", leads(2, 200, &[100]));
    assert_eq!((rig.holds(), told(&rig, "pool.split_brain").0), (true, 1));
    // Where only one is left it is the primary, and what it lacks is told.
    rig.dies("a");
    let words =
        format!("c is the primary on timeline 2, a was; it lacks {} bytes that were written before", 5000 * MIB - 100);
    assert_eq!((rig.way("pg"), told(&rig, "pool.primary_changed")), ("c".to_owned(), (2, words)));
    // The same without memory.
    let mut rig = Rig::new(three());
    rig.open_session("a", leads(1, 5000 * MIB, &[]));
    rig.open_session("b", follows(1, 5000 * MIB, &[]));
    rig.open_session("c", leads(2, 200, &[100]));
    rig.fit(&["a", "b", "c"]);
    assert!(rig.holds());
}

/// It has the number that people were told of already, and not the same line.
#[test]
fn one_that_was_put_back_and_promoted_again_is_told_of_with_what_it_lacks() {
    let mut rig = healthy(three().manual_failover());
    rig.sees("a", leads(1, 64 * MIB, &[]));
    rig.dies("a");
    rig.sees("b", leads(2, 64 * MIB, &[64 * MIB]));
    assert_eq!((rig.way("pg"), rig.count("pool.primary_changed")), (String::new(), 2));
    rig.dies("b");
    rig.comes_back("b", leads(2, 10 * MIB, &[8 * MIB]));
    let words = format!("b is the primary on timeline 2; it lacks {} bytes that were written before", 56 * MIB);
    assert_eq!(told(&rig, "pool.primary_changed"), (3, words));
    rig.sees("b", untold(leads(2, 10 * MIB, &[8 * MIB])));
    assert_eq!(rig.count("pool.primary_changed"), 3, "to tell less is no news");
}

#[test]
fn an_ordinary_promotion_is_served_at_once() {
    // Beside the old one that lives: it lacks no more than an asynchronous standby may.
    let mut rig = healthy(three());
    rig.sees("a", leads(1, 116 * MIB, &[]));
    rig.sees("b", leads(2, 101 * MIB, &[100 * MIB]));
    assert_eq!(rig.way("pg"), "b");
    // And whatever it lacks when the old one is dead.
    let mut rig = healthy(three());
    rig.sees("a", leads(1, 900 * MIB, &[]));
    rig.dies("a");
    rig.sees("b", leads(2, 101 * MIB, &[100 * MIB]));
    assert_eq!((rig.way("pg"), told(&rig, "pool.split_brain").0), ("b".to_owned(), 0));
    // The old one is rewound, and is promoted in its turn; then there are many timelines, and a start without memory.
    rig.comes_back("a", follows(2, 101 * MIB, &[100 * MIB]));
    rig.dies("b");
    rig.sees("a", leads(3, 103 * MIB, &[100 * MIB, 102 * MIB]));
    assert_eq!(rig.way("pg"), "a");
    let mut rig = Rig::new(three());
    rig.open_session("a", leads(4, 103 * MIB, &[100 * MIB, 102 * MIB, 103 * MIB]));
    rig.open_session("b", follows(4, 103 * MIB, &[100 * MIB, 102 * MIB, 103 * MIB]));
    rig.open_session("c", follows(3, 103 * MIB, &[100 * MIB, 102 * MIB]));
    rig.fit(&["a", "b", "c"]);
    assert_eq!((rig.way("pg"), rig.way_to(Target::Standby).0), ("a".to_owned(), "b c".to_owned()));
    assert_eq!(told(&rig, "pool.split_brain").0, 0);
}

#[test]
fn readers_go_to_the_line_of_the_primary_alone() {
    let mut rig = healthy(three().sessions(|of| of.lagging = SessionPolicy::Close));
    rig.dies("a");
    // Another one was promoted to the same number, and this one follows it.
    rig.sees("c", follows(2, 5000, &[950]));
    rig.sees("b", primary(2, &[900]));
    assert!(rig.deeds().contains("c:all(lagging)"), "{}", rig.deeds());
    assert_eq!((rig.way("pg"), rig.way_to(Target::Standby).0), ("b".to_owned(), String::new()));
    assert!(rig.server_reason("c").contains("another line"), "{}", rig.server_reason("c"));
    rig.sees("c", follows(3, 5000, &[950, 990]));
    assert_eq!(rig.way_to(Target::Standby).0, "");
    rig.sees("c", follows(2, 950, &[900]));
    assert_eq!(rig.way_to(Target::Standby).0, "c");
    rig.sees("c", untold(follows(2, 950, &[900])));
    assert_eq!(rig.way_to(Target::Standby).0, "c", "its history has not come yet");
}

#[test]
fn a_history_that_was_told_is_not_forgotten() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    rig.sees("b", untold(primary(2, &[900])));
    assert_eq!((rig.way("pg"), rig.remembered().lineage.unwrap().history.len()), ("b".to_owned(), 1));
    rig.dies("b");
    rig.sees("c", leads(3, 2000, &[950, 990]));
    assert!(rig.holds(), "it comes from another line");
}

#[test]
fn what_a_pool_was_routed_to_outlives_its_absence() {
    let others = || plan().pool("other").backend("x", 1);
    let as_tcp = || plan().pool("pg").backend("a", 1).backend("b", 2).backend("c", 2);
    for (is_gone, absence) in [(true, others()), (false, as_tcp())] {
        let mut rig = healthy(three());
        rig.dies("a");
        rig.sees("b", primary(2, &[900]));
        rig.replan(absence);
        let memory = rig.remembered();
        assert_eq!(memory.lineage.as_ref().unwrap().timeline, Some(Timeline(2)), "it is kept on disk");
        // Another process begins without it, too, and gets it back.
        let mut next = rig.after_restart(if is_gone { others() } else { as_tcp() }, memory);
        for rig in [&mut rig, &mut next] {
            rig.replan(three());
            rig.open_session("a", leads(1, 1200, &[]));
            rig.open_session("c", follows(1, 900, &[]));
            rig.fails("b", WatchError::Dial(DialError::Refused));
            rig.answer("a", passed());
            rig.answer("c", passed());
            rig.answer("b", refused());
            assert!(rig.holds(), "{}", rig.way("pg"));
            rig.comes_back("b", primary(2, &[900]));
            assert_eq!(rig.way("pg"), "b");
        }
    }
}

#[test]
fn sessions_of_a_pool_that_was_away_are_cut_before_another_server_is_written_to() {
    let keeps = || three().sessions(|of| of.drained = SessionPolicy::Keep);
    let mut rig = healthy(keeps());
    let old = rig.id("a");
    rig.replan(plan().pool("other").backend("x", 1));
    rig.replan(keeps());
    rig.fails("a", WatchError::Dial(DialError::Refused));
    rig.answer("a", refused());
    rig.open_session("b", primary(2, &[900]));
    rig.open_session("c", standby(1, &[]));
    assert_eq!(rig.deeds(), format!("keep:b [-] #{old}:all(demoted) [b]"));
}

#[test]
fn a_server_that_takes_writes_and_is_refused_is_told_of_each_time_it_comes_up() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    for times in 1..=2 {
        rig.comes_back("a", leads(1, 2000, &[]));
        rig.live(ms(10_000), &[]);
        assert_eq!(told(&rig, "backend.primary_refused").0, times);
        rig.dies("a");
    }
    rig.comes_back("a", follows(2, 900, &[900]));
    rig.sees("c", of_system(primary(7, &[1, 2, 3, 4, 5, 6]), 5));
    let (count, words) = told(&rig, "backend.primary_refused");
    assert!(count == 3 && words.starts_with("c takes writes"), "{words}");
}

#[test]
fn a_server_of_another_name_at_the_same_address_is_the_same() {
    let named =
        |name: &str| plan().pool("pg").postgres().backend(name, 1).at("10.0.0.1:5432").backend("b", 2).backend("c", 2);
    let mut rig = Rig::new(named("a"));
    let reader = || ServerFacts { system: Some(super::clustered::SYSTEM), ..plain(Role::Standby, 900) };
    rig.open_session("a", untold(primary(2, &[900])));
    rig.open_session("b", reader());
    rig.open_session("c", reader());
    rig.fit(&["a", "b", "c"]);
    assert_eq!(rig.way("pg"), "a");
    rig.replan(named("z"));
    rig.open_session("z", untold(primary(2, &[900])));
    rig.fit(&["z"]);
    assert!(rig.fences().is_empty(), "it has lost nothing, and its sessions drain: {}", rig.deeds());
    assert_eq!((rig.way("pg"), rig.remembered().lineage.unwrap().server.as_str()), ("z".to_owned(), "z"));
}

#[test]
fn what_an_older_version_has_written_down_is_read() {
    let json = r#"{"pin":null,"pause":null,"admin":{},"failovers":1,"recoveries":0,"downtimes":{},"lineage":{"server":"b",
        "system":7000000000000000001,"timeline":2,"history":[{"timeline":1,"at":900}]}}"#;
    let memory: PoolMemory = serde_json::from_str(json).unwrap();
    let mut rig = healthy(three()).after_restart(three(), memory);
    rig.open_session("a", primary(1, &[]));
    rig.open_session("b", primary(2, &[900]));
    rig.open_session("c", standby(2, &[900]));
    rig.fit(&["a", "b", "c"]);
    assert_eq!(rig.way("pg"), "b");
    rig.ends("b", WatchEnd::Closed);
}

#[test]
fn how_far_the_line_before_went_says_nothing_of_two_that_were_promoted_one_after_the_other() {
    let mut rig = healthy(three().manual_failover());
    rig.sees("a", leads(1, 50 * MIB, &[]));
    rig.dies("a");
    rig.sees("b", leads(2, 1100, &[900]));
    rig.sees("c", leads(3, 1200, &[900, 1000]));
    assert!(rig.server_reason("c").starts_with("the primary"), "{}", rig.server_reason("c"));
    assert_eq!(told(&rig, "pool.split_brain").0, 0);
}

#[test]
fn a_primary_that_comes_back_more_than_a_segment_short_is_told_of() {
    for (short, times) in [(16 * MIB, 0), (16 * MIB + 1, 1)] {
        let mut rig = healthy(three());
        rig.sees("a", leads(1, 50 * MIB, &[]));
        let before = told(&rig, "pool.primary_changed").0;
        rig.dies("a");
        rig.comes_back("a", leads(1, 50 * MIB - short, &[]));
        assert_eq!((rig.way("pg").as_str(), told(&rig, "pool.primary_changed").0 - before), ("a", times), "{short}");
    }
}

#[test]
fn what_a_person_decided_is_on_disk_though_whom_it_was_for_never_serves() {
    let mut rig = healthy(three());
    rig.sees("b", primary(2, &[900]));
    // It is being shut down, so that nobody is sent there.
    rig.tell("a", WatchNews::TurnedAway { detail: String::new() });
    rig.point_to("a", SessionPolicy::Close).unwrap();
    assert_eq!((rig.way("pg").as_str(), rig.deeds().split(' ').next()), ("", Some("keep:b")), "{}", rig.deeds());
    let lineage = rig.remembered().lineage.unwrap();
    assert_eq!((lineage.rejected.len(), lineage.timeline), (1, Some(Timeline(2))));
}
