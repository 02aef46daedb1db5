//! Endpoints.

use sqlx::SqliteConnection;

use crate::domain::EndpointId;
use crate::store::StoreError;

/// Takes what waits out of the claims' sight. Leased deliveries are parked by their outcome, or by
/// the claim that finds their lease lapsed.
pub(super) async fn park(
    connection: &mut SqliteConnection,
    endpoint: EndpointId,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE deliveries SET due_at = NULL
         WHERE endpoint_id = ?1 AND status = 'pending' AND lease_token IS NULL",
    )
    .bind(endpoint.uuid())
    .execute(connection)
    .await?;
    Ok(())
}
