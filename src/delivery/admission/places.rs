//! Places: what may be leased, and what is reserved for it.

use std::sync::Arc;

use super::endpoint_state::{EndpointState, Hold, QUEUE_TIME};
use super::shares::{endpoint_share, org_left};
use super::{Admission, Offer, RESERVE_SHARE, Room, Totals};
use crate::delivery::breaker::AttemptKind;
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;

/// Places and bytes that are reserved for deliveries of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::delivery) struct Reserved {
    pub(in crate::delivery) endpoint: EndpointId,
    pub(in crate::delivery) count: usize,
    pub(in crate::delivery) bytes: usize,
}

impl<T> Admission<T> {
    /// Offers a delivery that is about to be stored, planned with this version of the organisation's endpoints.
    pub(in crate::delivery) fn offer(
        &mut self,
        endpoint: &Arc<Endpoint>,
        version: u64,
        bytes: usize,
        now: Monotonic,
    ) -> Offer {
        if endpoint.policy.ordered || self.is_outdated(endpoint.org_id, version) {
            return Offer::LeaveInStore;
        }
        let concurrency = self.limits.concurrency;
        let state = self.remember_current(endpoint, now);
        let is_behind = state.left_in_store > 0 && state.held() > 0;
        let has_queue = state.queue_max(state.concurrency(concurrency), now) > 0;
        let promised = state.waiting.len() + state.reserved;
        // Claims have at least the other half.
        let is_half_empty = |room| has_queue && room > promised;
        let org = endpoint.org_id;
        let fits = bytes <= self.bytes_beside(self.wanted(org, now), org);
        match self.room(endpoint.id, now) {
            Room::Now(room @ 1..) if fits && (!is_behind || is_half_empty(room)) => {
                self.reserve(Reserved { endpoint: endpoint.id, count: 1, bytes }, now);
                Offer::Start
            }
            Room::Now(_) | Room::Later(_) | Room::None => Offer::LeaveInStore,
        }
    }

    /// Makes an endpoint known whose deliveries are to be claimed. `false` when this version of it is outdated.
    pub(in crate::delivery) fn introduce(
        &mut self,
        endpoint: &Arc<Endpoint>,
        version: u64,
        now: Monotonic,
    ) -> bool {
        if self.is_outdated(endpoint.org_id, version) {
            return false;
        }
        self.remember_current(endpoint, now);
        true
    }

    /// How many more deliveries of an endpoint may be leased now.
    pub(in crate::delivery) fn room(&self, endpoint: EndpointId, now: Monotonic) -> Room {
        let room = self.room_of_any_size(endpoint, now);
        let is_full = room != Room::None && self.bytes_left(endpoint, now) == 0;
        if is_full && matches!(room, Room::Now(_)) { Room::Now(0) } else { room }
    }

    /// [`Self::room`] without a look at bytes.
    pub(super) fn room_of_any_size(&self, endpoint: EndpointId, now: Monotonic) -> Room {
        let Some(state) = self.endpoints.get(&endpoint) else { return Room::None };
        if self.is_closed {
            return Room::None;
        }
        if let Some(until) = state.claims_held_until(now) {
            return Room::Later(until);
        }
        match state.hold(AttemptKind::Scheduled, now, QUEUE_TIME) {
            Hold::None => {}
            Hold::Until(until) => return Room::Later(until),
            Hold::Closed => return Room::None,
        }
        let promised = state.waiting.len() + state.reserved;
        let slots = self.slots_free(state, now);
        if state.is_probing(now) {
            return Room::Now(usize::from(slots > 0));
        }
        let concurrency = state.concurrency(self.limits.concurrency);
        let queue = if state.in_flight.is_empty() { 0 } else { state.queue_max(concurrency, now) };
        let places = self.places_left(state);
        let most = (slots + queue).min(state.rate_max());
        Room::Now(most.saturating_sub(promised).min(places))
    }

    /// Reserves what [`Self::room`] has.
    pub(in crate::delivery) fn reserve(&mut self, reserved: Reserved, now: Monotonic) {
        let Reserved { endpoint, count, bytes } = reserved;
        // What was counted apart may be gone.
        self.apart = self.org_apart();
        let Some(state) = self.endpoints.get(&endpoint) else { return };
        let taken = state.waiting.len() + state.promised;
        let promised = self.slots_free(state, now).saturating_sub(taken).min(count);
        let Some(state) = self.endpoints.get_mut(&endpoint) else { return };
        state.reserved += count;
        state.promised += promised;
        for held in [&mut self.orgs.entry(state.org()).or_default().held, &mut self.total] {
            held.reserved += count;
            held.promised += promised;
            held.bytes += bytes;
        }
    }

    /// Notes that a claim for this endpoint alone failed, although the store can be reached: its next claim is made later,
    /// so that others do not fail with it.
    pub(in crate::delivery) fn claim_failed(&mut self, endpoint: EndpointId, now: Monotonic) {
        if let Some(state) = self.endpoints.get_mut(&endpoint) {
            state.hold_claims(now);
        }
    }

    /// Notes that a claim for these endpoints worked.
    pub(in crate::delivery) fn claims_worked(
        &mut self,
        endpoints: impl IntoIterator<Item = EndpointId>,
    ) {
        for endpoint in endpoints {
            if let Some(state) = self.endpoints.get_mut(&endpoint) {
                state.resume_claims();
            }
        }
    }

    /// Gives back reserved places, whether deliveries come for them or not.
    pub(in crate::delivery) fn unreserve(&mut self, reserved: Reserved) {
        let Reserved { endpoint, count, bytes } = reserved;
        let Some(state) = self.endpoints.get_mut(&endpoint) else { return };
        state.reserved -= count;
        // Those without a slot first.
        let promised = state.promised.saturating_sub(state.reserved);
        state.promised -= promised;
        let org = state.org();
        for held in [&mut self.orgs.entry(org).or_default().held, &mut self.total] {
            held.reserved -= count;
            held.promised -= promised;
            held.bytes -= bytes;
        }
        self.forget_org_if_idle(org);
    }

    /// Whether an attempt at a delivery that was requested by hand may be made: a slot is free, and none to this
    /// endpoint is under way. If so, it is reserved.
    pub(in crate::delivery) fn reserve_manual(
        &mut self,
        endpoint: EndpointId,
        now: Monotonic,
    ) -> bool {
        let Some(state) = self.endpoints.get(&endpoint) else { return false };
        let is_ordered_busy = state.endpoint.policy.ordered && state.held() > 0;
        let is_busy = state.has_manual || is_ordered_busy;
        if state.is_off || is_busy || self.slots_free(state, now) == 0 {
            return false;
        }
        if let Some(state) = self.endpoints.get_mut(&endpoint) {
            state.has_manual = true;
        }
        self.reserve(Reserved { endpoint, count: 1, bytes: 0 }, now);
        true
    }

    /// Notes that no delivery came for a manual reservation.
    pub(in crate::delivery) fn forget_manual(&mut self, endpoint: EndpointId) {
        if let Some(state) = self.endpoints.get_mut(&endpoint) {
            state.has_manual = false;
        }
    }

    /// How many more attempts to an endpoint may start now, those that are promised to it included.
    pub(super) fn slots_free(&self, state: &EndpointState<T>, now: Monotonic) -> usize {
        let others = self.total.promised - state.promised;
        let free = self.limits.slots.saturating_sub(self.total.in_flight + others);
        let reserve = self.limits.slots / RESERVE_SHARE;
        let open = if state.is_slow(now) { free.saturating_sub(reserve) } else { free };
        let held = self.orgs.get(&state.org()).map_or(Totals::default(), |org| org.held);
        let of_org = org_left(held.in_flight + held.promised - state.promised, open);
        if of_org == 0 {
            return 0;
        }
        let is_in_reserve = free <= reserve && !state.is_known_quick(now);
        let share = if is_in_reserve { 1 } else { endpoint_share(of_org) };
        let most = state.concurrency(self.limits.concurrency).min(share);
        most.saturating_sub(state.in_flight.len()).min(of_org)
    }

    /// Whether an organisation may have a slot for some endpoint of its own, without a look at each of them.
    pub(super) fn may_have_slot(&self, org: OrgId) -> bool {
        let held = self.orgs.get(&org).map_or(Totals::default(), |org| org.held);
        // The most that an endpoint finds: all that is promised to the organisation is promised to it.
        let others = self.total.promised - held.promised;
        let free = self.limits.slots.saturating_sub(self.total.in_flight + others);
        org_left(held.in_flight, free) > 0
    }

    pub(super) fn places_left(&self, state: &EndpointState<T>) -> usize {
        let free = self.limits.places.saturating_sub(self.total.places());
        let org = self.orgs.get(&state.org()).map_or(0, |org| org.held.places());
        org_left(org, free).min(endpoint_share(free)).min(free)
    }
}
