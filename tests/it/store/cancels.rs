use hookgate::domain::{Actor, Decision, DeliveryId, DeliveryStatus};
use hookgate::store::{CANCELS_PER_STEP, DeliveryRefusal};

use super::fixtures::{
    EXHAUSTED, add_endpoint, add_org, at, claim, org_with_deliveries, outcome, persist, some_event,
};
use super::{Subject, on_both};

on_both!(
    cancelled_delivery_is_never_claimed_and_its_attempt_changes_nothing,
    only_a_pending_delivery_is_cancelled,
    all_pending_deliveries_of_an_endpoint_are_cancelled_in_bounded_steps,
);

async fn cancelled_delivery_is_never_claimed_and_its_attempt_changes_nothing(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 2).await;
    let under_way = claim(subject, 1, at(0)).await.remove(0);
    let waiting = claim(subject, 1, at(0)).await.remove(0);
    let retry = outcome(&waiting, Decision::RetryAt(at(5)), at(1));
    subject.store.system().record_outcomes(&[retry]).await.unwrap();
    for leased in [&under_way, &waiting] {
        let cancelled =
            subject.store.cancel_delivery(org, leased.id, &Actor::CLI, at(2)).await.unwrap();
        let delivery = cancelled.unwrap();
        assert_eq!(delivery.status, DeliveryStatus::Cancelled);
        assert_eq!((delivery.next_attempt_at, delivery.finished_at), (None, Some(at(2))));
    }
    assert!(claim(subject, 9, at(1_000)).await.is_empty());
    let late = outcome(&under_way, Decision::Delivered, at(3));
    assert_eq!(subject.store.system().record_outcomes(&[late]).await.unwrap(), 0);
    let again = subject
        .store
        .cancel_delivery(org, under_way.id, &Actor::CLI, at(9))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.finished_at, Some(at(2)), "it stays as it is");
}

async fn only_a_pending_delivery_is_cancelled(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 2).await;
    let stranger = add_org(subject).await;
    let leased = claim(subject, 2, at(0)).await;
    let outcomes =
        [outcome(&leased[0], Decision::Delivered, at(1)), outcome(&leased[1], EXHAUSTED, at(1))];
    subject.store.system().record_outcomes(&outcomes).await.unwrap();
    let cancel =
        async |org, id| subject.store.cancel_delivery(org, id, &Actor::CLI, at(2)).await.unwrap();
    for leased in &leased {
        assert_eq!(cancel(org, leased.id).await.unwrap_err(), DeliveryRefusal::Finished);
        assert_eq!(cancel(stranger, leased.id).await.unwrap_err(), DeliveryRefusal::NotFound);
    }
    let missing = DeliveryId::mint(at(0));
    assert_eq!(cancel(org, missing).await.unwrap_err(), DeliveryRefusal::NotFound);
}

async fn all_pending_deliveries_of_an_endpoint_are_cancelled_in_bounded_steps(subject: &Subject) {
    let org = add_org(subject).await;
    let (one, other) =
        (add_endpoint(subject, org, "*").await, add_endpoint(subject, org, "*").await);
    let count = CANCELS_PER_STEP + 10;
    let events: Vec<_> = (0..count).map(|_| some_event(org, "a.b", at(0))).collect();
    persist(subject, &events, at(0)).await;
    persist(subject, &[some_event(org, "later", at(9))], at(9)).await;
    let stranger = add_org(subject).await;
    let cancel = async |org| {
        subject.store.cancel_pending(org, one.id, at(5), &Actor::CLI, at(6)).await.unwrap()
    };
    assert_eq!(cancel(stranger).await, 0);
    assert_eq!(cancel(org).await, CANCELS_PER_STEP);
    assert_eq!(cancel(org).await, 10);
    assert_eq!(cancel(org).await, 0);
    let left = claim(subject, 20_000, at(10)).await;
    let of_one = left.iter().filter(|leased| leased.endpoint.id == one.id).count();
    let of_other = left.iter().filter(|leased| leased.endpoint.id == other.id).count();
    assert_eq!((of_one, of_other as u64), (1, count + 1), "the one planned later stays");
}
