//! Retention on PostgreSQL: days are dropped, and what is still needed of them is held.

use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{Actor, Decision, Event, Timestamp};
use sqlx::Connection;

use super::Subject;
use super::fixtures::{add_endpoint, add_org, at, claim, outcome, persist, some_event};

const DAY: i64 = 86_400;

fn keep(days: u32) -> RetentionConfig {
    let retention = Some(Duration::from_hours(24) * days);
    RetentionConfig { retention, ..RetentionConfig::default() }
}

fn day(number: i64) -> Timestamp {
    at(number * DAY + 60)
}

async fn partitions(subject: &Subject) -> i64 {
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
