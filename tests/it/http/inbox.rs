//! Inboxes over the API.

use std::time::Duration;

use hookgate::domain::{Event, Role, Scope, Scopes};
use serde_json::{Value, json};

use crate::support::server::{Server, Tenant};

/// A server with an organisation that has opened its default inbox.
async fn opened() -> (Server, Tenant) {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    assert!(receive(&server, &tenant, "").await.is_empty());
    (server, tenant)
}

async fn receive(server: &Server, tenant: &Tenant, query: &str) -> Vec<Value> {
    let answer = server.get(&format!("/api/inbox{query}"), &tenant.key).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.expect(200)["data"].as_array().unwrap().clone()
}

async fn store(server: &Server, tenant: &Tenant, event_type: &str) -> Event {
    server.store_event(tenant.org_id, event_type, r#"{"n":1}"#).await
}

fn id(received: &Value) -> &str {
    received["id"].as_str().unwrap()
}

async fn add_inbox(server: &Server, tenant: &Tenant, mut settings: Value) -> String {
    settings["kind"] = json!("pull");
    let created = server.post("/api/endpoints", &tenant.key, settings.to_string()).await;
    created.expect(201)["id"].as_str().unwrap().to_owned()
}

async fn ack_all(server: &Server, tenant: &Tenant, ids: &[&str]) -> Value {
    let body = json!({ "ids": ids }).to_string();
    server.post("/api/ack", &tenant.key, body).await.expect(200)["data"].clone()
}

#[tokio::test]
async fn first_read_opens_the_default_inbox_which_holds_what_comes_then() {
    let server = Server::start_with(&["--endpoints-max=0"]).await;
    let tenant = server.tenant("acme").await;
    store(&server, &tenant, "early").await;
    assert!(receive(&server, &tenant, "").await.is_empty());
    let event = store(&server, &tenant, "user.login").await;
    let received = receive(&server, &tenant, "").await;
    let [one] = &received[..] else { panic!("{received:?}") };
    let expected = json!({
        "id": event.id,
        "type": "user.login",
        "payload": {"n": 1},
        "payload_bytes": 7,
        "payload_removed": false,
        "dedup_id": null,
        "account_id": null,
        "user_id": null,
        "timestamp": "2026-01-31T12:00:00Z",
        "received_at": "2026-01-31T12:00:00Z",
        "trace_id": event.trace_id.to_string(),
        "delivery_id": one["delivery_id"],
        "receive_count": 1,
        "lease_expires_at": "2026-01-31T12:00:30Z",
    });
    assert_eq!(one, &expected);
    let endpoints = server.list("/api/endpoints", &tenant.key).await;
    let [inbox] = &endpoints[..] else { panic!("{endpoints:?}") };
    assert_eq!((&inbox["kind"], &inbox["default_inbox"]), (&json!("pull"), &json!(true)));
    assert_eq!((&inbox["url"], &inbox["signature"]), (&Value::Null, &Value::Null));
    let acked = server.post(&format!("/api/ack/{}", event.id), &tenant.key, "").await.expect(200);
    assert_eq!(acked, json!({"id": event.id, "status": "acked"}));
    let path = format!("/api/deliveries/{}", one["delivery_id"].as_str().unwrap());
    assert_eq!(server.get(&path, &tenant.key).await.expect(200)["status"], "delivered");
}

#[tokio::test]
async fn consumers_share_and_what_is_not_acknowledged_comes_back() {
    let (server, tenant) = opened().await;
    for _ in 0..3 {
        store(&server, &tenant, "a").await;
    }
    let first = receive(&server, &tenant, "?limit=2&visibility_seconds=5").await;
    let second = receive(&server, &tenant, "").await;
    assert_eq!((first.len(), second.len()), (2, 1));
    assert!(first.iter().all(|received| id(received) != id(&second[0])));
    server.clock.advance(Duration::from_secs(5));
    let again = receive(&server, &tenant, "").await;
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|received| received["receive_count"] == 2));
    // Leases that are over, and events that are settled already.
    server.clock.advance(Duration::from_hours(1));
    let all = [id(&first[0]), id(&first[1]), id(&second[0])];
    for _ in 0..2 {
        let settled = ack_all(&server, &tenant, &all).await;
        let expected = all.map(|id| json!({"id": id, "status": "acked"}));
        assert_eq!(settled, json!(expected));
    }
    assert!(receive(&server, &tenant, "").await.is_empty());
    let metrics = &server.metrics.http;
    assert_eq!(metrics.hookgate_inbox_received_total.get(), 5);
}

#[tokio::test]
async fn event_that_cannot_be_acknowledged_says_why() {
    let (server, tenant) = opened().await;
    let event = store(&server, &tenant, "a").await;
    let ack = async |event: &str| server.post(&format!("/api/ack/{event}"), &tenant.key, "").await;
    let event = event.id.to_string();
    ack(&event).await.expect_problem(409, "not_acknowledged");
    ack("01890000-0000-7000-8000-000000000000").await.expect_problem(404, "not_found");
    ack("nonsense").await.expect_problem(404, "not_found");
    let unknown = "01890000-0000-7000-8000-000000000000";
    let settled = ack_all(&server, &tenant, &[&event, unknown]).await;
    assert_eq!(settled[0]["status"], "not_received");
    assert_eq!(settled[1]["status"], "unknown");
    let post =
        async |path: &str, body: Value| server.post(path, &tenant.key, body.to_string()).await;
    post("/api/ack", json!({})).await.expect_faults(&[("ids", "required")]);
    post("/api/ack", json!({"ids": []})).await.expect_faults(&[("ids", "type")]);
    post("/api/ack", json!({"ids": [event, 7, "x"]}))
        .await
        .expect_faults(&[("ids[1]", "format"), ("ids[2]", "format")]);
    post("/api/nack", json!({"ids": [event], "delay_seconds": 43_201}))
        .await
        .expect_faults(&[("delay_seconds", "range")]);
}

#[tokio::test]
async fn many_consumers_acknowledge_at_once() {
    let (server, tenant) = opened().await;
    for _ in 0..40 {
        store(&server, &tenant, "a").await;
    }
    let received = receive(&server, &tenant, "").await;
    let acks = received.iter().map(async |event| {
        // Each of them twice.
        let path = format!("/api/ack/{}", id(event));
        let (first, second) =
            tokio::join!(server.post(&path, &tenant.key, ""), server.post(&path, &tenant.key, ""));
        (first.expect(200), second.expect(200))
    });
    for (first, second) in futures_util::future::join_all(acks).await {
        assert_eq!((&first["status"], &second["status"]), (&json!("acked"), &json!("acked")));
    }
    let filter = "/api/deliveries?status=pending";
    assert!(server.list(filter, &tenant.key).await.is_empty());
}

#[tokio::test]
async fn events_are_given_back_with_a_delay() {
    let (server, tenant) = opened().await;
    let event = store(&server, &tenant, "a").await;
    receive(&server, &tenant, "").await;
    let nack = async |delay: u32| {
        let body = json!({"ids": [event.id], "delay_seconds": delay}).to_string();
        let answer = server.post("/api/nack", &tenant.key, body).await.expect(200);
        assert_eq!(answer["data"], json!([{"id": event.id, "status": "returned"}]));
    };
    nack(60).await;
    server.clock.advance(Duration::from_secs(59));
    assert!(receive(&server, &tenant, "").await.is_empty());
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(receive(&server, &tenant, "").await[0]["receive_count"], 2);
    nack(0).await;
    assert_eq!(receive(&server, &tenant, "").await[0]["receive_count"], 3);
}

#[tokio::test]
async fn event_received_too_often_is_a_dead_letter_whose_replay_comes_back() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let inbox = add_inbox(&server, &tenant, json!({"max_receives": 2})).await;
    let event = store(&server, &tenant, "a").await;
    let query = format!("?inbox={inbox}&visibility_seconds=1");
    for _ in 0..2 {
        assert_eq!(receive(&server, &tenant, &query).await.len(), 1);
        server.clock.advance(Duration::from_secs(1));
    }
    assert!(receive(&server, &tenant, &query).await.is_empty());
    assert_eq!(server.metrics.http.hookgate_inbox_exhausted_total.get(), 1);
    let path = format!("/api/ack/{}?inbox={inbox}", event.id);
    server.post(&path, &tenant.key, "").await.expect_problem(409, "not_acknowledged");
    let letters = server.list("/api/dead-letters", &tenant.key).await;
    assert_eq!(letters[0]["reason"], "exhausted");
    let replay = format!("/api/dead-letters/{}/replay", letters[0]["id"].as_str().unwrap());
    server.post(&replay, &tenant.key, "").await.expect(202);
    let again = receive(&server, &tenant, &query).await;
    assert_eq!((id(&again[0]), &again[0]["receive_count"]), (&*event.id.to_string(), &json!(1)));
    server.post(&path, &tenant.key, "").await.expect(200);
}

#[tokio::test]
async fn inbox_has_filters_order_and_types() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let some = add_inbox(&server, &tenant, json!({"event_types": ["user.*"]})).await;
    let ordered = add_inbox(&server, &tenant, json!({"ordered": true})).await;
    for event_type in ["user.login", "invoice.paid", "user.logout"] {
        store(&server, &tenant, event_type).await;
    }
    let types = async |query: String| {
        let received = receive(&server, &tenant, &query).await;
        received.iter().map(|one| one["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(types(format!("?inbox={some}&type=user.logout")).await, ["user.logout"]);
    assert_eq!(types(format!("?inbox={some}&type=user.*")).await, ["user.login"]);
    assert_eq!(types(format!("?inbox={ordered}")).await, ["user.login"]);
    assert_eq!(types(format!("?inbox={ordered}")).await.len(), 0, "one at a time");
    let get = async |query: &str| server.get(&format!("/api/inbox?{query}"), &tenant.key).await;
    let query = format!("inbox={ordered}&type=user.login");
    get(&query).await.expect_faults(&[("type", "ordered")]);
    get("limit=501&visibility_seconds=0&wait=31&type=a b&inbox=x&cursor=c").await.expect_faults(&[
        ("limit", "format"),
        ("visibility_seconds", "format"),
        ("type", "format"),
        ("wait", "format"),
        ("inbox", "format"),
        ("cursor", "unknown"),
    ]);
}

#[tokio::test]
async fn each_kind_of_endpoint_has_its_own_settings_and_routes() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let post =
        async |body: Value| server.post("/api/endpoints", &tenant.key, body.to_string()).await;
    let url = "https://example.com/";
    post(json!({"kind": "pull", "url": url})).await.expect_faults(&[("url", "kind")]);
    for (field, value) in [
        ("signature", json!("ed25519")),
        ("headers", json!({"x-a": "b"})),
        ("max_concurrency", json!(1)),
        ("rate_limit_per_second", json!(1)),
        ("retry_schedule", json!(["5s"])),
    ] {
        post(json!({"kind": "pull", field: value})).await.expect_faults(&[(field, "kind")]);
    }
    post(json!({"url": url, "max_receives": 3})).await.expect_faults(&[("max_receives", "kind")]);
    post(json!({"kind": "push"})).await.expect_faults(&[("kind", "format"), ("url", "required")]);
    post(json!({"kind": "pull", "max_receives": 0, "visibility_seconds": 43_201}))
        .await
        .expect_faults(&[("visibility_seconds", "range"), ("max_receives", "range")]);
    let settings = json!({"kind": "pull", "max_receives": 3, "visibility_seconds": 60});
    let inbox = post(settings).await.expect(201);
    assert_eq!(inbox.get("secret"), None);
    assert_eq!((&inbox["max_receives"], &inbox["visibility_seconds"]), (&json!(3), &json!(60)));
    let path = format!("/api/endpoints/{}", inbox["id"].as_str().unwrap());
    let change =
        async |path: &str, body: Value| server.patch(path, &tenant.key, body.to_string()).await;
    change(&path, json!({"url": url})).await.expect_faults(&[("url", "kind")]);
    change(&path, json!({"kind": "webhook"})).await.expect_faults(&[("kind", "read_only")]);
    let changed = change(&path, json!({"max_receives": null, "ordered": true})).await.expect(200);
    assert_eq!((&changed["max_receives"], &changed["ordered"]), (&Value::Null, &json!(true)));
    let refused = async |method: &str, path: String| {
        let answer = match method {
            "GET" => server.get(&path, &tenant.key).await,
            _ => server.post(&path, &tenant.key, "{}").await,
        };
        answer.expect_problem(409, "webhook_endpoint_required");
    };
    refused("GET", format!("{path}/secret")).await;
    refused("POST", format!("{path}/secret/rotate")).await;
    refused("POST", format!("{path}/test")).await;
    let webhook = post(json!({"url": url})).await.expect(201);
    let webhook = webhook["id"].as_str().unwrap();
    change(&format!("/api/endpoints/{webhook}"), json!({"visibility_seconds": 5}))
        .await
        .expect_faults(&[("visibility_seconds", "kind")]);
    let query = format!("/api/inbox?inbox={webhook}");
    server.get(&query, &tenant.key).await.expect_problem(409, "pull_endpoint_required");
}

#[tokio::test]
async fn scope_is_needed_and_enough() {
    let (server, tenant) = opened().await;
    let role = Role::Tenant(tenant.org_id);
    let (_, consumer) = server.key_for(role, Scopes::of(Scope::InboxConsume)).await;
    server.get("/api/inbox", &consumer).await.expect(200);
    server.get("/api/events", &consumer).await.expect_problem(403, "scope_required");
    let (_, reader) = server.key_for(role, Scopes::of(Scope::EventsRead)).await;
    server.get("/api/inbox", &reader).await.expect_problem(403, "scope_required");
}

#[tokio::test]
async fn head_receives_nothing() {
    let (server, tenant) = opened().await;
    store(&server, &tenant, "a").await;
    let head = server.request(reqwest::Method::HEAD, "/api/inbox", &tenant.key);
    assert_eq!(head.send().await.unwrap().status(), 200);
    assert_eq!(receive(&server, &tenant, "").await[0]["receive_count"], 1);
}

#[tokio::test]
async fn disabled_inbox_says_so_and_one_paused_for_idleness_is_resumed_by_a_read() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let inbox = add_inbox(&server, &tenant, json!({})).await;
    let (path, query) = (format!("/api/endpoints/{inbox}"), format!("?inbox={inbox}"));
    server.patch(&path, &tenant.key, r#"{"enabled":false}"#).await.expect(200);
    let answer = server.get(&format!("/api/inbox{query}"), &tenant.key).await;
    let problem = answer.expect_problem(409, "endpoint_disabled");
    assert_eq!(problem["detail"], "the inbox is disabled: disabled by its owner");
    server.patch(&path, &tenant.key, r#"{"enabled":true}"#).await.expect(200);
    assert!(receive(&server, &tenant, &query).await.is_empty());
    server.clock.advance(Duration::from_hours(24 * 7));
    let now = server.clock.now();
    let idle_since = now.minus(Duration::from_hours(1));
    let paused = server.store.system().pause_idle_inboxes(idle_since, now).await.unwrap();
    assert_eq!(paused.len(), 1);
    let shown = server.get(&path, &tenant.key).await.expect(200);
    assert_eq!(shown["enabled"], false);
    store(&server, &tenant, "a").await;
    assert!(receive(&server, &tenant, &query).await.is_empty(), "nothing was kept meanwhile");
    assert_eq!(server.get(&path, &tenant.key).await.expect(200)["enabled"], true);
    store(&server, &tenant, "a").await;
    assert_eq!(receive(&server, &tenant, &query).await.len(), 1);
}

#[tokio::test]
async fn waits_are_bounded_and_end_at_the_stop() {
    let server = Server::start_with(&["--streams-per-org=1", "--request-timeout=50ms"]).await;
    let tenant = server.tenant("acme").await;
    receive(&server, &tenant, "").await;
    let waiting = server.request(reqwest::Method::GET, "/api/inbox?wait=30", &tenant.key);
    let mut waits = tokio::task::JoinSet::new();
    waits.spawn(waiting.send());
    let open = &server.metrics.http.hookgate_streams_open;
    crate::support::wait::until("it waits", async || open.get() == 1).await;
    server.get("/api/inbox?wait=30", &tenant.key).await.expect_problem(429, "too_many_streams");
    // Another organisation has its own share, and what does not wait is answered.
    assert!(receive(&server, &tenant, "").await.is_empty());
    let other = server.tenant("other").await;
    let watch = hookgate::runtime::Stopwatch::start();
    assert!(receive(&server, &other, "?wait=1").await.is_empty());
    assert!(watch.elapsed() >= Duration::from_secs(1), "beyond the time of other requests");
    server.app.request_stop();
    let answer = waits.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), r#"{"data":[]}"#);
}

#[tokio::test]
async fn reads_that_find_nothing_are_limited() {
    let server = Server::start_with(&["--read-rate-limit-per-minute=12"]).await;
    let tenant = server.tenant("acme").await;
    for _ in 0..2 {
        assert!(receive(&server, &tenant, "").await.is_empty());
    }
    server.get("/api/inbox", &tenant.key).await.expect_problem(429, "read_rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_are_counted_as_delivered() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    receive(&server, &tenant, "").await;
    let event = server.store_event(tenant.org_id, "a", "1").await;
    assert_eq!(receive(&server, &tenant, "").await.len(), 1);
    let ack = format!("/api/ack/{}", event.id);
    server.post(&ack, &tenant.key, "").await.expect(200);
    let inbox = server.list("/api/endpoints", &tenant.key).await.remove(0);
    let stats = format!("/api/endpoints/{}/stats", inbox["id"].as_str().unwrap());
    let stats = server.get(&stats, &tenant.key).await.expect(200);
    assert_eq!((&stats["last_hour"]["delivered"], &stats["pending"]), (&json!(1), &json!(0)));
}
