//! The audit log.

use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::domain::{Actor, OrgId, Timestamp};
use crate::store::StoreError;
use crate::store::audit::AuditRecord;
use crate::store::rows;

/// Adds a line. None for an organisation that is being deleted: it would outlive the others.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    note: &AuditRecord,
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
