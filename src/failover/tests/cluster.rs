//! Who is the primary: promotions, old primaries that come back, two that claim it, and what people order.

use std::sync::Arc;

use super::build::ms;
use super::clustered::{denied, facts, healthy, of_system, plain, primary, standby, three};
use super::rig::{Rig, passed};
use crate::failover::{Change, Event, Refusal};
use crate::model::{
    AdminState, BackendName, DialError, LoginError, OutReason, PoolState, Role, ServerFacts, SessionPolicy, Target,
    Timeline, WatchEnd, WatchError,
};

fn promoted(rig: &mut Rig) {
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn a_standby_that_was_promoted_is_served_from_at_once() {
    let mut rig = healthy(three());
    assert_eq!(rig.state(), PoolState::Healthy);
    rig.dies("a");
    assert!(rig.holds());
    rig.sees("b", primary(2, &[900]));
    assert_eq!(
        (rig.deeds().as_str(), rig.kinds().as_slice()),
        ("keep:b [-] [b]", &["pool.primary_changed", "pool.failover"][..])
    );
    assert_eq!(rig.failovers(), ["1 pending: a >  (dead)", "1 in_progress: a > b (dead)", "1 completed: a > b (dead)"]);
    assert_eq!(rig.state(), PoolState::FailoverComplete, "a has the better priority");
    let told =
        Change::PrimaryChanged { from: Some("a".into()), to: "b".into(), timeline: Some(Timeline(2)), lost: Some(100) };
    assert!(rig.told.contains(&told));
}

#[test]
fn whoever_is_demoted_while_it_lives_is_fenced_before_another_one_writes() {
    let mut rig = healthy(three());
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.deeds(), "keep:b [-] a:all(demoted) [b]");
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > b (demoted)");
    assert!(rig.server_reason("a").contains("b has served on timeline 2"), "{}", rig.server_reason("a"));
    // And nobody goes back to it, whatever it says.
    rig.sees("a", primary(1, &[]));
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn a_drained_departure_of_writers_does_not_outlive_the_next_primary() {
    let mut rig = healthy(three().sessions(|of| of.dead = SessionPolicy::Drain));
    rig.dies("a");
    assert_eq!(rig.deeds(), "");
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.deeds(), "keep:b [-] a:all(demoted) [b]");
    let mut kept = healthy(three().sessions(|of| of.demoted = SessionPolicy::Keep));
    kept.sees("b", primary(2, &[900]));
    assert_eq!(kept.deeds(), "keep:b [-] a:opening(demoted) [b]", "what has begun goes on, as the policy says");
}

#[test]
fn an_old_primary_that_comes_back_gets_nobody_also_after_a_restart_of_ours() {
    let mut rig = healthy(three());
    promoted(&mut rig);
    rig.comes_back("a", primary(1, &[]));
    assert_eq!((rig.way("pg"), rig.backend("a").eligible), ("b".to_owned(), false));
    let mut next = rig.restarted(three());
    next.open_session("a", primary(1, &[]));
    next.open_session("c", standby(1, &[]));
    next.fit(&["a", "b", "c"]);
    next.live(ms(60_000), &[]);
    assert!(next.holds(), "{}", next.way("pg"));
    assert_eq!(next.count("pool.primary_changed"), 0);
    next.open_session("b", primary(2, &[900]));
    assert_eq!((next.way("pg"), next.count("pool.primary_changed")), ("b".to_owned(), 0));
}

#[test]
fn after_a_restart_what_matches_what_is_remembered_waits_for_the_others_too() {
    let mut rig = healthy(three());
    promoted(&mut rig);
    let mut next = rig.restarted(three());
    next.open_session("b", primary(2, &[900]));
    assert!(next.holds(), "it may have been overtaken while nobody looked");
    next.open_session("c", primary(3, &[900, 990]));
    next.open_session("a", standby(3, &[900, 990]));
    next.fit(&["a", "b", "c"]);
    assert_eq!(next.way("pg"), "c");
    let mut without = Rig::new(three());
    without.open_session("b", primary(2, &[900]));
    assert!(without.holds());
}

#[test]
fn after_a_restart_whoever_lives_and_lets_nobody_in_yet_is_waited_for_as_long_as_who_is_silent() {
    let login = [
        LoginError::TooManyConnections,
        LoginError::TimedOut,
        LoginError::ClosedEarly,
        LoginError::CannotConnectNow,
        LoginError::NotAuthorized,
        LoginError::Other,
    ];
    for error in login.map(WatchError::Login).into_iter().chain([WatchError::Dial(DialError::TimedOut)]) {
        let restarted = || {
            let mut next = healthy(three()).restarted(three());
            next.open_session("a", primary(1, &[]));
            next.fails("b", error);
            next.open_session("c", standby(1, &[]));
            next.fit(&["a", "b", "c"]);
            next.live(ms(3000), &[]);
            next.fails("b", error);
            assert!(
                next.holds() && next.state() == PoolState::Unknown,
                "{error:?}: b may have been promoted meanwhile"
            );
            next
        };
        let mut next = restarted();
        next.open_session("b", primary(2, &[900]));
        assert_eq!((next.way("pg").as_str(), next.fences().len()), ("b", 0), "{error:?}");
        let mut next = restarted();
        next.live(ms(2000), &[]);
        assert_eq!(next.way("pg"), "a", "{error:?}: and not for ever");
    }
    for error in [WatchError::Dial(DialError::Refused), WatchError::Login(LoginError::NotPostgres)] {
        let mut next = healthy(three()).restarted(three());
        next.open_session("a", primary(1, &[]));
        next.fails("b", error);
        next.open_session("c", standby(1, &[]));
        next.fit(&["a", "c"]);
        assert_eq!(next.way("pg"), "a", "{error:?}: there is nobody to wait for");
    }
}

#[test]
fn equal_timelines_are_a_split_brain_and_a_person_decides() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    rig.sees("c", primary(2, &[950]));
    assert_eq!(rig.deeds(), "[-] b:all(demoted) c:all(demoted)", "who came to read from c can write there");
    assert!(rig.holds());
    assert_eq!((rig.count("pool.split_brain"), rig.state()), (1, PoolState::FailoverInProgress));
    rig.sees("c", primary(2, &[950]));
    assert_eq!(rig.count("pool.split_brain"), 1, "told once");
    assert_eq!(rig.status("pg").contested, ["b", "c"].map(BackendName::from), "for as long as it lasts");
    assert!(rig.server_reason("c").contains("--to c"), "{}", rig.server_reason("c"));
    rig.fail_over("pg", Some("c")).unwrap();
    assert_eq!((rig.way("pg").as_str(), rig.status("pg").contested), ("c", Vec::new()), "it is settled");
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.way("pg"), "c");
    // What was decided is the lineage from then on.
    rig.dies("b");
    rig.fail_back("pg").unwrap();
    assert_eq!(rig.way("pg"), "c");
    rig.comes_back("b", standby(2, &[950]));
    assert_eq!(rig.way("pg"), "c");
}

/// On timeline 2, by a session that cannot tell where that comes from.
fn untold(role: Role) -> ServerFacts {
    ServerFacts { history: Arc::from([]), ..facts(role, 2, 1000, &[900]) }
}

#[test]
fn a_higher_number_without_a_history_is_believed_when_nobody_else_claims() {
    let mut rig = healthy(three());
    rig.sees("b", untold(Role::Primary));
    assert_eq!((rig.holds(), rig.count("pool.split_brain")), (true, 1));
    rig.dies("a");
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn a_number_without_a_history_is_believed_of_who_had_it_last_and_of_no_other() {
    let mut rig = Rig::new(three());
    rig.open_session("a", untold(Role::Primary));
    rig.open_session("b", untold(Role::Standby));
    rig.open_session("c", untold(Role::Standby));
    rig.fit(&["a", "b", "c"]);
    assert_eq!(rig.way("pg"), "a");
    rig.dies("a");
    // Promoted by somebody it would have the next number, or it has the same from elsewhere.
    rig.sees("b", untold(Role::Primary));
    assert_eq!((rig.holds(), rig.count("pool.split_brain")), (true, 1));
    rig.dies("b");
    rig.comes_back("a", untold(Role::Primary));
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn timelines_of_two_clusters_prove_nothing_between_them() {
    let mut rig = Rig::new(three());
    rig.open_session("a", primary(1, &[]));
    rig.open_session("b", of_system(primary(2, &[900]), 1));
    rig.fails("c", denied());
    rig.fit(&["a", "b", "c"]);
    // It might say more until its time is up.
    rig.live(ms(5000), &[]);
    assert_eq!((rig.holds(), rig.count("pool.split_brain")), (true, 1));
    // The third says of which cluster most are.
    rig.open_session("c", standby(1, &[]));
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn a_lone_claimant_on_another_line_of_the_same_number_is_refused() {
    let mut rig = healthy(three());
    promoted(&mut rig);
    rig.dies("b");
    rig.sees("c", primary(2, &[950]));
    assert!(rig.holds());
    assert_eq!(rig.count("pool.split_brain"), 1);
}

#[test]
fn a_higher_number_without_descent_proves_nothing_against_another_claimant() {
    let mut rig = healthy(three());
    rig.sees("b", primary(2, &[900]));
    // Timeline 3 that left 1, not 2.
    let mut facts = primary(3, &[950, 980]);
    facts.history = [facts.history[0]].into();
    rig.sees("c", facts.clone());
    assert!(rig.holds());
    rig.dies("b");
    assert!(rig.holds(), "alone, too: what was written on the line that was routed to is not on its own");
    assert_eq!(rig.count("pool.split_brain"), 2, "of two, and of one that proves nothing");
}

#[test]
fn plain_sessions_that_cannot_tell_are_believed_one_at_a_time() {
    let mut rig = Rig::new(three());
    rig.open_session("a", plain(Role::Primary, 10));
    rig.open_session("b", plain(Role::Standby, 10));
    rig.open_session("c", plain(Role::Standby, 10));
    rig.fit(&["a", "b", "c"]);
    assert_eq!(rig.way("pg"), "a");
    rig.sees("b", plain(Role::Primary, 11));
    assert!(rig.holds() && rig.count("pool.split_brain") == 1);
    rig.dies("a");
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn a_switchover_by_hand_loses_nobody() {
    let mut rig = healthy(three());
    rig.pause("pg", None).unwrap();
    rig.point_to("b", SessionPolicy::Drain).unwrap();
    assert_eq!(rig.failovers(), ["1 pending: a >  (manual)"]);
    assert_eq!(rig.status("pg").pinned, Some("b".into()));
    rig.ends("a", WatchEnd::Terminated);
    rig.fails("a", super::clustered::turned_away());
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > b (manual)");
    assert_eq!(rig.way("pg"), "", "paused still");
    rig.resume("pg").unwrap();
    assert_eq!(rig.way("pg"), "b");
    rig.comes_back("a", standby(2, &[900]));
    rig.fail_back("pg").unwrap();
    assert_eq!(rig.way("pg"), "b", "released, it follows the primary");
    assert!(matches!(rig.fail_back("pg"), Err(Refusal::Conflict(_))));
}

#[test]
fn a_pin_to_a_standby_holds_those_that_write_and_fences_the_old_before_the_new() {
    let mut rig = healthy(three());
    rig.point_to("b", SessionPolicy::Keep).unwrap();
    assert!(rig.holds() && rig.fences().is_empty());
    assert_eq!(
        rig.server_reason("a"),
        "the primary, and kept from clients: pinned to b until `changeover failback pg`"
    );
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.failovers(), ["1 pending: a >  (manual)"]);
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.deeds(), "keep:b [-] a:all(demoted) [b]");
    // A pin to a standby overrules no proof: b is lost, c is promoted, and b comes back as it was.
    rig.dies("b");
    rig.sees("c", primary(3, &[900, 990]));
    rig.comes_back("b", primary(2, &[900]));
    assert!(rig.holds());
    rig.fail_back("pg").unwrap();
    assert_eq!(rig.way("pg"), "c");
}

#[test]
fn a_failover_needs_a_name_and_a_server_that_lives() {
    let mut rig = healthy(three());
    let text = rig.fail_over("pg", None).unwrap_err().to_string();
    assert!(text.contains("--to"), "{text}");
    rig.dies("b");
    assert!(rig.fail_over("pg", Some("b")).unwrap_err().to_string().contains("dead"));
}

#[test]
fn with_automatic_off_a_new_primary_is_not_followed() {
    let mut rig = healthy(three().manual_failover());
    rig.sees("b", primary(2, &[900]));
    assert_eq!((rig.way("pg"), rig.fences().len()), (String::new(), 1), "the old one is none any more");
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.way("pg"), "");
    rig.fail_over("pg", Some("b")).unwrap();
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn with_automatic_off_a_new_primary_is_not_followed_after_a_restart_either() {
    let mut rig = healthy(three().manual_failover());
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    let mut next = rig.restarted(three().manual_failover());
    next.open_session("b", primary(2, &[900]));
    next.open_session("c", standby(2, &[900]));
    next.fit(&["b", "c"]);
    next.dies("a");
    next.live(ms(60_000), &["a"]);
    assert_eq!((next.way("pg"), next.way_to(Target::Any).0), (String::new(), "c".to_owned()));
    assert_eq!(next.server_reason("b"), "the primary, and kept from clients: automatic failover is off");
    next.comes_back("a", standby(2, &[900]));
    assert!(next.holds(), "as without a restart: who served last lives, and may be promoted again");
    next.fail_over("pg", Some("b")).unwrap();
    assert_eq!(next.way("pg"), "b");
    // Who was ordered last is served from again without one.
    let mut next = next.restarted(three().manual_failover());
    next.open_session("b", primary(2, &[900]));
    next.open_session("a", standby(2, &[900]));
    next.open_session("c", standby(2, &[900]));
    next.fit(&["a", "b", "c"]);
    next.fail_back("pg").unwrap();
    assert_eq!(next.way("pg"), "b");
}

#[test]
fn the_way_out_that_is_named_is_open_also_to_what_the_pool_is_pinned_to() {
    let mut rig = healthy(three());
    rig.fail_over("pg", Some("b")).unwrap();
    // Nothing says that timeline 3 comes from 1.
    let mut facts = primary(3, &[950, 980]);
    facts.history = [facts.history[1]].into();
    rig.dies("a");
    rig.sees("b", facts);
    assert!(rig.holds() && rig.server_reason("b").contains("failover pg --to b"), "{}", rig.server_reason("b"));
    rig.fail_over("pg", Some("b")).unwrap();
    assert_eq!((rig.way("pg"), rig.status("pg").pinned), ("b".to_owned(), Some("b".into())));
    let again = rig.fail_over("pg", Some("b")).unwrap_err().to_string();
    assert!(again.contains("pinned to b already"), "{again}");
}

#[test]
fn a_primary_that_is_drained_waits_for_another_one() {
    let mut rig = healthy(three());
    rig.order("a", AdminState::Drain);
    assert!(rig.holds());
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > b (drained)");
}

#[test]
fn a_primary_that_says_it_is_a_standby_is_demoted_once() {
    let mut rig = healthy(three());
    rig.sees("a", standby(1, &[]));
    assert_eq!(rig.deeds(), "[-] a:all(demoted)");
    assert!(rig.holds());
    assert_eq!(rig.failovers(), ["1 pending: a >  (demoted)"]);
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.deeds(), "keep:b [-] [b]", "fenced already");
}

#[test]
fn a_primary_that_left_the_plan_is_fenced_before_another_one_writes() {
    let mut rig = healthy(three());
    let gone = rig.id("a");
    rig.replan(super::build::plan().pool("pg").postgres().backend("b", 2).backend("c", 2));
    assert!(rig.holds() && rig.fences().is_empty(), "drained, as policies say");
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.deeds(), format!("keep:b [-] #{gone}:all(demoted) [b]"));
}

#[test]
fn whoever_is_written_to_again_waits_for_the_fences_of_that_turn() {
    let mut rig = healthy(three().drain_timeout(ms(1000)));
    rig.order("b", AdminState::Drain);
    rig.after(ms(900));
    rig.late("a", 30);
    assert_eq!((rig.holds(), rig.fences().len()), (true, 0));
    // Its answer comes when the time of those at b is up.
    rig.now = rig.now + ms(100);
    rig.on_time("a");
    assert_eq!(rig.deeds(), "b:all(drained) [a]");
}

#[test]
fn a_promotion_that_lost_nothing_is_told_without_a_word_of_loss() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.sees("b", primary(2, &[1000]));
    let told = rig.told.iter().rfind(|change| change.kind() == "pool.primary_changed").unwrap();
    assert!(matches!(told, Change::PrimaryChanged { lost: Some(0), .. }), "{told:?}");
    assert_eq!(told.to_string(), "b is the primary on timeline 2, a was");
}

#[test]
fn when_all_are_dead_the_pool_is_down_and_nobody_is_sent_anywhere() {
    let mut rig = healthy(three().use_preferred());
    for name in ["a", "b", "c"] {
        rig.dies(name);
    }
    assert_eq!((rig.state(), rig.way("pg"), rig.holds()), (PoolState::Down, String::new(), false));
    rig.comes_back("a", primary(1, &[]));
    assert_eq!((rig.way("pg"), rig.state()), ("a".to_owned(), PoolState::Degraded));
}

#[test]
fn a_primary_that_comes_back_before_anybody_is_promoted_goes_on() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.comes_back("a", primary(1, &[]));
    assert_eq!(rig.way("pg"), "a");
    assert_eq!(rig.failovers().last().unwrap(), "1 failed: a >  (dead)");
    assert_eq!(rig.out_for("a"), Some(OutReason::Dead));
    rig.answer("b", passed());
}

#[test]
fn what_was_decided_is_explained_server_by_server() {
    let mut rig = healthy(three());
    let explain = |rig: &Rig| {
        let said = rig.core.explain(rig.now, &"pg".into()).unwrap();
        said.rules.iter().map(|rule| format!("{}: {}", rule.rule, rule.detail)).collect::<Vec<_>>()
    };
    let rules = explain(&rig);
    assert_eq!(rules[1], "primary: healthy: a is on timeline 1");
    assert_eq!(
        rules[3],
        "server: b is standby, timeline 1, at 0/384; alive: the session is open, the accept path answers"
    );
    rig.late("a", 40);
    assert!(explain(&rig)[1].starts_with("primary: suspect") && explain(&rig)[2].starts_with("suspect: "));
    rig.on_time("a");
    rig.dies("a");
    let rules = explain(&rig);
    assert_eq!(rules[0], "hold: clients wait up to 10s for a primary");
    assert_eq!(
        rules[1],
        "no_primary: no_primary: standby is b, c; it goes on once one is promoted, or the primary is back"
    );
    assert_eq!(rig.core.evaluate(rig.now, &"pg".into()).unwrap().reason, "no server proves that it is the primary");
    rig.sees("b", primary(2, &[900]));
    rig.sees("c", primary(2, &[950]));
    assert_eq!(
        explain(&rig)[1],
        "split_brain: two_primaries: b is on timeline 2, which left timeline 1 at 0/384; c is on timeline 2, which left timeline 1 at 0/3B6"
    );
    rig.feed(Event::Tick);
}

/// While nobody is the primary, it is said who keeps the pool from having one: a monitor that is not let in, or a
/// server that is not believed.
#[test]
fn without_a_primary_it_is_said_who_is_in_the_way() {
    let why = |rig: &Rig| rig.core.explain(rig.now, &"pg".into()).unwrap().rules[1].detail.clone();
    let mut rig = Rig::new(three());
    for name in ["a", "b", "c"] {
        rig.fails(name, denied());
    }
    rig.fit(&["a", "b", "c"]);
    rig.live(ms(5000), &[]);
    assert_eq!(why(&rig), "no_primary: no standby is fit; nobody knows what a, b, c is, and why stands below");
    let mut rig = healthy(three());
    promoted(&mut rig);
    rig.comes_back("a", primary(1, &[]));
    rig.dies("b");
    let waits = "it goes on once one is promoted, or the primary is back";
    assert_eq!(why(&rig), format!("no_primary: standby is c; a would be the primary and is not believed; {waits}"));
}

#[test]
fn a_pin_to_whoever_is_the_primary_is_no_word_against_one_that_comes_after_it() {
    let mut rig = healthy(three());
    promoted(&mut rig);
    rig.fail_over("pg", Some("b")).unwrap();
    assert_eq!(rig.way("pg"), "b");
    rig.dies("b");
    rig.sees("c", primary(3, &[900, 990]));
    assert_eq!(rig.way("pg"), "", "it is pinned");
    rig.comes_back("b", primary(2, &[900]));
    assert_eq!(rig.way("pg"), "", "and what it is pinned to was overtaken meanwhile");
    rig.fail_back("pg").unwrap();
    assert_eq!(rig.way("pg"), "c");
}

#[test]
fn what_sessions_meet_at_a_server_has_it_asked_and_decides_nothing() {
    let mut rig = healthy(three());
    for _ in 0..50 {
        rig.ended_early("a", 1000);
        let ended = rig.now;
        rig.answer("a", passed());
        assert!(rig.now.since(ended) <= ms(10), "it is asked at once");
        rig.pass(ms(100));
        for error in [DialError::TimedOut, DialError::Unreachable, DialError::Other] {
            rig.dial_failed("a", error);
        }
        rig.pass(ms(100));
        if rig.started("a") {
            rig.answer("a", passed());
        }
    }
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").passive_points), ("a", 0));
    assert_eq!(rig.count("backend.unhealthy"), 0);
    // What people say is another matter.
    for _ in 0..3 {
        rig.report_failure("a", "x");
    }
    assert!(rig.holds());
}

#[test]
fn after_a_restart_nothing_has_failed_over_until_all_have_had_a_first_word() {
    let mut next = healthy(three()).restarted(three());
    next.open_session("b", standby(1, &[]));
    next.open_session("c", standby(1, &[]));
    next.fit(&["a", "b", "c"]);
    assert_eq!((next.state(), next.holds()), (PoolState::Unknown, true), "a may go on");
    next.fails("a", denied());
    assert_eq!((next.state(), next.holds()), (PoolState::Unknown, true), "it may be let in yet");
    next.live(ms(5000), &[]);
    assert_eq!((next.state(), next.holds()), (PoolState::FailoverInProgress, true), "nobody is the primary");
}
