//! Limits of what a tenant may have and change, and of the events of a key and of a type, over HTTP.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::server::{Server, Tenant};

const ENDPOINT: &str = r#"{"url":"https://example.com/"}"#;
const KEY: &str = r#"{"name":"made"}"#;

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn event(event_type: &str) -> String {
    json!({"type": event_type, "payload": {}}).to_string()
}

fn batch(types: &[&str]) -> String {
    let events: Vec<_> = types.iter().map(|name| json!({"type": name, "payload": {}})).collect();
    json!({ "events": events }).to_string()
}

/// Changes the organisation as an operator.
async fn change(server: &Server, tenant: &Tenant, body: Value) -> Value {
    let operator = server.operator().await;
    let path = format!("/api/admin/orgs/{}", tenant.org_id);
    server.patch(&path, &operator, body.to_string()).await.expect(200)
}

/// What `GET /api/org` tells of this limit.
async fn own(server: &Server, tenant: &Tenant, limit: &str) -> Value {
    server.get("/api/org", &tenant.key).await.expect(200)["limits"][limit].clone()
}

#[tokio::test]
async fn organisation_above_the_default_quotas_keeps_what_it_has_and_adds_none() {
    let server = Server::start_with(&["--endpoints-max=2", "--keys-max=2"]).await;
    let tenant = server.tenant("acme").await;
    change(&server, &tenant, json!({"endpoints_max": 3, "keys_max": 3})).await;
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(server.post("/api/endpoints", &tenant.key, ENDPOINT).await.expect(201));
    }
    for _ in 0..2 {
        server.post("/api/keys", &tenant.key, KEY).await.expect(201);
    }
    change(&server, &tenant, json!({"endpoints_max": null, "keys_max": null})).await;
    for (path, body, name) in
        [("/api/endpoints", ENDPOINT, "endpoints_max"), ("/api/keys", KEY, "keys_max")]
    {
        let answer = server.post(path, &tenant.key, body).await;
        let problem = answer.expect_problem(409, "quota_reached");
        assert!(text(&problem["detail"]).contains(name), "{problem}");
        assert_eq!(server.list(path, &tenant.key).await.len(), 3);
    }
    let quotas = server.get("/api/org", &tenant.key).await.expect(200)["quotas"].clone();
    let full = json!({"limit": 2, "used": 3, "left": 0});
    assert_eq!((&quotas["endpoints"], &quotas["keys"]), (&full, &full));
    for endpoint in &endpoints[..2] {
        let path = format!("/api/endpoints/{}", text(&endpoint["id"]));
        assert_eq!(server.delete(&path, &tenant.key).await.status, 204);
    }
    server.post("/api/endpoints", &tenant.key, ENDPOINT).await.expect(201);
    server.post("/api/endpoints", &tenant.key, ENDPOINT).await.expect_problem(409, "quota_reached");
}

#[tokio::test]
async fn deliveries_may_be_ten_times_the_events_unless_an_operator_says_otherwise() {
    let server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(30)).await;
    let told = async || own(&server, &tenant, "deliveries_per_minute").await;
    assert_eq!(told().await, 300);
    assert_eq!(own(&server, &tenant, "deliveries_left_now").await, 300);
    let changed = change(&server, &tenant, json!({"deliveries_per_minute": 7})).await;
    assert_eq!((&changed["deliveries_per_minute"], told().await), (&json!(7), json!(7)));
    change(&server, &tenant, json!({"deliveries_per_minute": null})).await;
    assert_eq!(told().await, 300);
}

/// Events to six endpoints, where seven deliveries a minute may be planned.
#[tokio::test]
async fn planned_deliveries_are_charged_when_events_are_accepted() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    change(&server, &tenant, json!({"deliveries_per_minute": 7})).await;
    for types in [r#""six""#; 5].into_iter().chain([r#""six","one""#]) {
        let endpoint = format!(r#"{{"url":"https://example.com/","event_types":[{types}]}}"#);
        server.post("/api/endpoints", &tenant.key, endpoint).await.expect(201);
    }
    let left = async || own(&server, &tenant, "deliveries_left_now").await.as_u64().unwrap();
    let post = async |name| server.post("/api/events", &tenant.key, event(name)).await;

    assert_eq!(left().await, 7);
    let over = batch(&["six", "six"]);
    let answer = server.post("/api/events/batch", &tenant.key, over).await;
    let problem = answer.expect_problem(429, "batch_over_delivery_limit");
    assert_eq!(
        problem["detail"],
        "the batch would become 12 deliveries; at most 7 can be planned at once; send smaller batches"
    );
    assert_eq!(left().await, 7, "what is refused takes nothing");
    post("six").await.expect(202);
    assert!((1..7).contains(&left().await));
    let answer = post("six").await;
    let problem = answer.expect_problem(429, "delivery_rate_limited");
    let detail = text(&problem["detail"]);
    assert!(detail.starts_with("the limit of 7 deliveries per minute"), "{problem}");
    assert_eq!(answer.header("ratelimit-policy"), "\"deliveries\";q=7;w=60");
    assert!(answer.header("ratelimit").starts_with("\"deliveries\";r="), "{answer:?}");
    assert!((1..=60).contains(&answer.header("retry-after").parse().unwrap()), "{answer:?}");
    let same = server.post("/api/events/batch", &tenant.key, batch(&["six"])).await;
    same.expect_problem(429, "delivery_rate_limited");
    // What fewer endpoints get passes, and so does what none does.
    post("one").await.expect(202);
    post("none").await.expect(202);
}

/// It cannot be sent in parts.
#[tokio::test]
async fn event_to_more_endpoints_than_the_limit_of_deliveries_takes_all_of_it() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    change(&server, &tenant, json!({"deliveries_per_minute": 2})).await;
    for _ in 0..3 {
        server.post("/api/endpoints", &tenant.key, ENDPOINT).await.expect(201);
    }
    server.post("/api/events", &tenant.key, event("a")).await.expect(202);
    assert_eq!(own(&server, &tenant, "deliveries_left_now").await, 0);
    let answer = server.post("/api/events", &tenant.key, event("a")).await;
    answer.expect_problem(429, "delivery_rate_limited");
}

#[tokio::test]
async fn changes_of_one_tenant_are_limited_and_those_of_others_and_of_operators_are_not() {
    let server = Server::start_with(&["--write-rate-limit-per-minute=1"]).await;
    let (tenant, other) = (server.tenant("acme").await, server.tenant("other").await);
    let operator = server.operator().await;
    let made = server.post("/api/endpoints", &tenant.key, ENDPOINT).await.expect(201);
    let secret = format!("/api/endpoints/{}/secret", text(&made["id"]));
    let of_endpoint = |action: &str| format!("/api/endpoints/{}{action}", text(&made["id"]));
    for path in [
        "/api/endpoints".to_owned(),
        of_endpoint("/secret/rotate"),
        of_endpoint("/test"),
        of_endpoint("/replay"),
        "/api/dead-letters/replay".to_owned(),
        "/api/keys".to_owned(),
    ] {
        let answer = server.post(&path, &tenant.key, KEY).await;
        let problem = answer.expect_problem(429, "write_rate_limited");
        assert!(
            text(&problem["detail"]).starts_with("the limit of 1 changes per minute"),
            "{problem}"
        );
        assert_eq!(answer.header("ratelimit-policy"), "\"writes\";q=1;w=60");
        assert!(answer.header("ratelimit").starts_with("\"writes\";r=0;t="), "{answer:?}");
        assert!((1..=60).contains(&answer.header("retry-after").parse().unwrap()), "{answer:?}");
    }
    server.get(&secret, &tenant.key).await.expect_problem(429, "write_rate_limited");
    let path = of_endpoint("");
    server.delete(&path, &tenant.key).await.expect_problem(429, "write_rate_limited");
    // Reading and posting events go on, and so does everybody else.
    server.get(&path, &tenant.key).await.expect(200);
    assert_eq!(own(&server, &tenant, "changes_left_now").await, 0);
    server.post("/api/events", &tenant.key, event("a")).await.expect(202);
    server.post("/api/events/raw", &tenant.key, "x").await.expect(202);
    server.post("/api/events/batch", &tenant.key, batch(&["a"])).await.expect(202);
    server.post("/api/endpoints", &other.key, ENDPOINT).await.expect(201);
    let name = r#"{"name":"new"}"#;
    server.post("/api/admin/orgs", &operator, name).await.expect(201);
    let answer = server.post("/api/admin/orgs", &operator, name).await;
    answer.expect_problem(429, "write_rate_limited");
}

#[tokio::test]
async fn key_may_have_a_rate_below_that_of_its_organisation() {
    let server = Server::start().await;
    let (tenant, operator) =
        (server.tenant_limited("acme", Some(10)).await, server.operator().await);
    let body = r#"{"name":"slow","rate_limit_per_minute":2}"#;
    let slow = server.post("/api/keys", &tenant.key, body).await.expect(201);
    assert_eq!(slow["rate_limit_per_minute"], 2);
    let path = format!("/api/keys/{}", text(&slow["id"]));
    assert_eq!(server.get(&path, &tenant.key).await.expect(200)["rate_limit_per_minute"], 2);
    let key = text(&slow["key"]);
    let org = server.get("/api/org", key).await.expect(200);
    assert_eq!(org["key"]["rate_limit_per_minute"], 2);

    server
        .post("/api/events/batch", key, batch(&["a", "a", "a"]))
        .await
        .expect_problem(429, "batch_over_rate_limit");
    for _ in 0..2 {
        server.post("/api/events", key, event("a")).await.expect(202);
    }
    for _ in 0..20 {
        let answer = server.post("/api/events", key, event("a")).await;
        answer.expect_problem(429, "key_rate_limited");
        assert_eq!(answer.header("ratelimit-policy"), "\"key\";q=2;w=60");
    }
    assert!(own(&server, &tenant, "events_left_now").await.as_u64() >= Some(8));
    server.post("/api/events", &tenant.key, event("a")).await.expect(202);

    let rotated = server.post(&format!("{path}/rotate"), &tenant.key, "{}").await.expect(201);
    assert_eq!(rotated["rate_limit_per_minute"], 2);
    let of_org = format!("/api/admin/orgs/{}/keys", tenant.org_id);
    let made = server.post(&of_org, &operator, body).await.expect(201);
    assert_eq!(made["rate_limit_per_minute"], 2);
    let zero = r#"{"name":"none","rate_limit_per_minute":0}"#;
    let answer = server.post("/api/keys", &tenant.key, zero).await;
    answer.expect_faults(&[("rate_limit_per_minute", "range")]);
}

#[tokio::test]
async fn event_type_may_have_a_rate_below_that_of_its_organisation() {
    let server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(10)).await;
    let rates = json!({"noisy": 2, "user.login": 50});
    let changed = change(&server, &tenant, json!({ "event_type_rates": rates })).await;
    assert_eq!(changed["event_type_rates"], rates);
    assert_eq!(own(&server, &tenant, "event_type_rates").await, rates);
    // What was read may be sent back.
    change(&server, &tenant, changed).await;

    for _ in 0..2 {
        server.post("/api/events", &tenant.key, event("noisy")).await.expect(202);
    }
    for _ in 0..20 {
        let answer = server.post("/api/events", &tenant.key, event("noisy")).await;
        answer.expect_problem(429, "event_type_rate_limited");
    }
    let answer = server.post("/api/events", &tenant.key, event("noisy")).await;
    let problem = answer.expect_problem(429, "event_type_rate_limited");
    assert!(text(&problem["detail"]).contains("of the type noisy"), "{problem}");
    assert_eq!(answer.header("ratelimit-policy"), "\"event-type\";q=2;w=60");
    let mixed = batch(&["noisy", "quiet"]);
    let answer = server.post("/api/events/batch", &tenant.key, mixed).await;
    answer.expect_problem(429, "event_type_rate_limited");
    let over = batch(&["noisy", "noisy", "noisy"]);
    let answer = server.post("/api/events/batch", &tenant.key, over).await;
    answer.expect_problem(429, "batch_over_rate_limit");
    assert!(own(&server, &tenant, "events_left_now").await.as_u64() >= Some(8));
    let others = batch(&["quiet", "user.login"]);
    server.post("/api/events/batch", &tenant.key, others).await.expect(202);
    server.post("/api/events", &tenant.key, event("quiet")).await.expect(202);

    change(&server, &tenant, json!({"event_type_rates": null})).await;
    server.post("/api/events", &tenant.key, event("noisy")).await.expect(202);
    assert_eq!(own(&server, &tenant, "event_type_rates").await, json!({}));
    let operator = server.operator().await;
    let path = format!("/api/admin/orgs/{}", tenant.org_id);
    for (wrong, code) in [
        (json!([]), "type"),
        (json!({"a b": 1}), "format"),
        (json!({"a": 0}), "range"),
        (json!({"a": "1"}), "range"),
    ] {
        let body = json!({ "event_type_rates": wrong }).to_string();
        let answer = server.patch(&path, &operator, body).await;
        answer.expect_faults(&[("event_type_rates", code)]);
    }
}

#[tokio::test]
async fn organisation_lowers_rates_of_its_event_types_and_raises_none() {
    let server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(100)).await;
    change(&server, &tenant, json!({"event_type_rates": {"noisy": 2, "busy": 50}})).await;
    let patch = async |body: Value| server.patch("/api/org", &tenant.key, body.to_string()).await;
    let own_rates = json!({"noisy": 60, "busy": 3, "login": 1});
    let changed = patch(json!({ "own_event_type_rates": own_rates })).await.expect(200);
    assert_eq!(changed["own_event_type_rates"], own_rates);
    let lower = json!({"noisy": 2, "busy": 3, "login": 1});
    assert_eq!(changed["limits"]["event_type_rates"], lower);
    assert_eq!(own(&server, &tenant, "event_type_rates").await, lower);
    let same = json!({"name": "acme", "own_event_type_rates": own_rates});
    patch(same).await.expect(200);
    for (event_type, most) in [("noisy", 2), ("busy", 3), ("login", 1)] {
        for _ in 0..most {
            server.post("/api/events", &tenant.key, event(event_type)).await.expect(202);
        }
        let answer = server.post("/api/events", &tenant.key, event(event_type)).await;
        answer.expect_problem(429, "event_type_rate_limited");
    }
    let operator = server.operator().await;
    let of_org = format!("/api/admin/orgs/{}", tenant.org_id);
    let seen = server.get(&of_org, &operator).await.expect(200);
    assert_eq!(seen["own_event_type_rates"], own_rates);
    let by_tenant = server.get("/api/audit?limit=1", &tenant.key).await.expect(200);
    assert_eq!(by_tenant["data"][0]["action"], "org.update", "{by_tenant}");
    assert_eq!(by_tenant["data"][0]["changes"], json!({ "own_event_type_rates": own_rates }));

    let reset = patch(json!({"own_event_type_rates": null})).await.expect(200);
    assert_eq!(reset["limits"]["event_type_rates"], json!({"noisy": 2, "busy": 50}));
    server.post("/api/events", &tenant.key, event("login")).await.expect(202);
    let wrong = patch(json!({"own_event_type_rates": {"a": 0}})).await;
    wrong.expect_faults(&[("own_event_type_rates", "range")]);
    let answer = patch(json!({"rate_limit_per_minute": 5})).await;
    answer.expect_faults(&[("rate_limit_per_minute", "unknown")]);
    let weak = r#"{"name":"weak","scopes":["events:write","endpoints:manage"]}"#;
    let weak = server.post("/api/keys", &tenant.key, weak).await.expect(201);
    let answer = server.patch("/api/org", text(&weak["key"]), "{}").await;
    answer.expect_problem(403, "scope_required");
}

#[tokio::test]
async fn event_over_its_organisations_rate_is_refused_before_its_type_is_known() {
    let server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(1)).await;
    change(&server, &tenant, json!({"event_type_rates": {"noisy": 5}})).await;
    server.post("/api/events", &tenant.key, event("noisy")).await.expect(202);
    let answer = server.post("/api/events", &tenant.key, "no json").await;
    answer.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn one_organisation_that_creates_many_keys_keeps_nobody_else_from_it() {
    let server = Server::start().await;
    let (tenant, other) = (server.tenant("acme").await, server.tenant("other").await);
    let operator = server.operator().await;
    let of_org = format!("/api/admin/orgs/{}/keys", other.org_id);
    let many = join_all((0..90).map(|_| server.post("/api/keys", &tenant.key, KEY)));
    let others = async {
        for _ in 0..3 {
            server.post("/api/keys", &other.key, KEY).await.expect(201);
            server.post(&of_org, &operator, KEY).await.expect(201);
        }
    };
    let (many, ()) = tokio::join!(many, others);
    for answer in &many {
        if answer.status != 201 {
            answer.expect_problem(503, "auth_unavailable");
        }
    }
    assert!(many.iter().any(|answer| answer.status == 201));
}
