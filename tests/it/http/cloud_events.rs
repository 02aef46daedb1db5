//! `CloudEvents` over the API: what is taken in which mode, and what is refused.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{self, Answer, Server};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json; charset=UTF-8";

fn event(id: u32) -> Value {
    json!({
        "specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "a.b", "data": {"n": id},
        "subject": "acme", "ext": true,
    })
}

async fn post(
    server: &Server,
    (path, key): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let request = server.request(Method::POST, path, key).body(body.to_owned());
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    server::answer(request).await
}

#[tokio::test]
async fn each_mode_is_taken_where_it_belongs_and_refused_elsewhere() {
    let mut server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let (one, batch) = (("/api/events", &*tenant.key), ("/api/events/batch", &*tenant.key));
    let structured = event(1).to_string();
    let both = json!([event(2), event(3)]).to_string();
    post(&server, one, &[("content-type", STRUCTURED)], &structured).await.expect(202);
    let journaled = server.journaled().await;
    assert!(journaled.contains(&structured), "byte for byte: {journaled}");
    let taken = post(&server, batch, &[("content-type", BATCH)], &both).await.expect(202);
    assert_eq!(taken["ids"].as_array().unwrap().len(), 2);
    let binary = [
        ("content-type", "text/plain"),
        ("ce-specversion", "1.0"),
        ("ce-id", "4"),
        ("ce-source", "/s"),
        ("ce-type", "a.b"),
    ];
    post(&server, one, &binary, "any text").await.expect(202);

    for (target, content_type) in
        [(one, BATCH), (batch, STRUCTURED), (one, "application/cloudevents+xml")]
    {
        let refused = post(&server, target, &[("content-type", content_type)], &structured).await;
        let problem = refused.expect_problem(415, "unsupported_media_type");
        assert!(problem["detail"].as_str().unwrap().contains("cloudevents"), "{problem}");
    }
    let json = [("content-type", "application/json"), ("ce-specversion", "1.0")];
    post(&server, batch, &json, &both).await.expect_faults(&[("ce-specversion", "unknown")]);
    let missing = post(&server, one, &json, "{}").await;
    missing.expect_faults(&[
        ("ce-id", "required"),
        ("ce-source", "required"),
        ("ce-type", "required"),
    ]);
    let wrong =
        post(&server, batch, &[("content-type", BATCH)], r#"[{"specversion":"1.0"}]"#).await;
    let problem =
        wrong.expect_faults(&[("id", "required"), ("source", "required"), ("type", "required")]);
    assert_eq!(
        (&problem["errors"][0]["index"], &problem["errors"][0]["pointer"]),
        (&json!(0), &json!("/0/id"))
    );
    post(&server, one, &[("content-type", STRUCTURED)], "{")
        .await
        .expect_problem(400, "malformed_json");
    // A raw body is taken as it is, also this one.
    let raw = ("/api/events/raw", &*tenant.key);
    post(&server, raw, &[("content-type", STRUCTURED)], &structured).await.expect(202);
}

#[tokio::test]
async fn endpoint_asks_for_a_format_and_an_inbox_has_none() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let create =
        async |body: Value| server.post("/api/endpoints", &tenant.key, body.to_string()).await;
    let created = create(json!({"url": "https://example.com"})).await;
    assert_eq!(created.expect(201)["format"], "standard");
    let path = created.header("location").to_owned();
    let change = async |format: &str| {
        let body = format!("{{\"format\":{format}}}");
        server.patch(&path, &tenant.key, body).await
    };
    assert_eq!(change("\"cloudevents\"").await.expect(200)["format"], "cloudevents");
    change("\"xml\"").await.expect_faults(&[("format", "format")]);
    let audit = server.list("/api/audit", &tenant.key).await;
    assert_eq!(audit[0]["changes"], json!({"format": "cloudevents"}));
    assert_eq!(server.get(&path, &tenant.key).await.expect(200)["format"], "cloudevents");
    assert_eq!(change("null").await.expect(200)["format"], "standard");

    let inbox = create(json!({"kind": "pull"})).await;
    assert_eq!(inbox.expect(201)["format"], Value::Null);
    create(json!({"kind": "pull", "format": "cloudevents"}))
        .await
        .expect_faults(&[("format", "kind")]);
    let patched =
        server.patch(inbox.header("location"), &tenant.key, r#"{"format":"cloudevents"}"#).await;
    patched.expect_faults(&[("format", "kind")]);
}
