//! Runs one statement on a connection of either engine.

use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use sqlx::{PgExecutor, SqlStr, SqliteExecutor};

use super::{Args, Row};
use crate::store::Result;

/// Runs a statement and returns how many rows it changed.
pub(super) async fn execute_postgres(
    on: impl PgExecutor<'_>,
    sql: SqlStr,
    args: Args<'_>,
) -> Result<u64> {
    Ok(sqlx::query_with(sql, for_postgres(args)?).execute(on).await?.rows_affected())
}

/// Reads every row that a statement answers with.
pub(super) async fn all_sqlite(
    on: impl SqliteExecutor<'_>,
    sql: SqlStr,
    args: Args<'_>,
) -> Result<Vec<Row>> {
    let rows = sqlx::query_with(sql, for_sqlite(args)?).fetch_all(on).await?;
    Ok(rows.into_iter().map(Row::Sqlite).collect())
}

/// Reads every row that a statement answers with.
pub(super) async fn all_postgres(
    on: impl PgExecutor<'_>,
    sql: SqlStr,
    args: Args<'_>,
) -> Result<Vec<Row>> {
    let rows = sqlx::query_with(sql, for_postgres(args)?).fetch_all(on).await?;
    Ok(rows.into_iter().map(Row::Postgres).collect())
}

/// The parameters of a statement for SQLite.
pub(super) fn for_sqlite(args: Args<'_>) -> Result<SqliteArguments> {
    let mut arguments = SqliteArguments::default();
    for value in args {
        value.add_to_sqlite(&mut arguments).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn for_postgres(args: Args<'_>) -> Result<PgArguments> {
    let mut arguments = PgArguments::default();
    for value in args {
        value.add_to_postgres(&mut arguments).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
