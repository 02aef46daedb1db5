//! The retry policy: decides after each attempt whether the delivery is done, retried or dead.
//!
//! Pure: the time and the random number are parameters.

use std::time::{Duration, UNIX_EPOCH};

use crate::domain::{DeadReason, Decision, RetrySchedule, Timestamp};

/// Maximum delay that a receiver can request with `Retry-After`: the longest wait of the default schedule.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// Maximum jitter as a fraction of the wait: deliveries that an outage failed together are not retried
/// together.
const JITTER: f64 = 0.1;

const GONE: u16 = 410;
const TOO_MANY_REQUESTS: u16 = 429;
const SERVICE_UNAVAILABLE: u16 = 503;

/// The parts of a response that the policy looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseSummary<'a> {
    /// The HTTP status; `None` without a response.
    pub(super) status: Option<u16>,
    /// The `Retry-After` header.
    pub(super) retry_after: Option<&'a str>,
}

/// Whether a status means that the webhook was delivered. Redirects are failures, as in Standard Webhooks:
/// following one would send the tenant's data to an unchecked address.
pub(super) const fn is_success(status: u16) -> bool {
    matches!(status, 200..=299)
}

/// How long a response asks to be left alone: the `Retry-After` of a 429 or a 503, at most
/// [`RETRY_AFTER_MAX`]. An invalid one is ignored.
pub(super) fn hold(response: ResponseSummary<'_>, now: Timestamp) -> Option<Duration> {
    match response.status {
        Some(TOO_MANY_REQUESTS | SERVICE_UNAVAILABLE) => retry_after(response.retry_after?, now),
        Some(_) | None => None,
    }
}

/// Decides what follows attempt `number` (counted from 1), which ended at `now`. `fraction`, from 0 to 1, is
/// the share of the maximum jitter to add.
pub(super) fn decide(
    schedule: &RetrySchedule,
    number: u32,
    response: ResponseSummary<'_>,
    now: Timestamp,
    fraction: f64,
) -> Decision {
    match response.status {
        Some(status) if is_success(status) => return Decision::Delivered,
        Some(GONE) => return Decision::Dead(DeadReason::Gone),
        Some(_) | None => {}
    }
    let Some(wait) = schedule.wait_after(number) else {
        return Decision::Dead(DeadReason::Exhausted);
    };
    let planned = wait.mul_f64(1.0 + JITTER * fraction.clamp(0.0, 1.0));
    Decision::RetryAt(now.plus(planned.max(hold(response, now).unwrap_or_default())))
}

/// The wait that a `Retry-After` header requests, in seconds or as an HTTP date of any of the three forms (RFC
/// 9110 sections 10.2.3 and 5.6.7).
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit into the type request a very long delay.
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // Never before the epoch: `httpdate` accepts years from 1970 on.
    let since_epoch = date.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Timestamp::from_micros(0).plus(since_epoch).since(now).min(RETRY_AFTER_MAX))
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
    fn gone_is_final_at_once_and_other_failures_when_the_schedule_ends() {
        assert_eq!(decided(1, Some(410), Some("5")), Decision::Dead(DeadReason::Gone));
        assert_eq!(decided(2, Some(500), None), retry_in(300));
        assert_eq!(decided(3, Some(500), None), Decision::Dead(DeadReason::Exhausted));
        assert_eq!(decided(u32::MAX, None, None), Decision::Dead(DeadReason::Exhausted));
    }

    #[test]
    fn retry_after_delays_the_attempt_but_never_brings_it_forward() {
        assert_eq!(decided(1, Some(429), Some("60")), retry_in(60));
        assert_eq!(decided(1, Some(503), Some(" 60 ")), retry_in(60));
        assert_eq!(decided(1, Some(503), Some("1")), retry_in(5));
        // The three forms of an HTTP date (RFC 9110 section 5.6.7).
        for date in [
            "Sun, 06 Nov 1994 08:51:37 GMT",
            "Sunday, 06-Nov-94 08:51:37 GMT",
            "Sun Nov  6 08:51:37 1994",
        ] {
            assert_eq!(decided(1, Some(503), Some(date)), retry_in(120), "{date}");
        }
        assert_eq!(decided(1, Some(503), Some("Sun, 06 Nov 1994 08:40:00 GMT")), retry_in(5));
    }

    #[test]
    fn retry_after_applies_to_429_and_503_only_and_to_at_most_a_day() {
        assert_eq!(decided(1, Some(500), Some("60")), retry_in(5));
        for long in ["86401", "99999999999999999999999", "Sat, 06 Nov 2094 08:49:37 GMT"] {
            assert_eq!(decided(1, Some(429), Some(long)), retry_in(86_400), "{long}");
        }
        for unreadable in ["", "soon", "-1", "1.5", "\u{661}", "Mon, 06 Nov 1994 08:51:37 GMT"] {
            assert_eq!(decided(1, Some(429), Some(unreadable)), retry_in(5), "{unreadable}");
        }
    }

    #[test]
    fn hold_is_the_retry_after_of_429_and_503() {
        let held = |status, retry_after| hold(ResponseSummary { status, retry_after }, NOW);
        let minute = Some(Duration::from_mins(1));
        assert_eq!(held(Some(429), Some("60")), minute);
        assert_eq!(held(Some(503), Some("Sun, 06 Nov 1994 08:50:37 GMT")), minute);
        assert_eq!(held(Some(503), Some("Sun, 06 Nov 1994 08:40:00 GMT")), Some(Duration::ZERO));
        assert_eq!(held(Some(503), Some("999999")), Some(RETRY_AFTER_MAX));
        for (status, retry_after) in [(Some(500), Some("60")), (Some(429), None), (None, None)] {
            assert_eq!(held(status, retry_after), None, "{status:?}");
        }
    }

    #[test]
    fn jitter_adds_at_most_a_tenth() {
        let schedule: RetrySchedule = "100s".parse().unwrap();
        let response = ResponseSummary { status: None, retry_after: None };
        for (fraction, seconds) in [(0.0, 100), (0.5, 105), (1.0, 110), (7.0, 110), (-1.0, 100)] {
            assert_eq!(decide(&schedule, 1, response, NOW, fraction), retry_in(seconds));
        }
    }
}
