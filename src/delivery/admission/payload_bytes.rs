//! Bytes of payloads: how many an organisation may have in memory, and what happens to a delivery that does not fit.

use super::shares::org_left;
use super::{Admission, Room, Wanted};
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;

impl<T> Admission<T> {
    /// Bytes that an organisation may have in memory beside the delivery that waits for room.
    pub(super) fn bytes_beside(&self, wanted: Option<Wanted>, org: OrgId) -> usize {
        self.org_bytes_left(org).saturating_sub(wanted.map_or(0, |wanted| wanted.bytes))
    }

    /// Bytes that a claim may bring of an endpoint.
    pub(super) fn bytes_left(&self, endpoint: EndpointId, now: Monotonic) -> usize {
        let Some(state) = self.endpoints.get(&endpoint) else { return 0 };
        let org = state.org();
        match self.wanted(org, now) {
            Some(wanted) if wanted.endpoint == endpoint => {
                let left = self.org_bytes_left(org);
                // Without anything in memory that could end, its share does not grow.
                let is_alone = self.org_bytes(org) == 0 && self.org_apart().is_none();
                if wanted.bytes <= left {
                    left
                } else if is_alone {
                    wanted.bytes
                } else {
                    0
                }
            }
            wanted => self.bytes_beside(wanted, org),
        }
    }

    /// The bytes of a claim for an endpoint: `most`, or as many as did not fit at one of its organisation. `true` if they
    /// are counted apart, for one delivery.
    pub(super) fn bytes_granted(
        &self,
        endpoint: &Endpoint,
        most: usize,
        now: Monotonic,
    ) -> (usize, bool) {
        let wanted = self.wanted.get(&endpoint.org_id).map_or(0, |wanted| wanted.bytes);
        let bytes = self.bytes_left(endpoint.id, now).min(most.max(wanted));
        (bytes, bytes > self.org_bytes_left(endpoint.org_id))
    }

    /// The first delivery of its organisation that did not fit is known.
    pub(super) fn want(&mut self, endpoint: &Endpoint, bytes: usize) {
        let wanted = Wanted { endpoint: endpoint.id, bytes };
        self.wanted.entry(endpoint.org_id).or_insert(wanted);
    }

    /// An endpoint was claimed for with the bytes that it wanted.
    pub(super) fn no_longer_wanted(&mut self, endpoint: &Endpoint) {
        if self.is_wanted(endpoint) {
            self.wanted.remove(&endpoint.org_id);
        }
    }

    /// Whether the delivery that waits for bytes goes to this endpoint.
    pub(super) fn is_wanted(&self, endpoint: &Endpoint) -> bool {
        self.wanted.get(&endpoint.org_id).is_some_and(|wanted| wanted.endpoint == endpoint.id)
    }

    /// The delivery of an organisation that waits for bytes, and for nothing else: one that waits for a slot, a breaker or
    /// a rate limit holds nobody back.
    pub(super) fn wanted(&self, org: OrgId, now: Monotonic) -> Option<Wanted> {
        let wanted = *self.wanted.get(&org)?;
        let is_open = matches!(self.room_of_any_size(wanted.endpoint, now), Room::Now(1..));
        (is_open && self.times_left(wanted.endpoint) > 0).then_some(wanted)
    }

    /// How many more bytes an organisation may have in memory: none while a delivery of it is counted apart.
    pub(super) fn org_bytes_left(&self, org: OrgId) -> usize {
        if self.org_apart() == Some(org) {
            return 0;
        }
        let apart = self.org_apart().map_or(0, |org| self.org_bytes(org));
        let free = self.limits.bytes.saturating_sub(self.total.bytes - apart);
        org_left(self.org_bytes(org), free)
    }

    /// The organisation whose bytes are counted apart, while it has any.
    pub(super) fn org_apart(&self) -> Option<OrgId> {
        self.apart.filter(|org| self.org_bytes(*org) > 0)
    }

    fn org_bytes(&self, org: OrgId) -> usize {
        self.orgs.get(&org).map_or(0, |org| org.held.bytes)
    }
}
