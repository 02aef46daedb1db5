//! The plans of the statements that a store runs. They show whether a list is read by an index.

use std::sync::{Mutex, PoisonError};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::{Args, Engine, Row, statement};
use crate::store::Result;

/// Plans, one per statement, in their order.
#[derive(Debug, Default)]
pub struct QueryPlans(Mutex<Vec<String>>);

impl QueryPlans {
    /// Takes the plans that were recorded so far. A plan has one line per node, as the engine prints it.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records the plan of a statement.
    pub(super) async fn record(
        &self,
        engine: &Engine,
        sql: &SqlStr,
        args: &Args<'_>,
    ) -> Result<()> {
        let explain = |explain| AssertSqlSafe(format!("{explain} {}", sql.as_str())).into_sql_str();
        let (rows, column) = match engine {
            Engine::Sqlite(engine) => {
                let sql = explain("EXPLAIN QUERY PLAN");
                (statement::all_sqlite(&engine.readers, sql, args.clone()).await?, "detail")
            }
            Engine::Postgres(engine) => {
                let sql = explain("EXPLAIN (COSTS OFF)");
                let mut session = engine.begin().await?;
                (statement::all_postgres(&mut session, sql, args.clone()).await?, "QUERY PLAN")
            }
        };
        let lines = rows.iter().map(|row: &Row| row.get::<String>(column));
        let plan = lines.collect::<Result<Vec<_>>>()?.join("\n");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(plan);
        Ok(())
    }
}
