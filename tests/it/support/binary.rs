//! The real binary as a child process: started, stopped, or killed.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wait::{PATIENCE, until};

/// A running `hookgate serve`. Killed when it is dropped.
pub(crate) struct Binary {
    child: Child,
    data_dir: PathBuf,
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
        Self::listen(spawn("exec \"$0\" serve", data_dir, settings), data_dir).await
    }

    /// Starts a server by a script for `sh`, in which `exec "$0" serve` is the server, and waits
    /// until it listens.
    pub(crate) async fn start_by(script: &str, data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        Self::listen(spawn(script, data_dir, settings), data_dir).await
    }

    /// Starts a server, sends SIGHUP once it says that it starts, and waits until it listens.
    pub(crate) async fn start_and_hang_up(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = spawn("exec \"$0\" serve", data_dir, settings);
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = lines_until(&mut stderr, "starting").await.0;
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        let (more, event) = lines_until(&mut stderr, "listening").await;
        seen.extend(more);
        Self::listening(child, data_dir, stderr, &event, seen)
    }

    /// Starts a server, stops it (SIGTERM) once it says that it starts, and waits until it has ended.
    pub(crate) async fn start_and_stop(
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> (ExitStatus, Vec<String>) {
        let mut child = spawn("exec \"$0\" serve", data_dir, settings);
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = lines_until(&mut stderr, "starting").await.0;
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = timeout(PATIENCE, child.wait()).await.expect("it does not end").unwrap();
        while let Some(line) = stderr.next_line().await.unwrap() {
            seen.push(line);
        }
        (status, seen)
    }

    /// Starts a server and kills it after a while, which may be before it listens.
    pub(crate) async fn start_and_kill(
        data_dir: &Path,
        settings: &[(&str, &str)],
        after: Duration,
    ) {
        let mut child = spawn("exec \"$0\" serve", data_dir, settings);
        tokio::time::sleep(after).await;
        child.kill().await.unwrap();
    }

    async fn listen(mut child: Child, data_dir: &Path) -> Self {
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (lines, event) = lines_until(&mut stderr, "listening").await;
        Self::listening(child, data_dir, stderr, &event, lines)
    }

    /// A server that has logged where it listens, after these lines.
    fn listening(
        child: Child,
        data_dir: &Path,
        mut stderr: Lines<BufReader<ChildStderr>>,
        event: &serde_json::Value,
        mut lines: Vec<String>,
    ) -> Self {
        let base_url = format!("http://{}", event["address"].as_str().unwrap());
        let mut log = JoinSet::new();
        log.spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                lines.push(line);
            }
            lines
        });
        Self { child, data_dir: data_dir.to_owned(), base_url, log }
    }

    /// The API key and the operator key that the very first start writes down.
    pub(crate) async fn first_keys(&mut self) -> (String, String) {
        // As the server sees it: it may have mounted something there.
        let pid = self.pid().as_raw_nonzero();
        first_keys(Path::new(&format!("/proc/{pid}/root{}", self.data_dir.display()))).await
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        Pid::from_raw(id).unwrap()
    }

    /// Suspends it (SIGSTOP) until [`Self::go_on`].
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    /// Resumes it (SIGCONT).
    pub(crate) fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Stops it (SIGTERM), and returns its log. Panics when it exits with an error.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        self.ask_to_stop();
        let status = self.child.wait().await.unwrap();
        let log = self.log.join_next().await.unwrap().unwrap();
        assert!(status.success(), "{status}: {log:#?}");
        log
    }

    /// Sends SIGTERM.
    pub(crate) fn ask_to_stop(&self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// Waits until its main thread has ended; the system may still wait for others.
    #[cfg(target_os = "linux")]
    pub(crate) async fn left_main(&self) {
        let stat = format!("/proc/{}/stat", self.pid().as_raw_nonzero());
        until("its main thread ends", async || {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('Z')
        })
        .await;
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it does not end").unwrap();
        (status, self.log.join_next().await.unwrap().unwrap())
    }

    /// Starts a server that cannot start.
    pub(crate) async fn fail_to_start(
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> (ExitStatus, Vec<String>) {
        let child = spawn("exec \"$0\" serve", data_dir, settings);
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it starts").unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        (output.status, log.lines().map(str::to_owned).collect())
    }

    /// Kills it (SIGKILL).
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The API key and the operator key that a first start writes down in its data directory.
pub(crate) async fn first_keys(data_dir: &Path) -> (String, String) {
    let mut shown = String::new();
    until("the first keys are written down", async || {
        let read = std::fs::read_to_string(data_dir.join("first-keys.txt"));
        shown = read.unwrap_or_default();
        // The last line.
        shown.contains("--rate-limit-per-minute")
    })
    .await;
    let value = |name: &str| {
        let line = shown.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    (value("API key"), value("operator key"))
}

fn spawn(script: &str, data_dir: &Path, settings: &[(&str, &str)]) -> Child {
    std::fs::create_dir_all(data_dir).unwrap();
    Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_hookgate")])
        // Away from any .env of whoever runs the tests.
        .current_dir(data_dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATA_DIR", data_dir)
        .envs(SETTINGS.iter().chain(settings).copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The log lines before the one with this message, and its fields.
async fn lines_until(
    stderr: &mut Lines<BufReader<ChildStderr>>,
    message: &str,
) -> (Vec<String>, serde_json::Value) {
    let mut seen = Vec::new();
    while let Some(line) = stderr.next_line().await.unwrap() {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if event["message"] == message {
            return (seen, event);
        }
        seen.push(line);
    }
    panic!("the server ended before it listened: {seen:#?}");
}
