//! The claimer: leases due deliveries from the store, as many as admission has room for.
//!
//! A claim is for endpoints that are known to have deliveries in the store and have room again, for requests
//! by hand, and, at every poll and wake, for what a scan of the store finds: retries that are due, what other
//! servers and the command line left, and leases that lapsed. The scan is the guarantee; the rest saves time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::domain::{Endpoint, EndpointId, Lease, LeasedDelivery, OrgId, Timestamp};
use crate::store::{ClaimedDeliveries, ClaimedDelivery, LeaseGrant, Result, Store, StoreError};
use crate::telemetry::OrgLines;

use super::admission::{Granted, Reserved, Target};
use super::claim_targets::{ClaimTargets, target};
use super::dispatch::Dispatch;
use super::due_scanner::DueScanner;
use super::endpoint_cache::DatabaseEpoch;
use super::manual_requests::ManualRequest;
use super::reserved_places::Places;
use super::unanswered_lease::UnansweredLease;

/// Maximum requests by hand in one claim: each is a statement.
const MANUAL_MAX: usize = 16;
/// Failed statements of one claim, at most: enough to find the first of some hundred endpoints that is at fault. The next
/// claim goes on without it.
const FAILURES_MAX: usize = 16;
/// Deliveries of one endpoint whose events are read one by one, at most.
const READABLE_MAX: usize = 16;

/// Endpoints that make a claim fail, and deliveries that do.
static UNREADABLE_ENDPOINTS: OrgLines = OrgLines::new();

/// Makes claims, one at a time.
#[derive(Debug)]
pub(super) struct Claimer {
    store: Store,
    dispatch: Dispatch,
    scanner: DueScanner,
    /// Whether the last claim failed.
    is_failing: bool,
    unanswered: UnansweredLease,
}

/// What to claim.
#[derive(Debug, Default)]
pub(super) struct ClaimWork {
    /// Endpoints that have deliveries in the store and room for them.
    pub(super) endpoints: Vec<EndpointId>,
    /// Whether to scan the store for due deliveries.
    pub(super) scan: bool,
}

impl Claimer {
    pub(super) fn new(store: Store, dispatch: Dispatch) -> Self {
        let scanner = DueScanner::new(store.clone());
        Self { store, dispatch, scanner, is_failing: false, unanswered: UnansweredLease::default() }
    }

    /// Makes one claim and queues what it leases. `true` when the scan is to go on at once.
    ///
    /// # Errors
    /// The store's. It is logged once per outage; the next poll tries again.
    pub(super) async fn claim(&mut self, work: ClaimWork) -> Result<bool> {
        let result = self.try_claim(work).await;
        match &result {
            Ok(_) => self.is_failing = false,
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                tracing::warn!(%error, "cannot claim due deliveries; will retry");
            }
            Err(_) => {}
        }
        result
    }

    async fn try_claim(&mut self, work: ClaimWork) -> Result<bool> {
        if self.unanswered.release(&self.store, self.dispatch.now().0).await? {
            self.dispatch.wake_scan();
        }
        let has_more_manual = self.claim_manual().await?;
        let ClaimTargets { endpoints, database, has_more } = self.targets(work).await?;
        let now = self.dispatch.monotonic();
        let most = self.store.system().deliveries_at_once();
        // A scan follows the change of a database.
        let granted = self
            .dispatch
            .admission_of(database)
            .map_or_else(Vec::new, |mut admission| admission.grant(&endpoints, most, now));
        if !granted.is_empty() {
            self.lease(granted).await?;
        }
        Ok(has_more || has_more_manual)
    }

    /// The endpoints to claim for.
    async fn targets(&mut self, work: ClaimWork) -> Result<ClaimTargets> {
        let mut due: Vec<(OrgId, EndpointId, bool)> = Vec::new();
        let mut has_more = false;
        if work.scan {
            let (now, _) = self.dispatch.now();
            let released = self.scanner.release_lapsed(now).await?;
            let found = self.scanner.scan(now).await?;
            has_more = found.more || released > 0;
            due.extend(found.endpoints.iter().map(|due| (due.org, due.endpoint, due.ordered)));
        }
        let known: Vec<Arc<Endpoint>> = {
            let admission = self.dispatch.admission();
            work.endpoints.iter().filter_map(|id| admission.endpoint(*id)).collect()
        };
        let orgs = due.iter().map(|(org, ..)| *org);
        let orgs = orgs.chain(known.iter().map(|endpoint| endpoint.org_id));
        let read = self.dispatch.cache().readable(orgs).await?;
        let scanned: HashSet<EndpointId> = due.iter().map(|(_, endpoint, _)| *endpoint).collect();
        let mut targets: Vec<Target> = due
            .iter()
            .filter_map(|(org, id, ordered)| target(&read, *org, *id, *ordered, true))
            .collect();
        // What was planned before an endpoint became ordered goes first.
        targets.sort_by_key(|target| target.ordered);
        for endpoint in known.iter().filter(|endpoint| !scanned.contains(&endpoint.id)) {
            let ordered = endpoint.policy.ordered;
            let found = target(&read, endpoint.org_id, endpoint.id, ordered, false);
            if found.is_none() {
                // It cannot be read, or was disabled and admission is not told yet: it would be asked for again at once.
                let now = self.dispatch.monotonic();
                self.dispatch.admission().claim_failed(endpoint.id, now);
            }
            targets.extend(found);
        }
        Ok(ClaimTargets { endpoints: targets, database: read.database, has_more })
    }

    /// Leases what is granted. A claim that the store does not take although it can be reached, as where it cannot read
    /// one event, is halved until the endpoint at fault is alone. Of that one, what can be read is leased; if that fails, too,
    /// nothing more is claimed of it for a while: claims for others go on at once.
    ///
    /// # Errors
    /// When the store cannot be reached, or has taken no part of it when [`FAILURES_MAX`] statements have failed: many are
    /// at fault, and perhaps all.
    async fn lease(&self, granted: Vec<Granted>) -> Result<()> {
        let reserved = granted.iter().map(Granted::reserved).collect();
        let places = Places { dispatch: &self.dispatch, reserved };
        let mut parts = vec![(granted, places)];
        let (mut failures, mut is_any_leased, mut failure) = (0, false, None);
        // What is left beyond the last failure gives its places back, and is claimed the next time.
        while failures < FAILURES_MAX
            && let Some((mut granted, mut places)) = parts.pop()
        {
            let error = match self.lease_part(&granted, failures > 0).await {
                Ok(leased) => {
                    places.fill(leased);
                    is_any_leased = true;
                    continue;
                }
                Err(error) if error.is_connection() => return Err(error),
                Err(error) => error,
            };
            failures += 1;
            if let [one] = &granted[..] {
                match self.lease_readable(one).await {
                    Ok(leased) => {
                        places.fill(leased);
                        is_any_leased = true;
                    }
                    Err(error) if error.is_connection() => return Err(error),
                    Err(error) => self.hold_claims(&one.target.endpoint, &error),
                }
            } else {
                let half = granted.len() / 2;
                let reserved = places.reserved.split_off(half);
                let others = Places { dispatch: &self.dispatch, reserved };
                parts.push((granted.split_off(half), others));
                parts.push((granted, places));
            }
            failure = Some(error);
        }
        match failure {
            Some(error) if !is_any_leased && !parts.is_empty() => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    /// Claims nothing of an endpoint for a while, since the store does not read what is due for it.
    fn hold_claims(&self, endpoint: &Endpoint, error: &StoreError) {
        let now = self.dispatch.monotonic();
        self.dispatch.admission().claim_failed(endpoint.id, now);
        self.dispatch.cache().note_unreadable();
        let (org, endpoint) = (endpoint.org_id, endpoint.id);
        if let Some(unlogged) = UNREADABLE_ENDPOINTS.due(org) {
            tracing::error!(%org, %endpoint, %error, unlogged,
                "cannot read what is due for an endpoint; its deliveries wait");
        }
    }

    /// Leases what is granted, in one transaction. After a failure PostgreSQL may still have rows locked, and then skips
    /// them: fewer than granted does not tell that no more are due.
    async fn lease_part(
        &self,
        granted: &[Granted],
        after_failure: bool,
    ) -> Result<Vec<(LeasedDelivery, bool)>> {
        let grants: Vec<LeaseGrant> = granted.iter().map(|one| grant(one, one.count)).collect();
        let lease = self.dispatch.lease();
        let (now, _) = self.dispatch.now();
        let claimed = self.store.system().lease_deliveries(&grants, lease, now).await;
        let claimed = self.unanswered.note(lease, claimed)?;
        Ok(self.leased(granted, claimed, after_failure))
    }

    /// Leases what can be read of an endpoint. The lease of what cannot lapses.
    async fn lease_readable(&self, granted: &Granted) -> Result<Vec<(LeasedDelivery, bool)>> {
        let grant = grant(granted, granted.count.min(READABLE_MAX));
        let lease = self.dispatch.lease();
        let (now, _) = self.dispatch.now();
        let leased = self.store.system().lease_readable(grant, lease, now).await;
        let leased = self.unanswered.note(lease, leased)?;
        let LeaseGrant { org, endpoint, .. } = grant;
        for delivery in leased.unreadable {
            self.dispatch.cache().note_unreadable();
            if let Some(unlogged) = UNREADABLE_ENDPOINTS.due(org) {
                tracing::error!(%org, %endpoint, %delivery, unlogged,
                    "cannot read the event of a delivery; it waits");
            }
        }
        Ok(self.leased(std::slice::from_ref(granted), leased.claimed, true))
    }

    /// Notes what a claim has leased, and returns it with its endpoints.
    fn leased(
        &self,
        granted: &[Granted],
        claimed: ClaimedDeliveries,
        cut_short: bool,
    ) -> Vec<(LeasedDelivery, bool)> {
        let ClaimedDeliveries { deliveries: claimed, too_large } = claimed;
        let mut counts: HashMap<EndpointId, usize> = HashMap::new();
        for claimed in &claimed {
            *counts.entry(claimed.endpoint_id).or_default() += 1;
        }
        {
            let mut admission = self.dispatch.admission();
            admission.claimed(granted, &counts, &too_large, cut_short);
            admission.claims_worked(granted.iter().map(|granted| granted.target.endpoint.id));
        }
        let endpoints: HashMap<EndpointId, &Arc<Endpoint>> = granted
            .iter()
            .map(|granted| (granted.target.endpoint.id, &granted.target.endpoint))
            .collect();
        // The lease of one that was set aside lapses.
        let leased =
            claimed.into_iter().filter(|claimed| !self.dispatch.aside().contains(claimed.id));
        let leased = leased.filter_map(|claimed| {
            let endpoint = endpoints.get(&claimed.endpoint_id)?;
            Some((with_endpoint(claimed, endpoint), false))
        });
        leased.collect()
    }

    /// Leases deliveries that were requested by hand. `true` when more of them are to be served.
    ///
    /// # Errors
    /// When the store cannot be reached: what was not served waits for the next poll. Any other error concerns requests
    /// whose deliveries are then claimed like any that are due, and keeps no claim from being made.
    async fn claim_manual(&self) -> Result<bool> {
        let requests = self.dispatch.manual().take(MANUAL_MAX);
        if requests.is_empty() {
            return Ok(false);
        }
        let orgs = requests.iter().map(|request| request.org);
        let read = self.dispatch.cache().readable(orgs).await;
        let mut requests = requests.into_iter();
        let failure = match read {
            Ok(read) => loop {
                let Some(request) = requests.next() else { break None };
                let ManualRequest { org, endpoint, delivery } = request;
                let Some(target) = target(&read, org, endpoint, false, true) else { continue };
                match self.lease_manual(request, &target, read.database).await {
                    Ok(()) => {}
                    Err(error) if error.is_connection() => {
                        self.dispatch.manual().put_back(request);
                        break Some(error);
                    }
                    Err(error) => {
                        tracing::warn!(%org, %delivery, %error, "cannot claim a delivery by hand");
                    }
                }
            },
            Err(error) if error.is_connection() => Some(error),
            Err(error) => {
                requests.by_ref().for_each(drop);
                tracing::warn!(%error, "cannot claim deliveries by hand");
                None
            }
        };
        let mut manual = self.dispatch.manual();
        requests.for_each(|request| manual.put_back(request));
        match failure {
            Some(error) => Err(error),
            None => Ok(manual.is_ready()),
        }
    }

    /// Leases one delivery, if its endpoint may have an attempt by hand now, or the one that goes before it. Otherwise the
    /// request waits, and meanwhile the delivery is claimed like any that is due.
    async fn lease_manual(
        &self,
        request: ManualRequest,
        target: &Target,
        database: DatabaseEpoch,
    ) -> Result<()> {
        let id = request.endpoint;
        let now = self.dispatch.monotonic();
        let is_reserved = self.dispatch.admission_of(database).is_some_and(|mut admission| {
            let is_known = admission.introduce(&target.endpoint, target.version, now);
            let is_reserved = is_known && admission.reserve_manual(id, now);
            if !is_reserved {
                admission.left_in_store(&target.endpoint, now);
            }
            is_reserved
        });
        if !is_reserved {
            self.dispatch.manual().put_back(request);
            return Ok(());
        }
        let places = Places {
            dispatch: &self.dispatch,
            reserved: vec![Reserved { endpoint: id, count: 1, bytes: 0 }],
        };
        let lease = self.dispatch.lease();
        let (now, _) = self.dispatch.now();
        let claimed = self.lease_requested(request, target, lease, now).await;
        let claimed = self.unanswered.note(lease, claimed);
        if !matches!(claimed, Ok(Some(_))) {
            let mut admission = self.dispatch.admission();
            admission.forget_manual(id);
            // It is known: a place is reserved.
            admission.note_left(id);
        }
        let claimed = claimed?;
        if claimed.is_none() {
            self.dispatch.wake_scan();
            // No attempt will end for it.
            self.dispatch.manual().resume(id);
        }
        let leased = claimed.map(|claimed| (with_endpoint(claimed, &target.endpoint), true));
        places.fill(leased.into_iter().collect());
        Ok(())
    }

    /// Leases what an attempt by hand is made at: the delivery, or of an ordered endpoint the oldest one, which goes
    /// first whichever was asked for.
    async fn lease_requested(
        &self,
        request: ManualRequest,
        target: &Target,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Option<ClaimedDelivery>> {
        let ManualRequest { org, endpoint, delivery } = request;
        let system = self.store.system();
        let found = system.lease_delivery(org, delivery, lease, now).await?;
        if found.is_some() || !target.endpoint.policy.ordered {
            return Ok(found);
        }
        let bytes_max = usize::MAX;
        let head = LeaseGrant { endpoint, org, ordered: true, deliveries_max: 1, bytes_max };
        let head = system.lease_deliveries(&[head], lease, now).await?.deliveries.pop();
        // The lease of one that was set aside lapses.
        Ok(head.filter(|head| !self.dispatch.aside().contains(head.id)))
    }
}

fn grant(granted: &Granted, deliveries_max: usize) -> LeaseGrant {
    let Granted { target: Target { endpoint, ordered, .. }, bytes: bytes_max, .. } = granted;
    let (org, endpoint) = (endpoint.org_id, endpoint.id);
    LeaseGrant { endpoint, org, ordered: *ordered, deliveries_max, bytes_max: *bytes_max }
}

fn with_endpoint(claimed: ClaimedDelivery, endpoint: &Arc<Endpoint>) -> LeasedDelivery {
    let ClaimedDelivery { id, event, endpoint_id: _, attempts, ordered, lease } = claimed;
    LeasedDelivery { id, event, endpoint: Arc::clone(endpoint), attempts, ordered, lease }
}

#[cfg(test)]
mod tests;
