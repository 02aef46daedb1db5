//! No tenant reads, changes or learns of another: every route, asked by the wrong one.

use hookgate::domain::{DeadReason, Decision, Outcome, Timestamp};
use serde_json::{Value, json};

use crate::support::server::{Answer, Server};

/// Every route that names a thing, and every list, asked by a stranger for what is acme's.
#[tokio::test]
async fn stranger_finds_nothing_and_changes_nothing() {
    let server = Server::start().await;
    let (acme, stranger) = (server.tenant("acme").await, server.tenant("stranger").await);
    let body = json!({"url":"https://example.com/hooks"}).to_string();
    let endpoint = server.post("/api/endpoints", &acme.key, body).await.expect(201);
    let endpoint = format!("/api/endpoints/{}", endpoint["id"].as_str().unwrap());
    let event = server.store_event(acme.org_id, "a", r#""private""#).await;
    let leased = server.claim().await.remove(0);
    let outcome = Outcome {
        delivery_id: leased.id,
        org_id: acme.org_id,
        endpoint_id: leased.endpoint.id,
        endpoint_version: leased.endpoint.version,
        event_received_at: event.received_at,
        labels: None,
        token: leased.lease.token,
        attempt: None,
        decision: Decision::Dead(DeadReason::Gone),
        decided_at: server.clock.now(),
        disable_if_failing_since: Timestamp::from_micros(0),
    };
    server.store.system().record_outcomes(&[outcome]).await.unwrap();
    let event_path = format!("/api/events/{}", event.id);
    let delivery = format!("/api/deliveries/{}", leased.id);
    let own =
        ["/api/events", "/api/endpoints", "/api/deliveries", "/api/dead-letters", "/api/keys"];
    let mut before = Vec::new();
    for path in own.into_iter().chain([endpoint.as_str(), &event_path, &delivery]) {
        before.push(server.get(path, &acme.key).await.expect(200));
    }

    let missing = "019b0000-0000-7000-8000-000000000000";
    let no_endpoint = format!("/api/endpoints/{missing}");
    let same = async |theirs: Answer, nobodys: Answer| {
        let body = |answer: Answer| {
            let mut problem = answer.expect_problem(404, "not_found");
            problem["trace_id"].take();
            problem
        };
        assert_eq!(body(theirs), body(nobodys), "another tenant's thing can be told from none");
    };
    let get = async |path: &str| server.get(path, &stranger.key).await;
    same(get(&event_path).await, get(&format!("/api/events/{missing}")).await).await;
    same(get(&endpoint).await, get(&format!("/api/endpoints/{missing}")).await).await;
    same(get(&format!("{endpoint}/secret")).await, get(&format!("{no_endpoint}/secret")).await)
        .await;
    same(get(&delivery).await, get(&format!("/api/deliveries/{missing}")).await).await;
    let post = async |path: &str, body: &'static str| server.post(path, &stranger.key, body).await;
    for verb in ["retry", "replay", "cancel"] {
        let theirs = post(&format!("{delivery}/{verb}"), "").await;
        same(theirs, post(&format!("/api/deliveries/{missing}/{verb}"), "").await).await;
    }
    let letter = format!("/api/dead-letters/{}", leased.id);
    let no_letter = format!("/api/dead-letters/{missing}");
    same(get(&letter).await, get(&no_letter).await).await;
    let remove = async |path: &str| server.delete(path, &stranger.key).await;
    same(remove(&letter).await, remove(&no_letter).await).await;
    let replays = server.post("/api/dead-letters/replay", &acme.key, r#"{"reason":"unstorable"}"#);
    let replay = format!("/api/replays/{}", replays.await.expect(202)["id"].as_str().unwrap());
    let no_replay = format!("/api/replays/{missing}");
    same(get(&replay).await, get(&no_replay).await).await;
    let since = r#"{"since":"2026-01-31T12:00:00Z"}"#;
    for (theirs, nobodys, verb, body) in [
        (&event_path, &format!("/api/events/{missing}"), "replay", "{}"),
        (&endpoint, &no_endpoint, "replay", since),
        (&endpoint, &no_endpoint, "cancel-pending", ""),
        (&letter, &no_letter, "replay", ""),
        (&replay, &no_replay, "cancel", ""),
    ] {
        let theirs = post(&format!("{theirs}/{verb}"), body).await;
        same(theirs, post(&format!("{nobodys}/{verb}"), body).await).await;
    }
    let all = post("/api/dead-letters/replay", "{}").await.expect(202);
    assert_eq!(all["total"], 0, "a stranger's replay is for nothing of acme's");
    for action in ["secret/rotate", "test"] {
        let post =
            async |path: &str| server.post(&format!("{path}/{action}"), &stranger.key, "{}").await;
        same(post(&endpoint).await, post(&no_endpoint).await).await;
    }
    let change = async |path: &str| server.patch(path, &stranger.key, r#"{"enabled":false}"#).await;
    same(change(&endpoint).await, change(&no_endpoint).await).await;
    same(remove(&endpoint).await, remove(&no_endpoint).await).await;

    for path in &own[..4] {
        assert!(server.list(path, &stranger.key).await.is_empty(), "{path}");
    }
    let filters = [
        format!("/api/deliveries?event_id={}", event.id),
        format!("/api/deliveries?endpoint_id={}", leased.endpoint.id),
    ];
    for path in filters {
        assert!(server.list(&path, &stranger.key).await.is_empty(), "{path}");
    }
    let keys = server.list("/api/keys", &stranger.key).await;
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["id"], json!(stranger.key_id));
    assert_eq!(get("/api/org").await.expect(200)["id"], json!(stranger.org_id));

    let mut after = Vec::new();
    for path in own.into_iter().chain([endpoint.as_str(), &event_path, &delivery]) {
        after.push(server.get(path, &acme.key).await.expect(200));
    }
    assert_eq!(before, after);
}

#[tokio::test]
async fn strangers_cursor_leads_nowhere_else() {
    let server = Server::start().await;
    let (acme, stranger) = (server.tenant("acme").await, server.tenant("stranger").await);
    for _ in 0..3 {
        server.store_event(acme.org_id, "a", "1").await;
    }
    let page = server.get("/api/events?limit=1", &acme.key).await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let path = format!("/api/events?cursor={cursor}");
    let page = server.get(&path, &stranger.key).await.expect(200);
    assert_eq!((&page["data"], &page["next_cursor"]), (&json!([]), &Value::Null));
    let path = format!("/api/events?cursor={}", page["prev_cursor"].as_str().unwrap());
    let page = server.get(&path, &stranger.key).await.expect(200);
    assert_eq!((&page["data"], &page["prev_cursor"]), (&json!([]), &Value::Null));
}

#[tokio::test]
async fn one_tenants_limit_leaves_the_other_alone() {
    let server = Server::start().await;
    let acme = server.tenant_limited("acme", Some(1)).await;
    let other = server.tenant_limited("other", Some(1)).await;
    let event = r#"{"type":"a","payload":1}"#;
    server.post("/api/events", &acme.key, event).await.expect(202);
    server.post("/api/events", &acme.key, event).await.expect_problem(429, "rate_limited");
    server.post("/api/events", &other.key, event).await.expect(202);
}
