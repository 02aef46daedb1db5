//! Faults of the moment, made for real.

use std::sync::Arc;
use std::time::Duration;

use hookgate::config::StoreConfig;
use hookgate::store::StoreMetrics;
use hookgate::store::{Store, StoreError};
use hookgate::telemetry::Registry;
use sqlx::{Connection, SqliteConnection};

use super::fixtures::{at, persist_events, some_event, some_org};
use super::subject::config;
use crate::support::postgres::PrivatePostgres;

fn impatient(directory: &tempfile::TempDir) -> StoreConfig {
    let database_timeout = Duration::from_millis(300);
    StoreConfig { database_timeout, ..config(directory.path().to_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_server_is_an_outage_and_its_return_needs_no_new_store() {
    let server = PrivatePostgres::start();
    let directory = crate::support::temporary::directory();
    let metrics = StoreMetrics::register(&Registry::new()).unwrap();
    let url = server.fresh_database().await;
    let store = Store::connect_postgres(&url, &impatient(&directory), metrics).await.unwrap();
    store.migrate_up().await.unwrap();
    let org = some_org(at(0));
    store.system().insert_org(&org, &hookgate::domain::Actor::CLI).await.unwrap();
    let batch = [Arc::new(some_event(org.id, "a.b", at(0)))];

    server.stop();
    let error = persist_events(&store, &batch, None, at(0)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(store.ping().await.is_err());

    server.start_again();
    let persisted = persist_events(&store, &batch, None, at(0)).await.unwrap();
    assert_eq!(persisted.stored, 1);
    assert_eq!(store.org(org.id).await.unwrap(), Some(org), "what was committed is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_that_another_process_keeps_locked_is_an_outage_until_it_is_let_go() {
    let directory = crate::support::temporary::directory();
    let path = directory.path().join("hookgate.db");
    let metrics = StoreMetrics::register(&Registry::new()).unwrap();
    let store = Store::open_sqlite(&path, &impatient(&directory), metrics).await.unwrap();
    store.migrate_up().await.unwrap();
    let batch = [Arc::new(some_event(some_org(at(0)).id, "a.b", at(0)))];

    let url = format!("sqlite://{}", path.display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    let tx = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = persist_events(&store, &batch, None, at(0)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    store.ping().await.expect("readers go on beside a writer");

    tx.rollback().await.unwrap();
    let persisted = persist_events(&store, &batch, None, at(0)).await.unwrap();
    assert_eq!(persisted.stored, 1);
}
