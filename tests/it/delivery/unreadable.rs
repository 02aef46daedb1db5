//! An endpoint whose row cannot be read stops nobody, and goes on once it can be read.

use std::time::Duration;

use hookgate::domain::{DeliveryStatus, EndpointId};
use hookgate::runtime::Lifecycle;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use super::world::World;
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
