//! Failing endpoints: they are disabled after a while, and operational events report it.

use std::time::Duration;

use hookgate::domain::{Actor, DeliveryStatus, EndpointChange};

use super::world::World;
use crate::support::receiver::{Answer, Receiver};

#[tokio::test]
async fn endpoint_failing_for_disable_after_is_disabled_and_its_owner_notified() {
    let world = World::with(&["--disable-after=1h", "--retry-schedule=40m,40m,40m"]).await;
    let (failing, owner, everything) =
        (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    failing.answer(vec![Answer::status(500); 100]);
    let endpoint = world.endpoint(&failing, "user.*").await;
    world.endpoint(&owner, "hookgate.*").await;
    world.endpoint(&everything, "").await;
    world.publish("user.login", 1).await;
    for _ in 0..2 {
        world.deliver().await;
        world.advance(Duration::from_mins(40));
        let standing = world.store.endpoint(world.org, endpoint).await.unwrap().unwrap();
        assert!(standing.failing_since.is_some() && standing.disabled_reason.is_none());
    }
    // A restarted server knows since when.
    world.deliver().await;
    let standing = world.store.endpoint(world.org, endpoint).await.unwrap().unwrap();
    let reason = standing.disabled_reason.unwrap();
    assert!(reason.starts_with("every attempt has failed since 2027-01-15T08:00:00"), "{reason}");
    let rows = world.rows().await;
    let parked = rows.iter().find(|row| row.endpoint_id == endpoint).unwrap();
    assert_eq!((parked.status, parked.next_attempt_at), (DeliveryStatus::Pending, None));

    world.deliver().await;
    let told = owner.received(1).await;
    assert_eq!(told[0].json()["type"], "hookgate.endpoint.disabled");
    assert_eq!(told[0].json()["data"]["endpoint_id"], endpoint.to_string());
    assert_eq!(told[0].json()["data"]["reason"], reason);
    assert_eq!(everything.so_far().len(), 1, "user.login, and no operational event");

    let enable = EndpointChange { disabled_reason: Some(None), ..EndpointChange::default() };
    let now = world.clock.now();
    let enabled =
        world.store.update_endpoint(world.org, endpoint, &enable, &Actor::CLI, now).await.unwrap();
    assert_eq!(enabled.unwrap().failing_since, None, "it starts afresh");
}

#[tokio::test]
async fn success_resets_the_failing_time() {
    let world = World::with(&["--disable-after=1h", "--retry-schedule=40m,40m,40m"]).await;
    let receiver = Receiver::start().await;
    let answers = [500, 204, 500, 500].map(Answer::status);
    receiver.answer(answers);
    let endpoint = world.endpoint(&receiver, "").await;
    for _ in 0..2 {
        world.publish("user.login", 1).await;
        world.deliver().await;
        world.advance(Duration::from_mins(40));
        world.deliver().await;
        world.advance(Duration::from_mins(40));
    }
    assert_eq!(receiver.so_far().len(), 4);
    let standing = world.store.endpoint(world.org, endpoint).await.unwrap().unwrap();
    assert_eq!(standing.disabled_reason, None);
}

#[tokio::test]
async fn exhausted_delivery_is_notified_once_and_never_for_operational_events() {
    let world = World::with(&["--retry-schedule="]).await;
    let (failing, owner) = (Receiver::start().await, Receiver::start().await);
    failing.answer(vec![Answer::status(418); 100]);
    owner.answer(vec![Answer::status(418); 100]);
    let endpoint = world.endpoint(&failing, "").await;
    world.endpoint(&owner, "hookgate.delivery.exhausted").await;
    let [event] = world.publish("user.login", 1).await[..] else { panic!("one event") };
    assert_eq!(world.deliver().await, 1);
    assert_eq!(world.deliver().await, 1, "the news");
    assert_eq!(world.deliver().await, 0, "no news of the news");
    let told = owner.received(1).await[0].json();
    assert_eq!(told["type"], "hookgate.delivery.exhausted");
    assert_eq!(told["data"]["event_id"], event.to_string());
    assert_eq!(told["data"]["endpoint_id"], endpoint.to_string());
    assert_eq!(
        (&told["data"]["attempts"], &told["data"]["event_type"]),
        (&1.into(), &"user.login".into())
    );
    assert!(world.rows().await.iter().all(|row| row.status == DeliveryStatus::Dead));
}
