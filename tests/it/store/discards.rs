use std::collections::BTreeSet;

use hookgate::domain::{
    Actor, DeadLetterFilter, DeadReason, Decision, DeliveryFilter, DeliveryStatus, ErrorClass,
    EventId, OrgId, PageRequest, Replay, ReplayAction, ReplayStatus,
};
use hookgate::store::REPLAYS_PER_STEP;
use serde_json::json;

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, add_endpoint, add_org, at, claim, failed_attempt,
    org_with_deliveries, outcome, persist, some_event,
};
use super::{Subject, on_both};

on_both!(
    discard_deletes_the_dead_letters_that_its_filter_names,
    discard_goes_on_where_it_was_stopped_and_ends_with_the_last,
    discard_is_audited_and_cancelled_as_a_replay_is,
    jobs_are_narrowed_to_one_event_or_to_what_was_replayed,
);

/// Does every step that is left and returns the job as it is then.
async fn finish(subject: &Subject, job: &Replay) -> Replay {
    while let Some(step) = subject.store.step_replay(job.org_id, job.id, at(30)).await.unwrap() {
        assert!(step.stopped_at.is_none() && step.planned == 0);
    }
    subject.store.replay(job.org_id, job.id).await.unwrap().unwrap()
}

async fn left(subject: &Subject, org: OrgId) -> usize {
    let page = PageRequest::first(10_000);
    subject.store.dead_letters(org, &ALL_LETTERS, page).await.unwrap().data.len()
}

async fn discard(subject: &Subject, org: OrgId, filter: &DeadLetterFilter) -> Replay {
    let job = subject.store.insert_discard(org, filter, &Actor::CLI, at(20)).await;
    job.unwrap().unwrap()
}

async fn discard_deletes_the_dead_letters_that_its_filter_names(subject: &Subject) {
    let org = add_org(subject).await;
    let other = add_org(subject).await;
    let one = add_endpoint(subject, org, "a.*").await.id;
    add_endpoint(subject, org, "b.*").await;
    add_endpoint(subject, other, "*").await;
    let types = ["a.x", "a.x", "a.y", "b.x", "b.x", "b.y"];
    let events: Vec<_> = types.iter().map(|name| some_event(org, name, at(0))).collect();
    persist(subject, &events, at(0)).await;
    persist(subject, &[some_event(other, "a.x", at(0))], at(0)).await;
    let leased = claim(subject, 9, at(1)).await;
    let outcomes: Vec<_> = leased
        .iter()
        .map(|leased| {
            let is_timeout = ["a.y", "b.y"].contains(&leased.event.event_type.as_str());
            let mut attempt = failed_attempt(1, at(2));
            if is_timeout {
                (attempt.error_class, attempt.status_code) = (Some(ErrorClass::Timeout), None);
            }
            let decision = if is_timeout { Decision::Dead(DeadReason::Gone) } else { EXHAUSTED };
            let outcome = outcome(leased, decision, at(2));
            hookgate::domain::Outcome { attempt: Some(attempt), ..outcome }
        })
        .collect();
    subject.store.system().record_outcomes(&outcomes).await.unwrap();
    let quarantined = EventId::mint(at(3));
    subject.store.quarantine_event(org, quarantined, b"{}", "no", at(3)).await.unwrap();
    assert_eq!((left(subject, org).await, left(subject, other).await), (7, 1));

    let of_type = |text: &str| Some(text.parse().unwrap());
    let steps = [
        (DeadLetterFilter { event_type: of_type("never"), ..ALL_LETTERS }, 0, 7),
        (DeadLetterFilter { error_class: Some(ErrorClass::Dns), ..ALL_LETTERS }, 0, 7),
        (
            DeadLetterFilter {
                endpoint_id: Some(one),
                error_class: Some(ErrorClass::Timeout),
                ..ALL_LETTERS
            },
            1,
            6,
        ),
        (DeadLetterFilter { until: Some(at(1)), ..ALL_LETTERS }, 0, 6),
        (
            DeadLetterFilter { event_type: of_type("b.*"), status_code: Some(500), ..ALL_LETTERS },
            2,
            4,
        ),
        (DeadLetterFilter { reason: Some(DeadReason::Gone), ..ALL_LETTERS }, 1, 3),
        (DeadLetterFilter { reason: Some(DeadReason::Unstorable), ..ALL_LETTERS }, 1, 2),
        (ALL_LETTERS, 2, 0),
    ];
    for (filter, done, expected) in steps {
        let job = discard(subject, org, &filter).await;
        assert_eq!((job.action, job.status), (ReplayAction::Discard, ReplayStatus::Running));
        if filter.event_type.is_none() {
            assert_eq!(job.total, Some(done), "{filter:?}");
        }
        let job = finish(subject, &job).await;
        assert_eq!((job.done, job.skipped, job.status), (done, 0, ReplayStatus::Finished));
        assert_eq!(left(subject, org).await as u64, expected, "{filter:?}");
    }
    assert_eq!(left(subject, other).await, 1);
    let dead = DeliveryFilter { status: Some(DeliveryStatus::Dead), ..DeliveryFilter::default() };
    let dead = subject.store.deliveries(org, &dead, FIRST_PAGE).await.unwrap().data;
    assert_eq!(dead.len(), types.len(), "the deliveries stay as they are");
}

async fn discard_goes_on_where_it_was_stopped_and_ends_with_the_last(subject: &Subject) {
    let count = REPLAYS_PER_STEP * 2 + 10;
    let (org, _) = org_with_deliveries(subject, count).await;
    let leased = claim(subject, count, at(1)).await;
    let dead: Vec<_> = leased.iter().map(|leased| outcome(leased, EXHAUSTED, at(10))).collect();
    subject.store.system().record_outcomes(&dead).await.unwrap();
    let replayed = leased[0].id;
    subject.store.replay_delivery(org, replayed, &Actor::CLI, at(11)).await.unwrap().unwrap();
    let job = discard(subject, org, &ALL_LETTERS).await;
    assert_eq!(job.total, Some(count as u64), "replayed ones, too");
    let first = subject.store.step_replay(org, job.id, at(21)).await.unwrap();
    assert!(first.is_some());
    assert_eq!(left(subject, org).await, count - REPLAYS_PER_STEP);
    // Another server goes on.
    let another = subject.another().await;
    let mut steps = 0;
    while another.step_replay(org, job.id, at(22)).await.unwrap().is_some() {
        steps += 1;
    }
    assert_eq!((steps, left(subject, org).await), (2, 0));
    let job = subject.store.replay(org, job.id).await.unwrap().unwrap();
    assert_eq!((job.done, job.status), (count as u64, ReplayStatus::Finished));
}

async fn discard_is_audited_and_cancelled_as_a_replay_is(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 3).await;
    let leased = claim(subject, 3, at(1)).await;
    let dead: Vec<_> = leased.iter().map(|leased| outcome(leased, EXHAUSTED, at(2))).collect();
    subject.store.system().record_outcomes(&dead).await.unwrap();
    let filter = DeadLetterFilter { error_class: Some(ErrorClass::Status), ..ALL_LETTERS };
    let job = discard(subject, org, &filter).await;
    let ended = subject.store.end_replay(org, job.id, None, &Actor::CLI, at(25)).await.unwrap();
    assert_eq!(ended.unwrap().status, ReplayStatus::Cancelled);
    assert!(subject.store.step_replay(org, job.id, at(26)).await.unwrap().is_none());
    assert_eq!(left(subject, org).await, 3);
    let log = subject.store.audit_log(org, FIRST_PAGE).await.unwrap().data;
    let told: BTreeSet<_> = log.iter().map(|entry| entry.action.as_str()).collect();
    assert!(told.contains("discard.create") && told.contains("discard.cancel"), "{told:?}");
    let created = log.iter().find(|entry| entry.action == "discard.create").unwrap();
    assert_eq!(created.changes["filter"]["error_class"], json!("status"));
    let stranger = add_org(subject).await;
    assert!(subject.store.replay(stranger, job.id).await.unwrap().is_none());
}

async fn jobs_are_narrowed_to_one_event_or_to_what_was_replayed(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 4).await;
    let leased = claim(subject, 4, at(1)).await;
    let dead: Vec<_> = leased.iter().map(|leased| outcome(leased, EXHAUSTED, at(2))).collect();
    subject.store.system().record_outcomes(&dead).await.unwrap();
    let store = &subject.store;
    let first = leased[0].id;
    store.replay_delivery(org, first, &Actor::CLI, at(11)).await.unwrap().unwrap();
    let event_id = Some(leased[1].event.id);
    let of_event = DeadLetterFilter { event_id, ..ALL_LETTERS };
    let replay = async |filter: &DeadLetterFilter| {
        store.insert_replay(org, filter, &Actor::CLI, at(20)).await.unwrap().unwrap()
    };
    let job = replay(&of_event).await;
    assert_eq!((job.total, job.action), (Some(1), ReplayAction::Replay));
    let step = store.step_replay(org, job.id, at(21)).await.unwrap().unwrap();
    assert_eq!(step.planned, 1);
    let job = store.replay(org, job.id).await.unwrap().unwrap();
    assert_eq!((job.status, job.done), (ReplayStatus::Finished, 1));
    assert_eq!(DeadLetterFilter { until: None, ..job.filter }, of_event);
    assert_eq!(replay(&of_event).await.total, Some(0), "it was replayed");
    let replayed = |replayed| DeadLetterFilter { replayed: Some(replayed), ..ALL_LETTERS };
    assert_eq!(replay(&replayed(false)).await.total, Some(2));
    // A server of an earlier version knows none of them, and would not see what they leave out.
    let known = "SELECT count(*) FROM replays WHERE action IN ('replay', 'discard')";
    assert_eq!(subject.count(known).await, 0);

    let unreplayed = DeadLetterFilter { endpoint_id: Some(endpoint.id), ..replayed(false) };
    let one = DeadLetterFilter { event_id: Some(leased[2].event.id), ..unreplayed };
    for (filter, done, expected) in
        [(of_event, 1, 3), (one, 1, 2), (replayed(true), 1, 1), (replayed(false), 1, 0)]
    {
        let job = discard(subject, org, &filter).await;
        assert_eq!(job.total, Some(done), "{filter:?}");
        let job = finish(subject, &job).await;
        assert_eq!((job.done, job.skipped, job.status), (done, 0, ReplayStatus::Finished));
        assert_eq!(left(subject, org).await, expected, "{filter:?}");
    }
}
