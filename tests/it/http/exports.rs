//! Exports over real sockets: whole, resumed, read slowly, ended in the middle.

use std::time::Duration;

use hookgate::domain::{DeadReason, Decision, Event, EventId, OrgId, Outcome, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::server::{Server, Tenant};
use crate::support::wait::until;

/// Stores so many events, a second apart, with payloads of so many bytes.
async fn fill(server: &Server, org: OrgId, count: usize, bytes: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for number in 0..count {
        server.clock.advance(Duration::from_secs(1));
        let event_type = if number % 3 == 0 { "few" } else { "many" };
        let payload = format!("\"{}\"", "x".repeat(bytes));
        events.push(server.store_event(org, event_type, &payload).await);
    }
    events
}

/// The rows and the cursors of an export, line by line.
async fn lines(server: &Server, path: &str, key: &str) -> (Vec<Value>, Vec<Value>) {
    let answer = server.request(Method::GET, path, key).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    parted(&answer.text().await.unwrap())
}

fn parted(text: &str) -> (Vec<Value>, Vec<Value>) {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.partition(|line| line.get("next_cursor").is_none())
}

fn ids(rows: &[Value]) -> Vec<EventId> {
    rows.iter().map(|row| row["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn export_has_every_row_once_and_a_cursor_behind_each_page() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let other = server.tenant("other").await;
    let events = fill(&server, tenant.org_id, 1_100, 1).await;
    fill(&server, other.org_id, 3, 1).await;
    let expected: Vec<_> = events.iter().map(|event| event.id).collect();
    let (rows, cursors) = lines(&server, "/api/events/export", &tenant.key).await;
    assert_eq!(ids(&rows), expected, "the oldest first");
    assert_eq!(cursors.len(), 3);
    assert_eq!(cursors[2], json!({ "next_cursor": null }));
    assert!(rows.iter().all(|row| row.get("payload").is_none()));

    // From the cursor behind a page it goes on with the next row.
    let cursor = cursors[0]["next_cursor"].as_str().unwrap();
    let path = format!("/api/events/export?cursor={cursor}&include=payload");
    let (rest, _) = lines(&server, &path, &tenant.key).await;
    assert_eq!(ids(&rest), expected[500..]);
    assert_eq!(rest[0]["payload"], "x");
    let wrong = format!("/api/events/export?cursor={cursor}&order=desc");
    server.get(&wrong, &tenant.key).await.expect_problem(422, "validation_failed");

    let (newest, _) = lines(&server, "/api/events/export?order=desc&type=few", &tenant.key).await;
    let few = events.iter().rev().filter(|event| event.event_type.as_str() == "few");
    assert_eq!(ids(&newest), few.map(|event| event.id).collect::<Vec<_>>());
    let (none, cursors) = lines(&server, "/api/events/export?type=never", &tenant.key).await;
    assert_eq!((none.len(), cursors), (0, vec![json!({ "next_cursor": null })]));
    server
        .get("/api/events/export?limit=3", &tenant.key)
        .await
        .expect_problem(422, "validation_failed");
    assert_eq!(server.metric("hookgate_streams_open"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_and_dead_letters_are_exported_as_they_are_listed() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"url":"https://example.com/hooks"}"#;
    server.post("/api/endpoints", &tenant.key, body).await.expect(201);
    fill(&server, tenant.org_id, 7, 1).await;
    let dead: Vec<_> = server
        .claim()
        .await
        .iter()
        .take(5)
        .map(|leased| Outcome {
            delivery_id: leased.id,
            org_id: leased.event.org_id,
            endpoint_id: leased.endpoint.id,
            endpoint_version: leased.endpoint.version,
            event_received_at: leased.event.received_at,
            labels: Some(leased.event.labels()),
            token: leased.lease.token,
            attempt: None,
            decision: Decision::Dead(DeadReason::Exhausted),
            decided_at: server.clock.now(),
            disable_if_failing_since: Timestamp::from_micros(0),
        })
        .collect();
    server.store.system().record_outcomes(&dead).await.unwrap();
    for (list, filter) in [
        ("deliveries", ""),
        ("deliveries", "status=dead"),
        ("deliveries", "type=few"),
        ("dead-letters", ""),
        ("dead-letters", "reason=gone"),
    ] {
        let listed = format!("/api/{list}?{filter}&order=asc");
        let listed = server.list(&listed, &tenant.key).await;
        let (rows, cursors) =
            lines(&server, &format!("/api/{list}/export?{filter}"), &tenant.key).await;
        assert_eq!(rows, listed, "{list} {filter}");
        assert_eq!(cursors.len(), 1);
    }
}

/// Asks with a socket that takes little before somebody reads from it.
pub(super) async fn open(server: &Server, path: &str, tenant: &Tenant) -> TcpStream {
    let address = server.base_url.strip_prefix("http://").unwrap().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n", tenant.key);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

/// What comes until the end of a chunked answer, without the chunks' lengths.
async fn rest(stream: &mut TcpStream) -> String {
    let (mut text, mut piece) = (Vec::new(), vec![0; 65_536]);
    while !text.ends_with(b"0\r\n\r\n") {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "the answer was cut off");
        text.extend_from_slice(&piece[..read]);
    }
    let body = text.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let (mut chunks, mut body) = (&text[body..], Vec::new());
    loop {
        let end = chunks.windows(2).position(|bytes| bytes == b"\r\n").unwrap();
        let length =
            usize::from_str_radix(std::str::from_utf8(&chunks[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return String::from_utf8(body).unwrap();
        }
        body.extend_from_slice(&chunks[end + 2..end + 2 + length]);
        chunks = &chunks[end + 4 + length..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_holds_a_page_of_memory_and_neither_connection_nor_read() {
    let server = Server::start_with(&["--reads-per-org=1", "--answers-in-flight-mib=64"]).await;
    let tenant = server.tenant("acme").await;
    let events = fill(&server, tenant.org_id, 60, 200_000).await;
    let mut slow = open(&server, "/api/events/export?include=payload", &tenant).await;
    let held = || server.metric("hookgate_answer_bytes_in_flight");
    assert!((1..=3 << 20).contains(&held()), "{} bytes", held());
    assert_eq!(server.metric("hookgate_streams_open"), 1);
    // The one read that the organisation may have in progress is free.
    for _ in 0..3 {
        server.get("/api/events", &tenant.key).await.expect(200);
    }
    let (rows, cursors) = parted(&rest(&mut slow).await);
    assert_eq!(ids(&rows), events.iter().map(|event| event.id).collect::<Vec<_>>());
    assert!(cursors.len() > 20, "pages are bounded by their payloads");
    assert!(held() <= 3 << 20);
    until("the stream is closed", async || server.metric("hookgate_streams_open") == 0).await;
    until("its bytes are free", async || held() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_reads_nothing_is_cut_off_after_a_while() {
    let server = Server::start_with(&["--head-timeout=1s", "--request-timeout=1s"]).await;
    let tenant = server.tenant("acme").await;
    fill(&server, tenant.org_id, 60, 200_000).await;
    let _idle = open(&server, "/api/events/export?include=payload", &tenant).await;
    until("the export is ended", async || server.metric("hookgate_streams_open") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn export_ends_at_the_stop_with_a_cursor_that_goes_on() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let events = fill(&server, tenant.org_id, 60, 200_000).await;
    let path = "/api/events/export?include=payload";
    let mut slow = open(&server, path, &tenant).await;
    server.app.request_stop();
    let (rows, cursors) = parted(&rest(&mut slow).await);
    assert!(rows.len() < events.len(), "the stop waits for no export");
    let cursor = cursors.last().unwrap()["next_cursor"].as_str().unwrap();
    let position: hookgate::domain::ListCursor = cursor.parse().unwrap();
    assert_eq!(position.position.id, events[rows.len() - 1].id.uuid());
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_of_an_organisation_are_bounded_and_end_with_its_key() {
    let server = Server::start_with(&["--streams-per-org=2"]).await;
    let tenant = server.tenant("acme").await;
    fill(&server, tenant.org_id, 60, 200_000).await;
    let path = "/api/events/export?include=payload";
    let mut first = open(&server, path, &tenant).await;
    let second = open(&server, path, &tenant).await;
    server.get(path, &tenant.key).await.expect_problem(429, "too_many_streams");
    let other = server.tenant("other").await;
    lines(&server, "/api/events/export", &other.key).await;
    drop(second);

    let operator = server.operator().await;
    let revoke = format!("/api/admin/keys/{}", tenant.key_id);
    server.delete(&revoke, &operator).await.expect(204);
    let (rows, cursors) = parted(&rest(&mut first).await);
    assert!(rows.len() < 60, "it goes on without its key");
    let last = cursors.last().unwrap();
    assert_eq!(last["error"]["code"], "unauthorized");
    assert!(last["next_cursor"].is_string());
}
