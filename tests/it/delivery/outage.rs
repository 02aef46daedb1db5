//! Store outages during delivery.

use std::time::Duration;

use hookgate::domain::{Delivery, DeliveryStatus};
use hookgate::runtime::Lifecycle;
use hookgate::store::DbOperation;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use tokio::task::block_in_place;
use tokio::time::timeout;

use super::world::World;
use crate::support::postgres::PrivatePostgres;
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

/// A commit that waits for a standby is made although its session ends: the deliveries are leased to nobody who knows.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_claim_has_leased_whose_answer_is_lost_is_attempted_after_the_next() {
    let postgres = block_in_place(PrivatePostgres::start);
    let url = postgres.fresh_database().await;
    let world = World::with(&[&format!("--database-url={url}")]).await.with_system_clock();
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 3).await;
    let mut service = world.delivery();
    let mut other = PgConnection::connect(&url).await.unwrap();

    let wait = ["ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"];
    postgres.execute("postgres", &wait).await;
    until("commits wait", async || {
        let mut probe = PgConnection::connect(&url).await.unwrap();
        timeout(Duration::from_millis(100), probe.execute("SELECT lo_create(0)")).await.is_err()
    })
    .await;
    // OFFSET: it is to be called for these only.
    let end = "SELECT pg_terminate_backend(pid) FROM (
                   SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' OFFSET 0) waiting";
    until("no other commit waits", async || other.fetch_all(end).await.unwrap().is_empty()).await;
    let claim_ends = async {
        until("the claim waits", async || !other.fetch_all(end).await.unwrap().is_empty()).await;
    };
    let (claimed, ()) = tokio::join!(service.run_once(), claim_ends);
    claimed.unwrap_err();
    let wait = ["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"];
    postgres.execute("postgres", &wait).await;
    let leased = "SELECT FROM pending_deliveries WHERE lease_token IS NOT NULL";
    assert_eq!(other.fetch_all(leased).await.unwrap().len(), 3);

    let mut attempted = 0;
    until("all are attempted", async || {
        attempted += service.run_once().await.unwrap_or(0);
        attempted == 3
    })
    .await;
    assert_eq!(receiver.so_far().len(), 3);
}
