//! The headers `RateLimit-Policy` and `RateLimit`, which tell a caller its limit and what is left.
//!
//! As in draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` has the quota `q`, its unit `qu`
//! and the window `w`; `RateLimit` has the remaining `r` and the seconds `t` until it is full again.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::BytesMut;

use crate::limit::{Bucket, RateLimitState};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Limits are per minute.
const WINDOW_SECONDS: u64 = 60;
/// Capacity for both headers with the largest numbers, so that they take one allocation.
const HEADERS_BYTES: usize = 96;

/// What a quota counts. All but that of events are reported only when they refuse a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Counted {
    Events,
    Bytes,
    Deliveries,
    Writes,
    Reads,
    KeyEvents,
    TypeEvents,
}

impl From<&Bucket> for Counted {
    fn from(bucket: &Bucket) -> Self {
        match bucket {
            Bucket::Events(_) => Self::Events,
            Bucket::Bytes(_) => Self::Bytes,
            Bucket::Deliveries(_) => Self::Deliveries,
            Bucket::Writes(_) | Bucket::AccountWrites(..) | Bucket::OperatorWrites(_) => {
                Self::Writes
            }
            Bucket::Reads(_) | Bucket::AccountReads(..) | Bucket::OperatorReads(_) => Self::Reads,
            Bucket::KeyEvents(_) => Self::KeyEvents,
            Bucket::TypeEvents(..) => Self::TypeEvents,
        }
    }
}

/// Writes both headers.
pub(super) fn write_headers(headers: &mut HeaderMap, counted: Counted, quota: RateLimitState) {
    let (policy, remaining, unit) = counted.words();
    let mut text = BytesMut::with_capacity(HEADERS_BYTES);
    let mut insert = |name, first: &[u8], number: u32, second: &[u8], last: u64, end: &[u8]| {
        let mut digits = itoa::Buffer::new();
        text.extend_from_slice(first);
        text.extend_from_slice(digits.format(number).as_bytes());
        text.extend_from_slice(second);
        text.extend_from_slice(digits.format(last).as_bytes());
        text.extend_from_slice(end);
        // ASCII is always a valid value.
        if let Ok(value) = HeaderValue::from_maybe_shared(text.split().freeze()) {
            headers.insert(name, value);
        }
    };
    insert(RATELIMIT_POLICY, policy, quota.limit, b";w=", WINDOW_SECONDS, unit);
    insert(RATELIMIT, remaining, quota.remaining, b";t=", whole_seconds(quota.reset), b"");
}

impl Counted {
    /// The start of both header values, and the end of the policy.
    const fn words(self) -> (&'static [u8], &'static [u8], &'static [u8]) {
        match self {
            Self::Events => (b"\"default\";q=", b"\"default\";r=", b""),
            Self::Bytes => (b"\"bytes\";q=", b"\"bytes\";r=", b";qu=\"content-bytes\""),
            Self::Deliveries => (b"\"deliveries\";q=", b"\"deliveries\";r=", b""),
            Self::Writes => (b"\"writes\";q=", b"\"writes\";r=", b""),
            Self::Reads => (b"\"reads\";q=", b"\"reads\";r=", b""),
            Self::KeyEvents => (b"\"key\";q=", b"\"key\";r=", b""),
            Self::TypeEvents => (b"\"event-type\";q=", b"\"event-type\";r=", b""),
        }
    }
}

/// Rounded up, so that a caller who waits this long is not too early.
pub(super) fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_tell_policy_rest_and_reset() {
        let mut headers = HeaderMap::new();
        let reset = Duration::from_millis(11_001);
        let quota = RateLimitState { limit: 1000, burst: 1000, remaining: 999, reset };
        write_headers(&mut headers, Counted::Events, quota);
        assert_eq!(headers["ratelimit-policy"], "\"default\";q=1000;w=60");
        assert_eq!(headers["ratelimit"], "\"default\";r=999;t=12");
        write_headers(&mut headers, Counted::Bytes, quota);
        assert_eq!(headers["ratelimit-policy"], "\"bytes\";q=1000;w=60;qu=\"content-bytes\"");
        assert_eq!(headers["ratelimit"], "\"bytes\";r=999;t=12");
    }
}
