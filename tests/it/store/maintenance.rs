use std::time::Duration;

use hookgate::domain::Decision;
use hookgate::store::StoreError;
use tokio::task::JoinSet;

use super::fixtures::{
    add_endpoint, add_org, at, claim, named_event, outcome, persist, some_event,
};
use super::subject::DEDUP_WINDOW;
use super::{Subject, on_both};

on_both!(
    migrations_go_up_and_down,
    endpoints_from_before_a_step_are_there_after_it,
    instances_that_migrate_at_once_apply_each_step_once,
    store_without_its_schema_is_unavailable,
    old_dedup_keys_are_forgotten_and_younger_ones_kept,
    many_old_dedup_keys_are_forgotten_in_steps,
    upkeep_runs_on_several_instances_at_once,
    checkpoint_lets_the_log_start_anew,
    closed_store_is_unavailable,
);

async fn migrations_go_up_and_down(subject: &Subject) {
    let store = &subject.store;
    let applied = async || {
        let status = store.migration_status().await.unwrap();
        assert!(status.is_sorted_by_key(|step| step.version));
        status.iter().filter(|step| step.applied).count()
    };
    let all = store.migration_status().await.unwrap();
    assert_eq!(all[0].name, "initial");
    assert_eq!(applied().await, all.len());
    assert_eq!(store.migrate_up().await.unwrap(), 0);

    for step in all.iter().rev() {
        assert_eq!(store.migrate_down().await.unwrap(), Some(step.version));
    }
    assert_eq!(applied().await, 0);
    assert_eq!(store.migrate_down().await.unwrap(), None);
    assert_eq!(store.migrate_up().await.unwrap(), all.len());
    add_org(subject).await;
}

async fn endpoints_from_before_a_step_are_there_after_it(subject: &Subject) {
    let store = &subject.store;
    let org = add_org(subject).await;
    let added = add_endpoint(subject, org, "user.*").await;
    while store.migrate_down().await.unwrap() != Some(2) {}
    store.migrate_up().await.unwrap();
    let found = store.endpoint(org, added.id).await.unwrap().unwrap();
    assert_eq!((&found.url, &found.event_types), (&added.url, &added.event_types));
    assert_eq!((&found.secrets, &found.headers), (&added.secrets, &added.headers));
}

async fn instances_that_migrate_at_once_apply_each_step_once(subject: &Subject) {
    let all = subject.store.migration_status().await.unwrap().len();
    while subject.store.migrate_down().await.unwrap().is_some() {}
    let mut instances = JoinSet::new();
    for _ in 0..4 {
        let store = subject.another().await;
        instances.spawn(async move { store.migrate_up().await.unwrap() });
    }
    assert_eq!(instances.join_all().await.iter().sum::<usize>(), all);
}

async fn store_without_its_schema_is_unavailable(subject: &Subject) {
    subject.store.ping().await.unwrap();
    while subject.store.migrate_down().await.unwrap().is_some() {}
    let error = subject.store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let batch = [std::sync::Arc::new(some_event(super::fixtures::some_org(at(0)).id, "a", at(0)))];
    let error =
        super::fixtures::persist_events(&subject.store, &batch, None, at(0)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

async fn old_dedup_keys_are_forgotten_and_younger_ones_kept(subject: &Subject) {
    let org = add_org(subject).await;
    let now = at(10_000_000);
    let ages = [Duration::ZERO, DEDUP_WINDOW, DEDUP_WINDOW + Duration::from_hours(48)];
    let events: Vec<_> = ages
        .iter()
        .enumerate()
        .map(|(name, age)| named_event(org, &name.to_string(), now.minus(*age)))
        .collect();
    persist(subject, &events, now).await;
    subject.store.system().maintain(now).await.unwrap();
    assert_eq!(subject.count("SELECT count(*) FROM dedup_keys").await, 2);
    // A clock that is two days ahead, while copies of that age wait in a journal.
    let ahead = now.plus(Duration::from_hours(48));
    subject.store.system().maintain_behind(ahead, now).await.unwrap();
    assert_eq!(subject.count("SELECT count(*) FROM dedup_keys").await, 2);
    let replayed = persist(subject, &events, now).await;
    assert_eq!(replayed.stored, 0, "a record is stored once though its key was forgotten");
}

/// Keys of 22,000 events, one per second, that are old but for the last thousand.
const SQLITE_KEYS: &str =
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 22000)
    INSERT INTO dedup_keys (org_id, event_id, received_at)
    SELECT (SELECT id FROM orgs), randomblob(16), 1767225600000000 + i * 1000000 FROM n";
const POSTGRES_KEYS: &str = "INSERT INTO dedup_keys (org_id, event_id, received_at)
    SELECT (SELECT id FROM orgs), gen_random_uuid(), timestamptz '2026-01-01 00:00+00' + i * interval '1 second'
    FROM generate_series(1, 22000) i";

async fn many_old_dedup_keys_are_forgotten_in_steps(subject: &Subject) {
    add_org(subject).await;
    subject.raw(SQLITE_KEYS, POSTGRES_KEYS).await;
    let now = at(21_001).plus(DEDUP_WINDOW + Duration::from_hours(24));
    let keys = "SELECT count(*) FROM dedup_keys";
    if subject.is_postgres() {
        // One that is in use is left for the next time.
        let mut other = subject.connect_postgres().await;
        let held = "BEGIN; SELECT 1 FROM dedup_keys WHERE received_at = timestamptz '2026-01-01 00:00:07+00' FOR UPDATE";
        sqlx::raw_sql(held).execute(&mut other).await.unwrap();
        subject.store.system().maintain(now).await.unwrap();
        assert!(subject.count(keys).await > 1_000);
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    }
    subject.store.system().maintain(now).await.unwrap();
    assert_eq!(subject.count(keys).await, 1_000);
}

async fn upkeep_runs_on_several_instances_at_once(subject: &Subject) {
    let mut instances = JoinSet::new();
    for _ in 0..4 {
        let store = subject.another().await;
        instances.spawn(async move {
            for _ in 0..3 {
                store.system().maintain(at(0)).await.unwrap();
            }
        });
    }
    instances.join_all().await;
    if subject.is_postgres() {
        let days = "SELECT count(*) FROM pg_class WHERE relname LIKE 'events\\_p________'
                    AND relkind = 'r'";
        assert_eq!(subject.count(days).await, 8);
    }
}

async fn checkpoint_lets_the_log_start_anew(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let write = async || {
        let events: Vec<_> = (0..50).map(|_| some_event(org, "a.b", at(0))).collect();
        assert_eq!(persist(subject, &events, at(1)).await.stored, events.len());
    };
    subject.store.checkpoint().await.unwrap();
    write().await;
    let once = subject.wal_bytes();
    for _ in 0..20 {
        subject.store.checkpoint().await.unwrap();
        write().await;
    }
    // Later batches touch a few pages more, as the trees grow.
    assert!(subject.wal_bytes() <= once.map(|bytes| bytes * 4), "{:?}", subject.wal_bytes());
    assert_eq!(subject.count("SELECT count(*) FROM events").await, 21 * 50);
}

async fn closed_store_is_unavailable(subject: &Subject) {
    let store = subject.another().await;
    store.close().await;
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn day_that_is_missing_is_made_when_a_row_comes() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    add_endpoint(&subject, org, "*").await;
    let tomorrow = at(86_400);
    let events = [some_event(org, "a.b", at(1)), some_event(org, "a.b", tomorrow)];
    persist(&subject, &events, tomorrow).await;
    assert_eq!(subject.count("SELECT count(*) FROM events_p20260101").await, 1);
    assert_eq!(subject.count("SELECT count(*) FROM events_p20260102").await, 1);
    let leased = claim(&subject, 10, tomorrow).await;
    let outcomes: Vec<_> =
        leased.iter().map(|leased| outcome(leased, Decision::Delivered, tomorrow)).collect();
    assert_eq!(subject.store.system().record_outcomes(&outcomes).await.unwrap(), 2);
    assert_eq!(subject.count("SELECT count(*) FROM deliveries_p20260101").await, 1);
    assert_eq!(subject.count("SELECT count(*) FROM deliveries_p20260102").await, 1);
}

#[tokio::test]
async fn rows_of_a_default_partition_move_to_their_days() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    // As an earlier version has left it.
    subject.raw("", "CREATE TABLE events_default PARTITION OF events DEFAULT").await;
    let events: Vec<_> = (0..3).map(|day| some_event(org, "a.b", at(day * 86_400 + 5))).collect();
    persist(&subject, &events, at(0)).await;
    assert_eq!(subject.count("SELECT count(*) FROM events_default").await, 3);
    subject.store.system().maintain(at(2 * 86_400)).await.unwrap();
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'events_default'";
    assert_eq!(subject.count(left).await, 0);
    for day in ["01", "02", "03"] {
        let rows = format!("SELECT count(*) FROM events_p202601{day}");
        assert_eq!(subject.count(&rows).await, 1, "{day}");
    }
}
