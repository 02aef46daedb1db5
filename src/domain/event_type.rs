//! Event types: what happened, as words that `.`, `:` or `/` separate.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// An event type: words of letters, digits, `_` and `-`, separated by `.`, `:` or `/`, such as `user.login`. At most 128
/// bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct EventType(String);

/// The text is not an event type.
#[derive(Debug, thiserror::Error)]
#[error("{}", EventType::RULE)]
pub struct EventTypeError;

impl EventType {
    /// Maximum bytes.
    pub const BYTES_MAX: usize = 128;
    /// What it must be, for people.
    pub const RULE: &'static str = "must be words of letters, digits, '_' and '-', separated by \
                                    '.', ':' or '/', at most 128 bytes";

    /// The rule as a regular expression, for descriptions of the API.
    pub const PATTERN: &'static str = "^[A-Za-z0-9_-]+([.:/][A-Za-z0-9_-]+)*$";

    /// Whether `text` is an event type. Parses without a copy.
    pub fn is_valid(text: &str) -> bool {
        let word_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let mut in_word = false;
        for byte in text.bytes() {
            if !(word_byte(byte) || in_word && Self::separates(byte)) {
                return false;
            }
            in_word = word_byte(byte);
        }
        in_word && text.len() <= Self::BYTES_MAX
    }

    /// Whether a byte separates words: `.`, `:` or `/`.
    pub const fn separates(byte: u8) -> bool {
        matches!(byte, b'.' | b':' | b'/')
    }

    /// Whether a type belongs to the server's operational events, which start with `hookgate.`.
    pub fn is_operational(text: &str) -> bool {
        text.starts_with("hookgate.")
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that maps by type are asked with a text. Both compare and hash alike.
impl Borrow<str> for EventType {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventType {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !Self::is_valid(text) {
            return Err(EventTypeError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_separated_words() {
        for good in ["a", "user.login", "github.push-v2", "A_1.b", "user:created", "a/b:c.d"] {
            assert!(EventType::is_valid(good), "{good}");
        }
        let long = "a".repeat(129);
        for bad in
            ["", ".", "a.", ".a", "a..b", ":a", "a/", "a:/b", "a b", "user.*", "ü", "a\0", &long]
        {
            assert!(!EventType::is_valid(bad), "{bad}");
        }
    }
}
