//! Taking any body in as it is.

use reqwest::Method;
use serde_json::Value;

use crate::support::server::{self, Answer, Server};

const PATHS: [&str; 2] = ["/api/events/raw", "/api/v1/events"];

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn post(
    server: &Server,
    key: &str,
    headers: Headers<'_>,
    body: impl Into<reqwest::Body>,
) -> Answer {
    post_to(PATHS[0], server, key, headers, body).await
}

async fn post_to(
    path: &str,
    server: &Server,
    key: &str,
    headers: Headers<'_>,
    body: impl Into<reqwest::Body>,
) -> Answer {
    let mut request = server.request(Method::POST, path, key).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server::answer(request).await
}

#[tokio::test]
async fn json_is_taken_byte_for_byte_under_both_paths() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for path in PATHS {
        for payload in ["{ \"a\" :\t0.10 }", "1e400", r#""\u0000""#] {
            let json = [("content-type", "application/vnd.api+json")];
            let answer = post_to(path, &server, &tenant.key, &json, payload).await;
            let id = answer.expect(202)["id"].as_str().unwrap().to_owned();
            assert_eq!(answer.text, format!(r#"{{"id":"{id}","status":"accepted"}}"#));
            assert!(answer.header("ratelimit").starts_with("\"default\";r="));
            let record = server.journaled().await;
            assert!(record.contains(payload) && record.contains("raw"), "{record}");
        }
    }
    assert_eq!(server.metrics.http.events_ingested_total.get(), 6);
    assert_eq!(server.metrics.http.event_ingestion_latency_seconds.get_sample_count(), 6);
}

#[tokio::test]
async fn bodies_that_are_not_json_are_carried_in_base64() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    let cases: [(Headers<'_>, &[u8], &str); 6] = [
        (&[], b"", r#"{"content_type":null,"base64":""}"#),
        (&[("content-type", json)], b"", r#"{"content_type":"application/json","base64":""}"#),
        (&[("content-type", json)], b"{", r#"{"content_type":"application/json","base64":"ew=="}"#),
        (&[], b"{}", r#"{"content_type":null,"base64":"e30="}"#),
        (
            &[("content-type", "x; y=\"z\"")],
            b"\0\xff",
            r#"{"content_type":"x; y=\"z\"","base64":"AP8="}"#,
        ),
        (
            &[("content-type", form)],
            b"payload=%7B%7D",
            r#"{"content_type":"application/x-www-form-urlencoded","base64":"cGF5bG9hZD0lN0IlN0Q="}"#,
        ),
    ];
    for (headers, body, expected) in cases {
        post(&server, &tenant.key, headers, body).await.expect(202);
        let record = server.journaled().await;
        assert!(record.contains(expected), "{record}");
        assert!(serde_json::from_str::<Value>(expected).is_ok(), "{expected}");
    }
}

#[tokio::test]
async fn json_that_nests_too_deep_is_carried_in_base64() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let json = [("content-type", "application/json")];
    let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
    post(&server, &tenant.key, &json, nested(96)).await.expect(202);
    assert!(server.journaled().await.contains(&nested(96)));
    post(&server, &tenant.key, &json, nested(99)).await.expect(202);
    let carried = format!("\"base64\":\"{}{}\"}}", "W1tb".repeat(33), "XV1d".repeat(33));
    let record = server.journaled().await;
    assert!(record.contains(&carried), "{record}");
}

#[tokio::test]
async fn headers_say_what_fields_would() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let headers = [
        ("X-Event-Type", "github.push"),
        ("X-Dedup-Id", "delivery-1"),
        ("X-Account-Id", "the account"),
        ("X-User-Id", "the user"),
        ("X-Event-Timestamp", "2026-01-31T13:00:00+01:00"),
        ("Content-Type", "application/json"),
    ];
    let raw = post(&server, &tenant.key, &headers, r#"{"ref":"main"}"#).await.expect(202);
    let record = server.journaled().await;
    for text in ["github.push", "delivery-1", "the account", "the user", r#"{"ref":"main"}"#] {
        assert!(record.contains(text), "{text}: {record}");
    }
    // The same event in an envelope: the same id, and the same record, but for when it was accepted.
    let body = r#"{"type":"github.push","payload":{"ref":"main"},"dedup_id":"delivery-1",
        "account_id":"the account","user_id":"the user","timestamp":"2026-01-31T12:00:00Z"}"#;
    let request = server.request(Method::POST, "/api/events", &tenant.key);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let enveloped = server::answer(server::json(request, body).header("x-trace-id", trace)).await;
    assert_eq!(enveloped.expect(202), raw);
    let enveloped = server.journaled().await;
    let with_trace: Vec<_> = headers.into_iter().chain([("x-trace-id", trace)]).collect();
    let answer = post(&server, &tenant.key, &with_trace, r#"{"ref":"main"}"#).await;
    assert_eq!(answer.header("x-trace-id"), trace);
    let again = server.journaled().await;
    let event = |record: &str| record[record.find("github.push").unwrap()..].to_owned();
    assert_eq!(event(&again), event(&enveloped));
}

#[tokio::test]
async fn header_that_breaks_a_rule_is_named() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let long = "x".repeat(256);
    let headers = [
        ("x-event-type", "not a type"),
        ("x-dedup-id", long.as_str()),
        ("x-account-id", ""),
        ("x-user-id", "a"),
        ("x-user-id", "b"),
        ("x-event-timestamp", "yesterday"),
    ];
    post(&server, &tenant.key, &headers, "").await.expect_faults(&[
        ("X-User-Id", "repeated"),
        ("X-Event-Type", "format"),
        ("X-Dedup-Id", "length"),
        ("X-Account-Id", "length"),
        ("X-Event-Timestamp", "format"),
    ]);
    let request = server.request(Method::POST, PATHS[0], &tenant.key);
    let answer = server::answer(request.header("x-dedup-id", &b"\xff"[..])).await;
    answer.expect_faults(&[("X-Dedup-Id", "format")]);
    assert_eq!(server.metric("validation_errors_total{type=\"length\"}"), 2);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 0);
}

#[tokio::test]
async fn cap_is_on_the_body_as_it_is_posted() {
    let mut server = Server::start_with(&["--max-event-bytes=1000"]).await;
    let tenant = server.tenant("acme").await;
    // In base64 it is larger than the cap, which is no matter of the sender's.
    post(&server, &tenant.key, &[], vec![0xff; 1000]).await.expect(202);
    assert!(server.journaled().await.contains(&"/".repeat(1333)));
    for bytes in [1001, 100_000] {
        let answer = post(&server, &tenant.key, &[], vec![0xff; bytes]).await;
        let problem = answer.expect_problem(413, "payload_too_large");
        assert!(problem["detail"].as_str().unwrap().contains("1000 bytes"), "{problem}");
    }
}

#[tokio::test]
async fn largest_body_that_a_server_may_take_is_taken() {
    let mut server = Server::start_with(&["--max-event-bytes=4194304"]).await;
    let tenant = server.tenant("acme").await;
    post(&server, &tenant.key, &[], vec![0xff; 4_194_304]).await.expect(202);
    assert!(server.journaled().await.contains(&"/".repeat(5_592_405)));
}

#[tokio::test]
async fn raw_event_costs_one_and_is_not_read_beyond_the_limit() {
    let server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(1)).await;
    post(&server, &tenant.key, &[], "x").await.expect(202);
    let headers = [("x-event-type", "not a type")];
    post(&server, &tenant.key, &headers, "x").await.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn other_methods_than_post_are_refused() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for path in PATHS {
        let answer = server.get(path, &tenant.key).await;
        answer.expect_problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), "POST");
    }
}
