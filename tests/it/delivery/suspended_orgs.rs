//! Suspended organisations: their deliveries wait.

use hookgate::domain::{Actor, DeliveryStatus};

use super::world::World;
use crate::support::receiver::Receiver;

#[tokio::test]
async fn suspended_organisations_deliveries_are_sent_afterwards_with_every_attempt_left() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    let (mut service, handed_over) = world.delivery();
    for delivery in world.lease("user.login", 3).await {
        handed_over.send(delivery).await.unwrap();
    }
    let suspend = async |suspended| {
        let now = world.clock.now();
        world.store.suspend_org(world.org, suspended, &Actor::CLI, now).await.unwrap().unwrap();
        world.suspended.set(world.store.system().suspended_orgs().await.unwrap());
    };
    suspend(true).await;
    for _ in 0..2 {
        assert_eq!(service.run_once().await.unwrap(), 0);
    }
    assert_eq!(receiver.so_far().len(), 0);
    let waits = |row: &hookgate::domain::Delivery| {
        (row.status, row.attempts, row.next_attempt_at) == (DeliveryStatus::Pending, 0, None)
    };
    assert!(world.rows().await.iter().all(waits), "{:?}", world.rows().await);

    suspend(false).await;
    assert_eq!(service.run_once().await.unwrap(), 3);
    let delivered = |row: &hookgate::domain::Delivery| {
        (row.status, row.attempts) == (DeliveryStatus::Delivered, 1)
    };
    assert!(world.rows().await.iter().all(delivered));
}
