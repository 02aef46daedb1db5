//! The connections of reads: a bounded number, each read within a time limit.
//!
//! # Operation
//! A read takes a connection out of the pool, runs one statement and puts it back. One whose connection is lost
//! is repeated on a new one, after a growing pause, while its time lasts.
//!
//! A statement that is not awaited to its end, because its time is up or its caller is gone, is ended: SQLite is
//! interrupted by a progress handler, PostgreSQL is asked to cancel it. The connection returns to the pool after
//! that, so the bound holds for the database, too.
//!
//! # Failure
//! [`StoreError::ReadTimedOut`] when the time is up, and [`StoreError::Unavailable`] when no connection was free
//! or could be opened by then.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::SqlStr;
use sqlx::postgres::PgPool;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::pool_use::PoolUse;
use super::read_connection::ReadConnection;
use super::session::{PgSession, SessionSetup};
use super::{Args, RowSink};
use crate::runtime::Stopwatch;
use crate::store::metrics::ReadEnd;
use crate::store::{Result, StoreError, StoreMetrics, error};

/// Pauses before a read that has lost its connection is repeated.
const REPEAT_PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];
/// How long a connection is kept: PostgreSQL's caches of it grow with use.
const CONNECTION_AGE_MAX: Duration = Duration::from_mins(30);
/// How long an ended statement may take to end before its connection is dropped.
const END_MAX: Duration = Duration::from_secs(5);

/// Opens the connections of reads.
#[derive(Clone, Debug)]
pub(super) enum ReadSource {
    /// To a SQLite file.
    Sqlite(Box<SqliteConnectOptions>),
    /// To a PostgreSQL database.
    Postgres {
        /// Connects to the same host; also for cancelling statements.
        keys: PgPool,
        /// With the time limit of reads.
        setup: SessionSetup,
    },
}

/// The connections of reads.
pub(crate) struct ReadPool {
    source: ReadSource,
    time_limit: Duration,
    /// Open connections that nobody uses; the latest used is the last.
    idle: Mutex<Vec<ReadConnection>>,
    /// One permit per connection that may be in use.
    permits: Arc<Semaphore>,
    permits_max: u32,
    /// Where ended statements are waited for, and where SQLite's threads are started.
    runtime: Handle,
    metrics: Arc<StoreMetrics>,
}

/// A connection that is out of the pool, and returns when this is dropped.
struct Leased {
    pool: Arc<ReadPool>,
    connection: Option<ReadConnection>,
    permit: Option<OwnedSemaphorePermit>,
    /// Whether a statement may be running.
    busy: bool,
    /// Whether it has run for too long.
    timed_out: bool,
}

impl ReadPool {
    /// A pool without open connections, of `connections` at most. It uses the runtime it is created on.
    pub(super) fn new(
        source: ReadSource,
        connections: u32,
        time_limit: Duration,
        metrics: Arc<StoreMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            source,
            time_limit,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(connections as usize)),
            permits_max: connections,
            runtime: Handle::current(),
            metrics,
        })
    }

    /// Reads the rows that a SELECT finds, one by one.
    pub(crate) async fn read(
        self: &Arc<Self>,
        sql: SqlStr,
        args: Args<'_>,
        sink: &mut dyn RowSink,
    ) -> Result<()> {
        let since = Stopwatch::start();
        let permits = Arc::clone(&self.permits).acquire_owned();
        let permit = timeout(self.time_limit, permits)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        // What was opened before a failover may be to a former primary.
        let connection = self.idle().pop().filter(|idle| !error::is_suspect(idle.age()));
        let (pool, permit) = (Arc::clone(self), Some(permit));
        let mut leased = Leased { pool, connection, permit, busy: false, timed_out: false };
        let left = self.time_limit.saturating_sub(since.elapsed());
        let read = timeout(left, leased.read(&sql, &args, sink)).await;
        match read {
            Ok(Err(error)) if error.is_query_cancelled() => {}
            Ok(read) => return read,
            Err(_) if leased.connection.is_none() => return Err(sqlx::Error::PoolTimedOut.into()),
            Err(_) => {}
        }
        leased.timed_out = true;
        self.metrics.hookgate_reads_ended_total.of(ReadEnd::TimedOut).inc();
        Err(StoreError::ReadTimedOut)
    }

    /// How many connections are open and in use.
    pub(super) fn pool_use(&self) -> PoolUse {
        let max = self.permits_max as usize;
        let in_use = max.saturating_sub(self.permits.available_permits());
        PoolUse { max, open: in_use + self.idle().len(), in_use }
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.permits.is_closed()
    }

    /// Closes the connections. Those in use are closed when they return.
    pub(super) async fn close(&self) {
        let all = timeout(END_MAX, self.permits.acquire_many(self.permits_max)).await;
        self.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle());
        for connection in idle {
            connection.close().await;
        }
    }

    async fn connect(&self) -> Result<ReadConnection> {
        match self.source.clone() {
            ReadSource::Sqlite(options) => {
                // Its thread inherits the priority of the thread that starts it.
                let opening = self.runtime.spawn(ReadConnection::open_sqlite(*options));
                opening.await.map_err(|_| sqlx::Error::WorkerCrashed)?
            }
            ReadSource::Postgres { keys, setup } => {
                let options = keys.connect_options();
                ReadConnection::open_postgres(&options, setup).await
            }
        }
    }

    /// Ends what runs on a connection and puts it back.
    async fn end(&self, mut connection: ReadConnection) {
        let ending = async {
            if let (ReadSource::Postgres { keys, .. }, Some(backend)) =
                (&self.source, connection.backend())
            {
                let mut session = PgSession::acquire(keys, true).await?;
                let cancel = sqlx::query("SELECT pg_cancel_backend($1)").bind(backend);
                cancel.execute(session.connection()?).await?;
                session.commit().await?;
            }
            connection.drain().await
        };
        match timeout(END_MAX, ending).await {
            Ok(Ok(())) => self.put_back(connection),
            Ok(Err(error)) => tracing::debug!(%error, "closing the connection of an ended read"),
            Err(_) => tracing::warn!("a read does not end; closing its connection"),
        }
    }

    fn put_back(&self, connection: ReadConnection) {
        if connection.age() < CONNECTION_AGE_MAX && !self.permits.is_closed() {
            self.idle().push(connection);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<ReadConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leased {
    /// Runs a statement, and again while its connection is lost.
    async fn read(&mut self, sql: &SqlStr, args: &Args<'_>, sink: &mut dyn RowSink) -> Result<()> {
        let mut pauses = REPEAT_PAUSES.into_iter();
        loop {
            let error = match self.read_once(sql, args, sink).await {
                Err(error) if error.is_lost_connection() => error,
                read => return read,
            };
            self.connection = None;
            let Some(pause) = pauses.next() else { return Err(error) };
            tracing::debug!(%error, ?pause, "repeating a read that lost its connection");
            self.pool.metrics.hookgate_reads_repeated_total.inc();
            sink.restart();
            tokio::time::sleep(pause).await;
        }
    }

    async fn read_once(
        &mut self,
        sql: &SqlStr,
        args: &Args<'_>,
        sink: &mut dyn RowSink,
    ) -> Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            missing => missing.insert(self.pool.connect().await?),
        };
        self.busy = true;
        let read = connection.read(sql.clone(), args.clone(), sink).await;
        // What cannot be read leaves the rest of the rows behind.
        self.busy = matches!(read, Err(StoreError::Corrupt(_)));
        read
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let (permit, pool) = (self.permit.take(), Arc::clone(&self.pool));
        let Some(connection) = self.connection.take() else { return };
        if !self.busy {
            return pool.put_back(connection);
        }
        connection.interrupt();
        if !self.timed_out {
            pool.metrics.hookgate_reads_ended_total.of(ReadEnd::Abandoned).inc();
        }
        let runtime = pool.runtime.clone();
        runtime.spawn(async move {
            pool.end(connection).await;
            drop(permit);
        });
    }
}

impl fmt::Debug for ReadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time_limit, permits_max, .. } = self;
        let fields = (permits_max, time_limit);
        f.debug_tuple("ReadPool").field(&fields).finish()
    }
}
