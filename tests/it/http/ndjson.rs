//! Batches as newline-delimited JSON.

use reqwest::Method;

use crate::support::server::{self, Answer, Server};

async fn post(server: &Server, key: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = server.request(Method::POST, "/api/events/batch", key).body(body);
    server::answer(request.header("content-type", "application/x-ndjson")).await
}

#[tokio::test]
async fn ndjson_lines_are_events_and_blank_lines_are_ignored() {
    let mut server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(100)).await;
    let body = "\r\n{\"type\":\"a\",\"payload\":{\"n\":  1e400}}\r\n\n \t\n\
                {\"type\":\"b\",\"payload\":\"second\",\"dedup_id\":\"d\"}";
    let answer = post(&server, &tenant.key, body).await;
    let accepted = answer.expect(202);
    assert_eq!(accepted["accepted"], 2);
    assert!(answer.header("ratelimit").starts_with("\"default\";r=98;"));
    let record = server.journaled().await;
    assert!(record.contains("{\"n\":  1e400}") && record.contains("second"), "{record}");
    // Ids stand in the order of the lines.
    let again = r#"{"type":"b","payload":"second","dedup_id":"d"}"#;
    let id = server.post("/api/events", &tenant.key, again).await.expect(202)["id"].clone();
    assert_eq!(accepted["ids"][1], id);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 3);
}

#[tokio::test]
async fn malformed_line_is_named_and_nothing_is_taken() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = "{\"type\":\"a\",\"payload\":1}\n\n{\"type\":\"a\", oops}\n[";
    let problem = post(&server, &tenant.key, body).await.expect_problem(400, "malformed_json");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.ends_with("at line 3 column 14"), "{detail}");
    // An array is JSON, but no event.
    post(&server, &tenant.key, "[]").await.expect_faults(&[("", "type")]);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 0);
    assert_eq!(server.metric("validation_errors_total{type=\"malformed_json\"}"), 1);
}

#[tokio::test]
async fn violations_carry_the_index_of_their_event() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = "\n{\"type\":\"a\",\"payload\":1}\n\n{\"type\":\"a\"}\n7\n";
    let answer = post(&server, &tenant.key, body).await;
    let problem = answer.expect_faults(&[("payload", "required"), ("", "type")]);
    assert_eq!(
        (&problem["errors"][0]["index"], &problem["errors"][1]["index"]),
        (&1.into(), &2.into())
    );
    let (open, close) = ("[".repeat(128), "]".repeat(128));
    let deep = format!("\n{{\"type\":\"a\",\"payload\":{open}{close}}}");
    let problem = post(&server, &tenant.key, deep).await.expect_faults(&[("payload", "too_deep")]);
    assert_eq!(problem["errors"][0]["index"], 0);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 0);
}

#[tokio::test]
async fn batch_of_lines_has_the_limits_of_any_batch() {
    let server = Server::start_with(&["--rate-limit-per-minute=100000"]).await;
    let tenant = server.tenant("acme").await;
    let lines = |events: usize| "{\"type\":\"a\",\"payload\":1}\n".repeat(events);
    assert_eq!(post(&server, &tenant.key, lines(1000)).await.expect(202)["accepted"], 1000);
    for body in [lines(1001), String::new(), "\n \r\n".to_owned()] {
        post(&server, &tenant.key, body).await.expect_faults(&[("events", "length")]);
    }
    let huge = "\n".repeat(5 * 1024 * 1024);
    post(&server, &tenant.key, huge.clone()).await.expect_faults(&[("events", "length")]);
    let answer = post(&server, &tenant.key, huge + "\n").await;
    answer.expect_problem(413, "payload_too_large");
    let limited = server.tenant_limited("limited", Some(3)).await;
    let answer = post(&server, &limited.key, lines(4)).await;
    answer.expect_problem(429, "batch_over_rate_limit");
}

#[tokio::test]
async fn lines_are_for_batches_only() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let ask = async |path: &str, media_type: &'static str| {
        let request = server.request(Method::POST, path, &tenant.key).body("{}");
        let answer = server::answer(request.header("content-type", media_type)).await;
        answer.expect_problem(415, "unsupported_media_type")["detail"].clone()
    };
    let detail = ask("/api/events", "application/x-ndjson").await;
    assert_eq!(detail, "send the header Content-Type: application/json");
    let detail = ask("/api/events/batch", "text/plain").await;
    let all = "send the header Content-Type: application/json, application/x-ndjson for one event per line, or \
               application/cloudevents-batch+json";
    assert_eq!(detail, all);
}
