//! Events that wait in the journal of a server that is gone: a replay of its data directory stores them.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection, raw_sql};

use super::{Database, post, post_all, run, run_json, stored};
use crate::support::binary::Binary;

/// Somebody who lets nobody write to the events.
enum Lock {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Lock {
    async fn take(database: &Database, data_dir: &Path) -> Self {
        match database {
            Database::Sqlite => {
                let file = SqliteConnectOptions::new().filename(data_dir.join("hookgate.db"));
                let mut connection = file.connect().await.unwrap();
                raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
                Self::Sqlite(connection)
            }
            Database::Postgres(url) => {
                let options: PgConnectOptions = url.parse().unwrap();
                let mut connection = options.connect().await.unwrap();
                let sql = "BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE";
                raw_sql(sql).execute(&mut connection).await.unwrap();
                Self::Postgres(connection)
            }
        }
    }
}

impl Lock {
    /// Lets others write, once nothing is left of the server that has ended: PostgreSQL would otherwise go on with the
    /// statement that waited.
    async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.unwrap(),
            Self::Postgres(mut connection) => {
                let others = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
                              WHERE datname = current_database() AND pid <> pg_backend_pid()";
                raw_sql(others).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }
}

/// Runs a server that stores five events and stops with others in its journal. Returns the ids of all.
async fn stop_with_a_backlog(database: &Database, data_dir: &Path, waiting: usize) -> Vec<String> {
    let settings = [database.settings(), vec![("SHUTDOWN_TIMEOUT", "1s")]].concat();
    let mut server = Binary::start(data_dir, &settings).await;
    let (key, _) = server.first_keys().await;
    let mut ids = post_all(&server, &key, 5).await;
    stored(database, data_dir, 5).await;
    let lock = Lock::take(database, data_dir).await;
    ids.extend(post_waiting(&server, &key, waiting).await);
    // It ends by itself.
    server.stop().await;
    lock.release().await;
    assert_eq!(database.events(data_dir).await.len(), 5);
    ids.sort_unstable();
    ids
}

/// Posts events with the payloads `number 0` and so on, each in a group of its own.
async fn post_waiting(server: &Binary, key: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(post(&server.base_url, key, format!("number {number}")).await.unwrap());
    }
    ids
}

/// What a report tells: events that waited, those that the store lacked, and whether it has every one. What was stored
/// last may count as waiting, because the checkpoint could not follow.
fn counts(report: &Value) -> (u64, Option<u64>, Option<bool>) {
    let waiting = report["waiting"].as_u64().unwrap();
    (waiting.min(7), report["missing"].as_u64(), report["complete"].as_bool())
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_of_a_removed_server_stores_what_waits_on_sqlite() {
    replay_stores_what_waits(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_of_a_removed_server_stores_what_waits_on_postgresql() {
    replay_stores_what_waits(Database::postgres().await).await;
}

async fn replay_stores_what_waits(database: Database) {
    let data = crate::support::temporary::directory();
    let ids = stop_with_a_backlog(&database, data.path(), 7).await;
    let replay = ["journal", "replay"];
    let counted = run_json(data.path(), &database, &[&replay[..], &["--dry-run"]].concat()).await;
    assert_eq!(counts(&counted), (7, Some(7), Some(false)), "{counted}");
    assert_eq!(database.events(data.path()).await.len(), 5, "nothing was stored");
    // A time chooses among what was stored; what waits is stored in any case.
    let since = ["--since", "2999-01-01T00:00:00Z"];
    let replayed = run_json(data.path(), &database, &[&replay[..], &since].concat()).await;
    assert_eq!(counts(&replayed), (7, Some(7), Some(true)), "{replayed}");
    assert_eq!(database.events(data.path()).await, ids);
    let again = run_json(data.path(), &database, &replay).await;
    assert_eq!(counts(&again), (0, Some(0), Some(true)), "{again}");

    let mut server = Binary::start(data.path(), &database.settings()).await;
    let (key, _) = server.first_keys().await;
    post_all(&server, &key, 1).await;
    stored(&database, data.path(), ids.len() + 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_into_another_database_leaves_what_waits_on_sqlite() {
    replay_into_another_database(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_into_another_database_leaves_what_waits_on_postgresql() {
    replay_into_another_database(Database::postgres().await).await;
}

/// As after a typo in `DATABASE_URL`, of which the refused start says that a replay may help.
async fn replay_into_another_database(database: Database) {
    let data = crate::support::temporary::directory();
    let ids = stop_with_a_backlog(&database, data.path(), 7).await;
    let other = Database::postgres().await;
    let replay = ["journal", "replay"];
    wrong_database_is_not_migrated(data.path(), &other).await;
    let anyhow = ["journal", "replay", "--yes"];
    let replayed = run_json(data.path(), &other, &anyhow).await;
    assert_eq!(counts(&replayed), (7, Some(0), Some(false)), "{replayed}");
    assert_eq!(replayed["of_unknown_orgs"], ids.len(), "{replayed}");
    for arguments in [&anyhow[..], &["journal", "replay", "--dry-run"]] {
        let told = run(data.path(), &other, arguments).await;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains("Keep DATA_DIR") && told.contains("--skip-unknown-orgs"), "{told}");
    }
    let (status, _) = Binary::fail_to_start(data.path(), &other.settings()).await;
    assert!(!status.success(), "it is marked as complete");

    let replayed = run_json(data.path(), &database, &replay).await;
    assert_eq!(counts(&replayed), (7, Some(7), Some(true)), "{replayed}");
    assert_eq!(database.events(data.path()).await, ids);
    // Whoever says so gives them up.
    let skipping = [&anyhow[..], &["--skip-unknown-orgs"]].concat();
    let replayed = run_json(data.path(), &other, &skipping).await;
    assert_eq!((&replayed["missing"], &replayed["complete"]), (&0.into(), &true.into()));
    Binary::start(data.path(), &other.settings()).await.stop().await;
}

/// Neither one that is new, nor that of another Hookgate, of a version before; nor somebody else's.
async fn wrong_database_is_not_migrated(data_dir: &Path, other: &Database) {
    let refused = async |database: &Database, arguments: &[&str], why: &str| {
        let said = run(data_dir, database, arguments).await;
        let err = String::from_utf8_lossy(&said.stderr).into_owned();
        let told = format!("{}{err}", String::from_utf8_lossy(&said.stdout));
        assert!(!said.status.success() && told.contains(why), "{arguments:?}: {told}");
    };
    let (is_another, is_foreign) =
        ("knows nothing of the journal", "holds tables of something else");
    let commands: [&[&str]; 6] = [
        &["journal", "replay"],
        &["journal", "replay", "--dry-run"],
        &["migrate", "up"],
        &["org", "create", "--name", "a"],
        &["key", "create", "--operator", "--name", "a"],
        &["doctor"],
    ];
    let missing = async || {
        let status = run_json(data_dir, other, &["migrate", "status"]).await;
        let all = status.as_array().unwrap();
        all.iter().filter(|step| step["applied"] == false).count()
    };
    let of_new = missing().await;
    for arguments in commands {
        refused(other, arguments, is_another).await;
    }
    assert_eq!(missing().await, of_new);
    for arguments in [["migrate", "up", "--yes"], ["migrate", "down", "--yes"]] {
        assert!(run(data_dir, other, &arguments).await.status.success());
    }
    for arguments in commands {
        refused(other, arguments, is_another).await;
    }
    assert_eq!(missing().await, 1);
    let foreign = Database::postgres().await;
    foreign.change(data_dir, "CREATE TABLE theirs (id int)").await;
    for arguments in commands {
        refused(&foreign, arguments, is_foreign).await;
    }
}

/// Its first organisation has the id of ours.
#[tokio::test(flavor = "multi_thread")]
async fn database_of_another_server_gets_no_events_by_a_start_or_a_replay() {
    let theirs = Database::postgres().await;
    let elsewhere = crate::support::temporary::directory();
    Binary::start(elsewhere.path(), &theirs.settings()).await.stop().await;

    // Nothing was stored yet when the server ended.
    let data = crate::support::temporary::directory();
    let settings = [("SHUTDOWN_TIMEOUT", "1s")];
    let mut server = Binary::start(data.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    let url = format!("{}/api/org", server.base_url);
    let known = crate::support::client().get(url).header("x-api-key", &key).send().await.unwrap();
    assert_eq!(known.status(), 200, "the key is known from then on");
    let lock = Lock::take(&Database::Sqlite, data.path()).await;
    let mut ids = post_waiting(&server, &key, 3).await;
    server.stop().await;
    lock.release().await;

    let (status, log) = Binary::fail_to_start(data.path(), &theirs.settings()).await;
    let log = log.concat();
    assert!(!status.success() && log.contains("knows nothing of the journal"), "{log}");
    let replay = ["journal", "replay"];
    let new = Database::postgres().await;
    for (database, command) in [(&theirs, replay), (&new, replay), (&new, ["migrate", "up"])] {
        let said = run(data.path(), database, &command).await;
        let err = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && err.contains("knows nothing of the journal"), "{err}");
    }
    assert_eq!(theirs.events(data.path()).await, Vec::<String>::new());
    let replayed = run_json(data.path(), &Database::Sqlite, &replay).await;
    assert_eq!(counts(&replayed), (3, Some(3), Some(true)), "{replayed}");
    ids.sort_unstable();
    assert_eq!(Database::Sqlite.events(data.path()).await, ids);

    // Nor is a new file made where one is missing.
    let file = data.path().join("hookgate.db");
    fs::rename(&file, data.path().join("elsewhere.db")).unwrap();
    let create = run(data.path(), &Database::Sqlite, &["org", "create", "--name", "a"]).await;
    assert!(!create.status.success() && !file.exists(), "{create:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_of_events_of_a_deleted_organisation_is_complete_on_sqlite() {
    replay_of_a_deleted_org(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_of_events_of_a_deleted_organisation_is_complete_on_postgresql() {
    replay_of_a_deleted_org(Database::postgres().await).await;
}

async fn replay_of_a_deleted_org(database: Database) {
    let data = crate::support::temporary::directory();
    stop_with_a_backlog(&database, data.path(), 7).await;
    // The row that is left of one that another server has deleted.
    let delete = "UPDATE orgs SET deleting_since = created_at, deleted_at = created_at";
    database.change(data.path(), delete).await;
    let replayed = run_json(data.path(), &database, &["journal", "replay"]).await;
    assert_eq!(counts(&replayed), (7, Some(0), Some(true)), "{replayed}");
    assert_eq!(replayed["of_unknown_orgs"], 0, "{replayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_with_damage_among_what_waits_is_not_complete() {
    let data = crate::support::temporary::directory();
    let ids = stop_with_a_backlog(&Database::Sqlite, data.path(), 3).await;
    damage(&data.path().join("journal"), "number 1");

    let replayed = run(data.path(), &Database::Sqlite, &["journal", "replay"]).await;
    let said = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(said.contains("1 lost") && said.contains("keep DATA_DIR"), "{said}");
    assert_eq!(Database::Sqlite.events(data.path()).await.len(), ids.len() - 1);
    // The start sets it aside.
    let mut server = Binary::start(data.path(), &[]).await;
    let (key, _) = server.first_keys().await;
    post_all(&server, &key, 1).await;
    stored(&Database::Sqlite, data.path(), ids.len()).await;
    server.stop().await;
    let replayed = run_json(data.path(), &Database::Sqlite, &["journal", "replay"]).await;
    assert_eq!(replayed["complete"], true, "{replayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_that_finds_events_missing_is_not_complete_on_sqlite() {
    dry_run_with_events_missing(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_that_finds_events_missing_is_not_complete_on_postgresql() {
    dry_run_with_events_missing(Database::postgres().await).await;
}

/// Although the database's mark says that every event is stored. A replay before sees to that.
async fn dry_run_with_events_missing(database: Database) {
    let data = crate::support::temporary::directory();
    let mut server = Binary::start(data.path(), &database.settings()).await;
    let (key, _) = server.first_keys().await;
    post_waiting(&server, &key, 3).await;
    stored(&database, data.path(), 3).await;
    server.stop().await;
    run_json(data.path(), &database, &["journal", "replay"]).await;
    let count = ["journal", "replay", "--since", "1", "--dry-run"];
    let of = |report: &Value| {
        let number = |name: &str| report[name].as_u64().unwrap();
        (number("missing"), number("lost"), report["complete"].as_bool().unwrap())
    };
    let counted = run_json(data.path(), &database, &count).await;
    assert_eq!(of(&counted), (0, 0, true), "{counted}");

    let delete = "DELETE FROM events WHERE id = (SELECT id FROM events ORDER BY id LIMIT 1)";
    database.change(data.path(), delete).await;
    let counted = run_json(data.path(), &database, &count).await;
    assert_eq!(of(&counted), (1, 0, false), "{counted}");
    let told = run(data.path(), &database, &count).await;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("1 missing") && !told.contains("has every event"), "{told}");

    run_json(data.path(), &database, &["journal", "replay", "--since", "1"]).await;
    let counted = run_json(data.path(), &database, &count).await;
    assert_eq!(of(&counted), (0, 0, true), "{counted}");
    // Nobody knows whether the database has it.
    damage(&data.path().join("journal"), "number 1");
    let counted = run_json(data.path(), &database, &count).await;
    assert_eq!(of(&counted), (0, 1, false), "{counted}");
}

/// Changes a byte of the journal's only record with this text.
fn damage(journal: &Path, text: &str) {
    for entry in fs::read_dir(journal).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|name| name != "segment") {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|some| some == text.as_bytes()) {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("no record has {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_of_the_journal_alone_has_what_waits_on_sqlite() {
    journal_alone(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_of_the_journal_alone_has_what_waits_on_postgresql() {
    journal_alone(Database::postgres().await).await;
}

async fn journal_alone(database: Database) {
    let (data, backups) =
        (crate::support::temporary::directory(), crate::support::temporary::directory());
    let mut server = Binary::start(data.path(), &database.settings()).await;
    let (key, _) = server.first_keys().await;
    let mut ids = post_all(&server, &key, 5).await;
    stored(&database, data.path(), 5).await;
    let lock = Lock::take(&database, data.path()).await;
    ids.extend(post_waiting(&server, &key, 4).await);
    let backup = backups.path().join("backup");
    let arguments = ["backup", backup.to_str().unwrap(), "--journal-only"];
    let made = run_json(data.path(), &database, &arguments).await;
    assert_eq!(made["database"], Value::Null, "{made}");
    let mut names: Vec<_> = fs::read_dir(&backup)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["backup.json", "journal", "marked"]);
    server.kill().await;
    lock.release().await;

    // The copy of the database that is left to whoever makes the backup.
    if let Database::Sqlite = database {
        // Whoever had it open last has written its log into it.
        assert!(!data.path().join("hookgate.db-wal").exists());
        fs::copy(data.path().join("hookgate.db"), backup.join("hookgate.db")).unwrap();
    }
    assert_eq!(database.events(&backup).await.len(), 5);
    let server = Binary::start(&backup, &database.settings()).await;
    stored(&database, &backup, ids.len()).await;
    server.stop().await;
    ids.sort_unstable();
    assert_eq!(database.events(&backup).await, ids);
}
