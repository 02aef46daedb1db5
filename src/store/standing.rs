//! What outcomes say of the endpoints themselves, the same for both backends: which of them fail,
//! which are to be disabled, and what their owners are told of it.
//!
//! Everything here is written in the transaction of the outcomes, so that it is as durable as they
//! are, and told as often: once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use crate::domain::{
    DeadReason, Decision, EndpointId, Event, EventId, EventType, OrgId, Outcome, Timestamp, TraceId,
};

use super::StoreError;
use super::rows::{self, Columns};

/// What an endpoint that answered 410 is disabled with.
const GONE: &str = "the receiver answered 410 Gone";

const ENDPOINT_DISABLED: &str = "hookgate.endpoint.disabled";
const DELIVERY_EXHAUSTED: &str = "hookgate.delivery.exhausted";

/// What a batch of outcomes says of endpoints.
#[derive(Debug, Default)]
pub(super) struct Standings {
    /// Those an attempt succeeded at.
    pub(super) working: Vec<Uuid>,
    /// Those at which every attempt failed, in key order.
    pub(super) failing: Vec<Failing>,
    /// Whether a delivery was given up.
    has_deaths: bool,
}

/// An endpoint at which every attempt of a batch failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failing {
    pub(super) endpoint: Uuid,
    at: Timestamp,
    /// It is disabled if it has failed since then.
    pub(super) limit: Timestamp,
    /// Whether it answered that it is gone for good.
    pub(super) gone: bool,
}

/// What becomes of an endpoint that fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Sentence {
    /// It is noted that it fails, from this moment on.
    FailsSince(Timestamp),
    /// It is disabled, for this reason.
    Disabled { org: OrgId, reason: String, at: Timestamp },
}

impl Standings {
    /// Reads them off a batch.
    pub(super) fn of(outcomes: &[Outcome]) -> Self {
        let mut failing: BTreeMap<Uuid, Failing> = BTreeMap::new();
        let mut working = BTreeSet::new();
        let mut has_deaths = false;
        for outcome in outcomes {
            let endpoint = outcome.endpoint_id.uuid();
            has_deaths |= matches!(outcome.decision, Decision::Dead(_));
            if outcome.attempt.is_none() {
                continue;
            }
            if outcome.decision == Decision::Delivered {
                working.insert(endpoint);
                continue;
            }
            let gone = outcome.decision == Decision::Dead(DeadReason::Gone);
            let (at, limit) = (outcome.decided_at, outcome.disable_if_failing_since);
            let new = Failing { endpoint, at, limit, gone };
            let known = failing.entry(endpoint).or_insert(new);
            known.at = known.at.min(at);
            known.limit = known.limit.max(limit);
            known.gone |= gone;
        }
        failing.retain(|endpoint, failing| failing.gone || !working.contains(endpoint));
        Self {
            working: working.into_iter().filter(|id| !failing.contains_key(id)).collect(),
            failing: failing.into_values().collect(),
            has_deaths,
        }
    }

    /// Whether there is nothing to do but to note who works.
    pub(super) fn is_quiet(&self) -> bool {
        self.failing.is_empty() && !self.has_deaths
    }

    /// The failing ones' ids, to look them up with `id, org_id, failing_since` of those that are
    /// enabled.
    pub(super) fn failing_ids(&self) -> impl Iterator<Item = Uuid> {
        self.failing.iter().map(|failing| failing.endpoint)
    }

    /// What becomes of the failing endpoints, from `id, org_id, failing_since` of those that are
    /// enabled. Those that need no change are left out.
    pub(super) fn sentences<R: Columns>(
        &self,
        found: &[R],
    ) -> Result<Vec<(EndpointId, Sentence)>, StoreError> {
        let mut sentences = Vec::new();
        for row in found {
            let (endpoint, org, since) = (row.uuid(0)?, row.uuid(1)?, row.moment_opt(2)?);
            let place = self.failing.binary_search_by_key(&endpoint, |failing| failing.endpoint);
            let Some(failing) = place.ok().and_then(|place| self.failing.get(place)) else {
                continue;
            };
            if let Some(sentence) = failing.sentence(OrgId::from_uuid(org), since) {
                sentences.push((EndpointId::from_uuid(endpoint), sentence));
            }
        }
        Ok(sentences)
    }
}

impl Failing {
    fn sentence(&self, org: OrgId, since: Option<Timestamp>) -> Option<Sentence> {
        let disabled = |reason| Some(Sentence::Disabled { org, reason, at: self.at });
        match since {
            _ if self.gone => disabled(GONE.to_owned()),
            None => Some(Sentence::FailsSince(self.at)),
            Some(since) if since <= self.limit => {
                disabled(format!("every attempt has failed since {since}"))
            }
            Some(_) => None,
        }
    }
}

/// Tells that an endpoint was disabled.
pub(super) fn endpoint_disabled(
    endpoint: EndpointId,
    org: OrgId,
    reason: &str,
    at: Timestamp,
) -> Result<Arc<Event>, StoreError> {
    tracing::warn!(%org, %endpoint, reason, "endpoint disabled");
    let payload = json!({ "endpoint_id": endpoint, "reason": reason, "disabled_at": at });
    operational(ENDPOINT_DISABLED, org, &payload, at)
}

/// Tells that a delivery has used up its attempts, from `id, org_id, event_id, endpoint_id,
/// attempts, detail, created_at` of its row and its dead letter and the type of its event. `None` for
/// the delivery of an operational event: news of that would make more of it.
pub(super) fn delivery_exhausted(row: &impl Columns) -> Result<Option<Arc<Event>>, StoreError> {
    let event_type = row.text(7)?;
    if EventType::is_operational(&event_type) {
        return Ok(None);
    }
    let payload = json!({
        "delivery_id": row.uuid(0)?,
        "event_id": row.uuid(2)?,
        "event_type": event_type,
        "endpoint_id": row.uuid(3)?,
        "attempts": row.number(4)?,
        "error": row.text_opt(5)?,
    });
    let org = OrgId::from_uuid(row.uuid(1)?);
    operational(DELIVERY_EXHAUSTED, org, &payload, row.moment(6)?).map(Some)
}

fn operational(
    event_type: &str,
    org_id: OrgId,
    payload: &serde_json::Value,
    at: Timestamp,
) -> Result<Arc<Event>, StoreError> {
    Ok(Arc::new(Event {
        id: EventId::mint(at),
        org_id,
        event_type: rows::parsed("event_type", event_type)?,
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
        let standings = Standings::of(&[
            outcome(1, retry.clone(), 100),
            outcome(1, Decision::Delivered, 101),
            outcome(2, retry, 102),
            Outcome { attempt: None, ..outcome(3, Decision::RetryAt(at(9)), 103) },
        ]);
        assert_eq!(standings.working, [Uuid::from_u128(1)]);
        assert_eq!(standings.failing_ids().collect::<Vec<_>>(), [Uuid::from_u128(2)]);
        assert!(!standings.is_quiet());
        assert!(Standings::of(&[outcome(1, Decision::Delivered, 100)]).is_quiet());
    }

    #[test]
    fn endpoint_is_disabled_when_it_is_gone_or_has_failed_for_too_long() {
        let sentence = |decision, since| {
            let org = OrgId::from_uuid(Uuid::nil());
            Standings::of(&[outcome(1, decision, 100)]).failing[0].sentence(org, since)
        };
        let retry = || Decision::RetryAt(at(200));
        assert_eq!(sentence(retry(), None), Some(Sentence::FailsSince(at(100))));
        assert_eq!(sentence(retry(), Some(at(51))), None);
        for (decision, since) in [(retry(), Some(at(50))), (Decision::Dead(DeadReason::Gone), None)]
        {
            assert!(matches!(sentence(decision, since), Some(Sentence::Disabled { .. })));
        }
    }
}
