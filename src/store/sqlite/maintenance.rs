//! Schema and upkeep.

use sqlx::SqliteConnection;
use sqlx::migrate::Migrate;

use super::SqliteEngine;
use crate::domain::Timestamp;
use crate::store::{
    DEDUP_KEYS_KEPT_LONGER, DEDUP_KEYS_PER_STEP, MigrateError, MigrationStatus, StoreError,
    migrations,
};

/// Times a checkpoint is made again to catch up with writes made meanwhile.
const CHECKPOINT_PASSES_MAX: usize = 4;

impl SqliteEngine {
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM orgs LIMIT 1").fetch_optional(&self.readers).await?;
        Ok(())
    }

    /// Everything in one transaction under the write lock, which sqlx's own lock for SQLite, none,
    /// would not give.
    pub(crate) async fn migrate_up(&self) -> Result<usize, MigrateError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let before = applied(&mut tx).await.map_err(failed)?.len();
        migrations::migrator(migrations::SQLITE).run_direct(None, &mut *tx, false).await?;
        let after = applied(&mut tx).await.map_err(failed)?.len();
        tx.commit().await.map_err(failed)?;
        Ok(after.saturating_sub(before))
    }

    pub(crate) async fn migrate_down(&self) -> Result<Option<i64>, MigrateError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let applied = applied(&mut tx).await.map_err(failed)?;
        let Some(newest) = applied.last().copied() else { return Ok(None) };
        let way_back = migrations::way_back(migrations::SQLITE, newest)?;
        tx.revert(migrations::TABLE, &way_back).await?;
        tx.commit().await.map_err(failed)?;
        Ok(Some(newest))
    }

    pub(crate) async fn migration_status(&self) -> Result<Vec<MigrationStatus>, MigrateError> {
        let mut reader = self.readers.acquire().await.map_err(failed)?;
        let applied = applied(&mut reader).await.map_err(failed)?;
        Ok(migrations::status(migrations::SQLITE, &applied))
    }

    pub(crate) async fn maintain_across_orgs(&self, now: Timestamp) -> Result<(), StoreError> {
        let oldest_kept = now.minus(self.dedup_window).minus(DEDUP_KEYS_KEPT_LONGER);
        loop {
            let done = sqlx::query(
                "DELETE FROM dedup_keys WHERE (org_id, event_id) IN
                     (SELECT org_id, event_id FROM dedup_keys WHERE received_at < ?1 LIMIT ?2)",
            )
            .bind(oldest_kept.micros())
            .bind(DEDUP_KEYS_PER_STEP)
            .execute(&self.writer)
            .await?;
            if done.rows_affected() < DEDUP_KEYS_PER_STEP.unsigned_abs() {
                return Ok(());
            }
        }
    }

    /// `PASSIVE` waits for nobody and holds nobody up. What is written meanwhile is left for the next
    /// pass, and the WAL starts anew once a pass has left nothing.
    pub(crate) async fn checkpoint(&self) -> Result<(), StoreError> {
        for _ in 0..CHECKPOINT_PASSES_MAX {
            let (_, pages, copied): (i64, i64, i64) =
                sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)")
                    .fetch_one(&self.checkpointer)
                    .await?;
            if copied == pages {
                break;
            }
        }
        Ok(())
    }

    pub(crate) async fn oldest_due_across_orgs(
        &self,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let oldest: Option<i64> = sqlx::query_scalar(
            "SELECT due_at FROM deliveries INDEXED BY deliveries_due
             WHERE status = 'pending' AND ordered = 0 AND due_at <= ?1
             ORDER BY due_at LIMIT 1",
        )
        .bind(now.micros())
        .fetch_optional(&self.readers)
        .await?;
        Ok(oldest.map(Timestamp::from_micros))
    }

    pub(crate) async fn close(&self) {
        // The writer last: the last connection to go folds the WAL into the file.
        self.checkpointer.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }
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

fn failed(error: sqlx::Error) -> MigrateError {
    MigrateError(error.into())
}
