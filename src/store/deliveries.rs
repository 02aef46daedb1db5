//! Deliveries and their attempts: reads, retries and cancellations.

use super::columns::{Columns, columns};
use super::engine::{Row, Tx, args};
use super::filter::Filter;
use super::{AuditRecord, Result, Store, audit, orgs};
use crate::domain::{
    Actor, Attempt, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, EndpointId, OrgId, Page,
    PageRequest, Timestamp,
};

/// Why something cannot be done to a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliveryRefusal {
    /// There is no such delivery, or no such event.
    #[error("there is no such delivery")]
    NotFound,
    /// Its endpoint was removed.
    #[error("the delivery's endpoint was removed")]
    EndpointRemoved,
    /// Its endpoint is disabled.
    #[error("the delivery's endpoint is disabled; enable it first")]
    EndpointDisabled,
    /// An attempt is in flight.
    #[error("an attempt is in flight; wait for its outcome")]
    InProgress,
    /// It is delivered or dead: there is nothing to cancel.
    #[error("the delivery is finished; only a pending one can be cancelled")]
    Finished,
}

/// Deliveries that one step cancels at most.
pub const CANCELS_PER_STEP: u64 = 5_000;

/// The columns that [`read`] reads.
const COLUMNS: Columns<11> = columns! {
    id org_id event_id endpoint_id status attempts due_at lease_token created_at finished_at
    replay_of
};

fn read(row: &Row) -> Result<Delivery> {
    // Under a lease, due_at is the end of the lease and promises no attempt.
    let is_leased = row.get_opt::<uuid::Uuid>("lease_token")?.is_some();
    let due_at: Option<Timestamp> = row.get_opt("due_at")?;
    Ok(Delivery {
        id: row.get("id")?,
        org_id: row.get("org_id")?,
        event_id: row.get("event_id")?,
        endpoint_id: row.get("endpoint_id")?,
        status: row.parse("status")?,
        attempts: row.get("attempts")?,
        next_attempt_at: due_at.filter(|_| !is_leased),
        created_at: row.get("created_at")?,
        finished_at: row.get_opt("finished_at")?,
        replay_of: row.get_opt("replay_of")?,
    })
}

fn read_attempt(row: &Row) -> Result<Attempt> {
    Ok(Attempt {
        number: row.get("number")?,
        started_at: row.get("started_at")?,
        duration_ms: row.get("duration_ms")?,
        status_code: row.get_opt("status_code")?,
        error_class: row.parse_opt("error_class")?,
        error: row.get_opt("error")?,
        response_excerpt: row.get_opt("response_excerpt")?,
    })
}

impl Store {
    /// One delivery.
    pub async fn delivery(&self, org: OrgId, id: DeliveryId) -> Result<Option<Delivery>> {
        let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE id = $1 AND org_id = $2");
        self.engine.find(sql, args![id, org], read).await
    }

    /// The organisation's deliveries that pass the filter.
    pub async fn deliveries(
        &self,
        org: OrgId,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>> {
        let DeliveryFilter { status, event_id, endpoint_id, since, until } = filter;
        let dialect = self.engine.dialect();
        // The shortest index: an event's deliveries are few, an endpoint's fewer than its organisation's.
        let (org_id, of_endpoint) = match (event_id, endpoint_id) {
            (Some(_), _) => (dialect.not_indexed("org_id"), dialect.not_indexed("endpoint_id")),
            (None, Some(_)) => (dialect.not_indexed("org_id"), "endpoint_id".into()),
            (None, None) => ("org_id".into(), "endpoint_id".into()),
        };
        let mut conditions = Filter::after(3);
        conditions.and(&format!("{org_id} = ?"), org);
        conditions.and_some("event_id = ?", *event_id);
        conditions.and_some(&format!("{of_endpoint} = ?"), *endpoint_id);
        conditions.and_some("status = ?", status.map(DeliveryStatus::as_str));
        conditions.and_some("created_at >= ?", *since);
        conditions.and_some("created_at < ?", *until);
        let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE {conditions}");
        self.page(page, "created_at", sql, conditions.into_args(), read).await
    }

    /// The attempts of one delivery, first to last.
    pub async fn attempts(&self, org: OrgId, id: DeliveryId) -> Result<Vec<Attempt>> {
        let sql = "SELECT number, started_at, duration_ms, status_code, error_class, error,
                          response_excerpt
                   FROM delivery_attempts WHERE delivery_id = $1 AND org_id = $2
                   ORDER BY number";
        self.engine.list(sql, args![id, org], read_attempt).await
    }

    /// Makes a delivery pending and due at `now`, whatever its status, and deletes its dead letter. The
    /// count of attempts continues: one that had used up its schedule gets one more.
    pub async fn retry_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>> {
        let mut tx = self.begin_in(org).await?;
        endpoint_of(&mut tx, org, id).await?;
        let lock = tx.dialect().lock(" FOR UPDATE OF d");
        let sql = format!(
            "SELECT d.lease_token IS NOT NULL AND d.due_at > $3 AS in_progress,
                    p.id, p.disabled_reason
             FROM deliveries d LEFT JOIN endpoints p ON p.id = d.endpoint_id
             WHERE d.id = $1 AND d.org_id = $2{lock}"
        );
        let Some(row) = tx.optional(sql, args![id, org, now]).await? else {
            return Ok(Err(DeliveryRefusal::NotFound));
        };
        if let Some(refusal) = endpoint_refusal(&row)? {
            return Ok(Err(refusal));
        }
        if row.get_opt("in_progress")? == Some(true) {
            return Ok(Err(DeliveryRefusal::InProgress));
        }
        tx.execute("DELETE FROM dead_letters WHERE id = $1", args![id]).await?;
        let sql = format!(
            "UPDATE deliveries
             SET status = 'pending', due_at = $2, lease_token = NULL, finished_at = NULL
             WHERE id = $1 RETURNING {COLUMNS}"
        );
        let delivery = read(&tx.one(sql, args![id, now]).await?)?;
        audit::commit(tx, &AuditRecord::delivery_retried(&delivery), by, now).await?;
        Ok(Ok(delivery))
    }

    /// Cancels a pending delivery. An attempt in flight completes, and its outcome is ignored. One
    /// that is cancelled already stays as it is.
    pub async fn cancel_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>> {
        let mut tx = self.begin_in(org).await?;
        let sql = format!(
            "UPDATE deliveries
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $3
             WHERE id = $1 AND org_id = $2 AND status = 'pending'
             RETURNING {COLUMNS}"
        );
        if let Some(delivery) = tx.find(sql, args![id, org, now], read).await? {
            audit::commit(tx, &AuditRecord::delivery_cancelled(&delivery), by, now).await?;
            return Ok(Ok(delivery));
        }
        tx.rollback().await?;
        Ok(match self.delivery(org, id).await? {
            None => Err(DeliveryRefusal::NotFound),
            Some(delivery) if delivery.status == DeliveryStatus::Cancelled => Ok(delivery),
            Some(_) => Err(DeliveryRefusal::Finished),
        })
    }

    /// Cancels pending deliveries to an endpoint that were planned by `until`, at most
    /// [`CANCELS_PER_STEP`] of them, and returns how many: the caller repeats it until that is none.
    /// The audit log gets one entry with that number.
    pub async fn cancel_pending(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        until: Timestamp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<u64> {
        let mut tx = self.engine.begin_long().await?;
        orgs::hold(&mut tx, org).await?;
        let sql = match tx {
            Tx::Sqlite(..) => {
                "UPDATE deliveries
                 SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $4
                 WHERE id IN (SELECT id FROM deliveries INDEXED BY deliveries_pending
                              WHERE endpoint_id = $1 AND status = 'pending' AND org_id = $2
                                AND created_at <= $3
                              LIMIT $5)"
            }
            // Any of them, since sorting all that wait would cost every step as much; then locked in
            // key order, as outcomes lock them.
            Tx::Postgres(_) => {
                "WITH chosen AS MATERIALIZED (
                     SELECT id, event_received_at FROM deliveries
                     WHERE endpoint_id = $1 AND status = 'pending' AND org_id = $2
                       AND created_at <= $3
                     LIMIT $5
                 ), held AS (
                     SELECT d.id, d.event_received_at
                     FROM (SELECT * FROM chosen ORDER BY id) s
                     CROSS JOIN LATERAL (
                         SELECT id, event_received_at FROM deliveries
                         WHERE id = s.id AND event_received_at = s.event_received_at
                           AND status = 'pending'
                         FOR UPDATE
                     ) d
                 )
                 UPDATE deliveries d
                 SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $4
                 FROM held h
                 WHERE d.id = h.id AND d.event_received_at = h.event_received_at"
            }
        };
        let args = args![endpoint, org, until, now, CANCELS_PER_STEP];
        let cancelled = tx.execute(sql, args).await?;
        if cancelled > 0 {
            let record = AuditRecord::pending_cancelled(org, endpoint, cancelled);
            audit::write(&mut tx, &record, by, now).await?;
        }
        tx.commit().await?;
        Ok(cancelled)
    }
}

/// The `id` and `disabled_reason` of a delivery's endpoint, which stays as it is until the end of the
/// transaction. To be called before the delivery is locked, in the order in which a removal locks them.
pub(super) async fn endpoint_of(
    tx: &mut Tx<'_>,
    org: OrgId,
    delivery: DeliveryId,
) -> Result<Option<Row>> {
    let lock = tx.dialect().lock(" FOR SHARE");
    let sql = format!(
        "SELECT id, disabled_reason FROM endpoints
         WHERE id IN (SELECT endpoint_id FROM deliveries WHERE id = $1 AND org_id = $2){lock}"
    );
    tx.optional(sql, args![delivery, org]).await
}

/// Why nothing is sent to an endpoint, from its `id` and `disabled_reason`, NULL when it is removed.
pub(super) fn endpoint_refusal(row: &Row) -> Result<Option<DeliveryRefusal>> {
    if row.get_opt::<EndpointId>("id")?.is_none() {
        return Ok(Some(DeliveryRefusal::EndpointRemoved));
    }
    let is_disabled = row.get_opt::<String>("disabled_reason")?.is_some();
    Ok(is_disabled.then_some(DeliveryRefusal::EndpointDisabled))
}
