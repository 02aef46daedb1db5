//! Retries across outages and restarts: no delivery is lost, early or repeated, and the recorded attempts
//! match the received ones.

use std::collections::HashMap;
use std::time::Duration;

use hookgate::domain::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::station::Station;
use crate::support::postgres;
use crate::support::receiver::{Answer, Receiver};

/// Waits that leave time to kill a server between any two attempts, also on a busy machine.
const WAITS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(15)];
const SCHEDULE: (&str, &str) = ("RETRY_SCHEDULE", "10s,15s");

/// Earlier attempts have rows of their own; the last one is in the row of the finished delivery.
const ATTEMPTS: &str = "SELECT (SELECT count(*) FROM delivery_attempts)
                             + (SELECT count(started_at) FROM deliveries)";
const DELIVERIES: &str = "SELECT (SELECT count(*) FROM pending_deliveries)
                               + (SELECT count(*) FROM deliveries)";

#[tokio::test(flavor = "multi_thread")]
async fn event_accepted_while_sqlite_is_away_is_delivered_once_when_it_is_back() {
    away_before_planning(Station::on_sqlite(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_accepted_while_postgresql_is_away_is_delivered_once_when_it_is_back() {
    let url = postgres::fresh_database().await;
    away_before_planning(Station::on_postgres(&url, &[]).await).await;
}

async fn away_before_planning(mut station: Station) {
    let receiver = Receiver::start().await;
    station.add_endpoint(&receiver).await;
    let event = json!({ "type": "a", "payload": 1, "dedup_id": "the one" });
    let hold = station.database.hold().await;
    let accepted = station.post("/api/events", &event).await;
    assert_eq!(station.post("/api/events", &event).await, accepted);
    assert!(station.health().await.queue.events > 0, "the store was not away");
    hold.release().await;

    let webhooks = receiver.received(1).await;
    assert_eq!(webhooks[0].header("webhook-id"), accepted["id"]);
    assert_eq!(station.post("/api/events", &event).await, accepted);
    // All that came before this one has been dealt with when this one is recorded.
    station.drained().await;
    station.post("/api/events", &json!({ "type": "a", "payload": 2 })).await;
    receiver.received(2).await;
    station.counted(ATTEMPTS, 2).await;
    assert_eq!(station.database.count(DELIVERIES).await, 2);
    assert_eq!(receiver.so_far().len(), 2, "and nothing was sent twice");
    station.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_wait_outlive_a_kill_on_sqlite() {
    killed_with_retries_waiting(Station::on_sqlite(&[SCHEDULE]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_wait_outlive_a_kill_on_postgresql() {
    let url = postgres::fresh_database().await;
    killed_with_retries_waiting(Station::on_postgres(&url, &[SCHEDULE]).await).await;
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
}

#[derive(Deserialize)]
struct Shown {
    event_id: String,
    endpoint_id: String,
    status: String,
    attempts: Vec<Attempt>,
}

#[derive(Deserialize)]
struct Attempt {
    started_at: String,
    duration_ms: u64,
}

/// Two groups of events, the second sent when the retries of the first wait already; a receiver that
/// fails twice for each, and one that is well.
async fn killed_with_retries_waiting(mut station: Station) {
    const EVENTS: usize = 20;
    let (failing, well) = (Receiver::start().await, Receiver::start().await);
    // Of the three attempts at each event the last one succeeds.
    // Refusals, so that nothing is put off by a breaker.
    failing.answer(vec![Answer::status(400); 2 * EVENTS]);
    let failing_id = station.add_endpoint(&failing).await;
    let well_id = station.add_endpoint(&well).await;
    for group in 1..=2 {
        let events: Vec<_> =
            (0..EVENTS / 2).map(|n| json!({ "type": "a", "payload": n })).collect();
        station.post("/api/events/batch", &json!(events)).await;
        failing.received(group * EVENTS / 2).await;
        station.counted(ATTEMPTS, i64::try_from(group * EVENTS).unwrap()).await;
    }
    // Everything has been tried once, everything is recorded, nothing is in flight.
    station.kill().await;
    station.start_again().await;
    // And again, when the second retries wait.
    failing.received(2 * EVENTS).await;
    station.counted(ATTEMPTS, i64::try_from(3 * EVENTS).unwrap()).await;
    station.kill().await;
    station.start_again().await;
    failing.received(3 * EVENTS).await;
    station.counted("SELECT count(*) FROM deliveries WHERE status = 'delivered'", 40).await;

    let (_, page): (_, Page) = station.get("/api/deliveries?limit=500").await;
    assert_eq!(page.data.len(), 2 * EVENTS);
    let (at_failing, at_well) = (arrivals(&failing), arrivals(&well));
    for row in page.data {
        let (_, shown): (_, Shown) = station.get(&format!("/api/deliveries/{}", row.id)).await;
        assert_eq!(shown.status, "delivered");
        let (arrived, attempts) = match &shown.endpoint_id {
            id if *id == failing_id => (at_failing[&shown.event_id], 3),
            id if *id == well_id => (at_well[&shown.event_id], 1),
            id => panic!("no endpoint {id}"),
        };
        assert_eq!((arrived, shown.attempts.len()), (attempts, attempts), "{}", row.id);
        for (pair, wait) in shown.attempts.windows(2).zip(WAITS) {
            let moment = |attempt: &Attempt| attempt.started_at.parse::<Timestamp>().unwrap();
            let ended = moment(&pair[0]).plus(Duration::from_millis(pair[0].duration_ms));
            let waited = moment(&pair[1]).since(ended);
            // Times are kept to the millisecond where durations are.
            assert!(waited + Duration::from_millis(1) >= wait, "{waited:?} after {}", row.id);
        }
    }
    station.stop().await;
}

/// How often each event has come.
fn arrivals(receiver: &Receiver) -> HashMap<String, usize> {
    let mut arrivals = HashMap::new();
    for webhook in receiver.so_far() {
        *arrivals.entry(webhook.header("webhook-id").to_owned()).or_default() += 1;
    }
    arrivals
}
