//! Organisations and keys across real servers: a change on one takes effect on the other, and a deletion
//! continues after the server that began it is killed.

use std::path::Path;

use reqwest::{Client, Method};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::support::binary::Binary;
use crate::support::client;
use crate::support::postgres::fresh_database;
use crate::support::wait::until;

/// Far longer than any test: only hints are in time.
const NO_POLLING: (&str, &str) = ("AUTH_POLL_INTERVAL", "1h");

async fn ask(
    client: &Client,
    server: &Binary,
    method: Method,
    path: &str,
    key: &str,
    body: &str,
) -> (u16, Value) {
    let request = client
        .request(method, format!("{}{path}", server.base_url))
        .header("x-api-key", key)
        .header("content-type", "application/json");
    let request = if body.is_empty() { request } else { request.body(body.to_owned()) };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

/// Asks who the key is until the status is this one.
async fn until_status(client: &Client, server: &Binary, key: &str, status: u16) {
    until("the other server answers so", async || {
        ask(client, server, Method::GET, "/api/org", key, "").await.0 == status
    })
    .await;
}

async fn make_key(client: &Client, server: &Binary, key: &str) -> (String, String) {
    let body = r#"{"name":"made"}"#;
    let (status, made) = ask(client, server, Method::POST, "/api/keys", key, body).await;
    assert_eq!(status, 201, "{made}");
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

async fn two_servers(dir: &Path, url: &str, settings: &[(&str, &str)]) -> (Binary, Binary) {
    let settings: Vec<_> = settings.iter().copied().chain([("DATABASE_URL", url)]).collect();
    let first = Binary::start(&dir.join("first"), &settings).await;
    (first, Binary::start(&dir.join("second"), &settings).await)
}

#[tokio::test]
async fn what_one_server_revokes_suspends_and_deletes_another_refuses_by_the_hint_alone() {
    let dir = crate::support::temporary::directory();
    let url = fresh_database().await;
    let (mut first, second) = two_servers(dir.path(), &url, &[NO_POLLING]).await;
    let (key, operator) = first.first_keys().await;
    let client = client();
    let (id, made) = make_key(&client, &first, &key).await;
    until_status(&client, &second, &made, 200).await;
    let revoke = format!("/api/keys/{id}");
    assert_eq!(ask(&client, &first, Method::DELETE, &revoke, &key, "").await.0, 204);
    assert_eq!(ask(&client, &first, Method::GET, "/api/org", &made, "").await.0, 401);
    until_status(&client, &second, &made, 401).await;

    until_status(&client, &second, &key, 200).await;
    let (_, org) = ask(&client, &first, Method::GET, "/api/org", &key, "").await;
    let org = format!("/api/admin/orgs/{}", org["id"].as_str().unwrap());
    for (action, status) in [("/suspend", 403), ("/resume", 200)] {
        let path = format!("{org}{action}");
        assert_eq!(ask(&client, &first, Method::POST, &path, &operator, "").await.0, 200);
        assert_eq!(ask(&client, &first, Method::GET, "/api/org", &key, "").await.0, status);
        until_status(&client, &second, &key, status).await;
    }
    let limits = r#"{"burst":3}"#;
    assert_eq!(ask(&client, &first, Method::PATCH, &org, &operator, limits).await.0, 200);
    let event = r#"[{"type":"a","payload":1},{"type":"a","payload":1},{"type":"a","payload":1},{"type":"a","payload":1}]"#;
    until("the limit is noticed", async || {
        ask(&client, &second, Method::POST, "/api/events/batch", &key, event).await.0 == 429
    })
    .await;
    assert_eq!(ask(&client, &first, Method::DELETE, &org, &operator, "").await.0, 202);
    until_status(&client, &second, &key, 401).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn server_that_lost_its_listening_connection_notices_a_revocation_all_the_same() {
    let dir = crate::support::temporary::directory();
    let url = fresh_database().await;
    let (mut first, second) = two_servers(dir.path(), &url, &[]).await;
    let (key, _) = first.first_keys().await;
    let client = client();
    let (id, made) = make_key(&client, &first, &key).await;
    until_status(&client, &second, &made, 200).await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    let killed: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND query LIKE 'LISTEN%'",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert_eq!(killed, 2);
    let revoke = format!("/api/keys/{id}");
    assert_eq!(ask(&client, &first, Method::DELETE, &revoke, &key, "").await.0, 204);
    until_status(&client, &second, &made, 401).await;
    first.stop().await;
    second.stop().await;
}

/// Posts events, has their organisation deleted, kills the server when it is at it, and lets another
/// one go on.
async fn killed_deletion_goes_on(settings: &[(&str, &str)]) -> (tempfile::TempDir, Value) {
    let dir = crate::support::temporary::directory();
    let data = dir.path().join("data");
    let mut server = Binary::start(&data, settings).await;
    let (key, operator) = server.first_keys().await;
    let client = client();
    let (_, org) = ask(&client, &server, Method::GET, "/api/org", &key, "").await;
    let org = format!("/api/admin/orgs/{}", org["id"].as_str().unwrap());
    let batch = format!("[{}]", vec![r#"{"type":"a","payload":1}"#; 1_000].join(","));
    for _ in 0..20 {
        let posted = ask(&client, &server, Method::POST, "/api/events/batch", &key, &batch).await;
        assert_eq!(posted.0, 202);
    }
    assert_eq!(ask(&client, &server, Method::DELETE, &org, &operator, "").await.0, 202);
    until("rows are deleted", async || {
        ask(&client, &server, Method::GET, &org, &operator, "").await.1["deletion"]["rows"] != 0
    })
    .await;
    server.kill().await;

    let server = Binary::start(&data, settings).await;
    assert_eq!(ask(&client, &server, Method::GET, "/api/org", &key, "").await.0, 401);
    let mut gone = Value::Null;
    until("the organisation is deleted", async || {
        gone = ask(&client, &server, Method::GET, &org, &operator, "").await.1;
        gone["state"] == "deleted"
    })
    .await;
    server.stop().await;
    (dir, gone)
}

const LEFT: [&str; 4] = ["events", "api_keys", "dedup_keys", "org_usage"];

#[tokio::test]
async fn deletion_in_sqlite_that_is_killed_midway_goes_on() {
    let (dir, gone) = killed_deletion_goes_on(&[]).await;
    assert!(gone["deletion"]["rows"].as_u64().unwrap() > 0);
    let file = dir.path().join("data").join("hookgate.db");
    let mut database =
        SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    for table in LEFT {
        let sql = format!("SELECT count(*) FROM {table} WHERE org_id IS NOT NULL");
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql));
        assert_eq!(query.fetch_one(&mut database).await.unwrap(), 0, "{table}");
    }
}

#[tokio::test]
async fn deletion_in_postgres_that_is_killed_midway_goes_on() {
    let url = fresh_database().await;
    let (_dir, gone) = killed_deletion_goes_on(&[("DATABASE_URL", &url)]).await;
    assert!(gone["deletion"]["rows"].as_u64().unwrap() > 0);
    let mut database = PgConnection::connect(&url).await.unwrap();
    for table in LEFT {
        let sql = format!("SELECT count(*) FROM {table} WHERE org_id IS NOT NULL");
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql));
        assert_eq!(query.fetch_one(&mut database).await.unwrap(), 0, "{table}");
    }
}
