//! The seam between the store's SQL and its two database engines.
//!
//! The store writes each statement once, with `$1` placeholders and named columns, and runs it through
//! [`Engine`] (one read) or [`Tx`] (a write transaction). Parameters are [`Value`]s, answers are
//! [`Row`]s. Where SQL must differ, [`Dialect`] gives the fragment: row locks, which SQLite has no need
//! of, and lists of ids.
//!
//! Hot paths have one text per engine and use the driver's own types: they match on the enums.

mod dialect;
mod explain;
mod hosts;
mod multi_row;
mod pool_use;
mod postgres;
mod query_plan;
mod read_connection;
mod read_pool;
mod replica;
mod row;
mod row_sink;
mod session;
mod split;
mod sqlite;
mod sqlite_space;
mod sqlite_tx;
mod statement;
mod value;
mod watches;
mod write_queue;

use std::borrow::Cow;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::{Result, StoreError};
use row_sink::Fold;

pub(crate) use dialect::Dialect;
pub(crate) use multi_row::{MultiRow, ROWS_MAX};
pub(crate) use postgres::{PostgresEngine, column, timestamptz};
pub use query_plan::QueryPlans;
pub(crate) use row::Row;
pub(crate) use row_sink::RowSink;
pub(crate) use session::{PgSession, answered};
pub use split::ConnectionSplit;
pub(crate) use split::Workload;
pub(crate) use sqlite::{SqliteEngine, id_list};
pub(crate) use sqlite_tx::{Answer, Script, SqliteTx};
pub(crate) use value::{Value, args};
pub(crate) use write_queue::LongPermit;

/// The text of a statement.
pub(crate) type Sql = Cow<'static, str>;

/// The parameters of a statement.
pub(crate) type Args<'a> = Vec<Value<'a>>;

/// The database engine of a store.
#[derive(Debug)]
pub(crate) enum Engine {
    /// One file, one connection that writes.
    Sqlite(SqliteEngine),
    /// A server, a pool of connections.
    Postgres(PostgresEngine),
}

/// A write transaction; it is rolled back when it is dropped before [`Tx::commit`].
pub(crate) enum Tx<'a> {
    /// It holds SQLite's write lock, so that what it reads stays true.
    Sqlite(SqliteTx, Option<LongPermit<'a>>),
    /// It runs at READ COMMITTED and locks the rows it depends on.
    Postgres(PgSession),
}

/// Rows of a long transaction on PostgreSQL, where no other waits for it.
const POSTGRES_ROWS_AT_ONCE: usize = 512;

/// The ways to read that `all` makes possible, for an engine (`&self`) and a transaction (`&mut self`).
macro_rules! reads {
    ($($mutable:tt)?) => {
        /// Reads the only row that a statement answers with, if it does.
        pub(crate) async fn optional(
            &$($mutable)? self,
            sql: impl Into<Sql>,
            args: Args<'_>,
        ) -> Result<Option<Row>> {
            Ok(self.all(sql, args).await?.into_iter().next())
        }

        /// Reads the row of a statement that always answers with one.
        pub(crate) async fn one(
            &$($mutable)? self,
            sql: impl Into<Sql>,
            args: Args<'_>,
        ) -> Result<Row> {
            self.optional(sql, args).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
        }

        /// Reads a value from the only row that a statement answers with, if it does.
        pub(crate) async fn find<T>(
            &$($mutable)? self,
            sql: impl Into<Sql>,
            args: Args<'_>,
            read: impl FnOnce(&Row) -> Result<T>,
        ) -> Result<Option<T>> {
            self.optional(sql, args).await?.as_ref().map(read).transpose()
        }

        /// Reads a value from every row that a statement answers with.
        pub(crate) async fn list<T>(
            &$($mutable)? self,
            sql: impl Into<Sql>,
            args: Args<'_>,
            read: impl Fn(&Row) -> Result<T>,
        ) -> Result<Vec<T>> {
            self.all(sql, args).await?.iter().map(read).collect()
        }
    };
}

impl Engine {
    /// Its SQL dialect.
    pub(crate) const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// The same database, with the connections of a workload.
    pub(crate) fn on(&self, workload: Workload) -> Self {
        match self {
            Self::Sqlite(engine) => Self::Sqlite(engine.on(workload)),
            Self::Postgres(engine) => Self::Postgres(engine.on(workload)),
        }
    }

    /// The same database; the plan of each statement is recorded that [`Self::all`] runs, or one of [`Tx`]'s own. Those of
    /// hot paths, which use the driver's types, are not.
    pub(crate) fn recording(&self, plans: &Arc<QueryPlans>) -> Self {
        let plans = Arc::clone(plans);
        match self {
            Self::Sqlite(engine) => Self::Sqlite(engine.recording(plans)),
            Self::Postgres(engine) => Self::Postgres(engine.recording(plans)),
        }
    }

    /// Whether it reads from a replica, which may lack the latest.
    pub(crate) const fn reads_replica(&self) -> bool {
        matches!(self, Self::Postgres(PostgresEngine { replica: Some(_), .. }))
    }

    /// How many connections each workload has.
    pub(crate) fn split(&self) -> ConnectionSplit {
        match self {
            Self::Sqlite(engine) => engine.split(),
            Self::Postgres(engine) => engine.split(),
        }
    }

    /// Closes every connection, waiting for calls in flight.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(engine) => engine.close().await,
            Self::Postgres(engine) => engine.close().await,
        }
    }

    /// Starts a short write transaction.
    pub(crate) async fn begin(&self) -> Result<Tx<'_>> {
        Ok(match self {
            Self::Sqlite(engine) => Tx::Sqlite(engine.begin().await?, None),
            Self::Postgres(engine) => Tx::Postgres(engine.begin().await?),
        })
    }

    /// Starts a write transaction that may take long; see [`write_queue`].
    pub(crate) async fn begin_long(&self) -> Result<Tx<'_>> {
        Ok(match self {
            Self::Sqlite(engine) => {
                let (permit, tx) = engine.begin_long().await?;
                Tx::Sqlite(tx, Some(permit))
            }
            Self::Postgres(engine) => Tx::Postgres(engine.begin().await?),
        })
    }

    /// How many rows a long transaction should write that is not cut short when others wait.
    pub(crate) fn rows_at_once(&self) -> usize {
        match self {
            Self::Sqlite(engine) => engine.queue.rows_at_once(),
            Self::Postgres(_) => POSTGRES_ROWS_AT_ONCE,
        }
    }

    /// Reads every row that a SELECT finds, outside of a transaction.
    pub(crate) async fn all(&self, sql: impl Into<Sql>, args: Args<'_>) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        self.read(sql.into(), args, &mut rows).await?;
        Ok(rows)
    }

    /// Sums up the rows that a SELECT finds, outside of a transaction. With the connections of reads, only some are in
    /// memory at a time, however many there are.
    pub(crate) async fn fold<T: Clone + Send>(
        &self,
        sql: impl Into<Sql>,
        args: Args<'_>,
        initial: T,
        add: impl FnMut(&mut T, &Row) -> Result<()> + Send,
    ) -> Result<T> {
        let mut fold = Fold::new(initial, add);
        self.read(sql.into(), args, &mut fold).await?;
        Ok(fold.sum)
    }

    async fn read(&self, sql: Sql, args: Args<'_>, sink: &mut dyn RowSink) -> Result<()> {
        let sql = sql_str(sql);
        let (Self::Sqlite(SqliteEngine { reads, plans, .. })
        | Self::Postgres(PostgresEngine { reads, plans, .. })) = self;
        if let Some(plans) = plans {
            plans.push(Box::pin(explain::plan(self, &sql, &args, plans.measure)).await?);
        }
        match (self, reads) {
            (Self::Postgres(PostgresEngine { replica: Some(replica), .. }), Some(_)) => {
                Box::pin(replica.read(sql, args, sink)).await
            }
            // Boxed, so that the futures of all other reads stay small.
            (_, Some(reads)) => Box::pin(reads.read(sql, args, sink)).await,
            (Self::Sqlite(engine), None) => {
                statement::read_sqlite(&engine.readers, sql, args, sink).await
            }
            (Self::Postgres(engine), None) => {
                let rows = Box::pin(engine.read(sql, args)).await?;
                rows.into_iter().try_for_each(|row| sink.take(row))
            }
        }
    }

    reads!();
}

impl Tx<'_> {
    /// Its SQL dialect.
    pub(crate) const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(..) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Records the plan of a statement, if plans are recorded.
    async fn record_plan(&mut self, sql: &SqlStr, args: &Args<'_>) -> Result<()> {
        let plans = match self {
            Self::Sqlite(tx, _) => &tx.plans,
            Self::Postgres(tx) => &tx.plans,
        };
        let Some(plans) = plans.clone() else { return Ok(()) };
        // Boxed, so that the futures of statements stay small.
        plans.push(Box::pin(explain::plan_in(self, sql, args)).await?);
        Ok(())
    }

    /// Runs a statement and returns how many rows it changed.
    pub(crate) async fn execute(&mut self, sql: impl Into<Sql>, args: Args<'_>) -> Result<u64> {
        let sql = sql_str(sql.into());
        self.record_plan(&sql, &args).await?;
        match self {
            Self::Sqlite(tx, _) => Ok(sqlite::run(tx, sql, args).await?.changed),
            Self::Postgres(tx) => statement::execute_postgres(tx, sql, args).await,
        }
    }

    /// Reads every row that a statement answers with.
    pub(crate) async fn all(&mut self, sql: impl Into<Sql>, args: Args<'_>) -> Result<Vec<Row>> {
        let sql = sql_str(sql.into());
        self.record_plan(&sql, &args).await?;
        match self {
            Self::Sqlite(tx, _) => Ok(sqlite::run(tx, sql, args).await?.rows),
            Self::Postgres(tx) => statement::all_postgres(tx, sql, args).await,
        }
    }

    reads!(mut);

    /// Runs `head`, then a table of values, `v`, whose columns are `column1`, `column2` and so on, then `tail`, and
    /// returns how many rows changed. Long tables take several statements of a few fixed sizes, so that
    /// each is prepared once.
    pub(crate) async fn execute_values(
        &mut self,
        head: &str,
        rows: Vec<Vec<Value<'_>>>,
        tail: &str,
    ) -> Result<u64> {
        let mut changed = 0;
        let mut rows = rows.into_iter();
        while let Some(size) = multi_row::chunk_rows(rows.len()) {
            let chunk: Vec<_> = rows.by_ref().take(size).collect();
            let columns = chunk.first().map_or(0, Vec::len);
            let sql = format!("{head}({}) AS v{tail}", multi_row::values(chunk.len(), columns));
            changed += self.execute(sql, chunk.into_iter().flatten().collect()).await?;
        }
        Ok(changed)
    }

    /// Runs a SELECT: `head`, then the table of values as for [`Self::execute_values`], then `tail`. Reads every row.
    pub(crate) async fn all_values(
        &mut self,
        head: &str,
        rows: Vec<Vec<Value<'_>>>,
        tail: &str,
    ) -> Result<Vec<Row>> {
        let mut found = Vec::new();
        let mut rows = rows.into_iter();
        while let Some(size) = multi_row::chunk_rows(rows.len()) {
            let chunk: Vec<_> = rows.by_ref().take(size).collect();
            let columns = chunk.first().map_or(0, Vec::len);
            let sql = format!("{head}({}) AS v{tail}", multi_row::values(chunk.len(), columns));
            found.extend(self.all(sql, chunk.into_iter().flatten().collect()).await?);
        }
        Ok(found)
    }

    /// SQLite's own transaction, for the statements of a hot path.
    pub(crate) fn sqlite(&mut self) -> Result<&mut SqliteTx> {
        match self {
            Self::Sqlite(tx, _) => Ok(tx),
            Self::Postgres(_) => Err(wrong_engine()),
        }
    }

    /// PostgreSQL's own session, for the statements of a hot path.
    pub(crate) fn postgres(&mut self) -> Result<&mut PgSession> {
        match self {
            Self::Postgres(tx) => Ok(tx),
            Self::Sqlite(..) => Err(wrong_engine()),
        }
    }

    /// The next rows of a batch to write, of which the first `written` are: all of them at once, unless
    /// this is the long transaction of a [write queue](write_queue), which may have to end early. None
    /// when it is to end.
    pub(crate) fn next_part<'r, T>(&self, rows: &'r [T], written: usize) -> &'r [T] {
        match self {
            Self::Sqlite(_, Some(permit)) => permit.next_part(rows, written),
            Self::Sqlite(_, None) | Self::Postgres(_) => rows.get(written..).unwrap_or_default(),
        }
    }

    /// Makes what was written durable.
    pub(crate) async fn commit(self) -> Result<()> {
        if let Self::Postgres(tx) = self {
            return tx.commit().await;
        }
        self.finish(Script::default()).await.map(drop)
    }

    /// Runs the last statements of a transaction of SQLite and makes it durable.
    pub(crate) async fn finish(self, script: Script) -> Result<Vec<Answer>> {
        match self {
            Self::Sqlite(tx, Some(permit)) => permit.end(tx.finish(script)).await,
            Self::Sqlite(tx, None) => tx.finish(script).await,
            Self::Postgres(_) => Err(wrong_engine()),
        }
    }

    /// Takes back what was written, to go on reading outside of the transaction.
    pub(crate) async fn rollback(self) -> Result<()> {
        match self {
            Self::Sqlite(mut tx, _) => tx.roll_back().await?,
            Self::Postgres(tx) => tx.rollback().await?,
        }
        Ok(())
    }
}

/// Every statement of the store is made of its own constants; what comes from outside is a [`Value`].
fn sql_str(sql: Sql) -> SqlStr {
    AssertSqlSafe(sql).into_sql_str()
}

fn wrong_engine() -> StoreError {
    StoreError::Corrupt("a transaction of the other engine".to_owned())
}
