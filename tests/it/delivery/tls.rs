//! Receivers with TLS: valid and invalid certificates, HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Version;
use hookgate::delivery::{DeliveryInputs, DeliveryService};
use hookgate::domain::{DeliveryStatus, ErrorClass, InstanceId, SigningSecret};
use hookgate::runtime::Wake;

use super::scripted_resolver::ScriptedResolver;
use super::world::World;
use crate::support::receiver::Receiver;
use crate::support::tls::{Authority, Identity};

const BOTH: &[&str] = &["h2", "http/1.1"];

/// A world in which this authority is trusted, and the loopback network allowed to https only.
async fn world(authority: &Authority) -> World {
    let file = format!("--webhook-ca-file={}", authority.file().display());
    let loopback = "--allow-endpoint-networks=127.0.0.0/8,::1";
    World::with(&[&file, loopback, "--allow-private-endpoints=false"]).await
}

#[tokio::test]
async fn certificate_of_a_configured_private_authority_is_trusted() {
    let authority = Authority::new();
    let world = world(&authority).await;
    let identity = authority.identity("localhost");
    let receiver = Receiver::start_tls(identity, &["http/1.1"]).await;
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    assert_eq!(world.row().await.status, DeliveryStatus::Delivered);
    assert_eq!(receiver.received(1).await[0].version, Version::HTTP_11);
}

#[tokio::test]
async fn http2_is_used_over_one_connection_if_offered() {
    let authority = Authority::new();
    let world = world(&authority).await;
    let identity = authority.identity("localhost");
    let receiver = Receiver::start_tls(identity, BOTH).await;
    world.endpoint(&receiver, "").await;
    let mut service = world.delivery();
    for _ in 0..3 {
        // One first: several at once would each open a connection.
        world.publish("user.login", 1).await;
        assert_eq!(service.run_once().await.unwrap(), 1);
        world.publish("user.login", 30).await;
        assert_eq!(service.run_once().await.unwrap(), 30);
    }
    let webhooks = receiver.received(93).await;
    assert!(webhooks.iter().all(|webhook| webhook.version == Version::HTTP_2));
    assert_eq!(receiver.connections(), 1);
    assert!(world.rows().await.iter().all(|row| row.status == DeliveryStatus::Delivered));
}

#[tokio::test]
async fn invalid_certificate_is_a_tls_error_and_is_retried() {
    let authority = Authority::new();
    let cases = [
        (Identity::self_signed("localhost"), "UnknownIssuer"),
        (Authority::new().identity("localhost"), "BadSignature"),
        (authority.expired("localhost"), "expired"),
        (authority.identity("other.example"), "not valid for name"),
    ];
    for (identity, words) in cases {
        let world = world(&authority).await;
        let receiver = Receiver::start_tls(identity, BOTH).await;
        world.endpoint(&receiver, "").await;
        world.publish("user.login", 1).await;
        assert_eq!(world.deliver().await, 1);
        let (class, error) = world.last_failure().await;
        assert_eq!(class, ErrorClass::Tls, "{error}");
        assert!(error.starts_with("cannot set up TLS: ") && error.contains(words), "{error}");
        assert_eq!(receiver.connections(), 0);
        world.advance(Duration::from_secs(5));
        assert_eq!(world.deliver().await, 1, "retried");
    }
}

#[tokio::test]
async fn receiver_without_tls_is_a_tls_error() {
    let authority = Authority::new();
    let world = world(&authority).await;
    let receiver = Receiver::start().await;
    let url = receiver.url("/").replace("http://127.0.0.1", "https://localhost");
    world.endpoint_at(&url, "", SigningSecret::generate().unwrap()).await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    let (class, error) = world.last_failure().await;
    assert_eq!(class, ErrorClass::Tls, "{error}");
    assert_eq!(receiver.so_far().len(), 0);
}

#[tokio::test]
async fn name_that_changes_to_a_forbidden_address_between_attempts_is_blocked() {
    let authority = Authority::new();
    let file = format!("--webhook-ca-file={}", authority.file().display());
    let guarded = ["--allow-endpoint-networks=127.0.0.2", "--allow-private-endpoints=false", &file];
    let world = World::with(&guarded).await;
    let identity = || authority.identity("hooks.example");
    let (trap, allowed) = Receiver::start_two_tls(identity(), identity()).await;
    let secret = SigningSecret::generate().unwrap();
    allowed.trust(&secret);
    let url = allowed.url("/").replace("localhost", "hooks.example");
    world.endpoint_at(&url, "", secret).await;
    let answers: [&[&str]; 4] =
        [&["127.0.0.2"], &["127.0.0.1"], &["127.0.0.2", "127.0.0.1"], &["127.0.0.1", "127.0.0.2"]];
    let names = ScriptedResolver::script(answers);
    let blocked = Some(ErrorClass::Blocked);
    for class in [None, blocked, blocked, blocked] {
        world.publish("user.login", 1).await;
        world.clock.advance(Duration::from_millis(1));
        // A new connection each time: a kept one leads to the address that was checked for it.
        let mut service = world.delivery_with(names.clone());
        assert_eq!(service.run_once().await.unwrap(), 1);
        let newest = world.rows().await.remove(0);
        let attempts = world.store.attempts(world.org, newest.id).await.unwrap();
        assert_eq!(attempts[0].error_class, class, "{:?}", attempts[0].error);
    }
    assert_eq!(allowed.so_far().len(), 1);
    assert_eq!((trap.connections(), trap.forged()), (0, 0));
}

#[tokio::test]
async fn unusable_ca_file_is_an_error_at_start() {
    let world = World::new().await;
    let mut config = world.config.clone();
    for (file, words) in [("missing.pem", "No such file"), ("empty.pem", "no certificate")] {
        let path = world.directory.path().join(file);
        std::fs::write(world.directory.path().join("empty.pem"), "").unwrap();
        config.webhook_ca_file = Some(path.clone());
        let (store, clock) = (world.store.clone(), world.clock.clone());
        let inputs = DeliveryInputs::new(Wake::new(), InstanceId::new(1));
        let metrics = Arc::clone(&world.metrics.delivery);
        let Err(error) = DeliveryService::new(&config, store, clock, metrics, inputs) else {
            panic!("{file} is taken");
        };
        let start = format!("WEBHOOK_CA_FILE={}: ", path.display());
        assert!(error.to_string().starts_with(&start), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}
