//! What operators do, and what tenants see of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::wait::until;

#[tokio::test]
async fn organisations_are_created_listed_and_changed() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let body = r#"{"name":"Acme","rate_limit_per_minute":600}"#;
    let answer = server.post("/api/admin/orgs", &operator, body).await;
    let org = answer.expect(201);
    let path = format!("/api/admin/orgs/{}", org["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), path);
    assert_eq!(org["name"], "Acme");
    assert_eq!(org["rate_limit_per_minute"], 600);
    assert_eq!(server.get(&path, &operator).await.expect(200), org);
    assert_eq!(server.list("/api/admin/orgs", &operator).await, [org]);

    let change = async |body: &'static str| server.patch(&path, &operator, body).await;
    let changed = change(r#"{"name":"Acme Ltd"}"#).await.expect(200);
    assert_eq!(
        (&changed["name"], &changed["rate_limit_per_minute"]),
        (&json!("Acme Ltd"), &json!(600))
    );
    let changed = change(r#"{"rate_limit_per_minute":null}"#).await.expect(200);
    assert_eq!(changed["rate_limit_per_minute"], Value::Null);
    assert_eq!(changed["name"], "Acme Ltd");
}

#[tokio::test]
async fn number_that_is_wrong_in_whatever_way_is_told_the_fields_own_range() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let tenant = server.tenant("acme").await;
    let rotate = format!("/api/admin/keys/{}/rotate", tenant.key_id);
    let orgs = "/api/admin/orgs";
    for (path, key, field, range) in [
        (orgs, &operator, "rate_limit_per_minute", "1 to 100000000"),
        (orgs, &operator, "burst", "1 to 100000000"),
        (orgs, &operator, "bytes_per_minute", "1 to 4294967295"),
        (orgs, &operator, "events_per_month", "0 to 4294967295"),
        (orgs, &operator, "endpoints_max", "0 to 1000000"),
        (orgs, &operator, "keys_max", "0 to 1000000"),
        (orgs, &operator, "payload_bytes_max", "1 to 4294967295"),
        (orgs, &operator, "deliveries_per_minute", "1 to 1000000000"),
        (&rotate, &operator, "grace_seconds", "0 to 604800"),
        ("/api/endpoints", &tenant.key, "max_concurrency", "1 to 1000"),
        ("/api/endpoints", &tenant.key, "rate_limit_per_second", "1 to 10000"),
    ] {
        for number in ["-1", "1e3", "1.0", "5000000000"] {
            let body = format!(r#"{{"name":"a","url":"https://example.com","{field}":{number}}}"#);
            let problem = server.post(path, key, body).await.expect(422);
            let errors = problem["errors"].as_array().unwrap();
            let fault = errors.iter().find(|fault| fault["field"] == field).unwrap();
            let rule = format!("must be a whole number from {range}, in digits");
            assert_eq!((&fault["code"], &fault["message"]), (&json!("range"), &json!(rule)));
        }
    }
}

#[tokio::test]
async fn violations_of_organisations_and_keys_are_all_listed() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let tenant = server.tenant("acme").await;
    let org = format!("/api/admin/orgs/{}", tenant.org_id);
    let post = async |path: &str, body: &'static str| server.post(path, &operator, body).await;
    post("/api/admin/orgs", r#"{"rate_limit_per_minute":0,"plan":"gold"}"#).await.expect_faults(&[
        ("name", "required"),
        ("rate_limit_per_minute", "range"),
        ("plan", "unknown"),
    ]);
    post("/api/admin/orgs", r#"{"name":" ","rate_limit_per_minute":1.5}"#)
        .await
        .expect_faults(&[("name", "length"), ("rate_limit_per_minute", "range")]);
    server
        .patch(&org, &operator, r#"{"name":null,"rate_limit_per_minute":"9"}"#)
        .await
        .expect_faults(&[("name", "type"), ("rate_limit_per_minute", "type")]);
    let keys = format!("{org}/keys");
    post(&keys, r#"{"name":"a\u0000b","role":"operator"}"#)
        .await
        .expect_faults(&[("name", "format"), ("role", "unknown")]);
    for name in ["pay\u{202e}lac", "ac\u{200b}me"] {
        let body = json!({ "name": name }).to_string();
        for path in ["/api/admin/orgs", &keys] {
            let answer = server.post(path, &operator, body.clone()).await;
            answer.expect_faults(&[("name", "format")]);
        }
    }
    post("/api/admin/keys", "{}").await.expect_faults(&[("name", "required")]);
    let rotate = format!("/api/admin/keys/{}/rotate", tenant.key_id);
    post(&rotate, r#"{"grace_seconds":604801}"#).await.expect_faults(&[("grace_seconds", "range")]);
    post(&rotate, "nonsense").await.expect_problem(400, "malformed_json");
    let request = server.request(reqwest::Method::POST, &rotate, &operator).body("{}");
    let answer = crate::support::server::answer(request).await;
    answer.expect_problem(415, "unsupported_media_type");
    server.get("/api/org", &tenant.key).await.expect(200);
}

#[tokio::test]
async fn missing_resources_are_not_found() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let id = "019b0000-0000-7000-8000-000000000000";
    let key = r#"{"name":"k"}"#;
    server
        .post(&format!("/api/admin/orgs/{id}/keys"), &operator, key)
        .await
        .expect_problem(404, "not_found");
    server
        .get(&format!("/api/admin/orgs/{id}/keys"), &operator)
        .await
        .expect_problem(404, "not_found");
    server
        .patch(&format!("/api/admin/orgs/{id}"), &operator, "{}")
        .await
        .expect_problem(404, "not_found");
    let rotate = format!("/api/admin/keys/{id}/rotate");
    server.post(&rotate, &operator, "{}").await.expect_problem(404, "not_found");
    server
        .delete(&format!("/api/admin/keys/{id}"), &operator)
        .await
        .expect_problem(404, "not_found");
}

#[tokio::test]
async fn new_key_works_is_shown_once_and_never_with_its_hash() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let path = format!("/api/admin/orgs/{}/keys", tenant.org_id);
    let answer = server.post(&path, &operator, r#"{"name":"production"}"#).await;
    let created = answer.expect(201);
    assert_eq!(answer.header("cache-control"), "no-store");
    let location = format!("/api/admin/keys/{}", created["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), location);
    assert_eq!(created["role"], "tenant");
    assert_eq!(created["org_id"], json!(tenant.org_id));
    assert_eq!(created["active"], true);
    let key = created["key"].as_str().unwrap();
    let org = server.get("/api/org", key).await.expect(200);
    assert_eq!(org["id"], json!(tenant.org_id));

    let mut record = created.clone();
    record.as_object_mut().unwrap().remove("key");
    assert_eq!(server.get(&location, &operator).await.expect(200), record);
    let listed = server.list(&path, &operator).await;
    assert_eq!(listed.len(), 2);
    assert!(listed.contains(&record));
    assert_eq!(server.list("/api/keys", key).await, listed);
    assert_eq!(server.list("/api/admin/keys", &operator).await.len(), 3);
    let text = server.get("/api/admin/keys", &operator).await.text;
    assert!(!text.contains("argon2") && !text.contains("hash"), "{text}");
}

#[tokio::test]
async fn operator_makes_an_operator() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let created =
        server.post("/api/admin/keys", &operator, r#"{"name":"second"}"#).await.expect(201);
    assert_eq!((&created["role"], &created["org_id"]), (&json!("operator"), &Value::Null));
    server.get("/api/admin/orgs", created["key"].as_str().unwrap()).await.expect(200);
}

#[tokio::test]
async fn revoked_key_stops_working_at_once() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    server.get("/api/org", &tenant.key).await.expect(200);
    let path = format!("/api/admin/keys/{}", tenant.key_id);
    assert_eq!(server.delete(&path, &operator).await.status, 204);
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
    let shown = server.get(&path, &operator).await.expect(200);
    assert_eq!(shown["active"], false);
    assert_eq!(shown["expires_at"], "2026-01-31T12:00:00Z");
    let answer = server.post(&format!("{path}/rotate"), &operator, "{}").await;
    answer.expect_problem(409, "key_expired");
}

#[tokio::test]
async fn rotated_key_works_through_its_grace_and_no_longer() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    server.get("/api/org", &tenant.key).await.expect(200);
    let path = format!("/api/admin/keys/{}/rotate", tenant.key_id);
    let answer = server.post(&path, &operator, r#"{"grace_seconds":60}"#).await;
    let created = answer.expect(201);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(created["name"], "test key");
    assert_ne!(created["id"], json!(tenant.key_id));
    let new_key = created["key"].as_str().unwrap();
    server.get("/api/org", new_key).await.expect(200);
    server.get("/api/org", &tenant.key).await.expect(200);
    server.clock.advance(Duration::from_mins(1));
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
    server.get("/api/org", new_key).await.expect(200);
}

#[tokio::test]
async fn key_in_its_grace_is_not_rotated_again_and_its_successor_has_its_own_end() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let body = r#"{"name":"x","expires_at":"2027-01-31T12:00:00Z"}"#;
    let old = server.post("/api/keys", &tenant.key, body).await.expect(201);
    let path = format!("/api/admin/keys/{}", old["id"].as_str().unwrap());
    let rotate = async |path: &str, body: &'static str| {
        server.post(&format!("{path}/rotate"), &operator, body).await
    };
    let new = rotate(&path, r#"{"grace_seconds":60}"#).await.expect(201);
    assert_eq!(new["expires_at"], old["expires_at"]);
    let shown = server.get(&path, &operator).await.expect(200);
    assert_eq!((&shown["replaced_by"], &shown["active"]), (&new["id"], &json!(true)));
    let hashes = server.metrics.auth.auth_hashes_total.get();
    for body in [r#"{"grace_seconds":60}"#, "{}"] {
        let problem = rotate(&path, body).await.expect_problem(409, "key_rotated");
        assert!(problem["detail"].as_str().unwrap().contains(new["id"].as_str().unwrap()));
    }
    assert_eq!(server.metrics.auth.auth_hashes_total.get(), hashes);
    let successor = format!("/api/admin/keys/{}", new["id"].as_str().unwrap());
    let third = rotate(&successor, "{}").await.expect(201);
    assert_eq!(third["expires_at"], old["expires_at"]);
    server.clock.advance(Duration::from_mins(1));
    rotate(&path, "{}").await.expect_problem(409, "key_expired");
    server.get("/api/org", third["key"].as_str().unwrap()).await.expect(200);
}

#[tokio::test]
async fn concurrent_rotations_yield_one_key() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let path = format!("/api/admin/keys/{}/rotate", tenant.key_id);
    let asked = (0..3).map(|_| server.post(&path, &operator, "{}"));
    let answers = futures_util::future::join_all(asked).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.expect_problem(409, "key_expired");
    }
    let keys = format!("/api/admin/orgs/{}/keys", tenant.org_id);
    let keys = server.list(&keys, &operator).await;
    assert_eq!(keys.iter().filter(|key| key["active"] == true).count(), 1);
}

/// The key is revoked while its successor is being hashed.
#[tokio::test]
async fn key_that_is_revoked_during_its_rotation_has_no_successor() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    server.get("/api/admin/orgs", &operator).await.expect(200);
    let hashes = server.metrics.auth.auth_hashes_total.get();
    let path = format!("/api/admin/keys/{}/rotate", tenant.key_id);
    let rotating = server.post(&path, &operator, r#"{"grace_seconds":60}"#);
    let revoking = async {
        let count = || server.metrics.auth.auth_hashes_total.get();
        until("the new key is being hashed", async || count() > hashes).await;
        let (now, by) = (server.clock.now(), hookgate::domain::Actor::CLI);
        server.store.system().expire_key(tenant.key_id, now, &by, now).await.unwrap();
    };
    let (answer, ()) = futures_util::future::join(rotating, revoking).await;
    answer.expect_problem(409, "key_expired");
    let keys = format!("/api/admin/orgs/{}/keys", tenant.org_id);
    assert_eq!(server.list(&keys, &operator).await.len(), 1);
}

#[tokio::test]
async fn rotation_without_grace_needs_no_body_and_ends_the_old_key_at_once() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    server.get("/api/org", &tenant.key).await.expect(200);
    let path = format!("/api/admin/keys/{}/rotate", tenant.key_id);
    let request = server.request(reqwest::Method::POST, &path, &operator);
    let created = crate::support::server::answer(request).await.expect(201);
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
    server.get("/api/org", created["key"].as_str().unwrap()).await.expect(200);
    let old = format!("/api/admin/keys/{}", tenant.key_id);
    let old = server.get(&old, &operator).await.expect(200);
    let now = json!("2026-01-31T12:00:00Z");
    assert_eq!((&old["revoked_at"], &old["expires_at"]), (&now, &now));
    assert_eq!(old["replaced_by"], created["id"]);
}

#[tokio::test]
async fn tenant_sees_its_organisation_and_its_limits() {
    let server = Server::start_with(&["--max-event-bytes=5000"]).await;
    let acme = server.tenant("acme").await;
    let org = server.get("/api/org", &acme.key).await.expect(200);
    let no_quota = json!({ "limit": null, "used": 0, "left": null });
    let default = |used| json!({ "limit": 100, "used": used, "left": 100 - used });
    let expected = json!({
        "id": acme.org_id, "name": "acme", "created_at": "2026-01-31T12:00:00Z",
        "key": {
            "id": acme.key_id, "name": "test key", "expires_at": null, "rate_limit_per_minute": null,
            "scopes": ["events:write", "events:read", "inbox:consume", "endpoints:manage", "keys:manage", "data:erase"],
        },
        "limits": {
            "events_per_minute": 1000, "burst": 1000, "events_left_now": 1000,
            "bytes_per_minute": null, "bytes_left_now": null, "deliveries_per_minute": 10_000,
            "deliveries_left_now": 10_000, "event_type_rates": {}, "changes_per_minute": 10_000_000,
            "changes_left_now": 1_666_666, "event_bytes_max": 5000, "batch_events_max": 1000,
            "batch_body_bytes_max": 5_242_880, "retention_days": null, "payload_retention_days": null,
        },
        "own_event_type_rates": {},
        "quotas": {
            "events_this_month": no_quota, "month_ends_at": "2026-02-01T00:00:00Z",
            "endpoints": default(0), "keys": default(1),
        },
    });
    assert_eq!(org, expected);
    let limited = server.tenant_limited("limited", Some(7)).await;
    let org = server.get("/api/org", &limited.key).await.expect(200);
    assert_eq!(org["limits"]["events_per_minute"], 7);
}
