//! Keys get other names.

use serde_json::{Value, json};

use crate::support::server::Server;

#[tokio::test]
async fn key_is_renamed_and_the_audit_log_tells_it_once() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"name":"old","scopes":["events:write"]}"#;
    let created = server.post("/api/keys", &tenant.key, body).await.expect(201);
    let path = format!("/api/keys/{}", created["id"].as_str().unwrap());
    for _ in 0..2 {
        let renamed = server.patch(&path, &tenant.key, r#"{"name":"new"}"#).await.expect(200);
        assert_eq!(renamed["name"], "new");
        assert_eq!(renamed["scopes"], json!(["events:write"]));
        assert_eq!(server.get(&path, &tenant.key).await.expect(200), renamed);
    }
    let log = server.list("/api/audit", &tenant.key).await;
    let of_key =
        |entry: &&Value| entry["object"] == created["id"] && entry["action"] == "key.update";
    let told: Vec<&Value> = log.iter().filter(of_key).collect();
    assert_eq!(told.len(), 1, "{log:?}");
    assert_eq!(told[0]["changes"], json!({"name": "new"}));
}

#[tokio::test]
async fn key_sent_back_as_it_was_read_changes_nothing_and_its_scopes_cannot_be_changed() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let key = server.list("/api/keys", &tenant.key).await.remove(0);
    for path in ["/api/keys", "/api/admin/keys"] {
        let path = format!("{path}/{}", key["id"].as_str().unwrap());
        let by = if path.contains("admin") { &operator } else { &tenant.key };
        let before = server.list("/api/audit", &tenant.key).await;
        let read = server.get(&path, by).await.expect(200);
        server.patch(&path, by, read.to_string()).await.expect(200);
        let scopes = server.patch(&path, by, r#"{"scopes":["events:read"]}"#).await;
        scopes.expect_faults(&[("scopes", "read_only")]);
        let empty = server.patch(&path, by, r#"{"name":" "}"#).await;
        empty.expect_faults(&[("name", "length")]);
        assert_eq!(server.list("/api/audit", &tenant.key).await, before);
    }
}

#[tokio::test]
async fn key_of_another_organisation_is_not_found() {
    let server = Server::start().await;
    let (acme, other) = (server.tenant("acme").await, server.tenant("other").await);
    let key = server.list("/api/keys", &acme.key).await.remove(0);
    let path = format!("/api/keys/{}", key["id"].as_str().unwrap());
    let refused = server.patch(&path, &other.key, r#"{"name":"taken"}"#).await;
    refused.expect_problem(404, "not_found");
    assert_eq!(server.get(&path, &acme.key).await.expect(200)["name"], key["name"]);
}
