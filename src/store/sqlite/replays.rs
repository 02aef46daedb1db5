//! Replays: new deliveries that repeat old ones.

use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, SqliteConnection};
use uuid::Uuid;

use super::{MultiRow, SqliteEngine, audit, id_list};
use crate::domain::{
    Actor, Cursor, DeadLetterFilter, DeadReason, Delivery, DeliveryId, EndpointId, EventId, OrgId,
    Page, PageRequest, Replay, ReplayId, ReplayStatus, Timestamp,
};
use crate::store::audit::AuditRecord;
use crate::store::replay::{self, Letter, Stretch, Twin};
use crate::store::rows::{self, Columns};
use crate::store::{
    COUNTED_MAX, DeliveryRefusal, QuarantinedEvent, REPLAYS_PER_STEP, ReplayStep, ReplayedEvent,
    StoreError,
};

/// The next dead letters of a replay by way of the index that its filter makes the shortest.
macro_rules! letters_by {
    ($anchor:literal) => {
        concat!(
            "SELECT l.id, l.created_at, l.delivery_id,
                    CASE WHEN l.replayed_at IS NULL
                          AND (?7 IS NULL OR l.reason = ?7)
                          AND (?8 IS NULL AND ?9 IS NULL OR EXISTS
                               (SELECT 1 FROM events e
                                WHERE e.id = l.event_id AND e.org_id = l.org_id
                                  AND (?8 IS NULL OR e.event_type = ?8)
                                  AND (?9 IS NULL OR substr(e.event_type, 1, length(?9)) = ?9)))
                         THEN 1 ELSE 0 END
             FROM (SELECT id, org_id, created_at, delivery_id, event_id, reason, replayed_at
                   FROM dead_letters
                   WHERE ",
            $anchor,
            "
                      AND (created_at, id) > (?3, ?4) AND created_at < ?5
                   ORDER BY created_at, id LIMIT ?6) l
             ORDER BY l.created_at, l.id"
        )
    };
}

impl SqliteEngine {
    pub(crate) async fn replay_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "SELECT p.id, p.disabled_reason FROM endpoints p
             WHERE p.id IN (SELECT endpoint_id FROM deliveries WHERE id = ?1 AND org_id = ?2)",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let refusal = row.map(|row| replay::endpoint_refusal(&row, 0)).transpose()?;
        if let Some(Some(refusal)) = refusal {
            return Ok(Err(refusal));
        }
        let twins = twins(&mut tx, org, &[id.uuid()], now).await?;
        let Some(twin) = twins.first() else {
            // Of what is there, only the endpoint can be missing.
            let exists: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM deliveries WHERE id = ?1 AND org_id = ?2)",
            )
            .bind(id.uuid())
            .bind(org.uuid())
            .fetch_one(&mut *tx)
            .await?;
            let removed = exists && refusal.is_none();
            return Ok(Err(if removed {
                DeliveryRefusal::EndpointRemoved
            } else {
                DeliveryRefusal::NotFound
            }));
        };
        self.plan(&mut tx, org, &twins, now).await?;
        let delivery = twin.delivery(org, now);
        audit::write(&mut tx, &AuditRecord::delivery_replayed(id, &delivery), by, now).await?;
        tx.commit().await?;
        Ok(Ok(delivery))
    }

    pub(crate) async fn replay_event(
        &self,
        org: OrgId,
        id: EventId,
        endpoint: Option<EndpointId>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<ReplayedEvent, DeliveryRefusal>, StoreError> {
        let mut tx = self.begin().await?;
        let received_at: Option<i64> = sqlx::query_scalar(
            "SELECT received_at FROM events WHERE id = ?1 AND org_id = ?2
             ORDER BY received_at DESC LIMIT 1",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(received_at) = received_at else { return Ok(Err(DeliveryRefusal::NotFound)) };
        if let Some(endpoint) = endpoint {
            let row = sqlx::query(
                "SELECT id, disabled_reason FROM endpoints WHERE id = ?1 AND org_id = ?2",
            )
            .bind(endpoint.uuid())
            .bind(org.uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(Err(DeliveryRefusal::EndpointRemoved)) };
            if let Some(refusal) = replay::endpoint_refusal(&row, 0)? {
                return Ok(Err(refusal));
            }
        }
        let found = sqlx::query(
            "SELECT id, count(*) OVER () FROM (
                 SELECT id, row_number() OVER
                     (PARTITION BY endpoint_id ORDER BY created_at DESC, id DESC) AS place
                 FROM deliveries
                 WHERE event_id = ?1 AND event_received_at = ?2 AND org_id = ?3
                   AND (?4 IS NULL OR endpoint_id = ?4)
             ) d
             WHERE place = 1 LIMIT ?5",
        )
        .bind(id.uuid())
        .bind(received_at)
        .bind(org.uuid())
        .bind(endpoint.map(EndpointId::uuid))
        .bind(i64::try_from(REPLAYS_PER_STEP).unwrap_or(i64::MAX))
        .fetch_all(&mut *tx)
        .await?;
        let newest = rows::all(&found, |row| row.uuid(0))?;
        let planned_for: usize = match found.first() {
            Some(row) => rows::fits("count", row.number(1)?)?,
            None => 0,
        };
        let mut twins = twins(&mut tx, org, &newest, now).await?;
        let skipped = planned_for - twins.len();
        if let Some(endpoint) = endpoint.filter(|_| twins.is_empty()) {
            twins.push(Twin {
                id: DeliveryId::mint(now),
                event_id: id.uuid(),
                event_received_at: Timestamp::from_micros(received_at),
                endpoint_id: endpoint.uuid(),
                replay_of: None,
            });
        }
        self.plan(&mut tx, org, &twins, now).await?;
        let deliveries = twins.iter().map(|twin| twin.delivery(org, now)).collect();
        let replayed = ReplayedEvent { deliveries, skipped };
        if !twins.is_empty() {
            let note = AuditRecord::event_replayed(org, id, endpoint, &replayed);
            audit::write(&mut tx, &note, by, now).await?;
        }
        tx.commit().await?;
        Ok(Ok(replayed))
    }

    pub(crate) async fn insert_replay(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>, StoreError> {
        let until = replay::until(filter, now);
        let mut tx = self.begin().await?;
        let total: Option<i64> = if filter.event_type.is_some() {
            None
        } else {
            let counted: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM (
                     SELECT 1 FROM dead_letters
                     WHERE org_id = ?1 AND (?2 IS NULL OR endpoint_id = ?2)
                       AND created_at >= ?3 AND created_at < ?4
                       AND (?5 IS NULL OR reason = ?5)
                       AND replayed_at IS NULL
                     LIMIT ?6
                 ) l",
            )
            .bind(org.uuid())
            .bind(filter.endpoint_id.map(EndpointId::uuid))
            .bind(filter.since.unwrap_or(rows::START_OF_TIME).micros())
            .bind(until.micros())
            .bind(filter.reason.map(DeadReason::as_str))
            .bind(COUNTED_MAX + 1)
            .fetch_one(&mut *tx)
            .await?;
            Some(counted).filter(|counted| *counted <= COUNTED_MAX)
        };
        let row = sqlx::query(
            "INSERT INTO replays (id, org_id, endpoint_id, reason, event_type, since, until,
                                  cursor_at, cursor_id, total, stepped_at, created_at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11
             WHERE EXISTS (SELECT 1 FROM orgs WHERE id = ?2 AND deleting_since IS NULL)
             RETURNING id, org_id, endpoint_id, reason, event_type, since, until, total, done,
                       skipped, status, detail, created_at, finished_at",
        )
        .bind(ReplayId::mint(now).uuid())
        .bind(org.uuid())
        .bind(filter.endpoint_id.map(EndpointId::uuid))
        .bind(filter.reason.map(DeadReason::as_str))
        .bind(filter.event_type.as_ref().map(ToString::to_string))
        .bind(filter.since.map(Timestamp::micros))
        .bind(until.micros())
        .bind(filter.since.unwrap_or(rows::START_OF_TIME).micros())
        .bind(Uuid::nil())
        .bind(total)
        .bind(now.micros())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let replay = rows::replay(&row)?;
        audit::write(&mut tx, &AuditRecord::replay_started(&replay), by, now).await?;
        tx.commit().await?;
        Ok(Some(replay))
    }

    pub(crate) async fn replay(
        &self,
        org: OrgId,
        id: ReplayId,
    ) -> Result<Option<Replay>, StoreError> {
        let row = sqlx::query(
            "SELECT id, org_id, endpoint_id, reason, event_type, since, until, total, done, skipped,
                    status, detail, created_at, finished_at
             FROM replays WHERE id = ?1 AND org_id = ?2",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(rows::replay).transpose()
    }

    pub(crate) async fn replays(
        &self,
        org: OrgId,
        page: PageRequest,
    ) -> Result<Page<Replay>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(
            "SELECT id, org_id, endpoint_id, reason, event_type, since, until, total, done, skipped,
                    status, detail, created_at, finished_at
             FROM replays WHERE org_id = ?1 AND (created_at, id) < (?2, ?3)
             ORDER BY created_at DESC, id DESC LIMIT ?4",
        )
        .bind(org.uuid())
        .bind(after.at.micros())
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.readers)
        .await?;
        let replays = rows::all(&found, rows::replay)?;
        Ok(Page::from_rows(replays, page.limit, |replay| Cursor {
            at: replay.created_at,
            id: replay.id.uuid(),
        }))
    }

    pub(crate) async fn end_replay(
        &self,
        org: OrgId,
        id: ReplayId,
        failure: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "UPDATE replays SET status = ?3, detail = ?4, finished_at = ?5
             WHERE id = ?1 AND org_id = ?2 AND status = 'running'
             RETURNING id, org_id, endpoint_id, reason, event_type, since, until, total, done,
                       skipped, status, detail, created_at, finished_at",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .bind(replay::end(failure).as_str())
        .bind(failure.map(rows::storable))
        .bind(now.micros())
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(row) = row {
            let ended = rows::replay(&row)?;
            audit::write(&mut tx, &AuditRecord::replay_ended(&ended), by, now).await?;
            tx.commit().await?;
            return Ok(Some(ended));
        }
        tx.rollback().await?;
        self.replay(org, id).await
    }

    pub(crate) async fn next_replay_across_orgs(
        &self,
    ) -> Result<Option<(OrgId, ReplayId)>, StoreError> {
        let row = sqlx::query(
            "SELECT org_id, id FROM replays WHERE status = 'running' ORDER BY stepped_at LIMIT 1",
        )
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(rows::replay_key).transpose()
    }

    pub(crate) async fn step_replay(
        &self,
        org: OrgId,
        id: ReplayId,
        now: Timestamp,
    ) -> Result<Option<ReplayStep>, StoreError> {
        let (_turn, mut tx) = self.begin_long().await?;
        let row = sqlx::query(
            "SELECT id, org_id, endpoint_id, reason, event_type, since, until, total, done, skipped,
                    status, detail, created_at, finished_at, cursor_at, cursor_id
             FROM replays WHERE id = ?1 AND org_id = ?2 AND status = 'running'",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let filter = rows::replay(&row)?.filter;
        let cursor = Cursor { at: row.moment(14)?, id: row.uuid(15)? };
        let letters = letters_after(&mut tx, org, &filter, cursor).await?;
        let stretch = replay::stretch(&letters);
        let wanted = &stretch.deliveries;
        let twins = twins(&mut tx, org, wanted, now).await?;
        self.plan(&mut tx, org, &twins, now).await?;
        let skipped = wanted.len() - twins.len();
        move_on(&mut tx, id, &stretch, (twins.len(), skipped), now).await?;
        let stopped_at = match stretch.stopped_at {
            None => None,
            Some(place) => {
                let record = "SELECT record FROM dead_letters WHERE id = ?1";
                let record: Option<Option<Vec<u8>>> =
                    sqlx::query_scalar(record).bind(place.id).fetch_optional(&mut *tx).await?;
                let record = record.flatten().unwrap_or_default();
                Some(QuarantinedEvent { replay: id, place, record })
            }
        };
        tx.commit().await?;
        Ok(Some(ReplayStep { planned: twins.len(), stopped_at }))
    }

    pub(crate) async fn pass_quarantined_event(
        &self,
        org: OrgId,
        buried: &QuarantinedEvent,
        stored: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let passed = sqlx::query(
            "UPDATE replays
             SET cursor_at = ?3, cursor_id = ?4, done = done + ?5, skipped = skipped + 1 - ?5,
                 stepped_at = ?6
             WHERE id = ?1 AND org_id = ?2 AND status = 'running'
               AND (cursor_at, cursor_id) < (?3, ?4)",
        )
        .bind(buried.replay.uuid())
        .bind(org.uuid())
        .bind(buried.place.at.micros())
        .bind(buried.place.id)
        .bind(i64::from(stored))
        .bind(now.micros())
        .execute(&mut *tx)
        .await?;
        if stored && passed.rows_affected() > 0 {
            sqlx::query("DELETE FROM dead_letters WHERE id = ?1 AND org_id = ?2")
                .bind(buried.place.id)
                .bind(org.uuid())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// The next dead letters of a replay, whether it is for them or not: looking at a bounded number
/// bounds the step.
async fn letters_after(
    connection: &mut SqliteConnection,
    org: OrgId,
    filter: &DeadLetterFilter,
    cursor: Cursor,
) -> Result<Vec<Letter>, StoreError> {
    let (exact, prefix) = rows::type_wanted(filter.event_type.as_ref());
    // A `+` keeps a condition from choosing the index.
    let sql = match filter.endpoint_id {
        Some(_) => letters_by!("endpoint_id = ?2 AND +org_id = ?1"),
        None => letters_by!("org_id = ?1 AND ?2 IS NULL"),
    };
    let found = sqlx::query(sql)
        .bind(org.uuid())
        .bind(filter.endpoint_id.map(EndpointId::uuid))
        .bind(cursor.at.micros())
        .bind(cursor.id)
        .bind(filter.until.unwrap_or(rows::END_OF_TIME).micros())
        .bind(i64::try_from(REPLAYS_PER_STEP).unwrap_or(i64::MAX))
        .bind(filter.reason.map(DeadReason::as_str))
        .bind(exact)
        .bind(prefix)
        .fetch_all(connection)
        .await?;
    rows::all(&found, Letter::read)
}

/// New deliveries for those of the old ones whose endpoint is enabled and whose event is there, in
/// the order the events came.
async fn twins(
    connection: &mut SqliteConnection,
    org: OrgId,
    old: &[Uuid],
    now: Timestamp,
) -> Result<Vec<Twin>, StoreError> {
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query(
        "SELECT d.id, d.event_id, d.event_received_at, d.endpoint_id
         FROM json_each(?1) o
         CROSS JOIN deliveries d ON d.id = unhex(o.value) AND d.org_id = ?2
         CROSS JOIN endpoints p ON p.id = d.endpoint_id AND p.disabled_reason IS NULL
         CROSS JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
         ORDER BY d.event_received_at, d.event_id, d.created_at, d.id",
    )
    .bind(id_list(old.iter().copied()))
    .bind(org.uuid())
    .fetch_all(connection)
    .await?;
    replay::twins(&found, now)
}

impl SqliteEngine {
    /// Inserts the new deliveries, due at once, and marks the dead letters of what they repeat.
    pub(crate) async fn plan(
        &self,
        connection: &mut SqliteConnection,
        org: OrgId,
        twins: &[Twin],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let bind = |arguments: &mut SqliteArguments, twin: &Twin| -> Result<(), BoxDynError> {
            arguments.add(twin.id.uuid())?;
            arguments.add(org.uuid())?;
            arguments.add(twin.event_id)?;
            arguments.add(twin.event_received_at.micros())?;
            arguments.add(twin.endpoint_id)?;
            arguments.add(now.micros())?;
            arguments.add(now.micros())?;
            arguments.add(twin.replay_of)
        };
        self.replay_writes.execute(connection, twins, bind).await?;
        sqlx::query(
            "UPDATE dead_letters SET replayed_at = ?1
             WHERE id IN (SELECT unhex(value) FROM json_each(?2))",
        )
        .bind(now.micros())
        .bind(id_list(twins.iter().filter_map(|twin| twin.replay_of)))
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// The statement that plans new deliveries.
pub(crate) fn writes() -> MultiRow {
    MultiRow::new(
        "INSERT INTO deliveries (id, org_id, event_id, event_received_at, endpoint_id, due_at,
                                 created_at, replay_of, ordered)
         SELECT column1, column2, column3, column4, column5, column6, column7, column8,
                coalesce((SELECT p.ordered FROM endpoints p WHERE p.id = column5), 0)
         FROM (VALUES ",
        8,
        ")",
    )
}

async fn move_on(
    connection: &mut SqliteConnection,
    id: ReplayId,
    stretch: &Stretch,
    (done, skipped): (usize, usize),
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE replays
         SET cursor_at = coalesce(?2, cursor_at), cursor_id = coalesce(?3, cursor_id),
             done = done + ?4, skipped = skipped + ?5, stepped_at = ?6,
             status = CASE WHEN ?7 THEN ?8 ELSE status END,
             finished_at = CASE WHEN ?7 THEN ?6 END
         WHERE id = ?1",
    )
    .bind(id.uuid())
    .bind(stretch.reached.map(|place| place.at.micros()))
    .bind(stretch.reached.map(|place| place.id))
    .bind(i64::try_from(done).unwrap_or(i64::MAX))
    .bind(i64::try_from(skipped).unwrap_or(i64::MAX))
    .bind(now.micros())
    .bind(stretch.at_end)
    .bind(ReplayStatus::Finished.as_str())
    .execute(connection)
    .await?;
    Ok(())
}
