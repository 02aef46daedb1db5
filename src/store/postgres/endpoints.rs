//! Endpoints.

use async_trait::async_trait;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::{PostgresStore, audit, moment, orgs};
use crate::domain::{
    Actor, Cursor, Endpoint, EndpointChange, EndpointId, OrgId, OrgLimit, Page, PageRequest,
    Timestamp,
};
use crate::store::audit::Note;
use crate::store::rows::{self, endpoint_columns};
use crate::store::seal::Place;
use crate::store::{AddRefusal, EndpointStore, SUSPENDED, StoreError};

#[async_trait]
impl EndpointStore for PostgresStore {
    async fn insert_endpoint(
        &self,
        org: OrgId,
        endpoint: &Endpoint,
        by: &Actor,
    ) -> Result<Result<(), AddRefusal>, StoreError> {
        let (sealed, policy) = (self.keyring.seal_endpoint(endpoint)?, &endpoint.policy);
        let mut tx = self.pool.begin().await?;
        let count =
            sqlx::query_scalar("SELECT count(*) FROM endpoints WHERE org_id = $1").bind(org.uuid());
        if let Err(refusal) = orgs::room(&mut tx, org, OrgLimit::Endpoints, count).await? {
            return Ok(Err(refusal));
        }
        sqlx::query(
            "INSERT INTO endpoints (id, org_id, url, event_types, description, secret,
                                    disabled_reason, created_at, updated_at, earlier_secrets,
                                    headers, max_concurrency, rate_limit_per_second,
                                    retry_schedule, ordered, failing_since)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
                     $12, $13, $14, $15, $16)",
        )
        .bind(endpoint.id.uuid())
        .bind(org.uuid())
        .bind(endpoint.url.as_str())
        .bind(endpoint.event_types.to_string())
        .bind(endpoint.description.as_deref())
        .bind(sealed.secret)
        .bind(endpoint.disabled_reason.as_deref().map(rows::storable))
        .bind(moment(endpoint.created_at))
        .bind(moment(endpoint.updated_at))
        .bind(sealed.earlier_secrets)
        .bind(sealed.headers)
        .bind(policy.max_concurrency.map(i64::from))
        .bind(policy.rate_limit_per_second.map(i64::from))
        .bind(policy.retry_schedule.as_ref().map(ToString::to_string))
        .bind(policy.ordered)
        .bind(endpoint.failing_since.map(moment))
        .execute(&mut *tx)
        .await?;
        orgs::keep_paused(&mut tx, org).await?;
        let note = Note::endpoint_created(endpoint);
        audit::write(&mut tx, &note, by, endpoint.created_at).await?;
        tx.commit().await?;
        Ok(Ok(()))
    }

    async fn endpoint(&self, org: OrgId, id: EndpointId) -> Result<Option<Endpoint>, StoreError> {
        let row = sqlx::query(concat!(
            "SELECT ",
            endpoint_columns!(),
            "
             FROM endpoints WHERE id = $1 AND org_id = $2"
        ))
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| rows::endpoint(&row, 0, &self.keyring)).transpose()
    }

    async fn endpoints(&self, org: OrgId, page: PageRequest) -> Result<Page<Endpoint>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(concat!(
            "SELECT ",
            endpoint_columns!(),
            "
             FROM endpoints WHERE org_id = $1 AND (created_at, id) < ($2, $3)
             ORDER BY created_at DESC, id DESC LIMIT $4"
        ))
        .bind(org.uuid())
        .bind(moment(after.at))
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.pool)
        .await?;
        let endpoints = rows::all(&found, |row| rows::endpoint(row, 0, &self.keyring))?;
        Ok(Page::from_rows(endpoints, page.limit, |endpoint| Cursor {
            at: endpoint.created_at,
            id: endpoint.id.uuid(),
        }))
    }

    async fn update_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        change: &EndpointChange,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Endpoint>, StoreError> {
        let place = Place { org, endpoint: id };
        let headers = change.headers.as_ref();
        let headers = headers.map(|h| self.keyring.seal_headers(place, h)).transpose()?;
        let disabled_reason = change.disabled_reason.as_ref().and_then(Option::as_deref);
        let policy = &change.policy;
        // What failed before it was enabled, or at another URL, is no longer held against it.
        let starts_afresh = change.url.is_some() || change.disabled_reason == Some(None);
        let mut tx = self.pool.begin().await?;
        orgs::hold(&mut tx, org).await?;
        let Some(before) = locked(&mut tx, org, id).await? else { return Ok(None) };
        let before = rows::endpoint(&before, 0, &self.keyring)?;
        let row = sqlx::query(concat!(
            "UPDATE endpoints
             SET url = coalesce($3, url),
                 event_types = coalesce($4, event_types),
                 description = CASE WHEN $5 THEN $6 ELSE description END,
                 disabled_reason = CASE WHEN $7 THEN $8 ELSE disabled_reason END,
                 updated_at = $9,
                 headers = CASE WHEN $10 THEN $11 ELSE headers END,
                 max_concurrency = CASE WHEN $12 THEN $13 ELSE max_concurrency END,
                 rate_limit_per_second =
                     CASE WHEN $14 THEN $15 ELSE rate_limit_per_second END,
                 retry_schedule = CASE WHEN $16 THEN $17 ELSE retry_schedule END,
                 ordered = coalesce($18, ordered),
                 failing_since = CASE WHEN $19 THEN NULL ELSE failing_since END
             WHERE id = $1 AND org_id = $2
             RETURNING ",
            endpoint_columns!()
        ))
        .bind(id.uuid())
        .bind(org.uuid())
        .bind(change.url.as_ref().map(url::Url::as_str))
        .bind(change.event_types.as_ref().map(ToString::to_string))
        .bind(change.description.is_some())
        .bind(change.description.as_ref().and_then(Option::as_deref))
        .bind(change.disabled_reason.is_some())
        .bind(disabled_reason.map(rows::storable))
        .bind(moment(now))
        .bind(change.headers.is_some())
        .bind(headers.flatten())
        .bind(policy.max_concurrency.is_some())
        .bind(policy.max_concurrency.flatten().map(i64::from))
        .bind(policy.rate_limit_per_second.is_some())
        .bind(policy.rate_limit_per_second.flatten().map(i64::from))
        .bind(policy.retry_schedule.is_some())
        .bind(policy.retry_schedule.as_ref().and_then(Option::as_ref).map(ToString::to_string))
        .bind(policy.ordered)
        .bind(starts_afresh)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let enabled = change.disabled_reason == Some(None);
        let paused = enabled && orgs::keep_paused(&mut tx, org).await?;
        match &change.disabled_reason {
            Some(Some(_)) => park(&mut tx, id).await?,
            Some(None) if paused => {}
            Some(None) => unpark(&mut tx, id, now).await?,
            None => {}
        }
        let mut endpoint = rows::endpoint(&row, 0, &self.keyring)?;
        if paused {
            endpoint.disabled_reason = Some(SUSPENDED.to_owned());
        }
        if endpoint != (Endpoint { updated_at: now, ..before }) {
            let note = Note::endpoint_changed(org, id, change);
            audit::write(&mut tx, &note, by, now).await?;
        }
        tx.commit().await?;
        Ok(Some(endpoint))
    }

    async fn delete_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        orgs::hold(&mut tx, org).await?;
        let done = sqlx::query("DELETE FROM endpoints WHERE id = $1 AND org_id = $2")
            .bind(id.uuid())
            .bind(org.uuid())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        // In key order, as outcomes are recorded: each would wait for the other's rows otherwise.
        sqlx::query(
            "WITH held AS MATERIALIZED (
                 SELECT id, event_received_at FROM deliveries
                 WHERE endpoint_id = $1 AND status = 'pending'
                 ORDER BY id FOR UPDATE
             )
             UPDATE deliveries d
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $2
             FROM held h
             WHERE d.id = h.id AND d.event_received_at = h.event_received_at",
        )
        .bind(id.uuid())
        .bind(moment(now))
        .execute(&mut *tx)
        .await?;
        audit::write(&mut tx, &Note::endpoint_deleted(org, id), by, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// An endpoint as it is within a transaction, which nobody else changes until its end.
async fn locked(
    connection: &mut PgConnection,
    org: OrgId,
    id: EndpointId,
) -> Result<Option<PgRow>, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        endpoint_columns!(),
        " FROM endpoints WHERE id = $1 AND org_id = $2 FOR NO KEY UPDATE"
    ))
    .bind(id.uuid())
    .bind(org.uuid())
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Takes what waits out of the claims' sight. Leased deliveries are parked by their outcome, or by
/// the claim that finds their lease lapsed.
pub(super) async fn park(
    connection: &mut PgConnection,
    endpoint: EndpointId,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE deliveries SET due_at = NULL
         WHERE endpoint_id = $1 AND status = 'pending' AND lease_token IS NULL",
    )
    .bind(endpoint.uuid())
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes what [`park`] parked due.
pub(super) async fn unpark(
    connection: &mut PgConnection,
    endpoint: EndpointId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE deliveries SET due_at = $2
         WHERE endpoint_id = $1 AND status = 'pending' AND due_at IS NULL",
    )
    .bind(endpoint.uuid())
    .bind(moment(now))
    .execute(connection)
    .await?;
    Ok(())
}
