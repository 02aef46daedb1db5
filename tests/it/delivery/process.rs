//! The real binary and its receivers: proxies, endless responses, and shutdown.

use std::time::Duration;

use super::servers::Delivering;
use crate::support::faulty::{Act, Faulty};

/// Maximum memory growth during endless responses: the buffers of a few connections.
const GROWTH_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Much longer than a shutdown takes, and much shorter than the timeouts that could delay it.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn proxy_settings_of_the_environment_are_ignored() {
    let (proxy, receiver) =
        (Faulty::start(|_| Act::Answer).await, Faulty::start(|_| Act::Answer).await);
    let url = proxy.url();
    let names =
        ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let server = Delivering::start(&names.map(|name| (name, url.as_str()))).await;
    server.endpoint(&receiver.url()).await;
    server.publish(3).await;
    server.delivered(3).await;
    assert_eq!((receiver.requests(), proxy.connections()), (3, 0));
    server.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_responses_do_not_grow_the_memory() {
    let receiver = Faulty::start(|_| Act::Send(300_000_000)).await;
    let server = Delivering::start(&[]).await;
    server.endpoint(&receiver.url()).await;
    server.publish(5).await;
    server.delivered(5).await;
    let before = server.memory_bytes().await;
    server.publish(50).await;
    server.delivered(55).await;
    let after = server.memory_bytes().await;
    assert!(after < before + GROWTH_BYTES_MAX, "{before} bytes grew to {after}");
    assert_eq!(receiver.requests(), 55, "each is judged by its status and not sent again");
    server.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_server_stops_at_once() {
    let receiver = Faulty::start(|_| Act::Answer).await;
    let server = Delivering::start(&[("SHUTDOWN_TIMEOUT", "1h")]).await;
    server.endpoint(&receiver.url()).await;
    server.publish(3).await;
    server.delivered(3).await;
    let log = tokio::time::timeout(SOON, server.binary.stop()).await.expect("it stops");
    assert!(log.iter().any(|line| line.contains("\"stopped\"")), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_receiver_delays_shutdown_by_at_most_its_timeout() {
    let receiver = Faulty::start(|number| if number == 0 { Act::DripHeader } else { Act::Answer });
    let receiver = receiver.await;
    let patient = [("SHUTDOWN_TIMEOUT", "1s"), ("DELIVERY_TIMEOUT", "1h")];
    let server = Delivering::start(&patient).await;
    server.endpoint(&receiver.url()).await;
    server.publish(1).await;
    receiver.requested(1).await;
    let Delivering { binary, directory, tenant } = server;
    let log = tokio::time::timeout(SOON, binary.stop()).await.expect("it stops");
    assert!(log.iter().any(|line| line.contains("stopped at SHUTDOWN_TIMEOUT")), "{log:#?}");

    let server = Delivering::again((directory, tenant), &[]).await;
    server.delivered(1).await;
    assert_eq!(receiver.requests(), 2, "what was cut off is sent again");
    server.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_attempt_ends_at_its_timeout_and_shutdown_waits_for_it() {
    let receiver = Faulty::start(|_| Act::DripBody).await;
    let server = Delivering::start(&[("SHUTDOWN_TIMEOUT", "1h"), ("DELIVERY_TIMEOUT", "3s")]).await;
    server.endpoint(&receiver.url()).await;
    server.publish(1).await;
    receiver.requested(1).await;
    let Delivering { binary, directory, tenant } = server;
    let log = tokio::time::timeout(SOON, binary.stop()).await.expect("it stops");
    assert!(log.iter().any(|line| line.contains("\"stopped\"")), "{log:#?}");
    let server = Delivering::again((directory, tenant), &[]).await;
    let attempts = server.deliveries().await[0]["attempts"].clone();
    assert_eq!(attempts[0]["status_code"], 200, "{attempts}");
    assert_eq!(receiver.requests(), 1, "recorded before the stop");
    server.binary.stop().await;
}
