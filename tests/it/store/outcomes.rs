use hookgate::domain::{
    Actor, Attempt, DeadReason, Decision, DeliveryStatus, EndpointChange, Outcome, Timestamp,
};

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, at, claim, failed_attempt, org_with_deliveries, outcome,
};
use super::{Subject, on_both};
use crate::support::wait::until;

on_both!(
    delivered_webhook_is_final,
    failed_attempt_is_counted_and_tried_again_when_it_is_due,
    delivery_that_is_handed_back_counts_no_attempt,
    delivery_that_is_given_up_leaves_a_dead_letter,
    outcome_of_a_lost_lease_changes_nothing,
    outcome_counts_once,
    outcome_repeated_in_a_batch_counts_once,
    batch_of_outcomes_counts_each_for_itself,
    retry_to_an_endpoint_that_was_disabled_waits_and_goes_on_when_it_is_enabled,
    outcomes_of_one_delivery_under_two_leases_are_told_apart,
    outcome_of_a_cancelled_delivery_changes_nothing,
    finished_delivery_keeps_its_last_attempt_in_its_row,
    words_with_a_nul_byte_are_recorded,
);

async fn record(subject: &Subject, outcomes: &[Outcome]) -> usize {
    subject.store.system().record_outcomes(outcomes).await.unwrap()
}

async fn delivered_webhook_is_final(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let attempt = Attempt {
        number: 1,
        started_at: at(1),
        duration_ms: u32::MAX,
        status_code: Some(204),
        error_class: None,
        error: None,
        response_excerpt: None,
    };
    let made = Some(attempt.clone());
    let delivered = Outcome { attempt: made, ..outcome(&leased, Decision::Delivered, at(2)) };
    assert_eq!(record(subject, &[delivered]).await, 1);

    let delivery = subject.store.delivery(org, leased.id).await.unwrap().unwrap();
    assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Delivered, 1));
    assert_eq!((delivery.next_attempt_at, delivery.finished_at), (None, Some(at(2))));
    assert_eq!(subject.store.attempts(org, leased.id).await.unwrap(), [attempt]);
    assert_eq!(claim(subject, 1, at(10_000)).await.len(), 0);
    assert_eq!(record(subject, &[]).await, 0);
}

async fn failed_attempt_is_counted_and_tried_again_when_it_is_due(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let first = claim(subject, 1, at(0)).await.remove(0);
    assert_eq!(record(subject, &[outcome(&first, Decision::RetryAt(at(100)), at(1))]).await, 1);
    let delivery = subject.store.delivery(org, first.id).await.unwrap().unwrap();
    assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Pending, 1));
    assert_eq!((delivery.next_attempt_at, delivery.finished_at), (Some(at(100)), None));

    assert_eq!(claim(subject, 1, at(99)).await.len(), 0);
    let second = claim(subject, 1, at(100)).await.remove(0);
    assert_eq!((second.id, second.attempts), (first.id, 1));
    assert_eq!(record(subject, &[outcome(&second, Decision::Delivered, at(101))]).await, 1);
    let attempts = subject.store.attempts(org, first.id).await.unwrap();
    assert_eq!(attempts, [failed_attempt(1, at(1)), failed_attempt(2, at(101))]);
}

async fn delivery_that_is_handed_back_counts_no_attempt(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let back = Outcome { attempt: None, ..outcome(&leased, Decision::RetryAt(at(5)), at(1)) };
    assert_eq!(record(subject, &[back]).await, 1);
    assert_eq!(subject.store.attempts(org, leased.id).await.unwrap(), []);
    assert_eq!(claim(subject, 1, at(5)).await[0].attempts, 0);
}

async fn delivery_that_is_given_up_leaves_a_dead_letter(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 2).await;
    let leased = claim(subject, 2, at(0)).await;
    let exhausted = outcome(&leased[0], EXHAUSTED, at(1));
    let unattempted = Decision::Dead(DeadReason::Gone);
    let gone = Outcome { attempt: None, ..outcome(&leased[1], unattempted, at(2)) };
    assert_eq!(record(subject, &[exhausted, gone]).await, 2);

    let page = subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap();
    let told: Vec<_> = page.data.iter().map(|l| (l.reason.as_str(), l.detail.as_deref())).collect();
    assert_eq!(told, [("gone", None), ("exhausted", Some("status 500"))]);
    let letter = &page.data[1];
    assert_eq!((letter.id.uuid(), letter.delivery_id), (leased[0].id.uuid(), Some(leased[0].id)));
    assert_eq!((letter.event_id, letter.endpoint_id), (leased[0].event.id, Some(endpoint.id)));
    assert_eq!(letter.created_at, at(1));
    let delivery = subject.store.delivery(org, leased[0].id).await.unwrap().unwrap();
    assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Dead, 1));
    assert_eq!((delivery.finished_at, delivery.next_attempt_at), (Some(at(1)), None));
    assert_eq!(claim(subject, 2, at(10_000)).await.len(), 0);
}

async fn outcome_of_a_lost_lease_changes_nothing(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let stalled = claim(subject, 1, at(0)).await.remove(0);
    let current = claim(subject, 1, at(60)).await.remove(0);
    for decision in [Decision::Delivered, Decision::RetryAt(at(70)), EXHAUSTED] {
        assert_eq!(record(subject, &[outcome(&stalled, decision, at(61))]).await, 0);
    }
    assert_eq!(subject.store.attempts(org, stalled.id).await.unwrap(), []);
    assert_eq!(
        subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data.len(),
        0
    );
    assert_eq!(record(subject, &[outcome(&current, Decision::Delivered, at(62))]).await, 1);
}

async fn outcome_counts_once(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let retry = outcome(&leased, Decision::RetryAt(at(5)), at(1));
    assert_eq!(record(subject, std::slice::from_ref(&retry)).await, 1);
    assert_eq!(record(subject, &[retry]).await, 0);
    assert_eq!(subject.store.delivery(org, leased.id).await.unwrap().unwrap().attempts, 1);
}

async fn outcome_repeated_in_a_batch_counts_once(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let batch = [outcome(&leased, Decision::Delivered, at(1)), outcome(&leased, EXHAUSTED, at(2))];
    assert_eq!(record(subject, &batch).await, 1);
    let delivery = subject.store.delivery(org, leased.id).await.unwrap().unwrap();
    assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Delivered, 1));
    assert_eq!(
        subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data.len(),
        0
    );
}

async fn batch_of_outcomes_counts_each_for_itself(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 300).await;
    let leased = claim(subject, 300, at(0)).await;
    let decide = |place: usize| match place % 3 {
        0 => Decision::Delivered,
        1 => Decision::RetryAt(at(500)),
        _ => EXHAUSTED,
    };
    let outcomes: Vec<Outcome> =
        leased.iter().enumerate().map(|(place, l)| outcome(l, decide(place), at(1))).collect();
    assert_eq!(record(subject, &outcomes).await, 300);
    for status in ["delivered", "dead"] {
        let sql = format!("SELECT count(*) FROM deliveries WHERE status = '{status}'");
        assert_eq!(subject.count(&sql).await, 100, "{status}");
    }
    for waiting in ["pending_deliveries", "delivery_attempts"] {
        let sql = format!("SELECT count(*) FROM {waiting}");
        assert_eq!(subject.count(&sql).await, 100, "{waiting}");
    }
    assert_eq!(subject.count("SELECT count(*) FROM dead_letters").await, 100);
    assert_eq!(subject.store.attempts(org, leased[7].id).await.unwrap().len(), 1);
}

async fn retry_to_an_endpoint_that_was_disabled_waits_and_goes_on_when_it_is_enabled(
    subject: &Subject,
) {
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let change = |reason: Option<&str>| EndpointChange {
        disabled_reason: Some(reason.map(str::to_owned)),
        ..EndpointChange::default()
    };
    let store = &subject.store;
    store
        .update_endpoint(org, endpoint.id, &change(Some("gone")), &Actor::CLI, at(1))
        .await
        .unwrap();
    assert_eq!(record(subject, &[outcome(&leased, Decision::RetryAt(at(5)), at(2))]).await, 1);
    let next = async || -> Option<Timestamp> {
        store.delivery(org, leased.id).await.unwrap().unwrap().next_attempt_at
    };
    assert_eq!(next().await, None);
    assert_eq!(claim(subject, 1, at(10)).await.len(), 0);
    store.update_endpoint(org, endpoint.id, &change(None), &Actor::CLI, at(20)).await.unwrap();
    assert_eq!(next().await, Some(at(5)), "its due time says what the schedule says");
    assert_eq!(claim(subject, 1, at(20)).await.len(), 1);
}

async fn outcomes_of_one_delivery_under_two_leases_are_told_apart(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let stalled = claim(subject, 1, at(0)).await.remove(0);
    let current = claim(subject, 1, at(60)).await.remove(0);
    let outcomes = [
        outcome(&stalled, Decision::RetryAt(at(90)), at(61)),
        outcome(&current, Decision::Delivered, at(61)),
    ];
    assert_eq!(record(subject, &outcomes).await, 1);
    let delivery = subject.store.delivery(org, current.id).await.unwrap().unwrap();
    assert_eq!(delivery.status, DeliveryStatus::Delivered);
}

async fn outcome_of_a_cancelled_delivery_changes_nothing(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 3).await;
    let leased = claim(subject, 3, at(0)).await;
    for leased in &leased {
        let cancelled = subject.store.cancel_delivery(org, leased.id, &Actor::CLI, at(1)).await;
        cancelled.unwrap().unwrap();
    }
    let decisions = [Decision::Delivered, Decision::RetryAt(at(9)), EXHAUSTED];
    let outcomes = leased.iter().zip(decisions);
    let outcomes: Vec<_> = outcomes.map(|(l, decision)| outcome(l, decision, at(2))).collect();
    assert_eq!(record(subject, &outcomes[..1]).await, 0);
    assert_eq!(record(subject, &outcomes).await, 0);
    assert_eq!(subject.count("SELECT count(*) FROM pending_deliveries").await, 0);
    let cancelled = "SELECT count(*) FROM deliveries WHERE status = 'cancelled'";
    assert_eq!(subject.count(cancelled).await, 3);
    assert_eq!(subject.count("SELECT count(*) FROM dead_letters").await, 0);
}

async fn finished_delivery_keeps_its_last_attempt_in_its_row(subject: &Subject) {
    org_with_deliveries(subject, 1).await;
    let first = claim(subject, 1, at(0)).await.remove(0);
    record(subject, &[outcome(&first, Decision::RetryAt(at(5)), at(1))]).await;
    let second = claim(subject, 1, at(5)).await.remove(0);
    record(subject, &[outcome(&second, EXHAUSTED, at(6))]).await;
    let row = "SELECT count(*) FROM deliveries
               WHERE attempts = 2 AND status_code = 500 AND error = 'status 500'";
    assert_eq!(subject.count(row).await, 1);
    assert_eq!(subject.count("SELECT count(*) FROM delivery_attempts WHERE number = 1").await, 1);
    assert_eq!(subject.count("SELECT count(*) FROM delivery_attempts").await, 1);
    assert_eq!(subject.count("SELECT count(*) FROM pending_deliveries").await, 0);
}

async fn words_with_a_nul_byte_are_recorded(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let mut dead = outcome(&leased, EXHAUSTED, at(1));
    let attempt = dead.attempt.as_mut().unwrap();
    attempt.error = Some("bad\0".to_owned());
    attempt.response_excerpt = Some("\0".to_owned());
    assert_eq!(record(subject, &[dead]).await, 1);
    let attempts = subject.store.attempts(org, leased.id).await.unwrap();
    assert_eq!(attempts[0].error.as_deref(), Some("bad\u{fffd}"));
    assert_eq!(attempts[0].response_excerpt.as_deref(), Some("\u{fffd}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_of_a_large_lease_are_written_by_the_keys_of_their_deliveries() {
    const DELIVERIES: u16 = 300;
    let subject = Subject::postgres().await;
    org_with_deliveries(&subject, DELIVERIES.into()).await;
    // As the planner knows the table while few rows are leased.
    subject.raw("", "ANALYZE pending_deliveries").await;
    let leased = claim(&subject, DELIVERIES.into(), at(1)).await;
    let outcomes: Vec<_> =
        leased.iter().map(|leased| outcome(leased, Decision::RetryAt(at(9)), at(2))).collect();
    let store = subject.another().await;
    assert_eq!(store.system().record_outcomes(&outcomes).await.unwrap(), leased.len());
    // PostgreSQL counts the use of an index by the end of the connection.
    store.close().await;
    let used = async |what: &str, index: &str| {
        let from = "pg_stat_user_indexes WHERE indexrelname";
        subject.count(&format!("SELECT {what}::bigint FROM {from} = '{index}'")).await
    };
    until("the use of the primary key is counted", async || {
        used("idx_scan", "pending_deliveries_pkey").await >= DELIVERIES.into()
    })
    .await;
    let read = used("idx_tup_read", "pending_leases").await;
    assert!(read <= 2 * i64::from(DELIVERIES), "{read} entries of leases were read");
}
