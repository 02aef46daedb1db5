//! Raw events: any body as a payload, with headers in place of the envelope's fields.
//!
//! Everything behind the edge is JSON, so that receivers, lists and tools see one format. A body that is
//! declared as JSON and is valid JSON becomes the payload byte for byte. Anything else, and JSON that nests too
//! deep, is wrapped in a JSON object as base64. Nothing is lost, and no body is rejected for its content.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{
    NewEvent, NewEventError, NewEventLimits, STRAY_FIELDS_MAX, checks, depth, parse_event,
    without_bom,
};
use crate::domain::{MediaType, Violation, nearest};

const EVENT_TYPE: &str = "X-Event-Type";
const DEDUP_ID: &str = "X-Dedup-Id";
const ACCOUNT_ID: &str = "X-Account-Id";
const USER_ID: &str = "X-User-Id";
const EVENT_TIMESTAMP: &str = "X-Event-Timestamp";

/// The headers that describe an event.
const HEADERS: [&str; 5] = [EVENT_TYPE, DEDUP_ID, ACCOUNT_ID, USER_ID, EVENT_TIMESTAMP];

/// The type of an event without an `X-Event-Type` header.
const EVENT_TYPE_DEFAULT: &str = "raw";

/// Makes an event from the body and the headers of `POST /api/events/raw`. Header names must be in lower case.
/// The caller checks the size of the body.
///
/// # Errors
/// When a header is invalid, never for the body. The violations name the headers.
pub fn parse_raw<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: &'a [u8],
) -> Result<NewEvent<'a>, NewEventError> {
    let mut violations = Vec::new();
    let headers = Headers::find(headers, &mut violations);
    let mut text = |name, value: Option<&'a [u8]>| text(name, value?, &mut violations);
    let event_type = text(EVENT_TYPE, headers.event_type);
    let dedup_id = text(DEDUP_ID, headers.dedup_id);
    let account_id = text(ACCOUNT_ID, headers.account_id);
    let user_id = text(USER_ID, headers.user_id);
    let timestamp = text(EVENT_TIMESTAMP, headers.timestamp);

    let faults = &mut violations;
    let event_type = event_type.unwrap_or(Cow::Borrowed(EVENT_TYPE_DEFAULT));
    let event_type = checks::event_type(EVENT_TYPE, event_type, faults);
    let dedup_id = dedup_id.and_then(|text| checks::label(DEDUP_ID, text, faults));
    let account_id = account_id.and_then(|text| checks::label(ACCOUNT_ID, text, faults));
    let user_id = user_id.and_then(|text| checks::label(USER_ID, text, faults));
    let occurred_at = timestamp.and_then(|text| checks::timestamp(EVENT_TIMESTAMP, &text, faults));
    match event_type {
        Some(event_type) if violations.is_empty() => {
            let payload = payload(headers.content_type, body);
            Ok(NewEvent { event_type, payload, dedup_id, account_id, user_id, occurred_at })
        }
        _ => Err(NewEventError::Invalid(violations)),
    }
}

/// The headers that describe the event.
#[derive(Default)]
struct Headers<'a> {
    content_type: Option<&'a [u8]>,
    event_type: Option<&'a [u8]>,
    dedup_id: Option<&'a [u8]>,
    account_id: Option<&'a [u8]>,
    user_id: Option<&'a [u8]>,
    timestamp: Option<&'a [u8]>,
}

impl<'a> Headers<'a> {
    fn find(
        all: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        violations: &mut Vec<Violation>,
    ) -> Self {
        let mut found = Self::default();
        for (name, value) in all {
            let (slot, name) = match name {
                "content-type" => {
                    // It only decides how the body is wrapped, so a repeated one is not an error.
                    found.content_type.get_or_insert(value);
                    continue;
                }
                "x-event-type" => (&mut found.event_type, EVENT_TYPE),
                "x-dedup-id" => (&mut found.dedup_id, DEDUP_ID),
                "x-account-id" => (&mut found.account_id, ACCOUNT_ID),
                "x-user-id" => (&mut found.user_id, USER_ID),
                "x-event-timestamp" => (&mut found.timestamp, EVENT_TIMESTAMP),
                // Other headers are not about the event, unless one is misspelt.
                other => {
                    if let Some(meant) = misspelt(other)
                        && violations.len() < STRAY_FIELDS_MAX
                    {
                        let rule = format!("is not a header of this route; did you mean {meant}?");
                        violations.push(Violation::new(other, "unknown", rule));
                    }
                    continue;
                }
            };
            if slot.replace(value).is_some() && violations.len() < STRAY_FIELDS_MAX {
                violations.push(Violation::new(name, "repeated", "must not be given twice"));
            }
        }
        found
    }
}

/// The header that a name with a letter too many, too few, wrong or swapped means. Any sender's own headers may be near
/// one of these, so no more is taken for a mistake.
fn misspelt(name: &str) -> Option<&'static str> {
    let bare = |name: &str| name.replace('-', "").to_ascii_lowercase();
    if !name.starts_with("x-") || name.len() > 2 * EVENT_TIMESTAMP.len() {
        return None;
    }
    let written = bare(name);
    HEADERS.into_iter().find(|header| strsim::osa_distance(&written, &bare(header)) <= 1)
}

/// The header in which a raw body's request says what a parameter of this name would say.
pub fn raw_header_for(parameter: &str) -> Option<&'static str> {
    let headers = [
        ("type", EVENT_TYPE),
        ("dedup_id", DEDUP_ID),
        ("account_id", ACCOUNT_ID),
        ("user_id", USER_ID),
        ("timestamp", EVENT_TIMESTAMP),
    ];
    let meant = nearest(parameter, headers.map(|(field, _)| field))?;
    headers.into_iter().find(|(field, _)| *field == meant).map(|(_, header)| header)
}

/// Whether a raw event's payload is an event by itself, which was meant for `POST /api/events`.
pub fn is_envelope(raw: &NewEvent<'_>, limits: &NewEventLimits) -> bool {
    raw.event_type == EVENT_TYPE_DEFAULT
        && raw.payload.trim_ascii_start().starts_with(b"{")
        && parse_event(&raw.payload, limits).is_ok()
}

fn text<'a>(
    name: &'static str,
    value: &'a [u8],
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    let Ok(text) = std::str::from_utf8(value) else {
        violations.push(Violation::new(name, "format", "must be UTF-8"));
        return None;
    };
    Some(Cow::Borrowed(text))
}

/// The body if it is declared as JSON and is a valid payload, or else a JSON object that wraps it.
fn payload<'a>(content_type: Option<&[u8]>, body: &'a [u8]) -> Cow<'a, [u8]> {
    let declared = content_type.is_some_and(|text| MediaType::of(text) == MediaType::Json);
    let json = without_bom(body);
    let is_json = || serde_json::from_slice::<&RawValue>(json).is_ok();
    if declared && is_json() && !depth::nests_too_deep(json) {
        return Cow::Borrowed(json);
    }
    Cow::Owned(wrapped(content_type, body))
}

/// `{"content_type":"…","base64":"…"}`, encoded in place, since the body may be large.
fn wrapped(content_type: Option<&[u8]>, body: &[u8]) -> Vec<u8> {
    let content_type = Value::from(content_type.map(String::from_utf8_lossy));
    let mut json = format!(r#"{{"content_type":{content_type},"base64":""#);
    json.reserve(body.len().div_ceil(3) * 4 + 2);
    STANDARD.encode_string(body, &mut json);
    json.push_str("\"}");
    json.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::tests::violations;
    use super::*;
    use crate::domain::Timestamp;

    type Header = (&'static str, &'static [u8]);
    const JSON: Header = ("content-type", b"application/json");

    fn payload_of(headers: &[Header], body: &[u8]) -> String {
        let new_event = parse_raw(headers.iter().copied(), body).unwrap();
        String::from_utf8(new_event.payload.into_owned()).unwrap()
    }

    #[test]
    fn declared_json_is_the_payload_byte_for_byte() {
        for body in ["1e400", "{ \"a\" :\t1 }", " [0.10]\r\n", r#""\u0000""#, "null"] {
            assert_eq!(payload_of(&[JSON], body.as_bytes()), body);
        }
        let built_on = ("content-type", &b"application/cloudevents+json; charset=utf-8"[..]);
        assert_eq!(payload_of(&[built_on], b"{}"), "{}");
    }

    #[test]
    fn other_bodies_are_wrapped_in_base64() {
        let text: Header = ("content-type", b"text/plain; x=\"y\"");
        let odd: Header = ("content-type", b"a\xff");
        let cases: [(&[Header], &[u8], &str); 9] = [
            (&[], b"", r#"{"content_type":null,"base64":""}"#),
            (&[], b"{}", r#"{"content_type":null,"base64":"e30="}"#),
            (&[text], b"hi?", r#"{"content_type":"text/plain; x=\"y\"","base64":"aGk/"}"#),
            (&[JSON], b"", r#"{"content_type":"application/json","base64":""}"#),
            (&[JSON], b"{", r#"{"content_type":"application/json","base64":"ew=="}"#),
            (&[JSON], b"1 2", r#"{"content_type":"application/json","base64":"MSAy"}"#),
            (&[JSON], b"\"\xff\"", r#"{"content_type":"application/json","base64":"Iv8i"}"#),
            (&[odd], b"\0", "{\"content_type\":\"a\u{fffd}\",\"base64\":\"AA==\"}"),
            // The first of two is what counts.
            (&[text, JSON], b"1", r#"{"content_type":"text/plain; x=\"y\"","base64":"MQ=="}"#),
        ];
        for (headers, body, expected) in cases {
            let payload = payload_of(headers, body);
            assert_eq!(payload, expected);
            assert!(serde_json::from_str::<Value>(&payload).is_ok(), "{payload}");
        }
    }

    #[test]
    fn json_that_nests_too_deep_is_wrapped_in_base64() {
        let nested = |depth| format!(" {}{}", "[".repeat(depth), "]".repeat(depth));
        let (good, bad) = (nested(depth::DEPTH_MAX), nested(depth::DEPTH_MAX + 1));
        assert_eq!(payload_of(&[JSON], good.as_bytes()), good);
        let wrapped = payload_of(&[JSON], bad.as_bytes());
        assert!(wrapped.contains(&STANDARD.encode(bad)), "{wrapped}");
    }

    #[test]
    fn headers_replace_the_envelope_fields() {
        let headers: [Header; 7] = [
            ("x-event-type", b"github.push"),
            ("x-dedup-id", b"d1"),
            ("x-account-id", "Grüße".as_bytes()),
            ("x-user-id", b"u"),
            ("x-event-timestamp", b"1970-01-01T00:00:01Z"),
            ("x-github-event", b"push"),
            JSON,
        ];
        let new_event = parse_raw(headers, b"{}").unwrap();
        let expected = NewEvent {
            event_type: "github.push".into(),
            payload: Cow::Borrowed(b"{}"),
            dedup_id: Some("d1".into()),
            account_id: Some("Grüße".into()),
            user_id: Some("u".into()),
            occurred_at: Some(Timestamp::from_micros(1_000_000)),
        };
        assert_eq!(new_event, expected);
        let bare = parse_raw([], b"").unwrap();
        assert_eq!(bare.event_type, "raw");
        assert_eq!((bare.dedup_id, bare.account_id, bare.user_id), (None, None, None));
        assert_eq!(bare.occurred_at, None);
    }

    #[test]
    fn every_invalid_header_is_reported() {
        let headers: [Header; 6] = [
            ("x-event-type", b"a b"),
            ("x-dedup-id", b""),
            ("x-account-id", b"a\tb"),
            ("x-user-id", b"\xff"),
            ("x-event-timestamp", b"now"),
            ("x-dedup-id", &[b'x'; 256]),
        ];
        let found = violations(parse_raw(headers, b"{}").unwrap_err());
        let expected = [
            ("X-Dedup-Id", "repeated"),
            ("X-User-Id", "format"),
            ("X-Event-Type", "format"),
            ("X-Dedup-Id", "length"),
            ("X-Account-Id", "format"),
            ("X-Event-Timestamp", "format"),
        ];
        assert_eq!(found, expected.map(|(field, code)| (None, field.to_owned(), code)));
    }

    #[test]
    fn misspelt_headers_are_named_with_the_right_one_and_others_are_ignored() {
        for (name, meant) in [
            ("x-dedupid", "X-Dedup-Id"),
            ("x-dedupe-id", "X-Dedup-Id"),
            ("x-event-typ", "X-Event-Type"),
            ("x-acocunt-id", "X-Account-Id"),
        ] {
            let error = parse_raw([(name, &b"a"[..])], b"{}").unwrap_err();
            let NewEventError::Invalid(found) = error else { panic!("{name}") };
            assert_eq!((found[0].field.as_str(), found[0].code), (name, "unknown"));
            assert!(found[0].message.ends_with(&format!("did you mean {meant}?")), "{name}");
        }
        for other in ["x-event-id", "x-github-event", "x-request-id", "x-user", "event-type"] {
            assert!(parse_raw([(other, &b"a"[..])], b"{}").is_ok(), "{other}");
        }
        assert_eq!(raw_header_for("type"), Some("X-Event-Type"));
        assert_eq!(raw_header_for("dedupId"), Some("X-Dedup-Id"));
        assert_eq!(raw_header_for("token"), None);
    }

    #[test]
    fn envelope_in_a_raw_body_is_noticed() {
        let is = |headers: &[Header], body: &str| {
            let raw = parse_raw(headers.iter().copied(), body.as_bytes()).unwrap();
            is_envelope(&raw, &super::super::tests::LIMITS)
        };
        let envelope = r#" {"type":"a","payload":1}"#;
        assert!(is(&[JSON], envelope));
        assert!(!is(&[JSON, ("x-event-type", b"a")], envelope));
        assert!(!is(&[], envelope));
        for other in ["{}", r#"{"type":"a"}"#, r#"{"type":"a","payload":1,"more":2}"#, "[1]"] {
            assert!(!is(&[JSON], other), "{other}");
        }
    }
}
