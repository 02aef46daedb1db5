//! SQLite: everything in one file, nothing to install.
//!
//! # Operation
//! WAL mode with `synchronous=FULL`, so that a commit is on stable storage when it returns. One
//! connection writes, in `BEGIN IMMEDIATE` transactions; a pool of read-only ones reads beside it.
//! Other processes, such as the command line, write to the same file; whoever finds it locked waits.
//!
//! Large batches of events and outcomes, claims and steps of what is done in many have one place among them in
//! the line for the writer, and the batches end early when a short transaction waits ([`Line`]). Checkpoints
//! are made beside the writer, every second.
//!
//! A statement costs a round trip to the connection's own thread, so batches go as multi-row
//! statements of fixed sizes ([`MultiRow`]), whose prepared forms are used again. Short lists go in
//! as one JSON text of hexadecimal ids.
//!
//! # Failure
//! A lock held longer than `DATABASE_TIMEOUT` by another process, a full disk and an I/O error are
//! [`StoreError::Unavailable`]; a transaction in flight is rolled back when it is dropped. On a full
//! disk or an I/O error SQLite may roll it back by itself, which sqlx does not notice: such a
//! connection would refuse every transaction from then on, and is replaced.

mod audit;
mod cancels;
mod claims;
mod dead_letters;
mod deletion;
mod deliveries;
mod endpoints;
mod events;
mod keys;
mod maintenance;
mod orgs;
mod replays;
mod secrets;
mod standings;
mod usage;

use std::iter;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::BoxDynError;
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Sqlite, SqliteConnection, Transaction};
use uuid::Uuid;

use super::line::{Line, Long};
use super::seal::Keyring;
use super::{MigrationStatus, StoreError, migrations};
use crate::config::StoreConfig;
use crate::telemetry::Metrics;

/// The store in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    /// The line for it.
    line: Line,
    checkpointer: SqlitePool,
    readers: SqlitePool,
    dedup_window: Duration,
    event_writes: events::Writes,
    outcome_writes: deliveries::Writes,
    replay_writes: MultiRow,
    keyring: Keyring,
    metrics: Arc<Metrics>,
}

/// Readers at most: each has a thread and a cache of its own, and reads are short.
const READERS_MAX: u32 = 8;

/// Page cache of the writer, in KiB: the upper levels of every index at ten million events.
const WRITER_CACHE_KIB: u32 = 16 * 1024;

/// Pages in the WAL (4 KiB each) at which the writer itself makes a checkpoint, as SQLite does from
/// 1000 on: everybody waits for it meanwhile. It is for floods, in which checkpoints beside the writer
/// ([`SqliteStore::checkpoint`]) never catch up; the WAL can start anew only when one has.
const CHECKPOINT_PAGES: u32 = 16_000;
/// Times a checkpoint is made again to catch up with what was written meanwhile.
const CHECKPOINT_PASSES_MAX: usize = 4;

/// Rows that wait between the connection's thread and its caller.
const ROWS_BUFFERED: usize = 512;

impl SqliteStore {
    /// Opens the file, creating it and its directory when missing. Does not migrate.
    pub async fn open(
        path: &Path,
        config: &StoreConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
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
            line: Line::new(),
            // It syncs the log before it copies, and the file before the log starts anew.
            checkpointer: pool(1, config)
                .min_connections(0)
                .connect_lazy_with(shared.clone().synchronous(SqliteSynchronous::Full)),
            readers: pool(readers, config).connect_with(shared.read_only(true)).await?,
            dedup_window: config.dedup_window,
            event_writes: events::Writes::new(config.dedup_window),
            outcome_writes: deliveries::Writes::new(),
            replay_writes: replays::writes(),
            keyring: Keyring::new(config.secrets_key.as_ref())?,
            metrics,
        })
    }

    /// The migrations of a file that is not there yet.
    pub fn migrations() -> Vec<MigrationStatus> {
        migrations::status(migrations::SQLITE, &[])
    }

    /// Starts a short transaction that holds the write lock, so that what it reads stays true.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let _place = self.line.short();
        self.begin().await
    }

    /// Starts one that may take long. What can end early asks its turn when.
    async fn write_long(&self) -> Result<(Long<'_>, Transaction<'static, Sqlite>), StoreError> {
        let mut turn = self.line.long().await;
        let tx = self.begin().await?;
        turn.begin();
        Ok((turn, tx))
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
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

/// Rows in one statement, largest first. Any number of rows is a few of these.
const CHUNK_ROWS: [usize; 5] = [256, 64, 16, 4, 1];

/// A statement over many rows, in a few sizes, so that SQLite prepares each size once.
#[derive(Debug)]
struct MultiRow([Arc<str>; CHUNK_ROWS.len()]);

impl MultiRow {
    /// `head`, then `(?,…)` with `columns` parameters for each row, then `tail`.
    fn new(head: &str, columns: usize, tail: &str) -> Self {
        let row = format!("({})", iter::repeat_n("?", columns).collect::<Vec<_>>().join(","));
        Self(CHUNK_ROWS.map(|rows| {
            let values = iter::repeat_n(row.as_str(), rows).collect::<Vec<_>>().join(",");
            format!("{head}{values}{tail}").into()
        }))
    }

    /// The rows in chunks, each with the statement of its size.
    fn chunks<'a, T>(&'a self, mut rows: &'a [T]) -> impl Iterator<Item = (Sql, &'a [T])> {
        iter::from_fn(move || {
            let size = CHUNK_ROWS.iter().position(|size| *size <= rows.len())?;
            let (chunk, rest) = rows.split_at(CHUNK_ROWS[size]);
            rows = rest;
            Some((AssertSqlSafe(Arc::clone(&self.0[size])), chunk))
        })
    }

    /// Runs the statement over all rows and returns how many it changed.
    async fn execute<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<usize, StoreError> {
        let mut changed = 0;
        for (sql, chunk) in self.chunks(rows) {
            let query = sqlx::query_with(sql, arguments(chunk, &bind)?);
            changed += query.execute(&mut *connection).await?.rows_affected();
        }
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }
}

/// A statement that holds no text from outside: only constants of the source and `?`.
type Sql = AssertSqlSafe<Arc<str>>;

/// The parameters of a chunk, row by row.
fn arguments<T>(
    rows: &[T],
    bind: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
) -> Result<SqliteArguments, StoreError> {
    let mut arguments = SqliteArguments::default();
    for row in rows {
        bind(&mut arguments, row).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// A list of ids as one parameter: a JSON array of hexadecimal texts, read back with
/// `SELECT unhex(value) FROM json_each(?)`.
fn id_list(ids: impl IntoIterator<Item = Uuid>) -> String {
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
    async fn transaction_that_sqlite_took_back_leaves_no_connection_that_refuses_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            data_dir: directory.path().to_owned(),
            database_url: None,
            database_connections: 2,
            database_timeout: Duration::from_secs(5),
            dedup_window: Duration::from_hours(1),
            secrets_key: None,
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = SqliteStore::open(&config.sqlite_path(), &config, metrics).await.unwrap();

        let mut tx = store.write().await.unwrap();
        // What SQLite does by itself on an I/O error; tests/it/torture/disk.rs has it do so.
        sqlx::query("ROLLBACK").execute(&mut *tx).await.unwrap();
        tx.commit().await.expect_err("nothing to commit");

        let tx = store.write().await.expect("a connection that can begin");
        tx.commit().await.unwrap();
    }

    #[test]
    fn chunks_cover_all_rows_in_order() {
        let statement = MultiRow::new("VALUES ", 2, ";");
        let rows: Vec<usize> = (0..607).collect();
        let mut seen = Vec::new();
        for (sql, chunk) in statement.chunks(&rows) {
            assert_eq!(sql.0.matches("(?,?)").count(), chunk.len());
            seen.extend_from_slice(chunk);
        }
        assert_eq!(seen, rows);
    }

    #[test]
    fn id_lists_are_json() {
        assert_eq!(id_list([]), "[]");
        let list = id_list([Uuid::nil(), Uuid::max()]);
        assert_eq!(list, format!("[\"{}\",\"{}\"]", "0".repeat(32), "f".repeat(32)));
    }
}
