//! Signs of life of the delivery part, for probes.

use crate::runtime::{Clock, Heartbeat};

/// Signs of life. Clones are the same signs.
#[derive(Clone, Debug)]
pub struct DeliveryHealth {
    /// The dispatcher has gone through its loop: every poll at the latest.
    pub dispatcher: Heartbeat,
    /// Something got on: the store answered a claim, also one that found nothing due, or took
    /// outcomes. At the latest every poll, or every attempt's timeout while all slots are taken.
    pub progress: Heartbeat,
}

impl DeliveryHealth {
    /// Signs of a part that is alive now.
    pub fn new(clock: &Clock) -> Self {
        Self { dispatcher: Heartbeat::new(clock.clone()), progress: Heartbeat::new(clock.clone()) }
    }
}
