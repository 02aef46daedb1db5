//! Faults between server and receiver: each costs attempts, but no event.
//!
//! `cargo test --test it no_fault_loses -- --nocapture` prints the table in docs/operations.md.

#![expect(clippy::print_stdout, reason = "the table is printed")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hookgate::delivery::DnsResolver;
use hookgate::domain::{DeliveryStatus, SigningSecret};
use serde_json::Value;

use super::scripted_resolver::ScriptedResolver;
use super::servers::Delivering;
use super::world::World;
use crate::support::faulty::{Act, Faulty};
use crate::support::postgres;
use crate::support::receiver::Receiver;
use crate::support::tls::{Authority, Identity};

/// Events affected by a fault, if it affects several.
const EVENTS: usize = 10;
const WAIT: Duration = Duration::from_secs(5);

/// A fault and its cost.
#[derive(Debug)]
struct Row {
    fault: &'static str,
    events: usize,
    /// Requests that the receiver read completely.
    seen: usize,
    /// Recorded attempts.
    recorded: usize,
    /// Events that were never delivered.
    lost: usize,
    /// Events that the receiver read more than once.
    duplicated: usize,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, events, seen, recorded, lost, duplicated } = self;
        write!(f, "| {fault} | {events} | {seen} | {recorded} | {lost} | {duplicated} |")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_loses_an_event() {
    let resets = strikes("receiver resets the connection", |_| Act::Reset);
    let hangs = strikes("receiver hangs before the header", |_| Act::Hang);
    let drips_header = strikes("receiver drips its header for ever", |_| Act::DripHeader);
    let drips = strikes("receiver drips its body for ever", |_| Act::DripBody);
    let sends = strikes("receiver sends 10 MiB", |_| Act::Send(10 * 1024 * 1024));
    let closes = strikes("receiver closes the connection instead of answering", |_| Act::Close);
    let babbles = strikes("receiver does not speak HTTP", |_| Act::Babble);
    let (resets, hangs, drips_header, drips, sends, closes, babbles) =
        tokio::join!(resets, hangs, drips_header, drips, sends, closes, babbles);
    let (kept, tls, dns) = tokio::join!(closes_kept(), bad_tls(), flapping_dns());
    let (killed, stopped, taken_over) = tokio::join!(killed(), stopped(), taken_over());

    println!("| fault | events | attempts seen | recorded | lost | duplicated |");
    println!("|---|---|---|---|---|---|");
    let refused = [tls, dns];
    let answered = [drips, sends];
    let failed = [resets, hangs, drips_header, closes, babbles];
    let servers = [killed, stopped, taken_over];
    let kept = [kept];
    for row in failed.iter().chain(&kept).chain(&answered).chain(&refused).chain(&servers) {
        println!("{row}");
        assert_eq!(row.lost, 0, "{row:?}");
    }
    for row in &failed {
        // The receiver read it, failed, and received it once more, as a recorded attempt.
        assert_eq!((row.seen, row.recorded, row.duplicated), (20, 20, 10), "{row:?}");
    }
    for row in &kept {
        // A request on a connection that is just being closed is an attempt.
        assert_eq!((row.seen, row.duplicated), (10, 0), "{row:?}");
        assert!(row.recorded >= 10, "{row:?}");
    }
    for row in &answered {
        assert_eq!((row.seen, row.recorded, row.duplicated), (10, 10, 0), "{row:?}");
    }
    for row in &refused {
        assert_eq!((row.seen, row.recorded, row.duplicated), (10, 20, 0), "{row:?}");
    }
    for row in &servers {
        // The interrupted attempt left no outcome, or one that was ignored.
        assert_eq!((row.seen, row.recorded, row.duplicated), (2, 1, 1), "{row:?}");
    }
}

/// A receiver that does this with the first request of each event, and then answers.
async fn strikes(fault: &'static str, act: fn(usize) -> Act) -> Row {
    let receiver =
        Faulty::start(move |number| if number < EVENTS { act(number) } else { Act::Answer }).await;
    // Those that hang or drip are given up then; it is long for an answer.
    let world = World::with(&["--delivery-timeout=3s"]).await;
    world.endpoint_at(&receiver.url(), "", SigningSecret::generate().unwrap()).await;
    world.publish("user.login", EVENTS).await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), EVENTS);
    world.advance(WAIT);
    // The failures have opened the breaker: first one probe, then the rest.
    while service.run_once().await.unwrap() > 0 {}
    let (seen, duplicated) = (receiver.requests(), receiver.repeated());
    Row { seen, duplicated, ..recorded(fault, &world).await }
}

/// A receiver that closes its connections after each response without announcing it.
async fn closes_kept() -> Row {
    let receiver = Faulty::start(|_| Act::AnswerAndClose).await;
    let world = World::with(&["--endpoint-concurrency=1", "--retry-schedule=5s,5s,5s,5s"]).await;
    world.endpoint_at(&receiver.url(), "", SigningSecret::generate().unwrap()).await;
    world.publish("user.login", EVENTS).await;
    let mut service = world.delivery();
    while service.run_once().await.unwrap() > 0 {
        world.advance(WAIT);
    }
    let (seen, duplicated) = (receiver.requests(), receiver.repeated());
    Row { seen, duplicated, ..recorded("receiver closes kept connections", &world).await }
}

/// A name that resolves to a receiver with an expired certificate, and then to one with a valid one.
async fn bad_tls() -> Row {
    let authority = Authority::new();
    let file = format!("--webhook-ca-file={}", authority.file().display());
    let bad = Identity::self_signed("hooks.example");
    let good = authority.identity("hooks.example");
    let (good, _bad) = Receiver::start_two_tls(good, bad).await;
    let world = World::with(&[&file]).await;
    flap("the certificate does not hold", &world, &good, &["127.0.0.2"]).await
}

/// A name server that fails and then answers.
async fn flapping_dns() -> Row {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    flap("the name cannot be resolved", &world, &receiver, &[]).await
}

/// A name that resolves to `first` and, once that has failed, to the receiver.
async fn flap(
    fault: &'static str,
    world: &World,
    receiver: &Receiver,
    first: &'static [&'static str],
) -> Row {
    let secret = SigningSecret::generate().unwrap();
    receiver.trust(&secret);
    let url = receiver.url("/").replace("localhost", "hooks.example");
    world.endpoint_at(&url.replace("127.0.0.1", "hooks.example"), "", secret).await;
    world.publish("user.login", EVENTS).await;
    let names = ScriptedResolver::script([first]);
    let mut service = world.delivery_with(Arc::clone(&names) as Arc<dyn DnsResolver>);
    assert_eq!(service.run_once().await.unwrap(), EVENTS);
    names.answer(&["127.0.0.1"]);
    world.advance(WAIT);
    // The failures have opened the breaker: first one probe, then the rest.
    while service.run_once().await.unwrap() > 0 {}
    Row { seen: receiver.so_far().len(), ..recorded(fault, world).await }
}

async fn recorded(fault: &'static str, world: &World) -> Row {
    let rows = world.rows().await;
    let lost = rows.iter().filter(|row| row.status != DeliveryStatus::Delivered).count();
    let mut recorded = 0;
    for row in &rows {
        recorded += world.store.attempts(world.org, row.id).await.unwrap().len();
    }
    Row { fault, events: EVENTS, seen: 0, recorded, lost, duplicated: 0 }
}

/// A receiver that never answers the first request, and answers the others.
async fn hanging_once() -> Faulty {
    Faulty::start(|number| if number == 0 { Act::Hang } else { Act::Answer }).await
}

/// `kill -9` while a webhook is in flight, and a restart.
async fn killed() -> Row {
    let receiver = hanging_once().await;
    let server = Delivering::start(&[]).await;
    server.endpoint(&receiver.url()).await;
    server.publish(1).await;
    receiver.requested(1).await;
    let server = Delivering::again(server.kill().await, &[]).await;
    server.delivered(1).await;
    row("the server is killed while it delivers", &server, &receiver).await
}

/// Two servers on one database; with a short lease, so that the test does not wait for minutes.
async fn lease() -> [(&'static str, String); 3] {
    let url = postgres::fresh_database().await;
    // Until the timeout the first server is not frozen yet.
    let (timeout, lease) = ("8s".to_owned(), "11s".to_owned());
    [("DATABASE_URL", url), ("DELIVERY_TIMEOUT", timeout), ("DELIVERY_LEASE", lease)]
}

/// One of two servers is paused past its lease, and continues after the other has delivered.
async fn stopped() -> Row {
    let receiver = hanging_once().await;
    let settings = lease().await;
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let one = Delivering::start(&settings).await;
    one.endpoint(&receiver.url()).await;
    one.publish(1).await;
    receiver.requested(1).await;
    one.binary.freeze();
    let other = one.beside(&settings).await;
    other.delivered(1).await;
    one.binary.go_on();
    // It notices the end of its attempt and tries to record it.
    one.metric("db_operations_latency_seconds_count{operation=\"record_outcomes\"}", 1).await;
    row("one of two servers is stopped past its lease", &other, &receiver).await
}

/// One of two servers is killed, and the other takes over when the lease has lapsed.
async fn taken_over() -> Row {
    let receiver = hanging_once().await;
    let settings = lease().await;
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let one = Delivering::start(&settings).await;
    one.endpoint(&receiver.url()).await;
    one.publish(1).await;
    receiver.requested(1).await;
    // It gives the attempt up in no case, however long the other one takes to start.
    one.binary.freeze();
    let other = one.beside(&settings).await;
    let _left = one.kill().await;
    other.delivered(1).await;
    row("one of two servers is killed while it delivers", &other, &receiver).await
}

async fn row(fault: &'static str, server: &Delivering, receiver: &Faulty) -> Row {
    let deliveries = server.deliveries().await;
    let attempts = |delivery: &Value| delivery["attempts"].as_array().unwrap().len();
    Row {
        fault,
        events: 1,
        seen: receiver.requests(),
        recorded: deliveries.iter().map(attempts).sum(),
        lost: deliveries.iter().filter(|delivery| delivery["status"] != "delivered").count(),
        duplicated: receiver.repeated(),
    }
}
