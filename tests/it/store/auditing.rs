//! What the audit log says of deliveries, replays and dead letters that somebody changes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hookgate::domain::{
    Actor, ApiKeyId, AuditEntry, DeadLetterDeletion, DeadLetterId, DeadReason, Decision,
    DeliveryId, DeliveryPolicyChange, DeliveryStatus, Endpoint, EndpointChange, EndpointId,
    EventId, InboxSettingsChange, LeasedDelivery, OrgChange, OrgId, OrgLimit, ReplayStatus, Role,
};
use hookgate::store::CANCELS_INLINE_MAX;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::fixtures::{
    ALL_LETTERS, DISABLE_AFTER, EXHAUSTED, FIRST_PAGE, add_endpoint, add_org, at, claim,
    org_with_deliveries, outcome, persist, some_event, some_key,
};
use super::{Subject, on_both};
use crate::support::wait::until;

on_both!(
    retry_is_in_the_log_with_who_and_where_from,
    replayed_delivery_is_in_the_log_with_the_new_one,
    replayed_event_is_one_line_with_how_many_deliveries,
    replay_of_many_is_one_line_when_it_starts_and_one_when_it_is_ended,
    cancelled_delivery_is_in_the_log_once,
    all_that_a_call_cancels_is_one_line_with_the_number,
    test_event_is_in_the_log_with_its_delivery,
    deleted_dead_letter_is_in_the_log_with_why,
    what_changes_nothing_is_not_in_the_log,
    organisation_that_stays_as_it_is_has_no_line,
    endpoint_that_stays_as_it_is_has_no_line,
    key_that_has_ended_has_no_further_line,
    nothing_happens_whose_line_cannot_be_written,
    endpoint_that_the_server_disables_is_in_the_log_once_with_the_reason,
    no_endpoint_is_disabled_whose_line_cannot_be_written,
);

fn somebody() -> Actor {
    Actor::key(ApiKeyId::from_uuid(Uuid::from_u128(7)), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

/// The lines of what [`somebody`] did, newest first.
async fn lines(subject: &Subject, org: OrgId) -> Vec<AuditEntry> {
    let mut log = subject.store.audit_log(org, FIRST_PAGE).await.unwrap().data;
    log.retain(|entry| entry.actor == somebody().kind.to_string());
    assert!(log.iter().all(|entry| entry.address.as_deref() == Some("127.0.0.1")));
    assert!(log.iter().all(|entry| entry.org_id == Some(org)));
    log
}

/// The only line there is.
async fn line(subject: &Subject, org: OrgId) -> (String, Uuid, Value) {
    let mut log = lines(subject, org).await;
    assert_eq!(log.len(), 1, "{log:#?}");
    let entry = log.remove(0);
    assert_eq!(entry.at, at(30));
    (entry.action, entry.object, entry.changes)
}

/// An organisation, its endpoint, and a delivery that was given up.
async fn dead(subject: &Subject) -> (OrgId, EndpointId, LeasedDelivery) {
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let outcomes = [outcome(&leased, EXHAUSTED, at(1))];
    subject.store.system().record_outcomes(&outcomes).await.unwrap();
    (org, endpoint.id, leased)
}

async fn retry_is_in_the_log_with_who_and_where_from(subject: &Subject) {
    let (org, _, dead) = dead(subject).await;
    subject.store.retry_delivery(org, dead.id, &somebody(), at(30)).await.unwrap().unwrap();
    let expected = ("delivery.retry".to_owned(), dead.id.uuid(), json!({}));
    assert_eq!(line(subject, org).await, expected);
}

async fn replayed_delivery_is_in_the_log_with_the_new_one(subject: &Subject) {
    let (org, _, dead) = dead(subject).await;
    let new = subject.store.replay_delivery(org, dead.id, &somebody(), at(30)).await;
    let changes = json!({ "delivery_id": new.unwrap().unwrap().id });
    let expected = ("delivery.replay".to_owned(), dead.id.uuid(), changes);
    assert_eq!(line(subject, org).await, expected);
}

async fn replayed_event_is_one_line_with_how_many_deliveries(subject: &Subject) {
    let org = add_org(subject).await;
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(add_endpoint(subject, org, "*").await.id);
    }
    let event = some_event(org, "a.b", at(0));
    persist(subject, std::slice::from_ref(&event), at(0)).await;
    subject.store.delete_endpoint(org, endpoints[0], &Actor::CLI, at(1)).await.unwrap();
    let replay = async |endpoint, now| {
        let replayed =
            subject.store.replay_event(org, event.id, endpoint, &somebody(), at(now)).await;
        replayed.unwrap().unwrap()
    };
    replay(None, 30).await;
    let changes = json!({ "deliveries": 2, "skipped": 1 });
    let expected = ("event.replay".to_owned(), event.id.uuid(), changes);
    assert_eq!(line(subject, org).await, expected);
    replay(Some(endpoints[1]), 31).await;
    let changes = json!({ "deliveries": 1, "skipped": 0, "endpoint_id": endpoints[1] });
    assert_eq!(lines(subject, org).await[0].changes, changes);
}

async fn replay_of_many_is_one_line_when_it_starts_and_one_when_it_is_ended(subject: &Subject) {
    let store = &subject.store;
    let (org, endpoint, _) = dead(subject).await;
    let filter = hookgate::domain::DeadLetterFilter { endpoint_id: Some(endpoint), ..ALL_LETTERS };
    let start =
        async |now| store.insert_replay(org, &filter, &somebody(), at(now)).await.unwrap().unwrap();
    let replay = start(30).await;
    let filter = json!({ "endpoint_id": endpoint, "until": replay.filter.until });
    let changes = json!({ "filter": filter, "total": 1 });
    let expected = ("replay.create".to_owned(), replay.id.uuid(), changes);
    assert_eq!(line(subject, org).await, expected);
    // The steps are not somebody's; what they plan is told by the replay.
    let step = store.step_replay(org, replay.id, at(31)).await.unwrap().unwrap();
    assert_eq!(step.planned, 1);
    assert_eq!(lines(subject, org).await.len(), 1);

    let (cancelled, failed) = (start(32).await, start(33).await);
    for now in 34..36 {
        store.end_replay(org, cancelled.id, None, &somebody(), at(now)).await.unwrap().unwrap();
    }
    store.end_replay(org, failed.id, Some("no"), &somebody(), at(36)).await.unwrap().unwrap();
    let log = lines(subject, org).await;
    assert_eq!(log.len(), 5, "once: {log:#?}");
    let told = |entry: &AuditEntry| (entry.action.clone(), entry.object, entry.at);
    assert_eq!(told(&log[0]), ("replay.fail".to_owned(), failed.id.uuid(), at(36)));
    assert_eq!(told(&log[1]), ("replay.cancel".to_owned(), cancelled.id.uuid(), at(34)));
    assert_eq!(log[1].changes, json!({ "done": 0, "skipped": 0 }));
}

async fn cancelled_delivery_is_in_the_log_once(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let id = claim(subject, 1, at(0)).await[0].id;
    for now in [30, 31] {
        subject.store.cancel_delivery(org, id, &somebody(), at(now)).await.unwrap().unwrap();
    }
    let expected = ("delivery.cancel".to_owned(), id.uuid(), json!({}));
    assert_eq!(line(subject, org).await, expected);
}

async fn all_that_a_call_cancels_is_one_line_with_the_number(subject: &Subject) {
    let count = usize::try_from(CANCELS_INLINE_MAX).unwrap() + 3;
    let (org, endpoint) = org_with_deliveries(subject, count).await;
    let cancel = async |now| {
        let by = somebody();
        let done = subject.store.cancel_pending(org, endpoint.id, &by, at(now)).await.unwrap();
        done.unwrap().cancelled
    };
    assert_eq!(cancel(30).await, CANCELS_INLINE_MAX);
    let changes = json!({ "cancelled": CANCELS_INLINE_MAX });
    let expected = ("endpoint.cancel_pending".to_owned(), endpoint.id.uuid(), changes);
    assert_eq!(line(subject, org).await, expected);
    assert_eq!(subject.store.system().cancel_step(at(31)).await.unwrap(), 3);
    let log = subject.store.audit_log(org, FIRST_PAGE).await.unwrap().data;
    assert_eq!((log[0].actor.as_str(), &log[0].changes), ("server", &json!({ "cancelled": 3 })));
    assert_eq!(cancel(32).await, 0);
    assert_eq!(lines(subject, org).await.len(), 1);
}

async fn test_event_is_in_the_log_with_its_delivery(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "invoice.*").await.id;
    let event = Arc::new(some_event(org, "hookgate.test", at(30)));
    let planned = subject.store.plan_event(org, endpoint, &event, &somebody(), at(30)).await;
    let changes = json!({ "event_id": event.id, "delivery_id": planned.unwrap().unwrap() });
    let expected = ("endpoint.test".to_owned(), endpoint.uuid(), changes);
    assert_eq!(line(subject, org).await, expected);
}

async fn deleted_dead_letter_is_in_the_log_with_why(subject: &Subject) {
    let store = &subject.store;
    for (why, action) in [
        (DeadLetterDeletion::Discarded, "dead_letter.delete"),
        (DeadLetterDeletion::Stored, "dead_letter.replay"),
    ] {
        let org = add_org(subject).await;
        let event = EventId::mint(at(0));
        store.quarantine_event(org, event, b"record", "no", at(1)).await.unwrap();
        let id = DeadLetterId::from_uuid(event.uuid());
        assert!(store.delete_dead_letter(org, id, why, &somebody(), at(30)).await.unwrap());
        assert_eq!(line(subject, org).await, (action.to_owned(), event.uuid(), json!({})));
    }
}

async fn what_changes_nothing_is_not_in_the_log(subject: &Subject) {
    let (store, by) = (&subject.store, somebody());
    let (org, endpoint, dead) = dead(subject).await;
    let event = dead.event.id;
    store.cancel_delivery(org, dead.id, &by, at(30)).await.unwrap().unwrap_err();
    store.delete_endpoint(org, endpoint, &Actor::CLI, at(30)).await.unwrap();
    store.retry_delivery(org, dead.id, &by, at(30)).await.unwrap().unwrap_err();
    store.replay_delivery(org, dead.id, &by, at(30)).await.unwrap().unwrap_err();
    let none = store.replay_event(org, event, None, &by, at(30)).await.unwrap().unwrap();
    assert_eq!((none.deliveries.len(), none.skipped), (0, 1));
    store.replay_event(org, event, Some(endpoint), &by, at(30)).await.unwrap().unwrap_err();
    let test = Arc::new(some_event(org, "a.b", at(30)));
    store.plan_event(org, endpoint, &test, &by, at(30)).await.unwrap().unwrap_err();
    assert_eq!(store.cancel_pending(org, endpoint, &by, at(30)).await.unwrap(), None);
    let (missing, why) = (DeadLetterId::mint(at(0)), DeadLetterDeletion::Discarded);
    assert!(!store.delete_dead_letter(org, missing, why, &by, at(30)).await.unwrap());
    assert_eq!(lines(subject, org).await, []);
}

async fn organisation_that_stays_as_it_is_has_no_line(subject: &Subject) {
    let (store, by) = (&subject.store, somebody());
    let org = add_org(subject).await;
    let before = store.org(org).await.unwrap().unwrap();
    let own = OrgChange {
        name: Some(before.name.clone()),
        limits: vec![(OrgLimit::Burst, before.limits.get(OrgLimit::Burst))],
        ..OrgChange::default()
    };
    for change in [OrgChange::default(), own] {
        let after = store.update_org(org, &change, &by, at(30)).await.unwrap();
        assert_eq!(after.as_ref(), Some(&before));
    }
    assert_eq!(lines(subject, org).await, []);
    let new =
        OrgChange { name: Some("new".to_owned()), limits: Vec::new(), ..OrgChange::default() };
    store.update_org(org, &new, &by, at(30)).await.unwrap();
    assert_eq!(line(subject, org).await.2, json!({ "name": "new" }));
}

async fn endpoint_that_stays_as_it_is_has_no_line(subject: &Subject) {
    let (store, by) = (&subject.store, somebody());
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "a.*").await;
    let own = EndpointChange {
        url: Some(endpoint.url.clone()),
        event_types: Some(endpoint.event_types.clone()),
        headers: endpoint.headers.clone().ok(),
        description: Some(endpoint.description.clone()),
        disabled_reason: Some(None),
        policy: DeliveryPolicyChange { ordered: Some(false), ..DeliveryPolicyChange::default() },
        inbox: InboxSettingsChange { max_receives: Some(None), ..InboxSettingsChange::default() },
        format: Some(endpoint.config.format),
    };
    for change in [EndpointChange::default(), own] {
        let after = store.update_endpoint(org, endpoint.id, &change, &by, at(30)).await.unwrap();
        let after = after.unwrap();
        let version = after.version;
        assert_eq!(after, Endpoint { updated_at: at(30), version, ..endpoint.clone() });
    }
    assert_eq!(lines(subject, org).await, []);
    let off = Some(Some("off".to_owned()));
    let off = EndpointChange { disabled_reason: off, ..EndpointChange::default() };
    for _ in 0..2 {
        store.update_endpoint(org, endpoint.id, &off, &by, at(30)).await.unwrap();
    }
    assert_eq!(line(subject, org).await.2, json!({ "disabled_reason": "off" }));
    let nobody = store.update_endpoint(org, EndpointId::mint(at(0)), &off, &by, at(30)).await;
    assert_eq!(nobody.unwrap(), None);
}

async fn key_that_has_ended_has_no_further_line(subject: &Subject) {
    let (store, by) = (&subject.store, somebody());
    let org = add_org(subject).await;
    let key = some_key(Role::Tenant(org), at(1));
    store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
    for seconds in [30, 31] {
        let now = at(seconds);
        assert!(store.system().expire_key(key.id, now, &by, now).await.unwrap());
    }
    let (action, object, _) = line(subject, org).await;
    assert_eq!((action.as_str(), object), ("key.revoke", key.id.uuid()));
    let found = store.system().key(key.id).await.unwrap().unwrap();
    assert_eq!((found.revoked_at, found.expires_at), (Some(at(30)), Some(at(30))));
}

async fn nothing_happens_whose_line_cannot_be_written(subject: &Subject) {
    let (store, by) = (&subject.store, somebody());
    let (org, endpoint) = org_with_deliveries(subject, 2).await;
    let leased = claim(subject, 2, at(0)).await;
    let outcomes = [
        outcome(&leased[0], EXHAUSTED, at(1)),
        outcome(&leased[1], Decision::RetryAt(at(5)), at(1)),
    ];
    store.system().record_outcomes(&outcomes).await.unwrap();
    let (dead, waiting) = (leased[0].id, leased[1].id);
    let replay = store.insert_replay(org, &ALL_LETTERS, &by, at(20)).await.unwrap().unwrap();
    let away = "ALTER TABLE audit_log RENAME TO away";
    subject.raw(away, away).await;

    store.retry_delivery(org, dead, &by, at(30)).await.unwrap_err();
    store.replay_delivery(org, dead, &by, at(30)).await.unwrap_err();
    store.replay_event(org, leased[0].event.id, None, &by, at(30)).await.unwrap_err();
    store.insert_replay(org, &ALL_LETTERS, &by, at(30)).await.unwrap_err();
    store.end_replay(org, replay.id, None, &by, at(30)).await.unwrap_err();
    store.cancel_delivery(org, waiting, &by, at(30)).await.unwrap_err();
    store.cancel_pending(org, endpoint.id, &by, at(30)).await.unwrap_err();
    let test = Arc::new(some_event(org, "a.b", at(30)));
    store.plan_event(org, endpoint.id, &test, &by, at(30)).await.unwrap_err();
    let (letter, why) = (DeadLetterId::from_uuid(dead.uuid()), DeadLetterDeletion::Discarded);
    store.delete_dead_letter(org, letter, why, &by, at(30)).await.unwrap_err();

    let status = async |id: DeliveryId| store.delivery(org, id).await.unwrap().unwrap().status;
    assert_eq!(status(dead).await, DeliveryStatus::Dead);
    assert_eq!(status(waiting).await, DeliveryStatus::Pending);
    let deliveries = store.deliveries(org, &<_>::default(), FIRST_PAGE).await.unwrap().data;
    assert_eq!(deliveries.len(), 2);
    assert!(store.event(org, test.id).await.unwrap().is_none());
    let replays = store.replays(org, FIRST_PAGE).await.unwrap().data;
    assert_eq!((replays.len(), replays[0].status), (1, ReplayStatus::Running));
    let letter = store.dead_letter(org, letter).await.unwrap().unwrap();
    assert_eq!(letter.replayed_at, None);
}

async fn endpoint_that_the_server_disables_is_in_the_log_once_with_the_reason(subject: &Subject) {
    let (store, late) = (&subject.store, 10 + i64::try_from(DISABLE_AFTER.as_secs()).unwrap());
    let (org, endpoint) = org_with_deliveries(subject, 4).await;
    let record = async |leased: &LeasedDelivery, decision, now| {
        let outcomes = [outcome(leased, decision, at(now))];
        assert_eq!(store.system().record_outcomes(&outcomes).await.unwrap(), 1);
    };
    let enabled = EndpointChange { disabled_reason: Some(None), ..EndpointChange::default() };
    let enable = async |now| {
        store.update_endpoint(org, endpoint.id, &enabled, &somebody(), at(now)).await.unwrap();
    };
    let leased = claim(subject, 2, at(0)).await;
    record(&leased[0], Decision::Dead(DeadReason::Gone), 5).await;
    record(&leased[1], Decision::Dead(DeadReason::Gone), 6).await;
    enable(7).await;
    let leased = claim(subject, 1, at(7)).await;
    record(&leased[0], Decision::RetryAt(at(late)), 10).await;
    let leased = claim(subject, 1, at(10)).await;
    record(&leased[0], Decision::RetryAt(at(late + 9)), late).await;

    let mut log = store.audit_log(org, FIRST_PAGE).await.unwrap().data;
    log.retain(|entry| entry.actor == "server");
    let told: Vec<_> = log.iter().map(|entry| (entry.at, entry.changes.clone())).collect();
    let reason = |text: &str| json!({ "disabled_reason": text });
    let expected = [
        (at(late), reason(&format!("every attempt has failed since {}", at(10)))),
        (at(5), reason("the receiver answered 410 Gone")),
    ];
    assert_eq!(told, expected);
    for entry in log {
        assert_eq!((entry.action.as_str(), entry.object), ("endpoint.update", endpoint.id.uuid()));
        assert_eq!((entry.org_id, entry.address), (Some(org), None));
    }
}

async fn no_endpoint_is_disabled_whose_line_cannot_be_written(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 1).await;
    let leased = claim(subject, 1, at(0)).await.remove(0);
    let gone = [outcome(&leased, Decision::Dead(DeadReason::Gone), at(10))];
    subject
        .raw("ALTER TABLE audit_log RENAME TO away", "ALTER TABLE audit_log RENAME TO away")
        .await;
    subject.store.system().record_outcomes(&gone).await.unwrap_err();
    let endpoint = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    assert_eq!(endpoint.disabled_reason, None);
    let delivery = subject.store.delivery(org, leased.id).await.unwrap().unwrap();
    assert_eq!(delivery.status, DeliveryStatus::Pending);
}

/// Begins a deletion as the store does, and leaves it open.
async fn begin_deletion(subject: &Subject, org: OrgId) -> PgConnection {
    let mut deleting = PgConnection::connect(&subject.url()).await.unwrap();
    let hold = format!(
        "BEGIN; SELECT 1 FROM orgs WHERE id = '{id}' FOR UPDATE;
         UPDATE orgs SET deleting_since = now() WHERE id = '{id}'",
        id = org.uuid()
    );
    deleting.execute(sqlx::raw_sql(AssertSqlSafe(hold))).await.unwrap();
    deleting
}

async fn until_somebody_waits(subject: &Subject) {
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("somebody waits for a lock", async || subject.count(waits).await != 0).await;
}

/// It waits before it has locked the endpoint, which the deletion locks, too.
#[tokio::test]
async fn outcome_that_disables_an_endpoint_and_meets_a_deletion_locks_nobody_out() {
    let subject = Subject::postgres().await;
    let (org, endpoint) = org_with_deliveries(&subject, 1).await;
    let leased = claim(&subject, 1, at(0)).await.remove(0);
    let gone = outcome(&leased, Decision::Dead(DeadReason::Gone), at(10));
    let mut deleting = begin_deletion(&subject, org).await;
    let mut recording = JoinSet::new();
    let store = subject.store.clone();
    recording.spawn(async move { store.system().record_outcomes(&[gone]).await });
    until_somebody_waits(&subject).await;
    let disable = format!(
        "UPDATE endpoints SET disabled_reason = 'deleted' WHERE org_id = '{}'; COMMIT",
        org.uuid()
    );
    deleting.execute(sqlx::raw_sql(AssertSqlSafe(disable))).await.unwrap();
    assert_eq!(recording.join_next().await.unwrap().unwrap().unwrap(), 1);
    let endpoint = subject.store.endpoint(org, endpoint.id).await.unwrap().unwrap();
    assert_eq!(endpoint.disabled_reason.as_deref(), Some("deleted"));
    assert_eq!(subject.count("SELECT count(*) FROM audit_log WHERE actor = 'server'").await, 0);
}

/// One that waits for a deletion to begin finds the organisation gone.
#[tokio::test]
async fn replay_that_meets_a_deletion_leaves_no_row() {
    let subject = Subject::postgres().await;
    let (org, _, _) = dead(&subject).await;
    let mut deleting = begin_deletion(&subject, org).await;
    let mut starting = JoinSet::new();
    let store = subject.store.clone();
    starting
        .spawn(async move { store.insert_replay(org, &ALL_LETTERS, &somebody(), at(30)).await });
    until_somebody_waits(&subject).await;
    deleting.execute("COMMIT").await.unwrap();
    assert!(starting.join_next().await.unwrap().unwrap().unwrap().is_none());
    assert_eq!(subject.count("SELECT count(*) FROM replays").await, 0);
}
