//! Heartbeats of the delivery service, for the health check.

use crate::runtime::{Clock, Heartbeat};

/// The heartbeats. Clones share them.
#[derive(Clone, Debug)]
pub struct DeliveryHealth {
    /// The dispatcher has completed an iteration: at least once per poll.
    pub dispatcher: Heartbeat,
    /// The store has answered a claim, even an empty one, or recorded outcomes: at least once per poll, or
    /// once per attempt timeout while all slots are in use.
    pub progress: Heartbeat,
}

impl DeliveryHealth {
    /// Heartbeats that beat now.
    pub fn new(clock: &Clock) -> Self {
        Self { dispatcher: Heartbeat::new(clock.clone()), progress: Heartbeat::new(clock.clone()) }
    }
}
