//! Organisations.

use sqlx::query::QueryScalar;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection};

use crate::domain::{OrgId, OrgLimit};
use crate::store::rows::{self, org_columns};
use crate::store::{AddRefusal, StoreError};

/// Whether there is room for one more of what `limit` limits and `count` counts.
pub(super) async fn room(
    connection: &mut SqliteConnection,
    org: OrgId,
    limit: OrgLimit,
    count: QueryScalar<'_, Sqlite, i64, SqliteArguments>,
) -> Result<Result<(), AddRefusal>, StoreError> {
    let row = sqlx::query(concat!("SELECT ", org_columns!(), " FROM orgs WHERE id = ?1"))
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
