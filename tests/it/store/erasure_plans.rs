//! Erasures and removals of payloads look deliveries up by their keys, however many lie between; and a failing erasure
//! starves no other.

use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{Actor, ErasureStatus, ErasureSubject, Event, OrgId};
use hookgate::store::ErasureStep;

use super::fixtures::{EXHAUSTED, add_endpoint, add_org, at, claim, outcome, persist, some_event};
use super::{Subject, on_both};

on_both!(
    erasure_reads_no_deliveries_of_other_events,
    removal_of_payloads_reads_no_deliveries_of_other_events,
    erasure_that_fails_starves_no_other,
);

fn of_account(org: OrgId, account: &str, seconds: i64) -> Event {
    Event { account_id: Some(account.to_owned()), ..some_event(org, "a.b", at(seconds)) }
}

async fn request(subject: &Subject, org: OrgId, account: &str, seconds: i64) {
    let filter = ErasureSubject::Account(account.to_owned());
    subject.store.insert_erasure(org, &filter, &Actor::CLI, at(seconds)).await.unwrap().unwrap();
}

/// An organisation with many deliveries, finished and pending, between two of one account's events.
async fn many_between_two(subject: &Subject) -> OrgId {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let last = 3_000;
    let name = |number| if number == 0 || number == last { "few" } else { "many" };
    let events: Vec<Event> =
        (0..=last).map(|number| of_account(org, name(number), number)).collect();
    for batch in events.chunks(500) {
        persist(subject, batch, at(last)).await;
    }
    for _ in 0..4 {
        let leased = claim(subject, 500, at(last)).await;
        let done: Vec<_> =
            leased.iter().map(|leased| outcome(leased, EXHAUSTED, at(last))).collect();
        subject.store.system().record_outcomes(&done).await.unwrap();
    }
    subject.raw("ANALYZE", "ANALYZE").await;
    org
}

/// Fails where a plan reads a range of an organisation's deliveries, or walks them all: those of the day that has them.
fn check(plans: &[String]) {
    let walks = [
        "SCAN deliveries",
        "SCAN pending_deliveries",
        "SCAN delivery_attempts",
        "Seq Scan on pending_deliveries",
        "Seq Scan on deliveries_p20260101",
        // As SQLite shows a range of a primary key.
        "(org_id=? AND created_at>",
        "(org_id=? AND created_at<",
    ];
    // Of other tables a few rows are read as a range.
    let of_deliveries = |line: &str| line.contains("deliver") || line.contains("SEARCH d ");
    for plan in plans {
        let mut scanned = "";
        for line in plan.lines() {
            let walk = walks.iter().find(|walk| of_deliveries(line) && line.contains(**walk));
            assert_eq!(walk, None, "{line} in\n{plan}");
            // As PostgreSQL shows one, below what it scans: the time is compared, and not given.
            let is_range = line.contains("Index Cond: ((org_id = ")
                && line.contains("created_at")
                && !line.contains("created_at = ")
                && !is_instant(line);
            assert!(!is_range || !of_deliveries(scanned), "{line} in\n{plan}");
            scanned = line;
        }
    }
}

/// Whether the times that a line of a plan names are all one: PostgreSQL may read the few rows of an instant as a range.
fn is_instant(line: &str) -> bool {
    let times: Vec<_> = line.split('\'').filter(|text| text.ends_with("+00")).collect();
    times.windows(2).all(|pair| pair[0] == pair[1]) && !times.is_empty()
}

async fn erasure_reads_no_deliveries_of_other_events(subject: &Subject) {
    let org = many_between_two(subject).await;
    request(subject, org, "few", 4_000).await;
    let (store, plans) = subject.store.recording_plans();
    while let Some(step) = store.system().erase_step(at(5_000)).await.unwrap() {
        if let ErasureStep::Ended(ended) = step {
            assert_eq!((ended.events, ended.deliveries), (2, 2));
        }
    }
    let plans = plans.take();
    let has = |what: &str| plans.iter().any(|plan| plan.contains(what));
    assert!(has("deliveries") && has("pending_"), "{plans:#?}");
    check(&plans);
}

async fn removal_of_payloads_reads_no_deliveries_of_other_events(subject: &Subject) {
    let org = many_between_two(subject).await;
    // As if both had been in use when their time came.
    let insert = "INSERT INTO payloads_in_use (org_id, received_at, event_id)
                  SELECT org_id, received_at, id FROM events WHERE account_id = 'few'";
    subject.raw(insert, insert).await;
    let until = "INSERT INTO payload_removals (org_id, until) SELECT id, ";
    let (sqlite, postgres) = ("4102444800000000 FROM orgs", "timestamptz '2100-01-01Z' FROM orgs");
    subject.raw(&format!("{until}{sqlite}"), &format!("{until}{postgres}")).await;
    let finish = "DELETE FROM pending_deliveries";
    subject.raw(finish, finish).await;
    let config = RetentionConfig {
        payload_retention: Some(Duration::from_hours(24)),
        ..RetentionConfig::default()
    };
    let (store, plans) = subject.store.recording_plans();
    let report = store.system().enforce_retention(&config, at(86_400 + 5_000)).await.unwrap();
    assert_eq!(report.payloads, 2);
    let left = "SELECT count(*) FROM events WHERE length(payload) = 0";
    assert_eq!(subject.count(left).await, 2, "{org}");
    let plans = plans.take();
    let of_removal: Vec<String> = plans
        .into_iter()
        .filter(|plan| {
            ["Update on deliveries", "d USING", "delivery_attempts"]
                .iter()
                .any(|what| plan.contains(what))
        })
        .collect();
    assert!(!of_removal.is_empty());
    check(&of_removal);
}

async fn erasure_that_fails_starves_no_other(subject: &Subject) {
    let org = add_org(subject).await;
    let mut events = Vec::new();
    for number in 0..100 {
        events.push(of_account(org, "stuck", number));
        events.push(of_account(org, "other", number));
    }
    persist(subject, &events, at(100)).await;
    subject
        .raw(
            "CREATE TRIGGER stuck BEFORE DELETE ON events WHEN OLD.account_id = 'stuck'
             BEGIN SELECT RAISE(ABORT, 'stuck'); END",
            "CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'stuck'; END $$;
             CREATE TRIGGER stuck BEFORE DELETE ON events FOR EACH ROW
                 WHEN (OLD.account_id = 'stuck') EXECUTE FUNCTION stuck()",
        )
        .await;
    request(subject, org, "stuck", 200).await;
    request(subject, org, "other", 201).await;
    let (mut failed, mut ended) = (0, 0);
    for step in 0..20 {
        match subject.store.system().erase_step(at(300 + step)).await {
            Ok(Some(ErasureStep::Ended(_))) => ended += 1,
            Ok(_) => {}
            Err(_) => failed += 1,
        }
    }
    assert!(failed > 0);
    assert_eq!(ended, 1, "the other one has ended");
    subject.raw("DROP TRIGGER stuck", "DROP TRIGGER stuck ON events").await;
    while subject.store.system().erase_step(at(1_000)).await.unwrap().is_some() {}
    assert_eq!(subject.count("SELECT count(*) FROM events").await, 0);
    let finished = format!(
        "SELECT count(*) FROM erasures WHERE status = '{}'",
        ErasureStatus::Finished.as_str()
    );
    assert_eq!(subject.count(&finished).await, 2);
}
