//! Deliveries and dead letters over the API.

use hookgate::domain::{
    Attempt, DeadReason, Decision, ErrorClass, LeasedDelivery, SpanId, Timestamp,
};
use serde_json::{Value, json};

use crate::support::server::{Server, Tenant};

/// An endpoint at example.com.
pub(super) async fn endpoint(server: &Server, tenant: &Tenant) -> String {
    let body = json!({"url":"https://example.com/hooks"});
    let created = server.post("/api/endpoints", &tenant.key, body.to_string()).await.expect(201);
    created["id"].as_str().unwrap().to_owned()
}

/// Records what came of one leased delivery.
pub(super) async fn record(
    server: &Server,
    leased: &LeasedDelivery,
    code: u16,
    decision: Decision,
) {
    let now = server.clock.now();
    let attempt = Attempt {
        number: leased.attempts + 1,
        started_at: now,
        duration_ms: 7,
        status_code: Some(code),
        error_class: (code != 200).then_some(ErrorClass::Status),
        error: (code != 200).then(|| format!("the receiver answered {code}")),
        response_excerpt: Some("text".to_owned()),
    };
    let outcome = leased.outcome(Some(attempt), decision, now, Timestamp::from_micros(0));
    assert_eq!(server.store.system().record_outcomes(&[outcome]).await.unwrap(), 1);
}

#[tokio::test]
async fn delivery_is_shown_with_its_attempts() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = endpoint(&server, &tenant).await;
    let event = server.store_event(tenant.org_id, "a", "1").await;
    let leased = server.claim().await.remove(0);
    let path = format!("/api/deliveries/{}", leased.id);

    let shown = server.get(&path, &tenant.key).await.expect(200);
    assert_eq!(shown["status"], "pending");
    assert_eq!(shown["attempt_count"], 0);
    assert_eq!(shown["attempts"], json!([]));

    record(&server, &leased, 200, Decision::Delivered).await;
    let shown = server.get(&path, &tenant.key).await.expect(200);
    let expected = json!({
        "id": leased.id, "event_id": event.id, "endpoint_id": endpoint, "status": "delivered",
        "attempt_count": 1, "next_attempt_at": null, "created_at": "2026-01-31T12:00:00Z",
        "finished_at": "2026-01-31T12:00:00Z", "replay_of": null, "event_type": "a",
        "endpoint_url": "https://example.com/hooks", "last_error": null, "last_error_class": null,
        "last_status_code": 200, "held_by": null,
        "attempts": [{
            "number": 1, "started_at": "2026-01-31T12:00:00Z", "duration_ms": 7,
            "status_code": 200, "error_class": null, "error": null, "response_excerpt": "text",
            "request": {
                "method": "POST", "url": "https://example.com/hooks", "body_bytes": 56,
                "headers": {
                    "content-type": "application/json", "webhook-id": event.id,
                    "webhook-timestamp": "1769860800", "webhook-signature": "***",
                    "traceparent": event.trace_id.traceparent(SpanId::of_delivery(leased.id)),
                    "x-trace-id": event.trace_id.to_string(),
                },
            },
        }],
    });
    assert_eq!(shown, expected);
    let attempts = format!("/api/endpoints/{endpoint}/attempts");
    let listed = server.list(&attempts, &tenant.key).await;
    let expected = json!([{
        "delivery_id": leased.id, "event_id": event.id, "number": 1,
        "started_at": "2026-01-31T12:00:00Z", "duration_ms": 7, "status_code": 200,
        "error_class": null, "error": null, "response_excerpt": "text",
    }]);
    assert_eq!(json!(listed), expected);
    server.get("/api/endpoints/nope/attempts", &tenant.key).await.expect_problem(404, "not_found");

    // Once the endpoint is changed, it is not known what was sent to it before.
    server.clock.advance(std::time::Duration::from_secs(1));
    let body = r#"{"url":"https://example.com/other"}"#;
    server.patch(&format!("/api/endpoints/{endpoint}"), &tenant.key, body).await.expect(200);
    let shown = server.get(&path, &tenant.key).await.expect(200);
    assert_eq!(shown["attempts"][0]["request"], Value::Null);
}

#[tokio::test]
async fn list_tells_what_failed_and_why_in_one_request() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = endpoint(&server, &tenant).await;
    server.store_event(tenant.org_id, "invoice.paid", "1").await;
    server.store_event(tenant.org_id, "invoice.paid", "2").await;
    let leased = server.claim().await;
    record(&server, &leased[0], 503, Decision::Dead(DeadReason::Exhausted)).await;
    let later = server.clock.now().plus(std::time::Duration::from_hours(9));
    record(&server, &leased[1], 500, Decision::RetryAt(later)).await;
    for query in ["status_code=503", "type=invoice.*&status=dead", "error_class=status&status=dead"]
    {
        let rows = server.list(&format!("/api/deliveries?{query}"), &tenant.key).await;
        assert_eq!(rows.len(), 1, "{query}");
        assert_eq!(rows[0]["event_type"], "invoice.paid");
        assert_eq!(rows[0]["endpoint_url"], "https://example.com/hooks");
        assert_eq!(rows[0]["last_error"], "the receiver answered 503");
        assert_eq!(
            (&rows[0]["last_status_code"], &rows[0]["attempt_count"]),
            (&json!(503), &json!(1))
        );
        let letters = format!("/api/dead-letters?{}", query.replace("&status=dead", ""));
        let letters = server.list(&letters, &tenant.key).await;
        assert_eq!((letters.len(), &letters[0]["event_type"]), (1, &json!("invoice.paid")));
    }
    let waiting = server.list("/api/deliveries?status=pending&status_code=500", &tenant.key).await;
    assert_eq!((waiting.len(), &waiting[0]["held_by"]), (1, &Value::Null));
    assert!(waiting[0]["next_attempt_at"].is_string());
    let body = r#"{"enabled":false}"#;
    server.patch(&format!("/api/endpoints/{endpoint}"), &tenant.key, body).await.expect(200);
    let waiting = server.list("/api/deliveries?status=pending", &tenant.key).await;
    assert_eq!(waiting[0]["held_by"], "disabled");
    for (query, code) in [("status_code=200", "format"), ("order=up", "format")] {
        let answer = server.get(&format!("/api/deliveries?{query}"), &tenant.key).await;
        let problem = answer.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["code"], code);
    }
    let oldest = server.get("/api/deliveries?order=asc&limit=1", &tenant.key).await.expect(200);
    assert_eq!(oldest["data"][0]["id"], json!(leased[0].id));
    let cursor = oldest["next_cursor"].as_str().unwrap();
    let mixed = format!("/api/deliveries?cursor={cursor}");
    let problem = server.get(&mixed, &tenant.key).await.expect_problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["code"], "order");
    let next = format!("/api/deliveries?order=asc&limit=1&cursor={cursor}");
    let next = server.get(&next, &tenant.key).await.expect(200);
    assert_eq!(next["data"][0]["id"], json!(leased[1].id));
}

#[tokio::test]
async fn event_is_found_by_the_trace_of_its_request() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let posted = server.post("/api/events", &tenant.key, r#"{"type":"a","payload":1}"#).await;
    let trace: hookgate::domain::TraceId = posted.header("x-trace-id").parse().unwrap();
    assert!(trace.is_minted_for(server.clock.now()), "it begins with the time");
    // What the worker stores.
    let event = server.store_event(tenant.org_id, "other", "2").await;
    let event = hookgate::domain::Event { trace_id: trace.clone(), ..event };
    let event =
        hookgate::domain::Event { id: hookgate::domain::EventId::mint(event.received_at), ..event };
    server.store_as_it_is(&event).await;
    let found = server.list(&format!("/api/events?trace_id={trace}"), &tenant.key).await;
    assert_eq!((found.len(), &found[0]["id"]), (1, &json!(event.id)));
    let none = server.list("/api/events?trace_id=demo-123", &tenant.key).await;
    assert!(none.is_empty());
}

#[tokio::test]
async fn deliveries_are_filtered() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let (one, other) = (endpoint(&server, &tenant).await, endpoint(&server, &tenant).await);
    let event = server.store_event(tenant.org_id, "a", "1").await;
    server.store_event(tenant.org_id, "a", "2").await;
    let leased = server.claim().await;
    assert_eq!(leased.len(), 4);
    record(&server, &leased[0], 200, Decision::Delivered).await;
    let count = async |query: &str| {
        server.list(&format!("/api/deliveries?{query}"), &tenant.key).await.len()
    };
    assert_eq!(count("").await, 4);
    assert_eq!(count("status=delivered").await, 1);
    assert_eq!(count("status=pending").await, 3);
    assert_eq!(count("status=dead").await, 0);
    assert_eq!(count(&format!("endpoint_id={one}")).await, 2);
    assert_eq!(count(&format!("endpoint_id={other}&event_id={}", event.id)).await, 1);
}

#[tokio::test]
async fn dead_delivery_is_retried_and_its_dead_letter_is_taken_back() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = endpoint(&server, &tenant).await;
    let event = server.store_event(tenant.org_id, "a", "1").await;
    let leased = server.claim().await.remove(0);
    record(&server, &leased, 500, Decision::Dead(DeadReason::Exhausted)).await;

    let letters = server.list("/api/dead-letters", &tenant.key).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["event_id"], json!(event.id));
    assert_eq!(letters[0]["delivery_id"], json!(leased.id));
    assert_eq!(letters[0]["endpoint_id"], json!(endpoint));
    assert_eq!(letters[0]["reason"], "exhausted");
    assert_eq!(letters[0]["detail"], "the receiver answered 500");

    let path = format!("/api/deliveries/{}/retry", leased.id);
    let retried = server.post(&path, &tenant.key, "").await.expect(202);
    assert_eq!(retried["id"], json!(leased.id));
    assert_eq!(retried["status"], "pending");
    assert_eq!(retried["next_attempt_at"], "2026-01-31T12:00:00Z");
    assert!(server.list("/api/dead-letters", &tenant.key).await.is_empty());
    assert_eq!(server.claim().await.len(), 1);
}

#[tokio::test]
async fn retry_is_refused_while_it_makes_no_sense() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = endpoint(&server, &tenant).await;
    server.store_event(tenant.org_id, "a", "1").await;
    let leased = server.claim().await.remove(0);
    let path = format!("/api/deliveries/{}/retry", leased.id);
    let retry = async || server.post(&path, &tenant.key, "").await;
    retry().await.expect_problem(409, "in_progress");

    record(&server, &leased, 500, Decision::Dead(DeadReason::Exhausted)).await;
    let endpoint_path = format!("/api/endpoints/{endpoint}");
    server.patch(&endpoint_path, &tenant.key, r#"{"enabled":false}"#).await.expect(200);
    retry().await.expect_problem(409, "endpoint_disabled");

    assert_eq!(server.delete(&endpoint_path, &tenant.key).await.expect(204), Value::Null);
    retry().await.expect_problem(409, "endpoint_removed");
}
