//! A server that restarts, and the shared address by which clients find it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hookgate::runtime::{Clock, Stopwatch};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use super::database::Database;
use super::wire::Sender;
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::receiver::Receiver;

/// A wait that takes longer has failed.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);

/// How often a server is asked whether it is there yet: it has no way to tell by itself.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What every server here starts with.
const SETTINGS: &[(&str, &str)] = &[
    // Never in the way.
    ("RATE_LIMIT_PER_MINUTE", "100000000"),
    // Short, so that a store that is locked soon counts as away.
    ("DATABASE_TIMEOUT", "500ms"),
    // Shorter than any outage here: keys go on working all the same.
    ("AUTH_CACHE_TTL", "500ms"),
    ("RUST_LOG", "warn,hookgate=info"),
];

/// A data directory and the server that runs on it, if one does.
pub(super) struct Station {
    pub(super) database: Database,
    pub(super) key: String,
    data_dir: TempDir,
    files: PathBuf,
    settings: Vec<(String, String)>,
    server: Option<Binary>,
    address: watch::Sender<String>,
}

/// What `GET /api/health` says.
#[derive(Deserialize, Debug)]
pub(super) struct Health {
    pub(super) queue: Queue,
    pub(super) memory_bytes: u64,
}

#[derive(Deserialize, Debug)]
pub(super) struct Queue {
    pub(super) events: u64,
}

impl Station {
    /// A server on SQLite.
    pub(super) async fn on_sqlite(settings: &[(&str, &str)]) -> Self {
        Self::start(None, settings, "exec \"$0\" serve").await
    }

    /// A server on a PostgreSQL database.
    pub(super) async fn on_postgres(url: &str, settings: &[(&str, &str)]) -> Self {
        Self::start(Some(url), settings, "exec \"$0\" serve").await
    }

    /// A server started by a script; see [`Binary::start_by`].
    pub(super) async fn start(url: Option<&str>, settings: &[(&str, &str)], script: &str) -> Self {
        Self::start_in(crate::support::temporary::directory(), url, settings, script).await
    }

    /// The same, with its data in this directory.
    pub(super) async fn start_in(
        data_dir: TempDir,
        url: Option<&str>,
        settings: &[(&str, &str)],
        script: &str,
    ) -> Self {
        let url = url.map(|url| ("DATABASE_URL", url));
        let settings = SETTINGS.iter().copied().chain(url).chain(settings.iter().copied());
        let settings: Vec<_> = settings.collect();
        let database = match url {
            None => Database::sqlite(data_dir.path()),
            Some((_, url)) => Database::Postgres(url.to_owned()),
        };
        let mut server = Binary::start_by(script, data_dir.path(), &settings).await;
        let (key, _) = server.first_keys().await;
        let address = watch::Sender::new(address_of(&server));
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let settings = settings.collect();
        let files = data_dir.path().to_owned();
        Self { database, key, data_dir, files, settings, server: Some(server), address }
    }

    /// Has this test see the server's files as the server does, which mounts of its own hide.
    pub(super) fn look_inside(&mut self) {
        let root = format!("/proc/{}/root", self.server().pid().as_raw_nonzero());
        self.files = Path::new(&root).join(self.data_dir.path().strip_prefix("/").unwrap());
    }

    /// Stores events of another organisation that were accepted some days ago.
    pub(super) async fn seed_expired(&self) {
        let arguments = ["seed", "--events", "5000", "--days", "3", "--until"];
        let until = Clock::system().now().minus(Duration::from_hours(48)).to_string();
        self.run(&[&arguments[..], &[&until]].concat()).await;
    }

    /// Runs another command of the program, which must succeed.
    pub(super) async fn run(&self, arguments: &[&str]) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hookgate"));
        command.args(arguments).current_dir("/").env_clear();
        command.env("DATA_DIR", self.data_dir.path()).envs(self.settings());
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The data directory as seen from here.
    pub(super) fn files(&self) -> &Path {
        &self.files
    }

    /// A client with a connection of its own.
    pub(super) fn sender(&self) -> Sender {
        Sender::new(&self.key, self.address.subscribe())
    }

    /// The server that runs.
    pub(super) fn server(&self) -> &Binary {
        self.server.as_ref().unwrap()
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self) {
        self.server.take().unwrap().kill().await;
    }

    /// SIGTERM; the log, once it has ended well.
    pub(super) async fn stop(&mut self) -> Vec<String> {
        self.server.take().unwrap().stop().await
    }

    /// SIGTERM; its process, which may take its time to end.
    pub(super) fn ask_to_stop(&mut self) -> Binary {
        let server = self.server.take().unwrap();
        server.ask_to_stop();
        server
    }

    /// Starts a server on what the last one left, and tells the clients.
    pub(super) async fn start_again(&mut self) {
        let server = Binary::start(self.data_dir.path(), &self.settings()).await;
        self.address.send_replace(address_of(&server));
        self.server = Some(server);
    }

    /// Starts a server on what the last one left, and kills it while it starts.
    pub(super) async fn start_and_kill(&self, after: Duration) {
        Binary::start_and_kill(self.data_dir.path(), &self.settings(), after).await;
    }

    pub(super) async fn health(&self) -> Health {
        self.get("/api/health").await.1
    }

    /// An answer's status and body.
    pub(super) async fn get<T: for<'a> Deserialize<'a>>(&self, path: &str) -> (u16, T) {
        let url = format!("{}{path}", self.server().base_url);
        let answer = client().get(url).header("x-api-key", &self.key).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    /// Posts a body, which must be taken, and returns the answer.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.server().base_url);
        let request = client().post(url).header("x-api-key", &self.key);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Adds an endpoint at a receiver, which trusts its secret, and returns its id.
    pub(super) async fn add_endpoint(&self, receiver: &Receiver) -> String {
        self.add_endpoint_with(receiver, json!({})).await
    }

    /// The same, with these other settings.
    pub(super) async fn add_endpoint_with(
        &self,
        receiver: &Receiver,
        mut settings: Value,
    ) -> String {
        settings["url"] = receiver.url("/").into();
        let endpoint = self.post("/api/endpoints", &settings).await;
        receiver.trust(&endpoint["secret"].as_str().unwrap().parse().unwrap());
        endpoint["id"].as_str().unwrap().to_owned()
    }

    /// Asks the database again and again until a count is this, as long as it comes nearer.
    pub(super) async fn counted(&self, sql: &'static str, count: i64) {
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        let mut progress = Progress::toward(sql);
        loop {
            poll.tick().await;
            let left = self.database.count(sql).await.abs_diff(count);
            if left == 0 {
                return;
            }
            progress.note(left);
        }
    }

    /// Waits until nothing waits in the journal, as long as it becomes less, and returns the most memory that was
    /// seen in use.
    pub(super) async fn drained(&self) -> u64 {
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        let mut progress = Progress::toward("the journal is drained");
        let mut memory_bytes_max = 0;
        loop {
            poll.tick().await;
            let health = self.health().await;
            memory_bytes_max = memory_bytes_max.max(health.memory_bytes);
            if health.queue.events == 0 {
                return memory_bytes_max;
            }
            progress.note(health.queue.events);
        }
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// A wait that goes on for as long as something becomes less: how long that takes, the machine tells.
struct Progress {
    what: &'static str,
    fewest: u64,
    since: Stopwatch,
}

impl Progress {
    fn toward(what: &'static str) -> Self {
        Self { what, fewest: u64::MAX, since: Stopwatch::start() }
    }

    fn note(&mut self, left: u64) {
        if left < self.fewest {
            (self.fewest, self.since) = (left, Stopwatch::start());
        }
        assert!(self.since.elapsed() < PATIENCE, "{}: {} left", self.what, self.fewest);
    }
}

fn address_of(server: &Binary) -> String {
    server.base_url.strip_prefix("http://").unwrap().to_owned()
}
