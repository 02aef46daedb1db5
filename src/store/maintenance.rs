//! Schema and maintenance.

use std::time::Duration;

use super::{Store, StoreError, migrations, on_engine};
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
pub(super) const DEDUP_KEYS_KEPT_LONGER: Duration = Duration::from_hours(24);

/// Dedup keys deleted by one statement at most, so that none holds its locks for long.
pub(super) const DEDUP_KEYS_PER_STEP: i64 = 10_000;

impl Store {
    /// The migrations of a SQLite file that does not exist yet.
    pub fn sqlite_migrations() -> Vec<MigrationStatus> {
        migrations::status(migrations::SQLITE, &[])
    }

    /// Answers when the store can be reached and read.
    pub async fn ping(&self) -> Result<(), StoreError> {
        on_engine!(self, ping())
    }

    /// Applies every migration that is missing, safely beside other instances doing the same, and
    /// returns how many that were.
    pub async fn migrate_up(&self) -> Result<usize, MigrateError> {
        on_engine!(self, migrate_up())
    }

    /// Takes the newest migration back and returns its version; `None` when none is applied.
    pub async fn migrate_down(&self) -> Result<Option<i64>, MigrateError> {
        on_engine!(self, migrate_down())
    }

    /// Every migration this version knows, oldest first.
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>, MigrateError> {
        on_engine!(self, migration_status())
    }

    /// Upkeep that must happen every few hours at least: partitions for the coming days where the
    /// backend has them, and dedup keys older than the window deleted in bounded steps.
    pub async fn maintain_across_orgs(&self, now: Timestamp) -> Result<(), StoreError> {
        on_engine!(self, maintain_across_orgs(now))
    }

    /// Moves what was committed from the log to its place, where the backend leaves that to us. To be
    /// called every second or so; who writes has to wait less then.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        on_engine!(self, checkpoint())
    }

    /// Since when the delivery waits that has been due for longest and that nobody holds; `None`
    /// when none is due at `now`. Those of disabled endpoints are not due.
    pub async fn oldest_due_across_orgs(
        &self,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        on_engine!(self, oldest_due_across_orgs(now))
    }

    /// Closes every connection, waiting for calls in flight.
    pub async fn close(&self) {
        on_engine!(self, close())
    }
}
