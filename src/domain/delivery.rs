//! Deliveries: one event to one endpoint, with their attempts, leases and outcomes.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantNames};
use uuid::Uuid;

use super::{
    Cursor, DeadReason, DeliveryId, Endpoint, EndpointId, ErrorClass, Event, EventId, EventLabels,
    EventTypeFilter, OrgId, Timestamp, attempt_position,
};

/// The status of a delivery.
///
/// ```text
///                       leased for an attempt
///  fan-out ──▶ ┌─────────┐ ─────────────────▶ ┌───────────┐ ── 2xx ─────────▶ delivered
///              │ pending │                    │ in flight │
///  replay ───▶ └─────────┘ ◀───────────────── └───────────┘ ── 410, or no ──▶ dead
///                   │      failed with attempts                attempts left
///                   │      left, or the lease lapsed
///                   └── cancelled by its owner, or its endpoint deleted ────▶ cancelled
/// ```
/// In flight is not a status of its own: such a delivery is `pending` and has a lease. One that is `delivered`, `dead` or
/// `cancelled` stays so until somebody retries it, which makes it `pending` again. A delivery in flight can be cancelled
/// too; the outcome of its attempt is then ignored.
/// While its endpoint is disabled or its organisation suspended, a pending delivery waits as it is, and no server
/// leases it.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    JsonSchema,
    Serialize,
    EnumString,
    IntoStaticStr,
    VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = DeliveryStatusError, parse_err_fn = unknown_status)]
pub enum DeliveryStatus {
    /// Waiting for its first or next attempt, or in flight.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// Given up; a dead letter was created.
    Dead,
    /// Cancelled by its owner, or its endpoint was deleted, before it was delivered.
    Cancelled,
}

/// The text is not a delivery status.
#[derive(Debug, thiserror::Error)]
#[error("must be pending, delivered, dead or cancelled")]
pub struct DeliveryStatusError;

impl DeliveryStatus {
    /// The word in the store and in responses.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_status(_: &str) -> DeliveryStatusError {
    DeliveryStatusError
}

/// A delivery, as the API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// The organisation it belongs to.
    #[serde(skip)]
    pub org_id: OrgId,
    /// The event.
    pub event_id: EventId,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Its status.
    pub status: DeliveryStatus,
    /// Recorded attempts.
    pub attempts: u32,
    /// When the next attempt is due; `None` if there is none, while one is in flight, and while the endpoint is
    /// disabled.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was created: at fan-out, or by a redelivery.
    pub created_at: Timestamp,
    /// When its status became final; `None` while it is pending.
    pub finished_at: Option<Timestamp>,
    /// The original delivery, if this is a redelivery.
    pub replay_of: Option<DeliveryId>,
    /// The type of the event; `None` when the event is gone.
    pub event_type: Option<String>,
    /// Where its endpoint sends, without what may be secret; `None` when the endpoint is gone.
    pub endpoint_url: Option<String>,
    /// What the last attempt came to.
    #[serde(flatten)]
    pub last: LastAttempt,
    /// What a pending one waits for beside the time of its next attempt.
    pub held_by: Option<HeldBy>,
}

/// What the last recorded attempt of a delivery came to; nothing while there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LastAttempt {
    /// Why it failed, as free text.
    pub error: Option<String>,
    /// Why it failed.
    pub error_class: Option<ErrorClass>,
    /// The HTTP status of its answer.
    pub status_code: Option<u16>,
}

/// What keeps a pending delivery from its next attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum HeldBy {
    /// Its endpoint is disabled.
    Disabled,
    /// An attempt is in flight, or another server has it in hand.
    InFlight,
    /// Its endpoint is paused by the circuit breaker of this server.
    Paused,
    /// Its endpoint cannot be read from the database, which operators are told.
    Unreadable,
}

/// An attempt in the list of an endpoint's attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointAttempt {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The event.
    pub event_id: EventId,
    /// The attempt.
    pub attempt: Attempt,
}

impl EndpointAttempt {
    /// Its position in the list.
    pub fn position(&self) -> Cursor {
        attempt_position(self.delivery_id, self.attempt.number)
    }
}

/// One attempt of a delivery: one HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Attempt {
    /// Its number, counted from 1.
    pub number: u32,
    /// When the request started.
    pub started_at: Timestamp,
    /// From the start to the end of the response, in milliseconds.
    pub duration_ms: u32,
    /// The HTTP status; `None` without a response.
    pub status_code: Option<u16>,
    /// Why it failed; `None` if it succeeded, or was recorded before error classes existed.
    pub error_class: Option<ErrorClass>,
    /// Why it failed, as free text; `None` if it succeeded.
    pub error: Option<String>,
    /// The start of the response body as text, at most 1 KiB.
    pub response_excerpt: Option<String>,
}

/// Selects deliveries. Every field that is set must match.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Only this status.
    pub status: Option<DeliveryStatus>,
    /// Only this endpoint's.
    pub endpoint_id: Option<EndpointId>,
    /// Only this event's.
    pub event_id: Option<EventId>,
    /// Created at or after this time.
    pub since: Option<Timestamp>,
    /// Created before this time.
    pub until: Option<Timestamp>,
    /// Only of events whose type matches.
    pub event_type: Option<EventTypeFilter>,
    /// Only those whose last attempt failed with this class.
    pub error_class: Option<ErrorClass>,
    /// Only those whose last attempt failed with this HTTP status.
    pub status_code: Option<u16>,
}

/// Identifies one run of a server: minted at random at each start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstanceId(u64);

impl InstanceId {
    /// For leases that no server holds as its own: a restart does not release them. The ids of servers are random.
    pub const OF_INBOXES: Self = Self(0);

    /// The id of this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A fencing token: an outcome counts only while its row still has the token of the lease.
///
/// The first eight bytes identify the server's run, so that the leases of a run that has ended can be released at
/// once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeaseToken(Uuid);

impl LeaseToken {
    /// Mints a unique token for a server.
    pub fn mint(instance: InstanceId) -> Self {
        let mut bytes = Uuid::new_v4().into_bytes();
        bytes[..8].copy_from_slice(&instance.0.to_be_bytes());
        Self(Uuid::from_bytes(bytes))
    }

    /// The smallest and the largest token that a server can mint.
    pub fn range_of(instance: InstanceId) -> (Self, Self) {
        let half = u128::from(instance.0) << 64;
        (Self(Uuid::from_u128(half)), Self(Uuid::from_u128(half | u128::from(u64::MAX))))
    }

    /// Wraps a token read from the store.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The plain UUID, for the store's columns.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

/// The exclusive right to attempt a delivery until a deadline.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Its fencing token.
    pub token: LeaseToken,
    /// When it lapses. From then on any server may claim the delivery.
    pub until: Timestamp,
}

/// A delivery leased by this process, with everything an attempt needs.
#[derive(Clone, Debug)]
pub struct LeasedDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// The event, shared by all its deliveries.
    pub event: Arc<Event>,
    /// The endpoint as it was when the lease was taken.
    pub endpoint: Arc<Endpoint>,
    /// Earlier attempts.
    pub attempts: u32,
    /// Whether it was planned in the order of its endpoint's events.
    pub ordered: bool,
    /// The lease.
    pub lease: Lease,
}

impl LeasedDelivery {
    /// Its outcome, decided at a time: what an attempt came to, or, without one, what follows.
    pub fn outcome(
        &self,
        attempt: Option<Attempt>,
        decision: Decision,
        decided_at: Timestamp,
        disable_if_failing_since: Timestamp,
    ) -> Outcome {
        Outcome {
            delivery_id: self.id,
            org_id: self.event.org_id,
            endpoint_id: self.endpoint.id,
            endpoint_version: self.endpoint.version,
            event_received_at: self.event.received_at,
            labels: Some(self.event.labels()),
            token: self.lease.token,
            attempt,
            decision,
            decided_at,
            disable_if_failing_since,
        }
    }
}

/// The outcome of a leased delivery, to be recorded in the store.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The organisation it belongs to.
    pub org_id: OrgId,
    /// The endpoint it goes to.
    pub endpoint_id: EndpointId,
    /// The version of the endpoint that was attempted.
    pub endpoint_version: u64,
    /// When its event was accepted.
    pub event_received_at: Timestamp,
    /// By what it is counted beside the endpoint; `None` when the event cannot be read.
    pub labels: Option<EventLabels>,
    /// The token of its lease.
    pub token: LeaseToken,
    /// The attempt; `None` if the lease was released without one.
    pub attempt: Option<Attempt>,
    /// What follows.
    pub decision: Decision,
    /// When this was decided.
    pub decided_at: Timestamp,
    /// The endpoint is disabled if all its attempts since this time or earlier failed, unless it has changed since it
    /// was attempted.
    pub disable_if_failing_since: Timestamp,
}

#[cfg(test)]
impl Outcome {
    /// A delivery that was made without an attempt, for tests.
    pub(crate) fn delivered(at: Timestamp) -> Self {
        Self {
            delivery_id: DeliveryId::mint(at),
            org_id: OrgId::FIRST,
            endpoint_id: EndpointId::mint(at),
            endpoint_version: 0,
            event_received_at: at,
            labels: None,
            token: LeaseToken::mint(InstanceId::new(1)),
            attempt: None,
            decision: Decision::Delivered,
            decided_at: at,
            disable_if_failing_since: at,
        }
    }
}

/// What follows an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Nothing: the webhook was delivered.
    Delivered,
    /// Another attempt, not before this time.
    RetryAt(Timestamp),
    /// Nothing: the delivery becomes a dead letter.
    Dead(DeadReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_in_the_range_of_its_server_only() {
        let token = LeaseToken::mint(InstanceId::new(7)).uuid();
        let lies_in = |instance| {
            let (least, greatest) = LeaseToken::range_of(InstanceId::new(instance));
            (least.uuid()..=greatest.uuid()).contains(&token)
        };
        assert!(lies_in(7));
        assert!(!lies_in(6) && !lies_in(8));
        assert_ne!(token, LeaseToken::mint(InstanceId::new(7)).uuid());
    }
}
