//! Records the outcomes of attempts: the delivery's new status, the attempt, a dead letter for a delivery
//! that is given up, and what follows for the endpoint.
//!
//! This is a hot path, so each engine has a text of its own. Both do it in the same order: endpoints,
//! then deliveries by id, as the store's order of locks says.

mod endpoint_health;
mod postgres;
mod row;
mod sqlite;

use super::engine::Engine;
use super::{Result, System, timed};
use crate::domain::Outcome;
use crate::store::metrics::DbOperation;

impl System<'_> {
    /// Records the outcomes of leased deliveries: the attempt, the new status, and a dead letter
    /// for one that is given up; and what follows for their endpoints: since when one fails, and that it
    /// is disabled, its pending deliveries parked, when it is gone or has failed for too long, with an
    /// audit entry. The operational events about this are published here.
    ///
    /// Outcomes whose lease was lost, or whose delivery was cancelled, change nothing; the number of those
    /// that counted is returned. After an error some may be recorded; recording them again changes nothing.
    pub async fn record_outcomes(self, outcomes: &[Outcome]) -> Result<usize> {
        let Some(newest) = outcomes.iter().map(|outcome| outcome.decided_at).max() else {
            return Ok(0);
        };
        let recording = async {
            match &*self.0.engine {
                Engine::Sqlite(_) => sqlite::record(self.0, outcomes, newest).await,
                Engine::Postgres(engine) => {
                    postgres::record(self.0, engine, outcomes, newest).await
                }
            }
        };
        timed(&self.0.metrics, DbOperation::RecordOutcomes, recording).await
    }
}
