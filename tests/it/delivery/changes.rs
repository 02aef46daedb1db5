//! Changes of endpoints and deliveries apply to what waits in memory.

use std::time::Duration;

use hookgate::delivery::DeliveryHandle;
use hookgate::domain::{Actor, Delivery, DeliveryStatus, EndpointChange, EndpointId};
use hookgate::runtime::Lifecycle;

use super::world::World;
use crate::support::receiver::Receiver;
use crate::support::wait::until;

/// A running service with one webhook in flight at a receiver that holds it, and nine that wait.
struct Held {
    world: World,
    receiver: Receiver,
    endpoint: EndpointId,
    handle: DeliveryHandle,
    lifecycle: Lifecycle,
    /// The event that was delivered before.
    first: String,
}

impl Held {
    async fn start() -> Self {
        let world = Box::pin(World::with(&["--endpoint-concurrency=1"])).await;
        let receiver = Receiver::start().await;
        let endpoint = world.endpoint(&receiver, "").await;
        let lifecycle = Lifecycle::new();
        let service = world.delivery();
        let (handle, door) = (service.handle(), service.door());
        service.start(&lifecycle);
        // All endpoints are read; from now on only those that change.
        handle.endpoints_changed(world.org).await;
        // One is delivered first: only for a quick receiver deliveries wait in memory.
        assert_eq!(world.offer(&door, "user.login", 1).await, 1);
        receiver.received(1).await;
        until("the first is delivered", async || {
            world.row().await.status == DeliveryStatus::Delivered
        })
        .await;
        receiver.hold();
        assert_eq!(world.offer(&door, "user.login", 1).await, 1);
        receiver.received(2).await;
        assert_eq!(world.offer(&door, "user.login", 9).await, 9);
        let first = receiver.so_far()[0].header("webhook-id").to_owned();
        Self { world, receiver, endpoint, handle, lifecycle, first }
    }

    /// The deliveries but for the first.
    async fn rows(&self) -> Vec<Delivery> {
        let mut rows = self.world.rows().await;
        rows.retain(|row| row.event_id.to_string() != self.first);
        rows
    }

    async fn until_waiting(&self, count: i64) {
        until("so many wait", async || {
            self.world.metrics.delivery.delivery_queue_size.get() == count
        })
        .await;
    }

    /// Lets the receiver answer, shuts down, and returns the number of webhooks received.
    async fn end(&self) -> usize {
        self.receiver.release();
        assert!(self.lifecycle.drain(Duration::from_secs(30)).await);
        self.receiver.so_far().len() - 1
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
    held.handle.endpoints_changed(held.world.org).await;
    held.until_waiting(0).await;
    assert_eq!(held.end().await, 1);
    let rows = held.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Cancelled), "{rows:?}");
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
        held.handle.endpoints_changed(held.world.org).await;
    };
    switch(Some("by its owner")).await;
    held.until_waiting(0).await;
    held.receiver.release();
    // The one in flight is delivered; the others have no next attempt.
    until("the one in flight is delivered", async || {
        let rows = held.rows().await;
        let parked = rows.iter().filter(|row| row.next_attempt_at.is_none());
        parked.filter(|row| row.status == DeliveryStatus::Pending).count() == 9
            && rows.iter().any(|row| row.status == DeliveryStatus::Delivered)
    })
    .await;
    assert_eq!(held.receiver.so_far().len(), 2);
    switch(None).await;
    held.receiver.received(11).await;
    assert_eq!(held.end().await, 10);
}

#[tokio::test]
async fn change_is_followed_also_behind_one_that_was_not_announced() {
    let held = Held::start().await;
    held.until_waiting(9).await;
    let (world, elsewhere) = (&held.world, Receiver::start().await);
    let added = world.endpoint(&elsewhere, "other.type").await;
    let shown = world.store.endpoint(world.org, held.endpoint).await.unwrap().unwrap();
    elsewhere.trust(shown.secrets.unwrap().current());
    let change = async |change: &EndpointChange| {
        let now = world.clock.now();
        let changed =
            world.store.update_endpoint(world.org, held.endpoint, change, &Actor::CLI, now).await;
        changed.unwrap().unwrap()
    };
    let url = "https://example.com/".parse().unwrap();
    change(&EndpointChange { url: Some(url), ..EndpointChange::default() }).await;
    let url = world.store.endpoint(world.org, added).await.unwrap().unwrap().url;
    change(&EndpointChange { url: Some(url), ..EndpointChange::default() }).await;
    held.handle.endpoints_changed(world.org).await;
    held.receiver.release();
    elsewhere.received(9).await;
    assert_eq!(held.end().await, 1, "nothing more went to where it was");
}

#[tokio::test]
async fn cancelled_delivery_leaves_and_the_others_stay() {
    let held = Held::start().await;
    held.until_waiting(9).await;
    let under_way = held.receiver.so_far()[1].header("webhook-id").to_owned();
    let rows = held.rows().await;
    let other = rows.iter().find(|row| row.event_id.to_string() != under_way).unwrap();
    held.handle.cancelled(held.endpoint, other.id);
    held.until_waiting(8).await;
    assert_eq!(held.end().await, 1, "the soft stop releases the rest");
}

#[tokio::test]
async fn suspended_organisations_deliveries_are_sent_afterwards_with_every_attempt_left() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    let mut service = world.delivery();
    let handle = service.handle();
    assert_eq!(world.offer(&service.door(), "user.login", 3).await, 3);
    let suspend = async |suspended| {
        let now = world.clock.now();
        world.store.suspend_org(world.org, suspended, &Actor::CLI, now).await.unwrap().unwrap();
        handle.endpoints_changed(world.org).await;
    };
    suspend(true).await;
    for _ in 0..2 {
        assert_eq!(service.run_once().await.unwrap(), 0);
    }
    assert_eq!(receiver.so_far().len(), 0);
    let waits = |row: &Delivery| {
        (row.status, row.attempts, row.next_attempt_at) == (DeliveryStatus::Pending, 0, None)
    };
    assert!(world.rows().await.iter().all(waits), "{:?}", world.rows().await);

    suspend(false).await;
    assert_eq!(service.run_once().await.unwrap(), 3);
    let delivered = |row: &Delivery| (row.status, row.attempts) == (DeliveryStatus::Delivered, 1);
    assert!(world.rows().await.iter().all(delivered));
}
