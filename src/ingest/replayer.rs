//! Replays of dead letters, performed in the background, step by step.
//!
//! # Operation
//! A replay is a row with its progress. One step is one transaction that plans new deliveries for the next dead letters
//! and advances the row. So a process may die at any time and any server may continue: each dead letter is replayed
//! once. Running replays take turns, one step each.
//!
//! # Fairness
//! After each step the task pauses for as long as the step took, so it uses at most half of the store's time. The new
//! deliveries wait in the store like all others; live ones do not queue behind them, since those start
//! as they are stored and endpoints are served round robin.

use crate::domain::{Actor, OrgId};
use crate::runtime::{Clock, Shutdown, Wake};
use crate::store::{QuarantinedEvent, ReplayStep, Store, StoreError};

use super::quarantine::{Requeued, requeue};
use super::stepping::{self, Steps};

/// Performs replays.
pub struct Replayer {
    /// The store with the replays.
    pub store: Store,
    /// The current time.
    pub clock: Clock,
    /// Woken when a replay was created.
    pub wake: Wake,
    /// Wakes the dispatcher.
    pub planned: Wake,
}

impl Steps for Replayer {
    const WHAT: &'static str = "replays";

    async fn step(&self) -> Result<bool, StoreError> {
        self.run_once().await
    }
}

impl Replayer {
    /// Works until the soft stop.
    pub async fn run(self, shutdown: Shutdown) {
        stepping::work(&self, &self.wake, shutdown).await;
    }

    /// Performs one step of the next replay. `false` when there is none.
    ///
    /// # Errors
    /// When the store is unavailable, or does not take the step; the others then go first. A replay whose step the store
    /// rejects is marked as failed instead.
    pub async fn run_once(&self) -> Result<bool, StoreError> {
        let Some((org, id)) = self.store.system().next_replay().await? else {
            return Ok(false);
        };
        let stepped = match self.store.step_replay(org, id, self.clock.now()).await {
            Ok(None) => Ok(false),
            Ok(Some(step)) => self.follow(org, step).await,
            Err(error) => Err(error),
        };
        match stepped {
            Err(error @ (StoreError::Refused(_) | StoreError::Corrupt(_))) => {
                tracing::error!(%org, replay = %id, %error, "replay failed");
                let detail = error.to_string();
                self.store
                    .end_replay(org, id, Some(&detail), &Actor::SERVER, self.clock.now())
                    .await?;
                Ok(true)
            }
            Err(error) if !error.is_connection() => {
                let now = self.clock.now();
                self.store.system().pass_over_replay(org, id, now).await?;
                Err(error)
            }
            stepped => stepped,
        }
    }

    /// Handles the result of a step.
    async fn follow(&self, org: OrgId, step: ReplayStep) -> Result<bool, StoreError> {
        if let Some(event) = step.stopped_at {
            self.requeue(org, event).await?;
        }
        if step.planned > 0 {
            self.planned.wake();
        }
        Ok(true)
    }

    /// Tries to store the quarantined event at which a step stopped, and moves the replay on.
    async fn requeue(&self, org: OrgId, mut event: QuarantinedEvent) -> Result<(), StoreError> {
        let now = self.clock.now();
        let record = std::mem::take(&mut event.record);
        let stored = requeue(&self.store, record, now).await? == Requeued::Stored;
        if stored {
            self.planned.wake();
        }
        self.store.pass_quarantined_event(org, &event, stored, now).await
    }
}
