use std::collections::BTreeSet;
use std::time::Duration;

use hookgate::domain::{
    Actor, ApiKey, ApiKeyId, KeyRotationRefusal, OrgChange, OrgId, OrgLimit, Role, Timestamp,
};
use hookgate::store::{ChangeMark, Store, StoreError};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use super::fixtures::{FIRST_PAGE, add_org, at, some_key, some_org};
use super::{Subject, on_both};
use crate::support::wait::until;

on_both!(
    key_comes_back_as_it_was_added,
    key_of_no_organisation_is_refused,
    organisation_lists_its_own_keys_and_operators_list_all,
    key_expires_at_the_earlier_of_two_moments,
    rotating_a_key_adds_the_new_one_and_expires_the_old,
    rotating_a_missing_key_adds_nothing,
    key_that_is_no_longer_good_is_not_rotated,
    key_is_rotated_once_however_many_ask,
    as_many_keys_are_in_their_grace_as_there_may_be_keys,
    nothing_is_rotated_of_an_organisation_that_is_being_deleted,
    refused_replacement_leaves_the_old_key_alone,
    changes_name_keys_and_keys_of_changed_organisations,
    change_is_found_whatever_the_clock_said_of_those_who_made_it,
    change_that_commits_after_younger_ones_is_found,
    numbers_of_another_database_name_no_keys_again_and_again,
    first_keys_that_cannot_be_shown_are_not_kept,
    organisation_keeps_its_last_thousand_ended_keys,
);

async fn add_key(subject: &Subject, role: Role, created_at: Timestamp) -> ApiKey {
    let key = some_key(role, created_at);
    subject.store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
    key
}

/// Rotates a key at this moment; the new one was made a second before.
async fn rotate(
    subject: &Subject,
    old: &ApiKey,
    grace_seconds: u64,
    now: i64,
) -> Result<ApiKey, KeyRotationRefusal> {
    let new = some_key(old.role, at(now - 1));
    let grace = Duration::from_secs(grace_seconds);
    let rotated = subject.store.system().rotate_key(old.id, grace, &new, &Actor::CLI, at(now));
    let rotated = rotated.await.unwrap();
    assert_eq!(stored(subject, new.id).await.is_some(), rotated.is_ok());
    rotated.map(|()| new)
}

async fn stored(subject: &Subject, id: ApiKeyId) -> Option<ApiKey> {
    subject.store.system().key(id).await.unwrap()
}

async fn first_keys_that_cannot_be_shown_are_not_kept(subject: &Subject) {
    let org = some_org(at(1));
    let keys = [some_key(Role::Tenant(org.id), at(1)), some_key(Role::Operator, at(1))];
    let system = subject.store.system();
    let insert = async |shown: std::io::Result<()>| {
        let inserted = system.insert_first_keys(Some(&org), &keys, None, &Actor::SERVER, || shown);
        inserted.await.unwrap()
    };
    let closed = std::io::ErrorKind::BrokenPipe;
    assert_eq!(insert(Err(closed.into())).await.unwrap_err().kind(), closed);
    assert!(!system.has_operator_key().await.unwrap());
    assert!(system.orgs(FIRST_PAGE).await.unwrap().data.is_empty());
    assert!(system.keys(FIRST_PAGE).await.unwrap().data.is_empty());
    assert!(insert(Ok(())).await.unwrap());
    assert!(!insert(Ok(())).await.unwrap(), "another server was faster");
    assert_eq!(system.keys(FIRST_PAGE).await.unwrap().data.len(), 2);
}

async fn organisation_keeps_its_last_thousand_ended_keys(subject: &Subject) {
    let (ours, theirs) = (add_org(subject).await, add_org(subject).await);
    let add_ended = async |role, ended| {
        let mut key = some_key(role, at(5_000));
        key.expires_at = Some(at(ended));
        subject.store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
        key.id
    };
    let other = add_ended(Role::Tenant(theirs), 1).await;
    let operator = add_ended(Role::Operator, 1).await;
    let valid = add_key(subject, Role::Tenant(ours), at(1)).await.id;
    let mut ended = Vec::new();
    for second in 1..=1_002 {
        ended.push(add_ended(Role::Tenant(ours), second).await);
    }
    for gone in &ended[..2] {
        assert!(stored(subject, *gone).await.is_none());
    }
    for kept in [other, operator, valid, ended[2], ended[1_001]] {
        assert!(stored(subject, kept).await.is_some());
    }
}

async fn key_comes_back_as_it_was_added(subject: &Subject) {
    let mut key = some_key(Role::Tenant(add_org(subject).await), at(1));
    key.expires_at = Some(at(2));
    key.rate_limit_per_minute = Some(7);
    subject.store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
    let found = stored(subject, key.id).await.unwrap();
    assert_eq!((found.id, found.role, &found.name), (key.id, key.role, &key.name));
    assert_eq!((found.created_at, found.expires_at), (key.created_at, key.expires_at));
    assert!(found.hash == key.hash && found.rate_limit_per_minute == Some(7));

    let operator = add_key(subject, Role::Operator, at(1)).await;
    assert_eq!(stored(subject, operator.id).await.unwrap().role, Role::Operator);
    assert!(stored(subject, ApiKeyId::mint(at(1))).await.is_none());
}

async fn key_of_no_organisation_is_refused(subject: &Subject) {
    let key = some_key(Role::Tenant(OrgId::mint(at(1))), at(1));
    let refused = subject.store.system().insert_key(&key, &Actor::CLI).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
}

async fn organisation_lists_its_own_keys_and_operators_list_all(subject: &Subject) {
    let (ours, theirs) = (add_org(subject).await, add_org(subject).await);
    let first = add_key(subject, Role::Tenant(ours), at(1)).await;
    let second = add_key(subject, Role::Tenant(ours), at(2)).await;
    let other = add_key(subject, Role::Tenant(theirs), at(3)).await;
    let operator = add_key(subject, Role::Operator, at(4)).await;

    let own = subject.store.keys(ours, FIRST_PAGE).await.unwrap();
    assert_eq!(own.data.iter().map(|k| k.id).collect::<Vec<_>>(), [second.id, first.id]);
    let all = subject.store.system().keys(FIRST_PAGE).await.unwrap();
    let all: Vec<_> = all.data.iter().map(|k| k.id).collect();
    assert_eq!(all, [operator.id, other.id, second.id, first.id]);
    let among = subject.store.system().operators_among(&all).await.unwrap();
    assert_eq!(among.into_iter().collect::<Vec<_>>(), [operator.id]);
}

async fn key_expires_at_the_earlier_of_two_moments(subject: &Subject) {
    let key = add_key(subject, Role::Operator, at(1)).await;
    for (asked, kept) in [(at(50), at(50)), (at(60), at(50)), (at(40), at(40))] {
        assert!(
            subject.store.system().expire_key(key.id, asked, &Actor::CLI, at(30)).await.unwrap()
        );
        assert_eq!(stored(subject, key.id).await.unwrap().expires_at, Some(kept));
    }
    let missing = ApiKeyId::mint(at(1));
    assert!(
        !subject.store.system().expire_key(missing, at(50), &Actor::CLI, at(30)).await.unwrap()
    );
}

async fn rotating_a_key_adds_the_new_one_and_expires_the_old(subject: &Subject) {
    let role = Role::Tenant(add_org(subject).await);
    let old = add_key(subject, role, at(1)).await;
    let new = rotate(subject, &old, 60, 10).await.unwrap();
    let found = stored(subject, old.id).await.unwrap();
    assert_eq!((found.expires_at, found.revoked_at), (Some(at(70)), None));
    assert_eq!(found.replaced_by, Some(new.id));
    let found = stored(subject, new.id).await.unwrap();
    assert_eq!((found.expires_at, found.replaced_by), (None, None));

    // Without a grace the old one is revoked, and none lengthens a life.
    rotate(subject, &new, 0, 20).await.unwrap();
    let found = stored(subject, new.id).await.unwrap();
    assert_eq!((found.expires_at, found.revoked_at), (Some(at(20)), Some(at(20))));
    let mut short = some_key(role, at(1));
    short.expires_at = Some(at(30));
    subject.store.system().insert_key(&short, &Actor::CLI).await.unwrap().unwrap();
    rotate(subject, &short, 60, 20).await.unwrap();
    assert_eq!(stored(subject, short.id).await.unwrap().expires_at, Some(at(30)));
}

async fn key_that_is_no_longer_good_is_not_rotated(subject: &Subject) {
    let role = Role::Tenant(add_org(subject).await);
    let mut expired = some_key(role, at(1));
    expired.expires_at = Some(at(10));
    subject.store.system().insert_key(&expired, &Actor::CLI).await.unwrap().unwrap();
    assert_eq!(rotate(subject, &expired, 60, 10).await.unwrap_err(), KeyRotationRefusal::Inactive);

    // While the new key was made; also by a server whose clock is ahead.
    let revoked = add_key(subject, role, at(1)).await;
    let ahead = at(15);
    subject.store.system().expire_key(revoked.id, ahead, &Actor::CLI, ahead).await.unwrap();
    assert_eq!(rotate(subject, &revoked, 60, 10).await.unwrap_err(), KeyRotationRefusal::Inactive);
    assert_eq!(rotate(subject, &revoked, 0, 20).await.unwrap_err(), KeyRotationRefusal::Inactive);
    assert_eq!(stored(subject, revoked.id).await.unwrap().replaced_by, None);
}

async fn key_is_rotated_once_however_many_ask(subject: &Subject) {
    let role = Role::Tenant(add_org(subject).await);
    for grace in [Duration::ZERO, Duration::from_mins(1)] {
        let old = add_key(subject, role, at(1)).await;
        let mut asking = JoinSet::new();
        for _ in 0..8 {
            let (store, new) = (subject.store.clone(), some_key(role, at(9)));
            asking.spawn(async move {
                let by = Actor::CLI;
                let end = store.system().rotate_key(old.id, grace, &new, &by, at(10)).await;
                end.unwrap().map(|()| new.id)
            });
        }
        let ends = asking.join_all().await;
        let new: Vec<ApiKeyId> = ends.iter().filter_map(|end| end.ok()).collect();
        let found = stored(subject, old.id).await.unwrap().replaced_by.unwrap();
        assert_eq!(new, [found]);
        let refusal = match grace {
            Duration::ZERO => KeyRotationRefusal::Inactive,
            _ => KeyRotationRefusal::AlreadyRotated(found),
        };
        assert_eq!(ends.iter().filter(|end| **end == Err(refusal)).count(), 7, "{ends:?}");
    }
}

async fn as_many_keys_are_in_their_grace_as_there_may_be_keys(subject: &Subject) {
    let org = add_org(subject).await;
    let limits = vec![(OrgLimit::Keys, Some(2))];
    let change = OrgChange { name: None, limits, ..OrgChange::default() };
    subject.store.update_org(org, &change, &Actor::CLI, at(1)).await.unwrap();
    let old = [
        add_key(subject, Role::Tenant(org), at(1)).await,
        add_key(subject, Role::Tenant(org), at(1)).await,
    ];
    let first = rotate(subject, &old[0], 60, 10).await.unwrap();
    let second = rotate(subject, &first, 60, 11).await.unwrap();
    let held = subject.store.holdings(org, at(12)).await.unwrap();
    assert_eq!((held.keys, held.keys_in_grace), (4, 2));
    let full = KeyRotationRefusal::OverQuota(2);
    assert_eq!(rotate(subject, &second, 60, 12).await.unwrap_err(), full);
    assert_eq!(rotate(subject, &old[1], 60, 12).await.unwrap_err(), full);
    // A key that is in its grace already is told so, also then.
    let again = rotate(subject, &first, 60, 12).await.unwrap_err();
    assert_eq!(again, KeyRotationRefusal::AlreadyRotated(second.id));
    let third = rotate(subject, &second, 0, 12).await.unwrap();
    // A grace that ended, or was ended, makes room.
    rotate(subject, &third, 60, 70).await.unwrap();
    assert_eq!(rotate(subject, &old[1], 60, 70).await.unwrap_err(), full);
    subject.store.system().expire_key(first.id, at(70), &Actor::CLI, at(70)).await.unwrap();
    rotate(subject, &old[1], 60, 70).await.unwrap();
}

async fn nothing_is_rotated_of_an_organisation_that_is_being_deleted(subject: &Subject) {
    let org = add_org(subject).await;
    let key = add_key(subject, Role::Tenant(org), at(1)).await;
    subject.store.delete_org(org, &Actor::CLI, at(5)).await.unwrap().unwrap();
    for grace in [0, 60] {
        let refusal = rotate(subject, &key, grace, 10).await.unwrap_err();
        assert_eq!(refusal, KeyRotationRefusal::NotFound);
    }
}

async fn rotating_a_missing_key_adds_nothing(subject: &Subject) {
    let missing = some_key(Role::Operator, at(10));
    let refusal = rotate(subject, &missing, 60, 10).await.unwrap_err();
    assert_eq!(refusal, KeyRotationRefusal::NotFound);
}

async fn refused_replacement_leaves_the_old_key_alone(subject: &Subject) {
    let old = add_key(subject, Role::Operator, at(1)).await;
    let new = some_key(Role::Tenant(some_org(at(1)).id), at(10));
    let minute = Duration::from_mins(1);
    let refused =
        subject.store.system().rotate_key(old.id, minute, &new, &Actor::CLI, at(10)).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    let found = stored(subject, old.id).await.unwrap();
    assert_eq!((found.expires_at, found.replaced_by), (None, None));
}

/// Looks for changes, and returns the keys that were named, in order.
async fn look(store: &Store, mark: &mut Option<ChangeMark>) -> Vec<ApiKeyId> {
    let found = store.system().keys_changed(*mark).await.unwrap();
    *mark = Some(found.mark);
    let keys: BTreeSet<ApiKeyId> = found.changes.into_iter().map(|change| change.key).collect();
    keys.into_iter().collect()
}

/// As [`look`], until transactions of other tests in the same cluster no longer make it name what was
/// named before.
async fn look_until(store: &Store, mark: &mut Option<ChangeMark>, keys: &[ApiKeyId]) {
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
    let key = add_key(subject, Role::Tenant(org), at(10)).await;
    let tenant = key.id;
    let operator = add_key(subject, Role::Operator, at(20)).await.id;
    look_until(store, &mut mark, &[tenant, operator]).await;

    let limit = OrgChange {
        name: None,
        limits: vec![(OrgLimit::RatePerMinute, Some(5))],
        ..OrgChange::default()
    };
    store.update_org(org, &limit, &Actor::CLI, at(30)).await.unwrap();
    look_until(store, &mut mark, &[tenant]).await;
    store.suspend_org(org, true, &Actor::CLI, at(31)).await.unwrap();
    look_until(store, &mut mark, &[tenant]).await;
    store.system().expire_key(operator, at(99), &Actor::CLI, at(40)).await.unwrap();
    look_until(store, &mut mark, &[operator]).await;
    let new = rotate(subject, &key, 60, 51).await.unwrap();
    look_until(store, &mut mark, &[tenant, new.id]).await;
    store.system().touch_keys(&[earlier], at(120)).await.unwrap();
    until("nothing more has changed", async || look(store, &mut mark).await.is_empty()).await;
}

async fn change_is_found_whatever_the_clock_said_of_those_who_made_it(subject: &Subject) {
    let org = add_org(subject).await;
    let tenant = add_key(subject, Role::Tenant(org), at(1_000_000)).await.id;
    let operator = add_key(subject, Role::Operator, at(1_000_000)).await.id;
    let mut mark = None;
    look(&subject.store, &mut mark).await;
    let behind = subject.another().await;
    behind.system().expire_key(operator, at(1), &Actor::CLI, at(1)).await.unwrap();
    look_until(&subject.store, &mut mark, &[operator]).await;
    behind.suspend_org(org, true, &Actor::CLI, at(1)).await.unwrap();
    look_until(&subject.store, &mut mark, &[tenant]).await;
    // And once more at the very same time.
    behind.suspend_org(org, false, &Actor::CLI, at(1)).await.unwrap();
    look_until(&subject.store, &mut mark, &[tenant]).await;
}

/// SQLite has one transaction that writes at a time.
async fn change_that_commits_after_younger_ones_is_found(subject: &Subject) {
    if !subject.is_postgres() {
        return;
    }
    let store = &subject.store;
    let slow = add_key(subject, Role::Operator, at(1)).await.id;
    let fast = add_key(subject, Role::Operator, at(1)).await.id;
    let mut mark = None;
    look(store, &mut mark).await;
    // Older transactions of other tests on this server keep the new keys in sight.
    until("older transactions are over", async || look(store, &mut mark).await.is_empty()).await;
    let mut connection = PgConnection::connect(&subject.url()).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let change = "UPDATE api_keys SET changed_at = changed_at WHERE id = $1";
    sqlx::query(change).bind(slow.uuid()).execute(&mut *tx).await.unwrap();

    store.system().expire_key(fast, at(9), &Actor::CLI, at(9)).await.unwrap();
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
    subject.store.system().expire_key(key, at(9), &Actor::CLI, at(9)).await.unwrap();
    look_until(&subject.store, &mut mark, &[key]).await;
}
