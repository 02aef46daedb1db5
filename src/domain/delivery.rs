//! Deliveries: one event on its way to one endpoint, and what became of each attempt.

use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::{
    DeadReason, DeliveryId, Endpoint, EndpointId, ErrorClass, Event, EventId, OrgId, Timestamp,
};

/// Where a delivery stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Waiting for its first or next attempt, or being attempted.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// Given up; it has a dead letter.
    Dead,
    /// Its owner called it off, or removed its endpoint, before it was delivered.
    Cancelled,
}

/// The text was no delivery status.
#[derive(Debug, thiserror::Error)]
#[error("must be pending, delivered, dead or cancelled")]
pub struct DeliveryStatusError;

impl DeliveryStatus {
    /// The word used in the store and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for DeliveryStatus {
    type Err = DeliveryStatusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pending" => Ok(Self::Pending),
            "delivered" => Ok(Self::Delivered),
            "dead" => Ok(Self::Dead),
            "cancelled" => Ok(Self::Cancelled),
            _ => Err(DeliveryStatusError),
        }
    }
}

/// A delivery as its owner sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// The tenant it belongs to.
    #[serde(skip)]
    pub org_id: OrgId,
    /// The event.
    pub event_id: EventId,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Attempts that have been recorded.
    pub attempts: u32,
    /// When the next attempt may start; `None` when none will, when one is in flight, and while
    /// the endpoint is disabled.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When its status became final; `None` while it is pending.
    pub finished_at: Option<Timestamp>,
    /// The delivery that it repeats, when it is a replay.
    pub replay_of: Option<DeliveryId>,
}

/// One try at a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// When the request was started.
    pub started_at: Timestamp,
    /// From start to the end of the answer, in milliseconds.
    pub duration_ms: u32,
    /// The HTTP status; `None` when there was no answer.
    pub status_code: Option<u16>,
    /// What it failed at; `None` when it succeeded, and of attempts older than the classes.
    pub error_class: Option<ErrorClass>,
    /// Why it failed, in words; `None` when it succeeded.
    pub error: Option<String>,
    /// The start of the receiver's answer, as text, at most 1 KiB.
    pub response_excerpt: Option<String>,
}

/// Which deliveries a list shows; every field that is set must match.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryFilter {
    /// Standing so.
    pub status: Option<DeliveryStatus>,
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Of this event.
    pub event_id: Option<EventId>,
    /// Planned at this moment or later.
    pub since: Option<Timestamp>,
    /// Planned before this moment.
    pub until: Option<Timestamp>,
}

/// Identifies a server: the same id after a restart, and never two processes at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstanceId(u64);

impl InstanceId {
    /// The id that the server's data directory keeps.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// Fences a lease: an outcome counts only while the row still carries the token it was leased with.
///
/// Its first eight bytes tell whose it is, so that a server that starts again can let go at once of
/// what it held when it died.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeaseToken(Uuid);

impl LeaseToken {
    /// A new token of a server, like no other.
    pub fn mint(instance: InstanceId) -> Self {
        let mut bytes = Uuid::new_v4().into_bytes();
        bytes[..8].copy_from_slice(&instance.0.to_be_bytes());
        Self(Uuid::from_bytes(bytes))
    }

    /// The least and the greatest token that a server can mint.
    pub fn range_of(instance: InstanceId) -> (Self, Self) {
        let half = u128::from(instance.0) << 64;
        (Self(Uuid::from_u128(half)), Self(Uuid::from_u128(half | u128::from(u64::MAX))))
    }

    /// Takes a token that the store handed back.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The plain UUID, for the store's columns.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

/// The sole right to attempt some deliveries, for a while.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// What fences it.
    pub token: LeaseToken,
    /// When it lapses: from then on anyone may claim the rows.
    pub until: Timestamp,
}

/// A delivery that this process may attempt, with all that an attempt needs.
#[derive(Clone, Debug)]
pub struct LeasedDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// The event, shared by its deliveries.
    pub event: Arc<Event>,
    /// The endpoint as it was when the lease was taken.
    pub endpoint: Arc<Endpoint>,
    /// Attempts made before this one.
    pub attempts: u32,
    /// The right to attempt it.
    pub lease: Lease,
}

/// What became of a leased delivery, for the store to record.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The tenant it belongs to.
    pub org_id: OrgId,
    /// The endpoint it goes to.
    pub endpoint_id: EndpointId,
    /// When its event was accepted: with the id, the key of its row.
    pub event_received_at: Timestamp,
    /// The token it was leased with.
    pub token: LeaseToken,
    /// The attempt that was made; `None` when it was handed back unattempted.
    pub attempt: Option<Attempt>,
    /// What happens next.
    pub decision: Decision,
    /// When this was decided.
    pub decided_at: Timestamp,
    /// If the attempt failed, as all have since this moment or earlier, the endpoint is disabled.
    pub disable_if_failing_since: Timestamp,
}

/// What happens next to a delivery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Nothing: it arrived.
    Delivered,
    /// Another attempt, at this moment or later.
    RetryAt(Timestamp),
    /// Nothing: it is given up and becomes a dead letter.
    Dead(DeadReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_lies_in_the_range_of_its_server_only() {
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
