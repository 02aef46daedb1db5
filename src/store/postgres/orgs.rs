//! Organisations.

use async_trait::async_trait;

use super::{PostgresStore, moment};
use crate::domain::{Cursor, Org, OrgChange, OrgId, Page, PageRequest, Timestamp};
use crate::store::{OrgStore, StoreError, rows};

#[async_trait]
impl OrgStore for PostgresStore {
    async fn insert_org_across_orgs(&self, org: &Org) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO orgs (id, name, rate_limit_per_minute, created_at, changed_at)
             VALUES ($1, $2, $3, $4, $4)",
        )
        .bind(org.id.uuid())
        .bind(&org.name)
        .bind(org.rate_limit_per_minute.map(i64::from))
        .bind(moment(org.created_at))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn org(&self, org: OrgId) -> Result<Option<Org>, StoreError> {
        let row = sqlx::query(
            "SELECT id, name, rate_limit_per_minute, created_at FROM orgs WHERE id = $1",
        )
        .bind(org.uuid())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(rows::org).transpose()
    }

    async fn update_org(
        &self,
        org: OrgId,
        change: &OrgChange,
        now: Timestamp,
    ) -> Result<Option<Org>, StoreError> {
        let row = sqlx::query(
            "UPDATE orgs
             SET name = coalesce($2, name),
                 rate_limit_per_minute = CASE WHEN $3 THEN $4 ELSE rate_limit_per_minute END,
                 changed_at = $5
             WHERE id = $1
             RETURNING id, name, rate_limit_per_minute, created_at",
        )
        .bind(org.uuid())
        .bind(change.name.as_deref())
        .bind(change.rate_limit_per_minute.is_some())
        .bind(change.rate_limit_per_minute.flatten().map(i64::from))
        .bind(moment(now))
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(rows::org).transpose()
    }

    async fn orgs_across_orgs(&self, page: PageRequest) -> Result<Page<Org>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(
            "SELECT id, name, rate_limit_per_minute, created_at FROM orgs
             WHERE (created_at, id) < ($1, $2)
             ORDER BY created_at DESC, id DESC LIMIT $3",
        )
        .bind(moment(after.at))
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.pool)
        .await?;
        let orgs = rows::all(&found, rows::org)?;
        Ok(Page::from_rows(orgs, page.limit, |org| Cursor {
            at: org.created_at,
            id: org.id.uuid(),
        }))
    }
}
