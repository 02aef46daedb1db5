//! What the dispatcher shares with those who have deliveries for it, and with those who change endpoints.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::domain::{EndpointId, InstanceId, Lease, LeaseToken, LeasedDelivery, OrgId, Timestamp};
use crate::runtime::{Clock, Monotonic, Wake};
use crate::store::Result;

use super::admission::{Admission, AdmissionLimits, Reserved};
use super::aside::Aside;
use super::endpoint_cache::{DatabaseEpoch, EndpointCache};
use super::inboxes::Inboxes;
use super::manual_requests::{ManualRequest, ManualRequests};
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

    /// Admission, for whoever tells it of endpoints that were read from this database; `None` when that is another one now.
    pub(super) fn admission_of(
        &self,
        database: DatabaseEpoch,
    ) -> Option<MutexGuard<'_, Admission<LeasedDelivery>>> {
        // Under the lock: a change of the database is noted under it.
        let admission = self.admission();
        (self.cache().database() == database).then_some(admission)
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

    /// Queues leased deliveries for whose endpoints places were reserved, and gives those places back.
    pub(super) fn queue(
        &self,
        reserved: impl IntoIterator<Item = Reserved>,
        leased: impl IntoIterator<Item = (LeasedDelivery, bool)>,
    ) {
        let mut released = Vec::new();
        let now = self.monotonic();
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
                    admission.push(endpoint, delivery, bytes, now)
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
        let released = {
            let mut admission = self.admission();
            self.cache().change_database();
            admission.forget_all_endpoints()
        };
        self.release(released);
        self.wake();
        self.wake_scan();
    }

    /// Reads what has changed since what is known here, or all endpoints where that cannot be told, and applies it.
    async fn follow_changes(&self, org: OrgId) -> Result<Followed> {
        /// What was known is forgotten since.
        const OF_ANOTHER: Result<Followed> = Ok(Followed::NothingNew);
        let cache = &self.0.cache;
        let database = cache.database();
        let applied = self.admission().applied_version(org).filter(|_| cache.has(org));
        if let Some(since) = applied
            && let Some(changes) = cache.update(org, since, database).await?
        {
            if changes.version == since {
                return Ok(Followed::NothingNew);
            }
            let Some(mut admission) = self.admission_of(database) else { return OF_ANOTHER };
            return Ok(Followed::Changes(admission.apply_changes(org, &changes)));
        }
        cache.invalidate(org);
        let Some(current) = cache.reload(org, database).await? else { return Ok(Followed::NoOrg) };
        let Some(mut admission) = self.admission_of(database) else { return OF_ANOTHER };
        Ok(Followed::Changes(admission.endpoints_changed(org, &current)))
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

#[cfg(test)]
pub(super) mod tests;
