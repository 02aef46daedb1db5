//! Tests of attempts by hand.

use super::change_tests::version;
use super::tests::{DOWN, LIMITS, NOW, OK, endpoint, next, reserved};
use super::*;
use crate::delivery::breaker::AttemptSignal;
use crate::store::OrgEndpoints;

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
    admission.unreserve(reserved(&endpoint, 1, 0));
    admission.push_manual(endpoint.id, 7).unwrap();
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
    admission.push(endpoint.id, 0, 1, pause).unwrap();
    let probe = next(&mut admission, pause).unwrap().ticket;
    assert!(admission.reserve_manual(endpoint.id, pause));
    admission.unreserve(reserved(&endpoint, 1, 0));
    admission.push_manual(endpoint.id, 7).unwrap();
    assert!(next(&mut admission, pause).is_none(), "one at a time");
    let finished = admission.finish(probe, DOWN, false, pause);
    assert!(finished.released.is_empty());
    assert_eq!(next(&mut admission, pause).unwrap().delivery, 7);
}

#[test]
fn attempt_by_hand_at_an_endpoint_that_is_disabled_before_its_lease_keeps_no_later_one_waiting() {
    let mut admission = Admission::new(LIMITS);
    let old = endpoint(1);
    assert!(admission.introduce(&old, 1, NOW));
    assert!(admission.reserve_manual(old.id, NOW));
    let none = OrgEndpoints { version: 2, ..OrgEndpoints::default() };
    admission.endpoints_changed(old.org_id, &none);
    admission.unreserve(reserved(&old, 1, 0));
    assert_eq!(admission.push_manual(old.id, 7), Err(7));
    let (current, _) = version(&old, 3, "https://example.com/");
    admission.endpoints_changed(old.org_id, &current);
    assert!(admission.reserve_manual(old.id, NOW));
}
