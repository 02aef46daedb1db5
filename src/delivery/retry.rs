//! What follows an attempt: nothing, another one later, or a dead letter. Pure: it is told the time
//! and the dice.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::domain::{DeadReason, Decision, RetrySchedule, Timestamp};

/// A receiver may ask for a later attempt, but not for one later than this: the longest wait of the
/// default schedule.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// At most this part of a wait is added to it at random, so that the deliveries an outage failed
/// together do not come back together.
const JITTER: f64 = 0.1;

const GONE: u16 = 410;
const TOO_MANY_REQUESTS: u16 = 429;
const SERVICE_UNAVAILABLE: u16 = 503;

/// How a receiver answered, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseSummary<'a> {
    /// The HTTP status; `None` when there was no answer.
    pub(super) status: Option<u16>,
    /// The `Retry-After` field.
    pub(super) retry_after: Option<&'a str>,
}

/// Whether a status says that the webhook arrived. Redirects do not: following one would send the
/// tenant's data where nobody checked, and Standard Webhooks counts them as failures.
pub(super) const fn is_success(status: u16) -> bool {
    matches!(status, 200..=299)
}

/// Decides what follows attempt `number` (from 1), which ended at `now`. `fraction`, from 0 to 1, is
/// the random part of the jitter.
pub(super) fn decide(
    schedule: &RetrySchedule,
    number: u32,
    reply: ResponseSummary<'_>,
    now: Timestamp,
    fraction: f64,
) -> Decision {
    match reply.status {
        Some(status) if is_success(status) => return Decision::Delivered,
        Some(GONE) => return Decision::Dead(DeadReason::Gone),
        Some(_) | None => {}
    }
    let Some(wait) = schedule.wait_after(number) else {
        return Decision::Dead(DeadReason::Exhausted);
    };
    let planned = now.plus(wait.mul_f64(1.0 + JITTER * fraction.clamp(0.0, 1.0)));
    let asked = match reply.status {
        Some(TOO_MANY_REQUESTS | SERVICE_UNAVAILABLE) => {
            reply.retry_after.and_then(|text| not_before(text, now))
        }
        Some(_) | None => None,
    };
    Decision::RetryAt(asked.map_or(planned, |asked| asked.max(planned)))
}

/// The moment a `Retry-After` field names, as seconds or as an HTTP date (RFC 9110 section 10.2.3),
/// at most [`RETRY_AFTER_MAX`] away. One that cannot be read is as if it were not there.
fn not_before(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    let latest = now.plus(RETRY_AFTER_MAX);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean a very long time.
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(now.plus(Duration::from_secs(seconds)).min(latest));
    }
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(Timestamp::from(date).min(latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(784_111_777_000_000); // 1994-11-06T08:49:37Z

    fn decided(number: u32, status: Option<u16>, retry_after: Option<&str>) -> Decision {
        let schedule: RetrySchedule = "5s, 5m".parse().unwrap();
        decide(&schedule, number, ResponseSummary { status, retry_after }, NOW, 0.0)
    }

    fn retry_in(seconds: u64) -> Decision {
        Decision::RetryAt(NOW.plus(Duration::from_secs(seconds)))
    }

    #[test]
    fn only_2xx_is_success() {
        for status in [200, 202, 204, 299] {
            assert_eq!(decided(1, Some(status), None), Decision::Delivered);
        }
        for status in [100, 199, 300, 301, 302, 307, 308, 400, 404, 500] {
            assert_eq!(decided(1, Some(status), None), retry_in(5), "{status}");
        }
        assert_eq!(decided(1, None, None), retry_in(5));
    }

    #[test]
    fn gone_is_final_at_once_and_the_rest_when_the_schedule_ends() {
        assert_eq!(decided(1, Some(410), Some("5")), Decision::Dead(DeadReason::Gone));
        assert_eq!(decided(2, Some(500), None), retry_in(300));
        assert_eq!(decided(3, Some(500), None), Decision::Dead(DeadReason::Exhausted));
        assert_eq!(decided(u32::MAX, None, None), Decision::Dead(DeadReason::Exhausted));
    }

    #[test]
    fn retry_after_puts_the_attempt_off_but_never_brings_it_forward() {
        assert_eq!(decided(1, Some(429), Some("60")), retry_in(60));
        assert_eq!(decided(1, Some(503), Some(" 60 ")), retry_in(60));
        assert_eq!(decided(1, Some(503), Some("1")), retry_in(5));
        assert_eq!(decided(1, Some(503), Some("Sun, 06 Nov 1994 08:51:37 GMT")), retry_in(120));
        assert_eq!(decided(1, Some(503), Some("Sun, 06 Nov 1994 08:40:00 GMT")), retry_in(5));
    }

    #[test]
    fn retry_after_counts_for_429_and_503_only_and_for_a_day_at_most() {
        assert_eq!(decided(1, Some(500), Some("60")), retry_in(5));
        for long in ["86401", "99999999999999999999999", "Sun, 06 Nov 2094 08:49:37 GMT"] {
            assert_eq!(decided(1, Some(429), Some(long)), retry_in(86_400), "{long}");
        }
        for unreadable in ["", "soon", "-1", "1.5", "\u{661}"] {
            assert_eq!(decided(1, Some(429), Some(unreadable)), retry_in(5), "{unreadable}");
        }
    }

    #[test]
    fn jitter_adds_a_tenth_at_most() {
        let schedule: RetrySchedule = "100s".parse().unwrap();
        let reply = ResponseSummary { status: None, retry_after: None };
        for (fraction, seconds) in [(0.0, 100), (0.5, 105), (1.0, 110), (7.0, 110), (-1.0, 100)] {
            assert_eq!(decide(&schedule, 1, reply, NOW, fraction), retry_in(seconds));
        }
    }
}
