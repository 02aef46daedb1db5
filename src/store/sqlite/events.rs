//! Events, and the planning of their deliveries.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, SqliteConnection};
use uuid::Uuid;

use super::{MultiRow, SqliteEngine, arguments, audit, id_list};
use crate::domain::{
    Actor, Cursor, DeadReason, DeliveryId, Endpoint, EndpointId, Event, EventFilter, EventId,
    LeasedDelivery, OrgId, Page, PageRequest, Timestamp,
};
use crate::store::audit::AuditRecord;
use crate::store::crypto::Keyring;
use crate::store::metrics::DbOperation;
use crate::store::plan::{self, Candidate, Endpoints};
use crate::store::rows::{self, endpoint_columns};
use crate::store::{
    LeaseBudget, Persisted, PlanRefusal, SHORT_WEIGHT_MAX, StoreError, timed, weight,
};

/// The statements of a batch.
#[derive(Debug)]
pub(crate) struct Writes {
    dedup_keys: MultiRow,
    /// The same again, telling which events hold their key: running it twice changes nothing.
    dedup_winners: MultiRow,
    events: MultiRow,
    deliveries: MultiRow,
}

impl Writes {
    pub(crate) fn new(dedup_window: Duration) -> Self {
        let window_micros = i64::try_from(dedup_window.as_micros()).unwrap_or(i64::MAX);
        let dedup_head = "INSERT INTO dedup_keys (org_id, event_id, received_at) VALUES ";
        let dedup_tail = format!(
            " ON CONFLICT (org_id, event_id) DO UPDATE SET received_at = excluded.received_at
              WHERE dedup_keys.received_at = excluded.received_at
                 OR dedup_keys.received_at <= excluded.received_at - {window_micros}"
        );
        Self {
            dedup_keys: MultiRow::new(dedup_head, 3, &dedup_tail),
            dedup_winners: MultiRow::new(
                dedup_head,
                3,
                &format!("{dedup_tail} RETURNING event_id"),
            ),
            events: MultiRow::new(
                "INSERT INTO events (id, org_id, event_type, payload, dedup_id, account_id,
                                     user_id, occurred_at, received_at, trace_id) VALUES ",
                10,
                " ON CONFLICT DO NOTHING",
            ),
            deliveries: MultiRow::new(
                "INSERT INTO deliveries (id, org_id, event_id, event_received_at, endpoint_id,
                                         due_at, lease_token, created_at, ordered)
                 VALUES ",
                9,
                "",
            ),
        }
    }

    /// The events that hold their dedup key now, and those that have none.
    pub(crate) async fn take_dedup_keys(
        &self,
        connection: &mut SqliteConnection,
        mut round: plan::Round,
    ) -> Result<plan::Round, StoreError> {
        let named: Vec<Arc<Event>> =
            round.iter().filter(|event| event.dedup_id.is_some()).map(Arc::clone).collect();
        let taken = self.dedup_keys.execute(connection, &named, bind_dedup_key).await?;
        if taken == named.len() {
            return Ok(round);
        }
        let mut winners = HashSet::with_capacity(taken);
        for (sql, chunk) in self.dedup_winners.chunks(&named) {
            let query = sqlx::query_scalar_with(sql, arguments(chunk, bind_dedup_key)?);
            let ids: Vec<Uuid> = query.fetch_all(&mut *connection).await?;
            winners.extend(ids);
        }
        round.retain(|event| event.dedup_id.is_none() || winners.contains(&event.id.uuid()));
        Ok(round)
    }

    /// Inserts events and returns those that were not there before.
    pub(crate) async fn insert_events(
        &self,
        connection: &mut SqliteConnection,
        events: &[Arc<Event>],
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let mut stored = Vec::with_capacity(events.len());
        for (sql, chunk) in self.events.chunks(events) {
            let query = sqlx::query_with(sql, arguments(chunk, bind_event)?);
            let done = query.execute(&mut *connection).await?;
            if done.rows_affected() == chunk.len() as u64 {
                stored.extend(chunk.iter().map(Arc::clone));
                continue;
            }
            if done.rows_affected() == 0 {
                continue;
            }
            // The rows of one insert have consecutive rowids, so the new ones are the last so many.
            let new: Vec<(Uuid, i64)> =
                sqlx::query_as("SELECT id, received_at FROM events WHERE rowid > ?1 - ?2")
                    .bind(done.last_insert_rowid())
                    .bind(done.rows_affected().cast_signed())
                    .fetch_all(&mut *connection)
                    .await?;
            let new: HashSet<(Uuid, i64)> = new.into_iter().collect();
            let is_new =
                |event: &&Arc<Event>| new.contains(&(event.id.uuid(), event.received_at.micros()));
            stored.extend(chunk.iter().filter(is_new).map(Arc::clone));
        }
        Ok(stored)
    }

    /// Inserts deliveries, the first of them leased as far as there is room.
    pub(crate) async fn insert_deliveries(
        &self,
        connection: &mut SqliteConnection,
        candidates: &[Candidate<'_>],
        room: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Vec<LeasedDelivery>, StoreError> {
        let mut left = room.map_or(0, |room| room.deliveries_max);
        let (first, rest): (Vec<_>, Vec<_>) = candidates.iter().partition(|candidate| {
            let leased = left > 0 && candidate.may_be_leased(room);
            left -= usize::from(leased);
            leased
        });
        self.insert_planned(connection, &rest, now, None, now).await?;
        let Some(LeaseBudget { lease, .. }) = room else { return Ok(Vec::new()) };
        let token = Some(lease.token.uuid());
        self.insert_planned(connection, &first, lease.until, token, now).await?;
        Ok(first.iter().map(|candidate| candidate.leased(lease)).collect())
    }

    pub(crate) async fn insert_planned(
        &self,
        connection: &mut SqliteConnection,
        candidates: &[&Candidate<'_>],
        due_at: Timestamp,
        token: Option<Uuid>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let bind = |arguments: &mut SqliteArguments, candidate: &&Candidate<'_>| {
            arguments.add(candidate.id.uuid())?;
            arguments.add(candidate.event.org_id.uuid())?;
            arguments.add(candidate.event.id.uuid())?;
            arguments.add(candidate.event.received_at.micros())?;
            arguments.add(candidate.endpoint.id.uuid())?;
            arguments.add(due_at.micros())?;
            arguments.add(token)?;
            arguments.add(now.micros())?;
            arguments.add(candidate.endpoint.policy.ordered)
        };
        self.deliveries.execute(connection, candidates, bind).await?;
        Ok(())
    }
}

impl SqliteEngine {
    pub(crate) async fn persist_events_across_orgs(
        &self,
        events: &[Arc<Event>],
        room: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError> {
        if events.is_empty() {
            return Ok(Persisted::default());
        }
        timed(&self.metrics, DbOperation::PersistEvents, self.persist(events, room, now)).await
    }

    pub(crate) async fn ordered_orgs_across_orgs(
        &self,
        orgs: &[OrgId],
    ) -> Result<Vec<OrgId>, StoreError> {
        let found: Vec<Uuid> = sqlx::query_scalar(
            "SELECT DISTINCT org_id FROM endpoints INDEXED BY endpoints_ordered
             WHERE ordered = 1 AND org_id IN (SELECT unhex(value) FROM json_each(?1))
             ORDER BY org_id",
        )
        .bind(id_list(orgs.iter().copied().map(OrgId::uuid)))
        .fetch_all(&self.readers)
        .await?;
        Ok(found.into_iter().map(OrgId::from_uuid).collect())
    }

    pub(crate) async fn plan_event(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        event: &Arc<Event>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<DeliveryId, PlanRefusal>, StoreError> {
        let writes = &self.event_writes;
        let mut tx = self.begin().await?;
        let found = sqlx::query(concat!(
            "SELECT ",
            endpoint_columns!(),
            "
             FROM endpoints WHERE id = ?1 AND org_id = ?2"
        ))
        .bind(endpoint.uuid())
        .bind(org.uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = found else { return Ok(Err(PlanRefusal::NotFound)) };
        let endpoint = Arc::new(rows::endpoint(&row, 0, &self.keyring)?);
        if endpoint.disabled_reason.is_some() {
            return Ok(Err(PlanRefusal::EndpointDisabled));
        }
        writes.insert_events(&mut tx, std::slice::from_ref(event)).await?;
        let candidate = Candidate { id: DeliveryId::mint(now), event, endpoint: &endpoint };
        let id = candidate.id;
        writes.insert_planned(&mut tx, &[&candidate], now, None, now).await?;
        let note = AuditRecord::endpoint_tested(endpoint.id, event, id);
        audit::write(&mut tx, &note, by, now).await?;
        tx.commit().await?;
        Ok(Ok(id))
    }

    pub(crate) async fn quarantine_event(
        &self,
        org: OrgId,
        event: EventId,
        record: &[u8],
        detail: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO dead_letters (id, org_id, event_id, reason, detail, record, created_at)
             SELECT ?1, ?2, ?1, ?3, ?4, ?5, ?6
             WHERE NOT EXISTS (SELECT 1 FROM orgs WHERE id = ?2 AND deleting_since IS NOT NULL)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(event.uuid())
        .bind(org.uuid())
        .bind(DeadReason::Unstorable.as_str())
        .bind(rows::storable(detail))
        .bind(record)
        .bind(now.micros())
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    pub(crate) async fn event(&self, org: OrgId, id: EventId) -> Result<Option<Event>, StoreError> {
        let row = sqlx::query(
            "SELECT id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at,
                    received_at, trace_id
             FROM events WHERE id = ?1 AND org_id = ?2
             ORDER BY received_at DESC LIMIT 1",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&self.readers)
        .await?;
        row.map(|row| rows::event(&row, 0)).transpose()
    }

    pub(crate) async fn events(
        &self,
        org: OrgId,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, StoreError> {
        let after = rows::place(page);
        let (exact, prefix) = rows::type_wanted(filter.event_type.as_ref());
        let found = sqlx::query(
            "SELECT id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at,
                    received_at, trace_id
             FROM events
             WHERE org_id = ?1 AND (received_at, id) < (?2, ?3)
               AND received_at >= ?4 AND received_at < ?5
               AND (?6 IS NULL OR event_type = ?6)
               AND (?7 IS NULL OR substr(event_type, 1, length(?7)) = ?7)
               AND (?8 IS NULL OR account_id = ?8)
               AND (?9 IS NULL OR user_id = ?9)
             ORDER BY received_at DESC, id DESC LIMIT ?10",
        )
        .bind(org.uuid())
        .bind(after.at.micros())
        .bind(after.id)
        .bind(filter.since.unwrap_or(rows::START_OF_TIME).micros())
        .bind(filter.until.unwrap_or(rows::END_OF_TIME).micros())
        .bind(exact)
        .bind(prefix)
        .bind(filter.account_id.as_deref())
        .bind(filter.user_id.as_deref())
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.readers)
        .await?;
        let events = rows::all(&found, |row| rows::event(row, 0))?;
        Ok(Page::from_rows(events, page.limit, |event| Cursor {
            at: event.received_at,
            id: event.id.uuid(),
        }))
    }
}

impl SqliteEngine {
    pub(crate) async fn persist(
        &self,
        events: &[Arc<Event>],
        mut room: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError> {
        if weight(events) <= SHORT_WEIGHT_MAX {
            let mut tx = self.begin().await?;
            let orgs = self.orgs_of(&mut tx, events).await?;
            let persisted = self.persist_part(&mut tx, events, &orgs, &mut room, now).await?;
            tx.commit().await?;
            return Ok(persisted);
        }
        let _only = self.queue.events().await;
        let (turn, mut tx) = self.begin_long().await?;
        let orgs = self.orgs_of(&mut tx, events).await?;
        let mut persisted = Persisted::default();
        while let part @ [_, ..] = turn.next_part(events, persisted.taken) {
            persisted.add(self.persist_part(&mut tx, part, &orgs, &mut room, now).await?);
        }
        turn.end(tx.commit()).await?;
        Ok(persisted)
    }

    async fn orgs_of(
        &self,
        connection: &mut SqliteConnection,
        events: &[Arc<Event>],
    ) -> Result<Orgs, StoreError> {
        let orgs = plan::orgs_of(events);
        let gone = gone(connection, &orgs).await?;
        let endpoints = enabled_endpoints(connection, &self.keyring, &orgs).await?;
        Ok(Orgs { gone, endpoints })
    }

    async fn persist_part(
        &self,
        connection: &mut SqliteConnection,
        events: &[Arc<Event>],
        Orgs { gone, endpoints }: &Orgs,
        room: &mut Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError> {
        let writes = &self.event_writes;
        let mut persisted = Persisted { taken: events.len(), ..Persisted::default() };
        let alive: Vec<Arc<Event>>;
        let events = if gone.is_empty() {
            events
        } else {
            let is_alive = |event: &&Arc<Event>| !gone.contains(&event.org_id);
            alive = events.iter().filter(is_alive).cloned().collect();
            persisted.dropped = events.len() - alive.len();
            &alive[..]
        };
        for round in plan::rounds(events, self.dedup_window) {
            let held = writes.take_dedup_keys(connection, round).await?;
            let stored = writes.insert_events(connection, &held).await?;
            let candidates = plan::candidates(&stored, endpoints, now);
            let lease_budget = room.filter(|_| plan::may_lease(&candidates));
            let leased =
                writes.insert_deliveries(connection, &candidates, lease_budget, now).await?;
            if let Some(room) = room {
                room.deliveries_max -= leased.len();
            }
            persisted.stored += stored.len();
            persisted.planned += candidates.len();
            persisted.leased.extend(leased);
        }
        persisted.duplicates = events.len() - persisted.stored;
        Ok(persisted)
    }
}

/// What must be known of the organisations of a batch.
struct Orgs {
    /// Those that are being deleted.
    gone: Vec<OrgId>,
    endpoints: Endpoints,
}

/// Those that are being deleted.
async fn gone(connection: &mut SqliteConnection, orgs: &[OrgId]) -> Result<Vec<OrgId>, StoreError> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM orgs
         WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND deleting_since IS NOT NULL",
    )
    .bind(id_list(orgs.iter().copied().map(OrgId::uuid)))
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrgId::from_uuid).collect())
}

impl SqliteEngine {
    /// Stores operational events that anyone subscribes to and plans their deliveries, in the
    /// transaction of what they tell.
    pub(crate) async fn publish(
        &self,
        connection: &mut SqliteConnection,
        mut news: Vec<Arc<Event>>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if news.is_empty() {
            return Ok(());
        }
        let gone = gone(connection, &plan::orgs_of(&news)).await?;
        news.retain(|event| !gone.contains(&event.org_id));
        let endpoints = enabled_endpoints(connection, &self.keyring, &plan::orgs_of(&news)).await?;
        news.retain(|event| endpoints.is_wanted(event));
        let stored = self.event_writes.insert_events(connection, &news).await?;
        let candidates = plan::candidates(&stored, &endpoints, now);
        self.event_writes.insert_deliveries(connection, &candidates, None, now).await?;
        Ok(())
    }
}

async fn enabled_endpoints(
    connection: &mut SqliteConnection,
    keyring: &Keyring,
    orgs: &[OrgId],
) -> Result<Endpoints, StoreError> {
    let found = sqlx::query(concat!(
        "SELECT ",
        endpoint_columns!(),
        "
         FROM endpoints
         WHERE org_id IN (SELECT unhex(value) FROM json_each(?1))
           AND (disabled_reason IS NULL OR suspended)"
    ))
    .bind(id_list(orgs.iter().copied().map(OrgId::uuid)))
    .fetch_all(connection)
    .await?;
    let endpoints: Vec<Endpoint> = rows::all(&found, |row| rows::endpoint(row, 0, keyring))?;
    Ok(Endpoints::new(endpoints))
}

fn bind_dedup_key(arguments: &mut SqliteArguments, event: &Arc<Event>) -> Result<(), BoxDynError> {
    arguments.add(event.org_id.uuid())?;
    arguments.add(event.id.uuid())?;
    arguments.add(event.received_at.micros())
}

fn bind_event(arguments: &mut SqliteArguments, event: &Arc<Event>) -> Result<(), BoxDynError> {
    arguments.add(event.id.uuid())?;
    arguments.add(event.org_id.uuid())?;
    arguments.add(event.event_type.as_str())?;
    arguments.add(&event.payload[..])?;
    arguments.add(event.dedup_id.as_deref())?;
    arguments.add(event.account_id.as_deref())?;
    arguments.add(event.user_id.as_deref())?;
    arguments.add(event.occurred_at.map(Timestamp::micros))?;
    arguments.add(event.received_at.micros())?;
    arguments.add(&event.trace_id.bytes()[..])
}
