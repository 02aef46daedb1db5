//! Request bodies in flight: their budget, their compression, and the rest of those that are refused.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::server::{Answer, Server, Tenant, answer, json};
use crate::support::wait::PATIENCE;

const MIB: usize = 1024 * 1024;
const EVENT: &str = r#"{"type":"a","payload":1}"#;

fn head(path: &str, key: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-type: application/json\
         \r\ncontent-length: {length}\r\n\r\n"
    )
}

/// Sends a batch's head and `sent` bytes of its `length`.
async fn half_sent(server: &Server, tenant: &Tenant, length: usize, sent: usize) -> TcpStream {
    let mut stream = server.connect().await;
    let head = head("/api/events/batch", &tenant.key, length);
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; sent]).await.unwrap();
    stream
}

/// Waits until the server holds so many bytes of bodies.
async fn held(server: &Server, bytes: usize) {
    let held = || server.metrics.http.hookgate_request_body_bytes_in_flight.get();
    let reached = async {
        while held() != i64::try_from(bytes).unwrap() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, reached).await;
    assert!(waited.is_ok(), "{} bytes are held, not {bytes}", held());
}

/// The next answer on a connection, read to the end of its head and some of its body.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 8 * 1024];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// A request may be looked up in the store by its key once it is whole: until then its client keeps nobody from reading.
#[tokio::test]
async fn half_sent_bodies_with_an_idempotency_key_keep_nobody_from_reading() {
    let server = Server::start_with(&["--reads-per-org=1", "--read-timeout=1s"]).await;
    let tenants = [server.tenant("a").await, server.tenant("b").await, server.tenant("c").await];
    let mut open = Vec::new();
    for (count, tenant) in (1..).zip(tenants.iter().chain(&tenants)) {
        let mut stream = server.connect().await;
        let head = head("/api/events/batch", &tenant.key, MIB);
        let head = head.replace("host: x", &format!("host: x\r\nidempotency-key: {count}"));
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; MIB / 2]).await.unwrap();
        open.push(stream);
        held(&server, count * MIB / 2).await;
    }
    for tenant in &tenants {
        server.get("/api/events", &tenant.key).await.expect(200);
    }
    let operator = server.operator().await;
    server.get("/api/admin/orgs", &operator).await.expect(200);
}

/// A batch of about so many bytes.
fn batch(bytes: usize) -> String {
    format!("[{EVENT}{}]", " ".repeat(bytes - EVENT.len() - 2))
}

#[tokio::test]
async fn half_sent_bodies_of_one_organisation_refuse_its_own_and_not_anothers() {
    let server = Server::start_with(&["--bodies-in-flight-mib=8"]).await;
    let (tenant, other) = (server.tenant("acme").await, server.tenant("other").await);
    let mut open = Vec::new();
    for count in 1..=4 {
        open.push(half_sent(&server, &tenant, MIB, MIB - 1).await);
        held(&server, count * MIB).await;
    }
    let mut fifth = half_sent(&server, &tenant, MIB, MIB - 1).await;
    let refused = read_answer(&mut fifth).await;
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("\"code\":\"too_many_body_bytes\""), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    let answer = server.post("/api/events/batch", &tenant.key, batch(MIB)).await;
    answer.expect_problem(429, "too_many_body_bytes");
    assert_eq!(server.metric("rejected_requests_total{reason=\"body_bytes\"}"), 2);
    // What arrives in one piece takes nothing, and the others have as much as this one took.
    server.post("/api/events", &tenant.key, EVENT).await.expect(202);
    server.post("/api/events/batch", &other.key, batch(MIB)).await.expect(202);
    drop(open);
    drop(fifth);
    held(&server, 0).await;
    server.post("/api/events/batch", &tenant.key, batch(4 * MIB)).await.expect(202);
    held(&server, 0).await;
}

#[tokio::test]
async fn all_bodies_together_are_bounded() {
    let server = Server::start_with(&["--bodies-in-flight-mib=8"]).await;
    let mut open = Vec::new();
    for (name, bodies) in [("first", 4), ("second", 2)] {
        let tenant = server.tenant(name).await;
        for _ in 0..bodies {
            open.push(half_sent(&server, &tenant, MIB, MIB - 1).await);
            held(&server, open.len() * MIB).await;
        }
    }
    let third = server.tenant("third").await;
    let answer = server.post("/api/events/batch", &third.key, batch(5 * MIB)).await;
    answer.expect_problem(503, "body_bytes_exhausted");
    assert_eq!(answer.header("retry-after"), "1");
    server.post("/api/events/batch", &third.key, batch(2 * MIB)).await.expect(202);
}

#[tokio::test]
async fn bytes_that_are_declared_and_not_sent_take_nothing() {
    let server = Server::start_with(&["--bodies-in-flight-mib=8"]).await;
    let tenant = server.tenant("acme").await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(half_sent(&server, &tenant, 5 * MIB, 1).await);
    }
    held(&server, 20 * 64 * 1024).await;
    server.post("/api/events/batch", &tenant.key, batch(MIB)).await.expect(202);
}

#[tokio::test]
async fn batch_is_refused_from_its_head_when_nothing_is_left() {
    let server = Server::start().await;
    let tenant = server.tenant_limited("acme", Some(1)).await;
    server.post("/api/events", &tenant.key, EVENT).await.expect(202);
    let mut stream = half_sent(&server, &tenant, 5 * MIB, 0).await;
    let refused = read_answer(&mut stream).await;
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("\"code\":\"rate_limited\""), "{refused}");
    assert!(refused.contains("\r\nretry-after: 60\r\n"), "{refused}");
    held(&server, 0).await;
}

/// Sends a request whole, then reads its answer, then asks again on the same connection.
async fn send_then_read(server: &Server, request: &str) -> (String, String) {
    let mut stream = server.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let refused = read_answer(&mut stream).await;
    stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    (refused, read_answer(&mut stream).await)
}

#[tokio::test]
async fn client_that_sends_all_before_it_reads_sees_why_it_is_refused() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let poor = server.tenant_limited("poor", Some(1)).await;
    server.post("/api/events", &poor.key, EVENT).await.expect(202);
    let path = "/api/events/batch";
    let body = |bytes: usize| " ".repeat(bytes);
    let large = body(4 * MIB);
    let cases = [
        ("401", head(path, "hg_wrong", large.len()) + &large),
        ("413", head(path, &tenant.key, 6 * MIB) + &body(6 * MIB)),
        ("413", head("/api/events", &tenant.key, large.len()) + &large),
        ("413", head("/api/endpoints", &tenant.key, large.len()) + &large),
        ("429", head(path, &poor.key, large.len()) + &large),
        ("404", head("/api/nothing", &tenant.key, large.len()) + &large),
        (
            "415",
            head(path, &tenant.key, large.len()).replace("application/json", "text/plain") + &large,
        ),
    ];
    for (status, request) in cases {
        let (refused, next) = send_then_read(&server, &request).await;
        assert!(refused.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {refused}");
        assert!(next.starts_with("HTTP/1.1 200 "), "after {status}: {next}");
    }
}

#[tokio::test]
async fn endless_body_of_a_refused_request_ends_with_the_connection() {
    let server = Server::start().await;
    let stream = server.connect().await;
    let (mut reader, mut writer) = stream.into_split();
    let chunked = "POST /api/events/batch HTTP/1.1\r\nhost: x\r\nx-api-key: no\r\n\
                   transfer-encoding: chunked\r\n\r\n";
    writer.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let sending = async { while writer.write_all(chunk.as_bytes()).await.is_ok() {} };
    let mut answer = Vec::new();
    let reading = async {
        // A reset after the answer is an end, too.
        let _ = reader.read_to_end(&mut answer).await;
    };
    let ended = tokio::time::timeout(PATIENCE, async { tokio::join!(sending, reading) }).await;
    ended.expect("the server reads for ever");
    assert!(answer.starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&answer));
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

async fn post_coded(server: &Server, path: &str, key: &str, coding: &str, body: Vec<u8>) -> Answer {
    let request = server.request(Method::POST, path, key).header("content-encoding", coding);
    answer(json(request, body)).await
}

#[tokio::test]
async fn bodies_are_decompressed_and_their_bytes_count_as_they_come_out() {
    let mut server = Server::start_with(&["--bodies-in-flight-mib=8"]).await;
    let tenant = server.tenant("acme").await;
    let event = r#"{"type":"a","payload":"compressed"}"#;
    let post = async |path: &str, coding: &str, body: Vec<u8>| {
        post_coded(&server, path, &tenant.key, coding, body).await
    };
    post("/api/events", "gzip", gzip(event.as_bytes())).await.expect(202);
    post("/api/events/batch", "x-gzip", gzip(format!("[{event}]").as_bytes())).await.expect(202);
    post("/api/events/raw", "gzip", gzip(b"\"raw and compressed\"")).await.expect(202);
    post("/api/events", "identity", event.into()).await.expect(202);
    let zstd = |plain: &[u8]| zstd::stream::encode_all(plain, 3).unwrap();
    post("/api/events", "zstd", zstd(event.as_bytes())).await.expect(202);
    post("/api/events/raw", "zstd", zstd(b"\"raw and compressed\"")).await.expect(202);
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::best());
    deflate.write_all(b"\"raw and compressed\"").unwrap();
    post("/api/events/raw", "deflate", deflate.finish().unwrap()).await.expect(202);
    post("/api/endpoints", "gzip", gzip(br#"{"url":"https://example.com"}"#)).await.expect(201);
    // 5 KiB that become more than a batch may have.
    let bomb = gzip(&vec![b' '; 6 * MIB]);
    post("/api/events/batch", "gzip", bomb).await.expect_problem(413, "payload_too_large");
    post("/api/events", "gzip", b"plain".to_vec())
        .await
        .expect_problem(400, "malformed_content_encoding");
    let refused = post("/api/events", "br", event.into()).await;
    refused.expect_problem(415, "unsupported_content_encoding");
    assert_eq!(refused.header("accept-encoding"), "gzip, deflate, zstd, identity");

    // Others hold 6 of 8 MiB, so that 5 MiB are too many, however small they were on the way.
    let other = server.tenant("other").await;
    let mut open = Vec::new();
    for count in 1..=4 {
        open.push(half_sent(&server, &other, MIB, MIB - 1).await);
        held(&server, count * MIB).await;
    }
    let large = gzip(batch(5 * MIB).as_bytes());
    assert!(large.len() < 64 * 1024);
    post("/api/events/batch", "gzip", large).await.expect_problem(503, "body_bytes_exhausted");
    let records = server.journaled().await;
    assert_eq!(records.matches("compressed").count(), 7, "{records}");
}

#[tokio::test]
async fn batch_and_event_may_be_as_large_as_their_settings_say() {
    let flags = [
        "--max-event-bytes=67108864",
        "--max-batch-bytes=8388608",
        "--journal-segment-mib=86",
        "--journal-max-mib=344",
    ];
    let mut server = Server::start_with(&flags).await;
    let tenant = server.tenant("acme").await;
    let limits = server.get("/api/org", &tenant.key).await.expect(200)["limits"].clone();
    assert_eq!(limits["event_bytes_max"], 67_108_864);
    assert_eq!(limits["batch_body_bytes_max"], 8_388_608);
    server.post("/api/events/batch", &tenant.key, batch(8 * MIB)).await.expect(202);
    let answer = server.post("/api/events/batch", &tenant.key, batch(8 * MIB + 1)).await;
    answer.expect_problem(413, "payload_too_large");
    let payload = "x".repeat(60 * MIB);
    let event = format!(r#"{{"type":"a","payload":"{payload}"}}"#);
    server.post("/api/events", &tenant.key, event).await.expect(202);
    let raw = answer_of_raw(&server, &tenant, payload).await;
    raw.expect(202);
    let mut sizes = Vec::new();
    while sizes.len() < 3 {
        let records = server.reader.next_batch(1, 1).await.unwrap().unwrap().records;
        sizes.extend(records.iter().map(|record| record.payload.len() / MIB));
    }
    assert_eq!(sizes, [0, 60, 80]);
}

/// Posts bytes that are not JSON, which become base64.
async fn answer_of_raw(server: &Server, tenant: &Tenant, body: String) -> Answer {
    answer(server.request(Method::POST, "/api/events/raw", &tenant.key).body(body)).await
}
