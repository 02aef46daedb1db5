//! Runs one statement on a connection of either engine.

use futures_util::TryStreamExt;
use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use sqlx::{PgConnection, SqlStr, SqliteExecutor};

use super::{Args, PgSession, Row, RowSink, answered};
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
    let mut rows = Vec::new();
    read_sqlite(on, sql, args, &mut rows).await?;
    Ok(rows)
}

/// Reads the rows that a statement answers with, one by one.
pub(super) async fn read_sqlite(
    on: impl SqliteExecutor<'_>,
    sql: SqlStr,
    args: Args<'_>,
    sink: &mut dyn RowSink,
) -> Result<()> {
    let mut rows = sqlx::query_with(sql, for_sqlite(args)?).fetch(on);
    while let Some(row) = rows.try_next().await? {
        sink.take(Row::Sqlite(row))?;
    }
    Ok(())
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

/// Reads the rows that a statement answers with, one by one. It is prepared under a name or not.
pub(super) async fn read_postgres(
    connection: &mut PgConnection,
    sql: SqlStr,
    args: Args<'_>,
    is_prepared: bool,
    sink: &mut dyn RowSink,
) -> Result<()> {
    let query = sqlx::query_with(sql, for_postgres(args)?).persistent(is_prepared);
    let mut rows = query.fetch(connection);
    while let Some(row) = rows.try_next().await? {
        sink.take(Row::Postgres(row))?;
    }
    Ok(())
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
