//! `hookgate event tail`, beside a running server.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{Place, post, text};
use crate::support::binary::Binary;
use crate::support::receiver::{Answer, Receiver};

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_what_a_running_server_stores_and_sends() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[("RETRY_SCHEDULE", "none")]).await;
    let (key, _) = server.first_keys().await;
    let receiver = Receiver::start().await;
    receiver.answer(std::iter::repeat_n(Answer::status(500), 100));
    let endpoint = post(&server, &key, "/api/endpoints", json!({ "url": receiver.url("/") })).await;
    receiver.trust(&text(&endpoint, "secret").parse().unwrap());
    let org = place.json(&["org", "list"]).await;
    let org = text(&org[0], "id").to_owned();

    let mut tail =
        place.command(&["event", "tail", "--org", &org, "--payload", "--output", "json"]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // It is followed from within a second on: the server is posted to until the first event is shown.
    let first = loop {
        post(&server, &key, "/api/events", json!({"type": "a.b", "payload": {"n": 1}})).await;
        let next = tokio::time::timeout(std::time::Duration::from_millis(500), lines.next_line());
        if let Ok(line) = next.await {
            break line.unwrap().unwrap();
        }
    };
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((text(&first, "kind"), &first["data"]["payload"]), ("event", &json!({"n": 1})));
    let mut kinds = vec!["event".to_owned()];
    while !["delivery", "dead_letter"].iter().all(|kind| kinds.contains(&(*kind).to_owned())) {
        let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        kinds.push(text(&line, "kind").to_owned());
    }
    tail.kill().await.unwrap();

    // The same by a key.
    let url = server.base_url.clone();
    let by_key = ["event", "tail", "--url", &url, "--api-key", &key, "--kinds", "event,delivery"];
    let mut tail = place.command(&by_key);
    let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let posting = async {
        loop {
            post(&server, &key, "/api/events", json!({"type": "c.d", "payload": {"n": 1}})).await;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    };
    let reading = async {
        let mut seen = Vec::new();
        while !["event  {", "delivery  "]
            .iter()
            .all(|start| seen.iter().any(|line: &String| line.starts_with(start)))
        {
            seen.push(lines.next_line().await.unwrap().unwrap());
        }
        seen
    };
    let seen = tokio::select! {
        seen = reading => seen,
        () = posting => unreachable!(),
    };
    assert!(!seen.iter().any(|line| line.starts_with("dead letter") || line.contains("payload\"")));
    tail.kill().await.unwrap();
    let both = [&by_key[..], &["--org", &org]].concat();
    place.run(&both).await.failed(2, "cannot be used with");
    let wrong = ["event", "tail", "--url", &url, "--api-key", "hg_wrong"];
    place.run(&wrong).await.failed(1, "401");
    place.run(&["event", "tail"]).await.failed(2, "--api-key");

    let said = place.run(&["event", "tail", "--org", &org, "--kinds", "nothing"]).await;
    said.failed(2, "must be event, delivery or dead_letter");
    server.stop().await;
}
