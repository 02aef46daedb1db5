//! Every filter of a list is read by an index, whether it matches or not: by the plans of the engines.

use hookgate::domain::{
    DeadLetterFilter, DeadReason, DeliveryFilter, DeliveryStatus, EndpointId, ErrorClass,
    EventFilter, EventId, EventTypeFilter, OrgId, PageRequest, TraceFilter, TraceId,
};
use hookgate::store::Store;

use super::event_filters::ORDERS;
use super::fixtures::{
    ALL_LETTERS, FIRST_PAGE, add_endpoint, add_org, at, claim, outcome, persist, some_event, walk,
};
use super::{Subject, on_both};

on_both!(
    every_filter_of_events_is_read_by_an_index,
    every_filter_of_deliveries_is_read_by_an_index,
    every_filter_of_dead_letters_is_read_by_an_index,
    types_with_a_prefix_are_merged_in_the_order_of_time,
    dead_letters_know_the_type_of_their_event,
    dead_letters_from_before_the_step_know_the_type_of_their_event,
);

/// Ten thousand events: every tenth has an account of a hundred, every hundredth a user of its own.
const SQLITE_EVENTS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
    INSERT INTO events (id, org_id, event_type, payload, account_id, user_id, received_at, trace_id)
    SELECT randomblob(16), (SELECT id FROM orgs), 'order.t' || (i % 7), x'7b7d',
           CASE WHEN i % 10 = 0 THEN 'a' || (i % 1000) END, CASE WHEN i % 100 = 0 THEN 'u' || i END,
           1767225600000000 + i * 1000000, randomblob(16)
    FROM n;
    INSERT INTO deliveries (org_id, created_at, id, event_id, event_received_at, endpoint_id, status, attempts, finished_at,
                            type_key, error_class, status_code)
    SELECT e.org_id, received_at, e.id, e.id, received_at, p.id, 'delivered', 1, received_at, received_at / 1000000 % 7,
           CASE WHEN received_at / 1000000 % 100 = 1 THEN 'status' END,
           CASE WHEN received_at / 1000000 % 100 = 1 THEN 500 ELSE 200 END
    FROM events e JOIN endpoints p;
    INSERT INTO dead_letters (id, org_id, event_id, delivery_id, endpoint_id, reason, created_at, replayed_at)
    SELECT e.id, e.org_id, e.id, e.id, p.id,
           CASE WHEN received_at / 1000000 % 2 = 0 THEN 'exhausted' ELSE 'gone' END, received_at,
           CASE WHEN received_at / 1000000 % 10 = 0 THEN received_at END
    FROM events e JOIN endpoints p";
const POSTGRES_EVENTS: &str = "INSERT INTO events (id, org_id, event_type, payload, account_id, user_id, received_at, trace_id)
    SELECT gen_random_uuid(), (SELECT id FROM orgs), 'order.t' || (i % 7), '{}',
           CASE WHEN i % 10 = 0 THEN 'a' || (i % 1000) END, CASE WHEN i % 100 = 0 THEN 'u' || i END,
           timestamptz '2026-01-01' + i * interval '1 second', gen_random_uuid()
    FROM generate_series(1, 10000) i;
    INSERT INTO deliveries (org_id, created_at, id, event_id, event_received_at, endpoint_id, status, attempts, finished_at,
                            type_key, error_class, status_code)
    SELECT e.org_id, received_at, e.id, e.id, received_at, p.id, 'delivered', 1, received_at,
           extract(epoch FROM received_at)::bigint % 7,
           CASE WHEN extract(epoch FROM received_at)::bigint % 100 = 1 THEN 'status' END,
           CASE WHEN extract(epoch FROM received_at)::bigint % 100 = 1 THEN 500 ELSE 200 END
    FROM events e, endpoints p;
    INSERT INTO dead_letters (id, org_id, event_id, delivery_id, endpoint_id, reason, created_at, replayed_at)
    SELECT e.id, e.org_id, e.id, e.id, p.id,
           CASE WHEN extract(epoch FROM received_at)::bigint % 2 = 0 THEN 'exhausted' ELSE 'gone' END, received_at,
           CASE WHEN extract(epoch FROM received_at)::bigint % 10 = 0 THEN received_at END
    FROM events e, endpoints p;
    ANALYZE";

/// An organisation with many events, a delivery and a dead letter of each, and an endpoint.
async fn filled(subject: &Subject) -> (OrgId, EndpointId) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await.id;
    subject.store.system().maintain(at(0)).await.unwrap();
    subject.raw(SQLITE_EVENTS, POSTGRES_EVENTS).await;
    (org, endpoint)
}

type Case<F> = (F, (&'static str, &'static str), usize);

/// The cases, each in both orders of its list.
fn in_both_orders<F: Clone>(cases: &[Case<F>]) -> impl Iterator<Item = (PageRequest, Case<F>)> {
    ORDERS.into_iter().flat_map(|order| {
        let page = PageRequest { order, ..FIRST_PAGE };
        cases.iter().cloned().map(move |case| (page, case))
    })
}

/// The plans of what `list` reads.
async fn plans(subject: &Subject, list: impl AsyncFnOnce(Store)) -> Vec<String> {
    let (store, plans) = subject.store.recording_plans();
    list(store).await;
    plans.take()
}

/// Holds each plan to indexes: no table is walked, and the last one that reads rows uses the index on these columns.
fn check(subject: &Subject, plans: &[String], index: (&str, &str), what: &str) {
    let (sqlite, postgres) = index;
    let (walk, wanted) =
        if subject.is_postgres() { ("Seq Scan on ", postgres) } else { ("SCAN ", sqlite) };
    for plan in plans {
        // Days without a row, the common table expressions, and lists of values are walked.
        let walks = plan.lines().filter(|line| line.contains(walk)).filter(|line| {
            ["_p20260101", "events", "dead_letters"].iter().any(|table| line.ends_with(table))
                || line.contains("deliveries_p20260101")
                || !subject.is_postgres() && line.ends_with("deliveries")
        });
        assert_eq!(walks.count(), 0, "{what}:\n{plan}");
    }
    // A page looks at the days without a row by statements of their own.
    let reads_rows = |plan: &&String| plan.contains("_p20260101");
    let last = plans.iter().rfind(reads_rows).or(plans.last()).unwrap();
    assert!(last.contains(wanted), "{what}: no {wanted} in\n{last}");
    // The rows of a page of keys are sorted, and what is merged from several lists.
    let is_page = last.contains("UNION ALL") || last.contains("CO-ROUTINE k\n");
    assert!(!last.contains("ORDER BY") || is_page, "{what} is sorted:\n{last}");
}

async fn every_filter_of_events_is_read_by_an_index(subject: &Subject) {
    let (org, _) = filled(subject).await;
    let some = |text: &str| Some(text.to_owned());
    let of_type = |text: &str| Some(text.parse::<EventTypeFilter>().unwrap());
    let all = EventFilter::default();
    let by_org = ("events_by_org", "org_id_received_at");
    let by_type = ("events_by_type", "event_type_received_at");
    let by_account = ("events_by_account", "account_id_received_at");
    let by_user = ("events_by_user", "user_id_received_at");
    let by_id = ("sqlite_autoindex_events_1", "_pkey");
    let by_text = ("events_by_trace_text", "trace_text_received_at");
    let by_trace = ("events_by_trace", "trace_id_received_at");
    let trace = |text: &str| Some(text.parse::<TraceFilter>().unwrap());
    let minted = TraceId::mint_at(at(7_000)).to_string();
    let span = (Some(at(2_000)), Some(at(2_500)));
    let cases = [
        (all.clone(), by_org, 100),
        (EventFilter { since: span.0, until: span.1, ..all.clone() }, by_org, 100),
        (EventFilter { event_type: of_type("order.t3"), ..all.clone() }, by_type, 100),
        (
            EventFilter {
                event_type: of_type("order.t3"),
                since: span.0,
                until: Some(at(9_000)),
                ..all.clone()
            },
            by_type,
            100,
        ),
        (EventFilter { event_type: of_type("order.never"), ..all.clone() }, by_type, 0),
        (EventFilter { account_id: some("a10"), since: span.0, ..all.clone() }, by_account, 8),
        (EventFilter { event_type: of_type("order.*"), ..all.clone() }, by_type, 100),
        (EventFilter { event_type: of_type("never.*"), ..all.clone() }, by_type, 0),
        (EventFilter { account_id: some("a10"), ..all.clone() }, by_account, 10),
        (EventFilter { account_id: some("never"), ..all.clone() }, by_account, 0),
        (EventFilter { user_id: some("u500"), ..all.clone() }, by_user, 1),
        (EventFilter { user_id: some("never"), ..all.clone() }, by_user, 0),
        (EventFilter { dedup_id: some("never"), ..all.clone() }, by_id, 0),
        (EventFilter { trace: trace("never"), ..all.clone() }, by_text, 0),
        (EventFilter { trace: trace(&"a".repeat(32)), ..all.clone() }, by_trace, 0),
        (EventFilter { trace: trace(&minted), ..all.clone() }, by_trace, 0),
        (
            EventFilter { user_id: some("u500"), account_id: some("a500"), ..all.clone() },
            by_user,
            1,
        ),
        (
            EventFilter {
                event_type: of_type("order.t3"),
                account_id: some("a500"),
                until: span.1,
                ..all.clone()
            },
            by_account,
            1,
        ),
        (
            EventFilter {
                event_type: of_type("order.*"),
                account_id: some("a500"),
                since: span.0,
                ..all.clone()
            },
            by_account,
            8,
        ),
    ];
    for (page, (filter, index, found)) in in_both_orders(&cases) {
        let what = format!("{filter:?} {page:?}");
        let plans = plans(subject, async |store| {
            let page = store.events(org, &filter, page).await.unwrap();
            assert_eq!(page.data.len(), found, "{what}");
        });
        check(subject, &plans.await, index, &what);
    }
}

async fn every_filter_of_deliveries_is_read_by_an_index(subject: &Subject) {
    let (org, endpoint) = filled(subject).await;
    let all = DeliveryFilter::default();
    let by_org = ("PRIMARY KEY", "deliveries_p20260101_pkey");
    let by_endpoint = ("deliveries_by_endpoint", "endpoint_id_created_at");
    let by_status = ("deliveries_by_status", "org_id_status_created_at");
    let by_both = ("deliveries_by_endpoint_status", "endpoint_id_status_created_at");
    let by_type = ("deliveries_by_type", "type_key_created_at");
    let by_class = ("deliveries_by_error_class", "error_class_created_at");
    let by_code = ("deliveries_by_status_code", "status_code_created_at");
    let of_type = |text: &str| Some(text.parse::<EventTypeFilter>().unwrap());
    let of = |status| Some(status);
    let cases = [
        (all.clone(), by_org, 100),
        (DeliveryFilter { status: of(DeliveryStatus::Delivered), ..all.clone() }, by_org, 100),
        (DeliveryFilter { status: of(DeliveryStatus::Dead), ..all.clone() }, by_status, 0),
        (DeliveryFilter { status: of(DeliveryStatus::Cancelled), ..all.clone() }, by_status, 0),
        (DeliveryFilter { endpoint_id: Some(endpoint), ..all.clone() }, by_endpoint, 100),
        (
            DeliveryFilter {
                endpoint_id: Some(endpoint),
                status: of(DeliveryStatus::Dead),
                ..all.clone()
            },
            by_both,
            0,
        ),
        (DeliveryFilter { until: Some(at(500)), ..all.clone() }, by_org, 100),
        (DeliveryFilter { event_type: of_type("never"), ..all.clone() }, by_type, 0),
        (DeliveryFilter { event_type: of_type("order.*"), ..all.clone() }, by_type, 0),
        (DeliveryFilter { error_class: Some(ErrorClass::Status), ..all.clone() }, by_class, 100),
        (DeliveryFilter { error_class: Some(ErrorClass::Dns), ..all.clone() }, by_class, 0),
        (DeliveryFilter { status_code: Some(500), ..all.clone() }, by_code, 100),
        (DeliveryFilter { status_code: Some(404), ..all.clone() }, by_code, 0),
    ];
    for (page, (filter, index, found)) in in_both_orders(&cases) {
        let what = format!("{filter:?} {page:?}");
        let plans = plans(subject, async |store| {
            let page = store.deliveries(org, &filter, page).await.unwrap();
            assert_eq!(page.data.len(), found, "{what}");
        });
        let plans = plans.await;
        // A union is merged by one sort of a few pages.
        let of_list = plans.iter().filter(|plan| plan.contains("deliveries"));
        let of_list: Vec<_> = of_list.map(|plan| unsorted(plan)).collect();
        check(subject, &of_list, index, &what);
    }
}

fn unsorted(plan: &str) -> String {
    plan.replace("USE TEMP B-TREE FOR ORDER BY", "")
}

async fn every_filter_of_dead_letters_is_read_by_an_index(subject: &Subject) {
    let (org, endpoint) = filled(subject).await;
    let all = ALL_LETTERS;
    let of_type = |text: &str| Some(text.parse::<EventTypeFilter>().unwrap());
    let by_org = ("dead_letters_by_org", "dead_letters_by_org");
    let by_endpoint = ("dead_letters_by_endpoint", "dead_letters_by_endpoint");
    let by_type = ("dead_letters_by_type", "dead_letters_by_type");
    let by_event = ("dead_letters_by_event", "dead_letters_by_event");
    let by_reason = ("dead_letters_by_reason", "dead_letters_by_reason");
    let unreplayed = ("dead_letters_unreplayed", "dead_letters_unreplayed");
    let replayed = ("dead_letters_replayed", "dead_letters_replayed");
    let exhausted = Some(DeadReason::Exhausted);
    let unstorable = Some(DeadReason::Unstorable);
    let cases = [
        (all.clone(), by_org, 100),
        (DeadLetterFilter { endpoint_id: Some(endpoint), ..all.clone() }, by_endpoint, 100),
        (DeadLetterFilter { event_id: Some(EventId::mint(at(1))), ..all.clone() }, by_event, 0),
        (DeadLetterFilter { reason: exhausted, ..all.clone() }, by_reason, 100),
        (DeadLetterFilter { reason: unstorable, ..all.clone() }, by_reason, 0),
        (DeadLetterFilter { event_type: of_type("order.t3"), ..all.clone() }, by_type, 100),
        (DeadLetterFilter { event_type: of_type("never"), ..all.clone() }, by_type, 0),
        (DeadLetterFilter { event_type: of_type("order.*"), ..all.clone() }, by_type, 100),
        (DeadLetterFilter { event_type: of_type("never.*"), ..all.clone() }, by_type, 0),
        (DeadLetterFilter { replayed: Some(false), ..all.clone() }, unreplayed, 100),
        (DeadLetterFilter { replayed: Some(true), ..all.clone() }, replayed, 100),
        (
            DeadLetterFilter {
                endpoint_id: Some(endpoint),
                event_type: of_type("order.t3"),
                reason: exhausted,
                since: Some(at(9_900)),
                ..all.clone()
            },
            by_type,
            7,
        ),
    ];
    for (page, (filter, index, found)) in in_both_orders(&cases) {
        let what = format!("{filter:?} {page:?}");
        let plans = plans(subject, async |store| {
            let page = store.dead_letters(org, &filter, page).await.unwrap();
            assert_eq!(page.data.len(), found, "{what}");
        });
        check(subject, &plans.await, index, &what);
    }
}

async fn types_with_a_prefix_are_merged_in_the_order_of_time(subject: &Subject) {
    let org = add_org(subject).await;
    let other = add_org(subject).await;
    // More types than are merged, and some that only look alike.
    let types = |number: i64| match number % 3 {
        0 => format!("many.{number}"),
        1 => format!("few.{}", number % 5),
        _ => format!("fewer.{number}"),
    };
    let event = |number: i64, org| {
        let at = at(number / 2);
        some_event(org, &types(number), at)
    };
    let events: Vec<_> = (0..300).map(|number| event(number, org)).collect();
    persist(subject, &events, at(200)).await;
    persist(subject, &[event(0, other), event(1, other)], at(200)).await;
    for prefix in ["many.*", "few.*", "fewer.*", "none.*"] {
        let event_type: EventTypeFilter = prefix.parse().unwrap();
        let mut expected: Vec<_> = events
            .iter()
            .filter(|event| event_type.matches(event.event_type.as_str()))
            .map(|event| (event.received_at, event.id))
            .collect();
        expected.sort_unstable_by(|a, b| b.cmp(a));
        let filter = EventFilter { event_type: Some(event_type), ..EventFilter::default() };
        let seen = walk(7, async |p| subject.store.events(org, &filter, p).await).await;
        let seen: Vec<_> = seen.iter().map(|event| (event.received_at, event.id)).collect();
        assert_eq!(seen, expected, "{prefix}");
    }
}

async fn dead_letters_know_the_type_of_their_event(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let events = [some_event(org, "a.b", at(0)), some_event(org, "c.d", at(1))];
    persist(subject, &events, at(1)).await;
    let leased = claim(subject, 9, at(1)).await;
    let dead: Vec<_> =
        leased.iter().map(|leased| outcome(leased, super::fixtures::EXHAUSTED, at(2))).collect();
    subject.store.system().record_outcomes(&dead).await.unwrap();
    let record = EventId::mint(at(2));
    subject.store.quarantine_event(org, record, b"{}", "no", at(2)).await.unwrap();
    check_types(subject, org).await;
}

async fn dead_letters_from_before_the_step_know_the_type_of_their_event(subject: &Subject) {
    dead_letters_know_the_type_of_their_event(subject).await;
    let letters = "SELECT count(*) FROM dead_letters";
    let org = "SELECT count(*) FROM orgs";
    assert_eq!((subject.count(letters).await, subject.count(org).await), (3, 1));
    while subject.store.migrate_down().await.unwrap() != Some(12) {}
    assert_eq!(subject.count(letters).await, 3);
    subject.store.migrate_up().await.unwrap();
    let typed = "SELECT count(*) FROM dead_letters WHERE event_type IN ('a.b', 'c.d')";
    assert_eq!(subject.count(typed).await, 2);
}

async fn check_types(subject: &Subject, org: OrgId) {
    for (wanted, expected) in [("a.b", 1), ("a.*", 1), ("c.d", 1), ("e", 0), ("*", 3)] {
        let event_type = Some(wanted.parse().unwrap());
        let filter = DeadLetterFilter { event_type, ..ALL_LETTERS };
        let page = subject.store.dead_letters(org, &filter, FIRST_PAGE).await.unwrap();
        assert_eq!(page.data.len(), expected, "{wanted}");
    }
}
