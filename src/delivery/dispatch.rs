//! What the dispatcher shares with those who have deliveries for it, and with those who change endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::domain::{
    Endpoint, EndpointId, EndpointKind, InstanceId, Lease, LeaseToken, LeasedDelivery, OrgId,
    Timestamp,
};
use crate::runtime::{Clock, Monotonic, Wake};
use crate::store::{OrgEndpoints, Persisted, PlannedDelivery, Result};

use super::admission::{Admission, AdmissionLimits, Offer, Reserved};
use super::aside::Aside;
use super::endpoint_cache::EndpointCache;
use super::inboxes::Inboxes;
use super::manual_requests::{ManualRequest, ManualRequests};
use super::outcome_report::OutcomeReport;
use super::recorder_backlog::RecorderBacklog;

/// The shared state. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Dispatch(Arc<DispatchState>);

#[derive(Debug)]
struct DispatchState {
    admission: Mutex<Admission<LeasedDelivery>>,
    manual: Mutex<ManualRequests>,
    cache: EndpointCache,
    clock: Clock,
    instance: InstanceId,
    lease: Duration,
    /// Wakes the dispatcher to start attempts or to claim for endpoints that have room.
    ready: Notify,
    /// Wakes the dispatcher to scan the store for due deliveries.
    due: Wake,
    /// Leases to be released, for the recorder. Bounded by the places of admission: nothing comes into memory
    /// while the store, which would record them, does not answer.
    released: mpsc::UnboundedSender<LeasedDelivery>,
    /// Deliveries whose outcomes the store does not record.
    aside: Mutex<Aside>,
    /// Outcomes that the store does not have yet.
    backlog: Mutex<RecorderBacklog>,
    inboxes: Inboxes,
}

/// How [`Dispatch`] is set up.
#[derive(Debug)]
pub(super) struct DispatchOptions {
    pub(super) limits: AdmissionLimits,
    pub(super) instance: InstanceId,
    pub(super) lease: Duration,
    pub(super) released: mpsc::UnboundedSender<LeasedDelivery>,
}

impl Dispatch {
    pub(super) fn new(
        options: DispatchOptions,
        cache: EndpointCache,
        clock: Clock,
        due: Wake,
    ) -> Self {
        let DispatchOptions { limits, instance, lease, released } = options;
        Self(Arc::new(DispatchState {
            admission: Mutex::new(Admission::new(limits)),
            manual: Mutex::default(),
            cache,
            clock,
            instance,
            lease,
            ready: Notify::new(),
            due,
            released,
            aside: Mutex::default(),
            backlog: Mutex::default(),
            inboxes: Inboxes::default(),
        }))
    }

    pub(super) fn admission(&self) -> MutexGuard<'_, Admission<LeasedDelivery>> {
        self.0.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cache(&self) -> &EndpointCache {
        &self.0.cache
    }

    pub(super) fn inboxes(&self) -> &Inboxes {
        &self.0.inboxes
    }

    /// The schedule time, and the monotonic one.
    pub(super) fn now(&self) -> (Timestamp, Monotonic) {
        (self.0.clock.schedule(), self.0.clock.monotonic())
    }

    pub(super) fn timestamp_of(&self, at: Monotonic) -> Timestamp {
        self.0.clock.timestamp_of(at)
    }

    pub(super) fn monotonic(&self) -> Monotonic {
        self.0.clock.monotonic()
    }

    /// A new lease, from now on.
    pub(super) fn lease(&self) -> Lease {
        let until = self.0.clock.schedule().plus(self.0.lease);
        Lease { token: LeaseToken::mint(self.0.instance), until }
    }

    /// Waits until there may be something to start or to claim.
    pub(super) async fn ready(&self) {
        self.0.ready.notified().await;
    }

    pub(super) fn wake(&self) {
        self.0.ready.notify_one();
    }

    /// Has the dispatcher scan the store for due deliveries.
    pub(super) fn wake_scan(&self) {
        self.0.due.wake();
    }

    /// Outcomes that the store does not have yet. While they stop claims, nothing is claimed: it could be what was
    /// delivered already.
    pub(super) fn backlog(&self) -> MutexGuard<'_, RecorderBacklog> {
        self.0.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The deliveries whose outcomes the store does not record: they are not attempted again here.
    pub(super) fn aside(&self) -> MutexGuard<'_, Aside> {
        self.0.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Outcomes of ordered deliveries to these endpoints are recorded: the next ones may be claimed.
    pub(super) fn ordered_recorded(&self, endpoints: &[EndpointId]) {
        let mut are_known = true;
        {
            let mut admission = self.admission();
            for endpoint in endpoints {
                are_known &= admission.note_left(*endpoint);
            }
        }
        if !are_known {
            self.wake_scan();
        }
        self.wake();
    }

    /// Releases leases of deliveries that were not attempted.
    pub(super) fn release(&self, deliveries: impl IntoIterator<Item = LeasedDelivery>) {
        for delivery in deliveries {
            // The recorder outlives everything but a hard stop. The lease then lapses.
            let _ = self.0.released.send(delivery);
        }
    }

    /// Wakes consumers that wait for an inbox of which deliveries are stored.
    fn wake_consumers(&self, planned: &[PlannedDelivery], persisted: &Persisted) {
        let wakes = &self.inboxes().wakes;
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

    /// Queues leased deliveries for whose endpoints places were reserved, and gives those places back.
    pub(super) fn queue(
        &self,
        reserved: impl IntoIterator<Item = Reserved>,
        leased: impl IntoIterator<Item = (LeasedDelivery, bool)>,
    ) {
        let mut released = Vec::new();
        {
            let mut admission = self.admission();
            for reserved in reserved {
                admission.unreserve(reserved);
            }
            for (delivery, is_manual) in leased {
                let (endpoint, bytes) = (delivery.endpoint.id, delivery.event.payload.len());
                let queued = if is_manual {
                    admission.push_manual(endpoint, delivery)
                } else {
                    admission.push(endpoint, delivery, bytes)
                };
                released.extend(queued.err());
            }
        }
        self.release(released);
        self.wake();
    }

    /// The requests for attempts by hand.
    pub(super) fn manual(&self) -> MutexGuard<'_, ManualRequests> {
        self.0.manual.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn request_manual(&self, request: ManualRequest) {
        self.manual().push(request);
        self.wake();
    }

    /// Applies a change of an organisation's endpoints: nothing that waits here is sent to what they were.
    /// Attempts in flight complete.
    pub(super) async fn endpoints_changed(&self, org: OrgId) {
        let followed = self.follow_changes(org).await;
        let released = match followed {
            Ok(Followed::NothingNew) => return,
            Ok(Followed::Changes(released)) => released,
            Ok(Followed::NoOrg) => self.admission().forget_endpoints(org),
            Err(error) => {
                tracing::warn!(%org, %error, "cannot read changed endpoints; their deliveries wait");
                self.0.cache.invalidate(org);
                self.admission().forget_endpoints(org)
            }
        };
        self.release(released);
        self.wake();
        self.wake_scan();
    }

    /// Drops what is known of all endpoints, since the database may not have it.
    pub(super) fn database_changed(&self) {
        tracing::warn!("the database is another one; its endpoints are read again");
        self.0.cache.invalidate_all();
        let released = self.admission().forget_all_endpoints();
        self.release(released);
        self.wake();
        self.wake_scan();
    }

    /// Reads what has changed since what is known here, or all endpoints where that cannot be told, and applies it.
    async fn follow_changes(&self, org: OrgId) -> Result<Followed> {
        let cache = &self.0.cache;
        let applied = self.admission().applied_version(org).filter(|_| cache.has(org));
        if let Some(since) = applied
            && let Some(changes) = cache.update(org, since).await?
        {
            if changes.version == since {
                return Ok(Followed::NothingNew);
            }
            return Ok(Followed::Changes(self.admission().apply_changes(org, &changes)));
        }
        cache.invalidate(org);
        let Some(current) = cache.reload(org).await? else { return Ok(Followed::NoOrg) };
        Ok(Followed::Changes(self.admission().endpoints_changed(org, &current)))
    }
}

/// What following the changes of an organisation's endpoints came to.
enum Followed {
    /// Nothing that was not known here.
    NothingNew,
    /// Changes that are applied, with the waiting deliveries that they outdate.
    Changes(Vec<LeasedDelivery>),
    /// There is no such organisation.
    NoOrg,
}

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
}

impl AdmissionDoor {
    pub(super) const fn new(dispatch: Dispatch, reports: mpsc::Sender<OutcomeReport>) -> Self {
        Self { dispatch, _reports: reports }
    }

    /// The endpoints of some organisations, cached, without those whose endpoints the store cannot read.
    ///
    /// # Errors
    /// When some are not cached and the store cannot be reached, or reads those of none of several.
    pub async fn endpoints(&self, orgs: &[OrgId]) -> Result<HashMap<OrgId, Arc<OrgEndpoints>>> {
        self.dispatch.cache().readable(orgs.iter().copied()).await
    }

    /// Has the store scanned for due deliveries.
    pub fn wake_scan(&self) {
        self.dispatch.wake_scan();
    }

    /// Offers the deliveries of a batch that is about to be stored. Those that may start right after it are
    /// marked to be leased; the others are left in the store.
    pub fn offer(
        &self,
        deliveries: &mut [PlannedDelivery],
        endpoints: &HashMap<OrgId, Arc<OrgEndpoints>>,
    ) -> Offered {
        let mut reserved: BTreeMap<EndpointId, Reserved> = BTreeMap::new();
        let lease = self.dispatch.lease();
        let now = self.dispatch.monotonic();
        let mut admission = self.dispatch.admission();
        for delivery in deliveries {
            let endpoint = &delivery.endpoint;
            let version = endpoints.get(&endpoint.org_id).map_or(0, |org| org.version);
            let bytes = delivery.event.payload.len();
            delivery.leased = admission.offer(endpoint, version, bytes, now) == Offer::Start;
            if delivery.leased {
                let nothing = Reserved { endpoint: endpoint.id, count: 0, bytes: 0 };
                let of_it = reserved.entry(endpoint.id).or_insert(nothing);
                of_it.count += 1;
                of_it.bytes += bytes;
            }
        }
        drop(admission);
        let reserved = reserved.into_values().collect();
        Offered { dispatch: self.dispatch.clone(), lease, reserved }
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
        let has_stale = !persisted.stale.is_empty();
        dispatch.wake_consumers(planned, persisted);
        for (org, endpoints) in persisted.stale.drain(..) {
            dispatch.cache().refresh(org, endpoints);
        }
        let mut left: Option<EndpointId> = None;
        {
            let now = dispatch.monotonic();
            let mut admission = dispatch.admission();
            let waits = |delivery: &&PlannedDelivery| {
                !delivery.leased && delivery.endpoint.kind == EndpointKind::Webhook
            };
            for delivery in planned.iter().filter(waits) {
                // Most batches have runs of one endpoint.
                if left.replace(delivery.endpoint.id) != Some(delivery.endpoint.id) {
                    admission.left_in_store(&delivery.endpoint, now);
                }
            }
        }
        let leased = persisted.leased.drain(..).map(|delivery| (delivery, false));
        dispatch.queue(std::mem::take(&mut self.reserved), leased);
        if has_stale {
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
