//! What consumers of inboxes get.

use schemars::JsonSchema;
use serde::Serialize;

use super::event::EventView;
use crate::domain::{DeliveryId, ReceivedEvent, Settled, Timestamp};

/// The answer to a read of an inbox.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct InboxPage {
    /// The events that were received, those that have waited longest first.
    pub data: Vec<ReceivedEventView>,
}

/// An event that was received.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct ReceivedEventView {
    /// The event with its payload.
    #[serde(flatten)]
    pub event: EventView,
    /// Its delivery to the inbox.
    pub delivery_id: DeliveryId,
    /// How often it was received, this time included.
    pub receive_count: u32,
    /// When it is given out again unless it is acknowledged before.
    pub lease_expires_at: Timestamp,
}

/// The answer to events that were acknowledged or given back.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct SettledEvents {
    /// The events, in the order of the request.
    pub data: Vec<Settled>,
}

impl From<Vec<ReceivedEvent>> for InboxPage {
    fn from(events: Vec<ReceivedEvent>) -> Self {
        Self { data: events.into_iter().map(Into::into).collect() }
    }
}

impl From<ReceivedEvent> for ReceivedEventView {
    fn from(received: ReceivedEvent) -> Self {
        let ReceivedEvent { event, delivery_id, receive_count, lease_expires_at } = received;
        Self { event: (*event).clone().into(), delivery_id, receive_count, lease_expires_at }
    }
}

impl InboxPage {
    /// Bytes of the payloads in it.
    pub fn payload_bytes(&self) -> usize {
        self.data.iter().map(|received| received.event.shown_payload_bytes()).sum()
    }
}
