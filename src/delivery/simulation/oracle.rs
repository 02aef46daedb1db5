//! The oracle: what it has seen of attempts, and what may therefore not happen next.
//!
//! It shares nothing with admission, and knows of breakers, rates and shares only what it counts itself. Where it cannot
//! tell, as after a change of an endpoint, it forgets and says nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::model::Held;
use crate::delivery::admission::AdmissionLimits;
use crate::delivery::breaker::AttemptSignal;
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;

/// What a simulated server has at most.
pub(super) const LIMITS: AdmissionLimits =
    AdmissionLimits { slots: 32, places: 160, bytes: 1_000_000, concurrency: 4 };
/// Slots that are kept from slow endpoints.
const RESERVE: usize = LIMITS.slots / 8;
/// Attempts of a slow endpoint take longer.
const SLOW: Duration = Duration::from_secs(1);
/// Failures in a row after which an endpoint is left alone, and for how long at least.
const FAILURES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(5);
/// How long an endpoint is left alone that answered 410.
const GONE: Duration = Duration::from_mins(1);
/// How much earlier than evenly spread attempts may start under a rate limit.
const LEEWAY: Duration = Duration::from_millis(50);

/// An attempt under way.
#[derive(Clone, Debug)]
struct SimFlight {
    delivery: u64,
    org: OrgId,
    endpoint: EndpointId,
    version: u64,
    began: Monotonic,
    /// Bytes of its payload.
    bytes: usize,
    is_manual: bool,
    /// Whether it finds out if a paused endpoint works again.
    is_probe: bool,
}

/// How an endpoint has done.
#[derive(Clone, Copy, Debug, Default)]
struct SimRecord {
    failures: u32,
    /// Whether there may have been further failures.
    is_unclear: bool,
    /// Whether a pause from before a change may still hold.
    may_be_held: bool,
    paused_until: Option<Monotonic>,
    gone_until: Option<Monotonic>,
}

/// What is seen of one server, from its start.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    flights: Vec<SimFlight>,
    records: BTreeMap<EndpointId, SimRecord>,
    /// Endpoints with an attempt that ended, and whether all of them took long.
    tried: BTreeMap<EndpointId, bool>,
    /// Endpoints that have changed: how fast they are may have been forgotten.
    changed: BTreeSet<EndpointId>,
    /// The place in the queue of the last delivery that started.
    queued: BTreeMap<EndpointId, u64>,
    /// When the last attempts began.
    begun: BTreeMap<EndpointId, VecDeque<Monotonic>>,
}

impl Oracle {
    /// Bytes of each attempt in flight that nobody asked for.
    pub(super) fn bytes_in_flight(&self) -> impl Iterator<Item = usize> {
        self.flights.iter().filter(|flight| !flight.is_manual).map(|flight| flight.bytes)
    }

    /// An attempt begins.
    ///
    /// # Panics
    /// When it must not.
    pub(super) fn begin(&mut self, held: &Held, endpoint: &Endpoint, now: Monotonic) {
        let id = endpoint.id;
        let of = |flight: &&SimFlight| flight.endpoint == id;
        let of_org = self.flights.iter().filter(|flight| flight.org == endpoint.org_id).count();
        let of_it = self.flights.iter().filter(of).count();
        let free = LIMITS.slots - self.flights.len();
        assert!(of_org == 0 || of_org < 4 * free, "an organisation has more than its share");
        let concurrency = if endpoint.policy.ordered { 1 } else { LIMITS.concurrency };
        assert!(of_it < concurrency, "an endpoint has more than its slots");
        let record = self.records.get(&id).copied().unwrap_or_default();
        assert!(record.gone_until.is_none_or(|until| until <= now), "sent to one that is gone");
        if let Some(until) = record.paused_until {
            assert!(held.manual || until <= now, "sent to a paused endpoint before {until:?}");
            let is_probed = self.flights.iter().filter(of).any(|flight| flight.is_probe);
            assert!(!is_probed, "a second probe of {id}");
        }
        if !held.manual {
            let last = self.queued.insert(id, held.queued);
            assert!(last.is_none_or(|last| last < held.queued), "started out of turn: {held:?}");
        }
        if let Some(rate) = endpoint.policy.rate_limit_per_second {
            let begun = self.begun.entry(id).or_default();
            begun.push_back(now);
            if begun.len() > rate as usize {
                let first = begun.pop_front().unwrap_or(now);
                let took = now.since(first) + LEEWAY;
                assert!(took >= Duration::from_secs(1), "more than its rate: {id}");
            }
        }
        self.flights.push(SimFlight {
            delivery: held.id,
            bytes: held.bytes,
            is_manual: held.manual,
            org: endpoint.org_id,
            endpoint: id,
            version: endpoint.version,
            began: now,
            is_probe: record.paused_until.is_some(),
        });
    }

    /// Places have been reserved: so many for each of these endpoints, which had some in memory and a part of these with a
    /// promised slot. So many slots were free before, and promised to nobody.
    ///
    /// # Panics
    /// When they must not be.
    pub(super) fn reserved(
        &self,
        all: &[(EndpointId, usize, (usize, usize))],
        free: usize,
        now: Monotonic,
    ) {
        let is_slow = |id: EndpointId| {
            let always = self.tried.get(&id) == Some(&true) && !self.changed.contains(&id);
            let is_long = |it: &SimFlight| it.endpoint == id && now.since(it.began) > SLOW;
            always || self.flights.iter().any(is_long)
        };
        let slow = all.iter().filter(|(id, ..)| is_slow(*id)).map(|(_, count, _)| count);
        let slow: usize = slow.sum();
        assert!(slow <= free.saturating_sub(RESERVE), "slow endpoints take the reserve");
        for (id, count, (held, promised)) in all {
            let is_first = self.tried.contains_key(id) || held + count <= 1;
            assert!(
                is_first || free + promised > RESERVE,
                "more than one slot of the reserve: {id}"
            );
        }
    }

    /// An attempt has ended. `version` is that of the endpoint in the store.
    pub(super) fn end(
        &mut self,
        held: &Held,
        version: u64,
        signal: AttemptSignal,
        gone: bool,
        now: Monotonic,
    ) {
        let index = self.flights.iter().position(|flight| flight.delivery == held.id);
        let flight = self.flights.swap_remove(index.expect("it began"));
        *self.tried.entry(flight.endpoint).or_insert(true) &= now.since(flight.began) > SLOW;
        let record = self.records.entry(flight.endpoint).or_default();
        // A success that began before the pause says nothing about it.
        let ends_pause = flight.is_probe || record.paused_until.is_none();
        if signal == AttemptSignal::Success && ends_pause {
            (record.failures, record.paused_until) = (0, None);
            record.is_unclear = flight.version != version;
            record.may_be_held &= !flight.is_probe;
        }
        if flight.version != version {
            return;
        }
        if gone {
            record.gone_until = Some(now.plus(GONE));
        }
        if let AttemptSignal::Failure { hold } = signal {
            let held_until = hold.map(|hold| now.plus(hold));
            record.failures += 1;
            let is_down = record.failures >= FAILURES && !record.is_unclear;
            let is_down = is_down && record.paused_until.is_none();
            let down_until = is_down.then(|| now.plus(PAUSE));
            record.paused_until = record.paused_until.max(held_until).max(down_until);
        }
    }

    /// Whether nothing may wait in memory for an endpoint after an attempt at it has ended.
    pub(super) fn is_paused(&self, endpoint: EndpointId) -> bool {
        self.records.get(&endpoint).is_some_and(|record| record.paused_until.is_some())
    }

    /// Whether an endpoint may be paused: by what was seen of it, or by what cannot be told.
    pub(super) fn may_be_paused(&self, endpoint: EndpointId) -> bool {
        let record = self.records.get(&endpoint).copied().unwrap_or_default();
        record.is_unclear || record.may_be_held || record.paused_until.is_some()
    }

    /// An endpoint has changed: what was seen of it no longer counts. One that has moved starts afresh; of another,
    /// nobody can tell.
    pub(super) fn forget(&mut self, endpoint: EndpointId, is_moved: bool) {
        self.changed.insert(endpoint);
        let (is_unclear, may_be_held) = (!is_moved, !is_moved);
        self.records.insert(endpoint, SimRecord { is_unclear, may_be_held, ..<_>::default() });
    }
}
