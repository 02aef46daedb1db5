//! The recorder: writes outcomes to the store in batches.
//!
//! A commit costs the store about as much for three hundred outcomes as for one.
//!
//! # Failure
//! - While the store cannot be reached, the recorder keeps its batch and retries with exponential backoff. Its
//!   queue fills, finished attempts wait for it and keep their slots, and no new attempts start: an outage
//!   stops sending instead of filling the memory. Nothing is claimed until all that waited is recorded: it could be
//!   what was delivered (`recorder_backlog`).
//! - A batch that the store rejects, or does not take three times although it is reached, is halved until the outcomes
//!   at fault are alone; the others are recorded. An outcome that the store rejects, or still does not take after it has
//!   recorded another one of its kind, is set aside: it is logged, remembered and dropped. Its lease lapses, and this
//!   server does not attempt the delivery again.
//! - An outcome that is not taken while no other of its kind was recorded since is held, and tried again with the next
//!   ones: a damaged page looks like a table that is missing for everybody. Successes and failures are of different
//!   kinds, since they are written to different tables. Claims go on while few are held, since their outcomes tell, and
//!   what is held is not attempted again. Beyond that it counts as a store that cannot be reached.
//! - What is held when the server stops is tried once more.
//!
//! An outcome is lost only together with its lease, which keeps delivery at least once.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::{Decision, DeliveryId, EndpointId, LeasedDelivery, Outcome};
use crate::runtime::{Backoff, Clock, Heartbeat};
use crate::store::{Store, StoreError};

use super::dispatch::Dispatch;
use super::health::Recording;
use super::outcome_report::OutcomeReport;
use super::wakes::OutcomeWakes;

/// Maximum outcomes per call.
const BATCH_OUTCOMES_MAX: usize = 512;
/// Capacity of the recorder's queue. While it is full, finished attempts keep their slots.
pub(super) const QUEUE_OUTCOMES: usize = 1024;
/// How long the first outcome of a batch waits for others, unless an ordered endpoint's next delivery waits
/// for one of them. Short compared with a retry's wait, and long enough to keep a busy store from committing
/// for every few outcomes.
const LINGER: Duration = Duration::from_millis(10);
/// The wait after the first failed call; it doubles from then on.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between calls.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often a batch is tried that the store is reached for and does not record.
const TRIES_MAX: u32 = 3;
/// Outcomes that are tried alone while the store records nothing else; the rest of the batch is then held untried.
const DOUBTS_MAX: usize = 3;
/// Held outcomes beyond which nothing is claimed.
const HELD_MAX: usize = 16;

/// Receives outcomes and records them.
pub(super) struct Recorder {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) dispatch: Dispatch,
    pub(super) reports: mpsc::Receiver<OutcomeReport>,
    /// Deliveries whose leases are released.
    pub(super) released: mpsc::UnboundedReceiver<LeasedDelivery>,
    pub(super) batch: Batch,
    /// Wakes those who wait for the outcome of an attempt.
    pub(super) wakes: OutcomeWakes,
    /// Beats when the store has recorded outcomes.
    pub(super) progress: Heartbeat,
    /// Tells how long the outcomes at hand have been waiting for the store.
    pub(super) recording: Recording,
}

/// What is being recorded. Kept here, so that a cancelled call continues with it when it is repeated.
#[derive(Debug, Default)]
pub(super) struct Batch {
    received: Vec<OutcomeReport>,
    released: Vec<LeasedDelivery>,
    outcomes: Vec<Outcome>,
    /// Outcomes that the store did not take, and has recorded no other since.
    held: Vec<Outcome>,
    /// How often those were tried in vain.
    held_tries: u32,
    /// The endpoints of ordered deliveries in it.
    ordered: Vec<EndpointId>,
}

/// What became of the outcomes at hand that are not recorded.
#[derive(Debug, Default)]
struct Unrecorded {
    /// Those that are tried again.
    held: Vec<Outcome>,
    /// Those that are set aside.
    aside: Vec<DeliveryId>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.received.is_empty() && self.released.is_empty() && self.outcomes.is_empty()
    }

    fn len(&self) -> usize {
        self.received.len() + self.released.len() + self.held.len()
    }

    /// How long held outcomes wait for others before they are tried again.
    fn retry_wait(&self) -> Duration {
        BACKOFF_FIRST.saturating_mul(1 << self.held_tries.min(6)).min(BACKOFF_MAX)
    }

    fn is_complete(&self) -> bool {
        self.len() >= BATCH_OUTCOMES_MAX || self.received.iter().any(|report| report.ordered)
    }

    /// Moves what was received to what is recorded.
    fn prepare(&mut self, clock: &Clock) {
        for report in self.received.drain(..) {
            if report.ordered {
                self.ordered.push(report.outcome.endpoint_id);
            }
            self.outcomes.push(report.outcome);
        }
        self.outcomes.extend(self.released.drain(..).map(|delivery| released(&delivery, clock)));
    }
}

impl Recorder {
    /// Runs until every sender of outcomes is dropped and all are recorded.
    pub(super) async fn run(mut self) {
        while self.run_once().await {}
    }

    /// Waits for an outcome and records one batch. `false` if every sender is dropped.
    pub(super) async fn run_once(&mut self) -> bool {
        let open = self.receive().await;
        self.record().await;
        if !open {
            for outcome in self.batch.held.drain(..) {
                tracing::error!(org = %outcome.org_id, delivery = %outcome.delivery_id,
                    "cannot record an outcome before the server stops; the delivery is attempted again");
            }
        }
        open
    }

    /// Records everything that was sent so far, without waiting for more.
    pub(super) async fn flush(&mut self) {
        loop {
            self.take_now();
            if self.batch.is_empty() {
                break;
            }
            self.record().await;
        }
        if !self.batch.held.is_empty() {
            self.record().await;
        }
    }

    fn take_now(&mut self) {
        while self.batch.len() < BATCH_OUTCOMES_MAX
            && let Ok(report) = self.reports.try_recv()
        {
            self.batch.received.push(report);
        }
        while self.batch.len() < BATCH_OUTCOMES_MAX
            && let Ok(delivery) = self.released.try_recv()
        {
            self.batch.released.push(delivery);
        }
    }

    async fn receive(&mut self) -> bool {
        if self.batch.is_empty() {
            let wait = self.batch.retry_wait();
            let received = match self.batch.held.len() {
                0 => self.receive_more().await,
                BATCH_OUTCOMES_MAX.. => {
                    tokio::time::sleep(wait).await;
                    return true;
                }
                _ => match tokio::time::timeout(wait, self.receive_more()).await {
                    Ok(received) => received,
                    Err(_) => return true,
                },
            };
            if !received {
                self.take_now();
                return !self.batch.is_empty();
            }
        }
        let fill = async { while !self.batch.is_complete() && self.receive_more().await {} };
        // Full or not: the batch is recorded now.
        let _ = tokio::time::timeout(LINGER, fill).await;
        true
    }

    /// Receives what is there, at least one. `false` when every sender of outcomes is dropped.
    async fn receive_more(&mut self) -> bool {
        let Self { reports, released, batch, .. } = self;
        let free = BATCH_OUTCOMES_MAX.saturating_sub(batch.len()).max(1);
        tokio::select! {
            count = reports.recv_many(&mut batch.received, free) => count > 0,
            // It closes with the dispatcher at the earliest.
            Some(delivery) = released.recv() => {
                batch.released.push(delivery);
                true
            }
        }
    }

    async fn record(&mut self) {
        self.batch.prepare(&self.clock);
        if self.recording.age().is_none() {
            self.recording.begin();
        }
        let unrecorded = self.record_outcomes().await;
        self.end_batch(unrecorded);
    }

    /// Follows what became of the outcomes at hand.
    fn end_batch(&mut self, Unrecorded { held, aside }: Unrecorded) {
        {
            let mut known = self.dispatch.aside();
            self.batch.held.iter().for_each(|outcome| known.remove(outcome.delivery_id));
            let held = held.iter().map(|outcome| outcome.delivery_id);
            held.chain(aside).for_each(|delivery| known.add(delivery));
        }
        self.wake_waiters(&held);
        let attempts = self.batch.outcomes.iter().filter(|outcome| outcome.attempt.is_some());
        let attempts = attempts.count();
        self.batch.outcomes.clear();
        let is_held = |endpoint: &EndpointId| held.iter().any(|of| of.endpoint_id == *endpoint);
        let ordered = std::mem::take(&mut self.batch.ordered);
        let (waiting, ordered): (Vec<_>, Vec<_>) = ordered.into_iter().partition(is_held);
        if held.is_empty() {
            self.recording.end();
            self.batch.held_tries = 0;
        } else {
            self.batch.held_tries = self.batch.held_tries.saturating_add(1);
        }
        // What is held counts as done: it is known, and not attempted again.
        let claims_resume = self.dispatch.backlog().done(attempts, held.len() > HELD_MAX);
        if claims_resume {
            self.dispatch.wake();
        }
        self.batch.held = held;
        self.batch.ordered = waiting;
        if !ordered.is_empty() {
            self.dispatch.ordered_recorded(&ordered);
        }
    }

    /// Wakes everybody who waits for one of the outcomes at hand, but for those that are held.
    fn wake_waiters(&self, held: &[Outcome]) {
        if self.wakes.is_empty() {
            return;
        }
        let held: HashSet<DeliveryId> = held.iter().map(|outcome| outcome.delivery_id).collect();
        let at_hand = self.batch.outcomes.iter().chain(&self.batch.held);
        for outcome in at_hand.filter(|outcome| outcome.attempt.is_some()) {
            if !held.contains(&outcome.delivery_id) {
                self.wakes.wake(outcome.delivery_id, usize::MAX);
            }
        }
    }

    /// Records the outcomes at hand, and returns those that the store does not take.
    async fn record_outcomes(&self) -> Unrecorded {
        let Batch { outcomes, held, .. } = &self.batch;
        // The new ones first: they may show that the store takes others than those that are held.
        let mut parts = vec![held.as_slice(), outcomes.as_slice()];
        let (mut doubtful, mut aside) = (Vec::new(), Vec::new());
        let mut has_failed = !held.is_empty();
        // The kinds of which outcomes were recorded after something had failed.
        let mut taken = HashSet::new();
        while let Some(part) = parts.pop() {
            match (self.write(part).await, part) {
                // A stale outcome changes nothing, and shows nothing.
                (Ok(counted), part) if has_failed && counted == part.len() => {
                    taken.extend(part.iter().map(kind));
                }
                (Ok(_), _) => {}
                (Err(StoreError::Unavailable(_)), [outcome]) => {
                    has_failed = true;
                    doubtful.push(outcome);
                }
                (Err(error), [outcome]) => aside.push(set_aside(outcome, &error)),
                (Err(_), many) => {
                    has_failed = true;
                    let (first, second) = many.split_at(many.len() / 2);
                    parts.extend([second, first]);
                }
            }
            if doubtful.len() >= DOUBTS_MAX
                && !doubtful.iter().any(|outcome| taken.contains(&kind(outcome)))
            {
                break;
            }
        }
        let (alone, doubtful): (Vec<_>, Vec<_>) =
            doubtful.into_iter().partition(|outcome| taken.contains(&kind(outcome)));
        // What was not tried comes first the next time.
        let held = parts.into_iter().rev().flatten().chain(doubtful).cloned().collect();
        // Once more, since the store may not have taken anything when they were tried.
        for outcome in alone {
            if let Err(error) = self.write(std::slice::from_ref(outcome)).await {
                aside.push(set_aside(outcome, &error));
            }
        }
        Unrecorded { held, aside }
    }

    /// Records outcomes, however long the store cannot be reached, and returns how many counted.
    ///
    /// # Errors
    /// When the store is reached and does not record them.
    async fn write(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        if outcomes.is_empty() {
            return Ok(0);
        }
        // Only a hard stop interrupts the waits.
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
        let mut tries = 0;
        loop {
            let error = match self.store.system().record_outcomes(outcomes).await {
                Ok(counted) => {
                    self.dispatch.backlog().succeeded();
                    self.progress.beat();
                    let stale = outcomes.len().saturating_sub(counted);
                    if stale > 0 {
                        tracing::debug!(
                            stale,
                            "ignored outcomes of lapsed leases and cancelled deliveries"
                        );
                    }
                    return Ok(counted);
                }
                Err(error @ StoreError::Unavailable(_)) => error,
                Err(error) => {
                    self.progress.beat();
                    return Err(error);
                }
            };
            self.dispatch.backlog().failed();
            if backoff.is_first() {
                tracing::warn!(%error, "cannot record outcomes, retrying");
            }
            tries += u32::from(!error.is_connection());
            if tries >= TRIES_MAX {
                return Err(error);
            }
            backoff.sleep().await;
        }
    }
}

/// What is written for an outcome, as far as tables differ: whether there was an attempt, and what follows.
fn kind(outcome: &Outcome) -> (bool, Discriminant<Decision>) {
    (outcome.attempt.is_some(), discriminant(&outcome.decision))
}

/// Logs that an outcome is dropped, and returns its delivery.
fn set_aside(outcome: &Outcome, error: &StoreError) -> DeliveryId {
    tracing::error!(org = %outcome.org_id, delivery = %outcome.delivery_id, %error,
        "cannot record an outcome; this server does not attempt the delivery again");
    outcome.delivery_id
}

/// The outcome of a delivery that was not attempted: it is due again at once, for any server.
fn released(delivery: &LeasedDelivery, clock: &Clock) -> Outcome {
    let now = clock.now();
    Outcome {
        delivery_id: delivery.id,
        org_id: delivery.event.org_id,
        endpoint_id: delivery.endpoint.id,
        event_received_at: delivery.event.received_at,
        labels: Some(delivery.event.labels()),
        token: delivery.lease.token,
        attempt: None,
        decision: Decision::RetryAt(clock.schedule()),
        decided_at: now,
        disable_if_failing_since: now,
    }
}
