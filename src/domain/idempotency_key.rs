//! Idempotency keys: what a caller names a request by, so that sending it again does nothing twice.

use super::Violation;

/// The value of an `Idempotency-Key`: 1 to 255 bytes without control characters. Quotes around it, which
/// draft-ietf-httpapi-idempotency-key-header has and most senders leave out, are not part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The name of the header.
    pub const HEADER: &'static str = "Idempotency-Key";
    /// Maximum bytes.
    pub const BYTES_MAX: usize = 255;

    /// Parses the header's value.
    ///
    /// # Errors
    /// When it is empty or too long, not UTF-8, or has control characters.
    pub fn parse(value: &[u8]) -> Result<Self, Violation> {
        let broken = |code, rule| Violation::new(Self::HEADER, code, rule);
        let text = std::str::from_utf8(value).map_err(|_| broken("format", "must be UTF-8"))?;
        let text = text.trim_ascii();
        let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        if inner.is_empty() || inner.len() > Self::BYTES_MAX {
            return Err(broken("length", "must be 1 to 255 bytes"));
        }
        if inner.chars().any(char::is_control) {
            return Err(broken("format", "must not contain control characters"));
        }
        Ok(Self(inner.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, for a deduplication id.
    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_left_out_and_other_texts_refused() {
        let parsed = |value: &[u8]| IdempotencyKey::parse(value).map(IdempotencyKey::into_text);
        for value in [&b"a-1"[..], b"\"a-1\"", b" a-1 "] {
            assert_eq!(parsed(value).unwrap(), "a-1");
        }
        assert_eq!(parsed(b"\"").unwrap(), "\"");
        for (value, code) in [
            (&b""[..], "length"),
            (b"\"\"", "length"),
            (&[b'x'; 256], "length"),
            (b"a\tb", "format"),
            (b"\xff", "format"),
        ] {
            assert_eq!(parsed(value).unwrap_err().code, code, "{value:?}");
        }
    }
}
