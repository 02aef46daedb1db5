use hookgate::domain::{
    Actor, Cursor, DeliveryFilter, DeliveryStatus, Event, EventFilter, EventSummary, PageRequest,
    Role,
};
use uuid::Uuid;

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, add_endpoint, add_org, at, claim, named_event, outcome,
    persist, some_event, some_key, some_org, walk,
};
use super::subject::DEDUP_WINDOW;
use super::{Subject, on_both};

on_both!(
    every_list_is_walked_whole_though_its_rows_share_a_moment,
    list_is_stable_while_newer_rows_are_added,
    deliveries_are_listed_by_what_the_filter_names,
    deliveries_of_long_ago_are_in_the_same_list,
    cursor_from_nowhere_is_no_error,
    payloads_of_a_page_are_bounded_and_the_next_page_goes_on,
    largest_event_is_stored_and_listed,
);

async fn every_list_is_walked_whole_though_its_rows_share_a_moment(subject: &Subject) {
    let store = &subject.store;
    let org = add_org(subject).await;
    for _ in 0..6 {
        store.system().insert_org(&some_org(at(0)), &Actor::CLI).await.unwrap();
        store
            .system()
            .insert_key(&some_key(Role::Tenant(org), at(0)), &Actor::CLI)
            .await
            .unwrap()
            .unwrap();
        add_endpoint(subject, org, "none").await;
    }
    store
        .system()
        .insert_key(&some_key(Role::Tenant(org), at(0)), &Actor::CLI)
        .await
        .unwrap()
        .unwrap();
    add_endpoint(subject, org, "*").await;
    let events: Vec<Event> = (0..7).map(|_| some_event(org, "a.b", at(0))).collect();
    persist(subject, &events, at(0)).await;
    let leased = claim(subject, 7, at(0)).await;
    let outcomes: Vec<_> = leased.iter().map(|l| outcome(l, EXHAUSTED, at(1))).collect();
    store.system().record_outcomes(&outcomes).await.unwrap();

    let all = DeliveryFilter::default();
    let every = EventFilter::default();
    let walks = [
        walk(3, async |p| Ok(store.system().orgs(p).await?.map(|row| row.id.uuid()))).await,
        walk(3, async |p| Ok(store.keys(org, p).await?.map(|row| row.id.uuid()))).await,
        walk(3, async |p| Ok(store.system().keys(p).await?.map(|row| row.id.uuid()))).await,
        walk(3, async |p| Ok(store.endpoints(org, None, p).await?.map(|row| row.id.uuid()))).await,
        walk(3, async |p| Ok(store.events(org, &every, p).await?.map(|row| row.id.uuid()))).await,
        walk(3, async |p| Ok(store.deliveries(org, &all, p).await?.map(|row| row.id.uuid()))).await,
        walk(3, async |p| {
            Ok(store.dead_letters(org, &ALL_LETTERS, p).await?.map(|row| row.id.uuid()))
        })
        .await,
    ];
    for (list, seen) in walks.into_iter().enumerate() {
        assert_eq!(seen.len(), 7, "list {list}");
        assert!(seen.is_sorted_by(|a, b| a > b), "list {list} runs down by id");
    }
}

async fn list_is_stable_while_newer_rows_are_added(subject: &Subject) {
    let org = add_org(subject).await;
    let events: Vec<Event> = (1..=4).map(|second| some_event(org, "a.b", at(second))).collect();
    persist(subject, &events, at(9)).await;
    let filter = EventFilter::default();
    let first = PageRequest::first(2);
    let first = subject.store.events(org, &filter, first).await.unwrap();
    let summary = |event: &Event| EventSummary::from(event.clone());
    assert_eq!(first.data, [summary(&events[3]), summary(&events[2])]);
    persist(subject, &[some_event(org, "a.b", at(5))], at(9)).await;
    let next = PageRequest { after: first.next_cursor, ..PageRequest::first(2) };
    let next = subject.store.events(org, &filter, next).await.unwrap();
    assert_eq!(next.data, [summary(&events[1]), summary(&events[0])]);
    assert_eq!(next.next_cursor, None);
}

async fn deliveries_are_listed_by_what_the_filter_names(subject: &Subject) {
    let org = add_org(subject).await;
    let (one, two) = (add_endpoint(subject, org, "*").await, add_endpoint(subject, org, "*").await);
    let (first, second) = (some_event(org, "a.b", at(0)), some_event(org, "a.b", at(0)));
    persist(subject, std::slice::from_ref(&first), at(1)).await;
    persist(subject, std::slice::from_ref(&second), at(2)).await;
    let leased = claim(subject, 4, at(2)).await;
    let to_one = leased.iter().find(|l| l.endpoint.id == one.id && l.event.id == first.id);
    let to_one = to_one.unwrap();
    let delivered = outcome(to_one, hookgate::domain::Decision::Delivered, at(3));
    subject.store.system().record_outcomes(&[delivered]).await.unwrap();

    let all = DeliveryFilter::default();
    let delivered = Some(DeliveryStatus::Delivered);
    let cases = [
        (all.clone(), 4),
        (DeliveryFilter { endpoint_id: Some(one.id), ..all.clone() }, 2),
        (DeliveryFilter { event_id: Some(second.id), ..all.clone() }, 2),
        (DeliveryFilter { event_id: Some(second.id), endpoint_id: Some(two.id), ..all.clone() }, 1),
        (DeliveryFilter { status: delivered, ..all.clone() }, 1),
        (DeliveryFilter { status: delivered, endpoint_id: Some(one.id), ..all.clone() }, 1),
        (DeliveryFilter { status: delivered, endpoint_id: Some(two.id), ..all.clone() }, 0),
        (DeliveryFilter { status: delivered, event_id: Some(first.id), ..all.clone() }, 1),
        (DeliveryFilter { status: Some(DeliveryStatus::Dead), ..all.clone() }, 0),
    ];
    for (filter, expected) in cases {
        let page = subject.store.deliveries(org, &filter, FIRST_PAGE).await.unwrap();
        assert_eq!(page.data.len(), expected, "{filter:?}");
        for delivery in page.data {
            assert!(filter.status.is_none_or(|status| delivery.status == status));
            assert!(filter.endpoint_id.is_none_or(|id| delivery.endpoint_id == id));
            assert!(filter.event_id.is_none_or(|id| delivery.event_id == id));
        }
    }
}

async fn deliveries_of_long_ago_are_in_the_same_list(subject: &Subject) {
    const DAY: i64 = 86_400;
    let created = at(-900 * DAY);
    let org = some_org(created);
    subject.store.system().insert_org(&org, &Actor::CLI).await.unwrap();
    let endpoint = add_endpoint(subject, org.id, "*").await;
    let days = [-899, -500, -40, -39, -3, -1, 0, 0, 5];
    let events: Vec<Event> =
        days.iter().map(|day| some_event(org.id, "a.b", at(day * DAY))).collect();
    persist(subject, &events, at(6 * DAY)).await;
    let leased = claim(subject, 4, at(6 * DAY)).await;
    let outcomes: Vec<_> = leased.iter().map(|l| outcome(l, EXHAUSTED, at(6 * DAY))).collect();
    subject.store.system().record_outcomes(&outcomes).await.unwrap();

    let all = DeliveryFilter::default();
    let filters = [all.clone(), DeliveryFilter { endpoint_id: Some(endpoint.id), ..all.clone() }];
    for filter in &filters {
        for limit in [1, 2, 3, 100] {
            let seen =
                walk(limit, async |p| subject.store.deliveries(org.id, filter, p).await).await;
            let seen: Vec<_> = seen.iter().map(|row| (row.created_at, row.id)).collect();
            assert_eq!(seen.len(), days.len(), "{filter:?} {limit}");
            assert!(seen.is_sorted_by(|a, b| a > b), "{filter:?} {limit}");
        }
    }
    for (day, expected) in [(-39, 6), (-500, 8), (-1_000, 9)] {
        let filter = DeliveryFilter { since: Some(at(day * DAY)), ..all.clone() };
        let page = subject.store.deliveries(org.id, &filter, FIRST_PAGE).await.unwrap();
        assert_eq!(page.data.len(), expected, "since day {day}");
    }
}

async fn cursor_from_nowhere_is_no_error(subject: &Subject) {
    let org = add_org(subject).await;
    persist(subject, &[some_event(org, "a.b", at(0))], at(0)).await;
    for (micros, expected) in [(i64::MIN, 0), (i64::MAX, 1)] {
        let at = hookgate::domain::Timestamp::from_micros(micros);
        let after = Some(Cursor { at, id: Uuid::nil() });
        let page = PageRequest { after, ..PageRequest::first(3) };
        let page = subject.store.events(org, &EventFilter::default(), page).await.unwrap();
        assert_eq!(page.data.len(), expected);
    }
}

async fn payloads_of_a_page_are_bounded_and_the_next_page_goes_on(subject: &Subject) {
    const BYTES_MAX: usize = 1_000;
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let event_of = |org, bytes: usize, second| Event {
        payload: format!("\"{}\"", "x".repeat(bytes - 2)).into(),
        ..some_event(org, "a.b", at(second))
    };
    let sizes = [10, 400, 600, 601, 2_000, 3, 3, 999, 1_000, 1_001];
    let mut events: Vec<Event> =
        (0..).zip(sizes).map(|(n, bytes)| event_of(org, bytes, n / 3)).collect();
    // One id twice: the dedup window lies between them.
    let later = at(2 * i64::try_from(DEDUP_WINDOW.as_secs()).unwrap());
    for received_at in [at(1), later] {
        events.push(Event {
            payload: format!("{}", received_at.micros()).into(),
            ..named_event(org, "twice", received_at)
        });
    }
    for event in &events {
        persist(subject, std::slice::from_ref(event), event.received_at).await;
    }
    persist(subject, &[event_of(other, 10, 1)], at(9)).await;

    let store = &subject.store;
    let page_of = async |page| {
        let page = store.events(org, &EventFilter::default(), page).await?;
        let page = store.with_payloads(org, page, BYTES_MAX).await?;
        let bytes: usize = page.data.iter().map(|(_, payload)| payload.len()).sum();
        assert!(bytes <= BYTES_MAX || page.data.len() == 1, "{bytes} bytes");
        Ok(page)
    };
    let seen = walk(5, page_of).await;
    let mut expected: Vec<_> = events
        .iter()
        .map(|event| (EventSummary::from(event.clone()), event.payload.clone()))
        .collect();
    expected.sort_by_key(|(event, _)| std::cmp::Reverse((event.received_at, event.id)));
    assert_eq!(seen, expected);
    let page = store.events(org, &EventFilter::default(), FIRST_PAGE).await.unwrap();
    let foreign = store.with_payloads(other, page, BYTES_MAX).await.unwrap();
    assert!(foreign.data.is_empty(), "payloads of another organisation");
}

async fn largest_event_is_stored_and_listed(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let payload = format!("\"{}\"", "x".repeat(60 * 1024 * 1024));
    let event = Event { payload: payload.into(), ..some_event(org, "a.b", at(0)) };
    let persisted = persist(subject, std::slice::from_ref(&event), at(0)).await;
    assert_eq!((persisted.stored, persisted.planned), (1, 1));
    let store = &subject.store;
    assert!(store.event(org, event.id).await.unwrap() == Some(event.clone()));
    let page = store.events(org, &EventFilter::default(), FIRST_PAGE).await.unwrap();
    assert_eq!(page.data, [EventSummary::from(event.clone())]);
    let page = store.with_payloads(org, page, PageRequest::PAYLOAD_BYTES_MAX).await.unwrap();
    assert!(page.data[0].1 == event.payload, "it alone is a page");
    let leased = claim(subject, 1, at(0)).await;
    assert_eq!(leased[0].event.payload.len(), event.payload.len());
}
