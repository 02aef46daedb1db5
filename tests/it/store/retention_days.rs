//! Retention on PostgreSQL: days are dropped, and what is still needed of them is held.

use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{Actor, Decision, DeliveryFilter, ErasureSubject, Event, Timestamp};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;

use super::Subject;
use super::fixtures::{
    FIRST_PAGE, add_endpoint, add_org, at, claim, outcome, persist, some_event, walk,
};
use super::rollup_ageing::erase_all;
use super::rollups::fold;

const DAY: i64 = 86_400;

fn keep(days: u32) -> RetentionConfig {
    let retention = Some(Duration::from_hours(24) * days);
    RetentionConfig { retention, ..RetentionConfig::default() }
}

fn day(number: i64) -> Timestamp {
    at(number * DAY + 60)
}

pub(super) async fn partitions(subject: &Subject) -> i64 {
    let sql = "SELECT count(*) FROM pg_class
               WHERE relkind = 'r' AND relname ~ '^(events|deliveries|delivery_attempts)_p[0-9]{8}$'
                 AND right(relname, 8) < '20260201'";
    subject.count(sql).await
}

#[tokio::test]
async fn days_are_dropped_and_their_needed_events_held() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    let endpoint = add_endpoint(&subject, org, "*").await;
    let events: Vec<Event> = (0..31).map(|number| some_event(org, "a.b", day(number))).collect();
    persist(&subject, &events, day(30)).await;
    let store = &subject.store;
    // Every day's delivery is finished but the first two.
    let leased = claim(&subject, 100, day(30)).await;
    let done = leased.iter().filter(|leased| leased.event.received_at >= day(2));
    let done: Vec<_> = done.map(|leased| outcome(leased, Decision::Delivered, day(30))).collect();
    store.system().record_outcomes(&done).await.unwrap();
    assert!(partitions(&subject).await >= 60);
    let report = store.system().enforce_retention(&keep(10), day(60)).await.unwrap();
    assert_eq!(partitions(&subject).await, 0);
    assert!(report.days >= 60);
    assert_eq!(subject.count("SELECT count(*) FROM held_events").await, 2);
    for (number, event) in events.iter().enumerate() {
        let found = store.event(org, event.id).await.unwrap();
        assert_eq!(found.as_ref(), (number < 2).then_some(event));
    }
    // One is delivered; its day is made again for it.
    let mut leased = claim(&subject, 100, day(60)).await;
    leased.sort_by_key(|leased| leased.event.received_at);
    assert_eq!(*leased[0].event, events[0]);
    let done = outcome(&leased[0], Decision::Delivered, day(60));
    assert_eq!(store.system().record_outcomes(&[done]).await.unwrap(), 1);
    let delivered = store.delivery(org, leased[0].id).await.unwrap().unwrap();
    assert_eq!(delivered.endpoint_id, endpoint.id);
    // The other is cancelled.
    let cancelled = store.cancel_delivery(org, leased[1].id, &Actor::CLI, day(60)).await.unwrap();
    assert!(cancelled.is_ok(), "{cancelled:?}");
    store.system().enforce_retention(&keep(10), day(60)).await.unwrap();
    assert_eq!(subject.count("SELECT count(*) FROM held_events").await, 0);
    assert_eq!(partitions(&subject).await, 0);
    assert_eq!(subject.count("SELECT count(*) FROM deliveries").await, 0);
}

#[tokio::test]
async fn day_that_somebody_reads_is_dropped_later() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    persist(&subject, &[some_event(org, "a.b", day(0))], day(0)).await;
    let mut other = subject.connect_postgres().await;
    let dump = "BEGIN; LOCK TABLE events IN ACCESS SHARE MODE";
    sqlx::raw_sql(dump).execute(&mut other).await.unwrap();
    let system = subject.store.system();
    system.enforce_retention(&keep(10), day(60)).await.unwrap_err();
    assert_eq!(partitions(&subject).await, 1);
    other.close().await.unwrap();
    system.enforce_retention(&keep(10), day(60)).await.unwrap();
    assert_eq!(partitions(&subject).await, 0);
}

#[tokio::test]
async fn deliveries_of_held_events_have_their_types() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    add_endpoint(&subject, org, "*").await;
    let (few, many) = (some_event(org, "few.a", day(0)), 0..70);
    let many = many.map(|number| some_event(org, &format!("many.{number}"), day(0)));
    let events: Vec<Event> = many.chain([few]).collect();
    persist(&subject, &events, day(0)).await;
    fold(&subject.store).await;
    let store = &subject.store;
    store.system().enforce_retention(&keep(10), day(60)).await.unwrap();
    assert_eq!(subject.count("SELECT count(*) FROM events").await, 0);
    for (prefix, found) in [("few.*", 1), ("many.*", 70), ("none.*", 0)] {
        let event_type = Some(prefix.parse().unwrap());
        let filter = DeliveryFilter { event_type, ..DeliveryFilter::default() };
        let rows = walk(50, async |p| store.deliveries(org, &filter, p).await).await;
        assert_eq!(rows.len(), found, "{prefix}");
        for row in rows {
            let event = events.iter().find(|event| event.id == row.event_id).unwrap();
            assert_eq!(row.event_type.as_deref(), Some(event.event_type.as_str()));
            let found = store.event_of_delivery(&row).await.unwrap().unwrap();
            assert_eq!((found.id, &found.event_type), (event.id, &event.event_type));
        }
    }
}

#[tokio::test]
async fn event_that_is_held_although_its_day_stays_is_one_event() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    add_endpoint(&subject, org, "*").await;
    let events = [0, 0].map(|number| some_event(org, "a.b", day(number)));
    persist(&subject, &events, day(0)).await;
    fold(&subject.store).await;
    let store = &subject.store;
    let of_first = DeliveryFilter { event_id: Some(events[0].id), ..DeliveryFilter::default() };
    let planned = store.deliveries(org, &of_first, FIRST_PAGE).await.unwrap().data.remove(0);
    let again = store.replay_delivery(org, planned.id, &Actor::CLI, day(55)).await.unwrap();
    let again = again.unwrap();
    let leased = claim(&subject, 10, day(55)).await;
    let leased = leased.iter().find(|leased| leased.id == again.id).unwrap();
    let done = outcome(leased, Decision::Delivered, day(55));
    assert_eq!(store.system().record_outcomes(&[done]).await.unwrap(), 1);
    // The events of the day are held, but the day is read and cannot be dropped.
    let mut other = subject.connect_postgres().await;
    let dump = "BEGIN; LOCK TABLE events IN ACCESS SHARE MODE";
    sqlx::raw_sql(dump).execute(&mut other).await.unwrap();
    store.system().enforce_retention(&keep(10), day(60)).await.unwrap_err();
    other.close().await.unwrap();
    for table in ["events", "held_events"] {
        assert_eq!(subject.count(&format!("SELECT count(*) FROM {table}")).await, 2);
    }
    let retried = store.retry_delivery(org, again.id, &Actor::CLI, day(60)).await.unwrap().unwrap();
    assert_eq!(retried.id, again.id);
    let first = ErasureSubject::Event(events[0].id);
    store.insert_erasure(org, &first, &Actor::CLI, day(60)).await.unwrap().unwrap();
    erase_all(store, day(60)).await;
    for (table, counted) in [
        ("events", "count(*)"),
        ("held_events", "count(*)"),
        ("event_types", "sum(events)::bigint"),
    ] {
        assert_eq!(subject.count(&format!("SELECT {counted} FROM {table}")).await, 1, "{table}");
    }
}

/// Two events that pending deliveries need, and a transaction behind the store's back that has begun with this, of the
/// first.
async fn needed_events(begin: impl Fn(&Event) -> String) -> (Subject, [Event; 2], PgConnection) {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    add_endpoint(&subject, org, "*").await;
    let events = [0, 0].map(|number| some_event(org, "a.b", day(number)));
    persist(&subject, &events, day(0)).await;
    let mut other = subject.connect_postgres().await;
    let begin = format!("BEGIN; {}", begin(&events[0]));
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut other).await.unwrap();
    (subject, events, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_that_is_being_erased_is_not_held() {
    let erase = |event: &Event| format!("DELETE FROM events WHERE id = '{}'", event.id.uuid());
    let (subject, events, erasing) = needed_events(erase).await;
    let mut round = JoinSet::new();
    let store = subject.store.clone();
    round.spawn(async move { store.system().enforce_retention(&keep(10), day(60)).await });
    subject.commit_awaited(erasing).await;
    round.join_next().await.unwrap().unwrap().unwrap();
    let held = |event: &Event| {
        format!("SELECT count(*) FROM held_events WHERE id = '{}'", event.id.uuid())
    };
    let held = events.each_ref().map(held);
    assert_eq!((subject.count(&held[0]).await, subject.count(&held[1]).await), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_of_an_event_that_is_made_while_it_is_erased_goes_with_it() {
    const COLUMNS: &str = "id, org_id, event_type, payload, received_at, trace_id";
    let hold = |event: &Event| {
        format!(
            "INSERT INTO held_events ({COLUMNS})
             SELECT {COLUMNS} FROM (SELECT * FROM events WHERE id = '{}' FOR KEY SHARE) e",
            event.id.uuid()
        )
    };
    let (subject, events, holding) = needed_events(hold).await;
    let (first, org) = (ErasureSubject::Event(events[0].id), events[0].org_id);
    fold(&subject.store).await;
    subject.store.insert_erasure(org, &first, &Actor::CLI, day(1)).await.unwrap().unwrap();
    let mut erasing = JoinSet::new();
    let store = subject.store.clone();
    erasing.spawn(async move { erase_all(&store, day(1)).await });
    subject.commit_awaited(holding).await;
    erasing.join_next().await.unwrap().unwrap();
    for (counted, left) in [
        ("count(*) FROM events", 1),
        ("count(*) FROM held_events", 0),
        ("sum(events)::bigint FROM event_types", 1),
    ] {
        assert_eq!(subject.count(&format!("SELECT {counted}")).await, left, "{counted}");
    }
}
