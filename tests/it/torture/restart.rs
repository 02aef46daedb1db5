//! Repeated SIGTERM under load.

use std::sync::Arc;

use super::deliveries::{MANY_RETRIES, Subscribers};
use super::ledger::Ledger;
use super::load::{Load, Manners};
use super::station::Station;
use super::{Dice, Scale};
use crate::support::postgres;

#[tokio::test(flavor = "multi_thread")]
async fn polite_restarts_cost_no_answer_and_no_event_on_sqlite() {
    rolling_restart(Station::on_sqlite(&[MANY_RETRIES]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polite_restarts_cost_no_answer_and_no_event_on_postgresql() {
    let url = postgres::fresh_database().await;
    rolling_restart(Station::on_postgres(&url, &[MANY_RETRIES]).await).await;
}

/// Clients retry every request whose connection was refused, or closed before the first byte of an answer,
/// also for events without a `dedup_id`. So any answer but 202 fails the test, and so does an answer that a
/// stopping server omits: its event would be stored twice.
async fn rolling_restart(mut station: Station) {
    let test = format!("rolling restart on {}", station.database.name());
    let mut dice = Dice::new(&test);
    let ledger = Arc::new(Ledger::new());
    let subscribers = Subscribers::subscribe(&station).await;
    let load = Load::start(&station, &ledger, Manners::DEMANDING, &mut dice);
    let restarts = Scale::read().restarts();
    for _ in 0..restarts {
        ledger.accepted(dice.of_any_size(9)).await;
        station.stop().await;
        station.start_again().await;
    }
    ledger.accepted(100).await;
    load.end().await;
    station.drained().await;
    let stored = station.database.events().await;
    let verdict = ledger.settle(&stored);
    verdict.report(&format!("{test}, {restarts} restarts"));
    assert_eq!(verdict.unacknowledged, 0, "a server that was not killed owed answers");
    subscribers.settle(&station, &stored, &test).await;
    station.stop().await;
}
