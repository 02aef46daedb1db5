//! Lanes: one in-memory queue per endpoint, served in round-robin order.
//!
//! The round robin has two levels: over the organisations, and within each over its endpoints. So an
//! organisation with a thousand busy endpoints is served no more often than one with a single endpoint.
//!
//! Two resources are scarce, capacity in memory and attempts in flight ("slots"), and one rule shares both:
//! an endpoint may take more only while it holds less than half of what is still free, and an organisation
//! only while it holds less than four times what is still free. A lone endpoint then gets what it can use.
//! However many slow endpoints pile up, each gets less than the previous one and something is left for the
//! next (dynamic thresholds, Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). A fixed
//! share would either starve the lone endpoint or let a few slow ones take everything.
//!
//! **Invariant:** at most `capacity` deliveries are held, and at most `slots` are in flight. Deliveries leave
//! their lane in the order in which they came.

use std::collections::{HashMap, VecDeque};

use crate::domain::{EndpointId, OrgId};

/// An organisation may hold this multiple of what is free: four fifths of everything if it is alone.
const ORG_SHARE: usize = 4;

/// The capacity of the lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneLimits {
    /// Maximum deliveries in memory, including those in flight.
    pub(super) capacity: usize,
    /// Maximum deliveries in flight.
    pub(super) slots: usize,
}

/// Identifies a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LaneKey {
    pub(super) org: OrgId,
    pub(super) endpoint: EndpointId,
}

/// The lanes of all endpoints. `T` is a delivery.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    limits: LaneLimits,
    by_endpoint: HashMap<EndpointId, Lane<T>>,
    by_org: HashMap<OrgId, OrgQueue>,
    /// The organisations with waiting deliveries, in round-robin order.
    round_robin: VecDeque<OrgId>,
    waiting: usize,
    in_flight: usize,
    reserved: usize,
    ran_low: bool,
}

#[derive(Debug)]
struct Lane<T> {
    org: OrgId,
    waiting: VecDeque<T>,
    in_flight: usize,
    /// Deliveries were rejected or skipped for lack of room: the store has more of them.
    has_backlog: bool,
}

impl<T> Lane<T> {
    const fn new(org: OrgId) -> Self {
        Self { org, waiting: VecDeque::new(), in_flight: 0, has_backlog: false }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0
    }
}

/// The lanes of one organisation.
#[derive(Debug, Default)]
struct OrgQueue {
    /// Its endpoints with waiting deliveries, in round-robin order.
    round_robin: VecDeque<EndpointId>,
    waiting: usize,
    in_flight: usize,
}

impl<T> Lanes<T> {
    /// Empty lanes.
    pub(super) fn new(limits: LaneLimits) -> Self {
        Self {
            limits,
            by_endpoint: HashMap::new(),
            by_org: HashMap::new(),
            round_robin: VecDeque::new(),
            waiting: 0,
            in_flight: 0,
            reserved: 0,
            ran_low: false,
        }
    }

    /// Waiting deliveries.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Deliveries in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Free capacity: neither used nor reserved.
    pub(super) fn free(&self) -> usize {
        self.limits.capacity.saturating_sub(self.waiting + self.in_flight + self.reserved)
    }

    /// Queues a delivery in its lane, or returns it if the lane or its organisation has its share.
    pub(super) fn offer(&mut self, key: LaneKey, delivery: T) -> Result<(), T> {
        let free = self.free();
        if let Some(lane) = self.by_endpoint.get_mut(&key.endpoint)
            && lane.waiting.len() >= share(free)
        {
            lane.has_backlog = true;
            return Err(delivery);
        }
        if free == 0 || self.has_its_share(key.org) {
            return Err(delivery);
        }
        self.push(key, delivery);
        Ok(())
    }

    /// Reserves capacity for a claim and returns how much: at most `most`, and only part of what is free, so
    /// that a claim of one endpoint's backlog leaves room for the others.
    pub(super) fn reserve(&mut self, most: usize) -> usize {
        let reserved = self.claimable().min(most);
        self.reserved += reserved;
        reserved
    }

    /// How much [`Self::reserve`] can reserve.
    pub(super) fn claimable(&self) -> usize {
        let free = self.free();
        share(free).min(free)
    }

    /// Queues claimed deliveries, ends the reservation of `reserved`, and returns the deliveries that exceed
    /// their organisation's share.
    ///
    /// A lane may exceed its share here: releasing what was just claimed would cost two writes. The lane is
    /// then among [`Self::full`], and the next claim skips it. An organisation may not: a claim cannot skip
    /// those of its endpoints that have no lane yet.
    pub(super) fn admit(
        &mut self,
        reserved: usize,
        claimed: impl IntoIterator<Item = (LaneKey, T)>,
    ) -> Vec<T> {
        self.reserved = self.reserved.saturating_sub(reserved);
        let mut back = Vec::new();
        for (key, delivery) in claimed {
            if self.has_its_share(key.org) {
                back.push(delivery);
            } else {
                self.push(key, delivery);
            }
        }
        back
    }

    /// The endpoints whose lane or organisation has its share, for a claim to skip.
    pub(super) fn full(&mut self) -> Vec<EndpointId> {
        let share = share(self.free());
        let orgs: Vec<OrgId> =
            self.by_org.keys().copied().filter(|org| self.has_its_share(*org)).collect();
        let is_full = |lane: &Lane<T>| lane.waiting.len() >= share || orgs.contains(&lane.org);
        let full = self.by_endpoint.iter_mut().filter(|(_, lane)| is_full(lane));
        let skip = |(endpoint, lane): (&EndpointId, &mut Lane<T>)| {
            lane.has_backlog = true;
            *endpoint
        };
        full.map(skip).collect()
    }

    /// Waiting deliveries of one endpoint.
    pub(super) fn waiting_for(&self, endpoint: EndpointId) -> usize {
        self.by_endpoint.get(&endpoint).map_or(0, |lane| lane.waiting.len())
    }

    /// The first waiting delivery of every lane, with the number of those waiting.
    pub(super) fn first_in_lanes(&self) -> impl Iterator<Item = (&T, usize)> {
        let lanes = self.by_endpoint.values();
        lanes.filter_map(|lane| Some((lane.waiting.front()?, lane.waiting.len())))
    }

    /// Whether, since the last call, a lane with a backlog in the store has come down to half its share: the
    /// time to claim for it, before it is empty.
    pub(super) fn take_ran_low(&mut self) -> bool {
        std::mem::take(&mut self.ran_low)
    }

    /// Removes the next delivery to start, if a slot is free and `may_start` agrees, which is given the number
    /// in flight to the endpoint. The slot is in use until [`Self::finish`].
    pub(super) fn next(
        &mut self,
        mut may_start: impl FnMut(&T, usize) -> bool,
    ) -> Option<(LaneKey, T)> {
        let slots_free = self.limits.slots.saturating_sub(self.in_flight);
        if slots_free == 0 {
            return None;
        }
        for _ in 0..self.round_robin.len() {
            let org = self.round_robin.pop_front()?;
            self.round_robin.push_back(org);
            let in_flight = self.by_org.get(&org).map_or(0, |queue| queue.in_flight);
            let left = org_left(in_flight, slots_free);
            if left > 0
                && let Some(next) = self.next_of(org, share(left), &mut may_start)
            {
                return Some(next);
            }
        }
        None
    }

    /// [`Self::next`] for one organisation, whose endpoints may have `slots_each` in flight.
    fn next_of(
        &mut self,
        org: OrgId,
        slots_each: usize,
        may_start: &mut impl FnMut(&T, usize) -> bool,
    ) -> Option<(LaneKey, T)> {
        let low = share(self.free()) / 2;
        let queue = self.by_org.get_mut(&org)?;
        for _ in 0..queue.round_robin.len() {
            let endpoint = queue.round_robin.pop_front()?;
            let Some(lane) = self.by_endpoint.get_mut(&endpoint) else { continue };
            let startable =
                |first: &T| lane.in_flight < slots_each && may_start(first, lane.in_flight);
            if !lane.waiting.front().is_some_and(startable) {
                queue.round_robin.push_back(endpoint);
                continue;
            }
            let delivery = lane.waiting.pop_front()?;
            lane.in_flight += 1;
            if lane.has_backlog && lane.waiting.len() <= low {
                lane.has_backlog = false;
                self.ran_low = true;
            }
            if !lane.waiting.is_empty() {
                queue.round_robin.push_back(endpoint);
            }
            queue.waiting -= 1;
            queue.in_flight += 1;
            self.waiting -= 1;
            self.in_flight += 1;
            if queue.round_robin.is_empty() {
                self.round_robin.retain(|other| *other != org);
            }
            return Some((LaneKey { org, endpoint }, delivery));
        }
        None
    }

    /// Frees the slot of a delivery that [`Self::next`] returned.
    pub(super) fn finish(&mut self, key: LaneKey) {
        let Some(lane) = self.by_endpoint.get_mut(&key.endpoint) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(queue) = self.by_org.get_mut(&key.org) {
            queue.in_flight = queue.in_flight.saturating_sub(1);
        }
        self.remove_if_idle(key.endpoint);
    }

    /// Removes the waiting deliveries of one endpoint.
    pub(super) fn clear(&mut self, endpoint: EndpointId) -> Vec<T> {
        self.clear_if(endpoint, |_| true)
    }

    /// Removes the waiting deliveries that match.
    pub(super) fn remove_if(&mut self, matches: impl Fn(&T) -> bool) -> Vec<T> {
        let endpoints: Vec<EndpointId> = self.by_endpoint.keys().copied().collect();
        endpoints.into_iter().flat_map(|endpoint| self.clear_if(endpoint, &matches)).collect()
    }

    /// Removes every waiting delivery.
    pub(super) fn clear_all(&mut self) -> Vec<T> {
        self.remove_if(|_| true)
    }

    fn clear_if(&mut self, endpoint: EndpointId, matches: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(lane) = self.by_endpoint.get_mut(&endpoint) else { return Vec::new() };
        let waiting = std::mem::take(&mut lane.waiting);
        let (removed, kept): (Vec<T>, Vec<T>) = waiting.into_iter().partition(matches);
        lane.waiting = kept.into();
        let (org, is_empty) = (lane.org, lane.waiting.is_empty());
        self.waiting -= removed.len();
        if let Some(queue) = self.by_org.get_mut(&org) {
            queue.waiting -= removed.len();
            if is_empty {
                queue.round_robin.retain(|other| *other != endpoint);
            }
            if queue.round_robin.is_empty() {
                self.round_robin.retain(|other| *other != org);
            }
        }
        self.remove_if_idle(endpoint);
        removed
    }

    fn remove_if_idle(&mut self, endpoint: EndpointId) {
        let Some(lane) = self.by_endpoint.get(&endpoint).filter(|lane| lane.is_idle()) else {
            return;
        };
        let org = lane.org;
        self.by_endpoint.remove(&endpoint);
        if self.by_org.get(&org).is_some_and(|t| t.waiting == 0 && t.in_flight == 0) {
            self.by_org.remove(&org);
        }
    }

    /// Whether an organisation holds its share of the memory.
    fn has_its_share(&self, org: OrgId) -> bool {
        org_left(self.by_org.get(&org).map_or(0, |queue| queue.waiting), self.free()) == 0
    }

    fn push(&mut self, key: LaneKey, delivery: T) {
        let queue = self.by_org.entry(key.org).or_default();
        if queue.round_robin.is_empty() {
            self.round_robin.push_back(key.org);
        }
        let lane = self.by_endpoint.entry(key.endpoint).or_insert(Lane::new(key.org));
        if lane.waiting.is_empty() {
            queue.round_robin.push_back(key.endpoint);
        }
        lane.waiting.push_back(delivery);
        queue.waiting += 1;
        self.waiting += 1;
    }
}

/// How much more an organisation may take of a resource of which `free` is left: until it holds four times
/// what is then free, and at least one if it holds nothing.
const fn org_left(held: usize, free: usize) -> usize {
    let left = (ORG_SHARE * free).saturating_sub(held).div_ceil(ORG_SHARE + 1);
    if held == 0 && free > 0 && left == 0 { 1 } else { left }
}

/// How much one endpoint may hold of a resource of which `free` is left.
const fn share(free: usize) -> usize {
    let half = free / 2;
    if half == 0 { 1 } else { half }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const LIMITS: LaneLimits = LaneLimits { capacity: 100, slots: 20 };
    /// Maximum in flight to one endpoint in these tests.
    const LANE_SLOTS: usize = 4;

    fn endpoint(number: u128) -> EndpointId {
        EndpointId::from_uuid(Uuid::from_u128(number))
    }

    /// Endpoints below a hundred belong to the first organisation, and so on.
    fn key(number: u128) -> LaneKey {
        LaneKey { org: OrgId::from_uuid(Uuid::from_u128(number / 100)), endpoint: endpoint(number) }
    }

    fn next<T>(lanes: &mut Lanes<T>) -> Option<(u128, T)> {
        let (key, delivery) = lanes.next(|_, in_flight| in_flight < LANE_SLOTS)?;
        Some((key.endpoint.uuid().as_u128(), delivery))
    }

    #[test]
    fn endpoints_are_served_in_round_robin_order() {
        let mut lanes = Lanes::new(LIMITS);
        for (e, delivery) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")] {
            lanes.offer(key(e), delivery).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut lanes)).map(|(_, d)| d).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn endpoint_at_its_limit_is_skipped_until_a_slot_is_free() {
        let mut lanes = Lanes::new(LIMITS);
        for delivery in 0..6 {
            lanes.offer(key(1), delivery).unwrap();
        }
        lanes.offer(key(2), 9).unwrap();
        let started: Vec<_> = std::iter::from_fn(|| next(&mut lanes)).map(|(_, d)| d).collect();
        assert_eq!(started, [0, 9, 1, 2, 3]);
        assert_eq!(next(&mut lanes), None);
        lanes.finish(key(1));
        assert_eq!(next(&mut lanes), Some((1, 4)));
    }

    #[test]
    fn slow_endpoint_cannot_fill_the_memory_and_counts_as_full() {
        let mut lanes = Lanes::new(LIMITS);
        let accepted = (0..100).take_while(|n| lanes.offer(key(1), *n).is_ok()).count();
        assert_eq!(accepted, 33, "a third: half of what it leaves free");
        assert_eq!(lanes.full(), [endpoint(1)]);
        lanes.offer(key(2), 1).unwrap();
    }

    #[test]
    fn skipped_lane_runs_low_at_half_of_its_share() {
        let mut lanes = Lanes::new(LIMITS);
        while lanes.offer(key(1), ()).is_ok() {}
        assert_eq!(lanes.full(), [endpoint(1)]);
        let mut left = 33;
        while !lanes.take_ran_low() {
            assert_eq!(next(&mut lanes), Some((1, ())));
            lanes.finish(key(1));
            left -= 1;
        }
        assert_eq!(left, 19, "less than half of its share of the 81 that are free");
        while next(&mut lanes).is_some() {
            lanes.finish(key(1));
        }
        assert!(!lanes.take_ran_low(), "once is enough");
    }

    #[test]
    fn many_slow_endpoints_leave_a_slot_for_the_next() {
        let mut lanes = Lanes::new(LaneLimits { capacity: 1000, ..LIMITS });
        for e in 0..15 {
            for delivery in 0..4 {
                lanes.offer(key(e), delivery).unwrap();
            }
        }
        while next(&mut lanes).is_some() {}
        lanes.offer(key(99), 7).unwrap();
        assert_eq!(next(&mut lanes), Some((99, 7)));
    }

    #[test]
    fn claim_reserves_part_of_the_free_capacity_and_returns_the_rest() {
        let mut lanes = Lanes::new(LIMITS);
        assert_eq!(lanes.reserve(1000), 50);
        assert_eq!(lanes.reserve(10), 10);
        assert_eq!(lanes.free(), 40);
        assert!(lanes.admit(50, [(key(1), 1)]).is_empty());
        assert!(lanes.admit(10, []).is_empty());
        assert_eq!(lanes.free(), 99);
    }

    #[test]
    fn smallest_memory_still_works() {
        let mut lanes = Lanes::new(LaneLimits { capacity: 1, slots: 1 });
        assert_eq!(lanes.reserve(5), 1);
        assert_eq!(lanes.reserve(5), 0);
        assert_eq!(lanes.offer(key(1), 1), Err(1));
        assert!(lanes.admit(1, [(key(1), 1)]).is_empty());
        assert_eq!(next(&mut lanes), Some((1, 1)));
        lanes.finish(key(1));
        assert_eq!(lanes.free(), 1);
    }

    #[test]
    fn clearing_a_lane_leaves_the_others() {
        let mut lanes = Lanes::new(LIMITS);
        for delivery in 0..3 {
            lanes.offer(key(1), delivery).unwrap();
            lanes.offer(key(2), delivery + 10).unwrap();
        }
        assert_eq!(next(&mut lanes), Some((1, 0)));
        assert_eq!(lanes.clear(endpoint(1)), [1, 2]);
        assert_eq!(lanes.waiting(), 3);
        assert_eq!(next(&mut lanes), Some((2, 10)));
        assert_eq!(lanes.clear_all(), [11, 12]);
        assert_eq!((lanes.waiting(), lanes.in_flight(), next(&mut lanes)), (0, 2, None));
    }

    #[test]
    fn removing_matching_deliveries_keeps_round_robin_order() {
        let mut lanes = Lanes::new(LIMITS);
        for (e, delivery) in [(1, 1), (2, 2), (2, 3), (3, 4)] {
            lanes.offer(key(e), delivery).unwrap();
        }
        assert_eq!(lanes.remove_if(|delivery| [1, 2].contains(delivery)).len(), 2);
        assert_eq!(lanes.waiting(), 2);
        let order: Vec<_> = std::iter::from_fn(|| next(&mut lanes)).map(|(_, d)| d).collect();
        assert_eq!(order, [3, 4]);
    }

    #[test]
    fn organisations_are_served_in_round_robin_order_and_so_are_their_endpoints() {
        let mut lanes = Lanes::new(LIMITS);
        for e in [1, 2, 3, 1, 2, 3, 101, 101, 101] {
            lanes.offer(key(e), e).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut lanes)).map(|(_, d)| d).collect();
        assert_eq!(order, [1, 101, 2, 101, 3, 101, 1, 2, 3]);
    }

    #[test]
    fn organisation_with_many_slow_endpoints_leaves_slots_and_capacity_to_the_next() {
        let mut lanes = Lanes::new(LaneLimits { capacity: 1000, ..LIMITS });
        for e in 0..99 {
            lanes.offer(key(e), 0).unwrap();
        }
        let started = std::iter::from_fn(|| next(&mut lanes)).count();
        assert_eq!(started, 16, "four fifths of the slots");
        for e in 101..=104 {
            lanes.offer(key(e), 7).unwrap();
            assert_eq!(next(&mut lanes), Some((e, 7)));
        }

        let mut lanes = Lanes::new(LIMITS);
        let all = (0..100).map(|e| (key(e % 99), e));
        let reserved = lanes.reserve(50);
        assert!(lanes.admit(reserved, all.clone().take(50)).is_empty());
        let back = lanes.admit(0, all.skip(50));
        assert_eq!(back.len(), 20, "four fifths of the memory");
        assert_eq!(lanes.offer(key(1), 1), Err(1));
        assert!(lanes.full().contains(&endpoint(1)), "its endpoints are passed by");
        lanes.offer(key(101), 1).unwrap();
        assert!(!lanes.full().contains(&endpoint(101)));
    }

    #[test]
    fn delivery_that_may_not_start_keeps_its_position_and_delays_no_other() {
        let mut lanes = Lanes::new(LIMITS);
        for e in [1, 2, 101] {
            lanes.offer(key(e), e).unwrap();
        }
        let mut asked = Vec::new();
        let found = lanes.next(|delivery, in_flight| {
            asked.push((*delivery, in_flight));
            *delivery == 101
        });
        assert_eq!(found.unwrap().1, 101);
        assert_eq!(asked, [(1, 0), (2, 0), (101, 0)]);
        assert_eq!(lanes.waiting_for(endpoint(1)), 1);
        assert_eq!((next(&mut lanes), next(&mut lanes)), (Some((1, 1)), Some((2, 2))));
    }

    #[derive(Clone, Debug)]
    enum LaneStep {
        Offer(u128),
        Claim(Vec<u128>),
        Next,
        Finish(usize),
        Clear(u128),
        Remove(usize),
    }

    /// Three organisations of two endpoints each.
    const ENDPOINTS: [u128; 6] = [1, 2, 101, 102, 201, 202];

    fn steps() -> impl Strategy<Value = Vec<LaneStep>> {
        let endpoint = || prop::sample::select(ENDPOINTS.to_vec());
        let step = prop_oneof![
            6 => endpoint().prop_map(LaneStep::Offer),
            1 => prop::collection::vec(endpoint(), 0..8).prop_map(LaneStep::Claim),
            6 => Just(LaneStep::Next),
            4 => any::<usize>().prop_map(LaneStep::Finish),
            1 => endpoint().prop_map(LaneStep::Clear),
            1 => (1..5_usize).prop_map(LaneStep::Remove),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// Detects overtaking: one served twice while another could have been served.
    #[derive(Default)]
    struct RoundRobin(HashMap<u128, Vec<u128>>);

    impl RoundRobin {
        fn served(&mut self, who: u128, could_be_served: impl Fn(u128) -> bool) -> Option<u128> {
            self.0.entry(who).or_default();
            let mut overtaken = None;
            for (other, served) in &mut self.0 {
                if *other == who || !could_be_served(*other) {
                    served.clear();
                } else if served.contains(&who) {
                    overtaken = Some(*other);
                } else {
                    served.push(who);
                }
            }
            overtaken
        }
    }

    proptest! {
        /// Against the plainest model: a list of what waits and a list of what is in flight.
        #[test]
        fn bounds_order_and_round_robin_hold_for_any_steps(
            steps in steps(), capacity in 1..40_usize, slots in 1..10_usize, lane_slots in 1..5_usize,
        ) {
            let mut lanes = Lanes::new(LaneLimits { capacity, slots });
            let mut waiting: Vec<(u128, usize)> = Vec::new();
            let mut in_flight: Vec<u128> = Vec::new();
            let (mut endpoint_turns, mut org_turns) = (RoundRobin::default(), RoundRobin::default());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    LaneStep::Offer(e) => match lanes.offer(key(e), number) {
                        Ok(()) => waiting.push((e, number)),
                        Err(back) => {
                            prop_assert_eq!(back, number);
                            let fresh = !waiting.iter().any(|(w, _)| w / 100 == e / 100);
                            prop_assert!(!fresh || lanes.free() == 0, "an idle organisation has a share");
                        }
                    },
                    LaneStep::Claim(endpoints) => {
                        let reserved = lanes.reserve(endpoints.len());
                        let claimed = endpoints[..reserved].iter().map(|e| (*e, number * 10));
                        let claimed: Vec<_> =
                            claimed.enumerate().map(|(n, (e, d))| (e, d + n)).collect();
                        let back = lanes.admit(reserved, claimed.iter().map(|(e, d)| (key(*e), *d)));
                        waiting.extend(claimed.iter().filter(|(_, d)| !back.contains(d)));
                    }
                    LaneStep::Next => {
                        let next = lanes.next(|_, in_flight| in_flight < lane_slots);
                        let idle = |e: u128| !in_flight.contains(&e);
                        let org_idle = |o: u128| !in_flight.iter().any(|u| u / 100 == o);
                        let Some((LaneKey { endpoint, .. }, delivery)) = next else {
                            let startable = in_flight.len() < slots
                                && waiting.iter().any(|(w, _)| org_idle(w / 100));
                            prop_assert!(!startable, "a slot is free and an idle organisation waits");
                            continue;
                        };
                        let e = endpoint.uuid().as_u128();
                        let first = waiting.iter().position(|(w, _)| *w == e);
                        prop_assert!(first.is_some(), "out of nothing");
                        let (_, expected) = waiting.remove(first.unwrap_or(0));
                        prop_assert_eq!(delivery, expected, "in order within its lane");
                        // None is served twice while another waits with nothing in flight, neither an
                        // organisation nor an endpoint within one.
                        let waits = |o: u128| waiting.iter().any(|(w, _)| w / 100 == o);
                        let could = |o: u128| waits(o) && org_idle(o);
                        prop_assert_eq!(org_turns.served(e / 100, could), None);
                        let waits = |other: u128| waiting.iter().any(|(w, _)| *w == other);
                        let could = |o: u128| o / 100 == e / 100 && waits(o) && idle(o);
                        prop_assert_eq!(endpoint_turns.served(e, could), None);
                        in_flight.push(e);
                    }
                    LaneStep::Finish(pick) if !in_flight.is_empty() => {
                        let e = in_flight.swap_remove(pick % in_flight.len());
                        lanes.finish(key(e));
                    }
                    LaneStep::Finish(_) => {}
                    LaneStep::Clear(e) => {
                        let out = lanes.clear(endpoint(e));
                        let expected = waiting.iter().filter(|(w, _)| *w == e).count();
                        prop_assert_eq!(out.len(), expected);
                        waiting.retain(|(w, _)| *w != e);
                        // Lanes that come back start a new round.
                        (endpoint_turns, org_turns) = (RoundRobin::default(), RoundRobin::default());
                    }
                    LaneStep::Remove(divisor) => {
                        let matches = |delivery: &usize| delivery.is_multiple_of(divisor);
                        let out = lanes.remove_if(matches).len();
                        let before = waiting.len();
                        waiting.retain(|(_, delivery)| !matches(delivery));
                        prop_assert_eq!(out, before - waiting.len());
                        (endpoint_turns, org_turns) = (RoundRobin::default(), RoundRobin::default());
                    }
                }
                for e in ENDPOINTS {
                    prop_assert!(in_flight.iter().filter(|u| **u == e).count() <= lane_slots);
                    let expected = waiting.iter().filter(|(w, _)| *w == e).count();
                    prop_assert_eq!(lanes.waiting_for(endpoint(e)), expected);
                }
                prop_assert!(in_flight.len() <= slots);
                prop_assert!(waiting.len() + in_flight.len() <= capacity);
                prop_assert_eq!(lanes.waiting(), waiting.len());
                prop_assert_eq!(lanes.in_flight(), in_flight.len());
            }
        }
    }
}
