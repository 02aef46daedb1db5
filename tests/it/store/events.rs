use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use hookgate::domain::{
    Actor, DeliveryFilter, DeliveryStatus, Event, EventFilter, EventId, EventSummary,
    EventTypeFilter, OrgId, TraceId,
};
use hookgate::store::{EventBatch, StoreError, plan_deliveries};

use super::fixtures::{
    ALL_LETTERS, FIRST_PAGE, add_endpoint, add_org, at, claim, persist, persist_events, room,
    some_event,
};
use super::{Subject, on_both};

on_both!(
    event_comes_back_byte_for_byte,
    storing_events_again_changes_nothing,
    record_twice_in_one_batch_is_stored_once,
    one_delivery_is_planned_for_every_endpoint_that_wants_the_event,
    as_many_deliveries_are_leased_as_there_is_room,
    only_new_events_are_leased_out,
    batches_of_any_size_are_stored_whole,
    batch_with_a_refused_event_leaves_nothing,
    refused_delivery_takes_its_event_back,
    event_is_buried_once,
    plan_that_has_become_stale_is_made_again,
    events_of_an_organisation_that_the_plan_does_not_know_are_planned,
    endpoint_whose_row_cannot_be_read_stops_nobody_and_its_deliveries_wait,
    account_of_an_endpoint_decides_what_it_receives,
    lists_show_what_passes_every_filter,
);

fn shared(events: &[Event]) -> Vec<Arc<Event>> {
    events.iter().cloned().map(Arc::new).collect()
}

async fn event_comes_back_byte_for_byte(subject: &Subject) {
    let org = add_org(subject).await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let payloads = [
        Bytes::from_static(br#"{"n": 1e400, "s":"\u0000" }"#),
        Bytes::from_static(b"null"),
        Bytes::from(every_byte),
    ];
    for payload in payloads {
        let event = Event {
            payload,
            account_id: Some("acc 'ü'".to_owned()),
            user_id: Some("u".to_owned()),
            occurred_at: Some("0001-02-03T04:05:06.789012Z".parse().unwrap()),
            received_at: "2026-01-02T03:04:05.000001Z".parse().unwrap(),
            trace_id: TraceId::from_header("demo-123", None).unwrap(),
            ..some_event(org, "a.b", at(0))
        };
        persist(subject, std::slice::from_ref(&event), at(1)).await;
        assert_eq!(subject.store.event(org, event.id).await.unwrap(), Some(event));
    }
    assert_eq!(subject.store.event(org, EventId::mint(at(0))).await.unwrap(), None);
    assert_eq!(persist(subject, &[], at(1)).await.stored, 0);
}

async fn storing_events_again_changes_nothing(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let known = some_event(org, "a.b", at(0));
    let first = persist(subject, std::slice::from_ref(&known), at(1)).await;
    assert_eq!((first.stored, first.duplicates, first.planned), (1, 0, 1));
    let changed = Event { payload: Bytes::from_static(b"2"), ..known.clone() };
    let mut batch: Vec<Event> = (0..5).map(|_| some_event(org, "a.b", at(1))).collect();
    batch.insert(1, changed);
    let second = persist(subject, &batch, at(2)).await;
    assert_eq!((second.stored, second.duplicates, second.planned), (5, 1, 5));
    let third = persist(subject, &batch, at(3)).await;
    assert_eq!((third.stored, third.duplicates, third.planned), (0, 6, 0));
    assert_eq!(subject.store.event(org, known.id).await.unwrap(), Some(known));
    assert_eq!(subject.count("SELECT count(*) FROM pending_deliveries").await, 6);
}

async fn record_twice_in_one_batch_is_stored_once(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let event = some_event(org, "a.b", at(0));
    let persisted = persist(subject, &[event.clone(), event], at(1)).await;
    assert_eq!((persisted.stored, persisted.duplicates, persisted.planned), (1, 1, 1));
}

async fn one_delivery_is_planned_for_every_endpoint_that_wants_the_event(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let all = add_endpoint(subject, org, "").await;
    let users = add_endpoint(subject, org, "user.*").await;
    add_endpoint(subject, org, "user.logout,invoice.paid").await;
    add_endpoint(subject, other, "*").await;
    let event = some_event(org, "user.login", at(0));
    assert_eq!(persist(subject, std::slice::from_ref(&event), at(1)).await.planned, 2);

    let page = subject.store.deliveries(org, &DeliveryFilter::default(), FIRST_PAGE).await.unwrap();
    let mut endpoints: Vec<_> = page.data.iter().map(|d| d.endpoint_id).collect();
    endpoints.sort_unstable();
    let mut wanted = [all.id, users.id];
    wanted.sort_unstable();
    assert_eq!(endpoints, wanted);
    for delivery in page.data {
        assert_eq!((delivery.event_id, delivery.org_id), (event.id, org));
        assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Pending, 0));
        assert_eq!((delivery.created_at, delivery.finished_at), (at(0), None));
        assert_eq!(delivery.next_attempt_at, Some(at(1)));
    }
}

async fn as_many_deliveries_are_leased_as_there_is_room(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let events: Vec<Event> = (0..5).map(|_| some_event(org, "a.b", at(0))).collect();
    let space = room(3, at(60));
    let store = &subject.store;
    let persisted = persist_events(store, &shared(&events), Some(space), at(1)).await.unwrap();
    assert_eq!((persisted.stored, persisted.planned, persisted.leased.len()), (5, 5, 3));
    for leased in &persisted.leased {
        assert_eq!((leased.lease.token, leased.lease.until), (space.lease.token, at(60)));
        assert_eq!((leased.attempts, leased.endpoint.id), (0, endpoint.id));
        assert!(events.contains(&leased.event));
        let delivery = store.delivery(org, leased.id).await.unwrap().unwrap();
        assert_eq!((delivery.event_id, delivery.next_attempt_at), (leased.event.id, None));
    }
    let others = claim(subject, 10, at(1)).await;
    assert_eq!(others.len(), 2);
    assert!(others.iter().all(|o| persisted.leased.iter().all(|l| l.id != o.id)));
    assert_eq!(claim(subject, 10, at(60)).await.len(), 3, "the lease lapsed");
}

async fn only_new_events_are_leased_out(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let (old, new) = (some_event(org, "a.b", at(0)), some_event(org, "a.b", at(1)));
    persist(subject, std::slice::from_ref(&old), at(1)).await;
    let batch = shared(&[old, new.clone()]);
    let store = &subject.store;
    let again = persist_events(store, &batch, Some(room(9, at(60))), at(2)).await.unwrap();
    assert_eq!(again.leased.iter().map(|l| l.event.id).collect::<Vec<_>>(), [new.id]);
}

async fn batches_of_any_size_are_stored_whole(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let mut total = 0;
    for size in [1, 3, 4, 21, 341, 600] {
        let events: Vec<Event> = (0..size).map(|_| some_event(org, "a.b", at(0))).collect();
        let persisted = persist(subject, &events, at(1)).await;
        assert_eq!((persisted.stored, persisted.planned), (events.len(), events.len()));
        total += size;
    }
    assert_eq!(subject.count("SELECT count(*) FROM events").await, total);
    assert_eq!(
        subject.count("SELECT count(DISTINCT event_id) FROM pending_deliveries").await,
        total
    );
}

async fn batch_with_a_refused_event_leaves_nothing(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let refuse = "ALTER TABLE events ADD CONSTRAINT c CHECK (event_type <> 'poison')";
    let trigger = "CREATE TRIGGER t BEFORE INSERT ON events WHEN NEW.event_type = 'poison'
                   BEGIN SELECT RAISE(ABORT, 'refused'); END";
    subject.raw(trigger, refuse).await;
    let good = some_event(org, "a.b", at(0));
    let named = super::fixtures::named_event(org, "d", at(0));
    let batch = shared(&[named.clone(), good.clone(), some_event(org, "poison", at(0))]);
    let refused = persist_events(&subject.store, &batch, None, at(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
    for table in ["events", "pending_deliveries", "dedup_keys"] {
        assert_eq!(subject.count(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    let rest = persist(subject, &[named, good], at(1)).await;
    assert_eq!((rest.stored, rest.planned), (2, 2), "its neighbours are stored without it");
}

async fn refused_delivery_takes_its_event_back(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let refuse = "ALTER TABLE pending_deliveries ADD CONSTRAINT c CHECK (attempts > 0)";
    let trigger = "CREATE TRIGGER t BEFORE INSERT ON pending_deliveries
                   BEGIN SELECT RAISE(ABORT, 'refused'); END";
    subject.raw(trigger, refuse).await;
    let batch = shared(&[some_event(org, "a.b", at(0))]);
    persist_events(&subject.store, &batch, None, at(1)).await.unwrap_err();
    assert_eq!(subject.count("SELECT count(*) FROM events").await, 0);
}

async fn plan_that_has_become_stale_is_made_again(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let (old, same) =
        (add_endpoint(subject, org, "*").await, add_endpoint(subject, other, "*").await);
    let store = &subject.store;
    let endpoints = store.system().org_endpoints(&[org, other]).await.unwrap();
    let events = shared(&[some_event(org, "a.b", at(0)), some_event(other, "a.b", at(0))]);
    let mut deliveries = plan_deliveries(&events, &endpoints);
    for planned in &mut deliveries {
        planned.leased = true;
    }
    assert!(store.delete_endpoint(org, old.id, &Actor::CLI, at(1)).await.unwrap());
    let new =
        [add_endpoint(subject, org, "a.*").await.id, add_endpoint(subject, org, "*").await.id];
    let batch = EventBatch {
        events: &events,
        endpoints: &endpoints,
        deliveries: &deliveries,
        lease: Some(room(0, at(60)).lease),
    };
    let persisted = store.system().persist_events(batch, at(2)).await.unwrap();
    assert_eq!((persisted.stored, persisted.planned), (2, 3));
    assert_eq!(persisted.leased.iter().map(|l| l.endpoint.id).collect::<Vec<_>>(), [same.id]);
    let [(stale, now)] = &persisted.stale[..] else { panic!("{persisted:?}") };
    let current = store.system().org_endpoints(&[org]).await.unwrap();
    assert_eq!((*stale, now.version), (org, current[&org].version));
    let claimed: HashSet<_> =
        claim(subject, 9, at(2)).await.iter().map(|l| l.endpoint.id).collect();
    assert_eq!(claimed, HashSet::from(new));
    let again = store.system().persist_events(batch, at(3)).await.unwrap();
    assert_eq!((again.stored, again.planned, again.leased.len()), (0, 0, 0));
}

async fn events_of_an_organisation_that_the_plan_does_not_know_are_planned(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let (events, endpoints) = (shared(&[some_event(org, "a.b", at(0))]), HashMap::new());
    let batch = EventBatch { events: &events, endpoints: &endpoints, deliveries: &[], lease: None };
    let persisted = subject.store.system().persist_events(batch, at(2)).await.unwrap();
    assert_eq!((persisted.planned, persisted.stale.len()), (1, 1));
    let quiet = add_org(subject).await;
    let events = shared(&[some_event(quiet, "a.b", at(0))]);
    let batch = EventBatch { events: &events, ..batch };
    let persisted = subject.store.system().persist_events(batch, at(2)).await.unwrap();
    assert_eq!((persisted.stored, persisted.planned), (1, 0));
}

async fn endpoint_whose_row_cannot_be_read_stops_nobody_and_its_deliveries_wait(subject: &Subject) {
    let org = add_org(subject).await;
    let spoilt = add_endpoint(subject, org, "a.*").await;
    let spoil = "UPDATE endpoints SET url = 'no url'";
    subject.raw(spoil, spoil).await;
    let good = add_endpoint(subject, org, "*").await;
    let known = subject.store.system().org_endpoints(&[org]).await.unwrap();
    let unreadable: Vec<_> = known[&org].unreadable.iter().map(|endpoint| endpoint.id).collect();
    assert_eq!((known[&org].endpoints.len(), unreadable), (1, vec![spoilt.id]));
    let events = [some_event(org, "a.b", at(0)), some_event(org, "b.c", at(0))];
    assert_eq!(persist(subject, &events, at(1)).await.planned, 3);
    let waiting = "SELECT count(*) FROM pending_deliveries WHERE lease_token IS NULL";
    assert_eq!(subject.count(waiting).await, 3);
    let claimed = subject.store.system().due_endpoints(<_>::default(), at(1)).await.unwrap();
    assert!(claimed.endpoints.iter().any(|due| due.endpoint == good.id));
}

async fn account_of_an_endpoint_decides_what_it_receives(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let set = "UPDATE endpoints SET account_id = 'acc_1'";
    subject.raw(set, set).await;
    let of = |account: Option<&str>| Event {
        account_id: account.map(str::to_owned),
        ..some_event(org, "a.b", at(0))
    };
    let events = [of(Some("acc_1")), of(Some("acc_2")), of(None)];
    assert_eq!(persist(subject, &events, at(1)).await.planned, 1);
}

async fn event_is_buried_once(subject: &Subject) {
    let org = add_org(subject).await;
    let event = EventId::mint(at(0));
    for now in [at(1), at(2)] {
        subject.store.quarantine_event(org, event, b"\0record", "no\0good", now).await.unwrap();
    }
    let page = subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap();
    let [letter] = &page.data[..] else { panic!("{page:?}") };
    assert_eq!((letter.id.uuid(), letter.event_id), (event.uuid(), event));
    assert_eq!((letter.delivery_id, letter.endpoint_id), (None, None));
    assert_eq!((letter.reason.as_str(), letter.created_at), ("unstorable", at(1)));
    assert_eq!(letter.detail.as_deref(), Some("no\u{fffd}good"));
    let kept = "SELECT count(*) FROM dead_letters WHERE length(record) = 7";
    assert_eq!(subject.count(kept).await, 1);
}

async fn lists_show_what_passes_every_filter(subject: &Subject) {
    let org = add_org(subject).await;
    let made = |event_type, account: &str, user: &str, seconds| Event {
        account_id: Some(account.to_owned()),
        user_id: Some(user.to_owned()),
        ..some_event(org, event_type, at(seconds))
    };
    let login = made("user.login", "a1", "u1", 1);
    let logout = made("user.logout", "a1", "u2", 2);
    let paid = made("invoice.paid", "a2", "u1", 3);
    let users = made("users.merged", "a2", "u2", 4);
    persist(subject, &[login.clone(), logout.clone(), paid.clone(), users.clone()], at(9)).await;

    let of_type = |text: &str| EventFilter {
        event_type: Some(text.parse::<EventTypeFilter>().unwrap()),
        ..EventFilter::default()
    };
    let none = EventFilter::default();
    let account = |id: &str| EventFilter { account_id: Some(id.to_owned()), ..none.clone() };
    let user = |id: &str| EventFilter { user_id: Some(id.to_owned()), ..none.clone() };
    let span = EventFilter { since: Some(at(2)), until: Some(at(4)), ..none.clone() };
    let both = EventFilter { user_id: Some("u1".to_owned()), ..account("a2") };
    let cases: [(EventFilter, &[&Event]); 11] = [
        (none.clone(), &[&users, &paid, &logout, &login]),
        (of_type("*"), &[&users, &paid, &logout, &login]),
        (of_type("user.*"), &[&logout, &login]),
        (of_type("user.login"), &[&login]),
        (of_type("user.log"), &[]),
        (account("a1"), &[&logout, &login]),
        (account("a\0"), &[]),
        (user("u1"), &[&paid, &login]),
        (user("U1"), &[]),
        (span, &[&paid, &logout]),
        (both, &[&paid]),
    ];
    for (filter, expected) in cases {
        let page = subject.store.events(org, &filter, FIRST_PAGE).await.unwrap();
        let expected: Vec<EventSummary> =
            expected.iter().map(|event| EventSummary::from((*event).clone())).collect();
        assert_eq!(page.data, expected, "{filter:?}");
    }
    let stranger = OrgId::mint(at(0));
    assert_eq!(subject.store.events(stranger, &none, FIRST_PAGE).await.unwrap().data, []);
}
