//! An endpoint whose row cannot be read stops nobody, and goes on once it can be read.

use std::time::Duration;

use hookgate::domain::{DeliveryStatus, EndpointId};
use hookgate::runtime::Lifecycle;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use super::world::World;
use crate::damaged_rows::{OVERFLOW, world};
use crate::support::postgres::fresh_database;
use crate::support::receiver::Receiver;
use crate::support::wait::until;

/// The statement that sets the retry schedule of an endpoint by hand.
fn scheduled(endpoint: EndpointId, schedule: &str) -> String {
    let id = endpoint.uuid().simple();
    format!("UPDATE endpoints SET retry_schedule = {schedule} WHERE id = x'{id}'")
}

#[tokio::test]
async fn unreadable_endpoint_stops_nobody_and_its_deliveries_wait() {
    let world = World::with(&["--delivery-poll-interval=10ms"]).await;
    let (broken, works) = (Receiver::start().await, Receiver::start().await);
    let endpoint = world.endpoint(&broken, "").await;
    world.endpoint(&works, "").await;
    let file = SqliteConnectOptions::new().filename(world.directory.path().join("hookgate.db"));
    let mut database = file.connect().await.unwrap();
    let set = |schedule: &str| scheduled(endpoint, schedule);
    database.execute(sqlx::AssertSqlSafe(set("'nonsense'"))).await.unwrap();

    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    let door = service.door();
    service.start(&lifecycle);
    world.offer(&door, "user.login", 5).await;
    works.received(5).await;
    let pending = async || {
        let rows = world.rows().await;
        rows.iter().filter(|row| row.status == DeliveryStatus::Pending).count()
    };
    until("those of the other endpoint are delivered", async || pending().await <= 5).await;
    assert_eq!(world.rows().await.len(), 10, "deliveries are planned for both");
    assert!(world.metrics.delivery.hookgate_endpoints_unreadable_total.get() > 0);
    assert_eq!(broken.so_far().len(), 0);

    database.execute(sqlx::AssertSqlSafe(set("NULL"))).await.unwrap();
    broken.received(5).await;
    drop(door);
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
    assert_eq!(pending().await, 0);
}

/// Beside the test above, this server knows the endpoint before its row is broken, and reads all of them again while it
/// is. Mending a row by hand makes no new version.
#[tokio::test]
async fn endpoint_that_was_known_goes_on_once_it_can_be_read_again() {
    let world = World::with(&["--delivery-poll-interval=10ms"]).await;
    let receiver = Receiver::start().await;
    let endpoint = world.endpoint(&receiver, "").await;
    let file = SqliteConnectOptions::new().filename(world.directory.path().join("hookgate.db"));
    let mut database = file.connect().await.unwrap();
    let set = |schedule: &str| scheduled(endpoint, schedule);
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    let (door, handle) = (service.door(), service.handle());
    service.start(&lifecycle);
    world.offer(&door, "user.login", 1).await;
    receiver.received(1).await;

    database.execute(sqlx::AssertSqlSafe(set("'nonsense'"))).await.unwrap();
    handle.endpoints_changed(world.org).await;
    assert!(world.metrics.delivery.hookgate_endpoints_unreadable_total.get() > 0);
    world.offer(&door, "user.login", 2).await;
    assert_eq!(receiver.so_far().len(), 1);
    database.execute(sqlx::AssertSqlSafe(set("NULL"))).await.unwrap();
    receiver.received(3).await;
    drop(door);
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_of_a_damaged_endpoint_alone_pauses_no_other_on_sqlite() {
    Box::pin(claim_of_a_damaged_endpoint_alone_pauses_no_other(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_of_a_damaged_endpoint_alone_pauses_no_other_on_postgresql() {
    let url = Some(fresh_database().await);
    Box::pin(claim_of_a_damaged_endpoint_alone_pauses_no_other(url)).await;
}

/// The store is scanned once, and then not before the test is over.
async fn claim_of_a_damaged_endpoint_alone_pauses_no_other(url: Option<String>) {
    let (world, database) = Box::pin(world(url, &["--delivery-poll-interval=1h"])).await;
    let (of_it, works) = (Receiver::start().await, Receiver::start().await);
    let endpoint = world.endpoint(&of_it, "user.signup").await.uuid();
    world.endpoint(&works, "user.login").await;
    world.publish("user.signup", 1).await;
    let sqlite = format!(
        "CREATE TRIGGER stuck BEFORE UPDATE ON pending_deliveries
         WHEN NEW.endpoint_id = x'{}' BEGIN {OVERFLOW}; END",
        endpoint.simple()
    );
    let postgres = format!(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'a page is damaged' USING ERRCODE = 'XX001'; END $$;
         CREATE TRIGGER stuck BEFORE UPDATE ON pending_deliveries FOR EACH ROW
         WHEN (NEW.endpoint_id = '{endpoint}') EXECUTE FUNCTION fail()"
    );
    database.run(&sqlite, &postgres).await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    let door = service.door();
    service.start(&lifecycle);
    let unreadable = &world.metrics.delivery.hookgate_endpoints_unreadable_total;
    until("the claim has failed", async || unreadable.get() > 0).await;
    // More than may start at once: the rest is claimed.
    world.offer(&door, "user.login", 300).await;
    works.received(300).await;
    assert_eq!(of_it.so_far().len(), 0);
    drop(door);
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
}
