//! The simulated world: tenants, receivers, faults and time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use uuid::Uuid;

use super::model::{Held, ModelStore, SimEvent, SimOutcome};
use super::numbers::Numbers;
use super::oracle::LIMITS;
use super::server::{CROWD_FROM, Server, SimBatch, SimClaim, is_healthy_org};
use crate::delivery::admission::Ticket;
use crate::delivery::breaker::AttemptSignal;
use crate::domain::{Endpoint, EndpointId, OrgId, SigningSecret, Timestamp};
use crate::runtime::Monotonic;

/// How long tenants post and things go wrong.
const TROUBLE: Duration = Duration::from_mins(1);
/// How long everything may take after that.
const CALM: Duration = Duration::from_mins(10);

/// How a receiver behaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum SimReceiver {
    Quick,
    Slow,
    Hangs,
    Fails,
    Flaky,
    /// Fails while there is a storm.
    Storms,
}

/// The end of an attempt.
#[derive(Debug)]
pub(super) struct SimEnd {
    pub(super) ticket: Ticket,
    pub(super) held: Held,
    pub(super) signal: AttemptSignal,
    /// Whether the receiver wants nothing more.
    pub(super) gone: bool,
    /// Where it was sent.
    pub(super) url: String,
    /// The version of the endpoint.
    pub(super) version: u64,
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Step {
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
        end: SimEnd,
    },
    Record(usize),
    Recorded {
        server: usize,
        incarnation: u64,
        reports: Vec<(Held, SimOutcome)>,
    },
    Change,
    /// Disables an endpoint that is gone, unless it has changed since this version.
    Disable {
        endpoint: EndpointId,
        version: u64,
    },
    /// An organisation posts for the first time.
    Newcomer(u128),
    /// All receivers that storm begin or cease to fail.
    Storm,
    /// Somebody asks for an attempt.
    Ask,
    Asked {
        server: usize,
        incarnation: u64,
        id: u64,
        endpoint: EndpointId,
    },
    Follow {
        server: usize,
        org: OrgId,
    },
    Crash(usize),
    Restart(usize),
    StoreFails(bool),
}

pub(super) struct World {
    pub(super) numbers: Numbers,
    pub(super) now: Monotonic,
    pub(super) agenda: BinaryHeap<Reverse<(Monotonic, u64)>>,
    pub(super) steps: BTreeMap<u64, Step>,
    pub(super) next_step: u64,
    pub(super) store: ModelStore,
    pub(super) store_fails: bool,
    /// Whether servers crash, and the store fails, before the calm.
    pub(super) is_faulty: bool,
    pub(super) is_storm: bool,
    orgs: u128,
    pub(super) servers: [Server; 2],
    pub(super) receivers: BTreeMap<EndpointId, SimReceiver>,
    pub(super) next_id: u64,
    pub(super) next_event: u64,
    pub(super) accepted: Vec<SimEvent>,
    /// Attempts under way, by delivery.
    pub(super) under_way: BTreeMap<u64, BTreeSet<(usize, u64)>>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let is_crowded = seed % 4 == 3;
        let orgs = if is_crowded { 24 + numbers.below(37) } else { 5 };
        let mut world = Self {
            is_faulty: seed % 8 != 3,
            is_storm: false,
            orgs: orgs.into(),
            numbers,
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
        // The first organisation is healthy; the second has many slow endpoints, and in a crowd two others.
        world.add_endpoints(0, &[SimReceiver::Quick]);
        world.add_endpoints(1, &[SimReceiver::Slow; 12]);
        world.add_endpoints(2, &[SimReceiver::Slow, SimReceiver::Hangs, SimReceiver::Quick]);
        world.add_endpoints(3, &[SimReceiver::Fails, SimReceiver::Flaky]);
        world.add_endpoints(4, &[SimReceiver::Quick, SimReceiver::Flaky]);
        for org in 5..world.orgs {
            match org {
                // A whale.
                CROWD_FROM => world.add_endpoints(org, &[SimReceiver::Quick; 3]),
                7 | 11 => world.add_endpoints(org, &[SimReceiver::Slow; 12]),
                _ if is_healthy_org(org) => world.add_endpoints(org, &[SimReceiver::Quick]),
                _ if seed % 8 == 7 => world.add_endpoints(org, &[SimReceiver::Slow; 2]),
                _ if org % 3 == 0 => world.add_endpoints(org, &[SimReceiver::Flaky]),
                _ => world.add_endpoints(org, &[SimReceiver::Storms; 2]),
            }
        }
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
        world.add_newcomers();
        world.after(Duration::from_secs(1), Step::Ask);
        world.after(Duration::from_secs(10), Step::Storm);
        world
    }

    pub(super) fn add_endpoints(&mut self, org: u128, receivers: &[SimReceiver]) {
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

    pub(super) fn after(&mut self, wait: Duration, step: Step) {
        self.next_step += 1;
        self.agenda.push(Reverse((self.now.plus(wait), self.next_step)));
        self.steps.insert(self.next_step, step);
    }

    pub(super) fn is_trouble(&self) -> bool {
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
            *receiver = SimReceiver::Quick;
        }
        for id in self.receivers.keys().copied().collect::<Vec<_>>() {
            if self.store.endpoints[&id].disabled_reason.is_some() {
                self.change_endpoint(id, |endpoint| endpoint.disabled_reason = None);
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
            Step::AttemptEnds { server, incarnation, end } => {
                self.attempt_ends(server, incarnation, end);
            }
            Step::Record(server) => self.record(server),
            Step::Recorded { server, incarnation, reports } => {
                self.recorded(server, incarnation, reports);
            }
            Step::Change => self.change(),
            Step::Newcomer(org) => self.newcomer(org),
            Step::Disable { endpoint, version } => {
                if self.is_trouble() && self.store.endpoints[&endpoint].version == version {
                    let why = Some("gone".to_owned());
                    self.change_endpoint(endpoint, |endpoint| endpoint.disabled_reason = why);
                }
            }
            Step::Storm => {
                self.is_storm = !self.is_storm && self.is_trouble();
                if self.is_trouble() {
                    let wait = self.numbers.millis(3_000, 9_000);
                    self.after(wait, Step::Storm);
                }
            }
            Step::Ask => self.ask(),
            Step::Asked { server, incarnation, id, endpoint } => {
                self.asked(server, incarnation, (id, endpoint));
            }
            Step::Follow { server, org } => self.follow(server, org),
            // One that is down cannot crash: a second start would end the leases of the first.
            Step::Crash(server) if !self.servers[server].is_up => {}
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

    pub(super) fn accept(&mut self, server: usize, event: SimEvent) {
        self.servers[server].journal.push_back(event);
        self.accepted.push(event);
        self.after(Duration::ZERO, Step::Store(server));
    }

    /// Payloads of healthy organisations are small. Some of the others are larger than any share.
    pub(super) fn payload_bytes(&mut self, org: u128) -> usize {
        match self.numbers.below(24) {
            _ if is_healthy_org(org) => 10,
            0 => LIMITS.bytes * 9 / 10,
            1..8 => 10,
            _ => 10 + self.numbers.index(LIMITS.bytes / 6),
        }
    }

    fn post(&mut self) {
        if !self.is_trouble() {
            return;
        }
        let orgs = u64::try_from(self.orgs).unwrap_or(5);
        let (server, mut org) = (self.numbers.below(2), self.numbers.below(orgs));
        if orgs > 5 && self.numbers.one_in(2) {
            // The whale, and now and then one with many slow endpoints.
            org = if self.numbers.one_in(6) { [1, 7, 11][self.numbers.index(3)] } else { 5 };
        }
        self.next_event += 1;
        let number = self.next_event;
        // One in eight is a copy of something that was posted before.
        let key = if self.numbers.one_in(8) { 1 + self.numbers.below(number) } else { number };
        let bytes = self.payload_bytes(org.into());
        let org = OrgId::from_uuid(Uuid::from_u128(org.into()));
        let event = SimEvent { org, number, key, bytes };
        let server = usize::try_from(server).unwrap_or(0);
        self.accept(server, event);
        let wait = self.numbers.millis(1, if orgs > 5 { 60 } else { 120 });
        self.after(wait, Step::Post);
        if !self.is_faulty {
            return;
        }
        if self.numbers.one_in(400) {
            self.after(Duration::ZERO, Step::Crash(server));
        }
        if self.numbers.one_in(600) {
            self.store_fails = true;
            // Every other one is longer than a lease.
            let longest = if self.numbers.one_in(2) { 40_000 } else { 8_000 };
            let wait = self.numbers.millis(100, longest);
            self.after(wait, Step::StoreFails(false));
        }
    }
}
