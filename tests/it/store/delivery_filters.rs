//! Every filter of deliveries, every pair of filters, and both orders, against a plain computation over what was stored.

use hookgate::domain::{
    Actor, Attempt, DeadReason, Decision, DeliveryFilter, DeliveryId, DeliveryStatus,
    EndpointChange, EndpointId, ErrorClass, Event, EventId, HeldBy, LeasedDelivery, ListOrder,
    OrgId, Outcome, Timestamp,
};

use super::event_filters::{Choice, ORDERS, choice, same_field};
use super::fixtures::{
    add_endpoint, add_org, at, claim, outcome, persist, some_event, walk, walk_in,
};
use super::rollups::fold;
use super::{Subject, on_both};

on_both!(
    every_pair_of_filters_of_deliveries_lists_what_a_plain_filter_does,
    delivery_tells_what_failed_and_why,
    attempts_of_an_endpoint_are_those_of_its_deliveries,
);

const DAY: i64 = 86_400;
const EVENTS: i64 = 240;

/// A delivery as it must be listed.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) id: DeliveryId,
    pub(super) event_id: EventId,
    pub(super) endpoint_id: EndpointId,
    pub(super) event_type: String,
    pub(super) status: DeliveryStatus,
    pub(super) error_class: Option<ErrorClass>,
    pub(super) status_code: Option<u16>,
    pub(super) held_by: Option<HeldBy>,
    pub(super) reason: Option<DeadReason>,
    pub(super) dead_at: Timestamp,
}

pub(super) struct World {
    pub(super) org: OrgId,
    pub(super) all: EndpointId,
    pub(super) few: EndpointId,
    pub(super) known: Vec<Known>,
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
pub(super) async fn world(subject: &Subject) -> World {
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
    fold(&subject.store).await;
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
        // A receiver that is gone disables its endpoint.
        for endpoint in [all, few] {
            let change =
                EndpointChange { disabled_reason: Some(None), ..EndpointChange::default() };
            let changed =
                subject.store.update_endpoint(org, endpoint, &change, &Actor::CLI, now).await;
            changed.unwrap().unwrap();
        }
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
                let mut filter = all_deliveries();
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
                let seen = walk_in(order, if number == 0 { 23 } else { 97 }, list).await;
                let seen: Vec<_> = seen.iter().map(|row| (row.created_at, row.id)).collect();
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
            let filter = DeliveryFilter { endpoint_id, ..all_deliveries() };
            let mut expected = Vec::new();
            let list = async |p| subject.store.deliveries(world.org, &filter, p).await;
            for row in walk_in(order, 500, list).await {
                let mut made = subject.store.attempts(world.org, row.id).await.unwrap();
                assert_eq!(made.len(), row.attempts as usize);
                if order == ListOrder::NewestFirst {
                    made.reverse();
                }
                expected.extend(made.into_iter().map(|made| (row.id, made)));
            }
            assert!(expected.len() > 20);
            let list =
                async |p| subject.store.endpoint_attempts(world.org, endpoint, &filter, p).await;
            let seen = walk_in(order, 10, list).await.into_iter();
            let seen: Vec<_> = seen.map(|made| (made.delivery_id, made.attempt)).collect();
            assert_eq!(seen, expected);
        }
    }
}
