//! Migrates and maintains a PostgreSQL database.

use std::time::Duration;

use sqlx::migrate::Migrate;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{Date, OffsetDateTime};

use super::{MigrateError, failed};
use crate::domain::Timestamp;
use crate::store::MigrationStatus;
use crate::store::engine::PostgresEngine;
use crate::store::{Result, migrations};

/// The partitioned tables, and the column each is partitioned by.
const PARTITIONED: [(&str, &str); 3] = [
    ("events", "received_at"),
    ("deliveries", "created_at"),
    ("delivery_attempts", "delivery_created_at"),
];

/// Days after today that have partitions: upkeep may be missed for a week.
const DAYS_AHEAD: usize = 7;

/// The advisory lock that keeps instances from making partitions at the same time: "hookgate" in ASCII.
const PARTITION_LOCK: i64 = 0x686f_6f6b_6761_7465;

pub(super) async fn migrate_up(engine: &PostgresEngine) -> Result<usize, MigrateError> {
    let mut connection = migrating(engine).await.map_err(failed)?;
    let before = applied(&mut connection).await.map_err(failed)?.len();
    migrations::migrator(migrations::POSTGRES).run_direct(None, &mut connection, false).await?;
    let after = applied(&mut connection).await.map_err(failed)?.len();
    connection.close().await.map_err(failed)?;
    Ok(after.saturating_sub(before))
}

pub(super) async fn migrate_down(engine: &PostgresEngine) -> Result<Option<i64>, MigrateError> {
    let mut connection = migrating(engine).await.map_err(failed)?;
    let applied = applied(&mut connection).await.map_err(failed)?;
    let Some(newest) = applied.last().copied() else { return Ok(None) };
    let down = migrations::down(migrations::POSTGRES, newest)?;
    connection.revert(migrations::TABLE, &down).await?;
    connection.close().await.map_err(failed)?;
    Ok(Some(newest))
}

pub(super) async fn migration_status(
    engine: &PostgresEngine,
) -> Result<Vec<MigrationStatus>, MigrateError> {
    let mut connection = engine.pool.acquire().await.map_err(failed)?;
    let applied = applied(&mut connection).await.map_err(failed)?;
    Ok(migrations::status(migrations::POSTGRES, &applied))
}

/// A connection of its own that holds sqlx's migration lock, which the server releases when
/// the connection ends, however it ends. Waiting for another instance's migration has no limit.
async fn migrating(engine: &PostgresEngine) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(&engine.pool.connect_options()).await?;
    sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0")
        .execute(&mut connection)
        .await?;
    Migrate::lock(&mut connection).await.map_err(|error| sqlx::Error::Migrate(error.into()))?;
    Ok(connection)
}

/// Creates the partitions of today and the coming days.
pub(super) async fn create_partitions(
    engine: &PostgresEngine,
    now: Timestamp,
    lock_timeout: Duration,
) -> Result<()> {
    for (table, column) in PARTITIONED {
        for day in days_from(now) {
            let Some(next_day) = day.next_day() else { break };
            create_partition(engine, (table, column), (day, next_day), lock_timeout).await?;
        }
    }
    Ok(())
}

async fn create_partition(
    engine: &PostgresEngine,
    (table, column): (&str, &str),
    (day, next_day): (Date, Date),
    lock_timeout: Duration,
) -> Result<()> {
    let name = partition_name(table, day);
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(&name)
        .fetch_one(&engine.pool)
        .await?;
    if exists {
        return Ok(());
    }
    let mut tx = engine.pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(PARTITION_LOCK).execute(&mut *tx).await?;
    // No row may come into the default partition between the check and the creation. Whoever comes while this waits
    // for the lock waits behind it, so not for long: a dump may hold the table for hours.
    let lock = format!(
        "SET LOCAL lock_timeout = '{}ms'; LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE",
        lock_timeout.as_millis()
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
        return Ok(());
    }
    sqlx::query(AssertSqlSafe(format!(
        "CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table}
         FOR VALUES FROM ('{day} 00:00+00') TO ('{next_day} 00:00+00')"
    )))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
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
