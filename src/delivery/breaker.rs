//! A circuit breaker: keeps an endpoint that does not respond from holding slots and memory.
//!
//! Pure: the time is a parameter, and monotonic, so that a step of the wall clock neither prolongs a pause nor
//! ends it.
//!
//! ```text
//! closed ── FAILURES_MAX failures in a row, or a hold ──▶ open ── the pause is over ──▶ half-open: one probe
//!    ▲                                                     ▲                                 │
//!    └─────────────────────────────────────────────────────┼───────── the probe succeeds ────┤
//!                                           a longer pause └──────────── the probe fails ────┘
//! ```
//! No response, 429 and 5xx are failures: the endpoint is down or overloaded. Any other response, also a
//! rejection, shows that the endpoint works.
//!
//! # Holds
//! A 429 or 503 with `Retry-After` holds the endpoint for that long, at the first such response: every further
//! attempt would use up an attempt of another delivery. A hold only ever prolongs a pause, and no success of an attempt
//! that began before it ends it: the receiver has asked for the pause since.
//!
//! # Manual attempts
//! A person who retries a delivery or sends a test event wants to know now, so a manual attempt is a probe
//! although the pause is not over, one at a time. Its failure changes nothing about the pause, unless the
//! response prolongs the hold.

use std::time::Duration;

use crate::runtime::{Backoff, Monotonic};

/// Consecutive failures that open a breaker: the attempts of the default retry schedule, and fewer than an
/// endpoint's slots.
const FAILURES_MAX: u32 = 10;
/// The first pause: the first wait of the default schedule.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// The longest pause without a hold; each is twice the previous one. It bounds how late a recovered receiver
/// is noticed.
const PAUSE_MAX: Duration = Duration::from_mins(5);

const TOO_MANY_REQUESTS: u16 = 429;
const SERVER_ERRORS: u16 = 500;

/// The result of an attempt, for the breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AttemptSignal {
    /// The endpoint responded.
    Success,
    /// The endpoint is down or overloaded.
    Failure {
        /// How long the endpoint asks to be left alone.
        hold: Option<Duration>,
    },
    /// The attempt was not made, so nothing is known about the endpoint.
    NotMade,
}

impl AttemptSignal {
    /// The signal of a response status, `None` without a response, and of the hold that it requests.
    pub(super) const fn of(status: Option<u16>, hold: Option<Duration>) -> Self {
        match status {
            None | Some(TOO_MANY_REQUESTS | SERVER_ERRORS..) => Self::Failure { hold },
            Some(_) => Self::Success,
        }
    }
}

/// Why an attempt is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AttemptKind {
    /// The delivery is due by the retry schedule.
    Scheduled,
    /// A person asked for it: a retry by hand or a test event.
    Manual,
}

/// What a breaker permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Permit {
    /// Every attempt.
    Allow,
    /// One attempt, the probe.
    Probe,
    /// No attempt before this time.
    DenyUntil(Monotonic),
    /// No attempt before the probe in flight has ended.
    DenyWhileProbing,
}

/// The breaker of one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breaker {
    /// Attempts are allowed; counts consecutive failures.
    Closed { failures: u32 },
    /// No scheduled attempts until the pause is over. `backoff` has the next pause.
    Open { until: Monotonic, backoff: Backoff },
    /// The probe is in flight. If it is a manual attempt, the pause may not be over yet.
    HalfOpen { until: Monotonic, backoff: Backoff },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// What may start now.
    pub(super) fn permit(self, kind: AttemptKind, now: Monotonic) -> Permit {
        match (self, kind) {
            (Self::Closed { .. }, _) => Permit::Allow,
            (Self::HalfOpen { .. }, _) => Permit::DenyWhileProbing,
            (Self::Open { until, .. }, AttemptKind::Scheduled) if now < until => {
                Permit::DenyUntil(until)
            }
            (Self::Open { .. }, AttemptKind::Scheduled | AttemptKind::Manual) => Permit::Probe,
        }
    }

    /// An attempt starts. `true` if it is the probe; its end must then be reported as such.
    pub(super) fn start(&mut self, kind: AttemptKind, now: Monotonic) -> bool {
        match *self {
            Self::Open { until, backoff } if self.permit(kind, now) == Permit::Probe => {
                *self = Self::HalfOpen { until, backoff };
                true
            }
            Self::Closed { .. } | Self::Open { .. } | Self::HalfOpen { .. } => false,
        }
    }

    /// An attempt has ended. Of those that were in flight when the breaker opened, failures only prolong a hold, and
    /// successes change nothing: they began before it.
    pub(super) fn end(&mut self, probe: bool, signal: AttemptSignal, now: Monotonic) {
        let hold = match signal {
            AttemptSignal::Success if probe || !self.is_open() => return self.reset(),
            AttemptSignal::Success => return,
            AttemptSignal::Failure { hold } => hold,
            AttemptSignal::NotMade => None,
        };
        // A hold of zero holds nothing.
        let held_until = now.plus(hold.unwrap_or_default());
        let (is_held, not_made) = (held_until > now, signal == AttemptSignal::NotMade);
        *self = match *self {
            Self::HalfOpen { until, backoff } if probe && not_made => Self::Open { until, backoff },
            state if not_made => state,
            Self::Closed { failures } if failures + 1 < FAILURES_MAX && !is_held => {
                Self::Closed { failures: failures + 1 }
            }
            Self::Closed { failures } => {
                let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
                let is_down = failures + 1 >= FAILURES_MAX;
                let pause = if is_down { backoff.next_wait() } else { Duration::ZERO };
                Self::Open { until: held_until.max(now.plus(pause)), backoff }
            }
            Self::HalfOpen { until, mut backoff } if probe => {
                // A probe that began early tells nothing new about the pause.
                let pause = if now < until { Duration::ZERO } else { backoff.next_wait() };
                Self::Open { until: until.max(held_until).max(now.plus(pause)), backoff }
            }
            Self::Open { until, backoff } => Self::Open { until: until.max(held_until), backoff },
            Self::HalfOpen { until, backoff } => {
                Self::HalfOpen { until: until.max(held_until), backoff }
            }
        };
    }

    /// Closes it and forgets every failure: the owner has changed the URL or enabled the endpoint. An attempt
    /// in flight must not be reported to it any more, since it was to the endpoint as it was.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether it is open or half-open.
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::Open { .. } | Self::HalfOpen { .. })
    }

    /// Until when no scheduled attempt starts; `None` if one may start now, or once the probe has ended.
    pub(super) fn paused_until(self, now: Monotonic) -> Option<Monotonic> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { until, .. } | Self::HalfOpen { until, .. } => {
                (until > now).then_some(until)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::AttemptKind::{Manual, Scheduled};
    use super::*;

    const NOW: Monotonic = Monotonic::ZERO;

    #[test]
    fn attempt_that_was_not_made_changes_nothing_and_gives_the_probe_back() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_MAX {
            breaker.end(false, AttemptSignal::NotMade, NOW);
            assert!(!breaker.is_open());
            breaker.end(false, FAILURE, NOW);
        }
        let (open, later) = (breaker, NOW.plus(PAUSE_FIRST));
        assert!(breaker.start(Scheduled, later));
        breaker.end(true, AttemptSignal::NotMade, later);
        assert_eq!(breaker, open);
    }

    const FAILURE: AttemptSignal = AttemptSignal::Failure { hold: None };

    fn later(seconds: u64) -> Monotonic {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn held(seconds: u64) -> AttemptSignal {
        AttemptSignal::Failure { hold: Some(Duration::from_secs(seconds)) }
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_MAX {
            assert_eq!(breaker.permit(Scheduled, NOW), Permit::Allow);
            assert!(!breaker.start(Scheduled, NOW));
            breaker.end(false, FAILURE, NOW);
        }
        breaker
    }

    #[test]
    fn no_response_429_and_5xx_are_failures_and_other_responses_are_successes() {
        for status in [None, Some(429), Some(500), Some(503), Some(599)] {
            assert_eq!(AttemptSignal::of(status, None), FAILURE, "{status:?}");
        }
        for status in [200, 204, 301, 400, 404, 410, 428] {
            assert_eq!(AttemptSignal::of(Some(status), None), AttemptSignal::Success, "{status}");
        }
    }

    #[test]
    fn consecutive_failures_open_the_breaker_and_a_success_resets_the_count() {
        assert_eq!(opened().permit(Scheduled, NOW), Permit::DenyUntil(later(5)));
        let mut breaker = Breaker::default();
        for number in 0..100 {
            let works = number % 10 == 9;
            breaker.end(false, if works { AttemptSignal::Success } else { FAILURE }, NOW);
            assert!(!breaker.is_open());
        }
    }

    #[test]
    fn successful_probe_after_the_pause_closes_the_breaker() {
        let mut breaker = opened();
        assert_eq!(breaker.permit(Scheduled, later(4)), Permit::DenyUntil(later(5)));
        assert_eq!(breaker.permit(Scheduled, later(5)), Permit::Probe);
        assert!(breaker.start(Scheduled, later(5)));
        assert_eq!(breaker.permit(Scheduled, later(6)), Permit::DenyWhileProbing);
        breaker.end(true, AttemptSignal::Success, later(7));
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn failed_probes_double_the_pause_up_to_five_minutes() {
        let mut breaker = opened();
        let mut now = NOW;
        for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
            let until = now.plus(Duration::from_secs(pause));
            assert_eq!(breaker.permit(Scheduled, now), Permit::DenyUntil(until));
            now = until;
            assert!(breaker.start(Scheduled, now));
            breaker.end(true, FAILURE, now);
        }
    }

    #[test]
    fn attempts_in_flight_when_it_opened_neither_prolong_the_pause_nor_count_as_the_probe() {
        let mut breaker = opened();
        breaker.end(false, FAILURE, later(1));
        assert_eq!(breaker.permit(Scheduled, later(1)), Permit::DenyUntil(later(5)));
        assert!(breaker.start(Scheduled, later(5)));
        breaker.end(false, FAILURE, later(6));
        assert_eq!(breaker.permit(Scheduled, later(6)), Permit::DenyWhileProbing);
        breaker.end(false, AttemptSignal::Success, later(6));
        assert_eq!(breaker.permit(Scheduled, later(6)), Permit::DenyWhileProbing);
    }

    #[test]
    fn success_of_an_attempt_that_began_before_a_hold_does_not_end_it() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            assert!(!breaker.start(Scheduled, NOW));
        }
        breaker.end(false, held(3600), later(1));
        for _ in 0..2 {
            breaker.end(false, AttemptSignal::Success, later(2));
            assert_eq!(breaker.permit(Scheduled, later(2)), Permit::DenyUntil(later(3601)));
        }
        assert!(breaker.start(Manual, later(3)));
        breaker.end(false, AttemptSignal::Success, later(4));
        assert_eq!(breaker.permit(Manual, later(4)), Permit::DenyWhileProbing);
        breaker.end(true, AttemptSignal::Success, later(5));
        assert_eq!(breaker, Breaker::default(), "the attempt by hand is a probe");
    }

    #[test]
    fn first_response_with_a_hold_opens_the_breaker_until_the_hold_ends() {
        let mut breaker = Breaker::default();
        breaker.end(false, held(3600), NOW);
        assert_eq!(breaker.permit(Scheduled, later(3599)), Permit::DenyUntil(later(3600)));
        assert_eq!(breaker.paused_until(later(3599)), Some(later(3600)));
        assert_eq!(breaker.permit(Scheduled, later(3600)), Permit::Probe);
        assert_eq!(breaker.paused_until(later(3600)), None);
        assert!(breaker.start(Scheduled, later(3600)));
        breaker.end(true, FAILURE, later(3600));
        assert_eq!(breaker.paused_until(later(3600)), Some(later(3605)), "the first pause");
    }

    #[test]
    fn hold_prolongs_a_pause_and_never_shortens_it() {
        let mut breaker = opened();
        breaker.end(false, held(1), later(1));
        assert_eq!(breaker.paused_until(later(1)), Some(later(5)));
        breaker.end(false, held(60), later(2));
        assert_eq!(breaker.paused_until(later(2)), Some(later(62)));
        assert!(breaker.start(Scheduled, later(62)));
        breaker.end(true, held(1), later(62));
        assert_eq!(breaker.paused_until(later(62)), Some(later(72)), "the second pause");
    }

    #[test]
    fn hold_of_zero_is_an_ordinary_failure() {
        let mut breaker = Breaker::default();
        breaker.end(false, held(0), NOW);
        assert_eq!(breaker, Breaker::Closed { failures: 1 });
    }

    #[test]
    fn manual_attempt_probes_an_open_breaker_at_once_and_one_at_a_time() {
        let mut breaker = opened();
        assert_eq!(breaker.permit(Manual, NOW), Permit::Probe);
        assert!(breaker.start(Manual, NOW));
        for kind in [Manual, Scheduled] {
            assert_eq!(breaker.permit(kind, later(5)), Permit::DenyWhileProbing);
            assert!(!breaker.start(kind, later(5)));
        }
        breaker.end(true, AttemptSignal::Success, later(1));
        assert_eq!(breaker, Breaker::default());
        assert_eq!(breaker.permit(Manual, later(1)), Permit::Allow);
    }

    #[test]
    fn failed_manual_probes_do_not_change_the_pause() {
        let mut breaker = opened();
        let before = breaker;
        for seconds in 0..5 {
            assert!(breaker.start(Manual, later(seconds)));
            breaker.end(true, FAILURE, later(seconds));
            assert_eq!(breaker, before);
        }
        assert!(breaker.start(Manual, later(1)));
        breaker.end(true, held(60), later(1));
        assert_eq!(breaker.paused_until(later(1)), Some(later(61)));
    }

    #[test]
    fn reset_closes_the_breaker_and_forgets_failures() {
        for mut breaker in [opened(), Breaker::Closed { failures: 9 }] {
            breaker.reset();
            assert_eq!(breaker, Breaker::default());
        }
    }

    proptest! {
        /// A failing endpoint is always probed again within the longest of pause and hold, by one probe at a
        /// time.
        #[test]
        fn open_breaker_always_permits_a_probe_in_the_end(
            steps in prop::collection::vec(
                (0..400_u64, any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(0..1_000_u64)),
                0..200,
            ),
        ) {
            let (mut breaker, mut now, mut probing) = (Breaker::default(), NOW, false);
            let mut held_until = NOW;
            for (seconds, starts, manual, works, hold) in steps {
                now = now.plus(Duration::from_secs(seconds));
                let kind = if manual { Manual } else { Scheduled };
                let hold = hold.map(Duration::from_secs);
                let failure = AttemptSignal::Failure { hold };
                let signal = if works { AttemptSignal::Success } else { failure };
                match breaker.permit(kind, now) {
                    Permit::Probe if starts => {
                        prop_assert!(!probing);
                        probing = breaker.start(kind, now);
                        prop_assert!(probing);
                        continue;
                    }
                    Permit::DenyUntil(until) => {
                        let latest = now.plus(PAUSE_MAX).max(held_until);
                        prop_assert!(until > now && until <= latest);
                        prop_assert_eq!(breaker.permit(kind, latest), Permit::Probe);
                        continue;
                    }
                    Permit::DenyWhileProbing => {
                        prop_assert!(probing);
                        // The probe, or an attempt that was in flight when the breaker opened.
                        breaker.end(starts, signal, now);
                        probing = !starts;
                        if starts && works {
                            held_until = NOW;
                        }
                    }
                    Permit::Allow | Permit::Probe => {
                        prop_assert!(kind == Manual || held_until <= now, "a hold holds");
                        breaker.end(false, signal, now);
                    }
                }
                if !works {
                    held_until = held_until.max(now.plus(hold.unwrap_or_default()));
                }
                // Paused exactly when a scheduled attempt must wait for the time.
                prop_assert_eq!(breaker.paused_until(now).is_some() && !probing,
                    matches!(breaker.permit(Scheduled, now), Permit::DenyUntil(_)));
            }
        }
    }
}
