//! The handle to the dispatcher: evicts deliveries from its memory, and tells which endpoints are
//! backpressured.
//!
//! The store decides what may be attempted. The handle applies a decision at once to the deliveries that
//! this process holds in memory; other instances apply it at their next claim, or when their leases lapse.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::domain::{DeliveryId, EndpointId};

/// Maximum ids in one eviction request. Beyond it the dispatcher evicts everything, which is as correct
/// and costs one claim.
const EVICTED_IDS_MAX: usize = 4096;

/// Asks the dispatcher to evict deliveries, and shows which endpoints it refuses. Cheap to clone; without
/// a dispatcher it does nothing.
#[derive(Clone, Debug)]
pub struct DeliveryHandle(Arc<HandleState>);

#[derive(Debug)]
struct HandleState {
    requested: Mutex<EvictionSet>,
    notify: Notify,
    backpressured: watch::Sender<Arc<[EndpointId]>>,
}

/// Leased deliveries that the dispatcher must release instead of starting.
#[derive(Debug, Default)]
pub(super) struct EvictionSet {
    endpoints: HashSet<EndpointId>,
    deliveries: HashSet<DeliveryId>,
    everything: bool,
}

impl DeliveryHandle {
    /// A handle that no dispatcher listens to yet.
    pub fn new() -> Self {
        Self(Arc::new(HandleState {
            requested: Mutex::default(),
            notify: Notify::new(),
            backpressured: watch::Sender::new(Arc::from([])),
        }))
    }

    /// Releases the deliveries to an endpoint that wait in memory, so that the store applies its current
    /// state: they may be parked, cancelled, or due under new settings. Call it after an endpoint was
    /// changed or removed. Attempts in flight complete.
    pub fn evict_endpoint(&self, endpoint: EndpointId) {
        self.requested().endpoints.insert(endpoint);
        self.0.notify.notify_one();
    }

    /// Releases one delivery that waits in memory. Call it after the delivery was cancelled.
    pub fn evict_delivery(&self, delivery: DeliveryId) {
        self.requested().deliveries.insert(delivery);
        self.0.notify.notify_one();
    }

    /// The endpoints, in ascending order, whose new deliveries should stay in the store for now: their
    /// breaker is open, or they receive deliveries faster than they complete them.
    pub fn backpressured(&self) -> watch::Receiver<Arc<[EndpointId]>> {
        self.0.backpressured.subscribe()
    }

    pub(super) fn set_backpressured(&self, endpoints: Arc<[EndpointId]>) {
        self.0.backpressured.send_replace(endpoints);
    }

    /// Waits until [`Self::take`] has something to return.
    pub(super) async fn evictions_requested(&self) {
        self.0.notify.notified().await;
    }

    /// The evictions requested since the last call.
    pub(super) fn take(&self) -> EvictionSet {
        std::mem::take(&mut *self.requested())
    }

    fn requested(&self) -> MutexGuard<'_, EvictionSet> {
        let mut requested = self.0.requested.lock().unwrap_or_else(PoisonError::into_inner);
        requested.bound();
        requested
    }
}

impl Default for DeliveryHandle {
    fn default() -> Self {
        Self::new()
    }
}

impl EvictionSet {
    /// Whether nothing is to be evicted.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.deliveries.is_empty() && !self.everything
    }

    /// Whether this delivery to this endpoint is to be evicted.
    pub(super) fn contains(&self, endpoint: EndpointId, delivery: DeliveryId) -> bool {
        self.everything || self.endpoints.contains(&endpoint) || self.deliveries.contains(&delivery)
    }

    /// Adds the evictions of `other`.
    pub(super) fn extend(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.deliveries.extend(other.deliveries);
        self.everything |= other.everything;
        self.bound();
    }

    fn bound(&mut self) {
        if self.endpoints.len() + self.deliveries.len() >= EVICTED_IDS_MAX {
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
    fn requested_evictions_are_taken_once() {
        let handle = DeliveryHandle::new();
        let (endpoint, delivery) = (EndpointId::mint(NOW), DeliveryId::mint(NOW));
        handle.evict_endpoint(endpoint);
        handle.evict_delivery(delivery);
        let requested = handle.take();
        assert!(requested.contains(endpoint, DeliveryId::mint(NOW)));
        assert!(requested.contains(EndpointId::mint(NOW), delivery));
        assert!(!requested.contains(EndpointId::mint(NOW), DeliveryId::mint(NOW)));
        assert!(handle.take().is_empty());
    }

    #[test]
    fn evictions_beyond_the_maximum_evict_everything() {
        let handle = DeliveryHandle::new();
        for _ in 0..=EVICTED_IDS_MAX {
            handle.evict_endpoint(EndpointId::mint(NOW));
        }
        assert!(handle.take().contains(EndpointId::mint(NOW), DeliveryId::mint(NOW)));
    }
}
