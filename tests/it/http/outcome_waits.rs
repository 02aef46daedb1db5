//! `?wait=` where the attempt is another server's, or does not end in time.

use std::time::Duration;

use hookgate::domain::Decision;
use hookgate::runtime::Stopwatch;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::deliveries::{endpoint, record};
use crate::support::server::{Answer, Server, Tenant, answer};
use crate::support::wait::until;

/// Asks in the background, and waits until the server waits.
async fn waiting(server: &Server, tenant: &Tenant, path: &str) -> JoinSet<Answer> {
    let request = server.request(Method::POST, path, &tenant.key);
    let mut waiting = JoinSet::new();
    waiting.spawn(answer(request));
    let open = &server.metrics.http.hookgate_streams_open;
    until("it waits", async || open.get() == 1).await;
    waiting
}

/// The answer to the only request.
async fn ended(waiting: JoinSet<Answer>) -> Answer {
    waiting.join_all().await.remove(0)
}

#[tokio::test]
async fn outcome_of_another_servers_attempt_is_found() {
    let server = Server::start_with(&["--request-timeout=50ms"]).await;
    let tenant = server.tenant("acme").await;
    let test = format!("/api/endpoints/{}/test?wait=30", endpoint(&server, &tenant).await);
    let tested = waiting(&server, &tenant, &test).await;
    let leased = server.claim().await.remove(0);
    record(&server, &leased, 500, Decision::RetryAt(server.clock.now())).await;
    let tested = ended(tested).await;
    let delivery = tested.expect(200);
    assert_eq!(delivery["id"], json!(leased.id));
    assert_eq!(delivery["attempts"][0]["status_code"], 500);
    assert_eq!(tested.header("location"), format!("/api/deliveries/{}", leased.id));

    // What was attempted before the retry is not its outcome.
    let retry = format!("/api/deliveries/{}/retry?wait=30", leased.id);
    let retried = waiting(&server, &tenant, &retry).await;
    let leased = server.claim().await.remove(0);
    record(&server, &leased, 200, Decision::Delivered).await;
    let delivery = ended(retried).await.expect(200);
    assert_eq!((&delivery["status"], &delivery["attempt_count"]), (&json!("delivered"), &json!(2)));
}

#[tokio::test]
async fn cancellation_is_an_outcome() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = endpoint(&server, &tenant).await;
    let test = format!("/api/endpoints/{endpoint}/test?wait=30");
    let tested = waiting(&server, &tenant, &test).await;
    let cancel = format!("/api/endpoints/{endpoint}/cancel-pending");
    until("it is stored", async || {
        let answer = server.post(&cancel, &tenant.key, "").await.expect(200);
        answer["cancelled"] == 1
    })
    .await;
    let delivery = ended(tested).await.expect(200);
    assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("cancelled"), &json!([])));
}

#[tokio::test]
async fn waits_are_bounded_and_end_at_the_stop() {
    let server = Server::start_with(&["--streams-per-org=1"]).await;
    let tenant = server.tenant("acme").await;
    let endpoint = endpoint(&server, &tenant).await;
    let test = format!("/api/endpoints/{endpoint}/test");
    let post = async |query: &str| server.post(&format!("{test}{query}"), &tenant.key, "").await;
    let watch = Stopwatch::start();
    let begun = post("?wait=1").await.expect(202);
    assert_eq!(begun["status"], "accepted");
    assert!(watch.elapsed() >= Duration::from_secs(1));
    post("?wait=0").await.expect(202);
    for wrong in ["31", "x", "-1"] {
        let refused = post(&format!("?wait={wrong}")).await.expect_faults(&[("wait", "format")]);
        let rule = refused["errors"][0]["message"].as_str().unwrap();
        assert!(rule.contains("30"), "{rule}");
    }
    post("?delay=1").await.expect_faults(&[("delay", "unknown")]);

    let waits = waiting(&server, &tenant, &format!("{test}?wait=30")).await;
    let events = async || server.count("SELECT count(*) FROM events").await;
    until("it is stored", async || events().await == 3).await;
    post("?wait=30").await.expect_problem(429, "too_many_streams");
    assert_eq!(events().await, 3, "a refused request does nothing");
    post("").await.expect(202);
    server.app.request_stop();
    let begun: Value = ended(waits).await.expect(202);
    assert_eq!(begun["status"], "accepted");
}
