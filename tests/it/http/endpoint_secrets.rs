//! Endpoints' secrets, custom headers and test events over the API.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hookgate::domain::{PublicKey, SignatureScheme, SigningSecret};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::support::server::{self, Answer, Server, Tenant};

struct Acme {
    server: Server,
    tenant: Tenant,
}

impl Acme {
    async fn start() -> Self {
        let server = Server::start().await;
        let tenant = server.tenant("acme").await;
        Self { server, tenant }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.server.post(path, &self.tenant.key, body.to_string()).await
    }

    async fn get(&self, path: &str) -> Value {
        self.server.get(path, &self.tenant.key).await.expect(200)
    }

    /// Creates an endpoint; the answer and the path.
    async fn create(&self, fields: Value) -> (Value, String) {
        let mut body = json!({ "url": "https://example.com/hooks" });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let created = self.post("/api/endpoints", &body).await.expect(201);
        let path = format!("/api/endpoints/{}", created["id"].as_str().unwrap());
        (created, path)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[tokio::test]
async fn ed25519_endpoints_show_only_their_public_key() {
    let acme = Acme::start().await;
    let (created, path) = acme.create(json!({ "signature": "ed25519" })).await;
    assert_eq!((created["signature"].as_str(), created.get("secret")), (Some("ed25519"), None));
    let key = text(&created["public_key"]);
    assert!(key.parse::<PublicKey>().is_ok(), "{key}");
    let shown = acme.get(&format!("{path}/secret")).await;
    let id = &created["id"];
    assert_eq!(shown, json!({"id": id, "signature": "ed25519", "public_key": key, "earlier": []}));
    assert_eq!(acme.get(&path).await, created);
}

#[tokio::test]
async fn tenant_may_bring_a_secret_of_either_scheme() {
    let acme = Acme::start().await;
    let key = SigningSecret::generate_for(SignatureScheme::Ed25519).unwrap();
    let public = key.public_key().unwrap();
    let seed = STANDARD.decode(key.reveal().strip_prefix("whsk_").unwrap()).unwrap();
    let long = format!("whsk_{}", STANDARD.encode([&seed[..], public.bytes()].concat()));
    for brought in [key.reveal(), long] {
        let (created, _) = acme.create(json!({ "secret": brought })).await;
        assert_eq!(text(&created["public_key"]), public.to_string());
        assert_eq!(created["signature"], "ed25519", "a secret tells its scheme");
    }
    for bytes in [24, 64] {
        let brought = format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        let (created, _) = acme.create(json!({ "secret": brought })).await;
        assert_eq!(text(&created["secret"]), brought);
        assert_eq!(created["public_key"], Value::Null);
    }
}

#[tokio::test]
async fn broken_rules_of_secrets_and_headers_are_named() {
    let acme = Acme::start().await;
    let refused = async |fields: Value, faults: &[(&str, &str)]| {
        let mut body = json!({ "url": "https://example.com/hooks" });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        acme.post("/api/endpoints", &body).await.expect_faults(faults);
    };
    let hmac = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
    for secret in [hmac(23), hmac(65), "whsk_AAAA".to_owned(), "whpk_AAAA".to_owned()] {
        refused(json!({ "secret": secret }), &[("secret", "format")]).await;
    }
    refused(json!({ "signature": "rsa" }), &[("signature", "format")]).await;
    refused(json!({ "signature": "ed25519", "secret": hmac(32) }), &[("secret", "scheme")]).await;
    refused(json!({ "headers": ["a"] }), &[("headers", "type")]).await;
    refused(json!({ "headers": { "x-a": 1 } }), &[("headers", "type")]).await;
    let headers = json!({ "Webhook-Id": "x", "a b": "x", "host": "x", "x-b": "a\nb" });
    let faults = [
        ("headers.Webhook-Id", "reserved"),
        ("headers.a b", "format"),
        ("headers.host", "reserved"),
        ("headers.x-b", "format"),
    ];
    refused(json!({ "headers": headers }), &faults).await;

    let (_, path) = acme.create(json!({})).await;
    let rotate = format!("{path}/secret/rotate");
    let body = json!({ "overlap_seconds": 604_801, "secret": "x", "grace_seconds": 1 });
    acme.post(&rotate, &body).await.expect_faults(&[
        ("secret", "format"),
        ("overlap_seconds", "range"),
        ("grace_seconds", "unknown"),
    ]);
    let body = json!({ "type": "a b", "payload": 1 });
    let test = acme.post(&format!("{path}/test"), &body).await;
    test.expect_faults(&[("type", "format"), ("payload", "unknown")]);
}

#[tokio::test]
async fn custom_headers_are_shown_to_their_owner_and_not_in_lists() {
    let acme = Acme::start().await;
    let (created, path) =
        acme.create(json!({ "headers": { "X-B": "2", "authorization": "s3cret" } })).await;
    assert_eq!(created["headers"], json!({ "authorization": "s3cret", "x-b": "2" }));
    let one = acme.server.get(&path, &acme.tenant.key).await;
    assert_eq!(one.expect(200)["headers"], created["headers"]);
    assert_eq!(one.header("cache-control"), "no-store");
    let list = acme.get("/api/endpoints").await.to_string();
    assert!(!list.contains("s3cret"), "{list}");

    let change = async |body: Value| {
        let answer = acme.server.patch(&path, &acme.tenant.key, body.to_string()).await;
        answer.expect(200)["headers"].clone()
    };
    assert_eq!(change(json!({ "description": "x" })).await, created["headers"]);
    assert_eq!(change(json!({ "headers": { "x-c": "" } })).await, json!({ "x-c": "" }));
    assert_eq!(change(json!({ "headers": null })).await, json!({}));
}

#[tokio::test]
async fn rotation_shows_the_new_secret_and_until_when_the_old_one_signs() {
    let acme = Acme::start().await;
    let (created, path) = acme.create(json!({})).await;
    let rotate = async |body: Value| acme.post(&format!("{path}/secret/rotate"), &body).await;
    let answer = acme.server.post(&format!("{path}/secret/rotate"), &acme.tenant.key, "{}").await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let first = answer.expect(200);
    assert_ne!(first["secret"], created["secret"]);
    let earlier = json!([{
        "signature": "hmac-sha256", "secret": created["secret"], "until": "2026-02-01T12:00:00Z",
    }]);
    assert_eq!(first["earlier"], earlier, "a day, unless it is named");
    assert_eq!(acme.get(&format!("{path}/secret")).await, first);

    let brought = SigningSecret::generate().unwrap().reveal();
    let second = rotate(json!({ "secret": brought, "overlap_seconds": 60 })).await.expect(200);
    assert_eq!(second["secret"], brought);
    let ends: Vec<_> = second["earlier"].as_array().unwrap().iter().map(|e| &e["until"]).collect();
    assert_eq!(ends, ["2026-01-31T12:01:00Z"; 2], "none outlasts the newest overlap");
    let third = rotate(json!({ "signature": "ed25519", "overlap_seconds": 60 })).await.expect(200);
    assert_eq!((&third["signature"], third.get("secret")), (&json!("ed25519"), None));
    let fourth = rotate(json!({ "overlap_seconds": 60 })).await;
    fourth.expect_problem(409, "too_many_secrets");

    acme.server.clock.advance(Duration::from_mins(1));
    assert_eq!(acme.get(&format!("{path}/secret")).await["earlier"], json!([]));
    let fourth = rotate(json!({ "overlap_seconds": 60 })).await.expect(200);
    assert_eq!(fourth["signature"], "ed25519", "like the one before");
    assert_eq!(fourth["earlier"][0]["public_key"], third["public_key"]);
    let last = rotate(json!({ "overlap_seconds": 0 })).await.expect(200);
    assert_eq!(last["earlier"], json!([]));
}

#[tokio::test]
async fn test_event_is_a_delivery_to_one_endpoint_whatever_its_filters() {
    let acme = Acme::start().await;
    let (created, path) = acme.create(json!({ "event_types": ["invoice.*"] })).await;
    acme.create(json!({})).await;
    let answer = acme.server.post(&format!("{path}/test"), &acme.tenant.key, "{}").await;
    let test = answer.expect(202);
    let location = format!("/api/deliveries/{}", text(&test["delivery_id"]));
    assert_eq!(answer.header("location"), location);
    assert_eq!(answer.header("ratelimit"), "\"default\";r=999;t=1", "it costs an event");
    let delivery = acme.get(&location).await;
    assert_eq!(
        (&delivery["endpoint_id"], &delivery["status"]),
        (&created["id"], &json!("pending"))
    );
    assert_eq!(delivery["event_id"], test["event_id"]);
    let event = acme.get(&format!("/api/events/{}", text(&test["event_id"]))).await;
    assert_eq!(
        (&event["type"], &event["payload"]),
        (&json!("hookgate.test"), &json!({"test":true}))
    );
    assert_eq!(event["trace_id"], answer.header("x-trace-id"));
    let deliveries = acme.server.list("/api/deliveries", &acme.tenant.key).await;
    assert_eq!(deliveries.len(), 1, "to no other endpoint");

    let named = acme.post(&format!("{path}/test"), &json!({ "type": "user.login" })).await;
    let named = named.expect(202);
    let event = acme.get(&format!("/api/events/{}", text(&named["event_id"]))).await;
    assert_eq!(event["type"], "user.login");

    let (key, own) = (&acme.tenant.key, "demo-123/{a}");
    let request = acme.server.request(reqwest::Method::POST, &format!("{path}/test"), key);
    let answer = server::answer(server::json(request.header("x-trace-id", own), "{}")).await;
    assert_eq!(answer.header("x-trace-id"), own);
    let traced = answer.expect(202);
    let event = acme.get(&format!("/api/events/{}", text(&traced["event_id"]))).await;
    assert_eq!(event["trace_id"], own);

    let operational = json!({ "type": "hookgate.endpoint.disabled" });
    let refused = acme.post(&format!("{path}/test"), &operational).await;
    refused.expect_faults(&[("type", "reserved")]);
    acme.post(&format!("{path}/test"), &json!({ "type": "hookgate.test" })).await.expect(202);
}

#[tokio::test]
async fn test_event_is_refused_where_it_cannot_be_sent() {
    let acme = Acme::start().await;
    let (_, path) = acme.create(json!({})).await;
    let disable = r#"{"enabled":false}"#;
    acme.server.patch(&path, &acme.tenant.key, disable).await.expect(200);
    let test = async |key: &str| acme.server.post(&format!("{path}/test"), key, "{}").await;
    test(&acme.tenant.key).await.expect_problem(409, "endpoint_disabled");
    assert!(acme.server.list("/api/events", &acme.tenant.key).await.is_empty());

    let limited = acme.server.tenant_limited("limited", Some(1)).await;
    let body = json!({ "url": "https://example.com" }).to_string();
    let created = acme.server.post("/api/endpoints", &limited.key, body).await.expect(201);
    let path = format!("/api/endpoints/{}/test", text(&created["id"]));
    acme.server.post(&path, &limited.key, "{}").await.expect(202);
    acme.server.post(&path, &limited.key, "{}").await.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn undecryptable_secrets_are_reported_as_such() {
    let acme = Acme::start().await;
    let (created, path) = acme.create(json!({ "headers": { "x-a": "b" } })).await;
    let url = format!("sqlite://{}", acme.server.database().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let sealed = "UPDATE endpoints SET secret = 'enc1.0123456789ab.AAAA'";
    connection.execute(sealed).await.unwrap();
    connection.close().await.unwrap();

    let get = async |path: &str| acme.server.get(path, &acme.tenant.key).await;
    get(&format!("{path}/secret")).await.expect_problem(503, "secrets_unreadable");
    let rotate = format!("{path}/secret/rotate");
    acme.post(&rotate, &json!({})).await.expect_problem(503, "secrets_unreadable");
    let one = acme.get(&path).await;
    assert_eq!((&one["signature"], &one["headers"]), (&Value::Null, &created["headers"]));
    let again = acme.post(&rotate, &json!({ "overlap_seconds": 0 })).await.expect(200);
    assert_eq!((again["signature"].as_str(), &again["earlier"]), (Some("hmac-sha256"), &json!([])));
}
