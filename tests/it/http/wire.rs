//! What a client can do below HTTP: smuggle, trickle, flood a head, and never read.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::support::server::Server;
use crate::support::wait::PATIENCE;

const EVENT: &str = r#"{"type":"a","payload":1}"#;

/// The statuses of everything that comes back until the server ends the connection.
async fn statuses(server: &Server, request: &str) -> Vec<u16> {
    let mut stream = server.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let lines = answer.split("HTTP/1.1 ").skip(1);
    lines.map(|line| line[..3].parse().unwrap()).collect()
}

/// The request that must not be seen: it would be answered by 404.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn ambiguous_requests_are_refused_or_read_as_the_standard_says() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let length = EVENT.len();
    let chunk = format!("{length:x}\r\n{EVENT}\r\n0\r\n\r\n");
    let cases: &[(&str, String, String, &[u16])] = &[
        ("an honest length", format!("content-length: {length}"), EVENT.to_owned(), &[202]),
        ("an honest chunk", "transfer-encoding: chunked".to_owned(), chunk.clone(), &[202]),
        // RFC 9112, section 6.3: this ought to be handled as an error.
        (
            "a length that hides a request behind the chunks",
            format!("content-length: {}\r\ntransfer-encoding: chunked", chunk.len() + HIDDEN.len()),
            chunk.clone(),
            &[400],
        ),
        (
            "a length behind the coding",
            format!("transfer-encoding: chunked\r\ncontent-length: {}", chunk.len() + HIDDEN.len()),
            chunk.clone(),
            &[400],
        ),
        (
            "two lengths",
            format!("content-length: {length}\r\ncontent-length: {}", length + HIDDEN.len()),
            format!("{EVENT}{HIDDEN}"),
            &[400],
        ),
        (
            "a list of lengths",
            format!("content-length: {length}, {}", length + HIDDEN.len()),
            format!("{EVENT}{HIDDEN}"),
            &[400],
        ),
        ("a signed length", format!("content-length: +{length}"), EVENT.to_owned(), &[400]),
        ("a folded field", "x-long: a\r\n b".to_owned(), String::new(), &[400]),
        (
            "a space before the colon",
            "transfer-encoding : chunked".to_owned(),
            chunk.clone(),
            &[400],
        ),
        (
            "a coding that is not the last",
            "transfer-encoding: chunked, identity".to_owned(),
            chunk.clone(),
            &[400],
        ),
        ("an unknown coding", "transfer-encoding: xchunked".to_owned(), chunk.clone(), &[400]),
        (
            "an extension of a chunk",
            "transfer-encoding: chunked".to_owned(),
            format!("{length:x};x=\"{}\"\r\n{EVENT}\r\n0\r\n\r\n", "y".repeat(100)),
            &[202],
        ),
        (
            "a chunk of more bytes than there are numbers",
            "transfer-encoding: chunked".to_owned(),
            format!("fffffffffffffffff\r\n{EVENT}\r\n0\r\n\r\n{HIDDEN}"),
            &[400],
        ),
        (
            "a chunk whose size is no number",
            "transfer-encoding: chunked".to_owned(),
            format!("{length:x}x\r\n{EVENT}\r\n0\r\n\r\n{HIDDEN}"),
            &[400],
        ),
        (
            "a chunk that is longer than it says",
            "transfer-encoding: chunked".to_owned(),
            format!("2\r\n{EVENT}\r\n0\r\n\r\n{HIDDEN}"),
            &[400],
        ),
        ("a NUL in a field", "x-nul: a\0b".to_owned(), String::new(), &[400]),
    ];
    for (name, fields, body, expected) in cases {
        let request = format!(
            "POST /api/events HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\
             \r\n{fields}\r\n\r\n{body}",
            tenant.key
        );
        assert_eq!(statuses(&server, &request).await, *expected, "{name}");
    }
    let old = "POST /api/events HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(statuses(&server, &format!("{old}{HIDDEN}")).await.first(), Some(&400));
}

#[tokio::test]
async fn lines_that_end_in_a_bare_line_feed_are_lines_and_hide_nothing() {
    let server = Server::start().await;
    let request = "GET /health/live HTTP/1.1\nhost: x\nx-next: GET /smuggled HTTP/1.1\n\n";
    assert_eq!(statuses(&server, request).await, [200]);
    // A bare carriage return ends nothing.
    let request = "GET /health/live HTTP/1.1\r\nhost: x\r\nx-next: a\rb: c\r\n\r\n";
    assert_eq!(statuses(&server, request).await, [400]);
}

#[tokio::test]
async fn head_has_bounds_in_bytes_and_in_fields() {
    let server = Server::start().await;
    let fields = |count: usize| "x-a: b\r\n".repeat(count);
    let head = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
    let ask = async |path: &str, fields: &str| statuses(&server, &head(path, fields)).await;
    assert_eq!(ask("/health/live", &fields(90)).await, [200]);
    assert_eq!(ask("/health/live", &fields(100)).await, [431]);
    assert_eq!(ask(&format!("/{}", "x".repeat(8_000)), "").await, [404]);
    let too_long = ask(&format!("/{}", "x".repeat(33_000)), "").await;
    assert_eq!(too_long, [431]);
    assert_eq!(statuses(&server, "nonsense\r\n\r\n").await, [400]);
}

/// Sends `bytes` again and again, with a pause between them, until the server has had enough.
async fn trickle(mut stream: TcpStream, bytes: &[u8]) -> String {
    let mut pauses = interval(Duration::from_millis(20));
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let sending = async {
        loop {
            pauses.tick().await;
            if writer.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    let answered = async {
        let _ = reader.read_to_end(&mut answer).await;
    };
    tokio::select! {
        () = answered => {}
        () = sending => {}
        () = tokio::time::sleep(PATIENCE) => panic!("the server waits for ever"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn head_that_comes_byte_by_byte_is_given_up() {
    let server = Server::start_with(&["--head-timeout=250ms"]).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /health/live HTTP/1.1\r\nx-slow: ").await.unwrap();
    assert_eq!(trickle(stream, b"x").await, "");
    // The same bound for a connection that says nothing at all.
    let mut idle = server.connect().await;
    let mut answer = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn body_that_comes_byte_by_byte_is_given_up() {
    let server = Server::start_with(&["--request-timeout=250ms"]).await;
    let tenant = server.tenant("acme").await;
    server.get("/api/org", &tenant.key).await;
    let mut stream = server.connect().await;
    let head = format!(
        "POST /api/events HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\
         \r\ncontent-length: 200000\r\n\r\n",
        tenant.key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = trickle(stream, b" ").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
}

#[tokio::test]
async fn client_that_never_reads_its_answers_is_let_go() {
    let server = Server::start_with(&["--head-timeout=250ms"]).await;
    let mut stream = server.connect().await;
    let requests = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    // Until both ends' buffers are full nothing waits; then the server must not, for long.
    let sending = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, sending).await.expect("the server waits for ever");
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let server = Server::start_with(&["--connections-per-address=2"]).await;
    let hello = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(hello).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        open.push(stream);
    }
    let mut third = server.connect().await;
    let _ = third.write_all(hello).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, third.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    // A place is free again when its connection is gone, which the server learns in its own time.
    drop(open);
    let answered = async {
        loop {
            let mut stream = server.connect().await;
            let _ = stream.write_all(hello).await;
            if stream.read_u8().await.is_ok() {
                break;
            }
        }
    };
    timeout(PATIENCE, answered).await.unwrap();
}
