//! The real binary as a child process: started, stopped politely, or killed.

use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinSet;

/// A running `hookgate serve`. Killed when it is dropped.
pub(crate) struct Binary {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    /// Where it answers, such as `http://127.0.0.1:40123`.
    pub(crate) base_url: String,
    log: JoinSet<Vec<String>>,
}

/// The settings every test server starts with; a test adds its own.
const SETTINGS: &[(&str, &str)] = &[
    ("PORT", "0"),
    ("ALLOW_PRIVATE_ENDPOINTS", "true"),
    ("RATE_LIMIT_PER_MINUTE", "1000000"),
    ("RETRY_SCHEDULE", "50ms,50ms"),
    ("DELIVERY_POLL_INTERVAL", "20ms"),
    ("JOURNAL_SEGMENT_MIB", "8"),
    ("LOG_FORMAT", "json"),
    ("RUST_LOG", "info"),
];

impl Binary {
    /// Starts a server and waits until it listens.
    pub(crate) async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hookgate"))
            .arg("serve")
            // Away from any .env of whoever runs the tests.
            .current_dir(data_dir)
            .env_clear()
            .env("DATA_DIR", data_dir)
            .envs(SETTINGS.iter().chain(settings).copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let base_url = listening_at(&mut stderr).await;
        let mut log = JoinSet::new();
        log.spawn(async move {
            let mut lines = Vec::new();
            while let Ok(Some(line)) = stderr.next_line().await {
                lines.push(line);
            }
            lines
        });
        Self { child, stdout, base_url, log }
    }

    /// The API key and the operator key that the very first start prints.
    pub(crate) async fn first_keys(&mut self) -> (String, String) {
        (self.printed("API key").await, self.printed("operator key").await)
    }

    async fn printed(&mut self, name: &str) -> String {
        while let Some(line) = self.stdout.next_line().await.unwrap() {
            if let Some(value) = line.trim().strip_prefix(name) {
                return value.trim().to_owned();
            }
        }
        panic!("the server printed no {name}");
    }

    /// Asks it to stop and waits until it has. Panics when it does not end well.
    pub(crate) async fn stop(mut self) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
        let status = self.child.wait().await.unwrap();
        let log = self.log.join_next().await;
        assert!(status.success(), "{status}: {log:#?}");
    }

    /// Kills it on the spot, as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

async fn listening_at(stderr: &mut Lines<BufReader<ChildStderr>>) -> String {
    let mut seen = Vec::new();
    while let Some(line) = stderr.next_line().await.unwrap() {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if event["message"] == "listening" {
            return format!("http://{}", event["address"].as_str().unwrap());
        }
        seen.push(line);
    }
    panic!("the server ended before it listened: {seen:#?}");
}
