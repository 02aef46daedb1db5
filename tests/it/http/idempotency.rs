//! Requests that name themselves by an `Idempotency-Key`, and events that are looked for before they are accepted.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::support::server::{self, Answer, Server, Tenant};
use crate::support::wait::until;

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Posts JSON under an idempotency key.
async fn post(server: &Server, key: &str, path: &str, name: &str, body: &str) -> Answer {
    let request = server.request(Method::POST, path, key).header("idempotency-key", name);
    server::answer(server::json(request, body.to_owned())).await
}

const BATCH: &str = r#"[{"type":"a","payload":1},{"type":"a","payload":2}]"#;

#[tokio::test]
async fn key_of_a_single_event_is_its_dedup_id_unless_it_has_one() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let event = r#"{"type":"a","payload":1}"#;
    let id = async |path: &str, name: &str, body: &str| {
        let answer = post(&server, &tenant.key, path, name, body).await;
        text(&answer.expect(202)["id"]).to_owned()
    };
    let first = id("/api/events", "k-1", event).await;
    assert_eq!(id("/api/events", "\"k-1\"", event).await, first);
    assert_eq!(id("/api/events/raw", "k-1", event).await, first);
    assert_ne!(id("/api/events", "k-2", event).await, first);
    let named = r#"{"type":"a","payload":1,"dedup_id":"k-1"}"#;
    assert_eq!(id("/api/events", "k-3", named).await, first);
    let malformed = post(&server, &tenant.key, "/api/events", "", event).await;
    malformed.expect_faults(&[("Idempotency-Key", "length")]);
    assert!(server.journaled().await.contains("k-1"));
}

#[tokio::test]
async fn batch_that_is_sent_again_is_accepted_once_and_gets_the_same_answer() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let batch = async |name: &str, body: &str| {
        post(&server, &tenant.key, "/api/events/batch", name, body).await
    };
    let first = batch("k", BATCH).await;
    first.expect(202);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let again = batch("k", BATCH).await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.header("content-type"), "application/json");
    assert_eq!(server.metrics.http.events_ingested_total.get(), 2);
    let other = r#"[{"type":"b","payload":1}]"#;
    batch("k", other).await.expect_problem(422, "idempotency_key_reused");
    batch("k-2", other).await.expect(202);
    // Another API key has names of its own.
    let stranger = server.tenant("other").await;
    let answer = post(&server, &stranger.key, "/api/events/batch", "k", other).await;
    answer.expect(202);
    server.clock.advance(Duration::from_hours(25));
    batch("k", other).await.expect(202);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 5);
}

#[tokio::test]
async fn compressed_batch_is_read_once_and_its_answer_kept() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let zstd = zstd::stream::encode_all(BATCH.as_bytes(), 3).unwrap();
    let path = "/api/events/batch";
    let request = server.request(Method::POST, path, &tenant.key).header("idempotency-key", "k");
    let request = request.header("content-encoding", "zstd");
    let first = server::answer(server::json(request, zstd)).await;
    first.expect(202);
    // What counts is what it says, not how it is compressed.
    assert_eq!(post(&server, &tenant.key, path, "k", BATCH).await.text, first.text);
}

#[tokio::test]
async fn refused_request_may_be_sent_again_under_its_key() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let path = format!("/api/admin/orgs/{}", tenant.org_id);
    server.patch(&path, &operator, r#"{"endpoints_max":0}"#).await.expect(200);
    let endpoint = r#"{"url":"https://example.com"}"#;
    let create = async || post(&server, &tenant.key, "/api/endpoints", "k", endpoint).await;
    create().await.expect_problem(409, "quota_reached");
    server.patch(&path, &operator, r#"{"endpoints_max":1}"#).await.expect(200);
    create().await.expect(201);
    create().await.expect_problem(409, "already_created");
    // Without a valid key nothing is looked up.
    let answer = post(&server, "nonsense", "/api/endpoints", "k", endpoint).await;
    answer.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn answers_with_secrets_are_not_kept_and_the_others_are() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let endpoint = r#"{"url":"https://example.com"}"#;
    let made = post(&server, &tenant.key, "/api/endpoints", "endpoint", endpoint).await.expect(201);
    let key = post(&server, &tenant.key, "/api/keys", "key", r#"{"name":"x"}"#).await.expect(201);
    let rotate = format!("/api/endpoints/{}/secret/rotate", text(&made["id"]));
    post(&server, &tenant.key, &rotate, "secret", "{}").await.expect(200);
    let turn = format!("/api/keys/{}/rotate", text(&key["id"]));
    post(&server, &tenant.key, &turn, "rotation", r#"{"grace_seconds":60}"#).await.expect(201);
    let of_org = format!("/api/admin/orgs/{}/keys", tenant.org_id);
    post(&server, &operator, &of_org, "org key", r#"{"name":"x"}"#).await.expect(201);
    post(&server, &operator, "/api/admin/keys", "operator", r#"{"name":"x"}"#).await.expect(201);
    let again = post(&server, &tenant.key, "/api/endpoints", "endpoint", endpoint).await;
    let problem = again.expect_problem(409, "already_created");
    assert!(text(&problem["detail"]).ends_with(text(&made["id"])), "{problem}");
    assert_eq!(server.list("/api/endpoints", &tenant.key).await.len(), 1);

    let new = r#"{"name":"Acme"}"#;
    let org = post(&server, &operator, "/api/admin/orgs", "org", new).await;
    org.expect(201);
    let again = post(&server, &operator, "/api/admin/orgs", "org", new).await;
    assert_eq!((again.status, &again.text), (org.status, &org.text));
    assert_eq!(again.header("location"), org.header("location"));

    let file = SqliteConnectOptions::new().filename(server.database());
    let mut store = file.connect().await.unwrap();
    let rows = "SELECT name, body, location FROM idempotency_keys";
    let rows: Vec<(String, Option<Vec<u8>>, Option<String>)> =
        sqlx::query_as(rows).fetch_all(&mut store).await.unwrap();
    assert_eq!(rows.len(), 7);
    for (name, body, _) in rows {
        assert_eq!(body.is_some(), name == "org", "{name}");
    }
}

#[tokio::test]
async fn request_that_is_running_is_not_run_again_until_it_is_given_up() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let batch = async || post(&server, &tenant.key, "/api/events/batch", "k", BATCH).await;
    batch().await.expect(202);
    // As a server that ends before it has kept the answer leaves it.
    server.execute("UPDATE idempotency_keys SET status = NULL, body = NULL").await;
    let running = batch().await;
    running.expect_problem(409, "idempotency_in_progress");
    assert_eq!(running.header("retry-after"), "1");
    server.clock.advance(Duration::from_mins(2));
    batch().await.expect(202);
    batch().await.expect(202);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 4);
}

#[tokio::test]
async fn answer_that_the_store_does_not_take_at_once_is_kept_once_it_does() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let batch = async || post(&server, &tenant.key, "/api/events/batch", "k", BATCH).await;
    let refusal = "CREATE TRIGGER no_answer BEFORE UPDATE ON idempotency_keys
                   WHEN NEW.status IS NOT NULL BEGIN SELECT RAISE(ABORT, 'away'); END";
    server.execute(refusal).await;
    let first = batch().await;
    first.expect(202);
    batch().await.expect_problem(409, "idempotency_in_progress");
    server.execute("DROP TRIGGER no_answer").await;
    until("the answer is kept", async || batch().await.status == 202).await;
    // Also once a claim without an answer would have been taken over.
    server.clock.advance(Duration::from_mins(10));
    let again = batch().await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(server.metrics.http.events_ingested_total.get(), 2);
}

#[tokio::test]
async fn store_that_is_away_refuses_what_needs_it_and_accepts_events() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let event = r#"{"type":"a","payload":1,"dedup_id":"d"}"#;
    server.post("/api/events", &tenant.key, event).await.expect(202);
    server.execute("ALTER TABLE idempotency_keys RENAME TO away").await;
    server.execute("ALTER TABLE events RENAME TO events_away").await;
    let batch = post(&server, &tenant.key, "/api/events/batch", "k", BATCH).await;
    assert!(batch.status.is_server_error(), "{batch:?}");
    let looked = server.post("/api/events?on_duplicate=report", &tenant.key, event).await;
    assert!(looked.status.is_server_error(), "{looked:?}");
    post(&server, &tenant.key, "/api/events", "k", event).await.expect(202);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 2);
    server.execute("ALTER TABLE away RENAME TO idempotency_keys").await;
    server.execute("ALTER TABLE events_away RENAME TO events").await;
}

/// Stores an event with the dedup id `d`.
async fn store_named(server: &Server, tenant: &Tenant) -> String {
    let bare = server.store_event(tenant.org_id, "a", "1").await;
    let id = hookgate::domain::EventId::from_dedup_id(tenant.org_id, "d");
    let named = hookgate::domain::Event { id, dedup_id: Some("d".to_owned()), ..bare };
    server.store_as_it_is(&named).await;
    id.to_string()
}

#[tokio::test]
async fn duplicates_are_reported_or_rejected_on_request() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let id = store_named(&server, &tenant).await;
    let event =
        |payload: u32| json!({ "type": "a", "payload": payload, "dedup_id": "d" }).to_string();
    let ask = async |how: &str, body: String| {
        server.post(&format!("/api/events?on_duplicate={how}"), &tenant.key, body).await
    };
    for how in ["report", "reject"] {
        let same = ask(how, event(1)).await.expect(202);
        assert_eq!(same, json!({ "id": id, "status": "accepted", "duplicate": true }));
        let new = json!({ "type": "a", "payload": 1, "dedup_id": how }).to_string();
        assert_eq!(ask(how, new).await.expect(202)["duplicate"], false);
        let unnamed = r#"{"type":"a","payload":1}"#.to_owned();
        assert_eq!(ask(how, unnamed).await.expect(202).get("duplicate"), None);
    }
    let differs = ask("report", event(2)).await.expect(202);
    assert_eq!((&differs["duplicate"], &differs["conflict"]), (&json!(true), &json!(true)));
    let problem = ask("reject", event(2)).await.expect_problem(409, "dedup_conflict");
    assert!(text(&problem["detail"]).contains(&id), "{problem}");
    ask("maybe", event(1)).await.expect_faults(&[("on_duplicate", "format")]);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 4);
    // Beyond the window it is an event of its own.
    server.clock.advance(Duration::from_hours(8 * 24));
    assert_eq!(ask("reject", event(2)).await.expect(202)["duplicate"], false);
}
