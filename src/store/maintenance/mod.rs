//! Schema and maintenance.

mod postgres;
mod sqlite;

use std::time::Duration;

use super::engine::{Engine, args};
use super::{Result, Store, System, migrations};
use crate::domain::Timestamp;

/// A step of the schema, as `hookgate migrate status` shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether the schema has it.
    pub applied: bool,
}

/// Why the schema could not be brought up or down.
#[derive(Debug, thiserror::Error)]
#[error("cannot migrate the schema: {0}")]
pub struct MigrateError(#[from] pub sqlx::migrate::MigrateError);

/// A dedup key is kept this much longer than the window: events wait in the journal for a while,
/// and a key must outlast every event that it could still turn away.
const DEDUP_KEYS_KEPT_LONGER: Duration = Duration::from_hours(24);

/// Dedup keys deleted by one statement at most, so that none holds its locks for long.
const DEDUP_KEYS_PER_STEP: i64 = 10_000;

impl Store {
    /// Answers when the store can be reached and read.
    pub async fn ping(&self) -> Result<()> {
        self.engine.optional("SELECT 1 FROM orgs LIMIT 1", args![]).await?;
        Ok(())
    }

    /// The migrations of a SQLite file that does not exist yet.
    pub fn sqlite_migrations() -> Vec<MigrationStatus> {
        migrations::status(migrations::SQLITE, &[])
    }

    /// Applies every missing migration, safely beside other instances doing the same, and
    /// returns how many those were.
    pub async fn migrate_up(&self) -> Result<usize, MigrateError> {
        match &*self.engine {
            Engine::Sqlite(engine) => sqlite::migrate_up(engine).await,
            Engine::Postgres(engine) => postgres::migrate_up(engine).await,
        }
    }

    /// Reverts the newest migration and returns its version; `None` when none is applied.
    pub async fn migrate_down(&self) -> Result<Option<i64>, MigrateError> {
        match &*self.engine {
            Engine::Sqlite(engine) => sqlite::migrate_down(engine).await,
            Engine::Postgres(engine) => postgres::migrate_down(engine).await,
        }
    }

    /// Every migration this version knows, oldest first.
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>, MigrateError> {
        match &*self.engine {
            Engine::Sqlite(engine) => sqlite::migration_status(engine).await,
            Engine::Postgres(engine) => postgres::migration_status(engine).await,
        }
    }

    /// Copies committed pages from the write-ahead log into the file, where the engine leaves that to its
    /// user. To be called every second or so; writers wait less then.
    pub async fn checkpoint(&self) -> Result<()> {
        match &*self.engine {
            Engine::Sqlite(engine) => sqlite::checkpoint(engine).await,
            // The server makes its own.
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// Closes every connection, waiting for calls in flight.
    pub async fn close(&self) {
        match &*self.engine {
            Engine::Sqlite(engine) => sqlite::close(engine).await,
            Engine::Postgres(engine) => engine.pool.close().await,
        }
    }
}

impl System<'_> {
    /// Maintenance that must run at least every few hours: creates partitions for the coming days where the
    /// engine has them, and deletes dedup keys older than the window in bounded steps.
    pub async fn maintain(self, now: Timestamp) -> Result<()> {
        let oldest_kept = now.minus(self.0.dedup_window).minus(DEDUP_KEYS_KEPT_LONGER);
        match &*self.0.engine {
            Engine::Sqlite(engine) => sqlite::delete_dedup_keys(engine, oldest_kept).await,
            Engine::Postgres(engine) => {
                postgres::create_partitions(engine, now).await?;
                postgres::delete_dedup_keys(engine, oldest_kept).await
            }
        }
    }
}

fn failed(error: sqlx::Error) -> MigrateError {
    MigrateError(error.into())
}
