//! Records what became of deliveries, many in one call: a commit costs the store about as much for
//! three hundred outcomes as for one.
//!
//! # Failure
//! - While the store is unavailable the recorder keeps what it has and tries again, ever more slowly.
//!   Its channel fills, attempts that have ended wait at it and keep their slots, and so no new ones
//!   start: an outage stops sending instead of piling up memory.
//! - A batch that the store refuses is halved until the outcome at fault stands alone. That one is
//!   logged and let go; its lease lapses and the delivery is attempted again.
//!
//! Either way an outcome is lost only together with its lease, which keeps delivery at least once.

use std::fmt::Display;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::Outcome;
use crate::runtime::{Heartbeat, Wake};
use crate::store::{Store, StoreError};

/// Outcomes in one call at most.
const BATCH_OUTCOMES_MAX: usize = 512;
/// Outcomes that wait for the recorder at most. Attempts that end meanwhile wait in their slots.
pub(super) const QUEUE_OUTCOMES: usize = 1024;
/// How long the first outcome of a batch waits for others, unless the next delivery to an ordered endpoint
/// waits for one of them: little beside a retry's wait, and enough to keep a busy store from committing
/// for every few of them.
const GATHER_TIME: Duration = Duration::from_millis(10);
/// The wait after the first call that failed; it doubles from there on.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between calls.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// One outcome on its way to the store.
#[derive(Debug)]
pub(super) struct OutcomeReport {
    /// What to record.
    pub(super) outcome: Outcome,
    /// Whether the next delivery to its endpoint waits for this one.
    pub(super) ordered: bool,
}

/// Takes reports off their channel and brings them to the store.
pub(super) struct Recorder {
    store: Store,
    reports: mpsc::Receiver<OutcomeReport>,
    gathered: Vec<OutcomeReport>,
    // What is being recorded. Kept here, so that a call that is cancelled and made again goes on with it.
    outcomes: Vec<Outcome>,
    ordered: bool,
    /// Tells that an ordered endpoint's next delivery may be claimed.
    wake: Wake,
    /// Beats when the store has taken outcomes.
    progress: Heartbeat,
}

impl Recorder {
    pub(super) fn new(
        store: Store,
        reports: mpsc::Receiver<OutcomeReport>,
        wake: Wake,
        progress: Heartbeat,
    ) -> Self {
        let gathered = Vec::with_capacity(BATCH_OUTCOMES_MAX);
        Self { store, reports, gathered, outcomes: Vec::new(), ordered: false, wake, progress }
    }

    /// Records until every sender is gone and all they sent is recorded.
    pub(super) async fn run(mut self) {
        while self.run_once().await {}
    }

    /// Records one batch, waiting for its first outcome. `false` when there will be none any more.
    pub(super) async fn run_once(&mut self) -> bool {
        let open = self.gather().await;
        self.record().await;
        open
    }

    /// Records what has been sent so far, without waiting for more.
    pub(super) async fn flush(&mut self) {
        self.record().await;
        while let Ok(report) = self.reports.try_recv() {
            self.gathered.push(report);
            while self.gathered.len() < BATCH_OUTCOMES_MAX
                && let Ok(report) = self.reports.try_recv()
            {
                self.gathered.push(report);
            }
            self.record().await;
        }
    }

    async fn gather(&mut self) -> bool {
        if self.gathered.is_empty() && self.outcomes.is_empty() {
            let received = self.reports.recv_many(&mut self.gathered, BATCH_OUTCOMES_MAX).await;
            if received == 0 {
                return false;
            }
        }
        let Self { reports, gathered, .. } = self;
        let fill = async {
            let mut seen = 0;
            while gathered.len() < BATCH_OUTCOMES_MAX
                && !gathered.iter().skip(seen).any(|report| report.ordered)
            {
                seen = gathered.len();
                let room = BATCH_OUTCOMES_MAX - gathered.len();
                if reports.recv_many(gathered, room).await == 0 {
                    break;
                }
            }
        };
        // Whether it filled up or the time is over: what is there is recorded.
        let _ = tokio::time::timeout(GATHER_TIME, fill).await;
        true
    }

    async fn record(&mut self) {
        for report in self.gathered.drain(..) {
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
                        "outcomes of lost leases and cancelled deliveries ignored"
                    );
                }
                (Ok(_), _) => {}
                (Err(error), [outcome]) => {
                    tracing::error!(org = %outcome.org_id, delivery = %outcome.delivery_id, %error,
                        "an outcome cannot be recorded; the delivery will be attempted again");
                }
                (Err(_), _) => {
                    let (first, second) = outcomes.split_at(outcomes.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
    }

    async fn write(&self, outcomes: &[Outcome]) -> Result<usize, StoreError> {
        let mut backoff = Backoff::new();
        loop {
            match self.store.record_outcomes_across_orgs(outcomes).await {
                Err(StoreError::Unavailable(error)) => backoff.wait(&error).await,
                answer => {
                    self.progress.beat();
                    return answer;
                }
            }
        }
    }
}

/// The waits between calls to a store that is unavailable. Only the hard stop cuts them short.
struct Backoff(Duration);

impl Backoff {
    const fn new() -> Self {
        Self(BACKOFF_FIRST)
    }

    async fn wait(&mut self, error: &impl Display) {
        if self.0 == BACKOFF_FIRST {
            tracing::warn!(%error, "outcomes wait: the store is unavailable");
        }
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
    }
}
