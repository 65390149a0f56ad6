//! Sessions that may go on for a while: when they are fenced, and when they are not after all.

use super::build::ms;
use crate::failover::Sessions;
use crate::failover::departures::{Departure, Departures};
use crate::failover::pool::Return;
use crate::model::{BackendId, Epoch, MonoTime, OutReason};

fn leaving(at: u64, backend: u32, epoch: u64, reason: OutReason) -> Departure {
    Departure {
        at: MonoTime::ZERO + ms(at),
        backend: BackendId(backend),
        epoch: Epoch(epoch),
        reason,
        which: Sessions::All,
    }
}

#[test]
fn departures_come_in_the_order_of_their_time() {
    let mut list = Departures::default();
    for d in
        [leaving(30, 1, 1, OutReason::Drained), leaving(10, 2, 1, OutReason::Dead), leaving(20, 3, 4, OutReason::Dead)]
    {
        list.add(d);
    }
    assert_eq!(list.next_due(), Some(MonoTime::ZERO + ms(10)));
    assert_eq!(list.pop_due(MonoTime::ZERO + ms(9)), None);
    assert_eq!(list.pop_due(MonoTime::ZERO + ms(10)), Some(leaving(10, 2, 1, OutReason::Dead)));
    assert_eq!(list.pop_due(MonoTime::ZERO + ms(100)), Some(leaving(20, 3, 4, OutReason::Dead)));
    assert_eq!(list.pop_due(MonoTime::ZERO + ms(100)), Some(leaving(30, 1, 1, OutReason::Drained)));
    assert_eq!(list.next_due(), None);
    assert!(list.is_consistent());
}

#[test]
fn a_fence_makes_the_older_departures_idle_and_not_the_later() {
    let mut list = Departures::default();
    list.add(leaving(10, 1, 1, OutReason::Drained));
    list.add(leaving(20, 1, 3, OutReason::Drained));
    list.add(leaving(20, 2, 1, OutReason::Drained));
    list.are_fenced(BackendId(1), Epoch(2), Sessions::All);
    assert_eq!(list.iter().map(|d| (d.backend.0, d.epoch.0)).collect::<Vec<_>>(), [(1, 3), (2, 1)]);
    assert!(list.is_consistent());
}

#[test]
fn only_the_reasons_that_are_void_are_cancelled() {
    let mut list = Departures::default();
    list.add(leaving(10, 1, 1, OutReason::Drained));
    list.add(leaving(20, 1, 2, OutReason::Unreachable));
    list.add(leaving(20, 2, 2, OutReason::Unreachable));
    list.cancel(BackendId(1), OutReason::is_verdict);
    assert_eq!(list.iter().map(|d| (d.backend.0, d.epoch.0)).collect::<Vec<_>>(), [(1, 1), (2, 2)]);
    assert!(list.is_consistent());
}

#[test]
fn a_fence_of_those_that_open_leaves_the_others_to_go_in_their_time() {
    let mut list = Departures::default();
    let opening = |epoch| Departure { which: Sessions::Opening, ..leaving(20, 1, epoch, OutReason::Demoted) };
    list.add(leaving(10, 1, 1, OutReason::Drained));
    list.add(opening(2));
    list.are_fenced(BackendId(1), Epoch(3), Sessions::Opening);
    assert_eq!(list.iter().collect::<Vec<_>>(), [leaving(10, 1, 1, OutReason::Drained)]);
    assert!(list.is_consistent());
}

#[test]
fn who_is_as_it_should_be_again_keeps_the_sessions_that_were_to_go_for_the_opposite_and_no_others() {
    let one = BackendId(1);
    let reasons = [OutReason::Demoted, OutReason::Lagging, OutReason::Drained, OutReason::Dead, OutReason::Manual];
    let stays = [
        (Return::Elected(one), OutReason::Demoted),
        (Return::CaughtUp(one), OutReason::Lagging),
        (Return::Ready(one), OutReason::Drained),
        (Return::Healthy(one), OutReason::Dead),
    ];
    for (back, void) in stays {
        let mut list = Departures::default();
        (1..).zip(reasons).for_each(|(epoch, reason)| list.add(leaving(10 * epoch, 1, epoch, reason)));
        list.stay(&[back]);
        let left: Vec<OutReason> = list.iter().map(|departure| departure.reason).collect();
        assert_eq!(left, reasons.into_iter().filter(|reason| *reason != void).collect::<Vec<_>>(), "{back:?}");
        assert!(list.is_consistent());
    }
}
