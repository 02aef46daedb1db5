//! The connections of reads: their time limit, their end, and that nothing else waits behind them.

use std::sync::Arc;
use std::time::Duration;

use hookgate::config::StoreConfig;
use hookgate::domain::{EventFilter, OrgId, Role};
use hookgate::store::{Store, StoreError};
use tokio::task::JoinSet;

use super::fixtures::{
    FIRST_PAGE, add_endpoint, add_org, at, claim_from, persist, room, some_event, some_key,
};
use super::rollups::{always, fold, labelled};
use super::{Subject, on_both};
use crate::support::wait::until;

on_both!(
    read_ends_at_its_time_limit_and_gives_its_connection_back,
    nothing_else_waits_behind_reads,
    closed_store_ends_its_reads,
    sum_takes_row_by_row_and_holds_none,
);

/// Makes every list of events count forever.
pub(crate) const ENDLESS: &str = "ALTER TABLE events RENAME TO events_apart;
    CREATE VIEW events AS SELECT * FROM events_apart
    WHERE (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
           SELECT count(*) FROM n) = 0";

/// A store whose reads may take so long, with two events that are listed forever.
async fn endless(subject: &Subject, read_timeout: Duration) -> (Store, OrgId) {
    let org = add_org(subject).await;
    let events = [some_event(org, "a.b", at(0)), some_event(org, "a.b", at(1))];
    persist(subject, &events, at(1)).await;
    subject.raw(ENDLESS, ENDLESS).await;
    let settings = |config: StoreConfig| StoreConfig { read_timeout, ..config };
    (subject.another_set(settings).await, org)
}

async fn list(store: &Store, org: OrgId) -> Result<(), StoreError> {
    store.for_reads().events(org, &EventFilter::default(), FIRST_PAGE).await.map(drop)
}

/// Starts as many lists as there are connections, and waits until each has one.
async fn occupy(store: &Store, org: OrgId) -> JoinSet<Result<(), StoreError>> {
    let mut lists = JoinSet::new();
    for _ in 0..store.connection_split().reads {
        let store = store.clone();
        lists.spawn(async move { list(&store, org).await });
    }
    let quick = || tokio::time::timeout(Duration::from_millis(100), answers(store, org));
    until("the connections are taken", async || quick().await.is_err()).await;
    lists
}

/// Reads what is found at once.
async fn answers(store: &Store, org: OrgId) {
    store.for_reads().org(org).await.unwrap().unwrap();
}

async fn read_ends_at_its_time_limit_and_gives_its_connection_back(subject: &Subject) {
    let (store, org) = endless(subject, Duration::from_millis(200)).await;
    // More often than there are connections: each comes back.
    for _ in 0..2 * store.connection_split().reads {
        let error = list(&store, org).await.unwrap_err();
        assert!(matches!(error, StoreError::ReadTimedOut), "{error}");
        assert!(!error.is_connection());
    }
    answers(&store, org).await;
    idle(subject).await;
}

// Through a pooler an abandoned read ends at its time limit: PostgreSQL cannot be told which session to cancel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_read_of_sqlite_ends_and_gives_its_connection_back() {
    abandoned_read_ends_and_gives_its_connection_back(&Subject::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_read_of_postgresql_ends_and_gives_its_connection_back() {
    abandoned_read_ends_and_gives_its_connection_back(&Subject::postgres().await).await;
}

async fn abandoned_read_ends_and_gives_its_connection_back(subject: &Subject) {
    let (store, org) = endless(subject, Duration::from_hours(1)).await;
    for _ in 0..3 {
        let lists = occupy(&store, org).await;
        drop(lists);
        answers(&store, org).await;
    }
    idle(subject).await;
}

/// Waits until PostgreSQL runs no list any more. SQLite's ended, since its connections answer.
async fn idle(subject: &Subject) {
    let running = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND query LIKE '%FROM events%'
          AND pid <> pg_backend_pid()";
    until("the lists have ended", async || {
        !subject.is_postgres() || subject.count(running).await == 0
    })
    .await;
}

async fn nothing_else_waits_behind_reads(subject: &Subject) {
    let (store, org) = endless(subject, Duration::from_hours(1)).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let _lists = occupy(&store, org).await;
    store.ping().await.unwrap();
    let key = some_key(Role::Tenant(org), at(0));
    let keys = store.for_keys();
    let mark = keys.system().keys_changed(None).await.unwrap().mark;
    let by = hookgate::domain::Actor::CLI;
    store.system().insert_key(&key, &by).await.unwrap().unwrap();
    assert!(keys.system().key(key.id).await.unwrap().is_some());
    let changed = keys.system().keys_changed(Some(mark)).await.unwrap().changes;
    assert!(changed.iter().any(|change| change.key == key.id));
    let room = room(5, at(60));
    assert!(claim_from(&store.for_delivery(), room, &[], at(1)).await.is_empty());
    assert!(store.endpoint(org, endpoint.id).await.unwrap().is_some());
}

async fn closed_store_ends_its_reads(subject: &Subject) {
    let (store, org) = endless(subject, Duration::from_millis(200)).await;
    let list = list(&store, org);
    let (ended, ()) = tokio::join!(list, store.close());
    assert!(ended.is_err());
    let error = store.for_reads().org(org).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_that_loses_its_connection_is_repeated() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    persist(&subject, &[some_event(org, "a.b", at(0))], at(0)).await;
    let settings =
        |config: StoreConfig| StoreConfig { read_timeout: Duration::from_mins(1), ..config };
    let store = Arc::new(subject.another_set(settings).await);
    let mut blocker = subject.connect_postgres().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .execute(&mut blocker)
        .await
        .unwrap();
    let mut reading = JoinSet::new();
    let reader = Arc::clone(&store);
    reading.spawn(async move { list(&reader, org).await });
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for _ in 0..3 {
        until("a waiting list is ended", async || subject.count(end).await != 0).await;
    }
    sqlx::raw_sql("COMMIT").execute(&mut blocker).await.unwrap();
    reading.join_next().await.unwrap().unwrap().expect("an answer by the fourth connection");
}

/// Makes the hours of every account endless.
const ENDLESS_HOURS: &str = "ALTER TABLE rollup_hours RENAME TO rollup_hours_apart;
    CREATE VIEW rollup_hours AS
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
    SELECT h.* FROM n CROSS JOIN rollup_hours_apart h";

/// The first of endless rows cannot be read: a sum that takes row by row says so, one that gathers them first never ends.
async fn sum_takes_row_by_row_and_holds_none(subject: &Subject) {
    let org = add_org(subject).await;
    persist(subject, &[labelled(org, "a.b", "a1", "u1", at(0))], at(1)).await;
    fold(&subject.store).await;
    let damage = |bytes: &str| format!("UPDATE rollup_hours SET totals = {bytes}; {ENDLESS_HOURS}");
    subject.raw(&damage("x'ff'"), &damage("'\\xff'")).await;
    let settings =
        |config: StoreConfig| StoreConfig { read_timeout: Duration::from_secs(5), ..config };
    let store = subject.another_set(settings).await.for_reads();
    let error = store.account_window(org, "a1", always()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    let error = store.types_window(org, Some("a1"), always()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}
