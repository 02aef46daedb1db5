//! Events, and the fan-out to deliveries.
//!
//! Persisting a batch is a hot path with one text per engine, `sqlite` and `postgres`; `plan` decides for
//! both which deliveries events need, for the endpoints that `org_endpoints` reads and `endpoint_changes` updates, and
//! which events may be stored together.

mod by_id;
mod copies;
mod endpoint_changes;
mod endpoints_by_type;
mod late;
mod locked_orgs;
mod of_deliveries;
mod org_endpoints;
mod payloads;
mod plan;
mod postgres;
mod postgres_sql;
mod sqlite;
mod sqlite_deltas;
mod subscription;
mod traces;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::columns::{Columns, columns};
use super::engine::{Dialect, Engine, Row, Tx, args};
use super::list_query::{ListQuery, Listed, PARAMETERS_BEFORE};
use super::maintenance::MissingDays;
use super::page::ListBounds;
use super::{AuditRecord, Result, Store, System, audit, changes, endpoints, storable, timed};
use crate::domain::{
    Actor, DeadReason, DeliveryId, EndpointId, EndpointKind, Event, EventFilter, EventId,
    EventSummary, Lease, LeasedDelivery, OrgId, Page, PageRequest, SpanId, Timestamp, TraceId,
};
use crate::store::metrics::DbOperation;
use plan::{DedupPass, PendingRow};

pub(super) use of_deliveries::{EventKey, EventOfDelivery, EventsOfDeliveries};

pub use copies::Copies;
pub use endpoint_changes::{ChangedEndpoint, EndpointsSince};
pub use org_endpoints::{OrgEndpoints, UnreadableEndpoint};
pub use plan::{PlannedDelivery, plan_deliveries};

/// The weight, by [`weight`], of the largest batch of events that counts as a short transaction.
pub const SHORT_WEIGHT_MAX: usize = 64;
/// Bytes of payload that take about as long to store as an event's rows.
const PAYLOAD_BYTES_WEIGHED: usize = 4 * 1024;

/// How long it takes to store an event with so many deliveries, in events with a small payload and one delivery.
pub fn weight(event: &Event, deliveries: usize) -> usize {
    deliveries.max(1) + event.payload.len() / PAYLOAD_BYTES_WEIGHED
}

/// A batch of events to store.
#[derive(Clone, Copy, Debug)]
pub struct EventBatch<'a> {
    /// The events, in the order in which they were accepted. The caller bounds them, see [`weight`].
    pub events: &'a [Arc<Event>],
    /// The endpoints that `deliveries` were planned for.
    pub endpoints: &'a HashMap<OrgId, Arc<OrgEndpoints>>,
    /// Their deliveries, by [`plan_deliveries`].
    pub deliveries: &'a [PlannedDelivery],
    /// The lease of those that are to be leased.
    pub lease: Option<Lease>,
}

impl EventBatch<'_> {
    /// The sum of the weights of its events, by [`weight`], or a little more.
    fn weight(&self) -> usize {
        let of_events: usize = self.events.iter().map(|event| weight(event, 1)).sum();
        of_events + self.deliveries.len().saturating_sub(self.events.len())
    }

    /// Whether an organisation's erasures, which reach until `erased_until`, may cover one of its events.
    fn is_reached(&self, org: OrgId, erased_until: Option<Timestamp>) -> bool {
        let covers = |event: &Arc<Event>, until| event.org_id == org && event.received_at <= until;
        erased_until.is_some_and(|until| self.events.iter().any(|event| covers(event, until)))
    }
}

/// The result of persisting a batch of events.
#[derive(Debug, Default)]
pub struct Persisted {
    /// Events that were stored as new rows.
    pub stored: usize,
    /// Events that were dropped: their `dedup_id` belongs to another one, or they were stored before.
    pub duplicates: usize,
    /// Events that were dropped: their organisation is being deleted, or they were erased.
    pub dropped: usize,
    /// Deliveries that were stored, leased ones included.
    pub planned: usize,
    /// The deliveries whose lease the caller holds.
    pub leased: Vec<LeasedDelivery>,
    /// Organisations whose endpoints had changed, as they are now. They were planned again, and nothing of theirs
    /// is leased.
    pub stale: Vec<(OrgId, Arc<OrgEndpoints>)>,
}

/// Why no delivery was planned to an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanRefusal {
    /// There is no such endpoint.
    NotFound,
    /// It is disabled.
    EndpointDisabled,
    /// It is an inbox: nothing is sent to it.
    Inbox,
}

/// The columns of an event, in the order in which the engines' INSERT statements have them.
pub(super) const COLUMNS: Columns<12> = columns! {
    id org_id event_type payload dedup_id account_id user_id occurred_at received_at
    trace_id trace_text accept_span
};

/// The events, as a table `e` with [`COLUMNS`]: in PostgreSQL with those that are held for pending deliveries although
/// their day was dropped. A condition on the key reaches both.
pub(super) fn with_held(dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => "events e".to_owned(),
        Dialect::Postgres => {
            format!("(SELECT {COLUMNS} FROM events UNION ALL SELECT {COLUMNS} FROM held_events) e")
        }
    }
}

/// Reads [`COLUMNS`]. `id` names the column of the id, which a join calls otherwise.
pub(super) fn read(row: &Row, id: &str) -> Result<Event> {
    let payload: Vec<u8> = row.get("payload")?;
    Ok(Event {
        id: row.get(id)?,
        org_id: row.get("org_id")?,
        event_type: row.parse("event_type")?,
        payload: payload.into(),
        dedup_id: row.get_opt("dedup_id")?,
        account_id: row.get_opt("account_id")?,
        user_id: row.get_opt("user_id")?,
        occurred_at: row.get_opt("occurred_at")?,
        received_at: row.get("received_at")?,
        trace_id: read_trace(row)?,
        accept_span: read_accept_span(row)?,
    })
}

/// Reads the column of the span. Bytes that are no span id count as none: the trace is then not recorded further.
fn read_accept_span(row: &Row) -> Result<Option<SpanId>> {
    let bytes: Option<Vec<u8>> = row.get_opt("accept_span")?;
    Ok(bytes.and_then(|bytes| SpanId::from_bytes(bytes.try_into().ok()?)))
}

/// Reads the two columns of a trace id.
fn read_trace(row: &Row) -> Result<TraceId> {
    let (id, text): (Uuid, Option<String>) = (row.get("trace_id")?, row.get_opt("trace_text")?);
    Ok(TraceId::from_parts(id.into_bytes(), text.as_deref()))
}

impl Store {
    /// Stores an event that is new and plans one delivery of it, to this endpoint whatever its
    /// filters say and to no other. It is due at once.
    pub async fn plan_event(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        event: &Arc<Event>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<DeliveryId, PlanRefusal>> {
        let mut days = MissingDays::default();
        loop {
            match self.plan_once(org, endpoint, event, by, now).await {
                Err(error) if days.make(self, &error).await? => {}
                planned => return planned,
            }
        }
    }

    async fn plan_once(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        event: &Arc<Event>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<DeliveryId, PlanRefusal>> {
        let mut tx = self.begin_in(org).await?;
        let lock = tx.dialect().lock(" FOR SHARE");
        let sql = format!(
            "SELECT {} FROM endpoints
             WHERE id = $1 AND org_id = $2 AND removed_at IS NULL{lock}",
            endpoints::COLUMNS
        );
        let read = |row: &Row| endpoints::read(row, &self.keyring);
        let Some(endpoint) = tx.find(sql, args![endpoint, org], read).await? else {
            return Ok(Err(PlanRefusal::NotFound));
        };
        if endpoint.kind == EndpointKind::Pull {
            return Ok(Err(PlanRefusal::Inbox));
        }
        if endpoint.disabled_reason.is_some() {
            return Ok(Err(PlanRefusal::EndpointDisabled));
        }
        let (id, ordered) = (DeliveryId::mint(event.received_at), endpoint.policy.ordered);
        let (endpoint, leased, is_pull) = (endpoint.id, false, false);
        let row = PendingRow { id, event, endpoint, ordered, leased, is_pull };
        let kept = self.event_retention;
        insert_new(&mut tx, vec![Arc::clone(event)], &[row], self.due(now), kept).await?;
        let logged = self.logged_events(std::slice::from_ref(event));
        changes::log(&mut tx, logged, self.due(now)).await?;
        audit::commit(tx, &AuditRecord::endpoint_tested(endpoint, event, id), by, now).await?;
        Ok(Ok(id))
    }

    /// Adds an event that the store refuses to the dead letters; `record` is the event in the
    /// journal's form. Repeating it changes nothing.
    pub async fn quarantine_event(
        &self,
        org: OrgId,
        event: EventId,
        record: &[u8],
        detail: &str,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.engine.begin().await?;
        let lock = tx.dialect().lock(" FOR KEY SHARE");
        let sql = format!(
            "WITH org AS (SELECT deleting_since FROM orgs WHERE id = $2{lock})
             INSERT INTO dead_letters (id, org_id, event_id, reason, detail, record, created_at)
             SELECT $1, $2, $1, $3, $4, $5, $6
             WHERE NOT EXISTS (SELECT 1 FROM org WHERE deleting_since IS NOT NULL)
             ON CONFLICT (id) DO NOTHING"
        );
        let reason = DeadReason::Unstorable.as_str();
        let args = args![event, org, reason, storable(detail), record, now];
        if tx.execute(sql, args).await? > 0 {
            changes::log(&mut tx, self.logged_refusal(org, event, now), self.due(now)).await?;
        }
        tx.commit().await
    }

    /// One event.
    pub async fn event(&self, org: OrgId, id: EventId) -> Result<Option<Event>> {
        self.newest_event(org, id, &COLUMNS.to_string(), |row| read(row, "id")).await
    }

    /// One event, if an event with its dedup id that is accepted `now` is a duplicate of it.
    pub async fn event_within_window(
        &self,
        org: OrgId,
        id: EventId,
        now: Timestamp,
    ) -> Result<Option<Event>> {
        let window = self.dedup_window;
        let is_within = |event: &Event| {
            now.since(event.received_at) < window && event.received_at.since(now) < window
        };
        Ok(self.event(org, id).await?.filter(is_within))
    }

    /// The organisation's events that pass the filter, without their payloads.
    pub async fn events(
        &self,
        org: OrgId,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<EventSummary>> {
        let EventFilter { event_type, account_id, user_id, dedup_id, since, until, trace } = filter;
        let labels = [account_id, user_id, dedup_id].into_iter().flatten();
        if labels.clone().any(|label| label.contains('\0')) {
            // No event has a NUL there, and PostgreSQL takes none as a parameter.
            return Ok(Page { data: Vec::new(), next_cursor: None });
        }
        let listed =
            Listed { table: "events", at: "received_at", by_type: "events_by_type", by_day: true };
        let bounds = ListBounds { order: page.order, since: *since, until: *until };
        let mut query =
            ListQuery::new(self.engine.dialect(), listed, org, bounds, PARAMETERS_BEFORE);
        query.event_type(event_type.as_ref());
        query.equal("account_id", "events_by_account", account_id.as_deref());
        query.equal("user_id", "events_by_user", user_id.as_deref());
        let of_dedup_id = dedup_id.as_deref().map(|text| EventId::from_dedup_id(org, text));
        query.equal_unscoped("id", None, of_dedup_id);
        traces::filter(&mut query, self.engine.dialect(), trace.as_ref());
        query.page(self, payloads::SUMMARY_COLUMNS, page, payloads::read_summary).await
    }

    /// Stores operational events that some endpoint subscribes to and plans their deliveries, in the
    /// transaction of the change they report.
    pub(super) async fn publish(
        &self,
        tx: &mut Tx<'_>,
        events: Vec<Arc<Event>>,
        now: Timestamp,
    ) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let endpoints = org_endpoints::load(tx, &self.keyring, &plan::orgs_of(&events)).await?;
        let is_wanted =
            |event: &Event| endpoints.get(&event.org_id).is_some_and(|known| known.want(event));
        let wanted: Vec<_> = events.into_iter().filter(|event| is_wanted(event)).collect();
        let planned = plan_deliveries(&wanted, &endpoints);
        let mut rows: Vec<_> = planned.iter().map(|new| PendingRow::of(new, false)).collect();
        rows.extend(plan::unreadable_rows(&wanted, &endpoints));
        changes::log(tx, self.logged_events(&wanted), self.due(now)).await?;
        insert_new(tx, wanted.clone(), &rows, self.due(now), self.event_retention).await
    }
}

/// Inserts events that are new and have no dedup id, and deliveries of them, due at `now`.
async fn insert_new(
    tx: &mut Tx<'_>,
    events: DedupPass,
    rows: &[PendingRow<'_>],
    now: Timestamp,
    kept: Option<Duration>,
) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    match tx {
        Tx::Sqlite(tx, _) => sqlite::insert_new(tx, &events, rows, now, kept).await,
        Tx::Postgres(tx) => postgres::insert_new(tx, &events, rows, now, kept).await,
    }
}

impl System<'_> {
    /// Stores a batch of events with its deliveries, in one transaction. Deliveries are stored for the events that
    /// are new.
    ///
    /// The endpoints that count are those of this transaction: an organisation whose endpoints have another version
    /// than in the batch, or which the batch does not know, is planned again here
    /// ([`Persisted::stale`]).
    ///
    /// Storing an event again changes nothing. Of the events of one organisation with one
    /// `dedup_id` whose `received_at` lie less than the dedup window apart, the one that is stored
    /// first is kept; the store compares with the latest one that it has. Unleased deliveries are due at `now`.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when one of the events is at fault; then none is stored, and the
    /// caller splits the batch to find it.
    pub async fn persist_events(self, batch: EventBatch<'_>, now: Timestamp) -> Result<Persisted> {
        if batch.events.is_empty() {
            return Ok(Persisted::default());
        }
        let mut days = MissingDays::default();
        let received = || batch.events.iter().map(|event| event.received_at);
        let persist = async {
            match &*self.0.engine {
                // Boxed: they are large, and would be moved from one caller's future to the next.
                Engine::Sqlite(engine) => Box::pin(self.0.persist_sqlite(engine, batch, now)).await,
                Engine::Postgres(engine) => loop {
                    match Box::pin(self.0.persist_postgres(engine, batch, now)).await {
                        Err(error) if days.make_all(self.0, &error, received()).await? => {}
                        persisted => break persisted,
                    }
                },
            }
        };
        let persisted = timed(&self.0.metrics, DbOperation::PersistEvents, persist).await?;
        if persisted.duplicates > 0
            && let Err(error) = copies::count(&self.0.engine, batch.events).await
        {
            tracing::debug!(%error, "duplicates were not counted");
        }
        Ok(persisted)
    }
}
