//! How a server starts and stops: where its settings come from, what it says, what it refuses.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use hookgate::runtime::Stopwatch;
use rustix::process::{Signal, kill_process};
use sqlx::sqlite::{SqliteConnectOptions, SqliteLockingMode};
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::Place;
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::postgres::fresh_database;

fn line_with<'a>(log: &'a [String], text: &str) -> &'a str {
    log.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text}: {log:#?}"))
}

#[tokio::test]
async fn prefixed_variable_wins_and_an_empty_one_is_unset() {
    let place = Place::new();
    let status = ["migrate", "status"];
    let settings = [("DATA_DIR", "one"), ("HOOKGATE_DATA_DIR", "two"), ("DATABASE_URL", "")];
    let said = place.run_with(&["migrate", "up"], &settings).await;
    assert_eq!((said.code, place.files()), (0, vec!["two".to_owned()]), "{}", said.err);
    let empty = [("HOOKGATE_DATABASE_TIMEOUT", ""), ("DATABASE_TIMEOUT", ""), ("DATA_DIR", "two")];
    let said = place.run_with(&status, &empty).await;
    assert_eq!(said.code, 0, "{}", said.err);
    let said = place.run_with(&status, &[("HOOKGATE_DATABASE_TIMEOUT", "never")]).await;
    said.failed(2, "invalid value 'never' for '--database-timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_start_takes_its_keys_from_the_settings() {
    let place = Place::new();
    let key = async || place.run(&["key", "generate"]).await.out.trim().to_owned();
    let (tenant_key, operator_key) = (key().await, key().await);
    let file = place.path().join("operator-key");
    std::fs::write(&file, format!("{operator_key}\n")).unwrap();
    let file = file.to_str().unwrap();
    let serve = ["serve", "--port", "0"];

    let twice = [
        ("BOOTSTRAP_OPERATOR_KEY", &*operator_key),
        ("HOOKGATE_BOOTSTRAP_OPERATOR_KEY_FILE", file),
    ];
    place.run_with(&serve, &twice).await.failed(2, "BOOTSTRAP_OPERATOR_KEY_FILE are both set");
    let missing = [("BOOTSTRAP_API_KEY_FILE", "nowhere")];
    place.run_with(&serve, &missing).await.failed(2, "cannot read nowhere");
    let malformed = place.run_with(&serve, &[("BOOTSTRAP_API_KEY", "hg_s3cret")]).await;
    assert!(!malformed.err.contains("s3cret"), "{}", malformed.err);
    malformed.failed(1, "BOOTSTRAP_API_KEY is not a key");
    let equal = [("BOOTSTRAP_API_KEY", &*operator_key), ("BOOTSTRAP_OPERATOR_KEY_FILE", file)];
    place.run_with(&serve, &equal).await.failed(1, "must be different keys");
    assert!(!place.files().contains(&"data".to_owned()), "nothing was made");

    let data = place.data_dir();
    let settings = [("BOOTSTRAP_API_KEY", &*tenant_key), ("BOOTSTRAP_OPERATOR_KEY_FILE", file)];
    let server = Binary::start(&data, &settings).await;
    for (key, path) in [(&tenant_key, "api/org"), (&operator_key, "api/admin/orgs")] {
        let url = format!("{}/{path}", server.base_url);
        let answer = client().get(url).header("x-api-key", key).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let log = server.stop().await;
    assert!(!data.join("first-keys.txt").exists(), "no key needs to be shown");
    let said = log.join("\n");
    assert!(!said.contains(&tenant_key) && !said.contains(&operator_key), "{said}");
}

#[tokio::test]
async fn log_filter_that_shows_nothing_is_refused() {
    let place = Place::new();
    let said = place.run_with(&["serve", "--port", "0"], &[("RUST_LOG", "inof")]).await;
    said.failed(1, "RUST_LOG: \"inof\" shows no line of hookgate");
    assert_eq!(place.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn log_tells_what_the_server_works_with_and_what_is_unsafe() {
    let url = fresh_database().await;
    let with_password = url.replacen("://postgres@", "://postgres:s3cret@", 1);
    assert_ne!(url, with_password);
    let dir = crate::support::temporary::directory();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let settings = [("DATABASE_URL", &*with_password), ("HOST", "0.0.0.0")];
    let server = Binary::start(dir.path(), &settings).await;
    let host = url.split_once('@').unwrap().1;
    let log = server.stop().await;
    assert!(line_with(&log, "\"starting\"").contains(&format!("postgres://{host}")), "{log:#?}");
    for unsafe_setting in
        ["network in clear", "ALLOW_PRIVATE_ENDPOINTS", "SECRETS_KEY", "chmod it to 700"]
    {
        assert!(line_with(&log, unsafe_setting).contains("WARN"), "{log:#?}");
    }
    assert!(log.iter().all(|line| !line.contains("s3cret")), "{log:#?}");
    let again = Binary::start(dir.path(), &settings).await;
    line_with(&again.stop().await, "hookgate key create");
}

#[tokio::test(flavor = "multi_thread")]
async fn hang_up_without_a_certificate_is_logged_and_ends_nothing() {
    let dir = crate::support::temporary::directory();
    let server = Binary::start(dir.path(), &[("HOST", "localhost")]).await;
    kill_process(server.pid(), Signal::HUP).unwrap();
    let live = client().get(format!("{}/health/live", server.base_url)).send().await.unwrap();
    assert_eq!(live.status(), 200);
    line_with(&server.stop().await, "SIGHUP");
}

#[tokio::test(flavor = "multi_thread")]
async fn hang_up_during_the_start_is_logged_and_ends_nothing() {
    let dir = crate::support::temporary::directory();
    Binary::start(dir.path(), &[]).await.stop().await;
    // The start waits for it as long as the timeout.
    let file = SqliteConnectOptions::new().filename(dir.path().join("hookgate.db"));
    let mut other = file.locking_mode(SqliteLockingMode::Exclusive).connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE; COMMIT").execute(&mut other).await.unwrap();
    let server = Binary::start_and_hang_up(dir.path(), &[("DATABASE_TIMEOUT", "3s")]).await;
    other.close().await.unwrap();
    line_with(&server.stop().await, "SIGHUP");
}

/// A signal without a listener is lost where the server is the first process of a container.
#[tokio::test(flavor = "multi_thread")]
async fn stop_during_the_start_ends_it_in_good_order() {
    let dir = crate::support::temporary::directory();
    Binary::start(dir.path(), &[]).await.stop().await;
    let file = SqliteConnectOptions::new().filename(dir.path().join("hookgate.db"));
    let mut other = file.locking_mode(SqliteLockingMode::Exclusive).connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE; COMMIT").execute(&mut other).await.unwrap();
    let (status, log) = Binary::start_and_stop(dir.path(), &[("DATABASE_TIMEOUT", "1h")]).await;
    assert_eq!(status.code(), Some(0), "{status}: {log:#?}");
    assert!(line_with(&log, "stopping during the start").contains("SIGTERM"), "{log:#?}");
    other.close().await.unwrap();
    Binary::start(dir.path(), &[]).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_trace_id_is_logged_once_a_minute_without_its_text() {
    let dir = crate::support::temporary::directory();
    let server = Binary::start(dir.path(), &[]).await;
    for _ in 0..5 {
        let request = client().get(format!("{}/health/live", server.base_url));
        let answer = request.header("x-trace-id", "s3cret with spaces").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-trace-id"].len(), 32);
    }
    let log = server.stop().await;
    let lines = log.iter().filter(|line| line.contains("replaced an x-trace-id"));
    assert_eq!(lines.count(), 1, "{log:#?}");
    assert!(line_with(&log, "replaced an x-trace-id").contains("WARN"), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("s3cret")), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn port_in_use_and_bad_certificate_leave_the_schema_alone() {
    let url = fresh_database().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for settings in [vec![], vec![("DATABASE_URL", &*url)]] {
        let place = Place::new();
        std::fs::write(place.path().join("bad.pem"), "nothing").unwrap();
        let fail = async || {
            let serve = ["serve", "--port", &port];
            place.run_with(&serve, &settings).await.failed(1, "cannot listen on");
            let bad = ["--tls-cert", "bad.pem", "--tls-key", "bad.pem"];
            let serve = [&["serve", "--port", "0"][..], &bad].concat();
            place.run_with(&serve, &settings).await.failed(1, "bad.pem");
        };
        fail().await;
        let tables = tables(&place, settings.first().map(|(_, url)| *url)).await;
        assert_eq!(tables, 0, "{settings:?}");
        // Nor is one migrated that an earlier version has made.
        for command in [&["migrate", "up"][..], &["migrate", "down", "--yes"]] {
            let said = place.run_with(command, &settings).await;
            assert_eq!(said.code, 0, "{}", said.err);
        }
        let status = async || place.run_with(&["migrate", "status"], &settings).await.out;
        let before = status().await;
        fail().await;
        assert_eq!(status().await, before);
        let list = place.run_with(&["key", "list"], &settings).await;
        list.failed(1, "the database lacks migrations");
    }
}

/// Tables in a database.
async fn tables(place: &Place, url: Option<&str>) -> i64 {
    let Some(url) = url else {
        let file = SqliteConnectOptions::new().filename(place.data_dir().join("hookgate.db"));
        let mut database = file.create_if_missing(true).connect().await.unwrap();
        let count = sqlx::query_scalar("SELECT count(*) FROM sqlite_master");
        return count.fetch_one(&mut database).await.unwrap();
    };
    let mut database = PgConnection::connect(url).await.unwrap();
    let count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    sqlx::query_scalar(count).fetch_one(&mut database).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_makes_only_its_owner_can_read() {
    let dir = crate::support::temporary::directory();
    let data = dir.path().join("a").join("data");
    let server = Binary::start_by(
        "umask 0022; exec \"$0\" serve",
        dir.path(),
        &[("HOOKGATE_DATA_DIR", data.to_str().unwrap())],
    )
    .await;
    let mut open = vec![data.clone()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
        seen += 1;
        if path.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(seen > 5, "{seen}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_is_over_in_time_while_the_sqlite_file_is_locked() {
    let dir = crate::support::temporary::directory();
    let settings = [("SHUTDOWN_TIMEOUT", "1s"), ("DATABASE_TIMEOUT", "20s")];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    let file = SqliteConnectOptions::new().filename(dir.path().join("hookgate.db"));
    let mut other = file.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let post = client().post(format!("{}/api/events", server.base_url)).header("x-api-key", key);
    let post = post.header("content-type", "application/json");
    let answer = post.body(r#"{"type":"a","payload":1}"#).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let stopping = Stopwatch::start();
    let log = server.stop().await;
    // Far below the time that the lock is waited for, on a busy machine, too.
    assert!(stopping.elapsed() < Duration::from_secs(10), "{:?}: {log:#?}", stopping.elapsed());
    other.close().await.unwrap();
}

#[tokio::test]
async fn database_of_something_else_is_not_migrated_unasked() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("data")).unwrap();
    let file = SqliteConnectOptions::new().filename(place.path().join("data/hookgate.db"));
    let file = file.create_if_missing(true).locking_mode(SqliteLockingMode::Normal);
    let mut other = file.connect().await.unwrap();
    sqlx::raw_sql("CREATE TABLE theirs (id)").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    let url = fresh_database().await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE theirs (id int)").execute(&mut other).await.unwrap();
    for settings in [vec![], vec![("DATABASE_URL", &*url)]] {
        for command in
            [&["migrate", "up"][..], &["serve", "--port", "0"], &["org", "create", "--name", "a"]]
        {
            let said = place.run_with(command, &settings).await;
            said.failed(1, "holds tables of something else, such as theirs");
        }
        let said = place.run_with(&["migrate", "up", "--yes"], &settings).await;
        assert_eq!(said.code, 0, "{}", said.err);
        let said = place.run_with(&["migrate", "up"], &settings).await;
        assert_eq!(said.code, 0, "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_is_reverted_only_when_asked_and_beside_no_server() {
    let url = fresh_database().await;
    let polling = [("DATABASE_URL", &*url), ("DATABASE_PREPARED", "false")];
    for settings in [vec![], vec![("DATABASE_URL", &*url)], polling.to_vec()] {
        let place = Place::new();
        let server = Binary::start(&place.data_dir(), &settings).await;
        let down = ["migrate", "down", "--yes"];
        place.run_with(&down, &settings).await.failed(1, "a server works with this database");
        if !settings.is_empty() {
            // From another machine, where its journal is not seen.
            let elsewhere = Place::new().run_with(&down, &settings).await;
            elsewhere.failed(1, "a server works with this database");
        }
        server.stop().await;
        place.run_with(&down[..2], &settings).await.failed(1, "--yes reverts without asking");
        let said = place.run_with(&down, &settings).await;
        assert_eq!(said.code, 0, "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_keys_are_in_a_private_file_where_no_terminal_shows_them() {
    let place = Place::new();
    let data = place.data_dir();
    // Keys that cannot be written down are not made.
    std::fs::create_dir(data.join("first-keys.new")).unwrap();
    let said = place.run(&["serve", "--port", "0"]).await;
    said.failed(1, "cannot write the first keys to ./data/first-keys.new");
    assert_eq!(place.run(&["key", "list"]).await.out, "none\n");
    std::fs::remove_dir(data.join("first-keys.new")).unwrap();

    let mut server = Binary::start(&data, &[]).await;
    let (key, operator) = server.first_keys().await;
    let mode = data.join("first-keys.txt").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let log = server.stop().await;
    line_with(&log, "first-keys.txt");
    assert!(log.iter().all(|line| !line.contains(&key) && !line.contains(&operator)), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_start_waits_for_space_for_its_small_files() {
    for (name, said) in [
        ("marked.new", "cannot read or write ./data/marked: No space left"),
        ("first-keys.new", "cannot write the first keys to ./data/first-keys.new: No space left"),
    ] {
        let place = Place::new();
        let data = place.data_dir();
        // Every byte that is written there finds no space.
        std::os::unix::fs::symlink("/dev/full", data.join(name)).unwrap();
        let mut server = Binary::start(&data, &[]).await;
        let (key, _) = server.first_keys().await;
        let url = format!("{}/api/org", server.base_url);
        let known = client().get(url).header("x-api-key", key).send().await.unwrap();
        assert_eq!(known.status(), 200, "{name}");
        let log = server.stop().await;
        let said = said.replace("./data", data.to_str().unwrap());
        assert!(line_with(&log, &said).contains("WARN"), "{log:#?}");
        line_with(&log, "the store is back");
        assert!(data.join("marked").is_file() && !data.join(name).exists(), "{name}");
        // Nothing is half made.
        Binary::start(&data, &[]).await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn store_without_an_operator_gets_a_key_for_one() {
    let place = Place::new();
    place.json(&["org", "create", "--name", "acme"]).await;
    Binary::start(&place.data_dir(), &[]).await.stop().await;
    let written = std::fs::read_to_string(place.data_dir().join("first-keys.txt")).unwrap();
    assert!(written.contains("operator key   hg_") && !written.contains("API key"), "{written}");
    let keys = place.json(&["key", "list"]).await;
    assert_eq!((keys.as_array().unwrap().len(), &keys[0]["role"]), (1, &"operator".into()));
    assert_eq!(place.json(&["org", "list"]).await.as_array().unwrap().len(), 1);
    std::fs::remove_file(place.data_dir().join("first-keys.txt")).unwrap();
    Binary::start(&place.data_dir(), &[]).await.stop().await;
    assert!(!place.data_dir().join("first-keys.txt").exists());
}
