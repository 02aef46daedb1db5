//! Lists and look-ups over many days: what they find, and that PostgreSQL opens the days alone that they need.

use std::time::Duration;

use hookgate::domain::{
    Actor, DeliveryFilter, DeliveryStatus, Event, EventFilter, EventId, EventTypeFilter, OrgId,
    PageRequest, Timestamp,
};
use hookgate::store::Store;
use uuid::Uuid;

use super::event_filters::ORDERS;
use super::fixtures::{
    FIRST_PAGE, add_endpoint, add_org, at, named_event, persist, some_event, walk,
};
use super::rollups::fold;
use super::subject::DEDUP_WINDOW;
use super::{Subject, on_both};

on_both!(
    events_of_many_days_are_listed_as_a_plain_filter_lists_them,
    deliveries_of_many_days_are_listed_as_a_plain_filter_lists_them,
    redelivery_of_an_old_event_is_found_by_a_prefix,
    event_is_found_by_its_id_alone,
    events_with_one_id_are_told_apart,
    rows_of_many_types_with_a_prefix_are_read_by_type,
);

const DAY: i64 = 86_400;

/// Three hundred events, over three hundred days, two or three in a moment.
fn events_of_many_days(org: OrgId) -> Vec<Event> {
    let event = |number: i64| {
        let event_type = match number % 4 {
            0 => format!("many.{}", number % 148),
            1 => "few.a".to_owned(),
            2 => "few.b".to_owned(),
            _ => "other".to_owned(),
        };
        let received_at = at(number / 3 * 3 * DAY + 5);
        let account_id = (number % 10 < 3).then(|| format!("a{}", number % 2));
        Event { account_id, ..some_event(org, &event_type, received_at) }
    };
    (0..300).map(event).collect()
}

/// Bounds of time, some of which are the times of events.
fn bounds() -> Vec<(Option<Timestamp>, Option<Timestamp>)> {
    let day = |number: i64| Some(at(number * DAY + 5));
    vec![
        (None, None),
        (None, day(150)),
        (None, day(151)),
        (day(150), None),
        (day(30), day(150)),
        (day(150), day(150)),
        (day(150), day(30)),
        (day(-900), day(900)),
        (None, day(-1)),
        (day(400), None),
        (None, Some(Timestamp::from_micros(i64::MAX))),
        (Some(Timestamp::from_micros(i64::MIN)), day(60)),
    ]
}

fn is_within(at: Timestamp, (since, until): (Option<Timestamp>, Option<Timestamp>)) -> bool {
    since.is_none_or(|since| at >= since) && until.is_none_or(|until| at < until)
}

async fn events_of_many_days_are_listed_as_a_plain_filter_lists_them(subject: &Subject) {
    let org = add_org(subject).await;
    subject.store.system().maintain(at(150 * DAY)).await.unwrap();
    let events = events_of_many_days(org);
    persist(subject, &events, at(400 * DAY)).await;
    let types = [None, Some("many.*"), Some("few.*"), Some("none.*"), Some("few.a"), Some("none")];
    for (since, until) in bounds() {
        for event_type in types {
            for account_id in [None, Some("a0".to_owned()), Some("never".to_owned())] {
                let event_type: Option<EventTypeFilter> = event_type.map(|t| t.parse().unwrap());
                let filter =
                    EventFilter { event_type, account_id, since, until, ..EventFilter::default() };
                let passes = |event: &&Event| {
                    let types = filter.event_type.as_ref();
                    types.is_none_or(|types| types.matches(event.event_type.as_str()))
                        && (filter.account_id.is_none() || filter.account_id == event.account_id)
                        && is_within(event.received_at, (since, until))
                };
                let mut expected: Vec<_> = events
                    .iter()
                    .filter(passes)
                    .map(|event| (event.received_at, event.id))
                    .collect();
                expected.sort_unstable_by(|a, b| b.cmp(a));
                let seen = walk(41, async |p| subject.store.events(org, &filter, p).await).await;
                let seen: Vec<_> = seen.iter().map(|event| (event.received_at, event.id)).collect();
                assert_eq!(seen, expected, "{filter:?}");
            }
        }
    }
}

async fn deliveries_of_many_days_are_listed_as_a_plain_filter_lists_them(subject: &Subject) {
    let org = add_org(subject).await;
    let all = add_endpoint(subject, org, "*").await.id;
    let few = add_endpoint(subject, org, "few.*").await.id;
    let events = events_of_many_days(org);
    persist(subject, &events, at(400 * DAY)).await;
    for (since, until) in bounds() {
        for endpoint_id in [None, Some(all), Some(few)] {
            let filter = DeliveryFilter { endpoint_id, since, until, ..DeliveryFilter::default() };
            let is_few = |event: &Event| event.event_type.as_str().starts_with("few.");
            let mut expected: Vec<(EventId, _)> = Vec::new();
            for event in &events {
                if is_within(event.received_at, (since, until)) {
                    expected.push((event.id, all));
                    expected.extend(is_few(event).then_some((event.id, few)));
                }
            }
            expected.retain(|(_, endpoint)| endpoint_id.is_none_or(|wanted| wanted == *endpoint));
            expected.sort_unstable();
            let rows = walk(50, async |p| subject.store.deliveries(org, &filter, p).await).await;
            let positions: Vec<_> = rows.iter().map(|row| (row.created_at, row.id)).collect();
            assert!(positions.is_sorted_by(|a, b| a > b), "{filter:?}");
            let mut seen: Vec<_> = rows.iter().map(|row| (row.event_id, row.endpoint_id)).collect();
            seen.sort_unstable();
            assert_eq!(seen, expected, "{filter:?}");
        }
    }
}

async fn redelivery_of_an_old_event_is_found_by_a_prefix(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let recent = (0..9).map(|second| some_event(org, "order.new", at(99 * DAY + second)));
    let events: Vec<_> = recent.chain([some_event(org, "order.old", at(5 * DAY))]).collect();
    persist(subject, &events, at(99 * DAY)).await;
    fold(&subject.store).await;
    let mut filter = DeliveryFilter { event_id: Some(events[9].id), ..DeliveryFilter::default() };
    let old = subject.store.deliveries(org, &filter, FIRST_PAGE).await.unwrap().data.remove(0);
    let now = at(100 * DAY);
    let new = subject.store.replay_delivery(org, old.id, &Actor::CLI, now).await.unwrap().unwrap();
    filter.event_type = Some("order.*".parse().unwrap());
    let of_event = subject.store.deliveries(org, &filter, FIRST_PAGE).await.unwrap().data;
    assert_eq!(of_event.iter().map(|row| row.id).collect::<Vec<_>>(), [new.id, old.id]);
    // The days that this list reads have none of the old event's.
    (filter.event_id, filter.since) = (None, Some(at(98 * DAY)));
    let seen = walk(4, async |p| subject.store.deliveries(org, &filter, p).await).await;
    assert_eq!((seen.len(), seen[0].id), (10, new.id));
}

/// The plans of what `read` reads.
async fn plans(subject: &Subject, read: impl AsyncFnOnce(Store)) -> Vec<String> {
    let (store, plans) = subject.store.recording_plans();
    read(store).await;
    plans.take()
}

/// How many tables or partitions a plan reads.
fn scans(plan: &str) -> usize {
    plan.lines().filter(|line| line.contains("Scan") || line.contains("SEARCH")).count()
}

async fn event_is_found_by_its_id_alone(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    subject.store.system().maintain(at(0)).await.unwrap();
    let minted = some_event(org, "a.b", at(DAY / 2));
    let named = named_event(org, "name", at(5 * DAY));
    let plain = EventId::from_uuid(Uuid::from_u128(7));
    let plain = Event { id: plain, ..some_event(org, "a.b", at(3 * DAY)) };
    // Minted at another time than its event was received.
    let astray = Event { id: EventId::mint(at(DAY)), ..some_event(org, "a.b", at(6 * DAY)) };
    let events = [minted.clone(), named.clone(), plain, astray];
    persist(subject, &events, at(6 * DAY)).await;
    for event in &events {
        let plans = plans(subject, async |store| {
            assert_eq!(store.event(org, event.id).await.unwrap().as_ref(), Some(event));
        });
        let last = plans.await.pop().unwrap();
        assert!(!last.contains("events_by_org"), "{last}");
        if subject.is_postgres() && event.id == minted.id {
            assert_eq!(scans(&last), 1, "{last}");
        }
        if subject.is_postgres() && event.id == named.id {
            assert!(!last.contains("_p20260105") && last.contains("_p20260106"), "{last}");
        }
        assert_eq!(subject.store.event(other, event.id).await.unwrap(), None);
    }
    let by_event = DeliveryFilter { event_id: Some(minted.id), ..DeliveryFilter::default() };
    let plans = plans(subject, async |store| {
        store.deliveries(org, &by_event, FIRST_PAGE).await.unwrap();
    });
    let first = plans.await.swap_remove(0);
    assert!(!first.contains("events_by_org") && scans(&first) == 1, "{first}");
    for unknown in [EventId::mint(at(1)), EventId::from_dedup_id(org, "never")] {
        assert_eq!(subject.store.event(org, unknown).await.unwrap(), None);
    }
    let ends = [0x7000_8000_0000_0000_0000, u128::MAX << 80 | 0x7fff_8000_0000_0000_0000];
    for end in ends {
        let id = EventId::from_uuid(Uuid::from_u128(end));
        assert_eq!(subject.store.event(org, id).await.unwrap(), None);
    }
}

async fn events_with_one_id_are_told_apart(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let first = named_event(org, "name", at(0));
    let second = named_event(org, "name", at(0).plus(DEDUP_WINDOW + Duration::from_hours(48)));
    for event in [&first, &second] {
        assert_eq!(
            persist(subject, std::slice::from_ref(event), event.received_at).await.stored,
            1
        );
    }
    let found = subject.store.event(org, first.id).await.unwrap();
    assert_eq!(found.as_ref(), Some(&second));
    let by_event = DeliveryFilter { event_id: Some(first.id), ..DeliveryFilter::default() };
    let all = subject.store.deliveries(org, &by_event, FIRST_PAGE).await.unwrap().data;
    assert_eq!(all.len(), 2);
    for (event, delivery) in [&second, &first].into_iter().zip(&all) {
        let of_event = subject.store.deliveries_of_event(event, FIRST_PAGE).await.unwrap();
        let ids: Vec<_> = of_event.data.iter().map(|row| row.id).collect();
        assert_eq!(ids, [delivery.id]);
    }
    // Without its key, which is kept for a while, the newest is found all the same.
    subject.store.system().maintain(at(300 * DAY)).await.unwrap();
    assert_eq!(subject.count("SELECT count(*) FROM dedup_keys").await, 0);
    assert_eq!(subject.store.event(org, first.id).await.unwrap(), Some(second));
}

async fn rows_of_many_types_with_a_prefix_are_read_by_type(subject: &Subject) {
    let org = add_org(subject).await;
    subject.store.system().maintain(at(0)).await.unwrap();
    let sqlite = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO events (id, org_id, event_type, payload, received_at, trace_id)
        SELECT randomblob(16), (SELECT id FROM orgs),
               CASE WHEN i % 20 = 0 THEN 'many.' || (i % 2000) ELSE 'other' END, x'7b7d',
               1767225600000000 + i * 1000000, randomblob(16) FROM n";
    let postgres = "INSERT INTO events (id, org_id, event_type, payload, received_at, trace_id)
        SELECT gen_random_uuid(), (SELECT id FROM orgs),
               CASE WHEN i % 20 = 0 THEN 'many.' || (i % 2000) ELSE 'other' END, '{}',
               timestamptz '2026-01-01 00:00+00' + i * interval '1 second', gen_random_uuid()
        FROM generate_series(1, 10000) i";
    subject.raw(sqlite, postgres).await;
    subject.raw("SELECT 1", "VACUUM ANALYZE events").await;
    let filter =
        EventFilter { event_type: Some("many.*".parse().unwrap()), ..EventFilter::default() };
    let plans = plans(subject, async |store| {
        let seen = walk(60, async |p| store.events(org, &filter, p).await).await;
        let seen: Vec<_> = seen.iter().map(|event| event.received_at).collect();
        let expected: Vec<_> = (1..=500).rev().map(|number| at(number * 20)).collect();
        assert_eq!(seen, expected);
    });
    let (index, keys) = if subject.is_postgres() {
        ("event_type_received_at", "CTE few")
    } else {
        ("events_by_type", "MATERIALIZE few")
    };
    // The first page; for the last one it is as cheap to read the few events that are left.
    let plans = plans.await;
    let first = plans.iter().find(|plan| plan.contains(keys)).expect("rows are sorted");
    assert!(first.contains(index), "{first}");
}

#[tokio::test]
async fn lists_open_the_latest_days_alone_while_they_fill_a_page() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    add_endpoint(&subject, org, "*").await;
    let now = subject.count("SELECT (extract(epoch FROM now()) * 1000000)::bigint").await;
    let now = Timestamp::from_micros(now);
    let days_ago = |days: u64| now.minus(Duration::from_hours(24 * days));
    let long_ago = days_ago(30);
    subject.store.system().maintain(long_ago).await.unwrap();
    subject.store.system().maintain(now).await.unwrap();
    let old = to_partition(&subject, long_ago).await;
    let event = |number: i64, received_at: Timestamp| {
        let event_type = if number % 2 == 0 { "order.a" } else { "order.b" };
        let account_id = Some("acme".to_owned());
        Event { account_id, ..some_event(org, event_type, received_at) }
    };
    let recent = (0..300).map(|number| event(number, days_ago(1)));
    let events: Vec<Event> = recent.chain([event(0, long_ago)]).collect();
    persist(&subject, &events, now).await;
    let of_type = |text: &str| Some(text.parse::<EventTypeFilter>().unwrap());
    let all = EventFilter::default();
    let acme = Some("acme".to_owned());
    let filters = [
        all.clone(),
        EventFilter { event_type: of_type("order.a"), ..all.clone() },
        EventFilter { event_type: of_type("order.*"), ..all.clone() },
        EventFilter { account_id: acme.clone(), event_type: of_type("order.a"), ..all.clone() },
    ];
    for filter in filters {
        let read = async |page: PageRequest, rows: usize| {
            let plans = plans(&subject, async |store| {
                let page = store.events(org, &filter, page).await.unwrap();
                assert_eq!(page.data.len(), rows, "{filter:?}");
            });
            plans.await.iter().any(|plan| plan.contains(&old))
        };
        assert!(!read(FIRST_PAGE, 100).await, "{filter:?} opens {old}");
        let found = if filter.event_type == of_type("order.a") { 151 } else { 301 };
        assert!(read(PageRequest::first(500), found).await, "{filter:?}");
    }
    let filter = DeliveryFilter { event_type: of_type("order.*"), ..DeliveryFilter::default() };
    let read = async |page: PageRequest, rows: usize| {
        let plans = plans(&subject, async |store| {
            let page = store.deliveries(org, &filter, page).await.unwrap();
            assert_eq!(page.data.len(), rows);
        });
        plans.await.iter().any(|plan| plan.contains(&old))
    };
    assert!(!read(FIRST_PAGE, 100).await, "{filter:?} opens {old}");
    assert!(read(PageRequest::first(500), 301).await);
}

#[tokio::test]
async fn list_that_finds_nothing_plans_each_day_once() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    let now = subject.count("SELECT (extract(epoch FROM now()) * 1000000)::bigint").await;
    let now = Timestamp::from_micros(now);
    let long_ago = now.minus(Duration::from_hours(24 * 40));
    for weeks in 0..7 {
        let then = long_ago.plus(Duration::from_hours(24 * 7 * weeks));
        subject.store.system().maintain(then.min(now)).await.unwrap();
    }
    let events = [some_event(org, "a.a", long_ago), some_event(org, "a.a", now)];
    persist(&subject, &events, now).await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
    let partitions = usize::try_from(subject.count(partitions).await).unwrap();
    assert!(partitions > 40, "{partitions}");
    // The day at the end of a span may be that at the beginning of the next one.
    let scans_max = partitions + 2;
    for order in ORDERS {
        let page = PageRequest { order, ..FIRST_PAGE };
        let of_events = plans(&subject, async |store| {
            let filter = EventFilter { user_id: Some("none".to_owned()), ..Default::default() };
            assert_eq!(store.events(org, &filter, page).await.unwrap().data, []);
        });
        let of_deliveries = plans(&subject, async |store| {
            let status = Some(DeliveryStatus::Cancelled);
            let filter = DeliveryFilter { status, ..DeliveryFilter::default() };
            assert_eq!(store.deliveries(org, &filter, page).await.unwrap().data.len(), 0);
        });
        for plans in [of_events.await, of_deliveries.await] {
            let of_days = |plan: &String| {
                plan.lines().filter(|line| line.contains("Scan") && line.contains("_p2")).count()
            };
            let scans: usize = plans.iter().map(of_days).sum();
            assert!((40..=scans_max).contains(&scans), "{scans} of {partitions}: {plans:?}");
        }
    }
}

/// The name of the partition of events for a time.
async fn to_partition(subject: &Subject, at: Timestamp) -> String {
    let day = format!(
        "SELECT to_char(to_timestamp({}) AT TIME ZONE 'UTC', 'YYYYMMDD')::bigint",
        at.seconds()
    );
    format!("events_p{}", subject.count(&day).await)
}
