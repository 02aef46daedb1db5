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
use crate::store::{ClaimCursor, ClaimRequest, Claimed, Store, StoreError};
use crate::telemetry::Metrics;

use super::attempt::{Attempter, FinishedAttempt};
use super::breaker::Permit;
use super::handle::{DeliveryHandle, EvictionSet};
use super::handoff::{HandoffReceiver, Priority};
use super::health::DeliveryHealth;
use super::lanes::{LaneKey, LaneLimits, Lanes};
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
pub(super) struct DispatcherOptions {
    /// What the lanes may hold.
    pub(super) limits: LaneLimits,
    /// An attempt has ended by then.
    pub(super) timeout: Duration,
    /// Whose leases claims are.
    pub(super) instance: InstanceId,
    /// How long a claim leases for.
    pub(super) lease: Duration,
    /// How often to claim.
    pub(super) poll_interval: Duration,
}

impl DispatcherOptions {
    /// Room that only claims may take.
    fn claim_reserve(&self) -> usize {
        self.limits.capacity / CLAIM_SHARE
    }
}

/// The dispatcher and all it holds in memory.
pub(super) struct Dispatcher {
    pub(super) options: DispatcherOptions,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) attempter: Arc<Attempter>,
    pub(super) wake: Wake,
    pub(super) suspended: SuspendedOrgs,
    pub(super) handoff: HandoffReceiver,
    pub(super) lanes: Lanes<LeasedDelivery>,
    pub(super) claims: Claims,
    pub(super) throttles: EndpointThrottles,
    /// When something that waits for its endpoint's rate limit may start.
    pub(super) wait: Option<Timestamp>,
    pub(super) handle: DeliveryHandle,
    pub(super) evictions: Evictions,
    pub(super) steps: JoinSet<TaskEnd>,
    pub(super) health: DeliveryHealth,
}

/// What must not be started although it may still come in: it was leased before it was named, and
/// is on its way in a claim or in the inbox.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    set: EvictionSet,
    /// Deliveries in the inbox that were there when something was last named, by the entry they came by.
    handoff_left: [usize; Priority::ALL.len()],
    /// Whether a claim was in flight then.
    claim_left: bool,
}

impl Evictions {
    fn is_over(&self) -> bool {
        self.handoff_left.iter().all(|left| *left == 0) && !self.claim_left
    }

    /// Notes that the first delivery in the inbox by this entry has left it.
    fn has_come(&mut self, priority: Priority) {
        let left = &mut self.handoff_left[priority as usize];
        *left = left.saturating_sub(1);
    }

    /// Notes that the first delivery that came by express has got this place among the bulk.
    fn has_gone_behind(&mut self, place: usize) {
        let [express, bulk] = &mut self.handoff_left;
        if place <= *bulk {
            *bulk += 1;
        } else if *express > 0 {
            *bulk = place;
        }
        *express = express.saturating_sub(1);
    }

    /// Forgets the names when nothing from before them can come in any more.
    fn end_if_over(&mut self) {
        if self.is_over() && !self.set.is_empty() {
            self.set = EvictionSet::default();
        }
    }
}

/// Where the claiming stands.
#[derive(Debug, Default)]
pub(super) struct Claims {
    demand: ClaimDemand,
    /// Where the next one goes on.
    next: ClaimCursor,
    in_flight: bool,
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
pub(super) enum TaskEnd {
    /// An attempt, and whether it was the probe of a breaker.
    Attempt { attempted: FinishedAttempt, probe: bool },
    /// A claim for `room` deliveries.
    Claim { room: usize, answer: Result<Claimed, StoreError> },
}

impl Dispatcher {
    /// Works until the soft stop; then hands back what was not started and waits for what was.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let (wake, handle) = (self.wake.clone(), self.handle.clone());
        let poll_interval = self.options.poll_interval;
        let mut soft_stop = pin!(shutdown.requested());
        let mut poll_timer = pin!(wake.sleep(Duration::ZERO));
        loop {
            self.accept_handoffs(true).await;
            self.start_attempts().await;
            self.start_claim();
            self.show();
            let handoff_room = self.handoff_room();
            let wait = self.wait.map(|at| at.since(self.clock.now()).max(WAIT_MIN));
            let hold = self.handoff.hold_left();
            tokio::select! {
                () = &mut soft_stop => break,
                Some(step) = self.steps.join_next() => self.finish(step).await,
                () = handle.evictions_requested() => self.evict().await,
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = tokio::time::sleep(hold.unwrap_or_default()), if hold.is_some() => {}
                () = self.handoff.receive(handoff_room), if handoff_room > 0 && self.handoff.receives() => {}
                () = &mut poll_timer => {
                    self.claims.demand = ClaimDemand::Due;
                    self.clear_overflowed();
                    poll_timer.set(wake.sleep(poll_interval));
                }
            }
        }
        self.stop().await;
    }

    /// Claims once, attempts all it got and whatever was handed over, and returns how many were
    /// attempted. For tests, which decide when it is time.
    pub(super) async fn run_once(&mut self) -> Result<usize, StoreError> {
        self.evict().await;
        let (room, claim) = self.claim();
        let claimed = claim.await;
        self.claims.in_flight = false;
        match claimed {
            Ok(claimed) => self.admit(room, claimed.leased).await,
            Err(error) => {
                self.admit(room, Vec::new()).await;
                return Err(error);
            }
        }
        self.handoff.receive_now(self.handoff_room());
        self.accept_handoffs(false).await;
        let mut attempted = self.start_attempts().await;
        while let Some(step) = self.steps.join_next().await {
            self.finish(step).await;
            attempted += self.start_attempts().await;
        }
        Ok(attempted)
    }

    /// How many handed-over deliveries may be taken in.
    fn handoff_room(&self) -> usize {
        self.lanes.free().saturating_sub(self.options.claim_reserve() + self.handoff.held())
    }

    /// Puts what was handed over into the lanes. A delivery whose lane has its share is held among the bulk,
    /// if `may_hold`, or else goes back to the store, which has room for any number.
    async fn accept_handoffs(&mut self, may_hold: bool) {
        for priority in Priority::ALL {
            self.accept_from(priority, may_hold).await;
        }
        self.evictions.end_if_over();
    }

    async fn accept_from(&mut self, priority: Priority, may_hold: bool) {
        while let Some(delivery) = self.handoff.next(priority) {
            if let Some(until) = self.deferred_until(&delivery) {
                self.attempter.defer(&delivery, until).await;
            } else if self.is_over_rate_backlog(&delivery) {
                self.spill(&delivery).await;
            } else if let Err(delivery) = self.lanes.offer(key(&delivery), delivery) {
                if priority == Priority::Express {
                    self.evictions.has_gone_behind(self.handoff.put_behind(delivery));
                    continue;
                }
                let held = if may_hold { self.handoff.hold(delivery) } else { Err(delivery) };
                let Err(delivery) = held else { return };
                self.spill(&delivery).await;
            } else if priority == Priority::Bulk {
                self.handoff.has_moved();
            }
            self.evictions.has_come(priority);
        }
    }

    /// Hands back what found no room, and has others leave its like in the store.
    async fn spill(&mut self, delivery: &LeasedDelivery) {
        if self.handoff.crowd(delivery.endpoint.id) {
            self.publish_backpressured();
        }
        self.attempter.release(delivery).await;
    }

    /// Lets endpoints have their deliveries handed over again for which nothing waits any more.
    fn clear_overflowed(&mut self) {
        let Self { handoff, lanes, .. } = self;
        if handoff.keep_crowded(|endpoint| lanes.waiting_for(endpoint) > 0) {
            self.publish_backpressured();
        }
    }

    /// Tells others which endpoints take nothing for now, and who watches how many breakers are open.
    fn publish_backpressured(&self) {
        let mut backpressured: Vec<EndpointId> = self.throttles.open().collect();
        self.metrics.endpoint_breakers_open.set(gauge(backpressured.len()));
        backpressured.extend(self.handoff.crowded());
        backpressured.sort_unstable();
        backpressured.dedup();
        self.handle.set_backpressured(backpressured.into());
    }

    /// When a delivery that comes in is due again, if it must not wait in memory.
    fn deferred_until(&self, delivery: &LeasedDelivery) -> Option<Timestamp> {
        let (endpoint, now) = (&delivery.endpoint, self.clock.now());
        if self.evictions.set.contains(endpoint.id, delivery.id) {
            return Some(now);
        }
        match self.throttles.permit(endpoint.id, now) {
            Permit::DenyUntil(until) => Some(until),
            Permit::Allow | Permit::Probe | Permit::DenyWhileProbing => None,
        }
    }

    /// Whether as much waits for an endpoint as its rate limit lets through in a while.
    fn is_over_rate_backlog(&self, delivery: &LeasedDelivery) -> bool {
        let waiting = self.lanes.waiting_for(delivery.endpoint.id);
        EndpointThrottles::waiting_max(&delivery.endpoint).is_some_and(|most| waiting >= most)
    }

    /// Hands back what waits of that which was named, and sees to it that what is on its way is
    /// handed back when it comes.
    async fn evict(&mut self) {
        let requested = self.handle.take();
        for delivery in self.lanes.take_if(|d| requested.contains(d.endpoint.id, d.id)) {
            self.attempter.release(&delivery).await;
        }
        self.evictions.set.extend(requested);
        self.evictions.handoff_left = Priority::ALL.map(|priority| self.handoff.len(priority));
        self.evictions.claim_left = self.claims.in_flight;
        self.evictions.end_if_over();
    }

    /// Starts what has a slot and returns how many that were. What belongs to an organisation that is
    /// paused goes back to the store, which puts it aside.
    async fn start_attempts(&mut self) -> usize {
        let mut started = 0;
        let mut lapsed = 0;
        let now = self.clock.now();
        self.wait = None;
        while let Some((key, delivery)) = self.next(now) {
            if self.suspended.contains(delivery.event.org_id) {
                self.lanes.finish(key);
                self.attempter.release(&delivery).await;
                continue;
            }
            if !self.may_start(delivery.lease, now) {
                self.lanes.finish(key);
                lapsed += 1;
                continue;
            }
            let probe = self.throttles.start(&delivery.endpoint, now);
            let attempter = Arc::clone(&self.attempter);
            self.steps.spawn(async move {
                TaskEnd::Attempt { attempted: attempter.attempt(delivery).await, probe }
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
        let Self { lanes, throttles, wait, .. } = self;
        lanes.next(|delivery, in_flight| {
            match throttles.start_decision(&delivery.endpoint, in_flight, now) {
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
        if self.lanes.take_ran_low() && self.claims.demand == ClaimDemand::Idle {
            self.claims.demand = ClaimDemand::More;
        }
        let room = self.lanes.claimable();
        let wanted = match self.claims.demand {
            ClaimDemand::Idle => return,
            ClaimDemand::More => self.options.claim_reserve().clamp(1, CLAIM_DELIVERIES_MAX / 2),
            ClaimDemand::Due => 1,
        };
        if self.claims.in_flight || room < wanted {
            return;
        }
        let (room, claim) = self.claim();
        self.steps.spawn(async move { TaskEnd::Claim { room, answer: claim.await } });
    }

    /// A claim, and the room that was reserved for it.
    fn claim(&mut self) -> (usize, impl Future<Output = Result<Claimed, StoreError>> + use<>) {
        let from = self.claims.next;
        let now = self.clock.now();
        let caps = self.caps(now);
        let deliveries_max = self.lanes.reserve(CLAIM_DELIVERIES_MAX);
        self.claims.in_flight = true;
        self.claims.demand = ClaimDemand::Idle;
        let lease = Lease {
            token: LeaseToken::mint(self.options.instance),
            until: now.plus(self.options.lease),
        };
        let store = self.store.clone();
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
        for endpoint in self.throttles.open() {
            let probe = self.throttles.permit(endpoint, now) == Permit::Probe
                && self.lanes.waiting_for(endpoint) == 0;
            caps.insert(endpoint, usize::from(probe));
        }
        caps
    }

    /// Takes in the end of one task, and of those that have ended besides.
    async fn finish(&mut self, step: Result<TaskEnd, JoinError>) {
        let mut next = Some(step);
        while let Some(step) = next {
            match unwind(step) {
                TaskEnd::Attempt { attempted, probe } => self.attempted(attempted, probe).await,
                TaskEnd::Claim { room, answer } => self.claimed(room, answer).await,
            }
            next = self.steps.try_join_next();
        }
    }

    async fn attempted(
        &mut self,
        FinishedAttempt { key, gone, signal }: FinishedAttempt,
        probe: bool,
    ) {
        self.lanes.finish(key);
        let now = self.clock.now();
        match self.throttles.end(key.endpoint, probe, signal, now) {
            BreakerTransition::None => {}
            BreakerTransition::Opened => self.publish_backpressured(),
            BreakerTransition::Closed => {
                self.publish_backpressured();
                // All that waited for it may be claimed.
                self.claims.demand = ClaimDemand::Due;
            }
        }
        if gone {
            for delivery in self.lanes.empty(key.endpoint) {
                self.attempter.release(&delivery).await;
            }
        } else if let Permit::DenyUntil(until) = self.throttles.permit(key.endpoint, now) {
            for delivery in self.lanes.empty(key.endpoint) {
                self.attempter.defer(&delivery, until).await;
            }
        }
    }

    async fn claimed(&mut self, room: usize, answer: Result<Claimed, StoreError>) {
        self.claims.in_flight = false;
        match answer {
            Ok(claimed) => {
                self.claims.failing = false;
                self.health.progress.beat();
                self.claims.next = claimed.next;
                if claimed.more && self.claims.demand == ClaimDemand::Idle {
                    self.claims.demand = ClaimDemand::More;
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
            if let Some(until) = self.deferred_until(&delivery) {
                self.attempter.defer(&delivery, until).await;
            } else if self.is_over_rate_backlog(&delivery) {
                self.attempter.release(&delivery).await;
            } else {
                crowded.extend(self.lanes.admit(0, [(key(&delivery), delivery)]));
            }
        }
        self.evictions.claim_left = false;
        self.evictions.end_if_over();
        let until = self.clock.now().plus(CROWDED_WAIT);
        for delivery in crowded {
            self.attempter.defer(&delivery, until).await;
        }
    }

    /// The soft stop: nothing new, everything back that has not been started.
    async fn stop(mut self) {
        let held = self.handoff.close();
        for delivery in self.lanes.empty_all().into_iter().chain(held) {
            self.attempter.release(&delivery).await;
        }
        loop {
            self.show();
            tokio::select! {
                Some(step) = self.steps.join_next() => match unwind(step) {
                    TaskEnd::Attempt { attempted, .. } => self.lanes.finish(attempted.key),
                    TaskEnd::Claim { room, answer } => {
                        self.admit(room, Vec::new()).await;
                        for delivery in answer.unwrap_or_default().leased {
                            self.attempter.release(&delivery).await;
                        }
                    }
                },
                Some(delivery) = self.handoff.rest(), if self.handoff.is_open() => {
                    self.attempter.release(&delivery).await;
                }
                else => break,
            }
        }
    }

    /// Shows those who watch how things stand, at every turn of the loop.
    fn show(&self) {
        self.health.dispatcher.beat();
        self.metrics.delivery_queue_size.set(gauge(self.lanes.waiting()));
        self.metrics.webhooks_in_flight.set(gauge(self.lanes.in_flight()));
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
fn unwind(step: Result<TaskEnd, JoinError>) -> TaskEnd {
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
        let left = |handoff_left| Evictions { handoff_left, ..Evictions::default() };
        for (before, place, after) in [
            // An old one among old ones, and behind them all.
            ([2, 5], 3, [1, 6]),
            ([1, 2], 4, [0, 4]),
            ([1, 0], 1, [0, 1]),
            // A new one, which keeps old ones from their places or does not.
            ([0, 5], 3, [0, 6]),
            ([0, 2], 3, [0, 2]),
        ] {
            let mut evictions = left(before);
            evictions.has_gone_behind(place);
            assert_eq!(evictions.handoff_left, after, "{before:?} {place}");
        }
    }
}
