//! Store outages during delivery.

use std::time::Duration;

use hookgate::domain::{Delivery, DeliveryStatus};
use hookgate::runtime::Lifecycle;
use hookgate::store::DbOperation;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use super::world::World;
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

#[tokio::test]
async fn outcomes_survive_a_store_outage() {
    let world = World::with(&["--database-timeout=100ms", "--endpoint-concurrency=20"]).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    receiver.hold();
    assert_eq!(world.offer(&service.door(), "user.login", 20).await, 20);

    // Another process holds the write lock for longer than DATABASE_TIMEOUT.
    let file = SqliteConnectOptions::new().filename(world.directory.path().join("hookgate.db"));
    let mut other = file.connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();

    service.start(&lifecycle);
    receiver.received(20).await;
    receiver.release();
    let calls = world.metrics.store.db_operations_latency_seconds.of(DbOperation::RecordOutcomes);
    until("two attempts to record have failed", async || calls.get_sample_count() >= 2).await;
    assert!(world.rows().await.iter().all(|row| row.status == DeliveryStatus::Pending));

    other.execute("ROLLBACK").await.unwrap();
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
    let rows = world.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Delivered && row.attempts == 1));
    assert_eq!(receiver.so_far().len(), 20, "and nothing was sent twice");
}

#[tokio::test]
async fn outcome_that_the_store_rejects_delays_no_other() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 20).await;
    let file = SqliteConnectOptions::new().filename(world.directory.path().join("hookgate.db"));
    let mut other = file.connect().await.unwrap();
    let trigger = "CREATE TRIGGER picky BEFORE INSERT ON delivery_attempts
                   WHEN NEW.status_code = 418 BEGIN SELECT RAISE(ABORT, 'refused'); END";
    other.execute(trigger).await.unwrap();
    receiver.answer([Answer::status(204), Answer::status(204), Answer::status(418)]);

    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 20);

    let delivered = |rows: Vec<Delivery>| {
        rows.iter().filter(|row| row.status == DeliveryStatus::Delivered).count()
    };
    assert_eq!(delivered(world.rows().await), 19);
    assert_eq!(world.deliver().await, 0, "the other one is leased");
    world.clock.advance(Duration::from_mins(5));
    assert_eq!(service.run_once().await.unwrap(), 0, "this server has set it aside");
    world.clock.advance(Duration::from_mins(5));
    assert_eq!(world.deliver().await, 1, "another one attempts it when the lease has lapsed");
    assert_eq!(delivered(world.rows().await), 20);
}
