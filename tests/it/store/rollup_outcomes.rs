//! Outcomes by the type and account of their events: which type, and whose events, fail.

use std::collections::BTreeMap;

use hookgate::domain::{
    Actor, Decision, ErasureSubject, Event, LeasedDelivery, MinuteSpan, OrgId, Outcome, Timestamp,
};
use hookgate::store::{BucketUnit, DeliveryCounts, MetricsScope, OTHER_TYPES, TYPES_COUNTED_MAX};

use super::fixtures::{EXHAUSTED, add_endpoint, add_org, at, claim, outcome, persist, some_event};
use super::rollup_ageing::erase_all;
use super::rollup_lists::delivered;
use super::rollups::{always, fold, labelled};
use super::{Subject, on_both};

on_both!(
    outcomes_are_counted_by_type_and_account,
    windows_of_outcomes_begin_and_end_on_the_minute,
    outcomes_of_an_earlier_version_are_counted_by_endpoint_only,
    events_that_come_later_leave_the_outcomes_of_their_hour,
    erasing_an_account_takes_its_outcomes_away,
    outcome_that_comes_during_an_erasure_leaves_no_name,
    types_of_outcomes_beyond_the_limit_are_summed_up,
    reads_say_that_deltas_were_left_out,
);

/// How many were delivered, given up, and failed.
type Ends = (u64, u64, u64);

fn ends(counts: &DeliveryCounts) -> Ends {
    (counts.delivered, counts.dead, counts.failed_attempts)
}

/// The outcomes of an organisation, or of an account, by type.
async fn by_type(
    subject: &Subject,
    org: OrgId,
    account: Option<&str>,
    span: MinuteSpan,
) -> Vec<(String, Ends)> {
    let window = subject.store.types_window(org, account, span).await.unwrap();
    assert!(!window.is_behind);
    window.outcomes.iter().map(|(name, counts)| (name.clone(), ends(counts))).collect()
}

fn named(all: &[(&str, Ends)]) -> Vec<(String, Ends)> {
    all.iter().map(|(name, ends)| ((*name).to_owned(), *ends)).collect()
}

async fn record(subject: &Subject, outcomes: &[Outcome]) {
    let counted = subject.store.system().record_outcomes(outcomes).await.unwrap();
    assert_eq!(counted, outcomes.len());
}

/// What becomes of a delivery by the type of its event: `a.lost` is given up, `a.late` waits, others are delivered.
fn decided(leased: &LeasedDelivery, at: Timestamp) -> Outcome {
    match leased.event.event_type.as_str() {
        "a.lost" => outcome(leased, EXHAUSTED, at),
        "a.late" => outcome(leased, Decision::RetryAt(at), at),
        _ => delivered(leased, at),
    }
}

async fn outcomes_are_counted_by_type_and_account(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    for org in [org, other] {
        add_endpoint(subject, org, "a.*").await;
    }
    let events = [
        labelled(org, "a.sent", "one", "u", at(0)),
        labelled(org, "a.sent", "two", "u", at(0)),
        labelled(org, "a.lost", "one", "u", at(0)),
        labelled(org, "a.late", "two", "u", at(0)),
        some_event(org, "a.sent", at(0)),
        labelled(other, "a.lost", "one", "u", at(0)),
    ];
    persist(subject, &events, at(0)).await;
    let leased = claim(subject, 60, at(1)).await;
    assert_eq!(leased.len(), events.len());
    let outcomes: Vec<_> = leased.iter().map(|leased| decided(leased, at(3))).collect();
    // The second time without the leases, which counts nothing.
    record(subject, &outcomes).await;
    assert_eq!(subject.store.system().record_outcomes(&outcomes).await.unwrap(), 0);
    for folded in [false, true] {
        if folded {
            fold(&subject.store).await;
        }
        let all = by_type(subject, org, None, always()).await;
        let expected = [("a.late", (0, 0, 1)), ("a.lost", (0, 1, 1)), ("a.sent", (3, 0, 0))];
        assert_eq!(all, named(&expected), "{folded}");
        let one = by_type(subject, org, Some("one"), always()).await;
        assert_eq!(one, named(&[("a.lost", (0, 1, 1)), ("a.sent", (1, 0, 0))]));
        let two = by_type(subject, org, Some("two"), always()).await;
        assert_eq!(two, named(&[("a.late", (0, 0, 1)), ("a.sent", (1, 0, 0))]));
        assert!(by_type(subject, org, Some("none"), always()).await.is_empty());
        let of_other = by_type(subject, other, None, always()).await;
        assert_eq!(of_other, named(&[("a.lost", (0, 1, 1))]));
        let window = subject.store.types_window(org, None, always()).await.unwrap();
        assert_eq!(window.outcomes["a.sent"].latency.percentile(50), Some(2_667));
        for unit in [BucketUnit::Minute, BucketUnit::Hour, BucketUnit::Day] {
            let scopes = [
                (None, None, (3, 1, 2)),
                (Some("one"), None, (1, 1, 1)),
                (None, Some("a.sent"), (3, 0, 0)),
                (Some("two"), Some("a.late"), (0, 0, 1)),
            ];
            for (account_id, event_type, expected) in scopes {
                let scope = MetricsScope {
                    org: Some(org),
                    account_id: account_id.map(str::to_owned),
                    event_type: event_type.map(str::to_owned),
                };
                let page = subject.store.buckets(&scope, unit, always(), 9).await.unwrap();
                let found: Vec<_> =
                    page.buckets.iter().map(|(_, bucket)| ends(&bucket.deliveries)).collect();
                assert_eq!(found, [expected], "{unit:?} {scope:?} {folded}");
            }
        }
    }
    let groups = subject.store.account_groups(org, always(), None, 9).await.unwrap();
    assert!(!groups.is_behind);
    let groups: BTreeMap<_, _> =
        groups.page.data.iter().map(|g| (g.account_id.as_str(), ends(&g.deliveries))).collect();
    assert_eq!(groups, BTreeMap::from([("one", (1, 1, 1)), ("two", (1, 0, 1))]));
    // One that is not folded yet, by account.
    let late = claim(subject, 9, at(9)).await;
    record(subject, &late.iter().map(|leased| delivered(leased, at(9))).collect::<Vec<_>>()).await;
    let groups = subject.store.account_groups(org, always(), None, 9).await.unwrap().page.data;
    let two = groups.iter().find(|group| group.account_id == "two").unwrap();
    assert_eq!(ends(&two.deliveries), (2, 0, 1));
}

async fn windows_of_outcomes_begin_and_end_on_the_minute(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events: Vec<Event> = (0..130).map(|_| labelled(org, "t", "a1", "u", at(0))).collect();
    persist(subject, &events, at(0)).await;
    let leased = claim(subject, 130, at(1)).await;
    assert_eq!(leased.len(), 130);
    // One delivery a minute, from the second on.
    let outcomes: Vec<_> =
        leased.iter().zip(1..).map(|(leased, minute)| delivered(leased, at(minute * 60))).collect();
    record(subject, &outcomes).await;
    for folded in [false, true] {
        if folded {
            fold(&subject.store).await;
        }
        for (from, until) in [(1, 2), (30, 125), (60, 120), (0, 200), (130, 140)] {
            let span = MinuteSpan::covering(at(from * 60), at(until * 60));
            let minutes = u64::try_from(until.min(131) - from.max(1)).unwrap();
            let counted = by_type(subject, org, Some("a1"), span).await;
            assert_eq!(counted, named(&[("t", (minutes, 0, 0))]), "{from} {until} {folded}");
            let groups = subject.store.account_groups(org, span, None, 9).await.unwrap().page.data;
            if folded && from == 0 {
                assert_eq!(ends(&groups[0].deliveries), (minutes, 0, 0), "{from} {until}");
            }
        }
    }
}

async fn outcomes_of_an_earlier_version_are_counted_by_endpoint_only(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    persist(subject, &[labelled(org, "t", "a1", "u", at(0))], at(0)).await;
    let leased = claim(subject, 9, at(1)).await;
    record(subject, &[delivered(&leased[0], at(2))]).await;
    // It writes no labels.
    let forget = "UPDATE rollup_deltas SET labels = NULL";
    subject.raw(forget, forget).await;
    for folded in [false, true] {
        if folded {
            fold(&subject.store).await;
        }
        assert!(by_type(subject, org, None, always()).await.is_empty());
        let windows = [always()];
        let found = subject.store.endpoint_windows(org, endpoint.id, always(), &windows).await;
        assert_eq!(found.unwrap().windows[0].delivered, 1);
    }
}

async fn events_that_come_later_leave_the_outcomes_of_their_hour(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "first").await;
    for (name, expected) in [("first", 1), ("second", 1)] {
        persist(subject, &[labelled(org, name, "a1", "u", at(0))], at(0)).await;
        let leased = claim(subject, 9, at(1)).await;
        record(subject, &leased.iter().map(|leased| delivered(leased, at(2))).collect::<Vec<_>>())
            .await;
        fold(&subject.store).await;
        let counted = by_type(subject, org, Some("a1"), always()).await;
        assert_eq!(counted, named(&[("first", (expected, 0, 0))]));
    }
    let window = subject.store.types_window(org, Some("a1"), always()).await.unwrap();
    assert_eq!(window.counts.types.len(), 2);
    // What an earlier version writes when it folds: the other columns stay.
    let fold_of_earlier = "UPDATE rollup_hours SET events = events + 0, totals = totals";
    subject.raw(fold_of_earlier, fold_of_earlier).await;
    assert_eq!(by_type(subject, org, None, always()).await, named(&[("first", (1, 0, 0))]));
}

async fn erasing_an_account_takes_its_outcomes_away(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events = [labelled(org, "t", "gone", "u", at(0)), labelled(org, "t", "kept", "u", at(0))];
    persist(subject, &events, at(0)).await;
    let leased = claim(subject, 9, at(1)).await;
    record(subject, &leased.iter().map(|leased| delivered(leased, at(2))).collect::<Vec<_>>())
        .await;
    let account = ErasureSubject::Account("gone".to_owned());
    subject.store.insert_erasure(org, &account, &Actor::CLI, at(4)).await.unwrap().unwrap();
    erase_all(&subject.store, at(5)).await;
    assert!(by_type(subject, org, Some("gone"), always()).await.is_empty());
    assert_eq!(by_type(subject, org, Some("kept"), always()).await, named(&[("t", (1, 0, 0))]));
    assert_eq!(by_type(subject, org, None, always()).await, named(&[("t", (2, 0, 0))]));
    assert_eq!(subject.count("SELECT count(*) FROM rollup_deltas").await, 0);
}

async fn outcome_that_comes_during_an_erasure_leaves_no_name(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events = [labelled(org, "t", "gone", "u", at(0)), labelled(org, "t", "kept", "u", at(0))];
    persist(subject, &events, at(0)).await;
    let leased = claim(subject, 9, at(1)).await;
    let account = ErasureSubject::Account("gone".to_owned());
    subject.store.insert_erasure(org, &account, &Actor::CLI, at(4)).await.unwrap().unwrap();
    // Erases the counts.
    subject.store.system().erase_step(at(5)).await.unwrap().unwrap();
    record(subject, &leased.iter().map(|leased| delivered(leased, at(6))).collect::<Vec<_>>())
        .await;
    erase_all(&subject.store, at(7)).await;
    let named_rows = "SELECT count(*) FROM rollup_hours WHERE account_id = 'gone'";
    assert_eq!(subject.count(named_rows).await, 0);
    assert_eq!(by_type(subject, org, Some("kept"), always()).await, named(&[("t", (1, 0, 0))]));
    assert_eq!(by_type(subject, org, None, always()).await, named(&[("t", (2, 0, 0))]));
}

async fn types_of_outcomes_beyond_the_limit_are_summed_up(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events: Vec<Event> = (0..TYPES_COUNTED_MAX + 20)
        .map(|number| some_event(org, &format!("t{number}"), at(0)))
        .collect();
    for batch in events.chunks(300) {
        persist(subject, batch, at(0)).await;
        let leased = claim(subject, 300, at(1)).await;
        assert_eq!(leased.len(), batch.len());
        let outcomes: Vec<_> = leased.iter().map(|leased| delivered(leased, at(2))).collect();
        record(subject, &outcomes).await;
        fold(&subject.store).await;
    }
    let window = subject.store.types_window(org, None, always()).await.unwrap();
    assert_eq!(window.outcomes.len(), TYPES_COUNTED_MAX + 1);
    assert_eq!(window.outcomes[OTHER_TYPES].delivered, 20);
}

async fn reads_say_that_deltas_were_left_out(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let flags = async || {
        let store = &subject.store;
        [
            store.account_groups(org, always(), None, 9).await.unwrap().is_behind,
            store.endpoint_groups(org, always(), None, 9).await.unwrap().is_behind,
            store.event_types(org, None, 9).await.unwrap().is_behind,
            store.types_window(org, None, always()).await.unwrap().is_behind,
        ]
    };
    assert_eq!(flags().await, [false; 4]);
    subject
        .raw(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO rollup_deltas (org_id, body) SELECT (SELECT min(id) FROM orgs), x'' FROM n",
            "INSERT INTO rollup_deltas (org_id, body)
             SELECT (SELECT id FROM orgs ORDER BY id LIMIT 1), '' FROM generate_series(1, 1000)",
        )
        .await;
    assert_eq!(flags().await, [true; 4]);
    fold(&subject.store).await;
    assert_eq!(flags().await, [false; 4]);
}
