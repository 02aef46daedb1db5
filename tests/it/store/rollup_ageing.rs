//! Rollups that go: by their age, and with what an account is erased of.

use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{Actor, ErasureSubject, Timestamp};
use hookgate::store::{ErasureStep, Store};

use super::fixtures::{add_org, at, persist};
use super::rollups::{Counts, always, counted, fold, labelled};
use super::{Subject, on_both};

on_both!(
    rollups_are_kept_as_long_as_their_setting_says,
    erasure_of_an_account_takes_its_counts_away,
);

const DAY: i64 = 86_400;

pub(super) async fn erase_all(store: &Store, now: Timestamp) {
    while let Some(step) = store.system().erase_step(now).await.unwrap() {
        assert!(!matches!(step, ErasureStep::Records(..)));
    }
}

async fn rollups_are_kept_as_long_as_their_setting_says(subject: &Subject) {
    let org = add_org(subject).await;
    for day in [0, 20] {
        let name = format!("day-{day}");
        let own = format!("t.{day}");
        let events =
            ["a", &own].map(|event_type| labelled(org, event_type, &name, "u", at(day * DAY)));
        persist(subject, &events, at(day * DAY)).await;
    }
    fold(&subject.store).await;
    let config = RetentionConfig {
        rollup_retention: Some(Duration::from_hours(24 * 10)),
        ..RetentionConfig::default()
    };
    let now = at(20 * DAY + 3_600);
    subject.store.system().enforce_retention(&config, now).await.unwrap();
    assert_eq!(counted(&subject.store, org, "day-0", always()).await, Counts::default());
    let (types, _) = counted(&subject.store, org, "day-20", always()).await;
    assert_eq!(types["a"], 1);
    let old = "SELECT count(*) FROM rollup_hours WHERE hour < 491136";
    assert_eq!(subject.count(old).await, 0, "sums of the organisation and of all go, too");
    let types = subject.store.event_types(org, None, 9).await.unwrap().page.data;
    let names: Vec<_> =
        types.iter().map(|row| (row.event_type.as_str(), row.count.events)).collect();
    assert_eq!(names, [("a", 2), ("t.20", 1)], "a type that still comes keeps its count");
    let months = subject.count("SELECT count(*) FROM rollup_months").await;
    assert!(months > 0, "usage by month stays");
}

async fn erasure_of_an_account_takes_its_counts_away(subject: &Subject) {
    let org = add_org(subject).await;
    let events = [labelled(org, "a", "gone", "u", at(1)), labelled(org, "a", "kept", "u", at(2))];
    persist(subject, &events, at(3)).await;
    let account = ErasureSubject::Account("gone".to_owned());
    let store = &subject.store;
    store.insert_erasure(org, &account, &Actor::CLI, at(4)).await.unwrap().unwrap();
    erase_all(store, at(5)).await;
    assert_eq!(counted(store, org, "gone", always()).await, Counts::default());
    assert_eq!(counted(store, org, "kept", always()).await.0["a"], 1);
}
