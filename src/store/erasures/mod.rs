//! Erasures: removing an event, or every event of an account, for good.
//!
//! # Operation
//! A request is a row of `erasures` with its progress, and a tombstone. Steps, each a transaction, remove what the store
//! has (`steps`); they continue after a crash, and any server may do the next. The tombstone keeps out what the
//! store does not have yet, or would get again: records that wait in a journal, and those that `hookgate journal replay`
//! reads (`tombstones`).
//!
//! **Invariant:** once a request is committed, no transaction stores an event that it covers: the request waits for the
//! batches that are storing events of the organisation, and every later one reads how far erasures reach.

mod audit_records;
mod event_rows;
mod steps;
mod tombstones;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::columns::{Columns, columns};
use super::engine::{Row, Tx, args};
use super::{AuditRecord, Result, Store, StoreError, System, audit, orgs};
use crate::domain::{
    Actor, Erasure, ErasureId, ErasureStatus, ErasureSubject, Event, EventId, OrgId, Page,
    PageRequest, Timestamp,
};

pub use steps::{ErasureStep, QuarantinedRecord};
pub(super) use tombstones::erased;

/// How far another server's clock may be ahead for an event that it has accepted to be erased.
const CLOCK_AHEAD_MAX: Duration = Duration::from_hours(24);

/// The columns that [`read`] reads.
const COLUMNS: Columns<11> = columns! {
    id org_id event_id account_id until status events deliveries dead_letters created_at finished_at
};

fn read(row: &Row) -> Result<Erasure> {
    let filter = match (row.get_opt("event_id")?, row.get_opt("account_id")?) {
        (Some(event), None) => ErasureSubject::Event(event),
        (None, Some(account)) => ErasureSubject::Account(account),
        _ => return Err(StoreError::Corrupt("an erasure of nothing".to_owned())),
    };
    Ok(Erasure {
        id: row.get("id")?,
        org_id: row.get("org_id")?,
        filter,
        accepted_until: row.get("until")?,
        status: row.parse("status")?,
        events: row.get("events")?,
        deliveries: row.get("deliveries")?,
        dead_letters: row.get("dead_letters")?,
        created_at: row.get("created_at")?,
        finished_at: row.get_opt("finished_at")?,
    })
}

impl Store {
    /// Requests that an event, or an account's events, accepted until `now`, are erased. From then on none of them is
    /// stored. `None` when there is no such organisation, or it is being deleted.
    pub async fn insert_erasure(
        &self,
        org: OrgId,
        filter: &ErasureSubject,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Erasure>> {
        let until = self.erased_until(org, filter, now).await?;
        let mut tx = self.engine.begin().await?;
        // Waits for every batch that is storing events of it, each of which holds FOR KEY SHARE.
        if let Tx::Postgres(_) = tx {
            tx.execute("SELECT 1 FROM orgs WHERE id = $1 FOR UPDATE", args![org]).await?;
        }
        if !orgs::hold(&mut tx, org).await? {
            return Ok(None);
        }
        tombstones::write(&mut tx, org, filter, until).await?;
        let (event_id, account_id) = match filter {
            ErasureSubject::Event(event) => (Some(*event), None),
            ErasureSubject::Account(account) => (None, Some(account.as_str())),
        };
        let erasure = Erasure {
            id: ErasureId::mint(now),
            org_id: org,
            filter: filter.clone(),
            accepted_until: until,
            status: ErasureStatus::Running,
            events: 0,
            deliveries: 0,
            dead_letters: 0,
            created_at: now,
            finished_at: None,
        };
        let sql = "INSERT INTO erasures
                       (id, org_id, event_id, account_id, until, created_at, stepped_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $6)";
        tx.execute(sql, args![erasure.id, org, event_id, account_id, until, now]).await?;
        audit::commit(tx, &AuditRecord::erasure_requested(&erasure), by, now).await?;
        Ok(Some(erasure))
    }

    /// The acceptance time up to which events are erased: now, or that of an event that is stored, or whose id tells it. A
    /// server whose clock is ahead, by a day at most, may have accepted it later than now.
    async fn erased_until(
        &self,
        org: OrgId,
        filter: &ErasureSubject,
        now: Timestamp,
    ) -> Result<Timestamp> {
        let ErasureSubject::Event(event) = filter else { return Ok(now) };
        let accepted = match event.minted_at() {
            Some(at) => Some(at.plus(Duration::from_millis(1))),
            None => self.events_received_at(org, *event, 1).await?.first().copied(),
        };
        Ok(accepted.map_or(now, |at| at.clamp(now, now.plus(CLOCK_AHEAD_MAX))))
    }

    /// One erasure.
    pub async fn erasure(&self, org: OrgId, id: ErasureId) -> Result<Option<Erasure>> {
        let sql = format!("SELECT {COLUMNS} FROM erasures WHERE id = $1 AND org_id = $2");
        self.engine.find(sql, args![id, org], read).await
    }

    /// The organisation's erasures.
    pub async fn erasures(&self, org: OrgId, page: PageRequest) -> Result<Page<Erasure>> {
        let sql = format!("SELECT {COLUMNS} FROM erasures WHERE org_id = $4");
        self.page(page, "created_at", sql, args![org], read).await
    }
}

impl System<'_> {
    /// Those of some events that storing would leave out since they were erased, by id and time of acceptance.
    pub async fn erased_events(
        self,
        events: &[Arc<Event>],
    ) -> Result<HashSet<(EventId, Timestamp)>> {
        let orgs: HashSet<OrgId> = events.iter().map(|event| event.org_id).collect();
        let orgs: Vec<OrgId> = orgs.into_iter().collect();
        let mut tx = self.0.engine.begin_long().await?;
        erased(&mut tx, events, &orgs).await
    }

    /// Deletes tombstones of events that were accepted before `before`, and erasures that ended before, so that they
    /// keep nothing out any more: once no journal can have such an event.
    pub async fn delete_tombstones(self, before: Timestamp) -> Result<()> {
        tombstones::delete(&self.0.engine, before).await
    }
}
