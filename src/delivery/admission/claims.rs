//! The part of a claim that needs no store: how many deliveries of which endpoints it leases, and what its
//! result says.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

use super::{Admission, Reserved, Room};
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;

/// One claim brings at most this part of the bytes in memory, and beyond it one delivery.
const CLAIM_BYTES_SHARE: usize = 4;

/// An endpoint to claim for.
#[derive(Clone, Debug)]
pub(in crate::delivery) struct Target {
    pub(in crate::delivery) endpoint: Arc<Endpoint>,
    /// The version of its organisation's endpoints.
    pub(in crate::delivery) version: u64,
    /// Whether the store is known to have something due for it.
    pub(in crate::delivery) is_due: bool,
    /// Whether to take the first of its ordered deliveries.
    pub(in crate::delivery) ordered: bool,
}

/// What a claim may lease of an endpoint, with places reserved for it.
#[derive(Clone, Debug)]
pub(in crate::delivery) struct Granted {
    pub(in crate::delivery) target: Target,
    pub(in crate::delivery) count: usize,
    /// Bytes of payloads at most.
    pub(in crate::delivery) bytes: usize,
    /// How often deliveries had been left in the store.
    seen: u64,
}

impl Granted {
    pub(in crate::delivery) fn reserved(&self) -> Reserved {
        Reserved { endpoint: self.target.endpoint.id, count: self.count, bytes: self.bytes }
    }
}

impl<T> Admission<T> {
    /// Notes that due deliveries of an endpoint are in the store, which a claim is to lease when there is room.
    pub(in crate::delivery) fn left_in_store(&mut self, endpoint: &Arc<Endpoint>, now: Monotonic) {
        self.remember(endpoint, now);
        self.note_left(endpoint.id);
    }

    /// [`Self::left_in_store`] for an endpoint that is known. `false` when it is not.
    pub(in crate::delivery) fn note_left(&mut self, endpoint: EndpointId) -> bool {
        let Some(state) = self.endpoints.get_mut(&endpoint) else { return false };
        if !state.is_off {
            state.left_in_store += 1;
            self.behind.insert(endpoint);
        }
        true
    }

    /// The number of endpoints with due deliveries in the store, as far as it is known.
    pub(in crate::delivery) fn behind(&self) -> usize {
        self.behind.len()
    }

    /// Notes that an endpoint has nothing due in the store, as of a claim that began when `seen` times
    /// deliveries had been left there.
    pub(in crate::delivery) fn store_is_empty(&mut self, endpoint: EndpointId, seen: u64) {
        if let Some(state) = self.endpoints.get_mut(&endpoint)
            && state.left_in_store == seen
        {
            state.left_in_store = 0;
            self.behind.remove(&endpoint);
        }
    }

    /// How often deliveries of an endpoint were left in the store, see [`Self::store_is_empty`].
    pub(in crate::delivery) fn times_left(&self, endpoint: EndpointId) -> u64 {
        self.endpoints.get(&endpoint).map_or(0, |state| state.left_in_store)
    }

    /// The endpoints with deliveries in the store and with enough room to make a claim worthwhile, and the
    /// first time at which another one may have room.
    pub(in crate::delivery) fn claimable(
        &self,
        now: Monotonic,
    ) -> (Vec<EndpointId>, Option<Monotonic>) {
        let (mut claimable, mut next): (Vec<EndpointId>, Option<Monotonic>) = (Vec::new(), None);
        // Behind the last one that got something: a claim that is not for all of them is for others than the last.
        let last = self.claimed_last.unwrap_or(EndpointId::from_uuid(Uuid::nil()));
        let after = self.behind.range((Bound::Excluded(last), Bound::Unbounded));
        for id in after.chain(self.behind.range(..=last)) {
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

    /// Reserves places and bytes for claims of the targets, at most `most` deliveries, shared out evenly, by organisations
    /// in turn.
    pub(in crate::delivery) fn grant(
        &mut self,
        targets: &[Target],
        most: usize,
        now: Monotonic,
    ) -> Vec<Granted> {
        let each = most.div_ceil(targets.len().max(1)).max(1);
        let (mut left, mut bytes_left) = (most, self.limits.bytes / CLAIM_BYTES_SHARE);
        let bytes_each = bytes_left / targets.len().clamp(1, most.max(1));
        let mut granted: Vec<Granted> = Vec::new();
        let mut ids: HashSet<EndpointId> = HashSet::new();
        let mut wanted_first: Vec<&Target> = targets.iter().collect();
        wanted_first.sort_by_key(|target| !self.is_wanted(&target.endpoint));
        for target in in_turn(wanted_first) {
            let id = target.endpoint.id;
            if !self.introduce(&target.endpoint, target.version, now) {
                continue;
            }
            if target.is_due && self.times_left(id) == 0 {
                self.note_left(id);
            }
            if left == 0 || bytes_left == 0 || ids.contains(&id) {
                continue;
            }
            let room = match self.room(id, now) {
                Room::Now(room) => room,
                Room::Later(_) | Room::None => 0,
            };
            let count = room.min(each).min(left);
            if count == 0 {
                continue;
            }
            let (bytes, is_apart) = self.bytes_granted(&target.endpoint, bytes_each, now);
            let count = if is_apart { 1 } else { count };
            left -= count;
            bytes_left = bytes_left.saturating_sub(bytes);
            self.claimed_last = Some(id);
            let (target, seen) = (target.clone(), self.times_left(id));
            let one = Granted { target, count, bytes, seen };
            self.reserve(one.reserved(), now);
            if is_apart {
                self.apart = Some(one.target.endpoint.org_id);
            }
            ids.insert(id);
            granted.push(one);
        }
        granted
    }

    /// Notes what a claim has leased, and for which endpoints, in bytes, the next delivery did not fit. Another endpoint
    /// that got less than it was granted has nothing more that is due, unless the claim was `cut_short`, or was for what had
    /// been planned before the endpoint became ordered, or before it ceased to be: that says nothing about the others, and
    /// the next claim is for those.
    pub(in crate::delivery) fn claimed(
        &mut self,
        granted: &[Granted],
        counts: &HashMap<EndpointId, usize>,
        too_large: &HashMap<EndpointId, usize>,
        cut_short: bool,
    ) {
        for Granted { target, .. } in granted {
            self.no_longer_wanted(&target.endpoint);
        }
        for Granted { target, count, seen, .. } in granted {
            let leased = counts.get(&target.endpoint.id).copied().unwrap_or(0);
            let is_for_all = target.ordered == target.endpoint.policy.ordered;
            if let Some(bytes) = too_large.get(&target.endpoint.id) {
                self.want(&target.endpoint, *bytes);
            } else if leased < *count && is_for_all && !cut_short {
                self.store_is_empty(target.endpoint.id, *seen);
            }
        }
    }
}

/// The first target of every organisation ahead of the second of any, and so on.
fn in_turn(targets: Vec<&Target>) -> impl Iterator<Item = &Target> {
    let mut counts: HashMap<OrgId, usize> = HashMap::new();
    let number = |target| {
        let Target { endpoint, .. }: &Target = target;
        let count = counts.entry(endpoint.org_id).or_default();
        *count += 1;
        (*count, target)
    };
    let mut in_turn: Vec<(usize, &Target)> = targets.into_iter().map(number).collect();
    in_turn.sort_by_key(|(number, _)| *number);
    in_turn.into_iter().map(|(_, target)| target)
}
