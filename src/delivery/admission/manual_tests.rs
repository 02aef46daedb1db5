//! Tests of attempts by hand.

use super::tests::{DOWN, LIMITS, NOW, OK, endpoint, next};
use super::*;
use crate::delivery::breaker::AttemptSignal;

#[test]
fn attempt_by_hand_probes_at_once_and_one_at_a_time() {
    let mut admission = Admission::new(LIMITS);
    let endpoint = endpoint(1);
    admission.push_known(&endpoint, 1);
    let ticket = next(&mut admission, NOW).unwrap().ticket;
    let hold = Some(Duration::from_hours(1));
    admission.finish(ticket, AttemptSignal::Failure { hold }, false, NOW);
    assert!(admission.reserve_manual(endpoint.id, NOW));
    assert!(!admission.reserve_manual(endpoint.id, NOW), "one at a time");
    admission.unreserve(endpoint.id, 1);
    admission.push_manual(endpoint.id, 7, 1).unwrap();
    let start = next(&mut admission, NOW).unwrap();
    assert_eq!(start.delivery, 7);
    let finished = admission.finish(start.ticket, OK, false, NOW);
    assert_eq!(finished.breaker, Some(BreakerChange::Closed));
    assert!(admission.reserve_manual(endpoint.id, NOW));
}

#[test]
fn attempt_by_hand_that_waits_for_a_probe_follows_it_though_it_fails() {
    let mut admission = Admission::new(LIMITS);
    let endpoint = endpoint(1);
    for _ in 0..10 {
        admission.push_known(&endpoint, 1);
        let ticket = next(&mut admission, NOW).unwrap().ticket;
        admission.finish(ticket, DOWN, false, NOW);
    }
    let pause = admission.paused_until(endpoint.id, NOW).unwrap();
    admission.push_known(&endpoint, 1);
    let probe = next(&mut admission, pause).unwrap().ticket;
    assert!(admission.reserve_manual(endpoint.id, pause));
    admission.unreserve(endpoint.id, 1);
    admission.push_manual(endpoint.id, 7, 1).unwrap();
    assert!(next(&mut admission, pause).is_none(), "one at a time");
    let finished = admission.finish(probe, DOWN, false, pause);
    assert!(finished.released.is_empty());
    assert_eq!(next(&mut admission, pause).unwrap().delivery, 7);
}
