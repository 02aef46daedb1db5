//! Erasures: what they remove, what they leave, and what they keep from coming back.

use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{
    Actor, DeadLetterFilter, Decision, Erasure, ErasureStatus, ErasureSubject, Event, EventFilter,
    OrgId,
};
use hookgate::store::ErasureStep;

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, add_endpoint, add_org, at, claim, named_event, outcome,
    persist, some_event,
};
use super::{Subject, on_both};
use crate::support::wait::until;

on_both!(
    account_is_erased_from_every_table_and_others_are_left,
    event_is_erased_with_its_deliveries,
    event_of_a_server_whose_clock_is_ahead_is_erased,
    named_event_of_a_server_whose_clock_is_ahead_is_erased,
    what_outlived_an_event_is_erased,
    erased_events_do_not_come_back_out_of_a_journal,
    erasure_goes_on_after_each_step_that_was_lost,
    tombstones_are_deleted_in_the_end,
);

fn of_account(org: OrgId, account: &str, seconds: i64) -> Event {
    Event { account_id: Some(account.to_owned()), ..some_event(org, "a.b", at(seconds)) }
}

fn account(name: &str) -> ErasureSubject {
    ErasureSubject::Account(name.to_owned())
}

async fn request(subject: &Subject, org: OrgId, filter: ErasureSubject, seconds: i64) -> Erasure {
    let erasure = subject.store.insert_erasure(org, &filter, &Actor::CLI, at(seconds)).await;
    erasure.unwrap().unwrap()
}

/// Does every step; each dead letter of a refused event is erased.
async fn run(subject: &Subject) -> Option<Erasure> {
    let (system, mut ended) = (subject.store.system(), None);
    while let Some(step) = system.erase_step(at(1_000)).await.unwrap() {
        match step {
            ErasureStep::Continues => {}
            ErasureStep::Records(erasure, records) => {
                let ids = records.iter().map(|record| record.position.id).collect();
                let last = records.last().unwrap().position;
                system.erase_records(&erasure, ids, last, at(1_000)).await.unwrap();
            }
            ErasureStep::Ended(erasure) => ended = Some(erasure),
        }
    }
    ended
}

async fn count(subject: &Subject, table: &str) -> i64 {
    subject.count(&format!("SELECT count(*) FROM {table}")).await
}

async fn events_of(subject: &Subject, org: OrgId, account_id: &str) -> usize {
    let filter = EventFilter { account_id: Some(account_id.to_owned()), ..EventFilter::default() };
    subject.store.events(org, &filter, FIRST_PAGE).await.unwrap().data.len()
}

async fn account_is_erased_from_every_table_and_others_are_left(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    for org in [org, other] {
        add_endpoint(subject, org, "*").await;
        add_endpoint(subject, org, "*").await;
    }
    let store = &subject.store;
    let mut events = Vec::new();
    for number in 0..40 {
        events.push(of_account(org, "gone", number));
        events.push(of_account(org, "kept", number));
        events.push(of_account(other, "gone", number));
    }
    let named = Event { account_id: Some("gone".to_owned()), ..named_event(org, "d", at(3)) };
    events.push(named.clone());
    persist(subject, &events, at(50)).await;
    // Some are dead, with two attempts; others wait.
    for (now, decision) in [(50, Decision::RetryAt(at(60))), (60, EXHAUSTED)] {
        let leased = claim(subject, 100, at(now)).await;
        let outcomes: Vec<_> =
            leased.iter().map(|leased| outcome(leased, decision.clone(), at(now))).collect();
        store.system().record_outcomes(&outcomes).await.unwrap();
    }
    let refused = of_account(org, "gone", 5);
    store.quarantine_event(org, refused.id, b"record", "why", at(6)).await.unwrap();
    let erasure = request(subject, org, account("gone"), 100).await;
    assert_eq!((erasure.status, erasure.accepted_until), (ErasureStatus::Running, at(100)));

    let ended = run(subject).await.unwrap();
    assert_eq!(ended.status, ErasureStatus::Finished);
    assert_eq!((ended.events, ended.deliveries), (41, 82));
    assert_eq!(events_of(subject, org, "gone").await, 0);
    assert_eq!(events_of(subject, org, "kept").await, 40);
    assert_eq!(events_of(subject, other, "gone").await, 40);
    assert_eq!(count(subject, "dedup_keys").await, 0);
    let deliveries =
        count(subject, "deliveries").await + count(subject, "pending_deliveries").await;
    assert_eq!(deliveries, 160);
    for table in ["deliveries", "pending_deliveries", "dead_letters"] {
        let sql = format!(
            "SELECT count(*) FROM {table} d
             WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.id = d.event_id)"
        );
        assert_eq!(subject.count(&sql).await, 0, "{table}");
    }
    let stray = "SELECT count(*) FROM delivery_attempts a
         WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.id = a.delivery_id)
           AND NOT EXISTS (SELECT 1 FROM pending_deliveries d WHERE d.id = a.delivery_id)";
    assert_eq!(subject.count(stray).await, 0);
    let log = store.audit_log(org, FIRST_PAGE).await.unwrap().data;
    let actions: Vec<_> = log.iter().map(|entry| entry.action.as_str()).collect();
    assert!(actions.contains(&"erasure.create") && actions.contains(&"erasure.finish"));
    assert_eq!(store.erasures(other, FIRST_PAGE).await.unwrap().data.len(), 0);
    assert!(store.erasure(other, ended.id).await.unwrap().is_none());
}

async fn event_is_erased_with_its_deliveries(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let events = [some_event(org, "a.b", at(0)), some_event(org, "a.b", at(0))];
    persist(subject, &events, at(0)).await;
    let leased = claim(subject, 10, at(0)).await;
    let done: Vec<_> = leased.iter().map(|leased| outcome(leased, EXHAUSTED, at(0))).collect();
    let store = &subject.store;
    store.system().record_outcomes(&done).await.unwrap();
    // A redelivery that waits and one that is in flight when it is erased.
    for seconds in [10, 20] {
        let replay =
            store.replay_event(org, events[0].id, Some(endpoint.id), &Actor::CLI, at(seconds));
        replay.await.unwrap().unwrap();
    }
    let in_flight = claim(subject, 1, at(20)).await;
    request(subject, org, ErasureSubject::Event(events[0].id), 30).await;
    let ended = run(subject).await.unwrap();
    assert_eq!((ended.events, ended.deliveries, ended.dead_letters), (1, 3, 1));
    let late = outcome(&in_flight[0], EXHAUSTED, at(31));
    assert_eq!(store.system().record_outcomes(&[late]).await.unwrap(), 0);
    assert_eq!(store.event(org, events[0].id).await.unwrap(), None);
    assert_eq!(store.event(org, events[1].id).await.unwrap().as_ref(), Some(&events[1]));
    assert_eq!(count(subject, "pending_deliveries").await, 0);
    assert_eq!(count(subject, "deliveries").await, 1);
    assert_eq!(count(subject, "dead_letters").await, 1);
}

async fn what_outlived_an_event_is_erased(subject: &Subject) {
    const DAY: i64 = 86_400;
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let store = &subject.store;
    let fail = async |seconds: i64| {
        let leased = claim(subject, 10, at(seconds)).await;
        let done: Vec<_> =
            leased.iter().map(|leased| outcome(leased, EXHAUSTED, at(seconds))).collect();
        store.system().record_outcomes(&done).await.unwrap();
    };
    let events = [
        some_event(org, "a.b", at(0)),
        some_event(org, "a.b", at(1)),
        named_event(org, "d", at(2)),
    ];
    persist(subject, &events, at(2)).await;
    fail(2).await;
    for event in &events {
        let by = Actor::CLI;
        let replay = store.replay_event(org, event.id, Some(endpoint.id), &by, at(29 * DAY));
        replay.await.unwrap().unwrap();
    }
    fail(29 * DAY).await;
    // The events and what was planned with them go; what was created later stays.
    let days = |days: u64| Some(Duration::from_hours(24 * days));
    let config = RetentionConfig {
        retention: days(30),
        dead_letter_retention: days(365),
        ..RetentionConfig::default()
    };
    store.system().enforce_retention(&config, at(35 * DAY)).await.unwrap();
    assert_eq!(store.event(org, events[0].id).await.unwrap(), None);
    assert_eq!((count(subject, "deliveries").await, count(subject, "dead_letters").await), (3, 6));
    let attempts = count(subject, "delivery_attempts").await;
    for (event, left) in [(&events[0], 2), (&events[2], 1)] {
        let id = event.id.uuid();
        request(subject, org, ErasureSubject::Event(event.id), 36 * DAY).await;
        let ended = run(subject).await.unwrap();
        assert_eq!((ended.events, ended.deliveries, ended.dead_letters), (0, 1, 2), "{id}");
        assert_eq!(count(subject, "deliveries").await, left);
        assert_eq!(count(subject, "dead_letters").await, 2 * left);
        assert_eq!(count(subject, "delivery_attempts").await, attempts * left / 3);
    }
    let filter = DeadLetterFilter { event_id: Some(events[1].id), ..ALL_LETTERS };
    assert_eq!(store.dead_letters(org, &filter, FIRST_PAGE).await.unwrap().data.len(), 2);
}

async fn erased_events_do_not_come_back_out_of_a_journal(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    add_endpoint(subject, org, "*").await;
    let waiting = [
        of_account(org, "gone", 0),
        of_account(org, "kept", 0),
        of_account(other, "gone", 0),
        named_event(org, "named", at(0)),
    ];
    request(subject, org, account("gone"), 10).await;
    request(subject, org, ErasureSubject::Event(waiting[3].id), 10).await;
    // Twice, as a replay of the journal does it; with and without dedup ids.
    for part in [&waiting[..], &waiting[..], &waiting[..1]] {
        let persisted = persist(subject, part, at(20)).await;
        assert_eq!(persisted.stored + persisted.duplicates + persisted.dropped, part.len());
        assert_eq!(persisted.dropped, if part.len() == 1 { 1 } else { 2 });
    }
    assert_eq!(count(subject, "events").await, 2);
    assert_eq!(count(subject, "pending_deliveries").await, 1);
    // What is accepted afterwards is new.
    let new = [of_account(org, "gone", 11), named_event(org, "named", at(11))];
    assert_eq!(persist(subject, &new, at(20)).await.stored, 2);
    run(subject).await;
    assert_eq!(count(subject, "events").await, 4);
    assert_eq!(persist(subject, &new, at(20)).await.duplicates, 2);
}

async fn erasure_goes_on_after_each_step_that_was_lost(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events: Vec<Event> = (0..400).map(|number| of_account(org, "gone", number)).collect();
    persist(subject, &events, at(400)).await;
    let erasure = request(subject, org, account("gone"), 500).await;
    for span in 0..40 {
        let step = subject.store.system().erase_step(at(600));
        drop(tokio::time::timeout(Duration::from_micros(span * 500), step).await);
    }
    // Another server ends it, if it has not ended yet.
    let another = subject.another().await;
    // The last step that was lost may hold the row until the database notices.
    until("the erasure has ended", async || {
        while another.system().erase_step(at(600)).await.unwrap().is_some() {}
        let erasure = subject.store.erasure(org, erasure.id).await.unwrap().unwrap();
        erasure.status == ErasureStatus::Finished
    })
    .await;
    let ended = subject.store.erasure(org, erasure.id).await.unwrap().unwrap();
    assert_eq!((ended.events, ended.deliveries), (400, 400));
    assert_eq!(count(subject, "events").await, 0);
    assert_eq!(count(subject, "pending_deliveries").await, 0);
}

async fn tombstones_are_deleted_in_the_end(subject: &Subject) {
    let org = add_org(subject).await;
    let event = of_account(org, "gone", 0);
    request(subject, org, account("gone"), 10).await;
    request(subject, org, account("more"), 20).await;
    run(subject).await;
    let system = subject.store.system();
    system.delete_tombstones(at(15)).await.unwrap();
    assert_eq!(count(subject, "erasure_tombstones").await, 1);
    assert_eq!(persist(subject, std::slice::from_ref(&event), at(20)).await.stored, 1);
    system.delete_tombstones(at(2_000)).await.unwrap();
    assert_eq!(count(subject, "erasure_tombstones").await, 0);
    assert_eq!(count(subject, "erasures").await, 0);
    let reached = "SELECT count(*) FROM orgs WHERE erased_until IS NOT NULL";
    assert_eq!(subject.count(reached).await, 0);
}

async fn event_of_a_server_whose_clock_is_ahead_is_erased(subject: &Subject) {
    let org = add_org(subject).await;
    let ahead = Duration::from_hours(1);
    let [first, later] = [0, 1].map(|number| some_event(org, "a.b", at(number).plus(ahead)));
    persist(subject, std::slice::from_ref(&first), at(0)).await;
    for event in [&first, &later] {
        request(subject, org, ErasureSubject::Event(event.id), 10).await;
    }
    // It waited in that server's journal.
    persist(subject, &[later], at(20)).await;
    run(subject).await;
    assert_eq!(count(subject, "events").await, 0);
}

/// Its id does not tell when it was accepted.
async fn named_event_of_a_server_whose_clock_is_ahead_is_erased(subject: &Subject) {
    let org = add_org(subject).await;
    let event = named_event(org, "order-1", at(0).plus(Duration::from_hours(1)));
    persist(subject, std::slice::from_ref(&event), at(0)).await;
    request(subject, org, ErasureSubject::Event(event.id), 10).await;
    run(subject).await;
    assert_eq!(count(subject, "events").await, 0);
}
