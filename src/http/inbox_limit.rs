//! The limit of what consumers of inboxes have in progress at once.
//!
//! Receiving and settling are writes, up to hundreds of events each, so neither the limits of reads nor those of changes
//! fit: the events were charged when they were accepted. What bounds a consumer is how much it has in progress. A read
//! that finds nothing costs one of the read limit.

use std::time::Duration;

use tokio::time::timeout;

use crate::domain::OrgId;
use crate::limit::{ConcurrencyLimiter, ConcurrencyPermit, FairPermit, FairSemaphore};

/// Requests of an organisation that use the store or wait for it.
const PER_ORG_MAX: usize = 64;
/// How long one waits for another one of its organisation to end.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// The fewest and the most requests that use the store at once.
const IN_STORE: (usize, usize) = (4, 16);

/// The limits.
#[derive(Debug)]
pub(super) struct InboxLimits {
    per_org: ConcurrencyLimiter<OrgId>,
    in_store: FairSemaphore<OrgId>,
}

/// The right to use the store, held while it is used and never while a consumer waits.
#[derive(Debug)]
pub(super) struct InboxPermit {
    // Given back in this order.
    _in_store: FairPermit<OrgId>,
    _of_org: ConcurrencyPermit<OrgId>,
}

/// Why the store is not used now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InboxesBusy {
    /// This many requests of the organisation are in progress.
    Org(usize),
    /// Others use it.
    Store,
}

impl InboxLimits {
    /// Limits for a store with so many connections for this.
    pub(super) fn new(connections: usize) -> Self {
        let (least, most) = IN_STORE;
        Self {
            per_org: ConcurrencyLimiter::new(PER_ORG_MAX, WAIT_MAX),
            in_store: FairSemaphore::new(connections.clamp(least, most)),
        }
    }

    /// Waits until the organisation may use the store once more, for `wait_max` at most.
    ///
    /// # Errors
    /// When too many of its requests wait, or the store is busy with others for too long.
    pub(super) async fn acquire(
        &self,
        org: OrgId,
        wait_max: Duration,
    ) -> Result<InboxPermit, InboxesBusy> {
        let of_org = self.per_org.acquire(org).await.ok_or(InboxesBusy::Org(PER_ORG_MAX))?;
        let in_store = timeout(wait_max, self.in_store.acquire(org)).await;
        let in_store = in_store.map_err(|_| InboxesBusy::Store)?;
        Ok(InboxPermit { _in_store: in_store, _of_org: of_org })
    }
}
