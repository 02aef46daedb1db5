//! Inboxes: what consumers receive, settle and give back.
//!
//! What waits in an inbox are pending deliveries like those of webhooks, planned with their events. Nothing sends
//! them: a consumer receives them, and settles each by the id of its event.
//!
//! # Operation
//! - To receive a delivery is to hide it: `due_at` moves to the end of the visibility time, and `attempts` counts. No
//!   lease token is set, so a delivery that is not settled in time is back without anybody's doing, and the restart of a
//!   server changes nothing.
//! - To settle one moves it to the finished deliveries. That needs no valid lease, only that it was received once.
//! - One that was received `max_receives` times is leased to the server that finds it, which records it as dead like
//!   the delivery of a webhook.
//!
//! Receiving and settling are hot paths with a text per engine, `sqlite` and `postgres`. `lifecycle` opens and pauses
//! inboxes, `status` tells what became of an event.

mod counts;
mod lifecycle;
mod postgres;
mod settle;
mod sqlite;
mod status;
mod types;

use std::sync::Arc;

use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use uuid::Uuid;

use super::engine::{Dialect, Engine, Row, args};
use super::events::{EventKey, EventOfDelivery, EventsOfDeliveries};
use super::{Result, Store, claims, events, retention, timed};
use crate::domain::{
    DeadReason, Decision, DeliveryId, EndpointId, EventId, EventLabels, EventTypeFilter, Inbox,
    Lease, OrgId, Outcome, ReceivedEvent, Timestamp,
};
use crate::store::metrics::DbOperation;
use crate::store::rollups::{LabelsByEvent, labels_statement, read_labels_row};

pub use lifecycle::InboxLookup;
pub use status::InboxBacklog;

/// What an endpoint `p` must be for anything to be received from it.
const IS_READ: &str = "p.kind = 'pull' AND p.disabled_reason IS NULL AND p.removed_at IS NULL";

/// What a consumer asks for.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveRequest<'a> {
    /// The inbox.
    pub inbox: &'a Inbox,
    /// Events at most; of an ordered inbox, one.
    pub events_max: u32,
    /// Bytes of payloads at most, unless it is one event.
    pub bytes_max: usize,
    /// Only events of this type.
    pub event_type: Option<&'a EventTypeFilter>,
    /// Until when what is received is hidden. Its token is for what was received too often.
    pub lease: Lease,
    /// What is due at this time may be received.
    pub now: Timestamp,
}

/// What a consumer gets.
#[derive(Debug, Default)]
pub struct ReceivedEvents {
    /// The events, those that have waited longest first.
    pub events: Vec<ReceivedEvent>,
    /// The outcomes of deliveries that were received too often, to be recorded.
    pub exhausted: Vec<Outcome>,
    /// Deliveries that became dead letters, because their event or its payload is no longer kept.
    pub expired: usize,
}

/// An event that a consumer settles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct InboxSettle {
    /// The consumer's organisation.
    pub org: OrgId,
    /// The inbox.
    pub inbox: EndpointId,
    /// The event.
    pub event: EventId,
}

impl InboxSettle {
    fn bind(&self, arguments: &mut SqliteArguments) -> Result<(), BoxDynError> {
        arguments.add(self.org.uuid())?;
        arguments.add(self.inbox.uuid())?;
        arguments.add(self.event.uuid())
    }
}

/// An event that was settled.
struct SettledRow {
    org: OrgId,
    id: DeliveryId,
    inbox: EndpointId,
    event: EventKey,
}

impl SettledRow {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            org: row.get("org_id")?,
            id: row.get("id")?,
            inbox: row.get("endpoint_id")?,
            event: (row.get("event_id")?, row.get("event_received_at")?),
        })
    }
}

/// The rows that a statement reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rows {
    /// Those of an inbox that is not ordered, also what was planned while it was.
    Unordered,
    /// Those of a type, whatever their order.
    OfType,
    /// Those of types with a prefix, type by type: what is in flight of one is not walked on the way to the next.
    OfPrefix,
    /// Those of a prefix with more types than are looked at, among the events that have waited longest.
    /// What was planned while the inbox was ordered, and what is being cancelled, is not among them: it is received once
    /// fewer types wait, or is gone soon.
    OfManyTypes,
    /// One of an ordered inbox that was planned before it was ordered, unless another one is in flight.
    BeforeOrdered,
    /// The oldest of an ordered inbox, unless another one is in flight.
    Head,
}

/// A delivery that a consumer has received, or that was received too often.
struct Leased {
    id: DeliveryId,
    event: EventKey,
    /// How often it was received, this time included.
    attempts: u32,
    was_due_at: Timestamp,
    /// Whether it was received too often.
    is_exhausted: bool,
}

impl Store {
    /// Receives events from an inbox. Two callers never get one event before its visibility time is over. Of an ordered
    /// inbox it is the oldest event, and only while no other one is in flight. What waited before an inbox became ordered
    /// comes first, one at a time as well.
    ///
    /// Nothing is received from an inbox that is disabled or removed. An event that cannot be read is left out, with an
    /// error in the log: it is looked at again after its visibility time.
    pub async fn receive(&self, org: OrgId, request: ReceiveRequest<'_>) -> Result<ReceivedEvents> {
        let receive = async {
            let leased = match &*self.engine {
                Engine::Sqlite(_) => Box::pin(sqlite::lease(&self.engine, org, request)).await?,
                Engine::Postgres(engine) => {
                    Box::pin(postgres::lease(&self.engine, engine, org, request)).await?
                }
            };
            self.received(org, request, leased).await
        };
        timed(&self.metrics, DbOperation::ReceiveEvents, receive).await
    }

    /// The events of leased deliveries.
    async fn received(
        &self,
        org: OrgId,
        request: ReceiveRequest<'_>,
        mut leased: Vec<Leased>,
    ) -> Result<ReceivedEvents> {
        leased.sort_unstable_by_key(|row| (row.was_due_at, row.id));
        let (exhausted, leased): (Vec<_>, Vec<_>) =
            leased.into_iter().partition(|row| row.is_exhausted);
        let exhausted = self.outcomes_of(&exhausted, org, request).await?;
        let kept = self.events_of(&leased).await?;
        let lease_expires_at = self.shown_time(request.lease.until);
        let (mut events, mut without_event) = (Vec::with_capacity(leased.len()), Vec::new());
        for Leased { id, event, attempts, .. } in leased {
            match kept.get(&event) {
                EventOfDelivery::Kept(event) => events.push(ReceivedEvent {
                    event: Arc::clone(event),
                    delivery_id: id,
                    receive_count: attempts,
                    lease_expires_at,
                }),
                EventOfDelivery::Gone => without_event.push((org, id)),
                EventOfDelivery::Unreadable => {}
            }
        }
        let expired = without_event.len();
        retention::expire_missing(self, without_event, None, request.now).await;
        Ok(ReceivedEvents { events, exhausted, expired })
    }

    /// The outcomes of deliveries that were received too often.
    async fn outcomes_of(
        &self,
        exhausted: &[Leased],
        org: OrgId,
        request: ReceiveRequest<'_>,
    ) -> Result<Vec<Outcome>> {
        let mut labels = LabelsByEvent::new();
        let events = exhausted.iter().map(|row| row.event);
        if let Some((sql, args)) = labels_statement(self.engine.dialect(), events) {
            labels.extend(self.engine.list(sql, args, read_labels_row).await?);
        }
        let outcome = |row: &Leased| row.outcome(org, request, labels.get(&row.event));
        Ok(exhausted.iter().map(outcome).collect())
    }

    /// The events of some deliveries, by their keys.
    async fn events_of(&self, leased: &[Leased]) -> Result<EventsOfDeliveries> {
        let times = || leased.iter().map(|row| row.event.1);
        let (Some(oldest), Some(newest)) = (times().min(), times().max()) else {
            return Ok(EventsOfDeliveries::read(&[]));
        };
        let sql = match self.engine.dialect() {
            Dialect::Sqlite => format!(
                "SELECT {} FROM (SELECT unhex(value) AS wanted FROM json_each($1)) k
                 CROSS JOIN events ON id = k.wanted
                 WHERE received_at BETWEEN $2 AND $3",
                events::COLUMNS
            ),
            // The span leaves the partitions of other days out.
            Dialect::Postgres => format!(
                "SELECT e.* FROM unnest($1::uuid[]) AS k (id)
                 CROSS JOIN LATERAL (
                     SELECT {} FROM events e WHERE e.id = k.id AND e.received_at BETWEEN $2 AND $3
                 ) e",
                events::COLUMNS
            ),
        };
        let mut ids: Vec<Uuid> = leased.iter().map(|row| row.event.0.uuid()).collect();
        ids.sort_unstable();
        ids.dedup();
        let wanted = ids.len();
        let mut rows = self.engine.all(sql, args![ids.clone(), oldest, newest]).await?;
        if rows.len() < wanted && self.engine.dialect() == Dialect::Postgres {
            // Those of days that were dropped are held apart.
            let sql = format!(
                "SELECT {} FROM held_events
                 WHERE id = ANY ($1) AND received_at BETWEEN $2 AND $3",
                events::COLUMNS
            );
            rows.extend(self.engine.all(sql, args![ids, oldest, newest]).await?);
        }
        Ok(EventsOfDeliveries::read(&rows))
    }

    /// Those of some inboxes from which something may be received at `now`. Of an ordered inbox it may still be
    /// nothing.
    pub async fn inboxes_due(
        &self,
        inboxes: &[EndpointId],
        now: Timestamp,
    ) -> Result<Vec<EndpointId>> {
        let dialect = self.engine.dialect();
        // In this form the index is used, also where all that waits is of one inbox.
        let due = |ordered: &str| {
            format!(
                "coalesce((SELECT d.due_at FROM {}
                           WHERE d.lease_token IS NULL AND d.endpoint_id = p.id
                             AND d.ordered = {ordered}
                           ORDER BY d.due_at LIMIT 1) <= $2, false)",
                claims::pending(dialect, "d", "pending_claims")
            )
        };
        let sql = format!(
            "SELECT p.id FROM endpoints p WHERE {} AND {IS_READ} AND ({} OR {})",
            dialect.any("p.id", "$1"),
            due("false"),
            due("true"),
        );
        let ids: Vec<Uuid> = inboxes.iter().map(|id| id.uuid()).collect();
        self.engine.list(sql, args![ids, now], |row| row.get("id")).await
    }
}

/// What is read, one after the other, until something is there.
fn rows_to_read(request: ReceiveRequest<'_>) -> &'static [Rows] {
    match (request.inbox.ordered, request.event_type) {
        (true, _) => &[Rows::BeforeOrdered, Rows::Head],
        (false, Some(EventTypeFilter::Exact(_))) => &[Rows::OfType],
        (false, Some(EventTypeFilter::Prefix(_))) => &[Rows::OfPrefix, Rows::OfManyTypes],
        (false, Some(EventTypeFilter::All) | None) => &[Rows::Unordered],
    }
}

/// The condition that at the time `$3` no consumer has an event of the inbox `$1`, and that none of its order is being
/// recorded as dead. Each part is a look into an index where only what is in flight is.
fn none_in_flight(dialect: Dialect) -> String {
    let hidden = |ordered: &str| {
        format!(
            "NOT EXISTS (SELECT 1 FROM {}
                         WHERE d.lease_token IS NULL AND d.endpoint_id = $1 AND d.ordered = {ordered}
                           AND d.due_at > $3 AND d.attempts > 0)",
            claims::pending(dialect, "d", "pending_claims"),
        )
    };
    let recorded = format!(
        "NOT EXISTS (SELECT 1 FROM {} WHERE {} AND d.lease_token IS NOT NULL AND d.endpoint_id = $1)",
        claims::pending(dialect, "d", "pending_ordered_leases"),
        claims::is_ordered(dialect),
    );
    format!("{} AND {} AND {recorded}", hidden("false"), hidden("true"))
}

impl Leased {
    /// Reads `id`, `event_id`, `event_received_at`, `attempts`, `was_due_at` and `is_exhausted`.
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            event: (row.get("event_id")?, row.get("event_received_at")?),
            attempts: row.get("attempts")?,
            was_due_at: row.get("was_due_at")?,
            is_exhausted: row.get("is_exhausted")?,
        })
    }

    /// The outcome of one that was received too often.
    fn outcome(
        &self,
        org: OrgId,
        request: ReceiveRequest<'_>,
        labels: Option<&EventLabels>,
    ) -> Outcome {
        Outcome {
            delivery_id: self.id,
            org_id: org,
            endpoint_id: request.inbox.id,
            endpoint_version: 0,
            event_received_at: self.event.1,
            labels: labels.cloned(),
            token: request.lease.token,
            attempt: None,
            decision: Decision::Dead(DeadReason::Exhausted),
            decided_at: request.now,
            disable_if_failing_since: Timestamp::from_micros(i64::MIN),
        }
    }
}
