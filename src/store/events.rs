//! Events, and the fan-out to deliveries.

use std::sync::Arc;

use super::engine::{Engine, Tx};
use super::{Store, StoreError, on_engine};
use crate::domain::{
    Actor, DeliveryId, EndpointId, Event, EventFilter, EventId, Lease, LeasedDelivery, OrgId, Page,
    PageRequest, Timestamp,
};

/// Events that are stored in a transaction which others need not mind, weighed by [`weight`].
pub const SHORT_WEIGHT_MAX: usize = 64;
/// Bytes of payload that take as long to store as an event's rows, about.
pub(super) const PAYLOAD_BYTES_WEIGHED: usize = 4 * 1024;

/// How long it takes to store some events, in events with small payloads.
pub fn weight<'a>(events: impl IntoIterator<Item = &'a Arc<Event>>) -> usize {
    events.into_iter().map(|event| 1 + event.payload.len() / PAYLOAD_BYTES_WEIGHED).sum()
}

/// What became of a batch of events.
#[derive(Debug, Default)]
pub struct Persisted {
    /// Events from the first on that this is about. Fewer than the batch has when a store with one writer
    /// broke off for somebody who waits for it: the others are as they were, to be given again.
    pub taken: usize,
    /// Events that became a row now.
    pub stored: usize,
    /// Events that were dropped: their `dedup_id` was taken by another one, or they were stored before.
    pub duplicates: usize,
    /// Events that were dropped: their organisation is being deleted.
    pub dropped: usize,
    /// Deliveries that were planned, leased ones included.
    pub planned: usize,
    /// The planned deliveries that the caller holds the lease of, at most as many as it had room for.
    pub leased: Vec<LeasedDelivery>,
}

impl Persisted {
    /// Counts in what became of the events behind.
    pub(super) fn add(&mut self, more: Self) {
        self.taken += more.taken;
        self.stored += more.stored;
        self.duplicates += more.duplicates;
        self.dropped += more.dropped;
        self.planned += more.planned;
        self.leased.extend(more.leased);
    }
}

/// Room for deliveries that the caller could start at once.
#[derive(Clone, Copy, Debug)]
pub struct LeaseBudget<'a> {
    /// The lease to plan them under.
    pub lease: Lease,
    /// How many at most.
    pub deliveries_max: usize,
    /// Endpoints whose deliveries are not leased, in ascending order.
    pub except: &'a [EndpointId],
}

/// Why no delivery was planned to an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanRefusal {
    /// There is no such endpoint.
    NotFound,
    /// It is disabled.
    EndpointDisabled,
}

impl Store {
    /// Stores events of the server's own and plans their deliveries, within a transaction. Those that
    /// nobody subscribes to are dropped.
    pub(super) async fn publish(
        &self,
        tx: &mut Tx<'_>,
        events: Vec<Arc<Event>>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.publish(tx.sqlite()?, events, now).await,
            Engine::Postgres(engine) => engine.publish(tx.postgres()?, events, now).await,
        }
    }

    /// Stores events and plans one delivery for every enabled endpoint that wants them, leased as far
    /// as there is room; ordered ones never are.
    ///
    /// Storing an event again changes nothing. Of the events of one organisation with one
    /// `dedup_id` whose `received_at` lie less than the dedup window apart, the one that is stored
    /// first is kept. `now` is written as the time the deliveries were planned. It may take the first of
    /// the events only, one at least ([`Persisted::taken`]).
    ///
    /// # Errors
    /// [`StoreError::Refused`] when one of the events is at fault; then none is stored, and the
    /// caller splits the batch to find it.
    pub async fn persist_events_across_orgs(
        &self,
        events: &[Arc<Event>],
        room: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError> {
        on_engine!(self, persist_events_across_orgs(events, room, now))
    }

    /// Those of `orgs` that have an ordered endpoint, in ascending order. Their events are to be
    /// persisted in the order they were accepted.
    pub async fn ordered_orgs_across_orgs(&self, orgs: &[OrgId]) -> Result<Vec<OrgId>, StoreError> {
        on_engine!(self, ordered_orgs_across_orgs(orgs))
    }

    /// Stores an event that is new and plans one delivery of it, to this endpoint whatever its
    /// filters say and to no other. It is due at `now`.
    pub async fn plan_event(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        event: &Arc<Event>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<DeliveryId, PlanRefusal>, StoreError> {
        on_engine!(self, plan_event(org, endpoint, event, by, now))
    }

    /// Puts an event that the store refuses among the dead letters, `record` being the event in the
    /// journal's form. Doing it again changes nothing.
    pub async fn quarantine_event(
        &self,
        org: OrgId,
        event: EventId,
        record: &[u8],
        detail: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        on_engine!(self, quarantine_event(org, event, record, detail, now))
    }

    /// One event.
    pub async fn event(&self, org: OrgId, id: EventId) -> Result<Option<Event>, StoreError> {
        on_engine!(self, event(org, id))
    }

    /// The organisation's events that pass the filter.
    pub async fn events(
        &self,
        org: OrgId,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, StoreError> {
        on_engine!(self, events(org, filter, page))
    }
}
