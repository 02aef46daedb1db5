//! Consumers that receive events of one type, or of types with a prefix.

use hookgate::domain::EventTypeFilter;
use hookgate::store::ReceiveRequest;

use super::super::fixtures::{add_org, at, persist, some_event};
use super::{Subject, add_inbox, on_both, receive_max, request};

on_both!(
    types_are_chosen_exactly_or_by_prefix,
    prefix_passes_over_what_is_in_flight,
    prefix_with_very_many_types_goes_on_behind_those_in_flight,
);

async fn types_are_chosen_exactly_or_by_prefix(subject: &Subject) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |_| ()).await;
    let types = ["user.login", "user.logout", "users", "user.login", "invoice.paid"];
    let events = types.map(|event_type| some_event(org, event_type, at(0)));
    persist(subject, &events, at(0)).await;
    let receive = async |filter: &str| {
        let filter: EventTypeFilter = filter.parse().unwrap();
        let request = ReceiveRequest { event_type: Some(&filter), ..request(&inbox, at(1)) };
        let received = subject.store.receive(org, request).await.unwrap().events;
        let types = received.iter().map(|received| received.event.event_type.as_str().to_owned());
        types.collect::<Vec<_>>()
    };
    assert_eq!(receive("user.login").await, ["user.login"; 2]);
    assert_eq!(receive("user.login").await.len(), 0);
    assert_eq!(receive("user.*").await, ["user.logout"]);
    assert_eq!(receive("none").await.len(), 0);
    assert_eq!(receive("*").await.len(), 2);
}

/// The types with a prefix are looked at one after the other, whatever is hidden of the first ones.
async fn prefix_passes_over_what_is_in_flight(subject: &Subject) {
    const HIDDEN: u32 = 3_000;
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |_| ()).await;
    for part in 0..HIDDEN / 500 {
        let times = part * 500..(part + 1) * 500;
        let events: Vec<_> =
            times.map(|seconds| some_event(org, "a.a", at(seconds.into()))).collect();
        persist(subject, &events, at(0)).await;
    }
    let hidden = receive_max(&subject.store, org, &inbox, 10_000, at(1)).await;
    assert_eq!(hidden.len(), HIDDEN as usize);
    persist(subject, &[some_event(org, "b", at(1)), some_event(org, "a.b", at(1))], at(1)).await;
    let filter: EventTypeFilter = "a.*".parse().unwrap();
    let (store, plans) = subject.store.measuring_plans();
    let request = ReceiveRequest { event_type: Some(&filter), ..request(&inbox, at(2)) };
    let received = store.receive(org, request).await.unwrap().events;
    let types: Vec<_> = received.iter().map(|one| one.event.event_type.as_str()).collect();
    assert_eq!(types, ["a.b"]);
    // SQLite tells what a look takes before it is a transaction.
    let instructions = plans
        .take()
        .iter()
        .find_map(|plan| plan.rsplit_once("instructions: ")?.1.trim().parse::<u32>().ok());
    assert!(instructions.is_none_or(|instructions| instructions < HIDDEN), "{instructions:?}");
}

/// A look goes through a thousand types. While something of each is in flight, those behind them come by their age.
async fn prefix_with_very_many_types_goes_on_behind_those_in_flight(subject: &Subject) {
    const TYPES: i64 = 1_100;
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |_| ()).await;
    let event = |number| some_event(org, &format!("a.{number:04}"), at(number));
    let events: Vec<_> = (0..TYPES).map(event).collect();
    for events in events.chunks(500) {
        persist(subject, events, at(0)).await;
    }
    persist(subject, &[some_event(org, "b", at(0))], at(0)).await;
    let filter: EventTypeFilter = "a.*".parse().unwrap();
    let receive = async |events_max: u32| {
        let request = request(&inbox, at(2 * TYPES));
        let request = ReceiveRequest {
            event_type: Some(&filter),
            events_max,
            bytes_max: usize::MAX >> 1,
            ..request
        };
        let received = subject.store.receive(org, request).await.unwrap().events;
        let types = received.iter().map(|one| one.event.event_type.as_str().to_owned());
        types.collect::<Vec<_>>()
    };
    let first = receive(2_000).await;
    assert_eq!((first.len(), first.last().unwrap().as_str()), (1_000, "a.0999"));
    assert_eq!(receive(2).await, ["a.1000", "a.1001"]);
    let rest = receive(2_000).await;
    assert_eq!((rest.len(), rest[0].as_str()), (98, "a.1002"));
    assert_eq!(receive(2_000).await.len(), 0);
}
