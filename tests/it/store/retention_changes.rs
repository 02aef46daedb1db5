//! Rounds of retention beside a change of what is kept, beside rows that cannot be deleted, and what is left of events.

use hookgate::config::RetentionConfig;
use hookgate::domain::{Actor, Decision, DeliveryFilter, Event, EventId, ListOrder, OrgLimit};
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;

use super::event_filters::ORDERS;
use super::fixtures::{
    FIRST_PAGE, add_endpoint, add_org, named_event, persist, some_event, walk_in,
};
use super::retention::{DAYS, day, enforce, finish, keep, limit, listed, rows};
use super::retention_days::partitions;
use super::{Subject, on_both};

on_both!(
    round_deletes_nothing_that_is_kept_longer_since_it_began,
    organisation_whose_rows_cannot_be_deleted_keeps_no_other_ones_from_it,
    organisation_whose_times_cannot_be_read_keeps_no_other_ones_from_it,
    redeliveries_of_an_event_that_is_gone_are_listed,
);

async fn round_deletes_nothing_that_is_kept_longer_since_it_began(subject: &Subject) {
    // PostgreSQL drops the days of those that keep the most.
    let (org, _) = (add_org(subject).await, add_org(subject).await);
    limit(subject, org, OrgLimit::RetentionDays, 5).await;
    // More than a step deletes.
    let events: Vec<Event> = (0..700).map(|_| some_event(org, "a.b", day(0))).collect();
    persist(subject, &events, day(0)).await;
    // The operator says so while the first step runs.
    let update = "UPDATE orgs SET retention_days = 365 WHERE retention_days = 5";
    subject
        .raw(
            &format!("CREATE TRIGGER longer AFTER DELETE ON events BEGIN {update}; END"),
            &format!(
                "CREATE FUNCTION longer() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN {update}; RETURN NULL; END $$;
                 CREATE TRIGGER longer AFTER DELETE ON events
                 FOR EACH ROW EXECUTE FUNCTION longer()"
            ),
        )
        .await;
    let report = enforce(subject, &keep(30), day(20)).await;
    let left = rows(subject, "events").await;
    assert!(report.rows > 0 && left > 0, "{report:?}, {left} are left");
    enforce(subject, &keep(30), day(20)).await;
    assert_eq!(rows(subject, "events").await, left);
}

async fn organisation_whose_rows_cannot_be_deleted_keeps_no_other_ones_from_it(subject: &Subject) {
    let (first, second, _) =
        (add_org(subject).await, add_org(subject).await, add_org(subject).await);
    for org in [first, second] {
        limit(subject, org, OrgLimit::RetentionDays, 5).await;
        persist(subject, &[some_event(org, "a.b", day(0))], day(0)).await;
    }
    let config = RetentionConfig { audit_retention: Some(DAYS), ..keep(30) };
    let id = first.to_string();
    subject
        .raw(
            &format!(
                "CREATE TRIGGER damaged BEFORE DELETE ON events WHEN OLD.org_id = x'{}'
                 BEGIN SELECT RAISE(ABORT, 'no'); END",
                id.replace('-', "")
            ),
            &format!(
                "CREATE FUNCTION damaged() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN IF OLD.org_id = '{id}' THEN RAISE 'no'; END IF; RETURN OLD; END $$;
                 CREATE TRIGGER damaged BEFORE DELETE ON events
                 FOR EACH ROW EXECUTE FUNCTION damaged()"
            ),
        )
        .await;
    assert!(rows(subject, "audit_log").await > 0);
    let failed = subject.store.system().enforce_retention(&config, day(20)).await.unwrap_err();
    assert!(failed.to_string().contains("no") && !failed.is_cut_short());
    // The failure names what was deleted before it.
    assert!(failed.report.rows > 0);
    assert_eq!(listed(subject, first).await, [day(0)]);
    assert_eq!(listed(subject, second).await, []);
    assert_eq!(rows(subject, "audit_log").await, 0);
}

async fn organisation_whose_times_cannot_be_read_keeps_no_other_ones_from_it(subject: &Subject) {
    let (first, second, third) =
        (add_org(subject).await, add_org(subject).await, add_org(subject).await);
    limit(subject, first, OrgLimit::RetentionDays, 5).await;
    for org in [first, second, third] {
        persist(subject, &[some_event(org, "a.b", day(0))], day(0)).await;
    }
    let damage = "UPDATE orgs SET retention_days = -1 WHERE retention_days = 5";
    subject.raw(damage, damage).await;
    let config = RetentionConfig { audit_retention: Some(DAYS), ..keep(30) };
    // On PostgreSQL no day is dropped while it is not known how long the first keeps its rows.
    subject.store.system().enforce_retention(&config, day(60)).await.unwrap_err();
    assert_eq!(listed(subject, first).await, [day(0)]);
    for org in [second, third] {
        assert_eq!(listed(subject, org).await, []);
    }
    assert_eq!(rows(subject, "audit_log").await, 0);
}

#[tokio::test]
async fn day_is_not_dropped_that_is_kept_longer_since_the_round_began() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    let events: Vec<Event> = (0..10).map(|number| some_event(org, "a.b", day(number))).collect();
    persist(&subject, &events, day(10)).await;
    let before = partitions(&subject).await;
    // The operator says so while the first day is dropped.
    let mut postgres = subject.connect_postgres().await;
    let trigger = "CREATE FUNCTION longer() RETURNS event_trigger LANGUAGE plpgsql
                   AS $$ BEGIN UPDATE orgs SET retention_days = 365; END $$;
                   CREATE EVENT TRIGGER longer ON sql_drop EXECUTE FUNCTION longer()";
    sqlx::raw_sql(trigger).execute(&mut postgres).await.unwrap();
    let report = subject.store.system().enforce_retention(&keep(10), day(60)).await.unwrap();
    assert_eq!((report.days, partitions(&subject).await), (1, before - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn day_is_not_dropped_that_is_kept_longer_since_its_lock_was_waited_for() {
    /// The advisory lock of those who make or drop days.
    const PARTITIONS: i64 = 0x686f_6f6b_6761_7465;
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    persist(&subject, &[some_event(org, "a.b", day(0))], day(0)).await;
    let before = partitions(&subject).await;
    let mut other = subject.connect_postgres().await;
    let begin = format!("BEGIN; SELECT pg_advisory_xact_lock({PARTITIONS})");
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut other).await.unwrap();
    let mut round = JoinSet::new();
    let store = subject.store.clone();
    round.spawn(async move { store.system().enforce_retention(&keep(10), day(60)).await });
    subject.until_awaited().await;
    sqlx::raw_sql("UPDATE orgs SET retention_days = 365; COMMIT")
        .execute(&mut other)
        .await
        .unwrap();
    let report = round.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((report.days, partitions(&subject).await), (0, before));
    assert!(before > 0);
}

/// An id with its time in it, and that of a `dedup_id`.
async fn redeliveries_of_an_event_that_is_gone_are_listed(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events = [some_event(org, "a.b", day(0)), named_event(org, "invoice-1", day(0))];
    persist(subject, &events, day(0)).await;
    finish(subject, day(0), Decision::Delivered).await;
    let store = &subject.store;
    let of = |event| DeliveryFilter { event_id: Some(event), ..DeliveryFilter::default() };
    let mut again = Vec::new();
    for event in &events {
        let planned = store.deliveries(org, &of(event.id), FIRST_PAGE).await.unwrap().data;
        for number in [40, 50] {
            let redelivered = store.replay_delivery(org, planned[0].id, &Actor::CLI, day(number));
            again.push((event.id, redelivered.await.unwrap().unwrap().id));
        }
    }
    finish(subject, day(50), Decision::Delivered).await;
    enforce(subject, &keep(30), day(60)).await;
    assert_eq!(rows(subject, "events").await, 0);
    assert_eq!(rows(subject, "deliveries").await, 4);
    let unknown = [EventId::mint(day(0)), EventId::from_dedup_id(org, "invoice-2")];
    for event in events.iter().map(|event| event.id).chain(unknown) {
        // In the order of their creation, as their ids are.
        let known = again.iter().filter(|(of, _)| *of == event);
        let oldest_first: Vec<_> = known.map(|(_, id)| *id).collect();
        for order in ORDERS {
            let filter = of(event);
            let list = async |page| store.deliveries(org, &filter, page).await;
            let seen = walk_in(order, 1, list).await;
            let seen: Vec<_> = seen.iter().map(|delivery| delivery.id).collect();
            let mut expected = oldest_first.clone();
            if order == ListOrder::NewestFirst {
                expected.reverse();
            }
            assert_eq!(seen, expected, "{event} {order:?}");
        }
    }
}
