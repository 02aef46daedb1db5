//! The recorder: writes outcomes to the store in batches.
//!
//! A commit costs the store about as much for three hundred outcomes as for one.
//!
//! # Failure
//! - While the store is unavailable, the recorder keeps its batch and retries with exponential backoff. Its
//!   queue fills, finished attempts wait for it and keep their slots, and no new attempts start: an outage
//!   stops sending instead of filling the memory.
//! - A batch that the store rejects is halved until the outcome at fault is alone. That outcome is logged
//!   and dropped; its lease lapses and the delivery is attempted again.
//!
//! In both cases an outcome is lost only together with its lease, which keeps delivery at least once.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::Outcome;
use crate::runtime::{Backoff, Heartbeat, Wake};
use crate::store::{Store, StoreError};

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

/// An outcome to record.
#[derive(Debug)]
pub(super) struct OutcomeReport {
    /// The outcome.
    pub(super) outcome: Outcome,
    /// Whether the endpoint is ordered, so that its next delivery waits for this outcome.
    pub(super) ordered: bool,
}

/// Receives outcomes and records them.
pub(super) struct Recorder {
    store: Store,
    reports: mpsc::Receiver<OutcomeReport>,
    /// Received and not yet being recorded.
    received: Vec<OutcomeReport>,
    /// Being recorded. Kept here, so that a cancelled call continues with them when it is repeated.
    outcomes: Vec<Outcome>,
    /// Whether one of them is of an ordered endpoint.
    ordered: bool,
    /// Wakes the dispatcher when an ordered endpoint's next delivery may be claimed.
    wake: Wake,
    /// Beats when the store has recorded outcomes.
    progress: Heartbeat,
}

impl Recorder {
    pub(super) fn new(
        store: Store,
        reports: mpsc::Receiver<OutcomeReport>,
        wake: Wake,
        progress: Heartbeat,
    ) -> Self {
        let received = Vec::with_capacity(BATCH_OUTCOMES_MAX);
        Self { store, reports, received, outcomes: Vec::new(), ordered: false, wake, progress }
    }

    /// Runs until every sender is dropped and all outcomes are recorded.
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
        self.record().await;
        while let Ok(report) = self.reports.try_recv() {
            self.received.push(report);
            while self.received.len() < BATCH_OUTCOMES_MAX
                && let Ok(report) = self.reports.try_recv()
            {
                self.received.push(report);
            }
            self.record().await;
        }
    }

    async fn receive(&mut self) -> bool {
        if self.received.is_empty() && self.outcomes.is_empty() {
            let count = self.reports.recv_many(&mut self.received, BATCH_OUTCOMES_MAX).await;
            if count == 0 {
                return false;
            }
        }
        let Self { reports, received, .. } = self;
        let fill = async {
            let mut checked = 0;
            while received.len() < BATCH_OUTCOMES_MAX
                && !received.iter().skip(checked).any(|report| report.ordered)
            {
                checked = received.len();
                let free = BATCH_OUTCOMES_MAX - received.len();
                if reports.recv_many(received, free).await == 0 {
                    break;
                }
            }
        };
        // Full or not: the batch is recorded now.
        let _ = tokio::time::timeout(LINGER, fill).await;
        true
    }

    async fn record(&mut self) {
        for report in self.received.drain(..) {
            self.ordered |= report.ordered;
            self.outcomes.push(report.outcome);
        }
        self.record_outcomes().await;
        self.outcomes.clear();
        if std::mem::take(&mut self.ordered) {
            self.wake.wake();
        }
    }

    async fn record_outcomes(&self) {
        let mut parts = vec![self.outcomes.as_slice()];
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
                    tracing::error!(org = %outcome.org_id, delivery = %outcome.delivery_id, %error,
                        "cannot record an outcome; the delivery will be attempted again");
                }
                (Err(_), _) => {
                    let (first, second) = outcomes.split_at(outcomes.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
    }

    async fn write(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        // Only a hard stop interrupts the waits.
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
        loop {
            match self.store.system().record_outcomes(outcomes).await {
                Err(StoreError::Unavailable(error)) => {
                    if backoff.is_first() {
                        tracing::warn!(%error, "cannot record outcomes, retrying");
                    }
                    backoff.sleep().await;
                }
                result => {
                    self.progress.beat();
                    return result;
                }
            }
        }
    }
}
