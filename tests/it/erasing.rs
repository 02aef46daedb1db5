//! An erasure from the command line, beside a running server, and a replay of its journal afterwards.

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::binary::Binary;
use crate::support::client;
use crate::support::wait::until;

async fn run(data_dir: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_hookgate"))
        .args(arguments)
        .args(["--output", "json"])
        .current_dir(data_dir)
        .env_clear()
        .env("DATA_DIR", data_dir)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn get(server: &Binary, key: &str, path: &str) -> Value {
    let request = client().get(format!("{}{path}", server.base_url)).header("x-api-key", key);
    let text = request.send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn post(server: &Binary, key: &str, account: &str) {
    let event = json!({ "type": "a", "payload": 1, "account_id": account }).to_string();
    let request = client().post(format!("{}/api/events", server.base_url)).header("x-api-key", key);
    let request = request.header("content-type", "application/json").body(event);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 202);
}

async fn count(server: &Binary, key: &str) -> usize {
    get(server, key, "/api/events").await["data"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_account_does_not_come_back_by_a_replay_of_the_journal() {
    let dir = crate::support::temporary::directory();
    let data_dir = dir.path();
    let mut server = Binary::start(data_dir, &[]).await;
    let (key, _) = server.first_keys().await;
    for account in ["gone", "kept", "gone"] {
        post(&server, &key, account).await;
    }
    until("the events are stored", async || count(&server, &key).await == 3).await;
    let org = get(&server, &key, "/api/org").await["id"].as_str().unwrap().to_owned();
    let asked = run(data_dir, &["account", "erase", "--org", &org, "gone"]).await;
    assert_eq!(asked["status"], "running");
    let id = asked["id"].as_str().unwrap().to_owned();
    let path = format!("/api/erasures/{id}");
    until("the erasure has ended", async || {
        get(&server, &key, &path).await["status"] == "finished"
    })
    .await;
    let shown = run(data_dir, &["erasure", "show", "--org", &org, &id]).await;
    assert_eq!((&shown["events"], &shown["status"]), (&json!(2), &json!("finished")));
    assert_eq!(
        run(data_dir, &["erasure", "list", "--org", &org]).await.as_array().unwrap().len(),
        1
    );
    let kept = get(&server, &key, "/api/events").await["data"][0]["id"].clone();
    let kept = kept.as_str().unwrap().to_owned();
    assert_eq!(count(&server, &key).await, 1);
    server.stop().await;

    let counted = run(data_dir, &["journal", "replay", "--since", "0", "--dry-run"]).await;
    assert_eq!((&counted["events"], &counted["missing"]), (&json!(3), &json!(0)));
    let replayed = run(data_dir, &["journal", "replay", "--since", "0"]).await;
    assert_eq!((&replayed["events"], &replayed["missing"]), (&json!(3), &json!(0)));
    let server = Binary::start(data_dir, &[]).await;
    assert_eq!(count(&server, &key).await, 1);
    run(data_dir, &["event", "erase", "--org", &org, &kept]).await;
    until("the event is erased", async || count(&server, &key).await == 0).await;
    server.stop().await;
}
