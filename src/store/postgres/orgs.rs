//! Organisations.

use sqlx::postgres::PgArguments;
use sqlx::query::QueryScalar;
use sqlx::{PgConnection, Postgres};

use crate::domain::{OrgId, OrgLimit};
use crate::store::rows::{self, org_columns};
use crate::store::{AddRefusal, StoreError};

/// Whether there is room for one more of what `limit` limits and `count` counts. Whoever adds one
/// holds the organisation until the end of its transaction, so that two cannot take the last place.
pub(super) async fn room(
    connection: &mut PgConnection,
    org: OrgId,
    limit: OrgLimit,
    count: QueryScalar<'_, Postgres, i64, PgArguments>,
) -> Result<Result<(), AddRefusal>, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        org_columns!(),
        " FROM orgs WHERE id = $1 FOR NO KEY UPDATE"
    ))
    .bind(org.uuid())
    .fetch_optional(&mut *connection)
    .await?;
    // What belongs to no organisation is refused by its foreign key.
    let Some(org) = row.as_ref().map(rows::org).transpose()? else { return Ok(Ok(())) };
    if org.deletion.is_some() {
        return Ok(Err(AddRefusal::OrgDeleted));
    }
    let Some(most) = org.limits.get(limit) else { return Ok(Ok(())) };
    let full = count.fetch_one(connection).await? >= i64::from(most);
    Ok(if full { Err(AddRefusal::OverQuota(most)) } else { Ok(()) })
}

/// Holds an organisation until the end of the transaction, as batches that store events of it do: its
/// deletion comes before or after. `false` where there is none, or it is being deleted. To be taken
/// before locks on its endpoints and deliveries, as a deletion takes them.
pub(super) async fn hold(connection: &mut PgConnection, org: OrgId) -> Result<bool, StoreError> {
    let held: Option<bool> =
        sqlx::query_scalar("SELECT deleting_since IS NULL FROM orgs WHERE id = $1 FOR KEY SHARE")
            .bind(org.uuid())
            .fetch_optional(connection)
            .await?;
    Ok(held == Some(true))
}
