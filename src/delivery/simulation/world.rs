//! The simulated world: tenants, receivers, faults and time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use uuid::Uuid;

use super::model::{Held, ModelStore, SimEvent, SimOutcome};
use super::server::{LEASE, LIMITS, Server, SimBatch, SimClaim, TIMEOUT, is_healthy};
use crate::delivery::admission::{Start, Ticket};
use crate::delivery::breaker::AttemptSignal;
use crate::domain::{Endpoint, EndpointId, OrgId, SigningSecret, Timestamp};
use crate::runtime::Monotonic;

/// How long tenants post and things go wrong.
const TROUBLE: Duration = Duration::from_mins(1);
/// How long everything may take after that.
const CALM: Duration = Duration::from_mins(10);

/// The shortest time from one look for something to claim to the next.
const CLAIM_PAUSE: Duration = Duration::from_millis(5);

/// How a receiver behaves.
#[derive(Clone, Copy, Debug)]
enum Receiver {
    Quick,
    Slow,
    Hangs,
    Fails,
    Flaky,
}

/// Something that happens.
#[derive(Debug)]
enum Step {
    Post,
    Store(usize),
    Commit {
        server: usize,
        incarnation: u64,
        batch: SimBatch,
    },
    Look {
        server: usize,
        scan: bool,
    },
    Claimed {
        server: usize,
        incarnation: u64,
        claim: SimClaim,
    },
    AttemptEnds {
        server: usize,
        incarnation: u64,
        ticket: Ticket,
        held: Held,
        signal: AttemptSignal,
    },
    Record(usize),
    Recorded {
        server: usize,
        incarnation: u64,
        reports: Vec<(Held, SimOutcome)>,
    },
    Change,
    Follow {
        server: usize,
        org: OrgId,
    },
    Crash(usize),
    Restart(usize),
    StoreFails(bool),
}

/// A generator of numbers that a seed determines (SplitMix64, Steele and others, OOPSLA 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

pub(super) struct World {
    numbers: Numbers,
    now: Monotonic,
    agenda: BinaryHeap<Reverse<(Monotonic, u64)>>,
    steps: BTreeMap<u64, Step>,
    next_step: u64,
    store: ModelStore,
    store_fails: bool,
    servers: [Server; 2],
    receivers: BTreeMap<EndpointId, Receiver>,
    next_id: u64,
    next_event: u64,
    accepted: Vec<SimEvent>,
    /// Attempts under way, by delivery.
    under_way: BTreeMap<u64, BTreeSet<(usize, u64)>>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            numbers: Numbers(seed),
            now: Monotonic::ZERO,
            agenda: BinaryHeap::new(),
            steps: BTreeMap::new(),
            next_step: 0,
            store: ModelStore::default(),
            store_fails: false,
            servers: [Server::new(0), Server::new(1)],
            receivers: BTreeMap::new(),
            next_id: 0,
            next_event: 0,
            accepted: Vec::new(),
            under_way: BTreeMap::new(),
        };
        // The first organisation is healthy; the second has many slow endpoints.
        world.add_endpoints(0, &[Receiver::Quick]);
        world.add_endpoints(1, &[Receiver::Slow; 12]);
        world.add_endpoints(2, &[Receiver::Slow, Receiver::Hangs, Receiver::Quick]);
        world.add_endpoints(3, &[Receiver::Fails, Receiver::Flaky]);
        world.add_endpoints(4, &[Receiver::Quick, Receiver::Flaky]);
        for id in world.receivers.keys().copied().collect::<Vec<_>>() {
            let (org, number) = (id.uuid().as_u128() / 100, id.uuid().as_u128() % 100);
            world.store.change(id, |endpoint| {
                endpoint.policy.ordered = org == 4;
                endpoint.policy.rate_limit_per_second = (org == 2 && number == 2).then_some(5);
            });
        }
        for server in 0..2 {
            world.after(Duration::from_millis(1), Step::Look { server, scan: true });
        }
        world.after(Duration::ZERO, Step::Post);
        world.after(Duration::from_secs(1), Step::Change);
        world
    }

    fn add_endpoints(&mut self, org: u128, receivers: &[Receiver]) {
        for (number, receiver) in receivers.iter().enumerate() {
            let id = EndpointId::from_uuid(Uuid::from_u128(org * 100 + number as u128));
            let org = OrgId::from_uuid(Uuid::from_u128(org));
            let url = "https://example.com/".parse().unwrap();
            let secret = SigningSecret::generate().unwrap();
            let endpoint = Endpoint::new(org, url, secret, Timestamp::from_micros(1));
            self.store.add(Endpoint { id, ..endpoint });
            self.receivers.insert(id, *receiver);
        }
    }

    fn after(&mut self, wait: Duration, step: Step) {
        self.next_step += 1;
        self.agenda.push(Reverse((self.now.plus(wait), self.next_step)));
        self.steps.insert(self.next_step, step);
    }

    fn is_trouble(&self) -> bool {
        self.now < Monotonic::ZERO.plus(TROUBLE)
    }

    /// Runs until everything is delivered, and checks that nothing is left behind.
    pub(super) fn run(mut self) {
        let end = Monotonic::ZERO.plus(TROUBLE).plus(CALM);
        let mut is_calm = false;
        while let Some(Reverse((at, number))) = self.agenda.pop() {
            self.now = at;
            if !is_calm && !self.is_trouble() {
                is_calm = true;
                self.calm_down();
            }
            if is_calm && self.is_done() {
                return self.check_the_end();
            }
            assert!(self.now < end, "{}", self.what_is_stuck());
            if let Some(step) = self.steps.remove(&number) {
                self.perform(step);
            }
        }
    }

    fn calm_down(&mut self) {
        self.store_fails = false;
        for receiver in self.receivers.values_mut() {
            *receiver = Receiver::Quick;
        }
        for id in self.receivers.keys().copied().collect::<Vec<_>>() {
            if self.store.endpoints[&id].disabled_reason.is_some() {
                let org = self.store.change(id, |endpoint| endpoint.disabled_reason = None);
                for server in 0..2 {
                    self.after(Duration::from_millis(500), Step::Follow { server, org });
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        let is_quiet = |server: &Server| {
            server.is_up
                && server.journal.is_empty()
                && server.reports.is_empty()
                && !server.is_storing
                && !server.is_recording
                && !server.is_claiming
        };
        self.store.pending.is_empty() && self.servers.iter().all(is_quiet)
    }

    fn check_the_end(&self) {
        for event in &self.accepted {
            assert!(self.store.events.contains_key(&(event.org, event.key)), "lost {event:?}");
        }
        for server in &self.servers {
            assert!(server.admission.is_empty(), "server {} leaks places", server.number);
        }
    }

    fn what_is_stuck(&self) -> String {
        let pending: Vec<_> = self.store.pending.iter().take(5).collect();
        let journals: Vec<_> = self.servers.iter().map(|server| server.journal.len()).collect();
        format!("{} stuck, as {pending:?}; journals {journals:?}", self.store.pending.len())
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Post => self.post(),
            Step::Store(server) => self.seal(server),
            Step::Commit { server, incarnation, batch } => self.commit(server, incarnation, &batch),
            Step::Look { server, scan } => self.look(server, scan),
            Step::Claimed { server, incarnation, claim } => {
                self.claimed(server, incarnation, &claim);
            }
            Step::AttemptEnds { server, incarnation, ticket, held, signal } => {
                self.attempt_ends(server, incarnation, ticket, held, signal);
            }
            Step::Record(server) => self.record(server),
            Step::Recorded { server, incarnation, reports } => {
                self.recorded(server, incarnation, reports);
            }
            Step::Change => self.change(),
            Step::Follow { server, org } => {
                if self.servers[server].is_up {
                    self.servers[server].follow(org, &self.store);
                    self.go_on(server);
                }
            }
            Step::Crash(server) => {
                self.servers[server].crash();
                for attempts in self.under_way.values_mut() {
                    attempts.retain(|(other, _)| *other != server);
                }
                let wait = self.numbers.millis(10, 3_000);
                self.after(wait, Step::Restart(server));
            }
            Step::Restart(server) => {
                self.servers[server].is_up = true;
                let number = self.servers[server].number;
                self.store.release(self.now, |token| Server::owns(number, token));
                self.after(Duration::ZERO, Step::Look { server, scan: true });
                self.after(Duration::ZERO, Step::Store(server));
            }
            Step::StoreFails(fails) => self.store_fails = fails,
        }
    }

    fn post(&mut self) {
        if !self.is_trouble() {
            return;
        }
        let (server, org) = (self.numbers.below(2), self.numbers.below(5));
        self.next_event += 1;
        let number = self.next_event;
        // One in eight is a copy of something that was posted before.
        let key = if self.numbers.one_in(8) { 1 + self.numbers.below(number) } else { number };
        let event = SimEvent { org: OrgId::from_uuid(Uuid::from_u128(org.into())), number, key };
        let server = usize::try_from(server).unwrap_or(0);
        self.servers[server].journal.push_back(event);
        self.accepted.push(event);
        self.after(Duration::ZERO, Step::Store(server));
        let wait = self.numbers.millis(1, 120);
        self.after(wait, Step::Post);
        if self.numbers.one_in(400) {
            self.after(Duration::ZERO, Step::Crash(server));
        }
        if self.numbers.one_in(600) {
            self.store_fails = true;
            let wait = self.numbers.millis(100, 8_000);
            self.after(wait, Step::StoreFails(false));
        }
    }

    fn token(&mut self, server: usize) -> u64 {
        self.next_id += 1;
        self.next_id * 2 + self.servers[server].number
    }

    fn seal(&mut self, server: usize) {
        let token = self.token(server);
        let it = &mut self.servers[server];
        if !it.is_up || it.is_storing || it.journal.is_empty() {
            return;
        }
        it.is_storing = true;
        let batch = it.seal(&self.store, token, self.now, &mut self.next_id);
        let (incarnation, wait) = (it.incarnation, self.numbers.millis(1, 30));
        self.after(wait, Step::Commit { server, incarnation, batch });
    }

    fn commit(&mut self, server: usize, incarnation: u64, batch: &SimBatch) {
        let is_alive = self.servers[server].incarnation == incarnation;
        let fails = self.store_fails || self.is_trouble() && self.numbers.one_in(40);
        // A commit may happen although nobody hears of it.
        let answer_is_lost = fails && self.numbers.one_in(2);
        let mut leased = Vec::new();
        if !fails || answer_is_lost {
            leased = self.store.persist(
                &batch.events,
                &batch.plans,
                &batch.versions,
                batch.lease,
                self.now,
                &mut self.next_id,
            );
        }
        if !is_alive {
            return;
        }
        let it = &mut self.servers[server];
        it.is_storing = false;
        it.stored(batch, (!fails).then_some(leased), &self.store, self.now);
        if fails {
            // What a commit without an answer leased is released before the next try.
            let lease = batch.lease.0;
            self.store.release(self.now, |token| token == lease);
        }
        let wait = if fails { self.numbers.millis(50, 500) } else { Duration::from_millis(4) };
        self.after(wait, Step::Store(server));
        self.go_on(server);
    }

    /// Starts what may start, and records and claims.
    fn go_on(&mut self, server: usize) {
        while let Some(start) = self.servers[server].start(self.now) {
            self.begin(server, start);
        }
        let waits = Duration::from_millis(10);
        if !self.servers[server].reports.is_empty() && !self.servers[server].is_recording {
            self.servers[server].is_recording = true;
            self.after(waits, Step::Record(server));
        }
        let next = self.servers[server].admission.next_start(self.now);
        let wait = next.map_or(CLAIM_PAUSE, |next| next.since(self.now).min(CLAIM_PAUSE));
        if !std::mem::replace(&mut self.servers[server].is_looking, true) {
            let wait = wait.max(Duration::from_millis(1));
            self.after(wait, Step::Look { server, scan: false });
        }
    }

    fn begin(&mut self, server: usize, Start { delivery: held, endpoint, ticket }: Start<Held>) {
        let it = &self.servers[server];
        if let Some(seen) = it.seen.get(&endpoint.org_id) {
            let current = &self.store.endpoints[&endpoint.id];
            let is_known = current.version <= *seen;
            assert!(!is_known || current.version == endpoint.version, "sent to what it was");
            assert!(!is_known || current.disabled_reason.is_none(), "sent to a disabled endpoint");
        }
        let attempts = self.under_way.entry(held.id).or_default();
        assert!(attempts.is_empty(), "attempted twice at a time: {held:?} beside {attempts:?}");
        attempts.insert((server, held.token));
        let receiver = self.receivers[&held.endpoint];
        let (took, signal) = match receiver {
            Receiver::Quick => (self.numbers.millis(1, 20), AttemptSignal::Success),
            Receiver::Slow => (self.numbers.millis(5_000, 13_000), AttemptSignal::Success),
            Receiver::Hangs => (TIMEOUT, AttemptSignal::Failure { hold: None }),
            Receiver::Fails => (self.numbers.millis(1, 20), self.failure()),
            Receiver::Flaky if self.numbers.one_in(3) => {
                (self.numbers.millis(1, 500), self.failure())
            }
            Receiver::Flaky => (self.numbers.millis(1, 500), AttemptSignal::Success),
        };
        let incarnation = self.servers[server].incarnation;
        self.after(took, Step::AttemptEnds { server, incarnation, ticket, held, signal });
    }

    fn failure(&mut self) -> AttemptSignal {
        let hold = self.numbers.one_in(10).then(|| self.numbers.millis(100, 20_000));
        AttemptSignal::Failure { hold }
    }

    fn attempt_ends(
        &mut self,
        server: usize,
        incarnation: u64,
        ticket: Ticket,
        held: Held,
        signal: AttemptSignal,
    ) {
        if self.servers[server].incarnation != incarnation {
            return;
        }
        if let Some(attempts) = self.under_way.get_mut(&held.id) {
            attempts.remove(&(server, held.token));
        }
        let outcome = match signal {
            AttemptSignal::Success => SimOutcome::Delivered,
            AttemptSignal::Failure { .. } => {
                SimOutcome::RetryAt(self.now.plus(self.numbers.millis(1_000, 5_000)))
            }
        };
        let it = &mut self.servers[server];
        it.reports.push((held, outcome));
        let finished = it.admission.finish(ticket, signal, false, self.now);
        let released = finished.released.into_iter().map(|held| (held, SimOutcome::Released));
        it.reports.extend(released);
        if finished.breaker_closed {
            self.after(Duration::ZERO, Step::Look { server, scan: true });
        }
        self.go_on(server);
    }

    fn record(&mut self, server: usize) {
        let it = &mut self.servers[server];
        if !it.is_up {
            return;
        }
        let (reports, incarnation) = (std::mem::take(&mut it.reports), it.incarnation);
        let wait = self.numbers.millis(1, 10);
        self.after(wait, Step::Recorded { server, incarnation, reports });
    }

    fn recorded(&mut self, server: usize, incarnation: u64, reports: Vec<(Held, SimOutcome)>) {
        let fails = self.store_fails || self.is_trouble() && self.numbers.one_in(40);
        let answer_is_lost = fails && self.numbers.one_in(2);
        if !fails || answer_is_lost {
            for (held, outcome) in &reports {
                self.store.record(held, *outcome, self.now);
            }
        }
        if self.servers[server].incarnation != incarnation {
            return;
        }
        if fails {
            let wait = self.numbers.millis(100, 1_000);
            return self.after(wait, Step::Recorded { server, incarnation, reports });
        }
        let it = &mut self.servers[server];
        it.is_recording = false;
        for (held, _) in reports.iter().filter(|(held, _)| held.ordered) {
            it.admission.note_left(held.endpoint);
        }
        self.go_on(server);
    }

    fn look(&mut self, server: usize, scan: bool) {
        if scan {
            self.after(Duration::from_millis(500), Step::Look { server, scan });
        }
        // While outcomes cannot be recorded, nothing is claimed: it could be what was delivered.
        let it = &mut self.servers[server];
        it.is_looking &= scan;
        if !it.is_up || it.is_claiming || self.store_fails {
            return;
        }
        while let Some(start) = self.servers[server].start(self.now) {
            self.begin(server, start);
        }
        if scan {
            self.store.release(self.now, |_| false);
        }
        let it = &mut self.servers[server];
        let Some(claim) = it.claim(&self.store, scan, self.now) else { return };
        it.is_claiming = true;
        let (incarnation, wait) = (it.incarnation, self.numbers.millis(1, 20));
        self.after(wait, Step::Claimed { server, incarnation, claim });
    }

    fn claimed(&mut self, server: usize, incarnation: u64, claim: &SimClaim) {
        let fails = self.store_fails || self.is_trouble() && self.numbers.one_in(60);
        let answer_is_lost = fails && self.numbers.one_in(2);
        let token = self.token(server);
        let mut leased = Vec::new();
        if !fails || answer_is_lost {
            for granted in &claim.granted {
                let (id, ordered) = (granted.target.endpoint.id, granted.target.ordered);
                let lease = (token, self.now.plus(LEASE));
                leased.extend(self.store.lease(id, ordered, granted.count, lease, self.now));
            }
        }
        if self.servers[server].incarnation != incarnation {
            return;
        }
        let it = &mut self.servers[server];
        it.is_claiming = false;
        it.claimed(claim, (!fails).then_some(leased));
        self.go_on(server);
    }

    fn change(&mut self) {
        if !self.is_trouble() {
            return;
        }
        let ids: Vec<EndpointId> = self.receivers.keys().copied().collect();
        let pick = usize::try_from(self.numbers.below(ids.len() as u64)).unwrap_or(0);
        let id = ids[pick];
        if !is_healthy(&self.store.endpoints[&id]) {
            let what = self.numbers.below(3);
            let org = self.store.change(id, |endpoint| match what {
                0 => endpoint.disabled_reason = Some("by its owner".to_owned()),
                1 => endpoint.disabled_reason = None,
                _ => endpoint.url = "https://elsewhere.example/".parse().unwrap(),
            });
            // The server that made the change follows at once, the other when its change feed brings it.
            let first = usize::try_from(self.numbers.below(2)).unwrap_or(0);
            self.after(Duration::ZERO, Step::Follow { server: first, org });
            let wait = self.numbers.millis(1, 1_000);
            self.after(wait, Step::Follow { server: 1 - first, org });
        }
        let wait = self.numbers.millis(100, 3_000);
        self.after(wait, Step::Change);
        assert!(self.servers.iter().all(|it| it.admission.in_flight() <= LIMITS.slots));
    }
}
