//! The subsystems that use cases call.

use crate::auth::{self, Authenticator, IssueError, IssuedKey};
use crate::delivery::DeliveryHandle;
use crate::domain::{
    ApiKeyId, Delivery, DeliveryId, DeliveryStatus, EndpointId, HeldBy, InstanceId, OrgId, Role,
    Timestamp,
};
use crate::runtime::{Clock, Wake};
use crate::store::{Store, StoreError};

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
    /// This run.
    pub id: InstanceId,
    /// Caches keys and organisations, and bounds how many keys are issued at once.
    pub authenticator: Authenticator,
    /// Holds deliveries in memory that a change may outdate.
    pub delivery: DeliveryHandle,
    /// Wakes the replayer when there is a new replay.
    pub replayer: Wake,
}

impl Subsystems {
    /// For a process without a server.
    pub fn without_server(store: Store, clock: Clock) -> Self {
        Self { store, clock, server: None }
    }

    /// Issues a key with all scopes of its role and no expiry, for `asked_by`, who waits for it.
    pub(super) async fn issue_key(
        &self,
        asked_by: Role,
        role: Role,
        name: String,
        now: Timestamp,
    ) -> Result<IssuedKey, IssueError> {
        match &self.server {
            Some(server) => server.authenticator.issue_key(asked_by, role, name, now).await,
            None => auth::issue_key(role, name, now).await,
        }
    }

    /// Adds what this server alone knows: that a delivery waits here for a slot, without an attempt in flight, and that
    /// nothing is sent to its endpoint for now, or that it cannot be read.
    pub(super) fn add_local_holds(&self, org: OrgId, deliveries: &mut [Delivery]) {
        let Some(server) = &self.server else { return };
        let queued = server.delivery.queued(deliveries);
        let is_pending = |delivery: &&mut Delivery| delivery.status == DeliveryStatus::Pending;
        for delivery in deliveries.iter_mut().filter(is_pending) {
            if queued.contains(&delivery.id) {
                delivery.held_by = None;
            }
            if delivery.held_by.is_some() {
                continue;
            }
            let endpoint = delivery.endpoint_id;
            if server.delivery.is_unreadable(org, endpoint) {
                delivery.held_by = Some(HeldBy::Unreadable);
            } else if server.delivery.paused_until(endpoint).is_some() {
                delivery.held_by = Some(HeldBy::Paused);
            }
        }
    }

    /// Drops what is cached of a key: it was revoked or rotated.
    pub(super) fn invalidate_key(&self, key: ApiKeyId) {
        if let Some(server) = &self.server {
            server.authenticator.invalidate(key);
        }
    }

    /// Drops what is cached of every organisation that was changed.
    pub(super) async fn invalidate_changed(&self) -> Result<(), StoreError> {
        match &self.server {
            Some(server) => server.authenticator.invalidate_changed().await,
            None => Ok(()),
        }
    }

    /// Has delivery follow a change of an organisation's endpoints: when this returns, nothing is sent to
    /// what they were.
    pub(super) async fn endpoints_changed(&self, org: OrgId) {
        if let Some(server) = &self.server {
            server.delivery.endpoints_changed(org).await;
        }
    }

    /// Drops a delivery from memory: it was cancelled.
    pub(super) fn delivery_cancelled(&self, endpoint: EndpointId, delivery: DeliveryId) {
        if let Some(server) = &self.server {
            server.delivery.cancelled(endpoint, delivery);
        }
    }

    /// Has a due delivery attempted now, although its endpoint may be failing: somebody asked for it.
    pub(super) fn attempt_now(&self, org: OrgId, endpoint: EndpointId, delivery: DeliveryId) {
        if let Some(server) = &self.server {
            server.delivery.attempt_now(org, endpoint, delivery);
        }
    }

    /// Until when this server sends nothing to an endpoint by the retry schedule.
    pub(super) fn paused_until(&self, endpoint: EndpointId) -> Option<Timestamp> {
        self.server.as_ref()?.delivery.paused_until(endpoint)
    }

    /// Has the dispatcher look for due deliveries now.
    pub(super) fn wake_dispatcher(&self) {
        if let Some(server) = &self.server {
            server.delivery.wake();
        }
    }

    /// Has the replayer look for replays now.
    pub(super) fn wake_replayer(&self) {
        if let Some(server) = &self.server {
            server.replayer.wake();
        }
    }
}
