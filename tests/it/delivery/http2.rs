//! HTTP/2 receivers that leave connections, refuse streams, and allow few at once.

use std::time::Duration;

use hookgate::delivery::DeliveryService;
use hookgate::domain::{Attempt, Delivery, DeliveryStatus, ErrorClass, SigningSecret};

use serde_json::json;

use super::world::World;
use crate::support::answer::{answer, json};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::h2_peer::{Act, H2Peer};
use crate::support::tls::Authority;
use crate::support::wait::until;

/// A day, in microseconds.
const DAY: i64 = 86_400_000_000;

/// A world whose endpoint is this receiver, to which a first webhook has been delivered: it is known to speak HTTP/2.
async fn world(
    flags: &[&str],
    streams_max: u32,
    act: impl Fn(usize) -> Act + Send + Sync + 'static,
) -> (World, H2Peer, DeliveryService) {
    let authority = Authority::new();
    let file = format!("--webhook-ca-file={}", authority.file().display());
    let world = Box::pin(World::with(&[&[file.as_str()], flags].concat())).await;
    let peer = H2Peer::start(authority.identity("localhost"), streams_max, act).await;
    world.endpoint_at(peer.url(), "", SigningSecret::generate().unwrap()).await;
    // Its body differs from those of later ones by its type.
    world.publish("user.created", 1).await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 1);
    (world, peer, service)
}

/// Delivers `count` more webhooks; each gets there by one attempt, and the receiver processes it once.
async fn each_is_one_attempt(
    world: &World,
    service: &mut DeliveryService,
    peer: &H2Peer,
    count: usize,
) {
    world.publish("user.login", count).await;
    while service.run_once().await.unwrap() > 0 {}
    let rows = world.rows().await;
    assert_eq!(rows.len(), count + 1);
    for row in rows {
        let attempts = world.store.attempts(world.org, row.id).await.unwrap();
        assert_eq!((row.status, attempts.len()), (DeliveryStatus::Delivered, 1), "{attempts:?}");
        assert!(attempts[0].duration_ms < 2_000, "{attempts:?}");
    }
    assert_eq!(peer.processed(), (count + 1, count + 1));
}

/// The failed attempts.
async fn failures(world: &World) -> Vec<Attempt> {
    let mut failures = Vec::new();
    for row in world.rows().await {
        failures.extend(world.store.attempts(world.org, row.id).await.unwrap());
    }
    failures.retain(|attempt| attempt.error.is_some());
    failures
}

fn resends(world: &World) -> u64 {
    world.metrics.delivery.hookgate_webhook_resends_total.get()
}

#[tokio::test]
async fn streams_that_a_goaway_does_not_cover_go_again_without_an_attempt() {
    let act = |number| if number % 7 == 6 { Act::AnswerAndGoAway } else { Act::Answer };
    let (world, peer, mut service) = world(&["--endpoint-concurrency=50"], 100, act).await;
    each_is_one_attempt(&world, &mut service, &peer, 200).await;
    assert!(resends(&world) > 0 && peer.connections() >= 200 / 7, "{}", peer.connections());
}

#[tokio::test]
async fn refused_streams_go_again_without_an_attempt() {
    let act = |number| if number % 3 == 2 { Act::Refuse } else { Act::Answer };
    let (world, peer, mut service) = world(&[], 100, act).await;
    each_is_one_attempt(&world, &mut service, &peer, 100).await;
    assert_eq!(peer.requests() as u64, 101 + resends(&world));
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn stream_that_a_goaway_covers_is_an_attempt_and_is_not_sent_again_within_it() {
    let act = |number| if number == 1 { Act::GoAwayAndCut } else { Act::Answer };
    let (world, peer, mut service) = world(&[], 100, act).await;
    world.publish("user.login", 1).await;
    assert_eq!(service.run_once().await.unwrap(), 1);
    let failed = failures(&world).await;
    assert_eq!((failed.len(), failed[0].error_class), (1, Some(ErrorClass::Reset)));
    assert_eq!((peer.requests(), resends(&world)), (2, 0));
    world.advance(Duration::from_secs(5));
    assert_eq!(service.run_once().await.unwrap(), 1);
    assert_eq!((peer.requests(), peer.connections()), (3, 2));
}

#[tokio::test]
async fn receiver_that_never_processes_a_request_fails_the_attempt_in_bounded_time() {
    for act in [Act::Refuse, Act::GoAwayAtOnce] {
        let act = move |number| if number == 0 { Act::Answer } else { act };
        let (world, peer, mut service) = world(&["--delivery-timeout=1s"], 100, act).await;
        world.publish("user.login", 1).await;
        assert_eq!(service.run_once().await.unwrap(), 1);
        let failed = failures(&world).await;
        assert_eq!((failed.len(), failed[0].error_class), (1, Some(ErrorClass::Reset)));
        // Four at once, and then one in each tenth of a second at most.
        assert!((2..=15).contains(&peer.requests()), "{}", peer.requests());
    }
}

#[tokio::test]
async fn wait_for_a_stream_is_not_the_receivers_time() {
    let act = |_| Act::AnswerAfter(Duration::from_millis(200));
    let flags = ["--delivery-timeout=2s", "--endpoint-concurrency=16"];
    let (world, peer, mut service) = world(&flags, 1, act).await;
    // The last of them wait longer than the timeout.
    each_is_one_attempt(&world, &mut service, &peer, 16).await;
    assert_eq!((peer.requests(), peer.connections()), (17, 1));
}

/// A lease ends by the schedule time, which the wall clock may be far from: on two servers, or once it is set.
#[tokio::test]
async fn clock_that_is_set_leaves_webhooks_their_wait_for_a_stream() {
    for step in [DAY, -DAY] {
        let (world, peer, mut service) = world(&[], 100, |_| Act::Answer).await;
        world.publish("user.login", 5).await;
        world.clock.step_by(step);
        assert_eq!(service.run_once().await.unwrap(), 5);
        assert!(failures(&world).await.is_empty());
        let is_done = |row: &Delivery| (row.status, row.attempts) == (DeliveryStatus::Delivered, 1);
        assert!(world.rows().await.iter().all(is_done));
        assert_eq!(peer.requests(), 6);
    }
}

/// The first webhooks to a host have clients of 1, 2 and 4 connections, so the fourth shares that of the third, over
/// which it turns out to allow one stream.
#[tokio::test(flavor = "multi_thread")]
async fn wait_for_a_stream_of_a_new_host_is_not_the_receivers_time() {
    let authority = Authority::new();
    let act = |number| match number {
        0..=2 => Act::ResetAfter(Duration::from_millis(3_500)),
        _ => Act::AnswerAfter(Duration::from_secs(3)),
    };
    let peer = H2Peer::start(authority.identity("localhost"), 1, act).await;
    let dir = crate::support::temporary::directory();
    let file = authority.file().display().to_string();
    let settings =
        [("WEBHOOK_CA_FILE", &*file), ("DELIVERY_TIMEOUT", "6s"), ("RETRY_SCHEDULE", "none")];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    let post = async |path: &str, body: serde_json::Value| {
        let request = client().post(format!("{}{path}", server.base_url));
        let answered = answer(json(request.header("x-api-key", &key), body.to_string())).await;
        assert!(answered.status.is_success(), "{answered:?}");
    };
    post("/api/endpoints", json!({ "url": peer.url() })).await;
    for number in 0..4 {
        post("/api/events", json!({ "type": "a", "payload": number })).await;
        let requests = (number + 1).min(3);
        until("it is sent", async || peer.requests() >= requests).await;
    }
    let deliveries = format!("{}/api/deliveries", server.base_url);
    let mut ends = Vec::new();
    until("each has had its attempt", async || {
        let list = answer(client().get(&deliveries).header("x-api-key", &key)).await.expect(200);
        let list = list["data"].as_array().unwrap();
        ends = list.iter().map(|delivery| delivery["status"].as_str().unwrap().into()).collect();
        list.len() == 4 && !ends.contains(&"pending".to_owned())
    })
    .await;
    ends.sort_unstable();
    assert_eq!(ends, ["dead", "dead", "dead", "delivered"]);
    assert_eq!(peer.requests(), 4);
    server.stop().await;
}

#[tokio::test]
async fn receiver_that_allows_no_stream_fails_the_attempt() {
    let act = |_| Act::AnswerAndAllowNoMore;
    let (world, peer, mut service) = world(&["--delivery-timeout=2s"], 100, act).await;
    world.publish("user.login", 2).await;
    assert_eq!(service.run_once().await.unwrap(), 2);
    let failed = failures(&world).await;
    assert_eq!(failed.len(), 2);
    for attempt in failed {
        assert_eq!(attempt.error_class, Some(ErrorClass::Timeout));
        let error = attempt.error.unwrap();
        assert!(error.starts_with("no HTTP/2 stream allowed within "), "{error}");
    }
    assert_eq!(peer.requests(), 1);
}
