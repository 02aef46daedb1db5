//! Derives endpoint health from a batch of outcomes: which endpoints work and which fail, which are disabled, and
//! which operational events follow.
//!
//! All of it is written in the transaction of the outcomes, so that it is as durable as they are, and
//! published once.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::operational_events::endpoint_disabled;
use crate::domain::{Actor, DeadReason, Decision, EndpointId, Event, OrgId, Outcome, Timestamp};
use crate::store::engine::{Row, Tx, args};
use crate::store::{AuditRecord, Result, audit, endpoint_versions};

/// Why an endpoint that answered 410 is disabled.
const GONE: &str = "the receiver answered 410 Gone";

/// The times of the last success and failure are written again when they are older than this: an endpoint's row is
/// not written for every outcome.
pub(super) const TIME_RESOLUTION: Duration = Duration::from_mins(1);

/// The health of the endpoints that a batch of outcomes is about.
#[derive(Debug, Default)]
pub(super) struct EndpointHealth {
    /// By the newest version that was attempted: what an endpoint was tells nothing of what it is.
    observed: BTreeMap<Uuid, (u64, Observation)>,
    /// The organisations of deliveries that are given up.
    dead_orgs: Vec<OrgId>,
}

/// What the attempts of a batch say about an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Observation {
    /// One succeeded, at this time.
    Works(Timestamp),
    /// Every one failed.
    Fails(Failures),
}

/// Attempts that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Failures {
    /// When the first did.
    at: Timestamp,
    /// The endpoint is disabled if it has failed since then.
    limit: Timestamp,
    /// Whether it answered that it is gone for good.
    gone: bool,
}

/// What is known about an endpoint.
#[derive(Clone, Copy, Debug)]
struct KnownHealth {
    version: u64,
    disabled: bool,
    failing_since: Option<Timestamp>,
    last_success_at: Option<Timestamp>,
    last_failure_at: Option<Timestamp>,
}

/// How the health of an endpoint changes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum HealthChange {
    /// An attempt succeeded.
    Works(Timestamp),
    /// It fails, since this time if it is not known to fail.
    Fails(Timestamp),
    /// It is disabled, for this reason.
    Disabled { reason: String, at: Timestamp },
}

impl EndpointHealth {
    /// Derives it from a batch.
    pub(super) fn of(outcomes: &[Outcome]) -> Self {
        let mut health = Self::default();
        for outcome in outcomes {
            if matches!(outcome.decision, Decision::Dead(_)) {
                health.dead_orgs.push(outcome.org_id);
            }
            if outcome.attempt.is_some() {
                health.observe(outcome);
            }
        }
        health.dead_orgs.sort_unstable();
        health.dead_orgs.dedup();
        health
    }

    fn observe(&mut self, outcome: &Outcome) {
        let at = outcome.decided_at;
        let new = if outcome.decision == Decision::Delivered {
            Observation::Works(at)
        } else {
            let gone = outcome.decision == Decision::Dead(DeadReason::Gone);
            Observation::Fails(Failures { at, limit: outcome.disable_if_failing_since, gone })
        };
        let id = outcome.endpoint_id.uuid();
        let version = outcome.endpoint_version;
        let (known_version, known) = self.observed.entry(id).or_insert((version, new));
        match version.cmp(known_version) {
            Ordering::Greater => (*known_version, *known) = (version, new),
            Ordering::Equal => *known = known.and(new),
            Ordering::Less => {}
        }
    }

    /// Whether every attempt succeeded, and no delivery is given up.
    pub(super) fn is_quiet(&self) -> bool {
        let works = |seen: &(u64, Observation)| matches!(seen.1, Observation::Works(_));
        self.dead_orgs.is_empty() && self.observed.values().all(works)
    }

    /// The endpoints of which an attempt succeeded, with its time, in key order.
    pub(super) fn working(&self) -> Vec<(Uuid, Timestamp)> {
        let works = |(id, (_, observation)): (&Uuid, &(u64, Observation))| match observation {
            Observation::Works(at) => Some((*id, *at)),
            Observation::Fails(_) => None,
        };
        self.observed.iter().filter_map(works).collect()
    }

    /// The endpoints, in key order.
    pub(super) fn endpoints(&self) -> Vec<Uuid> {
        self.observed.keys().copied().collect()
    }

    /// Writes which endpoints work and fail, disables those that are gone or have failed for too long, and
    /// returns the operational events that follow. It locks the organisations that change or that something is
    /// told about, and then the endpoints that change, each in key order.
    pub(super) async fn write(&self, tx: &mut Tx<'_>) -> Result<Vec<Arc<Event>>> {
        let found = self.changes(tx, self.endpoints(), "").await?;
        let mut orgs: Vec<Uuid> = self.dead_orgs.iter().copied().map(OrgId::uuid).collect();
        orgs.extend(found.iter().map(|(org, ..)| org.uuid()));
        if orgs.is_empty() {
            return Ok(Vec::new());
        }
        let changes = if let Tx::Postgres(_) = tx {
            let lock = "SELECT 1 FROM orgs WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE";
            tx.execute(lock, args![orgs]).await?;
            let changing = found.iter().map(|(_, endpoint, _)| endpoint.uuid()).collect();
            self.changes(tx, changing, " FOR NO KEY UPDATE").await?
        } else {
            found
        };
        let (mut works, mut fails) = (Vec::new(), Vec::new());
        let mut events = Vec::new();
        for (org, endpoint, change) in changes {
            match change {
                HealthChange::Works(at) => works.push((endpoint, at)),
                HealthChange::Fails(at) => fails.push((endpoint, at)),
                HealthChange::Disabled { reason, at } => {
                    disable(tx, (org, endpoint), &reason, at).await?;
                    events.push(endpoint_disabled(endpoint, org, &reason, at)?);
                }
            }
        }
        set_times(tx, "failing_since = NULL, last_success_at = o.at", &works).await?;
        let fail = "failing_since = coalesce(failing_since, o.at), last_failure_at = o.at";
        set_times(tx, fail, &fails).await?;
        Ok(events)
    }

    /// The endpoints among `ids` whose health changes, in key order.
    async fn changes(
        &self,
        tx: &mut Tx<'_>,
        ids: Vec<Uuid>,
        lock: &'static str,
    ) -> Result<Vec<(OrgId, EndpointId, HealthChange)>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT id, org_id, version, disabled_reason IS NOT NULL AS disabled, failing_since,
                    last_success_at, last_failure_at
             FROM endpoints WHERE {} AND removed_at IS NULL ORDER BY id{lock}",
            tx.dialect().any("id", "$1")
        );
        let mut changes = Vec::new();
        for row in tx.all(sql, args![ids]).await? {
            let (id, org): (EndpointId, OrgId) = (row.get("id")?, row.get("org_id")?);
            let known = KnownHealth::read(&row)?;
            let seen = self.observed.get(&id.uuid());
            let change = seen.and_then(|(version, seen)| seen.change(*version, known));
            changes.extend(change.map(|change| (org, id, change)));
        }
        Ok(changes)
    }
}

impl Observation {
    /// Two observations of one endpoint: one success means that it works, but for a 410.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Fails(one), Self::Fails(other)) => Self::Fails(Failures {
                at: one.at.min(other.at),
                limit: one.limit.max(other.limit),
                gone: one.gone || other.gone,
            }),
            (Self::Works(one), Self::Works(other)) => Self::Works(one.max(other)),
            (Self::Works(at), Self::Fails(failures)) | (Self::Fails(failures), Self::Works(at)) => {
                if failures.gone {
                    Self::Fails(failures)
                } else {
                    Self::Works(at)
                }
            }
        }
    }

    /// What it changes of an endpoint of which this version was attempted: one that has moved since fails no more.
    fn change(self, version: u64, known: KnownHealth) -> Option<HealthChange> {
        let is_old = |at: Timestamp, last: Option<Timestamp>| {
            last.is_none_or(|last| at.since(last) >= TIME_RESOLUTION)
        };
        let Failures { at, limit, gone } = match self {
            Self::Works(at) => {
                let changes = known.failing_since.is_some() || is_old(at, known.last_success_at);
                return changes.then_some(HealthChange::Works(at));
            }
            Self::Fails(_) if known.disabled || known.version > version => return None,
            Self::Fails(failures) => failures,
        };
        let disabled = |reason| Some(HealthChange::Disabled { reason, at });
        match known.failing_since {
            _ if gone => disabled(GONE.to_owned()),
            Some(since) if since <= limit => {
                disabled(format!("every attempt has failed since {since}"))
            }
            Some(_) if !is_old(at, known.last_failure_at) => None,
            Some(_) | None => Some(HealthChange::Fails(at)),
        }
    }
}

impl KnownHealth {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            version: row.get("version")?,
            disabled: row.get("disabled")?,
            failing_since: row.get_opt("failing_since")?,
            last_success_at: row.get_opt("last_success_at")?,
            last_failure_at: row.get_opt("last_failure_at")?,
        })
    }
}

/// Sets times of endpoints, many in a statement: of a thousand that begin to fail together, each would be a round trip
/// while everybody who stores waits.
async fn set_times(
    tx: &mut Tx<'_>,
    set: &'static str,
    changes: &[(EndpointId, Timestamp)],
) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE endpoints SET {set} FROM ({}) o WHERE endpoints.id = o.id",
        tx.dialect().keys("$1", "$2")
    );
    let (ids, times): (Vec<Uuid>, Vec<i64>) =
        changes.iter().map(|(endpoint, at)| (endpoint.uuid(), at.micros())).unzip();
    tx.execute(sql, args![ids, times]).await.map(drop)
}

/// Disables an endpoint. Its deliveries wait as they are.
async fn disable(
    tx: &mut Tx<'_>,
    (org, endpoint): (OrgId, EndpointId),
    reason: &str,
    at: Timestamp,
) -> Result<()> {
    let version = endpoint_versions::next_version(tx, org).await?;
    let sql = "UPDATE endpoints
               SET disabled_reason = $2, updated_at = $3, last_failure_at = $3, version = $4
               WHERE id = $1";
    tx.execute(sql, args![endpoint, reason, at, version]).await?;
    let record = AuditRecord::endpoint_disabled(org, endpoint, reason);
    audit::write(tx, &record, &Actor::SERVER, at).await
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
            endpoint_version: 3,
            event_received_at: at(1),
            labels: None,
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
        let failures = Failures { at: at(102), limit: LIMIT, gone: false };
        let observed: Vec<_> = health.observed.into_values().map(|(_, seen)| seen).collect();
        assert_eq!(observed, [Observation::Works(at(101)), Observation::Fails(failures)]);
    }

    #[test]
    fn newest_version_that_was_attempted_tells_how_an_endpoint_does() {
        let gone = outcome(1, Decision::Dead(DeadReason::Gone), 99);
        let gone = Outcome { endpoint_version: 2, ..gone };
        let works = outcome(1, Decision::Delivered, 100);
        for outcomes in [[gone.clone(), works.clone()], [works, gone]] {
            let observed: Vec<_> = EndpointHealth::of(&outcomes).observed.into_values().collect();
            assert_eq!(observed, [(3, Observation::Works(at(100)))]);
        }
    }

    #[test]
    fn batch_is_quiet_when_nothing_fails_and_nothing_is_given_up() {
        let is_quiet = |decision| EndpointHealth::of(&[outcome(1, decision, 100)]).is_quiet();
        assert!(is_quiet(Decision::Delivered));
        assert!(!is_quiet(Decision::RetryAt(at(200))));
        assert!(!is_quiet(Decision::Dead(DeadReason::Exhausted)));
    }

    #[test]
    fn endpoint_is_disabled_when_it_is_gone_or_has_failed_for_too_long() {
        let retry = || Decision::RetryAt(at(200));
        let known = |failing_since| KnownHealth {
            version: 3,
            disabled: false,
            failing_since,
            last_success_at: None,
            last_failure_at: Some(at(99)),
        };
        let change = |decision, known| {
            let health = EndpointHealth::of(&[outcome(1, decision, 100)]);
            let (version, seen) = health.observed[&Uuid::from_u128(1)];
            seen.change(version, known)
        };
        assert_eq!(change(retry(), known(None)), Some(HealthChange::Fails(at(100))));
        assert_eq!(change(retry(), known(Some(at(51)))), None, "known, and told a moment ago");
        let gone = Decision::Dead(DeadReason::Gone);
        for (decision, since) in [(retry(), Some(at(50))), (gone, None)] {
            let disabled = KnownHealth { disabled: true, ..known(since) };
            assert_eq!(change(decision.clone(), disabled), None);
            let changed = KnownHealth { version: 4, ..known(since) };
            assert_eq!(change(decision.clone(), changed), None, "it has changed since");
            let change = change(decision, known(since));
            assert!(matches!(change, Some(HealthChange::Disabled { .. })));
        }
    }

    #[test]
    fn times_are_written_once_a_minute() {
        let now = at(100).plus(TIME_RESOLUTION);
        let change = |last_success_at| {
            let known = KnownHealth {
                version: 3,
                disabled: false,
                failing_since: None,
                last_success_at,
                last_failure_at: None,
            };
            Observation::Works(now).change(3, known)
        };
        assert_eq!(change(Some(at(101))), None);
        assert_eq!(change(Some(at(100))), Some(HealthChange::Works(now)));
        assert_eq!(change(None), Some(HealthChange::Works(now)));
    }
}
