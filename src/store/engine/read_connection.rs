//! One connection for reads, whose statement can be ended from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqlStr};

use super::session::SessionSetup;
use super::{Args, RowSink, statement};
use crate::runtime::Stopwatch;
use crate::store::Result;

/// Instructions of SQLite's virtual machine between two looks at whether to stop: some ten microseconds.
const INSTRUCTIONS_PER_LOOK: i32 = 1_000;

/// A connection.
#[derive(Debug)]
pub(super) struct ReadConnection {
    engine: EngineConnection,
    opened: Stopwatch,
}

#[derive(Debug)]
enum EngineConnection {
    Sqlite {
        connection: SqliteConnection,
        /// Set to interrupt the statement.
        stop: Arc<AtomicBool>,
    },
    Postgres {
        connection: PgConnection,
        setup: SessionSetup,
        /// The process that serves it, if it is always the same.
        backend: Option<i32>,
    },
}

impl ReadConnection {
    /// Opens a SQLite file.
    pub(super) async fn open_sqlite(options: SqliteConnectOptions) -> Result<Self> {
        let mut connection = options.connect().await?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        connection
            .lock_handle()
            .await?
            .set_progress_handler(INSTRUCTIONS_PER_LOOK, move || !stopped.load(Ordering::Relaxed));
        Ok(Self::new(EngineConnection::Sqlite { connection, stop }))
    }

    /// Connects to a PostgreSQL database.
    pub(super) async fn open_postgres(
        options: &PgConnectOptions,
        setup: SessionSetup,
    ) -> Result<Self> {
        let mut connection = options.connect().await?;
        setup.apply(&mut connection).await?;
        let mut backend = None;
        if setup.is_prepared {
            let asking = sqlx::query_scalar("SELECT pg_backend_pid()");
            backend = Some(asking.fetch_one(&mut connection).await?);
        }
        Ok(Self::new(EngineConnection::Postgres { connection, setup, backend }))
    }

    fn new(engine: EngineConnection) -> Self {
        Self { engine, opened: Stopwatch::start() }
    }

    /// The time since it was opened.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The PostgreSQL process that serves it.
    pub(super) const fn backend(&self) -> Option<i32> {
        match &self.engine {
            EngineConnection::Sqlite { .. } => None,
            EngineConnection::Postgres { backend, .. } => *backend,
        }
    }

    /// Reads the rows that a SELECT finds, one by one.
    pub(super) async fn read(
        &mut self,
        sql: SqlStr,
        args: Args<'_>,
        sink: &mut dyn RowSink,
    ) -> Result<()> {
        match &mut self.engine {
            EngineConnection::Sqlite { connection, .. } => {
                statement::read_sqlite(connection, sql, args, sink).await
            }
            EngineConnection::Postgres { connection, setup, .. } => {
                if setup.is_prepared {
                    return statement::read_postgres(connection, sql, args, true, sink).await;
                }
                let begin = AssertSqlSafe(Arc::clone(&setup.begin));
                let mut tx = connection.begin_with(begin).await?;
                statement::read_postgres(&mut tx, sql, args, false, sink).await?;
                Ok(tx.commit().await?)
            }
        }
    }

    /// Has SQLite end the statement that runs.
    pub(super) fn interrupt(&self) {
        if let EngineConnection::Sqlite { stop, .. } = &self.engine {
            stop.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until the statement that was ended has, so that the next one can run.
    pub(super) async fn drain(&mut self) -> Result<()> {
        match &mut self.engine {
            EngineConnection::Sqlite { connection, stop } => {
                connection.ping().await?;
                stop.store(false, Ordering::Relaxed);
            }
            EngineConnection::Postgres { connection, .. } => {
                // The first ping reads the error of the cancelled statement, if it came to that.
                if connection.ping().await.is_err() {
                    connection.ping().await?;
                }
            }
        }
        Ok(())
    }

    /// Closes it.
    pub(super) async fn close(self) {
        let closed = match self.engine {
            EngineConnection::Sqlite { connection, .. } => connection.close().await,
            EngineConnection::Postgres { connection, .. } => connection.close().await,
        };
        if let Err(error) = closed {
            tracing::debug!(%error, "a connection was not closed properly");
        }
    }
}
