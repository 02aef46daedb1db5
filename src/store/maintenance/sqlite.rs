//! Migrates and copies a SQLite file.

use std::path::Path;

use sqlx::SqliteConnection;
use sqlx::migrate::Migrate;

use super::{MigrateError, failed};
use crate::store::MigrationStatus;
use crate::store::engine::SqliteEngine;
use crate::store::{Result, migrations};

/// Everything in one transaction under the write lock, which sqlx's own lock for SQLite, none,
/// would not give.
pub(super) async fn migrate_up(engine: &SqliteEngine) -> Result<usize, MigrateError> {
    let mut tx = engine.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let before = applied(&mut tx).await.map_err(failed)?.len();
    migrations::migrator(migrations::SQLITE).run_direct(None, &mut *tx, false).await?;
    let after = applied(&mut tx).await.map_err(failed)?.len();
    tx.commit().await.map_err(failed)?;
    Ok(after.saturating_sub(before))
}

pub(super) async fn migrate_down(engine: &SqliteEngine) -> Result<Option<i64>, MigrateError> {
    let mut tx = engine.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let applied = applied(&mut tx).await.map_err(failed)?;
    let Some(newest) = applied.last().copied() else { return Ok(None) };
    let down = migrations::down(migrations::SQLITE, newest)?;
    tx.revert(migrations::TABLE, &down).await?;
    tx.commit().await.map_err(failed)?;
    Ok(Some(newest))
}

pub(super) async fn migration_status(
    engine: &SqliteEngine,
) -> Result<Vec<MigrationStatus>, MigrateError> {
    let mut reader = engine.readers.acquire().await.map_err(failed)?;
    let applied = applied(&mut reader).await.map_err(failed)?;
    Ok(migrations::status(migrations::SQLITE, &applied))
}

/// The copy is one read transaction: nobody waits for it, and the WAL is not reset meanwhile.
pub(super) async fn copy(engine: &SqliteEngine, to: &Path) -> Result<()> {
    let to = to.to_string_lossy().into_owned();
    sqlx::query("VACUUM INTO ?1").bind(to).execute(&engine.writer).await?;
    Ok(())
}

/// The versions that were applied, oldest first; none in a file that was never migrated.
async fn applied(connection: &mut SqliteConnection) -> Result<Vec<i64>, sqlx::Error> {
    let table: Option<i64> = sqlx::query_scalar("SELECT 1 FROM sqlite_schema WHERE name = ?1")
        .bind(migrations::TABLE)
        .fetch_optional(&mut *connection)
        .await?;
    if table.is_none() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
        .fetch_all(connection)
        .await
}
