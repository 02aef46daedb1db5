//! Tests of bytes: shares of them, what is reserved, and deliveries that do not fit.

use super::tests::{LIMITS, NOW, OK, after, endpoint, next, reserved, start_all};
use super::*;
use crate::store::OrgEndpoints;

/// Makes a claim for endpoints with one due delivery of so many bytes each, and returns how many it brings.
fn claim(admission: &mut Admission<u64>, endpoints: &[Arc<Endpoint>], bytes: usize) -> usize {
    let target = |endpoint: &Arc<Endpoint>| Target {
        endpoint: Arc::clone(endpoint),
        version: u64::MAX,
        is_due: true,
        ordered: false,
    };
    let targets: Vec<Target> = endpoints.iter().map(target).collect();
    let granted = admission.grant(&targets, 1_000, NOW);
    let ids = |is_meant: fn(&Granted, usize) -> bool| {
        let granted = granted.iter().filter(move |granted| is_meant(granted, bytes));
        granted.map(|granted| granted.target.endpoint.id).collect::<Vec<_>>()
    };
    let leased = ids(|granted, bytes| granted.bytes >= bytes);
    let too_large = ids(|granted, bytes| granted.bytes < bytes);
    let counts = leased.iter().map(|id| (*id, 1)).collect();
    let too_large = too_large.into_iter().map(|id| (id, bytes)).collect();
    admission.claimed(&granted, &counts, &too_large, true);
    for granted in &granted {
        admission.unreserve(granted.reserved());
    }
    for id in &leased {
        admission.push(*id, 0, bytes, NOW).unwrap();
    }
    leased.len()
}

#[test]
fn payloads_that_are_offered_and_not_stored_yet_are_counted() {
    let mut admission = Admission::<u64>::new(LIMITS);
    let taken = (0..10)
        .filter(|number| admission.offer(&endpoint(*number), 0, 300_000, NOW) == Offer::Start);
    assert_eq!(taken.count(), 2);
    assert_eq!(admission.offer(&endpoint(101), 0, 10_000, NOW), Offer::Start);
}

#[test]
fn claims_of_large_payloads_leave_bytes_to_the_next_organisation() {
    let mut admission = Admission::new(LIMITS);
    let endpoints: Vec<_> = (0..40).map(endpoint).collect();
    for _ in 0..100 {
        claim(&mut admission, &endpoints, 250_000);
        start_all(&mut admission, NOW);
        assert!(admission.total.bytes <= LIMITS.bytes);
    }
    assert_eq!(admission.in_flight(), 3);
    assert_eq!(admission.offer(&endpoint(101), 0, 10_000, NOW), Offer::Start);
    assert_eq!(claim(&mut admission, &[endpoint(102)], 20_000), 1);
}

/// Two organisations with payloads that are larger than what one may have, and a third.
#[test]
fn deliveries_larger_than_any_share_come_one_at_a_time_and_take_nothing_from_others() {
    let mut admission = Admission::new(LIMITS);
    let large = [endpoint(1), endpoint(101)];
    let mut tickets = Vec::new();
    for _ in 0..10 {
        claim(&mut admission, &large, 900_000);
        tickets.extend(start_all(&mut admission, NOW));
    }
    let [first] = tickets[..] else { panic!("one of them: {tickets:?}") };
    assert_eq!(admission.offer(&endpoint(201), 0, 100_000, NOW), Offer::Start);
    let beside = endpoint(if first.endpoint == large[0].id { 2 } else { 102 });
    assert_eq!(admission.offer(&beside, 0, 1, NOW), Offer::LeaveInStore);

    admission.finish(first, OK, false, after(1));
    claim(&mut admission, &large, 900_000);
    let second = next(&mut admission, after(1)).unwrap().ticket;
    assert_ne!(second.endpoint, first.endpoint, "in turn");
}

#[test]
fn delivery_that_does_not_fit_is_overtaken_by_none_of_its_organisation() {
    for is_disabled in [false, true] {
        let mut admission = Admission::new(LIMITS);
        let (large, small) = (endpoint(2), endpoint(3));
        for _ in 0..2 {
            assert_eq!(admission.offer(&endpoint(1), 0, 350_000, NOW), Offer::Start);
            admission.unreserve(reserved(&endpoint(1), 1, 350_000));
            admission.push(endpoint(1).id, 0, 350_000, NOW).unwrap();
        }
        let tickets = start_all(&mut admission, NOW);
        assert_eq!(claim(&mut admission, &[Arc::clone(&large)], 300_000), 0);
        assert_eq!(admission.offer(&small, 0, 50_000, NOW), Offer::LeaveInStore);
        assert_eq!(admission.claimable(NOW).0, [], "not in vain");
        assert_eq!(admission.offer(&endpoint(101), 0, 50_000, NOW), Offer::Start);
        if is_disabled {
            // What waits for something else than bytes holds nobody back.
            let endpoints = vec![endpoint(1), endpoint(3)];
            let current = OrgEndpoints { version: 1, endpoints, ..OrgEndpoints::default() };
            admission.endpoints_changed(large.org_id, &current);
        } else {
            admission.finish(tickets[0], OK, false, after(1));
            assert_eq!(claim(&mut admission, &[Arc::clone(&large)], 300_000), 1);
        }
        assert_eq!(admission.offer(&small, 1, 20_000, NOW), Offer::Start);
    }
}

/// What did not fit at one endpoint is what a claim expects of the others.
#[test]
fn claims_for_many_endpoints_bring_many_large_payloads() {
    let limits = AdmissionLimits { bytes: 64 << 20, slots: 1_000, ..LIMITS };
    let mut admission = Admission::new(limits);
    let endpoints: Vec<_> = (0..99).map(endpoint).collect();
    assert_eq!(claim(&mut admission, &endpoints, 250 << 10), 0);
    assert_eq!(claim(&mut admission, &endpoints, 250 << 10), 66);
}
