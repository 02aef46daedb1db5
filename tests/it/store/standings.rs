use hookgate::domain::{
    Actor, DeadReason, Decision, EndpointChange, EndpointId, EventFilter, OrgId, Outcome, Timestamp,
};

use super::fixtures::{
    DISABLE_AFTER, EXHAUSTED, FIRST_PAGE, add_endpoint, at, claim, org_with_deliveries, outcome,
    persist, some_event,
};
use super::{Subject, on_both};

on_both!(
    since_when_an_endpoint_fails_is_kept_until_an_attempt_succeeds,
    endpoint_that_has_failed_for_too_long_is_disabled_and_its_deliveries_wait,
    gone_disables_the_endpoint_with_the_outcome,
    disabling_counts_as_a_change_of_the_endpoint_and_an_outcome_does_not,
    times_of_success_and_failure_are_kept_to_the_minute,
    each_endpoint_of_a_batch_gets_its_own_times,
    what_is_told_is_stored_once_and_only_for_those_who_asked,
    enabling_an_endpoint_or_moving_it_starts_afresh,
);

async fn record(subject: &Subject, outcomes: &[Outcome]) -> usize {
    subject.store.system().record_outcomes(outcomes).await.unwrap()
}

async fn failing_since(subject: &Subject, org: OrgId, endpoint: EndpointId) -> Option<Timestamp> {
    subject.store.endpoint(org, endpoint).await.unwrap().unwrap().failing_since
}

async fn told(subject: &Subject, org: OrgId) -> Vec<String> {
    let filter = EventFilter { event_type: Some("hookgate.*".parse().unwrap()), ..<_>::default() };
    let events = subject.store.events(org, &filter, FIRST_PAGE).await.unwrap().data;
    events.iter().map(|event| event.event_type.to_string()).collect()
}

fn after_too_long() -> i64 {
    10 + i64::try_from(DISABLE_AFTER.as_secs()).unwrap()
}

async fn since_when_an_endpoint_fails_is_kept_until_an_attempt_succeeds(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 4).await;
    let leased = claim(subject, 4, at(0)).await;
    let retry = |at_second| Decision::RetryAt(at(at_second));
    let back = Outcome { attempt: None, ..outcome(&leased[0], retry(5), at(5)) };
    record(subject, &[back]).await;
    assert_eq!(failing_since(subject, org, endpoint.id).await, None, "no attempt, no failure");
    record(subject, &[outcome(&leased[1], retry(100), at(10))]).await;
    record(subject, &[outcome(&leased[2], retry(100), at(20))]).await;
    assert_eq!(failing_since(subject, org, endpoint.id).await, Some(at(10)));
    record(subject, &[outcome(&leased[3], Decision::Delivered, at(30))]).await;
    assert_eq!(failing_since(subject, org, endpoint.id).await, None);
}

async fn endpoint_that_has_failed_for_too_long_is_disabled_and_its_deliveries_wait(
    subject: &Subject,
) {
    let (org, endpoint) = org_with_deliveries(subject, 3).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    record(subject, &[outcome(&leased, Decision::RetryAt(at(20)), at(10))]).await;
    let late = after_too_long();
    let leased = claim(subject, 2, at(late)).await;
    let outcomes = [
        outcome(&leased[0], Decision::RetryAt(at(late + 9)), at(late)),
        Outcome { attempt: None, ..outcome(&leased[1], Decision::RetryAt(at(late)), at(late)) },
    ];
    assert_eq!(record(subject, &outcomes).await, 2);
    let disabled = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    let reason = disabled.disabled_reason.unwrap();
    assert_eq!(reason, format!("every attempt has failed since {}", at(10)));
    let page = subject.store.deliveries(org, &<_>::default(), FIRST_PAGE).await.unwrap();
    assert!(page.data.iter().all(|delivery| delivery.next_attempt_at.is_none()));
    assert_eq!(claim(subject, 10, at(late + 100)).await.len(), 0);
}

async fn gone_disables_the_endpoint_with_the_outcome(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 2).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let gone = outcome(&leased, Decision::Dead(DeadReason::Gone), at(10));
    assert_eq!(record(subject, &[gone]).await, 1);
    let disabled = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    assert_eq!(disabled.disabled_reason.as_deref(), Some("the receiver answered 410 Gone"));
    assert_eq!(claim(subject, 10, at(100)).await.len(), 0);
}

async fn disabling_counts_as_a_change_of_the_endpoint_and_an_outcome_does_not(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 3).await;
    let version = async || subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap().version;
    let of_org = async || {
        let known = subject.store.system().org_endpoints(&[org]).await.unwrap();
        known[&org].version
    };
    let (before, leased) = (version().await, claim(subject, 3, at(0)).await);
    assert_eq!(of_org().await, before);
    record(subject, &[outcome(&leased[0], Decision::RetryAt(at(100)), at(10))]).await;
    record(subject, &[outcome(&leased[1], Decision::Delivered, at(20))]).await;
    assert_eq!((version().await, of_org().await), (before, before));
    record(subject, &[outcome(&leased[2], Decision::Dead(DeadReason::Gone), at(30))]).await;
    assert_eq!((version().await, of_org().await), (before + 1, before + 1));
}

async fn times_of_success_and_failure_are_kept_to_the_minute(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 6).await;
    let leased = claim(subject, 6, at(0)).await;
    let times = async || {
        let endpoint = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
        (endpoint.last_success_at, endpoint.last_failure_at)
    };
    let retry = || Decision::RetryAt(at(500));
    record(subject, &[outcome(&leased[0], Decision::Delivered, at(1))]).await;
    record(subject, &[outcome(&leased[1], Decision::Delivered, at(60))]).await;
    assert_eq!(times().await, (Some(at(1)), None));
    record(subject, &[outcome(&leased[2], Decision::Delivered, at(61))]).await;
    record(subject, &[outcome(&leased[3], retry(), at(62))]).await;
    record(subject, &[outcome(&leased[4], retry(), at(121))]).await;
    assert_eq!(times().await, (Some(at(61)), Some(at(62))));
    record(subject, &[outcome(&leased[5], retry(), at(122))]).await;
    assert_eq!(times().await, (Some(at(61)), Some(at(122))));
}

async fn each_endpoint_of_a_batch_gets_its_own_times(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 0).await;
    for _ in 0..5 {
        add_endpoint(subject, org, "a.b").await;
    }
    persist(subject, &[some_event(org, "a.b", at(0)), some_event(org, "a.b", at(0))], at(0)).await;
    let leased = claim(subject, 12, at(0)).await;
    let mut endpoints: Vec<EndpointId> = leased.iter().map(|one| one.endpoint.id).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    assert_eq!((leased.len(), endpoints.len()), (12, 6));
    let second =
        |id: EndpointId| 100 + i64::try_from(endpoints.binary_search(&id).unwrap()).unwrap();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for one in &leased {
        let id = one.endpoint.id;
        let retry = Decision::RetryAt(at(500));
        if first.iter().any(|known: &Outcome| known.endpoint_id == id) {
            let decision = if second(id) % 2 == 0 { Decision::Delivered } else { retry };
            last.push(outcome(one, decision, at(100 + second(id))));
        } else {
            first.push(outcome(one, retry, at(second(id))));
        }
    }
    assert_eq!((record(subject, &first).await, record(subject, &last).await), (6, 6));
    for id in endpoints.iter().copied() {
        let known = subject.store.endpoint(org, id).await.unwrap().unwrap();
        let (failed, later) = (Some(at(second(id))), Some(at(100 + second(id))));
        let expected =
            if second(id) % 2 == 0 { (None, later, failed) } else { (failed, None, later) };
        let told = (known.failing_since, known.last_success_at, known.last_failure_at);
        assert_eq!(told, expected, "{id}");
    }
}

async fn what_is_told_is_stored_once_and_only_for_those_who_asked(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 2).await;
    let leased = claim(subject, 2, at(0)).await;
    record(subject, &[outcome(&leased[0], EXHAUSTED, at(10))]).await;
    assert_eq!(told(subject, org).await, [""; 0], "nobody asked");

    let owner = add_endpoint(subject, org, "hookgate.delivery.*").await;
    let exhausted = outcome(&leased[1], EXHAUSTED, at(20));
    record(subject, std::slice::from_ref(&exhausted)).await;
    assert_eq!(record(subject, &[exhausted]).await, 0, "an outcome counts once");
    assert_eq!(told(subject, org).await, ["hookgate.delivery.exhausted"]);
    let news = claim(subject, 10, at(20)).await;
    assert_eq!(news.iter().map(|l| l.endpoint.id).collect::<Vec<_>>(), [owner.id]);
    let payload: serde_json::Value = serde_json::from_slice(&news[0].event.payload).unwrap();
    assert_eq!(payload["delivery_id"], leased[1].id.to_string());
    assert_eq!((&payload["attempts"], &payload["error"]), (&1.into(), &"status 500".into()));

    record(subject, &[outcome(&news[0], EXHAUSTED, at(30))]).await;
    assert_eq!(told(subject, org).await.len(), 1, "no news of news");
}

async fn enabling_an_endpoint_or_moving_it_starts_afresh(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 2).await;
    let moved = EndpointChange {
        url: Some("https://example.org/".parse().unwrap()),
        ..EndpointChange::default()
    };
    let enabled = EndpointChange { disabled_reason: Some(None), ..EndpointChange::default() };
    for change in [moved, enabled] {
        let leased = claim(subject, 1, at(0)).await.remove(0);
        record(subject, &[outcome(&leased, Decision::RetryAt(at(500)), at(10))]).await;
        assert!(failing_since(subject, org, endpoint.id).await.is_some());
        subject
            .store
            .update_endpoint(org, endpoint.id, &change, &Actor::CLI, at(20))
            .await
            .unwrap();
        assert_eq!(failing_since(subject, org, endpoint.id).await, None);
    }
}
