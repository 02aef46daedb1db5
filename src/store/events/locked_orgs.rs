//! The organisations of a batch in PostgreSQL, locked until it is stored: which were changed since it was planned.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{EventBatch, OrgEndpoints};
use crate::domain::{OrgId, Timestamp};
use crate::store::Result;
use crate::store::engine::{PgSession, answered, column};

/// What the organisations of a batch are now.
pub(super) struct OrgStates {
    /// Their endpoints have another version than the batch was planned with.
    pub(super) stale: Vec<OrgId>,
    /// One of their erasures may cover an event of the batch.
    pub(super) reached: Vec<OrgId>,
}

/// Locks organisations until the end of the transaction.
pub(super) async fn org_states(
    session: &mut PgSession,
    orgs: &[OrgId],
    batch: EventBatch<'_>,
) -> Result<OrgStates> {
    let rows: Vec<(Uuid, i64, Option<OffsetDateTime>)> = answered(
        session.host(),
        sqlx::query_as(
            "SELECT id, endpoints_version, erased_until FROM orgs
         WHERE id = ANY ($1) ORDER BY id FOR KEY SHARE",
        )
        .bind(column(orgs, |org| org.uuid()))
        .persistent(session.is_prepared())
        .fetch_all(session.connection()?),
    )
    .await?;
    let mut states = OrgStates { stale: Vec::new(), reached: Vec::new() };
    for (org, now, erased_until) in rows {
        let org = OrgId::from_uuid(org);
        if batch.endpoints.get(&org).is_none_or(|known| version(known) != now) {
            states.stale.push(org);
        }
        if batch.is_reached(org, erased_until.map(Timestamp::from)) {
            states.reached.push(org);
        }
    }
    Ok(states)
}

/// The version of some endpoints, as the column has it.
pub(super) fn version(endpoints: &OrgEndpoints) -> i64 {
    i64::try_from(endpoints.version).unwrap_or(i64::MAX)
}
