use hookgate::domain::OrgChange;

use super::fixtures::{FIRST_PAGE, add_org, at, some_org};
use super::{Subject, on_both};

on_both!(
    an_organisation_comes_back_as_it_was_added,
    an_organisation_is_added_once,
    a_change_touches_what_it_names_only,
    organisations_are_listed_from_newest_to_oldest,
);

async fn an_organisation_comes_back_as_it_was_added(subject: &Subject) {
    let mut org = some_org(at(1));
    org.rate_limit_per_minute = Some(100_000_000);
    subject.store.insert_org_across_orgs(&org).await.unwrap();
    assert_eq!(subject.store.org(org.id).await.unwrap(), Some(org));
    assert_eq!(subject.store.org(some_org(at(1)).id).await.unwrap(), None);
}

async fn an_organisation_is_added_once(subject: &Subject) {
    let org = some_org(at(1));
    subject.store.insert_org_across_orgs(&org).await.unwrap();
    let again = subject.store.insert_org_across_orgs(&org).await.unwrap_err();
    assert!(matches!(again, hookgate::store::StoreError::Refused(_)), "{again}");
}

async fn a_change_touches_what_it_names_only(subject: &Subject) {
    let id = add_org(subject).await;
    let update =
        async |change| subject.store.update_org(id, &change, at(5)).await.unwrap().unwrap();

    let limit = Some(Some(7));
    let limited = update(OrgChange { name: None, rate_limit_per_minute: limit }).await;
    assert_eq!((limited.name.as_str(), limited.rate_limit_per_minute), ("Acme", Some(7)));
    let name = Some("Other".to_owned());
    let renamed = update(OrgChange { name, rate_limit_per_minute: None }).await;
    assert_eq!((renamed.name.as_str(), renamed.rate_limit_per_minute), ("Other", Some(7)));
    let unlimited = update(OrgChange { name: None, rate_limit_per_minute: Some(None) }).await;
    assert_eq!((unlimited.name.as_str(), unlimited.rate_limit_per_minute), ("Other", None));
    assert_eq!(subject.store.org(id).await.unwrap(), Some(unlimited));

    let stranger = some_org(at(1)).id;
    let missing = subject.store.update_org(stranger, &OrgChange::default(), at(5)).await.unwrap();
    assert_eq!(missing, None);
}

async fn organisations_are_listed_from_newest_to_oldest(subject: &Subject) {
    let orgs = [some_org(at(1)), some_org(at(3)), some_org(at(2))];
    for org in &orgs {
        subject.store.insert_org_across_orgs(org).await.unwrap();
    }
    let page = subject.store.orgs_across_orgs(FIRST_PAGE).await.unwrap();
    let ids: Vec<_> = page.data.iter().map(|org| org.id).collect();
    assert_eq!(ids, [orgs[1].id, orgs[2].id, orgs[0].id]);
    assert_eq!(page.next_cursor, None);
}
