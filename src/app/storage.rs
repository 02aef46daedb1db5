//! Opens the store and the journal that the settings name.
//!
//! The only file that names a store engine or a journal implementation: everything else works with what
//! it returns.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Access;
use rustix::io::Errno;

use super::registration::{IdentityError, Registration};
use super::stored_mark::StoredMark;
use crate::config::{JournalConfig, StoreConfig};
use crate::ingest::record_owner;
use crate::journal::local::{
    self, FileSystem, JournalOptions, Opened, QUEUE_BYTES_MAX, RecoveryReport, SystemFiles,
};
use crate::journal::{
    Journal, JournalBackup, JournalError, JournalExtent, JournalMetrics, JournalReader,
    JournalRecords,
};
use crate::runtime::Clock;
use crate::store::{MigrationStatus, Store, StoreError, StoreMetrics};

const MIB: u64 = 1024 * 1024;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `DATABASE_URL` names something that is not PostgreSQL.
    #[error("DATABASE_URL must start with postgres:// or postgresql://; unset it for SQLite")]
    Scheme,
    /// `DATABASE_READ_URL` names a replica, and the store is a SQLite file.
    #[error("DATABASE_READ_URL needs DATABASE_URL: only a PostgreSQL database has a replica")]
    ReplicaOfSqlite,
    /// `DATA_DIR` does not exist and cannot be created.
    #[error("cannot create the data directory {}: {error}", .path.display())]
    DataDir {
        /// `DATA_DIR`.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The SQLite file cannot be opened.
    #[error("cannot open {}: {error}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        error: StoreError,
    },
    /// PostgreSQL cannot be reached, or refuses the connection.
    #[error("cannot connect to the database in DATABASE_URL: {0}")]
    Postgres(#[source] StoreError),
    /// Two metrics share a name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Why the server cannot be sure to read every secret in the store.
#[derive(Debug, thiserror::Error)]
pub enum MissingKeysError {
    /// `SECRETS_KEY` is unset, or lacks keys that encrypt secrets in the store.
    #[error(
        "SECRETS_KEY lacks the keys {ids}, which encrypt {texts} secrets in the store; list those keys \
         after the first one"
    )]
    Missing {
        /// Number of secrets.
        texts: i64,
        /// The ids of the keys, separated by commas.
        ids: String,
    },
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenJournalError {
    /// The journal's settings contradict each other.
    #[error("JOURNAL_MAX_MIB ({max}) must be at least twice JOURNAL_SEGMENT_MIB ({segment})")]
    Size {
        /// `JOURNAL_MAX_MIB`.
        max: u64,
        /// `JOURNAL_SEGMENT_MIB`.
        segment: u64,
    },
    /// The journal's files cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The server could not be identified.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The blocking pool is shutting down.
    #[error("the start was abandoned: {0}")]
    Abandoned(#[from] tokio::task::JoinError),
}

/// Opens the store that the settings name and leaves its schema alone.
pub(super) async fn open_store(
    config: &StoreConfig,
    metrics: Arc<StoreMetrics>,
) -> Result<Store, OpenError> {
    let store = named_store(config, metrics)?;
    store.reach(config).await.map_err(|error| open_error(config, error))?;
    Ok(store)
}

/// Opens the store that the settings name for a server, which starts also while it is away.
pub(super) async fn open_store_patiently(
    config: &StoreConfig,
    metrics: Arc<StoreMetrics>,
) -> Result<Store, OpenError> {
    let store = named_store(config, metrics)?;
    match store.reach(config).await {
        Ok(()) => {}
        Err(error) if error.is_away() && !is_forbidden(config) => {
            tracing::warn!(%error, "cannot open the database; starting without it");
        }
        Err(error) => return Err(open_error(config, error)),
    }
    Ok(store)
}

/// Whether the SQLite file cannot be opened for a reason that only a person mends: the server lacks a right, or something
/// else has its name. SQLite has one error for these and for want of space or file descriptors.
///
/// Nothing is opened: to close the file would release SQLite's locks on it.
fn is_forbidden(config: &StoreConfig) -> bool {
    let (path, dir) = (config.sqlite_path(), &config.data_dir);
    let lacks = |path: &Path, right| {
        matches!(
            rustix::fs::access(path, right),
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOTDIR)
        )
    };
    let read_write = Access::READ_OK | Access::WRITE_OK;
    let is_file = config.database_url.is_none();
    is_file
        && (path.is_dir() || lacks(&path, read_write) || lacks(dir, read_write | Access::EXEC_OK))
}

/// The store that the settings name, without a connection.
fn named_store(config: &StoreConfig, metrics: Arc<StoreMetrics>) -> Result<Store, OpenError> {
    let store = match &config.database_url {
        None if config.database_read_url.is_some() => return Err(OpenError::ReplicaOfSqlite),
        None => {
            create_data_dir(config)?;
            Store::open_sqlite_lazily(&config.sqlite_path(), config, metrics)
        }
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Store::connect_postgres_lazily(url, config, metrics)
        }
        Some(_) => return Err(OpenError::Scheme),
    };
    store.map_err(|error| open_error(config, error))
}

fn open_error(config: &StoreConfig, error: StoreError) -> OpenError {
    match &config.database_url {
        None => OpenError::Sqlite { path: config.sqlite_path(), error },
        Some(_) => OpenError::Postgres(error),
    }
}

/// Every migration of SQLite, none applied: the status of a store without a file.
pub(super) fn migrations_of_a_new_store() -> Vec<MigrationStatus> {
    Store::sqlite_migrations()
}

/// Fails when keys are missing: a server would fail deliveries one by one instead, and the command
/// line would write secrets that the server cannot read.
pub(super) async fn require_keys(store: &Store) -> Result<(), MissingKeysError> {
    let missing = store.system().missing_keys().await?;
    if missing.is_empty() {
        return Ok(());
    }
    let texts = missing.iter().map(|key| key.texts).sum();
    let ids: Vec<String> = missing.into_iter().map(|key| key.id).collect();
    Err(MissingKeysError::Missing { texts, ids: ids.join(", ") })
}

/// A journal that was opened.
pub(super) struct OpenJournal {
    pub(super) journal: Journal,
    pub(super) reader: JournalReader,
    /// The run of the server that holds its lock.
    pub(super) registration: Registration,
    /// How far the store has its records.
    pub(super) mark: StoredMark,
}

/// Opens the journal, logs its recovery, and gives this run of the server an id. Recovery reads segments, so this runs
/// off the async threads.
pub(super) async fn open_journal(
    store: &StoreConfig,
    config: &JournalConfig,
    metrics: Arc<JournalMetrics>,
    clock: Clock,
) -> Result<OpenJournal, OpenJournalError> {
    let now = clock.now();
    let options = journal_options(store, config, clock)?;
    metrics.hookgate_journal_max_bytes.set(i64::try_from(options.bytes_max).unwrap_or(i64::MAX));
    let (data_dir, accept_older) = (store.data_dir.clone(), config.accept_older_store);
    let opening = move || {
        let fs: Arc<dyn FileSystem> = Arc::new(SystemFiles);
        let Opened { journal, reader, recovery, id, stored_below } =
            local::open(&options, &fs, &metrics)?;
        log_recovery(&recovery);
        let registration = Registration::new(&data_dir, &options.dir, id, now)?;
        let has_events = stored_below.get() > 1 || recovery.items > 0;
        let mark = StoredMark::new(&data_dir, id, stored_below, has_events, accept_older);
        Ok::<_, OpenJournalError>(OpenJournal { journal, reader, registration, mark })
    };
    tokio::task::spawn_blocking(opening).await?
}

/// What the journal in the data directory holds. A server may have it open.
pub(super) fn journal_extent(config: &StoreConfig) -> Result<JournalExtent, JournalError> {
    local::extent(&SystemFiles, &config.journal_dir())
}

/// Locks the journal in the data directory, to read its records from a position on.
pub(super) fn journal_records(
    config: &StoreConfig,
    from: u64,
) -> Result<JournalRecords, JournalError> {
    let fs: Arc<dyn FileSystem> = Arc::new(SystemFiles);
    JournalRecords::open(&fs, &config.journal_dir(), from)
}

/// Copies the records that wait in the journal of the data directory to a new journal in `to`. A server may have it
/// open.
pub(super) fn back_up_journal(
    config: &StoreConfig,
    to: &Path,
) -> Result<JournalBackup, JournalError> {
    local::back_up(&SystemFiles, &config.journal_dir(), to)
}

/// Whether a server works in this data directory.
pub(super) fn journal_is_in_use(config: &StoreConfig) -> bool {
    let dir = config.journal_dir();
    dir.exists() && local::is_in_use(&SystemFiles, &dir)
}

/// Fails when the journal has no room for two segments.
pub(super) fn check_journal_size(config: &JournalConfig) -> Result<(), OpenJournalError> {
    let (max, segment) = (config.journal_max_mib, config.journal_segment_mib);
    if max / 2 < segment {
        return Err(OpenJournalError::Size { max, segment });
    }
    Ok(())
}

fn journal_options(
    store: &StoreConfig,
    config: &JournalConfig,
    clock: Clock,
) -> Result<JournalOptions, OpenJournalError> {
    let (max, segment) = (config.journal_max_mib, config.journal_segment_mib);
    check_journal_size(config)?;
    Ok(JournalOptions {
        dir: store.journal_dir(),
        segment_bytes: segment * MIB,
        bytes_max: max * MIB,
        retention: config.journal_retention,
        clock,
        confirms: true,
        queue_capacity: config.queue_capacity as usize,
        queue_bytes_max: QUEUE_BYTES_MAX,
        owner: record_owner,
    })
}

/// Logs what recovery found. Damage is logged where it is found.
fn log_recovery(recovery: &RecoveryReport) {
    if recovery.items > 0 {
        tracing::info!(events = recovery.items, "unprocessed events found in the journal");
    }
    if recovery.torn_bytes > 0 {
        tracing::info!(bytes = recovery.torn_bytes, "truncated an unacknowledged journal tail");
    }
    for file in &recovery.unknown_files {
        tracing::warn!(file = %file.display(), "ignoring a file that does not belong to the journal");
    }
}

/// Whether the error means that a disk has no space: a server waits for some.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    local::is_no_space(error)
}

fn create_data_dir(config: &StoreConfig) -> Result<(), OpenError> {
    let path = &config.data_dir;
    create_dir(path).map_err(|error| OpenError::DataDir { path: path.clone(), error })
}

/// Creates a directory and its missing parents, durably.
pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    SystemFiles.create_dir(path)
}
