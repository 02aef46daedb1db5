//! Summaries, event metrics, event types, statistics of endpoints and usage over the API.

use std::time::Duration;

use hookgate::domain::{Event, EventId, OrgId, Timestamp, TraceId};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{Server, Tenant, answer};

/// Stores an event of an account and user, so many seconds ago.
async fn send(server: &Server, tenant: &Tenant, name: &str, account: &str, user: &str, ago: u64) {
    let now = server.clock.now();
    let event = event(tenant.org_id, name, account, user, now.minus(Duration::from_secs(ago)));
    server.store_as_it_is(&event).await;
}

pub(super) fn event(org_id: OrgId, name: &str, account: &str, user: &str, at: Timestamp) -> Event {
    Event {
        id: EventId::mint(at),
        org_id,
        event_type: name.parse().unwrap(),
        payload: "{}".into(),
        dedup_id: None,
        account_id: Some(account.to_owned()),
        user_id: Some(user.to_owned()),
        occurred_at: None,
        received_at: at,
        trace_id: TraceId::mint(),
        accept_span: None,
    }
}

pub(super) async fn fold(server: &Server) {
    while server.store.system().fold_deltas().await.unwrap().unwrap().deltas > 0 {}
}

#[tokio::test]
async fn summary_counts_an_accounts_window() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    server.clock.advance(Duration::from_secs(30));
    for (name, account, user, ago) in [
        ("order.paid", "a/1 ö", "u1", 10),
        ("order.paid", "a/1 ö", "u2", 3_600),
        ("user.login", "a/1 ö", "u2", 86_400),
        ("user.login", "a/1 ö", "u3", 2 * 86_400),
        ("order.paid", "b", "u1", 10),
    ] {
        send(&server, &tenant, name, account, user, ago).await;
    }
    let path = "/api/accounts/a%2F1%20%C3%B6/summary";
    let day = server.get(path, &tenant.key).await.expect(200);
    let expected = json!({
        "account_id": "a/1 ö", "window": "last_24h", "from": "2026-01-30T12:00:00Z",
        "to": "2026-01-31T12:00:30Z", "totals": {"order.paid": 2, "user.login": 1},
        "top_users": [{"user_id": "u2", "events": 2}, {"user_id": "u1", "events": 1}],
        "first_seen": "2026-01-29T12:00:30Z", "last_seen": "2026-01-31T12:00:20Z",
        "approximate": false,
    });
    assert_eq!(day, expected);
    fold(&server).await;
    let week = server.get(&format!("{path}?window=last_7d&top=1"), &tenant.key).await.expect(200);
    assert_eq!(week["totals"], json!({"order.paid": 2, "user.login": 2}));
    assert_eq!(week["top_users"], json!([{"user_id": "u2", "events": 2}]));
    let query = "from=2026-01-31T11:00:45Z&to=2026-01-31T11:01:00Z";
    let minute = server.get(&format!("{path}?{query}"), &tenant.key).await.expect(200);
    assert_eq!(minute["window"], "custom");
    assert_eq!(minute["from"], "2026-01-31T11:00:00Z");
    assert_eq!(minute["totals"], json!({"order.paid": 1}));
    server.get("/api/accounts/never/summary", &tenant.key).await.expect_problem(404, "not_found");
    let other = server.tenant("other").await;
    server.get("/api/accounts/b/summary", &other.key).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn summary_is_kept_for_a_minute_at_most_and_has_a_tag() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    send(&server, &tenant, "a", "acc", "u", 5).await;
    let path = "/api/accounts/acc/summary";
    let first = server.get(path, &tenant.key).await;
    let etag = first.headers["etag"].clone();
    let control = first.headers["cache-control"].to_str().unwrap().to_owned();
    let left: u64 = control.strip_prefix("private, max-age=").unwrap().parse().unwrap();
    assert!((1..=60).contains(&left), "{control}");
    send(&server, &tenant, "a", "acc", "u", 1).await;
    let second = server.get(path, &tenant.key).await;
    assert_eq!(second.text, first.text, "it is kept");
    let known = server.request(Method::GET, path, &tenant.key).header("if-none-match", &etag);
    let known = answer(known).await;
    assert_eq!((known.status.as_u16(), known.text.as_str()), (304, ""));
    assert_eq!(known.headers["etag"], etag);
    server.clock.advance(Duration::from_secs(left));
    let later = server.request(Method::GET, path, &tenant.key).header("if-none-match", &etag);
    let later = answer(later).await.expect(200);
    assert_eq!(later["totals"], json!({"a": 2}));
}

#[tokio::test]
async fn malformed_windows_are_named() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    send(&server, &tenant, "a", "acc", "u", 5).await;
    for (query, field, code) in [
        ("window=last_year", "window", "format"),
        ("top=101", "top", "format"),
        ("top=0", "top", "format"),
        ("window=last_7d&from=2026-01-01T00:00:00Z", "from", "conflict"),
        ("window=last_7d&to=2026-01-01T00:00:00Z", "to", "conflict"),
        ("to=2026-01-01T00:00:00Z", "from", "required"),
        ("from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from", "range"),
        ("from=2025-01-01T00:00:00Z", "from", "range"),
        ("limit=5", "limit", "unknown"),
    ] {
        let answer = server.get(&format!("/api/accounts/acc/summary?{query}"), &tenant.key).await;
        let problem = answer.expect_problem(422, "validation_failed");
        let error = &problem["errors"][0];
        assert_eq!((error["field"].as_str(), error["code"].as_str()), (Some(field), Some(code)));
    }
    for (query, field) in [
        ("group_by=week", "group_by"),
        ("group_by=user", "account_id"),
        ("group_by=endpoint&account_id=a", "account_id"),
        ("group_by=account&type=a", "type"),
        ("group_by=type&from=2025-12-01T00:00:00Z", "from"),
        ("from=2024-12-01T00:00:00Z", "from"),
        ("cursor=x", "cursor"),
        ("type=a.*", "type"),
    ] {
        let answer = server.get(&format!("/api/analytics/events?{query}"), &tenant.key).await;
        let problem = answer.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["field"], field, "{query}: {problem}");
    }
    let operator = server.operator().await;
    for (query, field) in [
        ("group_by=type", "org_id"),
        ("group_by=endpoint", "org_id"),
        ("type=a", "org_id"),
        ("group_by=account", "group_by"),
        ("group_by=user", "group_by"),
        ("account_id=a", "account_id"),
    ] {
        let path = format!("/api/admin/analytics/events?{query}");
        let problem = server.get(&path, &operator).await.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["field"], field, "{query}");
    }
    let bad = server.get("/api/admin/usage?month=2026-13", &operator).await;
    assert_eq!(bad.expect_problem(422, "validation_failed")["errors"][0]["field"], "month");
}

#[tokio::test]
async fn accounts_and_types_are_listed() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for (name, account, ago) in [("a", "one", 7_300), ("b", "two", 10), ("c", "two", 5)] {
        send(&server, &tenant, name, account, "u", ago).await;
    }
    let sample = server.get("/api/accounts/sample", &tenant.key).await.expect(200);
    let mut ids: Vec<&str> =
        sample["account_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["one", "two"]);
    let one = server.get("/api/accounts/sample?limit=1", &tenant.key).await.expect(200);
    assert_eq!(one["account_ids"].as_array().unwrap().len(), 1);
    fold(&server).await;
    let accounts = server.list("/api/accounts", &tenant.key).await;
    let expected = json!({
        "account_id": "two", "events": 2, "bytes": 4, "first_seen": "2026-01-31T11:59:50Z",
        "last_seen": "2026-01-31T11:59:55Z",
    });
    assert_eq!((accounts.len(), &accounts[0]), (2, &expected));
    let types = server.list("/api/event-types", &tenant.key).await;
    let names: Vec<_> = types.iter().map(|row| row["type"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(types[0]["events"], 1);
}

#[tokio::test]
async fn metrics_are_grouped() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = json!({"url": "https://example.com/hooks", "event_types": ["a.*"]}).to_string();
    let endpoint = server.post("/api/endpoints", &tenant.key, body).await.expect(201);
    let endpoint = endpoint["id"].as_str().unwrap();
    for (name, account, user, ago) in [
        ("a.x", "one", "u1", 30),
        ("a.x", "one", "u2", 90),
        ("a.y", "two", "u1", 3_700),
        ("b", "one", "u1", 7_300),
    ] {
        send(&server, &tenant, name, account, user, ago).await;
    }
    for folded in [false, true] {
        if folded {
            fold(&server).await;
        }
        let rows = async |query: &str| {
            let rows = server.list(&format!("/api/analytics/events?{query}"), &tenant.key).await;
            let row = |row: &Value| {
                (row["group"].as_str().unwrap().to_owned(), row["events"].as_u64().unwrap_or(0))
            };
            rows.iter().map(row).collect::<Vec<_>>()
        };
        let groups = |all: &[(&str, u64)]| -> Vec<(String, u64)> {
            all.iter().map(|(name, events)| ((*name).to_owned(), *events)).collect()
        };
        let hours =
            [("2026-01-31T11:00:00Z", 2), ("2026-01-31T10:00:00Z", 1), ("2026-01-31T09:00:00Z", 1)];
        assert_eq!(rows("").await, groups(&hours));
        assert_eq!(rows("group_by=minute&type=a.x").await.len(), 2);
        assert_eq!(rows("group_by=day").await, groups(&[("2026-01-31T00:00:00Z", 4)]));
        assert_eq!(rows("group_by=type").await, groups(&[("a.x", 2), ("a.y", 1), ("b", 1)]));
        assert_eq!(rows("group_by=type&type=b").await, groups(&[("b", 1)]));
        assert_eq!(rows("group_by=type&account_id=two").await, groups(&[("a.y", 1)]));
        let users = rows("group_by=user&account_id=one").await;
        assert_eq!(users, groups(&[("u1", 2), ("u2", 1)]));
        assert_eq!(rows("group_by=endpoint").await, groups(&[(endpoint, 0)]));
        let accounts = rows("group_by=account").await;
        let expected = if folded { groups(&[("one", 3), ("two", 1)]) } else { Vec::new() };
        assert_eq!(accounts, expected, "accounts are listed once they are folded");
    }
    let page = server.get("/api/analytics/events?limit=1", &tenant.key).await.expect(200);
    let row = json!({
        "group": "2026-01-31T11:00:00Z", "events": 2, "bytes": 4, "delivered": 0, "dead": 0,
        "failed_attempts": 0, "latency_ms": {"p50": null, "p90": null, "p95": null, "p99": null},
    });
    assert_eq!(page["data"], json!([row]));
    assert_eq!(page["from"], "2026-01-30T12:00:00Z");
    assert_eq!(page["approximate"], false);
    let filtered = server.get("/api/analytics/events?type=a.x", &tenant.key).await.expect(200);
    assert_eq!(filtered["data"][0]["delivered"], 0);
    let users = "/api/analytics/events?group_by=user&account_id=one";
    let users = server.get(users, &tenant.key).await.expect(200);
    assert_eq!(users["data"][0]["delivered"], Value::Null, "users have no outcomes");
    let leased = server.claim().await;
    let one = leased.iter().find(|leased| leased.event.account_id.as_deref() == Some("one"));
    super::deliveries::record(&server, one.unwrap(), 200, hookgate::domain::Decision::Delivered)
        .await;
    // Windows end with the last minute that is over.
    server.clock.advance(Duration::from_mins(1));
    for query in [
        "group_by=type",
        "group_by=account",
        "group_by=hour&type=a.x",
        "group_by=minute&account_id=one",
        "group_by=day&account_id=one&type=a.x",
        "group_by=type&account_id=one",
    ] {
        let path = format!("/api/analytics/events?{query}");
        let page = server.get(&path, &tenant.key).await.expect(200);
        let rows = page["data"].as_array().unwrap();
        let delivered: u64 = rows.iter().map(|row| row["delivered"].as_u64().unwrap()).sum();
        assert_eq!(delivered, 1, "{query}: {page}");
    }
}

#[tokio::test]
async fn answers_say_that_the_latest_events_are_missing() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let lists = [
        "/api/event-types",
        "/api/analytics/events",
        "/api/analytics/events?group_by=type",
        "/api/analytics/events?group_by=account",
        "/api/analytics/events?group_by=endpoint",
    ];
    let flags = async || {
        let mut flags = Vec::new();
        for path in lists {
            let page = server.get(path, &tenant.key).await.expect(200);
            flags.push(page["approximate"].as_bool().unwrap());
        }
        flags
    };
    // As many deltas as a read adds.
    for _ in 0..1_000 {
        send(&server, &tenant, "a", "acc", "u", 5).await;
    }
    assert_eq!(flags().await, [true; 5]);
    fold(&server).await;
    assert_eq!(flags().await, [false; 5]);
}

#[tokio::test]
async fn endpoint_has_statistics() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = json!({"url": "https://example.com/hooks"}).to_string();
    let endpoint = server.post("/api/endpoints", &tenant.key, body).await.expect(201);
    let id = endpoint["id"].as_str().unwrap();
    send(&server, &tenant, "a", "acc", "u", 0).await;
    send(&server, &tenant, "a", "acc", "u", 0).await;
    let path = format!("/api/endpoints/{id}/stats");
    let stats = server.get(&path, &tenant.key).await.expect(200);
    assert_eq!((&stats["pending"], &stats["endpoint_id"]), (&json!(2), &json!(id)));
    assert_eq!(stats["last_hour"]["success_rate"], Value::Null);
    let leased = server.claim().await;
    super::deliveries::record(&server, &leased[0], 200, hookgate::domain::Decision::Delivered)
        .await;
    let stats = server.get(&path, &tenant.key).await.expect(200);
    let expected = json!({
        "from": "2026-01-31T11:00:00Z", "delivered": 1, "dead": 0, "failed_attempts": 0,
        "success_rate": 1.0, "latency_ms": {"p50": 1, "p90": 1, "p95": 1, "p99": 1},
        "attempt_ms": {"p50": 7, "p90": 7, "p95": 7, "p99": 7},
    });
    assert_eq!((&stats["last_hour"], &stats["pending"]), (&expected, &json!(1)));
    server.clock.advance(Duration::from_hours(2));
    fold(&server).await;
    let stats = server.get(&path, &tenant.key).await.expect(200);
    assert_eq!(stats["last_hour"]["delivered"], 0);
    assert_eq!(stats["last_day"]["delivered"], 1);
    let other = server.tenant("other").await;
    server.get(&path, &other.key).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn operators_read_counts_of_all_organisations_and_usage() {
    let server = Server::start().await;
    let (one, other) = (server.tenant("one").await, server.tenant("other").await);
    for _ in 0..2 {
        send(&server, &one, "a", "acc", "u", 5).await;
    }
    send(&server, &other, "b", "acc", "u", 5).await;
    let operator = server.operator().await;
    for folded in [false, true] {
        if folded {
            fold(&server).await;
        }
        let path = "/api/admin/analytics/events";
        let all = server.get(path, &operator).await.expect(200);
        assert_eq!(all["data"][0]["events"], 3);
        let of_one = format!("{path}?org_id={}&group_by=type", one.org_id);
        let of_one = server.get(&of_one, &operator).await.expect(200);
        assert_eq!(
            (&of_one["data"][0]["group"], &of_one["data"][0]["events"]),
            (&json!("a"), &json!(2))
        );
    }
    let usage = server.list("/api/admin/usage?month=2026-01", &operator).await;
    let expected = json!({
        "org_id": one.org_id, "name": "one", "month": "2026-01", "events": 2, "bytes": 4,
        "delivered": 0, "dead": 0,
    });
    assert_eq!((usage.len(), &usage[0]), (2, &expected));
    let this_month = server.get("/api/admin/usage?limit=1", &operator).await.expect(200);
    assert_eq!(this_month["data"][0], expected);
    let of_other = format!("/api/admin/usage?org_id={}", other.org_id);
    assert_eq!(server.list(&of_other, &operator).await.len(), 1);
}
