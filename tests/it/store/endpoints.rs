use std::sync::Arc;
use std::time::Duration;

use hookgate::domain::{
    Actor, CustomHeaders, DeadReason, Decision, DeliveryId, DeliveryPolicy, DeliveryPolicyChange,
    DeliveryStatus, Endpoint, EndpointChange, EndpointId, EndpointKind, OrgId, Outcome,
    SigningSecret, Timestamp,
};
use hookgate::store::{OrgEndpoints, StoreError};

use super::fixtures::{
    FIRST_PAGE, add_endpoint, add_org, at, claim, org_with_deliveries, outcome, persist,
    some_endpoint, some_event,
};
use super::{Subject, on_both};

on_both!(
    attempt_at_what_an_endpoint_was_does_not_disable_it,
    endpoint_comes_back_as_it_was_added,
    settings_that_this_version_does_not_know_survive_a_change,
    endpoint_of_no_organisation_is_refused,
    change_touches_what_it_names_only,
    deliveries_of_a_disabled_endpoint_wait_until_it_is_enabled,
    every_change_of_an_endpoint_has_a_new_version_that_the_feed_names,
    what_has_changed_since_a_version_is_read_alone,
    removed_endpoint_is_deleted_once_nothing_can_come_of_it,
    delivery_under_way_stays_under_way_while_its_endpoint_is_switched_off_and_on,
    removing_cancels_what_waits_and_what_is_under_way,
    removing_a_missing_endpoint_says_so,
);

/// Disables or enables an endpoint.
async fn switch(subject: &Subject, endpoint: &Endpoint, reason: Option<&str>, now: Timestamp) {
    let disabled_reason = Some(reason.map(str::to_owned));
    let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
    let store = &subject.store;
    let now = store
        .update_endpoint(endpoint.org_id, endpoint.id, &change, &Actor::CLI, now)
        .await
        .unwrap();
    assert_eq!(now.unwrap().disabled_reason.as_deref(), reason);
}

async fn endpoint_comes_back_as_it_was_added(subject: &Subject) {
    let org = add_org(subject).await;
    // Every field has a value, so that a forgotten column fails here.
    let added = Endpoint {
        description: Some("about".to_owned()),
        headers: Ok(CustomHeaders::parse([("x-a", "b")]).unwrap()),
        disabled_reason: Some("off".to_owned()),
        policy: DeliveryPolicy {
            max_concurrency: Some(3),
            rate_limit_per_second: Some(7),
            retry_schedule: Some("5s,1m".parse().unwrap()),
            ordered: true,
        },
        config: r#"{"newer":{"a":[1,null]}}"#.parse().unwrap(),
        kind: EndpointKind::Pull,
        account_id: Some("account".to_owned()),
        // The first change of the organisation's endpoints.
        version: 1,
        cancel_before: Some(at(4)),
        failing_since: Some(at(5)),
        last_success_at: Some(at(6)),
        last_failure_at: Some(at(7)),
        ..some_endpoint(org, "user.*,invoice.paid")
    };
    let store = &subject.store;
    store.insert_endpoint(org, &added, &Actor::CLI).await.unwrap().unwrap();
    assert_eq!(store.endpoint(org, added.id).await.unwrap().as_ref(), Some(&added));
    let page = store.endpoints(org, None, FIRST_PAGE).await.unwrap();
    assert_eq!(page.data, [added]);
    assert!(store.endpoint(org, EndpointId::mint(at(0))).await.unwrap().is_none());
}

async fn settings_that_this_version_does_not_know_survive_a_change(subject: &Subject) {
    let org = add_org(subject).await;
    let config = r#"{"newer":true}"#.parse().unwrap();
    let added = Endpoint { config, ..some_endpoint(org, "*") };
    let store = &subject.store;
    store.insert_endpoint(org, &added, &Actor::CLI).await.unwrap().unwrap();
    let change =
        EndpointChange { description: Some(Some("x".to_owned())), ..EndpointChange::default() };
    store.update_endpoint(org, added.id, &change, &Actor::CLI, at(9)).await.unwrap().unwrap();
    let found = store.endpoint(org, added.id).await.unwrap().unwrap();
    let description = change.description.flatten();
    assert_eq!(found, Endpoint { description, updated_at: at(9), version: 2, ..added });
}

async fn endpoint_of_no_organisation_is_refused(subject: &Subject) {
    let org = OrgId::mint(at(0));
    let endpoint = some_endpoint(org, "*");
    let refused = subject.store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
}

async fn change_touches_what_it_names_only(subject: &Subject) {
    let org = add_org(subject).await;
    let added = add_endpoint(subject, org, "a.*").await;
    let update = async |change| {
        subject
            .store
            .update_endpoint(org, added.id, &change, &Actor::CLI, at(9))
            .await
            .unwrap()
            .unwrap()
    };
    let schedule = |text: &str| Some(Some(text.parse().unwrap()));
    let paced = update(EndpointChange {
        policy: DeliveryPolicyChange {
            max_concurrency: Some(Some(3)),
            rate_limit_per_second: Some(Some(7)),
            retry_schedule: schedule(""),
            ordered: Some(true),
        },
        ..EndpointChange::default()
    });
    let expected = DeliveryPolicy {
        max_concurrency: Some(3),
        rate_limit_per_second: Some(7),
        retry_schedule: schedule("").flatten(),
        ordered: true,
    };
    assert_eq!(paced.await.policy, expected);
    let nothing = update(EndpointChange::default()).await;
    assert_eq!(nothing.policy, expected);
    let policy = DeliveryPolicyChange {
        max_concurrency: Some(None),
        rate_limit_per_second: Some(None),
        retry_schedule: Some(None),
        ordered: Some(false),
    };
    let unpaced = update(EndpointChange { policy, ..EndpointChange::default() }).await;
    assert_eq!(unpaced.policy, DeliveryPolicy::default());
    assert_eq!((&nothing.url, &nothing.event_types), (&added.url, &added.event_types));
    assert_eq!((nothing.description, nothing.updated_at), (added.description.clone(), at(9)));

    let described = Some(None);
    let bare = update(EndpointChange { description: described, ..EndpointChange::default() }).await;
    assert_eq!((bare.description, &bare.secrets), (None, &added.secrets));
    let moved = update(EndpointChange {
        url: Some("https://example.org/".parse().unwrap()),
        event_types: Some("b".parse().unwrap()),
        ..EndpointChange::default()
    });
    let moved = moved.await;
    assert_eq!(moved.url.as_str(), "https://example.org/");
    assert_eq!(moved.event_types.to_string(), "b");
    let found = subject.store.endpoint(org, added.id).await.unwrap().unwrap();
    assert_eq!((found.url, found.description), (moved.url, None));

    let missing = EndpointId::mint(at(0));
    let change = EndpointChange::default();
    let answer =
        subject.store.update_endpoint(org, missing, &change, &Actor::CLI, at(9)).await.unwrap();
    assert!(answer.is_none());
}

async fn deliveries_of_a_disabled_endpoint_wait_until_it_is_enabled(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 2).await;
    switch(subject, &endpoint, Some("410 Gone"), at(10)).await;
    assert_eq!(claim(subject, 10, at(20)).await.len(), 0);
    let page = subject.store.deliveries(org, &<_>::default(), FIRST_PAGE).await.unwrap();
    assert!(page.data.iter().all(|d| d.status == DeliveryStatus::Pending));
    assert!(page.data.iter().all(|d| d.next_attempt_at.is_none()));
    let planned = persist(subject, &[some_event(org, "a.b", at(20))], at(20)).await.planned;
    assert_eq!(planned, 0, "a disabled endpoint gets no deliveries");

    switch(subject, &endpoint, None, at(30)).await;
    let page = subject.store.deliveries(org, &<_>::default(), FIRST_PAGE).await.unwrap();
    assert!(page.data.iter().all(|d| d.next_attempt_at == Some(at(0))));
    assert_eq!(claim(subject, 10, at(30)).await.len(), 2);
}

async fn every_change_of_an_endpoint_has_a_new_version_that_the_feed_names(subject: &Subject) {
    let store = &subject.store;
    let org = add_org(subject).await;
    let mut mark = store.system().changed_endpoints(None).await.unwrap().mark;
    let endpoint = add_endpoint(subject, org, "*").await;
    let id = endpoint.id;
    let version = async || {
        let shown = store.endpoint(org, id).await.unwrap();
        shown.map(|endpoint| endpoint.version)
    };
    let mut before = 0;
    for change in 0..8 {
        match change {
            0 => {}
            1 => switch(subject, &endpoint, Some("off"), at(1)).await,
            2 => switch(subject, &endpoint, None, at(2)).await,
            3 => {
                let secret = SigningSecret::generate().unwrap();
                let none = Duration::ZERO;
                let rotated = store.rotate_secret(org, id, &secret, none, &Actor::CLI, at(3)).await;
                rotated.unwrap().unwrap();
            }
            4 => drop(store.suspend_org(org, true, &Actor::CLI, at(4)).await.unwrap().unwrap()),
            5 => drop(store.suspend_org(org, false, &Actor::CLI, at(5)).await.unwrap().unwrap()),
            6 => drop(store.cancel_pending(org, id, &Actor::CLI, at(6)).await.unwrap().unwrap()),
            _ => assert!(store.delete_endpoint(org, id, &Actor::CLI, at(7)).await.unwrap()),
        }
        let now = version().await;
        assert!(now.is_none_or(|now| now > before), "change {change}: {now:?}");
        before = now.unwrap_or_default();
        let changes = store.system().changed_endpoints(mark).await.unwrap();
        assert_eq!(changes.changes, [(org, id)], "change {change}");
        mark = changes.mark;
    }
    // On PostgreSQL the last change may be named again: any transaction that still runs holds the mark back.
    if !subject.is_postgres() {
        assert_eq!(store.system().changed_endpoints(mark).await.unwrap().changes, []);
    }
}

async fn what_has_changed_since_a_version_is_read_alone(subject: &Subject) {
    let store = &subject.store;
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    add_endpoint(subject, other, "*").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(add_endpoint(subject, org, "*").await.id);
    }
    let all = async || store.system().org_endpoints(&[org]).await.unwrap().remove(&org).unwrap();
    let since = async |version| store.system().endpoints_since(org, version).await.unwrap();
    let before = all().await;
    let nothing = since(before.version).await.unwrap();
    assert_eq!((nothing.version, nothing.changed.len()), (before.version, 0));
    assert!(since(before.version + 1).await.is_none(), "a version that is not there yet");

    let new = add_endpoint(subject, org, "*").await.id;
    assert!(store.delete_endpoint(org, ids[0], &Actor::CLI, at(1)).await.unwrap());
    let one = store.endpoint(org, ids[1]).await.unwrap().unwrap();
    switch(subject, &one, Some("off"), at(2)).await;
    let changes = since(before.version).await.unwrap();
    let mut found: Vec<_> =
        changes.changed.iter().map(|one| (one.id, one.endpoint.is_some())).collect();
    let mut expected = [(new, true), (ids[0], false), (ids[1], false)];
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let of = |endpoints: &OrgEndpoints| {
        let version = |endpoint: &Arc<Endpoint>| (endpoint.id, endpoint.version);
        (endpoints.version, endpoints.endpoints.iter().map(version).collect::<Vec<_>>())
    };
    assert_eq!(of(&before.with(&changes).unwrap()), of(&*all().await));
    assert!(changes.since > 0 && OrgEndpoints::default().with(&changes).is_none(), "older");

    // The row of a version that came in between is gone.
    switch(subject, &one, None, at(3)).await;
    let known = all().await;
    switch(subject, &one, Some("off"), at(4)).await;
    switch(subject, &one, None, at(5)).await;
    assert!(since(known.version).await.is_none());
    assert_eq!(since(known.version + 1).await.unwrap().changed.len(), 1);
    // One that cannot be read is told apart when all are read.
    let spoil =
        format!("UPDATE endpoints SET url = 'no url' WHERE version = {}", known.version + 2);
    subject.raw(&spoil, &spoil).await;
    assert!(since(known.version + 1).await.is_none());
    assert!(all().await.with(&changes).is_none());
    assert!(store.system().endpoints_since(OrgId::mint(at(9)), 0).await.unwrap().is_none());
}

async fn removed_endpoint_is_deleted_once_nothing_can_come_of_it(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let store = &subject.store;
    assert!(store.delete_endpoint(org, endpoint.id, &Actor::CLI, at(5)).await.unwrap());
    assert!(!store.delete_endpoint(org, endpoint.id, &Actor::CLI, at(6)).await.unwrap());
    // One that was being planned meanwhile, with a time after the removal.
    let late = DeliveryId::mint(at(7));
    let columns = "org_id, created_at, id, event_id, event_received_at, endpoint_id, payload_bytes";
    let slip = |id: String, created: &str, due: &str| {
        format!(
            "INSERT INTO pending_deliveries ({columns}, due_at)
             SELECT org_id, {created}, {id}, event_id, event_received_at, endpoint_id, 1, {due}
             FROM deliveries"
        )
    };
    let id = late.uuid().simple();
    let micros = at(7).micros().to_string();
    let time = format!("'{}'::timestamptz", at(7));
    subject
        .raw(
            &slip(format!("x'{id}'"), &micros, &micros),
            &slip(format!("'{id}'::uuid"), &time, &time),
        )
        .await;
    assert_eq!(claim(subject, 9, at(8)).await.len(), 0);
    let status = async || store.delivery(org, late).await.unwrap().unwrap().status;
    assert_eq!(status().await, DeliveryStatus::Cancelled);
    let step = async |now| store.system().cancel_step(at(now)).await.unwrap();
    assert_eq!((step(9).await, step(9).await), (1, 0));
    assert_eq!(status().await, DeliveryStatus::Cancelled);
    let rows = "SELECT count(*) FROM endpoints";
    assert_eq!(subject.count(rows).await, 1);
    assert_eq!((step(700).await, step(700).await), (1, 0));
    assert_eq!(subject.count(rows).await, 0);
}

async fn delivery_under_way_stays_under_way_while_its_endpoint_is_switched_off_and_on(
    subject: &Subject,
) {
    let (_, endpoint) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    switch(subject, &endpoint, Some("by its owner"), at(1)).await;
    switch(subject, &endpoint, None, at(2)).await;
    assert_eq!(claim(subject, 1, at(3)).await.len(), 0);
    let delivered = outcome(&leased, Decision::Delivered, at(4));
    assert_eq!(subject.store.system().record_outcomes(&[delivered]).await.unwrap(), 1);
}

async fn removing_cancels_what_waits_and_what_is_under_way(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 3).await;
    let mut leased = claim(subject, 2, at(0)).await;
    let done = leased.remove(0);
    let delivered = outcome(&done, Decision::Delivered, at(1));
    assert_eq!(subject.store.system().record_outcomes(&[delivered]).await.unwrap(), 1);

    assert!(subject.store.delete_endpoint(org, endpoint.id, &Actor::CLI, at(5)).await.unwrap());
    assert!(subject.store.endpoint(org, endpoint.id).await.unwrap().is_none());
    let page = subject.store.deliveries(org, &<_>::default(), FIRST_PAGE).await.unwrap();
    for delivery in page.data {
        let (status, at) = if delivery.id == done.id {
            (DeliveryStatus::Delivered, at(1))
        } else {
            (DeliveryStatus::Cancelled, at(5))
        };
        assert_eq!((delivery.status, delivery.finished_at), (status, Some(at)));
        assert_eq!(delivery.next_attempt_at, None);
    }
    let late = outcome(&leased[0], Decision::Delivered, at(6));
    assert_eq!(subject.store.system().record_outcomes(&[late]).await.unwrap(), 0);
    assert_eq!(subject.store.attempts(org, leased[0].id).await.unwrap(), []);
    assert_eq!(claim(subject, 10, at(1_000)).await.len(), 0);
}

async fn removing_a_missing_endpoint_says_so(subject: &Subject) {
    let org = add_org(subject).await;
    assert!(
        !subject
            .store
            .delete_endpoint(org, EndpointId::mint(at(0)), &Actor::CLI, at(1))
            .await
            .unwrap()
    );
}

async fn attempt_at_what_an_endpoint_was_does_not_disable_it(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 3).await;
    let gone = Decision::Dead(DeadReason::Gone);
    let leased = claim(subject, 2, at(0)).await;
    let url = Some("https://example.org/".parse().unwrap());
    let moved = EndpointChange { url, ..EndpointChange::default() };
    subject.store.update_endpoint(org, endpoint.id, &moved, &Actor::CLI, at(1)).await.unwrap();
    let old = outcome(&leased[1], Decision::RetryAt(at(60)), at(2));
    let old = Outcome { disable_if_failing_since: at(9), ..old };
    for outcomes in [[outcome(&leased[0], gone.clone(), at(2))], [old]] {
        assert_eq!(subject.store.system().record_outcomes(&outcomes).await.unwrap(), 1);
        let found = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
        assert_eq!((found.disabled_reason, found.failing_since), (None, None));
    }
    let delivery = subject.store.delivery(org, leased[0].id).await.unwrap().unwrap();
    assert_eq!(delivery.status, DeliveryStatus::Dead);

    let leased = claim(subject, 1, at(3)).await;
    let outcomes = [outcome(&leased[0], gone, at(4))];
    assert_eq!(subject.store.system().record_outcomes(&outcomes).await.unwrap(), 1);
    let found = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    assert_eq!(found.disabled_reason.as_deref(), Some("the receiver answered 410 Gone"));
}
