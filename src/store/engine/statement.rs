//! Runs one statement on a connection of either engine.

use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use sqlx::{PgConnection, SqlStr, SqliteExecutor};

use super::{Args, PgSession, Row, answered};
use crate::store::Result;

/// Runs a statement and returns how many rows it changed.
pub(super) async fn execute_postgres(
    session: &mut PgSession,
    sql: SqlStr,
    args: Args<'_>,
) -> Result<u64> {
    let query = sqlx::query_with(sql, for_postgres(args)?).persistent(session.is_prepared());
    let answer = answered(session.host(), query.execute(session.connection()?));
    Ok(answer.await?.rows_affected())
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
    session: &mut PgSession,
    sql: SqlStr,
    args: Args<'_>,
) -> Result<Vec<Row>> {
    let (host, is_prepared) = (session.host(), session.is_prepared());
    let query = sqlx::query_with(sql, for_postgres(args)?).persistent(is_prepared);
    let rows = answered(host, query.fetch_all(session.connection()?)).await?;
    Ok(rows.into_iter().map(Row::Postgres).collect())
}

/// The same on a connection, where the statement is prepared under a name or not.
pub(super) async fn all_on(
    connection: &mut PgConnection,
    sql: SqlStr,
    args: Args<'_>,
    is_prepared: bool,
) -> Result<Vec<Row>> {
    let query = sqlx::query_with(sql, for_postgres(args)?).persistent(is_prepared);
    let rows = query.fetch_all(connection).await?;
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
