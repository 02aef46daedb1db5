//! The dispatcher: accepts leased deliveries, queues them in lanes and starts attempts.
//!
//! It is one task, so the lanes need no lock. It waits for handoffs, finished attempts, claim results,
//! evictions, rate limits and the poll timer, and after each it starts every attempt that has a slot.
//! Attempts and claims run as tasks of their own.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};

use crate::delivery::metrics::DeliveryMetrics;
use crate::domain::{EndpointId, Lease, LeasedDelivery, Timestamp};
use crate::runtime::{Clock, Shutdown, Wake};
use crate::store::StoreError;

use super::attempt::{Attempter, FinishedAttempt};
use super::breaker::Permit;
use super::claimer::{CLAIM_DELIVERIES_MAX, Claimed, Claimer, caps};
use super::evictions::Evictions;
use super::handle::DeliveryHandle;
use super::handoff::{HandoffReceiver, Priority};
use super::health::DeliveryHealth;
use super::lanes::{LaneKey, LaneLimits, Lanes};
use super::suspended_orgs::SuspendedOrgs;
use super::throttle::{BreakerTransition, EndpointThrottles, StartDecision};

/// One part in this many of the lanes' capacity is reserved for claims, so that due retries get in however
/// fast deliveries are handed off.
const CLAIM_SHARE: usize = 8;
/// The shortest wait for a rate limit: the resolution of timers.
const RATE_WAIT_MIN: Duration = Duration::from_millis(1);
/// How long claimed deliveries of an organisation that has its share of the memory wait in the store.
const ORG_OVERFLOW_DELAY: Duration = Duration::from_secs(1);
/// How much of a lease must be left when its attempt times out, for recording the outcome and for clock
/// changes. A quarter of a short lease.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// How the dispatcher works.
#[derive(Clone, Copy, Debug)]
pub(super) struct DispatcherOptions {
    /// The capacity of the lanes.
    pub(super) limits: LaneLimits,
    /// Maximum duration of an attempt.
    pub(super) timeout: Duration,
    /// How long a claim leases for.
    pub(super) lease: Duration,
    /// How often to claim.
    pub(super) poll_interval: Duration,
}

impl DispatcherOptions {
    /// Capacity that only claims may use.
    fn claim_reserve(&self) -> usize {
        self.limits.capacity / CLAIM_SHARE
    }
}

/// The dispatcher and everything it holds in memory.
pub(super) struct Dispatcher {
    pub(super) options: DispatcherOptions,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<DeliveryMetrics>,
    pub(super) attempter: Arc<Attempter>,
    pub(super) wake: Wake,
    pub(super) suspended: SuspendedOrgs,
    pub(super) handoff: HandoffReceiver,
    pub(super) lanes: Lanes<LeasedDelivery>,
    pub(super) claimer: Claimer,
    pub(super) throttles: EndpointThrottles,
    /// When the next delivery that waits for a rate limit may start.
    pub(super) rate_limited_until: Option<Timestamp>,
    pub(super) handle: DeliveryHandle,
    pub(super) evictions: Evictions,
    /// Attempts and claims in flight.
    pub(super) tasks: JoinSet<TaskEnd>,
    pub(super) health: DeliveryHealth,
}

/// The result of a task.
#[derive(Debug)]
pub(super) enum TaskEnd {
    /// An attempt, and whether it was the probe of a breaker.
    Attempt { finished: FinishedAttempt, probe: bool },
    /// A claim for which `reserved` deliveries of capacity were set aside.
    Claim { reserved: usize, result: Result<Claimed, StoreError> },
}

impl Dispatcher {
    /// Runs until the soft stop, then releases what was not started and waits for the rest.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let (wake, handle) = (self.wake.clone(), self.handle.clone());
        let poll_interval = self.options.poll_interval;
        let mut shutdown = pin!(shutdown.requested());
        let mut poll_timer = pin!(wake.sleep(Duration::ZERO));
        loop {
            self.accept_handoffs(true).await;
            self.start_attempts().await;
            self.start_claim();
            self.report_health();
            let free = self.handoff_capacity();
            let rate_wait = self.rate_wait();
            let hold = self.handoff.hold_left();
            tokio::select! {
                () = &mut shutdown => break,
                Some(end) = self.tasks.join_next() => self.finish(end).await,
                () = handle.evictions_requested() => self.evict().await,
                () = tokio::time::sleep(rate_wait.unwrap_or_default()), if rate_wait.is_some() => {}
                () = tokio::time::sleep(hold.unwrap_or_default()), if hold.is_some() => {}
                () = self.handoff.receive(free), if free > 0 && self.handoff.receives() => {}
                () = &mut poll_timer => {
                    self.claimer.request();
                    self.clear_overflowed();
                    poll_timer.set(wake.sleep(poll_interval));
                }
            }
        }
        self.stop().await;
    }

    /// Claims once, attempts everything that was claimed and handed off, and returns the number of attempts.
    /// For tests, which decide when it is time.
    pub(super) async fn run_once(&mut self) -> Result<usize, StoreError> {
        self.evict().await;
        let (reserved, claim) = self.claim();
        let result = claim.await;
        self.finish_claim(reserved, result).await?;
        self.handoff.receive_now(self.handoff_capacity());
        self.accept_handoffs(false).await;
        let mut attempted = self.start_attempts().await;
        while let Some(end) = self.tasks.join_next().await {
            self.finish(end).await;
            attempted += self.start_attempts().await;
        }
        Ok(attempted)
    }

    /// How many handed-off deliveries may be received.
    fn handoff_capacity(&self) -> usize {
        self.lanes.free().saturating_sub(self.options.claim_reserve() + self.handoff.held())
    }

    fn rate_wait(&self) -> Option<Duration> {
        self.rate_limited_until.map(|until| until.since(self.clock.now()).max(RATE_WAIT_MIN))
    }

    /// Moves handed-off deliveries into the lanes. A delivery whose lane has its share is held at the head
    /// of the bulk queue if `may_hold`, or else released to the store, which has room for any number.
    async fn accept_handoffs(&mut self, may_hold: bool) {
        for priority in Priority::ALL {
            self.accept_from(priority, may_hold).await;
        }
        self.evictions.clear_if_over();
    }

    async fn accept_from(&mut self, priority: Priority, may_hold: bool) {
        while let Some(delivery) = self.handoff.next(priority) {
            if let Some(until) = self.deferred_until(&delivery) {
                self.attempter.defer(&delivery, until).await;
            } else if self.has_rate_backlog(&delivery) {
                self.spill(&delivery).await;
            } else if let Err(delivery) = self.lanes.offer(key(&delivery), delivery) {
                if priority == Priority::Fast {
                    self.evictions.moved_to_bulk(self.handoff.move_to_bulk(delivery));
                    continue;
                }
                let held = if may_hold { self.handoff.hold(delivery) } else { Err(delivery) };
                let Err(delivery) = held else { return };
                self.spill(&delivery).await;
            } else if priority == Priority::Bulk {
                self.handoff.made_progress();
            }
            self.evictions.left_handoff(priority);
        }
    }

    /// Releases a delivery that has no room here, and has later ones to its endpoint stay in the store.
    async fn spill(&mut self, delivery: &LeasedDelivery) {
        if self.handoff.mark_overflowed(delivery.endpoint.id) {
            self.publish_backpressured();
        }
        self.attempter.release(delivery).await;
    }

    /// Readmits the overflowed endpoints whose lanes are empty.
    fn clear_overflowed(&mut self) {
        let Self { handoff, lanes, .. } = self;
        if handoff.retain_overflowed(|endpoint| lanes.waiting_for(endpoint) > 0) {
            self.publish_backpressured();
        }
    }

    /// Publishes which endpoints refuse handoffs, and the number of open breakers.
    fn publish_backpressured(&self) {
        let mut backpressured: Vec<EndpointId> = self.throttles.open().collect();
        self.metrics.endpoint_breakers_open.set(gauge(backpressured.len()));
        backpressured.extend(self.handoff.overflowed());
        backpressured.sort_unstable();
        backpressured.dedup();
        self.handle.set_backpressured(backpressured.into());
    }

    /// When a delivery that arrives is due again, if it must not wait in memory.
    fn deferred_until(&self, delivery: &LeasedDelivery) -> Option<Timestamp> {
        let (endpoint, now) = (&delivery.endpoint, self.clock.now());
        if self.evictions.contains(endpoint.id, delivery.id) {
            return Some(now);
        }
        match self.throttles.permit(endpoint.id, now) {
            Permit::DenyUntil(until) => Some(until),
            Permit::Allow | Permit::Probe | Permit::DenyWhileProbing => None,
        }
    }

    /// Whether an endpoint's lane holds as much as its rate limit allows.
    fn has_rate_backlog(&self, delivery: &LeasedDelivery) -> bool {
        let waiting = self.lanes.waiting_for(delivery.endpoint.id);
        EndpointThrottles::backlog_max(&delivery.endpoint).is_some_and(|most| waiting >= most)
    }

    /// Releases the deliveries to be evicted from the lanes, and remembers the evictions for those that are
    /// still on their way.
    async fn evict(&mut self) {
        let requested = self.handle.take();
        for delivery in self.lanes.remove_if(|d| requested.contains(d.endpoint.id, d.id)) {
            self.attempter.release(&delivery).await;
        }
        let handoff_left = Priority::ALL.map(|priority| self.handoff.len(priority));
        self.evictions.add(requested, handoff_left, self.claimer.in_flight());
    }

    /// Starts every attempt that has a slot and returns how many. Deliveries of suspended organisations are
    /// released to the store, which parks them.
    async fn start_attempts(&mut self) -> usize {
        let mut started = 0;
        let mut lapsed = 0;
        let now = self.clock.now();
        self.rate_limited_until = None;
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
            self.tasks.spawn(async move {
                TaskEnd::Attempt { finished: attempter.attempt(delivery).await, probe }
            });
            started += 1;
        }
        if lapsed > 0 {
            tracing::debug!(
                lapsed,
                "deliveries waited too long for their lease; they will be claimed again"
            );
        }
        started
    }

    /// The next delivery to start. Notes when the first of the rate-limited ones may start.
    fn next(&mut self, now: Timestamp) -> Option<(LaneKey, LeasedDelivery)> {
        let Self { lanes, throttles, rate_limited_until, .. } = self;
        lanes.next(|delivery, in_flight| {
            match throttles.start_decision(&delivery.endpoint, in_flight, now) {
                StartDecision::Now => true,
                StartDecision::At(at) => {
                    *rate_limited_until =
                        Some(rate_limited_until.map_or(at, |until| until.min(at)));
                    false
                }
                StartDecision::Later => false,
            }
        })
    }

    /// Whether an attempt under this lease ends before the lease lapses. Otherwise another server might
    /// attempt the delivery at the same time, and this attempt's outcome would not count. Skipping it costs
    /// nothing: the lapse itself makes the delivery due.
    fn may_start(&self, lease: Lease, now: Timestamp) -> bool {
        let margin = LEASE_MARGIN.min(self.options.lease / 4);
        now.plus(self.options.timeout).plus(margin) <= lease.until
    }

    fn start_claim(&mut self) {
        if self.lanes.take_ran_low() {
            self.claimer.request_more();
        }
        if !self.claimer.should_claim(self.lanes.claimable(), self.options.claim_reserve()) {
            return;
        }
        let (reserved, claim) = self.claim();
        self.tasks.spawn(async move { TaskEnd::Claim { reserved, result: claim.await } });
    }

    /// A claim, and the capacity that was reserved for it.
    fn claim(&mut self) -> (usize, impl Future<Output = Result<Claimed, StoreError>> + use<>) {
        let now = self.clock.now();
        let caps = caps(&mut self.lanes, &self.throttles, now);
        let reserved = self.lanes.reserve(CLAIM_DELIVERIES_MAX);
        (reserved, self.claimer.claim(reserved, caps, now))
    }

    /// Handles the end of a task, and of every other task that has ended by now.
    async fn finish(&mut self, end: Result<TaskEnd, JoinError>) {
        let mut next = Some(end);
        while let Some(end) = next {
            match unwind(end) {
                TaskEnd::Attempt { finished, probe } => self.finish_attempt(finished, probe).await,
                // The claimer has logged the error, and the next poll claims again.
                TaskEnd::Claim { reserved, result } => {
                    _ = self.finish_claim(reserved, result).await;
                }
            }
            next = self.tasks.try_join_next();
        }
    }

    async fn finish_attempt(
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
                // Deliveries that waited for the breaker may be claimed.
                self.claimer.request();
            }
        }
        if gone {
            for delivery in self.lanes.clear(key.endpoint) {
                self.attempter.release(&delivery).await;
            }
        } else if let Permit::DenyUntil(until) = self.throttles.permit(key.endpoint, now) {
            for delivery in self.lanes.clear(key.endpoint) {
                self.attempter.defer(&delivery, until).await;
            }
        }
    }

    async fn finish_claim(
        &mut self,
        reserved: usize,
        result: Result<Claimed, StoreError>,
    ) -> Result<(), StoreError> {
        let result = self.claimer.finished(result);
        if result.is_ok() {
            self.health.progress.beat();
        }
        let (leased, result) = match result {
            Ok(leased) => (leased, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        self.admit(reserved, leased).await;
        result
    }

    /// Moves claimed deliveries into the lanes and ends their reservation.
    async fn admit(&mut self, reserved: usize, claimed: Vec<LeasedDelivery>) {
        let mut overflow = self.lanes.admit(reserved, []);
        for delivery in claimed {
            if let Some(until) = self.deferred_until(&delivery) {
                self.attempter.defer(&delivery, until).await;
            } else if self.has_rate_backlog(&delivery) {
                self.attempter.release(&delivery).await;
            } else {
                overflow.extend(self.lanes.admit(0, [(key(&delivery), delivery)]));
            }
        }
        self.evictions.claim_answered();
        let until = self.clock.now().plus(ORG_OVERFLOW_DELAY);
        for delivery in overflow {
            self.attempter.defer(&delivery, until).await;
        }
    }

    /// The soft stop: starts nothing, releases what was not started and waits for the rest.
    async fn stop(mut self) {
        let held = self.handoff.close();
        for delivery in self.lanes.clear_all().into_iter().chain(held) {
            self.attempter.release(&delivery).await;
        }
        loop {
            self.report_health();
            tokio::select! {
                Some(end) = self.tasks.join_next() => match unwind(end) {
                    TaskEnd::Attempt { finished, .. } => self.lanes.finish(finished.key),
                    TaskEnd::Claim { reserved, result } => {
                        self.admit(reserved, Vec::new()).await;
                        for delivery in result.unwrap_or_default().leased {
                            self.attempter.release(&delivery).await;
                        }
                    }
                },
                Some(delivery) = self.handoff.drain(), if self.handoff.is_open() => {
                    self.attempter.release(&delivery).await;
                }
                else => break,
            }
        }
    }

    /// Beats the heartbeat and updates the gauges, once per iteration.
    fn report_health(&self) {
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

/// A task's result. A panic ends the dispatcher, and so the process: the task's slot and delivery would
/// otherwise be lost.
fn unwind(end: Result<TaskEnd, JoinError>) -> TaskEnd {
    match end {
        Ok(end) => end,
        Err(error) => std::panic::resume_unwind(Box::new(error.to_string())),
    }
}
