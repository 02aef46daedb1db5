//! The dispatcher: starts what admission lets start, and claims what it has room for.
//!
//! It is one task. It waits for ended attempts, for the claim in flight, for what others queued or changed, and
//! for the next time at which something may start, and after each it starts attempts that have a slot, some at a time.
//! Attempts and claims run as tasks of their own.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};

use crate::delivery::metrics::DeliveryMetrics;
use crate::domain::{Endpoint, Lease, LeasedDelivery, Timestamp};
use crate::runtime::{Shutdown, Stopwatch, Wake};
use crate::store::StoreError;
use crate::telemetry::OrgLines;

use super::admission::{BreakerChange, Next, Start, Ticket};
use super::attempt::{Attempter, FinishedAttempt};
use super::claimer::{ClaimWork, Claimer};
use super::dispatch::Dispatch;
use super::health::DeliveryHealth;

/// The shortest wait for a time at which something may start: the resolution of timers.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// The shortest time from one claim for endpoints with room to the next, and what each endpoint that waits for
/// room adds to it: looking through them takes time.
const CLAIM_PAUSE: Duration = Duration::from_millis(5);
const CLAIM_PAUSE_EACH: Duration = Duration::from_micros(2);
/// Attempts that are started at a time. Their tasks then run before further ones, so that the event of somebody else waits
/// for these at most.
const STARTS_MAX: usize = 32;
/// How much of a lease must be left when its attempt times out, for recording the outcome and for clock
/// changes. A quarter of a short lease.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// Breakers that opened or closed.
static BREAKER_CHANGES: OrgLines = OrgLines::new();

/// How the dispatcher works.
#[derive(Clone, Copy, Debug)]
pub(super) struct DispatcherOptions {
    /// Maximum duration of an attempt.
    pub(super) timeout: Duration,
    /// How long a claim leases for.
    pub(super) lease: Duration,
    /// How often to scan the store.
    pub(super) poll_interval: Duration,
}

/// The dispatcher.
pub(super) struct Dispatcher {
    pub(super) options: DispatcherOptions,
    pub(super) dispatch: Dispatch,
    pub(super) metrics: Arc<DeliveryMetrics>,
    pub(super) attempter: Arc<Attempter>,
    /// Wakes it to scan the store.
    pub(super) wake: Wake,
    /// `None` while a claim is in flight.
    pub(super) claimer: Option<Box<Claimer>>,
    pub(super) scan: ScanDemand,
    /// How long after the last claim for endpoints with room the next one may be made.
    pub(super) claim_pause: Pause,
    /// Attempts and the claim in flight.
    pub(super) tasks: JoinSet<TaskEnd>,
    pub(super) health: DeliveryHealth,
}

/// A pause on the system's clock, since it is about load.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause(Option<(Stopwatch, Duration)>);

impl Pause {
    fn begin(span: Duration) -> Self {
        Self(Some((Stopwatch::start(), span)))
    }

    fn left(self) -> Duration {
        self.0.map_or(Duration::ZERO, |(since, span)| span.saturating_sub(since.elapsed()))
    }
}

/// Whether to scan the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum ScanDemand {
    /// Not before the next poll or wake.
    #[default]
    None,
    /// With the next claim.
    Due,
}

/// The result of a task.
#[derive(Debug)]
pub(super) enum TaskEnd {
    /// An attempt.
    Attempt { ticket: Ticket, finished: FinishedAttempt },
    /// A claim, and whether the scan is to go on.
    Claim { claimer: Box<Claimer>, result: Result<bool, StoreError> },
}

impl Dispatcher {
    /// Runs until the soft stop, then releases what was not started and waits for the rest.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let (wake, dispatch) = (self.wake.clone(), self.dispatch.clone());
        let poll_interval = self.options.poll_interval;
        let mut shutdown = pin!(shutdown.requested());
        let mut poll_timer = pin!(wake.sleep(Duration::ZERO));
        loop {
            let may_start_more = self.start_attempts(STARTS_MAX) == STARTS_MAX;
            let wait = self.start_claim();
            self.report_health();
            tokio::select! {
                () = &mut shutdown => break,
                Some(end) = self.tasks.join_next() => self.finish(end),
                () = tokio::task::yield_now(), if may_start_more => {}
                () = dispatch.ready() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = &mut poll_timer => {
                    self.scan = ScanDemand::Due;
                    dispatch.manual().resume_all();
                    self.report_breakers();
                    poll_timer.set(wake.sleep(poll_interval));
                }
            }
        }
        self.stop().await;
    }

    /// Claims and attempts everything that is due and has room, of ordered deliveries one each, and returns the
    /// number of attempts. For tests, which decide when it is time.
    pub(super) async fn run_once(&mut self) -> Result<usize, StoreError> {
        let mut attempted = 0;
        let mut work = ClaimWork { endpoints: Vec::new(), scan: true };
        loop {
            let Some(claimer) = &mut self.claimer else { return Ok(attempted) };
            while claimer.claim(std::mem::take(&mut work)).await? {
                work.scan = true;
            }
            self.health.progress.beat();
            let before = attempted;
            attempted += self.start_attempts(usize::MAX);
            while let Some(end) = self.tasks.join_next().await {
                self.finish(end);
                attempted += self.start_attempts(usize::MAX);
            }
            let now = self.dispatch.monotonic();
            let admission = self.dispatch.admission();
            let (mut behind, _) = admission.claimable(now);
            behind.retain(|id| {
                admission.endpoint(*id).is_some_and(|endpoint| !endpoint.policy.ordered)
            });
            drop(admission);
            if attempted == before || behind.is_empty() {
                self.report_breakers();
                return Ok(attempted);
            }
            work.endpoints = behind;
        }
    }

    /// Starts attempts that have a slot, at most so many, and returns how many.
    fn start_attempts(&mut self, most: usize) -> usize {
        let (schedule, now) = self.dispatch.now();
        let (mut started, mut dropped) = (0, 0);
        while started < most {
            let is_valid = |delivery: &LeasedDelivery, endpoint: &Endpoint| {
                self.may_start(delivery.lease, schedule) && !is_cancelled(delivery, endpoint)
            };
            let next = self.dispatch.admission().next(now, is_valid);
            match next {
                Some(Next::Start(start)) => self.start(start),
                Some(Next::Dropped) => {
                    dropped += 1;
                    continue;
                }
                None => break,
            }
            started += 1;
        }
        if dropped > 0 {
            tracing::debug!(
                dropped,
                "deliveries were cancelled, or waited too long for their lease"
            );
        }
        started
    }

    fn start(&mut self, Start { mut delivery, endpoint, ticket }: Start<LeasedDelivery>) {
        delivery.endpoint = endpoint;
        let attempter = Arc::clone(&self.attempter);
        self.tasks.spawn(async move {
            TaskEnd::Attempt { ticket, finished: attempter.attempt(delivery).await }
        });
    }

    /// Whether an attempt under this lease ends before the lease lapses. Otherwise another server might
    /// attempt the delivery at the same time, and this attempt's outcome would not count.
    fn may_start(&self, lease: Lease, now: Timestamp) -> bool {
        let margin = LEASE_MARGIN.min(self.options.lease / 4);
        now.plus(self.options.timeout).plus(margin) <= lease.until
    }

    /// Starts a claim, if one is due. Returns how long to wait before looking again.
    fn start_claim(&mut self) -> Option<Duration> {
        let now = self.dispatch.monotonic();
        let next_start = self.dispatch.admission().next_start();
        let next_start = next_start.map(|start| start.since(now).max(WAIT_MIN));
        if self.claimer.is_none() || self.dispatch.backlog().stops_claims() {
            return next_start;
        }
        let scan = self.scan == ScanDemand::Due;
        let is_urgent = scan || self.dispatch.manual().is_ready();
        let pause = self.claim_pause.left();
        let (endpoints, next_room) = if is_urgent || pause.is_zero() {
            let admission = self.dispatch.admission();
            let behind = u32::try_from(admission.behind()).unwrap_or(u32::MAX);
            let pause = CLAIM_PAUSE.saturating_add(CLAIM_PAUSE_EACH.saturating_mul(behind));
            let (endpoints, next_room) = admission.claimable(now);
            drop(admission);
            self.claim_pause = Pause::begin(pause);
            (endpoints, next_room.map(|room| room.since(now).max(WAIT_MIN)))
        } else {
            // Something may have got room since the last look.
            (Vec::new(), Some(pause.max(WAIT_MIN)))
        };
        if !is_urgent && endpoints.is_empty() {
            return [next_start, next_room].into_iter().flatten().min();
        }
        let Some(mut claimer) = self.claimer.take() else { return next_start };
        self.scan = ScanDemand::None;
        self.tasks.spawn(async move {
            let result = claimer.claim(ClaimWork { endpoints, scan }).await;
            TaskEnd::Claim { claimer, result }
        });
        next_start
    }

    /// Handles the end of a task, and of every other task that has ended by now.
    fn finish(&mut self, end: Result<TaskEnd, JoinError>) {
        let mut next = Some(end);
        while let Some(end) = next {
            self.finish_one(unwind(end));
            next = self.tasks.try_join_next();
        }
    }

    fn finish_one(&mut self, end: TaskEnd) {
        match end {
            TaskEnd::Attempt { ticket, finished: FinishedAttempt { gone, signal, not_made } } => {
                let now = self.dispatch.monotonic();
                let finished = self.dispatch.admission().finish(ticket, signal, gone, now);
                self.dispatch.release(finished.released);
                self.dispatch.release(not_made.map(|delivery| *delivery));
                self.dispatch.manual().resume(ticket.endpoint);
                log_breaker(ticket, finished.breaker);
                if finished.breaker == Some(BreakerChange::Closed) {
                    // What waited for it is due.
                    self.dispatch.admission().note_left(ticket.endpoint);
                }
            }
            TaskEnd::Claim { claimer, result } => {
                self.claimer = Some(claimer);
                match result {
                    Ok(has_more) => {
                        self.health.progress.beat();
                        if has_more {
                            self.scan = ScanDemand::Due;
                        }
                    }
                    // Logged by the claimer; the next poll tries again.
                    Err(_) => {
                        self.claim_pause = Pause::begin(self.options.poll_interval);
                    }
                }
            }
        }
    }

    /// The soft stop: starts nothing, releases what was not started and waits for the rest.
    async fn stop(mut self) {
        loop {
            let waiting = self.dispatch.admission().close();
            self.dispatch.release(waiting);
            self.report_health();
            let Some(end) = self.tasks.join_next().await else { break };
            self.finish(end);
        }
    }

    /// Beats the heartbeat and updates the gauges, once per iteration.
    fn report_health(&self) {
        self.health.dispatcher.beat();
        let (waiting, in_flight) = {
            let admission = self.dispatch.admission();
            (admission.waiting(), admission.in_flight())
        };
        self.metrics.delivery_queue_size.set(gauge(waiting));
        self.metrics.webhooks_in_flight.set(gauge(in_flight));
    }

    fn report_breakers(&self) {
        let open = self.dispatch.admission().open_breakers();
        self.metrics.endpoint_breakers_open.set(gauge(open));
    }
}

/// Whether its owner has cancelled what was pending when it was created.
fn is_cancelled(delivery: &LeasedDelivery, endpoint: &Endpoint) -> bool {
    endpoint.cancel_before.is_some_and(|until| delivery.id.created_at() <= until)
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

/// Logs that a breaker opened or closed.
fn log_breaker(ticket: Ticket, change: Option<BreakerChange>) {
    let Ticket { org, endpoint, .. } = ticket;
    let Some(change) = change else { return };
    if let Some(unlogged) = BREAKER_CHANGES.due(org) {
        tracing::info!(%org, %endpoint, ?change, unlogged, "circuit breaker changed");
    }
}
