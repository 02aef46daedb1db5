//! The model store: what the store promises, in the plainest form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::delivery::admission::Granted;
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;
use crate::store::{ChangedEndpoint, EndpointsSince, OrgEndpoints};

/// An accepted event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SimEvent {
    pub(super) org: OrgId,
    /// The order in which it was accepted.
    pub(super) number: u64,
    /// What it is stored under: of two events with one key, one is kept.
    pub(super) key: u64,
    /// Bytes of its payload.
    pub(super) bytes: usize,
}

/// A delivery that is planned.
#[derive(Clone, Debug)]
pub(super) struct SimPlan {
    pub(super) id: u64,
    pub(super) event: SimEvent,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) leased: bool,
}

/// A pending delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimRow {
    pub(super) event: SimEvent,
    pub(super) endpoint: EndpointId,
    pub(super) ordered: bool,
    pub(super) due: Monotonic,
    pub(super) lease: Option<u64>,
}

/// A leased delivery in a server's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) id: u64,
    pub(super) endpoint: EndpointId,
    pub(super) token: u64,
    pub(super) until: Monotonic,
    pub(super) ordered: bool,
    /// Bytes of its payload.
    pub(super) bytes: usize,
    /// Whether somebody asked for the attempt.
    pub(super) manual: bool,
    /// When it was queued, among all that were.
    pub(super) queued: u64,
}

impl Held {
    fn new(id: u64, row: &SimRow, token: u64, manual: bool) -> Self {
        let (endpoint, ordered, bytes) = (row.endpoint, row.ordered, row.event.bytes);
        Self { id, endpoint, token, until: row.due, ordered, bytes, manual, queued: 0 }
    }
}

/// What became of a leased delivery.
#[derive(Clone, Copy, Debug)]
pub(super) enum SimOutcome {
    Delivered,
    RetryAt(Monotonic),
    Released,
}

#[derive(Debug, Default)]
pub(super) struct ModelStore {
    pub(super) endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    pub(super) versions: BTreeMap<OrgId, u64>,
    pub(super) events: BTreeMap<(OrgId, u64), SimEvent>,
    pub(super) pending: BTreeMap<u64, SimRow>,
    pub(super) delivered: BTreeSet<u64>,
    /// Deliveries by event and endpoint: planned once.
    planned: BTreeMap<(SimEvent, EndpointId), u64>,
}

impl ModelStore {
    pub(super) fn add(&mut self, endpoint: Endpoint) {
        self.versions.entry(endpoint.org_id).or_default();
        self.endpoints.insert(endpoint.id, Arc::new(endpoint));
    }

    /// Changes an endpoint, and counts that.
    pub(super) fn change(&mut self, id: EndpointId, change: impl FnOnce(&mut Endpoint)) -> OrgId {
        let mut endpoint = (*self.endpoints[&id]).clone();
        let version = self.versions.entry(endpoint.org_id).or_default();
        *version += 1;
        endpoint.version = *version;
        change(&mut endpoint);
        let org = endpoint.org_id;
        self.endpoints.insert(id, Arc::new(endpoint));
        org
    }

    pub(super) fn org_endpoints(&self, org: OrgId) -> Arc<OrgEndpoints> {
        let enabled = |endpoint: &&Arc<Endpoint>| {
            endpoint.org_id == org && endpoint.disabled_reason.is_none()
        };
        let endpoints = self.endpoints.values().filter(enabled).cloned().collect();
        let version = self.versions[&org];
        Arc::new(OrgEndpoints { version, endpoints, ..OrgEndpoints::default() })
    }

    /// What has changed of an organisation's endpoints since a version, unless one of them has changed twice.
    pub(super) fn changes(&self, org: OrgId, since: u64) -> Option<EndpointsSince> {
        let of_org = self.endpoints.values().filter(|endpoint| endpoint.org_id == org);
        let changed = of_org.filter(|endpoint| endpoint.version > since).map(|endpoint| {
            let planned = endpoint.disabled_reason.is_none().then(|| Arc::clone(endpoint));
            ChangedEndpoint { id: endpoint.id, endpoint: planned }
        });
        let (changed, version) = (changed.collect::<Vec<_>>(), self.versions[&org]);
        let is_whole = version - since == changed.len() as u64;
        is_whole.then_some(EndpointsSince { since, version, changed })
    }

    /// Stores a batch and returns the plans that are leased now. `versions` are those that it was planned with.
    pub(super) fn persist(
        &mut self,
        events: &[SimEvent],
        plans: &[SimPlan],
        versions: &BTreeMap<OrgId, u64>,
        (token, until): (u64, Monotonic),
        now: Monotonic,
        next_id: &mut u64,
    ) -> Vec<Held> {
        let mut leased = Vec::new();
        for event in events {
            if self.events.contains_key(&(event.org, event.key)) {
                continue;
            }
            self.events.insert((event.org, event.key), *event);
            let is_stale = versions.get(&event.org) != self.versions.get(&event.org);
            let planned: Vec<SimPlan> = if is_stale {
                let current = self.org_endpoints(event.org);
                let plan = |endpoint: &Arc<Endpoint>| {
                    *next_id += 1;
                    let endpoint = Arc::clone(endpoint);
                    SimPlan { id: *next_id, event: *event, endpoint, leased: false }
                };
                current.endpoints.iter().map(plan).collect()
            } else {
                plans.iter().filter(|plan| plan.event == *event).cloned().collect()
            };
            for plan in planned {
                let (id, endpoint) = (plan.id, plan.endpoint.id);
                let twice = self.planned.insert((*event, endpoint), id);
                assert!(twice.is_none(), "planned twice: {event:?}");
                let ordered = plan.endpoint.policy.ordered;
                let is_leased = plan.leased && !ordered;
                let due = if is_leased { until } else { now };
                let lease = is_leased.then_some(token);
                let row = SimRow { event: *event, endpoint, ordered, due, lease };
                self.pending.insert(id, row);
                if is_leased {
                    leased.push(Held::new(id, &row, token, false));
                }
            }
        }
        leased
    }

    fn is_sent_to(&self, endpoint: EndpointId) -> bool {
        self.endpoints[&endpoint].disabled_reason.is_none()
    }

    fn is_ordered(&self, row: &SimRow) -> bool {
        row.ordered && self.endpoints[&row.endpoint].policy.ordered
    }

    /// The oldest ordered delivery of an endpoint, if it may be leased.
    fn head(&self, endpoint: EndpointId, now: Monotonic) -> Option<u64> {
        let of_it = || {
            self.pending.iter().filter(|(_, row)| row.endpoint == endpoint && self.is_ordered(row))
        };
        if of_it().any(|(_, row)| row.lease.is_some()) {
            return None;
        }
        let (id, row) = of_it().min_by_key(|(_, row)| row.event.number)?;
        (row.due <= now).then_some(*id)
    }

    /// Endpoints with something that may be leased, and whether that is an ordered one.
    pub(super) fn due_endpoints(&self, now: Monotonic) -> BTreeSet<(EndpointId, bool)> {
        let (mut due, mut ordered) = (BTreeSet::new(), BTreeSet::new());
        for row in self.pending.values() {
            if self.is_ordered(row) {
                ordered.insert(row.endpoint);
            } else if row.lease.is_none() && row.due <= now {
                due.insert((row.endpoint, false));
            }
        }
        let heads = ordered.into_iter().filter(|endpoint| self.head(*endpoint, now).is_some());
        due.extend(heads.map(|endpoint| (endpoint, true)));
        due.retain(|(endpoint, _)| self.is_sent_to(*endpoint));
        due
    }

    /// Leases what is granted, and tells the size of the first delivery that does not fit.
    pub(super) fn lease(
        &mut self,
        granted: &Granted,
        (token, until): (u64, Monotonic),
        now: Monotonic,
    ) -> (Vec<Held>, Option<usize>) {
        let (endpoint, ordered) = (granted.target.endpoint.id, granted.target.ordered);
        let (count, mut left) = (granted.count, granted.bytes);
        if !self.is_sent_to(endpoint) {
            return (Vec::new(), None);
        }
        let ids: Vec<u64> = if ordered {
            self.head(endpoint, now).into_iter().take(count).collect()
        } else {
            let may = |row: &SimRow| {
                row.endpoint == endpoint
                    && row.lease.is_none()
                    && row.due <= now
                    && !self.is_ordered(row)
            };
            let mut due: Vec<(Monotonic, u64)> = self
                .pending
                .iter()
                .filter(|(_, row)| may(row))
                .map(|(id, row)| (row.due, *id))
                .collect();
            due.sort_unstable();
            due.into_iter().take(count).map(|(_, id)| id).collect()
        };
        let mut held = Vec::new();
        for id in ids {
            if let Some(row) = self.pending.get_mut(&id) {
                if row.event.bytes > left {
                    return (held, Some(row.event.bytes));
                }
                left -= row.event.bytes;
                (row.lease, row.due) = (Some(token), until);
                held.push(Held::new(id, row, token, false));
            }
        }
        (held, None)
    }

    /// Leases one delivery that somebody asked for, due or not.
    pub(super) fn lease_one(&mut self, id: u64, (token, until): (u64, Monotonic)) -> Option<Held> {
        let row = self.pending.get(&id).filter(|row| row.lease.is_none() && !row.ordered)?;
        if !self.is_sent_to(row.endpoint) {
            return None;
        }
        let row = self.pending.get_mut(&id)?;
        (row.lease, row.due) = (Some(token), until);
        Some(Held::new(id, row, token, true))
    }

    /// Whether a delivery may be leased, and is not an ordered one.
    pub(super) fn is_free(&self, id: u64, now: Monotonic) -> bool {
        let row = self.pending.get(&id);
        row.is_some_and(|row| row.lease.is_none() && row.due <= now && !row.ordered)
    }

    /// Deliveries of an ordered endpoint whose leases hold.
    pub(super) fn leased_of(&self, endpoint: EndpointId) -> usize {
        let of_it = self.pending.values().filter(|row| row.endpoint == endpoint);
        of_it.filter(|row| self.is_ordered(row) && row.lease.is_some()).count()
    }

    /// Records an outcome, if the lease still holds.
    pub(super) fn record(&mut self, held: &Held, outcome: SimOutcome, now: Monotonic) {
        let Some(row) = self.pending.get_mut(&held.id) else { return };
        if row.lease != Some(held.token) {
            return;
        }
        match outcome {
            SimOutcome::Delivered => {
                self.pending.remove(&held.id);
                self.delivered.insert(held.id);
            }
            SimOutcome::RetryAt(at) => (row.lease, row.due) = (None, at),
            SimOutcome::Released => (row.lease, row.due) = (None, now),
        }
    }

    /// Ends leases whose token passes, or that have lapsed.
    pub(super) fn release(&mut self, now: Monotonic, ends: impl Fn(u64) -> bool) {
        for row in self.pending.values_mut() {
            if row.lease.is_some_and(&ends) || row.lease.is_some() && row.due <= now {
                (row.lease, row.due) = (None, now.min(row.due));
            }
        }
    }
}
