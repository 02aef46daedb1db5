//! What readers are shown: the example receivers in `examples/`, each run against the real server, and documents whose
//! commands are run.

mod terminal;
mod walkthrough;

use std::path::Path;
use std::process::Stdio;

use hookgate::domain::SigningSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::binary::Binary;
use crate::support::client;

/// An example receiver as its users run it. Killed when it is dropped.
struct Example {
    _child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Example {
    async fn start(name: &str, secret: &SigningSecret) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/example");
        let mut command = Command::new(script);
        command.arg(name).env("WEBHOOK_SECRET", secret.reveal()).env("PORT", "0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = stdout.next_line().await.unwrap().expect("the example ended; see its output");
        let url = line.strip_prefix("listening on ").unwrap().to_owned();
        Self { _child: child, stdout, url }
    }

    async fn line(&mut self) -> String {
        self.stdout.next_line().await.unwrap().unwrap()
    }
}

/// A server, and a key for it.
struct Server {
    binary: Binary,
    key: String,
}

impl Server {
    async fn start(data_dir: &Path) -> Self {
        let mut binary = Binary::start(data_dir, &[]).await;
        let (key, _) = binary.first_keys().await;
        Self { binary, key }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = client().post(format!("{}{path}", self.binary.base_url));
        let request = request.header("x-api-key", &self.key);
        let request = request.header("content-type", "application/json");
        let response = request.body(body.to_string()).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    /// Waits until the event has `count` deliveries that are all delivered.
    async fn all_delivered(&self, event: &str, count: usize) {
        loop {
            let request = client().get(format!("{}/api/events/{event}", self.binary.base_url));
            let response = request.header("x-api-key", &self.key).send().await.unwrap();
            let event: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            let deliveries = event["deliveries"].as_array().unwrap();
            if deliveries.iter().filter(|d| d["status"] == "delivered").count() == count {
                return;
            }
        }
    }
}

/// The example handles a webhook, accepts its repetition without handling it, and refuses a forgery.
async fn handles_each_webhook_once(name: &str) {
    let directory = crate::support::temporary::directory();
    let server = Server::start(directory.path()).await;
    let secret = SigningSecret::generate().unwrap();
    let mut example = Example::start(name, &secret).await;
    let endpoint = json!({ "url": format!("{}/", example.url), "secret": secret.reveal() });
    server.post("/api/endpoints", endpoint).await;

    let event = json!({ "type": "user.login", "payload": "ada" });
    let event = server.post("/api/events", event).await["id"].as_str().unwrap().to_owned();
    assert_eq!(example.line().await, format!(r#"received {event} "user.login" "ada""#));
    server.all_delivered(&event, 1).await;

    let forged = client().post(&example.url).header("webhook-id", "forged");
    let forged = forged.header("webhook-timestamp", "1").header("webhook-signature", "v1,Zm9v");
    assert_eq!(forged.body("{}").send().await.unwrap().status(), 401);

    server.post(&format!("/api/events/{event}/replay"), json!({})).await;
    assert_eq!(example.line().await, format!("duplicate {event}"));
    server.all_delivered(&event, 2).await;
    server.binary.stop().await;
}

#[tokio::test]
async fn axum_receiver_handles_each_webhook_once() {
    handles_each_webhook_once("axum").await;
}

#[tokio::test]
async fn express_receiver_handles_each_webhook_once() {
    handles_each_webhook_once("express").await;
}

#[tokio::test]
async fn flask_receiver_handles_each_webhook_once() {
    handles_each_webhook_once("flask").await;
}
