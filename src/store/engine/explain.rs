//! Explains the statements that a store runs.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::{Args, Dialect, Engine, Row, Tx, sqlite, statement};
use crate::store::Result;

/// The plan of a statement outside of a transaction.
pub(super) async fn plan(engine: &Engine, sql: &SqlStr, args: &Args<'_>) -> Result<String> {
    let (sql, args) = (explained(engine.dialect(), sql), args.clone());
    let rows = match engine {
        Engine::Sqlite(engine) => statement::all_sqlite(&engine.readers, sql, args).await?,
        Engine::Postgres(engine) => {
            let mut session = engine.begin().await?;
            statement::all_postgres(&mut session, sql, args).await?
        }
    };
    printed(engine.dialect(), &rows)
}

/// The plan of a statement of a transaction, as it is there.
pub(super) async fn plan_in(tx: &mut Tx<'_>, sql: &SqlStr, args: &Args<'_>) -> Result<String> {
    let dialect = tx.dialect();
    let (sql, args) = (explained(dialect, sql), args.clone());
    let rows = match tx {
        Tx::Sqlite(tx, _) => sqlite::run(tx, sql, args).await?.rows,
        Tx::Postgres(tx) => statement::all_postgres(tx, sql, args).await?,
    };
    printed(dialect, &rows)
}

/// A plan as the engine prints it, a line per node.
fn printed(dialect: Dialect, rows: &[Row]) -> Result<String> {
    let column = match dialect {
        Dialect::Sqlite => "detail",
        Dialect::Postgres => "QUERY PLAN",
    };
    let lines = rows.iter().map(|row| row.get::<String>(column));
    Ok(lines.collect::<Result<Vec<_>>>()?.join("\n"))
}

/// The statement that shows the plan of another one.
fn explained(dialect: Dialect, sql: &SqlStr) -> SqlStr {
    let explain = match dialect {
        Dialect::Sqlite => "EXPLAIN QUERY PLAN",
        Dialect::Postgres => "EXPLAIN (COSTS OFF)",
    };
    AssertSqlSafe(format!("{explain} {}", sql.as_str())).into_sql_str()
}
