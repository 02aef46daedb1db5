//! The queue: from a leased delivery to the end of its attempt.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint_state::{Hold, Waiting};
use super::{Admission, BreakerChange, Finished, GONE_HOLD, Next, Start, Ticket};
use crate::delivery::breaker::{AttemptKind, AttemptSignal};
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;

impl<T> Admission<T> {
    /// Queues a leased delivery, or returns it if its endpoint was disabled, removed or paused meanwhile. A paused one keeps
    /// one, for its probe, when the pause is almost over.
    pub(in crate::delivery) fn push(
        &mut self,
        endpoint: EndpointId,
        delivery: T,
        bytes: usize,
        now: Monotonic,
    ) -> Result<(), T> {
        if self.endpoints.get(&endpoint).is_some_and(|state| state.is_held_for_long(now)) {
            self.note_left(endpoint);
            return Err(delivery);
        }
        self.queue(endpoint, Waiting { delivery, bytes, kind: AttemptKind::Scheduled })
    }

    /// [`Self::push`] for one that was requested by hand: it starts next, whatever a breaker says. Where it is returned, the
    /// next request may be served. Its bytes are counted in no share: there is one at a time of each endpoint.
    pub(in crate::delivery) fn push_manual(
        &mut self,
        endpoint: EndpointId,
        delivery: T,
    ) -> Result<(), T> {
        let waiting = Waiting { delivery, bytes: 0, kind: AttemptKind::Manual };
        let queued = self.queue(endpoint, waiting);
        if queued.is_err() {
            self.forget_manual(endpoint);
        }
        queued
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

    /// Removes the next delivery to start, if a slot is free for one. The slot is in use until
    /// [`Self::finish`]. One that `is_valid` denies is dropped instead.
    pub(in crate::delivery) fn next(
        &mut self,
        now: Monotonic,
        is_valid: impl Fn(&T, &Endpoint) -> bool,
    ) -> Option<Next<T>> {
        self.held_until = None;
        if self.is_closed || self.total.in_flight >= self.limits.slots {
            return None;
        }
        for _ in 0..self.turns.len() {
            let org = self.turns.pop_front()?;
            self.turns.push_back(org);
            if !self.may_have_slot(org) {
                continue;
            }
            if let Some(next) = self.next_of(org, now, &is_valid) {
                return Some(next);
            }
        }
        None
    }

    pub(super) fn next_of(
        &mut self,
        org: OrgId,
        now: Monotonic,
        is_valid: &impl Fn(&T, &Endpoint) -> bool,
    ) -> Option<Next<T>> {
        for _ in 0..self.orgs.get(&org)?.turns.len() {
            let endpoint = self.orgs.get_mut(&org)?.turns.pop_front()?;
            let hold = self.held_back(endpoint, now);
            if hold != Some(Hold::None) {
                self.orgs.get_mut(&org)?.turns.push_back(endpoint);
                if let Some(Hold::Until(until)) = hold {
                    self.held_until = Some(self.held_until.map_or(until, |held| held.min(until)));
                }
                continue;
            }
            let state = self.endpoints.get_mut(&endpoint)?;
            let Waiting { delivery, bytes, kind } = state.waiting.pop_front()?;
            let is_started = is_valid(&delivery, &state.endpoint);
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
                return Some(Next::Dropped);
            }
            let ticket = Ticket { org, endpoint, began: now, bytes, probe, kind, generation };
            return Some(Next::Start(Start { delivery, endpoint: known, ticket }));
        }
        None
    }

    /// What holds back the first waiting delivery of an endpoint; `None` when there is none, or no slot for it.
    fn held_back(&self, endpoint: EndpointId, now: Monotonic) -> Option<Hold> {
        let state = self.endpoints.get(&endpoint)?;
        let hold = state.hold(state.waiting.front()?.kind, now, Duration::ZERO);
        let is_free = hold != Hold::None || self.slots_free(state, now) > 0;
        is_free.then_some(hold)
    }

    /// When the first waiting delivery that a rate limit or a breaker holds may start, as of the last [`Self::next`]
    /// that found nothing to start.
    pub(in crate::delivery) fn next_start(&self) -> Option<Monotonic> {
        self.held_until
    }

    /// Frees the slot of an attempt that has ended. `signal` says what it means for the endpoint's breaker;
    /// `gone` that the receiver wants nothing more.
    pub(in crate::delivery) fn finish(
        &mut self,
        ticket: Ticket,
        signal: AttemptSignal,
        gone: bool,
        now: Monotonic,
    ) -> Finished<T> {
        let Some(state) = self.endpoints.get_mut(&ticket.endpoint) else {
            return Finished { released: Vec::new(), breaker: None };
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
        let released = if gone && is_same {
            self.clear(ticket.endpoint)
        } else if is_open {
            self.clear_scheduled(ticket.endpoint)
        } else {
            self.clear_beyond_slots(ticket.endpoint, now)
        };
        self.forget_org_if_idle(org);
        let breaker = match (was_open, is_open) {
            (false, true) => Some(BreakerChange::Opened),
            (true, false) => Some(BreakerChange::Closed),
            (false, false) | (true, true) => None,
        };
        Finished { released, breaker }
    }

    /// Removes a waiting delivery.
    pub(in crate::delivery) fn remove(
        &mut self,
        endpoint: EndpointId,
        is_it: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        self.clear_if(endpoint, |waiting| is_it(&waiting.delivery))
    }

    /// What waits here for a slot at an endpoint.
    pub(in crate::delivery) fn waiting_for(
        &self,
        endpoint: EndpointId,
    ) -> impl Iterator<Item = &T> {
        let state = self.endpoints.get(&endpoint);
        state.into_iter().flat_map(|state| &state.waiting).map(|waiting| &waiting.delivery)
    }

    /// Takes and starts nothing from now on, and returns every waiting delivery.
    pub(in crate::delivery) fn close(&mut self) -> Vec<T> {
        self.is_closed = true;
        let endpoints: BTreeSet<EndpointId> = self.endpoints.keys().copied().collect();
        endpoints.into_iter().flat_map(|endpoint| self.clear(endpoint)).collect()
    }

    /// Removes the waiting deliveries of an endpoint, which are then left in the store.
    pub(super) fn clear(&mut self, endpoint: EndpointId) -> Vec<T> {
        let released = self.clear_if(endpoint, |_| true);
        if !released.is_empty() {
            self.note_left(endpoint);
        }
        released
    }

    /// [`Self::clear`] without what was requested by hand: it is held by no breaker.
    fn clear_scheduled(&mut self, endpoint: EndpointId) -> Vec<T> {
        let is_scheduled = |waiting: &Waiting<T>| waiting.kind == AttemptKind::Scheduled;
        let released = self.clear_if(endpoint, is_scheduled);
        if !released.is_empty() {
            self.note_left(endpoint);
        }
        released
    }

    /// Removes what waits for an endpoint that has become slow, beyond its free slots: it waited for a quick one, and
    /// would wait here for as long as its lease lasts.
    fn clear_beyond_slots(&mut self, endpoint: EndpointId, now: Monotonic) -> Vec<T> {
        let state = self.endpoints.get(&endpoint).filter(|state| !state.waiting.is_empty());
        let Some(state) = state.filter(|state| state.is_slow(now)) else { return Vec::new() };
        let (slots, mut number) = (self.slots_free(state, now), 0);
        let released = self.clear_if(endpoint, |waiting| {
            number += 1;
            number > slots && waiting.kind != AttemptKind::Manual
        });
        if !released.is_empty() {
            self.note_left(endpoint);
        }
        released
    }

    pub(super) fn clear_if(
        &mut self,
        endpoint: EndpointId,
        mut matches: impl FnMut(&Waiting<T>) -> bool,
    ) -> Vec<T> {
        let Some(state) = self.endpoints.get_mut(&endpoint) else { return Vec::new() };
        let waiting = std::mem::take(&mut state.waiting);
        let (removed, kept): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|waiting| matches(waiting));
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
}
