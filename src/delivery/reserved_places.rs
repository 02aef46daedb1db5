//! Places that admission has reserved for a claim.

use super::admission::Reserved;
use super::dispatch::Dispatch;
use crate::domain::LeasedDelivery;

/// Reserved places, given back when a claim fails.
pub(super) struct Places<'a> {
    pub(super) dispatch: &'a Dispatch,
    pub(super) reserved: Vec<Reserved>,
}

impl Places<'_> {
    /// Queues what was leased for them, each with whether it was asked for by hand.
    pub(super) fn fill(mut self, leased: Vec<(LeasedDelivery, bool)>) {
        self.dispatch.queue(std::mem::take(&mut self.reserved), leased);
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        if !self.reserved.is_empty() {
            self.dispatch.queue(std::mem::take(&mut self.reserved), []);
        }
    }
}
