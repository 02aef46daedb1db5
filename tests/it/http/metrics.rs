//! `GET /metrics`: what is counted, and which metrics `METRICS` shows.

use reqwest::Method;

use crate::support::binary::Binary;
use crate::support::server::{Server, answer};
use crate::support::wait::until;
use crate::support::{client, temporary};

async fn metrics(server: &Server) -> String {
    server.get("/metrics", "").await.text
}

/// The value of a series, written as in Prometheus' text format.
fn value<'a>(text: &'a str, series: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{series} is missing in {text}"))
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let event = r#"{"type":"a","payload":1}"#;
    server.post("/api/events", &tenant.key, event).await.expect(202);
    server.post("/api/events", &tenant.key, "{").await.expect(400);
    server.post("/api/events", "", event).await.expect(401);
    for path in ["/api/events/0190b5a7-0000-7000-8000-000000000000", "/api/events/x", "/nowhere"] {
        server.get(path, &tenant.key).await.expect(404);
    }
    answer(server.request(Method::PUT, "/api/endpoints", &tenant.key)).await.expect(405);

    let text = metrics(&server).await;
    let count = |method: &str, route: &str, status: u16| {
        let labels = format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}");
        value(&text, &format!("hookgate_http_requests_total{labels}")).parse::<u64>().unwrap()
    };
    for status in [202, 400, 401] {
        assert_eq!(count("POST", "/api/events", status), 1, "{status}");
    }
    assert_eq!(count("GET", "/api/events/{id}", 404), 2);
    assert_eq!(count("GET", "unmatched", 404), 1);
    assert_eq!(count("PUT", "/api/endpoints", 405), 1);
    assert_ne!(value(&text, "hookgate_connections_open"), "0");
    assert!(!text.contains("nowhere"), "paths of callers are no labels");
}

#[tokio::test]
async fn process_store_and_journal_are_measured() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let event = r#"{"type":"a","payload":1}"#;
    server.post("/api/events", &tenant.key, event).await.expect(202);
    let text = metrics(&server).await;
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("hookgate_build_info{{revision=\"unknown\",version=\"{version}\"}}");
    assert_eq!(value(&text, &build), "1");
    assert_eq!(value(&text, "hookgate_journal_backlog_events{priority=\"unread\"}"), "1");
    for series in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "hookgate_cpus",
        "hookgate_memory_limit_bytes",
        "hookgate_journal_max_bytes",
        "hookgate_db_connections_max{pool=\"general\"}",
        "hookgate_db_connections_max{pool=\"reads\"}",
        "hookgate_db_connections_open{pool=\"writer\"}",
    ] {
        assert!(value(&text, series).parse::<f64>().unwrap() > 0.0, "{series}");
    }
    assert_eq!(value(&text, "hookgate_db_connections_in_use{pool=\"reads\"}"), "0");
}

#[tokio::test]
async fn size_and_age_of_the_store_are_shown() {
    let directory = temporary::directory();
    let server = Binary::start(directory.path(), &[]).await;
    let url = format!("{}/metrics", server.base_url);
    let shown = async || client().get(&url).send().await.unwrap().text().await.unwrap();
    until("the store is measured", async || {
        value(&shown().await, "hookgate_database_bytes") != "0"
    })
    .await;
    assert_eq!(value(&shown().await, "hookgate_oldest_event_seconds"), "0", "there is none");
    server.stop().await;
}

#[tokio::test]
async fn metrics_that_are_shown_can_be_chosen() {
    let core = Server::start_with(&["--metrics=core"]).await;
    let text = metrics(&core).await;
    assert!(text.contains("\nevent_queue_size "), "{text}");
    assert!(!text.contains("journal_group_appends"), "{text}");
    let all = Server::start().await;
    assert!(metrics(&all).await.len() > text.len());
    let off = Server::start_with(&["--metrics=off"]).await;
    off.get("/metrics", "").await.expect(404);
}
