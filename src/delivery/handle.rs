//! The handle to delivery: for those who change endpoints and deliveries, and want them sent now.
//!
//! The store decides what may be attempted. The handle applies a change at once to what this process holds in
//! memory; other servers apply it when their change feed brings it.

use std::collections::{BTreeSet, HashSet};

use crate::domain::{Delivery, DeliveryId, EndpointId, HeldBy, OrgId, Timestamp};

use super::dispatch::Dispatch;
use super::inboxes::Inboxes;
use super::manual_requests::ManualRequest;
use super::wakes::OutcomeWakes;

/// Paused endpoints that are told at most.
const PAUSED_MAX: usize = 10_000;

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeliveryHandle {
    dispatch: Dispatch,
    outcomes: OutcomeWakes,
}

impl DeliveryHandle {
    pub(super) const fn new(dispatch: Dispatch, outcomes: OutcomeWakes) -> Self {
        Self { dispatch, outcomes }
    }

    /// Applies a change of an organisation's endpoints, also its suspension and its end: when this returns,
    /// nothing is sent to what they were. Attempts in flight complete.
    pub async fn endpoints_changed(&self, org: OrgId) {
        self.dispatch.endpoints_changed(org).await;
    }

    /// The database is another one, as after a failover: every endpoint is read again before anything is sent to it,
    /// whatever its version.
    pub fn database_changed(&self) {
        self.dispatch.database_changed();
    }

    /// Removes a delivery from memory that was cancelled. An attempt in flight completes.
    pub fn cancelled(&self, endpoint: EndpointId, delivery: DeliveryId) {
        // The store has taken its lease away: there is nothing to release.
        let removed = self.dispatch.admission().remove(endpoint, |waiting| waiting.id == delivery);
        if !removed.is_empty() {
            // Its place and its bytes are free for others.
            self.dispatch.wake();
        }
    }

    /// Attempts a due delivery now, although the breaker of its endpoint may be open: somebody asked for it.
    pub fn attempt_now(&self, org: OrgId, endpoint: EndpointId, delivery: DeliveryId) {
        self.dispatch.request_manual(ManualRequest { org, endpoint, delivery });
    }

    /// Has the store scanned for due deliveries now.
    pub fn wake(&self) {
        self.dispatch.wake_scan();
    }

    /// Until when this server sends nothing to an endpoint because its receiver failed or asked for it.
    pub fn paused_until(&self, endpoint: EndpointId) -> Option<Timestamp> {
        let (_, now) = self.dispatch.now();
        let until = self.dispatch.admission().paused_until(endpoint, now)?;
        Some(self.dispatch.timestamp_of(until))
    }

    /// Whether the endpoint cannot be read from the store, as far as this server knows.
    pub fn is_unreadable(&self, org: OrgId, endpoint: EndpointId) -> bool {
        self.dispatch.cache().is_unreadable(org, endpoint)
    }

    /// Those of some leased deliveries that wait here for a slot: no attempt at them is in flight.
    pub fn queued(&self, deliveries: &[Delivery]) -> HashSet<DeliveryId> {
        let leased = deliveries.iter().filter(|one| one.held_by == Some(HeldBy::InFlight));
        let (mut asked, mut endpoints) = (HashSet::new(), BTreeSet::new());
        for delivery in leased {
            asked.insert(delivery.id);
            endpoints.insert(delivery.endpoint_id);
        }
        if asked.is_empty() {
            return asked;
        }
        let admission = self.dispatch.admission();
        let waiting = endpoints.into_iter().flat_map(|endpoint| admission.waiting_for(endpoint));
        waiting.map(|waiting| waiting.id).filter(|id| asked.contains(id)).collect()
    }

    /// Endpoints to which this server sends nothing because their receivers failed or asked for it; of very many, some.
    pub fn paused(&self) -> Vec<EndpointId> {
        self.dispatch.admission().paused(PAUSED_MAX)
    }

    /// Wakes those who wait for an outcome that this server records.
    pub const fn outcomes(&self) -> &OutcomeWakes {
        &self.outcomes
    }

    /// The consumers of inboxes.
    pub fn inboxes(&self) -> &Inboxes {
        self.dispatch.inboxes()
    }

    /// How many deliveries events of these types and accounts make; `None` while the organisation's endpoints are not known
    /// here, as before its first event.
    pub fn planned<'a>(
        &self,
        org: OrgId,
        events: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Option<usize> {
        self.dispatch.cache().planned(org, events)
    }
}
