//! The log of changes: exact, in one order, and only for who is followed.

use hookgate::domain::{
    Actor, ChangeCursor, ChangeKind, Decision, DeliveryId, DeliveryStatus, InstanceId, Lease,
    LeaseToken, NewEndpoint, OrgId, Timestamp,
};
use hookgate::store::{InboxLookup, InboxSettle, ReceiveRequest};
use uuid::Uuid;

use super::fixtures::{EXHAUSTED, add_endpoint, add_org, at, claim, outcome, persist, some_event};
use super::{Subject, on_both};
use crate::support::wait::until;

on_both!(
    changes_of_a_followed_organisation_are_read_once_and_in_order,
    nothing_is_logged_of_who_is_not_followed,
    follower_goes_on_in_the_middle_of_a_transaction,
    changes_are_deleted_after_a_while,
    changes_of_concurrent_batches_are_all_read,
    ends_without_an_attempt_are_logged,
    outcomes_are_recorded_by_the_time_their_changes_are_read,
);

/// The next changes behind a position, this many, and the position behind them. On PostgreSQL they wait for every
/// transaction of the server that has begun before.
async fn read(
    subject: &Subject,
    org: OrgId,
    cursor: &mut ChangeCursor,
    count: usize,
) -> Vec<(ChangeKind, Uuid)> {
    let mut all = Vec::new();
    until("the changes can be read", async || {
        let changes = subject.store.changes_after(org, *cursor, at(0)).await.unwrap();
        if let Some((last, _)) = changes.last() {
            *cursor = *last;
        }
        all.extend(changes.into_iter().map(|(_, change)| (change.kind, change.id)));
        all.len() >= count
    })
    .await;
    assert_eq!(subject.store.changes_after(org, *cursor, at(0)).await.unwrap(), []);
    all
}

async fn follow(subject: &Subject, org: OrgId, now: Timestamp) -> ChangeCursor {
    subject.store.follow_changes(org, now).await.unwrap();
    subject.store.system().refresh_followed(now).await.unwrap();
    subject.store.newest_change(org, now).await.unwrap()
}

async fn changes_of_a_followed_organisation_are_read_once_and_in_order(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let mut cursor = follow(subject, org, at(0)).await;
    read(subject, org, &mut cursor, 0).await;

    let events = [some_event(org, "a", at(1)), some_event(org, "b", at(1))];
    persist(subject, &events, at(1)).await;
    let expected =
        [(ChangeKind::Event, events[0].id.uuid()), (ChangeKind::Event, events[1].id.uuid())];
    assert_eq!(read(subject, org, &mut cursor, 2).await, expected);

    let leased = claim(subject, 2, at(2)).await;
    let outcomes =
        [outcome(&leased[0], Decision::Delivered, at(3)), outcome(&leased[1], EXHAUSTED, at(3))];
    subject.store.system().record_outcomes(&outcomes).await.unwrap();
    let found = read(subject, org, &mut cursor, 3).await;
    let (first, second) = (leased[0].id.uuid(), leased[1].id.uuid());
    let expected = [
        (ChangeKind::Delivery, first),
        (ChangeKind::Delivery, second),
        (ChangeKind::DeadLetter, second),
    ];
    assert_eq!(found, expected);
    // Each can be looked up by what is logged.
    let deliveries =
        subject.store.deliveries_by_id(org, &[leased[0].id, leased[1].id]).await.unwrap();
    assert_eq!(deliveries.len(), 2);
    assert_eq!(subject.store.dead_letters_by_id(org, vec![second]).await.unwrap().len(), 1);
    let keys = [(events[0].id, events[0].received_at), (events[1].id, events[1].received_at)];
    assert_eq!(subject.store.events_by_key(org, &keys).await.unwrap().len(), 2);
    let other = add_org(subject).await;
    assert_eq!(subject.store.events_by_key(other, &keys).await.unwrap(), []);
}

async fn nothing_is_logged_of_who_is_not_followed(subject: &Subject) {
    let (followed, other) = (add_org(subject).await, add_org(subject).await);
    let mut cursor = follow(subject, followed, at(0)).await;
    let mut none = subject.store.newest_change(other, at(0)).await.unwrap();
    persist(subject, &[some_event(other, "a", at(1)), some_event(followed, "a", at(1))], at(1))
        .await;
    assert_eq!(read(subject, followed, &mut cursor, 1).await.len(), 1);
    assert_eq!(read(subject, other, &mut none, 0).await, []);

    let later = at(600);
    subject.store.system().refresh_followed(later).await.unwrap();
    persist(subject, &[some_event(followed, "a", later)], later).await;
    follow(subject, followed, later).await;
    let event = some_event(followed, "a", later);
    persist(subject, std::slice::from_ref(&event), later).await;
    let expected = [(ChangeKind::Event, event.id.uuid())];
    assert_eq!(read(subject, followed, &mut cursor, 1).await, expected);
}

async fn follower_goes_on_in_the_middle_of_a_transaction(subject: &Subject) {
    let org = add_org(subject).await;
    let cursor = follow(subject, org, at(0)).await;
    let events: Vec<_> = (0..5).map(|_| some_event(org, "a", at(1))).collect();
    persist(subject, &events, at(1)).await;
    read(subject, org, &mut cursor.clone(), 5).await;
    let all = subject.store.changes_after(org, cursor, at(2)).await.unwrap();
    assert_eq!(all.len(), 5);
    for (seen, (cursor, _)) in all.iter().enumerate() {
        let cursor: ChangeCursor = cursor.to_string().parse().unwrap();
        let rest = subject.store.changes_after(org, cursor, at(2)).await.unwrap();
        assert_eq!(rest, all[seen + 1..]);
    }
}

async fn changes_are_deleted_after_a_while(subject: &Subject) {
    let org = add_org(subject).await;
    let mut cursor = follow(subject, org, at(0)).await;
    persist(subject, &[some_event(org, "a", at(1))], at(1)).await;
    let age = "UPDATE change_log SET logged_at =";
    subject.raw(&format!("{age} 0"), &format!("{age} '2025-01-01Z'")).await;
    subject.store.system().refresh_followed(at(2)).await.unwrap();
    persist(subject, &[some_event(org, "a", at(3))], at(3)).await;
    assert_eq!(read(subject, org, &mut cursor, 1).await.len(), 1);
}

async fn changes_of_concurrent_batches_are_all_read(subject: &Subject) {
    let org = add_org(subject).await;
    let mut cursor = follow(subject, org, at(0)).await;
    let batches: Vec<Vec<_>> =
        (0..8).map(|_| (0..20).map(|_| some_event(org, "a", at(1))).collect()).collect();
    let storing =
        futures_util::future::join_all(batches.iter().map(|batch| persist(subject, batch, at(1))));
    let (_, found) = tokio::join!(storing, read(subject, org, &mut cursor, 160));
    let distinct: std::collections::HashSet<_> = found.iter().map(|(_, id)| *id).collect();
    assert_eq!((found.len(), distinct.len()), (160, 160));
}

/// An acknowledged event of an inbox, a delivery that expires, and an event that the store refuses.
async fn ends_without_an_attempt_are_logged(subject: &Subject) {
    let org = add_org(subject).await;
    let store = &subject.store;
    let endpoint = NewEndpoint::inbox().into_endpoint(org, at(0)).unwrap();
    store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    let InboxLookup::Found(inbox) = store.inbox(org, Some(endpoint.id)).await.unwrap() else {
        panic!("there is an inbox");
    };
    let event = some_event(org, "a", at(1));
    persist(subject, std::slice::from_ref(&event), at(1)).await;
    let until = at(60);
    let token = LeaseToken::mint(InstanceId::OF_INBOXES);
    let request = ReceiveRequest {
        inbox: &inbox,
        events_max: 10,
        bytes_max: 1_000,
        event_type: None,
        lease: Lease { token, until },
        now: at(2),
    };
    let received = store.receive(org, request).await.unwrap().events;
    let mut cursor = follow(subject, org, at(2)).await;
    let settles = [InboxSettle { org, inbox: inbox.id, event: event.id }];
    store.system().settle(&settles, at(3)).await.unwrap();
    let acked = received[0].delivery_id.uuid();
    assert_eq!(read(subject, org, &mut cursor, 1).await, [(ChangeKind::Delivery, acked)]);

    let refused = some_event(org, "b", at(4));
    // The second time changes nothing.
    for _ in 0..2 {
        store.quarantine_event(org, refused.id, b"record", "why", at(4)).await.unwrap();
    }
    let letter = refused.id.uuid();
    assert_eq!(read(subject, org, &mut cursor, 1).await, [(ChangeKind::DeadLetter, letter)]);
    assert_eq!(store.dead_letters_by_id(org, vec![letter]).await.unwrap().len(), 1);

    add_endpoint(subject, org, "c").await;
    let gone = some_event(org, "c", at(5));
    persist(subject, std::slice::from_ref(&gone), at(5)).await;
    subject.raw("DELETE FROM events", "DELETE FROM events").await;
    assert!(claim(subject, 10, at(6)).await.is_empty());
    let found = read(subject, org, &mut cursor, 3).await;
    let [(ChangeKind::Event, _), (ChangeKind::Delivery, expired), (ChangeKind::DeadLetter, dead)] =
        found[..]
    else {
        panic!("{found:?}");
    };
    assert_eq!(expired, dead);
}

/// Short transactions without an end, for which SQLite cuts batches of outcomes into several transactions.
async fn short_transactions(subject: &Subject, org: OrgId) {
    loop {
        subject.store.follow_changes(org, at(2)).await.unwrap();
    }
}

async fn outcomes_are_recorded_by_the_time_their_changes_are_read(subject: &Subject) {
    const DELIVERIES: usize = 500;
    const CHANGES_AT_ONCE: usize = 200;
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events: Vec<_> = (0..DELIVERIES).map(|_| some_event(org, "a", at(1))).collect();
    persist(subject, &events, at(1)).await;
    let leased = claim(subject, DELIVERIES, at(2)).await;
    assert_eq!(leased.len(), DELIVERIES);
    let outcomes: Vec<_> = leased.iter().map(|leased| outcome(leased, EXHAUSTED, at(3))).collect();
    let mut cursor = follow(subject, org, at(2)).await;
    let store = &subject.store;
    let recording = async { store.system().record_outcomes(&outcomes).await.unwrap() };
    let following = async {
        let (mut deliveries, mut letters) = (0, 0);
        until("every change is read", async || {
            let mut changes = store.changes_after(org, cursor, at(3)).await.unwrap();
            changes.truncate(CHANGES_AT_ONCE);
            cursor = changes.last().map_or(cursor, |(last, _)| *last);
            let (ended, dead): (Vec<_>, Vec<_>) =
                changes.iter().partition(|(_, change)| change.kind == ChangeKind::Delivery);
            let ids: Vec<_> =
                ended.iter().map(|(_, change)| DeliveryId::from_uuid(change.id)).collect();
            let found = store.deliveries_by_id(org, &ids).await.unwrap();
            assert_eq!(found.len(), ids.len());
            assert!(found.iter().all(|delivery| delivery.status == DeliveryStatus::Dead));
            let ids: Vec<_> = dead.iter().map(|(_, change)| change.id).collect();
            let found = store.dead_letters_by_id(org, ids.clone()).await.unwrap();
            assert_eq!(found.len(), ids.len());
            deliveries += ended.len();
            letters += dead.len();
            (deliveries, letters) == (DELIVERIES, DELIVERIES)
        })
        .await;
    };
    let others = futures_util::future::join_all((0..2).map(|_| short_transactions(subject, org)));
    tokio::select! {
        _ = others => unreachable!("they have no end"),
        (counted, ()) = async { tokio::join!(recording, following) } => {
            assert_eq!(counted, DELIVERIES);
        }
    }
}
