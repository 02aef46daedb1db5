//! Counts are those of the rows: whatever was repeated, crashed, raced or folded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hookgate::domain::{Event, MinuteSpan, OrgId, Timestamp};
use hookgate::store::{
    BucketUnit, MetricsScope, OTHER_TYPES, Store, TYPES_COUNTED_MAX, USERS_COUNTED_MAX,
};

use super::fixtures::{
    add_endpoint, add_org, at, named_event, persist, persist_events, some_event,
};
use super::{Subject, on_both};

on_both!(
    counts_are_those_of_the_events_folded_or_not,
    repeats_and_duplicates_count_once,
    batches_and_folds_at_the_same_time_lose_nothing,
    interrupted_folds_count_nothing_twice,
    windows_begin_and_end_on_the_minute,
    events_count_by_their_own_time_within_retention,
    types_and_users_beyond_their_limits_are_summed_up,
);

/// All of the tests' time.
pub(super) fn always() -> MinuteSpan {
    MinuteSpan::covering(at(-40 * 86_400), at(40 * 86_400))
}

/// An event of an account and a user.
pub(super) fn labelled(
    org: OrgId,
    event_type: &str,
    account: &str,
    user: &str,
    at: Timestamp,
) -> Event {
    Event {
        account_id: Some(account.to_owned()),
        user_id: Some(user.to_owned()),
        ..some_event(org, event_type, at)
    }
}

/// Events over some hours, of three accounts, some types and users, and of none.
pub(super) fn some_events(org: OrgId, count: i64) -> Vec<Event> {
    let event = |number: i64| {
        let (account, user) = (number % 4, number % 7);
        Event {
            account_id: (account > 0).then(|| format!("a{account}")),
            user_id: (user > 0).then(|| format!("u{user}")),
            occurred_at: (number % 5 == 0).then(|| at(number * 70 - 4_000)),
            ..some_event(org, &format!("t.{}", number % 3), at(number * 61))
        }
    };
    (0..count).map(event).collect()
}

/// Folds until nothing is left.
pub(super) async fn fold(store: &Store) {
    while store.system().unfolded_deltas().await.unwrap() > 0 {
        store.system().fold_deltas().await.unwrap();
    }
}

pub(super) type Counts = (BTreeMap<String, u64>, BTreeMap<String, u64>);

pub(super) async fn counted(store: &Store, org: OrgId, account: &str, span: MinuteSpan) -> Counts {
    let Some(window) = store.account_window(org, account, span).await.unwrap() else {
        return Counts::default();
    };
    assert!(!window.is_behind);
    let types = window.counts.types.into_iter().map(|(name, count)| (name, count.events));
    (types.filter(|(_, events)| *events > 0).collect(), window.counts.users)
}

/// The same, counted event by event.
pub(super) fn expected(events: &[Event], account: &str, span: MinuteSpan) -> Counts {
    let mut counts = Counts::default();
    let of_account = events.iter().filter(|event| event.account_id.as_deref() == Some(account));
    for event in of_account.filter(|event| span.has(event.timestamp())) {
        *counts.0.entry(event.event_type.as_str().to_owned()).or_default() += 1;
        if let Some(user) = &event.user_id {
            *counts.1.entry(user.clone()).or_default() += 1;
        }
    }
    counts
}

async fn check(store: &Store, org: OrgId, events: &[Event]) {
    let part = MinuteSpan::covering(at(61), at(5_000));
    for span in [always(), part, MinuteSpan::covering(at(3_000), at(3_060))] {
        for account in ["a1", "a2", "a3"] {
            let counted = counted(store, org, account, span).await;
            assert_eq!(counted, expected(events, account, span), "{account} {span:?}");
        }
        let window = store.types_window(org, None, span).await.unwrap();
        let all: u64 = window.counts.types.values().map(|count| count.events).sum();
        let happened = events.iter().filter(|event| span.has(event.timestamp())).count();
        assert_eq!(all, happened as u64, "{span:?}");
    }
    let total: u64 = bucket_events(store, Some(org), BucketUnit::Hour).await;
    assert_eq!(total, events.len() as u64);
}

pub(super) async fn bucket_events(store: &Store, org: Option<OrgId>, unit: BucketUnit) -> u64 {
    let scope = MetricsScope { org, account_id: None, event_type: None };
    let (mut span, mut sum) = (always(), 0);
    loop {
        let page = store.buckets(&scope, unit, span, 500).await.unwrap();
        sum += page.buckets.iter().map(|(_, bucket)| bucket.count.events).sum::<u64>();
        let Some(until) = page.next else { return sum };
        assert!(until < span.until, "a page must get on");
        span.until = until;
    }
}

async fn counts_are_those_of_the_events_folded_or_not(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let events = some_events(org, 200);
    for batch in events.chunks(37) {
        persist(subject, batch, at(0)).await;
    }
    persist(subject, &some_events(other, 5), at(0)).await;
    check(&subject.store, org, &events).await;
    assert!(subject.store.system().fold_deltas().await.unwrap().unwrap().deltas > 0);
    check(&subject.store, org, &events).await;
    fold(&subject.store).await;
    check(&subject.store, org, &events).await;
    let rows = subject.count("SELECT count(*) FROM events").await;
    for unit in [BucketUnit::Minute, BucketUnit::Hour, BucketUnit::Day] {
        assert_eq!(bucket_events(&subject.store, None, unit).await, rows.unsigned_abs());
    }
    let later = some_events(org, 20);
    persist(subject, &later, at(0)).await;
    let all: Vec<Event> = events.iter().chain(&later).cloned().collect();
    check(&subject.store, org, &all).await;
    fold(&subject.store).await;
    check(&subject.store, org, &all).await;
    assert_eq!(subject.count("SELECT count(*) FROM rollup_deltas").await, 0);
    assert_eq!(subject.store.account_window(org, "never", always()).await.unwrap(), None);
    assert_eq!(subject.store.account_window(other, "a9", always()).await.unwrap(), None);
}

async fn repeats_and_duplicates_count_once(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events = some_events(org, 30);
    for _ in 0..3 {
        persist(subject, &events, at(0)).await;
    }
    // A batch of which a part is stored, as after a crash, and copies within one.
    let more = some_events(org, 10);
    let half = [&more[..], &events[..5], &more[..3]].concat();
    persist(subject, &half, at(0)).await;
    let named =
        |seconds| Event { account_id: Some("a1".to_owned()), ..named_event(org, "d", at(seconds)) };
    persist(subject, &[named(1), named(2)], at(0)).await;
    persist(subject, &[named(3)], at(0)).await;
    let all: Vec<Event> = events.iter().chain(&more).cloned().chain([named(1)]).collect();
    assert_eq!(subject.count("SELECT count(*) FROM events").await, 41);
    check(&subject.store, org, &all).await;
    fold(&subject.store).await;
    check(&subject.store, org, &all).await;
    // After the window the same dedup id is another event.
    let window = i64::try_from(super::subject::DEDUP_WINDOW.as_secs()).unwrap();
    persist(subject, &[named(window + 10)], at(0)).await;
    let all: Vec<Event> = all.into_iter().chain([named(window + 10)]).collect();
    check(&subject.store, org, &all).await;
}

async fn batches_and_folds_at_the_same_time_lose_nothing(subject: &Subject) {
    let org = add_org(subject).await;
    let events = some_events(org, 240);
    let shared: Vec<Arc<Event>> = events.iter().cloned().map(Arc::new).collect();
    let other = subject.another().await;
    let stores = [&subject.store, &other];
    let storing = async {
        // Every batch by both, so that one of them finds it stored.
        let both = shared.chunks(20).flat_map(|batch| stores.map(|store| (store, batch)));
        let calls = both.map(|(store, batch)| persist_events(store, batch, None, at(0)));
        for stored in futures_util::future::join_all(calls).await {
            stored.unwrap();
        }
    };
    let folding = async {
        for store in stores.iter().cycle().take(40) {
            store.system().fold_deltas().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        for _ in 0..20 {
            let window = subject.store.types_window(org, None, always()).await.unwrap();
            let sum: u64 = window.counts.types.values().map(|count| count.events).sum();
            assert!(sum <= 240, "{sum}");
        }
    };
    tokio::join!(storing, folding, reading);
    check(&subject.store, org, &events).await;
    fold(&subject.store).await;
    check(&other, org, &events).await;
    other.close().await;
}

async fn interrupted_folds_count_nothing_twice(subject: &Subject) {
    let org = add_org(subject).await;
    let events = some_events(org, 100);
    for batch in events.chunks(10) {
        persist(subject, batch, at(0)).await;
    }
    // Dropped in the middle, as when the process dies.
    for millis in [0, 1, 2, 4, 8, 16] {
        let folding = subject.store.system();
        let cut = tokio::time::timeout(Duration::from_millis(millis), folding.fold_deltas());
        let _ = cut.await;
        check(&subject.store, org, &events).await;
    }
    fold(&subject.store).await;
    check(&subject.store, org, &events).await;
}

async fn windows_begin_and_end_on_the_minute(subject: &Subject) {
    let org = add_org(subject).await;
    let events: Vec<Event> =
        (0..300).map(|minute| labelled(org, "t", "a1", "u", at(minute * 60))).collect();
    persist(subject, &events, at(0)).await;
    for folded in [false, true] {
        if folded {
            fold(&subject.store).await;
        }
        for (from, until) in [(0, 1), (59, 61), (30, 150), (60, 120), (0, 300), (299, 400)] {
            let span = MinuteSpan::covering(at(from * 60), at(until * 60));
            let (types, users) = counted(&subject.store, org, "a1", span).await;
            let minutes = u64::try_from(until.min(300) - from).unwrap();
            assert_eq!(types, BTreeMap::from([("t".to_owned(), minutes)]), "{from} {until}");
            assert_eq!(users, BTreeMap::from([("u".to_owned(), minutes)]), "{from} {until}");
        }
    }
}

async fn events_count_by_their_own_time_within_retention(subject: &Subject) {
    let org = add_org(subject).await;
    let day = 86_400;
    let occurred = |days: i64| Event {
        occurred_at: Some(at(days * day)),
        ..labelled(org, &format!("d{days}"), "a1", "u", at(0))
    };
    let events: Vec<Arc<Event>> =
        [-9, -2, 0, 1, 2].map(|days| Arc::new(occurred(days))).into_iter().collect();
    let kept = subject.store.clone().with_event_retention(Some(Duration::from_hours(3 * 24)));
    persist_events(&kept, &events, None, at(0)).await.unwrap();
    let of_day = async |days: i64| {
        let span = MinuteSpan::covering(at(days * day), at(days * day + 60));
        counted(&subject.store, org, "a1", span).await.0.into_keys().collect::<Vec<_>>()
    };
    fold(&subject.store).await;
    assert_eq!(of_day(-9).await, [""; 0]);
    assert_eq!(of_day(-2).await, ["d-2"]);
    assert_eq!(of_day(0).await, ["d-9", "d0", "d2"]);
    assert_eq!(of_day(1).await, ["d1"]);
    let window = subject.store.account_window(org, "a1", always()).await.unwrap().unwrap();
    assert_eq!(window.seen, Some((at(-2 * day), at(day))));
}

async fn types_and_users_beyond_their_limits_are_summed_up(subject: &Subject) {
    let org = add_org(subject).await;
    let (types, users) = (TYPES_COUNTED_MAX, USERS_COUNTED_MAX);
    let many = types.max(users) + 20;
    let mut events: Vec<Event> = (0..many)
        .map(|number| {
            labelled(
                org,
                &format!("t{number}"),
                "a1",
                &format!("u{number}"),
                at(i64::try_from(number % 60).unwrap()),
            )
        })
        .collect();
    events.extend((0..3).map(|_| labelled(org, "t0", "a1", "u1019", at(59))));
    for batch in events.chunks(400) {
        persist(subject, batch, at(0)).await;
        fold(&subject.store).await;
    }
    for span in [always(), MinuteSpan::covering(at(0), at(60))] {
        let window = subject.store.account_window(org, "a1", span).await.unwrap().unwrap();
        let counts = window.counts;
        assert_eq!(counts.types[OTHER_TYPES].events, 20);
        assert_eq!(counts.types["t0"].events, 4);
        assert_eq!((counts.users.len(), counts.other_users), (users, 20));
        assert_eq!(counts.users["u1019"], 4);
        let all: u64 = counts.types.values().map(|count| count.events).sum();
        assert_eq!(all, events.len() as u64);
    }
}
