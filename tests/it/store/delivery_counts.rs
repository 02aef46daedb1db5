//! How many deliveries are not finished, by state.

use hookgate::store::DeliveryState;

use super::fixtures::{at, claim, org_with_deliveries, persist, some_event};
use super::{Subject, on_both};

on_both!(deliveries_are_counted_by_what_they_wait_for);

async fn deliveries_are_counted_by_what_they_wait_for(subject: &Subject) {
    let counts = async |now| {
        let mut counts = Vec::new();
        for state in DeliveryState::ALL {
            counts.push(subject.store.system().count_deliveries(state, at(now)).await.unwrap());
        }
        counts
    };
    assert_eq!(counts(0).await, [0; 6]);
    let (org, _) = org_with_deliveries(subject, 5).await;
    persist(subject, &[some_event(org, "a.b", at(0)), some_event(org, "a.b", at(0))], at(20)).await;
    // due, scheduled, ordered, leased, inbox, dead
    assert_eq!(counts(10).await, [5, 2, 0, 0, 0, 0]);
    assert_eq!(claim(subject, 3, at(10)).await.len(), 3);
    assert_eq!(counts(10).await, [2, 2, 0, 3, 0, 0]);
    let order = "UPDATE pending_deliveries SET ordered = true WHERE lease_token IS NULL";
    subject.raw(order, order).await;
    assert_eq!(counts(10).await, [0, 0, 4, 3, 0, 0]);
    let inbox = "UPDATE pending_deliveries SET ordered = false, event_type = 'a.b' WHERE ordered";
    subject.raw(inbox, inbox).await;
    assert_eq!(counts(10).await, [0, 0, 0, 3, 4, 0]);

    let event = some_event(org, "a.b", at(0));
    subject.store.quarantine_event(org, event.id, b"1", "why", at(1)).await.unwrap();
    assert_eq!(counts(10).await[5], 1);
    let replayed = "UPDATE dead_letters SET replayed_at = created_at";
    subject.raw(replayed, replayed).await;
    assert_eq!(counts(10).await[5], 0);
}
