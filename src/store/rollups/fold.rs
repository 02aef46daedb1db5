//! Folds deltas into the rollups, a bounded number at a time.
//!
//! A step takes the oldest deltas, adds them up, adds the sums to the rows, and deletes the deltas, in one transaction:
//! whatever happens to it, each delta is counted once. One step runs at a time, whichever server does it, so a row
//! is read, added to and written back.
//!
//! Where a delta, or a row that it is added to, cannot be read, each organisation's deltas are folded in a step of their own:
//! those of the organisation at fault wait, and its counts are approximate meanwhile.

use std::collections::BTreeMap;

use super::delivery_hour::DeliveryHour;
use super::event_hour::EventHour;
use super::fold_steps::FoldStep;
use super::folded::{AccountHour, Activity, Additions, MonthCounts};
use super::type_outcomes::TypeOutcomes;
use crate::domain::{EndpointId, HOUR_MINUTES, Month, OrgId, minute_of};
use crate::store::advisory_locks::FOLDING;
use crate::store::engine::{Args, Dialect, ROWS_MAX, Row, Tx, Value, args};
use crate::store::{Result, Store, System};

/// Deltas that a step takes at most.
const DELTAS_PER_STEP: usize = 512;
/// A step changes so many times the rows on SQLite that other work there writes at once: it is rare, and most of its
/// cost is per step.
const SQLITE_ROWS_FACTOR: usize = 2;
/// Bytes of deltas that a step takes at most, unless the first alone has more: some thousand events.
const SQLITE_BYTES_PER_STEP: usize = 128 * 1024;
const POSTGRES_BYTES_PER_STEP: usize = 1024 * 1024;
/// Rows that a step changes at most on PostgreSQL, unless its first delta alone changes more.
const POSTGRES_ROWS_PER_STEP: usize = 4_096;
/// Rows of a statement, of which the last one of several has fewer.
const SIZES: [usize; 3] = [16, 64, ROWS_MAX];
/// Deltas whose sums are written.
struct Taken {
    ids: Vec<i64>,
    additions: Additions,
    more: bool,
}

impl System<'_> {
    /// Folds the oldest deltas, of all organisations or of one, in one transaction. `None` while another server folds.
    pub(super) async fn fold_of(self, org: Option<OrgId>) -> Result<Option<FoldStep>> {
        let mut tx = self.0.engine.begin_long().await?;
        if !hold(&mut tx).await? {
            return Ok(None);
        }
        match fold(self.0, &mut tx, org).await {
            Ok(step) => {
                tx.commit().await?;
                Ok(Some(step))
            }
            Err(error) => {
                // At once, so that the next one need not wait for it.
                tx.rollback().await?;
                Err(error)
            }
        }
    }
}

/// Folds the oldest deltas.
async fn fold(store: &Store, tx: &mut Tx<'_>, org: Option<OrgId>) -> Result<FoldStep> {
    let taken = take(store, tx, org).await?;
    if taken.ids.is_empty() {
        return Ok(FoldStep::default());
    }
    let step = FoldStep {
        deltas: taken.ids.len(),
        records: taken.additions.records,
        more: taken.more,
        unreadable: 0,
    };
    write(tx, taken).await?;
    Ok(step)
}

/// Keeps others from folding until the end of the transaction. `false` while one of them does. In SQLite nothing else
/// writes meanwhile.
pub(super) async fn hold(tx: &mut Tx<'_>) -> Result<bool> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(true);
    }
    let sql = "SELECT pg_try_advisory_xact_lock($1) AS held";
    tx.one(sql, args![FOLDING]).await?.get("held")
}

/// Folds the oldest deltas of one organisation, of which nobody else folds any meanwhile. `true` when none are left.
pub(super) async fn fold_all_of(store: &Store, tx: &mut Tx<'_>, org: OrgId) -> Result<bool> {
    let taken = take(store, tx, Some(org)).await?;
    let is_all = !taken.more;
    write(tx, taken).await?;
    Ok(is_all)
}

/// Takes the oldest deltas, of all organisations or of one, and adds them up. On PostgreSQL they are locked, so that
/// they cannot be deleted with their organisation meanwhile.
async fn take(store: &Store, tx: &mut Tx<'_>, org: Option<OrgId>) -> Result<Taken> {
    let (rows_max, bytes_max) = match tx.dialect() {
        Dialect::Sqlite => {
            (SQLITE_ROWS_FACTOR * store.engine.rows_at_once(), SQLITE_BYTES_PER_STEP)
        }
        Dialect::Postgres => (POSTGRES_ROWS_PER_STEP, POSTGRES_BYTES_PER_STEP),
    };
    let sizes = sizes(tx, org).await?;
    let mut taken = Taken { ids: Vec::new(), additions: Additions::default(), more: false };
    let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
    let sql = format!(
        "SELECT id, org_id, body, labels FROM rollup_deltas WHERE {} ORDER BY id{lock}",
        is_one(tx.dialect())
    );
    for row in tx.all(sql, args![fitting(&sizes, bytes_max)]).await? {
        if !taken.ids.is_empty() && taken.additions.rows() >= rows_max {
            break;
        }
        taken.ids.push(row.get("id")?);
        let (body, labels): (Vec<u8>, Option<Vec<u8>>) = (row.get("body")?, row.get_opt("labels")?);
        taken.additions.add(row.get("org_id")?, &body, labels.as_deref())?;
    }
    taken.more = taken.ids.len() < sizes.len() || sizes.len() == DELTAS_PER_STEP;
    Ok(taken)
}

/// The ids and sizes of the oldest deltas.
async fn sizes(tx: &mut Tx<'_>, org: Option<OrgId>) -> Result<Vec<(i64, usize)>> {
    let of_org = if org.is_some() { "WHERE org_id = $2" } else { "" };
    let sql = format!(
        "SELECT id, CAST(length(body) + coalesce(length(labels), 0) AS bigint) AS bytes
         FROM rollup_deltas {of_org}
         ORDER BY id LIMIT $1"
    );
    let mut args = args![DELTAS_PER_STEP];
    args.extend(org.map(Value::from));
    tx.list(sql, args, |row| Ok((row.get("id")?, row.get("bytes")?))).await
}

/// The first of these that have so many bytes together, and the first one in any case.
fn fitting(sizes: &[(i64, usize)], bytes_max: usize) -> Vec<i64> {
    let mut bytes_before = 0;
    let mut ids = Vec::new();
    for (id, bytes) in sizes {
        bytes_before += bytes;
        if !ids.is_empty() && bytes_before > bytes_max {
            break;
        }
        ids.push(*id);
    }
    ids
}

/// The condition that a delta is one of those in `$1`.
const fn is_one(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "id IN (SELECT value FROM json_each($1))",
        Dialect::Postgres => "id = ANY ($1)",
    }
}

/// Adds to the rows, in key order, and deletes the deltas.
async fn write(tx: &mut Tx<'_>, taken: Taken) -> Result<()> {
    let Taken { ids, additions, more: _ } = taken;
    let Additions { hours, accounts, event_types, deliveries, months, records: _ } = additions;
    add_hours(tx, hours).await?;
    add_accounts(tx, &accounts).await?;
    add_event_types(tx, &event_types).await?;
    add_deliveries(tx, deliveries).await?;
    add_months(tx, &months).await?;
    let sql = format!("DELETE FROM rollup_deltas WHERE {}", is_one(tx.dialect()));
    tx.execute(sql, args![ids]).await?;
    Ok(())
}

/// Rows and as many of NULLs, which no statement here takes notice of, that all statements have a few sizes: there is
/// room for so many prepared ones on the connection that stores events.
fn padded(mut rows: Vec<Args<'_>>) -> Vec<Args<'_>> {
    let last = rows.len() % ROWS_MAX;
    let size = SIZES.into_iter().find(|size| *size >= last).unwrap_or(ROWS_MAX);
    if let (Some(row), 1..) = (rows.first(), last) {
        let nulls: Vec<_> = row.iter().map(Value::null).collect();
        rows.extend(std::iter::repeat_n(nulls, size - last));
    }
    rows
}

pub(super) async fn add_hours(
    tx: &mut Tx<'_>,
    mut hours: BTreeMap<(OrgId, String, i64), AccountHour>,
) -> Result<()> {
    let keys: Vec<_> =
        hours.keys().map(|(org, account, hour)| args![*org, account, *hour]).collect();
    let found = tx.all_values(
        "SELECT h.org_id, h.account_id, h.hour, h.totals, h.minutes, h.outcome_totals,
                h.outcome_minutes
         FROM ",
        padded(keys),
        " CROSS JOIN rollup_hours h
         WHERE h.org_id = v.column1 AND h.account_id = v.column2 AND h.hour = v.column3",
    );
    for row in found.await? {
        let key = (row.get("org_id")?, row.get("account_id")?, row.get("hour")?);
        if let Some(hour) = hours.get_mut(&key) {
            hour.add_stored(&row)?;
        }
    }
    let encode = |(key, AccountHour { events, outcomes }): (_, AccountHour)| {
        Ok((key, events.total(), events.encode()?, outcomes.encode()?.unzip()))
    };
    let rows = hours.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
    let values = rows.iter().map(|((org, account, hour), total, events, outcomes)| {
        let (totals, minutes) = (events.0.as_slice(), events.1.as_slice());
        let mut row = args![*org, account, *hour, total.events, total.bytes, totals, minutes];
        row.extend(args![outcomes.0.as_deref(), outcomes.1.as_deref()]);
        row
    });
    tx.execute_values(
        "INSERT INTO rollup_hours
             (org_id, account_id, hour, events, bytes, totals, minutes, outcome_totals,
              outcome_minutes)
         SELECT * FROM ",
        padded(values.collect()),
        " WHERE v.column1 IS NOT NULL
          ON CONFLICT (org_id, account_id, hour) DO UPDATE
              SET events = excluded.events, bytes = excluded.bytes, totals = excluded.totals,
                  minutes = excluded.minutes,
                  outcome_totals =
                      coalesce(excluded.outcome_totals, rollup_hours.outcome_totals),
                  outcome_minutes =
                      coalesce(excluded.outcome_minutes, rollup_hours.outcome_minutes)",
    )
    .await?;
    Ok(())
}

impl AccountHour {
    /// Adds what its row has: outcomes only where some are to be added, since otherwise that part stays as it is.
    fn add_stored(&mut self, row: &Row) -> Result<()> {
        let (totals, minutes): (Vec<u8>, Vec<u8>) = (row.get("totals")?, row.get("minutes")?);
        let mut events = EventHour::decode(&totals, &minutes)?;
        events.merge(std::mem::take(&mut self.events));
        self.events = events;
        if self.outcomes.is_empty() {
            return Ok(());
        }
        let totals: Option<Vec<u8>> = row.get_opt("outcome_totals")?;
        let minutes: Option<Vec<u8>> = row.get_opt("outcome_minutes")?;
        if let (Some(totals), Some(minutes)) = (totals, minutes) {
            let mut outcomes = TypeOutcomes::decode(&totals, &minutes)?;
            outcomes.merge(&self.outcomes);
            self.outcomes = outcomes;
        }
        Ok(())
    }
}

pub(super) async fn add_accounts(
    tx: &mut Tx<'_>,
    accounts: &BTreeMap<(OrgId, String), Activity>,
) -> Result<()> {
    let values = accounts.iter().map(|((org, account), seen)| {
        let Activity { first_seen, last_seen, count } = *seen;
        let active_hour = minute_of(last_seen).div_euclid(HOUR_MINUTES);
        args![*org, account, first_seen, last_seen, active_hour, count.events, count.bytes]
    });
    tx.execute_values(
        "INSERT INTO accounts
             (org_id, account_id, first_seen, last_seen, active_hour, events, bytes)
         SELECT * FROM ",
        padded(values.collect()),
        &added_activity("accounts", "account_id", &["last_seen", "active_hour"]),
    )
    .await?;
    Ok(())
}

async fn add_event_types(
    tx: &mut Tx<'_>,
    event_types: &BTreeMap<(OrgId, String), Activity>,
) -> Result<()> {
    let values = event_types.iter().map(|((org, event_type), seen)| {
        let Activity { first_seen, last_seen, count } = *seen;
        args![*org, event_type, first_seen, last_seen, count.events, count.bytes]
    });
    tx.execute_values(
        "INSERT INTO event_types (org_id, event_type, first_seen, last_seen, events, bytes)
         SELECT * FROM ",
        padded(values.collect()),
        &added_activity("event_types", "event_type", &["last_seen"]),
    )
    .await?;
    Ok(())
}

/// The end of a statement that adds activity to the rows of a key: the earlier first time, the later ones of `latest`, and
/// the sums.
fn added_activity(table: &str, key: &str, latest: &[&str]) -> String {
    let chosen = |column: &str, by: &str| {
        format!(
            "{column} = CASE WHEN excluded.{column} {by} {table}.{column}
                 THEN excluded.{column} ELSE {table}.{column} END"
        )
    };
    let times = latest.iter().map(|column| chosen(column, ">"));
    let times: Vec<_> = std::iter::once(chosen("first_seen", "<")).chain(times).collect();
    format!(
        " WHERE v.column1 IS NOT NULL
          ON CONFLICT (org_id, {key}) DO UPDATE
              SET {}, events = {table}.events + excluded.events,
                  bytes = {table}.bytes + excluded.bytes",
        times.join(", ")
    )
}

async fn add_deliveries(
    tx: &mut Tx<'_>,
    mut deliveries: BTreeMap<(OrgId, EndpointId, i64), DeliveryHour>,
) -> Result<()> {
    let key = |(org, endpoint, hour): &(OrgId, EndpointId, i64)| args![*org, *endpoint, *hour];
    let keys: Vec<_> = deliveries.keys().map(key).collect();
    let found = tx.all_values(
        "SELECT h.org_id, h.endpoint_id, h.hour, h.totals, h.minutes FROM ",
        padded(keys),
        " CROSS JOIN rollup_delivery_hours h
         WHERE h.org_id = v.column1 AND h.endpoint_id = v.column2 AND h.hour = v.column3",
    );
    for row in found.await? {
        let key = (row.get("org_id")?, row.get("endpoint_id")?, row.get("hour")?);
        let (totals, minutes): (Vec<u8>, Vec<u8>) = (row.get("totals")?, row.get("minutes")?);
        if let Some(hour) = deliveries.get_mut(&key) {
            hour.merge(&DeliveryHour::decode(&totals, &minutes)?);
        }
    }
    let encode = |(key, hour): (_, DeliveryHour)| Ok((key, hour.encode()?));
    let rows = deliveries.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
    let values = rows.iter().map(|((org, endpoint, hour), (totals, minutes))| {
        args![*org, *endpoint, *hour, totals.as_slice(), minutes.as_slice()]
    });
    tx.execute_values(
        "INSERT INTO rollup_delivery_hours (org_id, endpoint_id, hour, totals, minutes)
         SELECT * FROM ",
        padded(values.collect()),
        " WHERE v.column1 IS NOT NULL
          ON CONFLICT (org_id, endpoint_id, hour) DO UPDATE
              SET totals = excluded.totals, minutes = excluded.minutes",
    )
    .await?;
    Ok(())
}

async fn add_months(tx: &mut Tx<'_>, months: &BTreeMap<(OrgId, Month), MonthCounts>) -> Result<()> {
    let values = months.iter().map(|((org, month), counts)| {
        let MonthCounts { count, delivered, dead } = *counts;
        args![*org, month.number(), count.events, count.bytes, delivered, dead]
    });
    tx.execute_values(
        "INSERT INTO rollup_months (org_id, month, events, bytes, delivered, dead)
         SELECT * FROM ",
        padded(values.collect()),
        " WHERE v.column1 IS NOT NULL
          ON CONFLICT (org_id, month) DO UPDATE
              SET events = rollup_months.events + excluded.events,
                  bytes = rollup_months.bytes + excluded.bytes,
                  delivered = rollup_months.delivered + excluded.delivered,
                  dead = rollup_months.dead + excluded.dead",
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_a_few_sizes() {
        for (rows, size) in [(0, 0), (1, 16), (16, 16), (17, 64), (65, 256), (256, 256), (257, 272)]
        {
            let rows = (0..rows).map(|row: i64| args![row, "text"]).collect();
            assert_eq!(padded(rows).len(), size);
        }
        assert!(matches!(padded(vec![args![1_i64]])[1][..], [Value::Int(None)]));
    }

    #[test]
    fn step_takes_what_fits_and_at_least_one_delta() {
        assert_eq!(fitting(&[(1, 50), (2, 50), (3, 1)], 100), [1, 2]);
        assert_eq!(fitting(&[(1, 500), (2, 1)], 100), [1]);
        assert!(fitting(&[], 100).is_empty());
    }
}
