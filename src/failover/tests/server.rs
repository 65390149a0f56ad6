//! What the two paths to a server say, what that means, and what follows for its health.

use super::build::{ms, plan};
use super::clustered::{denied, healthy, of_system, primary, standby, three, turned_away};
use super::rig::{Rig, bad_answer, failed, passed, refused, timed_out};
use crate::failover::meanings::{Fate, fate, meaning};
use crate::failover::{Change, Command, Event, Order};
use crate::model::{
    AcceptPath, CheckError, DialError, HealthState, LoginError, Meaning, OutReason, PoolState, ProbeError, SessionPath,
    Target, WatchEnd, WatchError, WatchId, WatchNews,
};

#[test]
fn every_combination_has_its_meaning() {
    use AcceptPath::{Alien, Answers, Errs, Mute, Refuses, Silent, Unreachable};
    let accepts = [Silent, Answers, Refuses, Mute, Unreachable, Errs, Alien];
    assert_eq!(accepts.len(), AcceptPath::ALL.len());
    let table = [
        (SessionPath::Silent, "unknown unknown dead frozen unreachable overloaded not_postgres"),
        (SessionPath::Open, "alive alive dead frozen frozen overloaded not_postgres"),
        (SessionPath::Shut, "stopping stopping dead stopping stopping stopping not_postgres"),
        (SessionPath::Late, "unreachable overloaded dead frozen unreachable overloaded not_postgres"),
        (SessionPath::Lost, "unknown session_killed dead frozen unreachable overloaded not_postgres"),
        (SessionPath::Stopping, "stopping stopping dead stopping stopping stopping not_postgres"),
        (SessionPath::Starting, "starting starting dead starting starting starting not_postgres"),
        (SessionPath::Full, "overloaded overloaded dead frozen unreachable overloaded not_postgres"),
        (SessionPath::Denied, "no_permission no_permission dead frozen unreachable overloaded not_postgres"),
        (SessionPath::Refused, "dead starting dead frozen unreachable starting not_postgres"),
        (SessionPath::Unanswered, "unreachable overloaded dead frozen unreachable overloaded not_postgres"),
        (SessionPath::Alien, "not_postgres not_postgres dead frozen unreachable not_postgres not_postgres"),
        (SessionPath::Untried, "unknown unknown dead frozen unreachable overloaded not_postgres"),
    ];
    assert_eq!(table.len(), SessionPath::ALL.len());
    for (session, row) in table {
        let words: Vec<&str> = row.split(' ').collect();
        for (accept, word) in accepts.into_iter().zip(words) {
            assert_eq!(meaning(session, accept).label(), word, "{session:?} {accept:?}");
        }
    }
}

#[test]
fn every_combination_has_its_fate() {
    use AcceptPath::{Alien, Answers, Errs, Mute, Refuses, Silent, Unreachable};
    let accepts = [Silent, Answers, Refuses, Mute, Unreachable, Errs, Alien];
    let table = [
        (SessionPath::Silent, "serves serves doubted doubted doubted serves doubted"),
        (SessionPath::Open, "serves serves doubted doubted doubted serves doubted"),
        (SessionPath::Shut, "shut shut shut shut shut shut shut"),
        (SessionPath::Late, "doubted serves doubted doubted doubted serves doubted"),
        (SessionPath::Lost, "doubted serves doubted doubted doubted serves doubted"),
        (SessionPath::Stopping, "out out doubted out out out doubted"),
        (SessionPath::Starting, "out out doubted out out out doubted"),
        (SessionPath::Full, "serves serves doubted doubted doubted serves doubted"),
        (SessionPath::Denied, "serves serves doubted doubted doubted serves doubted"),
        (SessionPath::Refused, "doubted serves doubted doubted doubted serves doubted"),
        (SessionPath::Unanswered, "doubted serves doubted doubted doubted serves doubted"),
        (SessionPath::Alien, "out out doubted doubted doubted out out"),
        (SessionPath::Untried, "serves serves doubted doubted doubted serves doubted"),
    ];
    assert_eq!(table.len(), SessionPath::ALL.len());
    for (session, row) in table {
        for (accept, word) in accepts.into_iter().zip(row.split(' ')) {
            let expected = match word {
                "serves" => Fate::Serves,
                "doubted" => Fate::Doubted,
                "shut" => Fate::Shut,
                _ => Fate::Out,
            };
            assert_eq!(fate(session, meaning(session, accept)), expected, "{session:?} {accept:?}");
        }
    }
    for meaning in [Meaning::WrongSystem, Meaning::Alive] {
        assert_eq!(fate(SessionPath::Open, meaning), Fate::Serves, "its part says the rest");
    }
}

#[test]
fn nobody_new_writes_to_a_server_that_accepts_and_says_nothing() {
    let mute = || failed(ProbeError::Check(CheckError::AnswerTimedOut));
    let mut rig = healthy(three());
    let told = rig.told.len();
    rig.after(ms(2000));
    rig.answer("a", mute());
    assert_eq!((rig.meaning("a").as_str(), rig.backend("a").health), ("frozen", HealthState::Healthy));
    assert!(rig.holds() && rig.fences().is_empty() && rig.told.len() == told, "a doubt, and no more");
    assert!(rig.server_reason("a").contains("in doubt: frozen"), "{}", rig.server_reason("a"));
    rig.sees("a", primary(1, &[]));
    assert!(rig.holds(), "that those who are in are served says nothing of who is not");
    assert!(rig.wait("a") <= ms(70), "it is asked on at once");
    rig.answer("a", passed());
    assert_eq!((rig.way("pg"), rig.told.len()), ("a".to_owned(), told));
    // While its session lives, silence on the accept path alone is counted like any failure.
    rig.answer("a", mute());
    rig.pass(ms(1000));
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
    rig.answer("a", mute());
    rig.answer("a", mute());
    assert_eq!(rig.out_for("a"), Some(OutReason::CheckFailed));
}

#[test]
fn a_stall_of_our_own_voids_what_the_accept_path_did_not_say() {
    let mut rig = healthy(three());
    rig.answer("a", failed(ProbeError::Check(CheckError::AnswerTimedOut)));
    assert!(rig.holds());
    rig.feed(Event::WasStalled { since: rig.now });
    assert_eq!((rig.way("pg"), rig.meaning("a").as_str()), ("a".to_owned(), "alive"));
}

#[test]
fn what_is_no_postgres_is_not_let_back_in_for_accepting() {
    let mut rig = healthy(three());
    let before = rig.told.len();
    for _ in 0..5 {
        rig.fails("b", WatchError::Login(LoginError::NotPostgres));
        rig.live(ms(1000), &[]);
    }
    let kinds: Vec<&str> = rig.told[before..].iter().map(Change::kind).collect();
    assert_eq!(kinds, ["backend.unhealthy", "pool.degraded"]);
    rig.comes_back("b", standby(1, &[]));
    assert_eq!(rig.state(), PoolState::Healthy);
}

#[test]
fn a_login_that_came_to_no_end_allays_no_doubt() {
    let mut rig = healthy(three());
    rig.ends("a", WatchEnd::Terminated);
    rig.fails("a", WatchError::Login(LoginError::ClosedEarly));
    rig.answer("a", passed());
    assert!(rig.holds(), "a server that stops still answers");
    rig.fails("a", turned_away());
    assert_eq!((rig.out_for("a"), rig.meaning("a").as_str()), (Some(OutReason::Dead), "stopping"));
}

#[test]
fn that_we_could_not_ask_is_no_first_word() {
    let own = WatchError::Dial(DialError::Local);
    for error in [own, turned_away()] {
        let mut rig = Rig::new(three());
        rig.fails("b", error);
        rig.open_session("a", primary(1, &[]));
        rig.open_session("c", standby(1, &[]));
        rig.fit(&["a", "c"]);
        rig.answer("b", passed());
        assert!(rig.holds() && rig.state() == PoolState::Unknown, "{error:?}: b may be the newer primary");
        rig.open_session("b", primary(2, &[900]));
        rig.answer("b", passed());
        assert_eq!(rig.way("pg"), "b", "{error:?}");
        // And it is not waited for in vain.
        let mut rig = Rig::new(three());
        rig.fails("b", error);
        rig.open_session("a", primary(1, &[]));
        rig.open_session("c", standby(1, &[]));
        rig.live(ms(5000), &[]);
        rig.fails("b", error);
        assert!(rig.core.has_first_verdicts(), "{error:?}");
        assert_eq!(rig.way("pg"), "a", "{error:?}");
        let expected = if error == own { HealthState::Healthy } else { HealthState::Unhealthy };
        assert_eq!(rig.backend("b").health, expected);
    }
}

#[test]
fn whoever_is_turned_away_beside_an_open_session_has_the_monitor_try_and_believe_it() {
    let knocks = |rig: &Rig| rig.last.iter().filter(|command| matches!(command, Command::Knock { .. })).count();
    let turned = || WatchNews::TurnedAway { detail: "the database system is shutting down".to_owned() };
    let mut rig = healthy(three());
    rig.dial_failed("a", DialError::TimedOut);
    assert_eq!(knocks(&rig), 0);
    rig.ended_early("a", 1);
    assert_eq!(knocks(&rig), 1, "which of its clients it is, only another login can tell");
    rig.ended_early("a", 1);
    assert_eq!((knocks(&rig), rig.way("pg").as_str()), (1, "a"));
    rig.tell("a", WatchNews::LetIn);
    assert_eq!(rig.way("pg"), "a", "a client's doing, then");
    rig.tell("a", turned());
    assert!(rig.holds() && rig.fences().is_empty(), "nobody new, and whoever is there stays: {}", rig.deeds());
    assert_eq!((rig.meaning("a").as_str(), rig.state()), ("stopping", PoolState::FailoverInProgress));
    assert!(rig.server_reason("a").contains("is being shut down"), "{}", rig.server_reason("a"));
    assert!(rig.server_reason("a").contains("the database system is shutting down"), "{}", rig.server_reason("a"));
    rig.ended_early("a", 1);
    assert_eq!(knocks(&rig), 0, "the monitor tries on by itself");
    assert_eq!(rig.failovers(), ["1 pending: a >  (check_failed)"]);
    assert!(!rig.backend("a").active && !rig.backend("a").eligible);
    for _ in 0..3 {
        rig.sees("a", primary(1, &[]));
        rig.late("a", 30);
        rig.on_time("a");
        rig.answer("a", passed());
        rig.tell("a", turned());
    }
    assert!(rig.holds() && rig.meaning("a") == "stopping", "neither path knows better");
    // It is not shut down after all.
    rig.tell("a", WatchNews::LetIn);
    assert_eq!((rig.way("pg").as_str(), rig.state(), rig.meaning("a").as_str()), ("a", PoolState::Healthy, "alive"));
    // Or it is: its last session ends, nobody listens, and who is promoted is followed.
    rig.tell("a", turned());
    rig.ends("a", WatchEnd::Closed);
    assert!(rig.holds());
    rig.fails("a", turned_away());
    assert_eq!((rig.out_for("a"), rig.meaning("a").as_str()), (Some(OutReason::Dead), "stopping"));
    rig.sees("b", primary(2, &[1000]));
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn a_standby_that_is_shut_down_gets_no_new_readers_and_a_promotion_is_followed_from_one() {
    let turned = || WatchNews::TurnedAway { detail: String::new() };
    let mut rig = healthy(three());
    rig.tell("b", turned());
    assert_eq!((rig.way_to(Target::Standby).0.as_str(), rig.state()), ("c", PoolState::Degraded));
    assert!(rig.fences().is_empty());
    rig.tell("b", WatchNews::LetIn);
    assert_eq!((rig.way_to(Target::Standby).0.as_str(), rig.state()), ("b c", PoolState::Healthy));
    rig.tell("a", turned());
    rig.sees("b", primary(2, &[1000]));
    assert_eq!((rig.way("pg").as_str(), rig.count("pool.failover")), ("b", 1));
}

#[test]
fn a_session_that_ends_and_one_refusal_are_death() {
    for end in [WatchEnd::Closed, WatchEnd::Terminated, WatchEnd::Crashed, WatchEnd::Malformed] {
        let mut rig = healthy(three());
        rig.after(ms(300));
        rig.ends("a", end);
        assert!(rig.started("a") && rig.holds(), "asked at once, and nobody new is sent there meanwhile");
        rig.answer("a", refused());
        assert_eq!((rig.out_for("a"), rig.meaning("a").as_str()), (Some(OutReason::Dead), "dead"));
        assert_eq!((rig.state(), rig.deeds().as_str()), (PoolState::FailoverInProgress, "a:all(dead)"));
        assert!(rig.holds());
    }
}

#[test]
fn a_session_that_ends_and_is_refused_is_death_before_any_probe_is() {
    let mut rig = healthy(three());
    rig.ends("a", WatchEnd::Closed);
    rig.fails("a", WatchError::Dial(DialError::Refused));
    assert_eq!(rig.out_for("a"), Some(OutReason::Dead));
    assert_eq!(rig.meaning("a"), "dead");
}

#[test]
fn a_fast_stop_is_the_end_at_once_though_it_still_accepts() {
    let mut rig = healthy(three());
    rig.ends("a", WatchEnd::Terminated);
    rig.fails("a", turned_away());
    assert_eq!((rig.out_for("a"), rig.meaning("a").as_str()), (Some(OutReason::Dead), "stopping"));
    for _ in 0..5 {
        rig.answer("a", passed());
        assert_eq!(rig.backend("a").health, HealthState::Unhealthy, "what still answers takes no sessions");
    }
    assert_eq!(rig.meaning("a"), "stopping");
    rig.answer("a", refused());
    assert_eq!(rig.meaning("a"), "dead");
    rig.fails("a", WatchError::Dial(DialError::Refused));
    rig.fails("a", turned_away());
    assert_eq!(rig.meaning("a"), "starting");
    rig.comes_back("a", primary(1, &[]));
    assert_eq!((rig.way("pg"), rig.meaning("a").as_str()), ("a".to_owned(), "alive"));
}

#[test]
fn whoever_ends_the_monitors_session_alone_changes_nothing() {
    let mut rig = healthy(three());
    let told = rig.told.len();
    rig.ends("a", WatchEnd::Terminated);
    assert!(rig.holds(), "a doubt of a moment");
    assert_eq!(rig.meaning("a"), "unknown");
    rig.answer("a", passed());
    assert!(rig.holds(), "a server that stops still answers: the login that is tried again at once says more");
    assert_eq!(rig.meaning("a"), "session_killed");
    rig.open_session("a", primary(1, &[]));
    assert_eq!((rig.way("pg"), rig.meaning("a").as_str()), ("a".to_owned(), "alive"));
    rig.live(ms(5000), &[]);
    assert_eq!((rig.told.len(), rig.state(), rig.way("pg")), (told, PoolState::Healthy, "a".to_owned()));
}

#[test]
fn a_frozen_server_is_out_when_nothing_has_answered_for_the_deadline() {
    let mut rig = healthy(three());
    rig.late("a", 30);
    assert!(rig.holds() && rig.started("a"));
    let began = rig.now;
    rig.pass(ms(219));
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
    rig.pass(ms(1));
    assert_eq!(rig.out_for("a"), Some(OutReason::Unreachable), "after {:?}", rig.now.since(began));
    assert_eq!(rig.meaning("a"), "unreachable");
    // Thawed: the same session goes on, and says so.
    rig.on_time("a");
    rig.answer("a", passed());
    assert_eq!((rig.way("pg"), rig.meaning("a").as_str()), ("a".to_owned(), "alive"));
}

#[test]
fn a_server_that_was_slow_of_late_has_four_times_its_slowest_answer_and_not_two_deadlines() {
    for (slowest, patience) in [(62, 250), (63, 252), (100, 400), (112, 448), (113, 450), (5000, 450)] {
        let mut rig = healthy(three());
        rig.late_after("a", 30, slowest);
        rig.pass(ms(patience - 30 - 1));
        assert_eq!(rig.backend("a").health, HealthState::Healthy, "{slowest}");
        rig.pass(ms(1));
        assert_eq!(rig.out_for("a"), Some(OutReason::Unreachable), "{slowest}");
    }
}

#[test]
fn a_slow_answer_of_long_ago_buys_no_time_when_the_session_ends() {
    let mut rig = healthy(three());
    rig.late_after("a", 30, 5000);
    rig.on_time("a");
    rig.pass(ms(3_600_000));
    rig.ends("a", WatchEnd::Closed);
    rig.pass(ms(250));
    assert_eq!(rig.out_for("a"), Some(OutReason::Unreachable));
}

#[test]
fn thawed_before_the_deadline_nothing_is_lost() {
    let mut rig = healthy(three());
    let told = rig.told.len();
    rig.late("a", 30);
    rig.pass(ms(200));
    rig.on_time("a");
    assert_eq!((rig.way("pg"), rig.deeds()), ("a".to_owned(), "[a]".to_owned()));
    rig.live(ms(2000), &[]);
    assert_eq!(rig.told.len(), told);
}

#[test]
fn an_overloaded_server_serves_and_is_asked_again_and_again() {
    let mut rig = healthy(three());
    rig.late("a", 30);
    rig.answer("a", passed());
    assert_eq!((rig.way("pg"), rig.meaning("a").as_str()), ("a".to_owned(), "overloaded"));
    let mut asked = 0;
    for _ in 0..20 {
        let wait = rig.wait("a");
        assert!(wait <= ms(70), "{wait:?}");
        rig.answer("a", passed());
        asked += 1;
    }
    assert_eq!((asked, rig.backend("a").health), (20, HealthState::Healthy));
    // Then it freezes: the answer that does not come is noticed within the deadline.
    rig.pass(ms(249));
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
    rig.pass(ms(1));
    assert_eq!(rig.out_for("a"), Some(OutReason::Unreachable));
}

#[test]
fn a_stall_of_our_own_voids_a_doubt() {
    let mut rig = healthy(three());
    rig.late("a", 30);
    let since = rig.now;
    rig.now = rig.now + ms(5000);
    rig.feed(Event::WasStalled { since });
    assert!(rig.started("a") && rig.holds(), "who is in doubt gets nobody new: it may have been frozen before");
    rig.answer("a", passed());
    assert_eq!((rig.way("pg"), rig.backend("a").health), ("a".to_owned(), HealthState::Healthy));
    // What was late all the while is told late: the accept path has its time all the same.
    rig.late("a", 5030);
    rig.pass(ms(100));
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
    rig.answer("a", passed());
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn a_server_that_was_frozen_before_a_stall_of_our_own_gets_nobody_after_it() {
    let mut rig = healthy(three());
    rig.late("a", 30);
    for _ in 0..3 {
        let since = rig.now;
        rig.now = rig.now + ms(600);
        rig.feed(Event::WasStalled { since });
        assert!(rig.holds() && rig.published().is_none());
    }
    rig.pass(ms(249));
    assert_eq!((rig.holds(), rig.backend("a").health), (true, HealthState::Healthy));
    rig.pass(ms(1));
    assert_eq!(rig.out_for("a"), Some(OutReason::Unreachable));
}

#[test]
fn a_verdict_that_fell_due_while_we_stood_still_waits_for_what_came_meanwhile() {
    // Too short to be noticed as a stall, and it ends after the deadline: a session that was answered in time says so only then.
    for (begins, lasts) in [(50, 190), (100, 140), (190, 40), (219, 11)] {
        let mut rig = healthy(three());
        let told = rig.told.len();
        rig.late("a", 30);
        rig.pass(ms(begins));
        rig.now = rig.now + ms(lasts);
        rig.tick();
        rig.pass(ms(3));
        rig.on_time("a");
        assert_eq!((rig.way("pg"), rig.told.len()), ("a".to_owned(), told), "from {begins} for {lasts} ms");
    }
}

#[test]
fn a_verdict_that_fell_due_in_another_turn_waits_as_well() {
    let mut rig = healthy(three());
    rig.late("a", 30);
    rig.pass(ms(150));
    rig.now = rig.now + ms(100);
    // Whatever is told first of all that has come meanwhile.
    rig.sees("b", standby(1, &[]));
    rig.on_time("a");
    assert_eq!((rig.way("pg"), rig.out_for("a")), ("a".to_owned(), None));
}

#[test]
fn whoever_is_always_late_gives_half_a_deadline_more_and_not_twice() {
    let mut rig = healthy(three());
    rig.late("a", 30);
    rig.now = rig.now + ms(220 + 40);
    rig.tick();
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
    // Neither does another anomaly.
    rig.ends("a", WatchEnd::Silent);
    rig.now = rig.now + ms(125 + 40);
    rig.tick();
    assert_eq!(rig.out_for("a"), Some(OutReason::Unreachable));
    // A sign of life begins it anew.
    let mut rig = healthy(three());
    rig.late("a", 30);
    for _ in 0..5 {
        rig.now = rig.now + ms(260);
        rig.tick();
        assert_eq!(rig.backend("a").health, HealthState::Healthy);
        rig.answer("a", passed());
        assert_eq!(rig.way("pg"), "a");
    }
    rig.pass(ms(250));
    assert_eq!(rig.out_for("a"), Some(OutReason::Unreachable), "in time it is no later than ever");
}

#[test]
fn whoever_cannot_be_asked_as_whom_keeps_its_part() {
    let errors = [
        denied(),
        WatchError::Login(LoginError::NotPermitted),
        WatchError::Login(LoginError::Tls),
        WatchError::Login(LoginError::TooManyConnections),
    ];
    for error in errors {
        let mut rig = healthy(three());
        rig.ends("a", WatchEnd::Terminated);
        rig.fails("a", error);
        assert_eq!(rig.way("pg"), "a", "an answer is a sign of life");
        rig.live(ms(60_000), &[]);
        assert_eq!((rig.way("pg"), rig.state()), ("a".to_owned(), PoolState::Healthy));
        let expected =
            if error == WatchError::Login(LoginError::TooManyConnections) { "overloaded" } else { "no_permission" };
        assert_eq!(rig.meaning("a"), expected);
    }
}

#[test]
fn a_role_is_believed_of_whoever_lets_nobody_in_until_it_was_down() {
    let full = WatchError::Login(LoginError::TooManyConnections);
    let slow = || failed(ProbeError::Check(CheckError::AnswerTimedOut));
    let starting = || failed(ProbeError::Check(CheckError::CannotConnectNow));
    for (error, proof) in [(denied(), refused()), (denied(), starting()), (full, refused())] {
        let mut rig = healthy(three());
        rig.ends("a", WatchEnd::Terminated);
        rig.fails("a", error);
        rig.answer("a", passed());
        rig.answer("a", slow());
        assert!(rig.holds() && rig.backend("a").server.unwrap().role.is_some(), "one slow answer proves nothing");
        rig.answer("a", passed());
        assert_eq!(rig.way("pg"), "a");
        rig.answer("a", proof);
        assert_eq!(rig.backend("a").health, HealthState::Healthy, "once is no verdict");
        assert!(rig.holds(), "and it may have come back as anything");
        rig.answer("a", passed());
        rig.live(ms(5000), &[]);
        assert!(rig.holds());
        rig.open_session("a", primary(1, &[]));
        assert_eq!(rig.way("pg"), "a");
    }
}

#[test]
fn whoever_lets_nobody_in_yields_to_a_promotion_and_not_to_an_old_primary() {
    let mut rig = healthy(three());
    rig.ends("a", WatchEnd::Terminated);
    rig.fails("a", denied());
    rig.answer("a", passed());
    rig.sees("b", primary(2, &[1000]));
    assert_eq!(rig.way("pg"), "b", "its line comes from the one that is believed of the other");
    rig.ends("b", WatchEnd::Terminated);
    rig.fails("b", denied());
    rig.answer("b", passed());
    rig.open_session("a", primary(1, &[]));
    assert_eq!(rig.way("pg"), "b", "an older line is no better for being told later");
}

#[test]
fn whoever_is_never_let_in_has_no_part_and_says_why() {
    let mut rig = Rig::new(three());
    for name in ["a", "b", "c"] {
        rig.fails(name, denied());
    }
    assert!(!rig.core.has_first_verdicts(), "the accept path has said nothing yet");
    rig.fit(&["a", "b", "c"]);
    assert!(!rig.core.has_first_verdicts(), "one of them may be let in yet");
    rig.live(ms(5000), &[]);
    assert!(rig.core.has_first_verdicts() && rig.holds());
    assert_eq!(rig.state(), PoolState::Unknown, "nothing has failed over where nothing has ever served");
    assert!(
        rig.server_reason("a").contains("no_permission: the session is denied (not_authorized)"),
        "{}",
        rig.server_reason("a")
    );
    rig.open_session("b", primary(1, &[]));
    assert_eq!((rig.way("pg"), rig.state()), ("b".to_owned(), PoolState::FailoverComplete));
    assert!(!rig.backend("a").eligible);
}

#[test]
fn first_verdicts_wait_for_words_and_not_for_ever() {
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "c"]);
    assert!(!rig.core.has_first_verdicts() && rig.state() == PoolState::Unknown);
    rig.open_session("b", primary(1, &[]));
    rig.fails("c", denied());
    assert!(rig.holds(), "a may be the newer primary");
    rig.live(ms(5000), &[]);
    assert!(rig.core.has_first_verdicts());
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn what_is_no_postgres_gets_nobody() {
    let mut rig = Rig::new(three());
    rig.open_session("a", primary(1, &[]));
    rig.fails("b", WatchError::Login(LoginError::NotPostgres));
    rig.fails("c", denied());
    rig.answer("a", passed());
    rig.answer("c", failed(ProbeError::Check(CheckError::Malformed)));
    assert_eq!((rig.meaning("b"), rig.meaning("c")), ("not_postgres".to_owned(), "not_postgres".to_owned()));
    assert_eq!((rig.backend("b").eligible, rig.backend("c").eligible), (false, false));
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn a_server_of_another_cluster_gets_nobody() {
    let mut rig = healthy(three());
    rig.dies("b");
    rig.comes_back("b", of_system(primary(1, &[]), 5));
    assert_eq!((rig.way("pg"), rig.meaning("b").as_str()), ("a".to_owned(), "wrong_system"));
    assert!(rig.server_reason("b").contains("its system identifier is 5"), "{}", rig.server_reason("b"));
    assert!(!rig.backend("b").eligible);
    assert_eq!(rig.state(), PoolState::Degraded);
}

#[test]
fn news_of_another_watch_and_of_nobody_are_void() {
    let mut rig = healthy(three());
    rig.tell_as("a", WatchId(77), WatchNews::Ended { end: WatchEnd::Closed, detail: String::new() });
    assert!(rig.last.is_empty() && rig.way("pg") == "a");
    // Late and on time belong to a session.
    rig.ends("b", WatchEnd::Closed);
    rig.late("b", 50);
    rig.on_time("b");
    assert_eq!(rig.meaning("b"), "unknown");
}

#[test]
fn a_plan_begins_and_ends_watches() {
    let mut rig = Rig::new(three());
    assert_eq!(rig.watches.len(), 3);
    let (old, gone) = (rig.watches.clone(), rig.id("c"));
    rig.replan(super::build::plan().pool("pg").postgres().backend("a", 1).backend("b", 5).at("other:1"));
    assert_eq!(rig.watches.len(), 2);
    assert!(!rig.watches.contains_key(&gone));
    let a = rig.id("a");
    assert_eq!(rig.watches[&a], old[&a], "the same goes on undisturbed");
    assert!(!old.contains_key(&rig.id("b")), "at another address it is another server");
    rig.replan(super::build::plan().pool("pg").backend("a", 1));
    assert!(rig.watches.is_empty(), "no cluster, no watch");
    rig.fit(&["a"]);
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn what_a_server_said_before_it_was_lost_counts_no_more() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.answer("a", passed());
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
    assert!(rig.holds(), "it may have come back as a standby");
    assert_eq!(rig.backend("a").server.unwrap().role, None);
    rig.open_session("a", standby(1, &[]));
    assert!(rig.holds());
}

#[test]
fn other_failures_go_by_their_thresholds() {
    let mut rig = healthy(three());
    rig.answer("a", timed_out());
    rig.answer("a", bad_answer());
    assert_eq!(rig.way("pg"), "a");
    rig.command(Order::Probe { pool: "pg".into(), backend: None });
    rig.answer("a", timed_out());
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    assert_eq!(Meaning::LABELS.len(), 12);
}

#[test]
fn a_login_that_is_tried_again_is_waited_for_a_deadline_long() {
    for (millis, holds) in [(249, true), (250, false)] {
        let mut rig = healthy(three());
        rig.ends("a", WatchEnd::Terminated);
        let ended = rig.now;
        rig.answer("a", passed());
        rig.until_asked("a");
        rig.now = ended + ms(millis);
        rig.answer("a", passed());
        assert_eq!((rig.now, rig.holds()), (ended + ms(millis), holds), "it answers, and lets nobody in for so long");
    }
}

#[test]
fn a_session_that_is_open_has_who_is_out_asked_at_once_and_no_other() {
    let mut rig = healthy(three());
    rig.open_session("b", standby(1, &[]));
    assert!(!rig.started("b"), "it is fit, and the probe keeps its pace");
    rig.late("b", 30);
    rig.answer("b", passed());
    rig.on_time("b");
    assert!(!rig.started("b"));
    rig.dies("b");
    rig.after(ms(300));
    rig.open_session("b", standby(1, &[]));
    assert!(rig.started("b"), "its port is to be found open, too");
}

#[test]
fn a_login_that_nobody_answers_begins_one_doubt() {
    for error in [WatchError::Dial(DialError::TimedOut), WatchError::Login(LoginError::TimedOut)] {
        let mut rig = healthy(three());
        rig.ends("a", WatchEnd::Closed);
        rig.answer("a", passed());
        rig.after(ms(50));
        rig.fails("a", error);
        assert!(rig.started("a") && rig.holds(), "{error:?}");
        rig.answer("a", passed());
        rig.after(ms(50));
        rig.fails("a", error);
        assert_eq!((rig.started("a"), rig.way("pg").as_str()), (false, "a"), "the accept path has answered: {error:?}");
    }
}

#[test]
fn that_we_could_not_try_is_said_where_nothing_else_was_said() {
    let own = WatchError::Dial(DialError::Local);
    let mut rig = Rig::new(three());
    rig.fails("b", own);
    assert!(rig.server_words("b").contains("the session could not be tried"), "{}", rig.server_words("b"));
    rig.fails("b", denied());
    rig.fails("b", own);
    assert!(rig.server_words("b").contains("the session is denied"), "{}", rig.server_words("b"));
}

#[test]
fn who_is_fit_and_has_said_nothing_is_waited_for_and_that_is_said() {
    let mut rig = Rig::new(three());
    rig.fit(&["b"]);
    assert_eq!(rig.server_reason("b"), "what it is in its cluster is waited for");
    assert_eq!(rig.server_reason("a"), "no verdict yet");
}

#[test]
fn a_session_that_cannot_be_opened_before_there_is_a_way_says_nothing_of_the_server() {
    let mut rig = Rig::new(plan().pool("pg").postgres().backend("a", 1).tunnel("db:5432"));
    for error in [DialError::TunnelDown, DialError::TimedOut] {
        rig.fails("a", WatchError::Dial(error));
        rig.pass(ms(1000));
        assert_eq!(rig.backend("a").health, HealthState::Unknown, "{error:?}");
    }
    assert!(!rig.core.has_first_verdicts());
    assert_eq!((rig.count("pool.down"), rig.count("backend.unhealthy")), (0, 0));
    rig.up("a");
    rig.open_session("a", primary(1, &[]));
    assert_eq!(rig.way("pg"), "a");
    // What was tried when the way was closed already, and is told before that.
    rig.fails("a", WatchError::Dial(DialError::TunnelDown));
    rig.pass(ms(1000));
    assert_eq!((rig.backend("a").health, rig.count("backend.unhealthy")), (HealthState::Healthy, 0));
}
