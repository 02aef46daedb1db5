//! The HTTP API in this process: real sockets, a real SQLite file, a real journal, a clock that the
//! test moves. Nothing is delivered, and nothing moves from the journal to the store, unless a test
//! does it, so what a test finds is what it put there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hookgate::app::Metrics;
use hookgate::auth::{Authenticator, issue_key};
use hookgate::config::Config;
use hookgate::delivery::{DeliveryHandle, DeliveryHealth};
use hookgate::domain::{
    Actor, ApiKeyId, Event, EventId, InstanceId, Lease, LeaseToken, LeasedDelivery, Org, OrgId,
    OrgLimit, Role, Scopes, Timestamp, TraceId,
};
use hookgate::http::{Api, AppState, Parts};
use hookgate::ingest::{Intake, Replayer};
use hookgate::journal::local::{self, FileSystem, JournalOptions, Opened, SystemFiles};
use hookgate::journal::{Journal, JournalReader};
use hookgate::limit::RateLimiter;
use hookgate::runtime::{Clock, Heartbeat, Lifecycle, Wake};
use hookgate::store::{ClaimCursor, ClaimRequest, Store};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client;

/// The moment every test starts at: 2026-01-31T12:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_769_860_800_000_000);
const MIB: u64 = 1024 * 1024;
const ERRORS: &str = include_str!("../../../docs/errors.md");

/// A running API and the parts behind it.
pub(crate) struct Server {
    /// Such as `http://127.0.0.1:40123`.
    pub(crate) base_url: String,
    pub(crate) store: Store,
    pub(crate) authenticator: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    /// Of a delivery part that is not there: a test beats for it.
    pub(crate) vitals: DeliveryHealth,
    pub(crate) journal: Journal,
    pub(crate) reader: JournalReader,
    pub(crate) lifecycle: Lifecycle,
    client: Client,
    dir: TempDir,
}

/// An organisation and a key of it.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) org_id: OrgId,
    pub(crate) key_id: ApiKeyId,
    pub(crate) key: String,
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

impl Server {
    /// Starts with the default settings and a small journal.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with these flags, such as `--request-timeout=50ms`.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), flags);
        let metrics = Metrics::new().unwrap();
        let clock = Clock::manual(START);
        let path = config.store.sqlite_path();
        let store =
            Store::open_sqlite(&path, &config.store, Arc::clone(&metrics.store)).await.unwrap();
        store.migrate_up().await.unwrap();
        let (journal, reader) = open_journal(&config, &metrics);
        let lifecycle = Lifecycle::new();
        let authenticator = Authenticator::new(
            &config.auth,
            store.clone(),
            clock.clone(),
            Arc::clone(&metrics.auth),
        );
        let vitals = DeliveryHealth::new(&clock);
        let parts = Parts {
            store: store.clone(),
            authenticator: authenticator.clone(),
            limiter: RateLimiter::new(&config.limit),
            intake: Intake::new(journal.clone(), clock.clone()),
            delivery: DeliveryHandle::new(),
            wake: Wake::new(),
            replays: Wake::new(),
            vitals: vitals.clone(),
            ingest: Heartbeat::new(clock.clone()),
            metrics: metrics.for_api(),
            clock: clock.clone(),
            background: tokio::runtime::Handle::current(),
            shutdown: lifecycle.shutdown(),
        };
        let api = Api::new(AppState::new(&config, parts));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let serving = hookgate::http::serve(listener, None, api, lifecycle.shutdown());
        lifecycle.spawn("http", async move { serving.await.unwrap() });
        let client = client();
        Self {
            base_url,
            store,
            authenticator,
            clock,
            metrics,
            vitals,
            journal,
            reader,
            lifecycle,
            client,
            dir,
        }
    }

    /// The SQLite file.
    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("hookgate.db")
    }

    /// Adds an organisation that follows the default limit, with a key.
    pub(crate) async fn tenant(&self, name: &str) -> Tenant {
        self.tenant_limited(name, None).await
    }

    /// Adds an organisation with a key.
    pub(crate) async fn tenant_limited(&self, name: &str, per_minute: Option<u32>) -> Tenant {
        let now = self.clock.now();
        let mut org = Org::new(OrgId::mint(now), name, now);
        org.limits = org.limits.with(OrgLimit::RatePerMinute, per_minute);
        self.store.system().insert_org(&org, &Actor::CLI).await.unwrap();
        let (key_id, key) = self.key(Role::Tenant(org.id)).await;
        Tenant { org_id: org.id, key_id, key }
    }

    /// Adds an operator's key and returns its text.
    pub(crate) async fn operator(&self) -> String {
        self.key(Role::Operator).await.1
    }

    /// Adds a key; its id and its text.
    pub(crate) async fn key(&self, role: Role) -> (ApiKeyId, String) {
        self.key_for(role, role.scopes()).await
    }

    /// Adds a key with these scopes; its id and its text.
    pub(crate) async fn key_for(&self, role: Role, scopes: Scopes) -> (ApiKeyId, String) {
        let mut issued = issue_key(role, "test key".to_owned(), self.clock.now()).await.unwrap();
        issued.record.scopes = scopes;
        self.store.system().insert_key(&issued.record, &Actor::CLI).await.unwrap().unwrap();
        (issued.record.id, issued.key.reveal().to_owned())
    }

    /// Stores an event of this type, with what the tenant's endpoints make of it.
    pub(crate) async fn store_event(
        &self,
        org_id: OrgId,
        event_type: &str,
        payload: &str,
    ) -> Event {
        let now = self.clock.now();
        let event = Event {
            id: EventId::mint(now),
            org_id,
            event_type: event_type.parse().unwrap(),
            payload: payload.to_owned().into(),
            dedup_id: None,
            account_id: None,
            user_id: None,
            occurred_at: None,
            received_at: now,
            trace_id: TraceId::mint(),
        };
        self.store_as_it_is(&event).await;
        event
    }

    /// Stores an event.
    pub(crate) async fn store_as_it_is(&self, event: &Event) {
        let batch = [Arc::new(event.clone())];
        let now = self.clock.now();
        self.store.system().persist_events(&batch, None, now).await.unwrap();
    }

    /// Leases every delivery that is due.
    pub(crate) async fn claim(&self) -> Vec<LeasedDelivery> {
        let now = self.clock.now();
        let lease = Lease {
            token: LeaseToken::mint(InstanceId::new(1)),
            until: now.plus(Duration::from_mins(1)),
        };
        let (caps, from) = (HashMap::new(), ClaimCursor::default());
        let request = ClaimRequest { lease, deliveries_max: 100, caps: &caps, from, now };
        self.store.system().claim_deliveries(request).await.unwrap().leased
    }

    /// Has the store refuse events of the account `poison` from now on.
    pub(crate) async fn trap_events(&self) {
        self.execute(
            "CREATE TRIGGER trap BEFORE INSERT ON events WHEN NEW.account_id = 'poison'
             BEGIN SELECT RAISE(ABORT, 'no poison here'); END",
        )
        .await;
    }

    /// Has the store take them again.
    pub(crate) async fn untrap_events(&self) {
        self.execute("DROP TRIGGER trap").await;
    }

    async fn execute(&self, sql: &'static str) {
        let file = SqliteConnectOptions::new().filename(self.dir.path().join("hookgate.db"));
        file.connect().await.unwrap().execute(sql).await.unwrap();
    }

    /// Goes on with replays until nothing is left to do.
    pub(crate) async fn run_replays(&self) {
        while self.replayer().run_once().await.unwrap() {}
    }

    /// What goes on with replays.
    pub(crate) fn replayer(&self) -> Replayer {
        Replayer {
            store: self.store.clone(),
            clock: self.clock.clone(),
            wake: Wake::new(),
            planned: Wake::new(),
        }
    }

    /// A request with a key.
    pub(crate) fn request(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        self.bare(method, path).header("x-api-key", key)
    }

    /// A request without a key.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base_url))
    }

    /// `GET` with a key.
    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        answer(self.request(Method::GET, path, key)).await
    }

    /// `DELETE` with a key.
    pub(crate) async fn delete(&self, path: &str, key: &str) -> Answer {
        answer(self.request(Method::DELETE, path, key)).await
    }

    /// `POST` of a JSON body with a key.
    pub(crate) async fn post(
        &self,
        path: &str,
        key: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        answer(json(self.request(Method::POST, path, key), body)).await
    }

    /// `PATCH` with a JSON body and a key.
    pub(crate) async fn patch(
        &self,
        path: &str,
        key: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        answer(json(self.request(Method::PATCH, path, key), body)).await
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> TcpStream {
        let address = self.base_url.strip_prefix("http://").unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    /// Sends these bytes and returns all that comes back until the server ends the connection.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// What has come to the journal since the last call, as text: records are not compressed, so
    /// payloads are found in them.
    pub(crate) async fn journaled(&mut self) -> String {
        let records = self.reader.next_batch(1_000, 1 << 20).await.unwrap().unwrap().records;
        records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
    }

    /// The value of a metric's line, such as `validation_errors_total{type="length"}`; 0 without one.
    pub(crate) fn metric(&self, line: &str) -> u64 {
        let text = String::from_utf8(self.metrics.registry.render().unwrap()).unwrap();
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Every row of a list, in pages of two.
    pub(crate) async fn list(&self, path: &str, key: &str) -> Vec<Value> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut next = format!("{path}{mark}limit=2");
        let mut rows = Vec::new();
        loop {
            let page = self.get(&next, key).await.expect(200);
            rows.extend(page["data"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => next = format!("{path}{mark}limit=2&cursor={cursor}"),
                None => return rows,
            }
        }
    }
}

impl Answer {
    /// The body as JSON, once the status is this one.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.text).unwrap()
    }

    /// A problem with this status and code, in the form that every problem has and explained in
    /// `docs/errors.md`. Returns its body.
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["type"], format!("/problems/{code}"));
        assert_eq!(problem["trace_id"], self.header("x-trace-id"));
        let explained = ERRORS.lines().any(|line| {
            line.starts_with(&format!("| {status} |")) && line.contains(&format!("`{code}`"))
        });
        assert!(explained, "docs/errors.md does not explain {status} {code}");
        for field in ["title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }

    /// `validation_failed` with exactly these fields and codes. Returns the body.
    pub(crate) fn expect_faults(&self, faults: &[(&str, &str)]) -> Value {
        let problem = self.expect_problem(422, "validation_failed");
        let errors = problem["errors"].as_array().unwrap();
        let text = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
        let found: Vec<_> =
            errors.iter().map(|error| (text(error, "field"), text(error, "code"))).collect();
        let expected: Vec<_> =
            faults.iter().map(|(field, code)| ((*field).to_owned(), (*code).to_owned())).collect();
        assert_eq!(found, expected);
        problem
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.unwrap_or_else(|| panic!("no {name}: {:?}", self.headers)).to_str().unwrap()
    }
}

/// Declares the body as JSON.
pub(crate) fn json(request: RequestBuilder, body: impl Into<reqwest::Body>) -> RequestBuilder {
    request.header("content-type", "application/json").body(body)
}

/// Sends a request and reads the answer to its end.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

fn config(dir: &Path, flags: &[&str]) -> Config {
    let data_dir = format!("--data-dir={}", dir.display());
    let small = ["hookgate", "--journal-segment-mib=8", "--journal-max-mib=32", &data_dir];
    Flags::parse_from(small.into_iter().chain(flags.iter().copied())).config
}

fn open_journal(config: &Config, metrics: &Metrics) -> (Journal, JournalReader) {
    let options = JournalOptions {
        dir: config.store.journal_dir(),
        segment_bytes: config.journal.journal_segment_mib * MIB,
        bytes_max: config.journal.journal_max_mib * MIB,
        queue_capacity: config.journal.queue_capacity as usize,
        queue_bytes_max: local::QUEUE_BYTES_MAX,
    };
    let fs: Arc<dyn FileSystem> = Arc::new(SystemFiles);
    let Opened { journal, reader, .. } = local::open(&options, &fs, &metrics.journal).unwrap();
    (journal, reader)
}
