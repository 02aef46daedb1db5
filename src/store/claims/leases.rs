//! Ends leases, and tells how far claims are behind.

use std::collections::HashSet;

use uuid::Uuid;

use super::due_index::{IS_SENT_TO, pending, window};
use super::due_scan::{DueIndex, SCAN_MAX, WINDOW};
use super::lease_walk::{LeaseCursor, LeaseWalk};
use crate::domain::{EndpointId, InstanceId, LeaseToken, Timestamp};
use crate::store::engine::{Dialect, args};
use crate::store::{Result, System};

/// Lapsed leases that one call ends at most.
const LAPSED_PER_STEP: usize = 1_000;
/// Scans of endpoints at most until an enabled one with something due is found.
const SCANS_MAX: usize = 8;

impl System<'_> {
    /// Makes every delivery that a server has leased due at `now` and returns how many those were: for a
    /// server that starts again, whose earlier leases are no longer used. Costs what is leased, not what waits.
    pub async fn release_leases(self, instance: InstanceId, now: Timestamp) -> Result<u64> {
        let sql = match self.0.engine.dialect() {
            Dialect::Sqlite => {
                "UPDATE pending_deliveries INDEXED BY pending_leases
                 SET due_at = $1, lease_token = NULL
                 WHERE lease_token BETWEEN $2 AND $3"
            }
            Dialect::Postgres => {
                "WITH held AS MATERIALIZED (
                     SELECT ctid AS place FROM pending_deliveries
                     WHERE lease_token BETWEEN $2 AND $3
                     ORDER BY org_id, created_at, id FOR UPDATE
                 )
                 UPDATE pending_deliveries d SET due_at = $1, lease_token = NULL
                 FROM held h WHERE d.ctid = h.place"
            }
        };
        let (least, greatest) = LeaseToken::range_of(instance);
        let mut tx = self.0.engine.begin_long().await?;
        let released = tx.execute(sql, args![now, least.uuid(), greatest.uuid()]).await?;
        tx.commit().await?;
        Ok(released)
    }

    /// Ends leases that have lapsed at `now`, of any server, and returns how many. Their deliveries are due. One
    /// bounded step: a full one says that there may be more.
    pub async fn release_lapsed(self, now: Timestamp) -> Result<u64> {
        let engine = &self.0.engine;
        let lapsed = format!(
            "SELECT 1 AS one FROM {} WHERE d.lease_token IS NOT NULL AND d.due_at <= $1
             ORDER BY d.lease_token LIMIT 1",
            pending(engine.dialect(), "d", "pending_leases")
        );
        if engine.optional(lapsed, args![now]).await?.is_none() {
            return Ok(0);
        }
        self.release_lapsed_of(None, now).await
    }

    /// [`Self::release_lapsed`] where that fails although the store can be reached, as where a page is damaged: by ranges of
    /// tokens, without those that cannot be read, which stay leased. For now and then: it may take some hundred statements.
    /// Returns also where the next call goes on.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn release_lapsed_by_range(
        self,
        from: LeaseCursor,
        now: Timestamp,
    ) -> Result<(u64, LeaseCursor)> {
        let release = |first, last| self.release_lapsed_of(Some((first, last)), now);
        LeaseWalk::new(release, LAPSED_PER_STEP as u64).run(from).await
    }

    /// Ends leases that have lapsed, of all tokens or those from one to another.
    async fn release_lapsed_of(self, range: Option<(u128, u128)>, now: Timestamp) -> Result<u64> {
        let is_in_range = match range {
            Some(_) => "AND lease_token BETWEEN $3 AND $4",
            None => "",
        };
        let sql = match self.0.engine.dialect() {
            Dialect::Sqlite => format!(
                "UPDATE pending_deliveries SET lease_token = NULL
                 WHERE (org_id, created_at, id) IN
                     (SELECT org_id, created_at, id
                      FROM pending_deliveries INDEXED BY pending_leases
                      WHERE lease_token IS NOT NULL {is_in_range} AND due_at <= $1
                      ORDER BY lease_token LIMIT $2)"
            ),
            Dialect::Postgres => format!(
                "WITH held AS MATERIALIZED (
                     SELECT ctid AS place FROM pending_deliveries
                     WHERE lease_token IS NOT NULL {is_in_range} AND due_at <= $1
                     ORDER BY lease_token LIMIT $2
                     FOR UPDATE SKIP LOCKED
                 )
                 UPDATE pending_deliveries d SET lease_token = NULL
                 FROM held h WHERE d.ctid = h.place"
            ),
        };
        let mut args = args![now, LAPSED_PER_STEP];
        if let Some((first, last)) = range {
            args.extend(args![Uuid::from_u128(first), Uuid::from_u128(last)]);
        }
        let mut tx = self.0.engine.begin().await?;
        match tx.execute(sql, args).await {
            Ok(released) => {
                tx.commit().await?;
                Ok(released)
            }
            Err(error) => {
                // Now: the next statement would skip what this one has locked. A failure of it ends the connection.
                let _ = tx.rollback().await;
                Err(error)
            }
        }
    }

    /// The due time of the unleased delivery that is due longest; `None` when none is due at `now`.
    /// Deliveries that nothing is sent for, as to disabled endpoints and those that are `paused`, are not due; where they
    /// are very many, it looks at some of the endpoints only.
    pub async fn oldest_due(
        self,
        now: Timestamp,
        paused: &[EndpointId],
    ) -> Result<Option<Timestamp>> {
        let engine = &self.0.engine;
        let sql = format!(
            "WITH {}
             SELECT coalesce((SELECT sum(count) FROM due), 0) >= {WINDOW} AS is_full,
                    (SELECT min(due.due_at) FROM due JOIN endpoints p ON p.id = due.endpoint_id
                     WHERE {IS_SENT_TO} AND NOT ({})) AS due_at",
            window(engine.dialect()),
            engine.dialect().any("p.id", "$2"),
        );
        let ids: Vec<Uuid> = paused.iter().map(|endpoint| endpoint.uuid()).collect();
        let row = engine.one(sql, args![now, ids]).await?;
        let oldest: Option<Timestamp> = row.get_opt("due_at")?;
        if oldest.is_some() || !row.get("is_full")? {
            return Ok(oldest);
        }
        self.oldest_of_scanned(now, &paused.iter().copied().collect()).await
    }

    /// The same by endpoint, when the deliveries that are due longest are all of disabled or paused endpoints.
    async fn oldest_of_scanned(
        self,
        now: Timestamp,
        paused: &HashSet<EndpointId>,
    ) -> Result<Option<Timestamp>> {
        let engine = &*self.0.engine;
        let mut after = Uuid::nil();
        for _ in 0..SCANS_MAX {
            let scanned = engine.scan(after, now).await?;
            let due = scanned.iter().filter_map(|step| step.due.map(|due| due.endpoint));
            let due: Vec<Uuid> =
                due.filter(|endpoint| !paused.contains(endpoint)).map(EndpointId::uuid).collect();
            if !due.is_empty() {
                return self.oldest_of(due, now).await;
            }
            let Some(last) = scanned.last().filter(|_| scanned.len() >= SCAN_MAX) else { break };
            after = last.endpoint;
        }
        Ok(None)
    }

    async fn oldest_of(self, endpoints: Vec<Uuid>, now: Timestamp) -> Result<Option<Timestamp>> {
        let dialect = self.0.engine.dialect();
        let sql = format!(
            "SELECT min((SELECT d.due_at FROM {}
                         WHERE d.lease_token IS NULL AND d.endpoint_id = p.id
                           AND d.ordered = false AND d.due_at <= $2
                         ORDER BY d.due_at LIMIT 1)) AS due_at
             FROM endpoints p WHERE {}",
            pending(dialect, "d", "pending_claims"),
            dialect.any("p.id", "$1")
        );
        self.0.engine.one(sql, args![endpoints, now]).await?.get_opt("due_at")
    }
}
