//! Rate limits as a route meets them: the check, and the fields that tell what is left.
//!
//! The fields are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` with quota
//! `q`, its unit `qu` and window `w`, `RateLimit` with what remains `r` and the seconds `t` until it is
//! full again.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::BytesMut;

use super::error::ApiError;
use super::extract::Tenant;
use super::state::AppState;
use crate::domain::{Month, OrgLimit, OrgLimits};
use crate::limit::{OrgRate, RateDecision, RateLimitState};
use crate::runtime::Stopwatch;
use crate::telemetry::RejectedRequest;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Limits are stated for a minute.
const WINDOW_SECONDS: u64 = 60;
/// Room for both fields with the largest numbers, so that they take one allocation.
const FIELDS_BYTES: usize = 96;

/// What a quota counts. Answers tell the one of bytes only where it refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Counted {
    Events,
    Bytes,
}

/// Takes `events` from what the tenant may send, and tells what is left.
pub(super) fn take(
    app: &AppState,
    tenant: &Tenant,
    events: NonZeroU32,
) -> Result<RateLimitState, ApiError> {
    let watch = Stopwatch::start();
    let principal = &tenant.principal;
    if let Some(events_per_month) = principal.limits.get(OrgLimit::EventsPerMonth)
        && let left = principal.usage.left(events_per_month)
        && left < events.get()
    {
        app.metrics.rejected_request(RejectedRequest::RateLimited).inc();
        return Err(over_month(app, events_per_month, left, events.get()));
    }
    let verdict = app.limiter.check(tenant.org_id, rate(&principal.limits), events);
    app.metrics.rate_limit_check_latency_seconds.observe(watch.seconds());
    let refusal = match verdict {
        RateDecision::Allowed(quota) => return Ok(quota),
        RateDecision::Denied { state: quota, retry_after } => {
            ApiError::RateLimited { quota, retry_after }
        }
        RateDecision::ExceedsBurst(quota) => {
            ApiError::BatchOverRateLimit { quota, events: events.get() }
        }
    };
    app.metrics.rejected_request(RejectedRequest::RateLimited).inc();
    Err(refusal)
}

/// Refuses more events than are left of the month's. Waiting helps where the next month takes them.
fn over_month(app: &AppState, events_per_month: u32, left: u32, events: u32) -> ApiError {
    let now = app.clock.now();
    let next_month = Month::end(now).since(now);
    let fits_next_month = events <= events_per_month;
    // A batch of one cannot be smaller.
    if left == 0 && (fits_next_month || events == 1) {
        return ApiError::MonthUsedUp { events_per_month, retry_after: next_month };
    }
    let retry_after = fits_next_month.then_some(next_month);
    ApiError::BatchOverMonth { events_per_month, left, events, retry_after }
}

/// Takes a body from the bytes that the tenant may send, if they are limited.
pub(super) fn take_bytes(app: &AppState, tenant: &Tenant, body: &[u8]) -> Result<(), ApiError> {
    let Some(per_minute) = tenant.principal.limits.get(OrgLimit::BytesPerMinute) else {
        return Ok(());
    };
    let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let Some(bytes) = NonZeroU32::new(bytes) else { return Ok(()) };
    let refusal = match app.limiter.check_bytes(tenant.org_id, per_minute, bytes) {
        RateDecision::Allowed(_) => return Ok(()),
        RateDecision::Denied { state: quota, retry_after } => {
            ApiError::ByteRateLimited { quota, retry_after }
        }
        RateDecision::ExceedsBurst(_) => {
            ApiError::TooLarge { what: "a request", bytes_max: per_minute as usize }
        }
    };
    app.metrics.rejected_request(RejectedRequest::RateLimited).inc();
    Err(refusal)
}

/// How fast an organisation with these limits may send.
pub(super) fn rate(limits: &OrgLimits) -> OrgRate {
    OrgRate { per_minute: limits.get(OrgLimit::RatePerMinute), burst: limits.get(OrgLimit::Burst) }
}

/// Writes both fields.
pub(super) fn write_headers(headers: &mut HeaderMap, counted: Counted, quota: RateLimitState) {
    let (policy, rest, unit) = counted.words();
    let mut text = BytesMut::with_capacity(FIELDS_BYTES);
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
    insert(RATELIMIT, rest, quota.remaining, b";t=", whole_seconds(quota.reset), b"");
}

impl Counted {
    /// How the policy and what is left of it begin, and how the policy ends.
    const fn words(self) -> (&'static [u8], &'static [u8], &'static [u8]) {
        match self {
            Self::Events => (b"\"default\";q=", b"\"default\";r=", b""),
            Self::Bytes => (b"\"bytes\";q=", b"\"bytes\";r=", b";qu=\"content-bytes\""),
        }
    }
}

/// Rounded up, so that who waits this long does not come too early.
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
