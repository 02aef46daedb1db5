//! Claiming: which deliveries are attempted next, and under whose lease.
//!
//! A claim first plans, without locks, which endpoints it leases from (`due_scan`, by what `due_index`
//! finds), and then leases what is due of theirs. The lease is hot and has one text per engine, `sqlite`
//! and `postgres`.

mod due_index;
mod due_scan;
mod postgres;
mod sqlite;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use super::crypto::Keyring;
use super::engine::{Dialect, Row, args};
use super::{Result, System, endpoints, events, timed};
use crate::domain::{
    EndpointId, EventId, InstanceId, Lease, LeaseToken, LeasedDelivery, Timestamp,
};
use crate::store::metrics::DbOperation;

pub use due_scan::ClaimCursor;

/// The parameters of a claim.
#[derive(Clone, Debug)]
pub struct ClaimRequest<'a> {
    /// The lease to hold them under.
    pub lease: Lease,
    /// How many at most.
    pub deliveries_max: usize,
    /// How many at most per endpoint, where that is bounded; 0 leaves one out.
    pub caps: &'a HashMap<EndpointId, usize>,
    /// Where the last claim stopped.
    pub from: ClaimCursor,
    /// Current time.
    pub now: Timestamp,
}

/// The result of a claim.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The deliveries, the longest due first. The caller holds their lease.
    pub leased: Vec<LeasedDelivery>,
    /// Where the next claim goes on.
    pub next: ClaimCursor,
    /// Whether there may be more: the round is not complete, or an endpoint had more than its share.
    pub more: bool,
}

impl System<'_> {
    /// Leases deliveries that are due, shared out among the endpoints that have any; each gives
    /// those that are due longest first. Two callers never hold one delivery. Of ordered
    /// deliveries to one endpoint only the oldest is leased, and only while no other one is.
    pub async fn claim_deliveries(self, request: ClaimRequest<'_>) -> Result<Claimed> {
        let claim = async {
            let (engine, keyring) = (&*self.0.engine, &*self.0.keyring);
            let plan = request.plan(engine).await?;
            let leased = match engine.dialect() {
                _ if plan.is_empty() => Vec::new(),
                Dialect::Sqlite => sqlite::lease(engine, keyring, &plan, &request).await?,
                Dialect::Postgres => postgres::lease(engine, keyring, &plan, &request).await?,
            };
            Ok(plan.claimed(leased))
        };
        timed(&self.0.metrics, DbOperation::ClaimDeliveries, claim).await
    }

    /// Makes every delivery that a server has leased due at `now` and returns how many those were: for a
    /// server that starts again, whose earlier leases are no longer used.
    pub async fn release_leases(self, instance: InstanceId, now: Timestamp) -> Result<u64> {
        // Each by the index of its kind.
        let statements = match self.0.engine.dialect() {
            Dialect::Sqlite => [
                "UPDATE deliveries INDEXED BY deliveries_due SET due_at = $1, lease_token = NULL
                 WHERE status = 'pending' AND ordered = 0 AND due_at > $1
                   AND lease_token BETWEEN $2 AND $3",
                "UPDATE deliveries INDEXED BY deliveries_ordered SET due_at = $1, lease_token = NULL
                 WHERE status = 'pending' AND ordered = 1 AND due_at > $1
                   AND lease_token BETWEEN $2 AND $3",
            ],
            Dialect::Postgres => [
                "UPDATE deliveries SET due_at = $1, lease_token = NULL
                 WHERE finished_at IS NULL AND NOT ordered AND due_at > $1
                   AND lease_token BETWEEN $2 AND $3",
                "UPDATE deliveries SET due_at = $1, lease_token = NULL
                 WHERE finished_at IS NULL AND ordered AND due_at > $1
                   AND lease_token BETWEEN $2 AND $3",
            ],
        };
        let (least, greatest) = LeaseToken::range_of(instance);
        let mut tx = self.0.engine.begin().await?;
        let mut released = 0;
        for sql in statements {
            released += tx.execute(sql, args![now, least.uuid(), greatest.uuid()]).await?;
        }
        tx.commit().await?;
        Ok(released)
    }

    /// The due time of the unleased delivery that is due longest; `None` when none is due at `now`.
    /// Deliveries of disabled endpoints are not due.
    pub async fn oldest_due(self, now: Timestamp) -> Result<Option<Timestamp>> {
        let sql = format!(
            "SELECT due_at FROM {} AND due_at <= $1 ORDER BY due_at LIMIT 1",
            due_index::unordered_pending(self.0.engine.dialect())
        );
        self.0.engine.find(sql, args![now], |row| row.get("due_at")).await
    }
}

/// The columns that [`leased`] reads of `events e` and `endpoints p`; their organisation is the same.
fn columns() -> String {
    format!(
        "e.id AS event_id, e.event_type, e.payload, e.dedup_id, e.account_id, e.user_id,
         e.occurred_at, e.received_at, e.trace_id, {}",
        endpoints::COLUMNS.of("p")
    )
}

/// Reads leased rows: `delivery_id`, `attempts` and [`columns`]. Deliveries of
/// one event share it, and so do those of one endpoint: each is read once.
fn leased(rows: &[Row], lease: Lease, keyring: &Keyring) -> Result<Vec<LeasedDelivery>> {
    let mut known_events = HashMap::new();
    let mut known_endpoints = HashMap::new();
    let mut leased = Vec::new();
    for row in rows {
        let event: (EventId, Timestamp) = (row.get("event_id")?, row.get("received_at")?);
        let event = shared(&mut known_events, event, || events::read(row, "event_id"))?;
        let endpoint: EndpointId = row.get("id")?;
        let endpoint = shared(&mut known_endpoints, endpoint, || endpoints::read(row, keyring))?;
        let (id, attempts) = (row.get("delivery_id")?, row.get("attempts")?);
        leased.push(LeasedDelivery { id, event, endpoint, attempts, lease });
    }
    Ok(leased)
}

fn shared<K: Eq + Hash, V>(
    known: &mut HashMap<K, Arc<V>>,
    key: K,
    read: impl FnOnce() -> Result<V>,
) -> Result<Arc<V>> {
    match known.entry(key) {
        Entry::Occupied(entry) => Ok(Arc::clone(entry.get())),
        Entry::Vacant(entry) => Ok(Arc::clone(entry.insert(Arc::new(read()?)))),
    }
}
