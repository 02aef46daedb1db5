//! Tombstones: what is not stored if it comes out of a journal.
//!
//! An organisation's row has until when its erasures reach. A batch whose events were all accepted later, which is
//! nearly every one, reads nothing else; the others look their events up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::json;

use crate::domain::{ErasureSubject, Event, EventId, OrgId, Timestamp};
use crate::store::Result;
use crate::store::engine::{Dialect, Engine, Row, Tx, args};

/// Rows that are deleted in one transaction.
const DELETED_PER_STEP: u64 = 1_000;

/// Writes a tombstone for events that were accepted until `until`. The organisation is locked.
pub(super) async fn write(
    tx: &mut Tx<'_>,
    org: OrgId,
    subject: &ErasureSubject,
    until: Timestamp,
) -> Result<()> {
    let subject = match subject {
        ErasureSubject::Event(event) => of_event(*event),
        ErasureSubject::Account(account) => of_account(account),
    };
    let sql = "INSERT INTO erasure_tombstones (org_id, subject, until) VALUES ($1, $2, $3)
               ON CONFLICT (org_id, subject) DO UPDATE SET until = excluded.until
               WHERE erasure_tombstones.until < excluded.until";
    tx.execute(sql, args![org, subject, until]).await?;
    let sql = "UPDATE orgs SET erased_until = $2
               WHERE id = $1 AND (erased_until IS NULL OR erased_until < $2)";
    tx.execute(sql, args![org, until]).await?;
    Ok(())
}

/// Whether an account's erasure covers an event of it that was accepted at `received_at`.
pub(super) async fn covers_account(
    tx: &mut Tx<'_>,
    org: OrgId,
    account: &str,
    received_at: Timestamp,
) -> Result<bool> {
    let sql = "SELECT 1 AS one FROM erasure_tombstones
               WHERE org_id = $1 AND subject = $2 AND until >= $3";
    Ok(tx.optional(sql, args![org, of_account(account), received_at]).await?.is_some())
}

/// Those of some events that were erased before they are stored. `reached` has the organisations whose erasures reach
/// their events.
pub(in crate::store) async fn erased(
    tx: &mut Tx<'_>,
    events: &[Arc<Event>],
    reached: &[OrgId],
) -> Result<HashSet<(EventId, Timestamp)>> {
    let mut erased = HashSet::new();
    for org in reached {
        let of_org: Vec<&Event> =
            events.iter().map(Arc::as_ref).filter(|event| event.org_id == *org).collect();
        let mut subjects: Vec<String> = of_org.iter().map(|event| of_event(event.id)).collect();
        let accounts: HashSet<&str> =
            of_org.iter().filter_map(|event| event.account_id.as_deref()).collect();
        subjects.extend(accounts.into_iter().map(of_account));
        let list = match tx.dialect() {
            Dialect::Sqlite => "(SELECT value FROM json_each($2))",
            Dialect::Postgres => "(SELECT jsonb_array_elements_text(CAST($2 AS text)::jsonb))",
        };
        let sql = format!(
            "SELECT subject, until FROM erasure_tombstones WHERE org_id = $1 AND subject IN {list}"
        );
        let read = |row: &Row| Ok((row.get("subject")?, row.get("until")?));
        let found = tx.list(sql, args![*org, json!(subjects).to_string()], read).await?;
        let until: HashMap<String, Timestamp> = found.into_iter().collect();
        let is_erased = |event: &&Event| {
            let holds = |subject: String| {
                until.get(&subject).is_some_and(|until| event.received_at <= *until)
            };
            holds(of_event(event.id))
                || event.account_id.as_deref().map(of_account).is_some_and(holds)
        };
        erased.extend(
            of_org.into_iter().filter(is_erased).map(|event| (event.id, event.received_at)),
        );
    }
    Ok(erased)
}

/// Deletes what is older than `before`, in steps.
pub(super) async fn delete(engine: &Engine, before: Timestamp) -> Result<()> {
    let tables = [
        ("erasures", "id", "finished_at < $1"),
        ("erasure_tombstones", "org_id, subject", "until < $1"),
    ];
    for (table, key, which) in tables {
        loop {
            let mut tx = engine.begin_long().await?;
            let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
            let sql = format!(
                "DELETE FROM {table} WHERE ({key}) IN
                     (SELECT {key} FROM {table} WHERE {which} LIMIT $2{lock})"
            );
            let deleted = tx.execute(sql, args![before, DELETED_PER_STEP]).await?;
            tx.commit().await?;
            if deleted < DELETED_PER_STEP {
                break;
            }
        }
    }
    // The latest of an organisation's tombstones: all of them are gone.
    let sql = "SELECT id FROM orgs WHERE erased_until < $1";
    let orgs: Vec<OrgId> = engine.list(sql, args![before], |row| row.get("id")).await?;
    for org in orgs {
        let mut tx = engine.begin().await?;
        let sql = "UPDATE orgs SET erased_until = NULL WHERE id = $1 AND erased_until < $2";
        tx.execute(sql, args![org, before]).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn of_event(event: EventId) -> String {
    format!("event:{event}")
}

fn of_account(account: &str) -> String {
    format!("account:{account}")
}
