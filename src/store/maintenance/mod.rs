//! Schema and maintenance.

mod days;
mod postgres;
mod sqlite;

use std::path::Path;
use std::time::Duration;

use super::engine::{Dialect, Engine, Row, Workload, args};
use super::{
    MigrationStatus, Result, Store, StoreError, System, error, idempotency, migrations, sessions,
};
use crate::domain::Timestamp;

pub(super) use days::{MissingDays, begin_dropping, days_before, drop_day, partition_name};

/// Why the schema could not be brought up or down.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A step failed, or the database is away.
    #[error("cannot migrate the schema: {}", error::PlainStepError(.0))]
    Step(#[from] sqlx::migrate::MigrateError),
    /// The database holds tables, and none of them is ours.
    #[error(
        "the database holds tables of something else, such as {0}; name another one, or allow it with --yes"
    )]
    Foreign(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MigrateError {
    /// Whether the database is away for a while, as [`StoreError::is_away`](super::StoreError::is_away) tells.
    pub fn is_away(&self) -> bool {
        use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
        match self {
            Self::Step(Execute(error) | ExecuteMigration(error, _)) => error::is_away(error),
            Self::Store(error) => error.is_away(),
            Self::Step(_) | Self::Foreign(_) => false,
        }
    }
}

/// A dedup key is kept this much longer than the window: events wait in the journal for a while,
/// and a key must outlast every event that it could still turn away.
const DEDUP_KEYS_KEPT_LONGER: Duration = Duration::from_hours(24);

/// How long the creation of a partition waits for its lock: whoever comes later waits behind it, and it may wait behind
/// a dump of the database.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_millis(200);
/// Rows deleted by one statement at most, so that none holds its locks for long.
const DELETED_PER_STEP: u64 = 10_000;

impl Store {
    /// Answers when the store can be reached and read, whatever reads and writes wait for.
    pub async fn ping(&self) -> Result<()> {
        self.engine.on(Workload::Keys).optional("SELECT 1 FROM orgs LIMIT 1", args![]).await?;
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

    /// Fails when the database holds tables and no migration was ever applied: they belong to something else.
    pub async fn require_own_tables(&self) -> Result<(), MigrateError> {
        if self.migration_status().await?.iter().any(|migration| migration.applied) {
            return Ok(());
        }
        let sql = match self.engine.dialect() {
            Dialect::Sqlite => {
                "SELECT name FROM sqlite_schema
                 WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name <> $1 LIMIT 1"
            }
            Dialect::Postgres => {
                "SELECT tablename::text AS name FROM pg_tables
                 WHERE schemaname = current_schema() AND tablename <> $1 LIMIT 1"
            }
        };
        match self.engine.optional(sql, args![migrations::TABLE]).await? {
            Some(row) => Err(MigrateError::Foreign(row.get("name")?)),
            None => Ok(()),
        }
    }

    /// Fails when the database's encoding is not UTF-8, in which it could not store every event.
    pub async fn require_utf8(&self) -> Result<()> {
        if self.engine.dialect() == Dialect::Sqlite {
            return Ok(());
        }
        let sql = "SELECT current_setting('server_encoding') AS encoding";
        let encoding: String = self.engine.one(sql, args![]).await?.get("encoding")?;
        if encoding == "UTF8" {
            return Ok(());
        }
        let text = format!(
            "the database's encoding is {encoding}; create one with ENCODING 'UTF8' TEMPLATE template0"
        );
        Err(sqlx::Error::Configuration(text.into()).into())
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
            Engine::Sqlite(engine) => engine.checkpoint().await,
            // The server makes its own.
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// What is damaged in a SQLite file, which is read whole: at most ten findings. Nothing in PostgreSQL, which checks
    /// its pages itself where it was set up with checksums.
    pub async fn damage(&self) -> Result<Vec<String>> {
        let Engine::Sqlite(_) = &*self.engine else { return Ok(Vec::new()) };
        let found = self
            .engine
            .list("PRAGMA quick_check(10)", args![], |row: &Row| row.get::<String>("quick_check"));
        Ok(found.await?.into_iter().filter(|line| line != "ok").collect())
    }

    /// Copies a SQLite database to a new file, as it is at one moment. Writers do not wait for it.
    ///
    /// # Errors
    /// Also when this is not a SQLite database.
    pub async fn copy_sqlite(&self, to: &Path) -> Result<()> {
        match &*self.engine {
            Engine::Sqlite(engine) => sqlite::copy(engine, to).await,
            Engine::Postgres(_) => Err(StoreError::Corrupt("not a SQLite database".to_owned())),
        }
    }

    /// Closes every connection, waiting for calls in flight.
    pub async fn close(&self) {
        self.engine.close().await;
    }
}

impl System<'_> {
    /// Whether a server works with the database: one that waits for changes, or that shows a heartbeat, since not every
    /// one listens. `false` for a SQLite file, which tells nothing of others.
    pub async fn has_servers(self) -> Result<bool> {
        let Engine::Postgres(_) = &*self.0.engine else { return Ok(false) };
        let sql = "SELECT 1 FROM pg_stat_activity
                   WHERE datname = current_database() AND query LIKE 'LISTEN \"hookgate%'";
        if self.0.engine.optional(sql, args![]).await?.is_some() {
            return Ok(true);
        }
        // The oldest schemas have no register.
        let sql = "SELECT to_regclass('servers') IS NOT NULL AS found";
        if !self.0.engine.one(sql, args![]).await?.get::<bool>("found")? {
            return Ok(false);
        }
        Ok(self.servers().await?.iter().any(|server| server.is_alive))
    }

    /// Maintenance that must run at least every few hours: creates partitions for the coming days where the
    /// engine has them, and deletes dedup keys older than the window, idempotency keys, and registrations of servers
    /// that have ended, in bounded steps. Space of deleted rows goes back to the file system, where the engine
    /// leaves that to its user.
    pub async fn maintain(self, now: Timestamp) -> Result<()> {
        self.maintain_behind(now, now).await
    }

    /// The same while events that were accepted at `oldest_unstored` may have to be stored yet: the keys of those
    /// that they may be copies of are kept.
    pub async fn maintain_behind(self, now: Timestamp, oldest_unstored: Timestamp) -> Result<()> {
        // By the earlier of two clocks, so that one which is ahead deletes nothing too early.
        let earliest = now.min(self.0.due(now));
        let oldest = earliest.min(oldest_unstored);
        let oldest_kept = oldest.minus(self.0.dedup_window).minus(DEDUP_KEYS_KEPT_LONGER);
        let mut created = Ok(());
        if let Engine::Postgres(engine) = &*self.0.engine {
            // Whether or not partitions can be created now, what is old is deleted.
            created = days::create_partitions(engine, now, LOCK_TIMEOUT).await;
        }
        let engine = &self.0.engine;
        delete_in_steps(engine, delete_dedup_keys(engine.dialect()), oldest_kept).await?;
        let sql = idempotency::delete_answers(engine.dialect());
        delete_in_steps(engine, sql, idempotency::oldest_kept(earliest)).await?;
        delete_in_steps(engine, sessions::delete_ended(engine.dialect()), now).await?;
        if let Engine::Sqlite(engine) = &**engine {
            // Autovacuum does it on PostgreSQL.
            engine.give_space_back().await?;
        }
        self.delete_old_changes(now).await?;
        self.remove_ended_servers().await?;
        created
    }

    /// Gives the space of deleted rows back to the file system, where the engine leaves that to its user, but for
    /// 10 MiB. Meant for a disk that has little space: the next rows take it again.
    pub async fn give_all_space_back(self) -> Result<()> {
        match &*self.0.engine {
            Engine::Sqlite(engine) => engine.give_all_space_back().await,
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// Creates the partitions of today and the coming days that are missing, where the engine has them. Waits for
    /// each lock for `lock_timeout` at most.
    pub async fn create_partitions(self, now: Timestamp, lock_timeout: Duration) -> Result<()> {
        match &*self.0.engine {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(engine) => days::create_partitions(engine, now, lock_timeout).await,
        }
    }
}

/// Deletes what is older than `oldest_kept`, in steps of their own transactions. The statement deletes what is older
/// than `$1`, at most `$2` rows.
async fn delete_in_steps(engine: &Engine, sql: &'static str, oldest_kept: Timestamp) -> Result<()> {
    loop {
        let mut tx = engine.begin_long().await?;
        let deleted = tx.execute(sql, args![oldest_kept, DELETED_PER_STEP]).await?;
        tx.commit().await?;
        if deleted < DELETED_PER_STEP {
            return Ok(());
        }
    }
}

/// Deletes old dedup keys, as [`delete_in_steps`] needs it.
const fn delete_dedup_keys(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            "DELETE FROM dedup_keys WHERE (org_id, event_id) IN
                 (SELECT org_id, event_id FROM dedup_keys WHERE received_at < $1 LIMIT $2)"
        }
        // The oldest are picked by the index on time, so that a step costs the same however many are left. They are
        // locked in key order, as batches lock them, each by its key. One that is used again meanwhile stays.
        Dialect::Postgres => {
            "WITH oldest AS MATERIALIZED (
                 SELECT org_id, event_id FROM (
                     SELECT org_id, event_id FROM dedup_keys WHERE received_at < $1
                     ORDER BY received_at LIMIT $2
                 ) picked ORDER BY org_id, event_id
             ), held AS MATERIALIZED (
                 SELECT k.place FROM oldest o
                 CROSS JOIN LATERAL (
                     SELECT ctid AS place FROM dedup_keys
                     WHERE org_id = o.org_id AND event_id = o.event_id AND received_at < $1
                     FOR UPDATE SKIP LOCKED
                 ) k
             )
             DELETE FROM dedup_keys WHERE ctid = ANY (ARRAY(SELECT place FROM held))"
        }
    }
}

fn failed(error: sqlx::Error) -> MigrateError {
    MigrateError::Step(error.into())
}
