//! PostgreSQL, version 15 or later: for more than one machine, or more than one disk can take.
//!
//! # Operation
//! Pools of connections, by [`Workload`]. Hot paths are one statement where that is possible, and a batch is one
//! statement over arrays (`unnest`) whatever its size. `events`, `deliveries` and `delivery_attempts` are partitioned
//! by day, events by when they were accepted and deliveries by when they were created; a statement that knows that
//! time touches one partition. Maintenance creates the partitions of the coming days.
//!
//! Instances share the tables without knowing each other. Claims skip rows that another one
//! has locked (`SKIP LOCKED`); batches lock shared rows in key order. Removing or disabling an
//! endpoint does not wait for batches that are planning deliveries to it: claims skip what slips through.
//!
//! # Failure
//! No connection within `DATABASE_TIMEOUT`, a statement or lock that takes too long, a lost
//! deadlock, a server that stops: [`StoreError::Unavailable`], and the transaction is rolled back. After a failover
//! sessions with the former primary are closed: once a statement was refused as on a standby, or not answered in time,
//! every older connection is closed before it is used again.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Postgres, SqlStr, Transaction};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::hosts::{DatabaseHosts, takes_writes};
use super::read_pool::{ReadPool, ReadSource};
use super::replica::{Replica, ReplicaParts};
use super::session::{ANSWER_MAX, PgSession, SessionSetup};
use super::split::Pools;
use super::watches::Watches;
use super::{Args, ConnectionSplit, QueryPlans, Row, Workload, statement};
use crate::config::StoreConfig;
use crate::domain::Timestamp;
use crate::runtime::Wake;
use crate::store::{Result, StoreError, StoreMetrics, error};

/// The connections to a PostgreSQL database, as one workload uses them.
#[derive(Clone, Debug)]
pub(crate) struct PostgresEngine {
    /// The workload's; reads have theirs in `reads`, and write with the general ones.
    pub(crate) pool: PgPool,
    pub(super) reads: Option<Arc<ReadPool>>,
    /// The replica, for reads that go to it.
    pub(super) replica: Option<Arc<Replica>>,
    /// The replica, whoever reads.
    known_replica: Option<Arc<Replica>>,
    /// Where plans are recorded, if they are.
    pub(super) plans: Option<Arc<QueryPlans>>,
    pools: Arc<Pools<Postgres>>,
    hosts: Arc<DatabaseHosts>,
    watches: Arc<Watches>,
    pub(super) setup: SessionSetup,
    /// How the database is reached past a pooler of connections.
    direct: Option<Arc<DatabaseHosts>>,
}

/// The longest silence of the database about changes before it is asked whether it is there.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The channel that the triggers on keys and organisations notify.
const CHANGES: &str = "hookgate_changes";

impl PostgresEngine {
    /// A database to which connections are made once they are needed. Does not migrate.
    pub(crate) fn lazy(
        url: &str,
        config: &StoreConfig,
        metrics: Arc<StoreMetrics>,
    ) -> Result<Self> {
        let split = ConnectionSplit::postgres(config.database_connections);
        // sqlx sets TimeZone to UTC by itself.
        let setup = SessionSetup::new(config.database_prepared, None);
        let is_prepared = setup.is_prepared;
        let named = |options: PgConnectOptions| {
            // A pooler refuses parameters at the start of a session that it does not know.
            let named = options.application_name("hookgate").extra_float_digits(None);
            let cached = if is_prepared { named } else { named.statement_cache_capacity(0) };
            cached.disable_statement_logging()
        };
        let hosts = Arc::new(DatabaseHosts::parse(url, named)?);
        let direct = config.database_listen_url.as_deref().map(|url| {
            let sessions = |options: PgConnectOptions| {
                options.application_name("hookgate").disable_statement_logging()
            };
            DatabaseHosts::parse(url, sessions).map(Arc::new)
        });
        let direct = direct.transpose()?;
        let (options, must_write) = (hosts.current(), hosts.must_write());
        let pool = |connections| {
            pool_options(connections, config.database_timeout, must_write, setup.clone())
        };
        let general = pool(split.general).connect_lazy_with(options.clone());
        let keys = pool(split.keys).connect_lazy_with(options.clone());
        let delivery = pool(split.delivery).connect_lazy_with(options.clone());
        let limit = format!("{}ms", config.read_timeout.as_millis());
        let source = ReadSource::Postgres {
            keys: keys.clone(),
            setup: SessionSetup::new(is_prepared, Some(&limit)),
        };
        let time_limit = config.read_timeout;
        let reads = ReadPool::new(source, split.reads, time_limit, Arc::clone(&metrics));
        let known_replica = match config.database_read_url.as_deref() {
            None => None,
            Some(url) => {
                let options = DatabaseHosts::parse(url, named)?.current();
                let pool = pool_options(1, config.database_timeout, false, setup.clone());
                let source = ReadSource::Postgres {
                    keys: pool.connect_lazy_with(options.clone()),
                    setup: SessionSetup::new(is_prepared, Some(&limit)),
                };
                Some(Replica::new(ReplicaParts {
                    reads: ReadPool::new(source, split.reads, time_limit, Arc::clone(&metrics)),
                    primary: Arc::clone(&reads),
                    options,
                    primary_keys: keys.clone(),
                    lag_max: config.database_read_lag_max,
                    metrics,
                }))
            }
        };
        let watches = Arc::new(Watches::default());
        if let Some(replica) = &known_replica {
            watches.spawn(Replica::follow(Arc::downgrade(replica)));
        }
        let pool = general.clone();
        let pools = Arc::new(Pools { general, keys, delivery, reads, split });
        if hosts.are_several() {
            watches.spawn(Arc::clone(&hosts).follow(Arc::downgrade(&pools)));
        }
        let (reads, replica, plans) = (None, None, None);
        Ok(Self {
            pool,
            reads,
            replica,
            known_replica,
            plans,
            pools,
            hosts,
            watches,
            setup,
            direct,
        })
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&self) -> Result<PgSession> {
        let SessionSetup { is_prepared, begin } = &self.setup;
        let mut session = self.session().await?;
        if *is_prepared {
            session.begin("BEGIN").await?;
        } else {
            session.begin(AssertSqlSafe(Arc::clone(begin))).await?;
        }
        session.plans.clone_from(&self.plans);
        Ok(session)
    }

    /// A session for one statement that is a transaction by itself; to be committed all the same.
    pub(crate) async fn for_statement(&self) -> Result<PgSession> {
        if !self.setup.is_prepared {
            return self.begin().await;
        }
        self.session().await
    }

    async fn session(&self) -> Result<PgSession> {
        PgSession::acquire(&self.pool, self.setup.is_prepared).await
    }

    /// Begins a transaction for migrations, which sqlx makes part of its own. Unlike a [`PgSession`] it may keep its permit
    /// until TCP gives up; it is used at the start, through a pooler of connections.
    pub(crate) async fn begin_migration(&self) -> Result<Transaction<'static, Postgres>> {
        Ok(self.pool.begin_with(AssertSqlSafe(Arc::clone(&self.setup.begin))).await?)
    }

    /// Reads every row that a statement answers with, outside of a transaction.
    pub(super) async fn read(&self, sql: SqlStr, args: Args<'_>) -> Result<Vec<Row>> {
        let mut session = self.for_statement().await?;
        let rows = statement::all_postgres(&mut session, sql, args).await?;
        session.commit().await?;
        Ok(rows)
    }

    /// The same database, with the connections of a workload.
    pub(super) fn on(&self, workload: Workload) -> Self {
        let (pool, reads) = self.pools.of(workload);
        let is_meant = workload == Workload::ReplicaReads;
        let replica = self.known_replica.clone().filter(|_| is_meant);
        Self { pool, reads, replica, ..self.clone() }
    }

    /// The same database; the plan of each statement that reads outside of a transaction is recorded.
    pub(super) fn recording(&self, plans: Arc<QueryPlans>) -> Self {
        Self { plans: Some(plans), ..self.clone() }
    }

    /// Its pools, whoever asks.
    pub(super) fn pools(&self) -> &Pools<Postgres> {
        &self.pools
    }

    /// The connections of reads to the replica, if there is one.
    pub(super) fn replica_reads(&self) -> Option<&ReadPool> {
        self.known_replica.as_deref().map(Replica::read_pool)
    }

    /// How many connections each workload has.
    pub(super) fn split(&self) -> ConnectionSplit {
        self.pools.split
    }

    /// Options of a connection whose session lasts, to the host that takes writes; none where every connection leads to
    /// a pooler that gives out transactions.
    pub(crate) async fn session_options(&self) -> Option<PgConnectOptions> {
        if let Some(direct) = &self.direct {
            return Some(direct.found().await);
        }
        self.setup.is_prepared.then(|| self.pool.connect_options().as_ref().clone())
    }

    /// Closes every connection, waiting for calls in flight, after the watches.
    pub(super) async fn close(&self) {
        self.watches.end().await;
        if let Some(replica) = &self.known_replica {
            replica.close().await;
        }
        self.pools.close().await;
    }

    /// Makes a connection, to find out whether that works.
    pub(crate) async fn reach(&self, config: &StoreConfig) -> Result<()> {
        if self.hosts.are_several() {
            self.pools.connect_to(&self.hosts.found().await);
        }
        match self.session().await {
            Ok(session) => session.commit().await,
            // A pool tries again until its time is up and then forgets the cause; one connection tells it.
            Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)) => {
                Err(connect_error(&self.pool.connect_options(), config).await)
            }
            Err(error) => Err(error),
        }
    }

    /// Wakes each of `wakes` when another instance has changed keys or organisations, until the
    /// connection ends.
    pub(crate) async fn listen_for_changes(&self, wakes: &[Wake]) -> Result<()> {
        // A connection of its own, so that listening takes none from queries.
        let Some(options) = self.session_options().await else {
            // A pooler hears nothing for a session that lasts; polling finds changes.
            return std::future::pending().await;
        };
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .after_connect(|connection, _| {
                Box::pin(SessionSetup::new(true, None).applied(connection))
            })
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANGES).await?;
        // Once at the start, too: changes made before it listened were not heard.
        wakes.iter().for_each(Wake::wake);
        loop {
            match timeout(SILENCE_MAX, listener.try_recv()).await {
                Ok(Ok(Some(_))) => wakes.iter().for_each(Wake::wake),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error.into()),
                // Perhaps nothing has changed, perhaps the host is gone.
                Err(_) => {
                    let asking = sqlx::query("SELECT 1").persistent(false).execute(&mut listener);
                    timeout(ANSWER_MAX, asking).await.map_err(|_| StoreError::no_answer())??;
                }
            }
        }
    }
}

/// Options of a pool whose connections take writes, as far as that is asked for or in doubt.
fn pool_options(
    connections: u32,
    acquire_timeout: Duration,
    must_write: bool,
    setup: SessionSetup,
) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire_timeout)
        .after_connect(move |connection, _| {
            let setup = setup.clone();
            Box::pin(async move {
                setup.apply(connection).await?;
                if must_write && !takes_writes(connection).await? {
                    let text = "the database takes no writes: a standby, or a former primary";
                    return Err(sqlx::Error::Configuration(text.into()));
                }
                Ok(())
            })
        })
        .before_acquire(|_, session| Box::pin(ready(Ok(!error::is_suspect(session.age)))))
        .after_release(|_, session| Box::pin(ready(Ok(!error::is_suspect(session.age)))))
}

async fn connect_error(options: &PgConnectOptions, config: &StoreConfig) -> StoreError {
    let error = match timeout(config.database_timeout, options.connect()).await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
    };
    error.into()
}

/// A timestamp as a parameter.
pub(crate) fn timestamptz(at: Timestamp) -> OffsetDateTime {
    at.into()
}

/// One column of a batch's rows, as an array parameter.
pub(crate) fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
