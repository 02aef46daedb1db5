//! A line between the dispatcher and the rest of the process: what it must let go of, and which
//! endpoints take nothing for now.
//!
//! The store decides what may be attempted; this makes its decision felt at once by what is in
//! memory already. On other instances it is felt when they claim next, or when their leases end.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::domain::{DeliveryId, EndpointId};

/// Names that wait for the dispatcher at most. Beyond that it lets go of all it holds, which is
/// as right and only costs a claim.
const NAMES_MAX: usize = 4096;

/// Tells the dispatcher what has changed, and others what it does not want. Cheap to clone.
///
/// Made by whoever starts delivery; one that no dispatcher listens to does nothing.
#[derive(Clone, Debug)]
pub struct DeliveryHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    names: Mutex<Forgotten>,
    named: Notify,
    shut: watch::Sender<Arc<[EndpointId]>>,
}

/// What the dispatcher must not start, as far as it was leased before it was told.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    endpoints: HashSet<EndpointId>,
    deliveries: HashSet<DeliveryId>,
    everything: bool,
}

impl DeliveryHandle {
    /// A line without a listener.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            names: Mutex::default(),
            named: Notify::new(),
            shut: watch::Sender::new(Arc::from([])),
        }))
    }

    /// Has the deliveries to an endpoint that wait in memory looked up in the store again, where
    /// they may be parked, cancelled or due under new settings. For after an endpoint was changed
    /// or removed; attempts in flight end as they would have.
    pub fn forget(&self, endpoint: EndpointId) {
        self.names().endpoints.insert(endpoint);
        self.0.named.notify_one();
    }

    /// The same for one delivery, for after it was cancelled.
    pub fn forget_delivery(&self, delivery: DeliveryId) {
        self.names().deliveries.insert(delivery);
        self.0.named.notify_one();
    }

    /// The endpoints that take nothing for now, in ascending order, since their breakers are open or they
    /// have got more than they get on with. What is planned for them is better left in the store.
    pub fn shut(&self) -> watch::Receiver<Arc<[EndpointId]>> {
        self.0.shut.subscribe()
    }

    pub(super) fn set_shut(&self, endpoints: Arc<[EndpointId]>) {
        self.0.shut.send_replace(endpoints);
    }

    /// Waits until there is something to [`Self::take`].
    pub(super) async fn named(&self) {
        self.0.named.notified().await;
    }

    /// What was named since this was last called.
    pub(super) fn take(&self) -> Forgotten {
        std::mem::take(&mut *self.names())
    }

    fn names(&self) -> MutexGuard<'_, Forgotten> {
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.bound();
        names
    }
}

impl Default for DeliveryHandle {
    fn default() -> Self {
        Self::new()
    }
}

impl Forgotten {
    /// Whether nothing is named.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.deliveries.is_empty() && !self.everything
    }

    /// Whether this delivery to this endpoint is named.
    pub(super) fn names(&self, endpoint: EndpointId, delivery: DeliveryId) -> bool {
        self.everything || self.endpoints.contains(&endpoint) || self.deliveries.contains(&delivery)
    }

    /// Names what `other` does, too.
    pub(super) fn add(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.deliveries.extend(other.deliveries);
        self.everything |= other.everything;
        self.bound();
    }

    fn bound(&mut self) {
        if self.endpoints.len() + self.deliveries.len() >= NAMES_MAX {
            *self = Self { everything: true, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    const NOW: Timestamp = Timestamp::from_micros(1);

    #[test]
    fn what_is_named_is_taken_once() {
        let control = DeliveryHandle::new();
        let (endpoint, delivery) = (EndpointId::mint(NOW), DeliveryId::mint(NOW));
        control.forget(endpoint);
        control.forget_delivery(delivery);
        let named = control.take();
        assert!(named.names(endpoint, DeliveryId::mint(NOW)));
        assert!(named.names(EndpointId::mint(NOW), delivery));
        assert!(!named.names(EndpointId::mint(NOW), DeliveryId::mint(NOW)));
        assert!(control.take().is_empty());
    }

    #[test]
    fn more_names_than_there_is_room_for_mean_everything() {
        let control = DeliveryHandle::new();
        for _ in 0..=NAMES_MAX {
            control.forget(EndpointId::mint(NOW));
        }
        assert!(control.take().names(EndpointId::mint(NOW), DeliveryId::mint(NOW)));
    }
}
