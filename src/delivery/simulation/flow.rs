//! The way of a delivery through the simulated servers.

use std::collections::HashMap;
use std::time::Duration;

use super::model::{Held, SimOutcome};
use super::server::{LEASE, SimBatch, SimClaim, TIMEOUT, is_healthy};
use super::world::{SimEnd, SimReceiver, Step, World};
use crate::delivery::admission::{BreakerChange, Start};
use crate::delivery::breaker::AttemptSignal;
use crate::domain::{EndpointId, OrgId};

/// The shortest time from one look for something to claim to the next.
const CLAIM_PAUSE: Duration = Duration::from_millis(5);
/// Outcomes of one call of the recorder at most.
const RECORDED_MAX: usize = 4;
/// How long a delivery to a healthy endpoint may wait in a world without faults.
const STARVED: Duration = Duration::from_secs(5);

impl World {
    pub(super) fn token(&mut self, server: usize) -> u64 {
        self.next_id += 1;
        self.next_id * 2 + self.servers[server].number
    }

    /// Whether the store fails this time.
    pub(super) fn fails(&mut self, one_in: u64) -> bool {
        let is_faulty = self.is_faulty && self.is_trouble();
        self.store_fails || is_faulty && self.numbers.one_in(one_in)
    }

    pub(super) fn seal(&mut self, server: usize) {
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

    pub(super) fn commit(&mut self, server: usize, incarnation: u64, batch: &SimBatch) {
        let is_alive = self.servers[server].incarnation == incarnation;
        let fails = self.fails(40);
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
    pub(super) fn go_on(&mut self, server: usize) {
        while let Some(start) = self.servers[server].start(self.now) {
            self.begin(server, start);
        }
        self.servers[server].check(&self.store, self.now);
        let waits = Duration::from_millis(10);
        if !self.servers[server].reports.is_empty() && !self.servers[server].is_recording {
            self.servers[server].is_recording = true;
            self.after(waits, Step::Record(server));
        }
        let next = self.servers[server].admission.next_start();
        let wait = next.map_or(CLAIM_PAUSE, |next| next.since(self.now).min(CLAIM_PAUSE));
        if !std::mem::replace(&mut self.servers[server].is_looking, true) {
            let wait = wait.max(Duration::from_millis(1));
            self.after(wait, Step::Look { server, scan: false });
        }
    }

    pub(super) fn begin(
        &mut self,
        server: usize,
        Start { delivery: held, endpoint, ticket }: Start<Held>,
    ) {
        let it = &self.servers[server];
        if let Some(seen) = it.seen.get(&endpoint.org_id) {
            let current = &self.store.endpoints[&endpoint.id];
            let is_known = current.version <= *seen;
            assert!(!is_known || current.version == endpoint.version, "sent to what it was");
            assert!(!is_known || current.disabled_reason.is_none(), "sent to a disabled endpoint");
        }
        assert!(!it.known.contains(&held.id), "sent again, though known to be delivered: {held:?}");
        let current = self.store.pending.get(&held.id);
        if held.ordered && current.is_some_and(|row| row.lease == Some(held.token)) {
            let leased = self.store.leased_of(held.endpoint);
            assert!(leased == 1, "{leased} ordered deliveries leased at a time: {held:?}");
        }
        let waited = self.now.since(held.until.minus(LEASE));
        assert!(self.is_faulty || !is_healthy(&endpoint) || waited <= STARVED, "waits for a slot");
        self.servers[server].oracle.begin(&held, &endpoint, self.now);
        let attempts = self.under_way.entry(held.id).or_default();
        assert!(attempts.is_empty(), "attempted twice at a time: {held:?} beside {attempts:?}");
        attempts.insert((server, held.token));
        let receiver = self.receivers[&held.endpoint];
        let (mut gone, mut signal_instead) = (false, None);
        if self.is_trouble() && !is_healthy(&endpoint) {
            gone = matches!(receiver, SimReceiver::Flaky) && self.numbers.one_in(30);
            signal_instead = self.numbers.one_in(20).then_some(AttemptSignal::NotMade);
        }
        let (took, signal) = match receiver {
            SimReceiver::Slow => (self.numbers.millis(5_000, 13_000), AttemptSignal::Success),
            SimReceiver::Hangs => (TIMEOUT, AttemptSignal::Failure { hold: None }),
            SimReceiver::Fails => (self.numbers.millis(1, 20), self.failure()),
            SimReceiver::Storms if self.is_storm => (self.numbers.millis(1, 20), self.failure()),
            SimReceiver::Quick | SimReceiver::Storms => {
                (self.numbers.millis(1, 20), AttemptSignal::Success)
            }
            SimReceiver::Flaky if gone => (self.numbers.millis(1, 500), AttemptSignal::Success),
            SimReceiver::Flaky if self.numbers.one_in(3) => {
                (self.numbers.millis(1, 500), self.failure())
            }
            SimReceiver::Flaky => (self.numbers.millis(1, 500), AttemptSignal::Success),
        };
        let signal = signal_instead.unwrap_or(signal);
        let gone = gone && signal == AttemptSignal::Success;
        let (incarnation, url) = (self.servers[server].incarnation, endpoint.url.to_string());
        let end = SimEnd { ticket, held, signal, gone, url, version: endpoint.version };
        self.after(took, Step::AttemptEnds { server, incarnation, end });
    }

    pub(super) fn failure(&mut self) -> AttemptSignal {
        let hold = self.numbers.one_in(10).then(|| self.numbers.millis(100, 20_000));
        AttemptSignal::Failure { hold }
    }

    pub(super) fn attempt_ends(
        &mut self,
        server: usize,
        incarnation: u64,
        SimEnd { ticket, held, signal, gone, url, version: attempted }: SimEnd,
    ) {
        if self.servers[server].incarnation != incarnation {
            return;
        }
        if let Some(attempts) = self.under_way.get_mut(&held.id) {
            attempts.remove(&(server, held.token));
        }
        let endpoint = &self.store.endpoints[&held.endpoint];
        let (version, org) = (endpoint.version, endpoint.org_id);
        self.servers[server].oracle.end(&held, version, signal, gone, self.now);
        let outcome = match signal {
            AttemptSignal::Success if gone => {
                let step = Step::Disable { endpoint: held.endpoint, version: attempted };
                self.after(Duration::from_millis(200), step);
                SimOutcome::RetryAt(self.now.plus(Duration::from_secs(1)))
            }
            AttemptSignal::Success => SimOutcome::Delivered,
            AttemptSignal::Failure { .. } => {
                SimOutcome::RetryAt(self.now.plus(self.numbers.millis(1_000, 5_000)))
            }
            AttemptSignal::NotMade => SimOutcome::Released,
        };
        let it = &mut self.servers[server];
        let known = it.admission.endpoint(held.endpoint);
        let is_of_other = known.is_some_and(|known| known.url.to_string() != url);
        let verdict = it.admission.verdict(held.endpoint);
        if !matches!(outcome, SimOutcome::Released) {
            it.backlog.report();
        }
        if matches!(outcome, SimOutcome::Delivered) {
            it.known.insert(held.id);
        }
        it.reports.push_back((held, outcome));
        let finished = it.admission.finish(ticket, signal, gone, self.now);
        let released = finished.released.into_iter().map(|held| (held, SimOutcome::Released));
        it.reports.extend(released);
        if is_of_other {
            let same = it.admission.verdict(held.endpoint) == verdict;
            assert!(same, "what an endpoint was changes what it is: {org}");
        }
        let is_current =
            it.admission.endpoint(held.endpoint).is_some_and(|it| it.version == version);
        if is_current && it.admission.paused_until(held.endpoint, self.now).is_some() {
            assert!(
                it.oracle.may_be_paused(held.endpoint),
                "paused for nothing: {}",
                held.endpoint
            );
        }
        if it.oracle.is_paused(held.endpoint) {
            let mut waiting = it.admission.waiting_for(held.endpoint);
            let waits = waiting.find(|waiting| !waiting.manual);
            assert!(waits.is_none(), "waits in memory for a paused endpoint: {waits:?}");
        }
        if finished.breaker == Some(BreakerChange::Closed) {
            it.admission.note_left(held.endpoint);
        }
        self.go_on(server);
    }

    pub(super) fn record(&mut self, server: usize) {
        let it = &mut self.servers[server];
        if !it.is_up {
            return;
        }
        let count = it.reports.len().min(RECORDED_MAX);
        let (reports, incarnation) = (it.reports.drain(..count).collect(), it.incarnation);
        let wait = self.numbers.millis(1, 10);
        self.after(wait, Step::Recorded { server, incarnation, reports });
    }

    pub(super) fn recorded(
        &mut self,
        server: usize,
        incarnation: u64,
        reports: Vec<(Held, SimOutcome)>,
    ) {
        let fails = self.fails(40);
        let answer_is_lost = fails && self.numbers.one_in(2);
        if !fails || answer_is_lost {
            for (held, outcome) in &reports {
                self.store.record(held, *outcome, self.now);
            }
        }
        if self.servers[server].incarnation != incarnation {
            return;
        }
        let it = &mut self.servers[server];
        if fails {
            it.backlog.failed();
            let wait = self.numbers.millis(100, 1_000);
            return self.after(wait, Step::Recorded { server, incarnation, reports });
        }
        it.is_recording = false;
        it.backlog.succeeded();
        let is_attempt = |outcome: &SimOutcome| !matches!(outcome, SimOutcome::Released);
        it.backlog.done(reports.iter().filter(|(_, outcome)| is_attempt(outcome)).count(), false);
        for (held, _) in &reports {
            it.known.remove(&held.id);
        }
        for (held, _) in reports.iter().filter(|(held, _)| held.ordered) {
            it.admission.note_left(held.endpoint);
        }
        self.go_on(server);
    }

    pub(super) fn look(&mut self, server: usize, scan: bool) {
        if scan {
            self.after(Duration::from_millis(500), Step::Look { server, scan });
        }
        let it = &mut self.servers[server];
        it.is_looking &= scan;
        if !it.is_up || it.is_claiming || it.backlog.stops_claims() {
            return;
        }
        while let Some(start) = self.servers[server].start(self.now) {
            self.begin(server, start);
        }
        if scan && !self.store_fails {
            self.store.release(self.now, |_| false);
        }
        if scan && !self.is_faulty {
            let waits = self.store.pending.values().find(|row| {
                let is_free = row.lease.is_none() && row.due.plus(STARVED) < self.now;
                is_free && is_healthy(&self.store.endpoints[&row.endpoint])
            });
            assert!(waits.is_none(), "starved: {waits:?}");
        }
        let it = &mut self.servers[server];
        let Some(claim) = it.claim(&self.store, scan, self.now) else { return };
        it.is_claiming = true;
        let (incarnation, wait) = (it.incarnation, self.numbers.millis(1, 20));
        self.after(wait, Step::Claimed { server, incarnation, claim });
    }

    pub(super) fn claimed(&mut self, server: usize, incarnation: u64, claim: &SimClaim) {
        let fails = self.fails(60);
        let answer_is_lost = fails && self.numbers.one_in(2);
        let token = self.token(server);
        let (mut leased, mut too_large) = (Vec::new(), HashMap::new());
        if !fails || answer_is_lost {
            for granted in &claim.granted {
                let lease = (token, self.now.plus(LEASE));
                let (held, large) = self.store.lease(granted, lease, self.now);
                leased.extend(held);
                too_large.extend(large.map(|bytes| (granted.target.endpoint.id, bytes)));
            }
        }
        if self.servers[server].incarnation != incarnation {
            return;
        }
        for held in leased.iter().filter(|_| !fails) {
            let first = self.store.pending.values().filter(|row| row.ordered);
            let first = first.filter(|row| row.endpoint == held.endpoint);
            let first = first.map(|row| row.event.number).min();
            let number = self.store.pending[&held.id].event.number;
            assert!(!held.ordered || first == Some(number), "not the first: {held:?}");
        }
        let it = &mut self.servers[server];
        it.is_claiming = false;
        it.claimed(claim, (!fails).then_some((leased, too_large)), self.now);
        self.go_on(server);
    }

    /// A server learns that endpoints of an organisation have changed.
    pub(super) fn follow(&mut self, server: usize, org: OrgId) {
        let it = &mut self.servers[server];
        if !it.is_up {
            return;
        }
        let of_org = self.store.endpoints.values().filter(|endpoint| endpoint.org_id == org);
        let ids: Vec<EndpointId> = of_org.map(|endpoint| endpoint.id).collect();
        let before: Vec<_> = ids.iter().map(|id| it.admission.endpoint(*id)).collect();
        it.follow(org, &self.store);
        for (id, before) in ids.into_iter().zip(before) {
            let after = it.admission.endpoint(id);
            let is_moved = before.zip(after).is_some_and(|(old, new)| old.url != new.url);
            let pause = it.admission.paused_until(id, self.now);
            assert!(!is_moved || pause.is_none(), "paused for what it was: {id}");
            if self.store.endpoints[&id].disabled_reason.is_some() {
                let waits = it.admission.waiting_for(id).next();
                assert!(waits.is_none(), "waits for a disabled endpoint: {waits:?}");
            }
        }
        self.go_on(server);
    }
}
