//! Sessions of servers that have another name or another address by now.

use std::collections::BTreeSet;

use super::build::{PlanBuilder, ms, plan};
use super::clustered::{facts, healthy, primary, standby};
use super::rig::Rig;
use crate::model::{BackendId, Role, ServerFacts, SessionPolicy, Target};

/// A cluster whose sessions stay when a backend goes: each server by its name, and where it is.
fn servers(all: [(&str, &str); 3]) -> PlanBuilder {
    let pool = plan().pool("pg").postgres().sessions(|of| of.drained = SessionPolicy::Keep);
    all.into_iter().fold(pool, |pool, (name, address)| pool.backend(name, 1).at(address))
}

fn three() -> [(&'static str, &'static str); 3] {
    [("a", "127.0.0.1:5432"), ("b", "b:5432"), ("c", "c:5432")]
}

/// The same servers, of which `a` is `first` now.
fn with(first: (&'static str, &'static str)) -> PlanBuilder {
    servers([first, three()[1], three()[2]])
}

fn fenced(rig: &Rig) -> BTreeSet<BackendId> {
    rig.fences().into_iter().map(|(id, ..)| id).collect()
}

#[test]
fn sessions_of_a_primary_that_was_named_anew_or_spelt_otherwise_go_with_its_role() {
    for first in [("z", "127.0.0.1:5432"), ("a", "localhost:5432"), ("z", "localhost:5432")] {
        let mut rig = healthy(servers(three()));
        let old = rig.id("a");
        rig.replan(with(first));
        assert!(rig.holds(), "{first:?} has said nothing");
        rig.open_session(first.0, primary(1, &[]));
        assert_eq!(rig.deeds().split_once(' ').unwrap().1, format!("[{}]", first.0), "it has lost nothing");
        let new = rig.id(first.0);
        rig.live(ms(60_000), &[]);
        rig.sees("b", primary(2, &[900]));
        assert_eq!(fenced(&rig), BTreeSet::from([old, new]), "{first:?}: {}", rig.deeds());
        assert!(rig.deeds().starts_with("keep:b [-] ") && rig.deeds().ends_with(" [b]"), "{}", rig.deeds());
    }
}

#[test]
fn readers_of_a_standby_that_was_named_anew_go_when_it_is_started_as_a_primary() {
    let mut rig = healthy(servers(three()));
    let old = rig.id("c");
    assert_eq!(rig.way_to(Target::Standby).0, "b c");
    rig.replan(servers([three()[0], three()[1], ("z", "c:5432")]));
    rig.open_session("z", primary(1, &[]));
    assert_eq!((rig.way("pg").as_str(), fenced(&rig).contains(&old)), ("a", true), "{}", rig.deeds());
}

#[test]
fn a_standby_that_was_promoted_is_the_primary_at_another_address_and_back() {
    let mut rig = healthy(servers(three()));
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.way("pg"), "b");
    for address in ["elsewhere:5432", "b:5432", "elsewhere:5432"] {
        rig.replan(servers([three()[0], ("b", address), three()[2]]));
        rig.open_session("b", primary(2, &[900]));
        rig.fit(&["b"]);
        assert_eq!((rig.way("pg").as_str(), rig.holds()), ("b", false), "{address}: {:?}", rig.kinds());
    }
    assert!(!rig.kinds().contains(&"pool.split_brain"), "{:?}", rig.kinds());
}

#[test]
fn sessions_of_a_primary_whose_name_is_given_to_another_server_are_fenced_before_that_is_written_to() {
    for newcomer in [primary(2, &[900]), ServerFacts { history: [].into(), ..primary(2, &[900]) }] {
        let mut rig = healthy(servers(three()));
        let old = rig.id("a");
        rig.replan(with(("a", "d:5432")));
        rig.open_session("a", newcomer);
        assert_eq!(rig.deeds(), format!("keep:a #{old}:all(demoted) [a]"));
    }
}

#[test]
fn a_copy_that_lacks_what_was_written_is_not_the_server_that_had_its_name() {
    let mut rig = healthy(servers(three()));
    let old = rig.id("a");
    rig.replan(with(("a", "d:5432")));
    rig.open_session("a", facts(Role::Primary, 1, 950, &[]));
    assert!(rig.holds() && rig.fences().is_empty(), "it is not believed for its name: {}", rig.deeds());
    rig.point_to("a", SessionPolicy::Keep).unwrap();
    assert_eq!(rig.deeds(), format!("keep:a #{old}:all(demoted) [a]"), "nor are sessions left where they are");
}

#[test]
fn readers_of_a_standby_that_was_named_anew_go_when_it_was_the_primary_and_is_none() {
    for (name, address) in [("z", "b:5432"), ("b", "elsewhere:5432")] {
        let mut rig = healthy(servers(three()));
        let old = rig.id("b");
        assert_eq!(rig.way_to(Target::Standby).0, "b c");
        rig.replan(servers([three()[0], (name, address), three()[2]]));
        rig.open_session(name, standby(1, &[]));
        rig.dies("a");
        rig.sees(name, primary(2, &[900]));
        assert_eq!(
            (rig.way("pg"), fenced(&rig).len()),
            (name.to_owned(), 0),
            "those who read stay through a promotion"
        );
        rig.sees(name, facts(Role::Primary, 2, 1100, &[900]));
        assert!(fenced(&rig).is_empty());
        rig.sees("c", primary(3, &[900, 950]));
        assert_eq!(fenced(&rig), BTreeSet::from([old, rig.id(name)]), "they can write there");
    }
}

#[test]
fn what_has_drained_of_a_primary_that_was_named_anew_is_not_let_go_again() {
    let named = |name: &str| plan().pool("pg").postgres().backend(name, 1).at("a:1").backend("b", 2).backend("c", 2);
    let mut rig = healthy(named("a"));
    rig.replan(named("z"));
    rig.open_session("z", primary(1, &[]));
    rig.live(ms(30_000), &[]);
    assert!(rig.told.iter().any(|change| change.kind() == "backend.removed"));
    rig.sees("b", primary(2, &[900]));
    assert_eq!(fenced(&rig), BTreeSet::from([rig.id("z")]));
}

#[test]
fn of_servers_that_went_so_many_are_remembered_and_those_of_the_oldest_go() {
    let named = |number: usize| {
        let name = format!("a{number}");
        let pool = plan().pool("pg").postgres().sessions(|of| of.drained = SessionPolicy::Keep);
        pool.backend(&name, 1).at("a:1").backend("b", 2).backend("c", 2)
    };
    let mut rig = Rig::new(named(0));
    let mut ids = Vec::new();
    for number in 0..=65 {
        rig.replan(named(number));
        let oldest: BTreeSet<BackendId> = (number == 65).then(|| ids[0]).into_iter().collect();
        assert_eq!(fenced(&rig), oldest, "{number}");
        rig.open_session(&format!("a{number}"), primary(1, &[]));
        ids.push(rig.id(&format!("a{number}")));
        if number == 0 {
            rig.open_session("b", standby(1, &[]));
            rig.open_session("c", standby(1, &[]));
        }
        assert_eq!(rig.way("pg"), format!("a{number}"));
    }
}

#[test]
fn a_server_that_was_named_anew_or_moved_has_not_failed_over_to_itself() {
    for first in [("z", "127.0.0.1:5432"), ("a", "localhost:5432"), ("z", "localhost:5432")] {
        let mut rig = healthy(servers(three()));
        rig.replan(with(first));
        rig.open_session(first.0, primary(1, &[]));
        rig.fit(&[first.0]);
        assert_eq!((rig.way("pg").as_str(), rig.failovers()), (first.0, Vec::new()), "{first:?}");
        assert_eq!(rig.status("pg").failovers, 0);
        // What comes next is one.
        rig.dies(first.0);
        rig.sees("b", primary(2, &[900]));
        assert_eq!(rig.failovers().last().unwrap(), &format!("1 completed: {} > b (dead)", first.0));
    }
}

#[test]
fn one_that_takes_the_name_of_who_served_takes_over_from_it() {
    let mut rig = healthy(servers(three()));
    rig.replan(with(("a", "d:5432")));
    assert_eq!(rig.failovers(), Vec::<String>::new(), "it may be the same");
    rig.open_session("a", primary(2, &[900]));
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > a (drained)");
    // If it is none that could take over, what is pending is told then.
    let mut rig = healthy(servers(three()));
    rig.replan(with(("a", "d:5432")));
    rig.open_session("a", standby(1, &[]));
    assert_eq!(rig.failovers(), ["1 pending: a >  (drained)"]);
    rig.sees("b", primary(2, &[900]));
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > b (drained)");
}

#[test]
fn a_backend_that_was_taken_out_and_put_back_serves_again_and_nobody_took_over() {
    let mut rig = healthy(servers(three()));
    rig.replan(plan().pool("pg").postgres().backend("b", 1).backend("c", 1));
    rig.replan(servers(three()));
    rig.open_session("a", primary(1, &[]));
    let told = ["1 pending: a >  (drained)", "1 failed: a >  (drained)"];
    assert_eq!((rig.way("pg").as_str(), rig.failovers()), ("a", told.map(str::to_owned).to_vec()));
}

#[test]
fn in_a_pool_of_any_kind_who_is_at_the_same_address_is_the_same() {
    let named = |name: &str, priority: u32| plan().pool("pg").backend(name, priority).at("10.0.0.1:80");
    let mut rig = Rig::new(named("a", 1));
    rig.fit(&["a"]);
    rig.replan(named("z", 2));
    rig.fit(&["z"]);
    assert_eq!((rig.way("pg").as_str(), rig.failovers()), ("z", Vec::new()));
    rig.replan(plan().pool("pg").backend("z", 3).at("10.0.0.2:80"));
    rig.fit(&["z"]);
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: z > z (drained)", "another one by that name");
}

#[test]
fn a_primary_that_moved_is_known_again_unless_another_that_came_with_it_may_be_it_as_well() {
    let old_line = || primary(1, &[]);
    for (name, other, stay) in [
        ("z", Some(standby(2, &[900])), true),
        ("z", Some(old_line()), true),
        ("z", None, false),
        // Of two that may be it, the one that has its name is believed.
        ("a", None, true),
    ] {
        let mut rig = healthy(servers(three()));
        rig.sees("a", primary(2, &[900]));
        let old = rig.id("a");
        rig.replan(with((name, "localhost:5432")).backend("y", 1).at("y:5432"));
        rig.fit(&["y"]);
        let mut gone = fenced(&rig);
        let case = format!("{name}, beside one that says {:?}", other.as_ref().map(|other| other.role));
        if let Some(other) = other {
            rig.open_session("y", other);
        }
        rig.open_session(name, primary(2, &[900]));
        gone.extend(fenced(&rig));
        while rig.way("pg").is_empty() {
            rig.now = rig.core.next_deadline().unwrap();
            rig.tick();
            gone.extend(fenced(&rig));
        }
        assert_eq!((rig.way("pg").as_str(), gone.contains(&old)), (name, !stay), "{case}: {}", rig.deeds());
    }
}

#[test]
fn who_was_there_beside_a_primary_that_moved_is_not_what_that_is_now() {
    let until = |rig: &mut Rig, name: &str| {
        let mut gone = fenced(rig);
        while rig.way("pg") != name {
            rig.now = rig.core.next_deadline().unwrap();
            rig.tick();
            gone.extend(fenced(rig));
        }
        gone
    };
    // One that has never said what it is.
    let mut rig = Rig::new(servers(three()));
    rig.fit(&["c"]);
    rig.open_session("a", primary(1, &[]));
    rig.open_session("b", standby(1, &[]));
    until(&mut rig, "a");
    let old = rig.id("a");
    rig.replan(with(("z", "localhost:5432")));
    rig.open_session("z", primary(1, &[]));
    assert!(!until(&mut rig, "z").contains(&old), "sessions are let go though they are where they should be");
    // Nor is one that was started as a primary on the same line.
    for (name, other) in [("b", "c"), ("c", "b")] {
        let mut rig = healthy(servers(three()));
        let old = rig.id("a");
        let left = three().into_iter().filter(|(name, _)| *name != "a");
        let pool = plan().pool("pg").postgres().sessions(|of| of.drained = SessionPolicy::Keep);
        rig.replan(left.fold(pool, |pool, (name, address)| pool.backend(name, 1).at(address)));
        rig.sees(name, primary(1, &[]));
        rig.sees(other, standby(1, &[]));
        rig.point_to(name, SessionPolicy::Keep).unwrap();
        assert!(until(&mut rig, name).contains(&old), "{name}: {}", rig.deeds());
    }
}

#[test]
fn those_who_read_at_what_was_promoted_since_stay_however_often_that_is_named_anew() {
    let named = |name: &'static str| servers([three()[0], (name, "b:5432"), three()[2]]);
    let mut rig = healthy(servers(three()));
    let old = rig.id("b");
    rig.replan(named("z"));
    rig.open_session("z", standby(1, &[]));
    rig.dies("a");
    rig.sees("z", primary(2, &[900]));
    for name in ["y", "x"] {
        rig.replan(named(name));
        rig.open_session(name, primary(2, &[900]));
        assert_eq!((rig.way("pg").as_str(), fenced(&rig).contains(&old)), (name, false), "{}", rig.deeds());
    }
    rig.sees("c", primary(3, &[900, 950]));
    assert!(fenced(&rig).contains(&old), "they can write there");
}
