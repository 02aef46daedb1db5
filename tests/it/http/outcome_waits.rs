//! `?wait=` where the attempt is another server's, or does not end in time.

use std::time::Duration;

use hookgate::domain::{Actor, Decision, Endpoint, LeasedDelivery, SigningSecret};
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

/// Leases the only delivery, once it is due: a request waits before it is stored.
async fn leased(server: &Server) -> LeasedDelivery {
    let mut due = Vec::new();
    until("a delivery is due", async || {
        due = server.claim().await;
        !due.is_empty()
    })
    .await;
    due.remove(0)
}

#[tokio::test]
async fn outcome_of_another_servers_attempt_is_found() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let test = format!("/api/endpoints/{}/test?wait=30", endpoint(&server, &tenant).await);
    let tested = waiting(&server, &tenant, &test).await;
    let lease = leased(&server).await;
    // Due only once it is retried.
    let later = server.clock.now().plus(Duration::from_hours(1));
    record(&server, &lease, 500, Decision::RetryAt(later)).await;
    let tested = ended(tested).await;
    let delivery = tested.expect(200);
    assert_eq!(delivery["id"], json!(lease.id));
    assert_eq!(delivery["attempts"][0]["status_code"], 500);
    assert_eq!(tested.header("location"), format!("/api/deliveries/{}", lease.id));

    // What was attempted before the retry is not its outcome.
    let retry = format!("/api/deliveries/{}/retry?wait=30", lease.id);
    let retried = waiting(&server, &tenant, &retry).await;
    let lease = leased(&server).await;
    record(&server, &lease, 200, Decision::Delivered).await;
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
    let begun = post("?wait=1").await.expect(202);
    assert_eq!(begun["status"], "accepted");
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

#[tokio::test]
async fn waits_outlast_the_time_limit_of_requests() {
    let server = Server::start_with(&["--request-timeout=500ms"]).await;
    let tenant = server.tenant("acme").await;
    let (now, url) = (server.clock.now(), "https://example.com/".parse().unwrap());
    let endpoint = Endpoint::new(tenant.org_id, url, SigningSecret::generate().unwrap(), now);
    let added = server.store.insert_endpoint(tenant.org_id, &endpoint, &Actor::CLI).await;
    added.unwrap().unwrap();
    let test = format!("/api/endpoints/{}/test?wait=1", endpoint.id);
    // On a busy machine, what comes before the wait may take too long.
    let post = async || server.post(&test, &tenant.key, "").await;
    until("a wait ends in time", async || post().await.status == 202).await;
}
