//! A write transaction of SQLite, in few round trips to the connection's thread.
//!
//! Each trip wakes that thread and then the caller, which at everyday rates costs more than the statements. So a
//! transaction begins with its first statements, and a [`Script`] takes several at once, the commit included.

use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe, Either, Encode, Executor, SqlSafeStr, SqlStr, Sqlite, Type};
use tokio::runtime::Handle;

use super::{MultiRow, QueryPlans, Row};
use crate::store::{Result, StoreError};

const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

/// A transaction that holds the write lock from its first statement on; rolled back when it is dropped.
#[derive(Debug)]
pub(crate) struct SqliteTx {
    /// `None` when it has ended.
    connection: Option<PoolConnection<Sqlite>>,
    has_begun: bool,
    /// Where plans are recorded, if they are.
    pub(super) plans: Option<Arc<QueryPlans>>,
}

/// Statements to run one after the other, up to the first that fails. Their parameters are `?`, or `$1` where there
/// is one statement.
#[derive(Default)]
pub(crate) struct Script {
    statements: Vec<SqlStr>,
    arguments: SqliteArguments,
}

/// What a statement answered.
#[derive(Default)]
pub(crate) struct Answer {
    /// The rows of a query.
    pub(crate) rows: Vec<Row>,
    /// How many rows it inserted, changed or deleted. Of other statements it says nothing.
    pub(crate) changed: u64,
    /// The rowid of the last row that was inserted on this connection.
    pub(crate) last_insert_rowid: i64,
}

impl Script {
    /// One statement.
    pub(super) fn of(sql: SqlStr, arguments: SqliteArguments) -> Self {
        Self { statements: vec![sql], arguments }
    }

    /// Appends a statement, whose parameters are to be [bound](Self::bind) next.
    pub(crate) fn push(&mut self, sql: &'static str) {
        self.statements.push(sql.into_sql_str());
    }

    /// Appends a statement over many rows, if there are any.
    pub(crate) fn push_rows<T>(
        &mut self,
        statement: &MultiRow,
        rows: &[T],
        mut bind: impl FnMut(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<()> {
        for chunk in statement.chunks(rows) {
            self.statements.push(chunk.sql);
            for row in chunk.rows {
                bind(&mut self.arguments, row).map_err(sqlx::Error::Encode)?;
            }
            for _ in 0..chunk.padding {
                self.bind(None::<i64>)?;
            }
        }
        Ok(())
    }

    /// Appends a parameter.
    pub(crate) fn bind<'q, T>(&mut self, value: T) -> Result<()>
    where
        T: Encode<'q, Sqlite> + Type<Sqlite>,
    {
        Ok(self.arguments.add(value).map_err(sqlx::Error::Encode)?)
    }

    /// The number of its statements.
    pub(crate) const fn len(&self) -> usize {
        self.statements.len()
    }

    /// Its text after `begin` and before `end`.
    fn text(&self, begin: Option<&str>, end: Option<&str>) -> SqlStr {
        match (begin, &self.statements[..], end) {
            (None, [statement], None) => statement.clone(),
            (begin, statements, end) => {
                let statements = statements.iter().map(SqlStr::as_str);
                let all = begin.into_iter().chain(statements).chain(end);
                AssertSqlSafe(all.collect::<Vec<_>>().join(";")).into_sql_str()
            }
        }
    }
}

impl SqliteTx {
    /// A transaction of a connection; nothing is sent yet.
    pub(super) const fn new(
        connection: PoolConnection<Sqlite>,
        plans: Option<Arc<QueryPlans>>,
    ) -> Self {
        Self { connection: Some(connection), has_begun: false, plans }
    }

    /// Runs statements in one round trip and returns what each answered.
    pub(crate) async fn run(&mut self, script: Script) -> Result<Vec<Answer>> {
        self.trip(script, None).await
    }

    /// Runs one statement.
    pub(crate) async fn run_one(&mut self, script: Script) -> Result<Answer> {
        Ok(self.run(script).await?.pop().unwrap_or_default())
    }

    /// Runs statements and commits, in one round trip.
    pub(crate) async fn finish(mut self, script: Script) -> Result<Vec<Answer>> {
        if script.len() == 0 && !self.has_begun {
            return Ok(Vec::new());
        }
        let answers = self.trip(script, Some(COMMIT)).await?;
        drop(self.connection.take());
        Ok(answers)
    }

    /// Takes everything back. The next statement begins anew.
    pub(crate) async fn roll_back(&mut self) -> Result<()> {
        if self.has_begun {
            self.trip(Script::default(), Some(ROLLBACK)).await?;
            self.has_begun = false;
        }
        Ok(())
    }

    async fn trip(&mut self, script: Script, end: Option<&str>) -> Result<Vec<Answer>> {
        let begin = (!self.has_begun).then_some(BEGIN);
        let text = script.text(begin, end);
        let connection = self.connection.as_mut().ok_or_else(ended)?;
        // From here on it may be in a transaction, whatever the caller hears of it.
        self.has_begun = true;
        let expected = usize::from(begin.is_some()) + script.len() + usize::from(end.is_some());
        let mut answers = Vec::with_capacity(expected);
        let mut rows = Vec::new();
        let mut steps = (&mut **connection).fetch_many(sqlx::query_with(text, script.arguments));
        let failed = loop {
            match steps.try_next().await {
                Ok(Some(Either::Right(row))) => rows.push(Row::Sqlite(row)),
                Ok(Some(Either::Left(done))) => answers.push(Answer {
                    rows: std::mem::take(&mut rows),
                    changed: done.rows_affected(),
                    last_insert_rowid: done.last_insert_rowid(),
                }),
                // A thread that panics ends the answers without an error.
                Ok(None) if answers.len() < expected => break Some(sqlx::Error::WorkerCrashed),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        drop(steps);
        if let Some(error) = failed {
            // A statement that could not begin leaves nothing to roll back.
            self.has_begun = begin.is_none() || !answers.is_empty() || !is_answer(&error);
            return Err(error.into());
        }
        if begin.is_some() {
            answers.remove(0);
        }
        Ok(answers)
    }
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if !self.has_begun {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            // Closed, which rolls it back.
            drop(connection.detach());
            return;
        };
        // Statements that still run come first. One that fails has rolled back by itself, or was a commit that
        // nobody waited for: a new connection is sure to be outside of a transaction.
        runtime.spawn(async move {
            if connection.execute(ROLLBACK).await.is_err() {
                let _ = connection.close().await;
            }
        });
    }
}

/// Whether the database itself reported the error, so that nothing runs any more.
fn is_answer(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(_))
}

fn ended() -> StoreError {
    StoreError::Corrupt("a transaction that has ended".to_owned())
}
