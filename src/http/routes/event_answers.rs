//! The answers to posted events, each written into one buffer.

use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::deduplication::Duplicate;
use crate::domain::EventId;
use crate::http::openapi::{Answers, DescribesAnswers};
use crate::http::ratelimit_headers::{self, Counted};
use crate::http::respond::{self, Accepted, RateLimitHeaders};
use crate::limit::RateLimitState;

/// An event that was accepted.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what `one_accepted` writes")]
pub(in crate::http) struct AcceptedEvent {
    /// Its id.
    id: EventId,
    /// `accepted`.
    #[schemars(extend("const" = "accepted"))]
    status: String,
    /// With `on_duplicate`: whether an event with its dedup id is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    duplicate: Option<bool>,
    /// With `on_duplicate`: whether the stored event has another content.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    conflict: Option<bool>,
}

/// Events that were accepted.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what `many_accepted` writes")]
pub(in crate::http) struct AcceptedEvents {
    /// How many.
    accepted: u64,
    /// The same number.
    queued: u64,
    /// Their ids, in the order of the batch.
    ids: Vec<EventId>,
}

/// The answer to a raw event, which may have a warning.
pub(in crate::http) enum RawAccepted {}

impl DescribesAnswers for RawAccepted {
    fn describe(answers: &mut Answers<'_>) {
        <(RateLimitHeaders, Accepted<AcceptedEvent>)>::describe(answers);
        answers.headers(&["warning"]);
    }
}

/// 202 with this body.
pub(super) fn accepted(body: Vec<u8>, quota: RateLimitState) -> Response {
    let mut response = respond::json_bytes(StatusCode::ACCEPTED, body);
    ratelimit_headers::write_headers(response.headers_mut(), Counted::Events, quota);
    response
}

/// `{"id":"…","status":"accepted"}`, in one buffer of the right size; with `"duplicate"` and `"conflict"` where they
/// were asked for.
pub(super) fn one_accepted(id: EventId, found: Option<Duplicate>) -> Vec<u8> {
    let head = br#"{"id":"#;
    let tail: &[u8] = match found {
        None => br#","status":"accepted"}"#,
        Some(Duplicate::None) => br#","status":"accepted","duplicate":false}"#,
        Some(Duplicate::Same) => br#","status":"accepted","duplicate":true}"#,
        Some(Duplicate::Differs) => br#","status":"accepted","duplicate":true,"conflict":true}"#,
    };
    let mut body = Vec::with_capacity(head.len() + QUOTED_ID_BYTES + tail.len());
    body.extend_from_slice(head);
    push_quoted(&mut body, id);
    body.extend_from_slice(tail);
    body
}

/// `{"accepted":2,"queued":2,"ids":["…","…"]}`, in one buffer. `queued`, the same number, is for clients of services
/// that answer so.
pub(super) fn many_accepted(ids: &[EventId]) -> Vec<u8> {
    let count = ids.len();
    let mut body = format!(r#"{{"accepted":{count},"queued":{count},"ids":["#).into_bytes();
    body.reserve(ids.len() * (QUOTED_ID_BYTES + 1) + 2);
    for (index, id) in ids.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        push_quoted(&mut body, *id);
    }
    body.extend_from_slice(b"]}");
    body
}

const QUOTED_ID_BYTES: usize = Hyphenated::LENGTH + 2;

fn push_quoted(body: &mut Vec<u8>, id: EventId) {
    let mut text = Uuid::encode_buffer();
    let text = id.uuid().hyphenated().encode_lower(&mut text);
    body.push(b'"');
    body.extend_from_slice(text.as_bytes());
    body.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_the_json_they_promise() {
        let id = EventId::from_uuid(Uuid::from_u128(1));
        let text = "00000000-0000-0000-0000-000000000001";
        let one = format!(r#"{{"id":"{text}","status":"accepted"}}"#);
        assert_eq!(one_accepted(id, None), one.as_bytes());
        for (found, told) in [
            (Duplicate::None, r#""duplicate":false"#),
            (Duplicate::Same, r#""duplicate":true"#),
            (Duplicate::Differs, r#""duplicate":true,"conflict":true"#),
        ] {
            let one = format!(r#"{{"id":"{text}","status":"accepted",{told}}}"#);
            assert_eq!(one_accepted(id, Some(found)), one.as_bytes());
        }
        let two = format!(r#"{{"accepted":2,"queued":2,"ids":["{text}","{text}"]}}"#);
        assert_eq!(many_accepted(&[id, id]), two.as_bytes());
    }
}
