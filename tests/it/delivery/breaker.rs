//! The circuit breaker: a failing endpoint is paused, probed, and loses nothing.

use std::time::Duration;

use hookgate::domain::{Actor, DeliveryPolicyChange, DeliveryStatus};

use super::world::World;
use crate::support::receiver::{Answer, Receiver};

/// Consecutive failures that open a breaker.
const FAILURES: usize = 10;
const PAUSE: Duration = Duration::from_secs(5);

/// A world with immediate retries, whose receiver fails `failures` times and then works.
async fn failing(failures: usize, deliveries: usize) -> (World, Receiver) {
    let world = World::with(&["--endpoint-concurrency=10", "--retry-schedule=1s,1s,1s"]).await;
    let receiver = Receiver::start().await;
    receiver.answer(vec![Answer::status(503); failures]);
    world.endpoint(&receiver, "").await;
    world.publish("user.login", deliveries).await;
    (world, receiver)
}

#[tokio::test]
async fn waiting_deliveries_return_to_the_store_uncounted_and_arrive_after_the_probe() {
    let (world, receiver) = failing(FAILURES, 30).await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), FAILURES, "then it opens");
    assert_eq!(world.metrics.delivery.endpoint_breakers_open.get(), 1);
    let waiting = |row: &&hookgate::domain::Delivery| row.attempts == 0;
    let rows = world.rows().await;
    assert_eq!(rows.iter().filter(waiting).count(), 20);
    let now = Some(world.clock.now());
    assert!(rows.iter().filter(waiting).all(|row| row.next_attempt_at == now), "still due");

    world.clock.advance(Duration::from_secs(4));
    assert_eq!(service.run_once().await.unwrap(), 0, "retries are due, but it is left alone");
    world.clock.advance(Duration::from_secs(1));
    let attempted = service.run_once().await.unwrap();
    assert_eq!(attempted, 30, "the probe, and everything that waited for it");
    assert_eq!(world.metrics.delivery.endpoint_breakers_open.get(), 0);

    let rows = world.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Delivered));
    let counted: u32 = rows.iter().map(|row| row.attempts).sum();
    assert_eq!(counted as usize, receiver.so_far().len(), "every attempt made is one recorded");
}

#[tokio::test]
async fn failed_probe_extends_the_pause_and_counts_as_an_attempt() {
    let (world, receiver) = failing(FAILURES + 2, 30).await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), FAILURES);
    for pause in [5, 10] {
        world.clock.advance(Duration::from_secs(pause - 1));
        assert_eq!(service.run_once().await.unwrap(), 0, "{pause}");
        world.clock.advance(Duration::from_secs(1));
        assert_eq!(service.run_once().await.unwrap(), 1, "{pause}");
    }
    world.clock.advance(Duration::from_secs(20));
    assert!(service.run_once().await.unwrap() >= 1);
    while service.run_once().await.unwrap() > 0 {}
    let rows = world.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Delivered));
    let counted: u32 = rows.iter().map(|row| row.attempts).sum();
    assert_eq!(counted as usize, receiver.so_far().len());
}

#[tokio::test]
async fn breaker_is_closed_after_a_restart() {
    let (world, _receiver) = failing(FAILURES, 30).await;
    assert_eq!(world.delivery().run_once().await.unwrap(), FAILURES);
    world.clock.advance(PAUSE);
    assert_eq!(world.delivery().run_once().await.unwrap(), 30, "nothing was forgotten");
}

#[tokio::test]
async fn rejections_do_not_open_the_breaker() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    receiver.answer(vec![Answer::status(400); 100]);
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 40).await;
    assert_eq!(world.deliver().await, 40);
    assert_eq!(world.metrics.delivery.endpoint_breakers_open.get(), 0);
}

#[tokio::test]
async fn retry_after_holds_the_endpoint_at_the_first_response() {
    let (world, receiver) =
        (World::with(&["--endpoint-concurrency=1"]).await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 3).await;
    receiver.answer([Answer::status(429).header("retry-after", "3600")]);
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 1, "the others wait, too");
    world.clock.advance(Duration::from_secs(3_599));
    assert_eq!(service.run_once().await.unwrap(), 0);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(service.run_once().await.unwrap(), 3, "the probe, then the others");
    let rows = world.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Delivered));
    assert_eq!(rows.iter().map(|row| row.attempts).sum::<u32>(), 4);
}

#[tokio::test]
async fn attempt_by_hand_at_an_ordered_endpoint_probes_with_the_oldest_delivery() {
    for asked in ["the oldest", "the one behind it"] {
        let (world, receiver) = (World::new().await, Receiver::start().await);
        let endpoint = world.endpoint(&receiver, "").await;
        let ordered =
            DeliveryPolicyChange { ordered: Some(true), ..DeliveryPolicyChange::default() };
        world.set_policy(endpoint, ordered).await;
        let events = world.publish("user.login", 2).await;
        receiver.answer([Answer::status(503).header("retry-after", "3600")]);
        let mut service = world.delivery();
        assert_eq!(service.run_once().await.unwrap(), 1);
        assert_eq!(service.run_once().await.unwrap(), 0, "it is paused");

        let rows = world.rows().await;
        let row = |attempts| rows.iter().find(|row| row.attempts == attempts).unwrap().id;
        let (oldest, behind, now) = (row(1), row(0), world.clock.now());
        world.store.retry_delivery(world.org, oldest, &Actor::CLI, now).await.unwrap().unwrap();
        let asked_for = if asked == "the oldest" { oldest } else { behind };
        service.handle().attempt_now(world.org, endpoint, asked_for);
        while service.run_once().await.unwrap() > 0 {}
        let ids: Vec<String> = receiver
            .so_far()
            .iter()
            .map(|webhook| webhook.header("webhook-id").to_owned())
            .collect();
        let [first, second] = [events[0].to_string(), events[1].to_string()];
        assert_eq!(ids, [first.clone(), first, second], "{asked}");
    }
}

#[tokio::test]
async fn every_attempt_by_hand_at_a_paused_endpoint_is_made() {
    let (world, receiver) =
        (World::with(&["--endpoint-concurrency=1"]).await, Receiver::start().await);
    let endpoint = world.endpoint(&receiver, "").await;
    world.publish("user.login", 4).await;
    let failures = vec![Answer::status(429).header("retry-after", "3600"); 3];
    receiver.answer(failures);
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 1);
    let rows = world.rows().await;
    for row in rows.iter().filter(|row| row.attempts == 0) {
        service.handle().attempt_now(world.org, endpoint, row.id);
    }
    for attempt in 1..=2 {
        assert_eq!(service.run_once().await.unwrap(), 1, "attempt {attempt} by hand fails");
    }
    assert!(service.run_once().await.unwrap() >= 1, "the third succeeds");
    let attempted = world.rows().await;
    assert!(attempted.iter().all(|row| row.attempts >= 1), "{attempted:?}");
}
