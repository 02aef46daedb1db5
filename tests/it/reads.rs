//! Keys under expensive reads, on both stores: a key that is revoked is refused, and a new one is known at once.

use std::time::Duration;

use hookgate::runtime::Stopwatch;
use reqwest::{Client, Method};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tokio::task::JoinSet;

use crate::store::ENDLESS;
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::postgres::fresh_database;
use crate::support::wait::until;

/// Clients that read without a pause.
const READERS: usize = 32;
/// Far more than a revocation takes, and far less than the reads.
const SOON: Duration = Duration::from_secs(10);

async fn ask(
    client: &Client,
    (method, url): (Method, String),
    key: &str,
    body: &str,
) -> (u16, Value) {
    let request = client
        .request(method, url)
        .header("x-api-key", key)
        .header("content-type", "application/json");
    let request = if body.is_empty() { request } else { request.body(body.to_owned()) };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_revoked_and_made_beside_expensive_reads_in_sqlite() {
    keys_beside_reads(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_revoked_and_made_beside_expensive_reads_in_postgres() {
    keys_beside_reads(Some(fresh_database().await)).await;
}

async fn keys_beside_reads(database: Option<String>) {
    let dir = crate::support::temporary::directory();
    let mut settings = vec![("READ_TIMEOUT", "20s"), ("READS_PER_ORG", "32")];
    settings.extend(database.as_deref().map(|url| ("DATABASE_URL", url)));
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, operator) = server.first_keys().await;
    let client = client();
    let at = |path: &str| format!("{}{path}", server.base_url);
    let post = |path: &str| (Method::POST, at(path));
    let get = |path: &str| (Method::GET, at(path));
    let event = r#"{"type":"a.b","payload":1}"#;
    assert_eq!(ask(&client, post("/api/events"), &key, event).await.0, 202);
    until("the event is stored", async || {
        !ask(&client, get("/api/events"), &key, "").await.1["data"][0].is_null()
    })
    .await;
    execute(dir.path(), database.as_deref(), ENDLESS).await;
    let made = ask(&client, post("/api/keys"), &key, r#"{"name":"made"}"#).await.1;
    let made_key = made["key"].as_str().unwrap().to_owned();
    let org = ask(&client, get("/api/org"), &key, "").await.1["id"].as_str().unwrap().to_owned();

    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (client, url, key) = (client.clone(), at("/api/events"), key.clone());
        readers.spawn(async move {
            loop {
                let _ = client.get(&url).header("x-api-key", &key).send().await;
            }
        });
    }
    // The tenant's own reads wait: they have taken all that it may.
    until("the tenant has its reads in progress", async || {
        ask(&client, get("/api/events"), &key, "").await.0 == 429
    })
    .await;

    let ready = ask(&client, get("/health/ready"), "", "").await;
    assert_eq!(ready.0, 200, "{ready:?}");
    // A new key is found in the store, and a revoked one by the watch, as the command line changes it.
    let keys = format!("/api/admin/orgs/{org}/keys");
    let (status, new) = ask(&client, post(&keys), &operator, r#"{"name":"new"}"#).await;
    assert_eq!(status, 201, "{new}");
    let new_key = new["key"].as_str().unwrap();
    let since = Stopwatch::start();
    // A key that is known is told what is wrong with the event. One that is accepted would be stored, which never ends
    // here, and SQLite has one writer.
    let wrong = r#"{"type":1}"#;
    assert_eq!(ask(&client, post("/api/events"), new_key, wrong).await.0, 422);
    assert_eq!(ask(&client, post("/api/events"), &made_key, wrong).await.0, 422);
    let expire = "UPDATE api_keys SET expires_at = created_at, changed_at = changed_at
                  WHERE name = 'new'";
    execute(dir.path(), database.as_deref(), expire).await;
    until("the key has expired", async || {
        ask(&client, post("/api/events"), new_key, wrong).await.0 == 401
    })
    .await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    drop(readers);
    let log = server.stop().await;
    let tells = |line: &String| line.contains("database connections") && line.contains("reads ");
    assert!(log.iter().any(tells), "{log:#?}");
}

/// Runs SQL behind the server's back.
async fn execute(dir: &std::path::Path, database: Option<&str>, sql: &str) {
    match database {
        None => {
            let url = format!("sqlite://{}", dir.join("hookgate.db").display());
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
        Some(url) => {
            let mut connection = PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
    }
}
