//! Claiming: which deliveries are attempted next, and under whose lease.
//!
//! A claim first finds, without locks, the endpoints with due deliveries (`due_scan`, by what `due_index`
//! finds); its caller grants each so many; and then it leases what is due of theirs. The lease is hot and has one
//! text per engine, `sqlite` and `postgres`. What is leased can be given back (`leases`).
//!
//! Nothing is leased of an endpoint that is disabled or removed, or whose owner fetches its events, and nothing that
//! is being cancelled. A row's order is void when its endpoint is no longer ordered.

mod due_index;
mod due_scan;
mod lease_walk;
mod leases;
mod postgres;
mod single;
mod sqlite;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::engine::{Engine, Row};
use super::events::{EventKey, EventOfDelivery, EventsOfDeliveries};
use super::{Result, System, retention, timed};
use crate::domain::{DeliveryId, EndpointId, Event, Lease, OrgId, Timestamp};
use crate::store::metrics::DbOperation;

pub(super) use due_index::{head, is_ordered, pending};
pub use due_scan::{ClaimCursor, DueEndpoint, DueEndpoints};
pub use lease_walk::LeaseCursor;
pub use single::ReadableDeliveries;

/// How many deliveries of an endpoint may be leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseGrant {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its organisation.
    pub org: OrgId,
    /// Whether this is about the oldest of its ordered deliveries, instead of about those in any order.
    pub ordered: bool,
    /// How many, at most; of ordered deliveries, one.
    pub deliveries_max: usize,
    /// Bytes of their payloads together, at most.
    pub bytes_max: usize,
}

/// A delivery that a claim has leased.
#[derive(Clone, Debug)]
pub struct ClaimedDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// The event, shared by all its deliveries.
    pub event: Arc<Event>,
    /// The endpoint it goes to.
    pub endpoint_id: EndpointId,
    /// Earlier attempts.
    pub attempts: u32,
    /// Whether it is the oldest of an ordered endpoint, whose next one waits for its outcome.
    pub ordered: bool,
    /// The lease.
    pub lease: Lease,
}

/// What a claim has leased.
#[derive(Clone, Debug, Default)]
pub struct ClaimedDeliveries {
    /// The deliveries, the longest due first.
    pub deliveries: Vec<ClaimedDelivery>,
    /// The bytes of the first delivery of an endpoint that was not leased because it did not fit.
    pub too_large: HashMap<EndpointId, usize>,
}

impl System<'_> {
    /// How many deliveries are to be leased, or planned, in one transaction at most. On SQLite every other transaction
    /// waits for it, so it is fewer while others come.
    pub fn deliveries_at_once(self) -> usize {
        self.0.engine.rows_at_once()
    }

    /// Endpoints with deliveries that are due at `now` and may be leased, from where the last look of the round
    /// stopped. It takes no locks, and costs the same whatever waits in the store.
    pub async fn due_endpoints(self, from: ClaimCursor, now: Timestamp) -> Result<DueEndpoints> {
        let look = due_scan::find(&*self.0.engine, from, now);
        timed(&self.0.metrics, DbOperation::ClaimDeliveries, look).await
    }

    /// [`Self::due_endpoints`] where that fails although the store can be reached, as where a page of deliveries is damaged:
    /// every endpoint that something is sent to, whether something is due or not.
    pub async fn endpoints_maybe_due(self, from: ClaimCursor) -> Result<DueEndpoints> {
        let engine = &*self.0.engine;
        due_scan::find_any(|after| due_index::enabled(engine, after), from).await
    }

    /// Leases deliveries that are due at `now`, of each endpoint at most as many, and as many bytes, as granted, those that
    /// are due longest first. Two callers never hold one delivery. Of ordered deliveries to one endpoint only the oldest is
    /// leased, and only while no other one is.
    ///
    /// A delivery whose event cannot be read is left out, with an error in the log; it is not claimed again
    /// before the lease ends. One whose event is not kept any more, or has no payload, becomes a dead letter.
    pub async fn lease_deliveries(
        self,
        grants: &[LeaseGrant],
        lease: Lease,
        now: Timestamp,
    ) -> Result<ClaimedDeliveries> {
        if grants.iter().all(|grant| grant.deliveries_max == 0) {
            return Ok(ClaimedDeliveries::default());
        }
        let claim = async {
            let request = LeaseRequest { grants, lease, now };
            match &*self.0.engine {
                // Boxed: they are large, and would be moved from one caller's future to the next.
                Engine::Sqlite(_) => Box::pin(sqlite::lease(&self.0.engine, request)).await,
                Engine::Postgres(_) => Box::pin(postgres::lease(&self.0.engine, request)).await,
            }
        };
        let claimed = timed(&self.0.metrics, DbOperation::ClaimDeliveries, claim).await?;
        retention::expire_missing(self.0, claimed.without_event, Some(lease.token), now).await;
        Ok(claimed.claimed)
    }
}

/// The parameters of a claim.
#[derive(Clone, Copy)]
struct LeaseRequest<'a> {
    grants: &'a [LeaseGrant],
    lease: Lease,
    now: Timestamp,
}

impl LeaseRequest<'_> {
    /// The grants for ordered deliveries, or for the others.
    fn grants(&self, ordered: bool) -> impl Iterator<Item = LeaseGrant> {
        let is_meant =
            move |grant: &&LeaseGrant| grant.ordered == ordered && grant.deliveries_max > 0;
        self.grants.iter().filter(is_meant).copied()
    }
}

/// What a claim has leased.
#[derive(Default)]
struct Claimed {
    claimed: ClaimedDeliveries,
    /// Those whose event is not kept any more.
    without_event: Vec<(OrgId, DeliveryId)>,
}

/// The rows that a claim has leased.
#[derive(Default)]
struct LeasedRows {
    rows: Vec<LeasedRow>,
    /// See [`ClaimedDeliveries::too_large`].
    too_large: HashMap<EndpointId, usize>,
}

/// A row that a claim has leased.
struct LeasedRow {
    org: OrgId,
    id: DeliveryId,
    event: EventKey,
    endpoint_id: EndpointId,
    attempts: u32,
    ordered: bool,
    was_due_at: Timestamp,
}

impl LeasedRow {
    /// Reads `org_id`, `id`, `event_id`, `event_received_at`, `endpoint_id`, `attempts`, `ordered` and `was_due_at`.
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            org: row.get("org_id")?,
            id: row.get("id")?,
            event: (row.get("event_id")?, row.get("event_received_at")?),
            endpoint_id: row.get("endpoint_id")?,
            attempts: row.get("attempts")?,
            ordered: row.get("ordered")?,
            was_due_at: row.get("was_due_at")?,
        })
    }
}

/// What was read of a row; `None` with an error in the log where it cannot be read.
fn if_readable<T>(read: Result<T>) -> Option<T> {
    read.inspect_err(|error| tracing::error!(%error, "cannot read a due delivery; it waits")).ok()
}

/// The events of some deliveries, each once, in key order.
fn event_keys(leased: &[LeasedRow]) -> Vec<EventKey> {
    let keys: HashSet<EventKey> = leased.iter().map(|row| row.event).collect();
    let mut keys: Vec<EventKey> = keys.into_iter().collect();
    keys.sort_unstable();
    keys
}

/// The deliveries of leased rows, the longest due first, with the events read from `events`.
fn claimed(leased: LeasedRows, events: &[Row], lease: Lease) -> Claimed {
    let LeasedRows { rows: mut leased, too_large } = leased;
    leased.sort_by_key(|row| (row.was_due_at, row.id));
    let events = EventsOfDeliveries::read(events);
    let mut claimed = Claimed::default();
    claimed.claimed.too_large = too_large;
    for row in leased {
        let LeasedRow { org, id, event, endpoint_id, attempts, ordered, was_due_at: _ } = row;
        match events.get(&event) {
            EventOfDelivery::Kept(event) => {
                let event = Arc::clone(event);
                let delivery = ClaimedDelivery { id, event, endpoint_id, attempts, ordered, lease };
                claimed.claimed.deliveries.push(delivery);
            }
            EventOfDelivery::Gone => claimed.without_event.push((org, id)),
            EventOfDelivery::Unreadable => {
                tracing::error!(delivery = %id, event = %event.0, "a delivery's event is missing");
            }
        }
    }
    claimed
}
