//! Heartbeats: how long ago something last happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::{Clock, Monotonic};

/// Records when something last happened. Clones share it.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    clock: Clock,
    last_micros: Arc<AtomicI64>,
}

impl Heartbeat {
    /// A heartbeat whose last beat is now.
    pub fn new(clock: Clock) -> Self {
        let last_micros = Arc::new(AtomicI64::new(clock.monotonic().micros()));
        Self { clock, last_micros }
    }

    /// Records a beat now.
    pub fn beat(&self) {
        self.last_micros.store(self.clock.monotonic().micros(), Ordering::Relaxed);
    }

    /// The time since the last beat.
    pub fn age(&self) -> Duration {
        let last = Monotonic::from_micros(self.last_micros.load(Ordering::Relaxed));
        self.clock.monotonic().since(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn heartbeat_ages_until_it_beats() {
        let clock = Clock::manual(Timestamp::from_micros(7));
        let heartbeat = Heartbeat::new(clock.clone());
        clock.advance(Duration::from_secs(3));
        assert_eq!(heartbeat.clone().age(), Duration::from_secs(3));
        clock.step_by(86_400_000_000);
        assert_eq!(heartbeat.age(), Duration::from_secs(3), "whatever the wall clock does");
        heartbeat.beat();
        assert_eq!(heartbeat.age(), Duration::ZERO);
    }
}
