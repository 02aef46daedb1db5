//! A circuit breaker: keeps an endpoint that does not answer from holding slots and memory. Pure: it
//! is told the time.
//!
//! ```text
//! closed ── FAILURES_MAX failures in a row ──▶ open ── its pause is over ──▶ half-open: one probe
//!    ▲                                          ▲                               │
//!    └──────────────── a success ───────────────┼────────── the probe succeeds ─┤
//!                                 a longer pause └─────────── the probe fails ───┘
//! ```
//! A failure is no answer at all, 429, or 5xx: the endpoint is away or has too much to do. Any other
//! answer, a refusal too, shows that it works, and costs it a slot for a moment only.

use std::time::Duration;

use crate::domain::Timestamp;

/// Failures in a row that open a breaker: as many as the default schedule has attempts, and fewer than
/// an endpoint's slots.
const FAILURES_MAX: u32 = 10;
/// The first pause: the first wait of the default schedule.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// The longest pause; each is twice the one before. How late a receiver that works again is noticed.
const PAUSE_MAX: Duration = Duration::from_mins(5);

const TOO_MANY_REQUESTS: u16 = 429;
const SERVER_ERRORS: u16 = 500;

/// How an attempt ended, as far as a breaker cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AttemptSignal {
    /// The endpoint answers.
    Success,
    /// It is away or overloaded.
    Failure,
}

impl AttemptSignal {
    /// Judges by the status; `None` when there was no answer.
    pub(super) const fn of(status: Option<u16>) -> Self {
        match status {
            None | Some(TOO_MANY_REQUESTS | SERVER_ERRORS..) => Self::Failure,
            Some(_) => Self::Success,
        }
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Permit {
    /// Everything.
    Allow,
    /// One attempt, as a probe.
    Probe,
    /// Nothing before this moment.
    DenyUntil(Timestamp),
    /// Nothing before the probe in flight has ended.
    DenyWhileProbing,
}

/// The breaker of one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breaker {
    /// Closed, after so many failures in a row.
    Closed {
        failures: u32,
    },
    Open {
        until: Timestamp,
        pause: Duration,
    },
    HalfOpen {
        pause: Duration,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// What may be started now.
    pub(super) fn permit(self, now: Timestamp) -> Permit {
        match self {
            Self::Closed { .. } => Permit::Allow,
            Self::Open { until, .. } if now < until => Permit::DenyUntil(until),
            Self::Open { .. } => Permit::Probe,
            Self::HalfOpen { .. } => Permit::DenyWhileProbing,
        }
    }

    /// An attempt starts. `true` when it is the probe: its end must be told as such.
    pub(super) fn start(&mut self, now: Timestamp) -> bool {
        match *self {
            Self::Open { until, pause } if now >= until => {
                *self = Self::HalfOpen { pause };
                true
            }
            Self::Closed { .. } | Self::Open { .. } | Self::HalfOpen { .. } => false,
        }
    }

    /// An attempt has ended. Failures of those that were in flight when the breaker opened say
    /// nothing new; a success always does.
    pub(super) fn end(&mut self, probe: bool, signal: AttemptSignal, now: Timestamp) {
        *self = match (*self, signal) {
            (_, AttemptSignal::Success) => Self::default(),
            (Self::Closed { failures }, AttemptSignal::Failure) if failures + 1 < FAILURES_MAX => {
                Self::Closed { failures: failures + 1 }
            }
            (Self::Closed { .. }, AttemptSignal::Failure) => Self::open_for(PAUSE_FIRST, now),
            (Self::HalfOpen { pause }, AttemptSignal::Failure) if probe => {
                Self::open_for((pause * 2).min(PAUSE_MAX), now)
            }
            (open @ (Self::Open { .. } | Self::HalfOpen { .. }), AttemptSignal::Failure) => open,
        };
    }

    /// Whether it holds anything back.
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::Open { .. } | Self::HalfOpen { .. })
    }

    fn open_for(pause: Duration, now: Timestamp) -> Self {
        Self::Open { until: now.plus(pause), pause }
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
    fn no_answer_429_and_5xx_are_failures_and_everything_else_shows_that_it_works() {
        for status in [None, Some(429), Some(500), Some(503), Some(599)] {
            assert_eq!(AttemptSignal::of(status), AttemptSignal::Failure, "{status:?}");
        }
        for status in [200, 204, 301, 400, 404, 410, 428] {
            assert_eq!(AttemptSignal::of(Some(status)), AttemptSignal::Success, "{status}");
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_success_between_them_does_not() {
        assert_eq!(opened().permit(NOW), Permit::DenyUntil(later(5)));
        let mut breaker = Breaker::default();
        for number in 0..100 {
            let signal =
                if number % 10 == 9 { AttemptSignal::Success } else { AttemptSignal::Failure };
            breaker.end(false, signal, NOW);
            assert!(!breaker.is_open());
        }
    }

    #[test]
    fn one_probe_goes_through_when_the_pause_is_over_and_its_success_closes_it() {
        let mut breaker = opened();
        assert_eq!(breaker.permit(later(4)), Permit::DenyUntil(later(5)));
        assert_eq!(breaker.permit(later(5)), Permit::Probe);
        assert!(breaker.start(later(5)));
        assert_eq!(breaker.permit(later(6)), Permit::DenyWhileProbing);
        breaker.end(true, AttemptSignal::Success, later(7));
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn each_probe_that_fails_doubles_the_pause_up_to_five_minutes() {
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
    fn what_was_under_way_when_it_opened_neither_prolongs_it_nor_counts_as_the_probe() {
        let mut breaker = opened();
        breaker.end(false, AttemptSignal::Failure, later(1));
        assert_eq!(breaker.permit(later(1)), Permit::DenyUntil(later(5)));
        assert!(breaker.start(later(5)));
        breaker.end(false, AttemptSignal::Failure, later(6));
        assert_eq!(breaker.permit(later(6)), Permit::DenyWhileProbing);
        breaker.end(false, AttemptSignal::Success, later(6));
        assert_eq!(breaker.permit(later(6)), Permit::Allow, "it works, whoever found out");
    }

    proptest! {
        /// Whatever happens, an endpoint that fails is probed again within the longest pause, and one
        /// probe at a time is in flight.
        #[test]
        fn it_always_lets_a_probe_through_in_the_end(
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
                        let signal = if works { AttemptSignal::Success } else { AttemptSignal::Failure };
                        breaker.end(true, signal, now);
                        probing = false;
                    }
                    Permit::Allow | Permit::Probe => {
                        let signal = if works { AttemptSignal::Success } else { AttemptSignal::Failure };
                        breaker.end(false, signal, now);
                    }
                }
            }
        }
    }
}
