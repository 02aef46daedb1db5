//! The server that is measured: somebody's, or one of the bench's own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::super::CliError;
use super::RunArgs;
use crate::app::Admin;
use crate::config::StoreConfig;
use crate::domain::{OrgLimit, Role};

/// Between two looks at a queue that empties.
const SETTLE_POLL: Duration = Duration::from_millis(50);
/// Looks at a queue that does not empty, before the measurement goes on regardless: 60 s.
const SETTLE_POLLS_MAX: u32 = 1200;

/// What the tenant that is measured may send: more than anybody can.
const EVENTS_PER_MINUTE: u32 = 100_000_000;
/// What the troublesome neighbour may send.
pub(super) const NEIGHBOUR_EVENTS_PER_MINUTE: u32 = 60_000;
/// And at once: one batch, so that it is at its limit from the start.
pub(super) const NEIGHBOUR_EVENTS_AT_ONCE: u32 = 1_000;

/// Tries to remove the directory, and the pause between two of them.
const REMOVALS_MAX: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// A server under load. Its own process is stopped and its directory removed by [`Self::stop`].
pub(super) struct Server {
    authority: String,
    api_key: String,
    /// The key of another tenant; none on a server that is somebody's.
    neighbour_key: Option<String>,
    own: Option<Own>,
}

struct Own {
    process: Child,
    pid: u32,
    dir: Option<WorkDir>,
}

/// A directory that goes when this goes.
struct WorkDir(PathBuf);

impl Drop for WorkDir {
    fn drop(&mut self) {
        // A server that was killed a moment ago may still be writing. What cannot be removed in the
        // end is left to whoever chose the place.
        for _ in 0..REMOVALS_MAX {
            if std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(REMOVAL_PAUSE);
        }
    }
}

impl Server {
    /// Takes the server that `--url` names, or starts one.
    pub(super) async fn start(args: &RunArgs) -> Result<Self, CliError> {
        match (&args.url, &args.api_key) {
            (Some(url), Some(api_key)) => {
                let authority = url
                    .strip_prefix("http://")
                    .ok_or("--url must start with http://")?
                    .trim_end_matches('/')
                    .to_owned();
                Ok(Self { authority, api_key: api_key.clone(), neighbour_key: None, own: None })
            }
            (None, _) | (_, None) => Self::start_own(args).await,
        }
    }

    async fn start_own(args: &RunArgs) -> Result<Self, CliError> {
        let parent = args.work_dir.clone().unwrap_or_else(std::env::temp_dir);
        // Absolute, since the server is started inside it.
        let parent = std::path::absolute(parent)?;
        let dir = WorkDir(parent.join(format!("hookgate-bench-{}", Uuid::new_v4().simple())));
        std::fs::create_dir_all(&dir.0)?;
        let (api_key, neighbour_key) = prepare(&dir.0, args.database_url.clone()).await?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").env_clear().current_dir(&dir.0);
        command.args(["--port", "0", "--rate-limit-per-minute", "100000000"]);
        command.args(["--log", "hookgate=info", "--log-format", "json"]);
        command.arg("--allow-private-endpoints").arg("--data-dir").arg(&dir.0);
        if let Some(url) = &args.database_url {
            command.env("DATABASE_URL", url);
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = process.stderr.take().ok_or("the server has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut last = String::new();
        let authority = loop {
            let line = lines
                .next_line()
                .await?
                .ok_or_else(|| format!("the server ended before it listened: {last}"))?;
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let ("listening", Some(address)) =
                (event["message"].as_str().unwrap_or_default(), event["address"].as_str())
            {
                break address.to_owned();
            }
            last = line;
        };
        // The rest is read too, or the server would block once the pipe is full.
        let mut rest = tokio::task::JoinSet::new();
        rest.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        rest.detach_all();
        let pid = process.id().ok_or("the server has ended")?;
        let own = Some(Own { process, pid, dir: Some(dir) });
        Ok(Self { authority, api_key, neighbour_key: Some(neighbour_key), own })
    }

    /// Starts the handler that only answers, in a process of its own.
    pub(super) async fn start_bare() -> Result<Self, CliError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["bench", "bare"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("the bare handler has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let authority = lines.next_line().await?.ok_or("the bare handler did not start")?;
        let pid = process.id().ok_or("the bare handler has ended")?;
        let own = Some(Own { process, pid, dir: None });
        Ok(Self { authority, api_key: "bare".to_owned(), neighbour_key: None, own })
    }

    /// `host:port`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn api_key(&self) -> &str {
        &self.api_key
    }

    pub(super) fn neighbour_key(&self) -> Option<&str> {
        self.neighbour_key.as_deref()
    }

    /// The same server as the tenant of this key sees it. It is stopped by the one it was made of.
    pub(super) fn as_neighbour(&self, key: &str) -> Self {
        let (authority, api_key) = (self.authority.clone(), key.to_owned());
        Self { authority, api_key, neighbour_key: None, own: None }
    }

    /// CPU time the server's process has used; `None` for one that is not the bench's own, and
    /// where the system has no `/proc`.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        let pid = self.own.as_ref()?.pid;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15 of proc(5).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
        let ticks: u32 =
            fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
        #[expect(clippy::cast_precision_loss, reason = "100 on every Linux")]
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        Some(f64::from(ticks) / ticks_per_second)
    }

    /// Waits until the server has stored what it has accepted, so that the next run of a peer does
    /// not share the machine with it.
    ///
    /// # Errors
    /// None: a queue that does not empty is left alone after a minute.
    pub(super) async fn settle(&self) -> Result<(), CliError> {
        for _ in 0..SETTLE_POLLS_MAX {
            match self.health().await {
                Ok(health) if health["queue"]["events"].as_u64() == Some(0) => return Ok(()),
                Ok(_) | Err(_) => tokio::time::sleep(SETTLE_POLL).await,
            }
        }
        Ok(())
    }

    async fn health(&self) -> Result<serde_json::Value, CliError> {
        let mut connection = super::connection::Connection::open(&self.authority).await?;
        let request = hyper::Request::get("/api/health")
            .header("host", &self.authority)
            .body(http_body_util::Full::default())?;
        let (_, body) = connection.send(request).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// The value of a metric without labels, as `/metrics` tells it; 0 when it is not there.
    pub(super) async fn metric(&self, name: &str) -> Result<u64, CliError> {
        let mut connection = super::connection::Connection::open(&self.authority).await?;
        let request = hyper::Request::get("/metrics")
            .header("host", &self.authority)
            .body(http_body_util::Full::default())?;
        let (_, text) = connection.send(request).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0), str::parse)?)
    }

    /// Stops a server of the bench's own and waits until it is gone.
    pub(super) async fn stop(mut self) {
        if let Some(mut own) = self.own.take() {
            let _ = own.process.kill().await;
            drop(own.dir.take());
        }
    }
}

/// Makes an organisation without a limit that matters, and its neighbour with one; a key of each.
async fn prepare(dir: &Path, database_url: Option<String>) -> Result<(String, String), CliError> {
    let config = StoreConfig {
        data_dir: dir.to_owned(),
        database_url,
        database_connections: 2,
        database_timeout: Duration::from_secs(5),
        dedup_window: Duration::from_hours(24),
        secrets_key: None,
    };
    let admin = Admin::open(&config).await?;
    let mut keys = Vec::new();
    for (rate, burst) in [
        (EVENTS_PER_MINUTE, EVENTS_PER_MINUTE),
        (NEIGHBOUR_EVENTS_PER_MINUTE, NEIGHBOUR_EVENTS_AT_ONCE),
    ] {
        let limits = vec![(OrgLimit::RatePerMinute, Some(rate)), (OrgLimit::Burst, Some(burst))];
        let org = admin.create_org("bench".to_owned(), limits).await?;
        let role = Role::Tenant(org.id);
        let issued = admin.create_key(role, "bench".to_owned(), None, None).await?;
        keys.push(issued.key.reveal().to_owned());
    }
    admin.close().await;
    keys.pop().zip(keys.pop()).map(|(second, first)| (first, second)).ok_or("no keys".into())
}
