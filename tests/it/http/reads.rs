//! Limits of reads, over HTTP.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::store::ENDLESS;
use crate::support::server::{Server, Tenant};
use crate::support::wait::until;

/// A server whose lists of events end at their time limit.
async fn endless(flags: &[&str]) -> (Server, Tenant) {
    let server = Server::start_with(flags).await;
    let tenant = server.tenant("acme").await;
    server.store_event(tenant.org_id, "a.b", "1").await;
    server.execute(ENDLESS).await;
    (server, tenant)
}

#[tokio::test]
async fn read_that_takes_too_long_is_ended_and_tells_what_to_do() {
    let (server, tenant) = endless(&["--read-timeout=100ms"]).await;
    let answer = server.get("/api/events", &tenant.key).await;
    let problem = answer.expect_problem(503, "read_timeout");
    assert!(problem["detail"].as_str().unwrap().contains("since"), "{problem}");
    assert_eq!(server.metric(r#"hookgate_reads_ended_total{reason="timed_out"}"#), 1);
    server.get("/api/deliveries", &tenant.key).await.expect(200);
}

#[tokio::test]
async fn few_reads_of_one_tenant_are_in_progress_and_those_of_others_go_on() {
    let (server, tenant) = endless(&["--reads-per-org=2", "--read-timeout=3s"]).await;
    let (other, operator) = (server.tenant("other").await, server.operator().await);
    let lists = (0..6).map(|_| server.get("/api/events", &tenant.key));
    let others = async {
        for path in ["/api/deliveries", "/api/endpoints", "/api/org", "/api/keys"] {
            server.get(path, &other.key).await.expect(200);
        }
        server.get("/api/admin/orgs", &operator).await.expect(200);
        let event = r#"{"type":"a.b","payload":1}"#;
        server.post("/api/events", &tenant.key, event).await.expect(202);
    };
    let (answers, ()) = tokio::join!(join_all(lists), others);
    let (ended, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 503);
    assert_eq!((ended.len(), refused.len()), (2, 4));
    for answer in &refused {
        let problem = answer.expect_problem(429, "too_many_reads");
        assert!(problem["detail"].as_str().unwrap().starts_with("2 reads"), "{problem}");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(server.metric(r#"rejected_requests_total{reason="too_many_reads"}"#), 4);
    server.get("/api/org", &tenant.key).await.expect(200);
}

/// Has a tenant as many endless lists in progress as it may.
async fn hold_all_reads(server: &Server, tenant: &Tenant, reads_per_org: usize) -> JoinSet<()> {
    let mut lists = JoinSet::new();
    for _ in 0..reads_per_org {
        let request = server.request(Method::GET, "/api/events", &tenant.key);
        // The read below may be in the way of one of them, and wait for a connection itself.
        lists.spawn(async move {
            while request.try_clone().unwrap().send().await.unwrap().status() == 429 {}
        });
    }
    until("every list is in progress", async || {
        let read = server.get("/api/org", &tenant.key);
        timeout(Duration::from_secs(2), read).await.is_ok_and(|answer| answer.status == 429)
    })
    .await;
    lists
}

#[tokio::test]
async fn tenants_with_endless_reads_leave_a_connection_to_another() {
    let server = Server::start_with(&["--read-timeout=1h", "--request-timeout=1h"]).await;
    let other = server.tenant("other").await;
    let mut tenants = Vec::new();
    for _ in 0..3 {
        let tenant = server.tenant("acme").await;
        server.store_event(tenant.org_id, "a.b", "1").await;
        tenants.push(tenant);
    }
    server.execute(ENDLESS).await;
    let mut lists = Vec::new();
    for tenant in &tenants {
        lists.push(hold_all_reads(&server, tenant, 4).await);
    }
    for path in ["/api/org", "/api/deliveries", "/api/endpoints"] {
        server.get(path, &other.key).await.expect(200);
    }
}

#[tokio::test]
async fn read_whose_client_is_gone_is_ended() {
    let limits = ["--reads-per-org=2", "--read-timeout=1h", "--request-timeout=1h"];
    let (server, tenant) = endless(&limits).await;
    for _ in 0..2 {
        drop(hold_all_reads(&server, &tenant, 2).await);
        let status = async || server.get("/api/org", &tenant.key).await.status;
        until("a read is free again", async || status().await == 200).await;
    }
    let abandoned = || server.metric(r#"hookgate_reads_ended_total{reason="abandoned"}"#);
    until("four reads were abandoned", async || abandoned() >= 4).await;
}

#[tokio::test]
async fn connection_keeps_its_time_limits_after_a_long_read() {
    let (server, tenant) = endless(&["--read-timeout=1500ms", "--request-timeout=3s"]).await;
    let mut stream = server.connect().await;
    let headers = format!("HTTP/1.1\r\nhost: x\r\nx-api-key: {}", tenant.key);
    stream.write_all(format!("GET /api/events {headers}\r\n\r\n").as_bytes()).await.unwrap();
    read_until(&mut stream, "read_timeout").await;
    let half = "content-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(format!("POST /api/events {headers}\r\n{half}").as_bytes()).await.unwrap();
    read_until(&mut stream, "request_timeout").await;
}

#[tokio::test]
async fn idle_connection_is_closed_at_the_stop_also_after_a_long_read() {
    let (server, tenant) = endless(&["--read-timeout=1500ms", "--shutdown-timeout=1h"]).await;
    let mut stream = server.connect().await;
    let headers = format!("HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n", tenant.key);
    stream.write_all(format!("GET /api/events {headers}").as_bytes()).await.unwrap();
    read_until(&mut stream, "read_timeout").await;
    stream.write_all(format!("GET /api/org {headers}").as_bytes()).await.unwrap();
    read_until(&mut stream, "acme").await;
    server.app.request_stop();
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
    closed.expect("the connection stays open").unwrap();
}

/// Reads until this text has come.
async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{read:?}");
        }
    };
    timeout(Duration::from_secs(30), reading).await.expect("no answer");
}

#[tokio::test]
async fn reads_of_one_tenant_are_limited_and_those_of_others_and_of_operators_are_not() {
    let server = Server::start_with(&["--read-rate-limit-per-minute=1"]).await;
    let (tenant, other) = (server.tenant("acme").await, server.tenant("other").await);
    let operator = server.operator().await;
    server.get("/api/events", &tenant.key).await.expect(200);
    for path in ["/api/events", "/api/deliveries", "/api/dead-letters", "/api/org", "/api/keys"] {
        let answer = server.get(path, &tenant.key).await;
        let problem = answer.expect_problem(429, "read_rate_limited");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with("the limit of 1 reads per minute"), "{problem}");
        assert_eq!(answer.header("ratelimit-policy"), "\"reads\";q=1;w=60");
        assert!((1..=60).contains(&answer.header("retry-after").parse().unwrap()), "{answer:?}");
    }
    server.post("/api/events", &tenant.key, r#"{"type":"a","payload":1}"#).await.expect(202);
    server.get("/api/events", &other.key).await.expect(200);
    server.get("/api/admin/orgs", &operator).await.expect(200);
    server.get("/health/live", &tenant.key).await.expect(200);
}
