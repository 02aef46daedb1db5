//! How many unknown and wrong keys an address may present.
//!
//! Every key that is not known here costs a look-up in the store. An address that has presented too
//! many that were no good may present no others for a while. Keys that this process has verified
//! never come this far, so whoever shares the address (a company's gateway, a proxy that is not
//! listed in `TRUSTED_PROXIES`) goes on working; and a key that is refused again and again is
//! remembered, and counts once while it is.

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

/// Blocks of addresses that are remembered at most; each takes about 300 bytes. An attacker with
/// more of them than this is one that no limit by address stops.
const BLOCKS_MAX: u64 = 50_000;
/// A block that presented no wrong key for this long may present all of them again anyway.
const IDLE: Duration = Duration::from_mins(2);
const MINUTE: Duration = Duration::from_mins(1);

/// Counts the failures of each block of addresses.
pub(super) struct FailedKeyThrottle<C: Clock = DefaultClock> {
    per_minute: NonZeroU32,
    blocks: Cache<ClientNetwork, Arc<Block<C>>>,
    clock: C,
}

struct Block<C: Clock> {
    gcra: RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>,
    /// Until when nothing more is let through; `None` when there is something left.
    closed_until: Mutex<Option<C::Instant>>,
}

impl<C: Clock + Clone + Send + Sync + 'static> FailedKeyThrottle<C> {
    /// Lets each block fail `per_minute` times, at once or spread over a minute.
    pub(super) fn new(per_minute: u32, clock: C) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let blocks = Cache::builder().max_capacity(BLOCKS_MAX).time_to_idle(IDLE).build();
        Self { per_minute, blocks, clock }
    }

    /// Whether this address may present a key that is not known, or else how long it must wait.
    pub(super) fn admit(&self, address: IpAddr) -> Result<(), Duration> {
        let Some(block) = self.blocks.get(&ClientNetwork::of(address)) else {
            return Ok(());
        };
        let closed_until = *block.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        match closed_until {
            Some(end) if end > now => Err(end.duration_since(now).into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Notes that this address has presented a key that was no good.
    pub(super) fn count(&self, address: IpAddr) {
        let block = self.blocks.get_with(ClientNetwork::of(address), || {
            let quota = Quota::per_minute(self.per_minute);
            let gcra = RateLimiter::direct_with_clock(quota, self.clock.clone());
            let gcra = gcra.with_middleware();
            Arc::new(Block { gcra, closed_until: Mutex::new(None) })
        });
        let wait = match block.gcra.check() {
            Ok(state) if state.remaining_burst_capacity() > 0 => return,
            Ok(_) => MINUTE / self.per_minute.get(),
            Err(not_until) => not_until.wait_time_from(self.clock.now()),
        };
        let end = self.clock.now() + wait.into();
        *block.closed_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn address_that_failed_too_often_waits_and_the_others_do_not() {
        let clock = FakeRelativeClock::default();
        let failures = FailedKeyThrottle::new(3, clock.clone());
        for _ in 0..3 {
            assert_eq!(failures.admit(ONE), Ok(()));
            failures.count(ONE);
        }
        assert_eq!(failures.admit(ONE), Err(Duration::from_secs(20)));
        assert_eq!(failures.admit(OTHER), Ok(()));
        // Asking again costs nothing, and one failure is back after a third of a minute.
        clock.advance(Duration::from_secs(19));
        assert_eq!(failures.admit(ONE), Err(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(failures.admit(ONE), Ok(()));
        failures.count(ONE);
        assert_eq!(failures.admit(ONE), Err(Duration::from_secs(20)));
    }

    #[test]
    fn failures_that_were_under_way_together_close_the_door_for_no_longer() {
        let clock = FakeRelativeClock::default();
        let failures = FailedKeyThrottle::new(1, clock.clone());
        for _ in 0..100 {
            failures.count(ONE);
        }
        clock.advance(Duration::from_mins(1));
        assert_eq!(failures.admit(ONE), Ok(()));
    }
}
