//! Deliveries and their attempts: reads, retries and cancellations.
//!
//! A delivery is a row of `pending_deliveries` or, once it is finished, of `deliveries`. Its id says when it was
//! created, so that the whole key of either table is known.

use super::cancellation::{self, CANCELLED, FINISHED};
use super::engine::{Row, Tx, args};
use super::maintenance::MissingDays;
use super::{AuditRecord, Result, Store, audit, events, orgs};
use crate::domain::{
    Actor, Attempt, Delivery, DeliveryId, DeliveryStatus, Endpoint, EndpointId, LastAttempt, OrgId,
    Timestamp,
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
    /// An attempt is in flight, a consumer of an inbox has it, or the endpoint's pending deliveries are being cancelled.
    #[error("an attempt or a cancellation is in progress; try again when it has ended")]
    InProgress,
    /// Its event, or the payload of that, is not kept any more.
    #[error(
        "the event or its payload was removed, by its age or by an erasure, and cannot be sent again"
    )]
    EventRemoved,
    /// It is delivered or dead: there is nothing to cancel.
    #[error("the delivery is finished; only a pending one can be cancelled")]
    Finished,
}

/// Pending deliveries that are counted at most.
pub const PENDING_COUNTED_MAX: u64 = 10_000;

/// A SELECT of pending deliveries as [`read`] reads them, from rows `d`. Those that are being cancelled are shown as
/// cancelled.
pub(super) fn select_pending(rows: &str) -> String {
    const IS_CANCELLED: &str =
        "p.id IS NULL OR p.removed_at IS NOT NULL OR p.cancel_before >= d.created_at";
    format!(
        "SELECT d.id, d.org_id, d.event_id, d.event_received_at, d.endpoint_id, d.created_at,
                d.replay_of, d.attempts, d.error, d.error_class, d.status_code,
                p.url AS endpoint_url,
                CASE WHEN {IS_CANCELLED} THEN 'cancelled' ELSE 'pending' END AS status,
                CASE WHEN {IS_CANCELLED} THEN coalesce(p.cancel_before, d.due_at) END AS finished_at,
                CASE WHEN {IS_CANCELLED} THEN NULL
                     WHEN d.lease_token IS NULL AND p.disabled_reason IS NULL THEN d.due_at
                     END AS next_attempt_at,
                CASE WHEN {IS_CANCELLED} THEN NULL
                     WHEN d.lease_token IS NOT NULL THEN 'in_flight'
                     WHEN p.disabled_reason IS NOT NULL THEN 'disabled' END AS held_by
         FROM {rows} LEFT JOIN endpoints p ON p.id = d.endpoint_id"
    )
}

/// A SELECT of finished deliveries as [`read`] reads them, from rows `d`. In a union it comes after pending ones,
/// whose columns have types.
pub(super) fn select_finished(rows: &str) -> String {
    format!(
        "SELECT d.id, d.org_id, d.event_id, d.event_received_at, d.endpoint_id, d.created_at,
                d.replay_of, d.attempts, d.error, d.error_class, d.status_code,
                (SELECT p.url FROM endpoints p WHERE p.id = d.endpoint_id) AS endpoint_url,
                d.status, d.finished_at, NULL AS next_attempt_at, NULL AS held_by
         FROM {rows}"
    )
}

/// A delivery, and when its event was accepted. The type of that is not known yet.
pub(super) fn read(row: &Row) -> Result<(Delivery, Timestamp)> {
    let delivery = Delivery {
        id: row.get("id")?,
        org_id: row.get("org_id")?,
        event_id: row.get("event_id")?,
        endpoint_id: row.get("endpoint_id")?,
        status: row.parse("status")?,
        attempts: row.get("attempts")?,
        next_attempt_at: row.get_opt("next_attempt_at")?,
        created_at: row.get("created_at")?,
        finished_at: row.get_opt("finished_at")?,
        replay_of: row.get_opt("replay_of")?,
        event_type: None,
        endpoint_url: row
            .get_opt::<String>("endpoint_url")?
            .as_deref()
            .and_then(Endpoint::shown_destination),
        last: LastAttempt {
            error: row.get_opt("error")?,
            error_class: row.parse_opt("error_class")?,
            status_code: row.get_opt("status_code")?,
        },
        held_by: row.parse_opt("held_by")?,
    };
    Ok((delivery, row.get("event_received_at")?))
}

pub(super) fn read_attempt(row: &Row) -> Result<Attempt> {
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

/// The condition that a row has the key `$1`, `$2`, `$3`: organisation, time of creation and id.
pub(super) const IS_IT: &str = "org_id = $1 AND created_at = $2 AND id = $3";

impl Store {
    /// One delivery.
    pub async fn delivery(&self, org: OrgId, id: DeliveryId) -> Result<Option<Delivery>> {
        let sql = format!(
            "{} UNION ALL {}",
            select_pending(&format!("(SELECT * FROM pending_deliveries WHERE {IS_IT}) d")),
            select_finished(&format!("(SELECT * FROM deliveries WHERE {IS_IT}) d")),
        );
        let found = self.engine.find(sql, args![org, id.created_at(), id], read).await?;
        Ok(self.with_event_types(org, found.into_iter().collect()).await?.pop())
    }

    /// How many deliveries of an endpoint are pending; more than [`PENDING_COUNTED_MAX`] are not counted.
    pub async fn pending_count(&self, org: OrgId, endpoint: EndpointId) -> Result<u64> {
        let sql = "SELECT count(*) AS count FROM (
                 SELECT 1 FROM pending_deliveries
                 WHERE endpoint_id = (SELECT id FROM endpoints WHERE id = $1 AND org_id = $2)
                   AND created_at > coalesce((SELECT cancel_before FROM endpoints WHERE id = $1), $4)
                 LIMIT $3) d";
        let args = args![endpoint, org, PENDING_COUNTED_MAX + 1, super::page::START_OF_TIME];
        self.engine.one(sql, args).await?.get("count")
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
        let mut days = MissingDays::default();
        loop {
            match self.retry_once(org, id, by, now).await {
                Err(error) if days.make(self, &error).await? => {}
                retried => return retried,
            }
        }
    }

    async fn retry_once(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>> {
        let endpoint =
            self.engine.optional(endpoint_sql(""), args![org, id.created_at(), id]).await?;
        let mut tx = self.engine.begin().await?;
        let cancelling = endpoint.as_ref().map(|row| is_cancelling(row, id)).transpose()?;
        if let (Some(row), Some(true)) = (&endpoint, cancelling) {
            // Nothing that was created by then is sent, so this ends the cancellation.
            if !cancellation::lift(&mut tx, org, row.get("id")?).await? {
                return Ok(Err(DeliveryRefusal::InProgress));
            }
        } else {
            orgs::hold(&mut tx, org).await?;
        }
        let endpoint = endpoint_of(&mut tx, org, id).await?;
        let Some(endpoint) = endpoint else { return Ok(Err(missing(&mut tx, org, id).await?)) };
        if let Some(refusal) = endpoint_refusal(&endpoint)? {
            return Ok(Err(refusal));
        }
        if is_cancelling(&endpoint, id)? {
            return Ok(Err(DeliveryRefusal::InProgress));
        }
        if let Err(refusal) = make_due(&mut tx, org, id, self.due(now)).await? {
            return Ok(Err(refusal));
        }
        tx.execute("DELETE FROM dead_letters WHERE id = $1", args![id]).await?;
        let rows = format!("(SELECT * FROM pending_deliveries WHERE {IS_IT}) d");
        let row = tx.one(select_pending(&rows), args![org, id.created_at(), id]).await?;
        let (delivery, event_received_at) = read(&row)?;
        audit::commit(tx, &AuditRecord::delivery_retried(&delivery), by, now).await?;
        let retried = vec![(delivery.clone(), event_received_at)];
        Ok(Ok(self.with_event_types(org, retried).await?.pop().unwrap_or(delivery)))
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
        let mut days = MissingDays::default();
        loop {
            match self.cancel_once(org, id, by, now).await {
                Err(error) if days.make(self, &error).await? => {}
                cancelled => return cancelled,
            }
        }
    }

    async fn cancel_once(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>> {
        let found = match self.delivery(org, id).await? {
            None => return Ok(Err(DeliveryRefusal::NotFound)),
            Some(delivery) if delivery.status == DeliveryStatus::Cancelled => {
                return Ok(Ok(delivery));
            }
            Some(delivery) if delivery.status != DeliveryStatus::Pending => {
                return Ok(Err(DeliveryRefusal::Finished));
            }
            Some(delivery) => delivery,
        };
        let mut tx = self.begin_in(org).await?;
        let (lock, key) = (tx.dialect().lock(" FOR UPDATE"), args![org, id.created_at(), id]);
        let sql = format!("SELECT attempts FROM pending_deliveries WHERE {IS_IT}{lock}");
        let Some(attempts) = tx.find(sql, key, |row| row.get("attempts")).await? else {
            // It was finished meanwhile.
            tx.rollback().await?;
            return Ok(match self.delivery(org, id).await? {
                None => Err(DeliveryRefusal::NotFound),
                Some(now) if now.status == DeliveryStatus::Cancelled => Ok(now),
                Some(_) => Err(DeliveryRefusal::Finished),
            });
        };
        let sql = format!(
            "INSERT INTO deliveries ({FINISHED})
             SELECT {CANCELLED} FROM pending_deliveries WHERE {IS_IT}"
        );
        tx.execute(sql, args![org, id.created_at(), id, now]).await?;
        let sql = format!("DELETE FROM pending_deliveries WHERE {IS_IT}");
        tx.execute(sql, args![org, id.created_at(), id]).await?;
        let delivery = Delivery {
            status: DeliveryStatus::Cancelled,
            attempts,
            next_attempt_at: None,
            finished_at: Some(now),
            held_by: None,
            ..found
        };
        audit::commit(tx, &AuditRecord::delivery_cancelled(&delivery), by, now).await?;
        Ok(Ok(delivery))
    }
}

/// Makes a delivery due: a pending one unless it is in flight, and a finished one becomes pending again.
async fn make_due(
    tx: &mut Tx<'_>,
    org: OrgId,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Result<(), DeliveryRefusal>> {
    let key = || args![org, id.created_at(), id];
    let lock = tx.dialect().lock(" FOR UPDATE");
    // Twice, since it may become pending in between.
    for _ in 0..2 {
        // What a consumer has received from an inbox has no lease token. Nothing tells it from what was given back for
        // later, so that is left alone, too, until it is due.
        let pending = format!(
            "SELECT due_at > $4
                    AND (lease_token IS NOT NULL
                         OR attempts > 0 AND EXISTS (SELECT 1 FROM endpoints p
                                                     WHERE p.id = endpoint_id AND p.kind = 'pull'))
                    AS in_flight
             FROM pending_deliveries WHERE {IS_IT}{lock}"
        );
        let key_and_now = || args![org, id.created_at(), id, now];
        let in_flight = tx.find(pending, key_and_now(), |row| row.get("in_flight")).await?;
        match in_flight {
            Some(true) => return Ok(Err(DeliveryRefusal::InProgress)),
            Some(false) => {
                let sql = format!(
                    "UPDATE pending_deliveries SET due_at = $4, lease_token = NULL WHERE {IS_IT}"
                );
                tx.execute(sql, key_and_now()).await?;
                return Ok(Ok(()));
            }
            None => {}
        }
        let finished = format!("SELECT id FROM deliveries WHERE {IS_IT}{lock}");
        if tx.optional(finished, key()).await?.is_some() {
            return reopen(tx, org, id, now).await;
        }
    }
    Ok(Err(DeliveryRefusal::NotFound))
}

/// Makes a finished delivery, which is locked, pending again. One to an inbox may be received as often as a new one.
async fn reopen(
    tx: &mut Tx<'_>,
    org: OrgId,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Result<(), DeliveryRefusal>> {
    let key = || args![org, id.created_at(), id];
    // Distinct: an event whose day could not be dropped yet may have a copy that is held.
    let pending = format!(
        "INSERT INTO pending_deliveries
             (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of, attempts,
              ordered, payload_bytes, due_at, type_key, error, error_class, status_code, event_type)
         SELECT DISTINCT d.org_id, d.created_at, d.id, d.event_id, d.event_received_at,
                d.endpoint_id, d.replay_of, CASE WHEN p.kind = 'pull' THEN 0 ELSE d.attempts END, p.ordered,
                octet_length(e.payload), $4, d.type_key, d.error, d.error_class, d.status_code,
                CASE WHEN p.kind = 'pull' THEN e.event_type END
         FROM (SELECT * FROM deliveries WHERE {IS_IT}) d
         JOIN endpoints p ON p.id = d.endpoint_id
         JOIN {} ON e.id = d.event_id AND e.received_at = d.event_received_at
         WHERE octet_length(e.payload) > 0",
        events::with_held(tx.dialect()),
    );
    if tx.execute(pending, args![org, id.created_at(), id, now]).await? == 0 {
        return Ok(Err(DeliveryRefusal::EventRemoved));
    }
    let attempt = format!(
        "INSERT INTO delivery_attempts
             (delivery_id, delivery_created_at, number, org_id, started_at, duration_ms,
              status_code, error_class, error, response_excerpt)
         SELECT id, created_at, attempts, org_id, started_at, duration_ms, status_code, error_class,
                error, response_excerpt
         FROM deliveries WHERE {IS_IT} AND started_at IS NOT NULL"
    );
    tx.execute(attempt, key()).await?;
    tx.execute(format!("DELETE FROM deliveries WHERE {IS_IT}"), key()).await?;
    Ok(Ok(()))
}

/// The endpoint of a delivery, unless it is removed: `id`, `disabled_reason` and `cancel_before`, which stay as they
/// are until the end of the transaction. To be called before the delivery is locked.
pub(super) async fn endpoint_of(
    tx: &mut Tx<'_>,
    org: OrgId,
    delivery: DeliveryId,
) -> Result<Option<Row>> {
    let sql = endpoint_sql(tx.dialect().lock(" FOR SHARE"));
    tx.optional(sql, args![org, delivery.created_at(), delivery]).await
}

fn endpoint_sql(lock: &str) -> String {
    format!(
        "SELECT id, disabled_reason, cancel_before FROM endpoints
         WHERE removed_at IS NULL AND id IN (
             SELECT endpoint_id FROM pending_deliveries WHERE {IS_IT}
             UNION ALL SELECT endpoint_id FROM deliveries WHERE {IS_IT}){lock}"
    )
}

/// Why a delivery whose endpoint is not there cannot be sent.
pub(super) async fn missing(
    tx: &mut Tx<'_>,
    org: OrgId,
    delivery: DeliveryId,
) -> Result<DeliveryRefusal> {
    let sql = format!(
        "SELECT 1 AS one FROM pending_deliveries WHERE {IS_IT}
         UNION ALL SELECT 1 FROM deliveries WHERE {IS_IT}"
    );
    let exists = tx.optional(sql, args![org, delivery.created_at(), delivery]).await?.is_some();
    Ok(if exists { DeliveryRefusal::EndpointRemoved } else { DeliveryRefusal::NotFound })
}

/// Why nothing is sent to an endpoint, from its `disabled_reason`.
pub(super) fn endpoint_refusal(row: &Row) -> Result<Option<DeliveryRefusal>> {
    let is_disabled = row.get_opt::<String>("disabled_reason")?.is_some();
    Ok(is_disabled.then_some(DeliveryRefusal::EndpointDisabled))
}

/// Whether a delivery is one of those that an endpoint's `cancel_before` cancels.
fn is_cancelling(endpoint: &Row, delivery: DeliveryId) -> Result<bool> {
    let before: Option<Timestamp> = endpoint.get_opt("cancel_before")?;
    Ok(before.is_some_and(|before| before >= delivery.created_at()))
}
