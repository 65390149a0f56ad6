//! One target that several backends share.

use super::build::{ms, plan};
use super::rig::replaced;
use crate::failover::Controller;
use crate::model::MonoTime;

#[test]
fn the_first_probe_of_a_shared_target_comes_within_the_shortest_interval() {
    let quick = ms(1) / 50;
    for seed in 0..20 {
        let shared = plan().pool("p").backend("a", 1).at("x:1").check(|check| check.interval = ms(60_000));
        let shared = shared.backend("b", 1).at("x:1").check(|check| check.interval = quick);
        let mut core = Controller::new(seed);
        core.handle(MonoTime::ZERO, replaced(shared), &mut Vec::new());
        assert!(core.next_deadline().unwrap() <= MonoTime::ZERO + quick);
    }
}
