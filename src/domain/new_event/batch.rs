//! Batches: many events in one body, as a JSON array, an object with one, or newline-delimited JSON.
//!
//! A batch is accepted or rejected as a whole.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::envelope::{Envelope, FieldName};
use super::{NewEvent, NewEventError, NewEventLimits, STRAY_FIELDS_MAX, without_bom};
use crate::domain::{Violation, did_you_mean};

/// Maximum violations reported per request, so that a response stays bounded.
const VIOLATIONS_MAX: usize = 1_000;

/// Parses the body of `POST /api/events/batch`: `{"events": […]}` or the bare array. All or nothing.
///
/// # Errors
/// See [`NewEventError`]; violations carry the event's index.
pub fn parse_batch<'a>(
    body: &'a [u8],
    limits: &NewEventLimits,
) -> Result<Vec<NewEvent<'a>>, NewEventError> {
    let shapeless = || {
        let rule = "must be an array of events, or an object with that array as events";
        NewEventError::Invalid(vec![Violation::new("events", "type", rule)])
    };
    let mut json = serde_json::Deserializer::from_slice(without_bom(body));
    let parsed = BatchSeed { events_max: limits.batch_events_max }.deserialize(&mut json);
    let parsed = parsed.and_then(|batch| json.end().map(|()| batch));
    let batch = parsed.map_err(|error| {
        if error.is_data() { shapeless() } else { NewEventError::malformed(&error) }
    })?;
    check(batch.events.ok_or_else(shapeless)?, batch.violations, limits, batch.parent)
}

/// Parses the body of `POST /api/events/batch` as newline-delimited JSON: one event per line. Blank lines are
/// ignored. All or nothing.
///
/// # Errors
/// See [`NewEventError`]: syntax errors give the line of the body; violations carry the event's index, for
/// which blank lines do not count.
pub fn parse_lines<'a>(
    body: &'a [u8],
    limits: &NewEventLimits,
) -> Result<Vec<NewEvent<'a>>, NewEventError> {
    let mut envelopes = Vec::new();
    for (index, line) in without_bom(body).split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if envelopes.len() == limits.batch_events_max {
            return Err(wrong_length(limits));
        }
        let malformed = |error| NewEventError::malformed_in_line(index + 1, &error);
        envelopes.push(serde_json::from_slice(line).map_err(malformed)?);
    }
    check(envelopes, Vec::new(), limits, Parent::Line)
}

/// The elements of a body that is an array, as they stand; one more than a batch may have shows that there are more.
pub(super) fn raw_array<'a>(
    body: &'a [u8],
    limits: &NewEventLimits,
) -> Result<Vec<&'a RawValue>, NewEventError> {
    let mut json = serde_json::Deserializer::from_slice(without_bom(body));
    let parsed = EventsSeed::new(limits.batch_events_max).deserialize(&mut json);
    parsed.and_then(|raws| json.end().map(|()| raws)).map_err(|error| {
        if error.is_data() {
            let rule = "must be an array of events";
            NewEventError::Invalid(vec![Violation::new("events", "type", rule)])
        } else {
            NewEventError::malformed(&error)
        }
    })
}

/// The events, unless the batch (`violations`) or an event has violations.
fn check<'a>(
    envelopes: Vec<Envelope<'a>>,
    violations: Vec<Violation>,
    limits: &NewEventLimits,
    parent: Parent,
) -> Result<Vec<NewEvent<'a>>, NewEventError> {
    let read = |envelope: Envelope<'a>, violations: &mut _| envelope.check(limits, violations);
    check_each(envelopes, violations, limits, parent, read)
}

/// The events that `read` makes of the items of a batch, unless the batch (`violations`) or an event has violations.
pub(super) fn check_each<'a, T>(
    items: Vec<T>,
    mut violations: Vec<Violation>,
    limits: &NewEventLimits,
    parent: Parent,
    read: impl Fn(T, &mut Vec<Violation>) -> Option<NewEvent<'a>>,
) -> Result<Vec<NewEvent<'a>>, NewEventError> {
    if items.is_empty() || items.len() > limits.batch_events_max {
        return Err(wrong_length(limits));
    }
    let mut new_events = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let before = violations.len();
        new_events.extend(read(item, &mut violations));
        for violation in &mut violations[before..] {
            violation.index = Some(index);
            violation.locate(&parent.pointer(index));
        }
        if violations.len() >= VIOLATIONS_MAX {
            violations.truncate(VIOLATIONS_MAX);
            break;
        }
    }
    if violations.is_empty() { Ok(new_events) } else { Err(NewEventError::Invalid(violations)) }
}

fn wrong_length(limits: &NewEventLimits) -> NewEventError {
    let rule = format!("must hold 1 to {} events", limits.batch_events_max);
    NewEventError::Invalid(vec![Violation::new("events", "length", rule)])
}

/// A batch; `events` is `None` if the body contains no array of events.
struct ParsedBatch<'a> {
    events: Option<Vec<Envelope<'a>>>,
    violations: Vec<Violation>,
    parent: Parent,
}

/// What contains the events of a batch.
#[derive(Clone, Copy)]
pub(super) enum Parent {
    /// An array under `events`.
    Field,
    /// A bare array.
    Array,
    /// One line per event, each a JSON document.
    Line,
}

impl Parent {
    /// The JSON Pointer to the event at `index`.
    fn pointer(self, index: usize) -> String {
        match self {
            Self::Field => format!("/events/{index}"),
            Self::Array => format!("/{index}"),
            Self::Line => String::new(),
        }
    }
}

/// Deserializes an array, or an object with one.
struct BatchSeed {
    events_max: usize,
}

/// Deserializes an array of events and keeps at most one more than allowed: further ones are skipped, since a
/// body of a few megabytes can hold millions.
struct EventsSeed<T> {
    events_max: usize,
    item: PhantomData<T>,
}

impl<T> EventsSeed<T> {
    const fn new(events_max: usize) -> Self {
        Self { events_max, item: PhantomData }
    }
}

impl<'de> DeserializeSeed<'de> for BatchSeed {
    type Value = ParsedBatch<'de>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<ParsedBatch<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BatchSeed {
    type Value = ParsedBatch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events, or an object with that array as events")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ParsedBatch<'de>, A::Error> {
        let mut batch = ParsedBatch { events: None, violations: Vec::new(), parent: Parent::Field };
        while let Some(FieldName(key)) = map.next_key::<FieldName<'de>>()? {
            if key == "events" {
                let seed = EventsSeed::new(self.events_max);
                batch.events = Some(map.next_value_seed(seed)?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if batch.violations.len() < STRAY_FIELDS_MAX {
                    let name: String = key.chars().take(64).collect();
                    let near = did_you_mean(&name, ["events"]);
                    let rule = format!("is not a field of a batch{near}");
                    let mut unknown = Violation::new(name, "unknown", rule);
                    unknown.locate("");
                    batch.violations.push(unknown);
                }
            }
        }
        Ok(batch)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<ParsedBatch<'de>, A::Error> {
        let events = EventsSeed::new(self.events_max).visit_seq(seq)?;
        Ok(ParsedBatch { events: Some(events), violations: Vec::new(), parent: Parent::Array })
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for EventsSeed<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for EventsSeed<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while events.len() <= self.events_max {
            match seq.next_element()? {
                Some(event) => events.push(event),
                None => return Ok(events),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LIMITS, violations};
    use super::*;

    #[test]
    fn every_form_of_a_batch_is_accepted() {
        for body in [
            r#"[{"type":"a","payload":1},{"type":"b","payload":2}]"#,
            r#"{"events":[{"type":"a","payload":1},{"type":"b","payload":2}]}"#,
        ] {
            let new_events = parse_batch(body.as_bytes(), &LIMITS).unwrap();
            assert_eq!(payloads(&new_events), [b"1", b"2"]);
        }
        let lines = "\n{\"type\":\"a\",\"payload\":1}\r\n \t\r\n\n{\"type\":\"b\",\"payload\":2}";
        for body in [lines.to_owned(), format!("{lines}\n")] {
            let new_events = parse_lines(body.as_bytes(), &LIMITS).unwrap();
            assert_eq!(payloads(&new_events), [b"1", b"2"]);
        }
    }

    fn payloads<'a>(new_events: &'a [NewEvent<'_>]) -> Vec<&'a [u8]> {
        new_events.iter().map(|new_event| &*new_event.payload).collect()
    }

    #[test]
    fn every_invalid_event_is_reported_by_index() {
        let array = br#"[{"type":"a","payload":1}, 5, {"payload":1}]"#;
        let lines = b"{\"type\":\"a\",\"payload\":1}\n\n5\n\n{\"payload\":1}\n";
        let expected = [(Some(1), String::new(), "type"), (Some(2), "type".to_owned(), "required")];
        assert_eq!(violations(parse_batch(array, &LIMITS).unwrap_err()), expected);
        assert_eq!(violations(parse_lines(lines, &LIMITS).unwrap_err()), expected);
    }

    #[test]
    fn empty_oversized_and_shapeless_batches_are_invalid() {
        let four = "[0,0,0,0]";
        let five = "{\"events\":[0,0,0,0,0]}";
        for body in ["[]", "{\"events\":[]}", "{}", "{\"events\":7}", "7", four, five] {
            let found = violations(parse_batch(body.as_bytes(), &LIMITS).unwrap_err());
            assert_eq!(found[0].1, "events", "{body}");
        }
        for body in ["", "\n", " \r\n\t\n", "0\n0\n0\n0", "0\n0\n0\n\n0\nno JSON"] {
            let found = violations(parse_lines(body.as_bytes(), &LIMITS).unwrap_err());
            assert_eq!(found, [(None, "events".to_owned(), "length")], "{body:?}");
        }
    }

    #[test]
    fn body_after_too_many_events_must_still_be_json() {
        for body in ["[0,0,0,0,0,}", "[0,0,0,0,0", "[0,0,0,0,0] x", "{\"events\":[0,0,0,0,0]"] {
            let error = parse_batch(body.as_bytes(), &LIMITS).unwrap_err();
            assert!(matches!(error, NewEventError::Malformed(_)), "{body}");
        }
    }

    #[test]
    fn malformed_line_is_reported_by_line_number() {
        let good = r#"{"type":"a","payload":1}"#;
        for (bad, place) in [
            ("oops", "line 3 column 1"),
            ("{\"type\": oops}", "line 3 column 10"),
            ("{\"type\":", "line 3 column 8"),
            ("{} {}", "line 3 column 4"),
            ("\u{feff}{}", "line 3 column 1"),
        ] {
            let body = format!("{good}\n\n{bad}\n{good}\n");
            let error = parse_lines(body.as_bytes(), &LIMITS).unwrap_err();
            assert!(matches!(error, NewEventError::Malformed(_)), "{bad}");
            let text = error.to_string();
            assert!(text.ends_with(place) && !text.contains("line 1"), "{bad}: {text}");
        }
        // One event may not run over several lines.
        let error = parse_lines(b"{\"type\":\"a\",\n\"payload\":1}", &LIMITS).unwrap_err();
        assert!(error.to_string().contains("line 1 column"), "{error}");
    }
}
