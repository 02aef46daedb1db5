use hookgate::domain::{Actor, Decision, DeliveryFilter, DeliveryId, DeliveryStatus, PageRequest};
use hookgate::runtime::Clock;
use hookgate::store::{
    CANCELS_INLINE_MAX, CANCELS_PER_STEP, DeliveryRefusal, PendingCancellation, Store,
};

use super::fixtures::{
    EXHAUSTED, add_endpoint, add_org, at, claim, org_with_deliveries, outcome, persist, some_event,
};
use super::{Subject, on_both};

on_both!(
    cancelled_delivery_is_never_claimed_and_its_attempt_changes_nothing,
    only_a_pending_delivery_is_cancelled,
    all_pending_deliveries_of_an_endpoint_are_cancelled_in_bounded_steps,
    delivery_is_retried_after_its_endpoints_pending_ones_were_cancelled,
    time_of_a_cancellation_is_forgotten_once_nothing_can_come_of_it,
    clock_that_was_ahead_cancels_nothing_that_comes_later,
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
    let count = CANCELS_INLINE_MAX + CANCELS_PER_STEP + 10;
    let events: Vec<_> = (0..count).map(|_| some_event(org, "a.b", at(0))).collect();
    persist(subject, &events, at(0)).await;
    let store = &subject.store;
    let cancel =
        async |org, now| store.cancel_pending(org, one.id, &Actor::CLI, at(now)).await.unwrap();
    let stranger = add_org(subject).await;
    assert_eq!(cancel(stranger, 5).await, None);
    let at_once = PendingCancellation { cancelled: CANCELS_INLINE_MAX, in_progress: true };
    assert_eq!(cancel(org, 5).await, Some(at_once));
    persist(subject, &[some_event(org, "later", at(9))], at(9)).await;

    let of_one = DeliveryFilter { endpoint_id: Some(one.id), ..DeliveryFilter::default() };
    let pages = async |filter: DeliveryFilter| {
        let page = PageRequest::first(20_000);
        store.deliveries(org, &filter, page).await.unwrap().data
    };
    let shown = pages(of_one.clone()).await;
    assert_eq!(shown.len() as u64, count + 1);
    let (cancelled, left): (Vec<_>, Vec<_>) =
        shown.into_iter().partition(|delivery| delivery.status == DeliveryStatus::Cancelled);
    assert!(cancelled.iter().all(|delivery| delivery.finished_at == Some(at(5))));
    assert!(cancelled.iter().all(|delivery| delivery.next_attempt_at.is_none()));
    assert_eq!(left.iter().map(|delivery| delivery.created_at).collect::<Vec<_>>(), [at(9)]);
    let pending = DeliveryFilter { status: Some(DeliveryStatus::Pending), ..of_one.clone() };
    assert_eq!(pages(pending.clone()).await.len(), 1);
    assert_eq!(store.pending_count(org, one.id).await.unwrap(), 1);
    let refusal = store.retry_delivery(org, cancelled[0].id, &Actor::CLI, at(6)).await.unwrap();
    assert_eq!(refusal.unwrap_err(), DeliveryRefusal::InProgress);

    let step = async |now| store.system().cancel_step(at(now)).await.unwrap();
    assert_eq!((step(6).await, step(6).await, step(6).await), (CANCELS_PER_STEP, 10, 0));
    assert_eq!(pages(pending.clone()).await.len(), 1, "the one that was planned later stays");
    let cancelled_now = DeliveryFilter { status: Some(DeliveryStatus::Cancelled), ..of_one };
    assert_eq!(pages(cancelled_now).await.len(), cancelled.len());
    assert_eq!(store.pending_count(org, other.id).await.unwrap(), count + 1);
}

async fn delivery_is_retried_after_its_endpoints_pending_ones_were_cancelled(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 2).await;
    let store = &subject.store;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let dead = outcome(&leased, EXHAUSTED, at(1));
    store.system().record_outcomes(&[dead]).await.unwrap();
    let cancelled = store.cancel_pending(org, endpoint.id, &Actor::CLI, at(5)).await.unwrap();
    assert_eq!(cancelled, Some(PendingCancellation { cancelled: 1, in_progress: false }));
    let before = store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    assert_eq!(before.cancel_before, Some(at(5)));

    let retried = store.retry_delivery(org, leased.id, &Actor::CLI, at(6)).await.unwrap().unwrap();
    assert_eq!((retried.status, retried.attempts), (DeliveryStatus::Pending, 1));
    let after = store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    assert_eq!(after.cancel_before, None);
    assert!(after.version > before.version);
    let again: Vec<_> = claim(subject, 9, at(6)).await.iter().map(|again| again.id).collect();
    assert_eq!(again, [leased.id]);
}

async fn time_of_a_cancellation_is_forgotten_once_nothing_can_come_of_it(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let store = &subject.store;
    store.cancel_pending(org, endpoint.id, &Actor::CLI, at(5)).await.unwrap().unwrap();
    // Accepted before the cancellation, stored after it.
    let late = persist(subject, &[some_event(org, "late", at(4))], at(8)).await;
    assert_eq!((late.stored, late.planned), (1, 0));
    let step = async |now| store.system().cancel_step(at(now)).await.unwrap();
    assert_eq!(step(9).await, 0);
    assert_eq!((step(700).await, step(700).await), (1, 0));
    let shown = store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    assert_eq!(shown.cancel_before, None);
}

async fn clock_that_was_ahead_cancels_nothing_that_comes_later(subject: &Subject) {
    const AHEAD: i64 = 86_400;
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let planned = async |accepted| {
        persist(subject, &[some_event(org, "later", at(accepted))], at(accepted)).await.planned
    };
    // Ahead of the schedule time.
    let clock = Clock::manual(at(5));
    clock.set_schedule(at(5));
    clock.step_to(at(5 + AHEAD));
    let store = subject.store.clone().with_clock(clock.clone());
    let cancel = async |store: &Store, now| {
        store.cancel_pending(org, endpoint.id, &Actor::CLI, now).await.unwrap().unwrap()
    };
    let done = PendingCancellation { cancelled: 1, in_progress: false };
    assert_eq!(cancel(&store, clock.now()).await, done);
    assert_eq!((planned(4).await, planned(6).await), (0, 1));

    // As far ahead as the schedule time, which both go back from.
    assert_eq!(cancel(&subject.store, at(AHEAD)).await, done);
    assert_eq!(planned(7).await, 0, "nothing tells yet that it is ahead");
    let step = async |now| subject.store.system().cancel_step(at(now)).await.unwrap();
    assert_eq!((step(8).await, step(8).await), (1, 0));
    assert_eq!((planned(7).await, planned(9).await), (0, 1));
}
