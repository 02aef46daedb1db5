//! Events: accepted by the API, kept in the journal and the store, delivered to receivers.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::Serialize;

use super::{EventId, EventTypeFilter, OrgId, Timestamp, TraceId};

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
}

impl Event {
    /// The timestamp for receivers: when it happened, or else when it was accepted.
    pub fn timestamp(&self) -> Timestamp {
        self.occurred_at.unwrap_or(self.received_at)
    }
}

/// An event type: dot-separated words of letters, digits, `_` and `-`, such as `user.login`. At most 128 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct EventType(String);

/// The text is not an event type.
#[derive(Debug, thiserror::Error)]
#[error("must be dot-separated words of letters, digits, '_' and '-', at most 128 bytes")]
pub struct EventTypeError;

impl EventType {
    /// Maximum bytes.
    pub const BYTES_MAX: usize = 128;

    /// Whether `text` is an event type. Parses without a copy.
    pub fn is_valid(text: &str) -> bool {
        let word_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let mut previous = b'.';
        for byte in text.bytes() {
            if !(word_byte(byte) || byte == b'.' && previous != b'.') {
                return false;
            }
            previous = byte;
        }
        previous != b'.' && text.len() <= Self::BYTES_MAX
    }

    /// Whether a type belongs to the server's operational events, which start with `hookgate.`.
    pub fn is_operational(text: &str) -> bool {
        text.starts_with("hookgate.")
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventType {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !Self::is_valid(text) {
            return Err(EventTypeError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
    /// Accepted at or after this time.
    pub since: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_dotted_words() {
        for good in ["a", "user.login", "github.push-v2", "A_1.b"] {
            assert!(EventType::is_valid(good), "{good}");
        }
        let long = "a".repeat(129);
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "user.*", "ü", "a\0", &long] {
            assert!(!EventType::is_valid(bad), "{bad}");
        }
    }
}
