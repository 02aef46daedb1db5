//! What a key cannot do with keys: make one that outlives it, or manage any once it was rotated.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::{Server, Tenant};

const END: &str = "2026-02-28T12:00:00Z";

/// A key of the tenant that expires at [`END`].
async fn ending_key(server: &Server, tenant: &Tenant) -> Value {
    let body = format!(r#"{{"name":"contractor","expires_at":"{END}"}}"#);
    server.post("/api/keys", &tenant.key, body).await.expect(201)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
async fn key_makes_none_that_outlives_it() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let ending = ending_key(&server, &tenant).await;
    let create = async |fields: &str| {
        let body = format!(r#"{{"name":"mine"{fields}}}"#);
        server.post("/api/keys", text(&ending["key"]), body).await
    };
    assert_eq!(create("").await.expect(201)["expires_at"], END);
    assert_eq!(create(r#","expires_at":null"#).await.expect(201)["expires_at"], END);
    let earlier = r#","expires_at":"2026-02-01T12:00:00Z""#;
    assert_eq!(create(earlier).await.expect(201)["expires_at"], "2026-02-01T12:00:00Z");
    let later = create(r#","expires_at":"2026-02-28T12:00:01Z""#).await;
    let problem = later.expect_faults(&[("expires_at", "range")]);
    assert!(text(&problem["detail"]).contains(END), "{problem}");
    let keys = server.list("/api/keys", &tenant.key).await;
    assert_eq!(keys.len(), 5);
}

#[tokio::test]
async fn key_rotates_itself_and_none_that_outlives_it() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let ending = ending_key(&server, &tenant).await;
    let rotate = async |id: &str| {
        server.post(&format!("/api/keys/{id}/rotate"), text(&ending["key"]), "{}").await
    };
    rotate(&tenant.key_id.to_string()).await.expect_problem(403, "key_expires_earlier");
    server.get("/api/org", &tenant.key).await.expect(200);
    let rotated = rotate(text(&ending["id"])).await.expect(201);
    assert_eq!(rotated["expires_at"], END);
}

#[tokio::test]
async fn operators_key_that_expires_makes_keys_that_do() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let body = format!(r#"{{"name":"contractor","expires_at":"{END}"}}"#);
    let ending = server.post("/api/admin/keys", &operator, body).await.expect(201);
    for path in ["/api/admin/keys".to_owned(), format!("/api/admin/orgs/{}/keys", tenant.org_id)] {
        let made = server.post(&path, text(&ending["key"]), r#"{"name":"x"}"#).await.expect(201);
        assert_eq!(made["expires_at"], END, "{path}");
    }
}

#[tokio::test]
async fn key_in_its_grace_manages_none() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let other = ending_key(&server, &tenant).await;
    let own = format!("/api/keys/{}/rotate", tenant.key_id);
    let new = server.post(&own, &tenant.key, r#"{"grace_seconds":60}"#).await.expect(201);
    let refused = [
        server.post("/api/keys", &tenant.key, r#"{"name":"mine"}"#).await,
        server.post(&format!("/api/keys/{}/rotate", text(&other["id"])), &tenant.key, "{}").await,
        server.delete(&format!("/api/keys/{}", text(&new["id"])), &tenant.key).await,
    ];
    for answer in refused {
        answer.expect_problem(403, "key_in_grace");
    }
    // It does everything else, and its successor manages keys.
    server.list("/api/keys", &tenant.key).await;
    server.get("/api/org", &tenant.key).await.expect(200);
    let delete = format!("/api/keys/{}", text(&other["id"]));
    server.delete(&delete, text(&new["key"])).await.expect(204);
    server.clock.advance(Duration::from_mins(1));
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn tenant_learns_that_an_operator_changed_something_and_not_who() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let org = format!("/api/admin/orgs/{}", tenant.org_id);
    server.patch(&org, &operator, r#"{"name":"Acme Ltd"}"#).await.expect(200);
    ending_key(&server, &tenant).await;
    let log = server.list("/api/audit", &tenant.key).await;
    let told: Vec<_> = log
        .iter()
        .map(|entry| (text(&entry["action"]), text(&entry["actor"]), &entry["address"]))
        .collect();
    let (own, here, nowhere) = (tenant.key_id.to_string(), json!("127.0.0.1"), Value::Null);
    let expected = [
        ("key.create", own.as_str(), &here),
        ("org.update", "operator", &nowhere),
        ("key.create", "operator", &nowhere),
    ];
    assert_eq!(told, expected);
    let all = server.list(&format!("/api/admin/audit?org_id={}", tenant.org_id), &operator).await;
    let update = all.iter().find(|entry| entry["action"] == "org.update").unwrap();
    assert_eq!(update["address"], "127.0.0.1");
    assert_ne!(update["actor"], "operator");
}
