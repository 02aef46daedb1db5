//! The HTTP API of the real server, with a clock that the test moves and all background work held.
//!
//! Nothing is delivered, and nothing moves from the journal to the store, unless a test does it, so a test
//! finds only what it put there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hookgate::app::{BackgroundWork, HeldParts, Metrics};
use hookgate::auth::{Authenticator, issue_key};
use hookgate::config::MetricsSet;
use hookgate::delivery::DeliveryHealth;
use hookgate::domain::{
    Actor, ApiKeyId, Event, EventId, LeasedDelivery, Org, OrgId, OrgLimit, Role, Scopes, TraceId,
};
use hookgate::ingest::Replayer;
use hookgate::journal::{Journal, JournalReader};
use hookgate::runtime::Clock;
use hookgate::store::Store;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use super::answer::{Answer, answer, json};
pub(crate) use super::app::START;
use super::app::{Leftover, TestApp};
use super::client;
use super::store::{lease_due, persist_events, room};

/// A running server whose background work is held.
pub(crate) struct Server {
    /// Such as `http://127.0.0.1:40123`.
    pub(crate) base_url: String,
    pub(crate) store: Store,
    authenticator: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    /// Heartbeats of the dispatcher, which is held: a test beats for it.
    pub(crate) delivery_health: DeliveryHealth,
    pub(crate) journal: Journal,
    pub(crate) reader: JournalReader,
    replayer: Arc<Replayer>,
    pub(crate) app: TestApp,
    client: Client,
}

/// An organisation and a key of it.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) org_id: OrgId,
    pub(crate) key_id: ApiKeyId,
    pub(crate) key: String,
}

impl Server {
    /// Starts with the default settings and a small journal.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with these flags, such as `--request-timeout=50ms`.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let (app, held) = TestApp::start(flags, BackgroundWork::Hold).await;
        let HeldParts { reader, replayer, .. } = held.unwrap();
        let parts = app.parts.clone();
        Self {
            base_url: format!("http://{}", app.address),
            store: app.store.clone(),
            authenticator: parts.authenticator,
            clock: parts.clock,
            metrics: parts.metrics,
            delivery_health: parts.delivery_health,
            journal: parts.journal,
            reader,
            replayer: Arc::new(replayer),
            app,
            client: client(),
        }
    }

    /// The SQLite file.
    pub(crate) fn database(&self) -> PathBuf {
        self.app.database()
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

    /// Stores an event of this type and fans it out to the tenant's endpoints.
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
            accept_span: None,
        };
        self.store_as_it_is(&event).await;
        event
    }

    /// Stores an event.
    pub(crate) async fn store_as_it_is(&self, event: &Event) {
        let batch = [Arc::new(event.clone())];
        let now = self.clock.now();
        persist_events(&self.store, &batch, None, now).await.unwrap();
    }

    /// Leases every delivery that is due, and keeps the leases when the server stops.
    pub(crate) async fn claim(&self) -> Vec<LeasedDelivery> {
        self.app.expect_leftover(Leftover::Leases, "the test holds what it claims");
        self.lease_due().await
    }

    /// Leases every delivery that is due.
    pub(crate) async fn lease_due(&self) -> Vec<LeasedDelivery> {
        let now = self.clock.now();
        lease_due(&self.store, room(100, now.plus(Duration::from_mins(1))), now).await
    }

    /// Makes the store reject events of the account `poison` from now on.
    pub(crate) async fn trap_events(&self) {
        self.execute(
            "CREATE TRIGGER trap BEFORE INSERT ON events WHEN NEW.account_id = 'poison'
             BEGIN SELECT RAISE(ABORT, 'no poison here'); END",
        )
        .await;
    }

    /// Makes the store accept them again.
    pub(crate) async fn untrap_events(&self) {
        self.execute("DROP TRIGGER trap").await;
    }

    /// Runs SQL behind the server's back.
    pub(crate) async fn execute(&self, sql: &'static str) {
        let file = SqliteConnectOptions::new().filename(self.database());
        file.connect().await.unwrap().execute(sql).await.unwrap();
    }

    /// The one number that a query answers with.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        let file = SqliteConnectOptions::new().filename(self.database());
        let mut connection = file.connect().await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }

    /// Runs replays until nothing is left to do.
    pub(crate) async fn run_replays(&self) {
        loop {
            let replayer = Arc::clone(&self.replayer);
            let step = async move { replayer.run_once().await };
            if !self.app.call(step).await.unwrap() {
                break;
            }
        }
    }

    /// Writes down what the server has counted of the use of keys.
    pub(crate) async fn flush_usage(&self) {
        let authenticator = self.authenticator.clone();
        self.app.call(async move { authenticator.flush_usage().await }).await.unwrap();
    }

    /// Cuts the server off from its database.
    pub(crate) async fn lose_store(&self) {
        let store = self.app.parts.store.clone();
        self.app.call(async move { store.close().await }).await;
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

    /// The records appended to the journal since the last call, as text. They are not compressed, so payloads
    /// can be found in them.
    pub(crate) async fn journaled(&mut self) -> String {
        let records = self.reader.next_batch(1_000, 1 << 20).await.unwrap().unwrap().records;
        records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
    }

    /// The value of a metric's line, such as `validation_errors_total{type="length"}`; 0 without one.
    pub(crate) fn metric(&self, line: &str) -> u64 {
        let text =
            String::from_utf8(self.metrics.registry.render(MetricsSet::All).unwrap()).unwrap();
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
