//! The JSON envelope of a posted event: finds its fields in one pass, then validates them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::depth::{self, DEPTH_MAX};
use super::{NewEvent, NewEventLimits, STRAY_FIELDS_MAX, checks};
use crate::domain::{Timestamp, TimestampError, Violation, did_you_mean};

/// The fields of an event, for hints at misspelt ones.
const FIELDS: [&str; 7] =
    ["type", "payload", "data", "dedup_id", "account_id", "user_id", "timestamp"];

/// The fields of a posted event, not yet validated.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    event_type: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
    /// The name that the payload came under, if another: `data` or `metadata`.
    payload_alias: Option<&'static str>,
    dedup_id: Option<&'a RawValue>,
    /// Whether the dedup id came under its other name, `event_id`.
    is_event_id: bool,
    account_id: Option<&'a RawValue>,
    user_id: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
    /// Violations of the structure: unknown and repeated fields, or not an object.
    violations: Vec<Violation>,
}

impl<'a> Envelope<'a> {
    /// The new event, unless it has violations, which are added to `violations`.
    pub(super) fn check(
        self,
        limits: &NewEventLimits,
        violations: &mut Vec<Violation>,
    ) -> Option<NewEvent<'a>> {
        let not_an_object = self.violations.iter().any(|v| v.field.is_empty());
        violations.extend(self.violations);
        if not_an_object {
            return None;
        }
        let event_type = event_type(self.event_type, violations);
        let payload_name = self.payload_alias.unwrap_or("payload");
        let payload = payload(payload_name, self.payload, limits, violations);
        let dedup_name = if self.is_event_id { "event_id" } else { "dedup_id" };
        let dedup_id = label(dedup_name, self.dedup_id, violations);
        let account_id = label("account_id", self.account_id, violations);
        let user_id = label("user_id", self.user_id, violations);
        let occurred_at = timestamp(self.timestamp, violations);
        let (event_type, payload) = (event_type?, Cow::Borrowed(payload?));
        Some(NewEvent { event_type, payload, dedup_id, account_id, user_id, occurred_at })
    }
}

fn event_type<'a>(
    raw: Option<&'a RawValue>,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    let Some(raw) = raw else {
        violations.push(Violation::new("type", "required", "is required"));
        return None;
    };
    let text = string("type", raw, violations)?;
    checks::event_type("type", text, violations)
}

fn payload<'a>(
    field: &'static str,
    raw: Option<&'a RawValue>,
    limits: &NewEventLimits,
    violations: &mut Vec<Violation>,
) -> Option<&'a [u8]> {
    let Some(raw) = raw else {
        violations.push(Violation::new(field, "required", "is required; null is a value"));
        return None;
    };
    let payload = raw.get().as_bytes();
    if payload.len() > limits.payload_bytes_max {
        let rule = format!("must be at most {} bytes", limits.payload_bytes_max);
        violations.push(Violation::new(field, "too_large", rule));
        return None;
    }
    if depth::nests_too_deep(payload) {
        let rule = format!("must nest at most {DEPTH_MAX} levels of arrays and objects");
        violations.push(Violation::new(field, "too_deep", rule));
        return None;
    }
    Some(payload)
}

fn label<'a>(
    field: &'static str,
    raw: Option<&'a RawValue>,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    let text = string(field, given(raw)?, violations)?;
    checks::label(field, text, violations)
}

fn timestamp(raw: Option<&RawValue>, violations: &mut Vec<Violation>) -> Option<Timestamp> {
    let raw = given(raw)?;
    if raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        let rule = TimestampError::Number.to_string();
        violations.push(Violation::new("timestamp", "type", rule));
        return None;
    }
    let text = string("timestamp", raw, violations)?;
    checks::timestamp("timestamp", &text, violations)
}

/// The value of an optional field; null counts as absent.
pub(super) fn given(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

/// The string in `raw`, borrowed unless it has escapes.
pub(super) fn string<'a>(
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

/// Accepts any JSON value. One that is not an object becomes a violation, so that the rest is still validated.
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
        while let Some(FieldName(key)) = map.next_key::<FieldName<'de>>()? {
            let slot = match key.as_ref() {
                "type" => &mut envelope.event_type,
                "payload" => &mut envelope.payload,
                // What webhooks call it, as Standard Webhooks does.
                "data" => {
                    envelope.payload_alias = Some("data");
                    &mut envelope.payload
                }
                // What other ingest services call it, and the dedup id.
                "metadata" => {
                    envelope.payload_alias = Some("metadata");
                    &mut envelope.payload
                }
                "event_id" => {
                    envelope.is_event_id = true;
                    &mut envelope.dedup_id
                }
                "dedup_id" => &mut envelope.dedup_id,
                "account_id" => &mut envelope.account_id,
                "user_id" => &mut envelope.user_id,
                "timestamp" => &mut envelope.timestamp,
                unknown => {
                    let name: String = unknown.chars().take(64).collect();
                    if envelope.violations.len() < STRAY_FIELDS_MAX {
                        let near = did_you_mean(&name, FIELDS);
                        let rule = format!("is not a field of an event{near}");
                        envelope.violations.push(Violation::new(name, "unknown", rule));
                    }
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value = map.next_value()?;
            if slot.replace(value).is_some() && envelope.violations.len() < STRAY_FIELDS_MAX {
                let rule = match key.as_ref() {
                    "payload" | "data" | "metadata" => {
                        "must not be given twice; payload, data and metadata are the same"
                    }
                    "dedup_id" | "event_id" => {
                        "must not be given twice; dedup_id and event_id are the same"
                    }
                    _ => "must not be given twice",
                };
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

/// A field name, borrowed unless it has escapes.
pub(super) struct FieldName<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for FieldName<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FieldNameVisitor)
    }
}

struct FieldNameVisitor;

impl<'de> Visitor<'de> for FieldNameVisitor {
    type Value = FieldName<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(FieldName(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(FieldName(Cow::Owned(text.to_owned())))
    }
}
