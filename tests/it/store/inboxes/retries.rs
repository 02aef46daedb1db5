//! Retries by hand of what is in an inbox.

use hookgate::domain::{Actor, DeliveryFilter, DeliveryId, OrgId};
use hookgate::store::DeliveryRefusal;

use super::super::fixtures::{FIRST_PAGE, at};
use super::{Subject, ids, on_both, org_with_events, receive, request};

on_both!(received_event_is_left_alone_until_it_is_due);

async fn retry(
    subject: &Subject,
    org: OrgId,
    id: DeliveryId,
    seconds: i64,
) -> Option<DeliveryRefusal> {
    subject.store.retry_delivery(org, id, &Actor::CLI, at(seconds)).await.unwrap().err()
}

async fn received_event_is_left_alone_until_it_is_due(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 1).await;
    let filter = DeliveryFilter { endpoint_id: Some(inbox.id), ..DeliveryFilter::default() };
    let listed = subject.store.deliveries(org, &filter, FIRST_PAGE).await.unwrap();
    let delivery = listed.data[0].id;
    assert_eq!(retry(subject, org, delivery, 5).await, None, "nobody has received it");

    let in_flight = Some(DeliveryRefusal::InProgress);
    assert_eq!(ids(&receive(subject, org, &inbox, 10).await), events);
    assert_eq!(retry(subject, org, delivery, 11).await, in_flight);
    assert!(receive(subject, org, &inbox, 12).await.is_empty(), "one consumer has it");

    let request = request(&inbox, at(20));
    subject.store.give_back(org, request, &events, at(50)).await.unwrap();
    assert_eq!(retry(subject, org, delivery, 30).await, in_flight, "it is given back for later");
    assert!(receive(subject, org, &inbox, 49).await.is_empty());
    assert_eq!(retry(subject, org, delivery, 50).await, None);
    assert_eq!(ids(&receive(subject, org, &inbox, 50).await), events);
}
