//! The server that a measurement starts: its program, its directory and its process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hookgate::cli::CliError;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::args::RunArgs;
use crate::neighbour::Neighbour;

/// Attempts to remove the directory, and the pause between two of them.
const REMOVALS_MAX: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// The start of the names of temporary directories; the number of their process follows.
const PREFIX: &str = "hookgate-bench-";
/// `WRITE_RATE_LIMIT_PER_MINUTE` of a server on which thousands of endpoints are created.
const WRITES_PER_MINUTE: &str = "1000000";
/// Limits of reads while they are measured: as high as they go, since one organisation reads all that is read.
const READS_PER_MINUTE: &str = "100000000";
const READS_PER_ORG: &str = "1000";

/// The `hookgate` program, run in a temporary directory.
pub(crate) struct Program {
    file: PathBuf,
    dir: WorkDir,
    database_url: Option<String>,
    /// Whether a neighbour creates more endpoints than a tenant may change in a minute.
    has_many_endpoints: bool,
    reads: bool,
}

/// A temporary directory; dropping it removes it.
struct WorkDir(PathBuf);

impl WorkDir {
    /// Makes one, and removes those of processes that were killed.
    fn create(parent: &Path) -> std::io::Result<Self> {
        for entry in std::fs::read_dir(parent)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
            let process = process.and_then(|(process, _)| process.parse::<u32>().ok());
            if process.is_some_and(is_gone) {
                // It may be another user's.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let name = format!("{PREFIX}{}-{}", std::process::id(), Uuid::new_v4().simple());
        let dir = Self(parent.join(name));
        std::fs::create_dir(&dir.0)?;
        Ok(dir)
    }
}

/// Whether a process has ended; `false` where the system does not tell.
fn is_gone(process: u32) -> bool {
    Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{process}")).exists()
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // A server killed a moment ago may still be writing. A directory that cannot be removed in
        // the end stays.
        for _ in 0..REMOVALS_MAX {
            if std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(REMOVAL_PAUSE);
        }
    }
}

impl Program {
    /// Finds the program and makes its directory.
    ///
    /// # Errors
    /// When there is no such program, or the directory cannot be made.
    pub(crate) fn new(args: &RunArgs) -> Result<Self, CliError> {
        let file = match &args.server {
            Some(file) => std::path::absolute(file)?,
            None => std::env::current_exe()?.with_file_name("hookgate"),
        };
        if !file.is_file() {
            let advice = "build it with `cargo build --release`, or name it with --server";
            return Err(format!("{}: no such program; {advice}", file.display()).into());
        }
        let parent = args.work_dir.clone().unwrap_or_else(std::env::temp_dir);
        // Absolute, because the server starts inside it.
        let parent = std::path::absolute(parent)?;
        std::fs::create_dir_all(&parent)?;
        let dir = WorkDir::create(&parent)?;
        let has_many_endpoints = args.beside.is_some_and(Neighbour::has_many_endpoints);
        let reads = args.scenario.iter().any(|scenario| scenario.reads());
        Ok(Self { file, dir, database_url: args.database_url.clone(), has_many_endpoints, reads })
    }

    /// The directory of the server's data.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.dir.0
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.file);
        command.args(arguments).arg("--data-dir").arg(self.data_dir());
        command.env_clear().current_dir(self.data_dir()).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        command
    }

    /// Creates an organisation with these limits, and returns a key of it.
    pub(crate) async fn create_key(
        &self,
        events_per_minute: u32,
        burst: u32,
    ) -> Result<String, CliError> {
        let (rate, burst) = (events_per_minute.to_string(), burst.to_string());
        let limits = ["--rate-limit-per-minute", &rate, "--burst", &burst];
        let org =
            self.answer(&[&["org", "create", "--name", "bench"], &limits[..]].concat()).await?;
        let org = org["id"].as_str().ok_or("the organisation has no id")?;
        let key = self.answer(&["key", "create", "--org", org, "--name", "bench"]).await?;
        Ok(key["key"].as_str().ok_or("the key was not shown")?.to_owned())
    }

    /// Creates an operator's key.
    pub(crate) async fn create_operator_key(&self) -> Result<String, CliError> {
        let key = self.answer(&["key", "create", "--operator", "--name", "bench"]).await?;
        Ok(key["key"].as_str().ok_or("the key was not shown")?.to_owned())
    }

    /// Runs a command and reads its JSON answer.
    async fn answer(&self, arguments: &[&str]) -> Result<Value, CliError> {
        let output = self.command(&[arguments, &["--output", "json"]].concat()).output().await?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Starts the server, and waits until it listens. Returns its process and its `host:port`. It asks this
    /// name server, or those of the system.
    pub(crate) async fn serve(
        &self,
        name_server: Option<SocketAddr>,
    ) -> Result<(Child, String), CliError> {
        let mut command = self.command(&["serve", "--port", "0", "--allow-private-endpoints"]);
        command.args(["--log", "hookgate=info", "--log-format", "json"]);
        if let Some(address) = name_server {
            command.env("DNS_SERVERS", address.to_string());
        }
        if self.reads {
            command.env("READ_RATE_LIMIT_PER_MINUTE", READS_PER_MINUTE);
            command.env("READS_PER_ORG", READS_PER_ORG);
        }
        if self.has_many_endpoints {
            command.env("WRITE_RATE_LIMIT_PER_MINUTE", WRITES_PER_MINUTE);
        }
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = process.stderr.take().ok_or("the server has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut last = String::new();
        let authority = loop {
            let line = lines
                .next_line()
                .await?
                .ok_or_else(|| format!("the server ended before it listened: {last}"))?;
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if let (Some("listening"), Some(address)) =
                (event["message"].as_str(), event["address"].as_str())
            {
                break address.to_owned();
            }
            last = line;
        };
        // The rest is read too, or the server would block as soon as the pipe is full.
        let mut rest = tokio::task::JoinSet::new();
        rest.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        rest.detach_all();
        Ok((process, authority))
    }
}
