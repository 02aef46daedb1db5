//! Events: accepted by the API, kept in the journal and the store, delivered to receivers.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Cursor, EventId, EventType, EventTypeFilter, OrgId, SpanId, Timestamp, TraceFilter, TraceId,
};

/// An accepted event. Its payload is the tenant's JSON, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id, and the `webhook-id` of its deliveries.
    pub id: EventId,
    /// The organisation it belongs to.
    pub org_id: OrgId,
    /// Its type.
    pub event_type: EventType,
    /// The payload as JSON text, byte for byte as posted.
    pub payload: Bytes,
    /// The tenant's deduplication id: a second event with it within the window is dropped.
    pub dedup_id: Option<String>,
    /// The tenant's account that the event belongs to.
    pub account_id: Option<String>,
    /// The tenant's user that the event belongs to.
    pub user_id: Option<String>,
    /// When it happened, as given by the tenant.
    pub occurred_at: Option<Timestamp>,
    /// When it was accepted. Set once and journaled, so reading the journal again writes the same row.
    pub received_at: Timestamp,
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// The span of the request that posted it, of which its attempts are children; `None` unless its trace is sampled.
    pub accept_span: Option<SpanId>,
}

impl Event {
    /// The timestamp for receivers: when it happened, or else when it was accepted.
    pub fn timestamp(&self) -> Timestamp {
        self.occurred_at.unwrap_or(self.received_at)
    }

    /// By what outcomes of its deliveries are counted.
    pub fn labels(&self) -> EventLabels {
        EventLabels { event_type: self.event_type.clone(), account_id: self.account_id.clone() }
    }

    /// What the store keeps beside the trace id: the caller's own text; an empty one for the digits of a caller; and
    /// nothing for an id that the server minted for it, which tells by itself when its event was accepted.
    pub fn stored_trace_text(&self) -> Option<&str> {
        let is_minted = self.trace_id.is_minted_for(self.received_at);
        self.trace_id.text().or((!is_minted).then_some(""))
    }

    /// A hash of what its sender wrote, but for the dedup id: two events with different hashes say different things.
    pub fn content_hash(&self) -> i64 {
        let text = |hash: Sha256, text: Option<&str>| match text {
            Some(text) => hash.chain_update((text.len() as u64).to_le_bytes()).chain_update(text),
            None => hash.chain_update(u64::MAX.to_le_bytes()),
        };
        let mut hash = text(Sha256::new(), Some(self.event_type.as_str()));
        hash = text(hash, self.account_id.as_deref());
        hash = text(hash, self.user_id.as_deref());
        let occurred_at = self.occurred_at.map_or(i64::MIN, Timestamp::micros);
        let digest =
            hash.chain_update(occurred_at.to_le_bytes()).chain_update(&self.payload).finalize();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        i64::from_le_bytes(bytes)
    }
}

/// By what the outcomes of an event's deliveries are counted, beside their endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLabels {
    /// The event's type.
    pub event_type: EventType,
    /// The tenant's account that it belongs to.
    pub account_id: Option<String>,
}

/// An event without its payload, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSummary {
    /// Its id.
    pub id: EventId,
    /// The organisation it belongs to.
    pub org_id: OrgId,
    /// Its type.
    pub event_type: EventType,
    /// Bytes in its payload.
    pub payload_bytes: usize,
    /// The tenant's deduplication id.
    pub dedup_id: Option<String>,
    /// The tenant's account that the event belongs to.
    pub account_id: Option<String>,
    /// The tenant's user that the event belongs to.
    pub user_id: Option<String>,
    /// When it happened, as given by the tenant.
    pub occurred_at: Option<Timestamp>,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// As in [`Event`].
    pub accept_span: Option<SpanId>,
}

impl From<Event> for EventSummary {
    fn from(event: Event) -> Self {
        let Event {
            id,
            org_id,
            event_type,
            payload,
            dedup_id,
            account_id,
            user_id,
            occurred_at,
            received_at,
            trace_id,
            accept_span,
        } = event;
        Self {
            id,
            org_id,
            event_type,
            payload_bytes: payload.len(),
            dedup_id,
            account_id,
            user_id,
            occurred_at,
            received_at,
            trace_id,
            accept_span,
        }
    }
}

impl EventSummary {
    /// As [`Event::timestamp`].
    pub fn timestamp(&self) -> Timestamp {
        self.occurred_at.unwrap_or(self.received_at)
    }

    /// Its position in a list.
    pub fn cursor(&self) -> Cursor {
        Cursor { at: self.received_at, id: self.id.uuid() }
    }
}

/// Selects events. Every field that is set must match.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only types that match.
    pub event_type: Option<EventTypeFilter>,
    /// Only of this account.
    pub account_id: Option<String>,
    /// Only of this user.
    pub user_id: Option<String>,
    /// Only with this dedup id.
    pub dedup_id: Option<String>,
    /// Accepted at or after this time.
    pub since: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
    /// Only of this trace.
    pub trace: Option<TraceFilter>,
}
