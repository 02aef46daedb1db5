//! After a failover to a standby that was behind, nothing is sent to what an endpoint was in the lost database.

use hookgate::domain::{Actor, EndpointChange};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use super::world::World;
use crate::support::receiver::Receiver;

/// The workers store a batch with the endpoints that they have read, however long the database cannot be reached.
#[tokio::test]
async fn batch_from_before_a_failover_brings_no_lost_endpoint_back() {
    let world = World::with(&["--endpoint-concurrency=1"]).await;
    let (receiver, lost) = (Receiver::start().await, Receiver::start().await);
    let endpoint = world.endpoint(&receiver, "").await;
    let change =
        EndpointChange { url: Some(lost.url("/").parse().unwrap()), ..EndpointChange::default() };
    let (now, by) = (world.clock.now(), &Actor::CLI);
    world.store.update_endpoint(world.org, endpoint, &change, by, now).await.unwrap().unwrap();
    let mut service = world.delivery();
    let (handle, door) = (service.handle(), service.door());
    let known = door.endpoints(&[world.org]).await.unwrap();
    let offered = world.offer_for(&door, known.clone(), "user.login", 2);

    // The standby lacks the last change.
    let file = SqliteConnectOptions::new().filename(world.directory.path().join("hookgate.db"));
    let mut database = file.connect().await.unwrap();
    let url = receiver.url("/hook?token=1");
    for set in [
        format!("UPDATE endpoints SET url = '{url}', version = version - 1"),
        "UPDATE orgs SET endpoints_version = endpoints_version - 1".to_owned(),
    ] {
        database.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
    }
    handle.database_changed();
    offered.store().await;
    let again = world.offer_for(&door, known, "user.login", 2);
    assert_eq!(again.store().await, 0, "nothing starts by what an earlier database had");
    for _ in 0..10 {
        service.run_once().await.unwrap();
    }
    assert_eq!(lost.so_far().len(), 0);
    assert_eq!(receiver.so_far().len(), 4);
}
