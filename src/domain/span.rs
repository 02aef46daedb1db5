//! Span ids of W3C Trace Context.

use std::fmt;
use std::num::NonZeroU64;

use super::DeliveryId;

/// A span id: 8 bytes, never all zero, <https://www.w3.org/TR/trace-context/#parent-id>. It is written as 16 lower-case
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpanId(NonZeroU64);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

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
