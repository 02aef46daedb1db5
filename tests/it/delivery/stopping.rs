//! Soft and hard stop during delivery.

use std::time::Duration;

use hookgate::domain::DeliveryStatus;
use hookgate::runtime::Lifecycle;

use super::world::World;
use crate::support::receiver::Receiver;
use crate::support::wait::until;

#[tokio::test]
async fn soft_stop_completes_attempts_in_flight_and_releases_the_rest() {
    let world = World::with(&["--endpoint-concurrency=1"]).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    let door = service.door();
    service.start(&lifecycle);
    // One is delivered first: only for a quick receiver deliveries wait in memory.
    assert_eq!(world.offer(&door, "user.login", 1).await, 1);
    receiver.received(1).await;
    until("the first is delivered", async || world.row().await.status == DeliveryStatus::Delivered)
        .await;
    receiver.hold();
    assert_eq!(world.offer(&door, "user.login", 1).await, 1);
    receiver.received(2).await;
    assert_eq!(world.offer(&door, "user.login", 4).await, 4);
    drop(door);
    let stopped = async {
        assert!(lifecycle.drain(Duration::from_secs(30)).await, "nothing had to be killed");
    };
    let handed_back = async {
        until("four are handed back", async || {
            let rows = world.rows().await;
            rows.iter().filter(|row| row.next_attempt_at.is_some()).count() == 4
        })
        .await;
        receiver.release();
    };
    tokio::join!(stopped, handed_back);

    assert_eq!(receiver.so_far().len(), 2, "nothing was started after the stop");
    let rows = world.rows().await;
    let delivered = rows.iter().filter(|row| row.status == DeliveryStatus::Delivered).count();
    assert_eq!(delivered, 2);
    let due = rows.iter().filter(|row| row.next_attempt_at == Some(world.clock.now())).count();
    assert_eq!(due, 4, "the rest is due at once");
    assert!(rows.iter().map(|row| row.attempts).sum::<u32>() == 2);
    assert_eq!(world.deliver().await, 4);
}

#[tokio::test]
async fn what_is_stored_after_the_soft_stop_is_due_at_once() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    let door = service.door();
    let late = world.offer_only(&door, "user.login", 1).await;
    service.start(&lifecycle);
    lifecycle.shutdown().request();
    until("nothing is taken", async || world.offer(&door, "user.login", 1).await == 0).await;
    let sent = receiver.so_far().len();
    late.store().await;
    drop(door);
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
    assert_eq!(receiver.so_far().len(), sent);
    let rows = world.rows().await;
    let pending = || rows.iter().filter(|row| row.status == DeliveryStatus::Pending);
    assert!(pending().all(|row| row.next_attempt_at == Some(world.clock.now())), "{rows:?}");
    assert!(pending().count() >= 1);
}

#[tokio::test]
async fn hard_stop_leaves_the_rest_to_the_leases() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    receiver.hold();
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 1).await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    service.start(&lifecycle);
    receiver.received(1).await;
    assert!(!lifecycle.drain(Duration::ZERO).await);
    receiver.release();
    assert_eq!(world.deliver().await, 0, "still leased");
    world.clock.advance(Duration::from_mins(5));
    assert_eq!(world.deliver().await, 1);
    let webhooks = receiver.received(2).await;
    assert_eq!(webhooks[0].header("webhook-id"), webhooks[1].header("webhook-id"));
    assert_eq!(world.row().await.status, DeliveryStatus::Delivered);
}
