//! Heartbeats of the delivery service, for the health check.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::runtime::{Clock, Heartbeat, Monotonic};

/// The heartbeats. Clones share them.
#[derive(Clone, Debug)]
pub struct DeliveryHealth {
    /// The dispatcher has completed an iteration: at least once per poll.
    pub dispatcher: Heartbeat,
    /// The store has answered a claim, even an empty one, or recorded outcomes: at least once per poll, or
    /// once per attempt timeout while all slots are in use.
    pub progress: Heartbeat,
    /// Since when the recorder has been writing the outcomes at hand.
    pub recording: Recording,
}

/// Whether outcomes are being recorded, and since when. Clones share it.
#[derive(Clone, Debug)]
pub struct Recording {
    clock: Clock,
    /// [`Self::IDLE`], or the monotonic time in microseconds.
    since: Arc<AtomicI64>,
}

impl Recording {
    const IDLE: i64 = i64::MIN;

    fn new(clock: Clock) -> Self {
        Self { clock, since: Arc::new(AtomicI64::new(Self::IDLE)) }
    }

    /// A batch of outcomes is at hand.
    pub fn begin(&self) {
        self.since.store(self.clock.monotonic().micros(), Ordering::Relaxed);
    }

    /// The batch is recorded.
    pub fn end(&self) {
        self.since.store(Self::IDLE, Ordering::Relaxed);
    }

    /// How long the batch at hand has been waiting for the store; `None` when there is none.
    pub fn age(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed);
        (since != Self::IDLE).then(|| self.clock.monotonic().since(Monotonic::from_micros(since)))
    }
}

impl DeliveryHealth {
    /// Heartbeats that beat now.
    pub fn new(clock: &Clock) -> Self {
        Self {
            dispatcher: Heartbeat::new(clock.clone()),
            progress: Heartbeat::new(clock.clone()),
            recording: Recording::new(clock.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn recording_has_an_age_while_outcomes_are_at_hand() {
        let clock = Clock::manual(Timestamp::from_micros(7));
        let recording = Recording::new(clock.clone());
        assert_eq!(recording.age(), None);
        recording.begin();
        clock.advance(Duration::from_secs(3));
        assert_eq!(recording.clone().age(), Some(Duration::from_secs(3)));
        recording.end();
        assert_eq!(recording.age(), None);
    }
}
