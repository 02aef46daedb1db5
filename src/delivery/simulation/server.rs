//! One simulated server: its memory, its journal, and what the shell around admission does.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::model::{Held, ModelStore, SimEvent, SimOutcome, SimPlan};
use super::oracle::{LIMITS, Oracle};
use crate::delivery::admission::{Admission, Granted, Next, Offer, Reserved, Start, Target};
use crate::delivery::recorder_backlog::RecorderBacklog;
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;
use crate::store::OrgEndpoints;

/// Shorter than the longest outage.
pub(super) const LEASE: Duration = Duration::from_secs(20);
/// The longest attempt.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// Events of one batch at most.
const BATCH_MAX: usize = 20;
/// Deliveries of one claim at most.
const CLAIM_MAX: usize = 24;

/// The last organisation that every seed has. The others are a crowd.
pub(super) const CROWD_FROM: u128 = 5;

/// A batch on its way to the store.
#[derive(Clone, Debug)]
pub(super) struct SimBatch {
    pub(super) events: Vec<SimEvent>,
    pub(super) plans: Vec<SimPlan>,
    pub(super) versions: BTreeMap<OrgId, u64>,
    pub(super) lease: (u64, Monotonic),
}

/// A claim on its way.
#[derive(Clone, Debug)]
pub(super) struct SimClaim {
    pub(super) granted: Vec<Granted>,
}

#[expect(clippy::struct_excessive_bools, reason = "what is on its way, each by itself")]
pub(super) struct Server {
    pub(super) number: u64,
    /// Counts its starts, so that what a crashed one had under way is nothing to the next.
    pub(super) incarnation: u64,
    pub(super) is_up: bool,
    pub(super) admission: Admission<Held>,
    cache: BTreeMap<OrgId, Arc<OrgEndpoints>>,
    /// What a batch was planned for that is not stored: it is tried again with that.
    planned_for: BTreeMap<OrgId, Arc<OrgEndpoints>>,
    /// Accepted and not known to be stored.
    pub(super) journal: VecDeque<SimEvent>,
    pub(super) is_storing: bool,
    pub(super) is_claiming: bool,
    /// Whether a look for something to claim is on the agenda.
    pub(super) is_looking: bool,
    pub(super) reports: VecDeque<(Held, SimOutcome)>,
    pub(super) is_recording: bool,
    pub(super) backlog: RecorderBacklog,
    /// Delivered, as this server knows, and not recorded.
    pub(super) known: BTreeSet<u64>,
    /// The versions of the endpoints that its change feed has brought.
    pub(super) seen: BTreeMap<OrgId, u64>,
    pub(super) oracle: Oracle,
    /// Deliveries that this server has left in the store and nobody has leased since.
    pub(super) left: BTreeMap<u64, EndpointId>,
    queued: u64,
}

impl Server {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            incarnation: 0,
            is_up: true,
            admission: Admission::new(LIMITS),
            cache: BTreeMap::new(),
            planned_for: BTreeMap::new(),
            journal: VecDeque::new(),
            is_storing: false,
            is_claiming: false,
            is_looking: false,
            reports: VecDeque::new(),
            is_recording: false,
            backlog: RecorderBacklog::default(),
            known: BTreeSet::new(),
            seen: BTreeMap::new(),
            oracle: Oracle::default(),
            left: BTreeMap::new(),
            queued: 0,
        }
    }

    /// Dies: only the journal is left.
    pub(super) fn crash(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        let (number, incarnation) = (self.number, self.incarnation + 1);
        *self = Self { incarnation, journal, is_up: false, ..Self::new(number) };
    }

    /// Leases of this server, in any incarnation.
    pub(super) fn owns(number: u64, token: u64) -> bool {
        token % 2 == number
    }

    pub(super) fn endpoints(&mut self, org: OrgId, store: &ModelStore) -> Arc<OrgEndpoints> {
        let read = || store.org_endpoints(org);
        Arc::clone(self.cache.entry(org).or_insert_with(read))
    }

    /// Plans and offers the next batch.
    pub(super) fn seal(
        &mut self,
        store: &ModelStore,
        token: u64,
        now: Monotonic,
        next_id: &mut u64,
    ) -> SimBatch {
        let events: Vec<SimEvent> = self.journal.iter().take(BATCH_MAX).copied().collect();
        let (mut plans, mut versions) = (Vec::new(), BTreeMap::new());
        for event in &events {
            let of_org = self.planned_for.get(&event.org).map(Arc::clone);
            let of_org = of_org.unwrap_or_else(|| self.endpoints(event.org, store));
            self.planned_for.insert(event.org, Arc::clone(&of_org));
            versions.insert(event.org, of_org.version);
            for endpoint in &of_org.endpoints {
                *next_id += 1;
                let is_idle = self.admission.is_idle(endpoint.id);
                let has_slot =
                    self.admission.in_flight() + self.admission.reserved() < LIMITS.slots;
                let (held, free) =
                    (self.admission.held_of(endpoint.id), self.admission.unpromised());
                let offer = self.admission.offer(endpoint, of_org.version, event.bytes, now);
                let leased = offer == Offer::Start;
                let reserved = leased.then_some((endpoint.id, 1, held));
                self.oracle.reserved(reserved.as_slice(), free, now);
                let is_current = self.is_current(event.org, &of_org);
                assert!(is_current || !leased, "offered for what an endpoint was");
                if is_idle && has_slot && is_healthy(endpoint) && is_current {
                    assert!(leased, "a slot is free, and an idle endpoint has to wait");
                }
                plans.push(SimPlan {
                    id: *next_id,
                    event: *event,
                    endpoint: Arc::clone(endpoint),
                    leased,
                });
            }
        }
        SimBatch { events, plans, versions, lease: (token, now.plus(LEASE)) }
    }

    fn is_current(&self, org: OrgId, endpoints: &OrgEndpoints) -> bool {
        self.seen.get(&org).is_none_or(|seen| *seen <= endpoints.version)
    }

    /// Gives the places of a batch back, and queues what it leased.
    pub(super) fn stored(
        &mut self,
        batch: &SimBatch,
        leased: Option<Vec<Held>>,
        store: &ModelStore,
        now: Monotonic,
    ) {
        for plan in batch.plans.iter().filter(|plan| plan.leased) {
            let (endpoint, bytes) = (plan.endpoint.id, plan.event.bytes);
            self.admission.unreserve(Reserved { endpoint, count: 1, bytes });
        }
        let Some(leased) = leased else { return };
        self.planned_for.clear();
        for plan in batch.plans.iter().filter(|plan| !plan.leased) {
            self.admission.left_in_store(&plan.endpoint, now);
            self.left.insert(plan.id, plan.endpoint.id);
        }
        for org in batch.versions.keys().filter(|org| batch.versions[*org] != store.versions[*org])
        {
            self.cache.insert(*org, store.org_endpoints(*org));
        }
        self.queue(leased, now);
        for event in &batch.events {
            self.journal.retain(|other| other.number != event.number);
        }
    }

    pub(super) fn queue(&mut self, leased: Vec<Held>, now: Monotonic) {
        for held in leased {
            self.queued += 1;
            let held = Held { queued: self.queued, ..held };
            let queued = if held.manual {
                self.admission.push_manual(held.endpoint, held)
            } else {
                self.admission.push(held.endpoint, held, held.bytes, now)
            };
            if let Err(held) = queued {
                self.reports.push_back((held, SimOutcome::Released));
            }
            if self.oracle.is_paused(held.endpoint) {
                let waiting = self.admission.waiting_for(held.endpoint);
                let scheduled = waiting.filter(|waiting| !waiting.manual).count();
                assert!(scheduled <= 1, "{scheduled} wait in memory for a paused endpoint");
            }
        }
    }

    /// The next attempt to start.
    pub(super) fn start(&mut self, now: Monotonic) -> Option<Start<Held>> {
        let is_leased = |held: &Held, _: &Endpoint| now.plus(TIMEOUT) <= held.until;
        loop {
            match self.admission.next(now, is_leased)? {
                Next::Start(start) => return Some(start),
                Next::Dropped => {}
            }
        }
    }

    /// What to claim: endpoints with room, and with `scan` what is due in the store.
    pub(super) fn claim(
        &mut self,
        store: &ModelStore,
        scan: bool,
        now: Monotonic,
    ) -> Option<SimClaim> {
        let mut wanted: Vec<(EndpointId, bool, bool)> = Vec::new();
        if scan {
            let due = store.due_endpoints(now);
            wanted.extend(due.into_iter().map(|(id, ordered)| (id, ordered, true)));
        }
        for id in self.admission.claimable(now).0 {
            if !wanted.iter().any(|(other, ..)| *other == id) {
                let ordered = store.endpoints[&id].policy.ordered;
                wanted.push((id, ordered, false));
            }
        }
        wanted.sort_by_key(|(_, ordered, _)| *ordered);
        let mut targets = Vec::new();
        for (id, ordered, is_due) in wanted {
            let of_org = self.endpoints(store.endpoints[&id].org_id, store);
            let found = of_org.endpoints.iter().find(|endpoint| endpoint.id == id);
            targets.extend(found.map(|endpoint| Target {
                endpoint: Arc::clone(endpoint),
                version: of_org.version,
                is_due,
                ordered,
            }));
        }
        let free = self.admission.unpromised();
        let ids = targets.iter().map(|target| target.endpoint.id);
        let held: BTreeMap<EndpointId, _> =
            ids.map(|id| (id, self.admission.held_of(id))).collect();
        let granted = self.admission.grant(&targets, CLAIM_MAX, now);
        let reserved = granted.iter().map(|granted| {
            let id = granted.target.endpoint.id;
            (id, granted.count, held[&id])
        });
        self.oracle.reserved(&reserved.collect::<Vec<_>>(), free, now);
        (!granted.is_empty()).then_some(SimClaim { granted })
    }

    /// Gives the places of a claim back, and queues what it leased; `None` when it failed.
    pub(super) fn claimed(
        &mut self,
        claim: &SimClaim,
        claimed: Option<(Vec<Held>, HashMap<EndpointId, usize>)>,
        now: Monotonic,
    ) {
        if let Some((leased, too_large)) = &claimed {
            let mut counts: HashMap<EndpointId, usize> = HashMap::new();
            for held in leased {
                *counts.entry(held.endpoint).or_default() += 1;
            }
            self.admission.claimed(&claim.granted, &counts, too_large, false);
        }
        for granted in &claim.granted {
            self.admission.unreserve(granted.reserved());
        }
        self.queue(claimed.map(|(leased, _)| leased).unwrap_or_default(), now);
    }

    /// Applies a change of an organisation's endpoints.
    pub(super) fn follow(&mut self, org: OrgId, store: &ModelStore) {
        let since = self.admission.applied_version(org);
        let released = if let Some(changes) = since.and_then(|since| store.changes(org, since))
            && let Some(current) = self.cache.get(&org).and_then(|known| known.with(&changes))
        {
            self.cache.insert(org, Arc::new(current));
            self.seen.insert(org, changes.version);
            self.admission.apply_changes(org, &changes)
        } else {
            let current = store.org_endpoints(org);
            self.seen.insert(org, current.version);
            self.cache.insert(org, Arc::clone(&current));
            self.admission.endpoints_changed(org, &current)
        };
        for held in released {
            self.reports.push_back((held, SimOutcome::Released));
        }
        self.left.retain(|_, endpoint| store.endpoints[endpoint].org_id != org);
    }

    /// Checks what always holds between two steps.
    ///
    /// # Panics
    /// When something does not.
    pub(super) fn check(&mut self, store: &ModelStore, now: Monotonic) {
        let it = &self.admission;
        assert!(it.in_flight() <= LIMITS.slots, "more in flight than slots");
        let places = it.waiting() + it.reserved() + it.in_flight();
        assert!(places <= LIMITS.places, "more in memory than places");
        let waiting = store.endpoints.keys().flat_map(|id| it.waiting_for(*id));
        let waiting = waiting.filter(|held| !held.manual).map(|held| held.bytes);
        let all: Vec<usize> = waiting.chain(self.oracle.bytes_in_flight()).collect();
        let bytes = all.iter().sum::<usize>() - all.iter().max().copied().unwrap_or_default();
        assert!(bytes <= LIMITS.bytes, "{bytes} bytes in memory beside the largest delivery");
        self.left.retain(|id, endpoint| {
            let is_enabled = store.endpoints[endpoint].disabled_reason.is_none();
            is_enabled && store.is_free(*id, now)
        });
        for (id, endpoint) in &self.left {
            let org = store.endpoints[endpoint].org_id;
            let is_current = self.is_current(org, &self.cache[&org]);
            let is_known = !is_current || self.admission.times_left(*endpoint) > 0;
            assert!(is_known, "left in the store and forgotten: {id} of {endpoint}");
        }
    }
}

/// Whether an endpoint's deliveries are to start at once: it is of an organisation that does nothing wrong.
pub(super) fn is_healthy(endpoint: &Endpoint) -> bool {
    is_healthy_org(endpoint.org_id.uuid().as_u128())
}

/// The first organisation, and every other one of a crowd.
pub(super) const fn is_healthy_org(org: u128) -> bool {
    org == 0 || org > CROWD_FROM && org.is_multiple_of(2)
}
