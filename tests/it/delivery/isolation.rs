//! Isolation: a slow endpoint does not affect the others.

use std::time::Duration;

use hookgate::domain::DeliveryStatus;
use hookgate::runtime::Lifecycle;

use super::world::World;
use crate::support::receiver::Receiver;

#[tokio::test]
async fn slow_endpoint_does_not_delay_a_fast_one() {
    let world = World::with(&[
        "--delivery-concurrency=8",
        "--endpoint-concurrency=4",
        "--delivery-queue-capacity=64",
        "--delivery-poll-interval=10ms",
    ])
    .await;
    let (slow, fast) = (Receiver::start().await, Receiver::start().await);
    slow.hold();
    world.endpoint(&slow, "slow.*").await;
    world.endpoint(&fast, "fast.*").await;
    // The deliveries to the slow one are due earlier, and are more than the memory holds.
    world.publish("slow.event", 300).await;
    world.publish("fast.event", 200).await;

    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    service.start(&lifecycle);

    fast.received(200).await;
    assert!(slow.so_far().len() <= 4, "no more than its own share is in flight");
    slow.release();
    slow.received(300).await;
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
    let rows = world.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Delivered && row.attempts == 1));
}

#[tokio::test]
async fn backlog_larger_than_the_memory_is_claimed_without_waiting_for_the_poll() {
    let world = World::with(&["--delivery-queue-capacity=64", "--delivery-poll-interval=1h"]).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 500).await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    receiver.hold();
    service.start(&lifecycle);
    receiver.received(16).await;
    receiver.release();
    receiver.received(500).await;
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
    assert!(world.rows().await.iter().all(|row| row.status == DeliveryStatus::Delivered));
}

#[tokio::test]
async fn deliveries_beyond_an_endpoints_slots_stay_in_the_store_and_arrive() {
    let world = World::with(&["--endpoint-concurrency=2", "--delivery-poll-interval=1h"]).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    receiver.hold();
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    let door = service.door();
    service.start(&lifecycle);
    assert_eq!(world.offer(&door, "user.login", 100).await, 2);
    receiver.received(2).await;
    assert_eq!(world.offer(&door, "user.login", 10).await, 0, "a receiver of unknown speed");
    receiver.release();
    receiver.received(110).await;
    drop(door);
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
    let rows = world.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Delivered && row.attempts == 1));
    assert_eq!(receiver.so_far().len(), 110);
}

#[tokio::test]
async fn delivery_whose_lease_would_lapse_in_flight_waits_for_the_next_claim() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    let mut service = world.delivery();
    assert_eq!(world.offer(&service.door(), "user.login", 1).await, 1);
    world.clock.advance(Duration::from_secs(5 * 60 - 20));
    assert_eq!(service.run_once().await.unwrap(), 0);
    assert_eq!(receiver.so_far().len(), 0);
    world.clock.advance(Duration::from_secs(20));
    assert_eq!(service.run_once().await.unwrap(), 1, "the lease has lapsed");
    assert_eq!(world.row().await.status, DeliveryStatus::Delivered);
}
