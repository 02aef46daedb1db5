//! Backups, databases that are older than the journal, and replays of the journal, with the real binary.

mod dump;
mod point_in_time;
mod waiting;

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::{JoinSet, block_in_place};

use crate::support::answer::answer;
use crate::support::binary::Binary;
use crate::support::postgres::PrivatePostgres;
use crate::support::wait::until;
use crate::support::{client, postgres};

const POSTERS: usize = 4;

/// The database of a test's server.
#[derive(Clone)]
enum Database {
    /// In the data directory.
    Sqlite,
    /// At this URL.
    Postgres(String),
}

impl Database {
    async fn postgres() -> Self {
        Self::Postgres(postgres::fresh_database().await)
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        match self {
            Self::Sqlite => vec![],
            Self::Postgres(url) => vec![("DATABASE_URL", url)],
        }
    }

    /// The first column of each row, as text.
    async fn texts(&self, data_dir: &Path, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite => {
                let file = SqliteConnectOptions::new().filename(data_dir.join("hookgate.db"));
                let mut connection = file.connect().await.unwrap();
                let rows = connection.fetch_all(AssertSqlSafe(sql.to_owned())).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            Self::Postgres(url) => {
                let mut connection =
                    url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
                let rows = connection.fetch_all(AssertSqlSafe(sql.to_owned())).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
        }
    }

    /// The ids of all events, sorted.
    async fn events(&self, data_dir: &Path) -> Vec<String> {
        let sql = match self {
            Self::Sqlite => "SELECT lower(hex(id)) FROM events ORDER BY 1",
            Self::Postgres(_) => "SELECT replace(id::text, '-', '') FROM events ORDER BY 1",
        };
        self.texts(data_dir, sql).await
    }

    /// Changes the database while no server uses it.
    async fn change(&self, data_dir: &Path, sql: &str) {
        self.texts(data_dir, sql).await;
    }

    /// A copy of the database as it is, while no server uses it.
    async fn snapshot(&self, data_dir: &Path) -> Self {
        match self {
            Self::Sqlite => {
                let of = |name: &str| data_dir.join(name);
                std::fs::copy(of("hookgate.db"), of("old.db")).unwrap();
                Self::Sqlite
            }
            Self::Postgres(url) => {
                let (server, name) = url.rsplit_once('/').unwrap();
                let options: PgConnectOptions = format!("{server}/postgres").parse().unwrap();
                let mut connection = options.connect().await.unwrap();
                let sql = format!("CREATE DATABASE {name}_old TEMPLATE {name}");
                connection.execute(AssertSqlSafe(sql)).await.unwrap();
                Self::Postgres(format!("{server}/{name}_old"))
            }
        }
    }

    /// Puts the snapshot back.
    fn put_back(&self, data_dir: &Path) {
        if let Self::Sqlite = self {
            std::fs::rename(data_dir.join("old.db"), data_dir.join("hookgate.db")).unwrap();
        }
    }
}

async fn post(base_url: &str, key: &str, payload: impl Serialize) -> Option<String> {
    let event = json!({"type": "a", "payload": payload}).to_string();
    let request = client().post(format!("{base_url}/api/events")).header("x-api-key", key);
    let request = request.header("content-type", "application/json").body(event);
    let answer = request.send().await.ok()?;
    assert_eq!(answer.status().as_u16(), 202);
    let body: Value = serde_json::from_str(&answer.text().await.ok()?).unwrap();
    Some(body["id"].as_str().unwrap().replace('-', ""))
}

async fn post_all(server: &Binary, key: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(post(&server.base_url, key, number).await.unwrap());
    }
    ids
}

/// Runs a command of the program.
async fn run(data_dir: &Path, database: &Database, arguments: &[&str]) -> Output {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).chain([postgres::programs()]);
    Command::new(env!("CARGO_BIN_EXE_hookgate"))
        .args(arguments)
        .current_dir(data_dir)
        .env_clear()
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("DATA_DIR", data_dir)
        .envs(database.settings())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap()
}

async fn run_json(data_dir: &Path, database: &Database, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--output", "json"]].concat();
    let output = run(data_dir, database, &arguments).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_on_sqlite_under_load_has_every_acknowledged_event_once() {
    backup_under_load(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_on_postgresql_under_load_has_every_acknowledged_event_once() {
    backup_under_load(Database::postgres().await).await;
}

async fn backup_under_load(database: Database) {
    let (data, backups) =
        (crate::support::temporary::directory(), crate::support::temporary::directory());
    let mut server = Binary::start(data.path(), &database.settings()).await;
    let (key, _) = server.first_keys().await;
    let accepted: Arc<[AtomicUsize; POSTERS]> = Arc::default();
    let mut posters = JoinSet::new();
    for poster in 0..POSTERS {
        let (url, key, accepted) = (server.base_url.clone(), key.clone(), Arc::clone(&accepted));
        posters.spawn(async move {
            let mut ids = Vec::new();
            while let Some(id) = post(&url, &key, ids.len()).await {
                ids.push(id);
                accepted[poster].store(ids.len(), Ordering::SeqCst);
            }
            (poster, ids)
        });
    }
    let counts = || [0, 1, 2, 3].map(|poster| accepted[poster].load(Ordering::SeqCst));
    until("some events are accepted", async || counts().iter().all(|count| *count > 50)).await;

    let before = counts();
    let backup = backups.path().join("backup");
    let made = run_json(data.path(), &database, &["backup", backup.to_str().unwrap()]).await;
    assert!(made["stored_below_position"].as_u64().unwrap() > 0, "{made}");
    server.kill().await;
    let posted: Vec<(usize, Vec<String>)> = posters.join_all().await;
    let again = run(data.path(), &database, &["backup", backup.to_str().unwrap()]).await;
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"), "{again:?}");

    let restored = restore(&database, &backup).await;
    let server = Binary::start(&backup, &restored.settings()).await;
    server.stop().await;
    let server = Binary::start(&backup, &restored.settings()).await;
    post(&server.base_url, &key, 0).await.unwrap();
    until("what waited in the journal is stored", async || {
        let health = client().get(format!("{}/api/health", server.base_url));
        let health = answer(health.header("x-api-key", &key)).await;
        health.expect(200)["queue"]["events"] == 0
    })
    .await;
    server.stop().await;
    let stored = restored.events(&backup).await;
    assert!(stored.is_sorted_by(|one, next| one < next), "an event is there twice");
    for (poster, ids) in &posted {
        for id in &ids[..before[*poster]] {
            assert!(stored.binary_search(id).is_ok(), "{id} is lost");
        }
    }
}

/// The database of a backup, as docs/operations.md tells.
async fn restore(database: &Database, backup: &Path) -> Database {
    let Database::Postgres(_) = database else { return Database::Sqlite };
    let url = postgres::fresh_database().await;
    let restored = Command::new(postgres::programs().join("pg_restore"))
        .args(["--exit-on-error", "--no-owner", "--dbname", &url])
        .arg(backup.join("hookgate.pgdump"))
        .output()
        .await
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    Database::Postgres(url)
}

#[tokio::test(flavor = "multi_thread")]
async fn older_sqlite_file_is_refused_until_the_journal_is_replayed() {
    older_store_is_refused_and_healed(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_postgresql_database_is_refused_until_the_journal_is_replayed() {
    older_store_is_refused_and_healed(Database::postgres().await).await;
}

async fn older_store_is_refused_and_healed(database: Database) {
    let data = crate::support::temporary::directory();
    let mut server = Binary::start(data.path(), &database.settings()).await;
    let (key, _) = server.first_keys().await;
    let mut ids = post_all(&server, &key, 20).await;
    stored(&database, data.path(), 20).await;
    server.stop().await;
    let older = database.snapshot(data.path()).await;

    let server = Binary::start(data.path(), &database.settings()).await;
    ids.extend(post_all(&server, &key, 30).await);
    stored(&database, data.path(), 50).await;
    server.stop().await;
    older.put_back(data.path());
    let (status, log) = Binary::fail_to_start(data.path(), &older.settings()).await;
    assert!(!status.success());
    let log = log.concat();
    assert!(log.contains("is older than the journal") && log.contains("journal replay"), "{log}");
    assert_eq!(older.events(data.path()).await.len(), 20, "nothing was written");

    let counted =
        run_json(data.path(), &older, &["journal", "replay", "--since", "1", "--dry-run"]).await;
    let of = |report: &Value| {
        (report["events"].as_u64(), report["missing"].as_u64(), report["complete"].as_bool())
    };
    assert_eq!(of(&counted), (Some(50), Some(30), Some(false)), "{counted}");
    let replayed = run_json(data.path(), &older, &["journal", "replay"]).await;
    assert_eq!(of(&replayed), (Some(30), Some(30), Some(true)), "{replayed}");
    let again = run_json(data.path(), &older, &["journal", "replay", "--since", "1"]).await;
    assert_eq!(of(&again), (Some(50), Some(0), Some(true)), "{again}");

    let server = Binary::start(data.path(), &older.settings()).await;
    let beside = run(data.path(), &older, &["journal", "replay"]).await;
    assert!(String::from_utf8_lossy(&beside.stderr).contains("in use"), "{beside:?}");
    let status = run_json(data.path(), &older, &["journal", "status"]).await;
    assert_eq!(status["stored_below_position"], 51, "{status}");
    ids.extend(post_all(&server, &key, 1).await);
    stored(&older, data.path(), 51).await;
    server.stop().await;
    ids.sort_unstable();
    assert_eq!(older.events(data.path()).await, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_to_a_standby_that_was_behind_is_refused_until_the_journal_is_replayed() {
    let primary = block_in_place(PrivatePostgres::start);
    let url = primary.fresh_database().await;
    let name = url.rsplit_once('/').unwrap().1;
    let database = Database::Postgres(url.clone());
    let data = crate::support::temporary::directory();
    let mut server = Binary::start(data.path(), &database.settings()).await;
    let (key, _) = server.first_keys().await;
    let mut ids = post_all(&server, &key, 10).await;
    stored(&database, data.path(), 10).await;

    let standby = block_in_place(|| primary.standby());
    let promoted = Database::Postgres(standby.url(name));
    stored(&promoted, data.path(), 10).await;
    block_in_place(|| standby.stop());
    ids.extend(post_all(&server, &key, 15).await);
    stored(&database, data.path(), 25).await;
    // The mark of these is committed before the journal forgets them.
    server.stop().await;
    let settings = [("DATABASE_URL", url.as_str()), ("SHUTDOWN_TIMEOUT", "1s")];
    let server = Binary::start(data.path(), &settings).await;
    // The key is known from then on.
    ids.extend(post_all(&server, &key, 1).await);
    block_in_place(|| primary.stop());
    ids.extend(post_all(&server, &key, 4).await);
    server.stop().await;
    block_in_place(|| {
        standby.start_again();
        standby.promote();
    });

    let (status, log) = Binary::fail_to_start(data.path(), &promoted.settings()).await;
    assert!(!status.success() && log.concat().contains("is older than the journal"), "{log:#?}");
    assert_eq!(promoted.events(data.path()).await.len(), 10, "nothing was written");
    let replayed = run_json(data.path(), &promoted, &["journal", "replay"]).await;
    assert_eq!(replayed["complete"], true, "{replayed}");
    let server = Binary::start(data.path(), &promoted.settings()).await;
    stored(&promoted, data.path(), 30).await;
    server.stop().await;
    ids.sort_unstable();
    assert_eq!(promoted.events(data.path()).await, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_database_beside_a_used_journal_is_refused_unless_it_is_accepted() {
    let (data, first) = used_data_dir().await;
    let other = Database::postgres().await;
    let (status, log) = Binary::fail_to_start(data.path(), &other.settings()).await;
    let log = log.concat();
    assert!(!status.success() && log.contains("knows nothing of the journal"), "{log}");
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
    assert!(other.texts(data.path(), tables).await.is_empty(), "nothing was written");

    let script = "exec \"$0\" serve --accept-older-store";
    Binary::start_by(script, data.path(), &other.settings()).await.stop().await;
    // It is known from then on, and the first one still is.
    Binary::start(data.path(), &other.settings()).await.stop().await;
    Binary::start(data.path(), &first.settings()).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn database_of_the_version_before_marks_is_accepted() {
    let (data, database) = used_data_dir().await;
    database.change(data.path(), "DELETE FROM journals").await;
    std::fs::remove_file(data.path().join("marked")).unwrap();
    Binary::start(data.path(), &database.settings()).await.stop().await;
    database.change(data.path(), "DELETE FROM journals").await;
    let (status, _) = Binary::fail_to_start(data.path(), &database.settings()).await;
    assert!(!status.success(), "from then on its mark is expected");
}

#[tokio::test(flavor = "multi_thread")]
async fn mark_file_that_cannot_be_read_does_not_switch_the_check_off() {
    let (data, database) = used_data_dir().await;
    database.change(data.path(), "DELETE FROM journals").await;
    // No text: like any other failure to read it.
    std::fs::write(data.path().join("marked"), [0xff; 17]).unwrap();
    let (status, log) = Binary::fail_to_start(data.path(), &database.settings()).await;
    let log = log.concat();
    assert!(!status.success() && log.contains("cannot read or write"), "{log}");
    let marks = database.texts(data.path(), "SELECT 'mark' FROM journals").await;
    assert!(marks.is_empty(), "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_whose_database_loses_its_mark_stops() {
    let data = crate::support::temporary::directory();
    let database = Database::Sqlite;
    let mut server = Binary::start(data.path(), &[]).await;
    let (key, _) = server.first_keys().await;
    post_all(&server, &key, 5).await;
    stored(&database, data.path(), 5).await;
    // As after a failover to a standby that had not received it. Nobody posts an event.
    let marked = "SELECT '' FROM journals WHERE position > 5";
    until("the events are marked", async || database.texts(data.path(), marked).await.len() == 1)
        .await;
    database.change(data.path(), "UPDATE journals SET position = 0").await;
    let (status, log) = server.ended().await;
    assert!(!status.success());
    assert!(log.concat().contains("has lost events"), "{log:#?}");
}

/// A data directory with a SQLite file and a few stored events.
async fn used_data_dir() -> (TempDir, Database) {
    let data = crate::support::temporary::directory();
    let mut server = Binary::start(data.path(), &[]).await;
    let (key, _) = server.first_keys().await;
    post_all(&server, &key, 5).await;
    stored(&Database::Sqlite, data.path(), 5).await;
    server.stop().await;
    (data, Database::Sqlite)
}

async fn stored(database: &Database, data_dir: &Path, count: usize) {
    until(&format!("{count} events are stored"), async || {
        database.events(data_dir).await.len() == count
    })
    .await;
}
