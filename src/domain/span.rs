//! Span ids of W3C Trace Context, and the `traceparent` header of a request.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use super::trace::TraceIdError;
use super::{DeliveryId, TraceId};

/// A span id: 8 bytes, never all zero, <https://www.w3.org/TR/trace-context/#parent-id>. It is written as 16 lower-case
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpanId(NonZeroU64);

/// A `traceparent` header: the span of the caller that a request belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The caller's span.
    pub span: SpanId,
    /// Whether the caller records the trace.
    pub is_sampled: bool,
}

impl SpanId {
    /// Spreads the numbers of attempts over all bits of their span ids.
    const ATTEMPT_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    /// A new random span id.
    pub fn mint() -> Self {
        Self::from_u64(rand::random())
    }

    /// The span of a delivery: the random half of its id.
    pub fn of_delivery(delivery: DeliveryId) -> Self {
        Self::from_u64(delivery.uuid().as_u64_pair().1)
    }

    /// The span of an attempt. It follows from the delivery and the attempt's number, which no other attempt of the
    /// delivery has, so that the store need not keep it: the request of an attempt can be told years later.
    pub fn of_attempt(delivery: DeliveryId, number: u32) -> Self {
        let Self(delivery) = Self::of_delivery(delivery);
        Self::from_u64(delivery.get() ^ u64::from(number).wrapping_mul(Self::ATTEMPT_FACTOR))
    }

    /// The id that the journal and the store keep; `None` when it is all zero.
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        NonZeroU64::new(u64::from_be_bytes(bytes)).map(Self)
    }

    /// The bytes, for the journal and the store.
    pub const fn bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    fn from_u64(id: u64) -> Self {
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Parses `00-<trace id>-<span id>-<flags>`. A later version may have more after it.
impl FromStr for TraceParent {
    type Err = TraceIdError;

    fn from_str(header: &str) -> Result<Self, Self::Err> {
        let trace_id = TraceId::from_traceparent(header)?;
        let mut parts = header.split('-').skip(2);
        let mut hex = || {
            let part = parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u64::from_str_radix(part, 16).ok()
        };
        let (span, flags) = (hex().and_then(NonZeroU64::new), hex());
        let (Some(span), Some(flags)) = (span, flags) else { return Err(TraceIdError) };
        Ok(Self { trace_id, span: SpanId(span), is_sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn header_tells_the_span_of_the_caller_and_its_decision() {
        for (flags, is_sampled) in [("01", true), ("00", false), ("03", true), ("02", false)] {
            let header = format!("00-{TRACE}-00f067aa0ba902b7-{flags}");
            let parent: TraceParent = header.parse().unwrap();
            assert_eq!(parent.trace_id.to_string(), TRACE);
            assert_eq!(parent.span.to_string(), "00f067aa0ba902b7");
            assert_eq!(parent.is_sampled, is_sampled, "{flags}");
            assert_eq!(SpanId::from_bytes(parent.span.bytes()), Some(parent.span));
        }
        for end in ["0000000000000000-01", "00f067aa0ba902b7-0g", "00f067aa0ba902+7-01", "a-01"] {
            assert!(format!("00-{TRACE}-{end}").parse::<TraceParent>().is_err(), "{end}");
        }
    }

    #[test]
    fn every_attempt_has_a_span_of_its_own_that_can_be_told_again() {
        let delivery = DeliveryId::mint(Timestamp::from_micros(1));
        let spans: Vec<_> = (1..=50).map(|number| SpanId::of_attempt(delivery, number)).collect();
        for (index, span) in spans.iter().enumerate() {
            assert!(!spans[..index].contains(span) && *span != SpanId::of_delivery(delivery));
        }
        assert_eq!(SpanId::of_attempt(delivery, 7), spans[6]);
    }
}
