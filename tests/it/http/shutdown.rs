//! Connections at the end of the process.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::server::Server;

/// Sends the head of a request and the start of its body, and waits until the server reads it.
async fn half_a_request(server: &Server, key: &str) -> TcpStream {
    let mut stream = server.connect().await;
    let head = format!(
        "POST /api/events HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nexpect: 100-continue\r\n\
         content-type: application/json\r\ncontent-length: 24\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body once the handler wants it.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

async fn rest_of(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn requests_under_way_are_finished_and_idle_connections_are_closed() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut busy = half_a_request(&server, &tenant.key).await;

    server.app.request_stop();
    let idle = rest_of(&mut idle).await;
    assert!(idle.starts_with("HTTP/1.1 200 "), "{idle}");
    busy.write_all(br#"{"type":"a","payload":1}"#).await.unwrap();
    let answer = rest_of(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let address = server.app.address;
    drop(server);
    assert!(TcpStream::connect(address).await.is_err(), "still listening");
}

#[tokio::test]
async fn hard_stop_cuts_off_what_is_left() {
    let server = Server::start_with(&["--shutdown-timeout=1ms"]).await;
    let tenant = server.tenant("acme").await;
    let mut busy = half_a_request(&server, &tenant.key).await;
    drop(server);
    let mut rest = Vec::new();
    // Closed or reset: either way without an answer.
    let _ = busy.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn oversized_head_is_refused_and_the_server_goes_on() {
    let server = Server::start().await;
    let head = |bytes: usize| {
        let long = "x".repeat(bytes);
        format!(
            "GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {long}\r\n\r\n"
        )
    };
    let answer = server.raw(&head(33_000)).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = server.raw(&head(30_000)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
