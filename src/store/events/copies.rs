//! Counts copies: events that were dropped because another event has their dedup id.
//!
//! Their senders were answered before anybody knew. The counts tell them afterwards, with the event that was kept, and
//! last as long as its dedup key. Nothing depends on them: they are written after the batch, and a crash between the
//! two loses those of a batch.

use std::sync::Arc;

use crate::domain::Event;
use crate::store::engine::{Dialect, Engine, args};
use crate::store::{Result, Store};

/// What became of events that were accepted with the dedup id of a stored one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Dropped as duplicates.
    pub duplicates: u64,
    /// Those of them whose content was another one.
    pub conflicts: u64,
}

/// Adds to the counts the copies in a table of values: organisation, id, time of acceptance and content hash. The event
/// that holds the key has its own time of acceptance, so that it is no copy of itself.
const ADD: &str = "UPDATE dedup_keys SET duplicates = coalesce(duplicates, 0) + c.copies,
                                         conflicts = coalesce(conflicts, 0) + c.differing
                   FROM (SELECT k.org_id, k.event_id, count(*) AS copies,
                                sum(CASE WHEN k.content_hash <> v.column4 THEN 1 ELSE 0 END) AS differing
                         FROM ";
const TO_THEIR_KEYS: &str = " JOIN dedup_keys k ON k.org_id = v.column1 AND k.event_id = v.column2
                          AND k.received_at <> v.column3
      GROUP BY k.org_id, k.event_id) c
  WHERE dedup_keys.org_id = c.org_id AND dedup_keys.event_id = c.event_id";

impl Store {
    /// The copies that were dropped in favour of an event; `None` if it has no dedup id, or its key has expired.
    pub async fn copies(&self, event: &Event) -> Result<Option<Copies>> {
        let sql = "SELECT duplicates, conflicts FROM dedup_keys
                   WHERE org_id = $1 AND event_id = $2 AND received_at = $3";
        let key = args![event.org_id, event.id, event.received_at];
        let read = self.engine.find(sql, key, |row| {
            let (duplicates, conflicts) = (row.get_opt("duplicates")?, row.get_opt("conflicts")?);
            Ok(Copies {
                duplicates: duplicates.unwrap_or_default(),
                conflicts: conflicts.unwrap_or_default(),
            })
        });
        read.await
    }
}

/// Counts the copies among the events of a batch that was stored.
pub(super) async fn count(engine: &Engine, events: &[Arc<Event>]) -> Result<()> {
    let mut keyed: Vec<&Event> =
        events.iter().map(Arc::as_ref).filter(|event| event.dedup_id.is_some()).collect();
    keyed.sort_unstable_by_key(|event| (event.org_id, event.id));
    let mut tx = engine.begin().await?;
    if engine.dialect() == Dialect::Postgres {
        // In the order of batches, which lock the same rows.
        let sql = "SELECT 1 AS one FROM dedup_keys k
                   JOIN unnest($1::uuid[], $2::uuid[]) AS v (org_id, event_id)
                     ON v.org_id = k.org_id AND v.event_id = k.event_id
                   ORDER BY k.org_id, k.event_id FOR UPDATE OF k";
        let orgs: Vec<_> = keyed.iter().map(|event| event.org_id.uuid()).collect();
        let ids: Vec<_> = keyed.iter().map(|event| event.id.uuid()).collect();
        tx.all(sql, args![orgs, ids]).await?;
    }
    let row =
        |event: &&Event| args![event.org_id, event.id, event.received_at, event.content_hash()];
    tx.execute_values(ADD, keyed.iter().map(row).collect(), TO_THEIR_KEYS).await?;
    tx.commit().await
}
