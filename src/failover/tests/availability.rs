//! The truth table, row by row.

use crate::failover::Availability;
use crate::model::{AdminState, HealthState};

#[test]
fn health_and_admin_state_join_as_the_truth_table_says() {
    use AdminState::{Drain, Maintenance, Ready};
    use Availability::{Draining, Eligible, Maintained, Pending, Unfit};
    use HealthState::{Healthy, Unhealthy, Unknown};
    let table = [
        (Unknown, Ready, Pending),
        (Healthy, Ready, Eligible),
        (Unhealthy, Ready, Unfit),
        (Unknown, Drain, Draining),
        (Healthy, Drain, Draining),
        (Unhealthy, Drain, Draining),
        (Unknown, Maintenance, Maintained),
        (Healthy, Maintenance, Maintained),
        (Unhealthy, Maintenance, Maintained),
    ];
    assert_eq!(table.len(), HealthState::ALL.len() * AdminState::ALL.len());
    for (health, admin, expected) in table {
        assert_eq!(Availability::of(health, admin), expected, "{health} and {admin}");
    }
}

#[test]
fn people_alone_decide_who_is_allowed() {
    for &health in HealthState::ALL {
        for &admin in AdminState::ALL {
            assert_eq!(Availability::of(health, admin).is_allowed(), admin == AdminState::Ready, "{health} {admin}");
        }
    }
}

#[test]
fn unknown_is_not_healthy() {
    for &admin in AdminState::ALL {
        assert_ne!(Availability::of(HealthState::Unknown, admin), Availability::Eligible);
    }
}
