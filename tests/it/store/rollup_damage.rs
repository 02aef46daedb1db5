//! Rollups of which something cannot be read.

use hookgate::domain::OrgId;
use hookgate::store::FoldCursor;

use super::fixtures::{add_org, at, persist};
use super::rollups::{always, counted, labelled};
use super::{Subject, on_both};

on_both!(
    delta_that_cannot_be_read_holds_up_its_organisation_alone,
    hour_that_cannot_be_read_too,
    deltas_that_cannot_be_read_starve_none_of_many_organisations,
);

/// Deltas of one organisation: more than a step folds.
const MANY_DELTAS: u64 = 600;
/// Organisations: more than a step folds on their own.
const MANY_ORGS: usize = 70;

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

async fn deltas_that_cannot_be_read_starve_none_of_many_organisations(subject: &Subject) {
    let store = &subject.store;
    let mut orgs = Vec::new();
    for _ in 0..MANY_ORGS {
        orgs.push(add_org(subject).await);
    }
    let at_fault = orgs[0];
    persist(subject, &[labelled(at_fault, "t", "a", "u", at(1))], at(1)).await;
    let damage = |bytes: &str| format!("UPDATE rollup_deltas SET body = {bytes}");
    subject.raw(&damage("x'ff'"), &damage("'\\xff'::bytea")).await;
    repeat_deltas(subject, at_fault).await;
    let last = orgs[MANY_ORGS - 1];
    let events: Vec<_> = orgs[1..].iter().map(|org| labelled(*org, "t", "a", "u", at(1))).collect();
    persist(subject, &events, at(1)).await;
    repeat_deltas(subject, last).await;
    let mut cursor = FoldCursor::default();
    let first = store.system().fold_next(&mut cursor).await.unwrap().unwrap();
    assert!(first.unreadable <= 1 && first.deltas > 0 && first.more, "{first:?}");
    // One that looks at the organisation at fault alone fails.
    for _ in 0..8 {
        let _ = store.system().fold_next(&mut cursor).await;
    }
    assert_eq!(store.system().unfolded_deltas().await.unwrap(), MANY_DELTAS);
    let (types, _) = counted(store, last, "a", always()).await;
    assert_eq!(types["t"], MANY_DELTAS);
}

/// Copies the delta of an organisation until it has many.
async fn repeat_deltas(subject: &Subject, org: OrgId) {
    let id = org.to_string();
    let copy = |org: &str, numbers: &str| {
        format!(
            "INSERT INTO rollup_deltas (org_id, body)
             SELECT d.org_id, d.body FROM rollup_deltas d, {numbers} WHERE d.org_id = {org}"
        )
    };
    let numbers = format!(
        "(WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY_DELTAS})
          SELECT i FROM n) n"
    );
    subject
        .raw(
            &copy(&format!("x'{}'", id.replace('-', "")), &numbers),
            &copy(&format!("'{id}'"), &numbers),
        )
        .await;
}
