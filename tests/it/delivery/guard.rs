//! The SSRF guard, from the endpoint to the socket.

use hookgate::domain::{DeliveryStatus, SigningSecret};

use super::world::World;
use crate::support::receiver::Receiver;

const GUARDED: &[&str] = &["--allow-private-endpoints=false"];

/// The failure of the attempt at this URL.
async fn error_at(url: &str) -> String {
    let world = Box::pin(World::with(GUARDED)).await;
    world.endpoint_at(url, "", SigningSecret::generate().unwrap()).await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    let row = world.row().await;
    assert_eq!(row.status, DeliveryStatus::Pending, "a refusal is a failed attempt like another");
    let attempts = world.store.attempts(world.org, row.id).await.unwrap();
    assert_eq!(attempts[0].status_code, None);
    attempts[0].error.clone().unwrap()
}

#[tokio::test]
async fn private_addresses_are_blocked_as_hosts_and_behind_names() {
    for host in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0x7f000001"] {
        let error = error_at(&format!("https://{host}:9/hook")).await;
        assert_eq!(error, "the endpoint leads to an address that is not public", "{host}");
    }
}

#[tokio::test]
async fn plain_http_is_blocked() {
    assert_eq!(error_at("http://example.com/hook").await, "the endpoint's URL must be https");
}

#[tokio::test]
async fn blocked_webhook_never_reaches_the_receiver() {
    let (world, receiver) = (World::with(GUARDED).await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    let tls = receiver.url("/").replace("http://127.0.0.1", "https://localhost");
    world.endpoint_at(&tls, "", SigningSecret::generate().unwrap()).await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 2);
    assert_eq!((receiver.so_far().len(), receiver.forged()), (0, 0));
}
