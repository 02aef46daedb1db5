//! Every filter of a list, every pair of filters, and both orders, against a plain computation over what was stored.

use hookgate::domain::{
    Actor, Attempt, DeadLetterFilter, DeadReason, Decision, DeliveryFilter, DeliveryId,
    DeliveryStatus, EndpointId, ErrorClass, Event, EventFilter, EventId, HeldBy, LeasedDelivery,
    ListOrder, OrgId, Outcome, Timestamp, TraceFilter, TraceId,
};

use super::fixtures::{
    ALL_LETTERS, FIRST_PAGE, add_endpoint, add_org, at, claim, outcome, persist, some_event, walk,
};
use super::{Subject, on_both};

on_both!(
    every_pair_of_filters_of_deliveries_lists_what_a_plain_filter_does,
    every_pair_of_filters_of_dead_letters_lists_what_a_plain_filter_does,
    events_are_found_by_their_trace,
    every_pair_of_filters_of_events_lists_what_a_plain_filter_does,
    delivery_tells_what_failed_and_why,
    attempts_of_an_endpoint_are_those_of_its_deliveries,
);

const DAY: i64 = 86_400;
const EVENTS: i64 = 240;
const ORDERS: [ListOrder; 2] = [ListOrder::NewestFirst, ListOrder::OldestFirst];

/// A delivery as it must be listed.
#[derive(Clone, Debug)]
struct Known {
    id: DeliveryId,
    event_id: EventId,
    endpoint_id: EndpointId,
    event_type: String,
    status: DeliveryStatus,
    error_class: Option<ErrorClass>,
    status_code: Option<u16>,
    held_by: Option<HeldBy>,
    reason: Option<DeadReason>,
    dead_at: Timestamp,
}

struct World {
    org: OrgId,
    all: EndpointId,
    few: EndpointId,
    known: Vec<Known>,
}

/// What an attempt comes to: its status, its class of error and what follows.
fn attempt(number: u32, code: Option<u16>, class: Option<ErrorClass>, now: Timestamp) -> Attempt {
    let error = class.map(|class| format!("failed: {class}"));
    let (started_at, duration_ms) = (now, 7);
    let response_excerpt = None;
    Attempt {
        number,
        started_at,
        duration_ms,
        status_code: code,
        error_class: class,
        error,
        response_excerpt,
    }
}

/// Records what becomes of the delivery with this number, and returns how it must be listed.
fn decide(leased: &LeasedDelivery, number: usize, now: Timestamp) -> (Option<Outcome>, Known) {
    use DeliveryStatus::{Dead, Delivered, Pending};
    let again = Decision::RetryAt(now.plus(std::time::Duration::from_hours(24_000)));
    let gone = Decision::Dead(DeadReason::Gone);
    let exhausted = Decision::Dead(DeadReason::Exhausted);
    let (status_class, timeout) = (Some(ErrorClass::Status), Some(ErrorClass::Timeout));
    let (made, decision, status, class, code) = match number % 8 {
        0 | 1 => (true, Decision::Delivered, Delivered, None, Some(204)),
        2 => (true, again, Pending, status_class, Some(500)),
        3 => (true, exhausted, Dead, status_class, Some(404)),
        4 => (true, exhausted, Dead, timeout, None),
        5 => (true, again, Pending, timeout, None),
        6 => (true, gone, Dead, status_class, Some(410)),
        _ => (false, again, Pending, None, None),
    };
    let reason = match &decision {
        Decision::Dead(reason) => Some(*reason),
        _ => None,
    };
    let made = made.then(|| attempt(leased.attempts + 1, code, class, now));
    let known = Known {
        id: leased.id,
        event_id: leased.event.id,
        endpoint_id: leased.endpoint.id,
        event_type: leased.event.event_type.as_str().to_owned(),
        status,
        error_class: class,
        status_code: code,
        held_by: None,
        reason,
        dead_at: now,
    };
    if number % 11 == 10 {
        let held_by = Some(HeldBy::InFlight);
        let (error_class, status_code) = (None, None);
        let status = Pending;
        return (None, Known { status, error_class, status_code, held_by, reason: None, ..known });
    }
    (Some(Outcome { attempt: made, ..outcome(leased, decision, now) }), known)
}

/// Deliveries over thirty days in every state, some redelivered and some cancelled.
async fn world(subject: &Subject) -> World {
    let org = add_org(subject).await;
    for week in 0..5 {
        subject.store.system().maintain(at(week * 7 * DAY)).await.unwrap();
    }
    let all = add_endpoint(subject, org, "*").await.id;
    let few = add_endpoint(subject, org, "few.*").await.id;
    let other = add_org(subject).await;
    add_endpoint(subject, other, "*").await;
    let event_type = |number: i64| match number % 4 {
        0 => format!("many.{}", number % 100),
        1 => "few.a".to_owned(),
        2 => "few.b".to_owned(),
        _ => "other".to_owned(),
    };
    // Two in a moment.
    let event = |number: i64| {
        some_event(org, &event_type(number), at(number / 2 * 2 * 30 * DAY / EVENTS + 5))
    };
    let events: Vec<Event> = (0..EVENTS).map(event).collect();
    let now = at(31 * DAY);
    persist(subject, &events, at(0)).await;
    persist(subject, &[some_event(other, "few.a", at(5))], at(31 * DAY)).await;
    let mut known = Vec::new();
    for round in 0..4 {
        let leased = claim(subject, 60, at(30 * DAY)).await;
        let decided: Vec<_> = leased
            .iter()
            .filter(|leased| leased.event.org_id == org)
            .enumerate()
            .map(|(number, leased)| decide(leased, number + round, now))
            .collect();
        let (outcomes, more): (Vec<_>, Vec<_>) = decided.into_iter().unzip();
        let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        subject.store.system().record_outcomes(&outcomes).await.unwrap();
        known.extend(more);
    }
    // Those that nobody claimed.
    let seen = walk(100, async |p| subject.store.deliveries(org, &all_deliveries(), p).await).await;
    for row in seen {
        if known.iter().all(|known| known.id != row.id) {
            let event = events.iter().find(|event| event.id == row.event_id).unwrap();
            known.push(Known {
                id: row.id,
                event_id: row.event_id,
                endpoint_id: row.endpoint_id,
                event_type: event.event_type.as_str().to_owned(),
                status: DeliveryStatus::Pending,
                error_class: None,
                status_code: None,
                held_by: None,
                reason: None,
                dead_at: now,
            });
        }
    }
    cancel_and_redeliver(subject, org, &mut known).await;
    World { org, all, few, known }
}

fn all_deliveries() -> DeliveryFilter {
    DeliveryFilter::default()
}

/// Cancels every seventh pending delivery and repeats every fifth dead one.
async fn cancel_and_redeliver(subject: &Subject, org: OrgId, known: &mut Vec<Known>) {
    let now = at(32 * DAY);
    let is_waiting =
        |known: &&mut Known| known.status == DeliveryStatus::Pending && known.held_by.is_none();
    for cancelled in known.iter_mut().filter(is_waiting).step_by(7) {
        let id = cancelled.id;
        subject.store.cancel_delivery(org, id, &Actor::CLI, now).await.unwrap().unwrap();
        cancelled.status = DeliveryStatus::Cancelled;
    }
    let dead = known.iter().filter(|known| known.status == DeliveryStatus::Dead).step_by(5);
    let mut repeated = Vec::new();
    for dead in dead {
        let new = subject.store.replay_delivery(org, dead.id, &Actor::CLI, now).await.unwrap();
        let new = new.unwrap();
        assert_eq!(new.event_type.as_deref(), Some(dead.event_type.as_str()));
        repeated.push(Known {
            id: new.id,
            status: DeliveryStatus::Pending,
            error_class: None,
            status_code: None,
            reason: None,
            ..dead.clone()
        });
    }
    assert!(!repeated.is_empty());
    known.extend(repeated);
}

/// One filter: how it is set, and what passes it.
struct Choice<F, R> {
    name: String,
    set: Box<dyn Fn(&mut F) + Send + Sync>,
    passes: Box<dyn Fn(&R) -> bool + Send + Sync>,
}

fn choice<F, R>(
    name: impl Into<String>,
    set: impl Fn(&mut F) + Send + Sync + 'static,
    passes: impl Fn(&R) -> bool + Send + Sync + 'static,
) -> Choice<F, R> {
    Choice { name: name.into(), set: Box::new(set), passes: Box::new(passes) }
}

fn delivery_choices(world: &World) -> Vec<Choice<DeliveryFilter, Known>> {
    use DeliveryStatus::{Cancelled, Dead, Delivered, Pending};
    let mut all = vec![choice("all", |_| {}, |_| true)];
    for status in [Pending, Delivered, Dead, Cancelled] {
        all.push(choice(
            format!("{status:?}"),
            move |filter: &mut DeliveryFilter| filter.status = Some(status),
            move |known: &Known| known.status == status,
        ));
    }
    for endpoint in [world.all, world.few] {
        all.push(choice(
            format!("{endpoint}"),
            move |filter: &mut DeliveryFilter| filter.endpoint_id = Some(endpoint),
            move |known: &Known| known.endpoint_id == endpoint,
        ));
    }
    let repeated = world.known.last().unwrap().event_id;
    for event in [world.known[0].event_id, repeated] {
        all.push(choice(
            format!("{event}"),
            move |filter: &mut DeliveryFilter| filter.event_id = Some(event),
            move |known: &Known| known.event_id == event,
        ));
    }
    for event_type in ["few.a", "few.*", "many.*", "other", "never", "never.*", "*"] {
        let wanted: hookgate::domain::EventTypeFilter = event_type.parse().unwrap();
        let same = wanted.clone();
        all.push(choice(
            event_type,
            move |filter: &mut DeliveryFilter| filter.event_type = Some(wanted.clone()),
            move |known: &Known| same.matches(&known.event_type),
        ));
    }
    for class in [ErrorClass::Status, ErrorClass::Timeout, ErrorClass::Dns] {
        all.push(choice(
            class.as_str(),
            move |filter: &mut DeliveryFilter| filter.error_class = Some(class),
            move |known: &Known| known.error_class == Some(class),
        ));
    }
    for code in [500, 404, 599] {
        all.push(choice(
            format!("{code}"),
            move |filter: &mut DeliveryFilter| filter.status_code = Some(code),
            move |known: &Known| known.status_code == Some(code) && known.error_class.is_some(),
        ));
    }
    all.push(choice(
        "between",
        |filter: &mut DeliveryFilter| {
            (filter.since, filter.until) = (Some(at(7 * DAY + 5)), Some(at(20 * DAY)));
        },
        |known: &Known| (at(7 * DAY + 5)..at(20 * DAY)).contains(&known.id.created_at()),
    ));
    all
}

async fn every_pair_of_filters_of_deliveries_lists_what_a_plain_filter_does(subject: &Subject) {
    let world = world(subject).await;
    let choices = delivery_choices(&world);
    for (number, one) in choices.iter().enumerate() {
        for other in &choices[number..] {
            for order in ORDERS {
                let mut filter = DeliveryFilter { order, ..all_deliveries() };
                (one.set)(&mut filter);
                (other.set)(&mut filter);
                let passes = |known: &&Known| {
                    // Of two values of one filter the later one holds.
                    let both =
                        if same_field(&one.name, &other.name) { true } else { (one.passes)(known) };
                    both && (other.passes)(known)
                };
                let mut expected: Vec<_> = world
                    .known
                    .iter()
                    .filter(passes)
                    .map(|known| (known.id.created_at(), known.id))
                    .collect();
                expected.sort_unstable();
                if order == ListOrder::NewestFirst {
                    expected.reverse();
                }
                let list = async |p| subject.store.deliveries(world.org, &filter, p).await;
                let seen = walk(23, list).await;
                let seen: Vec<_> = seen.iter().map(|row| (row.created_at, row.id)).collect();
                assert_eq!(seen, expected, "{} + {} {order:?}", one.name, other.name);
            }
        }
    }
}

/// Whether two choices are values of one filter.
fn same_field(one: &str, other: &str) -> bool {
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

async fn every_pair_of_filters_of_dead_letters_lists_what_a_plain_filter_does(subject: &Subject) {
    let world = world(subject).await;
    let dead: Vec<Known> =
        world.known.iter().filter(|known| known.status == DeliveryStatus::Dead).cloned().collect();
    assert!(dead.len() > 30);
    let mut choices: Vec<Choice<DeadLetterFilter, Known>> = vec![choice("all", |_| {}, |_| true)];
    for class in [ErrorClass::Status, ErrorClass::Timeout, ErrorClass::Dns] {
        choices.push(choice(
            class.as_str(),
            move |filter: &mut DeadLetterFilter| filter.error_class = Some(class),
            move |known: &Known| known.error_class == Some(class),
        ));
    }
    for code in [404, 410, 599] {
        choices.push(choice(
            format!("{code}"),
            move |filter: &mut DeadLetterFilter| filter.status_code = Some(code),
            move |known: &Known| known.status_code == Some(code),
        ));
    }
    for reason in [DeadReason::Gone, DeadReason::Exhausted] {
        choices.push(choice(
            reason.as_str(),
            move |filter: &mut DeadLetterFilter| filter.reason = Some(reason),
            move |known: &Known| known.reason == Some(reason),
        ));
    }
    for event_type in ["few.a", "few.*", "never"] {
        let wanted: hookgate::domain::EventTypeFilter = event_type.parse().unwrap();
        let same = wanted.clone();
        choices.push(choice(
            event_type,
            move |filter: &mut DeadLetterFilter| filter.event_type = Some(wanted.clone()),
            move |known: &Known| same.matches(&known.event_type),
        ));
    }
    let few = world.few;
    choices.push(choice(
        format!("{few}"),
        move |filter: &mut DeadLetterFilter| filter.endpoint_id = Some(few),
        move |known: &Known| known.endpoint_id == few,
    ));
    for (number, one) in choices.iter().enumerate() {
        for other in &choices[number..] {
            for order in ORDERS {
                let mut filter = DeadLetterFilter { order, ..ALL_LETTERS };
                (one.set)(&mut filter);
                (other.set)(&mut filter);
                let passes = |known: &&Known| {
                    (same_field(&one.name, &other.name) || (one.passes)(known))
                        && (other.passes)(known)
                };
                let mut expected: Vec<_> = dead
                    .iter()
                    .filter(passes)
                    .map(|known| (known.dead_at, known.id.uuid()))
                    .collect();
                expected.sort_unstable();
                if order == ListOrder::NewestFirst {
                    expected.reverse();
                }
                let list = async |p| subject.store.dead_letters(world.org, &filter, p).await;
                let seen = walk(7, list).await;
                for letter in &seen {
                    let known = dead.iter().find(|known| known.id.uuid() == letter.id.uuid());
                    let known = known.unwrap();
                    assert_eq!(letter.event_type.as_ref(), Some(&known.event_type));
                    assert_eq!(
                        (letter.error_class, letter.attempt_count),
                        (known.error_class, Some(1))
                    );
                    assert_eq!(letter.endpoint_url.as_deref(), Some("https://example.com/hooks?…"));
                }
                let seen: Vec<_> =
                    seen.iter().map(|letter| (letter.created_at, letter.id.uuid())).collect();
                assert_eq!(seen, expected, "{} + {} {order:?}", one.name, other.name);
            }
        }
    }
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
            let filter =
                EventFilter { trace: Some(trace.clone()), order, ..EventFilter::default() };
            for limit in [1, 100] {
                let list = async |p| subject.store.events(org, &filter, p).await;
                let seen: Vec<_> = walk(limit, list).await.iter().map(|event| event.id).collect();
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
            ["few.a", "few.b", "other"][number.unsigned_abs() as usize % 3],
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
                let mut filter = EventFilter { order, ..EventFilter::default() };
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
                let seen = walk(17, list).await;
                let seen: Vec<_> = seen.iter().map(|event| (event.received_at, event.id)).collect();
                assert_eq!(seen, expected, "{} + {} {order:?}", one.name, other.name);
            }
        }
    }
}

async fn delivery_tells_what_failed_and_why(subject: &Subject) {
    let world = world(subject).await;
    let rows = walk(50, async |p| subject.store.deliveries(world.org, &all_deliveries(), p).await);
    let rows = rows.await;
    assert_eq!(rows.len(), world.known.len());
    for row in rows {
        let known = world.known.iter().find(|known| known.id == row.id).unwrap();
        assert_eq!(row.event_type.as_ref(), Some(&known.event_type));
        assert_eq!(row.endpoint_url.as_deref(), Some("https://example.com/hooks?…"));
        assert_eq!((row.status, row.held_by), (known.status, known.held_by), "{known:?}");
        assert_eq!(row.last.error_class, known.error_class, "{known:?}");
        assert_eq!(row.last.status_code, known.status_code, "{known:?}");
        assert_eq!(row.last.error, known.error_class.map(|class| format!("failed: {class}")));
        let one = subject.store.delivery(world.org, row.id).await.unwrap().unwrap();
        assert_eq!(format!("{one:?}"), format!("{row:?}"));
    }
}

async fn attempts_of_an_endpoint_are_those_of_its_deliveries(subject: &Subject) {
    let world = world(subject).await;
    for endpoint in [world.all, world.few] {
        for order in ORDERS {
            let endpoint_id = Some(endpoint);
            let filter = DeliveryFilter { endpoint_id, order, ..all_deliveries() };
            let mut expected = Vec::new();
            for row in
                walk(500, async |p| subject.store.deliveries(world.org, &filter, p).await).await
            {
                let mut made = subject.store.attempts(world.org, row.id).await.unwrap();
                assert_eq!(made.len(), row.attempts as usize);
                if order == ListOrder::NewestFirst {
                    made.reverse();
                }
                expected.extend(made.into_iter().map(|made| (row.id, made)));
            }
            assert!(expected.len() > 20);
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = hookgate::domain::PageRequest { limit: 10, after };
                let list = subject.store.endpoint_attempts(world.org, endpoint, &filter, page);
                let page = list.await.unwrap();
                seen.extend(page.data.into_iter().map(|made| (made.delivery_id, made.attempt)));
                after = page.next_cursor;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, expected);
        }
    }
}
