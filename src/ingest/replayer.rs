//! Replays of dead letters: a background part that goes on with them, step by step.
//!
//! # Operation
//! A replay is a row that knows how far it has come. One step is one transaction that plans new
//! deliveries for the next dead letters and moves the row on, so a process may die at any moment,
//! and any instance may go on: each dead letter is dealt with once. Replays take turns, a step each.
//!
//! # Fairness
//! Between two steps the part rests for as long as the step took, so that it asks of the store half
//! its time at most. The new deliveries wait in the store like all others; live ones do not queue
//! behind them, since they are handed over in memory and endpoints are served in turn.

use std::time::Duration;

use crate::domain::{Actor, OrgId};
use crate::runtime::{Clock, Shutdown, Stopwatch, Wake};
use crate::store::{QuarantinedEvent, ReplayStep, Store, StoreError};

use super::quarantine::{Requeued, requeue};

/// How often running replays are looked for, beside being told of new ones: some may be another
/// instance's that died.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Goes on with replays.
pub struct Replayer {
    /// Where they are.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Tells that there is a new replay.
    pub wake: Wake,
    /// Wakes whoever delivers.
    pub planned: Wake,
}

impl Replayer {
    /// Works until the soft stop.
    pub async fn run(self, shutdown: Shutdown) {
        loop {
            let watch = Stopwatch::start();
            let pause = match self.run_once().await {
                Ok(true) => watch.elapsed(),
                Ok(false) => POLL_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "replays wait: the store is unavailable");
                    POLL_INTERVAL
                }
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.wake.sleep(pause) => {}
            }
        }
    }

    /// Does one step of the replay whose turn it is. `false` when there was nothing to do.
    ///
    /// # Errors
    /// When the store is unavailable. A replay that it refuses to go on with fails.
    pub async fn run_once(&self) -> Result<bool, StoreError> {
        let Some((org, id)) = self.store.next_replay_across_orgs().await? else {
            return Ok(false);
        };
        let stepped = match self.store.step_replay(org, id, self.clock.now()).await {
            Ok(None) => Ok(false),
            Ok(Some(step)) => self.follow(org, step).await,
            Err(error) => Err(error),
        };
        match stepped {
            Err(error @ (StoreError::Refused(_) | StoreError::Corrupt(_))) => {
                tracing::error!(%org, replay = %id, %error, "a replay failed");
                let detail = error.to_string();
                self.store
                    .end_replay(org, id, Some(&detail), &Actor::SERVER, self.clock.now())
                    .await?;
                Ok(true)
            }
            stepped => stepped,
        }
    }

    /// Does what a step left to do.
    async fn follow(&self, org: OrgId, step: ReplayStep) -> Result<bool, StoreError> {
        if let Some(buried) = step.stopped_at {
            self.pass(org, buried).await?;
        }
        if step.planned > 0 {
            self.planned.wake();
        }
        Ok(true)
    }

    async fn pass(&self, org: OrgId, mut buried: QuarantinedEvent) -> Result<(), StoreError> {
        let now = self.clock.now();
        let record = std::mem::take(&mut buried.record);
        let stored = requeue(&self.store, record, now).await? == Requeued::Stored;
        if stored {
            self.planned.wake();
        }
        self.store.pass_quarantined_event(org, &buried, stored, now).await
    }
}
