//! Rollups of which something cannot be read.

use super::fixtures::{add_org, at, persist};
use super::rollups::{always, counted, labelled};
use super::{Subject, on_both};

on_both!(delta_that_cannot_be_read_holds_up_its_organisation_alone, hour_that_cannot_be_read_too);

async fn delta_that_cannot_be_read_holds_up_its_organisation_alone(subject: &Subject) {
    others_are_folded_beside(subject, "UPDATE rollup_deltas SET body = ").await;
}

async fn hour_that_cannot_be_read_too(subject: &Subject) {
    others_are_folded_beside(subject, "UPDATE rollup_hours SET totals = ").await;
}

/// The first of two organisations has a row of which nothing can be read, by the head of an update.
async fn others_are_folded_beside(subject: &Subject, damage: &str) {
    let (store, orgs) = (&subject.store, [add_org(subject).await, add_org(subject).await]);
    for (org, number) in [(orgs[0], 1), (orgs[0], 2), (orgs[1], 3)] {
        persist(subject, &[labelled(org, "t", "a", "u", at(number))], at(number)).await;
        // The first event's hour is a row by the time that the damage is done.
        if number == 1 {
            store.system().fold_deltas().await.unwrap();
        }
    }
    let id = orgs[0].to_string();
    subject
        .raw(
            &format!("{damage} x'ff' WHERE org_id = x'{}'", id.replace('-', "")),
            &format!("{damage} '\\xff'::bytea WHERE org_id = '{id}'"),
        )
        .await;
    let step = store.system().fold_deltas().await.unwrap().unwrap();
    assert_eq!((step.deltas, step.unreadable), (1, 1));
    let (types, _) = counted(store, orgs[1], "a", always()).await;
    assert_eq!(types["t"], 1);
    assert_eq!(store.system().unfolded_deltas().await.unwrap(), 1);
    // Nothing else can be folded, which is told.
    store.system().fold_deltas().await.unwrap_err();
}
