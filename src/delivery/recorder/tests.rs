//! Tests of held outcomes, over a store that can be reached and takes nothing.

use tempfile::TempDir;

use super::*;
use crate::delivery::dispatch::tests::{LIMITS, dispatch};
use crate::delivery::health::DeliveryHealth;
use crate::domain::Timestamp;

/// A recorder over a store that can be reached and has no tables: it takes nothing.
async fn recorder(directory: &TempDir) -> (Recorder, mpsc::Sender<OutcomeReport>) {
    let store = Store::without_tables(directory.path()).await;
    let clock = Clock::system();
    let (dispatch, released) = dispatch(&store, LIMITS);
    let (reports_in, reports) = mpsc::channel(1);
    let health = DeliveryHealth::new(&clock);
    let (progress, recording) = (health.progress, health.recording);
    let (batch, wakes) = (Batch::default(), OutcomeWakes::default());
    let recorder =
        Recorder { store, clock, dispatch, reports, released, batch, wakes, progress, recording };
    (recorder, reports_in)
}

fn outcome() -> Outcome {
    Outcome::delivered(Timestamp::from_micros(1))
}

/// Under load there is always an outcome that is reported and not yet recorded, as while the held one is tried.
#[tokio::test]
async fn held_outcome_that_is_tried_in_vain_stops_no_claims() {
    let directory = tempfile::tempdir().unwrap();
    let (mut recorder, _reports) = recorder(&directory).await;
    recorder.batch.held.push(outcome());
    recorder.dispatch.backlog().report();
    recorder.record().await;
    assert_eq!(recorder.batch.held.len(), 1, "it is still held");
    assert!(!recorder.dispatch.backlog().stops_claims());
}

#[tokio::test]
async fn held_outcome_is_tried_beside_others_when_its_time_has_come() {
    let directory = tempfile::tempdir().unwrap();
    let (mut recorder, _reports) = recorder(&directory).await;
    let batch = &mut recorder.batch;
    batch.held.push(outcome());
    assert!(batch.tries_held(), "nothing else is at hand");
    batch.outcomes.push(outcome());
    batch.held_tries = 6;
    batch.held_since = Some(Stopwatch::start());
    assert!(!batch.tries_held());
    batch.held_since = None;
    assert!(batch.tries_held());
}
