//! `PATCH` as a JSON merge patch, RFC 7396: what was read may be sent back.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{self, Answer, Server};

const MERGE_PATCH: &str = "application/merge-patch+json";

async fn patch(server: &Server, path: &str, key: &str, body: &Value) -> Answer {
    let request = server.request(Method::PATCH, path, key).header("content-type", MERGE_PATCH);
    server::answer(request.body(body.to_string())).await
}

#[tokio::test]
async fn endpoint_sent_back_as_it_was_read_changes_nothing() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = json!({
        "url": "https://example.com/a",
        "event_types": ["a", "b.*"],
        "description": "ours",
        "headers": {"x-a": "1"},
        "max_concurrency": 4,
        "retry_schedule": ["10s", "5m"],
        "ordered": true,
    });
    let created = server.post("/api/endpoints", &tenant.key, body.to_string()).await.expect(201);
    let path = format!("/api/endpoints/{}", created["id"].as_str().unwrap());
    server.patch(&path, &tenant.key, r#"{"enabled":false}"#).await.expect(200);
    let read = server.get(&path, &tenant.key).await.expect(200);
    let audit = server.list("/api/audit", &tenant.key).await;
    server.clock.advance(std::time::Duration::from_secs(1));

    let answered = patch(&server, &path, &tenant.key, &read).await.expect(200);
    assert_eq!(answered, read);
    assert_eq!(server.get(&path, &tenant.key).await.expect(200), read);
    assert_eq!(server.list("/api/audit", &tenant.key).await, audit);

    // With one field changed, only that one changes.
    let mut edited = read.clone();
    edited["description"] = json!("theirs");
    let answered = patch(&server, &path, &tenant.key, &edited).await.expect(200);
    edited["updated_at"] = answered["updated_at"].clone();
    assert_eq!(answered, edited);
    let audit_now = server.list("/api/audit", &tenant.key).await;
    assert_eq!(audit_now.len(), audit.len() + 1);
}

#[tokio::test]
async fn read_only_fields_that_differ_are_violations() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"url":"https://example.com/a"}"#;
    let created = server.post("/api/endpoints", &tenant.key, body).await.expect(201);
    let path = format!("/api/endpoints/{}", created["id"].as_str().unwrap());
    let body = json!({
        "id": created["id"],
        "created_at": "2020-01-01T00:00:00Z",
        "signature": "ed25519",
        "url": "ftp://example.com",
        "typo": 1,
    });
    let problem = patch(&server, &path, &tenant.key, &body).await.expect_faults(&[
        ("url", "scheme"),
        ("created_at", "read_only"),
        ("signature", "read_only"),
        ("typo", "unknown"),
    ]);
    assert_eq!(problem["errors"][1]["pointer"], "/created_at");
}

#[tokio::test]
async fn null_resets_a_field_to_its_default() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = json!({
        "url": "https://example.com/a",
        "event_types": ["a"],
        "headers": {"x-a": "1"},
        "ordered": true,
    });
    let created = server.post("/api/endpoints", &tenant.key, body.to_string()).await.expect(201);
    let path = format!("/api/endpoints/{}", created["id"].as_str().unwrap());
    server.patch(&path, &tenant.key, r#"{"enabled":false}"#).await.expect(200);
    let nulls = json!({"event_types": null, "headers": null, "ordered": null, "enabled": null});
    let reset = patch(&server, &path, &tenant.key, &nulls).await.expect(200);
    assert_eq!(reset["event_types"], json!([]));
    assert_eq!(reset["headers"], json!({}));
    assert_eq!((&reset["ordered"], &reset["enabled"]), (&json!(false), &json!(true)));
    // A field without a default cannot be reset.
    let url = json!({ "url": null });
    patch(&server, &path, &tenant.key, &url).await.expect_faults(&[("url", "type")]);
}

#[tokio::test]
async fn organisation_sent_back_as_it_was_read_changes_nothing() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let path = format!("/api/admin/orgs/{}", tenant.org_id);
    server.patch(&path, &operator, r#"{"burst":7}"#).await.expect(200);
    let read = server.get(&path, &operator).await.expect(200);
    let audit = server.list("/api/admin/audit", &operator).await;
    let answered = patch(&server, &path, &operator, &read).await.expect(200);
    assert_eq!(answered, read);
    assert_eq!(server.list("/api/admin/audit", &operator).await, audit);

    let state = json!({"state": "suspended", "burst": 8});
    patch(&server, &path, &operator, &state).await.expect_faults(&[("state", "read_only")]);
    assert_eq!(server.get(&path, &operator).await.expect(200), read);
    let reset = patch(&server, &path, &operator, &json!({"burst": null})).await.expect(200);
    assert_eq!(reset["burst"], Value::Null);
}

#[tokio::test]
async fn own_organisation_sent_back_changes_nothing_although_its_counters_have_moved() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let rates = json!({"own_event_type_rates": {"user.login": 5}});
    patch(&server, "/api/org", &tenant.key, &rates).await.expect(200);
    let read = server.get("/api/org", &tenant.key).await.expect(200);
    server.post("/api/events", &tenant.key, r#"{"type":"a","payload":1}"#).await.expect(202);
    let endpoint = r#"{"url":"https://example.com/a"}"#;
    server.post("/api/endpoints", &tenant.key, endpoint).await.expect(201);
    let moved = server.get("/api/org", &tenant.key).await.expect(200);
    assert_ne!((&moved["limits"], &moved["quotas"]), (&read["limits"], &read["quotas"]));
    let audit = server.list("/api/audit", &tenant.key).await;

    let answered = patch(&server, "/api/org", &tenant.key, &read).await.expect(200);
    assert_eq!(answered["own_event_type_rates"], read["own_event_type_rates"]);
    assert_eq!(server.list("/api/audit", &tenant.key).await, audit);
    // What only a request could have changed is refused.
    let mut raised = read;
    raised["limits"]["events_per_minute"] = json!(1_000_000_000);
    let refused = patch(&server, "/api/org", &tenant.key, &raised).await;
    refused.expect_faults(&[("limits", "read_only")]);
}

#[tokio::test]
async fn other_media_types_are_refused() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let path = "/api/endpoints/019b0000-0000-7000-8000-000000000000";
    let request = server.request(Method::PATCH, path, &tenant.key);
    let request = request.header("content-type", "application/x-ndjson").body("{}");
    let problem = server::answer(request).await.expect_problem(415, "unsupported_media_type");
    assert!(problem["detail"].as_str().unwrap().contains(MERGE_PATCH), "{problem}");
}
