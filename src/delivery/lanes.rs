//! Lanes: one queue for every endpoint that has something waiting, served in turn.
//!
//! Two things are scarce, room in memory and attempts under way ("slots"), and one rule shares out
//! both: an endpoint may take more only while it holds less than half of what is still free. A lone
//! endpoint then gets what it can use, and however many slow ones pile up, each gets less than the
//! one before it and something is left for the next (dynamic thresholds, Choudhury and Hahne, IEEE/ACM
//! Transactions on Networking 6(2), 1998). A fixed share would either starve the lone endpoint or
//! let a few slow ones take everything.
//!
//! **Invariant:** never more than `capacity` held, `slots` under way, `lane_slots` under way to one
//! endpoint. What is waiting leaves its lane in the order it came.

use std::collections::{HashMap, VecDeque};

use crate::domain::EndpointId;

/// What the lanes may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Deliveries in memory, those under way included.
    pub(super) capacity: usize,
    /// Deliveries under way.
    pub(super) slots: usize,
    /// Deliveries under way to one endpoint.
    pub(super) lane_slots: usize,
}

/// The lanes. `T` is what waits in them.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    limits: Limits,
    by_endpoint: HashMap<EndpointId, Lane<T>>,
    /// The endpoints with something waiting, the next to be served first.
    turns: VecDeque<EndpointId>,
    waiting: usize,
    under_way: usize,
    reserved: usize,
    ran_low: bool,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    under_way: usize,
    /// Deliveries to it were turned away or passed by, and the store has more of them.
    owed: bool,
}

impl<T> Lane<T> {
    const EMPTY: Self = Self { waiting: VecDeque::new(), under_way: 0, owed: false };

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }
}

impl<T> Lanes<T> {
    /// Lanes without deliveries.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            by_endpoint: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            under_way: 0,
            reserved: 0,
            ran_low: false,
        }
    }

    /// Deliveries that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Deliveries under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Room for deliveries that is neither taken nor reserved.
    pub(super) fn free(&self) -> usize {
        self.limits.capacity.saturating_sub(self.waiting + self.under_way + self.reserved)
    }

    /// Puts a delivery in its lane, or gives it back when that lane has its share already.
    pub(super) fn offer(&mut self, endpoint: EndpointId, delivery: T) -> Result<(), T> {
        let free = self.free();
        if let Some(lane) = self.by_endpoint.get_mut(&endpoint)
            && lane.waiting.len() >= share(free)
        {
            lane.owed = true;
            return Err(delivery);
        }
        if free == 0 {
            return Err(delivery);
        }
        self.push(endpoint, delivery);
        Ok(())
    }

    /// Sets room aside for a claim and returns how much: at most `most`, and less than all, so that
    /// a claim of one endpoint's backlog leaves room for the others.
    pub(super) fn reserve(&mut self, most: usize) -> usize {
        let room = self.claimable().min(most);
        self.reserved += room;
        room
    }

    /// How much [`Self::reserve`] could set aside.
    pub(super) fn claimable(&self) -> usize {
        let free = self.free();
        share(free).min(free)
    }

    /// Puts what was claimed into the lanes, against a reservation of `room`, and ends the reservation.
    ///
    /// Here a lane may exceed its share: giving back what was just claimed would cost two writes.
    /// The lane is then among [`Self::full`] and the next claim passes it by.
    pub(super) fn admit(
        &mut self,
        room: usize,
        claimed: impl IntoIterator<Item = (EndpointId, T)>,
    ) {
        self.reserved = self.reserved.saturating_sub(room);
        for (endpoint, delivery) in claimed {
            self.push(endpoint, delivery);
        }
    }

    /// The endpoints whose lanes have their share, at most `most` of them, for a claim to pass by.
    pub(super) fn full(&mut self, most: usize) -> Vec<EndpointId> {
        let share = share(self.free());
        let full = self.by_endpoint.iter_mut().filter(|(_, lane)| lane.waiting.len() >= share);
        let pass_by = |(endpoint, lane): (&EndpointId, &mut Lane<T>)| {
            lane.owed = true;
            *endpoint
        };
        full.map(pass_by).take(most).collect()
    }

    /// Whether, since this was last asked, a lane that was passed by has come down to half its
    /// share: the moment to claim for it, before it runs dry.
    pub(super) fn take_ran_low(&mut self) -> bool {
        std::mem::take(&mut self.ran_low)
    }

    /// Takes the next delivery to start, if a slot is free for any that waits. Its slot is taken
    /// until [`Self::finish`].
    pub(super) fn next(&mut self) -> Option<(EndpointId, T)> {
        let slots_free = self.limits.slots.saturating_sub(self.under_way);
        if slots_free == 0 {
            return None;
        }
        let slots_each = self.limits.lane_slots.min(share(slots_free));
        let low = share(self.free()) / 2;
        for _ in 0..self.turns.len() {
            let endpoint = self.turns.pop_front()?;
            let Some(lane) = self.by_endpoint.get_mut(&endpoint) else { continue };
            if lane.under_way >= slots_each {
                self.turns.push_back(endpoint);
                continue;
            }
            let Some(delivery) = lane.waiting.pop_front() else { continue };
            lane.under_way += 1;
            if lane.owed && lane.waiting.len() <= low {
                lane.owed = false;
                self.ran_low = true;
            }
            if !lane.waiting.is_empty() {
                self.turns.push_back(endpoint);
            }
            self.waiting -= 1;
            self.under_way += 1;
            return Some((endpoint, delivery));
        }
        None
    }

    /// Gives back the slot of a delivery that [`Self::next`] handed out.
    pub(super) fn finish(&mut self, endpoint: EndpointId) {
        let Some(lane) = self.by_endpoint.get_mut(&endpoint) else { return };
        lane.under_way = lane.under_way.saturating_sub(1);
        self.under_way = self.under_way.saturating_sub(1);
        if lane.is_idle() {
            self.by_endpoint.remove(&endpoint);
        }
    }

    /// Takes out all that waits for one endpoint.
    pub(super) fn empty(&mut self, endpoint: EndpointId) -> VecDeque<T> {
        let Some(lane) = self.by_endpoint.get_mut(&endpoint) else { return VecDeque::new() };
        let waiting = std::mem::take(&mut lane.waiting);
        if lane.is_idle() {
            self.by_endpoint.remove(&endpoint);
        }
        self.waiting -= waiting.len();
        self.turns.retain(|turn| *turn != endpoint);
        waiting
    }

    /// Takes out what waits and `is_named`.
    pub(super) fn take_if(&mut self, is_named: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for lane in self.by_endpoint.values_mut() {
            let waiting = std::mem::take(&mut lane.waiting);
            let (named, kept): (Vec<T>, Vec<T>) = waiting.into_iter().partition(&is_named);
            lane.waiting = kept.into();
            taken.extend(named);
        }
        if !taken.is_empty() {
            self.waiting -= taken.len();
            self.by_endpoint.retain(|_, lane| !lane.is_idle());
            let lanes = &self.by_endpoint;
            let waits = |e: &EndpointId| lanes.get(e).is_some_and(|l| !l.waiting.is_empty());
            self.turns.retain(waits);
        }
        taken
    }

    /// Takes out all that waits.
    pub(super) fn empty_all(&mut self) -> Vec<T> {
        self.turns.clear();
        self.waiting = 0;
        let all = self.by_endpoint.values_mut().flat_map(|lane| lane.waiting.drain(..)).collect();
        self.by_endpoint.retain(|_, lane| !lane.is_idle());
        all
    }

    fn push(&mut self, endpoint: EndpointId, delivery: T) {
        let lane = self.by_endpoint.entry(endpoint).or_insert(Lane::EMPTY);
        if lane.waiting.is_empty() {
            self.turns.push_back(endpoint);
        }
        lane.waiting.push_back(delivery);
        self.waiting += 1;
    }
}

/// What one endpoint may hold of a thing of which `free` is left.
const fn share(free: usize) -> usize {
    let half = free / 2;
    if half == 0 { 1 } else { half }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const LIMITS: Limits = Limits { capacity: 100, slots: 20, lane_slots: 4 };

    fn endpoint(number: u128) -> EndpointId {
        EndpointId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn endpoints_take_turns() {
        let mut lanes = Lanes::new(LIMITS);
        for (e, delivery) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")] {
            lanes.offer(endpoint(e), delivery).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|(_, d)| d).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn an_endpoint_at_its_limit_is_passed_by_and_comes_back_when_a_slot_is_free() {
        let mut lanes = Lanes::new(LIMITS);
        for delivery in 0..6 {
            lanes.offer(endpoint(1), delivery).unwrap();
        }
        lanes.offer(endpoint(2), 9).unwrap();
        let started: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|(_, d)| d).collect();
        assert_eq!(started, [0, 9, 1, 2, 3]);
        assert_eq!(lanes.next(), None);
        lanes.finish(endpoint(1));
        assert_eq!(lanes.next(), Some((endpoint(1), 4)));
    }

    #[test]
    fn a_slow_endpoint_cannot_fill_the_memory_and_counts_as_full() {
        let mut lanes = Lanes::new(LIMITS);
        let accepted = (0..100).take_while(|n| lanes.offer(endpoint(1), *n).is_ok()).count();
        assert_eq!(accepted, 33, "a third: half of what it leaves free");
        assert_eq!(lanes.full(10), [endpoint(1)]);
        lanes.offer(endpoint(2), 1).unwrap();
    }

    #[test]
    fn a_lane_that_was_passed_by_says_so_when_half_of_its_share_is_left() {
        let mut lanes = Lanes::new(LIMITS);
        while lanes.offer(endpoint(1), ()).is_ok() {}
        assert_eq!(lanes.full(10), [endpoint(1)]);
        let mut left = 33;
        while !lanes.take_ran_low() {
            assert_eq!(lanes.next(), Some((endpoint(1), ())));
            lanes.finish(endpoint(1));
            left -= 1;
        }
        assert_eq!(left, 19, "less than half of its share of the 81 that are free");
        while lanes.next().is_some() {
            lanes.finish(endpoint(1));
        }
        assert!(!lanes.take_ran_low(), "once is enough");
    }

    #[test]
    fn many_slow_endpoints_leave_a_slot_for_the_next() {
        let mut lanes = Lanes::new(Limits { capacity: 1000, ..LIMITS });
        for e in 0..15 {
            for delivery in 0..4 {
                lanes.offer(endpoint(e), delivery).unwrap();
            }
        }
        while lanes.next().is_some() {}
        lanes.offer(endpoint(99), 7).unwrap();
        assert_eq!(lanes.next(), Some((endpoint(99), 7)));
    }

    #[test]
    fn a_claim_takes_part_of_the_free_room_and_returns_what_it_did_not_fill() {
        let mut lanes = Lanes::new(LIMITS);
        assert_eq!(lanes.reserve(1000), 50);
        assert_eq!(lanes.reserve(10), 10);
        assert_eq!(lanes.free(), 40);
        lanes.admit(50, [(endpoint(1), 1)]);
        lanes.admit(10, []);
        assert_eq!(lanes.free(), 99);
    }

    #[test]
    fn the_smallest_memory_still_works() {
        let mut lanes = Lanes::new(Limits { capacity: 1, slots: 1, lane_slots: 1 });
        assert_eq!(lanes.reserve(5), 1);
        assert_eq!(lanes.reserve(5), 0);
        assert_eq!(lanes.offer(endpoint(1), 1), Err(1));
        lanes.admit(1, [(endpoint(1), 1)]);
        assert_eq!(lanes.next(), Some((endpoint(1), 1)));
        lanes.finish(endpoint(1));
        assert_eq!(lanes.free(), 1);
    }

    #[test]
    fn a_lane_can_be_emptied_without_touching_the_others() {
        let mut lanes = Lanes::new(LIMITS);
        for delivery in 0..3 {
            lanes.offer(endpoint(1), delivery).unwrap();
            lanes.offer(endpoint(2), delivery + 10).unwrap();
        }
        assert_eq!(lanes.next(), Some((endpoint(1), 0)));
        assert_eq!(lanes.empty(endpoint(1)), [1, 2]);
        assert_eq!(lanes.waiting(), 3);
        assert_eq!(lanes.next(), Some((endpoint(2), 10)));
        assert_eq!(lanes.empty_all(), [11, 12]);
        assert_eq!((lanes.waiting(), lanes.under_way(), lanes.next()), (0, 2, None));
    }

    #[test]
    fn what_is_named_leaves_its_lane_and_the_rest_keeps_its_turn() {
        let mut lanes = Lanes::new(LIMITS);
        for (e, delivery) in [(1, 1), (2, 2), (2, 3), (3, 4)] {
            lanes.offer(endpoint(e), delivery).unwrap();
        }
        assert_eq!(lanes.take_if(|delivery| [1, 2].contains(delivery)).len(), 2);
        assert_eq!(lanes.waiting(), 2);
        let order: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|(_, d)| d).collect();
        assert_eq!(order, [3, 4]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Offer(u128),
        Claim(Vec<u128>),
        Next,
        Finish(usize),
        Empty(u128),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..6_u128).prop_map(Step::Offer),
            1 => prop::collection::vec(0..6_u128, 0..8).prop_map(Step::Claim),
            6 => Just(Step::Next),
            4 => any::<usize>().prop_map(Step::Finish),
            1 => (0..6_u128).prop_map(Step::Empty),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against the plainest model: a list of what waits and a list of what is under way.
        #[test]
        fn bounds_order_and_turns_hold_whatever_happens(
            steps in steps(), capacity in 1..40_usize, slots in 1..10_usize, lane_slots in 1..5_usize,
        ) {
            let mut lanes = Lanes::new(Limits { capacity, slots, lane_slots });
            let mut waiting: Vec<(u128, usize)> = Vec::new();
            let mut under_way: Vec<u128> = Vec::new();
            let mut served_since: HashMap<u128, Vec<u128>> = HashMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Offer(e) => match lanes.offer(endpoint(e), number) {
                        Ok(()) => waiting.push((e, number)),
                        Err(back) => prop_assert_eq!(back, number),
                    },
                    Step::Claim(endpoints) => {
                        let room = lanes.reserve(endpoints.len());
                        let claimed = &endpoints[..room];
                        waiting.extend(claimed.iter().map(|e| (*e, number)));
                        lanes.admit(room, claimed.iter().map(|e| (endpoint(*e), number)));
                    }
                    Step::Next => {
                        let Some((id, delivery)) = lanes.next() else {
                            let startable = under_way.len() < slots
                                && waiting.iter().any(|(w, _)| !under_way.contains(w));
                            prop_assert!(!startable, "a slot is free and an idle endpoint waits");
                            continue;
                        };
                        let e = id.uuid().as_u128();
                        let first = waiting.iter().position(|(w, _)| *w == e);
                        prop_assert!(first.is_some(), "out of nothing");
                        let (_, expected) = waiting.remove(first.unwrap_or(0));
                        prop_assert_eq!(delivery, expected, "in order within its lane");
                        under_way.push(e);
                        // Nobody is served twice while another waits with nothing under way.
                        for (other, served) in &mut served_since {
                            let idle = !under_way.contains(other);
                            let waits = waiting.iter().any(|(w, _)| w == other);
                            if idle && waits && *other != e {
                                prop_assert!(!served.contains(&e), "{e} overtook {other}");
                                served.push(e);
                            } else {
                                served.clear();
                            }
                        }
                    }
                    Step::Finish(pick) if !under_way.is_empty() => {
                        let e = under_way.swap_remove(pick % under_way.len());
                        lanes.finish(endpoint(e));
                    }
                    Step::Finish(_) => {}
                    Step::Empty(e) => {
                        let out = lanes.empty(endpoint(e));
                        let expected = waiting.iter().filter(|(w, _)| *w == e).count();
                        prop_assert_eq!(out.len(), expected);
                        waiting.retain(|(w, _)| *w != e);
                        served_since.remove(&e);
                    }
                }
                for e in 0..6 {
                    served_since.entry(e).or_default();
                    prop_assert!(under_way.iter().filter(|u| **u == e).count() <= lane_slots);
                }
                prop_assert!(under_way.len() <= slots);
                prop_assert!(waiting.len() + under_way.len() <= capacity);
                prop_assert_eq!(lanes.waiting(), waiting.len());
                prop_assert_eq!(lanes.under_way(), under_way.len());
            }
        }
    }
}
