//! The in-process rate limiter: one GCRA state per organisation.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock, QuantaInstant, Reference as _};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use moka::sync::Cache;

use crate::config::LimitConfig;
use crate::domain::OrgId;

/// The window of the limits.
const WINDOW: Duration = Duration::from_mins(1);
/// State is dropped after this idle time, when it has refilled anyway.
const IDLE: Duration = Duration::from_mins(2);
/// Maximum organisations with tracked state; each takes about 200 bytes.
const LIMITERS_MAX: u64 = 1_000_000;

type Gcra =
    governor::RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// Decides whether an organisation may post. Cheap to clone; clones share their state.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    per_minute_default: NonZeroU32,
    events: Limiters,
    /// Only of organisations with a limit in bytes.
    bytes: Limiters,
    clock: DefaultClock,
}

type Limiters = Cache<OrgId, Arc<OrgLimiter>>;

#[derive(Debug)]
struct OrgLimiter {
    rate: EffectiveRate,
    gcra: Gcra,
    created: QuantaInstant,
    /// What remained after the last allowed check, and its time in milliseconds since `created`. `governor`
    /// tells what remains only in exchange for a cost.
    last: AtomicU64,
}

/// The rate limit of an organisation. What is not set follows the server's default.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OrgRate {
    /// Events per minute.
    pub per_minute: Option<u32>,
    /// Events at once; by default as many as per minute.
    pub burst: Option<u32>,
}

/// A rate limit with the defaults filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct EffectiveRate {
    per_minute: NonZeroU32,
    burst: NonZeroU32,
}

/// A rate limit, and how much of it is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimitState {
    /// Events (or bytes) per minute.
    pub limit: u32,
    /// Events at once.
    pub burst: u32,
    /// Events that may be posted now.
    pub remaining: u32,
    /// Time until all of `burst` may be posted again.
    pub reset: Duration,
}

/// The result of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateDecision {
    /// The cost was taken.
    Allowed(RateLimitState),
    /// Nothing was taken; the same cost passes after `retry_after` if nothing else is posted.
    Denied {
        /// What is left.
        state: RateLimitState,
        /// The shortest wait after which the same cost can pass.
        retry_after: Duration,
    },
    /// The cost exceeds the burst and can never pass.
    ExceedsBurst(RateLimitState),
}

impl RateLimiter {
    /// A limiter without state.
    pub fn new(config: &LimitConfig) -> Self {
        Self {
            per_minute_default: at_least_one(config.rate_limit_per_minute),
            events: limiters(),
            bytes: limiters(),
            clock: DefaultClock::default(),
        }
    }

    /// Takes `cost` events from the limit of `org`, or nothing. A changed rate starts with a full burst.
    pub fn check(&self, org: OrgId, rate: OrgRate, cost: NonZeroU32) -> RateDecision {
        let per_minute = rate.per_minute.map_or(self.per_minute_default, at_least_one);
        let burst = rate.burst.map_or(per_minute, at_least_one);
        self.take(&self.events, org, EffectiveRate { per_minute, burst }, cost)
    }

    /// [`Self::check`] for bytes, with as many at once as per minute.
    pub fn check_bytes(&self, org: OrgId, per_minute: u32, cost: NonZeroU32) -> RateDecision {
        let per_minute = at_least_one(per_minute);
        self.take(&self.bytes, org, EffectiveRate { per_minute, burst: per_minute }, cost)
    }

    /// How much of the limit of `org` is left. Takes nothing.
    pub fn state(&self, org: OrgId, rate: OrgRate) -> RateLimitState {
        let per_minute = rate.per_minute.map_or(self.per_minute_default, at_least_one);
        let burst = rate.burst.map_or(per_minute, at_least_one);
        self.left(&self.events, org, EffectiveRate { per_minute, burst })
    }

    /// [`Self::state`] for bytes.
    pub fn bytes_state(&self, org: OrgId, per_minute: u32) -> RateLimitState {
        let per_minute = at_least_one(per_minute);
        self.left(&self.bytes, org, EffectiveRate { per_minute, burst: per_minute })
    }

    fn left(&self, limiters: &Limiters, org: OrgId, rate: EffectiveRate) -> RateLimitState {
        let Some(limiter) = limiters.get(&org).filter(|limiter| limiter.rate == rate) else {
            return state_of(rate, rate.burst.get());
        };
        let (at, remaining) = limiter.last();
        let since = self.since(limiter.created).saturating_sub(at);
        let refilled = since.as_micros() * u128::from(rate.per_minute.get()) / WINDOW.as_micros();
        let refilled = u32::try_from(refilled).unwrap_or(u32::MAX);
        state_of(rate, remaining.saturating_add(refilled).min(rate.burst.get()))
    }

    fn limiter(&self, limiters: &Limiters, org: OrgId, rate: EffectiveRate) -> Arc<OrgLimiter> {
        if let Some(limiter) = limiters.get(&org)
            && limiter.rate == rate
        {
            return limiter;
        }
        let entry = limiters.entry(org).and_upsert_with(|current| match current {
            Some(entry) if entry.value().rate == rate => entry.into_value(),
            Some(_) | None => Arc::new(OrgLimiter::new(rate, self.clock.now())),
        });
        entry.into_value()
    }

    fn since(&self, earlier: QuantaInstant) -> Duration {
        self.clock.now().duration_since(earlier).into()
    }

    fn take(
        &self,
        limiters: &Limiters,
        org: OrgId,
        rate: EffectiveRate,
        cost: NonZeroU32,
    ) -> RateDecision {
        let limiter = self.limiter(limiters, org, rate);
        match limiter.gcra.check_n(cost) {
            Ok(Ok(state)) => {
                let remaining = state.remaining_burst_capacity();
                limiter.set_last(self.since(limiter.created), remaining);
                RateDecision::Allowed(state_of(rate, remaining))
            }
            Ok(Err(not_until)) => {
                let retry_after = not_until.wait_time_from(self.clock.now());
                // What remains is `cost` minus what the wait refills.
                let missing = events_in(retry_after, rate.per_minute.get());
                let remaining = cost.get().saturating_sub(missing.max(1));
                RateDecision::Denied { state: state_of(rate, remaining), retry_after }
            }
            Err(_) => RateDecision::ExceedsBurst(state_of(rate, rate.burst.get())),
        }
    }
}

fn limiters() -> Limiters {
    Cache::builder().max_capacity(LIMITERS_MAX).time_to_idle(IDLE).build()
}

impl OrgLimiter {
    fn new(rate: EffectiveRate, now: QuantaInstant) -> Self {
        let quota = governor::Quota::per_minute(rate.per_minute).allow_burst(rate.burst);
        let gcra = governor::RateLimiter::direct(quota).with_middleware();
        let last = AtomicU64::new(u64::from(rate.burst.get()));
        Self { rate, gcra, created: now, last }
    }

    fn set_last(&self, at: Duration, remaining: u32) {
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis << 32 | u64::from(remaining), Ordering::Relaxed);
    }

    fn last(&self) -> (Duration, u32) {
        let last = self.last.load(Ordering::Relaxed);
        let remaining = u32::try_from(last & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        (Duration::from_millis(last >> 32), remaining)
    }
}

fn at_least_one(per_minute: u32) -> NonZeroU32 {
    NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN)
}

fn state_of(rate: EffectiveRate, remaining: u32) -> RateLimitState {
    let (limit, burst) = (rate.per_minute.get(), rate.burst.get());
    let used = burst.saturating_sub(remaining);
    RateLimitState {
        limit,
        burst,
        remaining,
        reset: WINDOW.mul_f64(f64::from(used) / f64::from(limit)),
    }
}

/// Events that a limit refills in `span`, rounded up.
fn events_in(span: Duration, limit: u32) -> u32 {
    let micros = span.as_micros().saturating_mul(u128::from(limit));
    u32::try_from(micros.div_ceil(WINDOW.as_micros())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    const DEFAULT: OrgRate = OrgRate { per_minute: None, burst: None };
    const OWN: OrgRate = OrgRate { per_minute: Some(5), burst: None };

    fn limiter(per_minute: u32) -> RateLimiter {
        RateLimiter::new(&LimitConfig { rate_limit_per_minute: per_minute })
    }

    fn org(n: i64) -> OrgId {
        OrgId::mint(Timestamp::from_micros(n))
    }

    fn cost(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn organisation_may_post_its_limit_at_once_and_no_more() {
        let (limiter, org) = (limiter(3), org(1));
        for left in [2, 1, 0] {
            let RateDecision::Allowed(state) = limiter.check(org, DEFAULT, cost(1)) else {
                panic!("refused with {left} left")
            };
            assert_eq!((state.limit, state.remaining), (3, left));
        }
        let RateDecision::Denied { state, retry_after } = limiter.check(org, DEFAULT, cost(1))
        else {
            panic!("allowed a fourth")
        };
        assert_eq!(state.remaining, 0);
        assert!(retry_after > Duration::from_secs(19) && retry_after <= Duration::from_secs(20));
    }

    #[test]
    fn organisations_have_separate_limits() {
        let limiter = limiter(1);
        let (one, other) = (org(1), org(2));
        assert!(matches!(limiter.check(one, DEFAULT, cost(1)), RateDecision::Allowed(_)));
        assert!(matches!(limiter.check(one, DEFAULT, cost(1)), RateDecision::Denied { .. }));
        assert!(matches!(limiter.check(other, DEFAULT, cost(1)), RateDecision::Allowed(_)));
    }

    #[test]
    fn batch_costs_its_number_of_events_and_takes_all_or_nothing() {
        let (limiter, org) = (limiter(10), org(1));
        assert!(matches!(limiter.check(org, DEFAULT, cost(8)), RateDecision::Allowed(_)));
        let RateDecision::Denied { state, .. } = limiter.check(org, DEFAULT, cost(3)) else {
            panic!("allowed eleven")
        };
        assert_eq!(state.remaining, 2);
        assert!(matches!(limiter.check(org, DEFAULT, cost(2)), RateDecision::Allowed(_)));
    }

    #[test]
    fn cost_above_the_burst_can_never_pass() {
        let (limiter, org) = (limiter(10), org(1));
        let RateDecision::ExceedsBurst(state) = limiter.check(org, DEFAULT, cost(11)) else {
            panic!("expected ExceedsBurst")
        };
        assert_eq!(state.remaining, 10);
    }

    #[test]
    fn limit_of_an_organisation_replaces_the_default_at_once() {
        let (limiter, org) = (limiter(1), org(1));
        assert!(matches!(limiter.check(org, DEFAULT, cost(1)), RateDecision::Allowed(_)));
        assert!(matches!(limiter.check(org, DEFAULT, cost(1)), RateDecision::Denied { .. }));
        assert!(matches!(limiter.check(org, OWN, cost(5)), RateDecision::Allowed(_)));
        assert!(matches!(limiter.check(org, OWN, cost(1)), RateDecision::Denied { .. }));
    }

    #[test]
    fn burst_may_be_above_or_below_the_limit_per_minute() {
        let (limiter, org) = (limiter(1), org(1));
        let small = OrgRate { per_minute: Some(600), burst: Some(2) };
        assert!(matches!(limiter.check(org, small, cost(3)), RateDecision::ExceedsBurst(_)));
        assert!(matches!(limiter.check(org, small, cost(2)), RateDecision::Allowed(_)));
        let RateDecision::Denied { retry_after, .. } = limiter.check(org, small, cost(1)) else {
            panic!("allowed a third")
        };
        assert!(retry_after <= Duration::from_millis(100));
        let large = OrgRate { per_minute: Some(2), burst: Some(50) };
        assert!(matches!(limiter.check(org, large, cost(50)), RateDecision::Allowed(_)));
    }

    #[test]
    fn state_takes_nothing() {
        let (limiter, org) = (limiter(10), org(1));
        for _ in 0..2 {
            assert_eq!(limiter.state(org, DEFAULT).remaining, 10);
        }
        limiter.check(org, DEFAULT, cost(4));
        for _ in 0..2 {
            assert_eq!(limiter.state(org, DEFAULT).remaining, 6);
        }
    }

    #[test]
    fn bytes_have_a_separate_limit() {
        let (limiter, org) = (limiter(1), org(1));
        assert_eq!(limiter.bytes_state(org, 100).remaining, 100);
        assert!(matches!(limiter.check_bytes(org, 100, cost(80)), RateDecision::Allowed(_)));
        assert_eq!(limiter.bytes_state(org, 100).remaining, 20);
        let RateDecision::Denied { state, .. } = limiter.check_bytes(org, 100, cost(80)) else {
            panic!("allowed 160")
        };
        assert_eq!((state.limit, state.remaining), (100, 20));
        assert!(matches!(limiter.check_bytes(org, 100, cost(101)), RateDecision::ExceedsBurst(_)));
        assert!(matches!(limiter.check(org, DEFAULT, cost(1)), RateDecision::Allowed(_)));
    }
}
