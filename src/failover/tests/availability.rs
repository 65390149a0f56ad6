//! The truth table, row by row.

use crate::failover::{Availability, Part, Voices};
use crate::model::{AdminState, HealthState};

use AdminState::{Drain, Maintenance, Ready};
use Availability::{Draining, Eligible, Maintained, Pending, Slow, Unfit};
use HealthState::{Healthy, Unhealthy, Unknown};

/// Every combination there is.
fn all() -> Vec<Voices> {
    let mut all = Vec::new();
    for &health in HealthState::ALL {
        for slow in [false, true] {
            for &pushed in HealthState::ALL {
                for &operator in AdminState::ALL {
                    all.extend(AdminState::ALL.iter().map(|&agent| Voices {
                        health,
                        slow,
                        pushed,
                        operator,
                        agent,
                        part: Part::Leads,
                    }));
                }
            }
        }
    }
    all
}

#[test]
fn what_is_said_of_health_joins_as_the_truth_table_says() {
    let table = [
        (Unknown, false, Unknown, Pending),
        (Unknown, false, Healthy, Pending),
        (Unknown, false, Unhealthy, Unfit),
        (Healthy, false, Unknown, Eligible),
        (Healthy, false, Healthy, Eligible),
        (Healthy, false, Unhealthy, Unfit),
        (Unhealthy, false, Unknown, Unfit),
        (Unhealthy, false, Healthy, Unfit),
        (Unhealthy, false, Unhealthy, Unfit),
        (Unhealthy, true, Unknown, Slow),
        (Unhealthy, true, Healthy, Slow),
        (Unhealthy, true, Unhealthy, Unfit),
    ];
    for (health, slow, pushed, expected) in table {
        let voices = Voices { health, slow, pushed, operator: Ready, agent: Ready, part: Part::Leads };
        assert_eq!(Availability::of(voices), expected, "{voices:?}");
    }
}

#[test]
fn the_stricter_of_operator_and_agent_goes_before_all_that_is_said_of_health() {
    let table = [
        (Ready, Drain, Draining),
        (Drain, Ready, Draining),
        (Drain, Drain, Draining),
        (Ready, Maintenance, Maintained),
        (Drain, Maintenance, Maintained),
        (Maintenance, Ready, Maintained),
        (Maintenance, Drain, Maintained),
        (Maintenance, Maintenance, Maintained),
    ];
    for voices in all() {
        let row = table.iter().find(|(operator, agent, _)| (*operator, *agent) == (voices.operator, voices.agent));
        let availability = Availability::of(voices);
        match row {
            Some((.., expected)) => assert_eq!(availability, *expected, "{voices:?}"),
            None => assert!(!matches!(availability, Draining | Maintained), "{voices:?}"),
        }
        assert_eq!(availability.is_allowed(), row.is_none(), "{voices:?}");
    }
}

#[test]
fn unknown_is_not_healthy() {
    for voices in all().into_iter().filter(|voices| voices.health == Unknown) {
        assert!(!matches!(Availability::of(voices), Eligible | Slow), "{voices:?}");
    }
}
