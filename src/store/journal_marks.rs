//! How far the store has the records of each journal, so that a store that is older than a journal's checkpoint is
//! noticed.
//!
//! A journal forgets a record only after a mark at or above it was committed here. So a store whose mark is below the
//! checkpoint has lost transactions: it is an older backup, or a standby that had not received all. The mark is a
//! statement of its own, a few times a second: in the transactions that store batches, which run side by side, its row
//! would make each wait for the commit of the one before.

use super::engine::{Row, args};
use super::{MigrateError, Result, Store, System};

/// Which history of transactions a database continues: PostgreSQL's timeline. A standby begins another one when it is
/// promoted, and may lack what the primary before had committed last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Timeline(String);

/// A journal's mark, as it is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MarkState {
    /// It is where it was, or above.
    Kept,
    /// It is below, or gone: this is not the store that it was committed to.
    Lost,
    /// It is where it was, but what was stored since may be gone: the database is on this timeline.
    OnOtherTimeline(Timeline),
}

impl MarkState {
    fn found(timeline: Option<Timeline>, on: &Timeline) -> Self {
        match timeline {
            None => Self::Lost,
            Some(timeline) if timeline == *on => Self::Kept,
            Some(timeline) => Self::OnOtherTimeline(timeline),
        }
    }
}

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

    /// The timeline that the database is on now. A database that cannot tell is on [`Timeline::default`].
    pub async fn timeline(self) -> Result<Timeline> {
        let sql = format!("SELECT {}", self.0.engine.dialect().timeline());
        match self.0.engine.find(sql, args![], |row| row.get("timeline")).await {
            Ok(name) => Ok(Timeline(name.unwrap_or_default())),
            Err(error) if error.is_not_offered() => {
                tracing::warn!(
                    %error,
                    "the database does not tell its timeline: a failover to a standby that is behind goes unnoticed \
                     while the server runs"
                );
                Ok(Timeline::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Moves a journal's mark from a position that was committed, on a timeline, to a higher one. A mark that is above
    /// stays: a copy of the journal has moved it.
    pub async fn advance_journal_mark(
        self,
        journal: u64,
        from: u64,
        to: u64,
        on: &Timeline,
    ) -> Result<MarkState> {
        let sql = format!(
            "UPDATE journals SET position = CASE WHEN position < $3 THEN $3 ELSE position END
             WHERE id = $1 AND position >= $2 RETURNING {}",
            self.timeline_if_known(on)
        );
        let mut tx = self.0.engine.begin().await?;
        let timeline = tx.find(sql, args![journal.cast_signed(), from, to], timeline_of).await?;
        let mark = MarkState::found(timeline, on);
        if mark == MarkState::Kept {
            tx.commit().await?;
        }
        Ok(mark)
    }

    /// Looks whether a journal's mark is at or above a position that was committed on a timeline.
    pub async fn check_journal_mark(
        self,
        journal: u64,
        from: u64,
        on: &Timeline,
    ) -> Result<MarkState> {
        let timeline = self.timeline_if_known(on);
        let sql = format!("SELECT {timeline} FROM journals WHERE id = $1 AND position >= $2");
        let args = args![journal.cast_signed(), from];
        Ok(MarkState::found(self.0.engine.find(sql, args, timeline_of).await?, on))
    }

    fn timeline_if_known(self, on: &Timeline) -> &'static str {
        if *on == Timeline::default() {
            return "'' AS timeline";
        }
        self.0.engine.dialect().timeline()
    }
}

fn timeline_of(row: &Row) -> Result<Timeline> {
    row.get("timeline").map(Timeline)
}
