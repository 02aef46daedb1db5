//! Erases what the rollups hold of an account, or of an event.
//!
//! Whoever does it holds folding, with every delta folded, and changes the rows in the transaction that removes what they
//! count: each event is taken back once.

use std::collections::BTreeMap;

use super::DELTAS_READ_MAX;
use super::delta::{CountedEvent, DeltaRecord, EventRecord, read_records};
use super::event_hour::EventHour;
use super::fold;
use super::folded::{ALL_ACCOUNTS, ALL_ORGS, AccountHour, Activity};
use super::type_outcomes::TypeOutcomes;
use crate::domain::{OrgId, Timestamp};
use crate::store::engine::{Row, Tx, args};
use crate::store::{Result, Store};

/// Rows that a step deletes at most.
const DELETED_PER_STEP: u64 = 2_000;
/// Events of an erased account that are counted again at most: those of the moments from its erasure until here.
const RECOUNTED_MAX: usize = 10_000;

/// What a step of an erasure did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) enum RollupErasure {
    /// There is more to delete, or a server folds deltas right now: go on in a moment.
    Continues,
    /// Nothing of the account is left, but for what was accepted later.
    Done,
}

/// Erases some of what the rollups hold of an account: its hours with their users, and its row. Deltas, which may name it,
/// are folded first. The sums of the organisation keep counting its events, without its name. Repeat it until it is done;
/// events that were accepted after `until` are counted then.
pub(in crate::store) async fn erase_some(
    store: &Store,
    tx: &mut Tx<'_>,
    org: OrgId,
    account: &str,
    until: Timestamp,
) -> Result<RollupErasure> {
    if account == ALL_ACCOUNTS {
        return Ok(RollupErasure::Done);
    }
    if !fold_all(store, tx, org).await? {
        return Ok(RollupErasure::Continues);
    }
    let hours = "DELETE FROM rollup_hours WHERE org_id = $1 AND account_id = $2 AND hour IN
                         (SELECT hour FROM rollup_hours WHERE org_id = $1 AND account_id = $2
                          ORDER BY hour LIMIT $3)";
    if tx.execute(hours, args![org, account, DELETED_PER_STEP]).await? == DELETED_PER_STEP {
        return Ok(RollupErasure::Continues);
    }
    let row = "DELETE FROM accounts WHERE org_id = $1 AND account_id = $2";
    tx.execute(row, args![org, account]).await?;
    let is_counted = count_later(store, tx, (org, account), until).await?;
    Ok(if is_counted { RollupErasure::Done } else { RollupErasure::Continues })
}

/// Erases some of what was counted of an account while its events were erased: outcomes of their deliveries. Where it has
/// events again they stay, since outcomes of those may be among them.
pub(in crate::store) async fn erase_outcomes(
    store: &Store,
    tx: &mut Tx<'_>,
    org: OrgId,
    account: &str,
) -> Result<RollupErasure> {
    if account == ALL_ACCOUNTS {
        return Ok(RollupErasure::Done);
    }
    if !fold_all(store, tx, org).await? {
        return Ok(RollupErasure::Continues);
    }
    let of_account = "org_id = $1 AND account_id = $2";
    let sql = format!(
        "DELETE FROM rollup_hours WHERE {of_account} AND hour IN
             (SELECT hour FROM rollup_hours WHERE {of_account} AND events = 0
              ORDER BY hour LIMIT $3)
           AND NOT EXISTS (SELECT 1 FROM rollup_hours WHERE {of_account} AND events > 0)"
    );
    let is_done = tx.execute(sql, args![org, account, DELETED_PER_STEP]).await? < DELETED_PER_STEP;
    Ok(if is_done { RollupErasure::Done } else { RollupErasure::Continues })
}

/// Folds some deltas of an organisation, and keeps others from folding until the end of the transaction. `true` when none
/// is left.
pub(in crate::store) async fn fold_all(store: &Store, tx: &mut Tx<'_>, org: OrgId) -> Result<bool> {
    Ok(fold::hold(tx).await? && fold::fold_all_of(store, tx, org).await?)
}

/// Counts those of an account's events that were accepted after its erasure, of which no row is left. What was stored
/// since the deltas were folded counts when its delta is: one statement reads both, so that it is known which that is.
/// `false` when too many deltas have come meanwhile.
async fn count_later(
    store: &Store,
    tx: &mut Tx<'_>,
    (org, account): (OrgId, &str),
    until: Timestamp,
) -> Result<bool> {
    let sql = format!(
        "SELECT e.*, CAST(NULL AS bytea) AS body
         FROM (SELECT {} FROM events
               WHERE org_id = $1 AND account_id = $2 AND received_at > $3
               ORDER BY received_at, id LIMIT $4) e
         UNION ALL
         SELECT NULL, NULL, NULL, NULL, NULL, NULL, body
         FROM (SELECT body FROM rollup_deltas WHERE org_id = $1 ORDER BY id LIMIT $5) d",
        CountedEvent::COLUMNS
    );
    let args = args![org, account, until, RECOUNTED_MAX, DELTAS_READ_MAX];
    let (mut hours, mut seen) = (BTreeMap::<(OrgId, String, i64), EventHour>::new(), None);
    let (mut events, mut unfolded) = (0, Vec::new());
    for row in tx.all(sql, args).await? {
        if let Some(body) = row.get_opt::<Vec<u8>>("body")? {
            unfolded.push(body);
            continue;
        }
        events += 1;
        let event = CountedEvent::read(&row)?;
        let record = event.record(store.event_retention);
        let ((hour, minute), count) = (record.hour_and_minute(), record.count());
        let of_hour = hours.entry((org, account.to_owned(), hour)).or_default();
        of_hour.count(minute, record.event_type, record.user_id, count);
        let once = Activity::once(&record);
        seen = Some(seen.map_or(once, |mut seen: Activity| {
            seen.merge(&once);
            seen
        }));
    }
    if unfolded.len() >= DELTAS_READ_MAX {
        return Ok(false);
    }
    if events == RECOUNTED_MAX {
        tracing::warn!(%org, events, "further events of an erased account are not counted for it");
    }
    for body in unfolded {
        read_records(&body, |record| {
            let DeltaRecord::Event(event) = record else { return };
            if event.account_id == Some(account) {
                leave(&mut hours, &mut seen, (org, account), &event);
            }
        })?;
    }
    hours.retain(|_, hour| hour.total().events > 0);
    let seen = seen.filter(|seen| seen.count.events > 0);
    let hours = hours
        .into_iter()
        .map(|(key, events)| (key, AccountHour { events, outcomes: TypeOutcomes::default() }));
    fold::add_hours(tx, hours.collect()).await?;
    let accounts = seen.into_iter().map(|seen| ((org, account.to_owned()), seen)).collect();
    fold::add_accounts(tx, &accounts).await?;
    Ok(true)
}

/// Leaves an event out whose delta is not folded yet.
fn leave(
    hours: &mut BTreeMap<(OrgId, String, i64), EventHour>,
    seen: &mut Option<Activity>,
    (org, account): (OrgId, &str),
    event: &EventRecord<'_>,
) {
    let ((hour, minute), count) = (event.hour_and_minute(), event.count());
    let of_hour = hours.get_mut(&(org, account.to_owned(), hour));
    let is_there =
        of_hour.is_some_and(|hour| hour.take(minute, event.event_type, event.user_id, count));
    if let Some(seen) = seen.as_mut().filter(|_| is_there) {
        seen.count.events = seen.count.events.saturating_sub(count.events);
        seen.count.bytes = seen.count.bytes.saturating_sub(count.bytes);
    }
}

/// Takes an event back that is being deleted, from the hours of its account, of its organisation and of all, and from the
/// rows of its account and type. When those were seen first and last stays, and so does the usage of the month, which
/// is of what was accepted.
pub(in crate::store) async fn uncount(
    store: &Store,
    tx: &mut Tx<'_>,
    org: OrgId,
    event: &CountedEvent,
) -> Result<()> {
    let record = event.record(store.event_retention);
    let named = (record.event_type, None);
    if !take_from_hour(tx, (org, ALL_ACCOUNTS), &record, named).await? {
        return Ok(());
    }
    take_from_hour(tx, (ALL_ORGS, ALL_ACCOUNTS), &record, ("", None)).await?;
    if let Some(account) = record.account_id {
        let named = (record.event_type, record.user_id);
        take_from_hour(tx, (org, account), &record, named).await?;
        take_from_seen(tx, ("accounts", "account_id"), (org, account), record.bytes).await?;
    }
    let event_type = (org, record.event_type);
    take_from_seen(tx, ("event_types", "event_type"), event_type, record.bytes).await
}

/// Takes an event from an hour. `false` when the hour has none like it: it was never counted.
async fn take_from_hour(
    tx: &mut Tx<'_>,
    (org, account): (OrgId, &str),
    record: &EventRecord<'_>,
    (event_type, user): (&str, Option<&str>),
) -> Result<bool> {
    let (number, minute) = record.hour_and_minute();
    let sql = "SELECT totals, minutes FROM rollup_hours
               WHERE org_id = $1 AND account_id = $2 AND hour = $3";
    let read = |row: &Row| Ok((row.get("totals")?, row.get("minutes")?));
    let found: Option<(Vec<u8>, Vec<u8>)> = tx.find(sql, args![org, account, number], read).await?;
    // The counts of an hour may be older than they are kept.
    let Some((totals, minutes)) = found else { return Ok(true) };
    let mut hour = EventHour::decode(&totals, &minutes)?;
    if !hour.take(minute, event_type, user, record.count()) {
        return Ok(false);
    }
    let total = hour.total();
    if total.events == 0 {
        // One with outcomes stays: those may be of other events.
        let sql = "DELETE FROM rollup_hours WHERE org_id = $1 AND account_id = $2 AND hour = $3
                   AND outcome_totals IS NULL";
        if tx.execute(sql, args![org, account, number]).await? > 0 {
            return Ok(true);
        }
    }
    let (totals, minutes) = hour.encode()?;
    let sql = "UPDATE rollup_hours SET events = $4, bytes = $5, totals = $6, minutes = $7
               WHERE org_id = $1 AND account_id = $2 AND hour = $3";
    let (events, bytes) = (total.events, total.bytes);
    let args = args![org, account, number, events, bytes, totals.as_slice(), minutes.as_slice()];
    tx.execute(sql, args).await?;
    Ok(true)
}

/// Takes an event from the row of its account or type, which goes with the last one.
async fn take_from_seen(
    tx: &mut Tx<'_>,
    (table, key): (&'static str, &'static str),
    (org, name): (OrgId, &str),
    bytes: u64,
) -> Result<()> {
    let sql = format!("DELETE FROM {table} WHERE org_id = $1 AND {key} = $2 AND events <= 1");
    if tx.execute(sql, args![org, name]).await? > 0 {
        return Ok(());
    }
    let sql = format!(
        "UPDATE {table} SET events = events - 1,
                            bytes = CASE WHEN bytes > $3 THEN bytes - $3 ELSE 0 END
         WHERE org_id = $1 AND {key} = $2"
    );
    tx.execute(sql, args![org, name, bytes]).await?;
    Ok(())
}
