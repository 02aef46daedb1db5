//! Requests as people send them: with small mistakes, which are told, and with forms that others use, which are taken.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::server::{self, Answer, Server, Tenant};

const EVENT: &str = r#"{"type":"a","payload":1}"#;

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

async fn post(
    server: &Server,
    tenant: &Tenant,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = server.request(Method::POST, path, &tenant.key).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server::answer(request).await
}

#[tokio::test]
async fn event_types_of_every_separator_are_taken_matched_and_listed() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let types = ["user:created", "user.created", "acme/user/created", "user:deleted"];
    for event_type in types {
        let event = json!({ "type": event_type, "payload": 1 }).to_string();
        server.post("/api/events", &tenant.key, event).await.expect(202);
    }
    let filters = json!({ "url": "https://example.com", "event_types": ["user:*", "acme/*"] });
    server.post("/api/endpoints", &tenant.key, filters.to_string()).await.expect(201);
    for event_type in types {
        server.store_event(tenant.org_id, event_type, "1").await;
    }
    let listed = async |filter: &str| {
        let events = server.list(&format!("/api/events?type={filter}"), &tenant.key).await;
        let mut types: Vec<_> =
            events.iter().map(|event| text(&event["type"]).to_owned()).collect();
        types.sort_unstable();
        types
    };
    assert_eq!(listed("user:*").await, ["user:created", "user:deleted"]);
    assert_eq!(listed("acme/*").await, ["acme/user/created"]);
    assert_eq!(listed("user.*").await, ["user.created"]);
    assert_eq!(listed("acme/user/created").await, ["acme/user/created"]);
    assert_eq!(server.list("/api/deliveries", &tenant.key).await.len(), 3);
}

#[tokio::test]
async fn lines_are_taken_under_every_name_and_a_byte_order_mark_is_skipped() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let lines = format!("\u{feff}{EVENT}\n{EVENT}\n");
    for media_type in ["application/x-ndjson", "application/ndjson", "application/jsonl"] {
        let headers = [("content-type", media_type)];
        let answer = post(&server, &tenant, "/api/events/batch", &headers, &lines).await;
        assert_eq!(answer.expect(202)["accepted"], 2, "{media_type}");
    }
    let marked = format!("\u{feff}{EVENT}");
    server.post("/api/events", &tenant.key, marked).await.expect(202);
    let endpoint = "\u{feff}{\"url\":\"https://example.com\"}";
    server.post("/api/endpoints", &tenant.key, endpoint).await.expect(201);
}

#[tokio::test]
async fn time_without_a_zone_and_number_of_seconds_are_told_as_such() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for (time, code, told) in [
        (json!("2026-01-31T12:00:00.5"), "format", "time zone"),
        (json!("1769860800"), "format", "not a number"),
        (json!(1_769_860_800), "type", "not a number"),
        (json!(-1.5), "type", "not a number"),
        (json!(true), "type", "must be a string"),
    ] {
        let event = json!({ "type": "a", "payload": 1, "timestamp": time }).to_string();
        let answer = server.post("/api/events", &tenant.key, event).await;
        let problem = answer.expect_faults(&[("timestamp", code)]);
        assert!(text(&problem["detail"]).contains(told), "{time}: {problem}");
    }
    let zoneless = server.get("/api/events?since=2026-01-31T12:00:00", &tenant.key).await;
    assert!(text(&zoneless.expect_faults(&[("since", "format")])["detail"]).contains("time zone"));
    let key = json!({ "name": "x", "expires_at": 1_769_860_800 }).to_string();
    let problem =
        server.post("/api/keys", &tenant.key, key).await.expect_faults(&[("expires_at", "type")]);
    assert!(text(&problem["detail"]).contains("not a number"), "{problem}");
}

#[tokio::test]
async fn request_that_is_too_large_is_told_both_limits() {
    let server = Server::start_with(&["--max-event-bytes=1000"]).await;
    let tenant = server.tenant("acme").await;
    let event = |bytes: usize| format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(bytes));
    let mut told = Vec::new();
    for body in [event(1001), event(100_000)] {
        let answer = server.post("/api/events", &tenant.key, body).await;
        told.push(text(&answer.expect_problem(413, "payload_too_large")["detail"]).to_owned());
    }
    assert_eq!(told[0], told[1]);
    assert!(
        told[0].starts_with("a payload may have at most 1000 bytes, and the body "),
        "{told:?}"
    );
    let batch = " ".repeat(5 * 1024 * 1024 + 1);
    let answer = server.post("/api/events/batch", &tenant.key, batch).await;
    let problem = answer.expect_problem(413, "payload_too_large");
    let expected = "a payload may have at most 1000 bytes, and the body 5242880";
    assert_eq!(problem["detail"], expected);
    let batch = " ".repeat(5 * 1024 * 1024 + 1);
    let request = server.request(Method::POST, "/api/events/batch", &tenant.key);
    let request = request.header("idempotency-key", "k");
    let answer = server::answer(server::json(request, batch)).await;
    assert_eq!(answer.expect_problem(413, "payload_too_large")["detail"], expected);
}

#[tokio::test]
async fn misspelt_names_are_told_with_the_one_that_was_meant() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let key = &tenant.key;
    let details = async |answer: Answer| text(&answer.expect(422)["detail"]).to_owned();
    let event = r#"{"type":"a","payload":1,"dedupId":"x"}"#;
    let told = details(server.post("/api/events", key, event).await).await;
    assert_eq!(told, "dedupId is not a field of an event; did you mean dedup_id?");
    let batch = format!(r#"{{"events":[{EVENT}],"event":1}}"#);
    let told = details(server.post("/api/events/batch", key, batch).await).await;
    assert_eq!(told, "event is not a field of a batch; did you mean events?");
    let endpoint = r#"{"url":"https://example.com","eventTypes":[]}"#;
    let told = details(server.post("/api/endpoints", key, endpoint).await).await;
    assert!(told.ends_with("; did you mean event_types?"), "{told}");
    let told = details(server.get("/api/events?user=u", key).await).await;
    assert_eq!(told, "user is not a parameter of this route; did you mean user_id?");
    let told = details(server.get("/api/events?color=u", key).await).await;
    assert_eq!(told, "color is not a parameter of this route");
    let header = [("x-dedupid", "d")];
    let told = details(post(&server, &tenant, "/api/events/raw", &header, "x").await).await;
    assert_eq!(told, "x-dedupid is not a header of this route; did you mean X-Dedup-Id?");
}

#[tokio::test]
async fn routes_that_take_events_refuse_parameters() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for path in ["/api/events", "/api/events/batch", "/api/events/raw", "/api/v1/events"] {
        let path = format!("{path}?type=a.b");
        server.post(&path, &tenant.key, EVENT).await.expect_faults(&[("type", "unknown")]);
    }
    let answer = server.post("/api/events/raw?type=a.b", &tenant.key, EVENT).await;
    let told = "type is not a parameter of this route; send the header X-Event-Type";
    assert_eq!(answer.expect(422)["detail"], told);
    assert_eq!(server.metrics.http.events_ingested_total.get(), 0);
}

#[tokio::test]
async fn event_that_is_posted_as_a_raw_body_is_taken_with_a_warning() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let json = ("content-type", "application/json");
    let warned = post(&server, &tenant, "/api/v1/events", &[json], EVENT).await;
    warned.expect(202);
    assert!(warned.header("warning").starts_with("299 - \""), "{}", warned.header("warning"));
    for (headers, body) in
        [(&[json, ("x-event-type", "a")][..], EVENT), (&[json], r#"{"type":"a"}"#), (&[], EVENT)]
    {
        let answer = post(&server, &tenant, "/api/events/raw", headers, body).await;
        answer.expect(202);
        assert!(!answer.headers.contains_key("warning"), "{body}");
    }
}

#[tokio::test]
async fn path_that_nearly_fits_a_route_is_told_the_right_one() {
    let server = Server::start().await;
    for (path, meant) in [
        ("/api/events/", "/api/events"),
        ("/events", "/api/events"),
        ("/v1/events/?x=1", "/api/v1/events"),
        ("/deliveries/7", "/api/deliveries/7"),
    ] {
        let answer = server::answer(server.bare(Method::POST, path)).await;
        let problem = answer.expect_problem(404, "not_found");
        assert_eq!(problem["detail"], format!("there is no such route; did you mean {meant}?"));
    }
    let answer = server::answer(server.bare(Method::GET, "/eventz")).await;
    assert_eq!(answer.expect_problem(404, "not_found")["detail"], "there is no such route");
}

#[tokio::test]
async fn event_with_more_deliveries_than_it_shows_says_where_they_go_on() {
    let server = Server::start_with(&["--endpoints-max=200"]).await;
    let tenant = server.tenant("acme").await;
    let endpoint = r#"{"url":"https://example.com"}"#;
    for _ in 0..101 {
        server.post("/api/endpoints", &tenant.key, endpoint).await.expect(201);
    }
    let event = server.store_event(tenant.org_id, "a", "1").await;
    let shown = server.get(&format!("/api/events/{}", event.id), &tenant.key).await.expect(200);
    assert_eq!(shown["deliveries"].as_array().unwrap().len(), 100);
    let cursor = text(&shown["deliveries_next_cursor"]);
    let rest = format!("/api/deliveries?event_id={}&cursor={cursor}", event.id);
    let rest = server.get(&rest, &tenant.key).await.expect(200);
    assert_eq!(rest["data"].as_array().unwrap().len(), 1);
    assert!(!shown["deliveries"].as_array().unwrap().contains(&rest["data"][0]));
    assert_eq!(rest["next_cursor"], Value::Null);
}

#[tokio::test]
async fn request_without_one_host_is_refused() {
    let server = Server::start().await;
    let ask = async |version: &str, fields: &str| {
        let mut stream = server.connect().await;
        let request =
            format!("GET /health/live HTTP/{version}\r\n{fields}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for fields in ["", "host: a\r\nhost: a\r\n"] {
        let answer = ask("1.1", fields).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("\"code\":\"invalid_host\""), "{answer}");
    }
    assert!(ask("1.1", "host: a\r\n").await.starts_with("HTTP/1.1 200 "));
    assert!(ask("1.0", "").await.starts_with("HTTP/1.0 200 "));
}

#[tokio::test]
async fn callers_own_trace_id_travels_with_the_event_beside_its_parent() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let request = server.request(Method::POST, "/api/events", &tenant.key);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let request = request.header("x-trace-id", "demo-123").header("traceparent", parent);
    let answer = server::answer(server::json(request, EVENT)).await;
    answer.expect(202);
    assert_eq!(answer.header("x-trace-id"), "demo-123");
    let records = server.reader.next_batch(10, 1 << 20).await.unwrap().unwrap().records;
    let bytes = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    assert!(records[0].payload.windows(16).any(|window| window == bytes));
    assert!(records[0].payload.windows(8).any(|window| window == b"demo-123"));
}
