//! Limits kept in this process, one GCRA state an organisation.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use moka::sync::Cache;

use crate::config::LimitConfig;
use crate::domain::OrgId;

/// The window that limits are stated for.
const WINDOW: Duration = Duration::from_mins(1);
/// A state that was not asked for this long has refilled and may be forgotten.
const IDLE: Duration = Duration::from_mins(2);
/// Organisations whose state is kept at the most; each takes about 200 bytes.
const LIMITERS_MAX: u64 = 1_000_000;

type Gcra =
    governor::RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// Decides whether an organisation may send. Cheap to clone; clones share their state.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    per_minute_default: NonZeroU32,
    orgs: Cache<OrgId, Arc<OrgLimiter>>,
    clock: DefaultClock,
}

#[derive(Debug)]
struct OrgLimiter {
    per_minute: NonZeroU32,
    gcra: Gcra,
}

/// What an organisation may send, and how much of it is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Events a minute, and at once.
    pub limit: u32,
    /// Events that may be sent now.
    pub remaining: u32,
    /// Time until all of `limit` may be sent again.
    pub reset: Duration,
}

/// The answer to a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Go on.
    Allowed(Quota),
    /// Not now, but after `retry_after` if nothing else is sent.
    Denied {
        /// What is left.
        quota: Quota,
        /// The earliest time the same cost can pass.
        retry_after: Duration,
    },
    /// Never: the cost is more than may be sent at once.
    TooCostly(Quota),
}

impl RateLimiter {
    /// A limiter that has seen nobody yet.
    pub fn new(config: &LimitConfig) -> Self {
        Self {
            per_minute_default: at_least_one(config.rate_limit_per_minute),
            orgs: Cache::builder().max_capacity(LIMITERS_MAX).time_to_idle(IDLE).build(),
            clock: DefaultClock::default(),
        }
    }

    /// Takes `cost` events from what `org` may send, or takes nothing and says why. `per_minute` is
    /// the organisation's own limit; `None` follows the default. A changed limit starts afresh.
    pub fn check(&self, org: OrgId, per_minute: Option<u32>, cost: NonZeroU32) -> Verdict {
        let per_minute = per_minute.map_or(self.per_minute_default, at_least_one);
        let limiter = self.limiter(org, per_minute);
        let limit = per_minute.get();
        match limiter.gcra.check_n(cost) {
            Ok(Ok(state)) => Verdict::Allowed(quota(limit, state.remaining_burst_capacity())),
            Ok(Err(not_until)) => {
                let retry_after = not_until.wait_time_from(self.clock.now());
                // What is left is `cost` less what the wait will refill.
                let missing = events_in(retry_after, limit);
                let remaining = cost.get().saturating_sub(missing.max(1));
                Verdict::Denied { quota: quota(limit, remaining), retry_after }
            }
            Err(_) => Verdict::TooCostly(quota(limit, limit)),
        }
    }

    fn limiter(&self, org: OrgId, per_minute: NonZeroU32) -> Arc<OrgLimiter> {
        if let Some(limiter) = self.orgs.get(&org)
            && limiter.per_minute == per_minute
        {
            return limiter;
        }
        let entry = self.orgs.entry(org).and_upsert_with(|current| match current {
            Some(entry) if entry.value().per_minute == per_minute => entry.into_value(),
            Some(_) | None => Arc::new(OrgLimiter::new(per_minute)),
        });
        entry.into_value()
    }
}

impl OrgLimiter {
    fn new(per_minute: NonZeroU32) -> Self {
        let quota = governor::Quota::per_minute(per_minute);
        let gcra = governor::RateLimiter::direct(quota).with_middleware();
        Self { per_minute, gcra }
    }
}

fn at_least_one(per_minute: u32) -> NonZeroU32 {
    NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN)
}

fn quota(limit: u32, remaining: u32) -> Quota {
    let used = limit.saturating_sub(remaining);
    Quota { limit, remaining, reset: WINDOW * used / limit.max(1) }
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
    fn an_organisation_may_send_its_limit_at_once_and_no_more() {
        let (limiter, org) = (limiter(3), org(1));
        for left in [2, 1, 0] {
            let Verdict::Allowed(quota) = limiter.check(org, None, cost(1)) else {
                panic!("refused with {left} left")
            };
            assert_eq!((quota.limit, quota.remaining), (3, left));
        }
        let Verdict::Denied { quota, retry_after } = limiter.check(org, None, cost(1)) else {
            panic!("allowed a fourth")
        };
        assert_eq!(quota.remaining, 0);
        assert!(retry_after > Duration::from_secs(19) && retry_after <= Duration::from_secs(20));
    }

    #[test]
    fn one_organisation_leaves_the_others_alone() {
        let limiter = limiter(1);
        let (one, other) = (org(1), org(2));
        assert!(matches!(limiter.check(one, None, cost(1)), Verdict::Allowed(_)));
        assert!(matches!(limiter.check(one, None, cost(1)), Verdict::Denied { .. }));
        assert!(matches!(limiter.check(other, None, cost(1)), Verdict::Allowed(_)));
    }

    #[test]
    fn a_batch_costs_its_length_and_takes_all_or_nothing() {
        let (limiter, org) = (limiter(10), org(1));
        assert!(matches!(limiter.check(org, None, cost(8)), Verdict::Allowed(_)));
        let Verdict::Denied { quota, .. } = limiter.check(org, None, cost(3)) else {
            panic!("allowed eleven")
        };
        assert_eq!(quota.remaining, 2);
        assert!(matches!(limiter.check(org, None, cost(2)), Verdict::Allowed(_)));
    }

    #[test]
    fn a_cost_above_the_limit_can_never_pass() {
        let (limiter, org) = (limiter(10), org(1));
        let Verdict::TooCostly(quota) = limiter.check(org, None, cost(11)) else {
            panic!("expected TooCostly")
        };
        assert_eq!(quota.remaining, 10);
    }

    #[test]
    fn an_organisations_own_limit_replaces_the_default_at_once() {
        let (limiter, org) = (limiter(1), org(1));
        assert!(matches!(limiter.check(org, None, cost(1)), Verdict::Allowed(_)));
        assert!(matches!(limiter.check(org, None, cost(1)), Verdict::Denied { .. }));
        assert!(matches!(limiter.check(org, Some(5), cost(5)), Verdict::Allowed(_)));
        assert!(matches!(limiter.check(org, Some(5), cost(1)), Verdict::Denied { .. }));
    }
}
