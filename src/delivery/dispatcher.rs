//! The dispatcher: takes leased deliveries in, keeps the lanes, and starts attempts.
//!
//! It is one task, so the lanes need no lock. It waits for five things, a delivery handed over, an
//! attempt that has ended, a claim that has been answered, word of what to let go of, and the time to
//! claim again, and after each it starts whatever has a slot. Attempts and claims run as tasks of their own.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};

use crate::domain::{EndpointId, InstanceId, Lease, LeaseToken, LeasedDelivery, Timestamp};
use crate::runtime::{Clock, Shutdown, Wake};
use crate::store::{ClaimCursor, ClaimRequest, Claimed, SharedStore, StoreError};
use crate::telemetry::Metrics;

use super::attempt::{Attempted, Attempter};
use super::breaker::Permit;
use super::handle::{DeliveryHandle, Forgotten};
use super::handoff::{Entry, HandoffReceiver};
use super::health::DeliveryHealth;
use super::lanes::{LaneKey, Lanes, Limits};
use super::suspended_orgs::SuspendedOrgs;
use super::throttle::{BreakerTransition, EndpointThrottles, StartDecision};

/// Deliveries in one claim at most.
const CLAIM_DELIVERIES_MAX: usize = 512;
/// One part in so many of the lanes' room is kept for claims: however fast new deliveries are handed
/// over, due retries get in.
const CLAIM_SHARE: usize = 8;
/// The shortest wait for a rate limit: what timers can tell apart.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// How long deliveries wait in the store that their organisation has no room for in memory.
const CROWDED_WAIT: Duration = Duration::from_secs(1);
/// How much of a lease must be left when its attempt times out, for recording the outcome and for
/// clocks that are set meanwhile. Of a short lease, a quarter.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// How the dispatcher works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// What the lanes may hold.
    pub(super) limits: Limits,
    /// An attempt has ended by then.
    pub(super) timeout: Duration,
    /// Whose leases claims are.
    pub(super) instance: InstanceId,
    /// How long a claim leases for.
    pub(super) lease: Duration,
    /// How often to claim.
    pub(super) poll_interval: Duration,
}

impl Options {
    /// Room that only claims may take.
    fn claim_reserve(&self) -> usize {
        self.limits.capacity / CLAIM_SHARE
    }
}

/// The dispatcher and all it holds in memory.
pub(super) struct Dispatcher {
    pub(super) options: Options,
    pub(super) store: SharedStore,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) attempter: Arc<Attempter>,
    pub(super) wake: Wake,
    pub(super) paused: SuspendedOrgs,
    pub(super) inbox: HandoffReceiver,
    pub(super) lanes: Lanes<LeasedDelivery>,
    pub(super) claims: Claims,
    pub(super) gates: EndpointThrottles,
    /// When something that waits for its endpoint's rate limit may start.
    pub(super) wait: Option<Timestamp>,
    pub(super) control: DeliveryHandle,
    pub(super) letting_go: Evictions,
    pub(super) steps: JoinSet<Step>,
    pub(super) vitals: DeliveryHealth,
}

/// What must not be started although it may still come in: it was leased before it was named, and
/// is on its way in a claim or in the inbox.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    names: Forgotten,
    /// Deliveries in the inbox that were there when something was last named, by the entry they came by.
    inbox_left: [usize; Entry::ALL.len()],
    /// Whether a claim was in flight then.
    claim_left: bool,
}

impl Evictions {
    fn is_over(&self) -> bool {
        self.inbox_left.iter().all(|left| *left == 0) && !self.claim_left
    }

    /// Notes that the first delivery in the inbox by this entry has left it.
    fn has_come(&mut self, entry: Entry) {
        let left = &mut self.inbox_left[entry as usize];
        *left = left.saturating_sub(1);
    }

    /// Notes that the first delivery that came by express has got this place among the bulk.
    fn has_gone_behind(&mut self, place: usize) {
        let [express, bulk] = &mut self.inbox_left;
        if place <= *bulk {
            *bulk += 1;
        } else if *express > 0 {
            *bulk = place;
        }
        *express = express.saturating_sub(1);
    }

    /// Forgets the names when nothing from before them can come in any more.
    fn end_if_over(&mut self) {
        if self.is_over() && !self.names.is_empty() {
            self.names = Forgotten::default();
        }
    }
}

/// Where the claiming stands.
#[derive(Debug, Default)]
pub(super) struct Claims {
    hunger: ClaimDemand,
    /// Where the next one goes on.
    next: ClaimCursor,
    under_way: bool,
    failing: bool,
}

/// Whether to claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum ClaimDemand {
    /// Not before the next poll or wake.
    #[default]
    Idle,
    /// There is more in the store, since the last claim came back full or passed a lane by that has
    /// run low since: as soon as there is room worth a statement.
    More,
    /// The time has come: with whatever room there is.
    Due,
}

/// What a task of the dispatcher's ended with.
#[derive(Debug)]
pub(super) enum Step {
    /// An attempt, and whether it was the probe of a breaker.
    Attempted { attempted: Attempted, probe: bool },
    /// A claim for `room` deliveries.
    Claimed { room: usize, answer: Result<Claimed, StoreError> },
}

impl Dispatcher {
    /// Works until the soft stop; then hands back what was not started and waits for what was.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let (wake, control) = (self.wake.clone(), self.control.clone());
        let poll_interval = self.options.poll_interval;
        let mut soft_stop = pin!(shutdown.requested());
        let mut nap = pin!(wake.sleep(Duration::ZERO));
        loop {
            self.take_in(true).await;
            self.start_attempts().await;
            self.start_claim();
            self.show();
            let inbox_room = self.inbox_room();
            let wait = self.wait.map(|at| at.since(self.clock.now()).max(WAIT_MIN));
            let hold = self.inbox.hold_left();
            tokio::select! {
                () = &mut soft_stop => break,
                Some(step) = self.steps.join_next() => self.finish(step).await,
                () = control.named() => self.let_go().await,
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = tokio::time::sleep(hold.unwrap_or_default()), if hold.is_some() => {}
                () = self.inbox.receive(inbox_room), if inbox_room > 0 && self.inbox.receives() => {}
                () = &mut nap => {
                    self.claims.hunger = ClaimDemand::Due;
                    self.end_crowding();
                    nap.set(wake.sleep(poll_interval));
                }
            }
        }
        self.stop().await;
    }

    /// Claims once, attempts all it got and whatever was handed over, and returns how many were
    /// attempted. For tests, which decide when it is time.
    pub(super) async fn run_once(&mut self) -> Result<usize, StoreError> {
        self.let_go().await;
        let (room, claim) = self.claim();
        let claimed = claim.await;
        self.claims.under_way = false;
        match claimed {
            Ok(claimed) => self.admit(room, claimed.leased).await,
            Err(error) => {
                self.admit(room, Vec::new()).await;
                return Err(error);
            }
        }
        self.inbox.receive_now(self.inbox_room());
        self.take_in(false).await;
        let mut attempted = self.start_attempts().await;
        while let Some(step) = self.steps.join_next().await {
            self.finish(step).await;
            attempted += self.start_attempts().await;
        }
        Ok(attempted)
    }

    /// How many handed-over deliveries may be taken in.
    fn inbox_room(&self) -> usize {
        self.lanes.free().saturating_sub(self.options.claim_reserve() + self.inbox.held())
    }

    /// Puts what was handed over into the lanes. A delivery whose lane has its share is held among the bulk,
    /// if `may_hold`, or else goes back to the store, which has room for any number.
    async fn take_in(&mut self, may_hold: bool) {
        for entry in Entry::ALL {
            self.take_in_by(entry, may_hold).await;
        }
        self.letting_go.end_if_over();
    }

    async fn take_in_by(&mut self, entry: Entry, may_hold: bool) {
        while let Some(delivery) = self.inbox.next(entry) {
            if let Some(until) = self.kept_out(&delivery) {
                self.attempter.put_off(&delivery, until).await;
            } else if self.is_paced_out(&delivery) {
                self.crowd_out(&delivery).await;
            } else if let Err(delivery) = self.lanes.offer(key(&delivery), delivery) {
                if entry == Entry::Express {
                    self.letting_go.has_gone_behind(self.inbox.put_behind(delivery));
                    continue;
                }
                let held = if may_hold { self.inbox.hold(delivery) } else { Err(delivery) };
                let Err(delivery) = held else { return };
                self.crowd_out(&delivery).await;
            } else if entry == Entry::Bulk {
                self.inbox.has_moved();
            }
            self.letting_go.has_come(entry);
        }
    }

    /// Hands back what found no room, and has others leave its like in the store.
    async fn crowd_out(&mut self, delivery: &LeasedDelivery) {
        if self.inbox.crowd(delivery.endpoint.id) {
            self.show_shut();
        }
        self.attempter.hand_back(delivery).await;
    }

    /// Lets endpoints have their deliveries handed over again for which nothing waits any more.
    fn end_crowding(&mut self) {
        let Self { inbox, lanes, .. } = self;
        if inbox.keep_crowded(|endpoint| lanes.waiting_for(endpoint) > 0) {
            self.show_shut();
        }
    }

    /// Tells others which endpoints take nothing for now, and who watches how many breakers are open.
    fn show_shut(&self) {
        let mut shut: Vec<EndpointId> = self.gates.open().collect();
        self.metrics.endpoint_breakers_open.set(gauge(shut.len()));
        shut.extend(self.inbox.crowded());
        shut.sort_unstable();
        shut.dedup();
        self.control.set_shut(shut.into());
    }

    /// When a delivery that comes in is due again, if it must not wait in memory.
    fn kept_out(&self, delivery: &LeasedDelivery) -> Option<Timestamp> {
        let (endpoint, now) = (&delivery.endpoint, self.clock.now());
        if self.letting_go.names.names(endpoint.id, delivery.id) {
            return Some(now);
        }
        match self.gates.passage(endpoint.id, now) {
            Permit::ShutUntil(until) => Some(until),
            Permit::Open | Permit::Probe | Permit::Probing => None,
        }
    }

    /// Whether as much waits for an endpoint as its rate limit lets through in a while.
    fn is_paced_out(&self, delivery: &LeasedDelivery) -> bool {
        let waiting = self.lanes.waiting_for(delivery.endpoint.id);
        EndpointThrottles::waiting_max(&delivery.endpoint).is_some_and(|most| waiting >= most)
    }

    /// Hands back what waits of that which was named, and sees to it that what is on its way is
    /// handed back when it comes.
    async fn let_go(&mut self) {
        let named = self.control.take();
        for delivery in self.lanes.take_if(|d| named.names(d.endpoint.id, d.id)) {
            self.attempter.hand_back(&delivery).await;
        }
        self.letting_go.names.add(named);
        self.letting_go.inbox_left = Entry::ALL.map(|entry| self.inbox.len(entry));
        self.letting_go.claim_left = self.claims.under_way;
        self.letting_go.end_if_over();
    }

    /// Starts what has a slot and returns how many that were. What belongs to an organisation that is
    /// paused goes back to the store, which puts it aside.
    async fn start_attempts(&mut self) -> usize {
        let mut started = 0;
        let mut lapsed = 0;
        let now = self.clock.now();
        self.wait = None;
        while let Some((key, delivery)) = self.next(now) {
            if self.paused.contains(delivery.event.org_id) {
                self.lanes.finish(key);
                self.attempter.hand_back(&delivery).await;
                continue;
            }
            if !self.may_start(delivery.lease, now) {
                self.lanes.finish(key);
                lapsed += 1;
                continue;
            }
            let probe = self.gates.start(&delivery.endpoint, now);
            let attempter = Arc::clone(&self.attempter);
            self.steps.spawn(async move {
                Step::Attempted { attempted: attempter.attempt(delivery).await, probe }
            });
            started += 1;
        }
        if lapsed > 0 {
            tracing::debug!(lapsed, "deliveries waited for too long and will be claimed anew");
        }
        started
    }

    /// The next delivery to start, and meanwhile when the earliest of those may that are too early.
    fn next(&mut self, now: Timestamp) -> Option<(LaneKey, LeasedDelivery)> {
        let Self { lanes, gates, wait, .. } = self;
        lanes.next(|delivery, under_way| {
            match gates.admission(&delivery.endpoint, under_way, now) {
                StartDecision::Now => true,
                StartDecision::At(at) => {
                    *wait = Some(wait.map_or(at, |wait| wait.min(at)));
                    false
                }
                StartDecision::Later => false,
            }
        })
    }

    /// Whether an attempt under this lease would end while the lease still holds. Beyond that,
    /// somebody else may be attempting the delivery at the same time, and this attempt's outcome
    /// would not count. Giving it up costs nothing: the lapse itself makes it due.
    fn may_start(&self, lease: Lease, now: Timestamp) -> bool {
        let margin = LEASE_MARGIN.min(self.options.lease / 4);
        now.plus(self.options.timeout).plus(margin) <= lease.until
    }

    fn start_claim(&mut self) {
        if self.lanes.take_ran_low() && self.claims.hunger == ClaimDemand::Idle {
            self.claims.hunger = ClaimDemand::More;
        }
        let room = self.lanes.claimable();
        let wanted = match self.claims.hunger {
            ClaimDemand::Idle => return,
            ClaimDemand::More => self.options.claim_reserve().clamp(1, CLAIM_DELIVERIES_MAX / 2),
            ClaimDemand::Due => 1,
        };
        if self.claims.under_way || room < wanted {
            return;
        }
        let (room, claim) = self.claim();
        self.steps.spawn(async move { Step::Claimed { room, answer: claim.await } });
    }

    /// A claim, and the room that was reserved for it.
    fn claim(&mut self) -> (usize, impl Future<Output = Result<Claimed, StoreError>> + use<>) {
        let from = self.claims.next;
        let now = self.clock.now();
        let caps = self.caps(now);
        let deliveries_max = self.lanes.reserve(CLAIM_DELIVERIES_MAX);
        self.claims.under_way = true;
        self.claims.hunger = ClaimDemand::Idle;
        let lease = Lease {
            token: LeaseToken::mint(self.options.instance),
            until: now.plus(self.options.lease),
        };
        let store = Arc::clone(&self.store);
        let claim = async move {
            let request = ClaimRequest { lease, deliveries_max, caps: &caps, from, now };
            store.claim_deliveries_across_orgs(request).await
        };
        (deliveries_max, claim)
    }

    /// How many deliveries a claim may bring for endpoints that do not take what there is.
    fn caps(&mut self, now: Timestamp) -> HashMap<EndpointId, usize> {
        let paced = self.lanes.first_in_lanes().filter_map(|(first, waiting)| {
            let most = EndpointThrottles::waiting_max(&first.endpoint)?;
            Some((first.endpoint.id, most.saturating_sub(waiting)))
        });
        let mut caps: HashMap<EndpointId, usize> = paced.collect();
        caps.extend(self.lanes.full().into_iter().map(|endpoint| (endpoint, 0)));
        for endpoint in self.gates.open() {
            let probe = self.gates.passage(endpoint, now) == Permit::Probe
                && self.lanes.waiting_for(endpoint) == 0;
            caps.insert(endpoint, usize::from(probe));
        }
        caps
    }

    /// Takes in the end of one task, and of those that have ended besides.
    async fn finish(&mut self, step: Result<Step, JoinError>) {
        let mut next = Some(step);
        while let Some(step) = next {
            match unwind(step) {
                Step::Attempted { attempted, probe } => self.attempted(attempted, probe).await,
                Step::Claimed { room, answer } => self.claimed(room, answer).await,
            }
            next = self.steps.try_join_next();
        }
    }

    async fn attempted(&mut self, Attempted { key, gone, health }: Attempted, probe: bool) {
        self.lanes.finish(key);
        let now = self.clock.now();
        match self.gates.end(key.endpoint, probe, health, now) {
            BreakerTransition::None => {}
            BreakerTransition::Opened => self.show_shut(),
            BreakerTransition::Closed => {
                self.show_shut();
                // All that waited for it may be claimed.
                self.claims.hunger = ClaimDemand::Due;
            }
        }
        if gone {
            for delivery in self.lanes.empty(key.endpoint) {
                self.attempter.hand_back(&delivery).await;
            }
        } else if let Permit::ShutUntil(until) = self.gates.passage(key.endpoint, now) {
            for delivery in self.lanes.empty(key.endpoint) {
                self.attempter.put_off(&delivery, until).await;
            }
        }
    }

    async fn claimed(&mut self, room: usize, answer: Result<Claimed, StoreError>) {
        self.claims.under_way = false;
        match answer {
            Ok(claimed) => {
                self.claims.failing = false;
                self.vitals.progress.beat();
                self.claims.next = claimed.next;
                if claimed.more && self.claims.hunger == ClaimDemand::Idle {
                    self.claims.hunger = ClaimDemand::More;
                }
                self.admit(room, claimed.leased).await;
            }
            Err(error) => {
                self.admit(room, Vec::new()).await;
                // Once an outage; the next poll tries again.
                if !std::mem::replace(&mut self.claims.failing, true) {
                    tracing::warn!(%error, "due deliveries cannot be claimed");
                }
            }
        }
    }

    async fn admit(&mut self, room: usize, claimed: Vec<LeasedDelivery>) {
        let mut crowded = self.lanes.admit(room, []);
        for delivery in claimed {
            if let Some(until) = self.kept_out(&delivery) {
                self.attempter.put_off(&delivery, until).await;
            } else if self.is_paced_out(&delivery) {
                self.attempter.hand_back(&delivery).await;
            } else {
                crowded.extend(self.lanes.admit(0, [(key(&delivery), delivery)]));
            }
        }
        self.letting_go.claim_left = false;
        self.letting_go.end_if_over();
        let until = self.clock.now().plus(CROWDED_WAIT);
        for delivery in crowded {
            self.attempter.put_off(&delivery, until).await;
        }
    }

    /// The soft stop: nothing new, everything back that has not been started.
    async fn stop(mut self) {
        let held = self.inbox.close();
        for delivery in self.lanes.empty_all().into_iter().chain(held) {
            self.attempter.hand_back(&delivery).await;
        }
        loop {
            self.show();
            tokio::select! {
                Some(step) = self.steps.join_next() => match unwind(step) {
                    Step::Attempted { attempted, .. } => self.lanes.finish(attempted.key),
                    Step::Claimed { room, answer } => {
                        self.admit(room, Vec::new()).await;
                        for delivery in answer.unwrap_or_default().leased {
                            self.attempter.hand_back(&delivery).await;
                        }
                    }
                },
                Some(delivery) = self.inbox.rest(), if self.inbox.is_open() => {
                    self.attempter.hand_back(&delivery).await;
                }
                else => break,
            }
        }
    }

    /// Shows those who watch how things stand, at every turn of the loop.
    fn show(&self) {
        self.vitals.dispatcher.beat();
        self.metrics.delivery_queue_size.set(gauge(self.lanes.waiting()));
        self.metrics.webhooks_in_flight.set(gauge(self.lanes.under_way()));
    }
}

fn key(delivery: &LeasedDelivery) -> LaneKey {
    LaneKey { org: delivery.event.org_id, endpoint: delivery.endpoint.id }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A task's end. One that panicked takes the dispatcher with it, and so the process: its slot and
/// its delivery would be lost to this one.
fn unwind(step: Result<Step, JoinError>) -> Step {
    match step {
        Ok(step) => step,
        Err(error) => std::panic::resume_unwind(Box::new(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_behind_the_bulk_is_still_waited_for() {
        let left = |inbox_left| Evictions { inbox_left, ..Evictions::default() };
        for (before, place, after) in [
            // An old one among old ones, and behind them all.
            ([2, 5], 3, [1, 6]),
            ([1, 2], 4, [0, 4]),
            ([1, 0], 1, [0, 1]),
            // A new one, which keeps old ones from their places or does not.
            ([0, 5], 3, [0, 6]),
            ([0, 2], 3, [0, 2]),
        ] {
            let mut letting_go = left(before);
            letting_go.has_gone_behind(place);
            assert_eq!(letting_go.inbox_left, after, "{before:?} {place}");
        }
    }
}
