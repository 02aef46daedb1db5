use hookgate::domain::{Actor, EventTypeRates, Org, OrgChange, OrgLimit};

use super::fixtures::{FIRST_PAGE, add_org, at, some_org};
use super::{Subject, on_both};

on_both!(
    organisation_comes_back_as_it_was_added,
    organisation_is_added_once,
    change_touches_what_it_names_only,
    organisations_are_listed_from_newest_to_oldest,
);

async fn organisation_comes_back_as_it_was_added(subject: &Subject) {
    let mut org = some_org(at(1));
    for (place, limit) in (7..).zip(OrgLimit::ALL) {
        org.limits = org.limits.with(limit, Some(place));
    }
    subject.store.system().insert_org(&org, &Actor::CLI).await.unwrap();
    assert_eq!(subject.store.org(org.id).await.unwrap(), Some(org));
    assert_eq!(subject.store.org(some_org(at(1)).id).await.unwrap(), None);
}

async fn organisation_is_added_once(subject: &Subject) {
    let org = some_org(at(1));
    subject.store.system().insert_org(&org, &Actor::CLI).await.unwrap();
    let again = subject.store.system().insert_org(&org, &Actor::CLI).await.unwrap_err();
    assert!(matches!(again, hookgate::store::StoreError::Refused(_)), "{again}");
}

async fn change_touches_what_it_names_only(subject: &Subject) {
    let id = add_org(subject).await;
    let update = async |change| {
        subject.store.update_org(id, &change, &Actor::CLI, at(5)).await.unwrap().unwrap()
    };

    let told = |org: &Org| {
        let limit = |limit| org.limits.get(limit);
        (org.name.clone(), limit(OrgLimit::RatePerMinute), limit(OrgLimit::Keys))
    };
    let limits = vec![(OrgLimit::RatePerMinute, Some(7)), (OrgLimit::Keys, Some(0))];
    let limited = update(OrgChange { name: None, limits, ..OrgChange::default() }).await;
    assert_eq!(told(&limited), ("Acme".to_owned(), Some(7), Some(0)));
    let name = Some("Other".to_owned());
    let renamed = update(OrgChange { name, limits: Vec::new(), ..OrgChange::default() }).await;
    assert_eq!(told(&renamed), ("Other".to_owned(), Some(7), Some(0)));
    let limits = vec![(OrgLimit::RatePerMinute, None)];
    let unlimited = update(OrgChange { name: None, limits, ..OrgChange::default() }).await;
    assert_eq!(told(&unlimited), ("Other".to_owned(), None, Some(0)));
    assert_eq!(subject.store.org(id).await.unwrap(), Some(unlimited));

    let rates = EventTypeRates::parse([("user.login", Some(5))]).unwrap();
    let (set, none) = (Some(rates.clone()), Some(EventTypeRates::default()));
    let limits = vec![(OrgLimit::DeliveriesPerMinute, Some(1_000_000_000))];
    let by_type = update(OrgChange { limits, event_type_rates: set, ..OrgChange::default() }).await;
    assert_eq!(by_type.event_type_rates, rates);
    assert_eq!(subject.store.org(id).await.unwrap(), Some(by_type));
    let same = update(OrgChange { event_type_rates: none, ..OrgChange::default() }).await;
    assert!(same.event_type_rates.is_empty());
    assert_eq!(same.limits.get(OrgLimit::DeliveriesPerMinute), Some(1_000_000_000));

    let stranger = some_org(at(1)).id;
    let missing = subject
        .store
        .update_org(stranger, &OrgChange::default(), &Actor::CLI, at(5))
        .await
        .unwrap();
    assert_eq!(missing, None);
}

async fn organisations_are_listed_from_newest_to_oldest(subject: &Subject) {
    let orgs = [some_org(at(1)), some_org(at(3)), some_org(at(2))];
    for org in &orgs {
        subject.store.system().insert_org(org, &Actor::CLI).await.unwrap();
    }
    let page = subject.store.system().orgs(FIRST_PAGE).await.unwrap();
    let ids: Vec<_> = page.data.iter().map(|org| org.id).collect();
    assert_eq!(ids, [orgs[1].id, orgs[2].id, orgs[0].id]);
    assert_eq!(page.next_cursor, None);
}
