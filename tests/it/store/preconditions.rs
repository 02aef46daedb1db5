//! Changes that hold only for the state that their caller has read.

use hookgate::domain::{Actor, EndpointChange, OrgChange, Precondition, Revision, Role, Timestamp};
use hookgate::store::{Store, StoreError};

use super::fixtures::{add_org, at, some_endpoint, some_key};
use super::{Subject, on_both};

on_both!(
    endpoints_change_only_in_the_state_that_was_read,
    keys_change_only_in_the_state_that_was_read,
    organisations_change_only_in_the_state_that_was_read,
    one_of_two_changes_of_the_same_state_is_made,
);

fn only_if(subject: &Subject, revision: Revision) -> Store {
    subject.store.clone().only_if(Precondition::OneOf(vec![revision]))
}

fn described(text: &str) -> EndpointChange {
    EndpointChange { description: Some(Some(text.to_owned())), ..EndpointChange::default() }
}

fn refused<T>(result: hookgate::store::Result<T>) -> bool {
    result.is_err_and(|error| matches!(error, StoreError::Changed))
}

async fn endpoints_change_only_in_the_state_that_was_read(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = some_endpoint(org, "*");
    let (id, by) = (endpoint.id, &Actor::CLI);
    let version = subject.store.insert_endpoint(org, &endpoint, by).await.unwrap().unwrap();
    let read = subject.store.endpoint(org, id).await.unwrap().unwrap();
    assert_eq!(read.version, version);
    let store = only_if(subject, read.revision());
    let changed = store.update_endpoint(org, id, &described("first"), by, at(2)).await;
    let changed = changed.unwrap().unwrap();
    assert_ne!(changed.revision(), read.revision());
    assert!(refused(store.update_endpoint(org, id, &described("second"), by, at(3)).await));
    assert!(refused(store.delete_endpoint(org, id, by, at(3)).await));
    assert_eq!(subject.store.endpoint(org, id).await.unwrap().unwrap(), changed);
    let store = only_if(subject, changed.revision());
    assert!(store.delete_endpoint(org, id, by, at(4)).await.unwrap());
    assert!(!store.delete_endpoint(org, id, by, at(4)).await.unwrap(), "it is gone");
}

async fn keys_change_only_in_the_state_that_was_read(subject: &Subject) {
    let key = some_key(Role::Tenant(add_org(subject).await), at(1));
    let (id, by) = (key.id, &Actor::CLI);
    subject.store.system().insert_key(&key, by).await.unwrap().unwrap();
    let store = only_if(subject, key.revision());
    let renamed = store.system().rename_key(id, "first", by, at(2)).await.unwrap().unwrap();
    assert!(refused(store.system().rename_key(id, "second", by, at(3)).await));
    assert!(refused(store.system().expire_key(id, at(3), by, at(3)).await));
    let read = subject.store.system().key(id).await.unwrap().unwrap();
    assert_eq!((read.revision(), read.name.as_str()), (renamed.revision(), "first"));
    let store = only_if(subject, read.revision());
    assert!(store.system().expire_key(id, at(4), by, at(4)).await.unwrap());
}

async fn organisations_change_only_in_the_state_that_was_read(subject: &Subject) {
    let org = add_org(subject).await;
    let by = &Actor::CLI;
    let named = |name: &str| OrgChange { name: Some(name.to_owned()), ..OrgChange::default() };
    let read = subject.store.org(org).await.unwrap().unwrap();
    let store = only_if(subject, read.revision());
    let changed = store.update_org(org, &named("first"), by, at(2)).await.unwrap().unwrap();
    assert!(refused(store.update_org(org, &named("second"), by, at(3)).await));
    assert!(refused(store.delete_org(org, by, at(3)).await));
    let read = subject.store.org(org).await.unwrap().unwrap();
    assert_eq!(read, changed);
    assert!(only_if(subject, read.revision()).delete_org(org, by, at(4)).await.unwrap().is_some());
}

async fn one_of_two_changes_of_the_same_state_is_made(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = some_endpoint(org, "*");
    let by = &Actor::CLI;
    subject.store.insert_endpoint(org, &endpoint, by).await.unwrap().unwrap();
    for round in 0..10 {
        let read = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
        let store = only_if(subject, read.revision());
        let (one, two) = (described(&format!("one {round}")), described(&format!("two {round}")));
        let now = Timestamp::from_micros(round);
        let change = |change| store.update_endpoint(org, endpoint.id, change, by, now);
        let made = tokio::join!(change(&one), change(&two));
        assert_ne!(refused(made.0), refused(made.1), "{round}");
    }
}
