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

#[cfg(test)]
mod tests;

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
