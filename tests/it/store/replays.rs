use std::collections::{BTreeMap, BTreeSet};

use hookgate::domain::{
    Actor, DeadLetterDeletion, DeadLetterFilter, DeadLetterId, DeadReason, Decision, Delivery,
    DeliveryFilter, DeliveryId, DeliveryStatus, EndpointChange, EndpointId, EventId,
    LeasedDelivery, OrgId, Outcome, PageRequest, Replay, ReplayId, ReplayStatus, Timestamp,
};
use hookgate::store::{DeliveryRefusal, REPLAYS_PER_STEP, Store};
use tokio::task::JoinSet;

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, add_endpoint, add_org, at, claim, org_with_deliveries,
    outcome, persist, some_event,
};
use super::{Subject, on_both};

on_both!(
    delivery_is_repeated_whatever_became_of_it_and_as_often_as_asked,
    replay_to_a_disabled_or_removed_endpoint_is_refused,
    event_goes_once_more_to_every_endpoint_it_was_planned_for,
    event_goes_to_the_endpoint_that_is_named_and_to_no_other,
    replay_of_dead_letters_repeats_each_once_in_the_order_of_the_events,
    replay_is_for_the_dead_letters_that_its_filter_names,
    what_was_replayed_before_is_left_alone,
    replay_skips_and_counts_endpoints_that_are_off,
    cancelled_replay_goes_no_further,
    several_instances_repeat_each_dead_letter_once,
    refused_event_stops_the_step_and_is_passed_by_once,
    replays_take_turns,
    dead_letters_are_shown_and_deleted_one_by_one,
    stranger_finds_no_replay,
);

/// Gives up what is leased.
async fn bury(subject: &Subject, leased: &[LeasedDelivery], now: Timestamp) {
    let outcomes: Vec<_> = leased.iter().map(|leased| outcome(leased, EXHAUSTED, now)).collect();
    let counted = subject.store.system().record_outcomes(&outcomes).await.unwrap();
    assert_eq!(counted, leased.len());
}

/// An organisation with an endpoint and as many dead deliveries, given up at `at(10)`.
async fn org_with_dead(subject: &Subject, count: usize) -> (OrgId, EndpointId) {
    let (org, endpoint) = org_with_deliveries(subject, count).await;
    let leased = claim(subject, count, at(1)).await;
    assert_eq!(leased.len(), count);
    bury(subject, &leased, at(10)).await;
    (org, endpoint.id)
}

async fn deliveries(subject: &Subject, org: OrgId) -> Vec<Delivery> {
    let page = PageRequest::first(10_000);
    subject.store.deliveries(org, &DeliveryFilter::default(), page).await.unwrap().data
}

async fn start(subject: &Subject, org: OrgId, filter: &DeadLetterFilter) -> Replay {
    subject.store.insert_replay(org, filter, &Actor::CLI, at(20)).await.unwrap().unwrap()
}

/// Does every step that is left and returns the replay as it is then.
async fn finish(subject: &Subject, replay: &Replay) -> Replay {
    while let Some(step) =
        subject.store.step_replay(replay.org_id, replay.id, at(30)).await.unwrap()
    {
        assert!(step.stopped_at.is_none());
    }
    subject.store.replay(replay.org_id, replay.id).await.unwrap().unwrap()
}

async fn disable(subject: &Subject, org: OrgId, endpoint: EndpointId) {
    let disabled_reason = Some(Some("off".to_owned()));
    let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
    subject
        .store
        .update_endpoint(org, endpoint, &change, &Actor::CLI, at(15))
        .await
        .unwrap()
        .unwrap();
}

async fn delivery_is_repeated_whatever_became_of_it_and_as_often_as_asked(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 3).await;
    let leased = claim(subject, 3, at(0)).await;
    bury(subject, &leased[..1], at(1)).await;
    let done = outcome(&leased[1], Decision::Delivered, at(1));
    subject.store.system().record_outcomes(&[done]).await.unwrap();

    for old in &leased {
        for _ in 0..2 {
            let new = subject
                .store
                .replay_delivery(org, old.id, &Actor::CLI, at(5))
                .await
                .unwrap()
                .unwrap();
            assert_eq!((new.replay_of, new.event_id), (Some(old.id), old.event.id));
            assert_eq!((new.status, new.attempts), (DeliveryStatus::Pending, 0));
            assert_eq!(new.next_attempt_at, Some(at(5)));
            let stored = subject.store.delivery(org, new.id).await.unwrap().unwrap();
            assert_eq!(format!("{stored:?}"), format!("{new:?}"));
        }
    }
    let again = claim(subject, 9, at(5)).await;
    assert_eq!(again.len(), 6);
    assert!(again.iter().all(|leased| leased.endpoint.id == endpoint.id && leased.attempts == 0));
    let letters = subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data;
    assert_eq!(letters.len(), 1, "the dead letter is kept");
    assert_eq!(letters[0].replayed_at, Some(at(5)));
    let old = subject.store.delivery(org, leased[0].id).await.unwrap().unwrap();
    assert_eq!((old.status, old.replay_of), (DeliveryStatus::Dead, None));
}

async fn replay_to_a_disabled_or_removed_endpoint_is_refused(subject: &Subject) {
    let (org, endpoint) = org_with_dead(subject, 1).await;
    let old = deliveries(subject, org).await.remove(0);
    let replay =
        async |org, id| subject.store.replay_delivery(org, id, &Actor::CLI, at(20)).await.unwrap();
    let event = async |endpoint| {
        subject
            .store
            .replay_event(org, old.event_id, Some(endpoint), &Actor::CLI, at(20))
            .await
            .unwrap()
    };
    let stranger = add_org(subject).await;
    assert_eq!(replay(stranger, old.id).await.unwrap_err(), DeliveryRefusal::NotFound);
    let missing = DeliveryId::mint(at(0));
    assert_eq!(replay(org, missing).await.unwrap_err(), DeliveryRefusal::NotFound);
    disable(subject, org, endpoint).await;
    assert_eq!(replay(org, old.id).await.unwrap_err(), DeliveryRefusal::EndpointDisabled);
    assert_eq!(event(endpoint).await.unwrap_err(), DeliveryRefusal::EndpointDisabled);
    subject.store.delete_endpoint(org, endpoint, &Actor::CLI, at(16)).await.unwrap();
    assert_eq!(replay(org, old.id).await.unwrap_err(), DeliveryRefusal::EndpointRemoved);
    assert_eq!(event(endpoint).await.unwrap_err(), DeliveryRefusal::EndpointRemoved);
    let theirs = add_endpoint(subject, stranger, "*").await;
    assert_eq!(event(theirs.id).await.unwrap_err(), DeliveryRefusal::EndpointRemoved);
    assert_eq!(deliveries(subject, org).await.len(), 1);
}

async fn event_goes_once_more_to_every_endpoint_it_was_planned_for(subject: &Subject) {
    let org = add_org(subject).await;
    let mut endpoints = Vec::new();
    for filters in ["a.*", "a.b", "a.*", "a.*", "other"] {
        endpoints.push(add_endpoint(subject, org, filters).await.id);
    }
    let event = some_event(org, "a.b", at(0));
    persist(subject, &[event.clone(), some_event(org, "a.b", at(0))], at(0)).await;
    disable(subject, org, endpoints[2]).await;
    subject.store.delete_endpoint(org, endpoints[3], &Actor::CLI, at(15)).await.unwrap();
    let first = deliveries(subject, org).await;

    let replay = async || {
        subject.store.replay_event(org, event.id, None, &Actor::CLI, at(20)).await.unwrap().unwrap()
    };
    let replayed = replay().await;
    assert_eq!((replayed.deliveries.len(), replayed.skipped), (2, 2));
    for new in &replayed.deliveries {
        let old = first.iter().find(|old| Some(old.id) == new.replay_of).unwrap();
        assert_eq!((old.event_id, old.endpoint_id), (event.id, new.endpoint_id));
    }
    let to: BTreeSet<_> = replayed.deliveries.iter().map(|new| new.endpoint_id.uuid()).collect();
    assert_eq!(to, BTreeSet::from([endpoints[0].uuid(), endpoints[1].uuid()]));
    let second = replay().await;
    let repeated: BTreeSet<_> = second.deliveries.iter().map(|new| new.replay_of).collect();
    let newest: BTreeSet<_> = replayed.deliveries.iter().map(|new| Some(new.id)).collect();
    assert_eq!(repeated, newest, "the newest is repeated");

    let stranger = add_org(subject).await;
    for (org, id) in [(stranger, event.id), (org, EventId::mint(at(0)))] {
        let refusal = subject
            .store
            .replay_event(org, id, None, &Actor::CLI, at(20))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(refusal, DeliveryRefusal::NotFound);
    }
}

async fn event_goes_to_the_endpoint_that_is_named_and_to_no_other(subject: &Subject) {
    let (org, endpoint) = org_with_dead(subject, 1).await;
    let new = add_endpoint(subject, org, "other").await;
    let old = deliveries(subject, org).await.remove(0);
    for (endpoint, replay_of) in [(endpoint, Some(old.id)), (new.id, None)] {
        let replayed = subject
            .store
            .replay_event(org, old.event_id, Some(endpoint), &Actor::CLI, at(20))
            .await
            .unwrap();
        let replayed = replayed.unwrap();
        assert_eq!((replayed.deliveries.len(), replayed.skipped), (1, 0));
        let delivery = &replayed.deliveries[0];
        assert_eq!((delivery.endpoint_id, delivery.replay_of), (endpoint, replay_of));
    }
    assert_eq!(claim(subject, 9, at(20)).await.len(), 2);
}

async fn replay_of_dead_letters_repeats_each_once_in_the_order_of_the_events(subject: &Subject) {
    let count = REPLAYS_PER_STEP + 500;
    let (org, _) = org_with_dead(subject, count).await;
    let old: BTreeSet<_> = deliveries(subject, org).await.iter().map(|old| old.id.uuid()).collect();
    let replay = start(subject, org, &ALL_LETTERS).await;
    assert_eq!((replay.total, replay.done, replay.skipped), (Some(count as u64), 0, 0));
    assert_eq!(replay.status, ReplayStatus::Running);
    // Given up too late to be meant.
    persist(subject, &[some_event(org, "a.b", at(21))], at(21)).await;
    bury(subject, &claim(subject, 1, at(21)).await, at(22)).await;

    let step = subject.store.step_replay(org, replay.id, at(25)).await.unwrap().unwrap();
    assert_eq!(step.planned, REPLAYS_PER_STEP);
    let under_way = subject.store.replay(org, replay.id).await.unwrap().unwrap();
    assert_eq!((under_way.status, under_way.done), (ReplayStatus::Running, step.planned as u64));
    let finished = finish(subject, &replay).await;
    assert_eq!((finished.done, finished.skipped), (count as u64, 0));
    assert_eq!(finished.status, ReplayStatus::Finished);
    assert_eq!(finished.finished_at, Some(at(30)));

    let mut new: Vec<_> =
        deliveries(subject, org).await.into_iter().filter(|row| row.replay_of.is_some()).collect();
    assert_eq!(new.len(), count);
    let repeated: BTreeSet<_> = new.iter().map(|new| new.replay_of.unwrap().uuid()).collect();
    assert_eq!(repeated, old);
    new.sort_by_key(|new| (new.created_at, new.id));
    let steps = new.chunk_by(|one, next| one.created_at == next.created_at);
    for step in steps {
        assert!(step.is_sorted_by_key(|new| new.event_id), "not in the order of the events");
    }
}

async fn replay_is_for_the_dead_letters_that_its_filter_names(subject: &Subject) {
    let org = add_org(subject).await;
    let (one, other) =
        (add_endpoint(subject, org, "a.*").await, add_endpoint(subject, org, "b").await);
    let mut of_type = BTreeMap::new();
    for (second, event_type) in [(1, "a.x"), (2, "a.y"), (3, "b"), (4, "a.x")] {
        let event = some_event(org, event_type, at(second));
        persist(subject, &[event], at(second)).await;
        let leased = claim(subject, 9, at(second)).await;
        let reason = if second == 4 { DeadReason::Gone } else { DeadReason::Exhausted };
        // Without an attempt it disables no endpoint.
        let dead = outcome(&leased[0], Decision::Dead(reason), at(second));
        let dead = Outcome { attempt: None, ..dead };
        subject.store.system().record_outcomes(&[dead]).await.unwrap();
        of_type.insert(leased[0].id.uuid(), second);
    }
    let all = &ALL_LETTERS;
    let by_type = |text: &str| Some(text.parse().unwrap());
    let cases: [(DeadLetterFilter, &[i64]); 10] = [
        (all.clone(), &[1, 2, 3, 4]),
        (DeadLetterFilter { endpoint_id: Some(one.id), ..all.clone() }, &[1, 2, 4]),
        (DeadLetterFilter { endpoint_id: Some(other.id), ..all.clone() }, &[3]),
        (DeadLetterFilter { reason: Some(DeadReason::Gone), ..all.clone() }, &[4]),
        (DeadLetterFilter { reason: Some(DeadReason::Unstorable), ..all.clone() }, &[]),
        (DeadLetterFilter { event_type: by_type("a.x"), ..all.clone() }, &[1, 4]),
        (DeadLetterFilter { event_type: by_type("a.*"), ..all.clone() }, &[1, 2, 4]),
        (DeadLetterFilter { event_type: by_type("*"), ..all.clone() }, &[1, 2, 3, 4]),
        (DeadLetterFilter { since: Some(at(2)), until: Some(at(4)), ..all.clone() }, &[2, 3]),
        (
            DeadLetterFilter {
                endpoint_id: Some(one.id),
                since: Some(at(2)),
                event_type: by_type("a.*"),
                ..all.clone()
            },
            &[2, 4],
        ),
    ];
    for (filter, expected) in cases {
        let letters = subject.store.dead_letters(org, &filter, FIRST_PAGE).await.unwrap().data;
        let mut listed: Vec<_> = letters.iter().map(|l| of_type[&l.id.uuid()]).collect();
        listed.reverse();
        assert_eq!(listed, expected, "{filter:?}");
        let replay = finish(subject, &start(subject, org, &filter).await).await;
        assert_eq!(replay.done, expected.len() as u64, "{filter:?}");
        if let Some(total) = replay.total {
            assert_eq!(total, replay.done, "{filter:?}");
        }
        let replayed = DeadLetterFilter { replayed: Some(true), ..all.clone() };
        let replayed = subject.store.dead_letters(org, &replayed, FIRST_PAGE).await.unwrap().data;
        assert_eq!(replayed.len(), expected.len(), "{filter:?}");
        subject
            .raw(
                "UPDATE dead_letters SET replayed_at = NULL",
                "UPDATE dead_letters SET replayed_at = NULL",
            )
            .await;
    }
}

async fn what_was_replayed_before_is_left_alone(subject: &Subject) {
    let (org, _) = org_with_dead(subject, 3).await;
    let one = deliveries(subject, org).await.remove(0);
    subject.store.replay_delivery(org, one.id, &Actor::CLI, at(19)).await.unwrap().unwrap();
    let first = start(subject, org, &ALL_LETTERS).await;
    assert_eq!((first.total, finish(subject, &first).await.done), (Some(2), 2));
    let second = finish(subject, &start(subject, org, &ALL_LETTERS).await).await;
    assert_eq!((second.total, second.done, second.skipped), (Some(0), 0, 0));
    assert_eq!(deliveries(subject, org).await.len(), 6);
    let waiting = DeadLetterFilter { replayed: Some(false), ..ALL_LETTERS };
    let letters = subject.store.dead_letters(org, &waiting, FIRST_PAGE).await.unwrap().data;
    assert!(letters.is_empty());
}

async fn replay_skips_and_counts_endpoints_that_are_off(subject: &Subject) {
    let (org, on) = org_with_deliveries(subject, 0).await;
    let (disabled, removed) =
        (add_endpoint(subject, org, "*").await, add_endpoint(subject, org, "*").await);
    let events: Vec<_> = (0..4).map(|_| some_event(org, "a.b", at(0))).collect();
    persist(subject, &events, at(0)).await;
    bury(subject, &claim(subject, 99, at(0)).await, at(10)).await;
    disable(subject, org, disabled.id).await;
    subject.store.delete_endpoint(org, removed.id, &Actor::CLI, at(15)).await.unwrap();

    let replay = start(subject, org, &ALL_LETTERS).await;
    let finished = finish(subject, &replay).await;
    assert_eq!((finished.total, finished.done, finished.skipped), (Some(12), 4, 8));
    let again = claim(subject, 99, at(30)).await;
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|leased| leased.endpoint.id == on.id));
    let waiting = DeadLetterFilter { replayed: Some(false), ..ALL_LETTERS };
    let letters = subject.store.dead_letters(org, &waiting, FIRST_PAGE).await.unwrap().data;
    assert_eq!(letters.len(), 8, "what was skipped can be replayed later");
}

async fn cancelled_replay_goes_no_further(subject: &Subject) {
    let count = REPLAYS_PER_STEP + 1;
    let (org, _) = org_with_dead(subject, count).await;
    let replay = start(subject, org, &ALL_LETTERS).await;
    subject.store.step_replay(org, replay.id, at(25)).await.unwrap().unwrap();
    let end = async |failure| {
        subject.store.end_replay(org, replay.id, failure, &Actor::CLI, at(26)).await
    };
    let ended = end(None).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.finished_at), (ReplayStatus::Cancelled, Some(at(26))));
    assert!(subject.store.step_replay(org, replay.id, at(27)).await.unwrap().is_none());
    assert!(subject.store.system().next_replay().await.unwrap().is_none());
    let ended = end(Some("late")).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.detail), (ReplayStatus::Cancelled, None));
    assert_eq!(deliveries(subject, org).await.len(), count + REPLAYS_PER_STEP);

    let failed = start(subject, org, &ALL_LETTERS).await;
    let failed =
        subject.store.end_replay(org, failed.id, Some("no"), &Actor::CLI, at(26)).await.unwrap();
    let failed = failed.unwrap();
    assert_eq!((failed.status, failed.detail.as_deref()), (ReplayStatus::Failed, Some("no")));
}

async fn several_instances_repeat_each_dead_letter_once(subject: &Subject) {
    let count = 3 * REPLAYS_PER_STEP + 7;
    let (org, _) = org_with_dead(subject, count).await;
    let replay = start(subject, org, &ALL_LETTERS).await;
    let mut instances = JoinSet::new();
    for _ in 0..4 {
        let (store, id) = (subject.another().await, replay.id);
        instances.spawn(async move {
            while is_running(&store, org, id).await {
                store.step_replay(org, id, at(30)).await.unwrap();
            }
        });
    }
    instances.join_all().await;
    let finished = subject.store.replay(org, replay.id).await.unwrap().unwrap();
    assert_eq!((finished.done, finished.skipped), (count as u64, 0));
    let rows = deliveries(subject, org).await;
    let repeated: BTreeSet<_> =
        rows.iter().filter_map(|row| row.replay_of).map(DeliveryId::uuid).collect();
    assert_eq!((rows.len(), repeated.len()), (2 * count, count));
}

async fn is_running(store: &Store, org: OrgId, id: ReplayId) -> bool {
    store.replay(org, id).await.unwrap().unwrap().status == ReplayStatus::Running
}

async fn refused_event_stops_the_step_and_is_passed_by_once(subject: &Subject) {
    let store = &subject.store;
    let (org, _) = org_with_dead(subject, 2).await;
    let refused = [EventId::mint(at(11)), EventId::mint(at(12))];
    for (second, event) in (11..).zip(refused) {
        store.quarantine_event(org, event, b"record", "no", at(second)).await.unwrap();
    }
    let replay = start(subject, org, &ALL_LETTERS).await;
    assert_eq!(replay.total, Some(4));
    let step = async || store.step_replay(org, replay.id, at(30)).await.unwrap().unwrap();
    let first = step().await;
    assert_eq!(first.planned, 2);
    let quarantined = first.stopped_at.unwrap();
    assert_eq!(
        (quarantined.position.id, &quarantined.record[..]),
        (refused[0].uuid(), &b"record"[..])
    );
    let again = step().await;
    assert_eq!((again.planned, again.stopped_at.unwrap().position.id), (0, refused[0].uuid()));
    for _ in 0..2 {
        store.pass_quarantined_event(org, &quarantined, true, at(31)).await.unwrap();
    }
    let second = step().await.stopped_at.unwrap();
    assert_eq!(second.position.id, refused[1].uuid());
    for stored in [false, true] {
        store.pass_quarantined_event(org, &second, stored, at(32)).await.unwrap();
    }
    let finished = finish(subject, &replay).await;
    assert_eq!((finished.done, finished.skipped), (3, 1));
    let id = |event: EventId| DeadLetterId::from_uuid(event.uuid());
    assert!(store.dead_letter(org, id(refused[0])).await.unwrap().is_none());
    assert!(store.dead_letter(org, id(refused[1])).await.unwrap().is_some());
}

async fn replays_take_turns(subject: &Subject) {
    let mut replays = Vec::new();
    for _ in 0..2 {
        let (org, _) = org_with_dead(subject, REPLAYS_PER_STEP).await;
        replays.push(start(subject, org, &ALL_LETTERS).await);
    }
    let system = subject.store.system();
    let (org, failing) = system.next_replay().await.unwrap().unwrap();
    system.pass_over_replay(org, failing, at(21)).await.unwrap();
    let mut turns = Vec::new();
    for second in 22..26 {
        let (org, id) = system.next_replay().await.unwrap().unwrap();
        subject.store.step_replay(org, id, at(second)).await.unwrap().unwrap();
        turns.push(id);
    }
    assert!(subject.store.system().next_replay().await.unwrap().is_none());
    assert_eq!(turns[1], failing, "one whose step failed goes behind the others");
    assert_ne!(turns[0], turns[1]);
    assert_eq!(turns[..2], turns[2..]);
}

async fn dead_letters_are_shown_and_deleted_one_by_one(subject: &Subject) {
    let store = &subject.store;
    let (org, endpoint) = org_with_dead(subject, 1).await;
    let stranger = add_org(subject).await;
    let event = EventId::mint(at(0));
    store.quarantine_event(org, event, b"record", "no", at(11)).await.unwrap();
    let letters = store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data;
    let [quarantined, dead] = &letters[..] else { panic!("{letters:?}") };
    let shown = store.dead_letter(org, dead.id).await.unwrap().unwrap();
    assert_eq!((shown.endpoint_id, shown.created_at), (Some(endpoint), at(10)));
    assert_eq!(store.quarantined_record(org, quarantined.id).await.unwrap().unwrap(), b"record");
    assert!(store.quarantined_record(org, dead.id).await.unwrap().is_none());
    let delete = async |org, id| {
        let why = DeadLetterDeletion::Discarded;
        store.delete_dead_letter(org, id, why, &Actor::CLI, at(12)).await.unwrap()
    };
    for letter in [quarantined, dead] {
        assert!(store.dead_letter(stranger, letter.id).await.unwrap().is_none());
        assert!(store.quarantined_record(stranger, letter.id).await.unwrap().is_none());
        assert!(!delete(stranger, letter.id).await);
        assert!(delete(org, letter.id).await);
        assert!(!delete(org, letter.id).await);
    }
    assert_eq!(deliveries(subject, org).await[0].status, DeliveryStatus::Dead);
}

async fn stranger_finds_no_replay(subject: &Subject) {
    let store = subject.store.clone();
    let (org, endpoint) = org_with_dead(subject, 1).await;
    let stranger = add_org(subject).await;
    let replay = start(subject, org, &ALL_LETTERS).await;
    assert!(store.replay(stranger, replay.id).await.unwrap().is_none());
    assert!(
        store.end_replay(stranger, replay.id, None, &Actor::CLI, at(21)).await.unwrap().is_none()
    );
    assert!(store.step_replay(stranger, replay.id, at(21)).await.unwrap().is_none());
    assert!(store.replays(stranger, FIRST_PAGE).await.unwrap().data.is_empty());
    assert_eq!(store.replays(org, FIRST_PAGE).await.unwrap().data.len(), 1);
    let theirs = DeadLetterFilter { endpoint_id: Some(endpoint), ..ALL_LETTERS };
    let theirs = finish(subject, &start(subject, stranger, &theirs).await).await;
    assert_eq!((theirs.total, theirs.done), (Some(0), 0));
    assert_eq!(finish(subject, &replay).await.done, 1);
}
