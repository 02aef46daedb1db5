//! The rate limiter: every limit of a tenant, by name.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::DefaultClock;

use super::bucket::Bucket;
use super::local::LocalLimits;
use super::rate::{Rate, RateDecision, RateLimitState};
use crate::config::LimitConfig;
use crate::domain::{ApiKeyId, EventType, OrgId, OrgLimit, OrgLimits};

/// Deliveries that an event may become on average, for an organisation without a limit of its own.
const DELIVERIES_PER_EVENT: u32 = 10;
/// Writes and reads at once are those of ten seconds.
const BURSTS_PER_MINUTE: u32 = 6;
/// An account may use so much of what its organisation may change and read.
const ACCOUNTS_PER_TENANT: u32 = 5;
/// An operator works for many organisations.
const OPERATORS_PER_TENANTS: u32 = 10;

/// Decides whether a tenant may go on. Cheap to clone; clones share their state.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    events_per_minute: u32,
    writes: Rate,
    operator_writes: Rate,
    reads: Rate,
    operator_reads: Rate,
    account_writes: Rate,
    account_reads: Rate,
    states: LocalLimits<Bucket, DefaultClock>,
}

/// A rate limit of somebody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limit {
    /// What is counted, and of whom.
    pub bucket: Bucket,
    /// How much of it.
    pub rate: Rate,
}

/// What a request takes from a limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Charge {
    /// The limit.
    pub limit: Limit,
    /// What it takes.
    pub cost: NonZeroU32,
}

/// The charge that a limit refused, and the limit's decision, which does not allow it.
#[derive(Debug)]
pub struct Refused<'a> {
    /// The charge.
    pub charge: &'a Charge,
    /// Denied, or more than the burst.
    pub decision: RateDecision,
}

impl RateLimiter {
    /// A limiter without state.
    pub fn new(config: &LimitConfig) -> Self {
        let rate = |per_minute| Rate::with_burst(per_minute, per_minute / BURSTS_PER_MINUTE);
        let operators = |per_minute: u32| rate(per_minute.saturating_mul(OPERATORS_PER_TENANTS));
        let accounts = |per_minute: u32| {
            let share = (per_minute / ACCOUNTS_PER_TENANT).max(1);
            Rate::with_burst(share, (share / BURSTS_PER_MINUTE).max(1))
        };
        let writes_per_minute = config.write_rate_limit_per_minute;
        let reads_per_minute = config.read_rate_limit_per_minute;
        Self {
            events_per_minute: config.rate_limit_per_minute,
            writes: rate(writes_per_minute),
            operator_writes: operators(writes_per_minute),
            reads: rate(reads_per_minute),
            operator_reads: operators(reads_per_minute),
            account_writes: accounts(writes_per_minute),
            account_reads: accounts(reads_per_minute),
            states: LocalLimits::new(DefaultClock::default(), Bucket::heap_bytes),
        }
    }

    /// The event limit of an organisation.
    pub fn events(&self, org: OrgId, limits: &OrgLimits) -> Limit {
        let per_minute = limits.get(OrgLimit::RatePerMinute).unwrap_or(self.events_per_minute);
        let burst = limits.get(OrgLimit::Burst).unwrap_or(per_minute);
        let rate = Rate::with_burst(per_minute, burst);
        Limit { bucket: Bucket::Events(org), rate }
    }

    /// The byte limit of an organisation, if it has one: as many at once as per minute.
    pub fn bytes(&self, org: OrgId, limits: &OrgLimits) -> Option<Limit> {
        let rate = Rate::per_minute(limits.get(OrgLimit::BytesPerMinute)?);
        Some(Limit { bucket: Bucket::Bytes(org), rate })
    }

    /// The delivery limit of an organisation: its own with as many at once as per minute, or ten times its
    /// event limit.
    pub fn deliveries(&self, org: OrgId, limits: &OrgLimits) -> Limit {
        let rate = limits.get(OrgLimit::DeliveriesPerMinute).map_or_else(
            || {
                let Rate { per_minute, burst } = self.events(org, limits).rate;
                let deliveries =
                    |events: NonZeroU32| events.get().saturating_mul(DELIVERIES_PER_EVENT);
                Rate::with_burst(deliveries(per_minute), deliveries(burst))
            },
            Rate::per_minute,
        );
        Limit { bucket: Bucket::Deliveries(org), rate }
    }

    /// The write limit of an organisation.
    pub fn writes(&self, org: OrgId) -> Limit {
        Limit { bucket: Bucket::Writes(org), rate: self.writes }
    }

    /// The write limit of one account of an organisation, in the portal: a share of the organisation's.
    pub fn account_writes(&self, org: OrgId, account: Arc<str>) -> Limit {
        Limit { bucket: Bucket::AccountWrites(org, account), rate: self.account_writes }
    }

    /// The read limit of one account, likewise.
    pub fn account_reads(&self, org: OrgId, account: Arc<str>) -> Limit {
        Limit { bucket: Bucket::AccountReads(org, account), rate: self.account_reads }
    }

    /// The write limit of an operator's key.
    pub fn operator_writes(&self, key: ApiKeyId) -> Limit {
        Limit { bucket: Bucket::OperatorWrites(key), rate: self.operator_writes }
    }

    /// The read limit of an organisation.
    pub fn reads(&self, org: OrgId) -> Limit {
        Limit { bucket: Bucket::Reads(org), rate: self.reads }
    }

    /// The read limit of an operator's key.
    pub fn operator_reads(&self, key: ApiKeyId) -> Limit {
        Limit { bucket: Bucket::OperatorReads(key), rate: self.operator_reads }
    }

    /// Takes `cost` from a limit, or nothing.
    pub fn check(&self, limit: &Limit, cost: NonZeroU32) -> RateDecision {
        self.states.check(&limit.bucket, limit.rate, cost)
    }

    /// Takes from several limits, or from none. The state is that of `first`, the widest one: it is taken from
    /// only if the narrower ones of `rest` have enough, so that what they refuse costs the others nothing.
    ///
    /// # Errors
    /// A charge that its limit does not allow.
    pub fn check_all<'a>(
        &self,
        first: &'a Charge,
        rest: &'a [Charge],
    ) -> Result<RateLimitState, Refused<'a>> {
        // A charge that never passes tells so, and not when another one would.
        let never = std::iter::once(first).chain(rest).find(|charge| charge.exceeds_burst());
        if let Some(charge) = never {
            self.take(charge)?;
        }
        rest.iter().try_for_each(|charge| self.look(charge))?;
        let state = self.take(first)?;
        for charge in rest {
            self.take(charge)?;
        }
        Ok(state)
    }

    /// How much of a limit is left. Takes nothing.
    pub fn state(&self, limit: &Limit) -> RateLimitState {
        self.states.left(&limit.bucket, limit.rate)
    }

    /// Checks whether a charge of up to a burst could be taken now, and takes nothing.
    pub(crate) fn look<'a>(&self, charge: &'a Charge) -> Result<(), Refused<'a>> {
        let Charge { limit: Limit { bucket, rate }, cost } = charge;
        let retry_after = self.states.time_until(bucket, *rate, *cost);
        if retry_after.is_zero() {
            return Ok(());
        }
        let state = self.state(&charge.limit);
        Err(Refused { charge, decision: RateDecision::Denied { state, retry_after } })
    }

    fn take<'a>(&self, charge: &'a Charge) -> Result<RateLimitState, Refused<'a>> {
        match self.check(&charge.limit, charge.cost) {
            RateDecision::Allowed(state) => Ok(state),
            decision @ (RateDecision::Denied { .. } | RateDecision::ExceedsBurst(_)) => {
                Err(Refused { charge, decision })
            }
        }
    }
}

impl Limit {
    /// The limit of a key of `per_minute` events.
    pub fn of_key(key: ApiKeyId, per_minute: u32) -> Self {
        Self { bucket: Bucket::KeyEvents(key), rate: Rate::per_minute(per_minute) }
    }

    /// The limit of an organisation of `per_minute` events of a type.
    pub fn of_type(org: OrgId, event_type: EventType, per_minute: u32) -> Self {
        Self { bucket: Bucket::TypeEvents(org, event_type), rate: Rate::per_minute(per_minute) }
    }

    /// Takes `cost` from it.
    pub fn charge(self, cost: NonZeroU32) -> Charge {
        Charge { limit: self, cost }
    }
}

impl Charge {
    fn exceeds_burst(&self) -> bool {
        self.cost > self.limit.rate.burst
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::defaults;
    use crate::domain::Timestamp;

    fn limiter(per_minute: u32) -> RateLimiter {
        let defaults = defaults::<crate::config::Config>().limit;
        RateLimiter::new(&LimitConfig { rate_limit_per_minute: per_minute, ..defaults })
    }

    fn org(n: i64) -> OrgId {
        OrgId::mint(Timestamp::from_micros(n))
    }

    fn cost(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn own(set: &[(OrgLimit, u32)]) -> OrgLimits {
        set.iter()
            .fold(OrgLimits::default(), |limits, (limit, value)| limits.with(*limit, Some(*value)))
    }

    fn events(limiter: &RateLimiter, org: OrgId, n: u32) -> RateDecision {
        limiter.check(&limiter.events(org, &OrgLimits::default()), cost(n))
    }

    #[test]
    fn organisation_may_post_its_limit_at_once_and_no_more() {
        let (limiter, org) = (limiter(3), org(1));
        for left in [2, 1, 0] {
            let RateDecision::Allowed(state) = events(&limiter, org, 1) else {
                panic!("refused with {left} left")
            };
            assert_eq!((state.limit, state.remaining), (3, left));
        }
        let RateDecision::Denied { state, retry_after } = events(&limiter, org, 1) else {
            panic!("allowed a fourth")
        };
        assert_eq!(state.remaining, 0);
        assert!(retry_after > Duration::from_secs(19) && retry_after <= Duration::from_secs(20));
    }

    #[test]
    fn organisations_have_separate_limits() {
        let limiter = limiter(1);
        let (one, other) = (org(1), org(2));
        assert!(matches!(events(&limiter, one, 1), RateDecision::Allowed(_)));
        assert!(matches!(events(&limiter, one, 1), RateDecision::Denied { .. }));
        assert!(matches!(events(&limiter, other, 1), RateDecision::Allowed(_)));
    }

    #[test]
    fn batch_costs_its_number_of_events_and_takes_all_or_nothing() {
        let (limiter, org) = (limiter(10), org(1));
        assert!(matches!(events(&limiter, org, 8), RateDecision::Allowed(_)));
        let RateDecision::Denied { state, .. } = events(&limiter, org, 3) else {
            panic!("allowed eleven")
        };
        assert_eq!(state.remaining, 2);
        assert!(matches!(events(&limiter, org, 2), RateDecision::Allowed(_)));
    }

    #[test]
    fn cost_above_the_burst_can_never_pass() {
        let (limiter, org) = (limiter(10), org(1));
        let RateDecision::ExceedsBurst(state) = events(&limiter, org, 11) else {
            panic!("expected ExceedsBurst")
        };
        assert_eq!(state.remaining, 10);
    }

    #[test]
    fn limit_of_an_organisation_replaces_the_default_at_once() {
        let (limiter, org) = (limiter(1), org(1));
        assert!(matches!(events(&limiter, org, 1), RateDecision::Allowed(_)));
        assert!(matches!(events(&limiter, org, 1), RateDecision::Denied { .. }));
        let five = limiter.events(org, &own(&[(OrgLimit::RatePerMinute, 5)]));
        assert!(matches!(limiter.check(&five, cost(5)), RateDecision::Allowed(_)));
        assert!(matches!(limiter.check(&five, cost(1)), RateDecision::Denied { .. }));
    }

    #[test]
    fn burst_may_be_above_or_below_the_limit_per_minute() {
        let (limiter, org) = (limiter(1), org(1));
        let of = |per_minute, burst| {
            let limits = [(OrgLimit::RatePerMinute, per_minute), (OrgLimit::Burst, burst)];
            limiter.events(org, &own(&limits))
        };
        let small = of(600, 2);
        assert!(matches!(limiter.check(&small, cost(3)), RateDecision::ExceedsBurst(_)));
        assert!(matches!(limiter.check(&small, cost(2)), RateDecision::Allowed(_)));
        let RateDecision::Denied { retry_after, .. } = limiter.check(&small, cost(1)) else {
            panic!("allowed a third")
        };
        assert!(retry_after <= Duration::from_millis(100));
        assert!(matches!(limiter.check(&of(2, 50), cost(50)), RateDecision::Allowed(_)));
    }

    #[test]
    fn state_takes_nothing() {
        let (limiter, org) = (limiter(10), org(1));
        let limit = limiter.events(org, &OrgLimits::default());
        for _ in 0..2 {
            assert_eq!(limiter.state(&limit).remaining, 10);
        }
        events(&limiter, org, 4);
        for _ in 0..2 {
            assert_eq!(limiter.state(&limit).remaining, 6);
        }
    }

    #[test]
    fn bytes_have_a_separate_limit() {
        let (limiter, org) = (limiter(1), org(1));
        assert_eq!(limiter.bytes(org, &OrgLimits::default()), None);
        let bytes = limiter.bytes(org, &own(&[(OrgLimit::BytesPerMinute, 100)])).unwrap();
        assert_eq!(limiter.state(&bytes).remaining, 100);
        assert!(matches!(limiter.check(&bytes, cost(80)), RateDecision::Allowed(_)));
        assert_eq!(limiter.state(&bytes).remaining, 20);
        let RateDecision::Denied { state, .. } = limiter.check(&bytes, cost(80)) else {
            panic!("allowed 160")
        };
        assert_eq!((state.limit, state.remaining), (100, 20));
        assert!(matches!(limiter.check(&bytes, cost(101)), RateDecision::ExceedsBurst(_)));
        assert!(matches!(events(&limiter, org, 1), RateDecision::Allowed(_)));
    }

    #[test]
    fn deliveries_are_ten_times_the_events_unless_the_organisation_has_its_own_limit() {
        let (limiter, org) = (limiter(1000), org(1));
        let rate = |set: &[(OrgLimit, u32)]| limiter.deliveries(org, &own(set)).rate;
        assert_eq!(rate(&[]), Rate::per_minute(10_000));
        let events = [(OrgLimit::RatePerMinute, 6), (OrgLimit::Burst, 50)];
        assert_eq!(rate(&events), Rate::with_burst(60, 500));
        assert_eq!(rate(&[(OrgLimit::DeliveriesPerMinute, 7)]), Rate::per_minute(7));
        let most = [(OrgLimit::RatePerMinute, 100_000_000)];
        assert_eq!(rate(&most), Rate::per_minute(1_000_000_000));
    }

    #[test]
    fn what_one_limit_refuses_costs_the_others_nothing() {
        let (limiter, org, key) = (limiter(10), org(1), ApiKeyId::mint(Timestamp::from_micros(1)));
        let events = |n| limiter.events(org, &OrgLimits::default()).charge(cost(n));
        let of_key = |n| Limit::of_key(key, 3).charge(cost(n));
        let left = || [events(1), of_key(1)].map(|charge| limiter.state(&charge.limit).remaining);
        assert_eq!(limiter.check_all(&events(2), &[of_key(2)]).unwrap().remaining, 8);
        assert_eq!(left(), [8, 1]);
        let (first, rest) = (events(2), [of_key(2)]);
        let refused = limiter.check_all(&first, &rest).unwrap_err();
        assert_eq!(refused.charge, &rest[0]);
        assert!(matches!(refused.decision, RateDecision::Denied { .. }));
        assert_eq!(left(), [8, 1]);
        let (first, rest) = (events(9), [of_key(1)]);
        assert_eq!(limiter.check_all(&first, &rest).unwrap_err().charge, &first);
        assert_eq!(left(), [8, 1]);
        let (first, rest) = (events(9), [of_key(4)]);
        let refused = limiter.check_all(&first, &rest).unwrap_err();
        assert!(matches!(refused.decision, RateDecision::ExceedsBurst(_)));
        assert_eq!(left(), [8, 1]);
    }

    #[test]
    fn writes_of_organisations_and_operators_are_counted_apart() {
        let (limiter, key) = (limiter(1), ApiKeyId::mint(Timestamp::from_micros(1)));
        let writes = limiter.writes(org(1));
        assert_eq!(writes.rate, Rate::with_burst(600, 100));
        assert!(matches!(limiter.check(&writes, cost(100)), RateDecision::Allowed(_)));
        assert!(matches!(limiter.check(&writes, cost(1)), RateDecision::Denied { .. }));
        assert_eq!(limiter.state(&limiter.writes(org(2))).remaining, 100);
        assert_eq!(limiter.state(&limiter.operator_writes(key)).remaining, 1000);
        let reads = [limiter.reads(org(1)), limiter.operator_reads(key)];
        assert_eq!(reads.map(|limit| limiter.state(&limit).remaining), [1000, 10_000]);
    }
}
