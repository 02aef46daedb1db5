//! The way of planned deliveries into the dispatcher, for ingest: they are offered before they are stored, and queued after.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::mpsc;

use crate::domain::{Endpoint, EndpointId, EndpointKind, Lease, OrgId};
use crate::store::{Persisted, PlannedDelivery, Result};

use super::admission::{Offer, Reserved};
use super::dispatch::Dispatch;
use super::endpoint_cache::{DatabaseEpoch, KnownEndpoints};
use super::outcome_report::OutcomeReport;

/// The way of planned deliveries into the dispatcher, for ingest. Clones share it.
#[derive(Clone, Debug)]
pub struct AdmissionDoor {
    dispatch: Dispatch,
    /// Keeps the recorder running: what cannot start any more is released.
    _reports: mpsc::Sender<OutcomeReport>,
}

/// The places that planned deliveries have been promised; dropped, they are given back.
#[derive(Debug)]
pub struct Offered {
    dispatch: Dispatch,
    lease: Lease,
    reserved: Vec<Reserved>,
    /// What the endpoints were read from.
    database: DatabaseEpoch,
}

impl AdmissionDoor {
    pub(super) const fn new(dispatch: Dispatch, reports: mpsc::Sender<OutcomeReport>) -> Self {
        Self { dispatch, _reports: reports }
    }

    /// The endpoints of some organisations, cached, without those whose endpoints the store cannot read.
    ///
    /// # Errors
    /// When some are not cached and the store cannot be reached, or reads those of none of several.
    pub async fn endpoints(&self, orgs: &[OrgId]) -> Result<KnownEndpoints> {
        self.dispatch.cache().readable(orgs.iter().copied()).await
    }

    /// The endpoints of no organisation.
    pub fn no_endpoints(&self) -> KnownEndpoints {
        KnownEndpoints { by_org: HashMap::new(), database: self.dispatch.cache().database() }
    }

    /// Whether endpoints were read from the database that there is now, as far as it is known.
    pub fn are_current(&self, endpoints: &KnownEndpoints) -> bool {
        endpoints.database == self.dispatch.cache().database()
    }

    /// Has the store scanned for due deliveries.
    pub fn wake_scan(&self) {
        self.dispatch.wake_scan();
    }

    /// Offers the deliveries of a batch that is about to be stored. Those that may start right after it are
    /// marked to be leased; the others are left in the store, and all are whose endpoints are those of an earlier database.
    pub fn offer(&self, deliveries: &mut [PlannedDelivery], endpoints: &KnownEndpoints) -> Offered {
        let KnownEndpoints { by_org, database } = endpoints;
        let mut reserved: BTreeMap<EndpointId, Reserved> = BTreeMap::new();
        let lease = self.dispatch.lease();
        let now = self.dispatch.monotonic();
        let mut admission = self.dispatch.admission_of(*database);
        for delivery in deliveries {
            let endpoint = &delivery.endpoint;
            let version = by_org.get(&endpoint.org_id).map_or(0, |org| org.version);
            let bytes = delivery.event.payload.len();
            delivery.leased = admission.as_mut().is_some_and(|admission| {
                admission.offer(endpoint, version, bytes, now) == Offer::Start
            });
            if delivery.leased {
                let nothing = Reserved { endpoint: endpoint.id, count: 0, bytes: 0 };
                let of_it = reserved.entry(endpoint.id).or_insert(nothing);
                of_it.count += 1;
                of_it.bytes += bytes;
            }
        }
        drop(admission);
        let reserved = reserved.into_values().collect();
        Offered { dispatch: self.dispatch.clone(), lease, reserved, database: *database }
    }
}

impl Offered {
    /// The lease to store the deliveries under that are to be leased.
    pub const fn lease(&self) -> Lease {
        self.lease
    }

    /// The batch is stored: what was leased is queued, and claims see to the rest.
    pub fn stored(mut self, planned: &[PlannedDelivery], persisted: &mut Persisted) {
        let dispatch = self.dispatch.clone();
        let mut has_unknown = !persisted.stale.is_empty();
        wake_consumers(&dispatch, planned, persisted);
        for (org, endpoints) in persisted.stale.drain(..) {
            dispatch.cache().refresh(org, endpoints, self.database);
        }
        let mut left: Option<EndpointId> = None;
        if let Some(mut admission) = dispatch.admission_of(self.database) {
            let now = dispatch.monotonic();
            let waits = |delivery: &&PlannedDelivery| {
                !delivery.leased && delivery.endpoint.kind == EndpointKind::Webhook
            };
            for delivery in planned.iter().filter(waits) {
                // Most batches have runs of one endpoint.
                if left.replace(delivery.endpoint.id) != Some(delivery.endpoint.id) {
                    admission.left_in_store(&delivery.endpoint, now);
                }
            }
        } else {
            has_unknown = true;
        }
        let leased = persisted.leased.drain(..).map(|delivery| (delivery, false));
        dispatch.queue(std::mem::take(&mut self.reserved), leased);
        if has_unknown {
            dispatch.wake_scan();
        }
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if !self.reserved.is_empty() {
            self.dispatch.queue(std::mem::take(&mut self.reserved), []);
        }
    }
}

/// Wakes consumers that wait for an inbox of which deliveries are stored.
fn wake_consumers(dispatch: &Dispatch, planned: &[PlannedDelivery], persisted: &Persisted) {
    let wakes = &dispatch.inboxes().wakes;
    if wakes.is_empty() {
        return;
    }
    let mut stored: BTreeMap<EndpointId, usize> = BTreeMap::new();
    let is_pull = |endpoint: &Endpoint| endpoint.kind == EndpointKind::Pull;
    for delivery in planned.iter().filter(|planned| is_pull(&planned.endpoint)) {
        *stored.entry(delivery.endpoint.id).or_default() += 1;
    }
    // How many these got is not known.
    for (_, of_org) in &persisted.stale {
        let inboxes = of_org.endpoints.iter().filter(|endpoint| is_pull(endpoint));
        stored.extend(inboxes.map(|endpoint| (endpoint.id, usize::MAX)));
    }
    for (inbox, events) in stored {
        wakes.wake(inbox, events);
    }
}
