use std::time::Duration;

use hookgate::config::SecretsKeys;
use hookgate::domain::{
    Actor, CustomHeaders, DeliveryStatus, Endpoint, EndpointChange, EndpointId, OrgId,
    SecretRotationRefusal, Secrets, SignatureScheme, SigningSecret,
};
use hookgate::store::{PlanRefusal, Store};

use super::fixtures::{
    FIRST_PAGE, add_endpoint, add_org, at, claim, org_with_deliveries, persist, persist_events,
    room, some_endpoint, some_event,
};
use super::{Subject, on_both};

on_both!(
    secrets_and_headers_come_back_as_they_were_added,
    rotation_keeps_the_old_secret_for_the_overlap,
    rotation_of_no_endpoint_of_the_organisation_is_refused,
    rotation_beyond_the_bound_is_refused_and_changes_nothing,
    rotations_at_once_lose_no_secret,
    with_a_key_nothing_secret_is_in_clear_and_without_it_the_rest_is_still_read,
    rows_in_clear_are_read_and_encrypted_step_by_step,
    keys_are_changed_by_listing_both,
    secret_moved_to_another_row_is_unreadable_there,
    unreadable_secret_stops_nobody_elses_claim,
    lost_key_can_be_got_over,
    event_can_be_planned_for_one_endpoint_whatever_its_filters,
    event_is_planned_for_no_endpoint_that_is_missing_or_disabled,
);

const OLD: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const NEW: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const DAY: Duration = Duration::from_hours(24);

/// Another instance, with these keys.
async fn keyed(subject: &Subject, keys: &str) -> Store {
    subject.another_with(Some(SecretsKeys::parse(keys).unwrap())).await
}

fn new_secret() -> SigningSecret {
    SigningSecret::generate_for(SignatureScheme::Ed25519).unwrap()
}

fn custom() -> CustomHeaders {
    CustomHeaders::parse([("authorization", "Bearer s3cret")]).unwrap()
}

async fn read(store: &Store, endpoint: &Endpoint) -> Endpoint {
    store.endpoint(endpoint.org_id, endpoint.id).await.unwrap().unwrap()
}

async fn rotate(store: &Store, endpoint: &Endpoint, overlap: Duration) -> Endpoint {
    let (org, id) = (endpoint.org_id, endpoint.id);
    store.rotate_secret(org, id, &new_secret(), overlap, &Actor::CLI, at(1)).await.unwrap().unwrap()
}

/// An endpoint with an earlier secret and headers, written by this store.
async fn add_full(store: &Store, org: OrgId) -> Endpoint {
    let endpoint = Endpoint { headers: Ok(custom()), ..some_endpoint(org, "*") };
    store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    rotate(store, &endpoint, DAY).await
}

/// Secret texts in clear in the whole table.
async fn in_clear(subject: &Subject) -> i64 {
    subject
        .count(
            "SELECT count(*) FROM endpoints WHERE secret LIKE 'wh%'
                 OR earlier_secrets LIKE '%wh%_%' AND earlier_secrets NOT LIKE 'enc1.%'
                 OR headers LIKE '{%'",
        )
        .await
}

async fn secrets_and_headers_come_back_as_they_were_added(subject: &Subject) {
    let org = add_org(subject).await;
    let added = Endpoint {
        secrets: Ok(Secrets::new(new_secret())),
        headers: Ok(custom()),
        ..some_endpoint(org, "*")
    };
    subject.store.insert_endpoint(org, &added, &Actor::CLI).await.unwrap().unwrap();
    let found = read(&subject.store, &added).await;
    assert_eq!((&found.secrets, &found.headers), (&added.secrets, &added.headers));

    let update = async |headers| {
        let change = EndpointChange { headers, ..EndpointChange::default() };
        subject
            .store
            .update_endpoint(org, added.id, &change, &Actor::CLI, at(9))
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(update(None).await.headers, added.headers);
    assert_eq!(update(Some(CustomHeaders::default())).await.headers, Ok(CustomHeaders::default()));
    let again = update(Some(custom())).await;
    assert_eq!((again.headers, again.secrets), (Ok(custom()), added.secrets));
}

async fn rotation_keeps_the_old_secret_for_the_overlap(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let old = endpoint.secrets.as_ref().unwrap().current().clone();
    let new = new_secret();
    let rotated =
        subject.store.rotate_secret(org, endpoint.id, &new, DAY, &Actor::CLI, at(10)).await;
    let rotated = rotated.unwrap().unwrap();
    assert_eq!((rotated.updated_at, &rotated.url), (at(10), &endpoint.url));
    assert_eq!(read(&subject.store, &endpoint).await.secrets, rotated.secrets);

    let leased = claim(subject, 1, at(20)).await.remove(0);
    let secrets = leased.endpoint.secrets.as_ref().unwrap();
    let signing = |now| secrets.signing_at(now).cloned().collect::<Vec<_>>();
    assert_eq!(signing(at(20)), [new.clone(), old]);
    assert_eq!(signing(at(10).plus(DAY)), [new]);
}

async fn rotation_of_no_endpoint_of_the_organisation_is_refused(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let endpoint = add_endpoint(subject, org, "*").await;
    for (org, id) in [(other, endpoint.id), (org, EndpointId::mint(at(0)))] {
        let answer =
            subject.store.rotate_secret(org, id, &new_secret(), DAY, &Actor::CLI, at(1)).await;
        assert_eq!(answer.unwrap().unwrap_err(), SecretRotationRefusal::NotFound);
    }
    assert_eq!(read(&subject.store, &endpoint).await.secrets, endpoint.secrets);
}

async fn rotation_beyond_the_bound_is_refused_and_changes_nothing(subject: &Subject) {
    let org = add_org(subject).await;
    let mut endpoint = add_endpoint(subject, org, "*").await;
    for _ in 0..Secrets::EARLIER_MAX {
        endpoint = rotate(&subject.store, &endpoint, DAY).await;
    }
    let answer =
        subject.store.rotate_secret(org, endpoint.id, &new_secret(), DAY, &Actor::CLI, at(2)).await;
    assert_eq!(answer.unwrap().unwrap_err(), SecretRotationRefusal::TooManySecrets);
    assert_eq!(read(&subject.store, &endpoint).await.secrets, endpoint.secrets);
    let alone = rotate(&subject.store, &endpoint, Duration::ZERO).await;
    assert_eq!(alone.secrets.unwrap().signing_at(at(1)).count(), 1);
}

async fn rotations_at_once_lose_no_secret(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let other = subject.another().await;
    let (first, second, third) = tokio::join!(
        rotate(&subject.store, &endpoint, DAY),
        rotate(&other, &endpoint, DAY),
        rotate(&subject.store, &endpoint, DAY),
    );
    let found = read(&subject.store, &endpoint).await.secrets.unwrap();
    let signing: Vec<_> = found.signing_at(at(2)).collect();
    assert_eq!(signing.len(), 4);
    for made in [endpoint, first, second, third] {
        assert!(signing.contains(&made.secrets.unwrap().current()));
    }
    other.close().await;
}

async fn with_a_key_nothing_secret_is_in_clear_and_without_it_the_rest_is_still_read(
    subject: &Subject,
) {
    let org = add_org(subject).await;
    let store = keyed(subject, OLD).await;
    let endpoint = add_full(&store, org).await;
    assert_eq!(in_clear(subject).await, 0);
    let found = read(&store, &endpoint).await;
    assert_eq!((&found.secrets, &found.headers), (&endpoint.secrets, &endpoint.headers));
    assert_eq!(store.system().missing_keys().await.unwrap(), []);

    let blind = read(&subject.store, &endpoint).await;
    assert!(blind.headers.is_err());
    let why = blind.secrets.unwrap_err().to_string();
    assert!(why.contains("SECRETS_KEY"), "{why}");
    let missing = subject.store.system().missing_keys().await.unwrap();
    assert_eq!(missing.iter().map(|key| key.texts).collect::<Vec<_>>(), [3]);
    assert!(why.contains(&missing[0].id), "{why}");
    let page = subject.store.endpoints(org, None, FIRST_PAGE).await.unwrap();
    assert_eq!((page.data.len(), &page.data[0].url), (1, &endpoint.url));
    let answer =
        subject.store.rotate_secret(org, endpoint.id, &new_secret(), DAY, &Actor::CLI, at(2)).await;
    assert_eq!(answer.unwrap().unwrap_err(), SecretRotationRefusal::Undecryptable);
    store.close().await;
}

async fn rows_in_clear_are_read_and_encrypted_step_by_step(subject: &Subject) {
    let org = add_org(subject).await;
    for _ in 0..101 {
        add_endpoint(subject, org, "*").await;
    }
    let endpoint = add_full(&subject.store, org).await;
    let store = keyed(subject, OLD).await;
    assert_eq!(read(&store, &endpoint).await.secrets, endpoint.secrets);
    assert_eq!(in_clear(subject).await, 102);

    // Without a key there is nothing to encrypt by.
    assert_eq!(subject.store.system().reencrypt_secrets(None).await.unwrap().encrypted, 0);
    let step = store.system().reencrypt_secrets(None).await.unwrap();
    assert_eq!((step.endpoints, step.encrypted, step.next.is_some()), (100, 100, true));
    assert_eq!(in_clear(subject).await, 2, "broken off after a step");
    let again = store.system().reencrypt_secrets(None).await.unwrap();
    assert_eq!((again.endpoints, again.encrypted), (100, 0), "and begun anew");
    let rest = store.system().reencrypt_secrets(again.next).await.unwrap();
    assert_eq!((rest.endpoints, rest.encrypted, rest.next), (2, 2, None));
    assert_eq!(in_clear(subject).await, 0);
    let found = read(&store, &endpoint).await;
    assert_eq!((&found.secrets, &found.headers), (&endpoint.secrets, &endpoint.headers));
    store.close().await;
}

async fn keys_are_changed_by_listing_both(subject: &Subject) {
    let org = add_org(subject).await;
    let (old, both) = (keyed(subject, OLD).await, keyed(subject, &format!("{NEW},{OLD}")).await);
    let new = keyed(subject, NEW).await;
    let endpoint = add_full(&old, org).await;
    assert_eq!(read(&both, &endpoint).await.secrets, endpoint.secrets);
    let failed = new.system().reencrypt_secrets(None).await.unwrap();
    assert_eq!((failed.encrypted, failed.unreadable), (0, vec![endpoint.id]));
    assert_eq!(new.system().missing_keys().await.unwrap().len(), 1);

    assert_eq!(both.system().reencrypt_secrets(None).await.unwrap().encrypted, 1);
    assert_eq!(new.system().missing_keys().await.unwrap(), []);
    let found = read(&new, &endpoint).await;
    assert_eq!((&found.secrets, &found.headers), (&endpoint.secrets, &endpoint.headers));
    assert!(read(&old, &endpoint).await.secrets.is_err());
    for store in [old, both, new] {
        store.close().await;
    }
}

async fn secret_moved_to_another_row_is_unreadable_there(subject: &Subject) {
    let store = keyed(subject, OLD).await;
    let org = add_org(subject).await;
    let (victim, thief) = (add_full(&store, org).await, add_full(&store, org).await);
    let id = |endpoint: &Endpoint| endpoint.id.uuid().simple().to_string();
    let (victims, thiefs) = (id(&victim), id(&thief));
    let copy = |of: &str, to: &str| {
        format!(
            "UPDATE endpoints SET secret = (SELECT secret FROM endpoints WHERE id = {of}) WHERE id = {to}"
        )
    };
    let sqlite = copy(&format!("x'{victims}'"), &format!("x'{thiefs}'"));
    let postgres = copy(&format!("'{victims}'"), &format!("'{thiefs}'"));
    subject.raw(&sqlite, &postgres).await;
    let why = read(&store, &thief).await.secrets.unwrap_err().to_string();
    assert!(why.contains("changed or moved"), "{why}");
    assert_eq!(read(&store, &victim).await.secrets, victim.secrets);
    store.close().await;
}

async fn unreadable_secret_stops_nobody_elses_claim(subject: &Subject) {
    let org = add_org(subject).await;
    let store = keyed(subject, OLD).await;
    let unreadable = add_full(&store, org).await;
    let readable = add_endpoint(subject, org, "*").await;
    let leased = {
        let events = [std::sync::Arc::new(some_event(org, "a.b", at(0)))];
        let room = room(1, at(60));
        persist_events(&subject.store, &events, Some(room), at(0)).await.unwrap().leased
    };
    assert_eq!(leased.len(), 1);
    assert_eq!(persist(subject, &[some_event(org, "a.b", at(0))], at(0)).await.planned, 2);
    let claimed = claim(subject, 10, at(0)).await;
    assert_eq!(claimed.len(), 3);
    for delivery in leased.iter().chain(&claimed) {
        let is_readable = delivery.endpoint.secrets.is_ok();
        assert_eq!(is_readable, delivery.endpoint.id == readable.id);
        assert_ne!(is_readable, delivery.endpoint.id == unreadable.id);
    }
    store.close().await;
}

async fn lost_key_can_be_got_over(subject: &Subject) {
    let org = add_org(subject).await;
    let (lost, store) = (keyed(subject, OLD).await, keyed(subject, NEW).await);
    let endpoint = add_full(&lost, org).await;
    let rotated = rotate(&store, &endpoint, Duration::ZERO).await;
    let headers = Some(custom());
    let change = EndpointChange { headers, ..EndpointChange::default() };
    store.update_endpoint(org, endpoint.id, &change, &Actor::CLI, at(2)).await.unwrap().unwrap();
    let found = read(&store, &endpoint).await;
    assert_eq!((found.secrets, found.headers), (rotated.secrets, Ok(custom())));
    assert_eq!(store.system().missing_keys().await.unwrap(), []);
    lost.close().await;
    store.close().await;
}

async fn event_can_be_planned_for_one_endpoint_whatever_its_filters(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "invoice.*").await;
    add_endpoint(subject, org, "*").await;
    let event = std::sync::Arc::new(some_event(org, "hookgate.test", at(5)));
    let id = subject
        .store
        .plan_event(org, endpoint.id, &event, &Actor::CLI, at(5))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(subject.store.event(org, event.id).await.unwrap().as_ref(), Some(&*event));
    let page = subject.store.deliveries(org, &<_>::default(), FIRST_PAGE).await.unwrap();
    assert_eq!(page.data.len(), 1);
    let delivery = &page.data[0];
    assert_eq!((delivery.id, delivery.event_id), (id, event.id));
    assert_eq!((delivery.endpoint_id, delivery.status), (endpoint.id, DeliveryStatus::Pending));
    assert_eq!(delivery.next_attempt_at, Some(at(5)));
    assert_eq!(claim(subject, 10, at(5)).await.len(), 1);
}

async fn event_is_planned_for_no_endpoint_that_is_missing_or_disabled(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let endpoint = add_endpoint(subject, org, "*").await;
    let disabled_reason = Some(Some("by its owner".to_owned()));
    let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
    subject.store.update_endpoint(org, endpoint.id, &change, &Actor::CLI, at(1)).await.unwrap();
    let plan = async |org, id| {
        let event = std::sync::Arc::new(some_event(org, "a.b", at(5)));
        let refusal = subject
            .store
            .plan_event(org, id, &event, &Actor::CLI, at(5))
            .await
            .unwrap()
            .unwrap_err();
        assert!(subject.store.event(org, event.id).await.unwrap().is_none(), "nothing is stored");
        refusal
    };
    assert_eq!(plan(org, endpoint.id).await, PlanRefusal::EndpointDisabled);
    assert_eq!(plan(other, endpoint.id).await, PlanRefusal::NotFound);
    assert_eq!(plan(org, EndpointId::mint(at(0))).await, PlanRefusal::NotFound);
}
