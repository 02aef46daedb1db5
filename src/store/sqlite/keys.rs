//! API keys.

use std::time::Duration;

use sqlx::query::QueryScalar;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection};

use super::{SqliteEngine, audit, orgs};
use crate::domain::{
    Actor, ApiKey, ApiKeyId, Cursor, KeyRotationRefusal, OrgId, OrgLimit, Page, PageRequest,
    Timestamp,
};
use crate::store::audit::AuditRecord;
use crate::store::metrics::DbOperation;
use crate::store::rows::{self, key_columns};
use crate::store::{AddRefusal, ChangeMark, KeyChanges, StoreError, check_rotation, timed};

impl SqliteEngine {
    pub(crate) async fn insert_key_across_orgs(
        &self,
        key: &ApiKey,
        by: &Actor,
    ) -> Result<Result<(), AddRefusal>, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(org) = key.role.org_id() {
            let count = sqlx::query_scalar(
                "SELECT count(*) FROM api_keys
                 WHERE org_id = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
            )
            .bind(org.uuid())
            .bind(key.created_at.micros());
            if let Err(refusal) = orgs::room(&mut tx, org, OrgLimit::Keys, count).await? {
                return Ok(Err(refusal));
            }
        }
        insert(&mut tx, key).await?;
        audit::write(&mut tx, &AuditRecord::key_created(key), by, key.created_at).await?;
        tx.commit().await?;
        Ok(Ok(()))
    }

    pub(crate) async fn key_across_orgs(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        let query = sqlx::query(concat!("SELECT ", key_columns!(), " FROM api_keys WHERE id = ?1"))
            .bind(id.uuid())
            .fetch_optional(&self.readers);
        let row = timed(&self.metrics, DbOperation::FindKey, query).await?;
        row.as_ref().map(rows::key).transpose()
    }

    pub(crate) async fn keys(
        &self,
        org: OrgId,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys
             WHERE org_id = ?1 AND (created_at, id) < (?2, ?3)
             ORDER BY created_at DESC, id DESC LIMIT ?4"
        ))
        .bind(org.uuid())
        .bind(after.at.micros())
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.readers)
        .await?;
        Ok(Page::from_rows(rows::all(&found, rows::key)?, page.limit, position))
    }

    pub(crate) async fn keys_across_orgs(
        &self,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys
             WHERE (created_at, id) < (?1, ?2)
             ORDER BY created_at DESC, id DESC LIMIT ?3"
        ))
        .bind(after.at.micros())
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.readers)
        .await?;
        Ok(Page::from_rows(rows::all(&found, rows::key)?, page.limit, position))
    }

    pub(crate) async fn expire_key_across_orgs(
        &self,
        id: ApiKeyId,
        at: Timestamp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let Some(before) = locked(&mut tx, id).await? else { return Ok(false) };
        if before.expires_at.is_some_and(|end| end <= at) {
            return Ok(true);
        }
        let key = expire(&mut tx, id, at, None, now).await?;
        audit::write(&mut tx, &AuditRecord::key_expired(&key), by, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    pub(crate) async fn rotate_key_across_orgs(
        &self,
        old: ApiKeyId,
        grace: Duration,
        replacement: &ApiKey,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<(), KeyRotationRefusal>, StoreError> {
        let mut tx = self.begin().await?;
        let room = match replacement.role.org_id() {
            Some(org) => orgs::room(&mut tx, org, OrgLimit::Keys, in_grace(org, now)).await?,
            None => Ok(()),
        };
        let Some(key) = locked(&mut tx, old).await? else {
            return Ok(Err(KeyRotationRefusal::NotFound));
        };
        if let Err(refusal) = check_rotation(&key, room, grace, now) {
            return Ok(Err(refusal));
        }
        let key = expire(&mut tx, old, now.plus(grace), Some(replacement.id), now).await?;
        insert(&mut tx, replacement).await?;
        let note = AuditRecord::key_rotated(replacement, &key, grace);
        audit::write(&mut tx, &note, by, now).await?;
        tx.commit().await?;
        Ok(Ok(()))
    }

    pub(crate) async fn keys_changed_across_orgs(
        &self,
        since: Option<ChangeMark>,
    ) -> Result<KeyChanges, StoreError> {
        // What commits next has the counter's next number: transactions are one after the other.
        let found = sqlx::query(
            "SELECT NULL, number + 1 FROM change_counter
             UNION ALL
             SELECT id, change_number FROM api_keys WHERE change_number >= ?1
             UNION
             SELECT k.id, o.change_number FROM orgs o JOIN api_keys k ON k.org_id = o.id
             WHERE o.change_number >= ?1",
        )
        .bind(since.map(|mark| mark.0))
        .fetch_all(&self.readers)
        .await?;
        rows::key_changes(&found)
    }
}

/// Counts an organisation's keys that were rotated and are good still.
fn in_grace<'q>(org: OrgId, now: Timestamp) -> QueryScalar<'q, Sqlite, i64, SqliteArguments> {
    sqlx::query_scalar(
        "SELECT count(*) FROM api_keys
         WHERE org_id = ?1 AND replaced_by IS NOT NULL AND expires_at > ?2",
    )
    .bind(org.uuid())
    .bind(now.micros())
}

async fn insert(connection: &mut SqliteConnection, key: &ApiKey) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO api_keys (id, org_id, name, hash, created_at, expires_at, changed_at, scopes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5, ?7)",
    )
    .bind(key.id.uuid())
    .bind(key.role.org_id().map(OrgId::uuid))
    .bind(&key.name)
    .bind(key.hash.phc())
    .bind(key.created_at.micros())
    .bind(key.expires_at.map(Timestamp::micros))
    .bind(key.scopes.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// A key as it is within a transaction.
async fn locked(
    connection: &mut SqliteConnection,
    id: ApiKeyId,
) -> Result<Option<ApiKey>, StoreError> {
    let row = sqlx::query(concat!("SELECT ", key_columns!(), " FROM api_keys WHERE id = ?1"))
        .bind(id.uuid())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(rows::key).transpose()
}

/// Brings the end of a key that is [`locked`] forward to `at`, which revokes it if that is not after `now` and before its
/// time, and notes the key that it was rotated to.
async fn expire(
    connection: &mut SqliteConnection,
    id: ApiKeyId,
    at: Timestamp,
    replaced_by: Option<ApiKeyId>,
    now: Timestamp,
) -> Result<ApiKey, StoreError> {
    let row = sqlx::query(concat!(
        "UPDATE api_keys
         SET revoked_at = CASE WHEN ?2 <= ?4 AND (expires_at IS NULL OR expires_at > ?4)
                          THEN coalesce(revoked_at, ?4) ELSE revoked_at END,
             expires_at = min(coalesce(expires_at, ?2), ?2), changed_at = ?4,
             replaced_by = coalesce(?3, replaced_by)
         WHERE id = ?1
         RETURNING ",
        key_columns!()
    ))
    .bind(id.uuid())
    .bind(at.micros())
    .bind(replaced_by.map(ApiKeyId::uuid))
    .bind(now.micros())
    .fetch_one(connection)
    .await?;
    rows::key(&row)
}

fn position(key: &ApiKey) -> Cursor {
    Cursor { at: key.created_at, id: key.id.uuid() }
}
