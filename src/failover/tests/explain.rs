//! What the pool says of its decisions, and whether it should take another.

use super::build::{ms, plan};
use super::clustered::{healthy, primary, standby, three};
use super::rig::{Rig, passed_in};
use crate::model::{Applied, Evaluation, Explanation, HealthState, OutReason, PoolName, Rule};

fn rig() -> Rig {
    let mut rig = Rig::new(plan().pool("pg").failback_after(ms(3000)).backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig
}

fn explain(rig: &Rig) -> Explanation {
    rig.core.explain(rig.now, &PoolName::from("pg")).unwrap()
}

fn evaluate(rig: &Rig) -> Evaluation {
    rig.core.evaluate(rig.now, &PoolName::from("pg")).unwrap()
}

fn text(rules: &[Applied]) -> Vec<String> {
    rules.iter().map(|Applied { rule, detail, .. }| format!("{rule}: {detail}")).collect()
}

#[test]
fn nobody_knows_of_a_pool_that_is_not_there() {
    let rig = rig();
    assert_eq!(rig.core.explain(rig.now, &PoolName::from("x")), None);
    assert_eq!(rig.core.evaluate(rig.now, &PoolName::from("x")), None);
}

#[test]
fn who_serves_is_explained_from_the_first_seat_to_the_return() {
    let mut rig = Rig::new(plan().pool("pg").failback_after(ms(3000)).backend("a", 1).backend("b", 2));
    rig.fit(&["b"]);
    let waits = explain(&rig);
    assert_eq!(text(&waits.rules), ["no_verdict: clients wait up to 10s for verdicts"]);
    assert_eq!((waits.serving, waits.since, waits.if_active_failed), (Vec::new(), None, None));
    rig.fit(&["a"]);
    let began = rig.now;
    let first = explain(&rig);
    assert_eq!((text(&first.rules), first.since), (vec!["first_seat: a serves".to_owned()], Some(began)));
    let prospect = first.if_active_failed.unwrap();
    assert_eq!(text(&prospect.rules), ["empty_seat: b is the best that is fit besides"]);
    rig.kill("a");
    let lost = rig.now;
    let second = explain(&rig);
    assert_eq!(
        (text(&second.rules), second.since),
        (vec!["empty_seat: b took over from a (dead)".to_owned()], Some(lost))
    );
    assert_eq!(text(&second.if_active_failed.unwrap().rules), ["hold: clients wait up to 10s"]);
    let evidence = &second.evidence[0];
    assert_eq!((evidence.reason.as_str(), evidence.consecutive_failures), ("dead: refused", 2));
    rig.revive("a");
    let back = rig.now;
    let third = explain(&rig);
    assert_eq!(text(&third.rules)[1], "stable_time: a serves again once fit for 3s");
    assert_eq!(third.rules[1].at, Some(back + ms(3000)));
    rig.live(ms(3000), &[]);
    assert_eq!(text(&explain(&rig).rules), ["stable_time: a took over from b (failed_back)"]);
    rig.kill("a");
    let damped = "damping: 1 returns did not last: the stable time is 6s instead of 3s";
    assert_eq!(text(&explain(&rig).rules)[1], damped);
}

#[test]
fn orders_are_explained_with_the_way_out() {
    let mut rig = rig();
    rig.fail_over("pg", Some("b")).unwrap();
    rig.pause("pg", Some(ms(2000))).unwrap();
    let said = explain(&rig);
    let pinned = "pinned: pinned to b until `changeover failback pg`: because";
    let paused = "paused: new clients wait, for 2s at most";
    assert_eq!(text(&said.rules), ["ordered: b took over from a (manual)", pinned, paused]);
    let prospect = said.if_active_failed.unwrap();
    assert_eq!(text(&prospect.rules), [pinned, paused, "hold: clients wait up to 10s"]);
    rig.pause("pg", None).unwrap();
    assert_eq!(text(&explain(&rig).rules)[2], "paused: new clients wait, until `changeover resume pg`");
    rig.kill("b");
    assert_eq!(
        text(&explain(&rig).rules),
        ["hold: clients wait up to 10s", pinned, text(&explain(&rig).rules)[2].as_str()]
    );
    let down = evaluate(&rig);
    assert_eq!((down.should_failover, down.to), (false, vec!["a".into()]));
    assert_eq!(down.reason, "pinned to b until `changeover failback pg`");
}

#[test]
fn what_the_plan_forbids_is_explained() {
    let mut rig = Rig::new(plan().pool("pg").manual_failover().use_preferred().backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    let off = "automatic_off: no session leaves the active tier";
    let said = explain(&rig);
    assert_eq!(text(&said.rules), ["first_seat: a serves", off]);
    let sent = "use_preferred: clients are sent to a, fit or not";
    assert_eq!(text(&said.if_active_failed.unwrap().rules), [off, sent]);
    rig.kill("a");
    assert_eq!((evaluate(&rig).should_failover, evaluate(&rig).reason.as_str()), (false, "automatic failover is off"));
    assert_eq!(text(&explain(&rig).rules), [sent, off]);
    rig.replan(plan().pool("pg").manual_failback().backend("a", 1).backend("b", 2));
    rig.revive("a");
    assert_eq!(text(&explain(&rig).rules)[1], "manual_failback: a is fit and waits for `changeover failback pg`");
}

#[test]
fn of_a_cluster_it_is_explained_what_those_who_write_get_and_nothing_else() {
    for (plan, closed) in [
        (three().use_preferred(), "refuse: clients are closed at once"),
        (three().refuse(), "refuse: clients are closed at once"),
        (three(), "hold: clients wait up to 10s"),
    ] {
        let prospect = |rig: &Rig| text(&explain(rig).if_active_failed.unwrap().rules);
        let waits = "hold: clients wait up to 10s for a primary";
        let mut rig = healthy(plan);
        assert_eq!(prospect(&rig), [waits], "one of the others may be promoted");
        rig.dies("a");
        assert_eq!((text(&explain(&rig).rules)[0].as_str(), rig.holds()), (waits, true));
        rig.comes_back("a", primary(1, &[]));
        rig.dies("b");
        assert_eq!(prospect(&rig), [waits]);
        rig.dies("c");
        assert_eq!(prospect(&rig), [closed], "nobody is left");
        rig.dies("a");
        assert_eq!((text(&explain(&rig).rules)[0].as_str(), rig.holds()), (closed, false));
        assert_eq!(rig.way("pg"), "");
        // Pinned, it goes nowhere else.
        rig.comes_back("a", primary(1, &[]));
        rig.comes_back("b", standby(1, &[]));
        rig.fail_over("pg", Some("b")).unwrap();
        rig.sees("b", primary(2, &[900]));
        assert_eq!(prospect(&rig).last().map(String::as_str), Some(closed));
    }
}

#[test]
fn an_evaluation_says_what_stands_in_the_way_or_where_to() {
    let mut rig = rig();
    let said = evaluate(&rig);
    assert_eq!((said.should_failover, said.reason.as_str()), (false, "a can serve"));
    assert_eq!((said.from, said.to), (vec!["a".into()], vec!["b".into()]));
    // Between the evidence and the end of its turn, when nobody else can ask.
    let id = rig.id("a");
    let now = rig.now;
    let pool = rig.core.pools.get_mut("pg").unwrap();
    let member = pool.member_mut(id).unwrap();
    member.health.state = HealthState::Unhealthy;
    member.settle(now);
    let said = evaluate(&rig);
    assert_eq!((said.should_failover, said.to), (true, vec!["b".into()]));
    assert!(said.reason.ends_with("and b can"), "{}", said.reason);
    let mut one = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    one.fit(&["a"]);
    one.kill("a");
    assert_eq!(evaluate(&one).reason, "first verdicts are still out");
    one.kill("b");
    assert_eq!(evaluate(&one).reason, "no other backend is eligible");
}

/// Both fit, each with an answer of 50 ms and a limit of 100.
fn limited() -> Rig {
    let limit = |check: &mut crate::model::CheckPlan| check.max_latency = Some(ms(100));
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).check(limit).backend("b", 2).check(limit));
    rig.answer("a", passed_in(50));
    rig.answer("b", passed_in(50));
    rig
}

#[test]
fn a_slow_backend_is_explained() {
    let mut rig = limited();
    for _ in 0..3 {
        rig.answer("a", passed_in(200));
    }
    let said = explain(&rig);
    let passed_over = "slow: a is slow and passed over, because another that is fit is faster";
    assert_eq!(text(&said.rules), ["slow: b took over from a (slow)", passed_over]);
    let prospect = said.if_active_failed.unwrap();
    assert_eq!(
        (prospect.to, text(&prospect.rules)),
        (vec!["a".into()], vec!["slow: a is slow, and nothing fit is left".to_owned()])
    );
    assert_eq!((evaluate(&rig).reason.as_str(), evaluate(&rig).to.len()), ("b can serve", 0));
    rig.kill("b");
    let stays = "slow: a is slow and not passed over, because nothing fit that may serve is faster by enough";
    assert_eq!(text(&explain(&rig).rules), ["empty_seat: a took over from b (dead)", stays]);
    let reason = "a is slow and can serve, and nothing fit that may serve is faster by enough";
    assert_eq!((evaluate(&rig).should_failover, evaluate(&rig).reason.as_str()), (false, reason));
}

#[test]
fn the_fit_are_foretold_before_the_slow() {
    let limit = |check: &mut crate::model::CheckPlan| check.max_latency = Some(ms(100));
    let pool = plan().pool("pg").backend("a", 1).check(limit).backend("b", 2).check(limit).backend("c", 3);
    let mut rig = Rig::new(pool.check(limit));
    for name in ["a", "b", "c"] {
        rig.answer(name, passed_in(99));
    }
    // Slow, but not so much that the others are better by enough.
    for _ in 0..3 {
        rig.answer("b", passed_in(101));
    }
    assert!(rig.backend("b").slow && rig.backend("b").eligible);
    let prospect = explain(&rig).if_active_failed.unwrap();
    assert_eq!((&prospect.to, evaluate(&rig).to), (&vec!["c".into()], prospect.to.clone()));
    rig.kill("a");
    assert_eq!(rig.status("pg").backends.iter().find(|b| b.active).unwrap().name.as_str(), "c");
    let prospect = explain(&rig).if_active_failed.unwrap();
    assert_eq!((&prospect.to, evaluate(&rig).to), (&vec!["b".into()], prospect.to.clone()));
    // What an operator orders without naming anybody goes by the same measure.
    rig.fail_over("pg", None).unwrap();
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn an_evaluation_says_that_another_is_faster() {
    let mut rig = limited();
    let id = rig.id("a");
    let now = rig.now;
    let pool = rig.core.pools.get_mut("pg").unwrap();
    pool.loss.reason = OutReason::Slow;
    let member = pool.member_mut(id).unwrap();
    (member.health.state, member.health.reason) = (HealthState::Unhealthy, Some(OutReason::Slow));
    member.passed_over = true;
    member.settle(now);
    let said = evaluate(&rig);
    assert_eq!((said.should_failover, said.reason.as_str()), (true, "a is slow, and b is faster"));
    assert_eq!(said.to, ["b".into()]);
}

#[test]
fn every_rule_has_its_sentence() {
    for rule in Rule::ALL {
        assert!(rule.sentence().ends_with('.') && rule.sentence().len() > 20, "{rule}");
    }
}
