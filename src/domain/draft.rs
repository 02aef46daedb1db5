//! What a tenant posts, parsed once: one pass over the bytes, nothing copied, every fault found.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{EventType, Timestamp, Violation};

/// An event as it was posted, checked, borrowing from the request's body.
#[derive(Debug, PartialEq, Eq)]
pub struct Draft<'a> {
    /// What happened; a valid [`EventType`].
    pub event_type: Cow<'a, str>,
    /// The payload's JSON text, byte for byte.
    pub payload: &'a [u8],
    /// The tenant's own name for the event.
    pub dedup_id: Option<Cow<'a, str>>,
    /// The tenant's account the event concerns.
    pub account_id: Option<Cow<'a, str>>,
    /// The tenant's user the event concerns.
    pub user_id: Option<Cow<'a, str>>,
    /// When it happened, as the tenant says.
    pub occurred_at: Option<Timestamp>,
}

/// What an event may measure.
#[derive(Clone, Copy, Debug)]
pub struct DraftLimits {
    /// Bytes in a payload at the most.
    pub payload_bytes_max: usize,
    /// Events in a batch at the most.
    pub batch_events_max: usize,
}

/// Why a body gives no drafts.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// It is no JSON: the message names line and column.
    #[error("{0}")]
    Malformed(serde_json::Error),
    /// It is JSON that breaks rules: all of them.
    #[error("{} broken rules", .0.len())]
    Invalid(Vec<Violation>),
}

/// Bytes in `dedup_id`, `account_id` and `user_id` at the most.
const LABEL_BYTES_MAX: usize = 255;

/// Violations listed for one request at the most, so that an answer stays bounded.
const VIOLATIONS_MAX: usize = 1_000;

/// Unknown and repeated fields listed for one object at the most: enough to see the mistake.
const STRAY_FIELDS_MAX: usize = 8;

/// Parses the body of `POST /api/events`.
///
/// # Errors
/// See [`DraftError`].
pub fn parse_event<'a>(body: &'a [u8], limits: &DraftLimits) -> Result<Draft<'a>, DraftError> {
    let envelope: Envelope<'a> = serde_json::from_slice(body).map_err(DraftError::Malformed)?;
    let mut violations = Vec::new();
    match envelope.check(limits, &mut violations) {
        Some(draft) if violations.is_empty() => Ok(draft),
        _ => Err(DraftError::Invalid(violations)),
    }
}

/// Parses the body of `POST /api/events/batch`: `{"events": […]}` or the bare array. All or nothing.
///
/// # Errors
/// See [`DraftError`]; violations carry the event's index.
pub fn parse_batch<'a>(body: &'a [u8], limits: &DraftLimits) -> Result<Vec<Draft<'a>>, DraftError> {
    let shapeless = || {
        let rule = "must be an array of events, or an object with that array as events";
        DraftError::Invalid(vec![Violation::new("events", "type", rule)])
    };
    let batch: Batch<'a> = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() { shapeless() } else { DraftError::Malformed(error) }
    })?;
    let envelopes = batch.events.ok_or_else(shapeless)?;
    if envelopes.is_empty() || envelopes.len() > limits.batch_events_max {
        let rule = format!("must hold 1 to {} events", limits.batch_events_max);
        return Err(DraftError::Invalid(vec![Violation::new("events", "length", rule)]));
    }

    let mut violations = batch.violations;
    let mut drafts = Vec::with_capacity(envelopes.len());
    for (index, envelope) in envelopes.into_iter().enumerate() {
        let before = violations.len();
        drafts.extend(envelope.check(limits, &mut violations));
        for violation in &mut violations[before..] {
            violation.index = Some(index);
        }
        if violations.len() >= VIOLATIONS_MAX {
            violations.truncate(VIOLATIONS_MAX);
            break;
        }
    }
    if violations.is_empty() { Ok(drafts) } else { Err(DraftError::Invalid(violations)) }
}

/// One posted event with its fields found but not yet checked.
#[derive(Default)]
struct Envelope<'a> {
    event_type: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
    dedup_id: Option<&'a RawValue>,
    account_id: Option<&'a RawValue>,
    user_id: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
    /// Faults in the shape itself: unknown and repeated fields, or no object at all.
    violations: Vec<Violation>,
}

impl<'a> Envelope<'a> {
    fn check(self, limits: &DraftLimits, violations: &mut Vec<Violation>) -> Option<Draft<'a>> {
        let not_an_object = self.violations.iter().any(|v| v.field.is_empty());
        violations.extend(self.violations);
        if not_an_object {
            return None;
        }
        let event_type = check_event_type(self.event_type, violations);
        let payload = check_payload(self.payload, limits, violations);
        let dedup_id = check_label("dedup_id", self.dedup_id, violations);
        let account_id = check_label("account_id", self.account_id, violations);
        let user_id = check_label("user_id", self.user_id, violations);
        let occurred_at = check_timestamp(self.timestamp, violations);
        let (event_type, payload) = (event_type?, payload?);
        Some(Draft { event_type, payload, dedup_id, account_id, user_id, occurred_at })
    }
}

fn check_event_type<'a>(
    raw: Option<&'a RawValue>,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    let Some(raw) = raw else {
        violations.push(Violation::new("type", "required", "is required"));
        return None;
    };
    let text = check_string("type", raw, violations)?;
    if !EventType::is_valid(&text) {
        let rule = "must be dot-separated words of letters, digits, '_' and '-', at most 128 bytes";
        violations.push(Violation::new("type", "format", rule));
        return None;
    }
    Some(text)
}

fn check_payload<'a>(
    raw: Option<&'a RawValue>,
    limits: &DraftLimits,
    violations: &mut Vec<Violation>,
) -> Option<&'a [u8]> {
    let Some(raw) = raw else {
        violations.push(Violation::new("payload", "required", "is required; null is a value"));
        return None;
    };
    let payload = raw.get().as_bytes();
    if payload.len() > limits.payload_bytes_max {
        let rule = format!("must be at most {} bytes", limits.payload_bytes_max);
        violations.push(Violation::new("payload", "too_large", rule));
        return None;
    }
    Some(payload)
}

fn check_label<'a>(
    field: &'static str,
    raw: Option<&'a RawValue>,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    let raw = raw.filter(|raw| raw.get() != "null")?;
    let text = check_string(field, raw, violations)?;
    if text.is_empty() || text.len() > LABEL_BYTES_MAX {
        violations.push(Violation::new(field, "length", "must be 1 to 255 bytes"));
        return None;
    }
    if text.chars().any(char::is_control) {
        violations.push(Violation::new(field, "format", "must not contain control characters"));
        return None;
    }
    Some(text)
}

fn check_timestamp(raw: Option<&RawValue>, violations: &mut Vec<Violation>) -> Option<Timestamp> {
    let raw = raw.filter(|raw| raw.get() != "null")?;
    let text = check_string("timestamp", raw, violations)?;
    match text.parse() {
        Ok(timestamp) => Some(timestamp),
        Err(rule) => {
            let rule: super::timestamp::TimestampError = rule;
            violations.push(Violation::new("timestamp", "format", rule.to_string()));
            None
        }
    }
}

/// The string behind `raw`, borrowed unless it holds an escape.
fn check_string<'a>(
    field: &'static str,
    raw: &'a RawValue,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    let json = raw.get();
    let Some(inner) = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        violations.push(Violation::new(field, "type", "must be a string"));
        return None;
    };
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let Ok(text) = serde_json::from_str(json) else {
        let rule = "must not contain a lone surrogate escape";
        violations.push(Violation::new(field, "format", rule));
        return None;
    };
    Some(Cow::Owned(text))
}

impl<'de: 'a, 'a> Deserialize<'de> for Envelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EnvelopeVisitor)
    }
}

/// Takes any JSON value: what is no object becomes a violation, so that the rest is still checked.
struct EnvelopeVisitor;

impl EnvelopeVisitor {
    fn not_an_object<'a>() -> Envelope<'a> {
        let violation = Violation::new("", "type", "an event must be a JSON object");
        Envelope { violations: vec![violation], ..Envelope::default() }
    }
}

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            let slot = match key.as_ref() {
                "type" => &mut envelope.event_type,
                "payload" => &mut envelope.payload,
                "dedup_id" => &mut envelope.dedup_id,
                "account_id" => &mut envelope.account_id,
                "user_id" => &mut envelope.user_id,
                "timestamp" => &mut envelope.timestamp,
                unknown => {
                    let rule = "is not a field of an event";
                    let name: String = unknown.chars().take(64).collect();
                    if envelope.violations.len() < STRAY_FIELDS_MAX {
                        envelope.violations.push(Violation::new(name, "unknown", rule));
                    }
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value = map.next_value()?;
            if slot.replace(value).is_some() && envelope.violations.len() < STRAY_FIELDS_MAX {
                let rule = "must not be given twice";
                envelope.violations.push(Violation::new(key.into_owned(), "repeated", rule));
            }
        }
        Ok(envelope)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::not_an_object())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Self::not_an_object())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Self::not_an_object())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Self::not_an_object())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Self::not_an_object())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Self::not_an_object())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Self::not_an_object())
    }
}

/// A batch: `events` is `None` when the body holds no array of events at all.
struct Batch<'a> {
    events: Option<Vec<Envelope<'a>>>,
    violations: Vec<Violation>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BatchVisitor)
    }
}

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events, or an object with that array as events")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut batch = Batch { events: None, violations: Vec::new() };
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            if key == "events" {
                batch.events = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if batch.violations.len() < STRAY_FIELDS_MAX {
                    let name: String = key.chars().take(64).collect();
                    let rule = "is not a field of a batch";
                    batch.violations.push(Violation::new(name, "unknown", rule));
                }
            }
        }
        Ok(batch)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(event) = seq.next_element()? {
            events.push(event);
        }
        Ok(Batch { events: Some(events), violations: Vec::new() })
    }
}

/// An object's key, borrowed unless it holds an escape.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Owned(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DraftLimits = DraftLimits { payload_bytes_max: 64, batch_events_max: 3 };

    fn violations(error: DraftError) -> Vec<(Option<usize>, String, &'static str)> {
        match error {
            DraftError::Invalid(all) => {
                all.into_iter().map(|v| (v.index, v.field, v.code)).collect()
            }
            DraftError::Malformed(error) => panic!("malformed: {error}"),
        }
    }

    #[test]
    fn payloads_are_kept_byte_for_byte() {
        for payload in ["1e400", "0.10", r#""\u0000""#, r#"{"a" : [ 1 ]}"#, "null", r#""\ud800""#] {
            let body = format!(r#"{{"type":"a.b","payload": {payload} }}"#);
            let draft = parse_event(body.as_bytes(), &LIMITS).unwrap();
            assert_eq!(draft.payload, payload.as_bytes());
        }
    }

    #[test]
    fn every_field_is_taken() {
        let body =
            br#"{"type":"a","payload":1,"dedup_id":"d\u0031","account_id":"acc","user_id":null,
                        "timestamp":"1970-01-01T00:00:01Z"}"#;
        let draft = parse_event(body, &LIMITS).unwrap();
        assert_eq!(draft.dedup_id.as_deref(), Some("d1"));
        assert_eq!(draft.account_id.as_deref(), Some("acc"));
        assert_eq!(draft.user_id, None);
        assert_eq!(draft.occurred_at, Some(Timestamp::from_micros(1_000_000)));
    }

    #[test]
    fn every_broken_rule_is_found_at_once() {
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
    fn malformed_json_names_line_and_column() {
        let error = parse_event(b"{\"type\":\n oops}", &LIMITS).unwrap_err();
        assert!(matches!(error, DraftError::Malformed(_)));
        assert!(error.to_string().contains("line 2 column"), "{error}");
        for body in ["", "{}x", "{\"a\"", "\u{feff}{}"] {
            let error = parse_event(body.as_bytes(), &LIMITS).unwrap_err();
            assert!(matches!(error, DraftError::Malformed(_)), "{body}");
        }
        assert!(matches!(parse_event(b"\"\xff\"", &LIMITS), Err(DraftError::Malformed(_))));
    }

    #[test]
    fn what_is_no_object_is_invalid_not_malformed() {
        for body in ["[]", "1", "-1", "1.5", "true", "null", "\"x\""] {
            let found = violations(parse_event(body.as_bytes(), &LIMITS).unwrap_err());
            assert_eq!(found, [(None, String::new(), "type")], "{body}");
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_too_large() {
        let body = format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(63));
        let found = violations(parse_event(body.as_bytes(), &LIMITS).unwrap_err());
        assert_eq!(found, [(None, "payload".to_owned(), "too_large")]);
    }

    #[test]
    fn both_forms_of_a_batch_are_taken() {
        for body in [
            r#"[{"type":"a","payload":1},{"type":"b","payload":2}]"#,
            r#"{"events":[{"type":"a","payload":1},{"type":"b","payload":2}]}"#,
        ] {
            let drafts = parse_batch(body.as_bytes(), &LIMITS).unwrap();
            assert_eq!(drafts.iter().map(|d| d.payload).collect::<Vec<_>>(), [b"1", b"2"]);
        }
    }

    #[test]
    fn a_batch_lists_every_invalid_event_by_index() {
        let body = br#"[{"type":"a","payload":1}, 5, {"payload":1}]"#;
        let found = violations(parse_batch(body, &LIMITS).unwrap_err());
        let expected = [(Some(1), String::new(), "type"), (Some(2), "type".to_owned(), "required")];
        assert_eq!(found, expected);
    }

    #[test]
    fn empty_oversized_and_shapeless_batches_are_invalid() {
        let four = "[0,0,0,0]";
        for body in ["[]", "{\"events\":[]}", "{}", "{\"events\":7}", "7", four] {
            let found = violations(parse_batch(body.as_bytes(), &LIMITS).unwrap_err());
            assert_eq!(found[0].1, "events", "{body}");
        }
    }
}
