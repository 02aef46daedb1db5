//! Retention: what is deleted by its age, what is kept because it is needed, and what a crash between steps leaves.

use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{
    Actor, DeadLetterFilter, DeadReason, Decision, DeliveryFilter, DeliveryStatus, Event,
    EventFilter, MinuteSpan, OrgChange, OrgId, OrgLimit, Role, Timestamp,
};
use hookgate::store::{DeliveryRefusal, RetentionReport};

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, add_endpoint, add_org, at, claim, outcome, persist,
    some_event, some_key,
};
use super::{Subject, on_both};

on_both!(
    rows_are_deleted_by_their_age_and_younger_ones_are_kept,
    organisation_may_keep_its_rows_for_longer_or_shorter,
    payloads_go_earlier_than_rows_and_are_told_apart,
    payload_that_a_pending_delivery_needs_is_kept_until_it_is_finished,
    event_that_a_pending_delivery_needs_is_kept_until_it_is_finished,
    deliveries_beyond_the_bound_expire,
    delivery_whose_event_is_gone_expires_when_it_is_claimed,
    audit_log_keys_and_replays_have_times_of_their_own,
    round_that_is_interrupted_is_taken_up_again,
    size_and_age_of_the_store_are_measured,
);

const DAY: i64 = 86_400;
pub(super) const DAYS: Duration = Duration::from_hours(24);

pub(super) fn day(number: i64) -> Timestamp {
    at(number * DAY + 60)
}

pub(super) fn keep(days: u32) -> RetentionConfig {
    RetentionConfig { retention: Some(DAYS * days), ..RetentionConfig::default() }
}

pub(super) async fn enforce(
    subject: &Subject,
    config: &RetentionConfig,
    now: Timestamp,
) -> RetentionReport {
    subject.store.system().enforce_retention(config, now).await.unwrap()
}

/// Stores an event for each of these days, and delivers what is due, or gives it up.
pub(super) async fn events_of(
    subject: &Subject,
    org: OrgId,
    days: &[i64],
    decision: Decision,
) -> Vec<Event> {
    let events: Vec<Event> =
        days.iter().map(|number| some_event(org, "a.b", day(*number))).collect();
    persist(subject, &events, day(*days.last().unwrap())).await;
    finish(subject, day(*days.last().unwrap()), decision).await;
    events
}

pub(super) async fn finish(subject: &Subject, now: Timestamp, decision: Decision) {
    let leased = claim(subject, 1_000, now).await;
    let outcomes: Vec<_> =
        leased.iter().map(|leased| outcome(leased, decision.clone(), now)).collect();
    subject.store.system().record_outcomes(&outcomes).await.unwrap();
}

pub(super) async fn listed(subject: &Subject, org: OrgId) -> Vec<Timestamp> {
    let events = subject.store.events(org, &EventFilter::default(), FIRST_PAGE).await.unwrap();
    events.data.iter().rev().map(|event| event.received_at).collect()
}

pub(super) async fn rows(subject: &Subject, table: &str) -> i64 {
    subject.count(&format!("SELECT count(*) FROM {table}")).await
}

pub(super) async fn limit(subject: &Subject, org: OrgId, limit: OrgLimit, days: u32) {
    let change = OrgChange { limits: vec![(limit, Some(days))], ..OrgChange::default() };
    subject.store.update_org(org, &change, &Actor::CLI, at(1)).await.unwrap().unwrap();
}

async fn rows_are_deleted_by_their_age_and_younger_ones_are_kept(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let soon = day(50).plus(Duration::from_mins(5));
    events_of(subject, org, &[0, 20, 50], Decision::RetryAt(soon)).await;
    finish(subject, soon, EXHAUSTED).await;
    assert_eq!(rows(subject, "delivery_attempts").await, 3);
    assert_eq!(
        enforce(subject, &RetentionConfig::default(), day(3_000)).await,
        RetentionReport::default()
    );
    enforce(subject, &keep(30), day(60)).await;
    assert_eq!(listed(subject, org).await, [day(50)]);
    assert_eq!(rows(subject, "deliveries").await, 1);
    assert_eq!(rows(subject, "delivery_attempts").await, 1);
    // They were given up later than their events were accepted.
    assert_eq!(rows(subject, "dead_letters").await, 3);
    enforce(subject, &keep(30), day(82)).await;
    assert_eq!(listed(subject, org).await, []);
    assert_eq!(rows(subject, "dead_letters").await, 0);
    assert_eq!(enforce(subject, &keep(30), day(82)).await, RetentionReport::default());
}

async fn organisation_may_keep_its_rows_for_longer_or_shorter(subject: &Subject) {
    let (plain, longer, shorter) =
        (add_org(subject).await, add_org(subject).await, add_org(subject).await);
    limit(subject, longer, OrgLimit::RetentionDays, 100).await;
    limit(subject, shorter, OrgLimit::RetentionDays, 5).await;
    for org in [plain, longer, shorter] {
        add_endpoint(subject, org, "*").await;
        events_of(subject, org, &[0, 20, 50, 58], EXHAUSTED).await;
    }
    enforce(subject, &keep(30), day(60)).await;
    assert_eq!(listed(subject, plain).await, [day(50), day(58)]);
    assert_eq!(listed(subject, longer).await, [day(0), day(20), day(50), day(58)]);
    assert_eq!(listed(subject, shorter).await, [day(58)]);
    assert_eq!(rows(subject, "deliveries").await, 7);
    // Without a time for all, those alone that have one of their own lose anything.
    enforce(subject, &RetentionConfig::default(), day(110)).await;
    assert_eq!(listed(subject, plain).await, [day(50), day(58)]);
    assert_eq!(listed(subject, longer).await, [day(20), day(50), day(58)]);
    assert_eq!(listed(subject, shorter).await, []);
}

async fn payloads_go_earlier_than_rows_and_are_told_apart(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let soon = day(9).plus(Duration::from_mins(5));
    let events = events_of(subject, org, &[0, 9], Decision::RetryAt(soon)).await;
    finish(subject, soon, EXHAUSTED).await;
    let refused = some_event(org, "a.b", day(0));
    let store = &subject.store;
    store.quarantine_event(org, refused.id, b"record", "why", day(0)).await.unwrap();
    let config =
        RetentionConfig { payload_retention: Some(DAYS * 5), ..RetentionConfig::default() };
    assert!(enforce(subject, &config, day(10)).await.payloads > 0);

    let payload = async |event: &Event| store.event(org, event.id).await.unwrap().unwrap().payload;
    assert!(payload(&events[0]).await.is_empty());
    assert_eq!(payload(&events[1]).await, events[1].payload);
    assert_eq!(listed(subject, org).await, [day(0), day(9)]);
    for table in ["deliveries", "delivery_attempts"] {
        let excerpts = format!("SELECT count(*) FROM {table} WHERE response_excerpt IS NOT NULL");
        assert_eq!(subject.count(&excerpts).await, 1, "{table}");
    }
    assert_eq!(store.quarantined_record(org, dead_letter(&refused)).await.unwrap(), None);

    let filter = DeliveryFilter { event_id: Some(events[0].id), ..DeliveryFilter::default() };
    let old = store.deliveries(org, &filter, FIRST_PAGE).await.unwrap().data[0].id;
    let gone = Some(DeliveryRefusal::EventRemoved);
    let replayed = store.replay_delivery(org, old, &Actor::CLI, day(10)).await.unwrap();
    assert_eq!(replayed.err(), gone);
    let retried = store.retry_delivery(org, old, &Actor::CLI, day(10)).await.unwrap();
    assert_eq!(retried.err(), gone);
    for endpoint in [None, Some(endpoint.id)] {
        let replayed =
            store.replay_event(org, events[0].id, endpoint, &Actor::CLI, day(10)).await.unwrap();
        assert_eq!(replayed.err(), gone);
    }
    assert_eq!(enforce(subject, &config, day(10)).await, RetentionReport::default());
}

fn dead_letter(event: &Event) -> hookgate::domain::DeadLetterId {
    hookgate::domain::DeadLetterId::from_uuid(event.id.uuid())
}

async fn payload_that_a_pending_delivery_needs_is_kept_until_it_is_finished(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let event = some_event(org, "a.b", day(0));
    persist(subject, std::slice::from_ref(&event), day(0)).await;
    let config =
        RetentionConfig { payload_retention: Some(DAYS * 5), ..RetentionConfig::default() };
    enforce(subject, &config, day(10)).await;
    enforce(subject, &config, day(11)).await;
    let claimed = claim(subject, 10, day(12)).await;
    assert_eq!(claimed[0].event.payload, event.payload);
    let done = outcome(&claimed[0], Decision::Delivered, day(12));
    subject.store.system().record_outcomes(&[done]).await.unwrap();
    enforce(subject, &config, day(12)).await;
    let now = subject.store.event(org, event.id).await.unwrap().unwrap();
    assert!(now.payload.is_empty());
    assert_eq!(rows(subject, "payloads_in_use").await, 0);
}

async fn event_that_a_pending_delivery_needs_is_kept_until_it_is_finished(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let old = events_of(subject, org, &[0, 1], Decision::Delivered).await;
    let waiting = some_event(org, "a.b", day(1));
    persist(subject, std::slice::from_ref(&waiting), day(1)).await;
    // A redelivery of an event whose own delivery is finished.
    let store = &subject.store;
    let replay = store.replay_event(org, old[0].id, Some(endpoint.id), &Actor::CLI, day(29));
    replay.await.unwrap().unwrap();
    enforce(subject, &keep(30), day(60)).await;
    let found = async |event: &Event| store.event(org, event.id).await.unwrap();
    assert_eq!(found(&old[0]).await, Some(old[0].clone()));
    assert_eq!(found(&old[1]).await, None);
    assert_eq!(found(&waiting).await, Some(waiting.clone()));
    let mut claimed = claim(subject, 10, day(60)).await;
    claimed.sort_by_key(|leased| leased.event.received_at);
    let events: Vec<Event> = claimed.iter().map(|leased| (*leased.event).clone()).collect();
    assert_eq!(events, [old[0].clone(), waiting.clone()]);
    let done: Vec<_> = claimed.iter().map(|leased| outcome(leased, EXHAUSTED, day(60))).collect();
    assert_eq!(store.system().record_outcomes(&done).await.unwrap(), 2);
    let letters = store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data;
    assert_eq!(letters.len(), 2);
    let of_type = DeadLetterFilter { event_type: Some("a.b".parse().unwrap()), ..ALL_LETTERS };
    assert_eq!(store.dead_letters(org, &of_type, FIRST_PAGE).await.unwrap().data.len(), 2);
    enforce(subject, &keep(30), day(60)).await;
    assert_eq!(found(&old[0]).await, None);
    assert_eq!(found(&waiting).await, None);
}

async fn deliveries_beyond_the_bound_expire(subject: &Subject) {
    const HELD: usize = 10_000;
    const WAITING: i64 = 10_001;
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let endpoint = add_endpoint(subject, org, "a.*").await;
    let owner = add_endpoint(subject, org, "hookgate.deliveries.expired").await;
    add_endpoint(subject, other, "*").await;
    let events: Vec<Event> = (0..HELD + 50)
        .map(|number| some_event(org, "a.b", day(0).plus(Duration::from_millis(number as u64))))
        .collect();
    for part in events.chunks(500) {
        persist(subject, part, day(0)).await;
    }
    persist(subject, &[some_event(other, "a.b", day(0))], day(0)).await;
    let report = enforce(subject, &keep(30), day(60)).await;
    assert_eq!(report.expired, 50);
    // And the delivery of what the owner is told.
    assert_eq!(rows(subject, "pending_deliveries").await, WAITING + 1);
    let windows = [MinuteSpan::covering(day(0), day(61))];
    let counted = subject.store.endpoint_windows(org, endpoint.id, windows[0], &windows).await;
    let counts = &counted.unwrap().windows[0];
    assert_eq!((counts.dead, counts.failed_attempts, counts.delivered), (50, 0, 0));
    let by_type = subject.store.types_window(org, None, windows[0]).await.unwrap().outcomes;
    assert_eq!(by_type["a.b"].dead, 50);
    let told = DeliveryFilter { endpoint_id: Some(owner.id), ..DeliveryFilter::default() };
    let told = subject.store.deliveries(org, &told, FIRST_PAGE).await.unwrap().data;
    let event = subject.store.event(org, told[0].event_id).await.unwrap().unwrap();
    let payload: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!((told.len(), &payload["deliveries"]), (1, &50.into()), "{payload}");
    let filter = DeadLetterFilter { reason: Some(DeadReason::Expired), ..ALL_LETTERS };
    let expired = subject.store.dead_letters(org, &filter, FIRST_PAGE).await.unwrap().data;
    assert_eq!(expired.len(), 50);
    assert!(expired.iter().all(|letter| letter.event_id >= events[HELD].id));
    let first = subject.store.event(org, events[0].id).await.unwrap();
    assert_eq!(first.as_ref(), Some(&events[0]));
    assert_eq!(subject.store.event(org, events[HELD].id).await.unwrap(), None);
    assert_eq!(enforce(subject, &keep(30), day(60)).await.expired, 0);
}

async fn delivery_whose_event_is_gone_expires_when_it_is_claimed(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events = [some_event(org, "a.b", day(0)), some_event(org, "a.b", day(1))];
    persist(subject, &events, day(1)).await;
    let gone = format!("DELETE FROM events WHERE received_at < {}", day(1).micros());
    let gone_from_days = "DELETE FROM events WHERE received_at < '2026-01-02'";
    subject.raw(&gone, gone_from_days).await;
    let claimed = claim(subject, 10, day(1)).await;
    assert_eq!(claimed.iter().map(|leased| leased.event.id).collect::<Vec<_>>(), [events[1].id]);
    let letters = subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data;
    let told: Vec<_> =
        letters.iter().map(|letter| (letter.event_id, letter.reason.as_str())).collect();
    assert_eq!(told, [(events[0].id, "expired")]);
    let filter = DeliveryFilter { status: Some(DeliveryStatus::Dead), ..DeliveryFilter::default() };
    assert_eq!(subject.store.deliveries(org, &filter, FIRST_PAGE).await.unwrap().data.len(), 1);
}

async fn audit_log_keys_and_replays_have_times_of_their_own(subject: &Subject) {
    let org = add_org(subject).await;
    let store = &subject.store;
    let (old, new) = (some_key(Role::Tenant(org), day(0)), some_key(Role::Tenant(org), day(0)));
    for key in [&old, &new] {
        store.system().insert_key(key, &Actor::CLI).await.unwrap().unwrap();
    }
    let operator = some_key(Role::Operator, day(0));
    store.system().insert_key(&operator, &Actor::CLI).await.unwrap().unwrap();
    for key in [&old, &operator] {
        store.system().expire_key(key.id, day(1), &Actor::CLI, day(1)).await.unwrap();
    }
    let replay = store.insert_replay(org, &ALL_LETTERS, &Actor::CLI, day(1)).await.unwrap();
    let running = store.insert_replay(org, &ALL_LETTERS, &Actor::CLI, day(1)).await.unwrap();
    let ended = replay.unwrap().id;
    store.end_replay(org, ended, None, &Actor::CLI, day(2)).await.unwrap();
    let before = rows(subject, "audit_log").await;
    let config = RetentionConfig {
        audit_retention: Some(DAYS),
        key_retention: Some(DAYS * 10),
        replay_retention: Some(DAYS * 10),
        ..RetentionConfig::default()
    };
    enforce(subject, &config, day(5)).await;
    assert!(before > 0 && rows(subject, "audit_log").await == 0);
    assert_eq!((rows(subject, "api_keys").await, rows(subject, "replays").await), (3, 2));
    enforce(subject, &config, day(15)).await;
    assert_eq!((rows(subject, "api_keys").await, rows(subject, "replays").await), (2, 1));
    assert!(store.system().key(old.id).await.unwrap().is_none());
    assert!(store.system().has_operator_key().await.unwrap(), "the next start makes no other one");
    assert!(store.replay(org, running.unwrap().id).await.unwrap().is_some());
}

async fn round_that_is_interrupted_is_taken_up_again(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let days: Vec<i64> = (0..40).flat_map(|day| [day; 20]).collect();
    events_of(subject, org, &days, EXHAUSTED).await;
    let mut waiting = Vec::new();
    for number in [0, 7, 39] {
        let event = some_event(org, "a.b", day(number));
        persist(subject, std::slice::from_ref(&event), day(number)).await;
        waiting.push(event);
    }
    let config = RetentionConfig { payload_retention: Some(DAYS * 5), ..keep(30) };
    for span in 0..60 {
        let round = subject.store.system().enforce_retention(&config, day(60));
        let stopped = tokio::time::timeout(Duration::from_millis(span), round);
        if let Ok(done) = stopped.await {
            done.unwrap();
        }
    }
    enforce(subject, &config, day(60)).await;
    let kept: Vec<_> = waiting.iter().map(|event| event.received_at).collect();
    let mut seen = Vec::new();
    for leased in claim(subject, 1_000, day(60)).await {
        assert!(!leased.event.payload.is_empty());
        assert_eq!(leased.endpoint.id, endpoint.id);
        seen.push(leased.event.received_at);
    }
    seen.sort_unstable();
    assert_eq!(seen, kept);
    // The days from the thirtieth on, without payloads.
    let left = listed(subject, org).await;
    assert!(left.iter().all(|at| *at >= day(30) || kept.contains(at)), "{left:?}");
    let payloads = "SELECT count(*) FROM events WHERE length(payload) > 0";
    assert!(subject.count(payloads).await <= 3);
}

async fn size_and_age_of_the_store_are_measured(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let system = || subject.store.system();
    assert_eq!(system().oldest_event().await.unwrap(), None);
    // On PostgreSQL it is known to the day.
    let known = |number| if subject.is_postgres() { at(number * DAY) } else { day(number) };
    let before = system().database_bytes().await.unwrap();
    for (org, number) in [(org, 3), (other, 2), (org, 40)] {
        let large = (0..100).map(|_| {
            let payload = format!("\"{}\"", "x".repeat(10_000)).into_bytes().into();
            Event { payload, ..some_event(org, "a.b", day(number)) }
        });
        persist(subject, &large.collect::<Vec<_>>(), day(number)).await;
    }
    assert!(system().database_bytes().await.unwrap() > before);
    assert_eq!(system().oldest_event().await.unwrap(), Some(known(2)));
    enforce(subject, &keep(10), day(20)).await;
    assert_eq!(system().oldest_event().await.unwrap(), Some(known(40)));
}
