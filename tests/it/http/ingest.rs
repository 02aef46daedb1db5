//! Taking events in.

use std::fmt::Write;

use hookgate::config::MetricsSet;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::server::{self, Server};

const EVENT: &str = r#"{"type":"user.login","payload":{"user":"ada"}}"#;

#[tokio::test]
async fn event_is_accepted_once_it_is_journaled() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let answer = server.post("/api/events", &tenant.key, EVENT).await;
    let body = answer.expect(202);
    let id = body["id"].as_str().unwrap();
    assert_eq!(answer.text, format!(r#"{{"id":"{id}","status":"accepted"}}"#));
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(server.journaled().await.contains(r#"{"user":"ada"}"#));
    assert_eq!(server.metrics.http.events_ingested_total.get(), 1);
    assert_eq!(server.metrics.http.event_ingestion_latency_seconds.get_sample_count(), 1);
}

#[tokio::test]
async fn payloads_reach_the_journal_byte_for_byte() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for payload in ["1e400", "[0.10, -0,\t1E+2]", r#""a\u0000 \ud83d\ude00""#, "{ \"ü\" :null }"] {
        let body = format!(r#"{{"type":"a.b","payload":{payload}}}"#);
        server.post("/api/events", &tenant.key, body).await.expect(202);
        assert!(server.journaled().await.contains(payload), "{payload}");
    }
}

#[tokio::test]
async fn batch_is_accepted_in_both_forms() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let events = r#"[{"type":"a","payload":"first"},{"type":"b","payload":"second"}]"#;
    for body in [events.to_owned(), format!(r#"{{"events":{events}}}"#)] {
        let body = server.post("/api/events/batch", &tenant.key, body).await.expect(202);
        assert_eq!(body["accepted"], 2);
        assert_eq!(body["ids"].as_array().unwrap().len(), 2);
        let records = server.journaled().await;
        assert!(records.contains("first") && records.contains("second"));
    }
    assert_eq!(server.metrics.http.events_ingested_total.get(), 4);
}

#[tokio::test]
async fn one_dedup_id_gets_one_id_and_another_tenants_gets_another() {
    let server = Server::start().await;
    let (acme, other) = (server.tenant("acme").await, server.tenant("other").await);
    let body = r#"{"type":"a","payload":1,"dedup_id":"invoice-1"}"#;
    let post =
        async |key: &str| server.post("/api/events", key, body).await.expect(202)["id"].clone();
    let first = post(&acme.key).await;
    assert_eq!(post(&acme.key).await, first);
    assert_ne!(post(&other.key).await, first);
}

#[tokio::test]
async fn body_that_is_no_json_names_line_and_column() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for path in ["/api/events", "/api/events/batch"] {
        let answer = server.post(path, &tenant.key, "{\"type\":\n oops}").await;
        let problem = answer.expect_problem(400, "malformed_json");
        assert!(problem["detail"].as_str().unwrap().contains("line 2 column"), "{problem}");
        server.post(path, &tenant.key, "").await.expect_problem(400, "malformed_json");
    }
    let text = String::from_utf8(server.metrics.registry.render(MetricsSet::All).unwrap()).unwrap();
    assert!(text.contains("validation_errors_total{type=\"malformed_json\"} 4"), "{text}");
}

#[tokio::test]
async fn violations_are_listed_and_counted() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"type":"a b","dedup_id":7,"typo":1}"#;
    let faults =
        [("typo", "unknown"), ("type", "format"), ("payload", "required"), ("dedup_id", "type")];
    server.post("/api/events", &tenant.key, body).await.expect_faults(&faults);

    let batch = r#"[{"type":"a","payload":1},{"type":"a"},7]"#;
    let answer = server.post("/api/events/batch", &tenant.key, batch).await;
    let problem = answer.expect_faults(&[("payload", "required"), ("", "type")]);
    let indexes: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|e| &e["index"]).collect();
    assert_eq!(indexes, [&json!(1), &json!(2)]);

    let text = String::from_utf8(server.metrics.registry.render(MetricsSet::All).unwrap()).unwrap();
    assert!(text.contains("validation_errors_total{type=\"required\"} 2"), "{text}");
    assert_eq!(server.metrics.http.events_ingested_total.get(), 0);
}

#[tokio::test]
async fn empty_and_oversized_batches_are_refused() {
    let server = Server::start_with(&["--rate-limit-per-minute=100000"]).await;
    let tenant = server.tenant("acme").await;
    server
        .post("/api/events/batch", &tenant.key, "[]")
        .await
        .expect_faults(&[("events", "length")]);
    let event = r#"{"type":"a","payload":1}"#;
    let batch = |events: usize| format!("[{}]", vec![event; events].join(","));
    let body = server.post("/api/events/batch", &tenant.key, batch(1000)).await.expect(202);
    assert_eq!(body["accepted"], 1000);
    let answer = server.post("/api/events/batch", &tenant.key, batch(1001)).await;
    answer.expect_faults(&[("events", "length")]);
}

#[tokio::test]
async fn payload_limit_is_exact() {
    let server = Server::start_with(&["--max-event-bytes=1000"]).await;
    let tenant = server.tenant("acme").await;
    let event = |bytes: usize| format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(bytes - 2));
    server.post("/api/events", &tenant.key, event(1000)).await.expect(202);
    let answer = server.post("/api/events", &tenant.key, event(1001)).await;
    answer.expect_problem(413, "payload_too_large");
    // Beyond the payload and the room beside it, the body is not even read to its end.
    let answer = server.post("/api/events", &tenant.key, event(100_000)).await;
    answer.expect_problem(413, "payload_too_large");
    let batch = format!("[{}]", vec![event(1000); 990].join(","));
    server.post("/api/events/batch", &tenant.key, batch).await.expect(202);
    let huge = " ".repeat(5 * 1024 * 1024 + 1);
    let answer = server.post("/api/events/batch", &tenant.key, huge).await;
    answer.expect_problem(413, "payload_too_large");
    // In a batch, the event that is too large is named.
    let batch = format!("[{},{}]", event(9), event(1001));
    let problem = server
        .post("/api/events/batch", &tenant.key, batch)
        .await
        .expect_faults(&[("payload", "too_large")]);
    assert_eq!(problem["errors"][0]["index"], 1);
}

#[tokio::test]
async fn moment_that_no_utc_year_holds_is_refused_and_the_last_ones_are_taken() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let event = |at: &str| format!(r#"{{"type":"a","payload":1,"timestamp":"{at}"}}"#);
    for good in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"] {
        server.post("/api/events", &tenant.key, event(good)).await.expect(202);
    }
    for bad in ["0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-23:59"] {
        let answer = server.post("/api/events", &tenant.key, event(bad)).await;
        let problem = answer.expect_faults(&[("timestamp", "format")]);
        let rule = problem["errors"][0]["message"].as_str().unwrap();
        assert!(rule.ends_with("in the years 0000 to 9999 of UTC"), "{rule}");
    }
}

#[tokio::test]
async fn too_large_payload_beside_other_faults_is_one_of_them() {
    let server = Server::start_with(&["--max-event-bytes=10"]).await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"type":"a b","payload":"0123456789"}"#;
    let faults = [("type", "format"), ("payload", "too_large")];
    server.post("/api/events", &tenant.key, body).await.expect_faults(&faults);
}

#[tokio::test]
async fn nesting_limit_is_exact() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let event = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"type":"a","payload":{open}{close}}}"#)
    };
    server.post("/api/events", &tenant.key, event(96)).await.expect(202);
    for depth in [97, 100_000] {
        let answer = server.post("/api/events", &tenant.key, event(depth)).await;
        let problem = answer.expect_faults(&[("payload", "too_deep")]);
        let rule = "must nest at most 96 levels of arrays and objects";
        assert_eq!(problem["errors"][0]["message"], rule);
    }
    let batch = format!("[{},{}]", event(96), event(97));
    let answer = server.post("/api/events/batch", &tenant.key, batch).await;
    let problem = answer.expect_faults(&[("payload", "too_deep")]);
    assert_eq!(problem["errors"][0]["index"], 1);
    assert_eq!(server.metric("validation_errors_total{type=\"too_deep\"}"), 3);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 1);
}

#[tokio::test]
async fn other_media_types_than_json_are_refused() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let post = async |media_type: Option<&str>| {
        let request = server.request(Method::POST, "/api/events", &tenant.key).body(EVENT);
        let request = match media_type {
            Some(media_type) => request.header("content-type", media_type),
            None => request,
        };
        server::answer(request).await
    };
    for good in ["application/json; charset=utf-8", "application/vnd.example+json"] {
        post(Some(good)).await.expect(202);
    }
    for bad in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        post(bad).await.expect_problem(415, "unsupported_media_type");
    }
}

#[tokio::test]
async fn chunked_body_is_taken_and_bounded() {
    let server = Server::start_with(&["--max-event-bytes=1000"]).await;
    let tenant = server.tenant("acme").await;
    let chunked = async |pieces: &[&str]| {
        let mut request = format!(
            "POST /api/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {}\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            tenant.key
        );
        for piece in pieces.iter().chain(&[""]) {
            write!(request, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
        }
        server.raw(&request).await
    };
    let (head, tail) = EVENT.split_at(9);
    let answer = chunked(&[head, tail]).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let answer = chunked(&[" ".repeat(10_000).as_str(); 2]).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn expect_continue_with_too_large_a_body_is_refused_at_once() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let answer = server
        .raw(&format!(
            "POST /api/events HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 6000000\r\n\
             content-type: application/json\r\nexpect: 100-continue\r\n\r\n",
            tenant.key
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn body_that_ends_early_is_no_event() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let mut stream = server.connect().await;
    let request = format!(
        "POST /api/events HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 100\r\n\
         content-type: application/json\r\n\r\n{EVENT}",
        tenant.key
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("\"code\":\"incomplete_body\""), "{answer}");
    assert_eq!(server.metrics.http.events_ingested_total.get(), 0);
}

#[tokio::test]
async fn body_that_does_not_come_is_given_up() {
    let server = Server::start_with(&["--request-timeout=100ms"]).await;
    let tenant = server.tenant("acme").await;
    // Verified once, so that the time goes into waiting for the body.
    server.get("/api/org", &tenant.key).await;
    let answer = server
        .raw(&format!(
            "POST /api/events HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 100\r\n\
             content-type: application/json\r\n\r\n{{",
            tenant.key
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
    assert!(answer.contains("x-trace-id: "), "{answer}");
}

#[tokio::test]
async fn rate_limit_is_told_and_kept() {
    let server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(3)).await;
    for left in [2, 1, 0] {
        let answer = server.post("/api/events", &tenant.key, EVENT).await;
        answer.expect(202);
        assert_eq!(answer.header("ratelimit-policy"), "\"default\";q=3;w=60");
        assert!(answer.header("ratelimit").starts_with(&format!("\"default\";r={left};t=")));
    }
    let answer = server.post("/api/events", &tenant.key, EVENT).await;
    answer.expect_problem(429, "rate_limited");
    assert!(answer.header("ratelimit").starts_with("\"default\";r=0;t="));
    assert_eq!(answer.header("ratelimit-policy"), "\"default\";q=3;w=60");
    let retry_after: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&retry_after), "{retry_after}");
    assert_eq!(rejected(&server, "rate_limited"), 1);
}

#[tokio::test]
async fn batch_costs_its_length_and_one_above_the_limit_never_passes() {
    let server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(3)).await;
    let batch =
        |events: usize| format!("[{}]", vec![r#"{"type":"a","payload":1}"#; events].join(","));
    let post = async |events| server.post("/api/events/batch", &tenant.key, batch(events)).await;
    let answer = post(4).await;
    let problem = answer.expect_problem(429, "batch_over_rate_limit");
    assert!(problem["detail"].as_str().unwrap().contains("4 events"), "{problem}");
    assert!(answer.headers.get("retry-after").is_none(), "waiting does not help");
    // A refused batch has taken nothing, not even a part of itself.
    let answer = post(3).await;
    answer.expect(202);
    assert!(answer.header("ratelimit").starts_with("\"default\";r=0;"));
    post(1).await.expect_problem(429, "rate_limited");
    // What is over the limit is not even read.
    for path in ["/api/events", "/api/events/batch"] {
        server.post(path, &tenant.key, "nonsense").await.expect_problem(429, "rate_limited");
    }
}

#[tokio::test]
async fn full_journal_says_when_to_come_back() {
    let server =
        Server::start_with(&["--rate-limit-per-minute=100000000", "--max-event-bytes=4194304"])
            .await;
    let event = format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(4_000_000));
    // The journal holds 32 MiB and nothing is taken out of it. Nobody else has anything in it.
    let mut accepted = 0;
    let answer = loop {
        let tenant = server.tenant("acme").await;
        let answer = server.post("/api/events", &tenant.key, event.clone()).await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 10, "the journal is never full");
    };
    answer.expect_problem(503, "journal_full");
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(rejected(&server, "journal_unavailable"), 1);
    let ready = server::answer(server.bare(Method::GET, "/health/ready")).await.expect(503);
    assert_eq!(ready["checks"]["journal"], "full");
}

#[tokio::test]
async fn share_of_the_journal_that_is_used_up_refuses_its_organisation_alone() {
    let mut server = Server::start_with(&["--rate-limit-per-minute=100000000"]).await;
    let (acme, other) = (server.tenant("acme").await, server.tenant("other").await);
    let event = format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(250_000));
    let mut accepted = 0;
    let answer = loop {
        let answer = server.post("/api/events", &acme.key, event.clone()).await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
    };
    answer.expect_problem(429, "journal_share_used_up");
    assert_eq!(answer.header("retry-after"), "5");
    assert!((90..=108).contains(&accepted), "{accepted} of 134 fit");
    assert_eq!(rejected(&server, "journal_share"), 1);
    server.post("/api/events", &other.key, event.clone()).await.expect(202);
    server::answer(server.bare(Method::GET, "/health/ready")).await.expect(200);

    server.reader.next_batch(20, usize::MAX).await.unwrap().unwrap().ack.ack();
    server.post("/api/events", &acme.key, event.clone()).await.expect(202);
}

#[tokio::test]
async fn closed_journal_takes_nothing() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    server.journal.close();
    let answer = server.post("/api/events", &tenant.key, EVENT).await;
    answer.expect_problem(503, "shutting_down");
    assert_eq!(answer.header("retry-after"), "5");
}

#[tokio::test]
async fn trace_travels_with_the_event() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = server.request(Method::POST, "/api/events", &tenant.key);
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let answer = server::answer(server::json(request, EVENT)).await;
    answer.expect(202);
    assert_eq!(answer.header("x-trace-id"), trace);
    let records = server.reader.next_batch(10, 1 << 20).await.unwrap().unwrap().records;
    let bytes = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    assert!(records[0].payload.windows(16).any(|window| window == bytes));
}

fn rejected(server: &Server, reason: &str) -> u64 {
    server.metric(&format!("rejected_requests_total{{reason=\"{reason}\"}}"))
}
