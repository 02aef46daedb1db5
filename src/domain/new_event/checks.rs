//! Validation of an event's fields, shared by JSON fields and headers.

use std::borrow::Cow;

use crate::domain::{EventType, Timestamp, TimestampError, Violation};

/// Maximum bytes of `dedup_id`, `account_id` and `user_id`.
const LABEL_BYTES_MAX: usize = 255;

/// Validates an event type.
pub(super) fn event_type<'a>(
    field: &str,
    text: Cow<'a, str>,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    if !EventType::is_valid(&text) {
        violations.push(Violation::new(field, "format", EventType::RULE));
        return None;
    }
    if EventType::is_operational(&text) {
        let rule = "must not start with hookgate., which is reserved for operational events";
        violations.push(Violation::new(field, "reserved", rule));
        return None;
    }
    Some(text)
}

/// Validates a `dedup_id`, `account_id` or `user_id`.
pub(super) fn label<'a>(
    field: &str,
    text: Cow<'a, str>,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
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

/// Parses a timestamp.
pub(super) fn timestamp(
    field: &str,
    text: &str,
    violations: &mut Vec<Violation>,
) -> Option<Timestamp> {
    let parsed: Result<Timestamp, TimestampError> = text.parse();
    match parsed {
        Ok(timestamp) => Some(timestamp),
        Err(rule) => {
            violations.push(Violation::new(field, "format", rule.to_string()));
            None
        }
    }
}
