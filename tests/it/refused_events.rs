//! Events that the store does not take although it can be reached, one in each worker, stop nobody. Nor does a batch of which
//! each part is tried until a time limit ends it.

use std::path::Path;

use hookgate::domain::{DeadLetterFilter, DeliveryPolicy, EventFilter, PageRequest};
use hookgate::runtime::Clock;
use hookgate::store::Store;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::clocks::{Server, Tenant, postgres_store, sqlite_store};
use crate::damaged_rows::{Database, stored_batches};
use crate::support::answer::{answer, json as json_body};
use crate::support::client;
use crate::support::postgres::fresh_database;
use crate::support::receiver::Receiver;
use crate::support::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn damaged_event_in_every_worker_stops_nobody_on_sqlite() {
    let dir = crate::support::temporary::directory();
    let database = Database::Sqlite(dir.path().join("hookgate.db"));
    Box::pin(damaged_event_in_every_worker_stops_nobody(dir.path(), database)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_event_in_every_worker_stops_nobody_on_postgresql() {
    let dir = crate::support::temporary::directory();
    let database = Database::Postgres(fresh_database().await);
    Box::pin(damaged_event_in_every_worker_stops_nobody(dir.path(), database)).await;
}

/// Posts an event that the store does not take.
async fn post_damaged(server: &Server, tenant: &Tenant, number: usize) {
    let request = client().post(format!("{}/api/events", server.url));
    let event = json!({"type": "a", "payload": number, "account_id": "poison"}).to_string();
    answer(json_body(request.header("x-api-key", &tenant.key), event)).await.expect(202);
}

async fn events(tenant: &Tenant) -> usize {
    let (filter, page) = (EventFilter::default(), PageRequest::first(100));
    tenant.store.events(tenant.org, &filter, page).await.unwrap().data.len()
}

/// The store of a server in this directory, and the flag that names its database, if it needs one.
async fn open(dir: &Path, database: &Database) -> (Store, Option<String>) {
    match database {
        Database::Sqlite(_) => (sqlite_store(dir).await, None),
        Database::Postgres(url) => {
            (postgres_store(url, dir).await, Some(format!("--database-url={url}")))
        }
    }
}

async fn damaged_event_in_every_worker_stops_nobody(dir: &Path, database: Database) {
    let (store, flag) = open(dir, &database).await;
    // One that reads, and one that stores what waits, as the events of ordered endpoints do.
    let flags: Vec<&str> = flag.iter().map(String::as_str).chain(["--workers=2"]).collect();
    let receiver = Receiver::start().await;
    let plain = Tenant::create(store.clone(), &receiver, DeliveryPolicy::default()).await;
    let ordered = DeliveryPolicy { ordered: true, ..DeliveryPolicy::default() };
    let (in_order, other) = (Receiver::start().await, Receiver::start().await);
    let first = Tenant::create(store.clone(), &in_order, ordered.clone()).await;
    let second = Tenant::create(store, &other, ordered).await;
    database.damage("events", "NEW.account_id = 'poison'", "XX001").await;
    // It stands still, so nothing is set aside.
    let server = Server::start(dir, &flags, Clock::manual(Clock::system().now())).await;

    for number in 0..3 {
        post_damaged(&server, &plain, number).await;
        // Each alone, before anything shows that the store takes others.
        let tried = number as u64 + 1;
        until("it is tried", async || stored_batches(&server).await >= tried).await;
    }
    server.post(&first.key, 0).await;
    until("it is stored", async || events(&first).await == 1).await;
    post_damaged(&server, &first, 1).await;
    let before = stored_batches(&server).await;
    until("it is tried, too", async || stored_batches(&server).await > before).await;
    server.post(&first.key, 2).await;

    server.post(&plain.key, 3).await;
    server.post(&second.key, 0).await;
    until("others are stored", async || (events(&plain).await, events(&second).await) == (1, 1))
        .await;
    assert_eq!(events(&first).await, 1, "what is behind it in order waits");

    database.mend("events").await;
    until("all are stored", async || (events(&plain).await, events(&first).await) == (4, 3)).await;
    let numbers: Vec<_> =
        in_order.received(3).await.iter().map(|webhook| webhook.json()["data"].clone()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let (filter, page) = (DeadLetterFilter::default(), PageRequest::first(10));
    for tenant in [&plain, &first, &second] {
        let letters = tenant.store.dead_letters(tenant.org, &filter, page).await.unwrap();
        assert!(letters.data.is_empty());
    }
    server.stop();
}

/// PostgreSQL lets each part of a batch wait ten seconds for a row that somebody has locked. The batch has thirty events, so
/// trying its halves down to each event would keep the only worker that reads for minutes.
#[tokio::test(flavor = "multi_thread")]
async fn batch_whose_rows_are_locked_keeps_no_worker_on_postgresql() {
    let dir = crate::support::temporary::directory();
    let url = fresh_database().await;
    let store = postgres_store(&url, dir.path()).await;
    let receiver = Receiver::start().await;
    let locked = Tenant::create(store.clone(), &receiver, DeliveryPolicy::default()).await;
    let other = Tenant::create(store, &receiver, DeliveryPolicy::default()).await;
    let flags = [format!("--database-url={url}"), "--workers=2".to_owned()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start(dir.path(), &flags, Clock::system()).await;
    server.post(&other.key, 0).await;
    until("it is stored", async || events(&other).await == 1).await;

    let mut locking = PgConnection::connect(&url).await.unwrap();
    let mut lock = locking.begin().await.unwrap();
    let row = sqlx::query("SELECT 1 FROM orgs WHERE id = $1 FOR UPDATE").bind(locked.org.uuid());
    row.execute(&mut *lock).await.unwrap();
    let batch: Vec<Value> = (0..30).map(|number| json!({"type": "a", "payload": number})).collect();
    let request = client().post(format!("{}/api/events/batch", server.url));
    let request = request.header("x-api-key", &locked.key);
    answer(json_body(request, json!(batch).to_string())).await.expect(202);
    let mut watching = PgConnection::connect(&url).await.unwrap();
    until("the worker waits for the row", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let count = sqlx::query_scalar::<_, i64>(waiting);
        count.fetch_one(&mut watching).await.unwrap() > 0
    })
    .await;
    server.post(&other.key, 1).await;
    until("that of another is stored", async || events(&other).await == 2).await;
    assert_eq!(events(&locked).await, 0);

    lock.rollback().await.unwrap();
    until("all are stored", async || events(&locked).await == batch.len()).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn organisation_whose_endpoints_cannot_be_read_keeps_no_worker_on_sqlite() {
    let dir = crate::support::temporary::directory();
    let database = Database::Sqlite(dir.path().join("hookgate.db"));
    Box::pin(organisation_whose_endpoints_cannot_be_read_keeps_no_worker(dir.path(), database))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn organisation_whose_endpoints_cannot_be_read_keeps_no_worker_on_postgresql() {
    let dir = crate::support::temporary::directory();
    let database = Database::Postgres(fresh_database().await);
    Box::pin(organisation_whose_endpoints_cannot_be_read_keeps_no_worker(dir.path(), database))
        .await;
}

/// The server does not know the endpoints, and has one worker that reads.
async fn organisation_whose_endpoints_cannot_be_read_keeps_no_worker(
    dir: &Path,
    database: Database,
) {
    let (store, flag) = open(dir, &database).await;
    let flags: Vec<&str> = flag.iter().map(String::as_str).chain(["--workers=2"]).collect();
    let receiver = Receiver::start().await;
    let broken = Tenant::create(store.clone(), &receiver, DeliveryPolicy::default()).await;
    let other = Tenant::create(store, &receiver, DeliveryPolicy::default()).await;
    let id = broken.org.uuid();
    let set = "UPDATE orgs SET endpoints_version = -2 WHERE id =";
    database.run(&format!("{set} x'{}'", id.simple()), &format!("{set} '{id}'")).await;
    let server = Server::start(dir, &flags, Clock::manual(Clock::system().now())).await;
    server.post(&broken.key, 0).await;
    server.post(&other.key, 1).await;
    until("that of another is stored", async || events(&other).await == 1).await;
    let (filter, page) = (DeadLetterFilter::default(), PageRequest::first(10));
    until("its event is a dead letter", async || {
        let letters = broken.store.dead_letters(broken.org, &filter, page).await.unwrap().data;
        letters.len() == 1
    })
    .await;
    assert_eq!(events(&broken).await, 0);
    server.stop();
}
