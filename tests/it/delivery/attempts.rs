//! Attempts: what follows each kind of response.

use std::time::Duration;

use hookgate::delivery::WebhookResult;
use hookgate::domain::{Actor, DeliveryStatus, PageRequest, TraceId};

use super::world::World;
use crate::store::ALL_LETTERS;
use crate::support::receiver::{Answer, Receiver};

const PAGE: PageRequest = PageRequest::first(10);
const FIRST_WAIT: Duration = Duration::from_secs(5);
const SECOND_WAIT: Duration = Duration::from_mins(5);

#[tokio::test]
async fn webhook_arrives_signed_and_is_recorded_as_delivered() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    let [event] = world.publish("user.login", 1).await[..] else { panic!("one event") };
    receiver.answer([Answer::status(200).body("th\0nks")]);

    assert_eq!(world.deliver().await, 1);

    let webhook = &receiver.received(1).await[0];
    assert_eq!(webhook.path, "/hook?token=1");
    assert_eq!(webhook.header("webhook-id"), event.to_string());
    assert_eq!(webhook.header("webhook-timestamp"), world.clock.now().seconds().to_string());
    assert_eq!(webhook.header("content-type"), "application/json");
    assert!(webhook.header("user-agent").starts_with("Hookgate/"));
    assert_eq!(webhook.json()["type"], "user.login");
    assert!(webhook.body.ends_with(br#","data":{"number": 0}}"#), "byte for byte");
    let stored = world.store.event(world.org, event).await.unwrap().unwrap();
    let trace = TraceId::from_traceparent(webhook.header("traceparent")).unwrap();
    assert_eq!(trace, stored.trace_id);
    assert_eq!(webhook.header("x-trace-id"), stored.trace_id.to_string());

    let row = world.row().await;
    assert_eq!((row.status, row.attempts), (DeliveryStatus::Delivered, 1));
    let attempts = world.store.attempts(world.org, row.id).await.unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].status_code, attempts[0].error.as_deref()), (Some(200), None));
    assert_eq!(attempts[0].response_excerpt.as_deref(), Some("th\u{fffd}nks"));
    assert_eq!(
        world.metrics.delivery.webhook_deliveries_total.of(WebhookResult::Delivered).get(),
        1
    );
    assert_eq!(world.deliver().await, 0, "and never again");
}

#[tokio::test]
async fn failing_delivery_is_retried_by_the_schedule_and_then_becomes_a_dead_letter() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 1).await;
    receiver.answer([Answer::status(500).body("oops"), Answer::status(502), Answer::status(404)]);

    assert_eq!(world.deliver().await, 1);
    assert_eq!(world.deliver().await, 0, "not due yet");
    world.clock.advance(Duration::from_millis(4_999));
    assert_eq!(world.deliver().await, 0, "never earlier than the schedule");
    world.advance(FIRST_WAIT);
    assert_eq!(world.deliver().await, 1);
    world.advance(SECOND_WAIT);
    assert_eq!(world.deliver().await, 1);
    world.advance(SECOND_WAIT);
    assert_eq!(world.deliver().await, 0, "given up");

    let row = world.row().await;
    assert_eq!((row.status, row.attempts), (DeliveryStatus::Dead, 3));
    let attempts = world.store.attempts(world.org, row.id).await.unwrap();
    let seen: Vec<_> = attempts.iter().map(|a| (a.number, a.status_code)).collect();
    assert_eq!(seen, [(1, Some(500)), (2, Some(502)), (3, Some(404))]);
    assert_eq!(attempts[0].response_excerpt.as_deref(), Some("oops"));
    assert_eq!(
        attempts[0].error.as_deref(),
        Some("the receiver answered 500 Internal Server Error")
    );
    let letters = world.store.dead_letters(world.org, &ALL_LETTERS, PAGE).await.unwrap().data;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "exhausted");
    assert_eq!(letters[0].delivery_id, Some(row.id));

    let webhooks = receiver.received(3).await;
    let ids: Vec<_> = webhooks.iter().map(|webhook| webhook.header("webhook-id")).collect();
    assert_eq!(ids, [ids[0]; 3], "the same id on every attempt");
    let times: Vec<_> = webhooks.iter().map(|w| w.header("webhook-timestamp")).collect();
    assert!(times.is_sorted() && times[0] != times[1], "each attempt is signed anew: {times:?}");
    assert_eq!(world.metrics.delivery.webhook_deliveries_total.of(WebhookResult::Retried).get(), 2);
    assert_eq!(world.metrics.delivery.webhook_deliveries_total.of(WebhookResult::Dead).get(), 1);
}

#[tokio::test]
async fn time_from_acceptance_to_delivery_covers_the_retries_and_leaves_replays_out() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    let [event] = world.publish("user.login", 1).await[..] else { panic!("one event") };
    receiver.answer([Answer::status(500), Answer::status(200)]);
    assert_eq!(world.deliver().await, 1);
    world.advance(FIRST_WAIT);
    let waited = world.clock.now();
    assert_eq!(world.deliver().await, 1);
    let times = &world.metrics.delivery.hookgate_event_delivery_seconds;
    let stored = world.store.event(world.org, event).await.unwrap().unwrap();
    let expected = waited.since(stored.received_at).as_secs_f64();
    assert_eq!(times.get_sample_count(), 1);
    assert!(times.get_sample_sum() >= expected && expected >= 5.0, "{}", times.get_sample_sum());

    world.advance(SECOND_WAIT);
    let now = world.clock.now();
    world.store.replay_event(world.org, event, None, &Actor::CLI, now).await.unwrap().unwrap();
    assert_eq!(world.deliver().await, 1);
    assert_eq!(receiver.received(3).await.len(), 3);
    assert_eq!(times.get_sample_count(), 1, "a replay is no measure of how fast events arrive");
}

#[tokio::test]
async fn refused_connection_is_a_failure_with_its_reason() {
    let world = World::new().await;
    let gone = Receiver::start().await;
    world.endpoint(&gone, "").await;
    drop(gone);
    world.publish("user.login", 1).await;
    assert_eq!(world.deliver().await, 1);
    let attempt = &world.store.attempts(world.org, world.row().await.id).await.unwrap()[0];
    assert_eq!(attempt.status_code, None);
    let error = attempt.error.as_deref().unwrap();
    assert!(error.starts_with("cannot connect: "), "{error}");
    assert!(!error.contains("token"), "no URL in {error}");
}

#[tokio::test]
async fn response_timeout_is_a_failure() {
    let world = World::with(&["--delivery-timeout=50ms"]).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 1).await;
    receiver.hold();
    assert_eq!(world.deliver().await, 1);
    let attempt = &world.store.attempts(world.org, world.row().await.id).await.unwrap()[0];
    assert_eq!(attempt.error.as_deref(), Some("no response within 50ms"));
    assert_eq!(world.row().await.status, DeliveryStatus::Pending);
}

#[tokio::test]
async fn status_410_disables_the_endpoint_and_ends_the_delivery() {
    let world = World::with(&["--endpoint-concurrency=1"]).await;
    let receiver = Receiver::start().await;
    let endpoint = world.endpoint(&receiver, "").await;
    world.publish("user.login", 5).await;
    receiver.answer([Answer::status(410)]);

    assert_eq!(world.deliver().await, 1, "the others are handed back");
    assert_eq!(receiver.so_far().len(), 1);

    let endpoint = world.store.endpoint(world.org, endpoint).await.unwrap().unwrap();
    assert_eq!(endpoint.disabled_reason.as_deref(), Some("the receiver answered 410 Gone"));
    let rows = world.rows().await;
    let dead = rows.iter().filter(|row| row.status == DeliveryStatus::Dead).count();
    assert_eq!(dead, 1);
    assert!(rows.iter().all(|row| row.next_attempt_at.is_none()), "parked");
    let letters = world.store.dead_letters(world.org, &ALL_LETTERS, PAGE).await.unwrap().data;
    assert_eq!(letters[0].reason, "gone");
    world.advance(SECOND_WAIT);
    assert_eq!(world.deliver().await, 0);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 1).await;
    receiver.answer([Answer::status(503).header("retry-after", "3600")]);
    assert_eq!(world.deliver().await, 1);
    let hour = Duration::from_hours(1);
    assert_eq!(world.row().await.next_attempt_at, Some(world.clock.now().plus(hour)));
    world.clock.advance(Duration::from_millis(3_599_999));
    assert_eq!(world.deliver().await, 0);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.deliver().await, 1);
    assert_eq!(world.row().await.status, DeliveryStatus::Delivered);
}

#[tokio::test]
async fn redirects_are_failures_and_are_not_followed() {
    let (world, receiver, other) =
        (World::new().await, Receiver::start().await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 1).await;
    receiver.answer([Answer::status(307).header("location", &other.url("/stolen"))]);
    assert_eq!(world.deliver().await, 1);
    let row = world.row().await;
    assert_eq!(row.status, DeliveryStatus::Pending);
    let attempt = &world.store.attempts(world.org, row.id).await.unwrap()[0];
    assert_eq!(attempt.status_code, Some(307));
    assert!(attempt.error.as_deref().unwrap().contains("redirects are not followed"));
    assert_eq!((other.so_far().len(), other.forged()), (0, 0));
}

#[tokio::test]
async fn long_response_is_cut_to_its_start_without_waiting_for_the_rest() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 1).await;
    receiver.answer([Answer::status(200).body("ä".repeat(2_000_000))]);
    assert_eq!(world.deliver().await, 1);
    let row = world.row().await;
    assert_eq!(row.status, DeliveryStatus::Delivered);
    let attempt = &world.store.attempts(world.org, row.id).await.unwrap()[0];
    assert_eq!(attempt.response_excerpt.as_deref(), Some("ä".repeat(512).as_str()));
}
