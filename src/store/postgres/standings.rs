//! What outcomes say of endpoints, written in the outcomes' transaction.

use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{audit, endpoints, moment};
use crate::domain::{Actor, EndpointId, Event, Timestamp};
use crate::store::audit::AuditRecord;
use crate::store::standing::{self, Sentence, Standings};
use crate::store::{StoreError, rows};

/// AuditRecords which endpoints fail, disables those that are gone or have failed for too long, and returns
/// the news of that. Endpoints are locked in key order, and only where something changes; before
/// them their organisations are held, as [`orgs::hold`](super::orgs::hold) says: audit log and
/// news refer to them.
pub(super) async fn write(
    connection: &mut PgConnection,
    standings: &Standings,
) -> Result<Vec<Arc<Event>>, StoreError> {
    if standings.failing.is_empty() {
        return Ok(Vec::new());
    }
    let limits: Vec<_> = standings.failing.iter().map(|failing| moment(failing.limit)).collect();
    let gone: Vec<bool> = standings.failing.iter().map(|failing| failing.gone).collect();
    let found: Vec<PgRow> = sqlx::query(
        "SELECT p.id, p.org_id, p.failing_since
         FROM unnest($1::uuid[], $2::timestamptz[], $3::boolean[]) AS f (id, failing_limit, gone)
         JOIN endpoints p ON p.id = f.id
         CROSS JOIN LATERAL (SELECT 1 FROM orgs o WHERE o.id = p.org_id FOR KEY SHARE) o
         WHERE p.disabled_reason IS NULL
           AND (p.failing_since IS NULL OR p.failing_since <= f.failing_limit OR f.gone)
         ORDER BY p.id
         FOR UPDATE OF p",
    )
    .bind(standings.failing_ids().collect::<Vec<Uuid>>())
    .bind(limits)
    .bind(gone)
    .fetch_all(&mut *connection)
    .await?;
    let mut news = Vec::new();
    for (endpoint, sentence) in standings.sentences(&found)? {
        match sentence {
            Sentence::FailsSince(since) => {
                sqlx::query("UPDATE endpoints SET failing_since = $2 WHERE id = $1")
                    .bind(endpoint.uuid())
                    .bind(moment(since))
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
    connection: &mut PgConnection,
    endpoint: EndpointId,
    reason: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE endpoints SET disabled_reason = $2, updated_at = $3 WHERE id = $1")
        .bind(endpoint.uuid())
        .bind(reason)
        .bind(moment(at))
        .execute(&mut *connection)
        .await?;
    endpoints::park(connection, endpoint).await
}

/// The news of deliveries that were given up.
pub(super) async fn exhausted(
    connection: &mut PgConnection,
    deliveries: &[Uuid],
) -> Result<Vec<Arc<Event>>, StoreError> {
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<PgRow> = sqlx::query(
        "SELECT d.id, d.org_id, d.event_id, d.endpoint_id, d.attempts, l.detail, l.created_at,
                e.event_type
         FROM deliveries d
         JOIN dead_letters l ON l.id = d.id
         JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
         WHERE d.id = ANY ($1)",
    )
    .bind(deliveries)
    .fetch_all(connection)
    .await?;
    let news: Vec<Option<Arc<Event>>> = rows::all(&found, standing::delivery_exhausted)?;
    Ok(news.into_iter().flatten().collect())
}
