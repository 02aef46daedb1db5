//! Events.

use std::borrow::Cow;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::ser::{Error as _, SerializeStruct};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::delivery::DeliveryView;
use crate::domain::{Cursor, Event, EventId, EventSummary, EventType, Timestamp};

/// An event as its owner reads it. Payloads may be large, so it is written from the event itself, with the fields of
/// [`EventFields`].
#[derive(Clone, Debug)]
pub struct EventView {
    summary: EventSummary,
    payload: Option<Bytes>,
}

/// An event with its newest deliveries.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct EventDetail {
    /// As in a list.
    #[serde(flatten)]
    pub event: EventView,
    /// Events that were dropped because they had its dedup id; `None` if it has none, or its dedup window is long over.
    pub duplicates: Option<u64>,
    /// Those of them whose content was another one.
    pub conflicts: Option<u64>,
    /// Its newest deliveries; `/api/deliveries?event_id=` lists all of them.
    pub deliveries: Vec<DeliveryView>,
    /// Where `/api/deliveries?event_id=` goes on; `None` if these are all of them.
    pub deliveries_next_cursor: Option<Cursor>,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let payload = event.payload.clone();
        Self::from((event.into(), payload))
    }
}

impl From<(EventSummary, Bytes)> for EventView {
    fn from((summary, payload): (EventSummary, Bytes)) -> Self {
        Self { summary, payload: Some(payload) }
    }
}

impl From<EventSummary> for EventView {
    fn from(summary: EventSummary) -> Self {
        Self { summary, payload: None }
    }
}

impl EventView {
    /// Its position in a list.
    pub fn cursor(&self) -> Cursor {
        self.summary.cursor()
    }

    /// The event without its payload.
    pub const fn summary(&self) -> &EventSummary {
        &self.summary
    }

    /// Its payload, as far as it has it; empty once it is removed.
    pub const fn payload(&self) -> Option<&Bytes> {
        self.payload.as_ref()
    }

    /// Bytes of its payload, as far as it has it.
    pub fn shown_payload_bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }
}

impl Serialize for EventView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { summary: event, payload } = self;
        let mut fields = serializer.serialize_struct("Event", 11)?;
        fields.serialize_field("id", &event.id)?;
        fields.serialize_field("type", event.event_type.as_str())?;
        if let Some(payload) = payload {
            let payload: Option<&RawValue> = if payload.is_empty() {
                None
            } else {
                Some(serde_json::from_slice(payload).map_err(S::Error::custom)?)
            };
            fields.serialize_field("payload", &payload)?;
        }
        // No event was accepted without a payload.
        fields.serialize_field("payload_removed", &(event.payload_bytes == 0))?;
        fields.serialize_field("payload_bytes", &event.payload_bytes)?;
        fields.serialize_field("dedup_id", &event.dedup_id)?;
        fields.serialize_field("account_id", &event.account_id)?;
        fields.serialize_field("user_id", &event.user_id)?;
        fields.serialize_field("timestamp", &event.timestamp())?;
        fields.serialize_field("received_at", &event.received_at)?;
        fields.serialize_field("trace_id", &event.trace_id.to_string())?;
        fields.end()
    }
}

/// The fields that an event is written with, in their order.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what `EventView` serialises")]
struct EventFields {
    /// Its id.
    id: EventId,
    /// Its type.
    r#type: EventType,
    /// What was posted, byte for byte; `null` once it is removed. Lists have it only if asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    /// Whether the payload is older than it is kept, or was erased.
    payload_removed: bool,
    /// Bytes of the payload.
    payload_bytes: u64,
    /// Its sender's own id for it.
    dedup_id: Option<String>,
    /// The account that it belongs to.
    account_id: Option<String>,
    /// The user that it belongs to.
    user_id: Option<String>,
    /// When it happened, or else was accepted: what receivers are told.
    timestamp: Timestamp,
    /// When it was accepted.
    received_at: Timestamp,
    /// Its trace: 32 hexadecimal digits, or the text that its sender gave as `x-trace-id`.
    trace_id: String,
}

impl JsonSchema for EventView {
    fn schema_name() -> Cow<'static, str> {
        "Event".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = EventFields::json_schema(generator);
        schema.insert("description".into(), "An event as its owner reads it.".into());
        schema
    }
}
