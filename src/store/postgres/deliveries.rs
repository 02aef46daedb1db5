//! Deliveries and their attempts.

use std::borrow::Cow;

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{PostgresEngine, audit, moment, orgs, standings};
use crate::domain::{
    Actor, Attempt, Cursor, DeadReason, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus,
    EndpointId, ErrorClass, EventId, InstanceId, LeaseToken, OrgId, Outcome, Page, PageRequest,
    Timestamp,
};
use crate::store::audit::AuditRecord;
use crate::store::outcome::{self, Verdict};
use crate::store::standing::Standings;
use crate::store::{ClaimRequest, Claimed, DeliveryRefusal, StoreError, lease, rows, timed};
use crate::telemetry::DbOperation;

impl PostgresEngine {
    pub(crate) async fn claim_deliveries_across_orgs(
        &self,
        request: ClaimRequest<'_>,
    ) -> Result<Claimed, StoreError> {
        timed(&self.metrics, DbOperation::ClaimDeliveries, self.claim(request)).await
    }

    pub(crate) async fn record_outcomes_across_orgs(
        &self,
        outcomes: &[Outcome],
    ) -> Result<usize, StoreError> {
        if outcomes.is_empty() {
            return Ok(0);
        }
        timed(&self.metrics, DbOperation::RecordOutcomes, self.record(outcomes)).await
    }

    pub(crate) async fn release_leases_across_orgs(
        &self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let (least, greatest) = LeaseToken::range_of(instance);
        let mut released = 0;
        let mut tx = self.pool.begin().await?;
        // Each by the index of its kind.
        for sql in [
            "UPDATE deliveries SET due_at = $1, lease_token = NULL
             WHERE finished_at IS NULL AND NOT ordered AND due_at > $1
               AND lease_token BETWEEN $2 AND $3",
            "UPDATE deliveries SET due_at = $1, lease_token = NULL
             WHERE finished_at IS NULL AND ordered AND due_at > $1
               AND lease_token BETWEEN $2 AND $3",
        ] {
            let query = sqlx::query(sql).bind(moment(now)).bind(least.uuid());
            released += query.bind(greatest.uuid()).execute(&mut *tx).await?.rows_affected();
        }
        tx.commit().await?;
        Ok(released)
    }

    pub(crate) async fn delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
    ) -> Result<Option<Delivery>, StoreError> {
        let row = sqlx::query(
            "SELECT id, org_id, event_id, endpoint_id, status, attempts, due_at, lease_token,
                    created_at, finished_at, replay_of
             FROM deliveries WHERE id = $1 AND org_id = $2",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(rows::delivery).transpose()
    }

    pub(crate) async fn deliveries(
        &self,
        org: OrgId,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(
            "SELECT id, org_id, event_id, endpoint_id, status, attempts, due_at, lease_token,
                    created_at, finished_at, replay_of
             FROM deliveries
             WHERE org_id = $1 AND (created_at, id) < ($2, $3)
               AND ($4::text IS NULL OR status = $4)
               AND ($5::uuid IS NULL OR event_id = $5)
               AND ($6::uuid IS NULL OR endpoint_id = $6)
               AND created_at >= $8 AND created_at < $9
             ORDER BY created_at DESC, id DESC LIMIT $7",
        )
        .bind(org.uuid())
        .bind(moment(after.at))
        .bind(after.id)
        .bind(filter.status.map(DeliveryStatus::as_str))
        .bind(filter.event_id.map(EventId::uuid))
        .bind(filter.endpoint_id.map(EndpointId::uuid))
        .bind(rows::fetch_limit(page))
        .bind(moment(filter.since.unwrap_or(rows::START_OF_TIME)))
        .bind(moment(filter.until.unwrap_or(rows::END_OF_TIME)))
        .fetch_all(&self.pool)
        .await?;
        let deliveries = rows::all(&found, rows::delivery)?;
        Ok(Page::from_rows(deliveries, page.limit, |delivery| Cursor {
            at: delivery.created_at,
            id: delivery.id.uuid(),
        }))
    }

    pub(crate) async fn attempts(
        &self,
        org: OrgId,
        id: DeliveryId,
    ) -> Result<Vec<Attempt>, StoreError> {
        let found = sqlx::query(
            "SELECT number, started_at, duration_ms, status_code, error_class, error,
                    response_excerpt
             FROM delivery_attempts WHERE delivery_id = $1 AND org_id = $2
             ORDER BY number",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_all(&self.pool)
        .await?;
        rows::all(&found, rows::attempt)
    }

    pub(crate) async fn retry_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        let mut tx = self.pool.begin().await?;
        orgs::hold(&mut tx, org).await?;
        // The endpoint first, as its removal takes its locks; shared, so that it stays until the end.
        sqlx::query(
            "SELECT 1 FROM endpoints
             WHERE id IN (SELECT endpoint_id FROM deliveries WHERE id = $1 AND org_id = $2)
             FOR SHARE",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query(
            "SELECT d.lease_token, d.due_at, p.id, p.disabled_reason
             FROM deliveries d LEFT JOIN endpoints p ON p.id = d.endpoint_id
             WHERE d.id = $1 AND d.org_id = $2
             FOR UPDATE OF d",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(Err(DeliveryRefusal::NotFound)) };
        if let Some(refusal) = lease::retry_refusal(&row, now)? {
            return Ok(Err(refusal));
        }
        sqlx::query("DELETE FROM dead_letters WHERE id = $1")
            .bind(id.uuid())
            .execute(&mut *tx)
            .await?;
        let row = sqlx::query(
            "UPDATE deliveries
             SET status = 'pending', due_at = $2, lease_token = NULL, finished_at = NULL
             WHERE id = $1
             RETURNING id, org_id, event_id, endpoint_id, status, attempts, due_at, lease_token,
                       created_at, finished_at, replay_of",
        )
        .bind(id.uuid())
        .bind(moment(now))
        .fetch_one(&mut *tx)
        .await?;
        let delivery = rows::delivery(&row)?;
        audit::write(&mut tx, &AuditRecord::delivery_retried(&delivery), by, now).await?;
        tx.commit().await?;
        Ok(Ok(delivery))
    }
}

impl PostgresEngine {
    /// One statement where every attempt succeeded. Otherwise endpoints come first: what is handed
    /// back for one that is disabled is then parked.
    pub(crate) async fn record(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        let standings = Standings::of(outcomes);
        if standings.is_quiet() {
            let connection = &mut *self.pool.acquire().await?;
            return Ok(record(connection, outcomes, &standings).await?.0);
        }
        let mut tx = self.pool.begin().await?;
        let mut news = standings::write(&mut tx, &standings).await?;
        let (counted, exhausted) = record(&mut tx, outcomes, &standings).await?;
        news.extend(standings::exhausted(&mut tx, &exhausted).await?);
        if let Some(newest) = outcomes.iter().map(|outcome| outcome.decided_at).max() {
            self.publish(&mut tx, news, newest).await?;
        }
        tx.commit().await?;
        Ok(counted)
    }
}

/// Locks the deliveries whose lease still holds, in key order, and then those of their
/// endpoints that are disabled: an enabling in flight is thereby over, or sees what is parked
/// here. Only pending deliveries carry a token, so the token alone tells.
///
/// Returns how many outcomes counted, and the deliveries that have used up their attempts by them.
async fn record(
    connection: &mut PgConnection,
    outcomes: &[Outcome],
    standings: &Standings,
) -> Result<(usize, Vec<Uuid>), StoreError> {
    let verdicts = outcome::verdicts(outcomes);
    let verdict = VerdictColumns::new(&verdicts);
    let attempt = AttemptColumns::new(&verdicts);
    // Known bounds leave all other days out of the plan.
    let oldest = verdict.event_received_at.iter().min().copied();
    let newest = verdict.event_received_at.iter().max().copied();
    let (counted, exhausted): (i64, Vec<Uuid>) = sqlx::query_as(
        "WITH held AS (
                 SELECT v.*, d.org_id, d.event_id, d.endpoint_id
                 FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::bigint[],
                             $6::timestamptz[], $7::timestamptz[], $8::text[],
                             $9::timestamptz[], $10::bigint[], $11::timestamptz[],
                             $12::bigint[], $13::bigint[], $14::text[], $15::text[],
                             $16::text[])
                     AS v (id, event_received_at, token, status, attempts_made, retry_at,
                           finished_at, dead_reason, decided_at, number, started_at,
                           duration_ms, status_code, error_class, error, response_excerpt)
                 CROSS JOIN LATERAL (
                     SELECT d.org_id, d.event_id, d.endpoint_id FROM deliveries d
                     WHERE d.id = v.id AND d.event_received_at = v.event_received_at
                       AND d.event_received_at BETWEEN $17 AND $18
                       AND d.lease_token = v.token
                     FOR UPDATE
                 ) d
             ), disabled AS (
                 SELECT p.id FROM endpoints p
                 WHERE p.disabled_reason IS NOT NULL
                   AND p.id IN (SELECT endpoint_id FROM held WHERE retry_at IS NOT NULL)
                 ORDER BY p.id
                 FOR SHARE
             ), attempted AS (
                 INSERT INTO delivery_attempts
                     (delivery_id, org_id, event_received_at, number, started_at, duration_ms,
                      status_code, error_class, error, response_excerpt)
                 SELECT id, org_id, event_received_at, number, started_at, duration_ms,
                        status_code, error_class, error, response_excerpt
                 FROM held WHERE number IS NOT NULL
                 ON CONFLICT DO NOTHING
             ), buried AS (
                 INSERT INTO dead_letters
                     (id, org_id, event_id, delivery_id, endpoint_id, reason, detail, created_at)
                 SELECT id, org_id, event_id, id, endpoint_id, dead_reason, error, decided_at
                 FROM held WHERE dead_reason IS NOT NULL
                 ON CONFLICT (id) DO NOTHING
                 RETURNING id, reason
             ), recovered AS (
                 UPDATE endpoints p SET failing_since = NULL
                 WHERE p.id = ANY ($19) AND p.failing_since IS NOT NULL
             ), done AS (
                 UPDATE deliveries d
                 SET status = h.status,
                     attempts = d.attempts + h.attempts_made,
                     due_at = CASE WHEN off.id IS NULL THEN h.retry_at END,
                     lease_token = NULL,
                     finished_at = h.finished_at
                 FROM held h LEFT JOIN disabled off ON off.id = h.endpoint_id
                 WHERE d.id = h.id AND d.event_received_at = h.event_received_at
                   AND d.event_received_at BETWEEN $17 AND $18
                 RETURNING 1
             )
             SELECT (SELECT count(*) FROM done),
                    ARRAY(SELECT id FROM buried WHERE reason = $20)",
    )
    .bind(verdict.id)
    .bind(verdict.event_received_at)
    .bind(verdict.token)
    .bind(verdict.status)
    .bind(verdict.attempts_made)
    .bind(verdict.retry_at)
    .bind(verdict.finished_at)
    .bind(verdict.dead_reason)
    .bind(verdict.decided_at)
    .bind(attempt.number)
    .bind(attempt.started_at)
    .bind(attempt.duration_ms)
    .bind(attempt.status_code)
    .bind(attempt.error_class)
    .bind(attempt.error)
    .bind(attempt.response_excerpt)
    .bind(oldest)
    .bind(newest)
    .bind(&standings.working)
    .bind(DeadReason::Exhausted.as_str())
    .fetch_one(connection)
    .await?;
    Ok((usize::try_from(counted).unwrap_or(0), exhausted))
}

/// Verdicts, column by column.
struct VerdictColumns {
    id: Vec<Uuid>,
    event_received_at: Vec<OffsetDateTime>,
    token: Vec<Uuid>,
    status: Vec<&'static str>,
    attempts_made: Vec<i64>,
    retry_at: Vec<Option<OffsetDateTime>>,
    finished_at: Vec<Option<OffsetDateTime>>,
    dead_reason: Vec<Option<&'static str>>,
    decided_at: Vec<OffsetDateTime>,
}

impl VerdictColumns {
    fn new(verdicts: &[Verdict<'_>]) -> Self {
        Self {
            id: verdicts.iter().map(|v| v.delivery_id).collect(),
            event_received_at: verdicts.iter().map(|v| moment(v.event_received_at)).collect(),
            token: verdicts.iter().map(|v| v.token).collect(),
            status: verdicts.iter().map(|v| v.status).collect(),
            attempts_made: verdicts.iter().map(Verdict::attempts_made).collect(),
            retry_at: verdicts.iter().map(|v| v.retry_at.map(moment)).collect(),
            finished_at: verdicts.iter().map(|v| v.finished_at().map(moment)).collect(),
            dead_reason: verdicts.iter().map(|v| v.death().map(|(_, reason)| reason)).collect(),
            decided_at: verdicts.iter().map(|v| moment(v.decided_at)).collect(),
        }
    }
}

/// The attempt of each verdict, column by column; all NULL where there was none.
struct AttemptColumns<'a> {
    number: Vec<Option<i64>>,
    started_at: Vec<Option<OffsetDateTime>>,
    duration_ms: Vec<Option<i64>>,
    status_code: Vec<Option<i64>>,
    error_class: Vec<Option<&'static str>>,
    error: Vec<Option<Cow<'a, str>>>,
    response_excerpt: Vec<Option<Cow<'a, str>>>,
}

impl<'a> AttemptColumns<'a> {
    fn new(verdicts: &[Verdict<'a>]) -> Self {
        let made: Vec<Option<&'a Attempt>> =
            verdicts.iter().map(|v| v.attempt().map(|(_, attempt)| attempt)).collect();
        let column = || made.iter().copied();
        Self {
            number: column().map(|a| Some(i64::from(a?.number))).collect(),
            started_at: column().map(|a| Some(moment(a?.started_at))).collect(),
            duration_ms: column().map(|a| Some(i64::from(a?.duration_ms))).collect(),
            status_code: column().map(|a| a?.status_code.map(i64::from)).collect(),
            error_class: column().map(|a| a?.error_class.map(ErrorClass::as_str)).collect(),
            error: column().map(|a| a?.error.as_deref().map(rows::storable)).collect(),
            response_excerpt: column()
                .map(|a| a?.response_excerpt.as_deref().map(rows::storable))
                .collect(),
        }
    }
}
