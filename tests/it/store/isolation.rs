use hookgate::domain::{
    Actor, DeliveryFilter, DeliveryStatus, EndpointChange, EventFilter, EventId, Role,
};
use hookgate::store::DeliveryRefusal;

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, add_org, at, claim, org_with_deliveries, outcome, some_key,
};
use super::{Subject, on_both};

on_both!(
    no_method_shows_one_organisation_what_another_owns,
    no_method_changes_for_one_organisation_what_another_owns,
);

async fn no_method_shows_one_organisation_what_another_owns(subject: &Subject) {
    let store = &subject.store;
    let stranger = add_org(subject).await;
    let (owner, endpoint) = org_with_deliveries(subject, 1).await;
    store
        .system()
        .insert_key(&some_key(Role::Tenant(owner), at(0)), &Actor::CLI)
        .await
        .unwrap()
        .unwrap();
    store.quarantine_event(owner, EventId::mint(at(0)), b"r", "d", at(0)).await.unwrap();
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let dead = outcome(&leased, EXHAUSTED, at(1));
    store.system().record_outcomes(&[dead]).await.unwrap();

    for (org, owned) in [(owner, 1), (stranger, 0)] {
        assert_eq!(store.keys(org, FIRST_PAGE).await.unwrap().data.len(), owned);
        assert_eq!(store.endpoints(org, None, FIRST_PAGE).await.unwrap().data.len(), owned);
        let endpoint = store.endpoint(org, endpoint.id).await.unwrap();
        assert_eq!(usize::from(endpoint.is_some()), owned);
        let event = store.event(org, leased.event.id).await.unwrap();
        assert_eq!(usize::from(event.is_some()), owned);
        let all = EventFilter::default();
        assert_eq!(store.events(org, &all, FIRST_PAGE).await.unwrap().data.len(), owned);
        let delivery = store.delivery(org, leased.id).await.unwrap();
        assert_eq!(usize::from(delivery.is_some()), owned);
        let all = DeliveryFilter::default();
        let filters = [
            all.clone(),
            DeliveryFilter { event_id: Some(leased.event.id), ..all.clone() },
            DeliveryFilter { endpoint_id: Some(leased.endpoint.id), ..all.clone() },
            DeliveryFilter { event_type: Some("*".parse().unwrap()), ..all },
        ];
        for filter in filters {
            let page = store.deliveries(org, &filter, FIRST_PAGE).await.unwrap();
            assert_eq!(page.data.len(), owned, "{filter:?}");
        }
        assert_eq!(store.attempts(org, leased.id).await.unwrap().len(), owned);
        assert_eq!(
            store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data.len(),
            2 * owned
        );
    }
}

async fn no_method_changes_for_one_organisation_what_another_owns(subject: &Subject) {
    let store = &subject.store;
    let stranger = add_org(subject).await;
    let (owner, endpoint) = org_with_deliveries(subject, 1).await;

    let disabled_reason = Some(Some("mine now".to_owned()));
    let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
    let answer =
        store.update_endpoint(stranger, endpoint.id, &change, &Actor::CLI, at(1)).await.unwrap();
    assert!(answer.is_none());
    assert!(!store.delete_endpoint(stranger, endpoint.id, &Actor::CLI, at(1)).await.unwrap());
    let leased = claim(subject, 1, at(1)).await.remove(0);
    let dead = outcome(&leased, EXHAUSTED, at(2));
    store.system().record_outcomes(&[dead]).await.unwrap();
    let refusal =
        store.retry_delivery(stranger, leased.id, &Actor::CLI, at(3)).await.unwrap().unwrap_err();
    assert_eq!(refusal, DeliveryRefusal::NotFound);

    let kept = store.endpoint(owner, endpoint.id).await.unwrap().unwrap();
    assert_eq!((kept.disabled_reason, kept.updated_at), (None, at(0)));
    let delivery = store.delivery(owner, leased.id).await.unwrap().unwrap();
    assert_eq!(delivery.status, DeliveryStatus::Dead);
    assert_eq!(store.dead_letters(owner, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data.len(), 1);
}
