//! One broken rule in what a caller sent.

use std::ops::RangeInclusive;

use serde::Serialize;

/// A rule that one field breaks. Callers get every violation of a request at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Position in a batch, from 0; absent when the request holds one thing only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The field as the caller spells it; empty for the thing as a whole.
    pub field: String,
    /// A stable word for programs, such as `required`, `type`, `length`, `format`, `unknown`.
    pub code: &'static str,
    /// The rule in a sentence, for people.
    pub message: String,
}

impl Violation {
    /// A violation in a request that holds one thing.
    pub fn new(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { index: None, field: field.into(), code, message: message.into() }
    }

    /// A number that is not in the field's range.
    pub fn range(field: impl Into<String>, range: &RangeInclusive<u32>) -> Self {
        Self::new(field, "range", Self::range_rule(range))
    }

    /// The rule for a number, in words.
    pub fn range_rule(range: &RangeInclusive<u32>) -> String {
        format!("must be a whole number from {} to {}, in digits", range.start(), range.end())
    }
}
