//! Suspended organisations: those whose deliveries are not attempted, also while they are being deleted.
//!
//! The store does not let their deliveries be claimed. This set applies its decision to the deliveries that
//! wait in memory: the dispatcher releases them instead of starting them.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::domain::OrgId;
use crate::runtime::{Shutdown, Wake};
use crate::store::Store;

/// The set of suspended organisations. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SuspendedOrgs(Arc<RwLock<HashSet<OrgId>>>);

impl SuspendedOrgs {
    /// Whether deliveries of this organisation are not attempted.
    pub fn contains(&self, org: OrgId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&org)
    }

    /// Replaces the set.
    pub fn set(&self, orgs: Vec<OrgId>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = orgs.into_iter().collect();
    }

    /// Polls the store at every wake and every `interval`, until the soft stop.
    pub async fn watch(self, store: Store, wake: Wake, interval: Duration, shutdown: Shutdown) {
        loop {
            match store.system().suspended_orgs().await {
                Ok(orgs) => self.set(orgs),
                // The key watch polls as often and warns of an outage.
                Err(error) => tracing::debug!(%error, "cannot load suspended organisations"),
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = wake.sleep(interval) => {}
            }
        }
    }
}
