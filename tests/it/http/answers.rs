//! Answers that clients have asked for and do not read.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::server::{Server, Tenant};
use crate::support::wait::PATIENCE;

const LIST: &str = "/api/events?limit=500&include=payload";

/// A server with a budget of 20 MiB, and tenants with a page of 4 MiB each.
async fn server_with(names: &[&str]) -> (Server, Vec<Tenant>) {
    server_set(&["--answers-in-flight-mib=20"], names).await
}

async fn server_set(flags: &[&str], names: &[&str]) -> (Server, Vec<Tenant>) {
    let server = Server::start_with(flags).await;
    let mut tenants = Vec::new();
    for name in names {
        let tenant = server.tenant(name).await;
        let payload = format!("\"{}\"", "x".repeat(256 * 1024 - 2));
        for _ in 0..16 {
            server.store_event(tenant.org_id, "a.b", &payload).await;
        }
        tenants.push(tenant);
    }
    (server, tenants)
}

/// Asks for a list, and does not read it.
async fn ask(server: &Server, key: &str) -> TcpStream {
    let address = server.base_url.strip_prefix("http://").unwrap().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    // The system buffers little of the answer.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!("GET {LIST} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Waits until the server holds so many pages.
async fn held(server: &Server, pages: i64) {
    let held = || server.metrics.http.hookgate_answer_bytes_in_flight.get() / (4 * 1024 * 1024);
    let reached = async {
        while held() != pages {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, reached).await;
    assert!(waited.is_ok(), "{} pages are held, not {pages}", held());
}

#[tokio::test]
async fn unread_answers_of_one_organisation_refuse_its_own_lists_and_not_anothers() {
    let (server, tenants) = server_with(&["acme", "other", "third"]).await;
    let [tenant, other, third] = &tenants[..] else { panic!("three tenants") };
    let mut open = vec![ask(&server, &tenant.key).await];
    held(&server, 1).await;
    open.push(ask(&server, &tenant.key).await);
    held(&server, 2).await;
    let answer = server.get(LIST, &tenant.key).await;
    answer.expect_problem(429, "too_many_answer_bytes");
    assert_eq!(answer.header("retry-after"), "1");
    // Small answers are not counted, and the others have as much as this one took.
    server.get("/api/events?limit=500", &tenant.key).await.expect(200);
    assert_eq!(
        server.get(LIST, &other.key).await.expect(200)["data"].as_array().unwrap().len(),
        16
    );
    let unread = ask(&server, &other.key).await;
    held(&server, 3).await;
    server.get(LIST, &third.key).await.expect_problem(503, "answer_bytes_exhausted");
    drop(unread);
    drop(open);
    held(&server, 0).await;
    server.get(LIST, &tenant.key).await.expect(200);
    server.get(LIST, &third.key).await.expect(200);
    held(&server, 0).await;
}

#[tokio::test]
async fn unread_answer_is_given_up_with_its_connection() {
    let server = Server::start_with(&["--answers-in-flight-mib=16", "--head-timeout=500ms"]).await;
    let tenant = server.tenant("acme").await;
    let payload = format!("\"{}\"", "x".repeat(5 * 1024 * 1024));
    server.store_event(tenant.org_id, "a.b", &payload).await;
    let _unread = ask(&server, &tenant.key).await;
    held(&server, 1).await;
    held(&server, 0).await;
}

#[tokio::test]
async fn look_up_of_an_event_is_counted_before_it_is_read() {
    let flags = ["--answers-in-flight-mib=20", "--max-event-bytes=4194304"];
    let (server, tenants) = server_set(&flags, &["acme"]).await;
    let tenant = &tenants[0];
    let event = server.store_event(tenant.org_id, "a.b", "1").await;
    let path = format!("/api/events/{}", event.id);
    server.get(&path, &tenant.key).await.expect(200);
    let open = [ask(&server, &tenant.key).await, ask(&server, &tenant.key).await];
    held(&server, 2).await;
    server.get(&path, &tenant.key).await.expect(429);
    drop(open);
    held(&server, 0).await;
    server.get(&path, &tenant.key).await.expect(200);
}
