//! SQLite: everything in one file, nothing to install.
//!
//! # Operation
//! WAL mode with `synchronous=FULL`, so that a commit is on stable storage when it returns. One
//! connection writes, in `BEGIN IMMEDIATE` transactions; pools of read-only ones, by [`Workload`], read beside it.
//! Other processes, such as the command line, write to the same file; a transaction that finds it locked waits.
//!
//! Long transactions (large batches of events and outcomes, claims, steps of background work) queue for the
//! writer one at a time and let short ones go first ([`WriteQueue`]). A connection of its own makes a
//! checkpoint every second, beside the writer; `sqlite_space` bounds the WAL, and gives back the space of deleted rows.
//!
//! A statement costs a round trip to the connection's own thread, so batches go as multi-row
//! statements of fixed sizes ([`MultiRow`](super::MultiRow)), whose prepared forms are used again, and several
//! statements go together ([`Script`]). Short lists go in as one JSON text of hexadecimal ids.
//!
//! # Failure
//! A lock held longer than `DATABASE_TIMEOUT` by another process, a full disk and an I/O error are
//! [`StoreError::Unavailable`](crate::store::StoreError::Unavailable); an open transaction is rolled back when it is
//! dropped. On a full disk or an I/O error SQLite may roll it back by itself, which sqlx does not notice: such a
//! connection would refuse every transaction from then on, and is replaced.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, SqlStr, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::read_pool::{ReadPool, ReadSource};
use super::split::Pools;
use super::statement::for_sqlite;
use super::write_queue::{LongPermit, WriteQueue};
use super::{Answer, Args, ConnectionSplit, QueryPlans, Script, SqliteTx, Workload};
use crate::config::StoreConfig;
use crate::store::{Result, StoreMetrics};

/// The connections to a SQLite file, as one workload uses them.
#[derive(Clone, Debug)]
pub(crate) struct SqliteEngine {
    pub(crate) writer: SqlitePool,
    pub(crate) queue: Arc<WriteQueue>,
    pub(super) checkpointer: SqlitePool,
    /// [`WAL_PAGES_MAX`], or more while somebody keeps the WAL from starting anew.
    pub(super) wal_pages_max: Arc<AtomicI64>,
    /// The workload's; reads have theirs in `reads`.
    pub(crate) readers: SqlitePool,
    pub(super) reads: Option<Arc<ReadPool>>,
    /// Where plans are recorded, if they are.
    pub(super) plans: Option<Arc<QueryPlans>>,
    pools: Arc<Pools<Sqlite>>,
}

/// Page cache of the writer, in KiB: the upper levels of every index at ten million events.
const WRITER_CACHE_KIB: u32 = 16 * 1024;

/// Pages in the WAL (4 KiB each) at which the writer itself makes a checkpoint, as SQLite does from
/// 1000 on: every transaction waits for it meanwhile. It is for floods, in which checkpoints beside the writer
/// ([`Store::checkpoint`](crate::store::Store::checkpoint)) never catch up; the WAL can start anew only
/// when one has.
const CHECKPOINT_PAGES: u32 = 16_000;

/// Pages in the WAL (250 MiB) from which writes wait until it starts anew.
pub(super) const WAL_PAGES_MAX: i64 = 64_000;

/// Bytes of a page, SQLite's default.
pub(super) const PAGE_BYTES: i64 = 4096;

/// The size to which the WAL's file is cut when the WAL starts anew.
const WAL_BYTES_KEPT: i64 = CHECKPOINT_PAGES as i64 * PAGE_BYTES;

/// How long a checkpoint that lets the WAL start anew waits for those who read from it. Writers wait, too.
const WAL_READERS_TIMEOUT: Duration = Duration::from_millis(250);

/// Rows buffered between the connection's thread and its caller.
const ROWS_BUFFERED: usize = 512;
/// The same of reads: a row of counts takes up to half a megabyte.
const READ_ROWS_BUFFERED: usize = 32;

impl SqliteEngine {
    /// A file that is opened, and created when missing, once it is needed. Creates its directory. Does not migrate.
    pub(crate) fn lazy(
        path: &Path,
        config: &StoreConfig,
        metrics: Arc<StoreMetrics>,
    ) -> Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(sqlx::Error::Io)?;
        }
        let shared = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(config.database_timeout)
            .foreign_keys(true)
            .pragma("temp_store", "memory")
            .row_buffer_size(ROWS_BUFFERED)
            .disable_statement_logging();
        let writer = shared
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            // Deleted rows are overwritten where that costs no further write.
            .pragma("secure_delete", "fast")
            .pragma("journal_size_limit", WAL_BYTES_KEPT.to_string())
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string());
        let writer = pool(1, config).connect_lazy_with(writer);
        let split = ConnectionSplit::sqlite(config.database_connections);
        // It syncs the log before it copies, and the file before the log starts anew.
        let checkpointing =
            shared.clone().synchronous(SqliteSynchronous::Full).busy_timeout(WAL_READERS_TIMEOUT);
        let read_only = shared.read_only(true);
        let lazy = |connections, options| pool(connections, config).connect_lazy_with(options);
        let of_reads = read_only.clone().row_buffer_size(READ_ROWS_BUFFERED);
        let source = ReadSource::Sqlite(Box::new(of_reads));
        let pools = Pools {
            general: lazy(split.general, read_only.clone()),
            keys: lazy(split.keys, read_only.clone()),
            delivery: lazy(split.delivery, read_only),
            reads: ReadPool::new(source, split.reads, config.read_timeout, metrics),
            split,
        };
        Ok(Self {
            writer,
            queue: Arc::new(WriteQueue::new()),
            checkpointer: lazy(1, checkpointing),
            wal_pages_max: Arc::new(AtomicI64::new(WAL_PAGES_MAX)),
            readers: pools.general.clone(),
            reads: None,
            plans: None,
            pools: Arc::new(pools),
        })
    }

    /// Opens the file, to find out whether that works.
    pub(crate) async fn reach(&self) -> Result<()> {
        // The writer first: it creates the file that the readers open.
        self.writer.acquire().await?;
        self.readers.acquire().await?;
        Ok(())
    }

    /// The same file, with the connections of a workload.
    pub(super) fn on(&self, workload: Workload) -> Self {
        let (readers, reads) = self.pools.of(workload);
        Self { readers, reads, ..self.clone() }
    }

    /// The same database; the plan of each statement that reads outside of a transaction is recorded.
    pub(super) fn recording(&self, plans: Arc<QueryPlans>) -> Self {
        Self { plans: Some(plans), ..self.clone() }
    }

    /// Its pools, whoever asks.
    pub(super) fn pools(&self) -> &Pools<Sqlite> {
        &self.pools
    }

    /// How many connections each workload has.
    pub(super) fn split(&self) -> ConnectionSplit {
        self.pools.split
    }

    /// Closes every connection, waiting for calls in flight.
    pub(super) async fn close(&self) {
        self.pools.close().await;
        self.checkpointer.close().await;
        // The writer last: the last connection to close folds the WAL into the file.
        self.writer.close().await;
    }

    /// Starts a short transaction that holds the write lock, so that what it reads stays true.
    pub(crate) async fn begin(&self) -> Result<SqliteTx> {
        let _ticket = self.queue.short();
        self.tx().await
    }

    /// Starts one that may take long. A batch asks the permit when to end early.
    pub(crate) async fn begin_long(&self) -> Result<(LongPermit<'_>, SqliteTx)> {
        let mut permit = self.queue.long().await;
        let tx = self.tx().await?;
        permit.begin();
        Ok((permit, tx))
    }

    async fn tx(&self) -> Result<SqliteTx> {
        Ok(SqliteTx::new(self.writer.acquire().await?, self.plans.clone()))
    }
}

/// A pool whose connections live as long as it does: a connection here is an open file, which does
/// not go stale.
fn pool(connections: u32, config: &StoreConfig) -> PoolOptions<Sqlite> {
    PoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(config.database_timeout)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .before_acquire(|connection: &mut SqliteConnection, _| {
            let usable = !connection.is_in_transaction();
            Box::pin(async move { Ok(usable) })
        })
}

/// Runs a statement in a transaction.
pub(super) async fn run(tx: &mut SqliteTx, sql: SqlStr, args: Args<'_>) -> Result<Answer> {
    tx.run_one(Script::of(sql, for_sqlite(args)?)).await
}

/// A list of ids as one parameter: a JSON array of hexadecimal texts, read back with
/// `SELECT unhex(value) FROM json_each(?)`.
pub(crate) fn id_list(ids: impl IntoIterator<Item = Uuid>) -> String {
    let mut list = String::from("[");
    for id in ids {
        list.push_str(if list.len() > 1 { ",\"" } else { "\"" });
        list.push_str(id.simple().encode_lower(&mut Uuid::encode_buffer()));
        list.push('"');
    }
    list.push(']');
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> SqliteEngine {
        let config = StoreConfig::in_directory(directory);
        let metrics = StoreMetrics::register(&crate::telemetry::Registry::new()).unwrap();
        SqliteEngine::lazy(&config.sqlite_path(), &config, metrics).unwrap()
    }

    fn script(sql: &'static str) -> Script {
        let mut script = Script::default();
        script.push(sql);
        script
    }

    #[tokio::test]
    async fn transaction_that_sqlite_rolled_back_does_not_break_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(directory.path());

        let mut tx = engine.begin().await.unwrap();
        // What SQLite does by itself on an I/O error; tests/it/torture/disk.rs has it do so.
        tx.run(script("ROLLBACK")).await.unwrap();
        let failed = tx.finish(Script::default()).await;
        failed.err().expect("nothing to commit");

        let tx = engine.begin().await.expect("a connection that can begin");
        tx.finish(script("SELECT 1")).await.unwrap();
    }

    #[tokio::test]
    async fn transaction_takes_effect_as_a_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(directory.path());
        let create = script("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT");
        engine.begin().await.unwrap().finish(create).await.unwrap();
        let stored = async || {
            let mut tx = engine.begin().await.unwrap();
            tx.run(script("SELECT n FROM t")).await.unwrap().remove(0).rows.len()
        };

        let mut both = script("INSERT INTO t VALUES (1)");
        both.push("INSERT INTO t VALUES (2), (3)");
        let changed = engine.begin().await.unwrap().finish(both).await.unwrap();
        let changed: Vec<u64> = changed[..2].iter().map(|answer| answer.changed).collect();
        assert_eq!((changed, stored().await), (vec![1, 2], 3));

        let mut fails = script("INSERT INTO t VALUES (4)");
        fails.push("INSERT INTO t VALUES (1)");
        assert!(engine.begin().await.unwrap().finish(fails).await.is_err());
        assert_eq!(stored().await, 3, "the statement that failed takes the first back");

        let mut dropped = engine.begin().await.unwrap();
        dropped.run(script("INSERT INTO t VALUES (4)")).await.unwrap();
        drop(dropped);
        assert_eq!(stored().await, 3);

        let mut taken_back = engine.begin().await.unwrap();
        taken_back.run(script("INSERT INTO t VALUES (4)")).await.unwrap();
        taken_back.roll_back().await.unwrap();
        drop(taken_back);
        assert_eq!(stored().await, 3);
    }

    #[test]
    fn id_lists_are_json() {
        assert_eq!(id_list([]), "[]");
        let list = id_list([Uuid::nil(), Uuid::max()]);
        assert_eq!(list, format!("[\"{}\",\"{}\"]", "0".repeat(32), "f".repeat(32)));
    }
}
