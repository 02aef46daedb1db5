//! `hookgate-bench`, against the server it starts and against a running one.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Place, Said, text};
use crate::support::binary::Binary;
use crate::support::postgres;

impl Place {
    fn bench_command(&self, arguments: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_hookgate-bench"), arguments)
    }

    async fn bench(&self, arguments: &[&str]) -> Said {
        Said::by(&mut self.bench_command(arguments)).await
    }
}

const SHORT: [&str; 8] =
    ["--duration", "100ms", "--warm-up", "10ms", "--runs", "1", "--connections", "4"];

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_is_measured_and_two_results_are_compared() {
    let place = Place::new();
    let scenarios = "ingest,ingest-batch,ingest-raw,store,health,metrics,end-to-end,simple-get,openapi,read,write,\
                     mixed";
    let arguments = [&SHORT[..], &["--scenario", scenarios, "--json", "a.json"]].concat();
    let said = place.bench(&arguments).await;
    assert_eq!(said.code, 0, "{}", said.err);
    let file = place.path().join("a.json");
    let mut reports: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(reports.as_array().unwrap().len(), 12);
    for report in reports.as_array().unwrap() {
        assert!(said.out.contains(&format!("{}, closed loop", text(report, "scenario"))));
        assert_eq!(report["median"]["errors"], json!({}), "{report}");
        assert!(report["median"]["requests"].as_u64().unwrap() > 0, "{report}");
    }
    assert_eq!(place.files(), ["a.json"], "the server's directory is removed");

    let compare = ["compare", "a.json", "b.json"];
    place.bench(&compare).await.failed(1, "b.json: No such file");
    for report in reports.as_array_mut().unwrap() {
        let rate = report["median"]["requests_per_second"].as_f64().unwrap();
        report["median"]["requests_per_second"] = json!(rate * 0.85);
    }
    std::fs::write(place.path().join("b.json"), reports.to_string()).unwrap();
    let slower = place.bench(&compare).await;
    assert_eq!(slower.code, 1);
    assert!(slower.err.contains("slower by more than 10 %: ingest -15.0 %"), "{}", slower.err);
    let tolerant = [&compare[..], &["--threshold", "20"]].concat();
    assert_eq!(place.bench(&tolerant).await.code, 0);
    let any_speed = [&compare[..], &["--any-speed"]].concat();
    assert_eq!(place.bench(&any_speed).await.code, 0);
    reports[0]["runs"][0]["errors"] = json!({"503": 2});
    std::fs::write(place.path().join("b.json"), reports.to_string()).unwrap();
    let wrong = place.bench(&any_speed).await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("B has wrong answers: ingest {\"503\": 2}"), "{}", wrong.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_loop_keeps_its_rate_on_a_running_server() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[]).await;
    let (key, _) = server.first_keys().await;
    let there = ["--url", &server.base_url, "--api-key", &key, "--json", "a.json"];
    // More connections than requests: the run still ends with its duration.
    let slow = ["--rate", "20", "--duration", "1s", "--warm-up", "0s", "--runs", "1"];
    let said = place.bench(&[&slow[..], &there].concat()).await;
    assert_eq!(said.code, 0, "{}", said.err);
    let file = place.path().join("a.json");
    let reports: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(reports[0]["median"]["requests"], 20);
    let seconds = reports[0]["median"]["seconds"].as_f64().unwrap();
    assert!((1.0..2.0).contains(&seconds), "{seconds}");

    let wrong = [&SHORT[..], &["--url", &server.base_url, "--api-key", "nonsense"]].concat();
    let said = place.bench(&wrong).await;
    assert_eq!(said.code, 1);
    assert!(said.out.contains("\"401\""), "{}", said.out);
    assert!(said.err.contains("no request got the expected answer"), "{}", said.err);
    server.stop().await;
}

/// Measures a scenario in an open loop, and returns the report and what was printed.
async fn open_loop(scenario: &str, arguments: &[&str]) -> (Value, String) {
    let place = Place::new();
    let always = ["--scenario", scenario, "--rate", "100", "--json", "a.json"];
    let said = place.bench(&[&SHORT[..], &always, arguments].concat()).await;
    assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
    let file = std::fs::read(place.path().join("a.json")).unwrap();
    assert_eq!(place.files(), ["a.json"], "the server's directory is removed");
    let reports: Value = serde_json::from_slice(&file).unwrap();
    let median = &reports[0]["median"];
    assert!(median["requests"].as_u64().unwrap() > 0, "{arguments:?}: {median}");
    assert_eq!(median["errors"], json!({}), "{arguments:?}");
    (reports[0].clone(), said.out)
}

#[tokio::test(flavor = "multi_thread")]
async fn open_loop_shows_latency_to_the_receiver_and_the_cpu_time_of_each_program() {
    let (report, out) = open_loop("end-to-end", &["--receiver-delay", "20ms"]).await;
    let latency = &report["median"]["accept_to_receiver"];
    assert!(latency["p50_ms"].as_f64() <= latency["max_ms"].as_f64(), "{latency}");
    assert!(report["median"]["cpu_us_per_event"].is_f64(), "{report}");
    assert!(report["median"]["postgres_cpu_us_per_event"].is_null(), "{report}");
    assert!(out.contains("accept to receiver p50"), "{out}");

    let database = postgres::fresh_database().await;
    let (report, out) = open_loop("end-to-end", &["--database-url", &database]).await;
    for program in ["", "postgres_", "postgres_shared_"] {
        assert!(report["median"][format!("{program}cpu_us_per_event")].is_f64(), "{report}");
    }
    assert!(out.contains("PostgreSQL"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_beside_each_neighbour_is_compared_with_a_run_alone() {
    // Whatever is posted beside the whale arrives late in a debug build, so it is only accepted.
    let neighbours: [(&str, &[&str]); 10] = [
        ("end-to-end", &["flood"]),
        ("end-to-end", &["over-limit"]),
        ("ingest", &["whale"]),
        ("end-to-end", &["slow", "--slow-endpoints", "2", "--pending", "2"]),
        ("end-to-end", &["dripping", "--pending", "24"]),
        ("ingest", &["hanging", "--slow-endpoints", "2", "--pending", "2"]),
        ("end-to-end", &["fanout", "--fanout-endpoints", "3"]),
        ("end-to-end", &["disabled", "--pending", "20"]),
        ("ingest", &["keys"]),
        ("list", &["readers", "--reader-events", "20"]),
    ];
    for (scenario, neighbour) in neighbours {
        let (report, out) = open_loop(scenario, &[&["--beside"], neighbour].concat()).await;
        assert_eq!(report["peer"]["name"], "alone");
        assert!(out.contains(&format!("beside {}: ", neighbour[0])), "{out}");
        assert!(out.contains("| latency p99, ms "), "{out}");
        let is_delivered = scenario == "end-to-end";
        assert_eq!(out.contains("| accept to receiver p99, ms "), is_delivered, "{out}");
        let patched = out.contains("PATCH of an endpoint with 20 pending");
        assert_eq!(patched, neighbour[0] == "disabled", "{out}");
        let created = out.contains("POST /api/keys of another tenant: alone 5 times");
        assert_eq!(created, neighbour[0] == "keys", "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whale_and_disabled_endpoint_run_beside_a_scenario_on_postgres() {
    for neighbour in [&["whale"][..], &["disabled", "--pending", "20"]] {
        let database = postgres::fresh_database().await;
        let arguments = [&["--database-url", &database, "--beside"], neighbour].concat();
        let (report, out) = open_loop("ingest", &arguments).await;
        assert_eq!(report["peer"]["name"], "alone", "{out}");
        let patched = out.contains("PATCH of an endpoint with 20 pending");
        assert_eq!(patched, neighbour[0] == "disabled", "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn share_stored_by_the_end_and_the_time_to_store_the_rest_are_measured() {
    let arguments = ["--drain", "--dedup-ids", "--labels", "--peer-bare", "1"];
    let (report, out) = open_loop("ingest", &arguments).await;
    let drain = &report["median"]["drain"];
    let stored_share = drain["stored_share"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&stored_share), "{drain}");
    assert!(drain["seconds"].as_f64().unwrap() >= 0.0, "{drain}");
    assert!(report["peer"]["median"]["drain"].is_null(), "{report}");
    assert!(out.contains("stored by the end"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn growth_of_the_database_is_measured_on_both_stores() {
    let database = postgres::fresh_database().await;
    // Enough events for a page of each index.
    let always = ["--disk", "--payload-bytes", "200", "--rate", "1000", "--duration", "1s"];
    let optional = ["--dedup-ids", "--labels"];
    for arguments in [&optional[..], &["--database-url", &database]] {
        let place = Place::new();
        let scenario = ["--scenario", "end-to-end", "--json", "a.json", "--runs", "1"];
        let said = place.bench(&[&scenario[..], &always, arguments].concat()).await;
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        let file = std::fs::read(place.path().join("a.json")).unwrap();
        let reports: Value = serde_json::from_slice(&file).unwrap();
        let grown = reports[0]["median"]["disk_bytes_per_event"].as_f64().unwrap();
        assert!((200.0..20_000.0).contains(&grown), "{arguments:?}: {grown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_run_leaves_nothing_behind() {
    let place = Place::new();
    let long = ["--scenario", "end-to-end", "--duration", "10m", "--peer-bare", "1"];
    let mut bench = place.bench_command(&long).stderr(Stdio::null()).spawn().unwrap();
    let id = Pid::from_raw(i32::try_from(bench.id().unwrap()).unwrap()).unwrap();
    let journal = || {
        let name = place.files().into_iter().find(|name| name.starts_with("hookgate-bench-"))?;
        let journal = place.path().join(name).join("journal");
        journal.exists().then_some(journal)
    };
    while journal().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    kill_process(id, Signal::INT).unwrap();
    assert_eq!(bench.wait().await.unwrap().code(), Some(1));
    assert_eq!(place.files(), [""; 0]);
}

#[tokio::test]
async fn wrong_arguments_are_refused_before_anything_starts() {
    let place = Place::new();
    place.bench(&["--duration", "0s"]).await.failed(2, "at least 1ms");
    place.bench(&["--url", "http://127.0.0.1:1"]).await.failed(2, "--api-key");
    place.bench(&["--json", "nowhere/results.json"]).await.failed(1, "no such directory");
    place.bench(&["--server", "nowhere/hookgate"]).await.failed(1, "no such program");
    place.bench(&["--pending", "5"]).await.failed(2, "--beside");
    place.bench(&["--disk"]).await.failed(1, "--disk does not work with --scenario ingest");
    let raw = ["--dedup-ids", "--scenario", "ingest,ingest-raw"];
    place.bench(&raw).await.failed(1, "--dedup-ids does not work with --scenario ingest-raw");
    assert_eq!(place.files(), [""; 0]);
}
