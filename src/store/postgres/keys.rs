//! API keys.

use async_trait::async_trait;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{PostgresStore, moment};
use crate::domain::{ApiKey, ApiKeyId, Cursor, OrgId, Page, PageRequest, Timestamp};
use crate::store::{KeyStore, StoreError, rows, timed};
use crate::telemetry::DbOperation;

#[async_trait]
impl KeyStore for PostgresStore {
    async fn insert_key_across_orgs(&self, key: &ApiKey) -> Result<(), StoreError> {
        let mut writer = self.pool.acquire().await?;
        insert(&mut writer, key).await
    }

    async fn key_across_orgs(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        let query = sqlx::query(
            "SELECT id, org_id, name, hash, created_at, expires_at FROM api_keys WHERE id = $1",
        )
        .bind(id.uuid())
        .fetch_optional(&self.pool);
        let row = timed(&self.metrics, DbOperation::FindKey, query).await?;
        row.as_ref().map(rows::key).transpose()
    }

    async fn keys(&self, org: OrgId, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(
            "SELECT id, org_id, name, hash, created_at, expires_at FROM api_keys
             WHERE org_id = $1 AND (created_at, id) < ($2, $3)
             ORDER BY created_at DESC, id DESC LIMIT $4",
        )
        .bind(org.uuid())
        .bind(moment(after.at))
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::from_rows(rows::all(&found, rows::key)?, page.limit, position))
    }

    async fn keys_across_orgs(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(
            "SELECT id, org_id, name, hash, created_at, expires_at FROM api_keys
             WHERE (created_at, id) < ($1, $2)
             ORDER BY created_at DESC, id DESC LIMIT $3",
        )
        .bind(moment(after.at))
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::from_rows(rows::all(&found, rows::key)?, page.limit, position))
    }

    async fn expire_key_across_orgs(
        &self,
        id: ApiKeyId,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut writer = self.pool.acquire().await?;
        expire(&mut writer, id, at, now).await
    }

    async fn rotate_key_across_orgs(
        &self,
        old: ApiKeyId,
        old_expires_at: Timestamp,
        replacement: &ApiKey,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !expire(&mut tx, old, old_expires_at, replacement.created_at).await? {
            return Ok(false);
        }
        insert(&mut tx, replacement).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn keys_changed_across_orgs(
        &self,
        since: Timestamp,
    ) -> Result<Vec<ApiKeyId>, StoreError> {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "SELECT id FROM api_keys WHERE changed_at >= $1
             UNION
             SELECT k.id FROM orgs o JOIN api_keys k ON k.org_id = o.id WHERE o.changed_at >= $1",
        )
        .bind(moment(since))
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(ApiKeyId::from_uuid).collect())
    }
}

async fn insert(connection: &mut PgConnection, key: &ApiKey) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO api_keys (id, org_id, name, hash, created_at, expires_at, changed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $5)",
    )
    .bind(key.id.uuid())
    .bind(key.role.org_id().map(OrgId::uuid))
    .bind(&key.name)
    .bind(key.hash.phc())
    .bind(moment(key.created_at))
    .bind(key.expires_at.map(moment))
    .execute(connection)
    .await?;
    Ok(())
}

async fn expire(
    connection: &mut PgConnection,
    id: ApiKeyId,
    at: Timestamp,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE api_keys SET expires_at = least(expires_at, $2), changed_at = $3
         WHERE id = $1",
    )
    .bind(id.uuid())
    .bind(moment(at))
    .bind(moment(now))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

fn position(key: &ApiKey) -> Cursor {
    Cursor { at: key.created_at, id: key.id.uuid() }
}
