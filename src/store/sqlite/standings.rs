//! What outcomes say of endpoints, written in the outcomes' transaction.

use std::sync::Arc;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::{audit, endpoints, id_list};
use crate::domain::{Actor, EndpointId, Event, Timestamp};
use crate::store::audit::AuditRecord;
use crate::store::standing::{self, Sentence, Standings};
use crate::store::{StoreError, rows};

/// AuditRecords which endpoints work and which fail, disables those that are gone or have failed for too
/// long, and returns the news of that.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    standings: &Standings,
) -> Result<Vec<Arc<Event>>, StoreError> {
    if !standings.working.is_empty() {
        sqlx::query(
            "UPDATE endpoints SET failing_since = NULL
             WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND failing_since IS NOT NULL",
        )
        .bind(id_list(standings.working.iter().copied()))
        .execute(&mut *connection)
        .await?;
    }
    if standings.failing.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<SqliteRow> = sqlx::query(
        "SELECT id, org_id, failing_since FROM endpoints
         WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND disabled_reason IS NULL",
    )
    .bind(id_list(standings.failing_ids()))
    .fetch_all(&mut *connection)
    .await?;
    let mut news = Vec::new();
    for (endpoint, sentence) in standings.sentences(&found)? {
        match sentence {
            Sentence::FailsSince(since) => {
                sqlx::query("UPDATE endpoints SET failing_since = ?2 WHERE id = ?1")
                    .bind(endpoint.uuid())
                    .bind(since.micros())
                    .execute(&mut *connection)
                    .await?;
            }
            Sentence::Disabled { org, reason, at } => {
                disable(connection, endpoint, &reason, at).await?;
                let note = AuditRecord::endpoint_disabled(org, endpoint, &reason);
                audit::write(connection, &note, &Actor::SERVER, at).await?;
                news.push(standing::endpoint_disabled(endpoint, org, &reason, at)?);
            }
        }
    }
    Ok(news)
}

async fn disable(
    connection: &mut SqliteConnection,
    endpoint: EndpointId,
    reason: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE endpoints SET disabled_reason = ?2, updated_at = ?3 WHERE id = ?1")
        .bind(endpoint.uuid())
        .bind(reason)
        .bind(at.micros())
        .execute(&mut *connection)
        .await?;
    endpoints::park(connection, endpoint).await
}

/// The news of deliveries that were given up.
pub(super) async fn exhausted(
    connection: &mut SqliteConnection,
    deliveries: &[Uuid],
) -> Result<Vec<Arc<Event>>, StoreError> {
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<SqliteRow> = sqlx::query(
        "SELECT d.id, d.org_id, d.event_id, d.endpoint_id, d.attempts, l.detail, l.created_at,
                e.event_type
         FROM (SELECT unhex(value) AS id FROM json_each(?1)) x
         CROSS JOIN deliveries d ON d.id = x.id
         CROSS JOIN dead_letters l ON l.id = d.id
         CROSS JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at",
    )
    .bind(id_list(deliveries.iter().copied()))
    .fetch_all(connection)
    .await?;
    let news: Vec<Option<Arc<Event>>> = rows::all(&found, standing::delivery_exhausted)?;
    Ok(news.into_iter().flatten().collect())
}
