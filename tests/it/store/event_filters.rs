//! Every filter of events, every pair of filters, and both orders; and what such tests of all lists share.

use hookgate::domain::{Event, EventFilter, EventId, ListOrder, Timestamp, TraceFilter, TraceId};

use super::fixtures::{FIRST_PAGE, add_org, at, persist, some_event, walk_in};
use super::{Subject, on_both};

on_both!(
    events_are_found_by_their_trace,
    every_pair_of_filters_of_events_lists_what_a_plain_filter_does,
);

const DAY: i64 = 86_400;
pub(super) const ORDERS: [ListOrder; 2] = [ListOrder::NewestFirst, ListOrder::OldestFirst];

/// One filter: how it is set, and what passes it.
pub(super) struct Choice<F, R> {
    pub(super) name: String,
    pub(super) set: Box<dyn Fn(&mut F) + Send + Sync>,
    pub(super) passes: Box<dyn Fn(&R) -> bool + Send + Sync>,
}

pub(super) fn choice<F, R>(
    name: impl Into<String>,
    set: impl Fn(&mut F) + Send + Sync + 'static,
    passes: impl Fn(&R) -> bool + Send + Sync + 'static,
) -> Choice<F, R> {
    Choice { name: name.into(), set: Box::new(set), passes: Box::new(passes) }
}

/// Whether two choices are values of one filter.
pub(super) fn same_field(one: &str, other: &str) -> bool {
    const FIELDS: [&[&str]; 5] = [
        &["Pending", "Delivered", "Dead", "Cancelled"],
        &["few.a", "few.*", "many.*", "other", "never", "never.*", "*", "many.7"],
        &["status", "timeout", "dns"],
        &["500", "404", "410", "599"],
        &["exhausted", "gone"],
    ];
    let in_one = |name: &str| FIELDS.iter().position(|names| names.contains(&name));
    // Ids of endpoints and of events: two of a kind differ in no other way.
    let is_id = |name: &str| name.len() == 36;
    match (in_one(one), in_one(other)) {
        (Some(one), Some(other)) => one == other,
        _ => is_id(one) && is_id(other) && one != other && ids_of_a_kind(one, other),
    }
}

/// Endpoints are made before all events.
fn ids_of_a_kind(one: &str, other: &str) -> bool {
    let is_endpoint = |id: &str| id.parse::<EventId>().unwrap().minted_at() == Some(at(0));
    is_endpoint(one) == is_endpoint(other)
}

async fn events_are_found_by_their_trace(subject: &Subject) {
    let org = add_org(subject).await;
    let other = add_org(subject).await;
    let minted = TraceId::mint_at(at(100));
    let given: TraceId = "4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap();
    let named = TraceId::from_header("demo-123", Some(given.clone())).unwrap();
    let derived = TraceId::from_header("demo-456", None).unwrap();
    let millis = std::time::Duration::from_millis(40);
    let of = |trace_id: &TraceId, received_at: Timestamp| Event {
        trace_id: trace_id.clone(),
        ..some_event(org, "a.b", received_at)
    };
    let events = [
        of(&minted, at(100)),
        of(&minted, at(100).plus(millis)),
        // A caller has used the server's id again.
        of(&minted, at(50 * DAY)),
        of(&given, at(90)),
        of(&given, at(60 * DAY)),
        of(&named, at(110)),
        of(&derived, at(120)),
        of(&TraceId::mint_at(at(100)), at(100)),
    ];
    persist(subject, &events, at(61 * DAY)).await;
    let theirs = Event { org_id: other, ..of(&given, at(91)) };
    persist(subject, &[theirs], at(61 * DAY)).await;
    let digits = |trace: &TraceId| TraceFilter::Id(TraceId::from_bytes(*trace.bytes()));
    let cases: [(TraceFilter, &[usize]); 6] = [
        (digits(&minted), &[2, 1, 0]),
        (digits(&given), &[4, 5, 3]),
        (TraceFilter::Text("demo-123".to_owned()), &[5]),
        (TraceFilter::Text("demo-456".to_owned()), &[6]),
        (digits(&derived), &[6]),
        (digits(&TraceId::mint()), &[]),
    ];
    for (trace, expected) in cases {
        for order in ORDERS {
            let mut expected: Vec<_> = expected.iter().map(|index| events[*index].id).collect();
            if order == ListOrder::OldestFirst {
                expected.reverse();
            }
            let filter = EventFilter { trace: Some(trace.clone()), ..EventFilter::default() };
            for limit in [1, 100] {
                let list = async |p| subject.store.events(org, &filter, p).await;
                let seen: Vec<_> =
                    walk_in(order, limit, list).await.iter().map(|event| event.id).collect();
                assert_eq!(seen, expected, "{filter:?}");
            }
            let event_type = Some("a.*".parse().unwrap());
            let both = EventFilter { event_type, ..filter.clone() };
            let seen = subject.store.events(org, &both, FIRST_PAGE).await.unwrap();
            assert_eq!(seen.data.len(), expected.len(), "{both:?}");
        }
    }
    let read = subject.store.event(org, events[3].id).await.unwrap().unwrap();
    assert_eq!(read, events[3], "the mark is not shown");
}

async fn every_pair_of_filters_of_events_lists_what_a_plain_filter_does(subject: &Subject) {
    let org = add_org(subject).await;
    for week in 0..5 {
        subject.store.system().maintain(at(week * 7 * DAY)).await.unwrap();
    }
    let event = |number: i64| Event {
        account_id: (number % 3 > 0).then(|| format!("a{}", number % 3)),
        user_id: (number % 5 > 0).then(|| format!("u{}", number % 5)),
        trace_id: TraceId::from_header(&format!("t{}", number % 4), None).unwrap(),
        ..some_event(
            org,
            ["few.a", "few.b", "other"][usize::try_from(number % 3).unwrap()],
            at(number / 2 * DAY / 3 + 5),
        )
    };
    let events: Vec<Event> = (0..180).map(event).collect();
    persist(subject, &events, at(31 * DAY)).await;
    let mut choices: Vec<Choice<EventFilter, Event>> = vec![choice("all", |_| {}, |_| true)];
    for event_type in ["few.a", "few.*", "never"] {
        let wanted: hookgate::domain::EventTypeFilter = event_type.parse().unwrap();
        let same = wanted.clone();
        choices.push(choice(
            event_type,
            move |filter: &mut EventFilter| filter.event_type = Some(wanted.clone()),
            move |event: &Event| same.matches(event.event_type.as_str()),
        ));
    }
    for account in ["a1", "none"] {
        choices.push(choice(
            "account",
            move |filter: &mut EventFilter| filter.account_id = Some(account.to_owned()),
            move |event: &Event| event.account_id.as_deref() == Some(account),
        ));
    }
    choices.push(choice(
        "user",
        |filter: &mut EventFilter| filter.user_id = Some("u2".to_owned()),
        |event: &Event| event.user_id.as_deref() == Some("u2"),
    ));
    choices.push(choice(
        "trace",
        |filter: &mut EventFilter| filter.trace = Some("t3".parse().unwrap()),
        |event: &Event| event.trace_id.text() == Some("t3"),
    ));
    choices.push(choice(
        "between",
        |filter: &mut EventFilter| {
            (filter.since, filter.until) = (Some(at(7 * DAY)), Some(at(20 * DAY + 5)));
        },
        |event: &Event| (at(7 * DAY)..at(20 * DAY + 5)).contains(&event.received_at),
    ));
    for (number, one) in choices.iter().enumerate() {
        for other in &choices[number..] {
            for order in ORDERS {
                let mut filter = EventFilter::default();
                (one.set)(&mut filter);
                (other.set)(&mut filter);
                let is_same = same_field(&one.name, &other.name) || one.name == other.name;
                let passes =
                    |event: &&Event| (is_same || (one.passes)(event)) && (other.passes)(event);
                let mut expected: Vec<_> = events
                    .iter()
                    .filter(passes)
                    .map(|event| (event.received_at, event.id))
                    .collect();
                expected.sort_unstable();
                if order == ListOrder::NewestFirst {
                    expected.reverse();
                }
                let list = async |p| subject.store.events(org, &filter, p).await;
                let seen = walk_in(order, 17, list).await;
                let seen: Vec<_> = seen.iter().map(|event| (event.received_at, event.id)).collect();
                assert_eq!(seen, expected, "{} + {} {order:?}", one.name, other.name);
            }
        }
    }
}
