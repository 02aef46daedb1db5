//! Traces and logs of the real binary, as an OpenTelemetry collector gets them.

mod collectors;

use std::path::Path;

use hookgate::domain::SigningSecret;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::task::block_in_place;

use crate::support::answer::{Answer as Answered, answer, json as with_json};
use crate::support::binary::Binary;
use crate::support::collector::{Collector, TakenSpan};
use crate::support::postgres::{PrivatePostgres, fresh_database};
use crate::support::receiver::{Answer, Received, Receiver};
use crate::support::wait::until;
use crate::support::{client, temporary};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// Every setting that makes an export come soon.
const QUICK: [(&str, &str); 2] =
    [("OTEL_BSP_SCHEDULE_DELAY", "20"), ("OTEL_BLRP_SCHEDULE_DELAY", "20")];

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

async fn start(directory: &Path, collector: &Collector, settings: &[(&str, &str)]) -> Binary {
    let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())];
    Binary::start(directory, &[&QUICK[..], &endpoint, settings].concat()).await
}

async fn post(
    server: &Binary,
    (path, key): (&str, &str),
    body: &Value,
    headers: &[(&str, &str)],
) -> Answered {
    let mut request = client().post(format!("{}{path}", server.base_url)).header("x-api-key", key);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(with_json(request, body.to_string())).await
}

/// Has the first organisation send its events to a receiver.
async fn subscribe(server: &Binary, key: &str, receiver: &Receiver) {
    let url = receiver.url("/in?key=s3cret");
    let endpoint =
        post(server, ("/api/endpoints", key), &json!({ "url": url }), &[]).await.expect(201);
    receiver.trust(&endpoint["secret"].as_str().unwrap().parse::<SigningSecret>().unwrap());
}

async fn post_event(server: &Binary, key: &str, headers: &[(&str, &str)]) -> String {
    let event = json!({"type": "user.login", "payload": {"password": "s3cret"}});
    let accepted = post(server, ("/api/events", key), &event, headers).await.expect(202);
    accepted["id"].as_str().unwrap().to_owned()
}

fn of_kind(spans: &[TakenSpan], kind: i32) -> Vec<TakenSpan> {
    spans.iter().filter(|span| span.kind == kind).cloned().collect()
}

/// The span that a webhook names as its parent; it is of [`TRACE`] and sampled.
fn named_span(webhook: &Received) -> String {
    let named = webhook.header("traceparent").strip_prefix(&format!("00-{TRACE}-")).unwrap();
    named.strip_suffix("-01").unwrap().to_owned()
}

/// One event, of which the first attempt fails, is one trace.
async fn expect_one_trace(settings: &[(&str, &str)]) {
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    receiver.answer([Answer::status(500)]);
    let directory = temporary::directory();
    let mut server = start(directory.path(), &collector, settings).await;
    let (key, _) = server.first_keys().await;
    subscribe(&server, &key, &receiver).await;
    let headers = [("traceparent", &*traceparent("01")), ("x-trace-id", "demo-1")];
    let event = post_event(&server, &key, &headers).await;
    let webhooks = receiver.received(2).await;
    let spans = collector.spans(4).await;
    assert!(spans.iter().all(|span| span.started_before_it_ended), "{spans:#?}");

    let accepts = of_kind(&spans, 2);
    let [accept] = &accepts[..] else { panic!("{spans:#?}") };
    assert_eq!((&*accept.trace_id, &*accept.parent), (TRACE, CALLER));
    assert_eq!((&*accept.name, accept.is_error), ("POST /api/events", false));
    for (name, value) in [
        ("http.route", "/api/events"),
        ("http.response.status_code", "202"),
        ("hookgate.event_id", &event),
        ("hookgate.trace_text", "demo-1"),
    ] {
        assert_eq!(accept.attributes[name], value, "{name}");
    }

    let stores = of_kind(&spans, 1);
    let [store] = &stores[..] else { panic!("{spans:#?}") };
    assert_eq!(store.links, [(TRACE.to_owned(), accept.id.clone())]);
    assert_eq!((&*store.parent, &*store.attributes["hookgate.events_stored"]), ("", "1"));
    assert_ne!(store.trace_id, TRACE);

    let attempts = of_kind(&spans, 3);
    let [failed, delivered] = &attempts[..] else { panic!("{spans:#?}") };
    for (attempt, webhook) in attempts.iter().zip(&webhooks) {
        assert_eq!((&*attempt.trace_id, &attempt.parent), (TRACE, &accept.id));
        assert_eq!(attempt.id, named_span(webhook), "the receiver's spans are its children");
        assert_eq!(attempt.attributes["hookgate.event_id"], event);
        // The path of many a webhook is a credential.
        assert!(!attempt.attributes.contains_key("url.full"));
        assert_eq!(attempt.attributes["server.address"], "127.0.0.1");
    }
    assert_eq!((failed.is_error, &*failed.attributes["error.type"]), (true, "500"));
    assert_eq!((delivered.is_error, delivered.attributes.get("error.type")), (false, None));
    assert_eq!(delivered.attributes["http.request.resend_count"], "1");

    // The API tells the requests as they were sent.
    let list = get(&server, &key, "/api/deliveries").await;
    let path = format!("/api/deliveries/{}", list["data"][0]["id"].as_str().unwrap());
    let mut delivery = Value::Null;
    until("both attempts are recorded", async || {
        delivery = get(&server, &key, &path).await;
        delivery["attempts"].as_array().unwrap().len() == 2
    })
    .await;
    let told =
        |index: usize| delivery["attempts"][index]["request"]["headers"]["traceparent"].clone();
    assert_eq!([told(0), told(1)], [0, 1].map(|index| webhooks[index].header("traceparent")));

    let taken = collector.taken();
    assert_eq!(taken.resource["service.name"], "hookgate");
    let everything = format!("{spans:?}{:?}", taken.lines);
    assert!(!everything.contains("s3cret") && !everything.contains(&key), "{everything}");
    server.stop().await;
}

async fn get(server: &Binary, key: &str, path: &str) -> Value {
    let request = client().get(format!("{}{path}", server.base_url)).header("x-api-key", key);
    answer(request).await.expect(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_one_trace_from_its_caller_to_its_receiver() {
    expect_one_trace(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_one_trace_in_postgresql() {
    expect_one_trace(&[("DATABASE_URL", &fresh_database().await)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_that_its_caller_does_not_record_leaves_nothing() {
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    let directory = temporary::directory();
    let mut server = start(directory.path(), &collector, &[]).await;
    let (key, _) = server.first_keys().await;
    subscribe(&server, &key, &receiver).await;
    let unsampled = [("traceparent", &*traceparent("00"))];
    post_event(&server, &key, &unsampled).await;
    let webhooks = receiver.received(1).await;
    assert!(webhooks[0].header("traceparent").starts_with(&format!("00-{TRACE}-")));
    // An event without a caller is sampled; its spans are all that come.
    post_event(&server, &key, &[]).await;
    receiver.received(2).await;
    let spans = collector.spans(3).await;
    assert!(spans.iter().all(|span| span.trace_id != TRACE), "{spans:#?}");
    server.stop().await;
    assert_eq!(collector.taken().spans.len(), 3);
    let file = SqliteConnectOptions::new().filename(directory.path().join("hookgate.db"));
    let mut database = file.connect().await.unwrap();
    let kept: Vec<Option<Vec<u8>>> =
        sqlx::query_scalar("SELECT accept_span FROM events ORDER BY received_at")
            .fetch_all(&mut database)
            .await
            .unwrap();
    assert_eq!(kept[0], None);
    assert_eq!(kept[1].as_ref().map(Vec::len), Some(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_a_collector_records_no_spans() {
    let receiver = Receiver::start().await;
    let directory = temporary::directory();
    let mut server = Binary::start(directory.path(), &[]).await;
    let (key, _) = server.first_keys().await;
    subscribe(&server, &key, &receiver).await;
    post_event(&server, &key, &[("traceparent", &traceparent("01"))]).await;
    receiver.received(1).await;
    server.stop().await;
    let file = SqliteConnectOptions::new().filename(directory.path().join("hookgate.db"));
    let mut database = file.connect().await.unwrap();
    let kept: Option<Vec<u8>> = sqlx::query_scalar("SELECT accept_span FROM events")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(kept, None);
}

/// Posts a sampled event to a server whose store does not answer, kills the server, and returns the span of the request.
async fn accept_and_kill(server: Binary, key: &str, collector: &Collector) -> String {
    post_event(&server, key, &[("traceparent", &traceparent("01"))]).await;
    let find = || collector.taken().spans.into_iter().find(|span| span.trace_id == TRACE);
    until("the span of the request", async || find().is_some()).await;
    server.kill().await;
    let accept = find().unwrap();
    assert_eq!(accept.kind, 2);
    accept.id
}

/// The attempt of the event is a child of the request that a killed server has answered.
async fn expect_attempt(collector: &Collector, receiver: &Receiver, accept: &str) {
    let is_it = |span: &TakenSpan| span.kind == 3 && span.trace_id == TRACE;
    until("its span", async || collector.taken().spans.iter().any(is_it)).await;
    let spans = collector.taken().spans;
    let attempt = spans.iter().find(|span| is_it(span)).unwrap();
    assert_eq!(attempt.parent, accept);
    // An earlier event may come twice: the outcome of its attempt may be lost with the server.
    let webhooks = receiver.so_far();
    let webhook =
        webhooks.iter().find(|webhook| webhook.header("traceparent").contains(TRACE)).unwrap();
    assert_eq!(attempt.id, named_span(webhook));
}

#[tokio::test(flavor = "multi_thread")]
async fn sampling_survives_a_kill_before_the_event_is_stored() {
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    let directory = temporary::directory();
    let quick = [("DATABASE_TIMEOUT", "300ms")];
    let mut server = start(directory.path(), &collector, &quick).await;
    let (key, _) = server.first_keys().await;
    subscribe(&server, &key, &receiver).await;
    post_event(&server, &key, &[]).await;
    receiver.received(1).await;
    let file = SqliteConnectOptions::new().filename(directory.path().join("hookgate.db"));
    let mut other = file.connect().await.unwrap();
    until("the database is locked", async || {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.is_ok()
    })
    .await;
    let accept = accept_and_kill(server, &key, &collector).await;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    let server = start(directory.path(), &collector, &quick).await;
    expect_attempt(&collector, &receiver, &accept).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sampling_survives_a_kill_while_postgresql_is_away() {
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    let postgres = PrivatePostgres::start();
    let url = postgres.fresh_database().await;
    let directory = temporary::directory();
    let settings = [("DATABASE_URL", &*url), ("DATABASE_TIMEOUT", "300ms")];
    let mut server = start(directory.path(), &collector, &settings).await;
    let (key, _) = server.first_keys().await;
    subscribe(&server, &key, &receiver).await;
    post_event(&server, &key, &[]).await;
    receiver.received(1).await;
    block_in_place(|| postgres.stop());
    let accept = accept_and_kill(server, &key, &collector).await;
    block_in_place(|| postgres.start_again());
    let server = start(directory.path(), &collector, &settings).await;
    expect_attempt(&collector, &receiver, &accept).await;
    server.stop().await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE length(accept_span) = 8")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(kept, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_with_their_trace_and_without_those_of_the_export() {
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    receiver.answer([Answer::status(410)]);
    let directory = temporary::directory();
    let settings = [
        ("RUST_LOG", "trace"),
        ("ACCESS_LOG_RATIO", "1"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=acme%20inc"),
        ("OTEL_SERVICE_NAME", "hooks"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ];
    let mut server = start(directory.path(), &collector, &settings).await;
    let (key, _) = server.first_keys().await;
    subscribe(&server, &key, &receiver).await;
    post_event(&server, &key, &[("traceparent", &traceparent("01"))]).await;
    let dead = collector.line("delivery became a dead letter").await;
    assert_eq!((&*dead.trace_id, &*dead.severity), (TRACE, "WARN"));
    assert_eq!(dead.attributes["reason"], "gone");
    let failed = collector.line("webhook attempt failed").await;
    assert_eq!((&*failed.trace_id, &*failed.severity), (TRACE, "DEBUG"));
    until("the access log", async || {
        collector
            .taken()
            .lines
            .iter()
            .any(|line| line.trace_id == TRACE && line.attributes["target"] == "hookgate::access")
    })
    .await;
    server.stop().await;
    let taken = collector.taken();
    for line in &taken.lines {
        let target = &line.attributes["target"];
        let is_own = target.starts_with("hyper") || target.starts_with("hookgate::telemetry::otlp");
        assert!(!is_own, "{line:?}");
        assert!(!format!("{line:?}").contains(&key), "{line:?}");
    }
    // The last line of a server that stops.
    assert!(taken.lines.iter().any(|line| line.body == "stopped"));
    assert_eq!(taken.spans.len(), 0);
    assert_eq!(taken.headers["x-tenant"], "acme inc");
    assert_eq!(taken.resource["service.name"], "hooks");
    assert_eq!(taken.resource["deployment.environment.name"], "test");
}
