//! A replica of a PostgreSQL database, which lists and look-ups read from while it keeps up.
//!
//! # Operation
//! Its lag is measured once a second: the time since the last commit that it has replayed, or none when it has
//! replayed all that the primary wrote.
//!
//! # Failure
//! A replica that cannot be reached, does not answer, or lags by more than `DATABASE_READ_LAG_MAX` gets no reads: they
//! go to the primary until it keeps up again. So does a read that fails on it, because replay needed what the read
//! held (SQLSTATE 40001), or because it has no such table yet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions, Connection, SqlStr};
use tokio::time::timeout;

use super::read_pool::ReadPool;
use super::session::PgSession;
use super::{Args, RowSink};
use crate::store::error::PlainError;
use crate::store::{Result, StoreError, StoreMetrics};

/// Time between two measurements of the lag.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a host may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// A replica and the primary that stands in for it.
pub(crate) struct Replica {
    reads: Arc<ReadPool>,
    primary: Arc<ReadPool>,
    options: PgConnectOptions,
    /// Tells how far the primary has written.
    primary_keys: PgPool,
    lag_max: Duration,
    keeps_up: AtomicBool,
    metrics: Arc<StoreMetrics>,
}

/// What a replica is made of.
pub(super) struct ReplicaParts {
    pub(super) reads: Arc<ReadPool>,
    pub(super) primary: Arc<ReadPool>,
    pub(super) options: PgConnectOptions,
    pub(super) primary_keys: PgPool,
    pub(super) lag_max: Duration,
    pub(super) metrics: Arc<StoreMetrics>,
}

impl Replica {
    /// A replica that gets no reads before its lag was measured.
    pub(super) fn new(parts: ReplicaParts) -> Arc<Self> {
        let ReplicaParts { reads, primary, options, primary_keys, lag_max, metrics } = parts;
        let keeps_up = AtomicBool::new(false);
        Arc::new(Self { reads, primary, options, primary_keys, lag_max, keeps_up, metrics })
    }

    /// Reads the rows that a SELECT finds, one by one.
    pub(super) async fn read(
        &self,
        sql: SqlStr,
        args: Args<'_>,
        sink: &mut dyn RowSink,
    ) -> Result<()> {
        if self.keeps_up.load(Ordering::Relaxed) {
            match self.reads.read(sql.clone(), args.clone(), sink).await {
                Err(error) if !matches!(error, StoreError::ReadTimedOut) => {
                    tracing::debug!(%error, "a read failed on the replica; the primary gets it");
                    if error.is_connection() {
                        self.set_keeps_up(false, "cannot be read");
                    }
                }
                read => return read,
            }
        }
        self.metrics.hookgate_replica_fallbacks_total.inc();
        sink.restart();
        self.primary.read(sql, args, sink).await
    }

    /// Closes its connections.
    pub(super) async fn close(&self) {
        self.reads.close().await;
    }

    /// The connections of reads to it.
    pub(super) fn read_pool(&self) -> &ReadPool {
        &self.reads
    }

    /// Measures its lag until nobody reads from it any more.
    pub(super) async fn follow(replica: Weak<Self>) {
        let mut looking: Option<PgConnection> = None;
        loop {
            let Some(this) = replica.upgrade() else { return };
            if this.reads.is_closed() {
                break;
            }
            match timeout(ANSWER_MAX, this.lag(&mut looking)).await {
                Ok(Ok(Some(lag))) => {
                    let seconds =
                        i64::try_from(lag.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
                    this.metrics.hookgate_replica_lag_seconds.set(seconds);
                    this.set_keeps_up(lag <= this.lag_max, "lags");
                }
                Ok(Ok(None)) => this.set_keeps_up(false, "has replayed nothing yet"),
                Ok(Err(error)) => {
                    let error = PlainError(&error);
                    tracing::debug!(%error, "no answer from the replica");
                    looking = None;
                    this.set_keeps_up(false, "cannot be reached");
                }
                Err(_) => {
                    looking = None;
                    this.set_keeps_up(false, "does not answer");
                }
            }
            drop(this);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        if let Some(connection) = looking {
            // The other side notices it anyway.
            let _ = connection.close().await;
        }
    }

    /// How far it is behind; `None` if it cannot tell.
    async fn lag(
        &self,
        looking: &mut Option<PgConnection>,
    ) -> Result<Option<Duration>, sqlx::Error> {
        let written = self.written().await;
        let connection = match looking {
            Some(connection) => connection,
            missing => missing.insert(self.options.connect().await?),
        };
        let millis: Option<i64> = sqlx::query_scalar(
            "SELECT CASE
                 WHEN NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= $1::text::pg_lsn THEN 0
                 ELSE greatest(0, 1000 * extract(epoch FROM
                     clock_timestamp() - pg_last_xact_replay_timestamp()))::bigint
             END",
        )
        .bind(written)
        .persistent(false)
        .fetch_one(connection)
        .await?;
        let millis = millis.and_then(|millis| u64::try_from(millis).ok());
        Ok(millis.map(Duration::from_millis))
    }

    /// How far the primary has written; `None` while it does not answer.
    async fn written(&self) -> Option<String> {
        let asking = async {
            let mut session = PgSession::acquire(&self.primary_keys, false).await?;
            let query = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").persistent(false);
            let written = query.fetch_one(session.connection()?).await?;
            session.commit().await?;
            Ok::<Option<String>, StoreError>(written)
        };
        match timeout(ANSWER_MAX / 2, asking).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn set_keeps_up(&self, keeps_up: bool, why: &'static str) {
        if self.keeps_up.swap(keeps_up, Ordering::Relaxed) == keeps_up {
            return;
        }
        if keeps_up {
            tracing::info!("the replica gets the reads");
        } else {
            tracing::warn!(why, "the replica gets no reads; the primary does");
        }
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("keeps_up", &self.keeps_up)
            .field("lag_max", &self.lag_max)
            .finish_non_exhaustive()
    }
}
