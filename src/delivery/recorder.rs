//! The recorder: writes outcomes to the store in batches.
//!
//! A commit costs the store about as much for three hundred outcomes as for one.
//!
//! # Failure
//! - While the store cannot be reached, the recorder keeps its batch and retries with exponential backoff. Its
//!   queue fills, finished attempts wait for it and keep their slots, and no new attempts start: an outage
//!   stops sending instead of filling the memory. Nothing is claimed until all that waited is recorded: it could be
//!   what was delivered (`recorder_backlog`).
//! - A batch that the store rejects, or does not finish three times, is halved until the outcome at fault is alone.
//!   That one is logged, remembered and dropped: its lease lapses, and this server does not attempt the delivery
//!   again. The others are recorded.
//!
//! In both cases an outcome is lost only together with its lease, which keeps delivery at least once.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::{Decision, EndpointId, LeasedDelivery, Outcome};
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
    /// The endpoints of ordered deliveries in it.
    ordered: Vec<EndpointId>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.len() == 0 && self.outcomes.is_empty()
    }

    fn len(&self) -> usize {
        self.received.len() + self.released.len()
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
        open
    }

    /// Records everything that was sent so far, without waiting for more.
    pub(super) async fn flush(&mut self) {
        loop {
            self.take_now();
            if self.batch.is_empty() {
                return;
            }
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
        if self.batch.is_empty() && !self.receive_more().await {
            self.take_now();
            return !self.batch.is_empty();
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
        self.recording.begin();
        self.record_outcomes().await;
        self.recording.end();
        self.wake_waiters();
        let attempts = self.batch.outcomes.iter().filter(|outcome| outcome.attempt.is_some());
        let attempts = attempts.count();
        self.batch.outcomes.clear();
        let claims_resume = self.dispatch.backlog().done(attempts);
        if claims_resume {
            self.dispatch.wake();
        }
        let ordered = std::mem::take(&mut self.batch.ordered);
        if !ordered.is_empty() {
            self.dispatch.ordered_recorded(&ordered);
        }
    }

    /// Wakes everybody who waits for one of the outcomes at hand.
    fn wake_waiters(&self) {
        if self.wakes.is_empty() {
            return;
        }
        for outcome in self.batch.outcomes.iter().filter(|outcome| outcome.attempt.is_some()) {
            self.wakes.wake(outcome.delivery_id, usize::MAX);
        }
    }

    async fn record_outcomes(&self) {
        let mut parts = vec![self.batch.outcomes.as_slice()];
        while let Some(outcomes) = parts.pop().filter(|part| !part.is_empty()) {
            match (self.write(outcomes).await, outcomes) {
                (Ok(counted), _) if counted < outcomes.len() => {
                    let stale = outcomes.len() - counted;
                    tracing::debug!(
                        stale,
                        "ignored outcomes of lapsed leases and cancelled deliveries"
                    );
                }
                (Ok(_), _) => {}
                (Err(error), [outcome]) => {
                    self.dispatch.set_aside(outcome.delivery_id);
                    tracing::error!(org = %outcome.org_id, delivery = %outcome.delivery_id, %error,
                        "cannot record an outcome; this server does not attempt the delivery again");
                }
                (Err(_), _) => {
                    let (first, second) = outcomes.split_at(outcomes.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
    }

    /// Records outcomes, however long the store cannot be reached, and returns how many counted.
    ///
    /// # Errors
    /// When the store is reached and does not record them.
    async fn write(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        // Only a hard stop interrupts the waits.
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
        let mut tries = 0;
        loop {
            let error = match self.store.system().record_outcomes(outcomes).await {
                Ok(counted) => {
                    self.dispatch.backlog().succeeded();
                    self.progress.beat();
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
                // It is the batch, not the store: the others go on.
                return Err(error);
            }
            backoff.sleep().await;
        }
    }
}

/// The outcome of a delivery that was not attempted: it is due again at once, for any server.
fn released(delivery: &LeasedDelivery, clock: &Clock) -> Outcome {
    let now = clock.now();
    Outcome {
        delivery_id: delivery.id,
        org_id: delivery.event.org_id,
        endpoint_id: delivery.endpoint.id,
        event_received_at: delivery.event.received_at,
        token: delivery.lease.token,
        attempt: None,
        decision: Decision::RetryAt(clock.schedule()),
        decided_at: now,
        disable_if_failing_since: now,
    }
}
