//! Deliveries, and the answers to what callers do with them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::delivery::SentRequest;
use crate::domain::{
    Attempt, Delivery, DeliveryId, DeliveryStatus, EndpointAttempt, EndpointId, ErrorClass,
    EventId, HeldBy, Timestamp,
};

/// A delivery as its owner reads it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DeliveryView {
    /// Its id.
    pub id: DeliveryId,
    /// The event that it delivers.
    pub event_id: EventId,
    /// The endpoint that it delivers to.
    pub endpoint_id: EndpointId,
    /// Its state.
    pub status: DeliveryStatus,
    /// Attempts recorded so far.
    pub attempt_count: u32,
    /// When the next attempt is due; `null` if none is, or a server has it in hand: an attempt is in flight or waits
    /// for its slot.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was delivered, given up or cancelled.
    pub finished_at: Option<Timestamp>,
    /// The delivery that it repeats.
    pub replay_of: Option<DeliveryId>,
    /// The type of the event; `null` when the event is gone.
    pub event_type: Option<String>,
    /// Where the endpoint sends, without the values of its query; `null` when the endpoint is gone.
    pub endpoint_url: Option<String>,
    /// Why the last attempt failed, as text; `null` if none has.
    pub last_error: Option<String>,
    /// Why the last attempt failed, as one word.
    pub last_error_class: Option<ErrorClass>,
    /// The HTTP status of the last answer.
    pub last_status_code: Option<u16>,
    /// What a pending delivery waits for beside its next attempt; `disabled` and `paused` mean its endpoint.
    pub held_by: Option<HeldBy>,
}

/// One delivery with its attempts.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DeliveryDetail {
    /// As in a list.
    #[serde(flatten)]
    pub delivery: DeliveryView,
    /// Its newest 100 attempts, first to last; `attempt_count` tells how many there are.
    pub attempts: Vec<AttemptView>,
}

/// An attempt of a delivery.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct AttemptView {
    /// What it came to.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// What was sent; `null` where that is not known any more: the endpoint was changed since, the event is gone, or
    /// nothing was sent.
    pub request: Option<SentRequest>,
}

/// An attempt in the list of an endpoint's attempts.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct EndpointAttemptView {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The event.
    pub event_id: EventId,
    /// The attempt.
    #[serde(flatten)]
    pub attempt: Attempt,
}

/// The deliveries that a replay of an event created.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct ReplayedEvent {
    /// The new deliveries.
    pub data: Vec<DeliveryView>,
    /// Endpoints that received the event once and were left out: disabled or deleted.
    pub skipped: usize,
}

/// What became of a dead letter that was replayed.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum DeadLetterReplay {
    /// A delivery that is sent again.
    Delivery(DeliveryView),
    /// A quarantined event that is stored now.
    Stored(StoredEvent),
}

/// A quarantined event that is stored now.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct StoredEvent {
    /// The event.
    pub event_id: EventId,
    /// `stored`.
    pub status: &'static str,
}

/// A test event and its delivery.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct TestEvent {
    /// The event.
    pub event_id: EventId,
    /// Its delivery, which shows the outcome.
    pub delivery_id: DeliveryId,
    /// `accepted`.
    pub status: &'static str,
}

/// Pending deliveries that were cancelled.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct CancelledDeliveries {
    /// How many were cancelled at once.
    pub cancelled: u64,
    /// Whether more are cancelled in the background; none of them is sent.
    pub in_progress: bool,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            event_id: delivery.event_id,
            endpoint_id: delivery.endpoint_id,
            status: delivery.status,
            attempt_count: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at,
            created_at: delivery.created_at,
            finished_at: delivery.finished_at,
            replay_of: delivery.replay_of,
            event_type: delivery.event_type,
            endpoint_url: delivery.endpoint_url,
            last_error: delivery.last.error,
            last_error_class: delivery.last.error_class,
            last_status_code: delivery.last.status_code,
            held_by: delivery.held_by,
        }
    }
}

impl From<EndpointAttempt> for EndpointAttemptView {
    fn from(made: EndpointAttempt) -> Self {
        let EndpointAttempt { delivery_id, event_id, attempt } = made;
        Self { delivery_id, event_id, attempt }
    }
}
