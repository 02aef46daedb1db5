//! The day partitions of PostgreSQL: they are made ahead, made when a row comes for a day that is missing, and dropped.
//!
//! Whoever makes or drops a day has the lock of this file and waits for the tables' locks for a short time only: all
//! who come meanwhile wait behind it, and a dump may hold the tables for hours.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgDatabaseError;
use time::format_description::well_known::Iso8601;
use time::{Date, OffsetDateTime};

use super::LOCK_TIMEOUT;
use crate::domain::Timestamp;
use crate::store::advisory_locks::PARTITIONS;
use crate::store::engine::{Engine, PgSession, PostgresEngine, answered};
use crate::store::{Result, Store, StoreError};

/// The partitioned tables, and the column each is partitioned by.
pub(super) const PARTITIONED: [(&str, &str); 3] = [
    ("events", "received_at"),
    ("deliveries", "created_at"),
    ("delivery_attempts", "delivery_created_at"),
];

/// Days after today that have partitions: maintenance may be missed for a week.
const DAYS_AHEAD: usize = 7;

/// Rows of a day that move from a default partition to one of its own, which the tables are locked for.
const MOVED_ROWS_MAX: i64 = 10_000;

/// Missing days that one call makes: as many as a batch may have, and a bound all the same.
const DAYS_MADE_MAX: usize = 512;

/// Creates the partitions of today and the coming days, and takes default partitions of earlier versions away once
/// their rows have moved.
pub(super) async fn create_partitions(
    engine: &PostgresEngine,
    now: Timestamp,
    lock_timeout: Duration,
) -> Result<()> {
    for table in PARTITIONED {
        for day in days_from(now) {
            create_partition(engine, table, day, lock_timeout).await?;
        }
    }
    for table in PARTITIONED {
        take_default_away(engine, table, lock_timeout).await?;
    }
    Ok(())
}

/// Makes a day unless it is there, or its rows are in a default partition and too many to move.
async fn create_partition(
    engine: &PostgresEngine,
    (table, column): (&str, &str),
    day: Date,
    lock_timeout: Duration,
) -> Result<()> {
    let Some(next_day) = day.next_day() else { return Ok(()) };
    let name = partition_name(table, day);
    let mut tx = engine.begin().await?;
    if exists(&mut tx, &name).await? {
        return tx.rollback().await;
    }
    lock(&mut tx, table, lock_timeout).await?;
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table}
         FOR VALUES FROM ('{day} 00:00+00') TO ('{next_day} 00:00+00')"
    );
    let default = format!("{table}_default");
    if !exists(&mut tx, &default).await? {
        run(&mut tx, create).await?;
        return tx.commit().await;
    }
    let of_day = format!("{column} >= '{day} 00:00+00' AND {column} < '{next_day} 00:00+00'");
    let count = format!(
        "SELECT count(*) FROM
             (SELECT 1 FROM {default} WHERE {of_day} LIMIT {}) d",
        MOVED_ROWS_MAX + 1
    );
    let rows: i64 = answered(
        tx.host(),
        sqlx::query_scalar(AssertSqlSafe(count)).persistent(false).fetch_one(tx.connection()?),
    )
    .await?;
    if rows > MOVED_ROWS_MAX {
        return tx.rollback().await;
    }
    run(
        &mut tx,
        format!(
            "CREATE TEMP TABLE hookgate_moved ON COMMIT DROP AS SELECT * FROM {default} WHERE {of_day};
             DELETE FROM {default} WHERE {of_day};
             {create};
             INSERT INTO {table} SELECT * FROM hookgate_moved"
        ),
    )
    .await?;
    tx.commit().await
}

/// Moves rows of a default partition, which an earlier version has left, to days of their own, the oldest first; and
/// drops it when none is left. A day with too many rows stays, until retention has deleted them.
async fn take_default_away(
    engine: &PostgresEngine,
    (table, column): (&str, &str),
    lock_timeout: Duration,
) -> Result<()> {
    let default = format!("{table}_default");
    let mut before = None;
    loop {
        let mut tx = engine.begin().await?;
        if !exists(&mut tx, &default).await? {
            return tx.rollback().await;
        }
        let oldest = format!("SELECT (min({column}) AT TIME ZONE 'UTC')::date FROM {default}");
        let oldest: Option<Date> = answered(
            tx.host(),
            sqlx::query_scalar(AssertSqlSafe(oldest)).persistent(false).fetch_one(tx.connection()?),
        )
        .await?;
        let Some(day) = oldest else {
            lock(&mut tx, table, lock_timeout).await?;
            run(&mut tx, format!("LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE")).await?;
            let is_empty = format!("SELECT NOT EXISTS (SELECT 1 FROM {default})");
            let is_empty: bool = answered(
                tx.host(),
                sqlx::query_scalar(AssertSqlSafe(is_empty))
                    .persistent(false)
                    .fetch_one(tx.connection()?),
            )
            .await?;
            if is_empty {
                run(&mut tx, format!("DROP TABLE {default}")).await?;
            }
            return tx.commit().await;
        };
        tx.rollback().await?;
        if before == Some(day) {
            return Ok(());
        }
        before = Some(day);
        create_partition(engine, (table, column), day, lock_timeout).await?;
    }
}

/// The days of a partitioned table that end by `until`, the oldest first.
pub(in crate::store) async fn days_before(
    engine: &PostgresEngine,
    table: &'static str,
    until: Timestamp,
) -> Result<Vec<Date>> {
    let mut session = engine.for_statement().await?;
    let sql = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = to_regclass($1)";
    let names: Vec<String> = answered(
        session.host(),
        sqlx::query_scalar(sql)
            .bind(table)
            .persistent(session.is_prepared())
            .fetch_all(session.connection()?),
    )
    .await?;
    session.commit().await?;
    let last = OffsetDateTime::from(until).date();
    let days: BTreeSet<Date> = names.iter().filter_map(|name| day_of(table, name)).collect();
    // The day that `until` is in has not ended by then.
    Ok(days.into_iter().filter(|day| *day < last).collect())
}

/// Begins a transaction that may drop days of a partitioned table. Until its end nobody changes an organisation, such as
/// how long it keeps its rows.
///
/// The lock on the table of organisations does not write to each of their rows, and lets events be stored. It comes before
/// that on the partitioned table, in the order of all locks; whoever changes an organisation after a day's rows gets
/// ahead, since this waits for `lock_timeout` only.
pub(in crate::store) async fn begin_dropping(
    engine: &PostgresEngine,
    table: &str,
    lock_timeout: Duration,
) -> Result<PgSession> {
    let mut tx = engine.begin().await?;
    hold_days(&mut tx, lock_timeout).await?;
    run(&mut tx, "LOCK TABLE orgs IN SHARE MODE".to_owned()).await?;
    lock_table(&mut tx, table).await?;
    Ok(tx)
}

/// Drops a day of a partitioned table, in a transaction that [`begin_dropping`] has begun.
pub(in crate::store) async fn drop_day(tx: &mut PgSession, table: &str, day: Date) -> Result<()> {
    run(tx, format!("DROP TABLE IF EXISTS {}", partition_name(table, day))).await
}

/// Makes the days that rows were refused for. A caller repeats its transaction with each that is made.
#[derive(Debug, Default)]
pub(in crate::store) struct MissingDays {
    made: usize,
}

impl MissingDays {
    /// Makes the day that a transaction failed for; `false` when it failed for another reason.
    pub(in crate::store) async fn make(
        &mut self,
        store: &Store,
        error: &StoreError,
    ) -> Result<bool> {
        let (Engine::Postgres(engine), Some((table, day))) = (&*store.engine, missing(error))
        else {
            return Ok(false);
        };
        // The text may be in the time zone of the session: the day that is meant is next to it then.
        for day in [day.previous_day(), Some(day), day.next_day()].into_iter().flatten() {
            // Boxed: it is rare, and its callers' futures are to stay small.
            Box::pin(create_partition(engine, table, day, LOCK_TIMEOUT)).await?;
        }
        self.made += 1;
        Ok(self.made <= DAYS_MADE_MAX)
    }

    /// Makes the days of events that are about to be stored, if a transaction failed for one of them.
    pub(in crate::store) async fn make_all(
        &mut self,
        store: &Store,
        error: &StoreError,
        received: impl Iterator<Item = Timestamp>,
    ) -> Result<bool> {
        let (Engine::Postgres(engine), Some((table, _))) = (&*store.engine, missing(error)) else {
            return Ok(false);
        };
        let days: BTreeSet<Date> = received.map(|at| OffsetDateTime::from(at).date()).collect();
        for day in days {
            // Boxed: it is rare, and its callers' futures are to stay small.
            Box::pin(create_partition(engine, table, day, LOCK_TIMEOUT)).await?;
        }
        self.made += 1;
        // Once for each table that a batch is stored in.
        Ok(self.made <= PARTITIONED.len())
    }
}

/// The table and the day that a row was refused for: an error of class 23514 that names no constraint.
fn missing(error: &StoreError) -> Option<((&'static str, &'static str), Date)> {
    let StoreError::Refused(sqlx::Error::Database(fault)) = error else { return None };
    let fault = fault.try_downcast_ref::<PgDatabaseError>()?;
    if fault.code() != "23514" || fault.constraint().is_some() {
        return None;
    }
    let (name, detail) = (fault.table()?, fault.detail()?);
    let table = PARTITIONED.into_iter().find(|(table, _)| *table == name)?;
    // "… (received_at) = (2026-01-31 12:00:00+00)."
    let (_, value) = detail.split_once(") = (")?;
    let day = Date::parse(value.get(..10)?, &Iso8601::DATE).ok()?;
    Some((table, day))
}

async fn exists(tx: &mut PgSession, name: &str) -> Result<bool> {
    let exists = answered(
        tx.host(),
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(name)
            .persistent(tx.is_prepared())
            .fetch_one(tx.connection()?),
    )
    .await?;
    Ok(exists)
}

/// Keeps other instances from making and dropping days, and locks a partitioned table.
async fn lock(tx: &mut PgSession, table: &str, lock_timeout: Duration) -> Result<()> {
    hold_days(tx, lock_timeout).await?;
    lock_table(tx, table).await
}

/// Keeps other instances from making and dropping days. Each lock from then on is waited for so long.
async fn hold_days(tx: &mut PgSession, lock_timeout: Duration) -> Result<()> {
    answered(
        tx.host(),
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(PARTITIONS)
            .persistent(tx.is_prepared())
            .execute(tx.connection()?),
    )
    .await?;
    run(tx, format!("SET LOCAL lock_timeout = '{}ms'", lock_timeout.as_millis())).await
}

/// Locks a partitioned table, without its days, against everybody.
async fn lock_table(tx: &mut PgSession, table: &str) -> Result<()> {
    run(tx, format!("LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")).await
}

async fn run(tx: &mut PgSession, sql: String) -> Result<()> {
    answered(tx.host(), sqlx::raw_sql(AssertSqlSafe(sql)).execute(tx.connection()?)).await?;
    Ok(())
}

fn days_from(now: Timestamp) -> impl Iterator<Item = Date> {
    let today = OffsetDateTime::from(now).date();
    std::iter::successors(Some(today), |day| day.next_day()).take(1 + DAYS_AHEAD)
}

/// `events_p20260131`.
pub(in crate::store) fn partition_name(table: &str, day: Date) -> String {
    format!("{table}_p{}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
}

/// The day in the name of a partition.
fn day_of(table: &str, name: &str) -> Option<Date> {
    let digits = name.strip_prefix(table)?.strip_prefix("_p")?;
    let (year, rest) = digits.split_at_checked(4)?;
    let (month, day) = rest.split_at_checked(2)?;
    let month = month.parse::<u8>().ok()?.try_into().ok()?;
    Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()
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
        let days = names.iter().map(|name| day_of("events", name).unwrap());
        assert!(days.eq(days_from(now)));
        for other in ["events_default", "events_p2026", "events_p20261301", "deliveries_p20260101"]
        {
            assert_eq!(day_of("events", other), None, "{other}");
        }
    }
}
