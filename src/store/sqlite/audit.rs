//! The audit log.

use async_trait::async_trait;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::SqliteStore;
use crate::domain::{Actor, AuditEntry, Cursor, EndpointId, OrgId, Page, PageRequest, Timestamp};
use crate::store::audit::Note;
use crate::store::rows::{self, audit_columns};
use crate::store::{AuditStore, StoreError};

#[async_trait]
impl AuditStore for SqliteStore {
    async fn note_secret_shown(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut connection = self.writer.acquire().await?;
        write(&mut connection, &Note::secret_shown(org, endpoint), by, now).await
    }

    async fn audit_log(
        &self,
        org: OrgId,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(concat!(
            "SELECT ",
            audit_columns!(),
            " FROM audit_log WHERE org_id = ?1 AND (at, id) < (?2, ?3)
              ORDER BY at DESC, id DESC LIMIT ?4"
        ))
        .bind(org.uuid())
        .bind(after.at.micros())
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.readers)
        .await?;
        Ok(Page::from_rows(rows::all(&found, rows::audit_entry)?, page.limit, position))
    }

    async fn org_log_across_orgs(
        &self,
        org: OrgId,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let after = rows::place(page);
        // The lines of its creation and deletion belong to none. Their times, which its own row keeps,
        // lead to them by the same index.
        let found = sqlx::query(concat!(
            "SELECT * FROM (
                 SELECT ",
            audit_columns!(),
            "    FROM audit_log WHERE org_id = ?1 AND (at, id) < (?2, ?3)
                 ORDER BY at DESC, id DESC LIMIT ?4
             ) own
             UNION ALL
             SELECT ",
            audit_columns!(),
            " FROM (SELECT created_at AS moment FROM orgs WHERE id = ?1
                   UNION ALL SELECT deleting_since FROM orgs WHERE id = ?1) moments
             CROSS JOIN audit_log
             WHERE org_id IS NULL AND at = moment AND object = ?1 AND (at, id) < (?2, ?3)
             ORDER BY at DESC, id DESC LIMIT ?4"
        ))
        .bind(org.uuid())
        .bind(after.at.micros())
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.readers)
        .await?;
        Ok(Page::from_rows(rows::all(&found, rows::audit_entry)?, page.limit, position))
    }

    async fn audit_log_across_orgs(
        &self,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(concat!(
            "SELECT ",
            audit_columns!(),
            " FROM audit_log WHERE (at, id) < (?1, ?2) ORDER BY at DESC, id DESC LIMIT ?3"
        ))
        .bind(after.at.micros())
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.readers)
        .await?;
        Ok(Page::from_rows(rows::all(&found, rows::audit_entry)?, page.limit, position))
    }
}

/// Adds a line. None for an organisation that is being deleted: it would outlive the others.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    note: &Note,
    by: &Actor,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit_log (id, org_id, at, actor, address, action, object, changes)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 
         WHERE NOT EXISTS (SELECT 1 FROM orgs WHERE id = ?2 AND deleting_since IS NOT NULL)",
    )
    .bind(Uuid::now_v7())
    .bind(note.org.map(OrgId::uuid))
    .bind(now.micros())
    .bind(by.kind.to_string())
    .bind(by.address.map(|address| address.to_string()))
    .bind(note.action)
    .bind(note.object)
    .bind(rows::storable(&note.changes.to_string()))
    .execute(connection)
    .await?;
    Ok(())
}

fn position(entry: &AuditEntry) -> Cursor {
    Cursor { at: entry.at, id: entry.id }
}
