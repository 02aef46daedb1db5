use std::collections::BTreeSet;

use hookgate::domain::{Actor, ApiKey, ApiKeyId, Limit, OrgChange, OrgId, Role, Timestamp};
use hookgate::store::{ChangeMark, SharedStore, StoreError};
use sqlx::{Connection, PgConnection};

use super::fixtures::{FIRST_PAGE, add_org, at, some_key, some_org};
use super::{Subject, on_both};

on_both!(
    a_key_comes_back_as_it_was_added,
    a_key_of_no_organisation_is_refused,
    an_organisation_lists_its_own_keys_and_operators_list_all,
    a_key_expires_at_the_earlier_of_two_moments,
    rotating_a_key_adds_the_new_one_and_expires_the_old,
    rotating_a_missing_key_adds_nothing,
    a_refused_replacement_leaves_the_old_key_alone,
    changes_name_keys_and_keys_of_changed_organisations,
    a_change_is_found_whatever_the_clock_said_of_those_who_made_it,
    a_change_that_commits_after_younger_ones_is_found,
    numbers_of_another_database_name_no_keys_again_and_again,
);

async fn add_key(subject: &Subject, role: Role, created_at: Timestamp) -> ApiKey {
    let key = some_key(role, created_at);
    subject.store.insert_key_across_orgs(&key, &Actor::CLI).await.unwrap().unwrap();
    key
}

async fn stored(subject: &Subject, id: ApiKeyId) -> Option<ApiKey> {
    subject.store.key_across_orgs(id).await.unwrap()
}

async fn a_key_comes_back_as_it_was_added(subject: &Subject) {
    let mut key = some_key(Role::Tenant(add_org(subject).await), at(1));
    key.expires_at = Some(at(2));
    subject.store.insert_key_across_orgs(&key, &Actor::CLI).await.unwrap().unwrap();
    let found = stored(subject, key.id).await.unwrap();
    assert_eq!((found.id, found.role, &found.name), (key.id, key.role, &key.name));
    assert_eq!((found.created_at, found.expires_at), (key.created_at, key.expires_at));
    assert!(found.hash == key.hash);

    let operator = add_key(subject, Role::Operator, at(1)).await;
    assert_eq!(stored(subject, operator.id).await.unwrap().role, Role::Operator);
    assert!(stored(subject, ApiKeyId::mint(at(1))).await.is_none());
}

async fn a_key_of_no_organisation_is_refused(subject: &Subject) {
    let key = some_key(Role::Tenant(OrgId::mint(at(1))), at(1));
    let refused = subject.store.insert_key_across_orgs(&key, &Actor::CLI).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
}

async fn an_organisation_lists_its_own_keys_and_operators_list_all(subject: &Subject) {
    let (ours, theirs) = (add_org(subject).await, add_org(subject).await);
    let first = add_key(subject, Role::Tenant(ours), at(1)).await;
    let second = add_key(subject, Role::Tenant(ours), at(2)).await;
    let other = add_key(subject, Role::Tenant(theirs), at(3)).await;
    let operator = add_key(subject, Role::Operator, at(4)).await;

    let own = subject.store.keys(ours, FIRST_PAGE).await.unwrap();
    assert_eq!(own.data.iter().map(|k| k.id).collect::<Vec<_>>(), [second.id, first.id]);
    let all = subject.store.keys_across_orgs(FIRST_PAGE).await.unwrap();
    let all: Vec<_> = all.data.iter().map(|k| k.id).collect();
    assert_eq!(all, [operator.id, other.id, second.id, first.id]);
}

async fn a_key_expires_at_the_earlier_of_two_moments(subject: &Subject) {
    let key = add_key(subject, Role::Operator, at(1)).await;
    for (asked, kept) in [(at(50), at(50)), (at(60), at(50)), (at(40), at(40))] {
        assert!(
            subject.store.expire_key_across_orgs(key.id, asked, &Actor::CLI, at(30)).await.unwrap()
        );
        assert_eq!(stored(subject, key.id).await.unwrap().expires_at, Some(kept));
    }
    let missing = ApiKeyId::mint(at(1));
    assert!(
        !subject.store.expire_key_across_orgs(missing, at(50), &Actor::CLI, at(30)).await.unwrap()
    );
}

async fn rotating_a_key_adds_the_new_one_and_expires_the_old(subject: &Subject) {
    let role = Role::Tenant(add_org(subject).await);
    let old = add_key(subject, role, at(1)).await;
    let new = some_key(role, at(10));
    assert!(subject.store.rotate_key_across_orgs(old.id, at(70), &new, &Actor::CLI).await.unwrap());
    assert_eq!(stored(subject, old.id).await.unwrap().expires_at, Some(at(70)));
    assert_eq!(stored(subject, new.id).await.unwrap().expires_at, None);
}

async fn rotating_a_missing_key_adds_nothing(subject: &Subject) {
    let new = some_key(Role::Operator, at(10));
    let missing = ApiKeyId::mint(at(1));
    assert!(
        !subject.store.rotate_key_across_orgs(missing, at(70), &new, &Actor::CLI).await.unwrap()
    );
    assert!(stored(subject, new.id).await.is_none());
}

async fn a_refused_replacement_leaves_the_old_key_alone(subject: &Subject) {
    let old = add_key(subject, Role::Operator, at(1)).await;
    let new = some_key(Role::Tenant(some_org(at(1)).id), at(10));
    let refused =
        subject.store.rotate_key_across_orgs(old.id, at(70), &new, &Actor::CLI).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
    assert_eq!(stored(subject, old.id).await.unwrap().expires_at, None);
}

/// Looks for changes, and returns the keys that were named, in order.
async fn look(store: &SharedStore, mark: &mut Option<ChangeMark>) -> Vec<ApiKeyId> {
    let found = store.keys_changed_across_orgs(*mark).await.unwrap();
    *mark = Some(found.mark);
    let keys: BTreeSet<ApiKeyId> = found.changes.into_iter().map(|change| change.key).collect();
    keys.into_iter().collect()
}

/// As [`look`], until transactions of other tests in the same cluster no longer make it name what was
/// named before.
async fn look_until(store: &SharedStore, mark: &mut Option<ChangeMark>, keys: &[ApiKeyId]) {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    let mut found = look(store, mark).await;
    for key in &keys {
        assert!(found.contains(key), "{key} is not in {found:?}");
    }
    while found != keys && !found.is_empty() {
        found = look(store, mark).await;
    }
}

async fn changes_name_keys_and_keys_of_changed_organisations(subject: &Subject) {
    let (store, mut mark) = (&subject.store, None);
    let org = add_org(subject).await;
    let earlier = add_key(subject, Role::Operator, at(5)).await.id;
    assert_eq!(look(store, &mut mark).await, [], "the first look tells where to begin");
    let tenant = add_key(subject, Role::Tenant(org), at(10)).await.id;
    let operator = add_key(subject, Role::Operator, at(20)).await.id;
    look_until(store, &mut mark, &[tenant, operator]).await;

    let limit = OrgChange { name: None, limits: vec![(Limit::RatePerMinute, Some(5))] };
    store.update_org(org, &limit, &Actor::CLI, at(30)).await.unwrap();
    look_until(store, &mut mark, &[tenant]).await;
    store.suspend_org(org, true, &Actor::CLI, at(31)).await.unwrap();
    look_until(store, &mut mark, &[tenant]).await;
    store.expire_key_across_orgs(operator, at(99), &Actor::CLI, at(40)).await.unwrap();
    look_until(store, &mut mark, &[operator]).await;
    let new = some_key(Role::Tenant(org), at(50));
    store.rotate_key_across_orgs(tenant, at(99), &new, &Actor::CLI).await.unwrap();
    look_until(store, &mut mark, &[tenant, new.id]).await;
    store.touch_keys_across_orgs(&[earlier], at(120)).await.unwrap();
    while !look(store, &mut mark).await.is_empty() {
        tokio::task::yield_now().await;
    }
}

async fn a_change_is_found_whatever_the_clock_said_of_those_who_made_it(subject: &Subject) {
    let org = add_org(subject).await;
    let tenant = add_key(subject, Role::Tenant(org), at(1_000_000)).await.id;
    let operator = add_key(subject, Role::Operator, at(1_000_000)).await.id;
    let mut mark = None;
    look(&subject.store, &mut mark).await;
    let behind = subject.another().await;
    behind.expire_key_across_orgs(operator, at(1), &Actor::CLI, at(1)).await.unwrap();
    look_until(&subject.store, &mut mark, &[operator]).await;
    behind.suspend_org(org, true, &Actor::CLI, at(1)).await.unwrap();
    look_until(&subject.store, &mut mark, &[tenant]).await;
    // And once more at the very same time.
    behind.suspend_org(org, false, &Actor::CLI, at(1)).await.unwrap();
    look_until(&subject.store, &mut mark, &[tenant]).await;
}

/// SQLite has one transaction that writes at a time.
async fn a_change_that_commits_after_younger_ones_is_found(subject: &Subject) {
    if !subject.is_postgres() {
        return;
    }
    let store = &subject.store;
    let slow = add_key(subject, Role::Operator, at(1)).await.id;
    let fast = add_key(subject, Role::Operator, at(1)).await.id;
    let mut connection = PgConnection::connect(&subject.url()).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let change = "UPDATE api_keys SET changed_at = changed_at WHERE id = $1";
    sqlx::query(change).bind(slow.uuid()).execute(&mut *tx).await.unwrap();

    let mut mark = None;
    look(store, &mut mark).await;
    store.expire_key_across_orgs(fast, at(9), &Actor::CLI, at(9)).await.unwrap();
    for _ in 0..3 {
        let found = look(store, &mut mark).await;
        assert!(found.contains(&fast) && !found.contains(&slow), "{found:?}");
    }
    tx.commit().await.unwrap();
    assert!(look(store, &mut mark).await.contains(&slow));
}

/// As after a dump was loaded into a database that has seen fewer transactions.
async fn numbers_of_another_database_name_no_keys_again_and_again(subject: &Subject) {
    if !subject.is_postgres() {
        return;
    }
    let key = add_key(subject, Role::Operator, at(1)).await.id;
    subject.raw("", "UPDATE api_keys SET change_number = 1000000000000").await;
    let mut mark = None;
    look(&subject.store, &mut mark).await;
    assert_eq!(look(&subject.store, &mut mark).await, []);
    subject.store.expire_key_across_orgs(key, at(9), &Actor::CLI, at(9)).await.unwrap();
    look_until(&subject.store, &mut mark, &[key]).await;
}
