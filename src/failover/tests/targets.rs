//! Where sessions go that want something else than the primary.

use super::build::{ms, plan};
use super::clustered::{denied, healthy, primary, standby, three};
use super::rig::{Rig, passed};
use crate::failover::{Arrival, NoRoute};
use crate::model::{AdminState, Target};

fn pick(rig: &Rig, target: Target) -> Result<String, NoRoute> {
    let arrival = Arrival { target: Some(target), ..Arrival::default() };
    rig.core.table().pools["pg"].pick(&arrival).map(|route| route.name.to_string())
}

#[test]
fn every_target_has_its_servers() {
    let rig = healthy(three());
    assert_eq!(rig.way_to(Target::Primary), ("a".to_owned(), false));
    assert_eq!(rig.way_to(Target::Standby), ("b c".to_owned(), false));
    assert_eq!(rig.way_to(Target::PreferStandby), ("b c | a".to_owned(), false));
    assert_eq!(rig.way_to(Target::Any), ("a | b c".to_owned(), false));
    assert!(rig.backend("b").eligible && !rig.backend("b").active && rig.backend("a").active);
}

#[test]
fn readers_go_on_while_there_is_no_primary_and_through_a_promotion() {
    let mut rig = healthy(three());
    rig.dies("a");
    assert_eq!(pick(&rig, Target::Primary), Err(NoRoute::Pending));
    for target in [Target::Standby, Target::PreferStandby, Target::Any] {
        assert_eq!(rig.way_to(target).0, "b c", "{target}");
    }
    rig.sees("b", primary(2, &[900]));
    assert!(rig.fences().is_empty(), "the sessions that read from b stay");
    assert_eq!(rig.way_to(Target::Standby).0, "c");
    assert_eq!(rig.way_to(Target::PreferStandby).0, "c | b");
}

#[test]
fn without_a_standby_the_policy_says_what_happens() {
    let mut rig = healthy(three());
    rig.dies("b");
    rig.order("c", AdminState::Maintenance);
    assert_eq!(pick(&rig, Target::Standby), Err(NoRoute::Down));
    assert_eq!(pick(&rig, Target::PreferStandby).as_deref(), Ok("a"));
    let mut rig = healthy(three().use_preferred());
    rig.dies("b");
    rig.order("c", AdminState::Maintenance);
    assert_eq!(pick(&rig, Target::Standby).as_deref(), Ok("a"));
}

#[test]
fn a_primary_in_doubt_gets_nobody_new_and_readers_go_on() {
    let mut rig = healthy(three());
    let (state, told) = (rig.state(), rig.told.len());
    rig.late("a", 30);
    assert_eq!(pick(&rig, Target::Primary), Err(NoRoute::Pending), "whatever the policy says");
    assert_eq!(rig.way_to(Target::Standby), ("b c".to_owned(), false));
    assert_eq!(rig.way_to(Target::Any), ("b c".to_owned(), false));
    assert_eq!((rig.state(), rig.told.len(), rig.fences().len()), (state, told, 0));
    rig.answer("a", passed());
    assert_eq!(pick(&rig, Target::Primary).as_deref(), Ok("a"));
    // A standby in doubt is passed over, and waited for if it is the last.
    rig.late("b", 30);
    assert_eq!(rig.way_to(Target::Standby), ("c".to_owned(), false));
    rig.dies("c");
    assert_eq!(pick(&rig, Target::Standby), Err(NoRoute::Pending));
    assert_eq!(pick(&rig, Target::PreferStandby).as_deref(), Ok("a"));
}

#[test]
fn a_pause_holds_every_target_and_a_pin_only_those_that_write() {
    let mut rig = healthy(three());
    rig.fail_over("pg", Some("b")).unwrap();
    assert_eq!(rig.way_to(Target::Any).0, "a | b c");
    assert!(rig.holds());
    rig.fail_back("pg").unwrap();
    rig.pause("pg", None).unwrap();
    for target in Target::ALL {
        assert_eq!(rig.way_to(*target).0, "", "{target}");
    }
}

#[test]
fn a_server_whose_part_is_not_known_gets_no_readers_and_an_old_primary_neither() {
    let mut rig = healthy(plan().pool("pg").postgres().backend("a", 1).backend("b", 2).backend("c", 2));
    rig.dies("c");
    rig.fails("c", denied());
    rig.answer("c", passed());
    rig.answer("c", passed());
    assert_eq!(rig.way_to(Target::Standby).0, "b");
    rig.open_session("c", standby(1, &[]));
    assert_eq!(rig.way_to(Target::Standby).0, "b c");
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.way_to(Target::Any).0, "b c", "a says that it is the primary, and is not");
    rig.pass(ms(10));
}

#[test]
fn a_standby_lingers_while_it_is_drained_or_behind_and_lives() {
    let lingering = |rig: &Rig| {
        let routes = &rig.core.table().pools["pg"].lingering;
        routes.iter().map(|route| route.name.to_string()).collect::<Vec<_>>()
    };
    let mut rig = healthy(three());
    assert!(lingering(&rig).is_empty());
    rig.order("b", AdminState::Drain);
    assert_eq!((rig.way_to(Target::Standby).0, lingering(&rig)), ("c".to_owned(), vec!["b".to_owned()]));
    rig.pause("pg", None).unwrap();
    assert!(lingering(&rig).is_empty(), "nobody is sent anywhere");
    rig.resume("pg").unwrap();
    assert_eq!(lingering(&rig), ["b"]);
    rig.order("a", AdminState::Drain);
    assert_eq!(lingering(&rig), ["b"], "a primary is not among them");
    rig.order("b", AdminState::Maintenance);
    assert!(lingering(&rig).is_empty());
    rig.order("b", AdminState::Drain);
    rig.dies("b");
    assert!(lingering(&rig).is_empty());
}
