//! Schema and upkeep.

use sqlx::migrate::Migrate;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{Date, OffsetDateTime};

use super::{PostgresEngine, moment};
use crate::domain::Timestamp;
use crate::store::{
    DEDUP_KEYS_KEPT_LONGER, DEDUP_KEYS_PER_STEP, MigrateError, MigrationStatus, StoreError,
    migrations,
};

/// The partitioned tables, and the column each is partitioned by.
const PARTITIONED: [(&str, &str); 3] = [
    ("events", "received_at"),
    ("deliveries", "event_received_at"),
    ("delivery_attempts", "event_received_at"),
];

/// Days after today that have partitions: upkeep may be missed for a week.
const DAYS_AHEAD: usize = 7;

/// The advisory lock that keeps instances from making partitions at the same time: "hookgate" in ASCII.
const PARTITION_LOCK: i64 = 0x686f_6f6b_6761_7465;

impl PostgresEngine {
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM orgs LIMIT 1").fetch_optional(&self.pool).await?;
        Ok(())
    }

    pub(crate) async fn migrate_up(&self) -> Result<usize, MigrateError> {
        let mut connection = self.migrating().await.map_err(failed)?;
        let before = applied(&mut connection).await.map_err(failed)?.len();
        migrations::migrator(migrations::POSTGRES).run_direct(None, &mut connection, false).await?;
        let after = applied(&mut connection).await.map_err(failed)?.len();
        connection.close().await.map_err(failed)?;
        Ok(after.saturating_sub(before))
    }

    pub(crate) async fn migrate_down(&self) -> Result<Option<i64>, MigrateError> {
        let mut connection = self.migrating().await.map_err(failed)?;
        let applied = applied(&mut connection).await.map_err(failed)?;
        let Some(newest) = applied.last().copied() else { return Ok(None) };
        let way_back = migrations::way_back(migrations::POSTGRES, newest)?;
        connection.revert(migrations::TABLE, &way_back).await?;
        connection.close().await.map_err(failed)?;
        Ok(Some(newest))
    }

    pub(crate) async fn migration_status(&self) -> Result<Vec<MigrationStatus>, MigrateError> {
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        let applied = applied(&mut connection).await.map_err(failed)?;
        Ok(migrations::status(migrations::POSTGRES, &applied))
    }

    pub(crate) async fn maintain_across_orgs(&self, now: Timestamp) -> Result<(), StoreError> {
        for (table, column) in PARTITIONED {
            self.make_partitions(table, column, now).await?;
        }
        self.forget_dedup_keys(now).await
    }

    /// The server makes its own.
    pub(crate) async fn checkpoint(&self) -> Result<(), StoreError> {
        Ok(())
    }

    pub(crate) async fn oldest_due_across_orgs(
        &self,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let oldest: Option<OffsetDateTime> = sqlx::query_scalar(
            "SELECT due_at FROM deliveries
             WHERE finished_at IS NULL AND NOT ordered AND due_at <= $1
             ORDER BY due_at LIMIT 1",
        )
        .bind(moment(now))
        .fetch_optional(&self.pool)
        .await?;
        Ok(oldest.map(Timestamp::from))
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

impl PostgresEngine {
    /// A connection of its own that holds sqlx's migration lock, which the server takes back when
    /// the connection ends, however it ends. Waiting for another instance's migration has no limit.
    pub(crate) async fn migrating(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0")
            .execute(&mut connection)
            .await?;
        Migrate::lock(&mut connection).await.map_err(|error| sqlx::Error::Migrate(error.into()))?;
        Ok(connection)
    }

    pub(crate) async fn make_partitions(
        &self,
        table: &str,
        column: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for day in days_from(now) {
            let Some(next_day) = day.next_day() else { return Ok(()) };
            let name = partition_name(table, day);
            if self.table_exists(&name).await? {
                continue;
            }
            let mut tx = self.pool.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(PARTITION_LOCK)
                .execute(&mut *tx)
                .await?;
            // Nothing may slip into the default partition between the look and the making. The
            // batches that wait for this lock wait for all who hold the table now, so not for long.
            let lock = format!(
                "SET LOCAL lock_timeout = '2s'; LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE"
            );
            sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *tx).await?;
            let taken: bool = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT EXISTS (SELECT 1 FROM {table}_default
                                WHERE {column} >= $1::date AND {column} < $2::date)"
            )))
            .bind(day)
            .bind(next_day)
            .fetch_one(&mut *tx)
            .await?;
            if taken {
                continue;
            }
            sqlx::query(AssertSqlSafe(format!(
                "CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table}
                 FOR VALUES FROM ('{day} 00:00+00') TO ('{next_day} 00:00+00')"
            )))
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
        }
        Ok(())
    }

    pub(crate) async fn table_exists(&self, name: &str) -> Result<bool, StoreError> {
        let exists = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        Ok(exists)
    }

    pub(crate) async fn forget_dedup_keys(&self, now: Timestamp) -> Result<(), StoreError> {
        let oldest_kept = now.minus(self.dedup_window).minus(DEDUP_KEYS_KEPT_LONGER);
        loop {
            // In key order, as batches take them.
            let done = sqlx::query(
                "DELETE FROM dedup_keys k
                 USING (SELECT org_id, event_id FROM dedup_keys WHERE received_at < $1
                        ORDER BY org_id, event_id LIMIT $2
                        FOR UPDATE SKIP LOCKED) old
                 WHERE k.org_id = old.org_id AND k.event_id = old.event_id",
            )
            .bind(moment(oldest_kept))
            .bind(DEDUP_KEYS_PER_STEP)
            .execute(&self.pool)
            .await?;
            if done.rows_affected() < DEDUP_KEYS_PER_STEP.unsigned_abs() {
                return Ok(());
            }
        }
    }
}

fn days_from(now: Timestamp) -> impl Iterator<Item = Date> {
    let today = OffsetDateTime::from(now).date();
    std::iter::successors(Some(today), |day| day.next_day()).take(1 + DAYS_AHEAD)
}

/// `events_p20260131`.
fn partition_name(table: &str, day: Date) -> String {
    format!("{table}_p{}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
}

/// The versions that were applied, oldest first; none in a database that was never migrated.
async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(migrations::TABLE)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
        .fetch_all(connection)
        .await
}

fn failed(error: sqlx::Error) -> MigrateError {
    MigrateError(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_by_their_day() {
        let now: Timestamp = "2026-12-30T23:59:59Z".parse().unwrap();
        let names: Vec<String> = days_from(now).map(|day| partition_name("events", day)).collect();
        assert_eq!(names.len(), 8);
        assert_eq!(names[0], "events_p20261230");
        assert_eq!(names[2], "events_p20270101");
    }
}
