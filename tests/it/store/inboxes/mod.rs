//! Inboxes: what consumers receive, settle and give back.

mod lifecycle;
mod meeting;
mod retries;
mod types;

use std::collections::HashSet;
use std::time::Duration;

use hookgate::domain::{
    Actor, DeadLetterFilter, DeliveryFilter, DeliveryPolicyChange, DeliveryStatus, Endpoint,
    EndpointChange, EventId, Inbox, InstanceId, Lease, LeaseToken, NewEndpoint, OrgId,
    ReceivedEvent, SettleStatus, Timestamp,
};
use hookgate::store::{InboxLookup, InboxSettle, ReceiveRequest, ReceivedEvents, Store};
use tokio::task::JoinSet;

use super::fixtures::{ALL_LETTERS, FIRST_PAGE, add_endpoint, add_org, at, persist, some_event};
use super::rollups::always;
use super::{Subject, on_both};
use crate::support::store::due_endpoints;

on_both!(
    consumers_share_what_waits,
    consumers_at_once_never_get_one_event_twice,
    unsettled_events_come_back_and_are_settled_also_after_their_lease,
    events_are_given_back_at_once_or_later,
    event_that_is_received_too_often_becomes_a_dead_letter_and_can_be_replayed,
    event_that_is_given_back_too_often_becomes_a_dead_letter,
    ordered_inbox_gives_one_event_at_a_time_in_order,
    inbox_that_is_no_longer_ordered_gives_out_what_was_planned_in_order,
    inbox_that_becomes_ordered_gives_out_first_what_waits_one_at_a_time,
    page_ends_early_where_payloads_are_large,
    dead_delivery_that_is_retried_is_received_as_often_as_a_new_one,
    nothing_walks_what_waits,
);

const MINUTE: Duration = Duration::from_mins(1);

/// What a consumer asks for who takes a hundred events for a minute.
fn request(inbox: &Inbox, now: Timestamp) -> ReceiveRequest<'_> {
    let token = LeaseToken::mint(InstanceId::OF_INBOXES);
    ReceiveRequest {
        inbox,
        events_max: 100,
        bytes_max: 1_000_000,
        event_type: None,
        lease: Lease { token, until: now.plus(MINUTE) },
        now,
    }
}

async fn receive_max(
    store: &Store,
    org: OrgId,
    inbox: &Inbox,
    max: u32,
    now: Timestamp,
) -> Vec<ReceivedEvent> {
    let request = ReceiveRequest { events_max: max, ..request(inbox, now) };
    let ReceivedEvents { events, exhausted, .. } = store.receive(org, request).await.unwrap();
    assert!(exhausted.is_empty());
    events
}

async fn receive(subject: &Subject, org: OrgId, inbox: &Inbox, seconds: i64) -> Vec<ReceivedEvent> {
    receive_max(&subject.store, org, inbox, 100, at(seconds)).await
}

fn ids(events: &[ReceivedEvent]) -> Vec<EventId> {
    events.iter().map(|received| received.event.id).collect()
}

async fn settle(subject: &Subject, org: OrgId, inbox: &Inbox, events: &[EventId]) -> usize {
    let settles: Vec<_> =
        events.iter().map(|event| InboxSettle { org, inbox: inbox.id, event: *event }).collect();
    subject.store.system().settle(&settles, at(900)).await.unwrap().len()
}

async fn status(subject: &Subject, org: OrgId, inbox: &Inbox, event: EventId) -> SettleStatus {
    let found = subject.store.inbox_statuses(org, inbox.id, &[event]).await.unwrap();
    found.get(&event).copied().unwrap_or(SettleStatus::Unknown)
}

fn found(lookup: InboxLookup) -> Inbox {
    match lookup {
        InboxLookup::Found(inbox) => inbox,
        other => panic!("{other:?}"),
    }
}

/// Adds an inbox for every event, changed by `change`.
async fn add_inbox(subject: &Subject, org: OrgId, change: impl FnOnce(&mut Endpoint)) -> Inbox {
    let mut endpoint = NewEndpoint::inbox().into_endpoint(org, at(0)).unwrap();
    change(&mut endpoint);
    subject.store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    found(subject.store.inbox(org, Some(endpoint.id)).await.unwrap())
}

/// An organisation with an inbox in which so many events wait.
async fn org_with_events(subject: &Subject, count: i64) -> (OrgId, Inbox, Vec<EventId>) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |_| ()).await;
    let mut events = Vec::new();
    for number in 0..count {
        let event = some_event(org, "a.b", at(number));
        events.push(event.id);
        persist(subject, &[event], at(number)).await;
    }
    (org, inbox, events)
}

async fn consumers_share_what_waits(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 5).await;
    let first = receive_max(&subject.store, org, &inbox, 3, at(10)).await;
    assert_eq!(ids(&first), events[..3], "those that have waited longest");
    assert!(first.iter().all(|received| received.receive_count == 1));
    assert_eq!(first[0].lease_expires_at, at(70));
    assert_eq!(&*first[0].event.payload, br#"{"a" : 1.0}"#);
    let other = subject.another().await;
    assert_eq!(ids(&receive_max(&other, org, &inbox, 3, at(10)).await), events[3..]);
    assert!(receive(subject, org, &inbox, 10).await.is_empty());
    assert_eq!(settle(subject, org, &inbox, &events).await, 5);
    let by_type = subject.store.types_window(org, None, always()).await.unwrap().outcomes;
    assert_eq!(by_type["a.b"].delivered, 5);
    assert!(receive(subject, org, &inbox, 1_000).await.is_empty());
    let filter = DeliveryFilter { endpoint_id: Some(inbox.id), ..DeliveryFilter::default() };
    let page = subject.store.deliveries(org, &filter, FIRST_PAGE).await.unwrap();
    let is_acked = |status, attempts| (status, attempts) == (DeliveryStatus::Delivered, 1);
    assert_eq!(page.data.len(), 5);
    assert!(page.data.iter().all(|delivery| is_acked(delivery.status, delivery.attempts)));
}

async fn consumers_at_once_never_get_one_event_twice(subject: &Subject) {
    const EVENTS: usize = 600;
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |_| ()).await;
    let events: Vec<_> = (0..EVENTS).map(|_| some_event(org, "a.b", at(0))).collect();
    persist(subject, &events, at(0)).await;
    let mut consumers = JoinSet::new();
    for _ in 0..8 {
        let (store, inbox) = (subject.store.clone(), inbox.clone());
        consumers.spawn(async move {
            let mut seen = Vec::new();
            loop {
                let received = ids(&receive_max(&store, org, &inbox, 20, at(1)).await);
                if received.is_empty() {
                    return seen;
                }
                let settle = |event: &EventId| InboxSettle { org, inbox: inbox.id, event: *event };
                let settles: Vec<_> = received.iter().map(settle).collect();
                let settled = store.system().settle(&settles, at(2)).await.unwrap();
                assert_eq!(settled.len(), received.len());
                seen.extend(received);
            }
        });
    }
    let seen: Vec<EventId> = consumers.join_all().await.concat();
    // A consumer that finds all of them locked by others gives up early.
    let rest = receive_max(&subject.store, org, &inbox, 1_000, at(1)).await;
    let all: HashSet<_> = seen.iter().copied().chain(ids(&rest)).collect();
    assert_eq!((seen.len() + rest.len(), all.len()), (EVENTS, EVENTS));
}

async fn unsettled_events_come_back_and_are_settled_also_after_their_lease(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 2).await;
    receive(subject, org, &inbox, 10).await;
    assert!(receive(subject, org, &inbox, 69).await.is_empty());
    assert_eq!(subject.store.inboxes_due(&[inbox.id], at(69)).await.unwrap(), []);
    assert_eq!(subject.store.inboxes_due(&[inbox.id], at(70)).await.unwrap(), [inbox.id]);
    let again = receive_max(&subject.store, org, &inbox, 1, at(70)).await;
    assert_eq!((ids(&again), again[0].receive_count), (events[..1].to_vec(), 2));
    // The lease of the second one is over, and that of the first one somebody else's.
    assert_eq!(settle(subject, org, &inbox, &events).await, 2);
    assert_eq!(settle(subject, org, &inbox, &events).await, 0);
    assert!(receive(subject, org, &inbox, 1_000).await.is_empty());
    for event in events {
        assert_eq!(status(subject, org, &inbox, event).await, SettleStatus::Acked);
    }
}

async fn events_are_given_back_at_once_or_later(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 3).await;
    receive_max(&subject.store, org, &inbox, 2, at(10)).await;
    let give_back = async |now: i64, due: i64| {
        let request = request(&inbox, at(now));
        let back = subject.store.give_back(org, request, &events, at(due)).await.unwrap();
        back.0.into_iter().collect::<HashSet<_>>()
    };
    let received: HashSet<_> = events[..2].iter().copied().collect();
    assert_eq!(give_back(11, 40).await, received, "not the one that nobody has received");
    assert_eq!(ids(&receive(subject, org, &inbox, 39).await), events[2..]);
    let again = receive(subject, org, &inbox, 40).await;
    assert_eq!(ids(&again), events[..2]);
    assert!(again.iter().all(|received| received.receive_count == 2));
    assert_eq!(give_back(41, 41).await.len(), 3);
    assert_eq!(receive(subject, org, &inbox, 41).await.len(), 3);
}

/// Receives events until they were received too often, and records them as dead.
async fn exhaust(subject: &Subject, org: OrgId, inbox: &Inbox, from: i64) -> i64 {
    for round in 0..2 {
        assert_eq!(receive(subject, org, inbox, from + 100 * round).await.len(), 1);
    }
    let now = at(from + 200);
    let ReceivedEvents { events, exhausted, .. } =
        subject.store.receive(org, request(inbox, now)).await.unwrap();
    assert_eq!((events.len(), exhausted.len()), (0, 1));
    assert_eq!(receive(subject, org, inbox, from + 200).await.len(), 0, "it is being recorded");
    assert_eq!(subject.store.system().record_outcomes(&exhausted).await.unwrap(), 1);
    from + 200
}

async fn event_that_is_received_too_often_becomes_a_dead_letter_and_can_be_replayed(
    subject: &Subject,
) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |new| new.config.inbox.max_receives = Some(2)).await;
    let told = add_endpoint(subject, org, "hookgate.delivery.exhausted").await;
    let event = some_event(org, "a.b", at(0));
    persist(subject, std::slice::from_ref(&event), at(0)).await;
    let now = exhaust(subject, org, &inbox, 10).await;
    assert_eq!(status(subject, org, &inbox, event.id).await, SettleStatus::Dead);
    assert_eq!(settle(subject, org, &inbox, &[event.id]).await, 0);
    let letters = subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap();
    let [letter] = &letters.data[..] else { panic!("{letters:?}") };
    assert_eq!((letter.endpoint_id, letter.event_id), (Some(inbox.id), event.id));
    assert_eq!(letter.reason, "exhausted");
    assert_eq!(letter.detail.as_deref(), Some("received max_receives times and not acknowledged"));
    assert_eq!(due_endpoints(&subject.store, at(now)).await[0].endpoint, told.id);
    let delivery = letter.delivery_id.unwrap();
    let by = Actor::CLI;
    subject.store.replay_delivery(org, delivery, &by, at(now)).await.unwrap().unwrap();
    let again = receive(subject, org, &inbox, now).await;
    assert_eq!((ids(&again), again[0].receive_count), (vec![event.id], 1));
    assert_eq!(settle(subject, org, &inbox, &[event.id]).await, 1);
    assert_eq!(status(subject, org, &inbox, event.id).await, SettleStatus::Acked);
}

async fn event_that_is_given_back_too_often_becomes_a_dead_letter(subject: &Subject) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |new| new.config.inbox.max_receives = Some(1)).await;
    let event = some_event(org, "a.b", at(0));
    persist(subject, std::slice::from_ref(&event), at(0)).await;
    receive(subject, org, &inbox, 1).await;
    let ids = [event.id];
    let back = subject.store.give_back(org, request(&inbox, at(2)), &ids, at(2));
    let (returned, ReceivedEvents { exhausted, .. }) = back.await.unwrap();
    assert_eq!((returned.len(), exhausted.len()), (0, 1));
    subject.store.system().record_outcomes(&exhausted).await.unwrap();
    assert_eq!(status(subject, org, &inbox, event.id).await, SettleStatus::Dead);
}

async fn ordered_inbox_gives_one_event_at_a_time_in_order(subject: &Subject) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |new| new.policy.ordered = true).await;
    // In the order in which they are stored, whatever their stamps are.
    let events = [30, 10, 20].map(|seconds| some_event(org, "a.b", at(seconds)));
    persist(subject, &events, at(50)).await;
    for (place, event) in events.iter().enumerate() {
        let now = 100 + 1_000 * i64::try_from(place).unwrap();
        assert_eq!(ids(&receive(subject, org, &inbox, now).await), [event.id]);
        assert!(receive(subject, org, &inbox, now + 59).await.is_empty(), "one at a time");
        let again = receive(subject, org, &inbox, now + 60).await;
        assert_eq!((ids(&again), again[0].receive_count), (vec![event.id], 2));
        let request = request(&inbox, at(now + 61));
        subject.store.give_back(org, request, &[event.id], at(now + 90)).await.unwrap();
        assert!(receive(subject, org, &inbox, now + 89).await.is_empty(), "the head is held back");
        assert_eq!(ids(&receive(subject, org, &inbox, now + 90).await), [event.id]);
        assert_eq!(settle(subject, org, &inbox, &[event.id]).await, 1);
    }
    assert!(receive(subject, org, &inbox, 10_000).await.is_empty());
}

/// Makes an inbox ordered, or no longer so.
async fn set_order(subject: &Subject, org: OrgId, inbox: &Inbox, ordered: bool) -> Inbox {
    let policy = DeliveryPolicyChange { ordered: Some(ordered), ..DeliveryPolicyChange::default() };
    let change = EndpointChange { policy, ..EndpointChange::default() };
    let changed = subject.store.update_endpoint(org, inbox.id, &change, &Actor::CLI, at(5)).await;
    changed.unwrap().unwrap();
    found(subject.store.inbox(org, Some(inbox.id)).await.unwrap())
}

async fn persisted<const COUNT: usize>(
    subject: &Subject,
    org: OrgId,
    seconds: [i64; COUNT],
) -> [EventId; COUNT] {
    let events = seconds.map(|seconds| some_event(org, "a.b", at(seconds)));
    persist(subject, &events, at(seconds[COUNT - 1])).await;
    events.map(|event| event.id)
}

async fn inbox_that_is_no_longer_ordered_gives_out_what_was_planned_in_order(subject: &Subject) {
    let org = add_org(subject).await;
    let ordered = add_inbox(subject, org, |new| new.policy.ordered = true).await;
    let before = persisted(subject, org, [1, 2, 3]).await;
    let inbox = set_order(subject, org, &ordered, false).await;
    // It does not wait until nothing newer comes.
    let after = persisted(subject, org, [6, 7, 8]).await;
    let receive = async |max: u32| {
        let received = receive_max(&subject.store, org, &inbox, max, at(10)).await;
        ids(&received).into_iter().collect::<HashSet<_>>()
    };
    assert_eq!(receive(2).await, before[..2].iter().copied().collect());
    assert_eq!(receive(2).await, HashSet::from([before[2], after[0]]));
    assert_eq!(receive(10).await, after[1..].iter().copied().collect());
}

async fn inbox_that_becomes_ordered_gives_out_first_what_waits_one_at_a_time(subject: &Subject) {
    let (org, unordered, before) = org_with_events(subject, 3).await;
    let taken = receive_max(&subject.store, org, &unordered, 1, at(10)).await;
    assert_eq!(ids(&taken), before[..1]);
    let inbox = set_order(subject, org, &unordered, true).await;
    let after = persisted(subject, org, [16, 15]).await;
    let due = subject.store.inboxes_due(&[inbox.id], at(20)).await.unwrap();
    assert_eq!(due, [inbox.id]);
    assert!(receive(subject, org, &inbox, 20).await.is_empty(), "one is in flight");
    assert_eq!(settle(subject, org, &inbox, &before[..1]).await, 1);
    let all: Vec<EventId> = before[1..].iter().chain(&after).copied().collect();
    for (place, event) in all.iter().enumerate() {
        let now = 100 + 1_000 * i64::try_from(place).unwrap();
        assert_eq!(ids(&receive(subject, org, &inbox, now).await), [*event]);
        let other = subject.another().await;
        let second = receive_max(&other, org, &inbox, 100, at(now + 59)).await;
        assert!(second.is_empty(), "one at a time");
        assert_eq!(settle(subject, org, &inbox, &[*event]).await, 1);
    }
    assert!(receive(subject, org, &inbox, 10_000).await.is_empty());
    assert!(subject.store.inboxes_due(&[inbox.id], at(10_000)).await.unwrap().is_empty());
}

async fn page_ends_early_where_payloads_are_large(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 4).await;
    let receive = async |bytes_max: usize| {
        let request = ReceiveRequest { bytes_max, ..request(&inbox, at(10)) };
        ids(&subject.store.receive(org, request).await.unwrap().events)
    };
    let bytes = br#"{"a" : 1.0}"#.len();
    assert_eq!(receive(1).await, events[..1], "one at least");
    assert_eq!(receive(2 * bytes).await, events[1..3]);
}

async fn dead_delivery_that_is_retried_is_received_as_often_as_a_new_one(subject: &Subject) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |new| new.config.inbox.max_receives = Some(2)).await;
    persist(subject, &[some_event(org, "a.b", at(0))], at(0)).await;
    let now = exhaust(subject, org, &inbox, 10).await;
    let filter = DeadLetterFilter { endpoint_id: Some(inbox.id), ..ALL_LETTERS };
    let letters = subject.store.dead_letters(org, &filter, FIRST_PAGE).await.unwrap();
    let delivery = letters.data[0].delivery_id.unwrap();
    subject.store.retry_delivery(org, delivery, &Actor::CLI, at(now)).await.unwrap().unwrap();
    exhaust(subject, org, &inbox, now).await;
    let by_type = subject.store.types_window(org, None, always()).await.unwrap().outcomes;
    assert_eq!(by_type["a.b"].dead, 2);
}

async fn nothing_walks_what_waits(subject: &Subject) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |_| ()).await;
    for part in 0..5 {
        let times = part * 500..(part + 1) * 500;
        let events: Vec<_> = times.map(|seconds| some_event(org, "a.b", at(seconds))).collect();
        persist(subject, &events, at(0)).await;
    }
    let received = ids(&receive(subject, org, &inbox, 1).await);
    settle(subject, org, &inbox, &received[..50]).await;
    subject.raw("ANALYZE", "ANALYZE").await;
    let (store, plans) = subject.store.recording_plans();
    store.inboxes_due(&[inbox.id], at(1)).await.unwrap();
    assert_eq!(store.inbox_statuses(org, inbox.id, &received).await.unwrap().len(), 100);
    receive_max(&store, org, &inbox, 100, at(1)).await;
    store.give_back(org, request(&inbox, at(1)), &received[50..], at(1)).await.unwrap();
    // There are few finished deliveries, which it does not matter how to read.
    let walks = ["SCAN d", "SCAN events", "Seq Scan on pending_deliveries"];
    for plan in plans.take() {
        assert!(!walks.iter().any(|walk| plan.contains(walk)), "{plan}");
    }
}
