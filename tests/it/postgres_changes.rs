//! PostgreSQL that changes under a server: a failover, a fenced primary, a long reader, a strange role or encoding.

mod gone;

use hookgate::domain::{Actor, Org, OrgId};
use hookgate::runtime::Clock;
use hookgate::store::Store;
use hookgate::store::StoreMetrics;
use hookgate::telemetry::Registry;
use reqwest::Method;
use sqlx::{Connection, PgConnection};
use tokio::task::block_in_place;

use crate::spine::the_whole_way;
use crate::support::answer::{answer, json};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::postgres::{PrivatePostgres, fresh_database};
use crate::support::wait::until;

async fn post(server: &Binary, key: &str, count: usize) {
    for _ in 0..count {
        let request = client().request(Method::POST, format!("{}/api/events", server.base_url));
        let event = r#"{"type":"a","payload":1}"#;
        answer(json(request.header("x-api-key", key), event)).await.expect(202);
    }
}

async fn stored(url: &str, events: i64) {
    until("every event is stored", async || {
        let Ok(mut connection) = PgConnection::connect(url).await else { return false };
        let count = sqlx::query_scalar("SELECT count(*) FROM events");
        count.fetch_one(&mut connection).await.ok() == Some(events)
    })
    .await;
}

/// A standby that has every transaction of the primary before its client is told that it is committed.
async fn synchronous_standby(primary: &PrivatePostgres) -> PrivatePostgres {
    let standby = block_in_place(|| primary.standby());
    let settings = ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"];
    primary.execute("postgres", &settings).await;
    let mut connection = PgConnection::connect(&primary.url("postgres")).await.unwrap();
    until("the standby is synchronous", async || {
        let state = sqlx::query_scalar("SELECT sync_state FROM pg_stat_replication");
        let state: Option<String> = state.fetch_optional(&mut connection).await.unwrap();
        state.as_deref() == Some("sync")
    })
    .await;
    connection.close().await.unwrap();
    standby
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_to_a_standby_loses_and_repeats_nothing_although_the_old_primary_still_answers() {
    let primary = block_in_place(PrivatePostgres::start);
    let database = primary.fresh_database().await.rsplit('/').next().unwrap().to_owned();
    let standby = synchronous_standby(&primary).await;
    let url = format!("postgres://postgres@{},{}/{database}", standby.host(), primary.host());
    let dir = crate::support::temporary::directory();
    let mut server = Binary::start(dir.path(), &[("DATABASE_URL", &url)]).await;
    let (key, _) = server.first_keys().await;
    post(&server, &key, 20).await;
    stored(&standby.url(&database), 20).await;

    // The old primary is fenced: it answers, and takes no writes. Nothing is there when the standby is promoted.
    let fence = ["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"];
    primary.execute("postgres", &fence).await;
    post(&server, &key, 5).await;
    block_in_place(|| standby.promote());
    post(&server, &key, 5).await;
    stored(&standby.url(&database), 30).await;
    // Reads, too, are answered by the new one.
    let url = format!("{}/api/events?limit=100", server.base_url);
    until("lists are of the new primary", async || {
        let list = answer(client().get(&url).header("x-api-key", &key)).await;
        list.status == 200 && list.expect(200)["data"].as_array().unwrap().len() == 30
    })
    .await;

    block_in_place(|| primary.stop());
    post(&server, &key, 5).await;
    stored(&standby.url(&database), 35).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_past_a_pooler_follows_a_failover() {
    let primary = block_in_place(PrivatePostgres::start);
    let database = primary.fresh_database().await.rsplit('/').next().unwrap().to_owned();
    let standby = synchronous_standby(&primary).await;
    let url = format!("postgres://postgres@{},{}/{database}", standby.host(), primary.host());
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("DATABASE_LISTEN_URL", url.as_str()),
        ("DATABASE_PREPARED", "false"),
    ];
    // It migrates, which the standby that is named first would refuse.
    let dir = crate::support::temporary::directory();
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    let listens = async |at: &PrivatePostgres| {
        let Ok(mut other) = PgConnection::connect(&at.url(&database)).await else { return false };
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut other).await.unwrap() == 1
    };
    until("it listens to the primary", async || listens(&primary).await).await;
    post(&server, &key, 5).await;
    stored(&standby.url(&database), 5).await;
    block_in_place(|| primary.stop());
    block_in_place(|| standby.promote());
    until("it listens to the new primary", async || listens(&standby).await).await;
    post(&server, &key, 5).await;
    stored(&standby.url(&database), 10).await;
    let log = server.stop().await;
    let hosts = format!("postgres://{},{}/{database}", standby.host(), primary.host());
    assert!(log.iter().any(|line| line.contains(&hosts)), "{log:#?}");
    let server = Binary::start(dir.path(), &settings).await;
    post(&server, &key, 1).await;
    stored(&standby.url(&database), 11).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_has_neither_notices_nor_lines_of_the_source_of_postgresql() {
    let server = block_in_place(PrivatePostgres::start);
    server.execute("postgres", &["CREATE ROLE weak LOGIN", "CREATE DATABASE weak"]).await;
    let no_right = server.url("weak").replace("postgres@", "weak@");
    let refused = [(server.url("nowhere"), "does not exist"), (no_right, "permission denied")];
    for (url, reason) in refused {
        let dir = crate::support::temporary::directory();
        let (_, log) = Binary::fail_to_start(dir.path(), &[("DATABASE_URL", &url)]).await;
        let log = log.concat();
        assert!(log.contains(reason) && !log.contains(" at line "), "{log}");
    }

    let (dir, url) = (crate::support::temporary::directory(), server.url("weak"));
    let mut started = Binary::start(dir.path(), &[("DATABASE_URL", &url)]).await;
    let (key, _) = started.first_keys().await;
    let chatty = [
        "CREATE FUNCTION chat() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE NOTICE 'somebody chats'; RETURN NEW; END $$",
        "CREATE TRIGGER chat BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION chat()",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'not this one'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW
             WHEN (NEW.account_id = 'poison') EXECUTE FUNCTION refuse()",
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'no endpoint now' USING ERRCODE = '42501'; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON endpoints FOR EACH ROW EXECUTE FUNCTION fail()",
    ];
    server.execute("weak", &chatty).await;
    post(&started, &key, 2).await;
    let send = async |path: &str, body: &str| {
        let request = client().request(Method::POST, format!("{}{path}", started.base_url));
        answer(json(request.header("x-api-key", &key), body.to_owned())).await
    };
    send("/api/events", r#"{"type":"a","payload":1,"account_id":"poison"}"#).await.expect(202);
    let failed = send("/api/endpoints", r#"{"url":"https://example.com/"}"#).await;
    assert_eq!(failed.status, 503, "{}", failed.text);
    stored(&url, 2).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut detail = None;
    until("the refused event is a dead letter", async || {
        let sql = "SELECT detail FROM dead_letters";
        detail = sqlx::query_scalar::<_, String>(sql).fetch_optional(&mut other).await.unwrap();
        detail.is_some()
    })
    .await;
    let detail = detail.unwrap();
    assert!(detail.ends_with("not this one"), "{detail}");
    let log = started.stop().await.concat();
    assert!(log.contains("no endpoint now"), "{log}");
    for noise in ["somebody chats", "NOTICE", " at line ", "pl_exec.c", "routine"] {
        assert!(!log.contains(noise), "{noise}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_that_takes_writes_again_is_used_again() {
    let server = block_in_place(PrivatePostgres::start);
    let url = server.fresh_database().await;
    let config = hookgate::config::StoreConfig::in_directory("unused");
    let metrics = StoreMetrics::register(&Registry::new()).unwrap();
    let store = Store::connect_postgres(&url, &config, metrics).await.unwrap();
    store.migrate_up().await.unwrap();
    let now = Clock::system().now();
    let add = async || {
        let org = Org::new(OrgId::mint(now), "some", now);
        store.system().insert_org(&org, &Actor::CLI).await
    };
    add().await.unwrap();
    let fence = |on: &str| format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
    let reload = "SELECT pg_reload_conf()";
    server.execute("postgres", &[&fence("on"), reload]).await;
    until("it takes no writes", async || add().await.is_err()).await;
    assert!(add().await.unwrap_err().is_away());
    let lift = "SET default_transaction_read_only = off";
    server.execute("postgres", &[lift, &fence("off"), reload]).await;
    until("it takes writes", async || add().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn database_in_another_encoding_is_refused_at_the_start() {
    let server = block_in_place(PrivatePostgres::start);
    let create = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    server.execute("postgres", &[create]).await;
    let dir = crate::support::temporary::directory();
    let (status, log) =
        Binary::fail_to_start(dir.path(), &[("DATABASE_URL", &server.url("latin"))]).await;
    assert_eq!(status.code(), Some(1));
    assert!(log.iter().any(|line| line.contains("encoding is LATIN1")), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn role_with_settings_of_its_own_works_like_any_other() {
    let server = block_in_place(PrivatePostgres::start);
    let settings = [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "TimeZone = 'Asia/Kolkata'",
        "DateStyle = 'German, DMY'",
        "IntervalStyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "standard_conforming_strings = off",
        "extra_float_digits = -15",
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "idle_session_timeout = '50ms'",
        "search_path = 'own', 'public'",
        "enable_indexscan = off",
        "enable_nestloop = off",
        "enable_seqscan = off",
        "client_encoding = 'LATIN1'",
        "transform_null_equals = on",
        "synchronous_commit = off",
    ];
    let alter: Vec<String> =
        settings.iter().map(|setting| format!("ALTER ROLE odd SET {setting}")).collect();
    let mut statements = vec!["CREATE ROLE odd LOGIN"];
    statements.extend(alter.iter().map(String::as_str));
    statements.push("CREATE DATABASE odd OWNER odd TEMPLATE template0");
    server.execute("postgres", &statements).await;
    server.execute("odd", &["CREATE SCHEMA own AUTHORIZATION odd"]).await;
    let dir = crate::support::temporary::directory();
    let url = server.url("odd").replace("postgres@", "odd@");
    the_whole_way(dir.path(), &[("DATABASE_URL", &url)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_that_takes_long_stops_neither_the_start_nor_the_storing() {
    let url = fresh_database().await;
    let dir = crate::support::temporary::directory();
    let settings = [("DATABASE_URL", url.as_str())];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    post(&server, &key, 1).await;
    stored(&url, 1).await;
    server.stop().await;

    // The last of the coming days is missing, as after midnight, and a dump holds the tables.
    let mut other = PgConnection::connect(&url).await.unwrap();
    let last = "SELECT max(relname)::text FROM pg_class WHERE relname ~ '^events_p[0-9]{8}$'";
    let last: String = sqlx::query_scalar(last).fetch_one(&mut other).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TABLE {last}")))
        .execute(&mut other)
        .await
        .unwrap();
    let dump = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                LOCK TABLE events, deliveries, delivery_attempts IN ACCESS SHARE MODE";
    sqlx::raw_sql(dump).execute(&mut other).await.unwrap();
    let server = Binary::start(dir.path(), &settings).await;
    post(&server, &key, 50).await;
    stored(&url, 51).await;
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    until("the partition is there", async || {
        let exists = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(&last);
        exists.fetch_one(&mut other).await.unwrap()
    })
    .await;
    server.stop().await;
}

/// Partitions are made seven days ahead, so this takes that no server has run in the week before.
#[tokio::test(flavor = "multi_thread")]
async fn dump_over_a_day_whose_partition_is_missing_leaves_events_in_the_journal_until_it_ends() {
    let url = fresh_database().await;
    let dir = crate::support::temporary::directory();
    let settings = [("DATABASE_URL", url.as_str())];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    post(&server, &key, 1).await;
    stored(&url, 1).await;
    server.stop().await;

    let mut other = PgConnection::connect(&url).await.unwrap();
    let days = "SELECT string_agg(format('DROP TABLE %I', relname), ';') FROM pg_class
                WHERE relname ~ '^events_p[0-9]{8}$'";
    let drop_days: String = sqlx::query_scalar(days).fetch_one(&mut other).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop_days)).execute(&mut other).await.unwrap();
    let dump = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                LOCK TABLE events, deliveries, delivery_attempts IN ACCESS SHARE MODE";
    sqlx::raw_sql(dump).execute(&mut other).await.unwrap();
    let server = Binary::start(dir.path(), &settings).await;
    post(&server, &key, 5).await;
    let health = format!("{}/api/health", server.base_url);
    let health = async || answer(client().get(&health)).await.expect(200);
    until("the events wait", async || health().await["queue"]["events"] == 5).await;
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    stored(&url, 5).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_waits_for_connection_slots() {
    let server = block_in_place(PrivatePostgres::start);
    let limited = [
        "CREATE ROLE few LOGIN CONNECTION LIMIT 1",
        "CREATE DATABASE few OWNER few TEMPLATE template0",
    ];
    server.execute("postgres", &limited).await;
    let url = server.url("few").replace("postgres@", "few@");
    let taken = PgConnection::connect(&url).await.unwrap();
    let dir = crate::support::temporary::directory();
    let settings = [("DATABASE_URL", url.as_str()), ("DATABASE_TIMEOUT", "300ms")];
    let mut started = Binary::start(dir.path(), &settings).await;
    taken.close().await.unwrap();
    server.execute("postgres", &["ALTER ROLE few CONNECTION LIMIT 50"]).await;
    let (key, _) = started.first_keys().await;
    post(&started, &key, 1).await;
    stored(&server.url("few"), 1).await;
    started.stop().await;
}
