//! GCRA states in this process, one per key.
//!
//! A state is kept until it has refilled: one that were dropped earlier would be full when it is asked for
//! again.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use moka::Expiry;
use moka::sync::Cache;

use super::rate::{Rate, RateDecision, RateLimitState};

/// Maximum bytes of states: half a million of them. Beyond it, rarely used ones are dropped, and so are full again.
const BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Bytes of a state, besides what its key points to.
const STATE_BYTES: usize = 256;
/// The shortest life of an unused state: one that is made anew for every request costs more than one kept.
const LIFE_MIN: Duration = Duration::from_mins(1);

type Gcra<C> = governor::RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>;

/// Limits by key. Clones share their state.
#[derive(Clone)]
pub(super) struct LocalLimits<K, C: Clock = DefaultClock> {
    states: Cache<K, Arc<GcraState<C>>>,
    clock: C,
}

struct GcraState<C: Clock> {
    rate: Rate,
    gcra: Gcra<C>,
    /// In whole nanoseconds, as in `gcra`.
    time_of_one: Duration,
    created: C::Instant,
    /// When all will be left again, in nanoseconds since `created`. `governor` tells what is left only in
    /// exchange for a cost.
    full_at: AtomicU64,
}

/// Keeps a state until it has refilled, even if all of it was taken when it was last used.
struct UntilRefilled;

impl<K, C> LocalLimits<K, C>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    C: Clock + Clone + Send + Sync + 'static,
    C::Instant: Send + Sync,
{
    /// Limits without states. `key_bytes` are the bytes that a key points to.
    pub(super) fn new(clock: C, key_bytes: fn(&K) -> usize) -> Self {
        let weigh =
            move |key: &K, _: &_| u32::try_from(STATE_BYTES + key_bytes(key)).unwrap_or(u32::MAX);
        let states = Cache::builder().max_capacity(BYTES_MAX).weigher(weigh);
        Self { states: states.expire_after(UntilRefilled).build(), clock }
    }

    /// Takes `cost` from the limit of `key`, or nothing. A changed rate starts with a full burst.
    pub(super) fn check(&self, key: &K, rate: Rate, cost: NonZeroU32) -> RateDecision {
        let state = self.entry(key, rate);
        match state.gcra.check_n(cost) {
            Ok(Ok(snapshot)) => {
                state.note_taken(self.since(state.created), cost);
                RateDecision::Allowed(rate.state(snapshot.remaining_burst_capacity()))
            }
            Ok(Err(not_until)) => {
                let retry_after = not_until.wait_time_from(self.clock.now());
                // What remains is `cost` minus what the wait refills.
                let missing = rate.refilled_in(retry_after);
                let remaining = cost.get().saturating_sub(missing.max(1));
                RateDecision::Denied { state: rate.state(remaining), retry_after }
            }
            Err(_) => RateDecision::ExceedsBurst(rate.state(rate.burst.get())),
        }
    }

    /// How much of the limit of `key` is left. Takes nothing.
    pub(super) fn left(&self, key: &K, rate: Rate) -> RateLimitState {
        let until_full = self.current(key, rate).map_or(Duration::ZERO, |s| self.until_full(&s));
        rate.state(rate.burst.get().saturating_sub(rate.refilled_in(until_full)))
    }

    /// The time until `cost` is left of the limit of `key`. Takes nothing.
    pub(super) fn time_until(&self, key: &K, rate: Rate, cost: NonZeroU32) -> Duration {
        let Some(state) = self.current(key, rate) else { return Duration::ZERO };
        let spare = rate.burst.get().saturating_sub(cost.get());
        self.until_full(&state).saturating_sub(state.time_of(spare))
    }

    fn until_full(&self, state: &GcraState<C>) -> Duration {
        let full_at = Duration::from_nanos(state.full_at.load(Ordering::Relaxed));
        full_at.saturating_sub(self.since(state.created))
    }

    fn current(&self, key: &K, rate: Rate) -> Option<Arc<GcraState<C>>> {
        self.states.get(key).filter(|state| state.rate == rate)
    }

    fn entry(&self, key: &K, rate: Rate) -> Arc<GcraState<C>> {
        if let Some(state) = self.current(key, rate) {
            return state;
        }
        let entry = self.states.entry_by_ref(key).and_upsert_with(|current| match current {
            Some(entry) if entry.value().rate == rate => entry.into_value(),
            Some(_) | None => Arc::new(GcraState::new(rate, self.clock.clone())),
        });
        entry.into_value()
    }

    fn since(&self, earlier: C::Instant) -> Duration {
        self.clock.now().duration_since(earlier).into()
    }
}

impl<K, C: Clock> fmt::Debug for LocalLimits<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLimits").finish_non_exhaustive()
    }
}

impl<C: Clock> GcraState<C> {
    fn new(rate: Rate, clock: C) -> Self {
        let quota = governor::Quota::per_minute(rate.per_minute).allow_burst(rate.burst);
        let created = clock.now();
        let gcra = governor::RateLimiter::direct_with_clock(quota, clock).with_middleware();
        let time_of_one = quota.replenish_interval();
        Self { rate, gcra, time_of_one, created, full_at: AtomicU64::new(0) }
    }

    /// Notes that `cost` was taken `now`, as GCRA counts it: it refills behind all that was missing then.
    fn note_taken(&self, now: Duration, cost: NonZeroU32) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (now, time) = (nanos(now), nanos(self.time_of(cost.get())));
        let later = |full_at: u64| Some(full_at.max(now).saturating_add(time));
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// The time in which `cost` refills.
    fn time_of(&self, cost: u32) -> Duration {
        self.time_of_one.saturating_mul(cost)
    }
}

impl<K, C: Clock> Expiry<K, Arc<GcraState<C>>> for UntilRefilled {
    fn expire_after_create(
        &self,
        _: &K,
        state: &Arc<GcraState<C>>,
        _: Instant,
    ) -> Option<Duration> {
        Some(life(state.rate))
    }

    fn expire_after_read(
        &self,
        _: &K,
        state: &Arc<GcraState<C>>,
        _: Instant,
        left: Option<Duration>,
        _: Instant,
    ) -> Option<Duration> {
        // Not moved by every use: that would cost more than the check.
        left.filter(|left| *left >= state.rate.refill()).or_else(|| Some(life(state.rate)))
    }

    fn expire_after_update(
        &self,
        _: &K,
        state: &Arc<GcraState<C>>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(life(state.rate))
    }
}

/// The time for which a state is kept: enough to refill after a use in the first half of it.
fn life(rate: Rate) -> Duration {
    rate.refill().saturating_mul(2).max(LIFE_MIN)
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const SLOW: Rate = Rate::with_burst(1, 100);

    fn cost(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn limits() -> (LocalLimits<u8, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (LocalLimits::new(clock.clone(), |_| 0), clock)
    }

    /// How many of 200 single costs pass.
    fn passing(limits: &LocalLimits<u8, FakeRelativeClock>, rate: Rate) -> usize {
        let allowed = |_: &_| matches!(limits.check(&1, rate, cost(1)), RateDecision::Allowed(_));
        (0..200).filter(allowed).count()
    }

    #[test]
    fn burst_that_was_used_up_refills_at_the_rate_and_no_faster() {
        let (limits, clock) = limits();
        assert_eq!(passing(&limits, SLOW), 100);
        clock.advance(Duration::from_mins(1));
        assert_eq!((limits.left(&1, SLOW).remaining, passing(&limits, SLOW)), (1, 1));
        clock.advance(Duration::from_mins(3));
        limits.states.run_pending_tasks();
        assert_eq!((limits.left(&1, SLOW).remaining, passing(&limits, SLOW)), (3, 3));
        clock.advance(Duration::from_mins(100));
        assert_eq!((limits.left(&1, SLOW).remaining, passing(&limits, SLOW)), (100, 100));
    }

    #[test]
    fn state_is_kept_until_it_has_refilled_after_its_last_use() {
        let state = |rate| Arc::new(GcraState::new(rate, FakeRelativeClock::default()));
        #[expect(
            clippy::disallowed_methods,
            reason = "the cache passes it, and it does not matter"
        )]
        let now = Instant::now();
        let read = |rate, left: Duration| {
            UntilRefilled.expire_after_read(&1, &state(rate), now, Some(left), now).unwrap()
        };
        let refill = Duration::from_mins(100);
        assert_eq!(
            UntilRefilled.expire_after_create(&1, &state(SLOW), now),
            Some(Duration::from_mins(200))
        );
        for left in [1, 99, 100, 101, 199] {
            assert!(read(SLOW, Duration::from_mins(left)) >= refill, "{left}");
        }
        assert_eq!(read(SLOW, Duration::from_mins(150)), Duration::from_mins(150));
        // The largest burst at the smallest rate takes 190 years.
        let slowest = Rate::with_burst(1, 100_000_000);
        assert!(read(slowest, Duration::ZERO) >= slowest.refill());
        assert_eq!(read(Rate::per_minute(60_000), Duration::ZERO), Duration::from_mins(2));
        assert_eq!(read(Rate::with_burst(60_000, 1), Duration::ZERO), LIFE_MIN);
    }

    /// One refills in six seconds. Between whole ones, the look and the check must not differ.
    #[test]
    fn time_until_a_cost_passes_is_that_of_the_check_however_much_has_refilled() {
        let (limits, clock) = limits();
        let rate = Rate::per_minute(10);
        let until = |n| limits.time_until(&1, rate, cost(n));
        assert_eq!(until(10), Duration::ZERO);
        assert_eq!(passing(&limits, rate), 10);
        for millis in [7_000, 5_500, 300, 6_000, 5_999, 1, 30_500] {
            clock.advance(Duration::from_millis(millis));
            for n in [1, 2, 5] {
                let waits = until(n);
                match limits.check(&1, rate, cost(n)) {
                    RateDecision::Allowed(state) => {
                        assert_eq!(waits, Duration::ZERO, "{n} after {millis} ms");
                        assert_eq!(limits.left(&1, rate).remaining, state.remaining);
                    }
                    RateDecision::Denied { retry_after, .. } => assert_eq!(waits, retry_after),
                    RateDecision::ExceedsBurst(_) => unreachable!("five fit into ten"),
                }
            }
        }
    }

    #[test]
    fn what_is_left_is_told_as_a_check_tells_it_for_years() {
        let (limits, clock) = limits();
        let rate = Rate::per_minute(7);
        for _ in 0..500 {
            clock.advance(Duration::from_hours(24));
            let RateDecision::Allowed(state) = limits.check(&1, rate, cost(5)) else {
                panic!("refused")
            };
            assert_eq!((state.remaining, limits.left(&1, rate)), (2, state));
        }
    }
}
