//! Events that the store does not take although it can be reached, one in each worker, stop nobody.

use std::path::Path;

use hookgate::domain::{DeadLetterFilter, DeliveryPolicy, EventFilter, PageRequest};
use hookgate::runtime::Clock;
use serde_json::json;

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

async fn damaged_event_in_every_worker_stops_nobody(dir: &Path, database: Database) {
    let (store, flag) = match &database {
        Database::Sqlite(_) => (sqlite_store(dir).await, None),
        Database::Postgres(url) => {
            (postgres_store(url, dir).await, Some(format!("--database-url={url}")))
        }
    };
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
