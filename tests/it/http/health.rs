//! Probes, the report and the metrics: all without a key.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::server::{self, Answer, Server};

async fn get(server: &Server, path: &str) -> Answer {
    server::answer(server.bare(Method::GET, path)).await
}

#[tokio::test]
async fn report_shows_what_waits_and_what_was_done() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let batch = r#"[{"type":"a","payload":1},{"type":"b","payload":2}]"#;
    server.post("/api/events/batch", &tenant.key, batch).await.expect(202);
    let report = get(&server, "/api/health").await.expect(200);
    assert_eq!(report["status"], "ok");
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["uptime_seconds"].is_u64());
    assert_eq!(report["queue"]["events"], 2);
    assert_eq!(report["queue"]["writable"], true);
    assert!(report["queue"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(report["store"]["reachable"], true);
    assert_eq!(report["totals"]["ingested"], 2);
    for total in ["stored", "duplicates", "unstorable", "planned", "delivered", "retried", "dead"] {
        assert_eq!(report["totals"][total], 0, "{total}");
    }
    assert!(report["memory_bytes"].as_u64().unwrap() > 1_000_000);
}

#[tokio::test]
async fn store_that_is_away_degrades_the_report_and_only_strict_readiness_fails() {
    let server = Server::start().await;
    let ready = json!({"status":"ready","checks":{"journal":"ok","disk":"ok","process":"ok"}});
    assert_eq!(get(&server, "/health/ready").await.expect(200), ready);
    let strict = json!({"status":"ready","checks":{
        "journal":"ok","disk":"ok","store":"ok","process":"ok","planning":"ok","delivery":"ok","recorder":"ok"}});
    for query in ["strict", "strict=1", "strict=true"] {
        assert_eq!(get(&server, &format!("/health/ready?{query}")).await.expect(200), strict);
    }

    let server = Server::start().await;
    server.lose_store().await;
    let report = get(&server, "/api/health").await.expect(200);
    assert_eq!(
        (&report["status"], &report["store"]["reachable"]),
        (&json!("degraded"), &json!(false))
    );
    assert_eq!(get(&server, "/health/ready").await.expect(200), ready);
    let unready = get(&server, "/health/ready?strict").await.expect(503);
    let checks = json!({
        "journal":"ok","disk":"ok","store":"unreachable","process":"ok","planning":"ok","delivery":"ok",
        "recorder":"ok"});
    assert_eq!((&unready["status"], &unready["checks"]), (&json!("unready"), &checks));
    assert_eq!(get(&server, "/health/live").await.expect(200), json!({"status":"live"}));
}

#[tokio::test]
async fn closed_journal_fails_readiness() {
    let server = Server::start().await;
    server.journal.close();
    let unready = get(&server, "/health/ready").await.expect(503);
    assert_eq!(unready["status"], "unready");
    assert_eq!(unready["checks"]["journal"], "closed");
    get(&server, "/health/ready?strict").await.expect(503);
    assert_eq!(get(&server, "/api/health").await.expect(200)["queue"]["journal"], "closed");
}

#[tokio::test]
async fn dispatcher_without_heartbeat_fails_strict_readiness_alone() {
    let server = Server::start_with(&["--delivery-stall-after=40s"]).await;
    server.clock.advance(Duration::from_secs(40));
    get(&server, "/health/ready?strict").await.expect(200);
    server.clock.advance(Duration::from_secs(1));
    let unready = get(&server, "/health/ready?strict").await.expect(503);
    assert_eq!(unready["checks"]["delivery"], "dispatcher_stalled");
    get(&server, "/health/ready").await.expect(200);
    let report = get(&server, "/api/health").await.expect(200);
    assert_eq!(report["status"], "degraded");
    assert_eq!(report["delivery"]["dispatcher_seconds"], 41);
    server.delivery_health.dispatcher.beat();
    get(&server, "/health/ready?strict").await.expect(200);
}

#[tokio::test]
async fn due_deliveries_that_nobody_claims_fail_strict_readiness_alone() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = json!({"url":"https://example.com/hooks"}).to_string();
    let endpoint = server.post("/api/endpoints", &tenant.key, endpoint).await.expect(201);
    server.store_event(tenant.org_id, "a", "1").await;
    server.clock.advance(Duration::from_secs(61));
    server.delivery_health.dispatcher.beat();

    let unready = get(&server, "/health/ready?strict").await.expect(503);
    assert_eq!(unready["checks"]["delivery"], "delivery_stalled");
    get(&server, "/health/ready").await.expect(200);
    let report = get(&server, "/api/health").await.expect(200);
    assert_eq!(report["delivery"]["status"], "delivery_stalled");
    assert_eq!(report["delivery"]["oldest_due_seconds"], 61);
    let metrics = get(&server, "/metrics").await.text;
    for line in ["oldest_due_delivery_age_seconds 61", "dispatcher_heartbeat_age_seconds 0"] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    // Claims that leave it alone, as for an open breaker, are progress.
    server.delivery_health.progress.beat();
    get(&server, "/health/ready?strict").await.expect(200);

    let path = format!("/api/endpoints/{}", endpoint["id"].as_str().unwrap());
    server.patch(&path, &tenant.key, r#"{"enabled":false}"#).await.expect(200);
    let parked = server.store.system().oldest_due(server.clock.now(), &[]).await.unwrap();
    assert_eq!(parked, None, "what is parked is not due");
}

#[tokio::test]
async fn outcomes_that_are_not_recorded_fail_strict_readiness_alone() {
    let server = Server::start().await;
    server.delivery_health.recording.begin();
    server.clock.advance(Duration::from_secs(61));
    server.delivery_health.dispatcher.beat();
    get(&server, "/health/ready").await.expect(200);
    let unready = get(&server, "/health/ready?strict").await.expect(503);
    assert_eq!(unready["checks"]["recorder"], "recorder_stalled");
    let report = get(&server, "/api/health").await.expect(200);
    assert_eq!(report["status"], "degraded");
    assert_eq!(report["delivery"]["recorder_seconds"], 61);
    assert!(get(&server, "/metrics").await.text.contains("hookgate_recorder_age_seconds 61"));
    server.delivery_health.recording.end();
    get(&server, "/health/ready?strict").await.expect(200);
    let report = get(&server, "/api/health").await.expect(200);
    assert_eq!(
        (&report["status"], &report["delivery"]["recorder_seconds"]),
        (&json!("ok"), &json!(null))
    );
}

#[tokio::test]
async fn metrics_are_in_prometheus_text_format() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    server.post("/api/events", &tenant.key, r#"{"type":"a","payload":1}"#).await.expect(202);
    let answer = get(&server, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    for line in [
        "events_ingested_total 1",
        "event_ingestion_latency_seconds_count 1",
        "auth_latency_seconds_count 1",
        "rate_limit_check_latency_seconds_count 1",
        "rejected_requests_total{reason=\"rate_limited\"} 0",
    ] {
        assert!(answer.text.contains(line), "{line} is missing in {}", answer.text);
    }
}
