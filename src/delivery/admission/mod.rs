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
//!   that new ones do not overtake old ones for ever. New ones have half of a quick endpoint's queue, which saves
//!   them a claim, and start at once while nothing of the endpoint is in memory.
//! - Slots, places and bytes are shared out by dynamic thresholds (`shares`), and organisations are served in
//!   round-robin order, and within each its endpoints. Bytes are reserved like places: at the offer by the size of the
//!   payload, at a grant by what the claim may bring.
//! - A delivery that does not fit ([`Wanted`]) goes first: its organisation gets nothing that takes the room for it.
//!   One that is larger than the share of an organisation with nothing in memory is counted apart, one at a time.
//! - One slot in [`RESERVE_SHARE`] is kept from slow endpoints. An endpoint that is not known to be quick gets one
//!   of these at most.
//! - An open breaker, a rate limit and a disabled endpoint hold deliveries in the store. What was requested by
//!   hand is held by none but the last, one at a time.
//! - Nothing starts for an organisation whose endpoints have changed until the change is known here
//!   ([`Admission::endpoints_changed`]).
//!
//! **Invariant:** at most `slots` are in flight, and at most `places` and `bytes` are in memory, those that are only
//! reserved included, and beside them one delivery that is counted apart, and what was requested by hand. Deliveries to one endpoint start in the order in which they came.

mod changes;
mod claims;
mod endpoint_state;
mod payload_bytes;
mod places;
mod queue;
mod shares;

#[cfg(test)]
mod byte_tests;
#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod manual_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::breaker::AttemptKind;
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;

use endpoint_state::EndpointState;

pub(super) use claims::{Granted, Target};
pub(super) use places::Reserved;
#[cfg(test)]
pub(super) use tests::endpoint;

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
    /// A delivery that is not valid any more. Its lease lapses.
    Dropped,
}

/// A slot in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    pub(super) org: OrgId,
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
    /// What became of the endpoint's breaker, if it changed.
    pub(super) breaker: Option<BreakerChange>,
}

/// The end of an attempt has changed a breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BreakerChange {
    /// It holds back attempts from now on.
    Opened,
    /// It holds back none any more.
    Closed,
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
    behind: BTreeSet<EndpointId>,
    /// The changes of the endpoints of organisations that changed lately.
    changes: HashMap<OrgId, Applied>,
    /// The deliveries that did not fit, of each organisation the first.
    wanted: HashMap<OrgId, Wanted>,
    /// The organisation whose bytes in memory were last counted apart.
    apart: Option<OrgId>,
    /// The last endpoint that a claim was for. The next claim begins after it.
    claimed_last: Option<EndpointId>,
    /// When something that waits may start, as of the last look.
    held_until: Option<Monotonic>,
    total: Totals,
    /// The number of endpoints at which idle ones are forgotten.
    forget_at: usize,
    /// Whether nothing is taken or started any more.
    is_closed: bool,
}

/// Which changes of an organisation's endpoints are applied.
#[derive(Clone, Copy, Debug)]
struct Applied {
    /// All up to this version.
    version: u64,
    /// Whether one that could not be read came later.
    has_unknown: bool,
}

/// A due delivery in the store that is larger than what its organisation could get.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    endpoint: EndpointId,
    bytes: usize,
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
    /// Bytes of payloads, those that are reserved included.
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
            behind: BTreeSet::new(),
            changes: HashMap::new(),
            wanted: HashMap::new(),
            apart: None,
            claimed_last: None,
            held_until: None,
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

    /// Endpoints whose breakers are open.
    pub(super) fn open_breakers(&self) -> usize {
        self.endpoints.values().filter(|state| state.breaker.is_open()).count()
    }

    /// Endpoints whose breakers are open, at most so many.
    pub(super) fn paused(&self, most: usize) -> Vec<EndpointId> {
        let paused = self.endpoints.iter().filter(|(_, state)| state.breaker.is_open());
        paused.map(|(id, _)| *id).take(most).collect()
    }

    /// Until when attempts to an endpoint are held back by its breaker; `None` when they are not.
    pub(super) fn paused_until(&self, endpoint: EndpointId, now: Monotonic) -> Option<Monotonic> {
        self.endpoints.get(&endpoint)?.breaker.paused_until(now)
    }

    /// An endpoint that is known.
    pub(super) fn endpoint(&self, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.endpoints.get(&id).map(|state| Arc::clone(&state.endpoint))
    }
}
