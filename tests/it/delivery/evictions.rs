//! Evictions: deliveries in memory do not start after they are cancelled, disabled or removed.

use std::time::Duration;

use hookgate::delivery::DeliveryHandle;
use hookgate::domain::{Actor, DeliveryStatus, EndpointChange, EndpointId};
use hookgate::runtime::Lifecycle;
use tokio::sync::mpsc;

use super::world::World;
use crate::support::receiver::Receiver;

/// A running service with one webhook in flight at a receiver that holds it, and nine that wait.
struct Held {
    world: World,
    receiver: Receiver,
    endpoint: EndpointId,
    handle: DeliveryHandle,
    lifecycle: Lifecycle,
    _handed_over: mpsc::Sender<hookgate::domain::LeasedDelivery>,
}

impl Held {
    async fn start() -> Self {
        let world = World::with(&["--endpoint-concurrency=1"]).await;
        let receiver = Receiver::start().await;
        let endpoint = world.endpoint(&receiver, "").await;
        receiver.hold();
        world.publish("user.login", 10).await;
        let lifecycle = Lifecycle::new();
        let (service, handed_over) = world.delivery();
        let handle = service.handle();
        service.start(&lifecycle);
        receiver.received(1).await;
        Self { world, receiver, endpoint, handle, lifecycle, _handed_over: handed_over }
    }

    async fn until_waiting(&self, count: i64) {
        while self.world.metrics.delivery.delivery_queue_size.get() != count {
            tokio::task::yield_now().await;
        }
    }

    /// Lets the receiver answer, shuts down, and returns the number of webhooks received.
    async fn end(&self) -> usize {
        self.receiver.release();
        assert!(self.lifecycle.drain(Duration::from_secs(30)).await);
        self.receiver.so_far().len()
    }
}

#[tokio::test]
async fn removed_endpoint_receives_nothing_that_waited_in_memory() {
    let held = Held::start().await;
    held.until_waiting(9).await;
    let world = &held.world;
    assert!(
        world
            .store
            .delete_endpoint(world.org, held.endpoint, &Actor::CLI, world.clock.now())
            .await
            .unwrap()
    );
    held.handle.evict_endpoint(held.endpoint);
    held.until_waiting(0).await;
    assert_eq!(held.end().await, 1);
    let rows = held.world.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Cancelled));
}

#[tokio::test]
async fn disabled_endpoint_receives_nothing_until_it_is_enabled() {
    let held = Held::start().await;
    held.until_waiting(9).await;
    let world = &held.world;
    let switch = async |reason: Option<&str>| {
        let change = EndpointChange {
            disabled_reason: Some(reason.map(str::to_owned)),
            ..EndpointChange::default()
        };
        let now = world.clock.now();
        world
            .store
            .update_endpoint(world.org, held.endpoint, &change, &Actor::CLI, now)
            .await
            .unwrap();
        held.handle.evict_endpoint(held.endpoint);
    };
    switch(Some("by its owner")).await;
    held.until_waiting(0).await;
    held.receiver.release();
    // The one in flight is delivered; the others are parked once they are released.
    loop {
        let rows = world.rows().await;
        let parked = rows.iter().filter(|row| row.next_attempt_at.is_none());
        if parked.filter(|row| row.status == DeliveryStatus::Pending).count() == 9
            && rows.iter().any(|row| row.status == DeliveryStatus::Delivered)
        {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(held.receiver.so_far().len(), 1);
    switch(None).await;
    held.receiver.received(10).await;
    assert_eq!(held.end().await, 10);
}

#[tokio::test]
async fn evicted_delivery_leaves_and_the_others_stay() {
    let held = Held::start().await;
    held.until_waiting(9).await;
    let under_way = held.receiver.so_far()[0].header("webhook-id").to_owned();
    let rows = held.world.rows().await;
    let other = rows.iter().find(|row| row.event_id.to_string() != under_way).unwrap();
    held.handle.evict_delivery(other.id);
    held.until_waiting(8).await;
    assert_eq!(held.end().await, 1, "the soft stop hands the rest back");
}
