//! Every read of the rollups is read by an index, with a hundred thousand rows: by the plans of the engines.

use hookgate::domain::{LabelCursor, MinuteSpan, Month, OrgId};
use hookgate::store::{BucketUnit, MetricsScope, Store};

use super::fixtures::{add_endpoint, add_org, at, persist, some_event};
use super::{Subject, on_both};

on_both!(every_read_of_the_rollups_uses_an_index);

/// A hundred accounts and endpoints with a thousand hours each. The blobs are an event of type `t`, and no outcome.
const SQLITE: &str = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
    INSERT INTO rollup_hours (org_id, account_id, hour, events, bytes, totals, minutes)
    SELECT (SELECT min(id) FROM orgs), 'a' || (i % 100), 490000 + i / 100, 1, 2, x'01017401020000', x'01010001020000'
    FROM n;
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
    INSERT INTO rollup_delivery_hours
    SELECT (SELECT min(id) FROM orgs), unhex(printf('%032x', 1 + i % 100)), 490000 + i / 100, x'0000000000', x'00'
    FROM n;
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
    INSERT INTO accounts
    SELECT (SELECT min(id) FROM orgs), 'a' || i, 1767225600000000, 1767225600000000, 490000 + i % 1000, 1, 2 FROM n;
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
    INSERT INTO event_types
    SELECT (SELECT min(id) FROM orgs), 't' || i, 1767225600000000, 1767225600000000, 1, 2 FROM n;
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
    INSERT INTO rollup_months SELECT randomblob(16), 202601, i, 0, 0, 0 FROM n;
    ANALYZE;";
const POSTGRES: &str = "INSERT INTO rollup_hours (org_id, account_id, hour, events, bytes, totals, minutes)
    SELECT (SELECT id FROM orgs ORDER BY id LIMIT 1), 'a' || (i % 100), 490000 + i / 100, 1, 2,
           '\\x01017401020000', '\\x01010001020000'
    FROM generate_series(0, 99999) i;
    INSERT INTO rollup_delivery_hours
    SELECT (SELECT id FROM orgs ORDER BY id LIMIT 1), lpad(to_hex(1 + i % 100), 32, '0')::uuid, 490000 + i / 100,
           '\\x0000000000', '\\x00'
    FROM generate_series(0, 99999) i;
    INSERT INTO accounts
    SELECT (SELECT id FROM orgs ORDER BY id LIMIT 1), 'a' || i, '2026-01-01', '2026-01-01', 490000 + i % 1000, 1, 2
    FROM generate_series(0, 99999) i;
    INSERT INTO event_types
    SELECT (SELECT id FROM orgs ORDER BY id LIMIT 1), 't' || i, '2026-01-01', '2026-01-01', 1, 2
    FROM generate_series(0, 99999) i;
    INSERT INTO rollup_months SELECT gen_random_uuid(), 202601, i, 0, 0, 0 FROM generate_series(0, 99999) i;
    ANALYZE;";

const TABLES: [&str; 5] =
    ["rollup_hours", "rollup_delivery_hours", "accounts", "event_types", "rollup_months"];

/// Holds the plans of what `read` reads to indexes: of the filled tables none is walked, and none of their rows sorted
/// beyond a page.
async fn check(subject: &Subject, what: &str, read: impl AsyncFnOnce(Store)) {
    let (store, plans) = subject.store.recording_plans();
    read(store).await;
    let plans = plans.take();
    assert!(!plans.is_empty(), "{what}");
    for plan in plans {
        let walks = |line: &&str| {
            let table = match line.split_once("Seq Scan on ").or(line.split_once("SCAN ")) {
                Some((_, rest)) => rest.split(' ').next().unwrap_or_default(),
                None => return false,
            };
            // What is a subquery by itself has its rows from an index, as many as a page shows.
            let is_subquery = plan.contains(&format!("CO-ROUTINE {table}\n"));
            TABLES.contains(&table) || matches!(table, "h" | "u" | "t" | "a") && !is_subquery
        };
        let walked: Vec<_> = plan.lines().filter(walks).collect();
        assert!(walked.is_empty(), "{what}: {walked:?} in\n{plan}");
    }
}

async fn every_read_of_the_rollups_uses_an_index(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await.id;
    persist(subject, &[some_event(org, "t1", at(0))], at(0)).await;
    subject.raw(SQLITE, POSTGRES).await;
    // Of hours 490,000 to 490,999, which began in 2025.
    let span = |from: i64, hours: i64| MinuteSpan { from: from * 60, until: (from + hours) * 60 };
    let month = span(490_100, 744);
    let day = MinuteSpan { from: month.from + 7, until: month.from + 7 + 1_440 };
    check(subject, "summary", async |store| {
        let window = store.account_window(org, "a7", day).await.unwrap().unwrap();
        // A day, of which the hours at the edges are counted by the minute: those have their events in minute 0.
        assert_eq!(window.counts.types["t"].events, 24);
    })
    .await;
    check(subject, "summary of nobody", async |store| {
        assert_eq!(store.account_window(org, "never", month).await.unwrap(), None);
    })
    .await;
    check(subject, "types of an account", async |store| {
        let window = store.types_window(org, Some("a7"), month).await.unwrap();
        assert_eq!(window.counts.types["t"].events, 744);
    })
    .await;
    check(subject, "types", async |store| {
        store.types_window(org, None, month).await.unwrap();
    })
    .await;
    for unit in [BucketUnit::Minute, BucketUnit::Hour, BucketUnit::Day] {
        for (org, account, event_type) in [
            (Some(org), None, None),
            (Some(org), Some("a3"), None),
            (Some(org), Some("a3"), Some("t")),
            (None::<OrgId>, None, None),
        ] {
            let scope = MetricsScope {
                org,
                account_id: account.map(str::to_owned),
                event_type: event_type.map(str::to_owned),
            };
            check(subject, &format!("{unit:?} {scope:?}"), async |store| {
                let page = store.buckets(&scope, unit, month, 100).await.unwrap();
                assert_eq!(page.buckets.is_empty(), account.is_none());
            })
            .await;
        }
    }
    check(subject, "groups of accounts", async |store| {
        let after = LabelCursor::new(490_500, "a5");
        let page = store.account_groups(org, month, Some(&after), 50).await.unwrap().page;
        assert!(page.data.len() <= 50);
    })
    .await;
    check(subject, "groups of endpoints", async |store| {
        store.endpoint_groups(org, month, None, 50).await.unwrap();
    })
    .await;
    check(subject, "statistics of an endpoint", async |store| {
        store.endpoint_windows(org, endpoint, month, &[month]).await.unwrap();
    })
    .await;
    check(subject, "accounts", async |store| {
        let after = LabelCursor::new(490_500, "a5");
        assert_eq!(store.accounts(org, Some(&after), 50).await.unwrap().data.len(), 50);
    })
    .await;
    check(subject, "sample", async |store| {
        assert_eq!(store.recent_accounts(org).await.unwrap().len(), 1_000);
    })
    .await;
    check(subject, "types by name", async |store| {
        assert_eq!(store.event_types(org, Some("t5"), 50).await.unwrap().page.data.len(), 50);
    })
    .await;
    check(subject, "usage", async |store| {
        let january = Month::of(at(0));
        store.system().month_usage(january, None, None, 10).await.unwrap();
        store.system().month_usage(january, Some(org), None, 10).await.unwrap();
    })
    .await;
}
