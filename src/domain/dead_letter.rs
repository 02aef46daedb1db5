//! Dead letters: what was given up, kept for its owner.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::{DeadLetterId, DeliveryId, EndpointId, EventId, EventTypeFilter, Timestamp};

/// Why something became a dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadReason {
    /// Every attempt of the schedule failed.
    Exhausted,
    /// The receiver answered 410 Gone; its endpoint was disabled.
    Gone,
    /// The store refused the event's content.
    Unstorable,
}

/// The text was no reason.
#[derive(Debug, thiserror::Error)]
#[error("must be exhausted, gone or unstorable")]
pub struct DeadReasonError;

impl DeadReason {
    /// The word used in the store and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Gone => "gone",
            Self::Unstorable => "unstorable",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeadReason {
    type Err = DeadReasonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "exhausted" => Ok(Self::Exhausted),
            "gone" => Ok(Self::Gone),
            "unstorable" => Ok(Self::Unstorable),
            _ => Err(DeadReasonError),
        }
    }
}

impl Serialize for DeadReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Something that was given up, kept for its owner: a delivery that ran out of attempts, or an
/// event that the store refused.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// Its id: the delivery's, or the event's where there is no delivery.
    pub id: DeadLetterId,
    /// The event.
    pub event_id: EventId,
    /// The delivery; `None` for an event that the store refused.
    pub delivery_id: Option<DeliveryId>,
    /// The endpoint; `None` for an event that the store refused.
    pub endpoint_id: Option<EndpointId>,
    /// Why: `exhausted`, `gone` or `unstorable`.
    pub reason: String,
    /// The last error in words.
    pub detail: Option<String>,
    /// When it was given up.
    pub created_at: Timestamp,
    /// When it was last replayed; `None` while nobody has dealt with it.
    pub replayed_at: Option<Timestamp>,
}

/// Which dead letters are meant; every field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeadLetterFilter {
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// For this reason.
    pub reason: Option<DeadReason>,
    /// Of events whose type passes. An event that the store refused has none that it could look at.
    #[serde(rename = "type")]
    pub event_type: Option<EventTypeFilter>,
    /// Given up at this moment or later.
    pub since: Option<Timestamp>,
    /// Given up before this moment.
    pub until: Option<Timestamp>,
    /// Replayed already, or not yet.
    #[serde(skip)]
    pub replayed: Option<bool>,
}
