//! Records the outcomes of attempts: a delivery that is finished moves from the pending ones to the finished ones,
//! with its last attempt; one that failed waits for its next attempt; and what follows for the endpoint.
//!
//! This is a hot path, so each engine has a text of its own. Both do it in the same order: endpoints,
//! then deliveries by key, as the store's order of locks says.

mod endpoint_health;
mod operational_events;
mod postgres;
mod row;
mod sqlite;

pub(super) use operational_events::{deliveries_expired, inbox_paused};

use super::engine::Engine;
use super::maintenance::MissingDays;
use super::{Result, System, timed};
use crate::domain::Outcome;
use crate::store::metrics::DbOperation;

impl System<'_> {
    /// Records the outcomes of leased deliveries: the attempt, the new status, and a dead letter
    /// for one that is given up; and what follows for their endpoints: since when one fails, when an attempt last
    /// succeeded and failed, to the minute, and that it is disabled when it is gone or has failed for too long, with
    /// an audit entry. The operational events about this are published here.
    ///
    /// Outcomes whose lease was lost, or whose delivery was cancelled, change no delivery; the number of those
    /// that counted is returned. After an error some may be recorded; recording them again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::is_connection`](crate::store::StoreError::is_connection) tells whether a part of the outcomes
    /// might be recorded.
    pub async fn record_outcomes(self, outcomes: &[Outcome]) -> Result<usize> {
        let Some(newest) = outcomes.iter().map(|outcome| outcome.decided_at).max() else {
            return Ok(0);
        };
        let mut days = MissingDays::default();
        let recording = async {
            match &*self.0.engine {
                // Boxed: they are large, and would be moved from one caller's future to the next.
                Engine::Sqlite(_) => Box::pin(sqlite::record(self.0, outcomes, newest)).await,
                Engine::Postgres(engine) => loop {
                    let recording = postgres::record(self.0, engine, outcomes, newest);
                    match Box::pin(recording).await {
                        Err(error) if days.make(self.0, &error).await? => {}
                        recorded => break recorded,
                    }
                },
            }
        };
        timed(&self.0.metrics, DbOperation::RecordOutcomes, recording).await
    }
}
