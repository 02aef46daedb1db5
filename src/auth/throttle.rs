//! Throttles clients that present invalid keys.
//!
//! Every key that is not cached costs a look-up in the store. A client that presented too many invalid keys
//! may present no uncached key for a while. Keys that this process has verified are not affected, so others
//! behind the same address (a company's gateway, a proxy missing from `TRUSTED_PROXIES`) keep working. A key
//! that is rejected again and again is cached, and counts once while it is.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use moka::sync::Cache;

use crate::domain::ClientNetwork;

/// Maximum client networks with tracked state; each takes about 300 bytes. No limit by address stops an
/// attacker with more networks than this.
const NETWORKS_MAX: u64 = 50_000;
/// State is dropped after this idle time, when the limit has refilled anyway.
const IDLE: Duration = Duration::from_mins(2);
const MINUTE: Duration = Duration::from_mins(1);

/// Limits the invalid keys of each client network.
pub(super) struct FailedKeyThrottle<C: Clock = DefaultClock> {
    per_minute: NonZeroU32,
    networks: Cache<ClientNetwork, Arc<NetworkState<C>>>,
    clock: C,
}

struct NetworkState<C: Clock> {
    gcra: RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>,
    /// Until when uncached keys are refused; `None` before the limit was used up.
    blocked_until: Mutex<Option<C::Instant>>,
}

impl<C: Clock + Clone + Send + Sync + 'static> FailedKeyThrottle<C> {
    /// Allows each network `per_minute` invalid keys, at once or spread over a minute.
    pub(super) fn new(per_minute: u32, clock: C) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let networks = Cache::builder().max_capacity(NETWORKS_MAX).time_to_idle(IDLE).build();
        Self { per_minute, networks, clock }
    }

    /// Checks whether this address may present an uncached key.
    ///
    /// # Errors
    /// How long it must wait.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        let Some(network) = self.networks.get(&ClientNetwork::of(address)) else {
            return Ok(());
        };
        let blocked_until = *network.blocked_until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        match blocked_until {
            Some(end) if end > now => Err(end.duration_since(now).into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Records that this address presented an invalid key.
    pub(super) fn record_failure(&self, address: IpAddr) {
        let network = self.networks.get_with(ClientNetwork::of(address), || {
            let quota = Quota::per_minute(self.per_minute);
            let gcra = RateLimiter::direct_with_clock(quota, self.clock.clone());
            let gcra = gcra.with_middleware();
            Arc::new(NetworkState { gcra, blocked_until: Mutex::new(None) })
        });
        let wait = match network.gcra.check() {
            Ok(state) if state.remaining_burst_capacity() > 0 => return,
            Ok(_) => MINUTE / self.per_minute.get(),
            Err(not_until) => not_until.wait_time_from(self.clock.now()),
        };
        let end = self.clock.now() + wait.into();
        *network.blocked_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn address_with_too_many_failures_waits_and_others_do_not() {
        let clock = FakeRelativeClock::default();
        let throttle = FailedKeyThrottle::new(3, clock.clone());
        for _ in 0..3 {
            assert_eq!(throttle.check(ONE), Ok(()));
            throttle.record_failure(ONE);
        }
        assert_eq!(throttle.check(ONE), Err(Duration::from_secs(20)));
        assert_eq!(throttle.check(OTHER), Ok(()));
        // Checks cost nothing, and one failure is allowed again after a third of a minute.
        clock.advance(Duration::from_secs(19));
        assert_eq!(throttle.check(ONE), Err(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(throttle.check(ONE), Ok(()));
        throttle.record_failure(ONE);
        assert_eq!(throttle.check(ONE), Err(Duration::from_secs(20)));
    }

    #[test]
    fn concurrent_failures_do_not_prolong_the_wait() {
        let clock = FakeRelativeClock::default();
        let throttle = FailedKeyThrottle::new(1, clock.clone());
        for _ in 0..100 {
            throttle.record_failure(ONE);
        }
        clock.advance(Duration::from_mins(1));
        assert_eq!(throttle.check(ONE), Ok(()));
    }
}
