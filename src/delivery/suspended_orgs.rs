//! The organisations for which nothing is sent: those that are suspended or being deleted.
//!
//! The store keeps their deliveries from being claimed. This makes its decision felt by what waits
//! in memory already: a delivery of theirs whose turn comes is handed back instead of attempted.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::domain::OrgId;
use crate::runtime::{Shutdown, Wake};
use crate::store::Store;

/// Who is paused. Cheap to clone; clones know the same.
#[derive(Clone, Debug, Default)]
pub struct SuspendedOrgs(Arc<RwLock<HashSet<OrgId>>>);

impl SuspendedOrgs {
    /// Whether nothing is sent for this organisation.
    pub fn contains(&self, org: OrgId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&org)
    }

    /// Learns who is paused now.
    pub fn set(&self, orgs: Vec<OrgId>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = orgs.into_iter().collect();
    }

    /// Asks the store at every wake and every `interval`, until the soft stop.
    pub async fn watch(self, store: Store, wake: Wake, interval: Duration, shutdown: Shutdown) {
        loop {
            match store.paused_across_orgs().await {
                Ok(orgs) => self.set(orgs),
                // The watch over keys, which asks as often, tells of an outage.
                Err(error) => tracing::debug!(%error, "cannot ask who is suspended"),
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = wake.sleep(interval) => {}
            }
        }
    }
}
