//! Faults under the journal, by the real binary on real files: what poisons it, what does not, and what becomes of the
//! process.
//!
//! A limit on the length of files (`RLIMIT_FSIZE`), set from outside, refuses the bytes behind it with `EFBIG`.

use std::path::{Path, PathBuf};

use reqwest::{Client, Method};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor, SqliteConnection};
use tempfile::TempDir;

use crate::support::answer::{Answer, answer, json};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::wait::until;

/// Writes beyond the limit fail instead of ending the process.
const OUTLIVES_THE_LIMIT: &str = "trap '' XFSZ; exec \"$0\" serve";
const EVENT: &str = r#"{"type":"a","payload":1}"#;
/// Events that are accepted before the fault.
const EVENTS: i64 = 20;

/// A server with a tenant, on SQLite.
struct Site {
    server: Binary,
    client: Client,
    key: String,
    data_dir: TempDir,
}

impl Site {
    /// A server with [`EVENTS`] accepted events that the store does not take before the lock is released.
    async fn with_backlog(settings: &[(&str, &str)]) -> (Self, SqliteConnection) {
        let site = Self::start(settings).await;
        // The key is known from now on.
        site.post(EVENT).await.expect(202);
        let lock = site.lock_store().await;
        for _ in 1..EVENTS {
            site.post(EVENT).await.expect(202);
        }
        (site, lock)
    }

    async fn start(settings: &[(&str, &str)]) -> Self {
        let data_dir = crate::support::temporary::directory();
        let mut server = Binary::start_by(OUTLIVES_THE_LIMIT, data_dir.path(), settings).await;
        let (key, _) = server.first_keys().await;
        Self { server, client: client(), key, data_dir }
    }

    async fn post(&self, body: &str) -> Answer {
        let url = format!("{}/api/events", self.server.base_url);
        let request = self.client.request(Method::POST, url).header("x-api-key", &self.key);
        answer(json(request, body.to_owned())).await
    }

    async fn ready(&self, status: u16) -> Value {
        let url = format!("{}/health/ready", self.server.base_url);
        answer(self.client.get(url)).await.expect(status)
    }

    async fn metric(&self, line: &str) -> bool {
        let url = format!("{}/metrics", self.server.base_url);
        answer(self.client.get(url)).await.text.contains(line)
    }

    fn journal(&self) -> PathBuf {
        self.data_dir.path().join("journal")
    }

    /// Limits the length of the files that the server writes.
    fn limit(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(self.server.pid()), Resource::Fsize, limit).unwrap();
    }

    async fn connect(&self) -> SqliteConnection {
        let file = self.data_dir.path().join("hookgate.db");
        SqliteConnectOptions::new().filename(file).connect().await.unwrap()
    }

    /// Keeps the server from writing to its store until the connection is dropped.
    async fn lock_store(&self) -> SqliteConnection {
        let mut connection = self.connect().await;
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        connection
    }

    async fn stored(&self) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&mut connection).await.unwrap()
    }
}

/// The offset behind the last written byte of the newest segment.
fn end_of_records(journal: &Path) -> u64 {
    let segment = files(journal, ".segment").pop().unwrap();
    let bytes = std::fs::read(segment).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
}

fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().contains(part));
    paths.sort();
    paths
}

fn has_line(log: &[String], text: &str) -> bool {
    log.iter().any(|line| line.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn poisoned_server_stores_what_is_durable_and_exits_for_its_supervisor() {
    let (site, lock) = Site::with_backlog(&[]).await;
    // The next record begins below the limit and ends behind it.
    site.limit(Some(end_of_records(&site.journal()) + 40));
    site.post(EVENT).await.expect_problem(503, "journal_unavailable");
    site.limit(None);
    site.post(EVENT).await.expect_problem(503, "journal_unavailable");
    assert_eq!(site.ready(503).await["checks"]["journal"], "poisoned");

    drop(lock);
    let Site { server, client, key, data_dir } = site;
    let (status, log) = server.ended().await;
    assert_eq!(status.code(), Some(1), "{log:#?}");
    assert!(has_line(&log, "the journal is poisoned and accepts nothing"), "{log:#?}");
    assert!(!has_line(&log, "not every durable event"), "{log:#?}");
    let server = Binary::start(data_dir.path(), &[]).await;
    let site = Site { server, client, key, data_dir };
    assert_eq!(site.stored().await, EVENTS);
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poisoned_server_whose_store_is_away_exits_at_its_timeout() {
    let (site, lock) = Site::with_backlog(&[("SHUTDOWN_TIMEOUT", "500ms")]).await;
    site.limit(Some(end_of_records(&site.journal()) + 40));
    site.post(EVENT).await.expect_problem(503, "journal_unavailable");
    let Site { server, client, key, data_dir } = site;
    let (status, log) = server.ended().await;
    assert_eq!(status.code(), Some(1), "{log:#?}");
    assert!(has_line(&log, "not every durable event"), "{log:#?}");
    drop(lock);
    let server = Binary::start(data_dir.path(), &[]).await;
    let site = Site { server, client, key, data_dir };
    until("everything is stored", async || site.stored().await == EVENTS).await;
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_that_is_full_before_a_record_needs_no_restart() {
    let (site, lock) = Site::with_backlog(&[]).await;
    site.limit(Some(end_of_records(&site.journal())));
    site.post(EVENT).await.expect_problem(503, "journal_full");
    site.post(EVENT).await.expect_problem(503, "journal_full");
    site.limit(None);
    until("it accepts again", async || site.post(EVENT).await.status == 202).await;
    assert_eq!(site.ready(200).await["checks"]["journal"], "ok");
    drop(lock);
    until("everything is stored", async || site.stored().await == EVENTS + 1).await;
    site.server.stop().await;
}

/// A limit of 32 KiB from the start on: SQLite's log is longer, and the events that wait are shorter.
const STARTS_WITH_A_LIMIT: &str = "trap '' XFSZ; ulimit -S -f 64; exec \"$0\" serve";

#[tokio::test(flavor = "multi_thread")]
async fn server_starts_while_its_sqlite_file_cannot_grow_and_works_once_it_can() {
    let Site { server, client, key, data_dir } = Site::start(&[]).await;
    server.kill().await;
    let file = SqliteConnectOptions::new().filename(data_dir.path().join("hookgate.db"));
    // Its snapshot keeps the log from starting anew.
    let mut reader = file.connect().await.unwrap();
    reader.execute("BEGIN; SELECT count(*) FROM orgs").await.unwrap();
    let mut writer = file.connect().await.unwrap();
    let ballast = "CREATE TABLE ballast AS SELECT zeroblob(100000); DROP TABLE ballast";
    writer.execute(ballast).await.unwrap();

    let server = Binary::start_by(STARTS_WITH_A_LIMIT, data_dir.path(), &[]).await;
    let site = Site { server, client, key, data_dir };
    assert_eq!(site.ready(200).await["checks"]["journal"], "ok");
    let url = format!("{}/health/ready?strict", site.server.base_url);
    let strict = answer(site.client.get(&url)).await.expect(503);
    assert_eq!(strict["checks"]["store"], "unreachable");
    site.post(EVENT).await.expect(202);

    drop((reader, writer));
    site.limit(None);
    until("it is stored", async || site.stored().await == 1).await;
    until("it is ready", async || answer(site.client.get(&url)).await.status == 200).await;
    let log = site.server.stop().await;
    assert!(has_line(&log, "the store is away"), "{log:#?}");
    assert!(has_line(&log, "the store is back"), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_whose_journal_was_replaced_exits() {
    let site = Site::start(&[]).await;
    for _ in 0..EVENTS {
        site.post(EVENT).await.expect(202);
    }
    until("everything is stored", async || site.stored().await == EVENTS).await;
    std::fs::rename(site.journal(), site.data_dir.path().join("old")).unwrap();
    let Site { server, client, key, data_dir } = site;
    let (status, log) = server.ended().await;
    assert_eq!(status.code(), Some(1), "{log:#?}");
    assert!(has_line(&log, "the journal's directory was replaced"), "{log:#?}");
    drop((client, key));

    // The successor of the directory is locked by its server, and there is no file whose removal would release it.
    let server = Binary::start(data_dir.path(), &[]).await;
    let _ = std::fs::remove_file(data_dir.path().join("journal/lock"));
    let (status, log) = Binary::fail_to_start(data_dir.path(), &[]).await;
    assert_eq!(status.code(), Some(1), "{log:#?}");
    assert!(has_line(&log, "is in use by another process"), "{log:#?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_that_the_store_refuses_holds_nothing_up() {
    let site = Site::start(&[]).await;
    let mut connection = site.connect().await;
    for sql in [
        "CREATE TRIGGER trap BEFORE INSERT ON events WHEN NEW.account_id = 'poison'
         BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        "CREATE TRIGGER grave BEFORE INSERT ON dead_letters
         BEGIN SELECT RAISE(ABORT, 'nor here'); END",
    ] {
        connection.execute(sql).await.unwrap();
    }
    let poison = r#"{"type":"a","payload":"precious","account_id":"poison"}"#;
    let id = site.post(poison).await.expect(202)["id"].as_str().unwrap().to_owned();
    site.post(EVENT).await.expect(202);
    until("the other one is stored", async || site.stored().await == 1).await;
    until("it is quarantined", async || site.metric("events_unstorable_total 1").await).await;
    let copies = files(&site.journal().join("damaged"), &id);
    let copy = std::fs::read(&copies[0]).unwrap();
    assert!(copy.windows(8).any(|bytes| bytes == b"precious"));
    let log = site.server.stop().await;
    assert!(has_line(&log, "the store rejected an event and its dead letter"), "{log:#?}");
}
