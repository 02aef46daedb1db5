//! Violations: the validation errors of a request.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Serialize;

/// A validation error of one field. Callers get every violation of a request at once.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Violation {
    /// The index in a batch, from 0; absent in other requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The field, as the caller spells it; empty for the whole.
    pub field: String,
    /// The position in a JSON body, a JSON Pointer (RFC 6901). Absent for query parameters and
    /// headers. In newline-delimited JSON it starts at the event's line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// A stable code for programs, such as `required`, `type`, `length`, `format`, `unknown`.
    pub code: &'static str,
    /// The rule, for people: a sentence without its subject, which is the field.
    pub message: String,
}

impl Violation {
    /// A violation without an index.
    pub fn new(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { index: None, field: field.into(), pointer: None, code, message: message.into() }
    }

    /// A number outside its range.
    pub fn range(field: impl Into<String>, range: &RangeInclusive<u32>) -> Self {
        Self::new(field, "range", Self::range_rule(range))
    }

    /// The rule for a number, as text.
    pub fn range_rule(range: &RangeInclusive<u32>) -> String {
        format!("must be a whole number from {} to {}, in digits", range.start(), range.end())
    }

    /// Sets the pointer to the field of the JSON object at `parent`, itself a JSON Pointer.
    pub fn locate(&mut self, parent: &str) {
        let mut pointer = parent.to_owned();
        // The caller chose the names of unknown and repeated fields: those are one segment each.
        if matches!(self.code, "unknown" | "repeated") {
            push_segment(&mut pointer, &self.field);
        } else if let Some(name) = self.field.strip_prefix("headers.") {
            push_segment(&mut pointer, "headers");
            push_segment(&mut pointer, name);
        } else if let Some((list, index)) = element(&self.field) {
            push_segment(&mut pointer, list);
            push_segment(&mut pointer, index);
        } else if !self.field.is_empty() {
            push_segment(&mut pointer, &self.field);
        }
        self.pointer = Some(pointer);
    }
}

/// Appends one segment, escaped as RFC 6901 section 3 demands.
fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
}

/// The list and the index in a field such as `event_types[1]`.
fn element(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix(']')?.split_once('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_follows_the_path_of_the_field() {
        let pointer = |field: &str, code, parent: &str| {
            let mut violation = Violation::new(field, code, "");
            violation.locate(parent);
            violation.pointer.unwrap()
        };
        assert_eq!(pointer("type", "required", "/events/3"), "/events/3/type");
        assert_eq!(pointer("", "type", "/0"), "/0");
        assert_eq!(pointer("", "type", ""), "");
        assert_eq!(pointer("event_types[1]", "format", ""), "/event_types/1");
        assert_eq!(pointer("headers.x-a", "format", ""), "/headers/x-a");
        assert_eq!(pointer("a/b~[0]", "unknown", ""), "/a~1b~0[0]");
    }
}
