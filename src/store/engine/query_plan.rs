//! The plans of the statements that a store runs. They show whether a list is read by an index.

use std::sync::{Mutex, PoisonError};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::{Args, Dialect, Engine, Row, Tx, sqlite, statement};
use crate::store::Result;

/// Plans, one per statement, in their order.
#[derive(Debug, Default)]
pub struct QueryPlans(Mutex<Vec<String>>);

impl QueryPlans {
    /// Takes the plans that were recorded so far. A plan has one line per node, as the engine prints it.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records the plan of a statement outside of a transaction.
    pub(super) async fn record(
        &self,
        engine: &Engine,
        sql: &SqlStr,
        args: &Args<'_>,
    ) -> Result<()> {
        let (sql, args) = (explained(engine.dialect(), sql), args.clone());
        let rows = match engine {
            Engine::Sqlite(engine) => statement::all_sqlite(&engine.readers, sql, args).await?,
            Engine::Postgres(engine) => {
                let mut session = engine.begin().await?;
                statement::all_postgres(&mut session, sql, args).await?
            }
        };
        self.push(engine.dialect(), &rows)
    }

    /// Records the plan of a statement of a transaction, as it is there.
    pub(super) async fn record_in(
        &self,
        tx: &mut Tx<'_>,
        sql: &SqlStr,
        args: &Args<'_>,
    ) -> Result<()> {
        let dialect = tx.dialect();
        let (sql, args) = (explained(dialect, sql), args.clone());
        let rows = match tx {
            Tx::Sqlite(tx, _) => sqlite::run(tx, sql, args).await?.rows,
            Tx::Postgres(tx) => statement::all_postgres(tx, sql, args).await?,
        };
        self.push(dialect, &rows)
    }

    fn push(&self, dialect: Dialect, rows: &[Row]) -> Result<()> {
        let column = match dialect {
            Dialect::Sqlite => "detail",
            Dialect::Postgres => "QUERY PLAN",
        };
        let lines = rows.iter().map(|row| row.get::<String>(column));
        let plan = lines.collect::<Result<Vec<_>>>()?.join("\n");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(plan);
        Ok(())
    }
}

/// The statement that shows the plan of another one.
fn explained(dialect: Dialect, sql: &SqlStr) -> SqlStr {
    let explain = match dialect {
        Dialect::Sqlite => "EXPLAIN QUERY PLAN",
        Dialect::Postgres => "EXPLAIN (COSTS OFF)",
    };
    AssertSqlSafe(format!("{explain} {}", sql.as_str())).into_sql_str()
}
