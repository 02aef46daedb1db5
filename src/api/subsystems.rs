//! The subsystems that use cases call.

use crate::delivery::DeliveryHandle;
use crate::domain::EndpointId;
use crate::runtime::{Clock, Wake};
use crate::store::Store;

/// What use cases work with. Cheap to clone.
#[derive(Clone)]
pub struct Subsystems {
    /// The store.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// The server in this process; `None` on the command line, whose changes servers notice by
    /// polling.
    pub server: Option<RunningServer>,
}

/// The parts of a running server that must know of changes at once.
#[derive(Clone)]
pub struct RunningServer {
    /// Holds deliveries in memory that a change may outdate.
    pub delivery: DeliveryHandle,
    /// Wakes the dispatcher when there is something to deliver.
    pub dispatcher: Wake,
}

impl Subsystems {
    /// Drops an endpoint's deliveries from memory: it was changed or deleted.
    pub(super) fn evict_endpoint(&self, endpoint: EndpointId) {
        if let Some(server) = &self.server {
            server.delivery.evict_endpoint(endpoint);
        }
    }

    /// Has the dispatcher look for due deliveries now.
    pub(super) fn wake_dispatcher(&self) {
        if let Some(server) = &self.server {
            server.dispatcher.wake();
        }
    }
}
