//! Erasures through the API, the journal and the disk guard.

use std::sync::Arc;

use hookgate::domain::{Role, Scope, Scopes};
use hookgate::ingest::{Eraser, JournalReplay, ReplayCounts};
use reqwest::Method;
use serde_json::json;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::support::server::Server;
use crate::support::wait::until;

/// Runs erasures until nothing is left to do.
async fn run_erasures(server: &Server) {
    let eraser = Arc::new(Eraser { store: server.store.clone(), clock: server.clock.clone() });
    loop {
        let eraser = Arc::clone(&eraser);
        if !server.app.call(async move { eraser.run_once().await }).await.unwrap() {
            break;
        }
    }
}

/// Stores what waits in the journal, as `hookgate journal replay` does.
async fn store_journal(server: &mut Server) -> ReplayCounts {
    let batch = server.reader.next_batch(1_000, 1 << 20).await.unwrap().unwrap();
    let mut replay = JournalReplay::new(server.store.clone(), server.clock.clone(), None, 1, false);
    let mut counts = ReplayCounts::default();
    let records = batch.records;
    let stored = async move {
        replay.store(&records, &mut counts).await.unwrap();
        // Again: it brings nothing back.
        replay.store(&records, &mut counts).await.unwrap();
        counts
    };
    server.app.call(stored).await
}

#[tokio::test]
async fn account_is_erased_also_from_what_waits_in_the_journal() {
    let mut server = Server::start().await;
    let acme = server.tenant("acme").await;
    let post = async |server: &Server, account: &str| {
        let body = json!({ "type": "a", "payload": "secret", "account_id": account });
        let posted = server.post("/api/events", &acme.key, body.to_string()).await.expect(202);
        posted["id"].as_str().unwrap().to_owned()
    };
    let gone = post(&server, "gone").await;
    let kept = post(&server, "kept").await;
    let named = server.delete(&format!("/api/events/{kept}"), &acme.key).await.expect(202);
    assert_eq!(named["filter"], json!({ "event_id": kept }));
    let kept = post(&server, "kept").await;
    let asked = server.delete("/api/accounts/gone/data", &acme.key).await.expect(202);
    assert_eq!(
        (&asked["status"], &asked["filter"]),
        (&json!("running"), &json!({ "account_id": "gone" }))
    );
    let new = post(&server, "gone").await;

    let counts = store_journal(&mut server).await;
    assert_eq!((counts.events, counts.missing), (8, 2));
    run_erasures(&server).await;
    let path = format!("/api/erasures/{}", asked["id"].as_str().unwrap());
    let ended = server.get(&path, &acme.key).await.expect(200);
    assert_eq!((&ended["status"], &ended["events"]), (&json!("finished"), &json!(0)));
    server.get(&format!("/api/events/{gone}"), &acme.key).await.expect(404);
    for id in [kept, new] {
        server.get(&format!("/api/events/{id}"), &acme.key).await.expect(200);
    }
    assert_eq!(server.list("/api/erasures", &acme.key).await.len(), 2);
    let log = server.list("/api/audit", &acme.key).await;
    let created: Vec<_> = log.iter().filter(|entry| entry["action"] == "erasure.create").collect();
    assert_eq!(created.len(), 2);
}

#[tokio::test]
async fn kept_answers_and_refused_events_of_an_account_are_erased() {
    let server = Server::start().await;
    let acme = server.tenant("acme").await;
    let posted = server
        .request(Method::POST, "/api/events/batch", &acme.key)
        .header("idempotency-key", "once")
        .header("content-type", "application/json")
        .body(r#"[{"type":"a","payload":1,"account_id":"gone"}]"#);
    let posted = crate::support::server::answer(posted).await.expect(202);
    let id = posted["ids"][0].as_str().unwrap().to_owned();
    let kept = "SELECT count(*) FROM idempotency_keys WHERE body IS NOT NULL";
    assert_eq!(server.count(kept).await, 1);
    // An erasure of another event leaves the answer alone.
    let other = server.store_event(acme.org_id, "a", "1").await;
    server.delete(&format!("/api/events/{}", other.id), &acme.key).await.expect(202);
    run_erasures(&server).await;
    assert_eq!(server.count(kept).await, 1);
    server.delete(&format!("/api/events/{id}"), &acme.key).await.expect(202);
    run_erasures(&server).await;
    assert_eq!(server.count(kept).await, 0);

    server
        .store
        .quarantine_event(acme.org_id, other.id, b"unreadable", "why", server.clock.now())
        .await
        .unwrap();
    server.delete("/api/accounts/gone/data", &acme.key).await.expect(202);
    run_erasures(&server).await;
    assert_eq!(server.list("/api/dead-letters", &acme.key).await.len(), 0);
}

#[tokio::test]
async fn erasing_needs_its_own_scope() {
    let server = Server::start().await;
    let acme = server.tenant("acme").await;
    let all = Role::Tenant(acme.org_id).scopes();
    let others = all.iter().filter(|scope| *scope != Scope::DataErase);
    let others = others.fold(Scopes::NONE, Scopes::with);
    let (_, key) = server.key_for(Role::Tenant(acme.org_id), others).await;
    let event = server.store_event(acme.org_id, "a", "1").await;
    let path = format!("/api/events/{}", event.id);
    server.delete(&path, &key).await.expect_problem(403, "scope_required");
    server.delete("/api/accounts/a%00b/data", &acme.key).await.expect(404);
    let (_, key) = server.key_for(Role::Tenant(acme.org_id), Scopes::of(Scope::DataErase)).await;
    server.delete(&path, &key).await.expect(202);
    server.get(&path, &key).await.expect_problem(403, "scope_required");
}

#[tokio::test]
async fn payload_that_was_removed_is_told_apart() {
    let server = Server::start().await;
    let acme = server.tenant("acme").await;
    let event = server.store_event(acme.org_id, "a", r#"{"secret":1}"#).await;
    let path = format!("/api/events/{}", event.id);
    let shown = server.get(&path, &acme.key).await.expect(200);
    assert_eq!(
        (&shown["payload"], &shown["payload_removed"]),
        (&json!({"secret":1}), &json!(false))
    );
    server.execute("UPDATE events SET payload = x''").await;
    let shown = server.get(&path, &acme.key).await.expect(200);
    assert_eq!((&shown["payload"], &shown["payload_removed"]), (&json!(null), &json!(true)));
    let listed = server.get("/api/events?include=payload", &acme.key).await.expect(200);
    assert_eq!(listed["data"][0]["payload"], json!(null));
    let replay = format!("{path}/replay");
    server.post(&replay, &acme.key, "{}").await.expect_problem(409, "event_removed");
}

#[tokio::test]
async fn organisation_keeps_payloads_for_at_most_as_long_as_events() {
    let server = Server::start_with(&["--retention=30d", "--payload-retention=7d"]).await;
    let (acme, operator) = (server.tenant("acme").await, server.operator().await);
    let own = async || server.get("/api/org", &acme.key).await.expect(200)["limits"].clone();
    assert_eq!(
        (&own().await["retention_days"], &own().await["payload_retention_days"]),
        (&json!(30), &json!(7))
    );
    let path = format!("/api/admin/orgs/{}", acme.org_id);
    let refused = server.patch(&path, &operator, r#"{"payload_retention_days":31}"#).await;
    let refused = refused.expect_problem(422, "validation_failed");
    let error = &refused["errors"][0];
    assert_eq!(error["field"], "payload_retention_days");
    assert!(error["message"].as_str().unwrap().contains("at most the 30 days of retention_days"));
    // Also when that follows from what it keeps now.
    let refused = server.patch(&path, &operator, r#"{"retention_days":5}"#).await;
    refused.expect_problem(422, "validation_failed");
    let body = r#"{"retention_days":5,"payload_retention_days":5}"#;
    server.patch(&path, &operator, body).await.expect(200);
    assert_eq!(
        (&own().await["retention_days"], &own().await["payload_retention_days"]),
        (&json!(5), &json!(5))
    );
}

#[tokio::test]
async fn events_are_refused_while_too_little_disk_space_is_free() {
    let server =
        Server::start_with(&["--disk-free-warn-mib=900000000", "--disk-free-min-mib=900000000"])
            .await;
    let acme = server.tenant("acme").await;
    let event = r#"{"type":"a","payload":1}"#;
    let refused = server.post("/api/events", &acme.key, event).await;
    refused.expect_problem(503, "storage_low");
    assert!(refused.headers.contains_key("retry-after"));
    let ready = server.get("/health/ready", "").await;
    assert_eq!((ready.status.as_u16(), ready.text.contains("storage_low")), (503, true));
    let report = server.get("/api/health", "").await.expect(200);
    assert_eq!(
        (&report["status"], &report["disk"]["status"]),
        (&json!("degraded"), &json!("storage_low"))
    );
    assert!(server.metric("hookgate_disk_free_bytes") > 0);
    // What is not an event is changed all the same.
    server.delete("/api/accounts/gone/data", &acme.key).await.expect(202);

    let server = Server::start_with(&["--disk-free-warn-mib=900000000"]).await;
    let acme = server.tenant("acme").await;
    server.post("/api/events", &acme.key, event).await.expect(202);
    let report = server.get("/api/health", "").await.expect(200);
    assert_eq!(report["disk"]["status"], "low");
}

#[tokio::test]
async fn space_of_deleted_rows_goes_back_to_a_disk_that_has_little() {
    let server = Server::start_with(&["--disk-free-warn-mib=900000000"]).await;
    let mut file = SqliteConnectOptions::new().filename(server.database()).connect().await.unwrap();
    let rows = "CREATE TABLE filler (b BLOB);
                WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
                INSERT INTO filler SELECT zeroblob(4000) FROM n;
                DROP TABLE filler;";
    sqlx::raw_sql(rows).execute(&mut file).await.unwrap();
    let mut free_pages = async || {
        let free = sqlx::query_scalar::<_, i64>("PRAGMA freelist_count");
        free.fetch_one(&mut file).await.unwrap()
    };
    until("space is given back but for 10 MiB", async || free_pages().await <= 2_560).await;
}
