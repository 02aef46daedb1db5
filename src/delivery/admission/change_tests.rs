//! Tests of what a change or a pause of an endpoint does to what admission holds.

use super::endpoint_state::QUEUE_TIME;
use super::tests::{DOWN, LIMITS, NOW, after, endpoint, next, offer_all, reserved, start_all};
use super::*;
use crate::delivery::breaker::AttemptSignal;
use crate::domain::Timestamp;
use crate::store::{ChangedEndpoint, EndpointsSince, OrgEndpoints};

/// An endpoint at a version, alone in its organisation.
pub(super) fn version(
    endpoint: &Arc<Endpoint>,
    version: u64,
    url: &str,
) -> (OrgEndpoints, Arc<Endpoint>) {
    let url = url.parse().unwrap();
    let new = Arc::new(Endpoint { url, version, ..(**endpoint).clone() });
    let endpoints = vec![Arc::clone(&new)];
    (OrgEndpoints { version, endpoints, ..OrgEndpoints::default() }, new)
}

#[test]
fn attempt_goes_to_the_endpoint_as_it_is_known_when_it_starts() {
    let mut admission = Admission::new(LIMITS);
    let old = endpoint(1);
    admission.push_known(&old, 1);
    let (current, new) = version(&old, 2, "https://elsewhere.example/");
    assert!(admission.endpoints_changed(old.org_id, &current).is_empty());
    assert_eq!(next(&mut admission, NOW).unwrap().endpoint.url, new.url);
    assert_eq!(admission.offer(&old, 1, 1, NOW), Offer::LeaveInStore, "planned too early");
    assert!(!admission.introduce(&old, 1, NOW));
}

#[test]
fn disabled_endpoint_gets_nothing_and_one_that_is_enabled_starts_afresh() {
    let mut admission = Admission::new(LIMITS);
    let old = endpoint(1);
    admission.push_known(&old, 1);
    let hold = Duration::from_hours(1);
    let ticket = next(&mut admission, NOW).unwrap().ticket;
    admission.finish(ticket, AttemptSignal::Failure { hold: Some(hold) }, false, NOW);
    admission.push(old.id, 1, 1, NOW.plus(hold)).unwrap();
    admission.push_manual(old.id, 2).unwrap();
    let none = OrgEndpoints { version: 2, ..OrgEndpoints::default() };
    assert_eq!(admission.endpoints_changed(old.org_id, &none).len(), 2);
    assert_eq!(admission.push(old.id, 1, 1, NOW), Err(1));
    assert_eq!(admission.room(old.id, NOW), Room::None);
    let (current, new) = version(&old, 3, "https://example.com/");
    admission.endpoints_changed(old.org_id, &current);
    assert_eq!(admission.offer(&new, 3, 1, NOW), Offer::Start);
}

#[test]
fn outcome_at_what_an_endpoint_was_is_not_held_against_what_it_is() {
    let mut admission = Admission::new(LIMITS);
    let old = endpoint(1);
    admission.push_known(&old, 1);
    let ticket = next(&mut admission, NOW).unwrap().ticket;
    let (current, new) = version(&old, 2, "https://elsewhere.example/");
    admission.endpoints_changed(old.org_id, &current);
    let hold = Some(Duration::from_hours(1));
    admission.finish(ticket, AttemptSignal::Failure { hold }, true, NOW);
    assert_eq!(admission.offer(&new, 2, 1, NOW), Offer::Start);
}

#[test]
fn change_of_one_endpoint_leaves_the_others_of_its_organisation_alone() {
    let mut admission = Admission::new(LIMITS);
    let (changed, same) = (endpoint(1), endpoint(2));
    let org = changed.org_id;
    assert_eq!(admission.applied_version(org), None, "all are to be read first");
    let all = vec![Arc::clone(&changed), Arc::clone(&same)];
    let all = OrgEndpoints { version: 1, endpoints: all, ..OrgEndpoints::default() };
    admission.endpoints_changed(org, &all);
    admission.push_known(&changed, 1);
    admission.push_known(&same, 1);
    let since = |version, endpoint| EndpointsSince {
        since: version - 1,
        version,
        changed: vec![ChangedEndpoint { id: changed.id, endpoint }],
    };
    assert_eq!(admission.applied_version(org), Some(1));
    assert_eq!(admission.apply_changes(org, &since(2, None)).len(), 1);
    assert_eq!(admission.waiting(), 1);
    let (_, new) = version(&changed, 3, "https://elsewhere.example/");
    admission.apply_changes(org, &since(3, Some(Arc::clone(&new))));
    assert_eq!(admission.offer(&new, 3, 1, NOW), Offer::Start);
    assert!(admission.apply_changes(org, &since(2, None)).is_empty(), "outdated");
    assert_eq!(admission.applied_version(org), Some(3));
    assert_eq!(admission.forget_endpoints(org).len(), 1);
    assert_eq!(admission.applied_version(org), None, "one change is not known");
}

#[test]
fn endpoint_that_was_disabled_and_enabled_between_two_looks_starts_afresh() {
    let failing = Some(Timestamp::from_micros(1));
    let refused = (AttemptSignal::Failure { hold: Some(Duration::from_hours(1)) }, false);
    let gone = (AttemptSignal::Success, true);
    for ((signal, gone), failing_since, is_paused) in [
        (refused, failing, true),
        (refused, None, false),
        (gone, failing, true),
        (gone, None, false),
    ] {
        let mut admission = Admission::new(LIMITS);
        let old = endpoint(1);
        admission.push_known(&old, 1);
        let ticket = next(&mut admission, NOW).unwrap().ticket;
        admission.finish(ticket, signal, gone, NOW);
        // Enabling an endpoint ends the time for which it has been failing; no other change does.
        let new = Arc::new(Endpoint { version: 3, failing_since, ..(*old).clone() });
        let endpoints = vec![Arc::clone(&new)];
        let current = OrgEndpoints { version: 3, endpoints, ..OrgEndpoints::default() };
        admission.endpoints_changed(old.org_id, &current);
        let offer = admission.offer(&new, 3, 1, NOW);
        assert_eq!(offer, if is_paused { Offer::LeaveInStore } else { Offer::Start });
    }
}

#[test]
fn queue_of_an_endpoint_that_becomes_slow_goes_back_to_the_store() {
    let mut admission = Admission::new(LIMITS);
    let endpoint = endpoint(1);
    admission.push_known(&endpoint, 4);
    let start = |admission: &mut Admission<u64>, now| {
        std::iter::from_fn(|| next(admission, now)).map(|start| start.ticket).collect::<Vec<_>>()
    };
    let ok = AttemptSignal::Success;
    for ticket in start(&mut admission, NOW) {
        assert!(admission.finish(ticket, ok, false, after(10)).released.is_empty());
    }
    admission.push_known(&endpoint, 20);
    let in_flight = start(&mut admission, after(10));
    assert_eq!((in_flight.len(), admission.waiting()), (4, 16));
    admission.push_manual(endpoint.id, 99).unwrap();
    // Still quick, on the whole.
    let finished = admission.finish(in_flight[0], ok, false, after(510));
    assert_eq!((finished.released.len(), admission.waiting()), (0, 17));
    let finished = admission.finish(in_flight[1], ok, false, after(10_010));
    let waiting: Vec<u64> = admission.waiting_for(endpoint.id).copied().collect();
    assert_eq!(waiting.len(), 2, "what has a slot, the one by hand first");
    assert_eq!((waiting[0], finished.released.len(), admission.behind()), (99, 15, 1));
}

#[test]
fn what_was_reserved_when_an_endpoint_is_paused_does_not_wait_for_the_end_of_the_pause() {
    let mut admission = Admission::new(LIMITS);
    let paused = endpoint(1);
    assert_eq!(offer_all(&mut admission, &paused, 1), 1);
    let ticket = start_all(&mut admission, NOW)[0];
    let offers = (0..3).map(|_| admission.offer(&paused, 0, 1, NOW));
    assert!(offers.eq([Offer::Start; 3]));
    let hold = Some(Duration::from_hours(24));
    admission.finish(ticket, AttemptSignal::Failure { hold }, false, NOW);
    admission.unreserve(reserved(&paused, 3, 3));
    let queued = [1, 2, 3].map(|number| admission.push(paused.id, number, 1, NOW));
    assert_eq!(queued, [Err(1), Err(2), Err(3)]);
    assert_eq!(admission.push_manual(paused.id, 4), Ok(()));
    assert!(admission.times_left(paused.id) > 0, "they are claimed again");
    let ticket = start_all(&mut admission, NOW)[0];
    admission.finish(ticket, DOWN, false, NOW);
    let almost = NOW.plus(Duration::from_hours(24)).minus(QUEUE_TIME);
    let queued = [1, 2].map(|number| admission.push(paused.id, number, 1, almost));
    assert_eq!(queued, [Ok(()), Err(2)], "one is kept for the probe");
}

/// After a failover a database may count changes again that a lost one has counted.
#[test]
fn endpoints_of_another_database_are_known_whatever_their_version_is() {
    let mut admission = Admission::new(LIMITS);
    let (lost, old) = version(&endpoint(1), 7, "https://lost.example/");
    admission.endpoints_changed(old.org_id, &lost);
    offer_all_of(&mut admission, &old, 7, 2);
    assert_eq!(admission.forget_all_endpoints().len(), 2);
    assert_eq!(admission.applied_version(old.org_id), None);
    let (current, new) = version(&old, 6, "https://example.com/");
    assert_eq!(admission.offer(&new, current.version, 1, NOW), Offer::Start);
    assert_eq!(admission.endpoint(new.id).unwrap().url, new.url);
    let none = OrgEndpoints { version: 7, ..OrgEndpoints::default() };
    admission.endpoints_changed(old.org_id, &none);
    assert_eq!(admission.offer(&new, current.version, 1, NOW), Offer::LeaveInStore);
}

/// Offers deliveries that are planned with this version, and queues them.
fn offer_all_of(admission: &mut Admission<u64>, endpoint: &Arc<Endpoint>, version: u64, all: u64) {
    for number in 0..all {
        assert_eq!(admission.offer(endpoint, version, 1, NOW), Offer::Start);
        admission.unreserve(reserved(endpoint, 1, 1));
        admission.push(endpoint.id, number, 1, NOW).unwrap();
    }
}
