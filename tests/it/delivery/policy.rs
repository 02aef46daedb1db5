//! Delivery policies: concurrency, rate limit, retry schedule and ordering of an endpoint.

use std::time::Duration;

use hookgate::domain::{DeliveryPolicyChange, DeliveryStatus, RetrySchedule};
use hookgate::runtime::Lifecycle;

use super::world::World;
use crate::support::receiver::{Answer, Receiver};

#[tokio::test]
async fn max_concurrency_limits_attempts_in_flight_and_a_change_applies_while_running() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let endpoint = world.endpoint(&receiver, "").await;
    let most = |number| DeliveryPolicyChange {
        max_concurrency: Some(number),
        ..DeliveryPolicyChange::default()
    };
    world.set_policy(endpoint, most(Some(2))).await;
    receiver.hold();
    world.publish("user.login", 30).await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    let handle = service.handle();
    service.start(&lifecycle);
    receiver.received(2).await;
    assert_eq!(receiver.so_far().len(), 2);

    world.set_policy(endpoint, most(None)).await;
    handle.endpoints_changed(world.org).await;
    receiver.received(16).await;
    receiver.release();
    receiver.received(30).await;
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn rate_limit_holds_in_every_second() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let endpoint = world.endpoint(&receiver, "").await;
    let rate = DeliveryPolicyChange {
        rate_limit_per_second: Some(Some(10)),
        ..DeliveryPolicyChange::default()
    };
    world.set_policy(endpoint, rate).await;
    world.publish("user.login", 300).await;
    let mut service = world.delivery();
    let mut in_a_second = 0;
    for _ in 0..100 {
        in_a_second += service.run_once().await.unwrap();
        world.clock.advance(Duration::from_millis(10));
    }
    assert!((10..=11).contains(&in_a_second), "{in_a_second}");
    assert!(
        world.metrics.delivery.delivery_queue_size.get() <= 100,
        "ten seconds' worth waits in memory"
    );
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(service.run_once().await.unwrap(), 1, "what was not sent is not saved up");
}

#[tokio::test]
async fn step_back_of_the_wall_clock_does_not_stop_a_rate_limited_endpoint() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let endpoint = world.endpoint(&receiver, "").await;
    let rate = DeliveryPolicyChange {
        rate_limit_per_second: Some(Some(1)),
        ..DeliveryPolicyChange::default()
    };
    world.set_policy(endpoint, rate).await;
    world.publish("user.login", 3).await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 1);
    world.clock.step_to(world.clock.now().minus(Duration::from_hours(1)));
    assert_eq!(service.run_once().await.unwrap(), 0);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(service.run_once().await.unwrap(), 1);
}

#[tokio::test]
async fn rate_limit_is_reached_without_waiting_for_the_poll() {
    let world = World::with(&["--delivery-poll-interval=1h"]).await.with_system_clock();
    let receiver = Receiver::start().await;
    let endpoint = world.endpoint(&receiver, "").await;
    let rate = DeliveryPolicyChange {
        rate_limit_per_second: Some(Some(100)),
        ..DeliveryPolicyChange::default()
    };
    world.set_policy(endpoint, rate).await;
    world.publish("user.login", 20).await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    service.start(&lifecycle);
    receiver.received(20).await;
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn endpoints_retry_schedule_replaces_the_servers() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let endpoint = world.endpoint(&receiver, "").await;
    let schedule = RetrySchedule::parse_waits(&["1s"]).unwrap();
    let own = DeliveryPolicyChange {
        retry_schedule: Some(Some(schedule)),
        ..DeliveryPolicyChange::default()
    };
    world.set_policy(endpoint, own).await;
    world.publish("user.login", 1).await;
    receiver.answer(vec![Answer::status(500); 2]);
    assert_eq!(world.deliver().await, 1);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.deliver().await, 1);
    assert_eq!((world.row().await.status, world.row().await.attempts), (DeliveryStatus::Dead, 2));
}

/// Statuses from a generator with a fixed seed: about half of them are failures.
fn dice(count: usize) -> Vec<bool> {
    let mut state = 7_u64;
    let roll = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 63 == 1
    };
    (0..count).map(roll).collect()
}

#[tokio::test]
async fn ordered_endpoint_receives_one_at_a_time_in_order_and_retries_the_head_first() {
    let world = World::with(&["--retry-schedule=0s,0s,0s", "--delivery-poll-interval=1ms"]).await;
    let receiver = Receiver::start().await;
    let endpoint = world.endpoint(&receiver, "").await;
    world
        .set_policy(
            endpoint,
            DeliveryPolicyChange { ordered: Some(true), ..DeliveryPolicyChange::default() },
        )
        .await;
    let refused = dice(400);
    let answer = |refuse: &bool| Answer::status(if *refuse { 400 } else { 204 });
    receiver.answer(refused.iter().map(answer));
    let mut events = Vec::new();
    for _ in 0..60 {
        events.extend(world.publish("user.login", 1).await);
        world.clock.advance(Duration::from_micros(1));
    }
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    service.start(&lifecycle);
    // At most four attempts each; the model computes the total.
    let mut expected = Vec::new();
    for event in &events {
        for _ in 0..4 {
            expected.push(event.to_string());
            if !refused[expected.len() - 1] {
                break;
            }
        }
    }
    let came = receiver.received(expected.len()).await;
    let order: Vec<_> = came.iter().map(|webhook| webhook.header("webhook-id")).collect();
    assert_eq!(order, expected);
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
    let rows = world.rows().await;
    assert!(rows.iter().any(|row| row.status == DeliveryStatus::Dead), "some are given up");
    assert!(rows.iter().all(|row| row.status != DeliveryStatus::Pending));
}
