//! A store that is away: PostgreSQL stopped under a server and before its start, and a SQLite file that is locked.

use hookgate::domain::{ApiKeyId, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteLockingMode};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::task::block_in_place;

use crate::support::answer::{Answer, answer, json};
use crate::support::binary::Binary;
use crate::support::postgres::PrivatePostgres;
use crate::support::wait::until;
use crate::support::{client, forged_key};

const EVENT: &str = r#"{"type":"a","payload":1}"#;

async fn start(data_dir: &std::path::Path, url: &str) -> Binary {
    let settings =
        [("DATABASE_URL", url), ("DATABASE_TIMEOUT", "300ms"), ("AUTH_POLL_INTERVAL", "50ms")];
    Binary::start(data_dir, &settings).await
}

async fn get(server: &Binary, path: &str) -> Answer {
    answer(client().request(Method::GET, format!("{}{path}", server.base_url))).await
}

async fn post(server: &Binary, key: &str) -> Answer {
    let request = client().request(Method::POST, format!("{}/api/events", server.base_url));
    answer(json(request.header("x-api-key", key), EVENT)).await
}

async fn stored(url: &str, events: i64) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    until("every event is stored", async || {
        let count = sqlx::query_scalar("SELECT count(*) FROM events");
        count.fetch_one(&mut connection).await.ok() == Some(events)
    })
    .await;
}

/// Takes events, and does not get them through.
async fn expect_away(server: &Binary) {
    let ready = get(server, "/health/ready").await.expect(200);
    assert_eq!(ready["checks"], json!({"journal": "ok", "disk": "ok", "process": "ok"}));
    // Probes share what the store has answered a moment ago.
    until("the store's absence is noticed", async || {
        get(server, "/health/ready?strict").await.status == 503
    })
    .await;
    let strict = get(server, "/health/ready?strict").await.expect(503);
    assert_eq!(strict["checks"]["store"], "unreachable");
    let report: Value = get(server, "/api/health").await.expect(200);
    assert_eq!(
        (&report["status"], &report["queue"]["journal"]),
        (&json!("degraded"), &json!("ok"))
    );
    assert_eq!(report["store"]["reachable"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_starts_while_postgresql_is_away_and_works_once_it_is_there() {
    let postgres = PrivatePostgres::start();
    let url = postgres.fresh_database().await;
    block_in_place(|| postgres.stop());
    let dir = crate::support::temporary::directory();
    let mut server = start(dir.path(), &url).await;
    expect_away(&server).await;
    let unknown = forged_key(ApiKeyId::mint(Timestamp::from_micros(1)), 1);
    let refused = post(&server, &unknown).await;
    refused.expect_problem(503, "auth_unavailable");
    assert_eq!(refused.header("retry-after"), "5");

    // The schema is created, and the first keys are, as at any other first start.
    block_in_place(|| postgres.start_again());
    let (key, _) = server.first_keys().await;
    post(&server, &key).await.expect(202);
    stored(&url, 1).await;
    until("strict readiness", async || get(&server, "/health/ready?strict").await.status == 200)
        .await;

    block_in_place(|| postgres.stop());
    for _ in 0..5 {
        post(&server, &key).await.expect(202);
    }
    expect_away(&server).await;
    block_in_place(|| postgres.start_again());
    stored(&url, 6).await;
    until("strict readiness", async || get(&server, "/health/ready?strict").await.status == 200)
        .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_starts_without_its_store_stores_what_the_last_run_left_once_it_is_back() {
    let postgres = PrivatePostgres::start();
    let url = postgres.fresh_database().await;
    let dir = crate::support::temporary::directory();
    let mut server = start(dir.path(), &url).await;
    let (key, _) = server.first_keys().await;
    post(&server, &key).await.expect(202);
    stored(&url, 1).await;
    block_in_place(|| postgres.stop());
    for _ in 0..5 {
        post(&server, &key).await.expect(202);
    }
    server.kill().await;

    let server = start(dir.path(), &url).await;
    expect_away(&server).await;
    post(&server, &key).await.expect_problem(503, "auth_unavailable");
    block_in_place(|| postgres.start_again());
    until("the key is known again", async || post(&server, &key).await.status == 202).await;
    stored(&url, 7).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_still_waits_for_its_store_stops_when_it_is_told_to() {
    let postgres = PrivatePostgres::start();
    let url = postgres.fresh_database().await;
    block_in_place(|| postgres.stop());
    let dir = crate::support::temporary::directory();
    let server = start(dir.path(), &url).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_starts_while_its_sqlite_file_is_locked_and_works_once_it_is_free() {
    let dir = crate::support::temporary::directory();
    let settings = [("DATABASE_TIMEOUT", "300ms")];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    post(&server, &key).await.expect(202);
    server.stop().await;

    let file = SqliteConnectOptions::new().filename(dir.path().join("hookgate.db"));
    let mut other = file.locking_mode(SqliteLockingMode::Exclusive).connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE; COMMIT").execute(&mut other).await.unwrap();
    let server = Binary::start(dir.path(), &settings).await;
    expect_away(&server).await;
    post(&server, &key).await.expect_problem(503, "auth_unavailable");
    other.close().await.unwrap();
    until("the key is known again", async || post(&server, &key).await.status == 202).await;
    until("strict readiness", async || get(&server, "/health/ready?strict").await.status == 200)
        .await;
    server.stop().await;
}
