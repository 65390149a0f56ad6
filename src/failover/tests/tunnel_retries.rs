//! When a tunnel is tried again.

use std::time::Duration;

use super::build::{ms, plan};
use super::rig::{Rig, timed_out};
use crate::failover::{
    LOCAL_RETRY, NUDGE_GAP, RETRY_FLOOR, SLOW_JITTER, SLOW_RETRY, START_GAP, TRIES_MAX, TRIES_WITHIN, TunnelOrder,
};
use crate::model::{RunEnd, TunnelNews, TunnelState};

fn one() -> Rig {
    Rig::new(plan().pool("pg").backend("a", 1).tunnel("db:5432"))
}

fn is_slow(wait: Duration) -> bool {
    wait >= SLOW_RETRY.mul_f64(1.0 - SLOW_JITTER) && wait <= SLOW_RETRY.mul_f64(1.0 + SLOW_JITTER)
}

fn fatal(line: &str) -> TunnelNews {
    TunnelNews::Fatal { line: line.to_owned() }
}

#[test]
fn each_wait_is_drawn_below_a_limit_that_doubles() {
    for seed_like in 0..20u64 {
        let mut rig = one();
        // Another moment is another life of the same seed.
        rig.pass(ms(seed_like));
        for tries in 0..9u32 {
            rig.exit("a", "no");
            let most = ms(500 * 2u64.pow(tries)).min(ms(30_000));
            let wait = rig.until_started("a");
            assert!(wait >= RETRY_FLOOR && wait <= most, "{wait:?} after {tries}");
        }
    }
}

#[test]
fn ten_tries_within_ten_minutes_and_it_has_failed_and_is_tried_as_rarely_as_its_plan_has_it() {
    let mut rig = one();
    for number in 1..=TRIES_MAX {
        assert_ne!(rig.tunnel("a").state, TunnelState::Failed, "{number}");
        rig.exit("a", "connection refused");
        if number < TRIES_MAX {
            rig.until_started("a");
        }
    }
    let tunnel = rig.tunnel("a");
    assert_eq!((tunnel.state, tunnel.reason.as_deref()), (TunnelState::Failed, Some("connection refused")));
    assert_eq!(rig.count("tunnel.failed"), 1);
    for _ in 0..3 {
        let (wait, most) = (rig.until_started("a"), ms(30_000));
        assert!(wait >= most / 2 && wait <= most, "whoever it cannot reach may be back at any moment: {wait:?}");
        assert_eq!(rig.tunnel("a").state, TunnelState::Failed, "until a check has come through");
        rig.exit("a", "connection refused");
    }
    rig.up("a");
    assert_eq!(rig.tunnel("a").state, TunnelState::Connected);
}

#[test]
fn ten_tries_in_more_than_ten_minutes_are_not_too_many() {
    for (lasted, state) in [(TRIES_WITHIN, TunnelState::Failed), (TRIES_WITHIN + ms(1), TunnelState::Connecting)] {
        let patient = plan().pool("pg").backend("a", 1).tunnel("db:5432");
        let mut rig = Rig::new(patient.tunnel_with(|plan| plan.ready_timeout = TRIES_WITHIN * 2));
        let first = rig.now;
        for _ in 1..TRIES_MAX {
            rig.exit("a", "no");
            rig.until_started("a");
        }
        rig.now = first + lasted;
        rig.exit("a", "no");
        assert_eq!(rig.tunnel("a").state, state, "{lasted:?}");
    }
}

#[test]
fn only_verified_time_has_tries_count_from_the_start_again() {
    let mut rig = one();
    for _ in 0..8 {
        rig.exit("a", "no");
        rig.until_started("a");
    }
    // A minute of a program that lets nothing through is no minute.
    rig.news("a", TunnelNews::Open);
    rig.answer("a", timed_out());
    rig.pass(ms(15_000));
    rig.exit("a", "no");
    rig.up("a");
    rig.live(ms(59_000), &[]);
    rig.exit("a", "no");
    assert_eq!(rig.tunnel("a").state, TunnelState::Failed, "the tenth");
    rig.up("a");
    rig.live(ms(60_000), &[]);
    rig.exit("a", "no");
    assert_eq!(rig.tunnel("a").state, TunnelState::Reconnecting);
    assert!(rig.until_started("a") <= ms(500), "the first again");
}

#[test]
fn a_fatal_line_is_not_tried_again_but_now_and_then() {
    let mut rig = one();
    rig.news("a", fatal("Host key verification failed."));
    let tunnel = rig.tunnel("a");
    assert_eq!((tunnel.state, tunnel.reason.as_deref()), (TunnelState::Failed, Some("Host key verification failed.")));
    assert!(rig.hands.stopping.contains_key(&rig.id("a")), "its program is stopped");
    assert!(rig.backend("a").last_error.unwrap().ends_with("Host key verification failed."));
    let began = rig.now;
    rig.now = rig.now + ms(40);
    rig.has_stopped("a");
    rig.until_started("a");
    let wait = rig.now.since(began);
    assert!(is_slow(wait), "{wait:?}");
}

#[test]
fn what_is_said_while_it_is_stopped_counts_too() {
    let mut rig = one();
    rig.pass(ms(20_000));
    rig.news("a", fatal("Permission denied (publickey)."));
    rig.has_stopped("a");
    assert_eq!(rig.tunnel("a").state, TunnelState::Failed);
    assert!(is_slow(rig.until_started("a")));
}

#[test]
fn a_changed_network_ends_the_wait_of_those_that_wait_and_resets_nothing() {
    let mut rig = one();
    for _ in 0..8 {
        rig.exit("a", "no");
        rig.until_started("a");
    }
    rig.exit("a", "no");
    rig.world_changes();
    assert!(rig.until_started("a") <= ms(250));
    rig.exit("a", "no");
    assert_eq!(rig.tunnel("a").state, TunnelState::Failed, "the tries before count");
}

#[test]
fn a_changed_network_has_a_failed_one_tried_once_in_five_minutes() {
    let mut rig = one();
    rig.news("a", fatal("no"));
    rig.has_stopped("a");
    rig.world_changes();
    assert!(rig.until_started("a") <= ms(250));
    let began = rig.now;
    rig.news("a", fatal("no"));
    rig.has_stopped("a");
    for _ in 0..50 {
        rig.world_changes();
        rig.pass(ms(1000));
    }
    assert_eq!(rig.starts("a"), 2);
    rig.until_started("a");
    assert!(rig.now.since(began) >= SLOW_RETRY.mul_f64(1.0 - SLOW_JITTER));
    assert!(NUDGE_GAP >= Duration::from_secs(300));
}

#[test]
fn five_minutes_after_a_changed_network_had_a_failed_one_tried_another_one_does() {
    let mut rig = one();
    let fails = |rig: &mut Rig| {
        let id = rig.id("a");
        if rig.hands.runs.contains_key(&id) {
            rig.news("a", fatal("no"));
        }
        if rig.hands.stopping.contains_key(&id) {
            rig.has_stopped("a");
        }
    };
    fails(&mut rig);
    let began = rig.now;
    rig.world_changes();
    rig.until_started("a");
    fails(&mut rig);
    for (since, is_tried) in [(NUDGE_GAP - ms(1), false), (NUDGE_GAP, true)] {
        rig.pass(since - rig.now.since(began));
        fails(&mut rig);
        rig.world_changes();
        let next = rig.tunnel("a").next_retry.unwrap();
        assert_eq!(next.since(rig.now) <= ms(250), is_tried, "{since:?}");
    }
}

#[test]
fn a_changed_network_has_those_that_are_up_asked_at_once() {
    let mut rig = one();
    rig.up("a");
    rig.pass(ms(200));
    rig.world_changes();
    assert!(rig.started("a"));
    assert_eq!(rig.tunnel("a").state, TunnelState::Connected);
}

#[test]
fn it_is_never_started_twice_at_once_whoever_wants_that() {
    let mut rig = one();
    for _ in 0..20 {
        rig.news("a", TunnelNews::Ended { how: RunEnd::PortTaken, detail: "taken".to_owned() });
        rig.order_tunnel("a", TunnelOrder::Restart).unwrap();
        rig.world_changes();
        let wait = rig.until_started("a");
        assert!(wait <= START_GAP, "{wait:?}");
    }
}

const MISSING: &str = "`ssh` cannot be started: No such file or directory; install it, or say where it is";

fn missing(rig: &mut Rig) {
    rig.news("a", TunnelNews::Ended { how: RunEnd::NotStarted, detail: MISSING.to_owned() });
}

/// How it fares, and why.
fn fares(rig: &Rig) -> (TunnelState, String) {
    let tunnel = rig.tunnel("a");
    (tunnel.state, tunnel.reason.unwrap_or_default())
}

fn failed_for(why: &str) -> (TunnelState, String) {
    (TunnelState::Failed, why.to_owned())
}

/// Its program could not be started, and the next try could.
fn begun(mut rig: Rig) -> Rig {
    missing(&mut rig);
    rig.until_started("a");
    rig.news("a", TunnelNews::Started { pid: 4711 });
    rig
}

#[test]
fn one_whose_program_cannot_be_started_has_failed_from_the_first_try_and_is_tried_as_often_as_ever() {
    let mut rig = one();
    for tries in 0..9u32 {
        missing(&mut rig);
        assert_eq!(fares(&rig), failed_for(MISSING), "after {tries}");
        let most = ms(500 * 2u64.pow(tries)).min(ms(30_000));
        let wait = rig.until_started("a");
        assert!(wait >= RETRY_FLOOR && wait <= most, "{wait:?} after {tries}");
        assert_eq!(fares(&rig), failed_for(MISSING), "nobody knows yet whether it can be started now");
    }
    missing(&mut rig);
    let (wait, most) = (rig.until_started("a"), ms(30_000));
    assert!(wait >= most / 2 && wait <= most, "ten tries came to nothing: {wait:?}");
    assert_eq!(fares(&rig), failed_for(MISSING));
    assert_eq!(rig.count("tunnel.failed"), 1, "people are told once");
}

#[test]
fn people_are_told_at_once_that_a_program_cannot_be_started_and_why() {
    let mut rig = one();
    missing(&mut rig);
    assert_eq!(rig.kinds()[0], "tunnel.failed");
    let words = rig.words()[0].clone();
    assert!(words.starts_with(&format!("tunnel of a (ssh) has failed (not_started): {MISSING}; next try")), "{words}");
    assert_eq!(rig.backend("a").last_error, Some(format!("its tunnel is not up: {MISSING}")));
}

#[test]
fn a_program_that_could_not_be_started_and_now_is_has_not_failed_before_it_is_known_what_comes_of_it() {
    let began = "its program could be started this time, and no check has come through it yet".to_owned();
    let mut rig = begun(one());
    assert_eq!(fares(&rig), (TunnelState::Connecting, began.clone()));
    assert_eq!(rig.words(), ["tunnel of a (ssh) is connecting"]);
    rig.up("a");
    assert_eq!(fares(&rig), (TunnelState::Connected, String::new()));
    // It is upgraded: for a moment there is none.
    rig.exit("a", "terminated");
    rig.until_started("a");
    missing(&mut rig);
    assert_eq!(fares(&rig), failed_for(MISSING));
    rig.until_started("a");
    rig.news("a", TunnelNews::Started { pid: 4711 });
    assert_eq!(fares(&rig), (TunnelState::Reconnecting, began));
    rig.up("a");
    assert_eq!(fares(&rig), (TunnelState::Connected, String::new()));
    assert_eq!((rig.count("tunnel.failed"), rig.count("tunnel.connected")), (2, 2));
}

#[test]
fn a_program_that_could_not_be_started_and_now_ends_is_tried_like_any_that_ends() {
    let ends: [(TunnelNews, &str); 3] = [
        (TunnelNews::Lost { detail: "no route".to_owned() }, "no route"),
        (TunnelNews::Ended { how: RunEnd::Exited, detail: "refused".to_owned() }, "refused"),
        (TunnelNews::Ended { how: RunEnd::PortTaken, detail: "taken".to_owned() }, "taken"),
    ];
    for (news, why) in ends {
        let mut rig = begun(one());
        rig.news("a", news.clone());
        assert_eq!(fares(&rig), (TunnelState::Connecting, why.to_owned()));
        // Nor has it failed if nobody says that it was started, for it must have been.
        let mut rig = one();
        missing(&mut rig);
        rig.until_started("a");
        rig.news("a", news);
        assert_eq!(fares(&rig), (TunnelState::Connecting, why.to_owned()));
    }
}

#[test]
fn a_program_that_could_not_be_started_and_now_leads_nowhere_in_time_is_tried_like_any_such() {
    let mut rig = begun(one());
    rig.pass(ms(20_000));
    assert_eq!(fares(&rig), (TunnelState::Connecting, "it was not open within 20s".to_owned()));
    let mut rig = begun(one());
    rig.news("a", TunnelNews::Open);
    for _ in 0..3 {
        rig.answer("a", timed_out());
    }
    assert_eq!(rig.tunnel("a").state, TunnelState::Connecting);
}

#[test]
fn a_program_that_could_not_be_started_and_now_says_that_it_never_will_has_failed_for_that() {
    let mut rig = begun(one());
    rig.news("a", fatal("Permission denied (publickey)."));
    assert_eq!(fares(&rig), failed_for("Permission denied (publickey)."));
    let began = rig.now;
    rig.has_stopped("a");
    rig.until_started("a");
    let wait = rig.now.since(began);
    assert!(is_slow(wait), "{wait:?}");
    // And if it is missing then, it is no better for that.
    missing(&mut rig);
    assert!(is_slow(rig.until_started("a")));
    rig.news("a", TunnelNews::Started { pid: 4711 });
    let begun = "its program could be started this time, and no check has come through it yet";
    assert_eq!(fares(&rig), failed_for(begun), "until one has");
    rig.up("a");
    assert_eq!(rig.tunnel("a").state, TunnelState::Connected);
}

#[test]
fn tries_that_could_not_even_begin_count_among_the_ten() {
    let mut rig = one();
    for _ in 0..8 {
        missing(&mut rig);
        rig.until_started("a");
    }
    rig.news("a", TunnelNews::Started { pid: 4711 });
    rig.exit("a", "refused");
    assert_eq!(fares(&rig), (TunnelState::Connecting, "refused".to_owned()), "the ninth");
    rig.until_started("a");
    rig.exit("a", "refused");
    assert_eq!(fares(&rig), failed_for("refused"), "the tenth");
    rig.until_started("a");
    rig.news("a", TunnelNews::Started { pid: 4712 });
    assert_eq!(fares(&rig), failed_for("refused"), "that it can be started was never in doubt");
}

#[test]
fn what_we_lack_ourselves_says_nothing_of_a_program_that_could_not_be_started() {
    let mut rig = one();
    missing(&mut rig);
    rig.until_started("a");
    rig.news("a", TunnelNews::Ended { how: RunEnd::Local, detail: "no descriptor".to_owned() });
    assert_eq!(fares(&rig), failed_for("no descriptor"));
    assert_eq!(rig.until_started("a"), LOCAL_RETRY);
    rig.news("a", TunnelNews::Started { pid: 4711 });
    assert_eq!(rig.tunnel("a").state, TunnelState::Connecting);
}

#[test]
fn one_whose_program_could_not_be_started_is_tried_at_once_when_somebody_wants_that_or_the_network_has_changed() {
    let mut rig = one();
    for _ in 0..5 {
        missing(&mut rig);
        rig.until_started("a");
    }
    missing(&mut rig);
    rig.order_tunnel("a", TunnelOrder::Start).unwrap();
    assert!(rig.until_started("a") <= START_GAP);
    assert_eq!(rig.tunnel("a").state, TunnelState::Connecting, "whatever became of it before");
    missing(&mut rig);
    assert_eq!((rig.tunnel("a").state, rig.count("tunnel.failed")), (TunnelState::Failed, 2));
    for _ in 0..3 {
        rig.world_changes();
        assert!(rig.until_started("a") <= ms(250), "it is not hopeless");
        missing(&mut rig);
    }
}
