//! New events: parses posted events in one pass, without copies, and reports every violation.

mod batch;
mod checks;
mod cloud_event;
mod depth;
mod envelope;
mod raw;

use std::borrow::Cow;

use super::{Timestamp, Violation};
use envelope::Envelope;

pub use batch::{parse_batch, parse_lines};
pub use cloud_event::{
    CloudEventMode, HEADER_PREFIX, is_cloud_event, parse_binary_cloud_event, parse_cloud_event,
    parse_cloud_events,
};
pub use raw::{is_envelope, parse_raw, raw_header_for};

/// A posted event, validated. Borrows from the request where possible.
#[derive(Debug, PartialEq, Eq)]
pub struct NewEvent<'a> {
    /// Its type; a valid [`EventType`](super::EventType).
    pub event_type: Cow<'a, str>,
    /// The payload as JSON text: byte for byte as posted, or wrapped by [`parse_raw`] if it was not JSON.
    pub payload: Cow<'a, [u8]>,
    /// The tenant's deduplication id.
    pub dedup_id: Option<Cow<'a, str>>,
    /// The tenant's account that the event belongs to.
    pub account_id: Option<Cow<'a, str>>,
    /// The tenant's user that the event belongs to.
    pub user_id: Option<Cow<'a, str>>,
    /// When it happened, as given by the tenant.
    pub occurred_at: Option<Timestamp>,
}

impl NewEvent<'_> {
    /// The event with owned data, independent of the request.
    pub fn into_owned(self) -> NewEvent<'static> {
        fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        NewEvent {
            event_type: owned(self.event_type),
            payload: Cow::Owned(self.payload.into_owned()),
            dedup_id: self.dedup_id.map(owned),
            account_id: self.account_id.map(owned),
            user_id: self.user_id.map(owned),
            occurred_at: self.occurred_at,
        }
    }
}

/// The size limits of posted events.
#[derive(Clone, Copy, Debug)]
pub struct NewEventLimits {
    /// Maximum bytes of a payload.
    pub payload_bytes_max: usize,
    /// Maximum events in a batch.
    pub batch_events_max: usize,
}

/// Why a body is rejected.
#[derive(Debug, thiserror::Error)]
pub enum NewEventError {
    /// It is not valid JSON: the first syntax error, with its line and column.
    #[error("{0}")]
    Malformed(String),
    /// It is JSON with violations: all of them.
    #[error("{} violations", .0.len())]
    Invalid(Vec<Violation>),
}

/// Maximum unknown and repeated fields reported per object: enough to see the mistake.
const STRAY_FIELDS_MAX: usize = 8;

/// JSON text without the byte order mark that some senders put before it, which RFC 8259, section 8.1, lets a parser
/// ignore.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Parses the body of `POST /api/events`.
///
/// # Errors
/// See [`NewEventError`].
pub fn parse_event<'a>(
    body: &'a [u8],
    limits: &NewEventLimits,
) -> Result<NewEvent<'a>, NewEventError> {
    let envelope: Envelope<'a> = serde_json::from_slice(without_bom(body))
        .map_err(|error| NewEventError::malformed(&error))?;
    let mut violations = Vec::new();
    match envelope.check(limits, &mut violations) {
        Some(new_event) if violations.is_empty() => Ok(new_event),
        _ => {
            for violation in &mut violations {
                violation.locate("");
            }
            Err(NewEventError::Invalid(violations))
        }
    }
}

impl NewEventError {
    fn malformed(error: &serde_json::Error) -> Self {
        Self::Malformed(error.to_string())
    }

    /// For a syntax error in one line of the body, which is parsed alone: gives its `line` in the body, counted
    /// from 1.
    fn malformed_in_line(line: usize, error: &serde_json::Error) -> Self {
        let (text, column) = (error.to_string(), error.column());
        let position = format!(" at line {} column {column}", error.line());
        let what = text.strip_suffix(&position).unwrap_or(&text);
        Self::Malformed(format!("{what} at line {line} column {column}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const LIMITS: NewEventLimits =
        NewEventLimits { payload_bytes_max: 64, batch_events_max: 3 };

    pub(super) fn violations(error: NewEventError) -> Vec<(Option<usize>, String, &'static str)> {
        match error {
            NewEventError::Invalid(all) => {
                all.into_iter().map(|v| (v.index, v.field, v.code)).collect()
            }
            NewEventError::Malformed(error) => panic!("malformed: {error}"),
        }
    }

    #[test]
    fn payloads_are_kept_byte_for_byte() {
        for payload in ["1e400", "0.10", r#""\u0000""#, r#"{"a" : [ 1 ]}"#, "null", r#""\ud800""#] {
            let body = format!(r#"{{"type":"a.b","payload": {payload} }}"#);
            let new_event = parse_event(body.as_bytes(), &LIMITS).unwrap();
            assert_eq!(&*new_event.payload, payload.as_bytes());
        }
    }

    #[test]
    fn every_field_is_parsed() {
        let body =
            br#"{"type":"a","payload":1,"dedup_id":"d\u0031","account_id":"acc","user_id":null,
                        "timestamp":"1970-01-01T00:00:01Z"}"#;
        let new_event = parse_event(body, &LIMITS).unwrap();
        assert_eq!(new_event.dedup_id.as_deref(), Some("d1"));
        assert_eq!(new_event.account_id.as_deref(), Some("acc"));
        assert_eq!(new_event.user_id, None);
        assert_eq!(new_event.occurred_at, Some(Timestamp::from_micros(1_000_000)));
    }

    #[test]
    fn every_violation_is_reported_at_once() {
        let body =
            br#"{"type":"a b","dedup_id":7,"account_id":"","user_id":"\u0000","timestamp":"now",
                        "typ":1,"typ":2,"dedup_id":8}"#;
        let found = violations(parse_event(body, &LIMITS).unwrap_err());
        let expected = [
            ("typ", "unknown"),
            ("typ", "unknown"),
            ("dedup_id", "repeated"),
            ("type", "format"),
            ("payload", "required"),
            ("dedup_id", "type"),
            ("account_id", "length"),
            ("user_id", "format"),
            ("timestamp", "format"),
        ];
        assert_eq!(found, expected.map(|(field, code)| (None, field.to_owned(), code)));
    }

    #[test]
    fn data_is_another_name_of_payload() {
        let new_event = parse_event(br#"{"type":"a","data":{"n":1}}"#, &LIMITS).unwrap();
        assert_eq!(&*new_event.payload, br#"{"n":1}"#);
        for both in [r#"{"type":"a","payload":1,"data":1}"#, r#"{"type":"a","data":1,"payload":1}"#]
        {
            let found = violations(parse_event(both.as_bytes(), &LIMITS).unwrap_err());
            assert_eq!(found.len(), 1, "{both}");
            assert_eq!(found[0].2, "repeated", "{both}");
        }
        let long = format!(r#"{{"type":"a","data":"{}"}}"#, "x".repeat(64));
        let found = violations(parse_event(long.as_bytes(), &LIMITS).unwrap_err());
        assert_eq!(found, [(None, "data".to_owned(), "too_large")]);
    }

    #[test]
    fn names_of_other_ingest_services_are_aliases() {
        let body = br#"{"type":"a","event_id":"d","metadata":{"n":1}}"#;
        let new_event = parse_event(body, &LIMITS).unwrap();
        assert_eq!(new_event.dedup_id.as_deref(), Some("d"));
        assert_eq!(&*new_event.payload, br#"{"n":1}"#);
        let both = br#"{"type":"a","event_id":"d","dedup_id":"d","metadata":1,"data":1}"#;
        let found = violations(parse_event(both, &LIMITS).unwrap_err());
        assert_eq!(found.iter().map(|found| found.2).collect::<Vec<_>>(), ["repeated"; 2]);
        let found = violations(
            parse_event(br#"{"type":"a","event_id":1,"metadata":1}"#, &LIMITS).unwrap_err(),
        );
        assert_eq!(found, [(None, "event_id".to_owned(), "type")]);
    }

    #[test]
    fn violations_point_into_the_body() {
        let Err(NewEventError::Invalid(found)) = parse_event(br#"{"type":1,"a/b":2}"#, &LIMITS)
        else {
            panic!("not invalid")
        };
        let pointers: Vec<_> = found.iter().filter_map(|v| v.pointer.as_deref()).collect();
        assert_eq!(pointers, ["/a~1b", "/type", "/payload"]);
    }

    #[test]
    fn operational_event_types_are_reserved() {
        let body = br#"{"type":"hookgate.endpoint.disabled","payload":1}"#;
        let found = violations(parse_event(body, &LIMITS).unwrap_err());
        assert_eq!(found, [(None, "type".to_owned(), "reserved")]);
        assert!(parse_event(br#"{"type":"hookgate","payload":1}"#, &LIMITS).is_ok());
    }

    #[test]
    fn malformed_json_is_reported_with_line_and_column() {
        let error = parse_event(b"{\"type\":\n oops}", &LIMITS).unwrap_err();
        assert!(matches!(error, NewEventError::Malformed(_)));
        assert!(error.to_string().contains("line 2 column"), "{error}");
        for body in ["", "{}x", "{\"a\"", "\u{feff}", "\u{feff}\u{feff}{}", "{}\u{feff}"] {
            let error = parse_event(body.as_bytes(), &LIMITS).unwrap_err();
            assert!(matches!(error, NewEventError::Malformed(_)), "{body}");
        }
        assert!(matches!(parse_event(b"\"\xff\"", &LIMITS), Err(NewEventError::Malformed(_))));
    }

    #[test]
    fn byte_order_mark_before_the_body_is_skipped() {
        let body = "\u{feff}{\"type\":\"a\",\"payload\":1}";
        assert_eq!(parse_event(body.as_bytes(), &LIMITS).unwrap().event_type, "a");
        let lines = format!("{body}\n");
        assert_eq!(parse_lines(lines.as_bytes(), &LIMITS).unwrap().len(), 1);
        let batch = "\u{feff}[{\"type\":\"a\",\"payload\":1}]";
        assert_eq!(parse_batch(batch.as_bytes(), &LIMITS).unwrap().len(), 1);
        let raw = parse_raw([("content-type", &b"application/json"[..])], "\u{feff}[1]".as_bytes());
        assert_eq!(&*raw.unwrap().payload, b"[1]");
    }

    #[test]
    fn non_object_is_invalid_not_malformed() {
        for body in ["[]", "1", "-1", "1.5", "true", "null", "\"x\""] {
            let found = violations(parse_event(body.as_bytes(), &LIMITS).unwrap_err());
            assert_eq!(found, [(None, String::new(), "type")], "{body}");
        }
    }

    #[test]
    fn payload_over_the_limit_is_too_large() {
        let body = format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(63));
        let found = violations(parse_event(body.as_bytes(), &LIMITS).unwrap_err());
        assert_eq!(found, [(None, "payload".to_owned(), "too_large")]);
    }
}
