//! `hookgate-bench`, against the server it starts and against a running one.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Place, Said, text};
use crate::support::binary::Binary;

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
    let scenarios = "ingest,ingest-batch,ingest-raw,store,health,metrics,end-to-end";
    let arguments = [&SHORT[..], &["--scenario", scenarios, "--json", "a.json"]].concat();
    let said = place.bench(&arguments).await;
    assert_eq!(said.code, 0, "{}", said.err);
    let file = place.path().join("a.json");
    let mut reports: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(reports.as_array().unwrap().len(), 7);
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
    assert_eq!(place.files(), [""; 0]);
}
