//! Tests of admission: the rules one by one, and invariants under any steps.

use proptest::prelude::*;
use uuid::Uuid;

use super::change_tests::version;
use super::*;
use crate::delivery::breaker::{AttemptSignal, Breaker};
use crate::domain::{SigningSecret, Timestamp};

pub(super) const LIMITS: AdmissionLimits =
    AdmissionLimits { slots: 64, places: 1_000, bytes: 1_000_000, concurrency: 4 };
pub(super) const NOW: Monotonic = Monotonic::ZERO;
pub(super) const OK: AttemptSignal = AttemptSignal::Success;
pub(super) const DOWN: AttemptSignal = AttemptSignal::Failure { hold: None };

/// Endpoints below a hundred belong to the first organisation, and so on.
pub(crate) fn endpoint(number: u128) -> Arc<Endpoint> {
    let org = OrgId::from_uuid(Uuid::from_u128(number / 100));
    let secret = SigningSecret::generate().unwrap();
    let url = "https://example.com/".parse().unwrap();
    let mut endpoint = Endpoint::new(org, url, secret, Timestamp::from_micros(1));
    endpoint.id = EndpointId::from_uuid(Uuid::from_u128(number));
    Arc::new(endpoint)
}

pub(super) fn reserved(endpoint: &Arc<Endpoint>, count: usize, bytes: usize) -> Reserved {
    Reserved { endpoint: endpoint.id, count, bytes }
}

pub(super) fn after(millis: u64) -> Monotonic {
    NOW.plus(Duration::from_millis(millis))
}

/// Offers deliveries until one is refused, and queues those that were taken.
pub(super) fn offer_all(
    admission: &mut Admission<u64>,
    endpoint: &Arc<Endpoint>,
    most: usize,
) -> usize {
    let mut taken = 0;
    while taken < most && admission.offer(endpoint, 0, 1, NOW) == Offer::Start {
        taken += 1;
    }
    admission.unreserve(reserved(endpoint, taken, taken));
    for number in 0..taken {
        admission.push(endpoint.id, number as u64, 1, NOW).unwrap();
    }
    taken
}

pub(super) fn next(admission: &mut Admission<u64>, now: Monotonic) -> Option<Start<u64>> {
    match admission.next(now, |_, _| true)? {
        Next::Start(start) => Some(start),
        Next::Dropped => panic!("nothing is dropped here"),
    }
}

pub(super) fn start_all(admission: &mut Admission<u64>, now: Monotonic) -> Vec<Ticket> {
    std::iter::from_fn(|| next(admission, now)).map(|start| start.ticket).collect()
}

#[test]
fn endpoint_gets_its_slots_and_nothing_waits_for_a_receiver_of_unknown_speed() {
    let mut admission = Admission::new(LIMITS);
    assert_eq!(offer_all(&mut admission, &endpoint(1), 100), 4);
    assert_eq!(start_all(&mut admission, NOW).len(), 4);
    assert_eq!(offer_all(&mut admission, &endpoint(1), 100), 0);
}

#[test]
fn quick_endpoint_gets_a_queue_and_a_slow_one_none() {
    for (took, most) in [(10, 100), (5_000, 0)] {
        let mut admission = Admission::new(LIMITS);
        let endpoint = endpoint(1);
        offer_all(&mut admission, &endpoint, 4);
        for ticket in start_all(&mut admission, NOW) {
            admission.finish(ticket, OK, false, after(took));
        }
        let now = after(took);
        offer_all(&mut admission, &endpoint, 4);
        let running = start_all(&mut admission, now).len();
        let queued = (0..).take_while(|_| admission.offer(&endpoint, 0, 1, now) == Offer::Start);
        let queued = queued.count();
        assert_eq!(running, 4);
        assert!(queued <= most && (queued > 0) == (most > 0), "{queued} after {took} ms each");
    }
}

#[test]
fn deliveries_in_the_store_come_first_unless_the_endpoint_is_idle() {
    let mut admission = Admission::new(LIMITS);
    let endpoint = endpoint(1);
    assert_eq!(offer_all(&mut admission, &endpoint, 1), 1);
    admission.left_in_store(&endpoint, NOW);
    assert_eq!(admission.offer(&endpoint, 0, 1, NOW), Offer::LeaveInStore);
    assert_eq!(admission.claimable(NOW).0, [endpoint.id]);
    let tickets = start_all(&mut admission, NOW);
    admission.finish(tickets[0], OK, false, after(1));
    assert_eq!(admission.offer(&endpoint, 0, 1, after(1)), Offer::Start, "it is idle");
}

#[test]
fn store_is_empty_only_if_nothing_was_left_there_since_the_claim_began() {
    let mut admission = Admission::<u64>::new(LIMITS);
    let endpoint = endpoint(1);
    admission.left_in_store(&endpoint, NOW);
    let seen = admission.times_left(endpoint.id);
    admission.left_in_store(&endpoint, NOW);
    admission.store_is_empty(endpoint.id, seen);
    assert_eq!(admission.behind(), 1);
    admission.store_is_empty(endpoint.id, admission.times_left(endpoint.id));
    assert_eq!(admission.behind(), 0);
}

#[test]
fn many_slow_endpoints_leave_slots_to_the_next_organisation() {
    let mut admission = Admission::new(LIMITS);
    for number in 0..14 {
        offer_all(&mut admission, &endpoint(number * 100), 4);
        start_all(&mut admission, NOW);
    }
    assert!(admission.in_flight() >= 50, "{}", admission.in_flight());
    // Two seconds later all of them are known to be slow, and have nothing of what is kept from them.
    let later = after(2_000);
    for number in 0..14 {
        let endpoint = endpoint(number * 100 + 1);
        admission.introduce(&endpoint, u64::MAX, later);
        assert_ne!(admission.room(endpoint.id, later), Room::Now(4), "at most one of the reserve");
    }
    for number in 1_000..1_008 {
        let newcomer = endpoint(number * 100);
        assert_eq!(admission.offer(&newcomer, 0, 1, later), Offer::Start);
    }
}

#[test]
fn organisation_with_a_thousand_endpoints_leaves_slots_to_the_next() {
    let mut admission = Admission::new(LIMITS);
    for number in 0..99 {
        offer_all(&mut admission, &endpoint(number), 4);
        start_all(&mut admission, NOW);
    }
    assert!(admission.in_flight() <= LIMITS.slots * 4 / 5 + 1, "{}", admission.in_flight());
    for number in 101..105 {
        assert_eq!(offer_all(&mut admission, &endpoint(number), 1), 1);
        assert_eq!(start_all(&mut admission, NOW).len(), 1);
    }
}

#[test]
fn breaker_holds_deliveries_in_the_store_and_one_probe_reopens() {
    let mut admission = Admission::new(LIMITS);
    let endpoint = endpoint(1);
    let mut released = 0;
    for _ in 0..10 {
        admission.push_known(&endpoint, 2);
        let ticket = next(&mut admission, NOW).unwrap().ticket;
        released += admission.finish(ticket, DOWN, false, NOW).released.len();
    }
    assert!(released > 0, "what waited when it opened is released");
    assert_eq!(admission.offer(&endpoint, 0, 1, NOW), Offer::LeaveInStore);
    assert_eq!(admission.open_breakers(), 1);
    let pause = admission.paused_until(endpoint.id, NOW).unwrap();
    assert_eq!(admission.room(endpoint.id, NOW), Room::Later(pause));
    assert_eq!(admission.room(endpoint.id, pause), Room::Now(1));
    admission.push(endpoint.id, 0, 1, pause).unwrap();
    let probe = next(&mut admission, pause).unwrap().ticket;
    assert_eq!(admission.room(endpoint.id, pause), Room::None);
    let finished = admission.finish(probe, OK, false, pause);
    assert_eq!(finished.breaker, Some(BreakerChange::Closed));
    assert_eq!(admission.room(endpoint.id, pause), Room::Now(4));
}

#[test]
fn claim_that_is_not_for_all_endpoints_serves_every_organisation_and_then_the_others() {
    let mut admission = Admission::<u64>::new(LIMITS);
    let mut known: Vec<_> = (1..=20).chain([101]).map(endpoint).collect();
    let target = |endpoint: &Arc<Endpoint>| Target {
        endpoint: Arc::clone(endpoint),
        version: 0,
        is_due: true,
        ordered: false,
    };
    for endpoint in &known {
        admission.left_in_store(endpoint, NOW);
    }
    let targets: Vec<_> = known.iter().map(target).collect();
    let granted = admission.grant(&targets, 5, NOW);
    let ids: Vec<_> = granted.iter().map(|granted| granted.target.endpoint.id).collect();
    assert_eq!(ids.len(), 5);
    assert!(ids.contains(&known[20].id), "the other organisation's");
    known.retain(|endpoint| !ids.contains(&endpoint.id));
    let next = admission.claimable(NOW).0;
    assert_eq!(next[0], known[0].id, "behind those that got something");
}

#[test]
fn rate_limit_leaves_deliveries_in_the_store_until_they_may_start() {
    let mut admission = Admission::new(LIMITS);
    let mut limited = (*endpoint(1)).clone();
    limited.policy.rate_limit_per_second = Some(1);
    let limited = Arc::new(limited);
    assert!(offer_all(&mut admission, &limited, 100) >= 1);
    let started = start_all(&mut admission, NOW);
    assert_eq!(started.len(), 1);
    assert!(matches!(admission.room(limited.id, NOW), Room::Later(until) if until > NOW));
    assert_ne!(admission.offer(&limited, 0, 1, NOW), Offer::Start);
}

#[test]
fn rate_limited_endpoint_holds_no_more_in_memory_than_its_rate_starts_soon() {
    for (rate, most) in [(1, 1), (4, 1), (8, 2), (1_000, 4)] {
        let mut admission = Admission::<u64>::new(LIMITS);
        let mut limited = (*endpoint(1)).clone();
        limited.policy.rate_limit_per_second = Some(rate);
        let limited = Arc::new(limited);
        admission.introduce(&limited, 0, NOW);
        assert_eq!(admission.room(limited.id, NOW), Room::Now(most), "{rate} per second");
        assert_eq!(offer_all(&mut admission, &limited, 100), most);
        assert_eq!(admission.room(limited.id, NOW), Room::Now(0));
    }
}

#[test]
fn large_payloads_of_one_organisation_leave_bytes_to_the_next() {
    let mut admission = Admission::<u64>::new(LIMITS);
    let big = endpoint(1);
    let offers = (0..10_u128).map(|number| {
        let endpoint = endpoint(number);
        let taken = admission.offer(&endpoint, 0, 300_000, NOW) == Offer::Start;
        if taken {
            admission.unreserve(reserved(&endpoint, 1, 300_000));
            admission.push(endpoint.id, 0, 300_000, NOW).unwrap();
        }
        usize::from(taken)
    });
    assert!(offers.sum::<usize>() <= 3);
    assert_eq!(admission.offer(&endpoint(101), 0, 10_000, NOW), Offer::Start);
    assert_eq!(big.org_id, endpoint(2).org_id);
}

#[test]
fn closed_admission_takes_and_starts_nothing() {
    let mut admission = Admission::new(LIMITS);
    let endpoint = endpoint(1);
    admission.push_known(&endpoint, 3);
    assert_eq!(admission.close().len(), 3);
    assert_eq!(admission.offer(&endpoint, 0, 1, NOW), Offer::LeaveInStore);
    assert_eq!(admission.push(endpoint.id, 1, 1, NOW), Err(1));
    assert!(next(&mut admission, NOW).is_none());
}

/// For the simulation.
impl<T> Admission<T> {
    /// Whether nothing of an endpoint is in memory or known to be in the store.
    pub(in crate::delivery) fn is_idle(&self, endpoint: EndpointId) -> bool {
        let state = self.endpoints.get(&endpoint);
        state.is_none_or(|state| state.held() == 0 && state.left_in_store == 0)
    }

    /// Slots that are free and promised to nobody.
    pub(in crate::delivery) fn unpromised(&self) -> usize {
        self.limits.slots.saturating_sub(self.total.in_flight + self.total.promised)
    }

    /// What is in memory for an endpoint, and how much of that is promised a slot.
    pub(in crate::delivery) fn held_of(&self, endpoint: EndpointId) -> (usize, usize) {
        let state = self.endpoints.get(&endpoint);
        state.map_or((0, 0), |state| (state.held(), state.promised))
    }

    /// Places that are reserved.
    pub(in crate::delivery) fn reserved(&self) -> usize {
        self.total.reserved
    }

    /// What attempts have told of an endpoint.
    pub(in crate::delivery) fn verdict(
        &self,
        endpoint: EndpointId,
    ) -> Option<(Breaker, Option<Monotonic>)> {
        self.endpoints.get(&endpoint).map(|state| (state.breaker, state.gone_until))
    }

    /// Whether nothing is held.
    pub(in crate::delivery) fn is_empty(&self) -> bool {
        self.total == Totals::default() && self.orgs.is_empty() && self.turns.is_empty()
    }
}

impl Admission<u64> {
    /// Queues deliveries as a claim does.
    pub(super) fn push_known(&mut self, endpoint: &Arc<Endpoint>, count: u64) {
        self.introduce(endpoint, u64::MAX, NOW);
        for number in 0..count {
            self.push(endpoint.id, number, 1, NOW).unwrap();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u128, usize),
    Claim(u128),
    Start,
    Finish(usize, bool),
    Change(u128, bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let endpoint = || prop::sample::select(vec![1_u128, 2, 101, 102, 201]);
    let step = prop_oneof![
        6 => (endpoint(), 1..6_usize).prop_map(|(endpoint, count)| Step::Offer(endpoint, count)),
        2 => endpoint().prop_map(Step::Claim),
        6 => Just(Step::Start),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(pick, works)| Step::Finish(pick, works)),
        1 => (endpoint(), any::<bool>()).prop_map(|(endpoint, on)| Step::Change(endpoint, on)),
        2 => (0..400_000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Bounds hold, nothing is counted twice or lost, and what ends gives everything back.
    #[test]
    fn bounds_and_counts_hold_for_any_steps(
        steps in steps(), slots in 1..12_usize, places in 1..40_usize,
    ) {
        let limits = AdmissionLimits { slots, places, bytes: 1_000, concurrency: 3 };
        let mut admission = Admission::new(limits);
        let mut tickets: Vec<Ticket> = Vec::new();
        let (mut now, mut pushed, mut gone) = (NOW, 0_usize, 0_usize);
        let mut versions = 0;
        for step in steps {
            match step {
                Step::Offer(number, count) => {
                    let endpoint = endpoint(number);
                    let taken = (0..count)
                        .filter(|_| admission.offer(&endpoint, u64::MAX, 10, now) == Offer::Start)
                        .count();
                    admission.unreserve(reserved(&endpoint, taken, 10 * taken));
                    for _ in 0..taken {
                        pushed += usize::from(admission.push(endpoint.id, 1, 10, now).is_ok());
                    }
                }
                Step::Claim(number) => {
                    let endpoint = endpoint(number);
                    admission.left_in_store(&endpoint, now);
                    if let Room::Now(room) = admission.room(endpoint.id, now) {
                        admission.reserve(reserved(&endpoint, room, 0), now);
                        prop_assert!(admission.total.places() <= places);
                        admission.unreserve(reserved(&endpoint, room, 0));
                        for _ in 0..room {
                            pushed += usize::from(admission.push(endpoint.id, 1, 10, now).is_ok());
                        }
                    }
                }
                Step::Start => tickets.extend(next(&mut admission, now).map(|start| start.ticket)),
                Step::Finish(pick, works) if !tickets.is_empty() => {
                    let ticket = tickets.swap_remove(pick % tickets.len());
                    let signal = if works { OK } else { DOWN };
                    let finished = admission.finish(ticket, signal, false, now);
                    gone += 1 + finished.released.len();
                }
                Step::Finish(..) => {}
                Step::Change(number, on) => {
                    versions += 1;
                    let old = endpoint(number);
                    let (mut current, _) = version(&old, versions, "https://example.com/");
                    if !on {
                        current.endpoints.clear();
                    }
                    gone += admission.endpoints_changed(old.org_id, &current).len();
                }
                Step::Wait(millis) => now = now.plus(Duration::from_millis(millis)),
            }
            prop_assert!(admission.in_flight() <= slots);
            prop_assert!(admission.total.places() <= places);
            prop_assert_eq!(admission.in_flight(), tickets.len());
            prop_assert_eq!(admission.waiting() + admission.in_flight(), pushed - gone);
        }
        gone += admission.close().len();
        for ticket in tickets {
            gone += 1 + admission.finish(ticket, OK, false, now).released.len();
        }
        prop_assert_eq!(gone, pushed);
        prop_assert_eq!(admission.total, Totals::default());
        prop_assert!(admission.orgs.is_empty());
    }
}
