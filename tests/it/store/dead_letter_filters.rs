//! Every filter of dead letters, every pair of filters, and both orders.

use hookgate::domain::{DeadLetterFilter, DeadReason, DeliveryStatus, ErrorClass, ListOrder};

use super::delivery_filters::{Known, world};
use super::event_filters::{Choice, ORDERS, choice, same_field};
use super::fixtures::{ALL_LETTERS, walk_in};
use super::{Subject, on_both};

on_both!(every_pair_of_filters_of_dead_letters_lists_what_a_plain_filter_does);

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
    let event = dead[7].event_id;
    choices.push(choice(
        format!("event {event}"),
        move |filter: &mut DeadLetterFilter| filter.event_id = Some(event),
        move |known: &Known| known.event_id == event,
    ));
    for (number, one) in choices.iter().enumerate() {
        for other in &choices[number..] {
            for order in ORDERS {
                let mut filter = ALL_LETTERS.clone();
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
                let seen = walk_in(order, 7, list).await;
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
