//! Host names, resolved by real name servers on loopback sockets: failures, caches, shares and the guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookgate::delivery::LookupResult;
use hookgate::domain::{DeliveryStatus, ErrorClass, SigningSecret};
use hookgate::runtime::Lifecycle;

use super::world::World;
use crate::support::name_server::{NameServer, Reply};
use crate::support::receiver::Receiver;
use crate::support::tls::Authority;

const WAIT: Duration = Duration::from_secs(5);
/// So long that a test which waits for it never ends.
const FOR_EVER: &str = "--dns-timeout=1h";
/// Look-ups in flight per organisation.
const ORG_LOOKUPS_MAX: i64 = 8;
/// Silent names of an organisation.
const NAMES: i64 = 40;

/// A world whose names are resolved by this server.
async fn world(server: &NameServer, flags: &[&str]) -> World {
    let servers = format!("--dns-servers={}", server.address());
    World::with(&[&[servers.as_str()], flags].concat()).await
}

/// An endpoint at a receiver by name.
async fn endpoint(world: &World, receiver: &Receiver, name: &str) {
    let secret = SigningSecret::generate().unwrap();
    receiver.trust(&secret);
    let url = receiver.url("/").replace("127.0.0.1", name).replace("localhost", name);
    world.endpoint_at(&url, "", secret).await;
}

/// An event for this many endpoints at silent names.
async fn hang(world: &World, receiver: &Receiver, names: i64) {
    for number in 0..names {
        endpoint(world, receiver, &format!("n{number}.silent.example")).await;
    }
    world.publish("user.login", 1).await;
}

fn silent_for_some(name: &str) -> Reply {
    if name.ends_with(".silent.example") { Reply::Silence } else { late("127.0.0.1") }
}

/// An answer that takes a while, less than the server is asked again after.
fn late(ip: &'static str) -> Reply {
    Reply::Late(Duration::from_millis(100), Box::new(Reply::addresses(&[ip], 60)))
}

#[tokio::test]
async fn name_is_looked_up_once_for_many_webhooks_endpoints_and_organisations() {
    let server = NameServer::start(|_| late("127.0.0.1")).await;
    let receivers = [Receiver::start().await, Receiver::start().await, Receiver::start().await];
    let mut world = world(&server, &[]).await;
    for receiver in &receivers[..2] {
        endpoint(&world, receiver, "hooks.example").await;
    }
    world.publish("user.login", 10).await;
    world.another_org().await;
    endpoint(&world, &receivers[2], "hooks.example").await;
    world.publish("user.login", 10).await;
    assert_eq!(world.deliver().await, 30);
    assert_eq!(receivers.map(|receiver| receiver.so_far().len()), [10, 10, 10]);
    assert_eq!(server.queries(), 2, "one for each kind of addresses");
    let lookups = &world.metrics.delivery.hookgate_dns_lookups_total;
    assert_eq!(lookups.of(LookupResult::Found).get(), 1);
}

#[tokio::test]
async fn silent_name_server_is_a_failed_attempt_with_an_error_of_its_own() {
    let server = NameServer::start(|_| Reply::Silence).await;
    let receiver = Receiver::start().await;
    let world = world(&server, &["--dns-timeout=200ms"]).await;
    endpoint(&world, &receiver, "hooks.example").await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    let error = "cannot resolve the host: no answer from a name server within 200ms";
    assert_eq!(world.last_failure().await, (ErrorClass::Dns, error.to_owned()));
    let row = world.row().await;
    assert_eq!((row.status, row.attempts), (DeliveryStatus::Pending, 1));
    let metrics = &world.metrics.delivery;
    assert_eq!(metrics.hookgate_dns_lookups_total.of(LookupResult::TimedOut).get(), 1);
    assert_eq!(metrics.webhook_errors_total.of(ErrorClass::Dns).get(), 1);
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn slow_name_server_uses_up_none_of_the_time_for_connection_and_answer() {
    const LOOKUP: Duration = Duration::from_millis(2_500);
    let answer = || Box::new(Reply::addresses(&["127.0.0.1"], 60));
    let server = NameServer::start(move |_| Reply::Late(LOOKUP, answer())).await;
    let receiver = Receiver::start().await;
    // Less than the look-up takes, and much for an answer.
    let flags = ["--delivery-connect-timeout=2s", "--delivery-timeout=2s", FOR_EVER];
    let world = world(&server, &flags).await;
    endpoint(&world, &receiver, "hooks.example").await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    let row = world.row().await;
    assert_eq!((row.status, row.attempts), (DeliveryStatus::Delivered, 1));
    let attempt = &world.store.attempts(world.org, row.id).await.unwrap()[0];
    assert!(attempt.duration_ms >= 2_400, "the look-up is part of the attempt: {attempt:?}");
}

#[tokio::test]
async fn webhook_whose_host_is_looked_up_is_sent_at_once_after_the_clock_was_set() {
    let server = NameServer::start(|_| late("127.0.0.1")).await;
    let receiver = Receiver::start().await;
    let world = world(&server, &[]).await;
    endpoint(&world, &receiver, "hooks.example").await;
    world.publish("user.login", 1).await;
    // Its lease has lapsed by the wall clock, and has not by the schedule time, which counts.
    world.clock.step_by(86_400_000_000);
    assert_eq!(world.deliver().await, 1);
    let row = world.row().await;
    assert_eq!((row.status, row.attempts), (DeliveryStatus::Delivered, 1));
}

#[tokio::test]
async fn failures_are_cached_so_that_a_dead_name_is_not_asked_for_at_every_attempt() {
    let cases = [
        (Reply::NoSuchName { ttl: 30 }, "the name does not exist", LookupResult::NotFound),
        (Reply::Empty { ttl: 30 }, "the name has no address", LookupResult::NotFound),
        (Reply::ServerFailure, "a name server answered: Server Failure", LookupResult::Failed),
    ];
    for (reply, text, result) in cases {
        let server = NameServer::start(move |_| reply.clone()).await;
        let receiver = Receiver::start().await;
        let world = world(&server, &[]).await;
        endpoint(&world, &receiver, "hooks.example").await;
        world.publish("user.login", 1).await;
        let mut service = world.delivery();
        assert_eq!(service.run_once().await.unwrap(), 1);
        let error = format!("cannot resolve the host: {text}");
        assert_eq!(world.last_failure().await, (ErrorClass::Dns, error.clone()));
        let queries = server.queries();
        world.advance(WAIT);
        assert_eq!(service.run_once().await.unwrap(), 1);
        assert_eq!(world.row().await.attempts, 2);
        assert_eq!(world.last_failure().await, (ErrorClass::Dns, error));
        assert_eq!(server.queries(), queries, "{text}");
        let lookups = &world.metrics.delivery.hookgate_dns_lookups_total;
        assert_eq!(lookups.of(result).get(), 1, "{text}");
    }
}

#[tokio::test]
async fn hanging_names_of_an_organisation_do_not_delay_another() {
    let server = NameServer::start(silent_for_some).await;
    let (hanging, healthy) = (Receiver::start().await, Receiver::start().await);
    let mut world = world(&server, &[FOR_EVER, "--delivery-poll-interval=10ms"]).await;
    hang(&world, &hanging, NAMES).await;
    let lifecycle = Lifecycle::new();
    let service = world.delivery();
    service.start(&lifecycle);
    let metrics = world.metrics.delivery.clone();
    let lookups = || {
        let in_flight = metrics.hookgate_dns_lookups_in_flight.get();
        (in_flight, metrics.hookgate_dns_lookups_waiting.get())
    };
    let all_of_one = (ORG_LOOKUPS_MAX, NAMES - ORG_LOOKUPS_MAX);
    while lookups() != all_of_one {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.another_org().await;
    endpoint(&world, &healthy, "hooks.example").await;
    world.publish("user.login", 10).await;
    healthy.received(10).await;
    assert_eq!(lookups(), all_of_one);
    assert_eq!(hanging.connections(), 0);
}

#[tokio::test]
async fn delivery_whose_lookup_gets_no_permit_in_time_is_put_back_unattempted() {
    let silent = Arc::new(AtomicBool::new(true));
    let is_silent = Arc::clone(&silent);
    let server = NameServer::start(move |name| {
        if is_silent.load(Ordering::Relaxed) { silent_for_some(name) } else { late("127.0.0.1") }
    })
    .await;
    let receiver = Receiver::start().await;
    let world = world(&server, &["--dns-timeout=3s"]).await;
    // Eight in three seconds; an attempt waits for thirteen.
    hang(&world, &receiver, 100).await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 100);
    let rows = world.rows().await;
    assert!(rows.iter().all(|row| row.status == DeliveryStatus::Pending));
    let (put_back, failed): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.attempts == 0);
    assert!(put_back.len() >= 8 && failed.len() >= 8, "{} {}", put_back.len(), failed.len());
    let now = world.clock.now();
    assert!(put_back.iter().all(|row| row.next_attempt_at == Some(now)), "due at once");
    let metrics = &world.metrics.delivery;
    let not_started = metrics.hookgate_dns_lookups_total.of(LookupResult::NotStarted).get();
    assert_eq!(not_started, put_back.len() as u64);
    assert_eq!(metrics.webhook_errors_total.of(ErrorClass::Dns).get(), failed.len() as u64);
    silent.store(false, Ordering::Relaxed);
    assert_eq!(service.run_once().await.unwrap(), put_back.len());
    assert_eq!(receiver.so_far().len(), put_back.len());
}

#[tokio::test]
async fn hosts_file_is_read_before_any_server_is_asked() {
    let server = NameServer::start(|_| Reply::Silence).await;
    let receiver = Receiver::start().await;
    let world = world(&server, &[FOR_EVER]).await;
    endpoint(&world, &receiver, "localhost").await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    assert_eq!(world.row().await.status, DeliveryStatus::Delivered);
    assert_eq!(server.queries(), 0);
}

#[tokio::test]
async fn name_with_any_address_that_is_not_public_is_blocked() {
    let answers: &[&[&str]] = &[
        &["127.0.0.1"],
        &["10.0.0.1", "1.1.1.1"],
        &["1.1.1.1", "::ffff:127.0.0.1"],
        &["1.1.1.1", "64:ff9b::127.0.0.1"],
        &["1.1.1.1", "fd00::1"],
        &["169.254.169.254"],
        &["::1"],
        &["2002:7f00:1::1"],
    ];
    for answer in answers {
        let server = NameServer::start(|_| Reply::addresses(answer, 60)).await;
        let authority = Authority::new();
        let identity = authority.identity("hooks.example");
        let receiver = Receiver::start_tls(identity, &["http/1.1"]).await;
        let ca_file = format!("--webhook-ca-file={}", authority.file().display());
        let world = world(&server, &["--allow-private-endpoints=false", &ca_file]).await;
        endpoint(&world, &receiver, "hooks.example").await;
        world.publish("user.login", 1).await;
        let mut service = world.delivery();
        // The second attempt has its answer from the cache, and is checked like the first.
        for _ in 0..2 {
            assert_eq!(service.run_once().await.unwrap(), 1);
            let (class, error) = world.last_failure().await;
            assert_eq!(class, ErrorClass::Blocked, "{answer:?}");
            assert_eq!(error, "the endpoint leads to an address that is not public");
            world.advance(WAIT);
        }
        assert_eq!(world.row().await.attempts, 2);
        assert_eq!((receiver.connections(), server.queries()), (0, 2), "{answer:?}");
    }
}

#[tokio::test]
async fn name_with_allowed_addresses_is_delivered_to_over_tls() {
    let server = NameServer::start(|_| Reply::addresses(&["127.0.0.1"], 60)).await;
    let authority = Authority::new();
    let receiver =
        Receiver::start_tls(authority.identity("hooks.example"), &["h2", "http/1.1"]).await;
    let ca_file = format!("--webhook-ca-file={}", authority.file().display());
    let allowed = ["--allow-private-endpoints=false", "--allow-endpoint-networks=127.0.0.1"];
    let world = world(&server, &[&allowed[..], &[&ca_file]].concat()).await;
    endpoint(&world, &receiver, "hooks.example").await;
    world.publish("user.login", 5).await;
    assert_eq!(world.deliver().await, 5);
    assert_eq!(receiver.so_far().len(), 5);
    assert_eq!(server.queries(), 2);
}

#[tokio::test]
async fn ipv6_addresses_that_are_never_answered_do_not_fail_the_attempt() {
    let server = NameServer::start(|_| Reply::OnlyIpv4("127.0.0.1")).await;
    let receiver = Receiver::start().await;
    let world = world(&server, &["--dns-timeout=500ms"]).await;
    endpoint(&world, &receiver, "hooks.example").await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    assert_eq!(world.row().await.status, DeliveryStatus::Delivered);
}
