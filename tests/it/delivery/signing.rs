//! Signatures, secret rotation and custom headers of webhooks.

use std::sync::Arc;
use std::time::Duration;

use hookgate::config::SecretsKeys;
use hookgate::domain::{
    Actor, CustomHeaders, DeliveryStatus, EndpointChange, ErrorClass, SignatureScheme,
    SigningSecret,
};
use hookgate::store::Store;

use super::world::World;
use crate::support::receiver::Receiver;

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn webhooks_may_be_signed_with_ed25519() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let secret = SigningSecret::generate_for(SignatureScheme::Ed25519).unwrap();
    receiver.trust(&secret);
    world.endpoint_at(&receiver.url("/"), "", secret).await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    let webhook = &receiver.received(1).await[0];
    assert!(webhook.header("webhook-signature").starts_with("v1a,"));
    assert_eq!(receiver.forged(), 0);
}

#[tokio::test]
async fn receivers_with_the_old_and_the_new_secret_verify_during_an_overlap() {
    let world = World::new().await;
    let (old, new) = (SigningSecret::generate().unwrap(), SigningSecret::generate().unwrap());
    let receiver = Receiver::start().await;
    receiver.trust(&old);
    let endpoint = world.endpoint_at(&receiver.url("/"), "", old).await;
    let rotated =
        world.store.rotate_secret(world.org, endpoint, &new, DAY, &Actor::CLI, world.clock.now());
    rotated.await.unwrap().unwrap();

    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    assert_eq!((receiver.received(1).await.len(), receiver.forged()), (1, 0));
    world.clock.advance(DAY);
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    assert_eq!((receiver.so_far().len(), receiver.forged()), (1, 1), "the old secret has ended");
    receiver.trust(&new);
    world.advance(Duration::from_secs(5));
    assert_eq!(world.deliver().await, 1);
    let signatures = receiver.received(2).await[1].header("webhook-signature").to_owned();
    assert_eq!(signatures.split(' ').count(), 1);
}

#[tokio::test]
async fn delivery_that_waits_during_a_rotation_is_signed_with_the_new_secret() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let (old, new) = (SigningSecret::generate().unwrap(), SigningSecret::generate().unwrap());
    let endpoint = world.endpoint_at(&receiver.url("/"), "", old).await;
    let mut service = world.delivery();
    assert_eq!(world.offer(&service.door(), "user.login", 1).await, 1);
    let rotated = world.store.rotate_secret(
        world.org,
        endpoint,
        &new,
        Duration::ZERO,
        &Actor::CLI,
        world.clock.now(),
    );
    rotated.await.unwrap().unwrap();
    service.handle().endpoints_changed(world.org).await;
    receiver.trust(&new);
    assert_eq!(service.run_once().await.unwrap(), 1);
    assert_eq!(receiver.forged(), 0);
}

#[tokio::test]
async fn custom_headers_are_sent_with_every_webhook() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let endpoint = world.endpoint(&receiver, "").await;
    let headers = [("Authorization", "Bearer s3cret"), ("x-a", "b c")];
    let headers = Some(CustomHeaders::parse(headers).unwrap());
    let change = EndpointChange { headers, ..EndpointChange::default() };
    let now = world.clock.now();
    world
        .store
        .update_endpoint(world.org, endpoint, &change, &Actor::CLI, now)
        .await
        .unwrap()
        .unwrap();
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    let webhook = &receiver.received(1).await[0];
    assert_eq!(webhook.header("authorization"), "Bearer s3cret");
    assert_eq!(webhook.header("x-a"), "b c");
}

#[tokio::test]
async fn webhook_whose_secret_cannot_be_decrypted_is_neither_sent_nor_lost() {
    let mut world = World::new().await;
    let (dark, bright) = (Receiver::start().await, Receiver::start().await);
    // Written by a server with the key, then read by one without it.
    let in_clear = world.store.clone();
    let keys = SecretsKeys::parse("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
    let (path, config) = world.store_config(Some(keys));
    let metrics = Arc::clone(&world.metrics.store);
    let keyed = Store::open_sqlite(&path, &config, metrics).await.unwrap();
    world.store = keyed.clone();
    world.endpoint(&dark, "").await;
    world.store = in_clear;
    world.endpoint(&bright, "").await;
    world.publish("user.login", 1).await;

    assert_eq!(world.deliver().await, 2);
    assert_eq!(bright.received(1).await.len(), 1, "the others notice nothing");
    assert_eq!((dark.so_far().len(), dark.forged()), (0, 0), "nothing is sent unsigned");
    let rows = world.rows().await;
    let waiting = rows.iter().find(|row| row.status == DeliveryStatus::Pending).unwrap();
    let attempts = world.store.attempts(world.org, waiting.id).await.unwrap();
    let error = attempts[0].error.as_deref().unwrap();
    assert!(error.contains("SECRETS_KEY"), "{error}");
    assert_eq!(attempts[0].error_class, Some(ErrorClass::Signing));

    world.store = keyed;
    world.advance(Duration::from_secs(5));
    assert_eq!(world.deliver().await, 1);
    assert_eq!(dark.received(1).await.len(), 1, "it is sent once the key is there");
}
