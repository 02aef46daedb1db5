//! The real app in this process: it stops clean, and the harness notices when it does not.

use std::time::Duration;

use hookgate::app::BackgroundWork;
use hookgate::auth::issue_key;
use hookgate::delivery::WebhookResult;
use hookgate::domain::{Actor, Endpoint, Org, OrgId, Role, SigningSecret};
use reqwest::Method;

use crate::support::answer::{answer, json};
use crate::support::app::{Leftover, START, TestApp};
use crate::support::client;
use crate::support::receiver::{Answer, Receiver};
use crate::support::server::Server;
use crate::support::wait::until;

/// Starts a server whose background work runs, with one tenant, and returns the tenant's key.
async fn running(receiver: &Receiver) -> (TestApp, String) {
    let flags = ["--allow-private-endpoints=true"];
    let (app, held) = TestApp::start(&flags, BackgroundWork::Run).await;
    assert!(held.is_none(), "the app steps its parts itself");
    let store = &app.store;
    let org = Org::new(OrgId::mint(START), "acme", START);
    store.system().insert_org(&org, &Actor::CLI).await.unwrap();
    let issued = issue_key(Role::Tenant(org.id), "key".to_owned(), START).await.unwrap();
    store.system().insert_key(&issued.record, &Actor::CLI).await.unwrap().unwrap();
    let secret = SigningSecret::generate().unwrap();
    receiver.trust(&secret);
    let endpoint = Endpoint::new(org.id, receiver.url("/").parse().unwrap(), secret, START);
    store.insert_endpoint(org.id, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    (app, issued.key.reveal().to_owned())
}

async fn post(app: &TestApp, key: &str) {
    let url = format!("http://{}/api/events", app.address);
    let request = client().request(Method::POST, url).header("x-api-key", key);
    answer(json(request, r#"{"type":"a","payload":1}"#)).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn app_delivers_what_it_accepted_and_stops_without_leftovers() {
    let receiver = Receiver::start().await;
    let (app, key) = running(&receiver).await;
    for _ in 0..20 {
        post(&app, &key).await;
    }
    receiver.received(1).await;
    // Some are in the journal, some in memory, some in flight.
    drop(app);
    assert_eq!(receiver.forged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_wait_for_the_injected_clock() {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(500)]);
    let (app, key) = running(&receiver).await;
    post(&app, &key).await;
    receiver.received(1).await;
    // The first retry is due after 5 seconds of the server's time.
    let results = &app.parts.metrics.delivery.webhook_deliveries_total;
    until("it is to be retried", async || results.of(WebhookResult::Retried).get() > 0).await;
    app.parts.clock.advance(Duration::from_mins(1));
    receiver.received(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn record_that_cannot_be_decoded_is_quarantined_and_stops_nothing() {
    let receiver = Receiver::start().await;
    let (app, key) = running(&receiver).await;
    let journal = app.parts.journal.clone();
    // A record of a version that is yet to come.
    app.call(async move { journal.append(b"\xfftomorrow", 1).await }).await.unwrap();
    post(&app, &key).await;
    receiver.received(1).await;
    let undecodable = &app.parts.metrics.ingest.hookgate_records_undecodable_total;
    until("it is counted", async || undecodable.get() == 1).await;
    let damaged = app.database().with_file_name("journal").join("damaged");
    let copies: Vec<_> = std::fs::read_dir(damaged).unwrap().collect();
    let [Ok(copy)] = &*copies else { panic!("{copies:?}") };
    assert_eq!(std::fs::read(copy.path()).unwrap(), b"\xfftomorrow");
    until("it is acknowledged", async || app.parts.journal.status().items_waiting == 0).await;
}

#[tokio::test]
#[should_panic(expected = "deliveries are leased, and nobody works on them")]
async fn harness_notices_a_lease_that_nobody_works_on() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"url":"https://example.com/hooks"}"#;
    server.post("/api/endpoints", &tenant.key, body).await.expect(201);
    server.store_event(tenant.org_id, "a", "1").await;
    assert_eq!(server.lease_due().await.len(), 1);
}

#[tokio::test]
async fn harness_accepts_a_leftover_that_a_test_names() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"url":"https://example.com/hooks"}"#;
    server.post("/api/endpoints", &tenant.key, body).await.expect(201);
    server.store_event(tenant.org_id, "a", "1").await;
    assert_eq!(server.lease_due().await.len(), 1);
    server.app.expect_leftover(Leftover::Leases, "the test shows how to leave one");
}
