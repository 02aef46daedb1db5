//! What every answer has, and what is said of requests that fit no route.

use reqwest::Method;
use serde_json::Value;

use crate::support::server::{self, Server};

#[tokio::test]
async fn unknown_route_is_not_found() {
    let server = Server::start().await;
    for path in ["/api", "/api/eventz", "/api/events/", "/api/events/x/y", "/%ff"] {
        server::answer(server.bare(Method::GET, path)).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn method_that_a_route_does_not_take_is_told_which_it_does() {
    let server = Server::start().await;
    let answer = server::answer(server.bare(Method::PUT, "/api/endpoints/x")).await;
    answer.expect_problem(405, "method_not_allowed");
    let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PATCH"]);
    for (method, path) in [
        (Method::GET, "/api/events/batch/x"),
        (Method::DELETE, "/api/events"),
        (Method::POST, "/metrics"),
        (Method::OPTIONS, "/api/org"),
    ] {
        let status = server::answer(server.bare(method, path)).await.status;
        assert!(status == 404 || status == 405, "{path}: {status}");
    }
}

#[tokio::test]
async fn malformed_id_is_not_found() {
    let server = Server::start().await;
    let (tenant, operator) = (server.tenant("acme").await, server.operator().await);
    for path in
        ["/api/events/7", "/api/endpoints/7", "/api/endpoints/7/secret", "/api/deliveries/7"]
    {
        server.get(path, &tenant.key).await.expect_problem(404, "not_found");
    }
    for path in ["/api/admin/orgs/7", "/api/admin/orgs/7/keys", "/api/admin/keys/%ff"] {
        server.get(path, &operator).await.expect_problem(404, "not_found");
    }
    for path in ["/api/deliveries/7/retry", "/api/dead-letters/7/replay", "/api/replays/7/cancel"] {
        server.post(path, &tenant.key, "").await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn routes_without_a_body_accept_an_empty_object_and_refuse_fields() {
    let server = Server::start().await;
    let (tenant, operator) = (server.tenant("acme").await, server.operator().await);
    let nobody = "019b0000-0000-7000-8000-000000000000";
    let org = format!("/api/admin/orgs/{nobody}");
    let requests = [
        (format!("{org}/suspend"), &operator),
        (format!("{org}/resume"), &operator),
        (format!("/api/endpoints/{nobody}/cancel-pending"), &tenant.key),
        (format!("/api/deliveries/{nobody}/retry"), &tenant.key),
        (format!("/api/deliveries/{nobody}/replay"), &tenant.key),
        (format!("/api/deliveries/{nobody}/cancel"), &tenant.key),
        (format!("/api/dead-letters/{nobody}/replay"), &tenant.key),
        (format!("/api/replays/{nobody}/cancel"), &tenant.key),
    ];
    for (path, key) in &requests {
        for body in ["", "{}"] {
            server.post(path, key, body).await.expect_problem(404, "not_found");
        }
        let reason = r#"{"reason":"unpaid"}"#;
        server.post(path, key, reason).await.expect_faults(&[("reason", "unknown")]);
        server.post(path, key, "now").await.expect_problem(400, "malformed_json");
        let queried = format!("{path}?reason=unpaid");
        server.post(&queried, key, "").await.expect_problem(422, "validation_failed");
    }
    let path = format!("/api/admin/orgs/{}/suspend", tenant.org_id);
    server.post(&path, &operator, r#"{"until":"tomorrow"}"#).await.expect(422);
    server.get("/api/events", &tenant.key).await.expect(200);
}

#[tokio::test]
async fn callers_trace_is_echoed_and_a_new_one_is_made() {
    let server = Server::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ask = async |name: &str, value: &str| {
        server::answer(server.bare(Method::GET, "/health/live").header(name, value)).await
    };
    assert_eq!(ask("x-trace-id", trace).await.header("x-trace-id"), trace);
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    assert_eq!(ask("traceparent", &parent).await.header("x-trace-id"), trace);
    for own in ["demo-123", "4BF92F35-77b3-4da6-a3ce-929d0e0e4736", &"x".repeat(128)] {
        assert_eq!(ask("x-trace-id", own).await.header("x-trace-id"), own);
    }
    for nonsense in ["", "a b", &"x".repeat(129)] {
        let made = ask("x-trace-id", nonsense).await.header("x-trace-id").to_owned();
        assert_eq!(made.len(), 32);
        assert_ne!(ask("x-trace-id", nonsense).await.header("x-trace-id"), made);
    }
    // Errors have it, too, in the header and in the body.
    let request = server.bare(Method::GET, "/nowhere").header("x-trace-id", trace);
    let problem = server::answer(request).await.expect_problem(404, "not_found");
    assert_eq!(problem["trace_id"], trace);
}

#[tokio::test]
async fn unknown_and_malformed_parameters_are_all_named() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let faults = |path: &'static str| async { server.get(path, &tenant.key).await };
    faults("/api/events?limit=0&cursor=x&type=a%20b&since=now&account_id=&user=u")
        .await
        .expect_faults(&[
            ("limit", "format"),
            ("cursor", "format"),
            ("type", "format"),
            ("account_id", "format"),
            ("since", "format"),
            ("user", "unknown"),
        ]);
    faults("/api/deliveries?status=lost&endpoint_id=7&event_id=8").await.expect_faults(&[
        ("status", "format"),
        ("endpoint_id", "format"),
        ("event_id", "format"),
    ]);
    faults("/api/endpoints?limit=501").await.expect_faults(&[("limit", "format")]);
    faults("/api/dead-letters?limit=1&limit=2").await.expect_faults(&[("limit", "repeated")]);
    faults("/api/org?x=1").await.expect_faults(&[("x", "unknown")]);
    let path = "/api/endpoints?dry_run=1";
    server.post(path, &tenant.key, "{}").await.expect_faults(&[("dry_run", "unknown")]);
}

#[tokio::test]
async fn example_of_docs_errors_is_a_real_answer() {
    let errors = include_str!("../../../docs/errors.md");
    let between = |start: &str, end: &str| {
        let (_, rest) = errors.split_once(start).unwrap();
        rest.split_once(end).unwrap().0
    };
    let mut example: Value = serde_json::from_str(between("```json", "```")).unwrap();
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let answer = server.post("/api/events", &tenant.key, between(" -d '", "'\n")).await;
    let mut real = answer.expect_problem(422, "validation_failed");
    assert_eq!(example["trace_id"].take().as_str().unwrap().len(), 32);
    real["trace_id"].take();
    assert_eq!(example, real);
}

#[tokio::test]
async fn head_request_is_answered_without_a_body() {
    let server = Server::start().await;
    let answer = server::answer(server.bare(Method::HEAD, "/health/live")).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, ""));
}

#[tokio::test]
async fn store_that_does_not_answer_is_a_503_with_retry_after() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    server.get("/api/org", &tenant.key).await.expect(200);
    server.lose_store().await;
    let answer = server.get("/api/events", &tenant.key).await;
    answer.expect_problem(503, "store_unavailable");
    assert_eq!(answer.header("retry-after"), "5");
    // A key that is known goes on working, and events are still taken in.
    let event = r#"{"type":"a","payload":1}"#;
    server.post("/api/events", &tenant.key, event).await.expect(202);
    // A key that is not known cannot be looked up: that is no refusal of the key.
    let elsewhere = Server::start().await.tenant("elsewhere").await;
    let answer = server.get("/api/org", &elsewhere.key).await;
    answer.expect_problem(503, "auth_unavailable");
    assert_eq!(answer.header("retry-after"), "5");
}

#[tokio::test]
async fn problem_pages_say_what_to_do_without_a_key() {
    let server = Server::start().await;
    let problem = server.get("/nowhere", "").await.expect(404);
    let page = problem["type"].as_str().unwrap();
    let answer = server::answer(server.bare(Method::GET, page)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    assert!(
        answer.text.starts_with("Not found (404 not_found)\n\nCheck path and id"),
        "{answer:?}"
    );
    let unknown = server::answer(server.bare(Method::GET, "/problems/no_such_code")).await;
    unknown.expect_problem(404, "not_found");
}

#[tokio::test]
async fn violations_point_into_the_body() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let pointers = async |path: &str, body: &str| {
        let problem = server.post(path, &tenant.key, body.to_owned()).await;
        let problem = problem.expect_problem(422, "validation_failed");
        let errors = problem["errors"].as_array().unwrap().clone();
        errors.iter().map(|error| error["pointer"].clone()).collect::<Vec<_>>()
    };
    let event = r#"{"type":"a b","payload":1}"#;
    assert_eq!(pointers("/api/events", event).await, ["/type"]);
    let batch = "/api/events/batch";
    assert_eq!(pointers(batch, &format!("[{event}]")).await, ["/0/type"]);
    let object = format!(r#"{{"events":[{event}],"a/b":1}}"#);
    assert_eq!(pointers(batch, &object).await, ["/a~1b", "/events/0/type"]);
    let endpoint = r#"{"url":7,"event_types":["a","b c"],"headers":{"host":"x"},"typo":1}"#;
    let expected = ["/url", "/event_types/1", "/headers/host", "/typo"];
    assert_eq!(pointers("/api/endpoints", endpoint).await, expected);
    // A query parameter has no place in the body.
    let problem = server.get("/api/events?limit=0", &tenant.key).await;
    assert!(problem.expect(422)["errors"][0].get("pointer").is_none());
}
