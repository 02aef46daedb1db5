//! A sign of life that others can look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::Clock;
use crate::domain::Timestamp;

/// Tells how long ago something last happened. Clones are one pulse.
#[derive(Clone, Debug)]
pub struct Pulse {
    clock: Clock,
    last_micros: Arc<AtomicI64>,
}

impl Pulse {
    /// A pulse that beats once now.
    pub fn new(clock: Clock) -> Self {
        let last_micros = Arc::new(AtomicI64::new(clock.now().micros()));
        Self { clock, last_micros }
    }

    /// It happened now.
    pub fn beat(&self) {
        self.last_micros.store(self.clock.now().micros(), Ordering::Relaxed);
    }

    /// The time since it last happened.
    pub fn age(&self) -> Duration {
        let last = Timestamp::from_micros(self.last_micros.load(Ordering::Relaxed));
        self.clock.now().since(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_ages_until_it_beats() {
        let clock = Clock::manual(Timestamp::from_micros(7));
        let pulse = Pulse::new(clock.clone());
        clock.advance(Duration::from_secs(3));
        assert_eq!(pulse.clone().age(), Duration::from_secs(3));
        pulse.beat();
        assert_eq!(pulse.age(), Duration::ZERO);
    }
}
