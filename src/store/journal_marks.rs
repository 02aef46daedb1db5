//! How far the store has the records of each journal, so that a store that is older than a journal's checkpoint is
//! noticed.
//!
//! A journal forgets a record only after a mark at or above it was committed here. So a store whose mark is below the
//! checkpoint has lost transactions: it is an older backup, or a standby that had not received all. The mark is a
//! statement of its own, a few times a second: in the transactions that store batches, which run side by side, its row
//! would make each wait for the commit of the one before.

use super::engine::args;
use super::{MigrateError, Result, Store, System};

/// The migration that made the table.
const MIGRATION: i64 = 16;

impl Store {
    /// Whether the schema has marks of journals; not so before it was migrated.
    pub async fn has_journal_marks(&self) -> Result<bool, MigrateError> {
        let status = self.migration_status().await?;
        Ok(status.iter().any(|step| step.version == MIGRATION && step.applied))
    }
}

impl System<'_> {
    /// The position below which the store has every record of a journal; `None` if it knows nothing of that journal.
    pub async fn journal_mark(self, journal: u64) -> Result<Option<u64>> {
        let sql = "SELECT position FROM journals WHERE id = $1";
        let args = args![journal.cast_signed()];
        self.0.engine.find(sql, args, |row| row.get("position")).await
    }

    /// Sets a journal's mark, unless it is above already.
    pub async fn raise_journal_mark(self, journal: u64, position: u64) -> Result<()> {
        let sql = "INSERT INTO journals (id, position) VALUES ($1, $2)
                   ON CONFLICT (id) DO UPDATE SET position = excluded.position
                   WHERE journals.position < excluded.position";
        let mut tx = self.0.engine.begin().await?;
        tx.execute(sql, args![journal.cast_signed(), position]).await?;
        tx.commit().await
    }

    /// Moves a journal's mark from a position that was committed to a higher one. `false` when the mark is below that
    /// position, or gone: this is not the store that it was committed to. One that is above stays: a copy of the
    /// journal has moved it.
    pub async fn advance_journal_mark(self, journal: u64, from: u64, to: u64) -> Result<bool> {
        let sql = "UPDATE journals SET position = CASE WHEN position < $3 THEN $3 ELSE position END
                   WHERE id = $1 AND position >= $2";
        let mut tx = self.0.engine.begin().await?;
        let updated = tx.execute(sql, args![journal.cast_signed(), from, to]).await?;
        tx.commit().await?;
        Ok(updated > 0)
    }
}
