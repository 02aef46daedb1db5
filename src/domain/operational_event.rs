//! Operational events: what the server tells receivers about their own endpoints and deliveries.
//!
//! Each is an event like any other; its type begins with `hookgate.`, which no sender can use.

use schemars::JsonSchema;
use serde::Serialize;

use super::{DeliveryId, EndpointId, EventId, Timestamp};

/// The type of a test event that names none.
pub const TEST_EVENT_TYPE: &str = "hookgate.test";

/// An endpoint was disabled by the server.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct EndpointDisabled<'a> {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Why.
    pub reason: &'a str,
    /// When.
    pub disabled_at: Timestamp,
}

/// An inbox was paused because nobody read it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct InboxPaused {
    /// The inbox.
    pub endpoint_id: EndpointId,
    /// When it was last read.
    pub last_read_at: Timestamp,
    /// When it was paused.
    pub paused_at: Timestamp,
}

/// Deliveries were given up because their events are not kept any longer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DeliveriesExpired<'a> {
    /// How many.
    pub deliveries: u64,
    /// Why.
    pub reason: &'a str,
    /// When.
    pub expired_at: Timestamp,
}

/// A delivery has used up its attempts.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DeliveryExhausted<'a> {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Its event.
    pub event_id: EventId,
    /// The type of the event.
    pub event_type: &'a str,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Attempts that were made; `None` where none was recorded.
    pub attempts: Option<u32>,
    /// Why the last one failed.
    pub error: Option<&'a str>,
}

impl EndpointDisabled<'_> {
    /// The type of the event.
    pub const TYPE: &'static str = "hookgate.endpoint.disabled";
}

impl InboxPaused {
    /// The type of the event.
    pub const TYPE: &'static str = "hookgate.inbox.paused";
}

impl DeliveriesExpired<'_> {
    /// The type of the event.
    pub const TYPE: &'static str = "hookgate.deliveries.expired";
}

impl DeliveryExhausted<'_> {
    /// The type of the event.
    pub const TYPE: &'static str = "hookgate.delivery.exhausted";
}
