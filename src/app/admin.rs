//! What the command line does with a store: opening, migrating and re-encrypting it.
//!
//! It works beside running servers, which notice changed keys by themselves. The use cases in `api` do
//! the rest.
//!
//! # Which database
//! A wrong one is told before it is changed, as by the start of a server. The schema is made or migrated only in a
//! database that is empty or Hookgate's, and that knows the journal in the data directory if that has events:
//! by `migrate up`, `journal replay`, and the commands that set a store up. A replay stores nothing in a database that
//! does not know the journal, whatever its schema. `--yes` does it in any. Every other command refuses a store without
//! the schema of this version.

use std::path::PathBuf;

use crate::api::Subsystems;
use crate::config::StoreConfig;
use crate::runtime::Clock;
pub use crate::store::MigrationStatus;
use crate::store::{MigrateError, Reencryption, Schedule, Store, StoreError, StoreMetrics};
use crate::telemetry::Registry;

use super::directory_mark;
use super::storage::{self, MissingKeysError, OpenError, open_store, require_keys};
use super::stored_mark::MarkError;

/// Why a store was not opened, migrated or re-encrypted.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The schema could not be changed.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// Keys that encrypt endpoints' secrets are missing.
    #[error(transparent)]
    MissingKeys(#[from] MissingKeysError),
    /// Whether the database knows the journal could not be told.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The database is to be migrated, or to get the journal's events, and knows nothing of the journal.
    #[error(
        "the database knows nothing of the journal in {}, which has events: it is new, another one, or an older backup. \
         Nothing was changed. Correct DATABASE_URL or DATA_DIR; if it is the right one, repeat this with --yes",
        .0.display()
    )]
    OtherJournal(PathBuf),
    /// There is no SQLite file.
    #[error(
        "there is no {}; name its directory with --data-dir or DATA_DIR, or a PostgreSQL database \
         with DATABASE_URL",
        .0.display()
    )]
    NotSetUp(PathBuf),
    /// A server works with the database.
    #[error(
        "a server works with this database; stop it first, and wait for half a minute if it did not stop in good order"
    )]
    InUse,
    /// The schema is older than this program.
    #[error("the database lacks migrations; apply them with `hookgate migrate up`")]
    NotMigrated,
}

/// Opens the store, created if there is none, and brings its schema up to date.
pub async fn open(config: &StoreConfig) -> Result<Subsystems, AdminError> {
    require_expected_file(config)?;
    let store = open_unmigrated(config).await?;
    let migrated = migrate(&store, config).await;
    with_clock_if(store, migrated).await
}

/// Opens a store that exists and knows the journal, and brings its schema up to date. Another one may have the
/// organisations of the journal's events, too: the first one has the same id everywhere.
pub async fn open_for_replay(config: &StoreConfig) -> Result<Subsystems, AdminError> {
    if let Some(file) = missing_file(config) {
        return Err(AdminError::NotSetUp(file));
    }
    let store = open_unmigrated(config).await?;
    let migrated = async {
        if !config.yes {
            store.require_own_tables().await?;
            require_mark(&store, config).await?;
        }
        migrate(&store, config).await
    };
    let migrated = migrated.await;
    with_clock_if(store, migrated).await
}

/// What works with a store that is migrated; closes one that is not.
async fn with_clock_if(
    store: Store,
    migrated: Result<usize, AdminError>,
) -> Result<Subsystems, AdminError> {
    if let Err(error) = migrated {
        store.close().await;
        return Err(error);
    }
    with_clock(store).await
}

/// What works with a store, makes deliveries due by its schedule time, and logs changes for the streams of servers.
async fn with_clock(store: Store) -> Result<Subsystems, AdminError> {
    let clock = Clock::system();
    Schedule::look(&store, &clock).await?;
    let store = store.with_clock(clock.clone());
    store.system().load_followed(clock.now()).await?;
    Ok(Subsystems::without_server(store, clock))
}

/// Opens a store that exists, and neither creates nor migrates anything: a command in the wrong
/// directory must not find an empty answer, and a new database, there.
pub async fn open_existing(config: &StoreConfig) -> Result<Subsystems, AdminError> {
    if let Some(file) = missing_file(config) {
        return Err(AdminError::NotSetUp(file));
    }
    let store = open_unmigrated(config).await?;
    if is_migrated(&store).await? {
        return with_clock(store).await;
    }
    let is_ours = require_ours(&store, config).await;
    store.close().await;
    is_ours?;
    Err(AdminError::NotMigrated)
}

async fn is_migrated(store: &Store) -> Result<bool, MigrateError> {
    Ok(store.migration_status().await?.iter().all(|migration| migration.applied))
}

/// Opens a store that exists and fails when `SECRETS_KEY` lacks a key that encrypts secrets in it: a
/// server could not read what is written without.
pub async fn open_with_keys(config: &StoreConfig) -> Result<Subsystems, AdminError> {
    let subsystems = open_existing(config).await?;
    match require_keys(&subsystems.store).await {
        Ok(()) => Ok(subsystems),
        Err(error) => {
            subsystems.store.close().await;
            Err(error.into())
        }
    }
}

/// Applies the missing migrations and returns their number.
pub async fn migrate_up(config: &StoreConfig) -> Result<usize, AdminError> {
    require_expected_file(config)?;
    let store = open_unmigrated(config).await?;
    let applied = migrate(&store, config).await;
    store.close().await;
    applied
}

async fn migrate(store: &Store, config: &StoreConfig) -> Result<usize, AdminError> {
    require_ours(store, config).await?;
    Ok(store.migrate_up().await?)
}

/// Fails before the schema of a wrong database is changed. Reads only.
async fn require_ours(store: &Store, config: &StoreConfig) -> Result<(), AdminError> {
    store.require_utf8().await?;
    if config.yes {
        return Ok(());
    }
    store.require_own_tables().await?;
    if is_migrated(store).await? {
        return Ok(());
    }
    require_mark(store, config).await
}

/// Fails before a SQLite file is made beside a journal that has events in another one.
fn require_expected_file(config: &StoreConfig) -> Result<(), AdminError> {
    let is_missing = missing_file(config).is_some() && !config.yes;
    if is_missing && directory_mark::is_marked_elsewhere(config)? {
        return Err(AdminError::OtherJournal(config.data_dir.clone()));
    }
    Ok(())
}

async fn require_mark(store: &Store, config: &StoreConfig) -> Result<(), AdminError> {
    if directory_mark::is_of_journal(config, store).await? {
        return Ok(());
    }
    Err(AdminError::OtherJournal(config.data_dir.clone()))
}

/// Reverts the newest migration and returns its version; `None` if none is applied. Refuses beside a server that
/// works with the database.
pub async fn migrate_down(config: &StoreConfig) -> Result<Option<i64>, AdminError> {
    if missing_file(config).is_some() {
        return Ok(None);
    }
    let store = open_unmigrated(config).await?;
    let reverted = revert(&store, config).await;
    store.close().await;
    reverted
}

async fn revert(store: &Store, config: &StoreConfig) -> Result<Option<i64>, AdminError> {
    if store.system().has_servers().await? || storage::journal_is_in_use(config) {
        return Err(AdminError::InUse);
    }
    Ok(store.migrate_down().await?)
}

/// Every migration, oldest first, of a store that may not exist yet.
pub async fn migration_status(config: &StoreConfig) -> Result<Vec<MigrationStatus>, AdminError> {
    if missing_file(config).is_some() {
        return Ok(storage::migrations_of_a_new_store());
    }
    let store = open_unmigrated(config).await?;
    let status = store.migration_status().await;
    store.close().await;
    Ok(status?)
}

/// Encrypts every endpoint's secrets with the first key of `SECRETS_KEY`, step by step. It may be
/// interrupted and repeated, also beside running servers that know the key.
pub async fn reencrypt(config: &StoreConfig) -> Result<Reencryption, AdminError> {
    let Subsystems { store, .. } = open_existing(config).await?;
    let reencrypted = reencrypt_all(&store).await;
    store.close().await;
    Ok(reencrypted?)
}

async fn reencrypt_all(store: &Store) -> Result<Reencryption, StoreError> {
    let mut all = Reencryption::default();
    loop {
        let step = store.system().reencrypt_secrets(all.next).await?;
        all.endpoints += step.endpoints;
        all.encrypted += step.encrypted;
        all.unreadable.extend(step.unreadable);
        all.next = step.next;
        if all.next.is_none() {
            return Ok(all);
        }
    }
}

/// Opens the store, created if there is none, and leaves its schema alone.
async fn open_unmigrated(config: &StoreConfig) -> Result<Store, AdminError> {
    let metrics = StoreMetrics::register(&Registry::new()).map_err(OpenError::Metrics)?;
    Ok(open_store(config, metrics).await?)
}

/// The SQLite file that the settings name, if it does not exist.
fn missing_file(config: &StoreConfig) -> Option<PathBuf> {
    let file = config.sqlite_path();
    (config.database_url.is_none() && !file.exists()).then_some(file)
}
