//! Explains the statements that a store runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::sqlite::SqliteEngine;
use super::{Args, Dialect, Engine, Row, Tx, sqlite, statement};
use crate::store::Result;

/// Instructions of SQLite's virtual machine between two counts.
const INSTRUCTIONS_PER_COUNT: u8 = 10;

/// The plan of a statement outside of a transaction. With `measure` the statement is run, and the plan tells how much it
/// read.
pub(super) async fn plan(
    engine: &Engine,
    sql: &SqlStr,
    args: &Args<'_>,
    measure: bool,
) -> Result<String> {
    let explain = match engine {
        Engine::Postgres(_) if measure => {
            "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)"
        }
        _ => explain(engine.dialect()),
    };
    let explained = explained(explain, sql);
    match engine {
        Engine::Sqlite(sqlite) => {
            let rows = statement::all_sqlite(&sqlite.readers, explained, args.clone()).await?;
            let plan = printed(engine.dialect(), &rows)?;
            if !measure {
                return Ok(plan);
            }
            let instructions = instructions(sqlite, sql.clone(), args.clone()).await?;
            Ok(format!("{plan}\ninstructions: {instructions}"))
        }
        Engine::Postgres(postgres) => {
            let mut session = postgres.begin().await?;
            let rows = statement::all_postgres(&mut session, explained, args.clone()).await?;
            printed(engine.dialect(), &rows)
        }
    }
}

/// Runs a statement of SQLite and counts the instructions that it takes.
async fn instructions(engine: &SqliteEngine, sql: SqlStr, args: Args<'_>) -> Result<u64> {
    let mut connection = engine.readers.acquire().await?;
    let counts = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&counts);
    connection.lock_handle().await?.set_progress_handler(
        INSTRUCTIONS_PER_COUNT.into(),
        move || {
            counted.fetch_add(1, Ordering::Relaxed);
            true
        },
    );
    statement::all_sqlite(&mut *connection, sql, args).await?;
    connection.lock_handle().await?.remove_progress_handler();
    Ok(counts.load(Ordering::Relaxed) * u64::from(INSTRUCTIONS_PER_COUNT))
}

/// The plan of a statement of a transaction, as it is there.
pub(super) async fn plan_in(tx: &mut Tx<'_>, sql: &SqlStr, args: &Args<'_>) -> Result<String> {
    let dialect = tx.dialect();
    let (sql, args) = (explained(explain(dialect), sql), args.clone());
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

const fn explain(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "EXPLAIN QUERY PLAN",
        Dialect::Postgres => "EXPLAIN (COSTS OFF)",
    }
}

/// The statement that shows the plan of another one.
fn explained(explain: &str, sql: &SqlStr) -> SqlStr {
    AssertSqlSafe(format!("{explain} {}", sql.as_str())).into_sql_str()
}
