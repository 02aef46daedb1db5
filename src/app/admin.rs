//! What the command line does with a store: opening, migrating and re-encrypting it.
//!
//! It works beside running servers, which notice changed keys by themselves. The use cases in `api` do
//! the rest.

use std::path::PathBuf;

use crate::api::Subsystems;
use crate::config::StoreConfig;
use crate::runtime::Clock;
pub use crate::store::MigrationStatus;
use crate::store::{MigrateError, Reencryption, Schedule, Store, StoreError, StoreMetrics};
use crate::telemetry::Registry;

use super::storage::{self, MissingKeysError, OpenError, open_store, require_keys};

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
    let store = open_unmigrated(config).await?;
    migrate(&store, config).await?;
    with_clock(store).await
}

/// What works with a store and makes deliveries due by its schedule time.
async fn with_clock(store: Store) -> Result<Subsystems, AdminError> {
    let clock = Clock::system();
    Schedule::look(&store, &clock).await?;
    Ok(Subsystems::without_server(store.with_clock(clock.clone()), clock))
}

/// Opens a store that exists, and neither creates nor migrates anything: a command in the wrong
/// directory must not find an empty answer, and a new database, there.
pub async fn open_existing(config: &StoreConfig) -> Result<Subsystems, AdminError> {
    if let Some(file) = missing_file(config) {
        return Err(AdminError::NotSetUp(file));
    }
    let store = open_unmigrated(config).await?;
    if store.migration_status().await?.iter().all(|migration| migration.applied) {
        return with_clock(store).await;
    }
    store.close().await;
    Err(AdminError::NotMigrated)
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
    let store = open_unmigrated(config).await?;
    let applied = migrate(&store, config).await;
    store.close().await;
    Ok(applied?)
}

async fn migrate(store: &Store, config: &StoreConfig) -> Result<usize, MigrateError> {
    store.require_utf8().await?;
    if !config.yes {
        store.require_own_tables().await?;
    }
    store.migrate_up().await
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
