//! Erases the rows of events: each event after its deliveries, pending ones included, with their attempts and dead letters,
//! and with its dedup key. Counts of a single event go in the same transaction.
//!
//! Redeliveries and dead letters may be kept for longer than their event. Those of a single event are found by its id;
//! those of an account's events are not, once the events, which have the account, are deleted.

use uuid::Uuid;

use super::{Erasure, ErasureSubject, tombstones};
use crate::domain::{EventId, OrgId, Timestamp};
use crate::store::engine::{Dialect, Row, Tx, args};
use crate::store::event_deliveries::{DeliveryOrigin, RowKeys, delete_by_key};
use crate::store::page::START_OF_TIME;
use crate::store::rollups::{CountedEvent, fold_all, uncount};
use crate::store::{Result, Store};

/// Events that a step erases at most.
const EVENTS_PER_STEP: usize = 64;
/// Deliveries that a step erases at most.
const DELIVERIES_PER_STEP: usize = 256;

/// What a step has erased.
#[derive(Clone, Copy, Default)]
pub(super) struct Erased {
    pub(super) events: u64,
    pub(super) deliveries: u64,
    pub(super) dead_letters: u64,
}

/// Erases some events, or some of their deliveries. `false` when none is left.
pub(super) async fn erase_events(
    store: &Store,
    tx: &mut Tx<'_>,
    erasure: &Erasure,
    erased: &mut Erased,
) -> Result<bool> {
    let org = erasure.org_id;
    if let ErasureSubject::Event(event) = &erasure.filter {
        erased.dead_letters += delete_dead_letters(tx, org, vec![event.uuid()]).await?;
    }
    for table in ["events", "held_events"] {
        if table == "held_events" && tx.dialect() == Dialect::Sqlite {
            continue;
        }
        let keys = keys_in(tx, table, erasure).await?;
        if keys.is_empty() {
            continue;
        }
        let keys = RowKeys::of(&keys);
        for deliveries in ["pending_deliveries", "deliveries"] {
            if let Some(gone) = erase_deliveries(tx, deliveries, org, &keys, erased).await? {
                erased.deliveries += gone;
                return Ok(true);
            }
        }
        let is_single = matches!(erasure.filter, ErasureSubject::Event(_));
        // What is folded counts, so that it can be taken back.
        if is_single && !fold_all(store, tx, org).await? {
            return Ok(true);
        }
        let sql = format!(
            "DELETE FROM dedup_keys WHERE org_id = $2 AND received_at <= $3 AND {}",
            tx.dialect().any("event_id", "$1")
        );
        tx.execute(sql, args![keys.ids.clone(), org, erasure.accepted_until]).await?;
        let sql = format!(
            "DELETE FROM {table} WHERE {} AND received_at BETWEEN $2 AND $3 AND {} = $4",
            tx.dialect().any("id", "$1"),
            tx.dialect().not_indexed("org_id")
        );
        let of_events = args![keys.ids.clone(), keys.oldest, keys.newest, org];
        let mut counted = Vec::new();
        if is_single {
            let sql = format!("{sql} RETURNING {}", CountedEvent::COLUMNS);
            counted = tx.list(sql, of_events.clone(), CountedEvent::read).await?;
            erased.events += counted.len() as u64;
        } else {
            erased.events += tx.execute(sql, of_events.clone()).await?;
        }
        if table == "events" && tx.dialect() == Dialect::Postgres {
            // A copy that is held already, since its day could not be dropped yet, is not counted beside its event. It goes
            // after the event, which retention locks while it makes a copy.
            let sql = format!(
                "DELETE FROM held_events WHERE {} AND received_at BETWEEN $2 AND $3 AND org_id = $4",
                tx.dialect().any("id", "$1"),
            );
            tx.execute(sql, of_events).await?;
        }
        for event in counted {
            uncount_one(store, tx, org, event).await?;
        }
        delete_by_key(tx, "payloads_in_use", ("received_at", "event_id"), org, &keys).await?;
        return Ok(true);
    }
    match &erasure.filter {
        ErasureSubject::Event(event) => erase_remains(tx, *event, erasure, erased).await,
        ErasureSubject::Account(_) => Ok(false),
    }
}

/// Erases some of what is left of an event that is gone itself: deliveries, and dead letters of deliveries that are gone.
/// `false` when nothing is left.
async fn erase_remains(
    tx: &mut Tx<'_>,
    event: EventId,
    erasure: &Erasure,
    erased: &mut Erased,
) -> Result<bool> {
    let (org, until) = (erasure.org_id, erasure.accepted_until);
    let accepted = event.minted_at().unwrap_or(START_OF_TIME);
    let keys = RowKeys {
        ids: vec![event.uuid()],
        times: vec![accepted.micros()],
        oldest: START_OF_TIME,
        newest: until,
    };
    for deliveries in ["pending_deliveries", "deliveries"] {
        if let Some(gone) = erase_deliveries(tx, deliveries, org, &keys, erased).await? {
            erased.deliveries += gone;
            return Ok(true);
        }
    }
    let sql = format!(
        "SELECT id FROM dead_letters WHERE event_id = $1 AND {} = $2 AND created_at <= $3 LIMIT $4",
        tx.dialect().not_indexed("org_id")
    );
    let args = args![event, org, until, DELIVERIES_PER_STEP];
    let letters: Vec<Uuid> = tx.list(sql, args, |row| row.get("id")).await?;
    erased.dead_letters += delete_dead_letters(tx, org, letters.clone()).await?;
    Ok(letters.len() == DELIVERIES_PER_STEP)
}

/// Takes an erased event from the counts; from those of its account only if its account is not erased, with its counts.
async fn uncount_one(
    store: &Store,
    tx: &mut Tx<'_>,
    org: OrgId,
    mut event: CountedEvent,
) -> Result<()> {
    if let Some(account) = &event.account_id
        && tombstones::covers_account(tx, org, account, event.received_at).await?
    {
        event.account_id = None;
    }
    uncount(store, tx, org, &event).await
}

/// The keys of some events that are to be erased.
async fn keys_in(
    tx: &mut Tx<'_>,
    table: &'static str,
    erasure: &Erasure,
) -> Result<Vec<(Timestamp, Uuid)>> {
    let key = |row: &Row| Ok((row.get("received_at")?, row.get("id")?));
    let Erasure { org_id, accepted_until, filter, .. } = erasure;
    match filter {
        ErasureSubject::Event(event) => {
            let org = tx.dialect().not_indexed("org_id");
            let sql = format!(
                "SELECT id, received_at FROM {table}
                 WHERE id = $1 AND {org} = $2 AND received_at <= $3 LIMIT $4"
            );
            tx.list(sql, args![*event, *org_id, *accepted_until, EVENTS_PER_STEP], key).await
        }
        ErasureSubject::Account(account) => {
            let sql = format!(
                "SELECT id, received_at FROM {table}
                 WHERE org_id = $2 AND account_id = $1 AND received_at <= $3
                 ORDER BY received_at, id LIMIT $4"
            );
            let args = args![account.as_str(), *org_id, *accepted_until, EVENTS_PER_STEP];
            tx.list(sql, args, key).await
        }
    }
}

/// Erases some deliveries of events, with their attempts and dead letters, and returns how many. `None` when there is
/// none. An attempt in flight completes, and its outcome finds no row.
async fn erase_deliveries(
    tx: &mut Tx<'_>,
    table: &'static str,
    org: OrgId,
    events: &RowKeys,
    erased: &mut Erased,
) -> Result<Option<u64>> {
    for origin in DeliveryOrigin::ALL {
        let found = origin.select(tx.dialect(), table, "d.created_at, d.id", "true");
        let sql = format!("{found} ORDER BY d.created_at, d.id LIMIT ${}", origin.parameters() + 1);
        let mut args = origin.args(org, events);
        args.push(DELIVERIES_PER_STEP.into());
        let read = |row: &Row| Ok((row.get("created_at")?, row.get("id")?));
        let keys: Vec<(Timestamp, Uuid)> = tx.list(sql, args, read).await?;
        if keys.is_empty() {
            continue;
        }
        let keys = RowKeys::of(&keys);
        lock(tx, table, org, &keys).await?;
        let sql = format!(
            "DELETE FROM delivery_attempts WHERE {} AND delivery_created_at BETWEEN $2 AND $3",
            tx.dialect().any("delivery_id", "$1")
        );
        tx.execute(sql, args![keys.ids.clone(), keys.oldest, keys.newest]).await?;
        let gone = delete_by_key(tx, table, ("created_at", "id"), org, &keys).await?;
        erased.dead_letters += delete_dead_letters(tx, org, keys.ids).await?;
        return Ok(Some(gone));
    }
    Ok(None)
}

/// Locks deliveries in the order of their keys. SQLite needs no lock.
async fn lock(tx: &mut Tx<'_>, table: &'static str, org: OrgId, keys: &RowKeys) -> Result<()> {
    let dialect = tx.dialect();
    if dialect == Dialect::Sqlite {
        return Ok(());
    }
    let sql = format!(
        "SELECT d.id FROM (SELECT * FROM ({}) k ORDER BY at, id) k CROSS JOIN LATERAL (
             SELECT d.id FROM {table} d
             WHERE d.org_id = $1 AND d.created_at = k.at AND d.id = k.id
               AND d.created_at BETWEEN $4 AND $5
             FOR UPDATE
         ) d",
        dialect.keys("$2", "$3")
    );
    let RowKeys { ids, times, oldest, newest } = keys.clone();
    tx.all(sql, args![org, ids, times, oldest, newest]).await?;
    Ok(())
}

/// Deletes dead letters by their ids.
pub(super) async fn delete_dead_letters(
    tx: &mut Tx<'_>,
    org: OrgId,
    ids: Vec<Uuid>,
) -> Result<u64> {
    if ids.is_empty() {
        return Ok(0);
    }
    let (lock, is_one) = (tx.dialect().lock(" FOR UPDATE"), tx.dialect().any("id", "$1"));
    let sql = format!(
        "DELETE FROM dead_letters WHERE id IN (
             SELECT id FROM dead_letters WHERE {is_one} ORDER BY id{lock}) AND {} = $2",
        tx.dialect().not_indexed("org_id")
    );
    tx.execute(sql, args![ids, org]).await
}
