//! What one organisation takes leaves room for the others: keys and the journal, by the real binary on both engines.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::answer::{Answer, answer, json as with_json};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::postgres::{self, PrivatePostgres};
use crate::support::wait::{PATIENCE, until};

const PAUSE: Duration = Duration::from_millis(20);
const EVENT: &str = r#"{"type":"a","payload":1}"#;
const LAST_EVENT: &str = r#"{"type":"a","payload":1,"account_id":"last"}"#;

/// A server, its operator, and where its data is.
struct Site {
    binary: Binary,
    operator: String,
    client: Client,
    settings: Vec<(&'static str, String)>,
    data_dir: TempDir,
}

impl Site {
    async fn start(database: Option<String>, settings: &[(&'static str, &str)]) -> Self {
        let data_dir = crate::support::temporary::directory();
        let own = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let settings: Vec<_> = own.chain(database.map(|url| ("DATABASE_URL", url))).collect();
        let mut binary = start(data_dir.path(), &settings).await;
        let (_, operator) = binary.first_keys().await;
        Self { binary, operator, client: client(), settings, data_dir }
    }

    /// Kills the server and starts it again.
    async fn restart(self) -> Self {
        let Self { binary, settings, data_dir, .. } = self;
        binary.kill().await;
        let binary = start(data_dir.path(), &settings).await;
        Self { binary, settings, data_dir, ..self }
    }

    async fn call(&self, method: Method, path: &str, key: &str, body: &str) -> Answer {
        let request = self.client.request(method, format!("{}{path}", self.binary.base_url));
        answer(with_json(request.header("x-api-key", key), body.to_owned())).await
    }

    async fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        self.call(Method::POST, path, key, body).await
    }

    /// Creates an organisation; its path for operators, and a key of it.
    async fn tenant(&self) -> (String, String) {
        let org = self.post("/api/admin/orgs", &self.operator, r#"{"name":"acme"}"#).await;
        let path = format!("/api/admin/orgs/{}", text(&org.expect(201), "id"));
        let keys = format!("{path}/keys");
        let key = self.post(&keys, &self.operator, r#"{"name":"first"}"#).await.expect(201);
        (path, text(&key, "key"))
    }

    /// Posts an event until the answer has this status.
    async fn post_until(&self, status: u16, key: &str, body: &str) -> (Answer, usize) {
        let posting = async {
            let mut others = 0;
            loop {
                let answer = self.post("/api/events", key, body).await;
                if answer.status.as_u16() == status {
                    return (answer, others);
                }
                others += 1;
                if !answer.status.is_success() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, posting).await.expect("the answer comes")
    }

    /// Runs statements in the server's database.
    async fn execute(&self, sqlite: &'static str, postgres: &'static str) {
        let url = self.settings.iter().find(|(name, _)| *name == "DATABASE_URL");
        if let Some((_, url)) = url {
            let mut connection = PgConnection::connect(url).await.unwrap();
            connection.execute(postgres).await.unwrap();
        } else {
            let file = self.data_dir.path().join("hookgate.db");
            let mut connection =
                SqliteConnectOptions::new().filename(file).connect().await.unwrap();
            connection.execute(sqlite).await.unwrap();
        }
    }

    /// Has the store fail to take events, in a way that may pass.
    async fn refuse_events(&self) {
        self.execute(
            // An overflow, which is not the fault of the row.
            "CREATE TRIGGER no_events BEFORE INSERT ON events
             BEGIN SELECT abs(-9223372036854775808); END",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '55P03'; END $$;
             CREATE TRIGGER no_events BEFORE INSERT ON events
             FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    }

    /// How many events the server has stored.
    async fn stored(&self) -> u64 {
        let metrics = self.client.get(format!("{}/metrics", self.binary.base_url));
        let text = metrics.send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("events_stored_total "));
        line.unwrap().parse().unwrap()
    }

    /// Has the database count what it has when [`LAST_EVENT`] is stored.
    async fn note_what_is_before_the_last(&self) {
        self.execute(
            "CREATE TABLE before_the_last (events INTEGER NOT NULL);
             CREATE TRIGGER note AFTER INSERT ON events WHEN NEW.account_id = 'last'
             BEGIN INSERT INTO before_the_last SELECT count(*) FROM events; END",
            "CREATE TABLE before_the_last (events bigint NOT NULL);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO before_the_last SELECT count(*) FROM events; RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT ON events
             FOR EACH ROW WHEN (NEW.account_id = 'last') EXECUTE FUNCTION note()",
        )
        .await;
    }

    async fn before_the_last(&self) -> u64 {
        const SQL: &str = "SELECT events FROM before_the_last";
        let url = self.settings.iter().find(|(name, _)| *name == "DATABASE_URL");
        let counted: i64 = if let Some((_, url)) = url {
            let mut connection = PgConnection::connect(url).await.unwrap();
            sqlx::query_scalar(SQL).fetch_one(&mut connection).await.unwrap()
        } else {
            let file = self.data_dir.path().join("hookgate.db");
            let mut connection =
                SqliteConnectOptions::new().filename(file).connect().await.unwrap();
            sqlx::query_scalar(SQL).fetch_one(&mut connection).await.unwrap()
        };
        counted.try_into().unwrap()
    }

    async fn take_events(&self) {
        self.execute(
            "DROP TRIGGER no_events",
            // Dropping the trigger would wait for the locks of those that are refused.
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN RETURN NEW; END $$",
        )
        .await;
    }
}

async fn start(data_dir: &Path, settings: &[(&'static str, String)]) -> Binary {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Binary::start(data_dir, &settings).await
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_that_creates_keys_keeps_nobody_from_creating_or_using_one_on_sqlite() {
    flood_of_keys(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_that_creates_keys_keeps_nobody_from_creating_or_using_one_on_postgresql() {
    flood_of_keys(Some(postgres::fresh_database().await)).await;
}

async fn flood_of_keys(database: Option<String>) {
    let unlimited = [("WRITE_RATE_LIMIT_PER_MINUTE", "10000000"), ("KEYS_MAX", "1000000")];
    let site = Site::start(database, &unlimited).await;
    let (_, flooder) = site.tenant().await;
    let (path, key) = site.tenant().await;
    let mut flood = JoinSet::new();
    for number in 0..100 {
        let (client, url) = (site.client.clone(), format!("{}/api/keys", site.binary.base_url));
        let flooder = flooder.clone();
        flood.spawn(async move {
            loop {
                let request = client.post(&url).header("x-api-key", &flooder);
                let made = answer(with_json(request, r#"{"name":"many"}"#)).await;
                // Half of them rotate what they made.
                if made.status == 201 && number % 2 == 0 {
                    let made = made.expect(201);
                    let url = format!("{url}/{}/rotate", text(&made, "id"));
                    let request = client.post(url).header("x-api-key", &flooder);
                    answer(with_json(request, r#"{"grace_seconds":0}"#)).await;
                }
            }
        });
    }
    // The flood has begun when some of it is refused.
    let refused = async {
        while site.post("/api/keys", &flooder, r#"{"name":"one"}"#).await.status != 503 {}
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the flood begins");
    for _ in 0..5 {
        for (path, asks) in [("/api/keys", &key), (&*format!("{path}/keys"), &site.operator)] {
            let made = site.post(path, asks, r#"{"name":"another"}"#).await.expect(201);
            site.post("/api/events", &text(&made, "key"), EVENT).await.expect(202);
        }
    }
    drop(flood);
    site.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_past_its_ttl_does_not_wait_for_a_database_that_is_away() {
    let database = PrivatePostgres::start();
    let url = database.fresh_database().await;
    // A request that waited for the database would time out.
    let settings =
        [("AUTH_CACHE_TTL", "1ms"), ("DATABASE_TIMEOUT", "5m"), ("REQUEST_TIMEOUT", "5s")];
    let site = Site::start(Some(url), &settings).await;
    let (_, key) = site.tenant().await;
    let keys = site.call(Method::GET, "/api/keys", &key, "").await.expect(200);
    let id = text(&keys["data"][0], "id");
    site.post("/api/events", &key, EVENT).await.expect(202);
    database.stop();
    for _ in 0..50 {
        site.post("/api/events", &key, EVENT).await.expect(202);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    database.start_again();
    let path = format!("/api/admin/keys/{id}");
    until("the database is back", async || {
        site.call(Method::DELETE, &path, &site.operator, "").await.status == 204
    })
    .await;
    site.post("/api/events", &key, EVENT).await.expect(401);
    site.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn share_of_the_journal_is_refused_recovered_and_freed_on_sqlite() {
    journal_share(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn share_of_the_journal_is_refused_recovered_and_freed_on_postgresql() {
    journal_share(Some(postgres::fresh_database().await)).await;
}

async fn journal_share(database: Option<String>) {
    let site = Site::start(database, &[("JOURNAL_MAX_MIB", "64")]).await;
    let (greedy, other) = (site.tenant().await.1, site.tenant().await.1);
    let large = json!({"type": "a", "payload": "x".repeat(250_000)}).to_string();
    site.refuse_events().await;
    let (refused, accepted) = site.post_until(429, &greedy, &large).await;
    refused.expect_problem(429, "journal_share_used_up");
    assert!((200..=220).contains(&accepted), "{accepted} of 264 fit");
    for _ in 0..5 {
        site.post("/api/events", &other, &large).await.expect(202);
    }
    let site = site.restart().await;
    site.post("/api/events", &greedy, &large).await.expect_problem(429, "journal_share_used_up");
    site.post("/api/events", &other, &large).await.expect(202);
    site.take_events().await;
    site.post_until(202, &greedy, &large).await;
    site.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_beyond_memory_makes_no_other_tenant_wait_on_sqlite() {
    backlog_beyond_memory(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_beyond_memory_makes_no_other_tenant_wait_on_postgresql() {
    backlog_beyond_memory(Some(postgres::fresh_database().await)).await;
}

async fn backlog_beyond_memory(database: Option<String>) {
    const BATCHES: u64 = 150;
    const EVENTS: u64 = 1_000;
    let site = Site::start(database, &[]).await;
    let (greedy, other) = (site.tenant().await.1, site.tenant().await.1);
    site.refuse_events().await;
    let events = vec![json!({"type": "a", "payload": 1}); usize::try_from(EVENTS).unwrap()];
    let batch = json!({ "events": events }).to_string();
    for _ in 0..BATCHES {
        site.post("/api/events/batch", &greedy, &batch).await.expect(202);
    }
    let accepted = site.post("/api/events", &other, LAST_EVENT).await.expect(202);
    let event = format!("/api/events/{}", text(&accepted, "id"));
    site.note_what_is_before_the_last().await;
    site.take_events().await;
    until("the other tenant's event is stored", async || {
        site.call(Method::GET, &event, &other, "").await.status == 200
    })
    .await;
    let before = site.before_the_last().await;
    assert!(before < BATCHES * EVENTS / 2, "{before} were stored before it");
    until("the backlog is stored", async || site.stored().await == BATCHES * EVENTS + 1).await;
    site.binary.stop().await;
}
