//! Replays, cancels and dead letters over the API.

use std::time::Duration;

use hookgate::domain::{
    Attempt, DeadReason, Decision, ErrorClass, EventId, LeasedDelivery, Timestamp,
};
use serde_json::{Value, json};

use crate::support::server::{Server, Tenant};

async fn endpoint(server: &Server, tenant: &Tenant) -> String {
    let body = json!({"url":"https://example.com/hooks"});
    let created = server.post("/api/endpoints", &tenant.key, body.to_string()).await.expect(201);
    created["id"].as_str().unwrap().to_owned()
}

/// Gives a leased delivery up.
async fn bury(server: &Server, leased: &LeasedDelivery) {
    let now = server.clock.now();
    let attempt = Attempt {
        number: leased.attempts + 1,
        started_at: now,
        duration_ms: 7,
        status_code: Some(500),
        error_class: Some(ErrorClass::Status),
        error: Some("the receiver answered 500".to_owned()),
        response_excerpt: None,
    };
    let decision = Decision::Dead(DeadReason::Exhausted);
    let outcome = leased.outcome(Some(attempt), decision, now, Timestamp::from_micros(0));
    assert_eq!(server.store.system().record_outcomes(&[outcome]).await.unwrap(), 1);
}

/// A tenant with one endpoint and so many dead deliveries.
async fn tenant_with_dead(server: &Server, count: usize) -> (Tenant, String, Vec<LeasedDelivery>) {
    let tenant = server.tenant("acme").await;
    let endpoint = endpoint(server, &tenant).await;
    for _ in 0..count {
        server.store_event(tenant.org_id, "a", "1").await;
    }
    let dead = server.claim().await;
    assert_eq!(dead.len(), count);
    for leased in &dead {
        bury(server, leased).await;
    }
    (tenant, endpoint, dead)
}

#[tokio::test]
async fn delivery_an_event_and_a_dead_letter_are_replayed_as_new_deliveries() {
    let server = Server::start().await;
    let (tenant, endpoint, dead) = tenant_with_dead(&server, 1).await;
    let (old, event) = (dead[0].id, dead[0].event.id);
    server.clock.advance(Duration::from_secs(1));
    let post = async |path: String| server.post(&path, &tenant.key, "").await.expect(202);
    let first = post(format!("/api/deliveries/{old}/replay")).await;
    assert_eq!(first["replay_of"], json!(old));
    assert_eq!((&first["status"], &first["event_id"]), (&json!("pending"), &json!(event)));
    assert_ne!(first["id"], json!(old));
    let second = post(format!("/api/dead-letters/{old}/replay")).await;
    assert_eq!(second["replay_of"], json!(old));
    server.clock.advance(Duration::from_secs(1));
    let bare =
        server.request(reqwest::Method::POST, &format!("/api/events/{event}/replay"), &tenant.key);
    let third = crate::support::server::answer(bare).await.expect(202);
    assert_eq!((third["data"].as_array().unwrap().len(), &third["skipped"]), (1, &json!(0)));
    // Of several deliveries of one event to one endpoint, the newest is repeated.
    server.clock.advance(Duration::from_secs(1));
    let body = json!({ "endpoint_id": endpoint }).to_string();
    let path = format!("/api/events/{event}/replay");
    let fourth = server.post(&path, &tenant.key, body).await.expect(202);
    assert_eq!(fourth["data"][0]["replay_of"], third["data"][0]["id"]);

    let shown = server.get(&format!("/api/deliveries/{old}"), &tenant.key).await.expect(200);
    assert_eq!((&shown["status"], &shown["replay_of"]), (&json!("dead"), &Value::Null));
    let letter = server.get(&format!("/api/dead-letters/{old}"), &tenant.key).await.expect(200);
    assert_eq!(letter["replayed_at"], "2026-01-31T12:00:01Z");
    let again = server.claim().await;
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|leased| leased.event.id == event));
}

#[tokio::test]
async fn failures_of_an_endpoint_are_replayed_in_the_background() {
    let server = Server::start().await;
    let (tenant, endpoint, _) = tenant_with_dead(&server, 3).await;
    let path = format!("/api/endpoints/{endpoint}/replay");
    let body = r#"{"since":"2026-01-31T12:00:00Z"}"#;
    let replay = server.post(&path, &tenant.key, body).await.expect(202);
    assert_eq!((&replay["status"], &replay["total"]), (&json!("running"), &json!(3)));
    assert_eq!(replay["filter"]["endpoint_id"], json!(endpoint));
    assert!(server.claim().await.is_empty());

    server.run_replays().await;
    let path = format!("/api/replays/{}", replay["id"].as_str().unwrap());
    let shown = server.get(&path, &tenant.key).await.expect(200);
    assert_eq!((&shown["status"], &shown["done"]), (&json!("finished"), &json!(3)));
    assert_eq!(server.list("/api/replays", &tenant.key).await, std::slice::from_ref(&shown));
    assert_eq!(server.claim().await.len(), 3);
    let cancelled = server.post(&format!("{path}/cancel"), &tenant.key, "").await.expect(200);
    assert_eq!(cancelled, shown, "one that is over stays as it is");
}

#[tokio::test]
async fn dead_letters_are_replayed_by_filter_until_it_is_cancelled() {
    let server = Server::start().await;
    let (tenant, _, _) = tenant_with_dead(&server, 2).await;
    let replay = async |body: &str| {
        server.post("/api/dead-letters/replay", &tenant.key, body.to_owned()).await
    };
    let none = replay(r#"{"reason":"gone"}"#).await.expect(202);
    assert_eq!(none["total"], 0);
    let all = replay("{}").await.expect(202);
    let path = format!("/api/replays/{}", all["id"].as_str().unwrap());
    let cancelled = server.post(&format!("{path}/cancel"), &tenant.key, "").await.expect(200);
    assert_eq!((&cancelled["status"], &cancelled["done"]), (&json!("cancelled"), &json!(0)));
    server.run_replays().await;
    assert!(server.claim().await.is_empty());

    let by_type = replay(r#"{"type":"a","until":"2026-02-01T00:00:00Z"}"#).await.expect(202);
    assert_eq!((&by_type["total"], &by_type["filter"]["type"]), (&Value::Null, &json!("a")));
    server.run_replays().await;
    assert_eq!(server.claim().await.len(), 2);
    assert!(server.list("/api/dead-letters?replayed=false", &tenant.key).await.is_empty());
    assert_eq!(server.list("/api/dead-letters?replayed=true&type=a", &tenant.key).await.len(), 2);
    assert!(server.list("/api/dead-letters?reason=gone", &tenant.key).await.is_empty());
}

#[tokio::test]
async fn replays_report_what_they_skip() {
    let server = Server::start().await;
    let (tenant, endpoint, dead) = tenant_with_dead(&server, 1).await;
    let endpoint = format!("/api/endpoints/{endpoint}");
    let routes = [
        format!("/api/deliveries/{}/replay", dead[0].id),
        format!("/api/dead-letters/{}/replay", dead[0].id),
    ];
    server.patch(&endpoint, &tenant.key, r#"{"enabled":false}"#).await.expect(200);
    for route in &routes {
        server.post(route, &tenant.key, "").await.expect_problem(409, "endpoint_disabled");
    }
    let since = r#"{"since":"2026-01-31T12:00:00Z"}"#;
    let failures = async || server.post(&format!("{endpoint}/replay"), &tenant.key, since).await;
    failures().await.expect_problem(409, "endpoint_disabled");
    server.delete(&endpoint, &tenant.key).await.expect(204);
    for route in &routes {
        server.post(route, &tenant.key, "").await.expect_problem(409, "endpoint_removed");
    }
    failures().await.expect_problem(404, "not_found");
    let all = server.post("/api/dead-letters/replay", &tenant.key, "{}").await.expect(202);
    server.run_replays().await;
    let path = format!("/api/replays/{}", all["id"].as_str().unwrap());
    let shown = server.get(&path, &tenant.key).await.expect(200);
    assert_eq!((&shown["done"], &shown["skipped"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn violations_of_a_replay_are_all_listed() {
    let server = Server::start().await;
    let (tenant, endpoint, dead) = tenant_with_dead(&server, 1).await;
    let post = async |path: &str, body: &'static str| server.post(path, &tenant.key, body).await;
    post(
        "/api/dead-letters/replay",
        r#"{"endpoint_id":7,"reason":"bad","type":"a b","since":"now","x":1}"#,
    )
    .await
    .expect_faults(&[
        ("endpoint_id", "type"),
        ("reason", "format"),
        ("type", "format"),
        ("since", "format"),
        ("x", "unknown"),
    ]);
    post("/api/dead-letters/replay", r#"{"event_id":7,"replayed":1}"#)
        .await
        .expect_faults(&[("event_id", "type"), ("replayed", "type")]);
    post("/api/dead-letters/replay", r#"{"replayed":true}"#)
        .await
        .expect_faults(&[("replayed", "conflict")]);
    let path = format!("/api/endpoints/{endpoint}/replay");
    post(&path, "{}").await.expect_faults(&[("since", "required")]);
    let path = format!("/api/events/{}/replay", dead[0].event.id);
    post(&path, r#"{"endpoint_id":"7"}"#).await.expect_faults(&[("endpoint_id", "format")]);
    server
        .get("/api/dead-letters?reason=x&replayed=1&since=1", &tenant.key)
        .await
        .expect_faults(&[("reason", "format"), ("since", "format"), ("replayed", "format")]);
}

#[tokio::test]
async fn event_that_the_store_refused_is_stored_once_it_takes_it() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    endpoint(&server, &tenant).await;
    server.trap_events().await;
    let event = r#"{"type":"a","payload":1,"account_id":"poison"}"#;
    for _ in 0..2 {
        // As a worker does with an event that the store refuses.
        let accepted = server.post("/api/events", &tenant.key, event).await.expect(202);
        let id = accepted["id"].as_str().unwrap().parse().unwrap();
        let records = server.reader.next_batch(1, 1 << 20).await.unwrap().unwrap().records;
        let (record, now) = (&records[0].payload, server.clock.now());
        server
            .store
            .quarantine_event(tenant.org_id, id, record, "no poison here", now)
            .await
            .unwrap();
    }
    let letters = server.list("/api/dead-letters", &tenant.key).await;
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0]["reason"], "unstorable");
    let path = format!("/api/dead-letters/{}", letters[0]["id"].as_str().unwrap());
    let replay = async || server.post(&format!("{path}/replay"), &tenant.key, "").await;
    let refused = replay().await.expect_problem(409, "event_unstorable");
    assert!(refused["detail"].as_str().unwrap().contains("no poison here"), "{refused}");
    let all = server.post("/api/dead-letters/replay", &tenant.key, "{}").await.expect(202);
    server.run_replays().await;
    let all = format!("/api/replays/{}", all["id"].as_str().unwrap());
    let all = server.get(&all, &tenant.key).await.expect(200);
    assert_eq!((&all["done"], &all["skipped"]), (&json!(0), &json!(2)));

    server.untrap_events().await;
    let stored = replay().await.expect(202);
    assert_eq!(stored, json!({"event_id": letters[0]["event_id"], "status": "stored"}));
    server.get(&path, &tenant.key).await.expect_problem(404, "not_found");
    server.post("/api/dead-letters/replay", &tenant.key, "{}").await.expect(202);
    server.run_replays().await;
    assert!(server.list("/api/dead-letters", &tenant.key).await.is_empty());
    let claimed = server.claim().await;
    let ids: Vec<EventId> = claimed.iter().map(|leased| leased.event.id).collect();
    assert_eq!(ids.len(), 2);
    assert!(letters.iter().all(|letter| ids.iter().any(|id| letter["event_id"] == json!(id))));
}

#[tokio::test]
async fn pending_deliveries_are_cancelled_one_by_one_and_all_together() {
    let server = Server::start().await;
    let (tenant, endpoint, dead) = tenant_with_dead(&server, 1).await;
    let cancel = async |id: &str| {
        server.post(&format!("/api/deliveries/{id}/cancel"), &tenant.key, "").await
    };
    cancel(&dead[0].id.to_string()).await.expect_problem(409, "delivery_finished");
    for _ in 0..3 {
        server.store_event(tenant.org_id, "a", "1").await;
    }
    let pending = server.list("/api/deliveries?status=pending", &tenant.key).await;
    let cancelled = cancel(pending[0]["id"].as_str().unwrap()).await.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    let path = format!("/api/endpoints/{endpoint}/cancel-pending");
    let all = server.post(&path, &tenant.key, "").await.expect(200);
    assert_eq!(all, json!({"cancelled": 2, "in_progress": false}));
    assert!(server.claim().await.is_empty());
    let path = "/api/deliveries?since=2026-01-31T12:00:00Z&until=2026-01-31T12:00:01Z";
    assert_eq!(server.list(path, &tenant.key).await.len(), 4);
    let path = "/api/deliveries?since=2026-01-31T12:00:00.000001Z";
    assert!(server.list(path, &tenant.key).await.is_empty());
    let letter = format!("/api/dead-letters/{}", dead[0].id);
    server.delete(&letter, &tenant.key).await.expect(204);
    server.delete(&letter, &tenant.key).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn retries_cancellations_and_removals_are_audited() {
    let server = Server::start().await;
    let (tenant, endpoint, dead) = tenant_with_dead(&server, 1).await;
    let (old, event) = (dead[0].id, dead[0].event.id);
    let refused = EventId::mint(server.clock.now());
    let record = b"not a record";
    let now = server.clock.now();
    server.store.quarantine_event(tenant.org_id, refused, record, "no", now).await.unwrap();
    let post = async |path: &str, status| {
        server.clock.advance(Duration::from_secs(1));
        server.post(path, &tenant.key, "{}").await.expect(status)
    };
    post(&format!("/api/deliveries/{old}/replay"), 202).await;
    post(&format!("/api/events/{event}/replay"), 202).await;
    post(&format!("/api/dead-letters/{old}/replay"), 202).await;
    let replay = post("/api/dead-letters/replay", 202).await;
    post(&format!("/api/replays/{}/cancel", replay["id"].as_str().unwrap()), 200).await;
    post(&format!("/api/deliveries/{old}/retry"), 202).await;
    post(&format!("/api/deliveries/{old}/cancel"), 200).await;
    post(&format!("/api/endpoints/{endpoint}/test"), 202).await;
    post(&format!("/api/endpoints/{endpoint}/cancel-pending"), 200).await;
    server.clock.advance(Duration::from_secs(1));
    server.delete(&format!("/api/dead-letters/{refused}"), &tenant.key).await.expect(204);

    let mut log = server.list("/api/audit", &tenant.key).await;
    log.retain(|entry| entry["actor"] == json!(tenant.key_id));
    assert!(log.iter().all(|entry| entry["address"] == "127.0.0.1"));
    let told: Vec<_> =
        log.iter().rev().map(|entry| (entry["action"].clone(), entry["object"].clone())).collect();
    let expected = [
        (json!("endpoint.create"), json!(endpoint)),
        (json!("delivery.replay"), json!(old)),
        (json!("event.replay"), json!(event)),
        (json!("delivery.replay"), json!(old)),
        (json!("replay.create"), replay["id"].clone()),
        (json!("replay.cancel"), replay["id"].clone()),
        (json!("delivery.retry"), json!(old)),
        (json!("delivery.cancel"), json!(old)),
        (json!("endpoint.test"), json!(endpoint)),
        (json!("endpoint.cancel_pending"), json!(endpoint)),
        (json!("dead_letter.delete"), json!(refused)),
    ];
    assert_eq!(told, expected);
    // Three replays and the test event; the retried one was cancelled by itself.
    assert_eq!(log[1]["changes"], json!({ "cancelled": 4 }));
}
