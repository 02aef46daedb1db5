use std::time::Duration;

use hookgate::domain::{
    Actor, Cursor, Decision, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, EndpointChange,
    ListOrder, OrgId, PageRequest,
};
use hookgate::store::{ATTEMPTS_SHOWN_MAX, DeliveryRefusal};

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, at, claim, failed_attempt, org_with_deliveries, outcome,
    walk_in,
};
use super::{Subject, on_both};

on_both!(
    dead_delivery_is_tried_again_and_its_dead_letter_taken_back,
    delivered_and_a_waiting_delivery_may_be_sent_again,
    delivery_under_way_is_left_alone_until_its_lease_lapses,
    delivery_of_a_disabled_endpoint_is_refused,
    delivery_of_a_removed_endpoint_is_refused,
    missing_delivery_is_not_found,
    newest_attempts_of_a_delivery_are_shown,
);

async fn retry(subject: &Subject, org: OrgId, id: DeliveryId) -> Result<Delivery, DeliveryRefusal> {
    subject.store.retry_delivery(org, id, &Actor::CLI, at(30)).await.unwrap()
}

async fn dead_delivery_is_tried_again_and_its_dead_letter_taken_back(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let dead = outcome(&leased, EXHAUSTED, at(1));
    subject.store.system().record_outcomes(&[dead]).await.unwrap();

    let delivery = retry(subject, org, leased.id).await.unwrap();
    assert_eq!((delivery.id, delivery.status), (leased.id, DeliveryStatus::Pending));
    assert_eq!((delivery.attempts, delivery.next_attempt_at), (1, Some(at(30))));
    assert_eq!(delivery.finished_at, None);
    assert_eq!(
        subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data.len(),
        0
    );
    let again = claim(subject, 1, at(30)).await.remove(0);
    assert_eq!((again.id, again.attempts), (leased.id, 1));

    let dead = outcome(&again, EXHAUSTED, at(31));
    assert_eq!(subject.store.system().record_outcomes(&[dead]).await.unwrap(), 1);
    assert_eq!(
        subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data.len(),
        1
    );
    let attempts = subject.store.attempts(org, leased.id).await.unwrap();
    assert_eq!(attempts, [failed_attempt(1, at(1)), failed_attempt(2, at(31))]);
}

async fn delivered_and_a_waiting_delivery_may_be_sent_again(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 2).await;
    let leased = claim(subject, 2, at(0)).await;
    let outcomes = [
        outcome(&leased[0], Decision::Delivered, at(1)),
        outcome(&leased[1], Decision::RetryAt(at(5_000)), at(1)),
    ];
    subject.store.system().record_outcomes(&outcomes).await.unwrap();
    for leased in &leased {
        let delivery = retry(subject, org, leased.id).await.unwrap();
        assert_eq!(delivery.status, DeliveryStatus::Pending);
        assert_eq!((delivery.next_attempt_at, delivery.finished_at), (Some(at(30)), None));
    }
    assert_eq!(claim(subject, 9, at(30)).await.len(), 2);
}

async fn delivery_under_way_is_left_alone_until_its_lease_lapses(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    assert_eq!(retry(subject, org, leased.id).await.unwrap_err(), DeliveryRefusal::InProgress);
    let lapsed =
        subject.store.retry_delivery(org, leased.id, &Actor::CLI, at(60)).await.unwrap().unwrap();
    assert_eq!(lapsed.next_attempt_at, Some(at(60)));
    let late = outcome(&leased, Decision::Delivered, at(61));
    assert_eq!(subject.store.system().record_outcomes(&[late]).await.unwrap(), 0);
}

async fn delivery_of_a_disabled_endpoint_is_refused(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let change = EndpointChange {
        disabled_reason: Some(Some("gone".to_owned())),
        ..EndpointChange::default()
    };
    let id = claim(subject, 1, at(0)).await[0].id;
    subject.store.update_endpoint(org, endpoint.id, &change, &Actor::CLI, at(1)).await.unwrap();
    assert_eq!(retry(subject, org, id).await.unwrap_err(), DeliveryRefusal::EndpointDisabled);
}

async fn delivery_of_a_removed_endpoint_is_refused(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let id = claim(subject, 1, at(0)).await[0].id;
    subject.store.delete_endpoint(org, endpoint.id, &Actor::CLI, at(1)).await.unwrap();
    assert_eq!(retry(subject, org, id).await.unwrap_err(), DeliveryRefusal::EndpointRemoved);
    let delivery = subject.store.delivery(org, id).await.unwrap().unwrap();
    assert_eq!(delivery.status, DeliveryStatus::Cancelled);
}

async fn missing_delivery_is_not_found(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let missing = DeliveryId::mint(at(0));
    assert_eq!(retry(subject, org, missing).await.unwrap_err(), DeliveryRefusal::NotFound);
}

async fn newest_attempts_of_a_delivery_are_shown(subject: &Subject) {
    const MADE: u32 = ATTEMPTS_SHOWN_MAX + 5;
    let (org, endpoint) = org_with_deliveries(subject, 3).await;
    for number in 0..MADE {
        let now = at(i64::from(number));
        let leased = claim(subject, 3, now).await;
        let decision = || match number + 1 {
            MADE => Decision::Delivered,
            _ => Decision::RetryAt(now.plus(Duration::from_secs(1))),
        };
        let outcomes: Vec<_> =
            leased.iter().map(|leased| outcome(leased, decision(), now)).collect();
        assert_eq!(subject.store.system().record_outcomes(&outcomes).await.unwrap(), 3);
    }
    let filter = DeliveryFilter { endpoint_id: Some(endpoint.id), ..DeliveryFilter::default() };
    let rows = subject.store.deliveries(org, &filter, FIRST_PAGE).await.unwrap().data;
    for row in &rows {
        assert_eq!((row.status, row.attempts), (DeliveryStatus::Delivered, MADE));
        let numbers: Vec<_> = subject.store.attempts(org, row.id).await.unwrap();
        let numbers: Vec<_> = numbers.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, (6..=MADE).collect::<Vec<_>>());
    }
    // A page reads the attempts of the deliveries that it has.
    let (store, plans) = subject.store.recording_plans();
    let page = PageRequest::first(10);
    let page = store.endpoint_attempts(org, endpoint.id, &filter, page).await.unwrap();
    assert_eq!(page.data.len(), 10);
    assert!(page.data.iter().all(|row| row.delivery_id == rows[0].id));
    let of_attempts = |plan: &&String| plan.contains("delivery_attempts");
    assert_eq!(plans.take().iter().filter(of_attempts).count(), 1);
    // Each is read once, wherever pages end, and none has more rows than it asks for.
    let of_delivery =
        |row: &Delivery| (6..=MADE).map(|number| (row.id, number)).collect::<Vec<_>>();
    let oldest: Vec<_> = rows.iter().rev().flat_map(of_delivery).collect();
    let newest: Vec<_> = oldest.iter().rev().copied().collect();
    for limit in [1, 7, 100, 150, 500] {
        for (order, expected) in
            [(ListOrder::NewestFirst, &newest), (ListOrder::OldestFirst, &oldest)]
        {
            let list =
                async |p| subject.store.endpoint_attempts(org, endpoint.id, &filter, p).await;
            let seen = walk_in(order, limit, list).await;
            let seen: Vec<_> =
                seen.iter().map(|row| (row.delivery_id, row.attempt.number)).collect();
            assert_eq!(&seen, expected, "{limit} {order:?}");
        }
    }
    // A position of an earlier version is behind a whole delivery.
    let after = Some(Cursor { at: rows[0].created_at, id: rows[0].id.uuid() });
    let page = PageRequest { after, ..PageRequest::first(1) };
    let page = store.endpoint_attempts(org, endpoint.id, &filter, page).await.unwrap();
    assert_eq!((page.data[0].delivery_id, page.data[0].attempt.number), (rows[1].id, MADE));
}
