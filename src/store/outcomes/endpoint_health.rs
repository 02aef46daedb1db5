//! Derives endpoint health from a batch of outcomes: which endpoints fail, which are disabled, and which
//! operational events follow.
//!
//! All of it is written in the transaction of the outcomes, so that it is as durable as they are, and
//! published once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use crate::domain::{
    Actor, DeadReason, Decision, EndpointId, Event, EventId, EventType, OrgId, Outcome, Timestamp,
    TraceId,
};
use crate::store::engine::{Row, Tx, args};
use crate::store::{AuditRecord, Result, StoreError, audit, suspension};

/// Why an endpoint that answered 410 is disabled.
const GONE: &str = "the receiver answered 410 Gone";

const ENDPOINT_DISABLED: &str = "hookgate.endpoint.disabled";
const DELIVERY_EXHAUSTED: &str = "hookgate.delivery.exhausted";

/// The health of the endpoints that a batch of outcomes is about.
#[derive(Debug, Default)]
pub(super) struct EndpointHealth {
    /// Endpoints at which an attempt succeeded.
    pub(super) working: Vec<Uuid>,
    /// Endpoints at which every attempt failed, in key order.
    pub(super) failing: Vec<FailingEndpoint>,
    /// Whether a delivery was given up.
    has_dead_letters: bool,
}

/// An endpoint at which every attempt of a batch failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailingEndpoint {
    pub(super) endpoint: Uuid,
    at: Timestamp,
    /// It is disabled if it has failed since then.
    pub(super) limit: Timestamp,
    /// Whether it answered that it is gone for good.
    pub(super) gone: bool,
}

/// How the health of a failing endpoint changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum HealthChange {
    /// It fails since this time.
    FailsSince(Timestamp),
    /// It is disabled, for this reason.
    Disabled { reason: String, at: Timestamp },
}

impl EndpointHealth {
    /// Derives it from a batch.
    pub(super) fn of(outcomes: &[Outcome]) -> Self {
        let mut failing: BTreeMap<Uuid, FailingEndpoint> = BTreeMap::new();
        let mut working = BTreeSet::new();
        let mut has_dead_letters = false;
        for outcome in outcomes {
            let endpoint = outcome.endpoint_id.uuid();
            has_dead_letters |= matches!(outcome.decision, Decision::Dead(_));
            if outcome.attempt.is_none() {
                continue;
            }
            if outcome.decision == Decision::Delivered {
                working.insert(endpoint);
                continue;
            }
            let gone = outcome.decision == Decision::Dead(DeadReason::Gone);
            let (at, limit) = (outcome.decided_at, outcome.disable_if_failing_since);
            let new = FailingEndpoint { endpoint, at, limit, gone };
            let known = failing.entry(endpoint).or_insert(new);
            known.at = known.at.min(at);
            known.limit = known.limit.max(limit);
            known.gone |= gone;
        }
        failing.retain(|endpoint, failing| failing.gone || !working.contains(endpoint));
        Self {
            working: working.into_iter().filter(|id| !failing.contains_key(id)).collect(),
            failing: failing.into_values().collect(),
            has_dead_letters,
        }
    }

    /// Whether endpoints only recover: nothing fails, and no delivery is given up.
    pub(super) fn is_quiet(&self) -> bool {
        self.failing.is_empty() && !self.has_dead_letters
    }

    /// The ids of the failing endpoints.
    pub(super) fn failing_ids(&self) -> Vec<Uuid> {
        self.failing.iter().map(|failing| failing.endpoint).collect()
    }

    /// Writes which endpoints fail, disables those that are gone or have failed for too long, and
    /// returns the operational events that follow. `enabled` has `id`, `org_id` and `failing_since` of the
    /// failing endpoints that are enabled, locked in key order.
    pub(super) async fn write(&self, tx: &mut Tx<'_>, enabled: &[Row]) -> Result<Vec<Arc<Event>>> {
        let mut events = Vec::new();
        for row in enabled {
            let (endpoint, org) = (row.get("id")?, row.get("org_id")?);
            match self.change(endpoint, row.get_opt("failing_since")?) {
                None => {}
                Some(HealthChange::FailsSince(since)) => {
                    let sql = "UPDATE endpoints SET failing_since = $2 WHERE id = $1";
                    tx.execute(sql, args![endpoint, since]).await?;
                }
                Some(HealthChange::Disabled { reason, at }) => {
                    disable(tx, (org, endpoint), &reason, at).await?;
                    events.push(endpoint_disabled(endpoint, org, &reason, at)?);
                }
            }
        }
        Ok(events)
    }

    fn change(&self, endpoint: EndpointId, since: Option<Timestamp>) -> Option<HealthChange> {
        let id = endpoint.uuid();
        let index = self.failing.binary_search_by_key(&id, |failing| failing.endpoint).ok()?;
        self.failing.get(index)?.change(since)
    }
}

impl FailingEndpoint {
    fn change(&self, since: Option<Timestamp>) -> Option<HealthChange> {
        let disabled = |reason| Some(HealthChange::Disabled { reason, at: self.at });
        match since {
            _ if self.gone => disabled(GONE.to_owned()),
            None => Some(HealthChange::FailsSince(self.at)),
            Some(since) if since <= self.limit => {
                disabled(format!("every attempt has failed since {since}"))
            }
            Some(_) => None,
        }
    }
}

async fn disable(
    tx: &mut Tx<'_>,
    (org, endpoint): (OrgId, EndpointId),
    reason: &str,
    at: Timestamp,
) -> Result<()> {
    let sql = "UPDATE endpoints SET disabled_reason = $2, updated_at = $3 WHERE id = $1";
    tx.execute(sql, args![endpoint, reason, at]).await?;
    suspension::park(tx, endpoint).await?;
    let record = AuditRecord::endpoint_disabled(org, endpoint, reason);
    audit::write(tx, &record, &Actor::SERVER, at).await
}

/// The operational events about deliveries that have used up their attempts. None about the delivery of an
/// operational event: that would make more of them.
pub(super) async fn exhausted(tx: &mut Tx<'_>, deliveries: Vec<Uuid>) -> Result<Vec<Arc<Event>>> {
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT d.id, d.org_id, d.event_id, d.endpoint_id, d.attempts, l.detail, l.created_at,
                e.event_type
         FROM deliveries d
         JOIN dead_letters l ON l.id = d.id
         JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
         WHERE {}",
        tx.dialect().any("d.id", "$1")
    );
    let rows = tx.all(sql, args![deliveries]).await?;
    let events = rows.iter().filter_map(|row| delivery_exhausted(row).transpose());
    events.collect()
}

/// The operational event that an endpoint was disabled.
fn endpoint_disabled(
    endpoint: EndpointId,
    org: OrgId,
    reason: &str,
    at: Timestamp,
) -> Result<Arc<Event>> {
    tracing::warn!(%org, %endpoint, reason, "endpoint disabled");
    let payload = json!({ "endpoint_id": endpoint, "reason": reason, "disabled_at": at });
    operational(ENDPOINT_DISABLED, org, &payload, at)
}

fn delivery_exhausted(row: &Row) -> Result<Option<Arc<Event>>> {
    let event_type: String = row.get("event_type")?;
    if EventType::is_operational(&event_type) {
        return Ok(None);
    }
    let payload = json!({
        "delivery_id": row.get::<Uuid>("id")?,
        "event_id": row.get::<Uuid>("event_id")?,
        "event_type": event_type,
        "endpoint_id": row.get::<Uuid>("endpoint_id")?,
        "attempts": row.get::<i64>("attempts")?,
        "error": row.get_opt::<String>("detail")?,
    });
    operational(DELIVERY_EXHAUSTED, row.get("org_id")?, &payload, row.get("created_at")?).map(Some)
}

fn operational(
    event_type: &str,
    org_id: OrgId,
    payload: &serde_json::Value,
    at: Timestamp,
) -> Result<Arc<Event>> {
    Ok(Arc::new(Event {
        id: EventId::mint(at),
        org_id,
        event_type: event_type
            .parse()
            .map_err(|_| StoreError::Corrupt(format!("event type {event_type}")))?,
        payload: payload.to_string().into(),
        dedup_id: None,
        account_id: None,
        user_id: None,
        occurred_at: None,
        received_at: at,
        trace_id: TraceId::mint(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Attempt, DeliveryId, InstanceId, LeaseToken};

    const LIMIT: Timestamp = Timestamp::from_micros(50);

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn outcome(endpoint: u128, decision: Decision, decided_at: i64) -> Outcome {
        Outcome {
            delivery_id: DeliveryId::mint(at(1)),
            org_id: OrgId::mint(at(1)),
            endpoint_id: EndpointId::from_uuid(Uuid::from_u128(endpoint)),
            event_received_at: at(1),
            token: LeaseToken::mint(InstanceId::new(1)),
            attempt: Some(Attempt {
                number: 1,
                started_at: at(1),
                duration_ms: 1,
                status_code: None,
                error_class: None,
                error: None,
                response_excerpt: None,
            }),
            decision,
            decided_at: at(decided_at),
            disable_if_failing_since: LIMIT,
        }
    }

    #[test]
    fn one_success_in_a_batch_means_that_an_endpoint_works() {
        let retry = Decision::RetryAt(at(200));
        let health = EndpointHealth::of(&[
            outcome(1, retry.clone(), 100),
            outcome(1, Decision::Delivered, 101),
            outcome(2, retry, 102),
            Outcome { attempt: None, ..outcome(3, Decision::RetryAt(at(9)), 103) },
        ]);
        assert_eq!(health.working, [Uuid::from_u128(1)]);
        assert_eq!(health.failing_ids(), [Uuid::from_u128(2)]);
        assert!(!health.is_quiet());
        assert!(EndpointHealth::of(&[outcome(1, Decision::Delivered, 100)]).is_quiet());
    }

    #[test]
    fn endpoint_is_disabled_when_it_is_gone_or_has_failed_for_too_long() {
        let change = |decision, since| {
            EndpointHealth::of(&[outcome(1, decision, 100)]).failing[0].change(since)
        };
        let retry = || Decision::RetryAt(at(200));
        assert_eq!(change(retry(), None), Some(HealthChange::FailsSince(at(100))));
        assert_eq!(change(retry(), Some(at(51))), None);
        for (decision, since) in [(retry(), Some(at(50))), (Decision::Dead(DeadReason::Gone), None)]
        {
            assert!(matches!(change(decision, since), Some(HealthChange::Disabled { .. })));
        }
    }
}
