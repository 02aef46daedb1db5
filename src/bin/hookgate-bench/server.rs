//! The server under load: the one of `--url`, or one that is started for the measurement.

use std::process::Stdio;
use std::time::Duration;

use hookgate::cli::CliError;
use hyper::body::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::args::RunArgs;
use crate::connection::Connection;
use crate::program::Program;

/// Pause between two polls of a queue.
const SETTLE_POLL: Duration = Duration::from_millis(50);
/// Polls of a queue that does not drain before the measurement continues regardless: 60 s.
const SETTLE_POLLS_MAX: u32 = 1200;

/// Limit of the measured tenant: more than any load.
const EVENTS_PER_MINUTE: u32 = 100_000_000;
/// Limit of the noisy neighbour.
pub(crate) const NEIGHBOUR_EVENTS_PER_MINUTE: u32 = 60_000;
/// Burst of the noisy neighbour: one batch, so that it is at its limit from the start.
pub(crate) const NEIGHBOUR_BURST: u32 = 1_000;

/// A server under load. [`Self::stop`] stops the process that was started for it.
pub(crate) struct Server {
    authority: String,
    api_key: String,
    /// The key of another tenant; `None` on the server of `--url`.
    neighbour_key: Option<String>,
    started: Option<Started>,
}

/// A process that was started for the measurement.
struct Started {
    process: Child,
    pid: u32,
    /// Its directory, removed after the process has ended; the bare handler has none.
    program: Option<Program>,
}

impl Server {
    /// Takes the server of `--url`, or starts one.
    pub(crate) async fn start(args: &RunArgs) -> Result<Self, CliError> {
        let (Some(url), Some(api_key)) = (&args.url, &args.api_key) else {
            return Self::start_program(args).await;
        };
        let authority = url.strip_prefix("http://").ok_or("--url must start with http://")?;
        let authority = authority.trim_end_matches('/').to_owned();
        Ok(Self { authority, api_key: api_key.clone(), neighbour_key: None, started: None })
    }

    async fn start_program(args: &RunArgs) -> Result<Self, CliError> {
        let program = Program::new(args)?;
        let api_key = program.create_key(EVENTS_PER_MINUTE, EVENTS_PER_MINUTE).await?;
        let neighbour_key =
            program.create_key(NEIGHBOUR_EVENTS_PER_MINUTE, NEIGHBOUR_BURST).await?;
        let (process, authority) = program.serve().await?;
        let pid = process.id().ok_or("the server has ended")?;
        let started = Some(Started { process, pid, program: Some(program) });
        Ok(Self { authority, api_key, neighbour_key: Some(neighbour_key), started })
    }

    /// Starts the handler that only answers, in a process of its own.
    pub(crate) async fn start_bare() -> Result<Self, CliError> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("bare")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("the bare handler has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let authority = lines.next_line().await?.ok_or("the bare handler did not start")?;
        let pid = process.id().ok_or("the bare handler has ended")?;
        let started = Some(Started { process, pid, program: None });
        Ok(Self { authority, api_key: "bare".to_owned(), neighbour_key: None, started })
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The key of the measured tenant.
    pub(crate) fn api_key(&self) -> &str {
        &self.api_key
    }

    /// The key of the noisy neighbour; `None` on the server of `--url`.
    pub(crate) fn neighbour_key(&self) -> Option<&str> {
        self.neighbour_key.as_deref()
    }

    /// The same server with the key of another tenant; `self` still stops it.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        let (authority, api_key) = (self.authority.clone(), key.to_owned());
        Self { authority, api_key, neighbour_key: None, started: None }
    }

    /// CPU time that the server's process has used; `None` for the server of `--url`, and where the
    /// system has no `/proc`.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let pid = self.started.as_ref()?.pid;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15 of proc(5).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
        let ticks: u32 =
            fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
        #[expect(clippy::cast_precision_loss, reason = "100 on every Linux")]
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        Some(f64::from(ticks) / ticks_per_second)
    }

    /// Waits until the server has stored every accepted event, so that the next run of a peer does
    /// not share the machine with it. Gives up after a minute.
    pub(crate) async fn settle(&self) {
        for _ in 0..SETTLE_POLLS_MAX {
            match self.health().await {
                Ok(health) if health["queue"]["events"].as_u64() == Some(0) => return,
                Ok(_) | Err(_) => tokio::time::sleep(SETTLE_POLL).await,
            }
        }
    }

    async fn health(&self) -> Result<serde_json::Value, CliError> {
        Ok(serde_json::from_slice(&self.get("/api/health").await?)?)
    }

    /// The value of a metric without labels; 0 when `/metrics` does not have it.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64, CliError> {
        let text = self.get("/metrics").await?;
        let text = String::from_utf8_lossy(&text);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0), str::parse)?)
    }

    /// The body of a page that needs no key.
    async fn get(&self, path: &str) -> Result<Bytes, CliError> {
        let mut connection = Connection::open(&self.authority).await?;
        let request = hyper::Request::get(path)
            .header("host", &self.authority)
            .body(http_body_util::Full::default())?;
        let (_, body) = connection.send(request).await?;
        Ok(body)
    }

    /// Stops the process that was started, waits for its end and removes its directory.
    pub(crate) async fn stop(mut self) {
        if let Some(mut started) = self.started.take() {
            let _ = started.process.kill().await;
            drop(started.program.take());
        }
    }
}
