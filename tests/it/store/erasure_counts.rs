//! What erasures leave of the counts: those of what stays, and none of what goes.

use std::time::Duration;

use hookgate::domain::{Actor, ErasureStatus, ErasureSubject, Event, OrgId};

use super::fixtures::{FIRST_PAGE, add_endpoint, add_org, at, persist, some_event};
use super::rollup_ageing::erase_all;
use super::rollups::{Counts, always, bucket_events, counted, expected, fold, labelled};
use super::{Subject, on_both};

on_both!(
    events_after_an_erasure_stay_counted,
    events_between_the_steps_of_an_erasure_stay_counted,
    erased_event_is_taken_from_every_count,
    steps_that_were_lost_take_an_event_from_the_counts_once,
);

async fn request(subject: &Subject, org: OrgId, filter: ErasureSubject, seconds: i64) {
    let erasure = subject.store.insert_erasure(org, &filter, &Actor::CLI, at(seconds)).await;
    assert_eq!(erasure.unwrap().unwrap().status, ErasureStatus::Running);
}

fn account(name: &str) -> ErasureSubject {
    ErasureSubject::Account(name.to_owned())
}

fn events_of(org: OrgId, count: i64, from: i64) -> Vec<Event> {
    let event = |number: i64| {
        let user = format!("u{}", number % 3);
        labelled(org, "a", "gone", &user, at(from + number))
    };
    (0..count).map(event).collect()
}

async fn events_after_an_erasure_stay_counted(subject: &Subject) {
    let org = add_org(subject).await;
    let store = &subject.store;
    persist(subject, &events_of(org, 50, 0), at(0)).await;
    request(subject, org, account("gone"), 100).await;
    let later = events_of(org, 500, 101);
    // Some are folded when their account's counts are erased, some are not.
    persist(subject, &later[..300], at(0)).await;
    fold(store).await;
    persist(subject, &later[300..], at(0)).await;
    erase_all(store, at(1_000)).await;
    assert_eq!(counted(store, org, "gone", always()).await, expected(&later, "gone", always()));
    fold(store).await;
    assert_eq!(counted(store, org, "gone", always()).await, expected(&later, "gone", always()));
    let window = store.account_window(org, "gone", always()).await.unwrap().unwrap();
    assert_eq!(window.seen, Some((at(101), at(600))));
    let row = &store.accounts(org, None, 10).await.unwrap().data[0];
    assert_eq!((row.account_id.as_str(), row.count.events), ("gone", 500));
}

async fn events_between_the_steps_of_an_erasure_stay_counted(subject: &Subject) {
    let org = add_org(subject).await;
    let (store, other) = (&subject.store, subject.another().await);
    persist(subject, &events_of(org, 400, 0), at(0)).await;
    request(subject, org, account("gone"), 400).await;
    let later = events_of(org, 200, 401);
    let storing = async {
        for batch in later.chunks(10) {
            persist(subject, batch, at(0)).await;
        }
    };
    let folding = async {
        for _ in 0..40 {
            other.system().fold_deltas().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(storing, folding, erase_all(store, at(1_000)));
    erase_all(store, at(1_000)).await;
    fold(store).await;
    assert_eq!(counted(store, org, "gone", always()).await, expected(&later, "gone", always()));
    other.close().await;
}

async fn erased_event_is_taken_from_every_count(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let store = &subject.store;
    let events = [
        labelled(org, "a", "acc", "stays", at(1)),
        labelled(org, "a", "acc", "goes", at(2)),
        labelled(org, "b", "only", "goes", at(3)),
        Event { occurred_at: Some(at(-9_000)), ..labelled(org, "b", "acc", "goes", at(4)) },
        some_event(org, "b", at(5)),
    ];
    persist(subject, &events, at(5)).await;
    fold(store).await;
    // One more, whose delta is not folded.
    let unfolded = labelled(org, "c", "acc", "goes", at(6));
    persist(subject, std::slice::from_ref(&unfolded), at(6)).await;
    for event in events[1..].iter().chain([&unfolded]) {
        request(subject, org, ErasureSubject::Event(event.id), 10).await;
    }
    erase_all(store, at(20)).await;
    assert_eq!(counted(store, org, "acc", always()).await, expected(&events[..1], "acc", always()));
    assert_eq!(counted(store, org, "only", always()).await, Counts::default());
    let window = store.types_window(org, None, always()).await.unwrap();
    let types: Vec<_> = window.counts.types.iter().map(|(name, n)| (name.as_str(), n)).collect();
    let bytes = events[0].payload.len() as u64;
    assert_eq!(types.len(), 1);
    assert_eq!((types[0].0, types[0].1.events, types[0].1.bytes), ("a", 1, bytes));
    assert_eq!(bucket_events(store, None, hookgate::store::BucketUnit::Hour).await, 1);
    let types = store.event_types(org, None, 10).await.unwrap().page.data;
    assert_eq!(types.iter().map(|row| row.event_type.as_str()).collect::<Vec<_>>(), ["a"]);
    let accounts = store.accounts(org, None, 10).await.unwrap().data;
    assert_eq!((accounts.len(), accounts[0].count.events), (1, 1));
    assert_eq!(store.erasures(org, FIRST_PAGE).await.unwrap().data.len(), 5);
}

async fn steps_that_were_lost_take_an_event_from_the_counts_once(subject: &Subject) {
    let org = add_org(subject).await;
    let store = &subject.store;
    let events: Vec<Event> =
        (0..20).map(|number| labelled(org, "a", "acc", "u", at(number))).collect();
    persist(subject, &events, at(20)).await;
    for event in &events[..15] {
        request(subject, org, ErasureSubject::Event(event.id), 30).await;
    }
    for span in 0..40 {
        let step = store.system().erase_step(at(40));
        drop(tokio::time::timeout(Duration::from_micros(span * 300), step).await);
    }
    crate::support::wait::until("every erasure has ended", async || {
        erase_all(store, at(50)).await;
        subject.count("SELECT count(*) FROM erasures WHERE status = 'running'").await == 0
    })
    .await;
    let kept = &events[15..];
    assert_eq!(counted(store, org, "acc", always()).await, expected(kept, "acc", always()));
    assert_eq!(bucket_events(store, Some(org), hookgate::store::BucketUnit::Hour).await, 5);
}
