//! Limits, suspension, deletion, usage, hints and the audit log.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hookgate::domain::{
    Actor, ApiKeyId, EndpointChange, Event, Month, Org, OrgChange, OrgId, OrgLimit, OrgLimits,
    Role, Scope, Scopes,
};
use hookgate::runtime::Wake;
use hookgate::store::{AddRefusal, Store};
use serde_json::json;
use tokio::task::JoinSet;

use super::fixtures::{
    ALL_LETTERS, EXHAUSTED, FIRST_PAGE, add_endpoint, add_org, at, claim, named_event,
    org_with_deliveries, outcome, persist, persist_events, room, some_endpoint, some_event,
    some_key, some_org, walk,
};
use super::{Subject, on_both};
use crate::support::wait::until;

on_both!(
    scopes_revocation_and_last_use_come_back,
    keys_from_before_there_were_scopes_have_all_of_their_role,
    quota_of_keys_and_endpoints_holds_against_many_at_once,
    organisation_above_a_default_quota_keeps_what_it_has_and_adds_none,
    suspended_organisations_deliveries_wait_and_lose_no_attempt,
    events_of_a_suspended_organisation_are_stored_and_sent_after_it,
    endpoint_its_owner_disabled_stays_so_through_a_suspension,
    endpoint_enabled_or_added_during_a_suspension_waits_for_its_end,
    deletion_leaves_no_row_with_the_organisations_id,
    nothing_of_a_deleted_organisation_is_stored_any_more,
    what_is_used_in_a_month_adds_up,
    every_change_is_in_the_log_with_who_and_where_from_and_no_secret,
    operators_read_an_organisations_log_from_its_creation_on,
    change_that_is_refused_is_not_in_the_log,
);

async fn set(subject: &Subject, org: OrgId, limit: OrgLimit, value: u32) {
    let change =
        OrgChange { name: None, limits: vec![(limit, Some(value))], ..OrgChange::default() };
    subject.store.update_org(org, &change, &Actor::CLI, at(1)).await.unwrap().unwrap();
}

async fn suspend(subject: &Subject, org: OrgId, suspended: bool, now: i64) -> Org {
    subject.store.suspend_org(org, suspended, &Actor::CLI, at(now)).await.unwrap().unwrap()
}

/// Deletes until there is nothing to delete, and returns how many steps that took.
async fn delete(subject: &Subject, org: OrgId) -> usize {
    subject.store.delete_org(org, &Actor::CLI, at(50)).await.unwrap().unwrap();
    let mut steps = 0;
    while subject.store.system().delete_step(at(60)).await.unwrap().is_some() {
        steps += 1;
    }
    steps
}

async fn scopes_revocation_and_last_use_come_back(subject: &Subject) {
    let store = &subject.store;
    let mut key = some_key(Role::Tenant(add_org(subject).await), at(1));
    key.scopes = Scopes::of(Scope::EventsRead);
    store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
    store.system().touch_keys(&[key.id, ApiKeyId::mint(at(1))], at(120)).await.unwrap();
    // An instance that is late takes nothing back.
    store.system().touch_keys(&[key.id], at(60)).await.unwrap();
    let found = store.system().key(key.id).await.unwrap().unwrap();
    assert_eq!((found.scopes, found.last_used_at), (key.scopes, Some(at(120))));
    assert_eq!(found.revoked_at, None);
    store.system().expire_key(key.id, at(130), &Actor::CLI, at(130)).await.unwrap();
    let found = store.system().key(key.id).await.unwrap().unwrap();
    assert_eq!((found.revoked_at, found.expires_at), (Some(at(130)), Some(at(130))));
}

async fn keys_from_before_there_were_scopes_have_all_of_their_role(subject: &Subject) {
    let role = Role::Tenant(add_org(subject).await);
    let (tenant, operator) = (some_key(role, at(1)), some_key(Role::Operator, at(1)));
    for key in [&tenant, &operator] {
        subject.store.system().insert_key(key, &Actor::CLI).await.unwrap().unwrap();
    }
    let before = "UPDATE api_keys SET scopes = NULL";
    subject.raw(before, before).await;
    for (key, scopes) in [(tenant, Scopes::TENANT), (operator, Scopes::OPERATOR)] {
        let found = subject.store.system().key(key.id).await.unwrap().unwrap();
        assert_eq!(found.scopes, scopes);
    }
}

async fn organisation_above_a_default_quota_keeps_what_it_has_and_adds_none(subject: &Subject) {
    let org = add_org(subject).await;
    let defaults =
        OrgLimits::default().with(OrgLimit::Keys, Some(1)).with(OrgLimit::Endpoints, Some(1));
    let held = subject.store.clone().with_quota_defaults(defaults);
    let key = async |store: &Store| {
        let key = some_key(Role::Tenant(org), at(1));
        store.system().insert_key(&key, &Actor::CLI).await.unwrap()
    };
    let endpoint = async |store: &Store| {
        let added = store.insert_endpoint(org, &some_endpoint(org, "*"), &Actor::CLI).await;
        added.unwrap().map(drop)
    };
    for _ in 0..2 {
        assert_eq!((key(&subject.store).await, endpoint(&subject.store).await), (Ok(()), Ok(())));
    }
    let full = Err(AddRefusal::OverQuota(1));
    assert_eq!((key(&held).await, endpoint(&held).await), (full, full));
    let holdings = held.holdings(org, at(2)).await.unwrap();
    assert_eq!((holdings.keys, holdings.endpoints), (2, 2));
    set(subject, org, OrgLimit::Keys, 3).await;
    assert_eq!((key(&held).await, endpoint(&held).await), (Ok(()), full));
}

async fn quota_of_keys_and_endpoints_holds_against_many_at_once(subject: &Subject) {
    let org = add_org(subject).await;
    set(subject, org, OrgLimit::Keys, 3).await;
    set(subject, org, OrgLimit::Endpoints, 3).await;
    let mut adds = JoinSet::new();
    for place in 0..16 {
        let store = subject.store.clone();
        adds.spawn(async move {
            if place % 2 == 0 {
                let key = some_key(Role::Tenant(org), at(2));
                store.system().insert_key(&key, &Actor::CLI).await.unwrap()
            } else {
                let endpoint = some_endpoint(org, "*");
                store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().map(drop)
            }
        });
    }
    let ends = adds.join_all().await;
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 6, "{ends:?}");
    assert!(ends.iter().all(|end| matches!(end, Ok(()) | Err(AddRefusal::OverQuota(3)))));
    let held = subject.store.holdings(org, at(3)).await.unwrap();
    assert_eq!((held.keys, held.endpoints), (3, 3));

    // A key that is no longer good makes room; a rotation needs none.
    let keys = subject.store.keys(org, FIRST_PAGE).await.unwrap().data;
    let new = some_key(Role::Tenant(org), at(4));
    let store = &subject.store;
    let minute = Duration::from_mins(1);
    let rotated = store.system().rotate_key(keys[0].id, minute, &new, &Actor::CLI, at(4)).await;
    assert_eq!(rotated.unwrap(), Ok(()));
    for key in &keys {
        store.system().expire_key(key.id, at(5), &Actor::CLI, at(5)).await.unwrap();
    }
    let another = some_key(Role::Tenant(org), at(6));
    assert_eq!(store.system().insert_key(&another, &Actor::CLI).await.unwrap(), Ok(()));
}

async fn suspended_organisations_deliveries_wait_and_lose_no_attempt(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 3).await;
    let under_way = claim(subject, 1, at(1)).await;
    let suspended = suspend(subject, org, true, 2).await;
    assert_eq!(suspended.suspended_at, Some(at(2)));
    assert_eq!(claim(subject, 10, at(3)).await.len(), 0);
    // One that was not started is handed back.
    let back = outcome(&under_way[0], hookgate::domain::Decision::RetryAt(at(3)), at(3));
    let back = hookgate::domain::Outcome { attempt: None, ..back };
    assert_eq!(subject.store.system().record_outcomes(&[back]).await.unwrap(), 1);
    assert_eq!(claim(subject, 10, at(1_000)).await.len(), 0);
    let shown = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    assert_eq!(shown.disabled_reason.as_deref(), Some("the organisation is suspended"));

    assert_eq!(suspend(subject, org, false, 2_000).await.suspended_at, None);
    let claimed = claim(subject, 10, at(2_000)).await;
    assert_eq!(claimed.len(), 3);
    assert!(claimed.iter().all(|delivery| delivery.attempts == 0));
}

async fn events_of_a_suspended_organisation_are_stored_and_sent_after_it(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    suspend(subject, org, true, 1).await;
    let batch: Vec<Arc<Event>> = (0..2).map(|_| Arc::new(some_event(org, "a.b", at(0)))).collect();
    let room = Some(room(10, at(60)));
    let persisted = persist_events(&subject.store, &batch, room, at(2)).await.unwrap();
    assert_eq!((persisted.stored, persisted.planned, persisted.leased.len()), (2, 2, 0));
    assert_eq!(claim(subject, 10, at(3)).await.len(), 0);
    suspend(subject, org, false, 4).await;
    assert_eq!(claim(subject, 10, at(4)).await.len(), 2);
}

async fn endpoint_its_owner_disabled_stays_so_through_a_suspension(subject: &Subject) {
    let org = add_org(subject).await;
    let (before, during) =
        (add_endpoint(subject, org, "*").await, add_endpoint(subject, org, "*").await);
    let off = EndpointChange {
        disabled_reason: Some(Some("off".to_owned())),
        ..EndpointChange::default()
    };
    let disable = async |id| {
        subject.store.update_endpoint(org, id, &off, &Actor::SERVER, at(1)).await.unwrap();
    };
    disable(before.id).await;
    suspend(subject, org, true, 2).await;
    disable(during.id).await;
    suspend(subject, org, false, 3).await;
    for id in [before.id, during.id] {
        let endpoint = subject.store.endpoint(org, id).await.unwrap().unwrap();
        assert_eq!(endpoint.disabled_reason.as_deref(), Some("off"));
    }
}

async fn endpoint_enabled_or_added_during_a_suspension_waits_for_its_end(subject: &Subject) {
    let org = add_org(subject).await;
    let off = add_endpoint(subject, org, "*").await;
    let switch = async |reason: Option<&str>, now| {
        let disabled_reason = Some(reason.map(ToOwned::to_owned));
        let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
        let changed = subject.store.update_endpoint(org, off.id, &change, &Actor::CLI, at(now));
        changed.await.unwrap().unwrap().disabled_reason
    };
    switch(Some("off"), 1).await;
    suspend(subject, org, true, 2).await;
    let shown = switch(None, 3).await;
    assert_eq!(shown.as_deref(), Some("the organisation is suspended"));
    add_endpoint(subject, org, "*").await;
    persist(subject, &[some_event(org, "a.b", at(0))], at(4)).await;
    assert_eq!(claim(subject, 10, at(4)).await.len(), 0);
    suspend(subject, org, false, 5).await;
    assert_eq!(claim(subject, 10, at(5)).await.len(), 2);
}

/// Every table with a column `org_id`, whichever migration made it.
async fn rows_of(subject: &Subject, org: OrgId) -> i64 {
    let id = org.uuid().simple();
    let tables = subject.tables_with("org_id").await;
    assert!(tables.len() >= 9, "{tables:?}");
    let mut rows = 0;
    for table in tables {
        let own = if subject.is_postgres() { format!("'{id}'::uuid") } else { format!("x'{id}'") };
        let sql = format!("SELECT count(*) FROM {table} WHERE org_id = {own}");
        rows += subject.count(&sql).await;
    }
    rows
}

async fn deletion_leaves_no_row_with_the_organisations_id(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 5).await;
    let (other, _) = org_with_deliveries(subject, 2).await;
    let key = some_key(Role::Tenant(org), at(1));
    subject.store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
    persist(subject, &[named_event(org, "d", at(1))], at(1)).await;
    let claimed = claim(subject, 2, at(2)).await;
    let ours = claimed.iter().filter(|delivery| delivery.event.org_id == org);
    let dead: Vec<_> = ours.map(|delivery| outcome(delivery, EXHAUSTED, at(3))).collect();
    subject.store.system().record_outcomes(&dead).await.unwrap();
    subject
        .store
        .quarantine_event(org, named_event(org, "x", at(1)).id, b"x", "why", at(3))
        .await
        .unwrap();
    let month = Month::of(at(1));
    subject.store.system().add_month_events(month, &[(org, 5)]).await.unwrap();
    set(subject, org, OrgLimit::Keys, 9).await;
    let others = rows_of(subject, other).await;
    assert!(rows_of(subject, org).await > 12);

    assert!(delete(subject, org).await > 5, "one kind of rows a step");
    assert_eq!(rows_of(subject, org).await, 0);
    assert_eq!(rows_of(subject, other).await, others);
    let deletion = subject.store.org(org).await.unwrap().unwrap();
    assert_eq!(deletion.name, "");
    let deletion = deletion.deletion.unwrap();
    assert_eq!((deletion.since, deletion.done_at), (at(50), Some(at(60))));
    assert!(deletion.rows > 12);
    let listed = subject.store.system().orgs(FIRST_PAGE).await.unwrap().data;
    assert_eq!(listed.iter().map(|org| org.id).collect::<Vec<_>>(), [other]);
    // That it was, and that it was deleted, operators still know.
    let log = subject.store.system().audit_log(FIRST_PAGE).await.unwrap().data;
    let kept: Vec<_> = log.iter().filter(|entry| entry.object == org.uuid()).collect();
    let kept: Vec<_> = kept.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(kept, ["org.delete", "org.create"]);
    assert!(!serde_json::to_string(&log).unwrap().contains("Acme"), "{log:?}");
    let own = subject.store.system().org_log(org, FIRST_PAGE).await.unwrap().data;
    assert_eq!(own.iter().map(|entry| entry.object).collect::<Vec<_>>(), [org.uuid(); 2]);
}

async fn nothing_of_a_deleted_organisation_is_stored_any_more(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    add_endpoint(subject, org, "*").await;
    let store = &subject.store;
    store.delete_org(org, &Actor::CLI, at(50)).await.unwrap().unwrap();
    let late = [
        some_event(org, "a.b", at(51)),
        named_event(org, "d", at(51)),
        some_event(other, "a.b", at(51)),
    ];
    // With dedup ids, and without, which is another statement.
    let persisted = persist(subject, &late, at(51)).await;
    assert_eq!((persisted.stored, persisted.dropped, persisted.duplicates), (1, 2, 0));
    let persisted = persist(subject, &late[..1], at(51)).await;
    assert_eq!((persisted.stored, persisted.dropped, persisted.duplicates), (0, 1, 0));
    store.quarantine_event(org, late[0].id, b"x", "why", at(52)).await.unwrap();
    store.system().add_month_events(Month::of(at(1)), &[(org, 5)]).await.unwrap();
    let key = some_key(Role::Tenant(org), at(52));
    let refused = store.system().insert_key(&key, &Actor::CLI).await.unwrap();
    assert_eq!(refused, Err(AddRefusal::OrgDeleted));
    let refused = store.insert_endpoint(org, &some_endpoint(org, "*"), &Actor::CLI).await.unwrap();
    assert_eq!(refused, Err(AddRefusal::OrgDeleted));
    let replay = store.insert_replay(org, &ALL_LETTERS, &Actor::CLI, at(52)).await.unwrap();
    assert!(replay.is_none());
    assert_eq!(store.delete_org(org, &Actor::CLI, at(53)).await.unwrap(), None);
    assert_eq!(store.suspend_org(org, false, &Actor::CLI, at(53)).await.unwrap(), None);
    // A step passes by an organisation whose row is locked, as what was just refused may still do.
    while store.org(org).await.unwrap().unwrap().deletion.unwrap().done_at.is_none() {
        store.system().delete_step(at(60)).await.unwrap();
    }
    persist(subject, &late[..2], at(61)).await;
    assert_eq!(rows_of(subject, org).await, 0);
}

async fn what_is_used_in_a_month_adds_up(subject: &Subject) {
    let (one, other) = (add_org(subject).await, add_org(subject).await);
    let (month, next) = (Month::of(at(0)), Month::of(at(40 * 86_400)));
    let add = async |month, events: &[(OrgId, u64)]| {
        let mut written = subject.store.system().add_month_events(month, events).await.unwrap();
        written.sort_unstable_by_key(|(_, events)| *events);
        written
    };
    assert_eq!(add(month, &[(other, 2), (one, 1)]).await, [(one, 1), (other, 2)]);
    assert_eq!(add(month, &[(one, 10), (some_org(at(0)).id, 5)]).await, [(one, 11)]);
    assert_eq!(add(next, &[(one, 3)]).await, [(one, 3)]);
    assert_eq!(subject.store.month_events(one, month).await.unwrap(), 11);
    assert_eq!(subject.store.month_events(other, next).await.unwrap(), 0);
}

async fn every_change_is_in_the_log_with_who_and_where_from_and_no_secret(subject: &Subject) {
    let store = &subject.store;
    let org = add_org(subject).await;
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let by = Actor::key(ApiKeyId::mint(at(0)), Some(address));
    let key = some_key(Role::Tenant(org), at(1));
    store.system().insert_key(&key, &by).await.unwrap().unwrap();
    let new = some_key(Role::Tenant(org), at(2));
    let minute = Duration::from_mins(1);
    store.system().rotate_key(key.id, minute, &new, &by, at(2)).await.unwrap().unwrap();
    store.system().expire_key(new.id, at(3), &by, at(3)).await.unwrap();
    let mut endpoint = some_endpoint(org, "a.*");
    endpoint.created_at = at(4);
    store.insert_endpoint(org, &endpoint, &by).await.unwrap().unwrap();
    let secret = hookgate::domain::SigningSecret::generate().unwrap();
    let day = Duration::from_hours(24);
    store.rotate_secret(org, endpoint.id, &secret, day, &by, at(5)).await.unwrap().unwrap();
    store.note_secret_shown(org, endpoint.id, &by, at(6)).await.unwrap();
    let headers = hookgate::domain::CustomHeaders::parse([("x-token", "hush")]).unwrap();
    let policy = hookgate::domain::DeliveryPolicyChange {
        max_concurrency: Some(Some(3)),
        rate_limit_per_second: Some(None),
        retry_schedule: Some(Some("5s, 5m".parse().unwrap())),
        ordered: Some(true),
    };
    let change = EndpointChange { headers: Some(headers), policy, ..EndpointChange::default() };
    store.update_endpoint(org, endpoint.id, &change, &by, at(7)).await.unwrap();
    store.delete_endpoint(org, endpoint.id, &by, at(8)).await.unwrap();
    set(subject, org, OrgLimit::Burst, 5).await;

    let log = store.audit_log(org, FIRST_PAGE).await.unwrap().data;
    let actions: Vec<_> = log.iter().map(|entry| entry.action.as_str()).collect();
    let expected = [
        "endpoint.delete",
        "endpoint.update",
        "endpoint.secret.show",
        "endpoint.secret.rotate",
        "endpoint.create",
        "key.revoke",
        "key.rotate",
    ];
    assert_eq!(actions[..7], expected);
    assert!(actions[7..].contains(&"key.create") && actions[7..].contains(&"org.update"));
    assert_eq!((log[0].actor.clone(), log[0].at), (by.kind.to_string(), at(8)));
    assert_eq!(log[0].address.as_deref(), Some("192.0.2.7"));
    let changed = json!({
        "headers": "changed",
        "max_concurrency": 3,
        "rate_limit_per_second": null,
        "retry_schedule": "5s,5m",
        "ordered": true,
    });
    assert_eq!(log[1].changes, changed);
    let created = json!({ "kind": "webhook", "url": "https://example.com", "account_id": null, "event_types": "a.*" });
    assert_eq!(log[4].changes, created);
    let rotated = json!({
        "name": "ci",
        "scopes": key.scopes,
        "replaces": key.id,
        "grace_seconds": 60,
        "replaced_expires_at": at(62),
    });
    assert_eq!(log[6].changes, rotated);
    let text = serde_json::to_string(&log).unwrap();
    for secret in ["hush", &secret.reveal(), "argon2", "hooks"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let stranger = add_org(subject).await;
    assert_eq!(store.audit_log(stranger, FIRST_PAGE).await.unwrap().data, []);
    let all = store.system().audit_log(FIRST_PAGE).await.unwrap().data;
    assert_eq!(all.len(), log.len() + 2, "and two organisations were created");
}

async fn operators_read_an_organisations_log_from_its_creation_on(subject: &Subject) {
    let store = &subject.store;
    // Made at the same moment, and one after the other.
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let operator = some_key(Role::Operator, at(0));
    store.system().insert_key(&operator, &Actor::CLI).await.unwrap().unwrap();
    for key in [Role::Tenant(org), Role::Tenant(other)].map(|role| some_key(role, at(0))) {
        store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
    }
    for burst in 2..5 {
        let change = OrgChange {
            name: None,
            limits: vec![(OrgLimit::Burst, Some(burst))],
            ..OrgChange::default()
        };
        store.update_org(org, &change, &Actor::CLI, at(burst.into())).await.unwrap();
    }
    store.delete_org(org, &Actor::CLI, at(9)).await.unwrap();
    let log = walk(2, async |p| store.system().org_log(org, p).await).await;
    let actions: Vec<_> = log.into_iter().map(|entry| entry.action).collect();
    let expected =
        ["org.delete", "org.update", "org.update", "org.update", "key.create", "org.create"];
    assert_eq!(actions, expected);
    let log = store.system().org_log(other, FIRST_PAGE).await.unwrap().data;
    assert_eq!(log.len(), 2, "{log:?}");
    // Tenants do not see the operators' lines.
    assert_eq!(store.audit_log(other, FIRST_PAGE).await.unwrap().data, log[..1]);
}

async fn change_that_is_refused_is_not_in_the_log(subject: &Subject) {
    let org = add_org(subject).await;
    set(subject, org, OrgLimit::Keys, 0).await;
    let lines = "SELECT count(*) FROM audit_log";
    let before = subject.count(lines).await;
    let store = &subject.store;
    let key = some_key(Role::Tenant(org), at(2));
    store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap_err();
    assert!(!store.system().expire_key(key.id, at(3), &Actor::CLI, at(3)).await.unwrap());
    let endpoint = some_endpoint(org, "*").id;
    assert!(!store.delete_endpoint(org, endpoint, &Actor::CLI, at(3)).await.unwrap());
    // Suspended already is no change.
    suspend(subject, org, false, 3).await;
    assert_eq!(subject.count(lines).await, before);
}

#[tokio::test]
async fn change_on_one_instance_is_hinted_at_on_another_until_the_connection_is_gone() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    let other = subject.another().await;
    let wake = Wake::new();
    let (told, hour) = (wake.clone(), Duration::from_hours(1));
    let mut hearing = JoinSet::new();
    hearing.spawn(async move { other.system().hint_changes(&[told]).await });
    // The first tells that it listens.
    wake.sleep(hour).await;
    set(&subject, org, OrgLimit::Burst, 5).await;
    wake.sleep(hour).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    subject.raw("", kill).await;
    let ended = hearing.join_next().await.unwrap().unwrap();
    assert!(ended.is_ok() || ended.is_err(), "it ended, and its caller listens anew");
}

/// A batch that looked the organisation up before its deletion began is stored before it.
#[tokio::test]
async fn deletion_waits_for_batches_that_are_being_stored() {
    use sqlx::{Connection, Executor};

    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    let mut batch = sqlx::PgConnection::connect(&subject.url()).await.unwrap();
    let hold = format!("BEGIN; SELECT 1 FROM orgs WHERE id = '{}' FOR KEY SHARE", org.uuid());
    batch.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(hold))).await.unwrap();
    let mut deleting = JoinSet::new();
    let store = subject.store.clone();
    deleting.spawn(async move { store.delete_org(org, &Actor::CLI, at(50)).await });
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("somebody waits for a lock", async || subject.count(waits).await != 0).await;
    assert!(deleting.try_join_next().is_none());
    batch.execute("COMMIT").await.unwrap();
    assert!(deleting.join_next().await.unwrap().unwrap().unwrap().is_some());
}
