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

use crate::domain::{EndpointChange, EndpointId, OrgId, Outcome};
use crate::runtime::{Clock, Pulse};
use crate::store::{SharedStore, StoreError};

/// Outcomes in one call at the most.
const BATCH_OUTCOMES_MAX: usize = 512;
/// Outcomes that wait for the recorder at the most. Attempts that end meanwhile wait in their slots.
pub(super) const QUEUE_OUTCOMES: usize = 1024;
/// How long the first outcome of a batch waits for others: little beside a retry's wait, and enough
/// to keep a busy store from committing for every few of them.
const GATHER_TIME: Duration = Duration::from_millis(3);
/// The wait after the first call that failed; it doubles from there on.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between calls.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What an endpoint that answered 410 is disabled with.
const GONE_REASON: &str = "the receiver answered 410 Gone";

/// One outcome on its way to the store.
#[derive(Debug)]
pub(super) struct Report {
    /// What to record.
    pub(super) outcome: Outcome,
    /// The endpoint, when it is to be disabled because it answered 410.
    pub(super) gone: Option<EndpointId>,
}

/// Takes reports off their channel and brings them to the store.
pub(super) struct Recorder {
    store: SharedStore,
    clock: Clock,
    reports: mpsc::Receiver<Report>,
    gathered: Vec<Report>,
    // What is being recorded. Kept here, so that a call that is cancelled and made again goes on with it.
    outcomes: Vec<Outcome>,
    gone: Vec<(OrgId, EndpointId)>,
    /// Beats when the store has taken outcomes.
    progress: Pulse,
}

impl Recorder {
    pub(super) fn new(
        store: SharedStore,
        clock: Clock,
        reports: mpsc::Receiver<Report>,
        progress: Pulse,
    ) -> Self {
        let gathered = Vec::with_capacity(BATCH_OUTCOMES_MAX);
        Self { store, clock, reports, gathered, outcomes: Vec::new(), gone: Vec::new(), progress }
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
            while gathered.len() < BATCH_OUTCOMES_MAX {
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
            if let Some(endpoint) = report.gone {
                let gone = (report.outcome.org_id, endpoint);
                if !self.gone.contains(&gone) {
                    self.gone.push(gone);
                }
            }
            self.outcomes.push(report.outcome);
        }
        // Endpoints first: what is handed back for one of them is then parked, not claimed again.
        while let Some((org, endpoint)) = self.gone.last().copied() {
            self.disable(org, endpoint).await;
            self.gone.pop();
        }
        self.record_outcomes().await;
        self.outcomes.clear();
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

    async fn disable(&self, org: OrgId, endpoint: EndpointId) {
        let change = EndpointChange {
            disabled_reason: Some(Some(GONE_REASON.to_owned())),
            ..EndpointChange::default()
        };
        let mut backoff = Backoff::new();
        let answer = loop {
            match self.store.update_endpoint(org, endpoint, &change, self.clock.now()).await {
                Err(StoreError::Unavailable(error)) => backoff.wait(&error).await,
                answer => break answer,
            }
        };
        match answer {
            Ok(Some(_)) => tracing::warn!(%org, %endpoint, "endpoint disabled: {GONE_REASON}"),
            // Its owner removed it meanwhile.
            Ok(None) => {}
            Err(error) => tracing::error!(%org, %endpoint, %error, "cannot disable an endpoint"),
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
