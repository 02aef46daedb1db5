//! SQLite: everything in one file, nothing to install.
//!
//! # Operation
//! WAL mode with `synchronous=FULL`, so that a commit is on stable storage when it returns. One
//! connection writes, in `BEGIN IMMEDIATE` transactions; a pool of read-only ones reads beside it.
//! Other processes, such as the command line, write to the same file; a transaction that finds it locked waits.
//!
//! Long transactions (large batches of events and outcomes, claims, steps of background work) queue for the
//! writer one at a time and let short ones go first ([`WriteQueue`]). A connection of its own makes a
//! checkpoint every second, beside the writer.
//!
//! A statement costs a round trip to the connection's own thread, so batches go as multi-row
//! statements of fixed sizes ([`MultiRow`](super::MultiRow)), whose prepared forms are used again, and several
//! statements go together ([`Script`]). Short lists go in as one JSON text of hexadecimal ids.
//!
//! # Failure
//! A lock held longer than `DATABASE_TIMEOUT` by another process, a full disk and an I/O error are
//! [`StoreError::Unavailable`](crate::store::StoreError::Unavailable); an open transaction is rolled back when it is dropped. On a full
//! disk or an I/O error SQLite may roll it back by itself, which sqlx does not notice: such a
//! connection would refuse every transaction from then on, and is replaced.

use std::path::Path;

use sqlx::pool::PoolOptions;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, SqlStr, Sqlite, SqliteConnection, SqliteExecutor};
use uuid::Uuid;

use super::write_queue::{LongPermit, WriteQueue};
use super::{Answer, Args, Row, Script, SqliteTx};
use crate::config::StoreConfig;
use crate::store::Result;

/// The connections to a SQLite file.
#[derive(Debug)]
pub(crate) struct SqliteEngine {
    pub(crate) writer: SqlitePool,
    pub(crate) queue: WriteQueue,
    pub(crate) checkpointer: SqlitePool,
    pub(crate) readers: SqlitePool,
}

/// Maximum readers: each has a thread and a cache of its own, and reads are short.
const READERS_MAX: u32 = 8;

/// Page cache of the writer, in KiB: the upper levels of every index at ten million events.
const WRITER_CACHE_KIB: u32 = 16 * 1024;

/// Pages in the WAL (4 KiB each) at which the writer itself makes a checkpoint, as SQLite does from
/// 1000 on: every transaction waits for it meanwhile. It is for floods, in which checkpoints beside the writer
/// ([`Store::checkpoint`](crate::store::Store::checkpoint)) never catch up; the WAL can start anew only
/// when one has.
const CHECKPOINT_PAGES: u32 = 16_000;

/// Rows buffered between the connection's thread and its caller.
const ROWS_BUFFERED: usize = 512;

impl SqliteEngine {
    /// Opens the file, creating it and its directory when missing. Does not migrate.
    pub(crate) async fn open(path: &Path, config: &StoreConfig) -> Result<Self> {
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
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string());
        let readers = config.database_connections.clamp(2, READERS_MAX);
        Ok(Self {
            // The writer first: it creates the file that the readers open.
            writer: pool(1, config).connect_with(writer).await?,
            queue: WriteQueue::new(),
            // It syncs the log before it copies, and the file before the log starts anew.
            checkpointer: pool(1, config)
                .min_connections(0)
                .connect_lazy_with(shared.clone().synchronous(SqliteSynchronous::Full)),
            readers: pool(readers, config).connect_with(shared.read_only(true)).await?,
        })
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
        Ok(SqliteTx::new(self.writer.acquire().await?))
    }
}

/// A pool whose connections live as long as it does: a connection here is an open file, which does
/// not go stale.
fn pool(connections: u32, config: &StoreConfig) -> PoolOptions<Sqlite> {
    PoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
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
    tx.run_one(Script::of(sql, arguments(args)?)).await
}

pub(super) async fn all(
    on: impl SqliteExecutor<'_>,
    sql: SqlStr,
    args: Args<'_>,
) -> Result<Vec<Row>> {
    let rows = sqlx::query_with(sql, arguments(args)?).fetch_all(on).await?;
    Ok(rows.into_iter().map(Row::Sqlite).collect())
}

fn arguments(args: Args<'_>) -> Result<SqliteArguments> {
    let mut arguments = SqliteArguments::default();
    for value in args {
        value.add_to_sqlite(&mut arguments).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
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

    #[tokio::test]
    async fn transaction_that_sqlite_rolled_back_does_not_break_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let defaults = StoreConfig::in_directory(directory.path());
        let config = StoreConfig { database_connections: 2, ..defaults };
        let engine = SqliteEngine::open(&config.sqlite_path(), &config).await.unwrap();

        let mut tx = engine.begin().await.unwrap();
        // What SQLite does by itself on an I/O error; tests/it/torture/disk.rs has it do so.
        tx.run(script("ROLLBACK")).await.unwrap();
        let failed = tx.finish(Script::default()).await;
        failed.err().expect("nothing to commit");

        let tx = engine.begin().await.expect("a connection that can begin");
        tx.finish(script("SELECT 1")).await.unwrap();
    }

    fn script(sql: &'static str) -> Script {
        let mut script = Script::default();
        script.push(sql);
        script
    }

    #[tokio::test]
    async fn transaction_takes_effect_as_a_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let config = StoreConfig::in_directory(directory.path());
        let engine = SqliteEngine::open(&config.sqlite_path(), &config).await.unwrap();
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
