//! Endpoints over the API.

use hookgate::api::{Refusal, Subsystems, endpoints};
use hookgate::config::DestinationConfig;
use hookgate::delivery::SsrfGuard;
use hookgate::domain::{Actor, NewEndpoint, SigningSecret};
use serde_json::{Value, json};

use crate::support::server::{Server, Tenant};

async fn create(server: &Server, tenant: &Tenant, body: Value) -> Value {
    server.post("/api/endpoints", &tenant.key, body.to_string()).await.expect(201)
}

#[tokio::test]
async fn endpoint_is_created_with_a_secret_that_is_shown_once_and_on_request() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = json!({"url":"https://example.com/hooks","event_types":["user.*","a"],"description":"ours"});
    let answer = server.post("/api/endpoints", &tenant.key, body.to_string()).await;
    let created = answer.expect(201);
    let id = created["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/api/endpoints/{id}"));
    assert_eq!(answer.header("cache-control"), "no-store");
    let secret = created["secret"].as_str().unwrap();
    assert!(secret.parse::<SigningSecret>().is_ok());
    assert_eq!(created["url"], "https://example.com/hooks");
    assert_eq!(created["event_types"], json!(["user.*", "a"]));
    assert_eq!(created["description"], "ours");
    assert_eq!(created["enabled"], true);
    assert_eq!(created["disabled_reason"], Value::Null);
    assert_eq!(created["created_at"], "2026-01-31T12:00:00Z");

    let answer = server.get(&format!("/api/endpoints/{id}/secret"), &tenant.key).await;
    let shown = json!({"id": id, "signature": "hmac-sha256", "secret": secret, "earlier": []});
    assert_eq!(answer.expect(200), shown);
    assert_eq!(answer.header("cache-control"), "no-store");

    let mut without_secret = created.clone();
    without_secret.as_object_mut().unwrap().remove("secret");
    let one = server.get(&format!("/api/endpoints/{id}"), &tenant.key).await.expect(200);
    assert_eq!(one, without_secret);
    without_secret.as_object_mut().unwrap().remove("headers");
    for (field, value) in [("pending_count", json!(0)), ("paused_until", json!(null))] {
        assert_eq!(without_secret.as_object_mut().unwrap().remove(field), Some(value));
    }
    assert_eq!(server.list("/api/endpoints", &tenant.key).await, [without_secret]);
}

#[tokio::test]
async fn endpoint_may_bring_its_secret_and_leave_out_the_rest() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let body = json!({"url":"https://example.com","secret":secret,"description":null});
    let created = create(&server, &tenant, body).await;
    assert_eq!(created["secret"], secret);
    assert_eq!(created["event_types"], json!([]));
    assert_eq!(created["description"], Value::Null);
}

#[tokio::test]
async fn violations_of_an_endpoint_are_all_listed() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = json!({
        "url": "http://example.com",
        "event_types": ["ok", "not ok", 7],
        "description": "x".repeat(513),
        "secret": "whsec_short",
        "enabled": true,
    });
    server.post("/api/endpoints", &tenant.key, body.to_string()).await.expect_faults(&[
        ("url", "scheme"),
        ("event_types[1]", "format"),
        ("event_types[2]", "format"),
        ("description", "length"),
        ("secret", "format"),
        ("enabled", "unknown"),
    ]);
    let post = async |body: &'static str| server.post("/api/endpoints", &tenant.key, body).await;
    post("{}").await.expect_faults(&[("url", "required")]);
    post(r#"{"url":7,"event_types":"a"}"#)
        .await
        .expect_faults(&[("url", "type"), ("event_types", "type")]);
    post(r#"{"url":"https://a.example","url":"https://b.example"}"#)
        .await
        .expect_faults(&[("url", "repeated")]);
    post("[]").await.expect_faults(&[("", "type")]);
    post("{\n").await.expect_problem(400, "malformed_json");
    assert!(server.list("/api/endpoints", &tenant.key).await.is_empty());
}

#[tokio::test]
async fn private_endpoints_may_be_allowed() {
    let server = Server::start_with(&["--allow-private-endpoints=true"]).await;
    let tenant = server.tenant("acme").await;
    let created = create(&server, &tenant, json!({"url":"http://127.0.0.1:9000/"})).await;
    assert_eq!(created["url"], "http://127.0.0.1:9000/");
}

#[tokio::test]
async fn patch_changes_only_the_fields_that_are_sent() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = json!({"url":"https://example.com/a","event_types":["a"],"description":"one"});
    let created = create(&server, &tenant, body).await;
    let path = format!("/api/endpoints/{}", created["id"].as_str().unwrap());
    let change = async |body: Value| server.patch(&path, &tenant.key, body.to_string()).await;

    let changed = change(json!({"description":"two"})).await.expect(200);
    assert_eq!(changed["description"], "two");
    assert_eq!(changed["url"], created["url"]);
    assert_eq!(changed["event_types"], created["event_types"]);
    assert!(changed.get("secret").is_none());

    let changed =
        change(json!({"description":null,"event_types":[],"enabled":false})).await.expect(200);
    assert_eq!(changed["description"], Value::Null);
    assert_eq!(changed["event_types"], json!([]));
    assert_eq!(changed["enabled"], false);
    assert_eq!(changed["disabled_reason"], "disabled by its owner");

    let changed = change(json!({"url":"https://example.com/b","enabled":true})).await.expect(200);
    assert_eq!(changed["url"], "https://example.com/b");
    assert_eq!(changed["disabled_reason"], Value::Null);

    change(json!({"url":null,"enabled":"yes","secret":"x"})).await.expect_faults(&[
        ("enabled", "type"),
        ("url", "type"),
        ("secret", "unknown"),
    ]);
    assert_eq!(server.get(&path, &tenant.key).await.expect(200), changed);
}

#[tokio::test]
async fn removed_endpoint_is_gone() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let created = create(&server, &tenant, json!({"url":"https://example.com"})).await;
    let path = format!("/api/endpoints/{}", created["id"].as_str().unwrap());
    let answer = server.delete(&path, &tenant.key).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""));
    server.delete(&path, &tenant.key).await.expect_problem(404, "not_found");
    server.get(&path, &tenant.key).await.expect_problem(404, "not_found");
    server.get(&format!("{path}/secret"), &tenant.key).await.expect_problem(404, "not_found");
    server.patch(&path, &tenant.key, "{}").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn endpoints_are_listed_in_pages_from_newest_to_oldest() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let mut created = Vec::new();
    for number in 0..5 {
        let body = json!({"url": format!("https://example.com/{number}")});
        created.insert(0, create(&server, &tenant, body).await["url"].clone());
        server.clock.advance(std::time::Duration::from_secs(1));
    }
    let listed = server.list("/api/endpoints", &tenant.key).await;
    let urls: Vec<_> = listed.iter().map(|endpoint| endpoint["url"].clone()).collect();
    assert_eq!(urls, created);
}

#[tokio::test]
async fn address_that_is_not_public_is_refused_when_it_is_set() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let created = create(&server, &tenant, json!({"url":"https://1.1.1.1/"})).await;
    let path = format!("/api/endpoints/{}", created["id"].as_str().unwrap());
    let cli = Subsystems::without_server(server.store.clone(), server.clock.clone());
    let add = async |url: &str, allow_private: bool| {
        let destinations =
            DestinationConfig { allow_private_endpoints: allow_private, ..Default::default() };
        let url = SsrfGuard::new(&destinations).parse_url(url)?;
        endpoints::create(&cli, tenant.org_id, NewEndpoint::new(url), &Actor::CLI).await
    };
    for host in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "2130706433", "[::1]", "[fd00::1]"] {
        let url = format!("https://{host}/hook");
        let body = json!({ "url": url }).to_string();
        let answer = server.post("/api/endpoints", &tenant.key, body.clone()).await;
        answer.expect_faults(&[("url", "address")]);
        server.patch(&path, &tenant.key, body).await.expect_faults(&[("url", "address")]);
        let Err(Refusal::Invalid(violation)) = add(&url, false).await else {
            panic!("{url} is taken from operators");
        };
        assert_eq!((violation.field.as_str(), violation.code), ("url", "address"));
    }
    assert_eq!(server.get(&path, &tenant.key).await.expect(200)["url"], "https://1.1.1.1/");
    assert_eq!(server.list("/api/endpoints", &tenant.key).await.len(), 1);
    add("https://127.0.0.1/", true).await.unwrap();
}

#[tokio::test]
async fn owner_says_how_deliveries_are_made_and_takes_it_back() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let created = create(&server, &tenant, json!({"url":"https://1.1.1.1/"})).await;
    for field in ["max_concurrency", "rate_limit_per_second", "retry_schedule", "failing_since"] {
        assert_eq!(created[field], Value::Null, "{field}");
    }
    assert_eq!(created["ordered"], false);
    let path = format!("/api/endpoints/{}", created["id"].as_str().unwrap());
    let own = json!({
        "max_concurrency": 4,
        "rate_limit_per_second": 50,
        "retry_schedule": ["10s", "5m"],
        "ordered": true,
    });
    let changed = server.patch(&path, &tenant.key, own.to_string()).await.expect(200);
    for (field, value) in own.as_object().unwrap() {
        assert_eq!(&changed[field], value, "{field}");
    }
    let back = json!({"max_concurrency":null,"rate_limit_per_second":null,"retry_schedule":null});
    let changed = server.patch(&path, &tenant.key, back.to_string()).await.expect(200);
    assert_eq!(
        (&changed["max_concurrency"], &changed["retry_schedule"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(changed["ordered"], true, "what is not named stays");

    let wrong = json!({
        "max_concurrency": 0,
        "rate_limit_per_second": 10_001,
        "retry_schedule": ["5", "31d"],
        "ordered": "yes",
    });
    let answer = server.patch(&path, &tenant.key, wrong.to_string()).await;
    answer.expect_faults(&[
        ("max_concurrency", "range"),
        ("rate_limit_per_second", "range"),
        ("retry_schedule[0]", "format"),
        ("retry_schedule[1]", "range"),
        ("ordered", "type"),
    ]);
}
