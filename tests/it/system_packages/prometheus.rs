//! The dashboards and alerts in `deploy/`, asked of a real Prometheus that scrapes a real server.

use std::path::Path;
use std::time::Duration;

use hookgate::domain::SigningSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{run, spawn};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::receiver::Receiver;
use crate::support::wait::until;

/// The files in `deploy/`.
fn deploy(path: &str) -> String {
    format!("{}/deploy/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A Prometheus that scrapes this address as the job `hookgate`, with the rules in `deploy/`.
async fn prometheus(directory: &Path, target: &str) -> (tokio::process::Child, String) {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let config = std::fs::read_to_string(deploy("prometheus/prometheus.yml")).unwrap();
    let config = config
        .replace("15s", "2s")
        .replace("- rules.yml", &format!("- {}", deploy("prometheus/rules.yml")))
        .replace("hookgate:3000", target);
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let child = spawn(
        "prometheus",
        &[
            &format!("--config.file={}", file.display()),
            &format!("--storage.tsdb.path={}", directory.join("tsdb").display()),
            &format!("--web.listen-address={address}"),
            "--log.level=error",
        ],
    );
    (child, format!("http://{address}"))
}

async fn get(url: &str, query: &[(&str, &str)]) -> Option<Value> {
    let mut url = reqwest::Url::parse(url).unwrap();
    url.query_pairs_mut().extend_pairs(query);
    let answer = client().get(url).send().await.ok()?;
    serde_json::from_str(&answer.text().await.ok()?).ok()
}

/// The series that a query finds.
async fn series(prometheus: &str, query: &str) -> Vec<Value> {
    let url = format!("{prometheus}/api/v1/query");
    let answer = get(&url, &[("query", query)]).await.unwrap_or_default();
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    answer["data"]["result"].as_array().unwrap().clone()
}

/// Every query of the dashboards, by its panel, as Grafana asks it for all servers.
fn dashboard_queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for name in ["overview", "delivery", "capacity"] {
        let text = std::fs::read_to_string(deploy(&format!("grafana/{name}.json"))).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = format!("{name}: {}", panel["title"].as_str().unwrap());
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap().replace("$instance", ".*");
                let query = query.replace("$__rate_interval", "1m");
                queries.push((title.clone(), query));
            }
        }
    }
    queries
}

/// Where nobody listens.
fn nobody() -> String {
    "http://127.0.0.1:1/".to_owned()
}

/// Posts a body.
async fn post(server: &Binary, key: &str, path: &str, body: Value) -> u16 {
    let request = client().post(format!("{}{path}", server.base_url)).header("x-api-key", key);
    let request = request.header("content-type", "application/json").body(body.to_string());
    request.send().await.unwrap().status().as_u16()
}

/// Posts an event that is delivered, one whose delivery fails for good, and one that is refused.
async fn make_traffic(server: &Binary, key: &str) {
    for event_type in ["order.paid", "order.lost"] {
        let event = json!({ "type": event_type, "payload": 1 });
        assert_eq!(post(server, key, "/api/events", event).await, 202);
    }
    assert_eq!(post(server, key, "/api/events", json!({ "type": "order.paid" })).await, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_dashboards_and_rules_finds_what_a_server_shows() {
    let (directory, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let core = [("METRICS", "core")];
    let mut server = Binary::start(&directory.path().join("data"), &core).await;
    let (key, _) = server.first_keys().await;
    let target = server.base_url.strip_prefix("http://").unwrap().to_owned();
    let (mut child, url) = prometheus(directory.path(), &target).await;
    // Before the traffic, so that counters are seen to rise.
    until("Prometheus scrapes the server", async || {
        assert_eq!(child.try_wait().unwrap(), None, "prometheus has ended");
        let up = [("query", "count_over_time(up{job=\"hookgate\"}[1m]) >= 2")];
        let found = get(&format!("{url}/api/v1/query"), &up).await.unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(100)).await;
        found["data"]["result"].as_array().is_some_and(|result| !result.is_empty())
    })
    .await;
    let secret = SigningSecret::generate().unwrap();
    receiver.trust(&secret);
    for (url, event_type) in [(receiver.url("/"), "order.paid"), (nobody(), "order.lost")] {
        let secret = secret.reveal();
        let endpoint = json!({ "url": url, "event_types": [event_type], "secret": secret });
        assert_eq!(post(&server, &key, "/api/endpoints", endpoint).await, 201);
    }
    // Again and again, since scrapes of a busy machine may fail.
    until("what was delivered is scraped", async || {
        make_traffic(&server, &key).await;
        let query = "increase(webhook_deliveries_total{status=\"delivered\"}[1m]) > 0 and ignoring(status) \
                     increase(webhook_deliveries_total{status=\"dead\"}[1m]) > 0";
        tokio::time::sleep(Duration::from_millis(500)).await;
        !series(&url, query).await.is_empty()
    })
    .await;

    let mut empty = Vec::new();
    for (panel, query) in dashboard_queries() {
        if series(&url, &query).await.is_empty() {
            empty.push(format!("{panel}: {query}"));
        }
    }
    assert!(empty.is_empty(), "queries that find nothing: {empty:#?}");
    for query in ["hookgate_build_info", "up{job=\"hookgate\"} == 1"] {
        assert_eq!(series(&url, query).await.len(), 1, "{query}");
    }

    let rules = get(&format!("{url}/api/v1/rules"), &[]).await.unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules = || groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    assert!(rules().count() >= 20, "{groups:#?}");
    for rule in rules() {
        assert_eq!(rule["health"], "ok", "{rule}");
        let query = without_thresholds(rule["query"].as_str().unwrap());
        assert!(!series(&url, &query).await.is_empty(), "{}: {query}", rule["name"]);
    }
    child.kill().await.unwrap();
    server.stop().await;
}

/// A query without its comparisons with numbers, and with every status for an error's: what must find something on a
/// server that is well.
fn without_thresholds(query: &str) -> String {
    let mut query = query.replace("5..", "...");
    for sign in [" > ", " < ", " == "] {
        let mut parts = query.split(sign);
        let first = parts.next().unwrap().to_owned();
        let is_number = |c: char| c.is_ascii_digit() || "e+.".contains(c);
        query = parts.fold(first, |done, part| done + part.trim_start_matches(is_number));
    }
    query
}

#[tokio::test]
async fn rules_pass_their_tests() {
    let checked = run("promtool", &["check", "rules", &deploy("prometheus/rules.yml")], "").await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let tested =
        run("promtool", &["test", "rules", &deploy("prometheus/rules_test.yml")], "").await;
    assert!(
        tested.status.success(),
        "{}{}",
        String::from_utf8_lossy(&tested.stdout),
        String::from_utf8_lossy(&tested.stderr)
    );
}
