//! A circuit breaker: keeps an endpoint that does not respond from holding slots and memory.
//!
//! Pure: the time is a parameter.
//!
//! ```text
//! closed ── FAILURES_MAX failures in a row ──▶ open ── the pause is over ──▶ half-open: one probe
//!    ▲                                          ▲                               │
//!    └──────────────── a success ───────────────┼────────── the probe succeeds ─┤
//!                                 a longer pause └─────────── the probe fails ───┘
//! ```
//! No response, 429 and 5xx are failures: the endpoint is down or overloaded. Any other response, also a
//! rejection, shows that the endpoint works.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::runtime::Backoff;

/// Consecutive failures that open a breaker: the attempts of the default retry schedule, and fewer than an
/// endpoint's slots.
const FAILURES_MAX: u32 = 10;
/// The first pause: the first wait of the default schedule.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// The longest pause; each is twice the previous one. It bounds how late a recovered receiver is noticed.
const PAUSE_MAX: Duration = Duration::from_mins(5);

const TOO_MANY_REQUESTS: u16 = 429;
const SERVER_ERRORS: u16 = 500;

/// The result of an attempt, for the breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AttemptSignal {
    /// The endpoint responded.
    Success,
    /// The endpoint is down or overloaded.
    Failure,
}

impl AttemptSignal {
    /// The signal of a response status; `None` without a response.
    pub(super) const fn of(status: Option<u16>) -> Self {
        match status {
            None | Some(TOO_MANY_REQUESTS | SERVER_ERRORS..) => Self::Failure,
            Some(_) => Self::Success,
        }
    }
}

/// What a breaker permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Permit {
    /// Every attempt.
    Allow,
    /// One attempt, the probe.
    Probe,
    /// No attempt before this time.
    DenyUntil(Timestamp),
    /// No attempt before the probe in flight has ended.
    DenyWhileProbing,
}

/// The breaker of one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breaker {
    /// Attempts are allowed; counts consecutive failures.
    Closed { failures: u32 },
    /// No attempts until the pause is over.
    Open { until: Timestamp, backoff: Backoff },
    /// The probe is in flight.
    HalfOpen { backoff: Backoff },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// What may start now.
    pub(super) fn permit(self, now: Timestamp) -> Permit {
        match self {
            Self::Closed { .. } => Permit::Allow,
            Self::Open { until, .. } if now < until => Permit::DenyUntil(until),
            Self::Open { .. } => Permit::Probe,
            Self::HalfOpen { .. } => Permit::DenyWhileProbing,
        }
    }

    /// An attempt starts. `true` if it is the probe; its end must then be reported as such.
    pub(super) fn start(&mut self, now: Timestamp) -> bool {
        match *self {
            Self::Open { until, backoff } if now >= until => {
                *self = Self::HalfOpen { backoff };
                true
            }
            Self::Closed { .. } | Self::Open { .. } | Self::HalfOpen { .. } => false,
        }
    }

    /// An attempt has ended. Failures of attempts that were in flight when the breaker opened are ignored; a
    /// success always counts.
    pub(super) fn end(&mut self, probe: bool, signal: AttemptSignal, now: Timestamp) {
        *self = match (*self, signal) {
            (_, AttemptSignal::Success) => Self::default(),
            (Self::Closed { failures }, AttemptSignal::Failure) if failures + 1 < FAILURES_MAX => {
                Self::Closed { failures: failures + 1 }
            }
            (Self::Closed { .. }, AttemptSignal::Failure) => {
                Self::open(Backoff::new(PAUSE_FIRST, PAUSE_MAX), now)
            }
            (Self::HalfOpen { backoff }, AttemptSignal::Failure) if probe => {
                Self::open(backoff, now)
            }
            (open @ (Self::Open { .. } | Self::HalfOpen { .. }), AttemptSignal::Failure) => open,
        };
    }

    /// Whether it is open or half-open.
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::Open { .. } | Self::HalfOpen { .. })
    }

    /// Opens for the next pause of `backoff`.
    fn open(mut backoff: Backoff, now: Timestamp) -> Self {
        let until = now.plus(backoff.next_wait());
        Self::Open { until, backoff }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    fn later(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn signal(success: bool) -> AttemptSignal {
        if success { AttemptSignal::Success } else { AttemptSignal::Failure }
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_MAX {
            assert_eq!(breaker.permit(NOW), Permit::Allow);
            assert!(!breaker.start(NOW));
            breaker.end(false, AttemptSignal::Failure, NOW);
        }
        breaker
    }

    #[test]
    fn no_response_429_and_5xx_are_failures_and_other_responses_are_successes() {
        for status in [None, Some(429), Some(500), Some(503), Some(599)] {
            assert_eq!(AttemptSignal::of(status), AttemptSignal::Failure, "{status:?}");
        }
        for status in [200, 204, 301, 400, 404, 410, 428] {
            assert_eq!(AttemptSignal::of(Some(status)), AttemptSignal::Success, "{status}");
        }
    }

    #[test]
    fn consecutive_failures_open_the_breaker_and_a_success_resets_the_count() {
        assert_eq!(opened().permit(NOW), Permit::DenyUntil(later(5)));
        let mut breaker = Breaker::default();
        for number in 0..100 {
            breaker.end(false, signal(number % 10 == 9), NOW);
            assert!(!breaker.is_open());
        }
    }

    #[test]
    fn successful_probe_after_the_pause_closes_the_breaker() {
        let mut breaker = opened();
        assert_eq!(breaker.permit(later(4)), Permit::DenyUntil(later(5)));
        assert_eq!(breaker.permit(later(5)), Permit::Probe);
        assert!(breaker.start(later(5)));
        assert_eq!(breaker.permit(later(6)), Permit::DenyWhileProbing);
        breaker.end(true, AttemptSignal::Success, later(7));
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn failed_probes_double_the_pause_up_to_five_minutes() {
        let mut breaker = opened();
        let mut now = NOW;
        for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(
                breaker.permit(now),
                Permit::DenyUntil(now.plus(Duration::from_secs(pause)))
            );
            now = now.plus(Duration::from_secs(pause));
            assert!(breaker.start(now));
            breaker.end(true, AttemptSignal::Failure, now);
        }
    }

    #[test]
    fn attempts_in_flight_when_it_opened_neither_prolong_the_pause_nor_count_as_the_probe() {
        let mut breaker = opened();
        breaker.end(false, AttemptSignal::Failure, later(1));
        assert_eq!(breaker.permit(later(1)), Permit::DenyUntil(later(5)));
        assert!(breaker.start(later(5)));
        breaker.end(false, AttemptSignal::Failure, later(6));
        assert_eq!(breaker.permit(later(6)), Permit::DenyWhileProbing);
        breaker.end(false, AttemptSignal::Success, later(6));
        assert_eq!(breaker.permit(later(6)), Permit::Allow, "any success closes it");
    }

    proptest! {
        /// A failing endpoint is always probed again within the longest pause, by one probe at a time.
        #[test]
        fn open_breaker_always_permits_a_probe_in_the_end(
            steps in prop::collection::vec((0..400_u64, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let (mut breaker, mut now, mut probing) = (Breaker::default(), NOW, false);
            for (seconds, starts, works) in steps {
                now = now.plus(Duration::from_secs(seconds));
                match breaker.permit(now) {
                    Permit::Probe if starts => {
                        prop_assert!(!probing);
                        probing = breaker.start(now);
                        prop_assert!(probing);
                    }
                    Permit::DenyUntil(until) => {
                        prop_assert!(until > now && until <= now.plus(PAUSE_MAX));
                    }
                    Permit::DenyWhileProbing => {
                        prop_assert!(probing);
                        breaker.end(true, signal(works), now);
                        probing = false;
                    }
                    Permit::Allow | Permit::Probe => {
                        breaker.end(false, signal(works), now);
                    }
                }
            }
        }
    }
}
