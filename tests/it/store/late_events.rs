//! Events that are stored long after they were accepted, behind what a removal of payloads has passed.

use std::sync::Arc;
use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{Decision, Event};
use tokio::task::JoinSet;

use super::fixtures::{add_endpoint, add_org, persist, some_event};
use super::retention::{day, enforce, events_of, finish, rows};
use super::{Subject, on_both};
use crate::support::store::persist_events;
use crate::support::wait::until;

on_both!(payload_of_an_event_that_is_stored_late_is_removed_as_well);

fn five_days() -> RetentionConfig {
    let payload_retention = Some(Duration::from_hours(5 * 24));
    RetentionConfig { payload_retention, ..RetentionConfig::default() }
}

async fn payload_of_an_event_that_is_stored_late_is_removed_as_well(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    events_of(subject, org, &[0, 9], Decision::Delivered).await;
    enforce(subject, &five_days(), day(10)).await;
    let late = [1, 5, 8].map(|number| some_event(org, "a.b", day(number)));
    persist(subject, &late, day(10)).await;
    let payloads = async || {
        let mut kept = Vec::new();
        for event in &late {
            let found = subject.store.event(org, event.id).await.unwrap().unwrap();
            kept.push(!found.payload.is_empty());
        }
        kept
    };
    enforce(subject, &five_days(), day(10)).await;
    assert_eq!(payloads().await, [true; 3], "their deliveries need them");
    finish(subject, day(10), Decision::Delivered).await;
    enforce(subject, &five_days(), day(10)).await;
    assert_eq!(payloads().await, [false, true, true]);
    enforce(subject, &five_days(), day(11)).await;
    assert_eq!(payloads().await, [false, false, true]);
    enforce(subject, &five_days(), day(14)).await;
    assert_eq!(payloads().await, [false; 3]);
    assert_eq!(rows(subject, "payloads_in_use").await, 0);
}

/// A batch that waits while a step moves the mark sees where it has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_event_that_meets_a_step_of_removal_is_noted() {
    let subject = Subject::postgres().await;
    let org = add_org(&subject).await;
    enforce(&subject, &five_days(), day(0)).await;
    let mut step = subject.connect_postgres().await;
    let begin = "BEGIN; SELECT until FROM payload_removals FOR UPDATE";
    sqlx::raw_sql(begin).execute(&mut step).await.unwrap();
    let events: Vec<Arc<Event>> = vec![Arc::new(some_event(org, "a.b", day(2)))];
    let mut storing = JoinSet::new();
    let store = subject.store.clone();
    storing.spawn(async move { persist_events(&store, &events, None, day(10)).await });
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("the batch waits for the step", async || subject.count(waits).await != 0).await;
    let end = "UPDATE payload_removals SET until = '2026-01-06'; COMMIT";
    sqlx::raw_sql(end).execute(&mut step).await.unwrap();
    assert_eq!(storing.join_next().await.unwrap().unwrap().unwrap().stored, 1);
    assert_eq!(rows(&subject, "payloads_in_use").await, 1);
}
