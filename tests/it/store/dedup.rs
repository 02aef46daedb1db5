use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookgate::domain::{Event, EventFilter, OrgId, Timestamp};
use hookgate::store::Copies;
use tokio::task::JoinSet;

use super::fixtures::{
    FIRST_PAGE, add_endpoint, add_org, at, named_event, persist, persist_events, some_event,
};
use super::subject::DEDUP_WINDOW;
use super::{Subject, on_both};

on_both!(
    second_event_inside_the_window_is_dropped,
    first_of_one_batch_is_kept,
    dedup_id_may_be_used_again_after_the_window,
    dedup_id_used_twice_in_one_batch_makes_two_events_when_the_window_lies_between,
    same_record_is_no_duplicate_of_itself,
    event_that_is_older_than_the_stored_one_by_the_window_is_kept,
    dedup_ids_of_two_organisations_have_nothing_to_do_with_each_other,
    instances_that_store_the_same_dedup_ids_at_once_agree_on_one_event_each,
    copies_are_counted_with_the_event_that_was_kept,
    events_are_listed_by_their_dedup_id,
);

fn window_after(start: Timestamp) -> Timestamp {
    start.plus(DEDUP_WINDOW)
}

fn just_before(moment: Timestamp) -> Timestamp {
    Timestamp::from_micros(moment.micros() - 1)
}

async fn copies_are_counted_with_the_event_that_was_kept(subject: &Subject) {
    let store = &subject.store;
    let org = add_org(subject).await;
    let (first, other) = (named_event(org, "d", at(0)), named_event(org, "e", at(0)));
    persist(subject, &[first.clone(), other.clone()], at(1)).await;
    let copies = async |event: &Event| {
        let Copies { duplicates, conflicts } = store.copies(event).await.unwrap().unwrap();
        (duplicates, conflicts)
    };
    assert_eq!(copies(&first).await, (0, 0));
    let copy = |micros, payload: &'static str| Event {
        received_at: Timestamp::from_micros(at(0).micros() + micros),
        payload: Bytes::from_static(payload.as_bytes()),
        ..first.clone()
    };
    let same = Event { received_at: Timestamp::from_micros(at(0).micros() + 1), ..first.clone() };
    persist(subject, &[same, copy(2, "2"), copy(3, "3")], at(2)).await;
    persist(subject, &[copy(4, "2"), some_event(org, "a", at(2))], at(2)).await;
    assert_eq!((copies(&first).await, copies(&other).await), ((4, 3), (0, 0)));
    persist(subject, std::slice::from_ref(&first), at(2)).await;
    assert_eq!(copies(&first).await, (4, 3), "a record is no copy of itself");

    let again = Event { received_at: window_after(at(0)), ..first.clone() };
    persist(subject, std::slice::from_ref(&again), at(3)).await;
    assert_eq!(copies(&again).await, (0, 0), "a new event, a new count");
    assert_eq!(store.copies(&first).await.unwrap(), None);
    subject
        .store
        .system()
        .maintain(at(3).plus(DEDUP_WINDOW + Duration::from_hours(48)))
        .await
        .unwrap();
    assert_eq!(store.copies(&again).await.unwrap(), None);
}

async fn events_are_listed_by_their_dedup_id(subject: &Subject) {
    let (org, other_org) = (add_org(subject).await, add_org(subject).await);
    let first = named_event(org, "d", at(0));
    let again = Event { received_at: window_after(at(0)), ..first.clone() };
    persist(subject, &[first.clone(), named_event(org, "e", at(1))], at(2)).await;
    persist(subject, &[again.clone(), named_event(other_org, "d", at(1))], at(2)).await;
    let filter = EventFilter { dedup_id: Some("d".to_owned()), ..EventFilter::default() };
    let listed = subject.store.events(org, &filter, FIRST_PAGE).await.unwrap().data;
    assert_eq!(listed, [again.into(), first.into()]);
}

async fn second_event_inside_the_window_is_dropped(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let first = named_event(org, "d", at(0));
    let second = named_event(org, "d", just_before(window_after(at(0))));
    persist(subject, std::slice::from_ref(&first), at(1)).await;
    let other = some_event(org, "a.b", at(2));
    let persisted = persist(subject, &[second, other, named_event(org, "e", at(2))], at(2)).await;
    assert_eq!((persisted.stored, persisted.duplicates, persisted.planned), (2, 1, 2));
    assert_eq!(subject.store.event(org, first.id).await.unwrap(), Some(first));
}

async fn first_of_one_batch_is_kept(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let batch = [named_event(org, "d", at(5)), named_event(org, "d", at(4))];
    let persisted = persist(subject, &batch, at(9)).await;
    assert_eq!((persisted.stored, persisted.duplicates, persisted.planned), (1, 1, 1));
    let [first, _] = batch;
    assert_eq!(subject.store.event(org, first.id).await.unwrap(), Some(first));
}

async fn dedup_id_may_be_used_again_after_the_window(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let first = named_event(org, "d", at(0));
    let again = named_event(org, "d", window_after(at(0)));
    let copy = named_event(org, "d", just_before(window_after(again.received_at)));
    for (event, stored) in [(&first, 1), (&again, 1), (&copy, 0)] {
        let persisted = persist(subject, std::slice::from_ref(event), at(1)).await;
        assert_eq!((persisted.stored, persisted.planned), (stored, stored));
    }
    let newest = subject.store.event(org, first.id).await.unwrap();
    assert_eq!(newest, Some(again), "the newest of one id is the one that is found");
}

async fn dedup_id_used_twice_in_one_batch_makes_two_events_when_the_window_lies_between(
    subject: &Subject,
) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let batch = [named_event(org, "d", at(0)), named_event(org, "d", window_after(at(0)))];
    let persisted = persist(subject, &batch, at(1)).await;
    assert_eq!((persisted.stored, persisted.duplicates, persisted.planned), (2, 0, 2));
}

/// As from another instance, whose journal is behind.
async fn event_that_is_older_than_the_stored_one_by_the_window_is_kept(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let newer = named_event(org, "d", window_after(at(0)));
    let older = named_event(org, "d", at(0));
    let copy = named_event(org, "d", just_before(window_after(newer.received_at)));
    for (event, stored) in [(&newer, 1), (&older, 1), (&older, 0), (&copy, 0)] {
        let persisted = persist(subject, std::slice::from_ref(event), at(1)).await;
        assert_eq!((persisted.stored, persisted.planned), (stored, stored));
    }
}

async fn same_record_is_no_duplicate_of_itself(subject: &Subject) {
    let org = add_org(subject).await;
    let event = named_event(org, "d", at(0));
    persist(subject, std::slice::from_ref(&event), at(1)).await;
    // As after a crash between taking the key and storing the event, were they not one transaction.
    let delete = "DELETE FROM events";
    subject.raw(delete, delete).await;
    let again = persist(subject, std::slice::from_ref(&event), at(2)).await;
    assert_eq!((again.stored, again.duplicates), (1, 0));
    let once_more = persist(subject, std::slice::from_ref(&event), at(3)).await;
    assert_eq!((once_more.stored, once_more.duplicates), (0, 1));
}

async fn dedup_ids_of_two_organisations_have_nothing_to_do_with_each_other(subject: &Subject) {
    let (ours, theirs) = (add_org(subject).await, add_org(subject).await);
    let batch = [named_event(ours, "d", at(0)), named_event(theirs, "d", at(0))];
    assert_eq!(persist(subject, &batch, at(1)).await.stored, 2);
}

/// The names of the dedup ids that everybody posts, in an order of the poster's own.
fn shuffled(org: OrgId, poster: i64) -> Vec<Arc<Event>> {
    const NAMES: i64 = 211; // A prime, so that every step below visits all of them.
    let name = |place: i64| (place * (poster + 3) + 17 * poster) % NAMES;
    let event = |place| named_event(org, &name(place).to_string(), at(poster));
    (0..NAMES).map(|place| Arc::new(event(place))).collect()
}

async fn instances_that_store_the_same_dedup_ids_at_once_agree_on_one_event_each(
    subject: &Subject,
) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let mut posters = JoinSet::new();
    for poster in 0..8 {
        let store = subject.another().await;
        posters.spawn(async move {
            let mut stored = 0;
            for batch in shuffled(org, poster).chunks(50) {
                stored += persist_events(&store, batch, None, at(9)).await.unwrap().stored;
            }
            stored
        });
    }
    assert_eq!(posters.join_all().await.iter().sum::<usize>(), 211);
    assert_eq!(subject.count("SELECT count(*) FROM events").await, 211);
    assert_eq!(subject.count("SELECT count(*) FROM pending_deliveries").await, 211);
}
