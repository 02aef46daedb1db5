//! Counts of outcomes, lists of accounts and types, usage, and the erasure of an account.

use std::collections::BTreeMap;

use hookgate::domain::{
    Actor, Attempt, Decision, ErasureSubject, Event, HOUR_MINUTES, InstanceId, LeaseToken,
    LeasedDelivery, MinuteSpan, Month, Outcome, Timestamp, minute_of,
};
use hookgate::store::{BucketUnit, MetricsScope};

use super::fixtures::{
    EXHAUSTED, add_endpoint, add_org, at, claim, failed_attempt, outcome, persist, some_event,
};
use super::rollup_ageing::erase_all;
use super::rollups::{always, bucket_events, counted, expected, fold, labelled, some_events};
use super::{Subject, on_both};

on_both!(
    outcomes_are_counted_by_endpoint,
    outcomes_that_lost_their_lease_are_not_counted,
    accounts_are_listed_by_activity_and_types_by_name,
    erasing_an_account_leaves_the_sums_of_the_organisation,
    operational_events_are_counted_as_others_are,
    usage_is_counted_by_the_month_of_acceptance,
    buckets_are_listed_page_by_page,
);

pub(super) fn delivered(leased: &LeasedDelivery, decided_at: Timestamp) -> Outcome {
    let attempt = Attempt {
        status_code: Some(200),
        error_class: None,
        error: None,
        ..failed_attempt(leased.attempts + 1, decided_at)
    };
    Outcome { attempt: Some(attempt), ..outcome(leased, Decision::Delivered, decided_at) }
}

async fn outcomes_are_counted_by_endpoint(subject: &Subject) {
    let org = add_org(subject).await;
    let (one, other) =
        (add_endpoint(subject, org, "a.*").await, add_endpoint(subject, org, "b.*").await);
    let events: Vec<Event> = ["a.x", "a.y", "a.z", "b.x", "b.y"]
        .into_iter()
        .map(|name| some_event(org, name, at(0)))
        .collect();
    persist(subject, &events, at(0)).await;
    let leased = claim(subject, 9, at(1)).await;
    assert_eq!(leased.len(), 5);
    let mut outcomes = Vec::new();
    let mut given_up = 0;
    for leased in &leased {
        outcomes.push(if leased.endpoint.id == one.id {
            delivered(leased, at(3))
        } else if given_up == 0 {
            given_up = 1;
            outcome(leased, EXHAUSTED, at(3))
        } else {
            outcome(leased, Decision::RetryAt(at(60)), at(3))
        });
    }
    for repeat in 0..3 {
        let counted = subject.store.system().record_outcomes(&outcomes).await.unwrap();
        assert_eq!(counted, if repeat == 0 { 5 } else { 0 });
    }
    let again = claim(subject, 9, at(4_000)).await;
    let last = delivered(&again[0], at(4_001));
    subject.store.system().record_outcomes(&[last]).await.unwrap();
    let released =
        Outcome { attempt: None, ..outcome(&leased[0], Decision::RetryAt(at(9)), at(9)) };
    subject.store.system().record_outcomes(&[released]).await.unwrap();
    for folded in [false, true] {
        if folded {
            fold(&subject.store).await;
        }
        let hour = MinuteSpan::covering(at(0), at(3_600));
        let windows = [always(), hour];
        let read = async |endpoint| {
            let found =
                subject.store.endpoint_windows(org, endpoint, always(), &windows).await.unwrap();
            assert!(!found.is_behind);
            found.windows
        };
        let counts = read(one.id).await;
        assert_eq!((counts[0].delivered, counts[0].dead, counts[0].failed_attempts), (3, 0, 0));
        // Three seconds, in the bucket of 2 to 3 s.
        assert_eq!(counts[0].latency.percentile(50), Some(2_667));
        assert_eq!(counts[0].duration.percentile(99), Some(15));
        let counts = read(other.id).await;
        assert_eq!((counts[0].delivered, counts[0].dead, counts[0].failed_attempts), (1, 1, 2));
        assert_eq!((counts[1].delivered, counts[1].dead, counts[1].failed_attempts), (0, 1, 2));
        let page = subject.store.endpoint_groups(org, always(), None, 1).await.unwrap().page;
        let mut ids = [one.id.to_string(), other.id.to_string()];
        ids.sort();
        assert_eq!(page.data[0].endpoint_id.to_string(), ids[0]);
        let after = page.next_cursor.unwrap().label.parse().unwrap();
        let page = subject.store.endpoint_groups(org, always(), Some(after), 5).await.unwrap().page;
        assert_eq!((page.data.len(), page.next_cursor), (1, None));
        let scope = MetricsScope { org: Some(org), account_id: None, event_type: None };
        let page = subject.store.buckets(&scope, BucketUnit::Hour, always(), 9).await.unwrap();
        let outcomes: Vec<_> = page
            .buckets
            .iter()
            .map(|(_, bucket)| &bucket.deliveries)
            .map(|counts| (counts.delivered, counts.dead))
            .collect();
        assert_eq!(outcomes, [(1, 0), (3, 1)]);
    }
    let usage = subject.store.system().month_usage(Month::of(at(0)), None, None, 9).await.unwrap();
    assert_eq!((usage.data[0].delivered, usage.data[0].dead), (4, 1));
}

async fn outcomes_that_lost_their_lease_are_not_counted(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let events: Vec<Event> = (0..6).map(|_| some_event(org, "a", at(0))).collect();
    persist(subject, &events, at(0)).await;
    let leased = claim(subject, 6, at(1)).await;
    let first: Vec<_> = leased[..2].iter().map(|leased| delivered(leased, at(2))).collect();
    assert_eq!(subject.store.system().record_outcomes(&first).await.unwrap(), 2);
    // A batch of which a third is known already, and one outcome is under a lease that is not held.
    let mut batch: Vec<_> = leased.iter().map(|leased| delivered(leased, at(3))).collect();
    batch[5].token = LeaseToken::mint(InstanceId::new(9));
    assert_eq!(subject.store.system().record_outcomes(&batch).await.unwrap(), 3);
    for folded in [false, true] {
        if folded {
            fold(&subject.store).await;
        }
        let windows = [always()];
        let found = subject.store.endpoint_windows(org, endpoint.id, always(), &windows).await;
        assert_eq!(found.unwrap().windows[0].delivered, 5);
    }
    assert_eq!(subject.count("SELECT count(*) FROM deliveries").await, 5);
}

async fn accounts_are_listed_by_activity_and_types_by_name(subject: &Subject) {
    let org = add_org(subject).await;
    let hour = 3_600;
    let events = [
        labelled(org, "t.b", "quiet", "u", at(0)),
        labelled(org, "t.a", "busy", "u", at(10)),
        labelled(org, "t.b", "busy", "u", at(3 * hour)),
        labelled(org, "t.c", "new", "u", at(hour)),
    ];
    persist(subject, &events, at(0)).await;
    let sample = subject.store.recent_accounts(org).await.unwrap();
    assert_eq!(sample, ["busy", "new", "quiet"], "before they are folded");
    fold(&subject.store).await;
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = subject.store.accounts(org, after.as_ref(), 1).await.unwrap();
        names.extend(page.data.into_iter().map(|row| (row.account_id, row.count.events)));
        after = page.next_cursor;
        if after.is_none() {
            break;
        }
    }
    let expected = [("busy", 2), ("new", 1), ("quiet", 1)];
    assert_eq!(names, expected.map(|(name, events)| (name.to_owned(), events)));
    assert_eq!(subject.store.recent_accounts(org).await.unwrap(), sample);
    // A type that is not folded yet, between others that are.
    persist(subject, &[labelled(org, "t.aa", "busy", "u", at(9)), events[0].clone()], at(0)).await;
    let (mut types, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = subject.store.event_types(org, after.as_deref(), 2).await.unwrap().page;
        types.extend(page.data.into_iter().map(|row| (row.event_type, row.count.events)));
        let Some(next) = page.next_cursor else { break };
        after = Some(next.label);
    }
    let expected = [("t.a", 1), ("t.aa", 1), ("t.b", 2), ("t.c", 1)];
    assert_eq!(types, expected.map(|(name, events)| (name.to_owned(), events)));
    let span = MinuteSpan::covering(at(0), at(hour));
    let page = subject.store.account_groups(org, span, None, 9).await.unwrap().page;
    let groups: Vec<_> =
        page.data.iter().map(|group| (group.account_id.as_str(), group.count.events)).collect();
    assert_eq!(groups, [("busy", 2), ("quiet", 1)]);
    let page = subject.store.account_groups(org, always(), None, 1).await.unwrap().page;
    assert_eq!(page.data[0].count.events, 3);
    let rest = subject.store.account_groups(org, always(), page.next_cursor.as_ref(), 9).await;
    assert_eq!(rest.unwrap().page.data.len(), 2);
}

async fn erasing_an_account_leaves_the_sums_of_the_organisation(subject: &Subject) {
    let org = add_org(subject).await;
    let events = some_events(org, 60);
    persist(subject, &events[..30], at(0)).await;
    fold(&subject.store).await;
    persist(subject, &events[30..], at(0)).await;
    let account = ErasureSubject::Account("a1".to_owned());
    let erasure = subject.store.insert_erasure(org, &account, &Actor::CLI, at(5_000)).await;
    erasure.unwrap().unwrap();
    erase_all(&subject.store, at(5_001)).await;
    let named = "SELECT (SELECT count(*) FROM rollup_hours WHERE account_id = 'a1')
                      + (SELECT count(*) FROM accounts WHERE account_id = 'a1')
                      + (SELECT count(*) FROM rollup_deltas)";
    assert_eq!(subject.count(named).await, 0);
    assert_eq!(subject.store.account_window(org, "a1", always()).await.unwrap(), None);
    let others = counted(&subject.store, org, "a2", always()).await;
    assert_eq!(others, expected(&events, "a2", always()));
    assert_eq!(bucket_events(&subject.store, Some(org), BucketUnit::Day).await, 60);
}

async fn operational_events_are_counted_as_others_are(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "a,hookgate.*").await;
    persist(subject, &[some_event(org, "a", at(0))], at(0)).await;
    let leased = claim(subject, 9, at(1)).await;
    let dead = outcome(&leased[0], EXHAUSTED, at(2));
    subject.store.system().record_outcomes(&[dead]).await.unwrap();
    fold(&subject.store).await;
    let types = subject.store.event_types(org, None, 9).await.unwrap().page;
    let names: Vec<_> = types.data.iter().map(|row| row.event_type.as_str()).collect();
    assert_eq!(names, ["a", "hookgate.delivery.exhausted"]);
    let events = subject.count("SELECT count(*) FROM events").await;
    let hour = bucket_events(&subject.store, Some(org), BucketUnit::Hour).await;
    assert_eq!(hour, events.unsigned_abs());
}

async fn usage_is_counted_by_the_month_of_acceptance(subject: &Subject) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let old = Event { occurred_at: Some(at(-40 * 86_400)), ..some_event(org, "a", at(0)) };
    persist(subject, &[old, some_event(org, "a", at(5)), some_event(other, "a", at(0))], at(0))
        .await;
    fold(&subject.store).await;
    assert_eq!(subject.store.system().unfolded_deltas().await.unwrap(), 0);
    let system = subject.store.system();
    let month = Month::of(at(0));
    let page = system.month_usage(month, None, None, 1).await.unwrap();
    assert_eq!((page.data[0].org_id, page.data[0].count.events), (org, 2));
    let rest = system.month_usage(month, None, page.next_cursor.as_ref(), 9).await.unwrap();
    assert_eq!((rest.data.len(), rest.data[0].org_id), (1, other));
    let one = system.month_usage(month, Some(other), None, 9).await.unwrap();
    assert_eq!((one.data.len(), one.data[0].count.events), (1, 1));
    let before = system.month_usage(Month::of(at(-40 * 86_400)), None, None, 9).await.unwrap();
    assert!(before.data.is_empty());
}

async fn buckets_are_listed_page_by_page(subject: &Subject) {
    let org = add_org(subject).await;
    // An event every seventh hour for 300 hours, of another type every time but one.
    let events: Vec<Event> = (0..300)
        .step_by(7)
        .map(|hour| {
            let name = if hour % 2 == 0 { "even" } else { "odd" };
            labelled(org, name, "a1", "u", at(hour * 3_600 + 90))
        })
        .collect();
    persist(subject, &events, at(0)).await;
    for folded in [false, true] {
        if folded {
            fold(&subject.store).await;
        }
        for (account_id, event_type) in
            [(None, None), (Some("a1"), None), (None, Some("odd")), (Some("a1"), Some("even"))]
        {
            let scope = MetricsScope {
                org: Some(org),
                account_id: account_id.map(str::to_owned),
                event_type: event_type.map(str::to_owned),
            };
            let is_wanted =
                |event: &&Event| event_type.is_none_or(|name| event.event_type.as_str() == name);
            for (unit, minutes) in [
                (BucketUnit::Minute, 1),
                (BucketUnit::Hour, HOUR_MINUTES),
                (BucketUnit::Day, 24 * HOUR_MINUTES),
            ] {
                let mut expected = BTreeMap::<i64, u64>::new();
                for event in events.iter().filter(is_wanted) {
                    let minute = minute_of(event.received_at);
                    *expected.entry(minute - minute.rem_euclid(minutes)).or_default() += 1;
                }
                let (mut found, mut span) = (Vec::new(), always());
                loop {
                    let page = subject.store.buckets(&scope, unit, span, 3).await.unwrap();
                    assert!(page.buckets.len() <= 3);
                    found.extend(page.buckets.iter().map(|(start, b)| (*start, b.count.events)));
                    let Some(until) = page.next else { break };
                    span.until = until;
                }
                let expected: Vec<_> = expected.into_iter().rev().collect();
                found.retain(|(_, events)| *events > 0);
                assert_eq!(found, expected, "{unit:?} {scope:?} {folded}");
            }
        }
    }
}
