//! How far standbys are behind, and who is too far.

use std::time::Duration;

use super::build::ms;
use super::clustered::{denied, facts, healthy, primary, three};
use super::rig::Rig;
use crate::failover::Change;
use crate::failover::Event;
use crate::failover::lag::Samples;
use crate::model::{Lsn, MonoTime, OutReason, Role, ServerFacts, SessionPolicy, Target, WatchEnd};

const MIB: u64 = 1 << 20;

fn lag(rig: &Rig, name: &str) -> (u64, Duration) {
    let server = rig.backend(name).server.unwrap();
    (server.lag_bytes.unwrap(), server.lag_time.unwrap())
}

fn at(rig: &mut Rig, name: &str, role: Role, at: u64) {
    rig.sees(name, facts(role, 1, at, &[]));
}

#[test]
fn bytes_are_told_against_the_primary_and_an_idle_one_leaves_nobody_behind() {
    let mut rig = healthy(three());
    at(&mut rig, "a", Role::Primary, 5000);
    at(&mut rig, "b", Role::Standby, 4000);
    assert_eq!(lag(&rig, "b"), (1000, ms(0)));
    at(&mut rig, "b", Role::Standby, 5000);
    rig.live(ms(600_000), &[]);
    at(&mut rig, "a", Role::Primary, 5000);
    at(&mut rig, "b", Role::Standby, 5000);
    assert_eq!(lag(&rig, "b"), (0, ms(0)));
}

#[test]
fn too_many_bytes_keep_new_sessions_away_until_it_has_caught_up_by_half() {
    let mut rig = healthy(three());
    at(&mut rig, "a", Role::Primary, 100 * MIB);
    at(&mut rig, "b", Role::Standby, 84 * MIB);
    assert_eq!(rig.way_to(Target::Standby).0, "b c", "16 MiB are not more than 16 MiB");
    at(&mut rig, "b", Role::Standby, 84 * MIB - 1);
    assert_eq!(
        (rig.way_to(Target::Standby).0, rig.kinds()),
        ("c".to_owned(), vec!["backend.lagging", "pool.degraded"])
    );
    assert!(rig.fences().is_empty(), "its sessions stay");
    assert!(rig.server_reason("b").contains("behind by"), "{}", rig.server_reason("b"));
    at(&mut rig, "b", Role::Standby, 92 * MIB - 1);
    assert_eq!(rig.way_to(Target::Standby).0, "c", "not yet by half");
    at(&mut rig, "b", Role::Standby, 92 * MIB);
    assert_eq!((rig.way_to(Target::Standby).0, rig.kinds()), ("b c".to_owned(), vec!["backend.lagging"]));
    assert!(matches!(rig.told.last(), Some(Change::BackendLagging { lagging: false, .. })));
}

#[test]
fn a_standby_whose_replay_is_paused_falls_behind_in_time() {
    let mut rig = healthy(three().sessions(|of| of.lagging = SessionPolicy::Close));
    at(&mut rig, "b", Role::Standby, 1000);
    let mut fenced = String::new();
    for step in 1..=52u64 {
        rig.live(ms(200), &[]);
        at(&mut rig, "a", Role::Primary, 1000 + step);
        at(&mut rig, "c", Role::Standby, 1000 + step);
        at(&mut rig, "b", Role::Standby, 1000);
        if fenced.is_empty() && !rig.fences().is_empty() {
            fenced = rig.deeds();
        }
        let lags = rig.way_to(Target::Standby).0 == "c";
        assert_eq!(lags, lag(&rig, "b").1 > ms(10_000), "step {step}: {:?}", lag(&rig, "b"));
    }
    // The primary has been past it for 10 s, and is idle now: that is no better.
    rig.live(ms(1000), &[]);
    at(&mut rig, "b", Role::Standby, 1000);
    assert!(lag(&rig, "b").1 > ms(10_000));
    assert_eq!(rig.way_to(Target::Standby).0, "c");
    assert_eq!(fenced, "[a] b:all(lagging)", "by the policy: {:?}", rig.told.last());
    at(&mut rig, "b", Role::Standby, 1052);
    assert_eq!(rig.way_to(Target::Standby).0, "b c");
}

#[test]
fn a_new_primary_is_the_measure_and_what_only_the_old_one_had_is_forgotten() {
    let mut rig = healthy(three());
    at(&mut rig, "a", Role::Primary, 5000);
    at(&mut rig, "c", Role::Standby, 1000);
    assert_eq!(lag(&rig, "c").0, 4000);
    rig.dies("a");
    for _ in 0..2 {
        rig.sees("b", facts(Role::Primary, 2, 1200, &[1000]));
    }
    assert_eq!(rig.way("pg"), "b");
    at(&mut rig, "c", Role::Standby, 1000);
    assert_eq!(lag(&rig, "c").0, 200);
}

#[test]
fn without_a_primary_nobody_falls_further_behind() {
    let mut rig = healthy(three());
    at(&mut rig, "a", Role::Primary, 2000);
    at(&mut rig, "b", Role::Standby, 1000);
    rig.dies("a");
    rig.live(ms(60_000), &["a"]);
    at(&mut rig, "b", Role::Standby, 1000);
    assert_eq!(rig.way_to(Target::Standby).0, "b c");
}

#[test]
fn a_standby_that_replayed_what_the_primary_never_wrote_is_read_by_nobody() {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    at(&mut rig, "c", Role::Standby, 901);
    assert_eq!(rig.way_to(Target::Standby).0, "");
    assert!(rig.server_reason("c").contains("never wrote"));
    at(&mut rig, "c", Role::Standby, 900);
    assert_eq!(rig.way_to(Target::Standby).0, "c", "behind, and no more");
}

/// The figures that are shown; nothing that is not known.
fn shown(rig: &Rig, name: &str) -> Option<(u64, Duration)> {
    let server = rig.backend(name).server.unwrap();
    server.lag_bytes.zip(server.lag_time)
}

fn shuts_out(rig: &mut Rig, name: &str) {
    rig.ends(name, WatchEnd::Terminated);
    rig.fails(name, denied());
}

#[test]
fn who_is_measured_no_more_is_not_0_behind_and_is_read_from_only_for_want_of_another() {
    let mut rig = healthy(three());
    at(&mut rig, "a", Role::Primary, 1000);
    at(&mut rig, "b", Role::Standby, 1000);
    shuts_out(&mut rig, "b");
    for step in 1..=60u64 {
        rig.live(ms(500), &[]);
        at(&mut rig, "a", Role::Primary, 1000 + step * MIB);
        at(&mut rig, "c", Role::Standby, 1000 + step * MIB);
        assert_eq!(rig.way_to(Target::Standby).0, if step < 20 { "b c" } else { "c" }, "step {step}");
    }
    assert_eq!((shown(&rig, "b"), shown(&rig, "c")), (None, Some((0, ms(0)))));
    assert!(rig.server_reason("b").contains("is not known"), "{}", rig.server_reason("b"));
    assert_eq!(rig.count("backend.lagging"), 1, "told once");
    rig.dies("c");
    assert_eq!(rig.way_to(Target::Standby).0, "b", "better than nobody");
    rig.comes_back("c", facts(Role::Standby, 1, 1000 + 60 * MIB, &[]));
    assert_eq!((rig.way_to(Target::Standby).0.as_str(), rig.count("backend.lagging")), ("c", 1));
    rig.open_session("b", facts(Role::Standby, 1, 1000 + 60 * MIB, &[]));
    assert_eq!((rig.way_to(Target::Standby).0.as_str(), shown(&rig, "b")), ("b c", Some((0, ms(0)))));
    assert!(matches!(rig.told.last(), Some(Change::BackendLagging { lagging: false, behind: Some(_), .. })));
}

#[test]
fn nobody_is_measured_by_a_primary_that_says_no_more_where_it_is() {
    let mut rig = healthy(three());
    at(&mut rig, "a", Role::Primary, 1000);
    shuts_out(&mut rig, "a");
    for _ in 0..40 {
        rig.live(ms(500), &[]);
        at(&mut rig, "b", Role::Standby, 1000 + MIB);
        at(&mut rig, "c", Role::Standby, 1000);
    }
    assert_eq!((shown(&rig, "b"), shown(&rig, "c")), (None, None));
    assert_eq!((rig.way("pg").as_str(), rig.way_to(Target::Standby).0.as_str()), ("a", "b c"), "all are as unknown");
    assert_eq!(rig.count("backend.lagging"), 0);
}

#[test]
fn without_a_limit_nobody_is_passed_over_and_without_one_in_time_2_seconds_count() {
    let limits = [(0, 0, "b c", None), (MIB, 0, "c", None), (0, 3_600_000, "b c", Some((0, ms(0))))];
    for (bytes, millis, readers, figures) in limits {
        let mut rig = healthy(three().postgres_with(|of| (of.max_lag, of.max_lag_time) = (bytes, ms(millis))));
        at(&mut rig, "a", Role::Primary, 1000);
        at(&mut rig, "b", Role::Standby, 1000);
        shuts_out(&mut rig, "b");
        for _ in 0..10 {
            rig.live(ms(200), &[]);
            at(&mut rig, "a", Role::Primary, 1000);
            at(&mut rig, "c", Role::Standby, 1000);
        }
        assert_eq!((rig.way_to(Target::Standby).0.as_str(), shown(&rig, "b")), (readers, figures), "{bytes} {millis}");
    }
}

#[test]
fn a_stall_of_our_own_leaves_nobody_unmeasured() {
    let mut rig = healthy(three());
    at(&mut rig, "a", Role::Primary, 1000);
    at(&mut rig, "b", Role::Standby, 1000);
    at(&mut rig, "c", Role::Standby, 1000);
    let since = rig.now;
    rig.now = rig.now + ms(60_000);
    rig.feed(Event::WasStalled { since });
    at(&mut rig, "c", Role::Standby, 1000);
    assert_eq!((rig.way_to(Target::Standby).0.as_str(), rig.count("backend.lagging")), ("b c", 0));
}

#[test]
fn a_monitor_that_cannot_tell_what_is_replayed_shows_no_figure_and_still_knows_the_least_that_it_is() {
    let mut rig = healthy(three());
    let received = |at| ServerFacts { replayed: None, ..facts(Role::Standby, 1, at, &[]) };
    at(&mut rig, "a", Role::Primary, 100 * MIB);
    at(&mut rig, "c", Role::Standby, 100 * MIB);
    rig.sees("b", received(100 * MIB));
    assert_eq!((rig.way_to(Target::Standby).0.as_str(), shown(&rig, "b")), ("b c", None));
    rig.sees("b", received(83 * MIB));
    assert_eq!((rig.way_to(Target::Standby).0.as_str(), shown(&rig, "b")), ("c", None));
    assert_eq!(rig.kinds(), ["backend.lagging", "pool.degraded"]);
}

#[test]
fn samples_are_bounded_and_reach_back() {
    let mut samples = Samples::default();
    let moment = |step: u64| MonoTime::ZERO + ms(10) * u32::try_from(step).unwrap();
    for step in 0..100_000 {
        samples.take(moment(step), Lsn(step + 1), ms(10_000));
    }
    let now = moment(99_999);
    let behind = samples.behind(now, Lsn(99_999)).unwrap();
    assert_eq!((behind.bytes, behind.time), (1, ms(0)));
    let behind = samples.behind(now, Lsn(98_000)).unwrap();
    assert!(behind.time.abs_diff(ms(20_000)) <= ms(40), "{behind:?}");
    let behind = samples.behind(now, Lsn(0)).unwrap();
    assert!(behind.time >= ms(20_000) && behind.bytes == 100_000, "{behind:?}");
}

#[test]
fn who_says_the_same_place_again_was_there_since_it_said_so_first_and_samples_are_kept_a_step_apart() {
    let moment = |millis: u64| MonoTime::ZERO + ms(millis);
    // Of 1,024 samples, half for the limit: one each 2 ms.
    let taken = |samples: &[(u64, u64)]| {
        let mut all = Samples::default();
        samples.iter().for_each(|&(millis, at)| all.take(moment(millis), Lsn(at), ms(1024)));
        all
    };
    let idle = taken(&[(0, 100), (1, 200), (5, 200)]);
    assert_eq!(idle.behind(moment(10), Lsn(150)).unwrap().time, ms(9));
    let apart = taken(&[(0, 100), (2, 200), (3, 300)]);
    assert_eq!(apart.behind(moment(10), Lsn(150)).unwrap().time, ms(8));
}

#[test]
fn what_was_measured_counts_to_the_end_of_its_time_and_a_limit_in_time_is_met_by_who_just_keeps_it() {
    let mut rig = healthy(three().postgres_with(|of| of.max_lag_time = ms(4000)));
    rig.live(ms(1000), &[]);
    at(&mut rig, "a", Role::Primary, 2000);
    rig.after(ms(4000));
    at(&mut rig, "b", Role::Standby, 1000);
    assert_eq!(shown(&rig, "b"), Some((1000, ms(4000))), "as long as it counts");
    assert_eq!(rig.way_to(Target::Standby).0, "b", "4 s are not more than 4 s; c said nothing for too long");
}

#[test]
fn who_is_on_another_line_loses_its_sessions_once() {
    let mut rig = healthy(three().sessions(|of| of.lagging = SessionPolicy::Close));
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    rig.sees("c", facts(Role::Standby, 2, 1000, &[950]));
    let cut = |rig: &Rig| rig.fences().iter().filter(|(_, _, reason)| *reason == OutReason::Lagging).count();
    assert_eq!(cut(&rig), 1, "{}", rig.deeds());
    rig.sees("c", facts(Role::Standby, 2, 1001, &[950]));
    assert_eq!(cut(&rig), 0, "{}", rig.deeds());
}

#[test]
fn without_a_limit_in_bytes_nobody_is_too_far_behind_in_them() {
    let mut rig = healthy(three().postgres_with(|of| of.max_lag = 0));
    at(&mut rig, "a", Role::Primary, 100 * MIB);
    at(&mut rig, "b", Role::Standby, 1);
    assert_eq!((lag(&rig, "b").0, rig.way_to(Target::Standby).0.as_str()), (100 * MIB - 1, "b c"));
}
