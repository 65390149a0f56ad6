//! A tunnel from its start to its end, and what that does to its backend.

use super::build::{ms, plan};
use super::rig::{Rig, passed, refused, timed_out};
use crate::failover::{Change, Command, Event, LOCAL_RETRY, MOVING_MAX};
use crate::model::{CheckKind, HealthState, OutReason, PoolState, RunEnd, TunnelCause, TunnelNews, TunnelState};

fn one() -> Rig {
    Rig::new(plan().pool("pg").backend("a", 1).tunnel("db:5432").backend("b", 2))
}

fn ended(how: RunEnd, detail: &str) -> TunnelNews {
    TunnelNews::Ended { how, detail: detail.to_owned() }
}

#[test]
fn the_only_tunnel_is_started_at_once_and_asked_as_soon_as_it_is_open() {
    let mut rig = one();
    assert_eq!((rig.starts("a"), rig.kinds().len()), (1, 1));
    assert_eq!(rig.count("tunnel.connecting"), 1);
    rig.fit(&["b"]);
    assert_eq!(rig.state(), PoolState::Unknown, "a better tier has no verdict yet");
    let target = rig.target("a");
    rig.pass(ms(5000));
    assert!(!rig.open.contains_key(&target), "asked before there is a way");
    assert_eq!(rig.backend("a").health, HealthState::Unknown);
    assert!(!rig.core.has_first_verdicts());
    rig.news("a", TunnelNews::Started { pid: 77 });
    rig.news("a", TunnelNews::Open);
    assert!(rig.started("a"), "not asked in the turn in which the way opens");
    assert_eq!(rig.tunnel("a").state, TunnelState::Connecting);
    rig.answer("a", passed());
    let tunnel = rig.tunnel("a");
    assert_eq!((tunnel.state, tunnel.pid, tunnel.up_since), (TunnelState::Connected, Some(77), Some(rig.now)));
    assert_eq!((rig.way("pg").as_str(), rig.count("tunnel.connected")), ("a | b", 1));
}

#[test]
fn many_tunnels_are_started_within_fifty_milliseconds_each_and_not_in_one_moment() {
    let mut all = plan().pool("pg");
    let names: Vec<String> = (0..8).map(|number| format!("t{number}")).collect();
    for name in &names {
        all = all.backend(name, 1).tunnel("db:5432");
    }
    let mut rig = Rig::new(all);
    let mut moments = std::collections::BTreeSet::new();
    let end = rig.now + ms(50 * 8);
    while let Some(at) = rig.core.next_deadline().filter(|at| *at <= end) {
        rig.now = at;
        rig.tick();
        moments.insert(at);
    }
    assert!(names.iter().all(|name| rig.starts(name) == 1));
    assert!(moments.len() >= 7, "{moments:?}");
}

#[test]
fn a_program_that_ends_is_proof_of_death_without_a_second_opinion() {
    let mut rig = one();
    rig.up("a");
    rig.fit(&["b"]);
    rig.now = rig.now + ms(300);
    rig.exit("a", "Connection to bastion closed by remote host.");
    let told = rig.last.iter().find_map(|command| match command {
        Command::Report(told) => match &told.change {
            Change::BackendUnhealthy { reason, detail, .. } => Some((*reason, detail.clone())),
            _ => None,
        },
        _ => None,
    });
    let detail = "its tunnel is not up: Connection to bastion closed by remote host.".to_owned();
    assert_eq!(told, Some((OutReason::Dead, detail)));
    assert_eq!(rig.fences().len(), 1, "its sessions are closed in that turn");
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.kinds()[..2], ["tunnel.reconnecting", "backend.unhealthy"]);
    assert!(rig.backend("a").reason.contains("closed by remote host"), "{:?}", rig.backend("a"));
    let tunnel = rig.tunnel("a");
    assert_eq!((tunnel.state, tunnel.pid, tunnel.up_since), (TunnelState::Reconnecting, None, None));
    assert!(tunnel.next_retry.is_some_and(|at| at > rig.now));
}

#[test]
fn what_the_last_run_has_said_is_what_people_read_also_of_a_backend_that_is_out_already() {
    let mut rig = one();
    for said in ["no route to host", "closed by remote host"] {
        rig.exit("a", said);
        assert_eq!(rig.backend("a").last_error, Some(format!("its tunnel is not up: {said}")));
        rig.until_started("a");
    }
    assert_eq!(rig.count("backend.unhealthy"), 1);
}

#[test]
fn that_a_program_has_ended_is_heard_before_what_it_has_left_is_cleared_away() {
    let mut rig = one();
    rig.up("a");
    rig.fit(&["b"]);
    let starts = rig.starts("a");
    rig.news("a", TunnelNews::Lost { detail: "closed by remote host".to_owned() });
    assert_eq!((rig.way("pg").as_str(), rig.tunnel("a").pid), ("b", None));
    assert!(rig.backend("a").reason.contains("closed by remote host"), "{:?}", rig.backend("a"));
    rig.pass(ms(3000));
    assert_eq!(rig.starts("a"), starts, "something of the old run may be left");
    rig.news("a", ended(RunEnd::PortTaken, "its port belongs to another"));
    let reason = rig.tunnel("a").reason;
    assert_eq!(rig.starts("a"), starts + 1, "it has waited long enough");
    assert!(reason.is_some_and(|reason| reason.contains("belongs to another")));
}

#[test]
fn nobody_is_asked_while_there_is_no_way_whoever_wants_that() {
    let mut rig = one();
    rig.up("a");
    rig.exit("a", "gone");
    let target = rig.target("a");
    rig.open.remove(&target);
    rig.probe_now("a");
    rig.reset("a");
    rig.dial_failed("a", crate::model::DialError::Refused);
    assert!(!rig.open.contains_key(&target) && !rig.started("a"));
}

#[test]
fn an_answer_that_was_asked_through_an_older_run_is_no_evidence() {
    let mut rig = one();
    rig.up("a");
    rig.until_asked("a");
    let target = rig.target("a");
    let (probe, _) = rig.open[&target];
    rig.exit("a", "gone");
    rig.until_started("a");
    rig.news("a", TunnelNews::Open);
    for _ in 0..3 {
        rig.feed(Event::ProbeFinished { target, probe, outcome: passed() });
    }
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    assert_ne!(rig.open[&target].0, probe, "the new run is asked anew");
}

#[test]
fn late_news_of_an_older_run_change_nothing() {
    let mut rig = one();
    rig.up("a");
    let (backend, old) = (rig.id("a"), rig.hands.begun[&rig.id("a")].0);
    rig.exit("a", "gone");
    rig.up("a");
    for news in [
        TunnelNews::Started { pid: 1 },
        TunnelNews::Open,
        TunnelNews::Fatal { line: "no".to_owned() },
        ended(RunEnd::Exited, "late"),
    ] {
        let before = format!("{:?}", rig.core.pool_statuses(rig.now));
        rig.feed(Event::Tunnel { backend, run: old, news });
        assert_eq!(before, format!("{:?}", rig.core.pool_statuses(rig.now)));
        assert!(rig.last.is_empty(), "{:?}", rig.last);
    }
}

#[test]
fn one_that_is_not_ready_in_time_is_unhealthy_and_started_anew() {
    let mut rig = one();
    rig.fit(&["b"]);
    rig.pass(ms(19_999));
    assert_eq!(rig.backend("a").health, HealthState::Unknown);
    rig.pass(ms(1));
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    assert!(rig.core.has_first_verdicts());
    let error = rig.backend("a").last_error.unwrap();
    assert_eq!(error, "its tunnel is not up: it was not open within 20s");
    assert_eq!(rig.way("pg"), "b");
    rig.has_stopped("a");
    assert!(rig.until_started("a") <= ms(500));
    // Open, but nothing comes through.
    rig.news("a", TunnelNews::Open);
    for _ in 0..4 {
        rig.answer("a", timed_out());
    }
    rig.pass(ms(20_000));
    assert!(rig.hands.stopping.contains_key(&rig.id("a")));
    let reason = rig.tunnel("a").reason.unwrap();
    assert_eq!(reason, "no check came through it within 20s, the last: timed_out");
}

#[test]
fn a_check_that_has_come_through_is_ready_however_long_the_thresholds_take() {
    let slow = plan().pool("pg").backend("a", 1).tunnel("db:5432").check(|check| {
        check.interval = ms(60_000);
        check.healthy_threshold = 3;
    });
    let mut rig = Rig::new(slow);
    rig.exit("a", "no route");
    rig.until_started("a");
    let opened = rig.now;
    rig.news("a", TunnelNews::Open);
    for _ in 0..3 {
        rig.answer("a", passed());
    }
    assert_eq!(rig.now, opened, "a passing check of a new way is followed up at once");
    assert_eq!(rig.tunnel("a").state, TunnelState::Connected);
    rig.pass(ms(40_000));
    assert_eq!(rig.starts("a"), 2);
}

#[test]
fn what_we_lack_ourselves_is_no_try_and_no_verdict_before_its_time() {
    let mut rig = one();
    for _ in 0..12 {
        rig.news("a", ended(RunEnd::Local, "no descriptor"));
        assert_eq!(rig.tunnel("a").next_retry, Some(rig.now + LOCAL_RETRY));
        assert_eq!(rig.backend("a").health, HealthState::Unknown);
        assert_eq!(rig.until_started("a"), LOCAL_RETRY);
    }
    for _ in 0..9 {
        rig.news("a", ended(RunEnd::Local, "no descriptor"));
        rig.until_started("a");
    }
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy, "READY does not wait for it for ever");
    assert_eq!(rig.tunnel("a").state, TunnelState::Connecting);
    rig.up("a");
    rig.news("a", ended(RunEnd::Local, "no descriptor"));
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy, "it was running");
}

#[test]
fn a_backend_that_nobody_asks_is_fit_while_its_tunnel_is_open() {
    let unchecked = plan().pool("pg").backend("a", 1).tunnel("db:5432").check(|check| check.kind = CheckKind::None);
    let mut rig = Rig::new(unchecked);
    assert_eq!(rig.backend("a").health, HealthState::Unknown);
    rig.push("a", HealthState::Healthy, ms(1000));
    assert_eq!(rig.backend("a").health, HealthState::Unknown, "nobody's word opens a way");
    rig.news("a", TunnelNews::Open);
    assert_eq!((rig.tunnel("a").state, rig.way("pg").as_str()), (TunnelState::Connected, "a"));
    rig.exit("a", "gone");
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").health), ("", HealthState::Unhealthy));
    rig.reset("a");
    rig.push("a", HealthState::Healthy, ms(1000));
    rig.pass(ms(400));
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    rig.until_started("a");
    rig.news("a", TunnelNews::Open);
    assert_eq!((rig.tunnel("a").state, rig.way("pg").as_str()), (TunnelState::Connected, "a"));
}

#[test]
fn three_thresholds_are_apart() {
    let mut rig = one();
    rig.up("a");
    rig.fit(&["b"]);
    for _ in 0..2 {
        rig.answer("a", timed_out());
    }
    assert_eq!((rig.way("pg").as_str(), rig.tunnel("a").state), ("a | b", TunnelState::Connected));
    rig.answer("a", timed_out());
    // Out of the table, and its program goes on.
    assert_eq!((rig.way("pg").as_str(), rig.tunnel("a").state), ("b", TunnelState::Reconnecting));
    assert!(rig.hands.runs.contains_key(&rig.id("a")));
    for _ in 0..2 {
        rig.answer("a", timed_out());
        assert!(rig.hands.runs.contains_key(&rig.id("a")));
    }
    rig.answer("a", timed_out());
    assert!(rig.hands.stopping.contains_key(&rig.id("a")), "six checks in a row have failed");
    assert_eq!(rig.tunnel("a").reason.unwrap(), "6 checks in a row have failed, the last: timed_out");
    rig.has_stopped("a");
    rig.up("a");
    assert_eq!(rig.tunnel("a").restarts, 1);
}

#[test]
fn a_tunnel_that_is_never_to_be_started_anew_for_checks_is_not() {
    let mut rig =
        Rig::new(plan().pool("pg").backend("a", 1).tunnel("db:5432").tunnel_with(|plan| plan.restart_after = 0));
    rig.up("a");
    for _ in 0..40 {
        rig.answer("a", timed_out());
    }
    assert_eq!(rig.starts("a"), 1);
    assert!(rig.hands.runs.contains_key(&rig.id("a")));
}

#[test]
fn a_restart_waits_while_sessions_move_bytes_but_not_for_ever() {
    let mut rig = one();
    rig.up("a");
    let backend = rig.id("a");
    let mut moved = 0;
    let mut due = None;
    for number in 1..3000 {
        moved += 1000;
        rig.until_asked("a");
        rig.feed(Event::TunnelMoved { backend, moved });
        rig.answer("a", timed_out());
        if number == 6 {
            due = Some(rig.now);
        }
        if rig.hands.stopping.contains_key(&backend) {
            break;
        }
    }
    let waited = rig.now.since(due.unwrap());
    assert!(waited >= MOVING_MAX && waited < MOVING_MAX + ms(2000), "{waited:?}");
    // To the moment.
    rig.has_stopped("a");
    rig.up("a");
    for _ in 0..6 {
        moved += 1000;
        rig.until_asked("a");
        rig.feed(Event::TunnelMoved { backend, moved });
        rig.answer("a", timed_out());
    }
    let due = rig.now;
    for (since, goes_on) in [(MOVING_MAX - ms(1), true), (MOVING_MAX, false)] {
        moved += 1000;
        rig.until_asked("a");
        rig.now = due + since;
        rig.feed(Event::TunnelMoved { backend, moved });
        rig.answer("a", timed_out());
        assert_eq!(rig.hands.runs.contains_key(&backend), goes_on, "{since:?}");
    }
    // Without bytes, at once.
    rig.has_stopped("a");
    rig.up("a");
    for _ in 0..6 {
        rig.until_asked("a");
        rig.feed(Event::TunnelMoved { backend, moved });
        rig.answer("a", timed_out());
    }
    assert!(rig.hands.stopping.contains_key(&backend));
}

#[test]
fn a_run_whose_end_is_never_told_does_not_hold_up_the_next() {
    let mut rig = one();
    rig.pass(ms(20_000));
    assert!(rig.hands.stopping.contains_key(&rig.id("a")));
    let waited = rig.until_started("a");
    assert_eq!(waited, ms(10_000), "its grace, and as long as it takes to see that it is lost");
}

#[test]
fn a_refusal_of_an_open_tunnel_is_death_as_ever() {
    let mut rig = one();
    rig.up("a");
    rig.kill("a");
    assert_eq!(rig.tunnel("a").state, TunnelState::Reconnecting);
    assert_eq!(rig.starts("a"), 1);
    rig.answer("a", refused());
}

#[test]
fn people_are_told_why_and_when_it_is_tried_again() {
    let mut rig = one();
    rig.up("a");
    rig.exit("a", "Permission denied (publickey).");
    let told = rig.told.iter().rev().find_map(|change| match change {
        Change::Tunnel { state: TunnelState::Reconnecting, reason, detail, provider, run, next_retry, .. } => {
            Some((*reason, detail.clone(), provider.to_string(), run.0, next_retry.is_some()))
        }
        _ => None,
    });
    let detail = Some("Permission denied (publickey).".to_owned());
    assert_eq!(told, Some((TunnelCause::Exited, detail, "ssh".to_owned(), 1, true)));
    let explained = rig.core.explain(rig.now, &"pg".into()).unwrap();
    let rule = explained.rules.iter().find(|applied| applied.rule.label() == "tunnel").unwrap();
    assert_eq!(
        rule.detail,
        "a is reached through ssh (db:5432), which is reconnecting: Permission denied (publickey)."
    );
    assert_eq!(rule.at, rig.tunnel("a").next_retry);
}

#[test]
fn a_time_in_which_we_did_not_run_is_nobodys_fault() {
    let mut rig = one();
    rig.pass(ms(15_000));
    let since = rig.now;
    rig.now = rig.now + ms(60_000);
    rig.feed(Event::WasStalled { since });
    assert_eq!(rig.backend("a").health, HealthState::Unknown);
    assert!(rig.hands.stopping.is_empty(), "it has the time left that it had");
    rig.pass(ms(5000));
    assert!(!rig.hands.stopping.is_empty());
}

#[test]
fn how_often_checks_fail_before_one_has_come_through_is_a_matter_of_ready_timeout_alone() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).tunnel("db:5432"));
    rig.news("a", TunnelNews::Open);
    let opened = rig.now;
    // Nothing else serves, so that it is asked ten times a second.
    while rig.now.since(opened) < ms(19_000) {
        rig.answer("a", timed_out());
        assert!(rig.hands.runs.contains_key(&rig.id("a")), "{:?} after it was open", rig.now.since(opened));
    }
    rig.up("a");
    assert_eq!((rig.tunnel("a").restarts, rig.way("pg").as_str()), (0, "a"));
    for _ in 0..6 {
        rig.answer("a", timed_out());
    }
    assert!(rig.hands.stopping.contains_key(&rig.id("a")), "from then on they count");
}

#[test]
fn the_last_resort_is_one_that_there_is_a_way_to() {
    let mut rig = Rig::new(
        plan().pool("pg").use_preferred().backend("a", 1).tunnel("db:5432").backend("b", 2).tunnel("replica:5432"),
    );
    rig.up("a");
    rig.up("b");
    rig.exit("a", "gone");
    for _ in 0..3 {
        rig.answer("b", timed_out());
    }
    assert_eq!((rig.state(), rig.way("pg").as_str()), (PoolState::Down, "b"));
    rig.exit("b", "gone");
    assert_eq!(rig.way("pg"), "a", "the preferred one if all are alike");
}

#[test]
fn one_that_is_down_is_so_also_if_nobody_is_to_ask_it_from_now_on() {
    let checked = |kind: CheckKind| {
        let tunnelled = plan().pool("pg").backend("a", 1).tunnel("db:5432");
        tunnelled.check(move |check| check.kind = kind.clone()).backend("b", 2)
    };
    let mut rig = Rig::new(checked(CheckKind::Tcp));
    rig.up("a");
    rig.fit(&["b"]);
    rig.exit("a", "gone");
    rig.replan(checked(CheckKind::None));
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    assert!(rig.core.has_first_verdicts());
    rig.until_started("a");
    rig.news("a", TunnelNews::Open);
    assert_eq!((rig.backend("a").health, rig.tunnel("a").state), (HealthState::Healthy, TunnelState::Connected));
}
