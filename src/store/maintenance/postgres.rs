//! Migrates and maintains a PostgreSQL database.

use std::time::Duration;

use sqlx::migrate::Migrate;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{Date, OffsetDateTime};

use super::{MigrateError, failed};
use crate::domain::Timestamp;
use crate::store::MigrationStatus;
use crate::store::engine::{PgSession, PostgresEngine};
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
/// The one that keeps them from migrating at the same time through a pooler.
const MIGRATION_LOCK: i64 = PARTITION_LOCK + 1;

pub(super) async fn migrate_up(engine: &PostgresEngine) -> Result<usize, MigrateError> {
    let Some(options) = engine.session_options() else {
        return migrate_up_in_one_transaction(engine).await;
    };
    let mut connection = migrating(&options).await.map_err(failed)?;
    let before = applied(&mut connection).await.map_err(failed)?.len();
    migrations::migrator(migrations::POSTGRES).run_direct(None, &mut connection, false).await?;
    let after = applied(&mut connection).await.map_err(failed)?.len();
    connection.close().await.map_err(failed)?;
    Ok(after.saturating_sub(before))
}

pub(super) async fn migrate_down(engine: &PostgresEngine) -> Result<Option<i64>, MigrateError> {
    let Some(options) = engine.session_options() else {
        return migrate_down_in_one_transaction(engine).await;
    };
    let mut connection = migrating(&options).await.map_err(failed)?;
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
    let mut session = engine.for_statement().await?;
    let applied = applied(session.connection()).await.map_err(failed)?;
    session.commit().await?;
    Ok(migrations::status(migrations::POSTGRES, &applied))
}

/// What migrations need: time, and no notices.
const MIGRATION_SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0;
     SET client_min_messages = warning; SET standard_conforming_strings = on;
     SET default_transaction_isolation = 'read committed'; SET idle_session_timeout = 0";

/// Migrates through a pooler, where only a transaction is one session from its begin to its end: all steps are one
/// transaction, under a lock that ends with it. Statements that sqlx has prepared under names are given up.
async fn migrate_up_in_one_transaction(engine: &PostgresEngine) -> Result<usize, MigrateError> {
    let mut session = migrating_in_transaction(engine).await?;
    let connection = session.connection();
    let before = applied(connection).await.map_err(failed)?.len();
    let mut migrator = migrations::migrator(migrations::POSTGRES);
    migrator.set_locking(false).run_direct(None, connection, false).await?;
    let after = applied(connection).await.map_err(failed)?.len();
    sqlx::raw_sql("DEALLOCATE ALL").execute(connection).await.map_err(failed)?;
    session.commit().await?;
    Ok(after.saturating_sub(before))
}

async fn migrate_down_in_one_transaction(
    engine: &PostgresEngine,
) -> Result<Option<i64>, MigrateError> {
    let mut session = migrating_in_transaction(engine).await?;
    let connection = session.connection();
    let newest = applied(connection).await.map_err(failed)?.last().copied();
    if let Some(newest) = newest {
        let down = migrations::down(migrations::POSTGRES, newest)?;
        connection.revert(migrations::TABLE, &down).await?;
    }
    sqlx::raw_sql("DEALLOCATE ALL").execute(connection).await.map_err(failed)?;
    session.commit().await?;
    Ok(newest)
}

async fn migrating_in_transaction(engine: &PostgresEngine) -> Result<PgSession, MigrateError> {
    let mut session = engine.begin().await?;
    let begin = format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; DEALLOCATE ALL;
         SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"
    );
    let begin = sqlx::raw_sql(AssertSqlSafe(begin));
    begin.execute(session.connection()).await.map_err(failed)?;
    Ok(session)
}

/// A connection of its own that holds sqlx's migration lock, which the server releases when
/// the connection ends, however it ends. Waiting for another instance's migration has no limit.
async fn migrating(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::raw_sql(MIGRATION_SETTINGS).execute(&mut connection).await?;
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
    let mut tx = engine.begin().await?;
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(&name)
        .persistent(tx.is_prepared())
        .fetch_one(tx.connection())
        .await?;
    if exists {
        return tx.rollback().await;
    }
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(PARTITION_LOCK)
        .persistent(tx.is_prepared())
        .execute(tx.connection())
        .await?;
    // No row may come into the default partition between the check and the creation. Whoever comes while this waits
    // for the lock waits behind it, so not for long: a dump may hold the table for hours.
    let lock = format!(
        "SET LOCAL lock_timeout = '{}ms'; LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE",
        lock_timeout.as_millis()
    );
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(tx.connection()).await?;
    let taken: bool = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT EXISTS (SELECT 1 FROM {table}_default
                        WHERE {column} >= $1::date AND {column} < $2::date)"
    )))
    .bind(day)
    .bind(next_day)
    .persistent(false)
    .fetch_one(tx.connection())
    .await?;
    if taken {
        return Ok(());
    }
    sqlx::query(AssertSqlSafe(format!(
        "CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table}
         FOR VALUES FROM ('{day} 00:00+00') TO ('{next_day} 00:00+00')"
    )))
    .persistent(false)
    .execute(tx.connection())
    .await?;
    tx.commit().await
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
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
        .persistent(false)
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
