//! Trace ids: the 16 bytes of W3C Trace Context, given by the caller or generated.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A trace id, written as 32 lower-case hexadecimal digits, never all zero.
///
/// <https://www.w3.org/TR/trace-context/#trace-id>
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceId([u8; 16]);

/// The text is not a trace id.
#[derive(Debug, thiserror::Error)]
#[error("must be 32 hexadecimal digits, not all zero")]
pub struct TraceIdError;

impl TraceId {
    /// A new random trace id.
    pub fn mint() -> Self {
        Self(*Uuid::new_v4().as_bytes())
    }

    /// Wraps the bytes that the journal and the store keep.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the journal and the store.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The trace id of a `traceparent` header: `00-<trace id>-<parent id>-<flags>`.
    ///
    /// # Errors
    /// When the header does not have the format of version 00. The caller then generates an id, as the
    /// recommendation requires.
    pub fn from_traceparent(header: &str) -> Result<Self, TraceIdError> {
        let mut parts = header.split('-');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(version), Some(trace), Some(parent), Some(flags))
                if version.len() == 2
                    && version != "ff"
                    && parent.len() == 16
                    && flags.len() == 2 =>
            {
                trace.parse()
            }
            _ => Err(TraceIdError),
        }
    }

    /// A `traceparent` for a request sent on behalf of this trace, with the last eight bytes of
    /// `span` as its parent id. The sampled flag is set.
    pub fn traceparent(&self, span: Uuid) -> String {
        let mut span_id = [0; 8];
        span_id.copy_from_slice(&span.as_bytes()[8..]);
        format!("00-{self}-{:016x}-01", u64::from_be_bytes(span_id))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for TraceId {
    type Err = TraceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TraceIdError);
        }
        match u128::from_str_radix(text, 16) {
            Ok(0) | Err(_) => Err(TraceIdError),
            Ok(id) => Ok(Self(id.to_be_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_survives_a_round_trip() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceId::from_traceparent(header).unwrap();
        assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(TraceId::from_traceparent(&trace.traceparent(Uuid::nil())).unwrap(), trace);
    }

    #[test]
    fn malformed_and_zero_ids_are_refused() {
        for text in ["", "0", &"0".repeat(32), &"g".repeat(32), &"a".repeat(33)] {
            assert!(text.parse::<TraceId>().is_err(), "{text}");
        }
        assert!(TraceId::from_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736").is_err());
    }
}
