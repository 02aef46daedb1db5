//! Connections: reuse, timeouts, error classes, and no request without a recorded attempt.

use std::time::Duration;

use hookgate::domain::{DeliveryStatus, ErrorClass, SigningSecret};

use super::scripted_resolver::ScriptedResolver;
use super::world::World;
use crate::support::faulty::{Act, Faulty};
use crate::support::receiver::Receiver;

const WAIT: Duration = Duration::from_secs(5);

/// A world with one endpoint at this receiver.
async fn world(receiver: &Faulty, flags: &[&str]) -> World {
    let world = World::with(flags).await;
    world.endpoint_at(&receiver.url(), "", SigningSecret::generate().unwrap()).await;
    world
}

#[tokio::test]
async fn connections_are_reused() {
    let world = World::with(&["--endpoint-concurrency=1"]).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    let mut service = world.delivery();
    for _ in 0..3 {
        world.publish("user.login", 20).await;
        assert_eq!(service.run_once().await.unwrap(), 20);
    }
    assert_eq!(receiver.so_far().len(), 60);
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn connections_to_an_endpoint_do_not_exceed_its_concurrency() {
    let world = World::with(&["--endpoint-concurrency=4"]).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 200).await;
    assert_eq!(world.deliver().await, 200);
    // A webhook that finds no idle connection starts to open one, and takes one that is given back
    // meanwhile if that is sooner: so a few more may be opened than are ever used at once.
    let connections = receiver.connections();
    assert!((1..=8).contains(&connections), "{connections}");
}

#[tokio::test]
async fn every_request_that_a_receiver_sees_is_a_recorded_attempt() {
    let ways = [Act::Close, Act::Reset, Act::AnswerAndClose, Act::Babble];
    for way in ways {
        // Every other request fails, so that kept connections fail just when the next request comes.
        let receiver =
            Faulty::start(move |number| if number % 2 == 1 { way } else { Act::Answer }).await;
        let world = world(&receiver, &["--retry-schedule=5s,5s,5s,5s,5s,5s,5s,5s,5s,5s"]).await;
        world.publish("user.login", 40).await;
        let mut service = world.delivery();
        while service.run_once().await.unwrap() > 0 {
            world.advance(WAIT);
        }
        let rows = world.rows().await;
        assert!(rows.iter().all(|row| row.status == DeliveryStatus::Delivered), "{way:?}");
        let recorded = rows.iter().map(|row| row.attempts as usize).sum::<usize>();
        if way == Act::AnswerAndClose {
            // A request may be written to a connection that is already closed: an attempt that the
            // receiver never sees.
            assert!(receiver.requests() <= recorded, "{} > {recorded}", receiver.requests());
        } else {
            assert_eq!(receiver.requests(), recorded, "{way:?}");
        }
    }
}

#[tokio::test]
async fn every_kind_of_failure_has_its_error_class() {
    // The request must have come by the timeout.
    let (patient, hasty) = (&[][..], &["--delivery-timeout=2s"][..]);
    let cases = [
        (Act::Close, ErrorClass::Reset, patient),
        (Act::Reset, ErrorClass::Reset, patient),
        (Act::Hang, ErrorClass::Timeout, hasty),
        (Act::DripHeader, ErrorClass::Timeout, hasty),
        (Act::Babble, ErrorClass::Protocol, patient),
    ];
    for (act, class, flags) in cases {
        let receiver = Faulty::start(move |_| act).await;
        let world = world(&receiver, flags).await;
        world.publish("user.login", 1).await;
        assert_eq!(world.deliver().await, 1);
        assert_eq!(receiver.requests(), 1, "{act:?}: one request for one attempt");
        let (found, error) = world.last_failure().await;
        assert_eq!(found, class, "{act:?}: {error}");
        assert_eq!(world.metrics.delivery.webhook_errors_total.of(class).get(), 1, "{act:?}");
    }
}

#[tokio::test]
async fn name_that_cannot_be_resolved_is_retried() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    let secret = SigningSecret::generate().unwrap();
    receiver.trust(&secret);
    let url = receiver.url("/").replace("127.0.0.1", "hooks.example");
    world.endpoint_at(&url, "", secret).await;
    world.publish("user.login", 1).await;
    let answers: [&[&str]; 2] = [&[], &["127.0.0.1"]];
    let mut service = world.delivery_with(ScriptedResolver::script(answers));
    assert_eq!(service.run_once().await.unwrap(), 1);
    let (class, error) = world.last_failure().await;
    assert_eq!(class, ErrorClass::Dns);
    assert_eq!(error, "cannot resolve the host: a name server answered: Server Failure");
    world.advance(WAIT);
    assert_eq!(service.run_once().await.unwrap(), 1);
    assert_eq!(world.row().await.status, DeliveryStatus::Delivered);
}

#[tokio::test]
async fn open_connection_is_used_whatever_the_name_servers_do() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let secret = SigningSecret::generate().unwrap();
    receiver.trust(&secret);
    world.endpoint_at(&receiver.url("/").replace("127.0.0.1", "hooks.example"), "", secret).await;
    let answers: [&[&str]; 2] = [&["127.0.0.1"], &[]];
    let mut service = world.delivery_with(ScriptedResolver::script(answers));
    for _ in 0..3 {
        world.publish("user.login", 1).await;
        assert_eq!(service.run_once().await.unwrap(), 1);
    }
    assert!(world.rows().await.iter().all(|row| row.status == DeliveryStatus::Delivered));
    assert_eq!((receiver.so_far().len(), receiver.connections()), (3, 1));
}

#[tokio::test]
async fn connect_timeout_is_a_failure() {
    let world = World::with(&["--delivery-connect-timeout=50ms"]).await;
    // Its accept queue is full.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = full.local_addr().unwrap();
    let _listening = full.listen(1).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connecting = tokio::net::TcpStream::connect(address);
        waiting.push(tokio::time::timeout(Duration::from_millis(50), connecting).await);
    }
    let url = format!("http://{address}/");
    world.endpoint_at(&url, "", SigningSecret::generate().unwrap()).await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    let failure = world.last_failure().await;
    assert_eq!(failure, (ErrorClass::Timeout, "no connection within 50ms".to_owned()));
}

#[tokio::test]
async fn endless_response_is_cut_off_and_judged_by_its_status() {
    let receiver = Faulty::start(|_| Act::Send(300_000_000)).await;
    let world = world(&receiver, &[]).await;
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    assert_eq!(world.row().await.status, DeliveryStatus::Delivered);
    let attempts = world.store.attempts(world.org, world.row().await.id).await.unwrap();
    assert_eq!(attempts[0].response_excerpt.as_deref(), Some("x".repeat(1024).as_str()));
    // No more than the buffers of the two sockets.
    assert!(receiver.body_bytes() < 32_000_000, "{}", receiver.body_bytes());
}

#[tokio::test]
async fn dripping_body_is_cut_off_and_judged_by_its_status() {
    let receiver = Faulty::start(|_| Act::DripBody).await;
    let world = world(&receiver, &["--delivery-timeout=1h", "--endpoint-concurrency=1"]).await;
    world.publish("user.login", 2).await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 2, "long before the attempts time out");
    for row in world.rows().await {
        assert_eq!((row.status, row.attempts), (DeliveryStatus::Delivered, 1));
        let attempt = &world.store.attempts(world.org, row.id).await.unwrap()[0];
        assert_eq!((attempt.status_code, &attempt.error), (Some(200), &None));
        assert!(attempt.response_excerpt.as_ref().unwrap().starts_with('x'), "as far as it came");
    }
    assert_eq!((receiver.requests(), receiver.connections()), (2, 2));
    // The service is there still, and so are its idle connections.
    receiver.disconnected().await;
}

#[tokio::test]
async fn dripping_response_ends_with_its_attempt_and_never_overlaps_with_the_next() {
    let receiver = Faulty::start(|_| Act::DripHeader).await;
    let flags = ["--delivery-timeout=200ms", "--retry-schedule=5s,5s,5s"];
    let world = world(&receiver, &flags).await;
    world.publish("user.login", 1).await;
    let mut service = world.delivery();
    for _ in 0..4 {
        assert_eq!(service.run_once().await.unwrap(), 1);
        world.advance(WAIT);
    }
    let row = world.row().await;
    assert_eq!((row.status, row.attempts), (DeliveryStatus::Dead, 4));
    assert_eq!((receiver.requests(), receiver.connections()), (4, 4));
}
