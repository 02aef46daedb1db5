//! Event types: what happened, as dot-separated words.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// An event type: dot-separated words of letters, digits, `_` and `-`, such as `user.login`. At most 128 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct EventType(String);

/// The text is not an event type.
#[derive(Debug, thiserror::Error)]
#[error("must be dot-separated words of letters, digits, '_' and '-', at most 128 bytes")]
pub struct EventTypeError;

impl EventType {
    /// Maximum bytes.
    pub const BYTES_MAX: usize = 128;

    /// Whether `text` is an event type. Parses without a copy.
    pub fn is_valid(text: &str) -> bool {
        let word_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let mut previous = b'.';
        for byte in text.bytes() {
            if !(word_byte(byte) || byte == b'.' && previous != b'.') {
                return false;
            }
            previous = byte;
        }
        previous != b'.' && text.len() <= Self::BYTES_MAX
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
    fn event_types_are_dotted_words() {
        for good in ["a", "user.login", "github.push-v2", "A_1.b"] {
            assert!(EventType::is_valid(good), "{good}");
        }
        let long = "a".repeat(129);
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "user.*", "ü", "a\0", &long] {
            assert!(!EventType::is_valid(bad), "{bad}");
        }
    }
}
