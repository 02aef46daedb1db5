//! `?wait=`: whoever asks for an attempt gets its outcome.

use serde_json::json;

use super::servers::Delivering;
use crate::support::postgres;
use crate::support::receiver::{Answer, Receiver};

#[tokio::test(flavor = "multi_thread")]
async fn outcome_of_a_test_and_of_a_retry_is_answered_on_sqlite() {
    outcomes_are_answered(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcome_of_a_test_and_of_a_retry_is_answered_on_postgresql() {
    let url = postgres::fresh_database().await;
    outcomes_are_answered(&[("DATABASE_URL", &url)]).await;
}

async fn outcomes_are_answered(settings: &[(&str, &str)]) {
    let settings = [settings, &[("RETRY_SCHEDULE", "1h")]].concat();
    let server = Delivering::start(&settings).await;
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(503).body("busy"), Answer::status(503), Answer::status(200)]);
    let tenant = &server.tenant;
    let endpoint = tenant.post("/api/endpoints", &json!({"url": receiver.url("/hook")})).await;
    receiver.trust(&endpoint["secret"].as_str().unwrap().parse().unwrap());
    let test = format!("/api/endpoints/{}/test?wait=30", endpoint["id"].as_str().unwrap());

    let tested = tenant.post(&test, &json!({"type": "a"})).await;
    assert_eq!(tested["status"], "pending", "{tested}");
    assert_eq!(tested["attempts"][0]["status_code"], 503);
    assert_eq!(tested["attempts"][0]["response_excerpt"], "busy");
    assert_eq!(tested["event_type"], "a");

    let retry = format!("/api/deliveries/{}/retry?wait=30", tested["id"].as_str().unwrap());
    let retried = tenant.post(&retry, &json!({})).await;
    assert_eq!((&retried["id"], &retried["status"]), (&tested["id"], &json!("dead")), "{retried}");
    assert_eq!(retried["attempts"].as_array().unwrap().len(), 2);
    let retried = tenant.post(&retry, &json!({})).await;
    assert_eq!((&retried["status"], &retried["attempt_count"]), (&json!("delivered"), &json!(3)));
    server.binary.stop().await;
}
