//! Scopes that read, and scopes that manage and read.

use hookgate::domain::{Role, Scope, Scopes};
use serde_json::json;

use crate::support::server::{Server, Tenant};

async fn key(server: &Server, tenant: &Tenant, scope: Scope) -> String {
    server.key_for(Role::Tenant(tenant.org_id), Scopes::of(scope)).await.1
}

#[tokio::test]
async fn reader_of_endpoints_sees_no_credential_and_changes_nothing() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let manager = key(&server, &tenant, Scope::EndpointsManage).await;
    let reader = key(&server, &tenant, Scope::EndpointsRead).await;
    let body = json!({
        "url": "https://example.com/hooks?token=t0ps3cret",
        "headers": {"authorization": "Bearer t0ps3cret"},
    });
    let created = server.post("/api/endpoints", &manager, body.to_string()).await;
    let path = created.header("location").to_owned();

    let whole = server.get(&path, &manager).await;
    assert_eq!(whole.expect(200)["headers"], body["headers"]);
    assert_eq!(whole.expect(200)["url"], body["url"]);
    let read = server.get(&path, &reader).await;
    assert_eq!(read.expect(200)["headers"], json!({"authorization": "***"}));
    assert_eq!(read.header("etag"), whole.header("etag"));
    let listed = server.get("/api/endpoints", &reader).await;
    for text in [&read.text, &listed.text] {
        assert!(
            text.contains("https://example.com/hooks") && !text.contains("t0ps3cret"),
            "{text}"
        );
    }
    assert_eq!(server.list("/api/endpoints", &manager).await[0]["url"], body["url"]);

    let secret = format!("{path}/secret");
    server.get(&secret, &reader).await.expect_problem(403, "scope_required");
    server.get(&secret, &manager).await.expect(200);
    server.patch(&path, &reader, "{}").await.expect_problem(403, "scope_required");
    server.delete(&path, &reader).await.expect_problem(403, "scope_required");
    for action in ["test", "replay", "cancel-pending", "secret/rotate"] {
        let action = server.post(&format!("{path}/{action}"), &reader, "{}").await;
        action.expect_problem(403, "scope_required");
    }
    server.get("/api/events", &reader).await.expect_problem(403, "scope_required");
    server.get("/api/keys", &reader).await.expect_problem(403, "scope_required");
}

#[tokio::test]
async fn reader_of_keys_sees_keys_and_the_audit_log_and_changes_nothing() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let reader = key(&server, &tenant, Scope::KeysRead).await;
    let path = format!("/api/keys/{}", tenant.key_id);
    for read in ["/api/keys", &path, "/api/audit"] {
        server.get(read, &reader).await.expect(200);
    }
    let refused = [
        server.post("/api/keys", &reader, r#"{"name":"a"}"#).await,
        server.post(&format!("{path}/rotate"), &reader, "{}").await,
        server.patch(&path, &reader, r#"{"name":"a"}"#).await,
        server.patch("/api/org", &reader, r#"{"own_event_type_rates":{"a":1}}"#).await,
        server.delete(&path, &reader).await,
        server.get("/api/endpoints", &reader).await,
    ];
    for refused in refused {
        refused.expect_problem(403, "scope_required");
    }
}

#[tokio::test]
async fn manager_grants_reading_and_a_key_without_scopes_gets_those_of_its_maker() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let create = async |key: &str, body: &str| server.post("/api/keys", key, body.to_owned()).await;
    let all = json!([
        "events:write",
        "events:read",
        "inbox:consume",
        "endpoints:manage",
        "keys:manage",
        "data:erase",
    ]);
    let created = create(&tenant.key, r#"{"name":"all"}"#).await.expect(201);
    assert_eq!(created["scopes"], all, "as before there were scopes to read");
    let readers = r#"{"name":"reader","scopes":["endpoints:read","keys:read"]}"#;
    let reader = create(&tenant.key, readers).await.expect(201);
    assert_eq!(reader["scopes"], json!(["endpoints:read", "keys:read"]));
    server.get("/api/endpoints", reader["key"].as_str().unwrap()).await.expect(200);

    let both = r#"{"name":"some","scopes":["keys:manage","endpoints:read"]}"#;
    let some = create(&tenant.key, both).await.expect(201);
    let some = some["key"].as_str().unwrap();
    create(some, readers).await.expect(201);
    let more = create(some, r#"{"name":"a","scopes":["endpoints:manage"]}"#).await;
    let rule = more.expect_faults(&[("scopes[0]", "scope")])["errors"][0]["message"].clone();
    assert!(rule.as_str().unwrap().ends_with(": endpoints:read,keys:read,keys:manage"), "{rule}");
    // It rotates what it may grant, and nothing that has more.
    let rotate = async |id: &str| server.post(&format!("/api/keys/{id}/rotate"), some, "{}").await;
    rotate(reader["id"].as_str().unwrap()).await.expect(201);
    rotate(created["id"].as_str().unwrap()).await.expect_problem(403, "scope_required");
}
