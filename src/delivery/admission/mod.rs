//! Admission: the one place that decides what may be attempted, and when.
//!
//! Whoever has deliveries asks it: ingest before it stores a batch ([`Admission::offer`]), the claimer before it
//! leases ([`Admission::room`], [`Admission::reserve`]), and the dispatcher before it starts an attempt
//! ([`Admission::next`]). It is pure: the time is a parameter, and it holds deliveries without looking at them.
//!
//! # Rules
//! - A delivery is leased only when a slot is free for it, or when its endpoint, at its recent rate, starts it
//!   within [`QUEUE_TIME`](endpoint_state::QUEUE_TIME). So a quick endpoint has a queue in memory that keeps its
//!   slots busy, and a slow one holds its slots and nothing else. Everything else is left in the store.
//! - An endpoint that has deliveries in the store gets its next ones from there, in the order they are due, so
//!   that new ones do not overtake old ones for ever. Only while nothing of it is in memory a new one starts at once.
//! - Slots and memory are shared out by dynamic thresholds (`shares`), and organisations are served in
//!   round-robin order, and within each its endpoints.
//! - One slot in [`RESERVE_SHARE`] is kept from slow endpoints. An endpoint that is not known to be quick gets one
//!   of these at most.
//! - An open breaker, a rate limit and a disabled endpoint hold deliveries in the store. What was requested by
//!   hand is held by none but the last, one at a time.
//! - Nothing starts for an organisation whose endpoints have changed until the change is known here
//!   ([`Admission::endpoints_changed`]).
//!
//! **Invariant:** at most `slots` are in flight and at most `places` are in memory, places that are only
//! reserved included. Deliveries to one endpoint start in the order in which they came.

mod endpoint_state;
mod shares;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::breaker::{AttemptKind, AttemptSignal};
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;
use crate::store::OrgEndpoints;

use endpoint_state::{EndpointState, Hold, QUEUE_TIME, Waiting};
use shares::{endpoint_share, org_left};

/// One slot in this many is kept from slow endpoints.
const RESERVE_SHARE: usize = 8;
/// The number of endpoints at which idle ones are forgotten.
const ENDPOINTS_MAX: usize = 16_384;
/// The number of endpoints with a breaker that is not closed, or deliveries in the store, beyond which these are
/// forgotten, too. Scans find the deliveries again.
const TROUBLED_ENDPOINTS_MAX: usize = 65_536;
/// How long nothing is sent to an endpoint that answered 410: longer than it takes to disable it.
const GONE_HOLD: Duration = Duration::from_mins(1);
/// Organisations whose changes are remembered at most. Forgetting one matters only while a read of its endpoints
/// that began before the change is still under way.
const CHANGES_MAX: usize = 16_384;

/// The bounds of what is held in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionLimits {
    /// Maximum attempts in flight.
    pub(super) slots: usize,
    /// Maximum deliveries in memory, those in flight included.
    pub(super) places: usize,
    /// Maximum bytes of their payloads.
    pub(super) bytes: usize,
    /// Maximum attempts in flight to an endpoint that sets none.
    pub(super) concurrency: usize,
}

/// The answer to an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offer {
    /// A place is reserved: it starts at once, or within a moment.
    Start,
    /// It stays in the store.
    LeaveInStore,
}

/// How many deliveries of an endpoint may be leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// So many.
    Now(usize),
    /// None until then, unless something changes.
    Later(Monotonic),
    /// None until something changes.
    None,
}

/// An attempt to start.
#[derive(Debug)]
pub(super) struct Start<T> {
    pub(super) delivery: T,
    /// The endpoint as it is known now.
    pub(super) endpoint: Arc<Endpoint>,
    /// What [`Admission::finish`] is told about it.
    pub(super) ticket: Ticket,
}

/// What [`Admission::next`] removed.
#[derive(Debug)]
pub(super) enum Next<T> {
    /// An attempt to start.
    Start(Start<T>),
    /// A delivery that waited for longer than its lease allows. It is due again when that lapses.
    Lapsed,
}

/// A slot in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    pub(super) endpoint: EndpointId,
    began: Monotonic,
    bytes: usize,
    /// Whether it is the probe of a breaker.
    probe: bool,
    kind: AttemptKind,
    /// The endpoint's generation: what it was says nothing about what it is now.
    generation: u32,
}

/// What the end of an attempt changes.
#[derive(Debug)]
pub(super) struct Finished<T> {
    /// Deliveries that must not wait here any longer; their leases are to be released.
    pub(super) released: Vec<T>,
    /// Whether the endpoint's breaker has closed.
    pub(super) breaker_closed: bool,
}

/// All of it. `T` is a delivery.
#[derive(Debug)]
pub(super) struct Admission<T> {
    limits: AdmissionLimits,
    endpoints: HashMap<EndpointId, EndpointState<T>>,
    orgs: HashMap<OrgId, OrgState>,
    /// The organisations with waiting deliveries, in round-robin order.
    turns: VecDeque<OrgId>,
    /// Endpoints with due deliveries in the store.
    behind: HashSet<EndpointId>,
    /// The newest known version of the endpoints of organisations that changed lately.
    changes: HashMap<OrgId, u64>,
    total: Totals,
    /// The number of endpoints at which idle ones are forgotten.
    forget_at: usize,
    /// Whether nothing is taken or started any more.
    is_closed: bool,
}

/// What one organisation holds.
#[derive(Debug, Default)]
struct OrgState {
    /// Its endpoints with waiting deliveries, in round-robin order.
    turns: VecDeque<EndpointId>,
    held: Totals,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Totals {
    waiting: usize,
    /// Places promised to deliveries that are being stored or claimed.
    reserved: usize,
    /// Of these, with a slot.
    promised: usize,
    in_flight: usize,
    bytes: usize,
}

impl Totals {
    const fn places(self) -> usize {
        self.waiting + self.reserved + self.in_flight
    }
}

impl<T> Admission<T> {
    /// Nothing held.
    pub(super) fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            endpoints: HashMap::new(),
            orgs: HashMap::new(),
            turns: VecDeque::new(),
            behind: HashSet::new(),
            changes: HashMap::new(),
            total: Totals::default(),
            forget_at: ENDPOINTS_MAX,
            is_closed: false,
        }
    }

    /// Deliveries that wait in memory.
    pub(super) fn waiting(&self) -> usize {
        self.total.waiting
    }

    /// Attempts in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.total.in_flight
    }

    /// Bytes that may still be leased.
    pub(super) fn bytes_free(&self) -> usize {
        self.limits.bytes.saturating_sub(self.total.bytes)
    }

    /// Endpoints whose breakers are open.
    pub(super) fn open_breakers(&self) -> usize {
        self.endpoints.values().filter(|state| state.breaker.is_open()).count()
    }

    /// Until when attempts to an endpoint are held back by its breaker; `None` when they are not.
    pub(super) fn paused_until(&self, endpoint: EndpointId, now: Monotonic) -> Option<Monotonic> {
        self.endpoints.get(&endpoint)?.breaker.paused_until(now)
    }

    /// Offers a delivery that is about to be stored, planned with this version of the organisation's endpoints.
    pub(super) fn offer(
        &mut self,
        endpoint: &Arc<Endpoint>,
        version: u64,
        bytes: usize,
        now: Monotonic,
    ) -> Offer {
        if endpoint.policy.ordered || self.is_outdated(endpoint.org_id, version) {
            return Offer::LeaveInStore;
        }
        let state = self.remember(endpoint, now);
        let is_behind = state.left_in_store > 0 && state.held() > 0;
        let org = self.orgs.get(&endpoint.org_id).map_or(Totals::default(), |org| org.held);
        let fits = bytes <= org_left(org.bytes, self.bytes_free()) || self.total.places() == 0;
        match self.room(endpoint.id, now) {
            Room::Now(1..) if !is_behind && fits => {
                self.reserve(endpoint.id, 1, now);
                Offer::Start
            }
            Room::Now(_) | Room::Later(_) | Room::None => Offer::LeaveInStore,
        }
    }

    /// Makes an endpoint known whose deliveries are to be claimed. `false` when this version of it is outdated.
    pub(super) fn introduce(
        &mut self,
        endpoint: &Arc<Endpoint>,
        version: u64,
        now: Monotonic,
    ) -> bool {
        if self.is_outdated(endpoint.org_id, version) {
            return false;
        }
        self.remember(endpoint, now);
        true
    }

    /// How many more deliveries of an endpoint may be leased now.
    pub(super) fn room(&self, endpoint: EndpointId, now: Monotonic) -> Room {
        let Some(state) = self.endpoints.get(&endpoint) else { return Room::None };
        if self.is_closed {
            return Room::None;
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
        Room::Now((slots + queue).saturating_sub(promised).min(places))
    }

    /// Reserves places that [`Self::room`] has.
    pub(super) fn reserve(&mut self, endpoint: EndpointId, count: usize, now: Monotonic) {
        let Some(state) = self.endpoints.get(&endpoint) else { return };
        let taken = state.waiting.len() + state.promised;
        let promised = self.slots_free(state, now).saturating_sub(taken).min(count);
        let Some(state) = self.endpoints.get_mut(&endpoint) else { return };
        state.reserved += count;
        state.promised += promised;
        for held in [&mut self.orgs.entry(state.org()).or_default().held, &mut self.total] {
            held.reserved += count;
            held.promised += promised;
        }
    }

    /// Gives back reserved places, whether deliveries come for them or not.
    pub(super) fn unreserve(&mut self, endpoint: EndpointId, count: usize) {
        let Some(state) = self.endpoints.get_mut(&endpoint) else { return };
        state.reserved -= count;
        // Those without a slot first.
        let promised = state.promised.saturating_sub(state.reserved);
        state.promised -= promised;
        let org = state.org();
        for held in [&mut self.orgs.entry(org).or_default().held, &mut self.total] {
            held.reserved -= count;
            held.promised -= promised;
        }
        self.forget_org_if_idle(org);
    }

    /// Queues a leased delivery, or returns it if its endpoint was disabled or removed meanwhile.
    pub(super) fn push(
        &mut self,
        endpoint: EndpointId,
        delivery: T,
        bytes: usize,
    ) -> Result<(), T> {
        self.queue(endpoint, Waiting { delivery, bytes, kind: AttemptKind::Scheduled })
    }

    /// [`Self::push`] for one that was requested by hand: it starts next, whatever a breaker says.
    pub(super) fn push_manual(
        &mut self,
        endpoint: EndpointId,
        delivery: T,
        bytes: usize,
    ) -> Result<(), T> {
        self.queue(endpoint, Waiting { delivery, bytes, kind: AttemptKind::Manual })
    }

    fn queue(&mut self, endpoint: EndpointId, waiting: Waiting<T>) -> Result<(), T> {
        let is_open = !self.is_closed;
        let state = self.endpoints.get_mut(&endpoint).filter(|state| is_open && !state.is_off);
        let Some(state) = state else { return Err(waiting.delivery) };
        let org_id = state.org();
        let org = self.orgs.entry(org_id).or_default();
        if state.waiting.is_empty() {
            if org.turns.is_empty() {
                self.turns.push_back(org_id);
            }
            org.turns.push_back(endpoint);
        }
        for held in [&mut org.held, &mut self.total] {
            held.waiting += 1;
            held.bytes += waiting.bytes;
        }
        if waiting.kind == AttemptKind::Manual {
            state.waiting.push_front(waiting);
        } else {
            state.waiting.push_back(waiting);
        }
        Ok(())
    }

    /// Whether an attempt at a delivery that was requested by hand may be made: a slot is free, and none to this
    /// endpoint is under way. If so, it is reserved.
    pub(super) fn reserve_manual(&mut self, endpoint: EndpointId, now: Monotonic) -> bool {
        let Some(state) = self.endpoints.get(&endpoint) else { return false };
        let is_ordered_busy = state.endpoint.policy.ordered && state.held() > 0;
        let is_busy = state.has_manual || is_ordered_busy;
        if state.is_off || is_busy || self.slots_free(state, now) == 0 {
            return false;
        }
        if let Some(state) = self.endpoints.get_mut(&endpoint) {
            state.has_manual = true;
        }
        self.reserve(endpoint, 1, now);
        true
    }

    /// Notes that no delivery came for a manual reservation.
    pub(super) fn forget_manual(&mut self, endpoint: EndpointId) {
        if let Some(state) = self.endpoints.get_mut(&endpoint) {
            state.has_manual = false;
        }
    }

    /// Notes that due deliveries of an endpoint are in the store, which a claim is to lease when there is room.
    pub(super) fn left_in_store(&mut self, endpoint: &Arc<Endpoint>, now: Monotonic) {
        self.remember(endpoint, now);
        self.note_left(endpoint.id);
    }

    /// [`Self::left_in_store`] for an endpoint that is known. `false` when it is not.
    pub(super) fn note_left(&mut self, endpoint: EndpointId) -> bool {
        let Some(state) = self.endpoints.get_mut(&endpoint) else { return false };
        if !state.is_off {
            state.left_in_store += 1;
            self.behind.insert(endpoint);
        }
        true
    }

    /// The number of endpoints with due deliveries in the store, as far as it is known.
    pub(super) fn behind(&self) -> usize {
        self.behind.len()
    }

    /// An endpoint that is known.
    pub(super) fn endpoint(&self, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.endpoints.get(&id).map(|state| Arc::clone(&state.endpoint))
    }

    /// Notes that an endpoint has nothing due in the store, as of a claim that began when `seen` times
    /// deliveries had been left there.
    pub(super) fn store_is_empty(&mut self, endpoint: EndpointId, seen: u64) {
        if let Some(state) = self.endpoints.get_mut(&endpoint)
            && state.left_in_store == seen
        {
            state.left_in_store = 0;
            self.behind.remove(&endpoint);
        }
    }

    /// How often deliveries of an endpoint were left in the store, see [`Self::store_is_empty`].
    pub(super) fn times_left(&self, endpoint: EndpointId) -> u64 {
        self.endpoints.get(&endpoint).map_or(0, |state| state.left_in_store)
    }

    /// The endpoints with deliveries in the store and with enough room to make a claim worthwhile, and the
    /// first time at which another one may have room.
    pub(super) fn claimable(&self, now: Monotonic) -> (Vec<EndpointId>, Option<Monotonic>) {
        let (mut claimable, mut next): (Vec<EndpointId>, Option<Monotonic>) = (Vec::new(), None);
        for id in &self.behind {
            let Some(state) = self.endpoints.get(id) else { continue };
            match self.room(*id, now) {
                Room::Now(room) => {
                    let concurrency = state.concurrency(self.limits.concurrency);
                    let most = room + state.held();
                    if room >= state.worth_claiming(concurrency, most) {
                        claimable.push(*id);
                    }
                }
                Room::Later(until) => next = Some(next.map_or(until, |next| next.min(until))),
                Room::None => {}
            }
        }
        (claimable, next)
    }

    /// Removes the next delivery to start, if a slot is free for one. The slot is in use until
    /// [`Self::finish`]. One that `is_leased` denies is removed instead.
    pub(super) fn next(
        &mut self,
        now: Monotonic,
        is_leased: impl Fn(&T) -> bool,
    ) -> Option<Next<T>> {
        if self.is_closed || self.total.in_flight >= self.limits.slots {
            return None;
        }
        for _ in 0..self.turns.len() {
            let org = self.turns.pop_front()?;
            self.turns.push_back(org);
            if let Some(next) = self.next_of(org, now, &is_leased) {
                return Some(next);
            }
        }
        None
    }

    fn next_of(
        &mut self,
        org: OrgId,
        now: Monotonic,
        is_leased: &impl Fn(&T) -> bool,
    ) -> Option<Next<T>> {
        for _ in 0..self.orgs.get(&org)?.turns.len() {
            let endpoint = self.orgs.get_mut(&org)?.turns.pop_front()?;
            if !self.may_start(endpoint, now) {
                self.orgs.get_mut(&org)?.turns.push_back(endpoint);
                continue;
            }
            let state = self.endpoints.get_mut(&endpoint)?;
            let Waiting { delivery, bytes, kind } = state.waiting.pop_front()?;
            let is_started = is_leased(&delivery);
            let probe = is_started && state.start(kind, now);
            state.has_manual &= is_started || kind != AttemptKind::Manual;
            let generation = state.generation;
            let known = Arc::clone(&state.endpoint);
            let is_empty = state.waiting.is_empty();
            let queue = self.orgs.get_mut(&org)?;
            if !is_empty {
                queue.turns.push_back(endpoint);
            }
            for held in [&mut queue.held, &mut self.total] {
                held.waiting -= 1;
                held.in_flight += usize::from(is_started);
                held.bytes -= if is_started { 0 } else { bytes };
            }
            if queue.turns.is_empty() {
                self.turns.retain(|other| *other != org);
            }
            if !is_started {
                self.forget_org_if_idle(org);
                return Some(Next::Lapsed);
            }
            let ticket = Ticket { endpoint, began: now, bytes, probe, kind, generation };
            return Some(Next::Start(Start { delivery, endpoint: known, ticket }));
        }
        None
    }

    fn may_start(&self, endpoint: EndpointId, now: Monotonic) -> bool {
        let Some(state) = self.endpoints.get(&endpoint) else { return false };
        let Some(first) = state.waiting.front() else { return false };
        state.hold(first.kind, now, Duration::ZERO) == Hold::None && self.slots_free(state, now) > 0
    }

    /// When the first waiting delivery that a rate limit or a breaker holds may start.
    pub(super) fn next_start(&self, now: Monotonic) -> Option<Monotonic> {
        let waiting = self.orgs.values().flat_map(|org| &org.turns);
        let held = waiting.filter_map(|endpoint| {
            let state = self.endpoints.get(endpoint)?;
            match state.hold(state.waiting.front()?.kind, now, Duration::ZERO) {
                Hold::Until(until) => Some(until),
                Hold::None | Hold::Closed => None,
            }
        });
        held.min()
    }

    /// Frees the slot of an attempt that has ended. `signal` says what it means for the endpoint's breaker;
    /// `gone` that the receiver wants nothing more.
    pub(super) fn finish(
        &mut self,
        ticket: Ticket,
        signal: AttemptSignal,
        gone: bool,
        now: Monotonic,
    ) -> Finished<T> {
        let Some(state) = self.endpoints.get_mut(&ticket.endpoint) else {
            return Finished { released: Vec::new(), breaker_closed: false };
        };
        state.end(ticket.began, now);
        state.has_manual &= ticket.kind != AttemptKind::Manual;
        let was_open = state.breaker.is_open();
        let is_same = state.generation == ticket.generation;
        if is_same {
            state.breaker.end(ticket.probe, signal, now);
        }
        let is_open = state.breaker.is_open();
        if gone && is_same {
            state.gone_until = Some(now.plus(GONE_HOLD));
        }
        let org = state.org();
        let queue = self.orgs.entry(org).or_default();
        for held in [&mut queue.held, &mut self.total] {
            held.in_flight -= 1;
            held.bytes -= ticket.bytes;
        }
        let released =
            if (gone && is_same) || is_open { self.clear(ticket.endpoint) } else { Vec::new() };
        self.forget_org_if_idle(org);
        Finished { released, breaker_closed: was_open && !is_open }
    }

    /// Applies a change of an organisation's endpoints, and returns the waiting deliveries that it outdates;
    /// their leases are to be released. `current` are those that are enabled now.
    pub(super) fn endpoints_changed(&mut self, org: OrgId, current: &OrgEndpoints) -> Vec<T> {
        if self.is_outdated(org, current.version) {
            return Vec::new();
        }
        self.note_version(org, current.version);
        let enabled: HashMap<EndpointId, &Arc<Endpoint>> = current
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.disabled_reason.is_none())
            .map(|endpoint| (endpoint.id, endpoint))
            .collect();
        let known: Vec<EndpointId> = self
            .endpoints
            .iter()
            .filter(|(_, state)| state.org() == org)
            .map(|(id, _)| *id)
            .collect();
        let mut released = Vec::new();
        for id in known {
            let Some(state) = self.endpoints.get_mut(&id) else { continue };
            let new = enabled.get(&id).copied();
            let was_ordered = state.endpoint.policy.ordered;
            let is_reordered = new.is_some_and(|new| new.policy.ordered != was_ordered);
            state.update(new);
            if state.is_off {
                self.behind.remove(&id);
            }
            if state.is_off || is_reordered {
                released.extend(self.clear(id));
            }
        }
        released
    }

    /// Drops what is known of an organisation's endpoints, which have changed in an unknown way, and returns
    /// their waiting deliveries.
    pub(super) fn forget_endpoints(&mut self, org: OrgId) -> Vec<T> {
        let of_org = self.endpoints.iter_mut().filter(|(_, state)| state.org() == org);
        let known: Vec<EndpointId> = of_org
            .map(|(id, state)| {
                state.forget();
                *id
            })
            .collect();
        known.into_iter().flat_map(|id| self.clear(id)).collect()
    }

    /// Removes a waiting delivery.
    pub(super) fn remove(&mut self, endpoint: EndpointId, is_it: impl Fn(&T) -> bool) -> Vec<T> {
        self.clear_if(endpoint, is_it)
    }

    /// Takes and starts nothing from now on, and returns every waiting delivery.
    pub(super) fn close(&mut self) -> Vec<T> {
        self.is_closed = true;
        let endpoints: Vec<EndpointId> = self.endpoints.keys().copied().collect();
        endpoints.into_iter().flat_map(|endpoint| self.clear(endpoint)).collect()
    }

    /// Removes the waiting deliveries of an endpoint, which are then left in the store.
    fn clear(&mut self, endpoint: EndpointId) -> Vec<T> {
        let released = self.clear_if(endpoint, |_| true);
        if !released.is_empty() {
            self.note_left(endpoint);
        }
        released
    }

    fn clear_if(&mut self, endpoint: EndpointId, matches: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(state) = self.endpoints.get_mut(&endpoint) else { return Vec::new() };
        let waiting = std::mem::take(&mut state.waiting);
        let (removed, kept): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|waiting| matches(&waiting.delivery));
        state.waiting = kept.into();
        state.has_manual &= !removed.iter().any(|removed| removed.kind == AttemptKind::Manual);
        let (org, is_empty) = (state.org(), state.waiting.is_empty());
        let bytes: usize = removed.iter().map(|removed| removed.bytes).sum();
        let queue = self.orgs.entry(org).or_default();
        for held in [&mut queue.held, &mut self.total] {
            held.waiting -= removed.len();
            held.bytes -= bytes;
        }
        if is_empty {
            queue.turns.retain(|other| *other != endpoint);
        }
        if queue.turns.is_empty() {
            self.turns.retain(|other| *other != org);
        }
        self.forget_org_if_idle(org);
        removed.into_iter().map(|removed| removed.delivery).collect()
    }

    /// How many more attempts to an endpoint may start now, those that are promised to it included.
    fn slots_free(&self, state: &EndpointState<T>, now: Monotonic) -> usize {
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

    fn places_left(&self, state: &EndpointState<T>) -> usize {
        let free = self.limits.places.saturating_sub(self.total.places());
        let org = self.orgs.get(&state.org()).map_or(0, |org| org.held.places());
        org_left(org, free).min(endpoint_share(free)).min(free)
    }

    /// Whether a newer version of an organisation's endpoints is known.
    fn is_outdated(&self, org: OrgId, version: u64) -> bool {
        self.changes.get(&org).is_some_and(|known| version < *known)
    }

    fn note_version(&mut self, org: OrgId, version: u64) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.clear();
        }
        let known = self.changes.entry(org).or_default();
        *known = version.max(*known);
    }

    /// The state of an endpoint, made if there is none. One that is known keeps the newer settings.
    fn remember(&mut self, endpoint: &Arc<Endpoint>, now: Monotonic) -> &mut EndpointState<T> {
        if self.endpoints.len() >= self.forget_at {
            self.forget_idle(now);
        }
        let state = self
            .endpoints
            .entry(endpoint.id)
            .or_insert_with(|| EndpointState::new(Arc::clone(endpoint)));
        if endpoint.version > state.endpoint.version || state.is_unknown {
            state.update(Some(endpoint));
        }
        state
    }

    /// Forgets endpoints that nothing is known of but their speed, and if too many are left, all that have
    /// nothing in memory: their breakers then close.
    fn forget_idle(&mut self, now: Monotonic) {
        self.endpoints.retain(|_, state| !state.is_idle(now));
        if self.endpoints.len() > TROUBLED_ENDPOINTS_MAX {
            self.endpoints.retain(|_, state| state.held() > 0);
        }
        self.behind.retain(|id| self.endpoints.contains_key(id));
        self.forget_at = ENDPOINTS_MAX.max(2 * self.endpoints.len());
    }

    fn forget_org_if_idle(&mut self, org: OrgId) {
        if self.orgs.get(&org).is_some_and(|state| state.held == Totals::default()) {
            self.orgs.remove(&org);
        }
    }
}
