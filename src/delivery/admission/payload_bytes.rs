//! Bytes of payloads: how many an organisation may have in memory, and what happens to a delivery that does not fit.

use super::shares::org_left;
use super::{Admission, Room, Wanted};
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;

impl<T> Admission<T> {
    /// Bytes of a delivery that an organisation may have in memory without a claim: what does not fit goes first.
    pub(super) fn bytes_offered(&self, org: OrgId, now: Monotonic) -> usize {
        if self.wanted(org, now).is_some() { 0 } else { self.org_bytes_left(org) }
    }

    /// Bytes that a claim may bring of an endpoint.
    pub(super) fn bytes_left(&self, endpoint: EndpointId, now: Monotonic) -> usize {
        let Some(state) = self.endpoints.get(&endpoint) else { return 0 };
        let org = state.org();
        let left = self.org_bytes_left(org);
        match self.wanted(org, now) {
            None => left,
            Some(wanted) if wanted.endpoint != endpoint => 0,
            Some(wanted) if wanted.bytes <= left => left,
            // Without anything in memory that could end, its share does not grow.
            Some(wanted) if self.org_bytes(org) == 0 && self.org_apart().is_none() => wanted.bytes,
            Some(_) => 0,
        }
    }

    /// The bytes of a claim for an endpoint: `most`, or what did not fit before. `true` if they are counted apart, for one
    /// delivery.
    pub(super) fn take_bytes(
        &mut self,
        endpoint: &Endpoint,
        most: usize,
        now: Monotonic,
    ) -> (usize, bool) {
        let wanted = self.wanted(endpoint.org_id, now).map_or(0, |wanted| wanted.bytes);
        let bytes = self.bytes_left(endpoint.id, now).min(most.max(wanted));
        let is_apart = bytes > self.org_bytes_left(endpoint.org_id);
        if is_apart {
            self.apart = Some(endpoint.org_id);
        }
        (bytes, is_apart)
    }

    /// The first delivery of its organisation that did not fit is known.
    pub(super) fn want(&mut self, endpoint: &Endpoint, bytes: usize) {
        let wanted = Wanted { endpoint: endpoint.id, bytes };
        self.wanted.entry(endpoint.org_id).or_insert(wanted);
    }

    /// An endpoint was claimed for with the bytes that it wanted.
    pub(super) fn no_longer_wanted(&mut self, endpoint: &Endpoint) {
        let is_its = |wanted: &Wanted| wanted.endpoint == endpoint.id;
        if self.wanted.get(&endpoint.org_id).is_some_and(is_its) {
            self.wanted.remove(&endpoint.org_id);
        }
    }

    /// The delivery of an organisation that waits for bytes, and for nothing else: one that waits for a slot, a breaker or
    /// a rate limit holds nobody back.
    fn wanted(&self, org: OrgId, now: Monotonic) -> Option<Wanted> {
        let wanted = *self.wanted.get(&org)?;
        let is_open = matches!(self.room_of_any_size(wanted.endpoint, now), Room::Now(1..));
        (is_open && self.times_left(wanted.endpoint) > 0).then_some(wanted)
    }

    /// How many more bytes an organisation may have in memory: nothing beside what is counted apart.
    pub(super) fn org_bytes_left(&self, org: OrgId) -> usize {
        if self.org_apart() == Some(org) {
            return 0;
        }
        let apart = self.org_apart().map_or(0, |org| self.org_bytes(org));
        let free = self.limits.bytes.saturating_sub(self.total.bytes - apart);
        org_left(self.org_bytes(org), free)
    }

    /// The organisation whose bytes are counted apart, while it has any.
    fn org_apart(&self) -> Option<OrgId> {
        self.apart.filter(|org| self.org_bytes(*org) > 0)
    }

    fn org_bytes(&self, org: OrgId) -> usize {
        self.orgs.get(&org).map_or(0, |org| org.held.bytes)
    }
}
