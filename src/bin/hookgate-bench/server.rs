//! The server under load: the one of `--url`, or one that is started for the measurement.

use std::process::Stdio;
use std::time::Duration;

use hookgate::cli::CliError;
use hyper::body::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::args::RunArgs;
use crate::client::ApiClient;
use crate::connection::Connection;
use crate::cpu::{CpuMeter, CpuReading};
use crate::disk::DiskMeter;
use crate::name_server::NameServer;
use crate::neighbour::Neighbour;
use crate::program::Program;

/// Pause between two polls of a queue.
const SETTLE_POLL: Duration = Duration::from_millis(50);
/// How long to wait for a queue that does not drain before the measurement continues regardless.
const SETTLE_MAX: Duration = Duration::from_mins(1);

/// Limit of the measured tenant: more than any load.
pub(crate) const EVENTS_PER_MINUTE: u32 = 100_000_000;
/// A server under load. [`Self::stop`] stops the process that was started for it.
pub(crate) struct Server {
    authority: String,
    api_key: String,
    /// A key that creates the neighbours; `None` on the server of `--url`.
    operator_key: Option<String>,
    started: Option<Started>,
}

/// A process that was started for the measurement.
struct Started {
    process: Child,
    cpu: CpuMeter,
    /// The size of its database; the bare handler has none.
    disk: Option<DiskMeter>,
    /// Its directory, removed after the process has ended; the bare handler has none.
    program: Option<Program>,
    /// The name server that it asks; `None` for those of the system.
    _name_server: Option<NameServer>,
}

impl Server {
    /// Takes the server of `--url`, or starts one.
    pub(crate) async fn start(args: &RunArgs) -> Result<Self, CliError> {
        let (Some(url), Some(api_key)) = (&args.url, &args.api_key) else {
            return Self::start_program(args).await;
        };
        let authority = url.strip_prefix("http://").ok_or("--url must start with http://")?;
        let authority = authority.trim_end_matches('/').to_owned();
        Ok(Self { authority, api_key: api_key.clone(), operator_key: None, started: None })
    }

    async fn start_program(args: &RunArgs) -> Result<Self, CliError> {
        let program = Program::new(args)?;
        let api_key = program.create_key(EVENTS_PER_MINUTE, EVENTS_PER_MINUTE).await?;
        let operator_key = Some(program.create_operator_key().await?);
        let name_server = match args.beside {
            Some(Neighbour::Dns) => Some(NameServer::start().await?),
            _ => None,
        };
        let dns_servers = name_server.as_ref().map(NameServer::address);
        let (process, authority) = program.serve(dns_servers).await?;
        let pid = process.id().ok_or("the server has ended")?;
        let cpu = CpuMeter::new(pid, args.database_url.as_deref())?;
        let disk = Some(DiskMeter::new(args.database_url.as_deref(), program.data_dir())?);
        let program = Some(program);
        let started = Some(Started { process, cpu, disk, program, _name_server: name_server });
        Ok(Self { authority, api_key, operator_key, started })
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
        let cpu = CpuMeter::new(pid, None)?;
        let started = Started { process, cpu, disk: None, program: None, _name_server: None };
        let started = Some(started);
        Ok(Self { authority, api_key: "bare".to_owned(), operator_key: None, started })
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The key of the measured tenant.
    pub(crate) fn api_key(&self) -> &str {
        &self.api_key
    }

    /// A client that may manage organisations; `None` for the server of `--url`.
    pub(crate) fn operator(&self) -> Option<ApiClient> {
        Some(ApiClient::new(&self.authority, self.operator_key.as_deref()?))
    }

    /// The same server with the key of another tenant; `self` still stops it.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        let (authority, api_key) = (self.authority.clone(), key.to_owned());
        Self { authority, api_key, operator_key: None, started: None }
    }

    /// The process that was started; `None` for the server of `--url`.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.started.as_ref()?.process.id()
    }

    /// The size of the database; `None` for the server of `--url`, and for the bare handler.
    pub(crate) fn disk(&self) -> Option<&DiskMeter> {
        self.started.as_ref()?.disk.as_ref()
    }

    /// Whether this is not the bare handler.
    pub(crate) fn stores_events(&self) -> bool {
        self.started.as_ref().is_none_or(|started| started.program.is_some())
    }

    /// CPU time that the server and its database have used; `None` for the server of `--url`, and where the
    /// system has no `/proc`.
    pub(crate) async fn cpu(&self) -> Option<CpuReading> {
        self.started.as_ref()?.cpu.read().await
    }

    /// Waits until the server has stored every accepted event, so that the next run of a peer does
    /// not share the machine with it. Gives up after a minute.
    pub(crate) async fn settle(&self) {
        let _ = self.settle_within(SETTLE_MAX).await;
    }

    /// Waits until the server has stored every accepted event. Returns whether it has within `patience`.
    pub(crate) async fn settle_within(&self, patience: Duration) -> bool {
        let stored = async {
            while !self.events_waiting().await.is_ok_and(|waiting| waiting == 0) {
                tokio::time::sleep(SETTLE_POLL).await;
            }
        };
        tokio::time::timeout(patience, stored).await.is_ok()
    }

    /// Events that are accepted and not stored.
    pub(crate) async fn events_waiting(&self) -> Result<u64, CliError> {
        let health: serde_json::Value = serde_json::from_slice(&self.get("/api/health").await?)?;
        let waiting = health["queue"]["events"].as_u64();
        Ok(waiting.ok_or("/api/health has no number of waiting events")?)
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
