use std::sync::Arc;

use hookgate::domain::{
    Actor, Decision, DeliveryFilter, DeliveryPolicy, DeliveryPolicyChange, Endpoint,
    EndpointChange, EventId, InstanceId, LeasedDelivery, OrgId,
};
use tokio::task::JoinSet;

use super::fixtures::{
    EXHAUSTED, FIRST_PAGE, add_endpoint, add_org, at, claim, claim_from, outcome, persist,
    persist_events, room, some_endpoint, some_event,
};
use super::{Subject, on_both};

on_both!(
    of_ordered_deliveries_only_the_oldest_is_claimed,
    head_of_an_ordered_endpoint_holds_up_the_rest_until_it_is_settled,
    older_delivery_that_comes_back_waits_for_the_one_under_way_and_then_goes_first,
    ordered_deliveries_are_never_planned_leased,
    ordering_holds_for_what_is_planned_after_it_was_asked_for,
    claimers_at_once_keep_the_order,
    server_that_starts_again_lets_go_of_the_head_it_held,
    replay_to_an_ordered_endpoint_takes_its_events_place,
    what_is_asked_for_by_hand_is_leased_unless_an_order_is_to_be_kept,
);

async fn ordered_endpoint(subject: &Subject) -> (OrgId, Endpoint) {
    let org = add_org(subject).await;
    let policy = DeliveryPolicy { ordered: true, ..DeliveryPolicy::default() };
    let endpoint = Endpoint { policy, ..some_endpoint(org, "*") };
    subject.store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    (org, endpoint)
}

/// Plans one delivery for each moment, all at `at(100)`.
async fn plan(subject: &Subject, org: OrgId, accepted_at: &[i64]) -> Vec<EventId> {
    let events: Vec<_> = accepted_at.iter().map(|s| some_event(org, "a.b", at(*s))).collect();
    persist(subject, &events, at(100)).await;
    events.iter().map(|event| event.id).collect()
}

async fn record(subject: &Subject, leased: &LeasedDelivery, decision: Decision, seconds: i64) {
    let outcome = outcome(leased, decision, at(seconds));
    assert_eq!(subject.store.system().record_outcomes(&[outcome]).await.unwrap(), 1);
}

async fn of_ordered_deliveries_only_the_oldest_is_claimed(subject: &Subject) {
    let (org, _) = ordered_endpoint(subject).await;
    // In the order in which they are stored, whatever their stamps are: a clock may have been set.
    let events = [plan(subject, org, &[30, 10]).await, plan(subject, org, &[20]).await].concat();
    for place in [0, 1, 2] {
        let claimed = claim(subject, 10, at(100)).await;
        assert_eq!(claimed.iter().map(|l| l.event.id).collect::<Vec<_>>(), [events[place]]);
        assert_eq!(claim(subject, 10, at(100)).await.len(), 0, "one at a time");
        record(subject, &claimed[0], Decision::Delivered, 101).await;
    }
}

async fn head_of_an_ordered_endpoint_holds_up_the_rest_until_it_is_settled(subject: &Subject) {
    let (org, endpoint) = ordered_endpoint(subject).await;
    let events = plan(subject, org, &[10, 20, 30]).await;
    let head = claim(subject, 10, at(100)).await.remove(0);
    record(subject, &head, Decision::RetryAt(at(200)), 101).await;
    assert_eq!(claim(subject, 10, at(199)).await.len(), 0);
    let again = claim(subject, 10, at(200)).await.remove(0);
    assert_eq!((again.event.id, again.attempts), (events[0], 1));
    record(subject, &again, EXHAUSTED, 201).await;
    // A lease that lapses is the head's again.
    assert_eq!(claim(subject, 10, at(201)).await[0].event.id, events[1]);
    assert_eq!(claim(subject, 10, at(260)).await.len(), 0);
    assert_eq!(claim(subject, 10, at(261)).await[0].event.id, events[1]);
    // Parked together, due together, and still in order.
    let switch = |reason: Option<&str>| EndpointChange {
        disabled_reason: Some(reason.map(str::to_owned)),
        ..EndpointChange::default()
    };
    let store = &subject.store;
    store
        .update_endpoint(org, endpoint.id, &switch(Some("x")), &Actor::CLI, at(300))
        .await
        .unwrap();
    assert_eq!(claim(subject, 10, at(400)).await.len(), 0);
    store.update_endpoint(org, endpoint.id, &switch(None), &Actor::CLI, at(500)).await.unwrap();
    let next = claim(subject, 10, at(500)).await.remove(0);
    assert_eq!(next.event.id, events[1]);
    record(subject, &next, Decision::Delivered, 501).await;
    assert_eq!(claim(subject, 10, at(501)).await[0].event.id, events[2]);
}

async fn older_delivery_that_comes_back_waits_for_the_one_under_way_and_then_goes_first(
    subject: &Subject,
) {
    let (org, _) = ordered_endpoint(subject).await;
    let events = plan(subject, org, &[10, 20, 30]).await;
    let first = claim(subject, 10, at(100)).await.remove(0);
    record(subject, &first, EXHAUSTED, 101).await;
    let second = claim(subject, 10, at(102)).await.remove(0);
    subject.store.retry_delivery(org, first.id, &Actor::CLI, at(103)).await.unwrap().unwrap();
    assert_eq!(claim(subject, 10, at(104)).await.len(), 0, "one is in flight");
    record(subject, &second, Decision::Delivered, 105).await;
    assert_eq!(claim(subject, 10, at(106)).await[0].event.id, events[0]);
}

async fn ordered_deliveries_are_never_planned_leased(subject: &Subject) {
    let (org, _) = ordered_endpoint(subject).await;
    let (shut, open) =
        (add_endpoint(subject, org, "*").await, add_endpoint(subject, org, "*").await);
    let events: Vec<_> = (0..3).map(|s| Arc::new(some_event(org, "a.b", at(s)))).collect();
    let mut space = room(2, at(60));
    let except = [shut.id];
    space.except = &except;
    let store = &subject.store;
    let persisted = persist_events(store, &events, Some(space), at(5)).await.unwrap();
    assert_eq!((persisted.planned, persisted.leased.len()), (9, 2));
    assert!(persisted.leased.iter().all(|leased| leased.endpoint.id == open.id));
    assert_eq!(claim(subject, 10, at(5)).await.len(), 1 + 3 + 1, "the head and the unleased");
}

async fn ordering_holds_for_what_is_planned_after_it_was_asked_for(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let switch = async |ordered| {
        let policy =
            DeliveryPolicyChange { ordered: Some(ordered), ..DeliveryPolicyChange::default() };
        let change = EndpointChange { policy, ..EndpointChange::default() };
        let store = &subject.store;
        store.update_endpoint(org, endpoint.id, &change, &Actor::CLI, at(0)).await.unwrap().unwrap()
    };
    plan(subject, org, &[1, 2]).await;
    assert!(switch(true).await.policy.ordered);
    plan(subject, org, &[3, 4]).await;
    assert!(!switch(false).await.policy.ordered);
    plan(subject, org, &[5, 6]).await;
    assert_eq!(claim(subject, 10, at(100)).await.len(), 6, "no order is left to keep");
}

async fn server_that_starts_again_lets_go_of_the_head_it_held(subject: &Subject) {
    let (org, _) = ordered_endpoint(subject).await;
    let events = plan(subject, org, &[10, 20]).await;
    assert_eq!(claim(subject, 10, at(100)).await.len(), 1);
    let instance = InstanceId::new(1);
    assert_eq!(subject.store.system().release_leases(instance, at(101)).await.unwrap(), 1);
    assert_eq!(claim(subject, 10, at(101)).await[0].event.id, events[0]);
}

async fn replay_to_an_ordered_endpoint_takes_its_events_place(subject: &Subject) {
    let (org, _) = ordered_endpoint(subject).await;
    let events = plan(subject, org, &[10, 20, 30]).await;
    let first = claim(subject, 10, at(100)).await.remove(0);
    record(subject, &first, Decision::Delivered, 101).await;
    let new =
        subject.store.replay_delivery(org, first.id, &Actor::CLI, at(102)).await.unwrap().unwrap();
    let next = claim(subject, 10, at(103)).await;
    assert_eq!(next.iter().map(|leased| leased.id).collect::<Vec<_>>(), [new.id]);
    record(subject, &next[0], Decision::Delivered, 104).await;
    subject
        .store
        .cancel_delivery(org, claim(subject, 10, at(105)).await[0].id, &Actor::CLI, at(106))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        claim(subject, 10, at(107)).await[0].event.id,
        events[2],
        "a cancelled head is gone"
    );
}

async fn claimers_at_once_keep_the_order(subject: &Subject) {
    let (org, _) = ordered_endpoint(subject).await;
    let events = plan(subject, org, &(0..40).collect::<Vec<_>>()).await;
    let mut claimers = JoinSet::new();
    let done = Arc::new(std::sync::Mutex::new(Vec::new()));
    for _ in 0..4 {
        let (store, done) = (subject.another().await, Arc::clone(&done));
        let count = events.len();
        claimers.spawn(async move {
            while done.lock().unwrap().len() < count {
                for leased in claim_from(&store, room(7, at(1_000)), &[], at(100)).await {
                    done.lock().unwrap().push(leased.event.id);
                    let outcome = outcome(&leased, Decision::Delivered, at(101));
                    store.system().record_outcomes(&[outcome]).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        });
    }
    while claimers.join_next().await.is_some() {}
    assert_eq!(*done.lock().unwrap(), events);
}

async fn what_is_asked_for_by_hand_is_leased_unless_an_order_is_to_be_kept(subject: &Subject) {
    let (org, endpoint) = ordered_endpoint(subject).await;
    plan(subject, org, &[10]).await;
    let store = &subject.store;
    let id =
        store.deliveries(org, &DeliveryFilter::default(), FIRST_PAGE).await.unwrap().data[0].id;
    let lease = room(1, at(200)).lease;
    let asked = || store.system().lease_delivery(org, id, lease, at(100));
    assert!(asked().await.unwrap().is_none());
    let policy = DeliveryPolicyChange { ordered: Some(false), ..DeliveryPolicyChange::default() };
    let change = EndpointChange { policy, ..EndpointChange::default() };
    store.update_endpoint(org, endpoint.id, &change, &Actor::CLI, at(101)).await.unwrap().unwrap();
    assert_eq!(asked().await.unwrap().unwrap().id, id, "no order is left to keep");
    assert!(asked().await.unwrap().is_none(), "it is leased");
}
