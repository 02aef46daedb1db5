//! Dead letters: deliveries that were given up and events that the store rejected, kept for replay.

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantNames};

use super::{
    DeadLetterId, DeliveryId, EndpointId, ErrorClass, EventId, EventTypeFilter, Timestamp,
};

/// Why a delivery or an event became a dead letter.
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
    strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = DeadReasonError, parse_err_fn = unknown_reason)]
pub enum DeadReason {
    /// Every attempt of the retry schedule failed.
    Exhausted,
    /// The receiver answered 410 Gone; its endpoint was disabled.
    Gone,
    /// The store rejected the event's content.
    Unstorable,
    /// The event became older than it is kept before it was delivered.
    Expired,
}

/// The text is not a dead-letter reason.
#[derive(Debug, thiserror::Error)]
#[error("must be exhausted, gone, unstorable or expired")]
pub struct DeadReasonError;

impl DeadReason {
    /// The word in the store and in responses.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_reason(_: &str) -> DeadReasonError {
    DeadReasonError
}

/// A delivery that ran out of attempts, or an event that the store rejected.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DeadLetter {
    /// Its id: the delivery's, or the event's when there is no delivery.
    pub id: DeadLetterId,
    /// The event.
    pub event_id: EventId,
    /// The delivery; `None` for an event that the store rejected.
    pub delivery_id: Option<DeliveryId>,
    /// The endpoint; `None` for an event that the store rejected.
    pub endpoint_id: Option<EndpointId>,
    /// The reason: `exhausted`, `gone`, `unstorable` or `expired`.
    pub reason: String,
    /// The type of the event; `None` for an event that the store rejected.
    pub event_type: Option<String>,
    /// Where the endpoint sends, without what may be secret; `None` without an endpoint, or when it is gone.
    pub endpoint_url: Option<String>,
    /// The last error as free text.
    pub detail: Option<String>,
    /// Why the last attempt failed.
    pub error_class: Option<ErrorClass>,
    /// The HTTP status of its answer.
    pub status_code: Option<u16>,
    /// Attempts that were made; `None` for an event that the store rejected.
    pub attempt_count: Option<u32>,
    /// When the delivery was given up, or the event rejected.
    pub created_at: Timestamp,
    /// When it was last replayed; `None` if never.
    pub replayed_at: Option<Timestamp>,
}

/// Selects dead letters. Every field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct DeadLetterFilter {
    /// Only this endpoint's.
    pub endpoint_id: Option<EndpointId>,
    /// Only this event's.
    pub event_id: Option<EventId>,
    /// Only this reason.
    pub reason: Option<DeadReason>,
    /// Only events whose type matches. Never matches events that the store rejected.
    #[serde(rename = "type")]
    pub event_type: Option<EventTypeFilter>,
    /// Created at or after this time.
    pub since: Option<Timestamp>,
    /// Created before this time.
    pub until: Option<Timestamp>,
    /// Already replayed, or not yet.
    pub replayed: Option<bool>,
    /// Only those whose last attempt failed with this class.
    pub error_class: Option<ErrorClass>,
    /// Only those whose last attempt failed with this HTTP status.
    pub status_code: Option<u16>,
}

/// Why a dead letter is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadLetterDeletion {
    /// Its owner discards it.
    Discarded,
    /// The event that the store had rejected is stored now.
    Stored,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_the_same_word_everywhere() {
        for (reason, word) in [
            (DeadReason::Exhausted, "exhausted"),
            (DeadReason::Gone, "gone"),
            (DeadReason::Unstorable, "unstorable"),
            (DeadReason::Expired, "expired"),
        ] {
            assert_eq!((reason.as_str(), reason.to_string().as_str()), (word, word));
            assert_eq!(serde_json::to_value(reason).unwrap(), word);
            assert_eq!(word.parse::<DeadReason>().unwrap(), reason);
        }
        let error = "other".parse::<DeadReason>().unwrap_err();
        assert_eq!(error.to_string(), "must be exhausted, gone, unstorable or expired");
    }
}
