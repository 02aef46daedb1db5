//! Stalls of a running process: probes report when a stall begins and when it ends.

use serde_json::{Value, json};

use super::station::{PATIENCE, POLL_INTERVAL, Station};
use crate::support::postgres;
use crate::support::receiver::{Answer, Receiver};

/// A stall is reported after two attempt timeouts, the earliest that is possible.
const IMPATIENT: [(&str, &str); 4] = [
    ("DELIVERY_STALL_AFTER", "1s"),
    ("DELIVERY_TIMEOUT", "500ms"),
    ("RETRY_SCHEDULE", "2s"),
    ("DATABASE_TIMEOUT", "200ms"),
];

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_that_nothing_gets_through_while_sqlite_is_locked() {
    readiness(Station::on_sqlite(&IMPATIENT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_that_nothing_gets_through_while_postgresql_is_locked() {
    let url = postgres::fresh_database().await;
    readiness(Station::on_postgres(&url, &IMPATIENT).await).await;
}

async fn readiness(mut station: Station) {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(500)]);
    station.add_endpoint(&receiver).await;
    let event = json!({ "type": "a", "payload": 1 });
    station.post("/api/events", &event).await;
    until(&station, 200, |_| true).await;
    station.counted("SELECT count(*) FROM delivery_attempts", 1).await;

    // The retry becomes due meanwhile, and another event comes in.
    let hold = station.database.hold().await;
    station.post("/api/events", &event).await;
    let such = |checks: &Value| {
        checks["planning"] == "ingest_stalled" && checks["delivery"] == "delivery_stalled"
    };
    let checks = until(&station, 503, such).await;
    assert_eq!((&checks["journal"], &checks["process"]), (&json!("ok"), &json!("ok")));
    let (lenient, _): (u16, Value) = station.get("/health/ready").await;
    assert_eq!(lenient, 200, "it still takes events");
    let (_, report): (_, Value) = station.get("/api/health").await;
    assert_eq!(report["status"], "degraded");
    assert!(report["queue"]["oldest_seconds"].as_u64().is_some_and(|age| age >= 1), "{report}");

    hold.release().await;
    until(&station, 200, |_| true).await;
    receiver.received(3).await;
    station.stop().await;
}

/// Waits until readiness answers with this status and such checks, and returns them.
async fn until(station: &Station, status: u16, such: impl Fn(&Value) -> bool) -> Value {
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    let asking = async {
        loop {
            poll.tick().await;
            let (answered, mut ready): (u16, Value) = station.get("/health/ready?strict").await;
            if answered == status && such(&ready["checks"]) {
                return ready["checks"].take();
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("readiness says so")
}
