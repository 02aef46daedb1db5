//! What the pages of lists take, with a hundred thousand rows over thirty days: by what the engines count as they run
//! their statements.

use hookgate::domain::{
    Cursor, DeadLetterFilter, DeadReason, DeliveryFilter, DeliveryStatus, EndpointId, ErrorClass,
    EventFilter, EventId, EventTypeFilter, OrgId, Page, PageRequest, TraceFilter,
};
use hookgate::store::{Result, Store};
use uuid::Uuid;

use super::event_filters::ORDERS;
use super::fixtures::{ALL_LETTERS, add_endpoint, add_org, at, persist, some_event};
use super::{Subject, on_both};

on_both!(every_page_takes_a_bounded_amount_of_work, pages_that_end_short_lead_to_every_row);

const DAY: i64 = 86_400;
/// Rows that one statement of a page may read; a tenth of all have what a filter names.
const ROWS_MAX: f64 = 5_000.0;
/// Of a prefix with many types, so many are counted, or sorted when they are fewer. PostgreSQL sorts entries of an index,
/// rather than stepping over them in their order, where it takes those of an endpoint for few.
const SORTED_ROWS_MAX: f64 = 11_000.0;
/// A day with so many rows may be walked: a whole one has more than three thousand.
const SMALL_TABLE: f64 = 1_000.0;
/// Pages of the database per row that is read, for the levels of its index and the row itself.
const BUFFERS_PER_ROW: f64 = 4.0;
const INSTRUCTIONS_PER_ROW: f64 = 40.0;

/// Number `i` has type `order.a` and user `user` where 10 divides it, and account `acct` where it leaves 1; seven have
/// all of these. Of `many.*` there are 200 types with 100 events each, of `rare.*` 100 with one.
const EVENT: &str = "CASE WHEN i % 10 = 0 THEN 'order.a' WHEN i % 10 = 1 THEN 'order.b'
             WHEN i % 10 IN (2, 3) THEN 'many.' || (i % 1000)
             WHEN i % 1000 = 4 THEN 'rare.' || (i / 1000) ELSE 'other.' || (i % 10) END,
        CASE WHEN i % 10 = 1 OR i % 14290 = 0 THEN 'acct' ELSE 'b' || (i % 97) END,
        CASE WHEN i % 10 = 0 THEN 'user' ELSE 'u' || (i % 5000) END";
/// Deliveries of `order.a` go to the failing endpoint and are dead, but for seven.
const DELIVERY: &str = "CASE WHEN i % 10 = 0 THEN {failing} ELSE {working} END,
        CASE WHEN i % 10 = 0 AND i % 14290 > 0 THEN 'dead' ELSE 'delivered' END,
        CASE WHEN i % 10 = 0 AND i % 14290 > 0 THEN CASE WHEN i % 1000 = 0 THEN 'timeout' ELSE 'status' END END,
        CASE WHEN i % 10 = 0 AND i % 14290 > 0 AND i % 1000 > 0 THEN 500 END,
        CASE WHEN i % 10 = 0 THEN {order_a} WHEN i % 10 = 1 THEN {order_b} ELSE i % 10 END";
const LETTER: &str = "CASE WHEN i % 10 = 0 THEN {failing} ELSE {working} END,
        CASE WHEN i % 10 = 0 THEN 'exhausted' ELSE 'gone' END,
        CASE WHEN i % 10 = 0 THEN 'order.a' ELSE 'other.5' END";

struct Filled {
    org: OrgId,
    failing: EndpointId,
    working: EndpointId,
}

async fn filled(subject: &Subject) -> Filled {
    let org = add_org(subject).await;
    for week in 0..5 {
        subject.store.system().maintain(at(week * 7 * DAY)).await.unwrap();
    }
    let working = add_endpoint(subject, org, "*").await.id;
    let key_of = async |event_type: &str, second: i64| {
        persist(subject, &[some_event(org, event_type, at(second))], at(second)).await;
        let newest = "SELECT type_key FROM pending_deliveries ORDER BY created_at DESC LIMIT 1";
        subject.count(newest).await.to_string()
    };
    let (order_a, order_b) = (key_of("order.a", 0).await, key_of("order.b", 1).await);
    let failing = add_endpoint(subject, org, "never").await.id;
    let is_postgres = subject.is_postgres();
    let id = |id: Uuid| {
        if is_postgres { format!("'{id}'::uuid") } else { format!("x'{}'", id.simple()) }
    };
    let of_org = id(org.uuid());
    let (new_id, time, payload, rows) = if is_postgres {
        (
            "gen_random_uuid()",
            "timestamptz '2026-01-01' + i * interval '25.92 seconds'",
            "'{}'",
            "CREATE TABLE n AS SELECT i::bigint, gen_random_uuid() AS id FROM generate_series(0, 99999) i",
        )
    } else {
        (
            "randomblob(16)",
            "1767225600000000 + i * 25920000",
            "x'7b7d'",
            "CREATE TABLE n AS
             WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
             SELECT i, randomblob(16) AS id FROM n",
        )
    };
    let sql = format!(
        "{rows};
         INSERT INTO events (id, org_id, payload, received_at, trace_id, event_type, account_id, user_id)
         SELECT id, {of_org}, {payload}, {time}, {new_id}, {EVENT} FROM n;
         INSERT INTO deliveries (org_id, created_at, id, event_id, event_received_at, attempts, finished_at, started_at,
                                 duration_ms, endpoint_id, status, error_class, status_code, type_key)
         SELECT {of_org}, {time}, id, id, {time}, 1, {time}, {time}, 1, {DELIVERY} FROM n;
         INSERT INTO pending_deliveries (org_id, created_at, id, event_id, event_received_at, endpoint_id, payload_bytes,
                                         due_at, type_key)
         SELECT {of_org}, {time}, {new_id}, id, {time}, CASE WHEN i % 10 = 0 THEN {{working}} ELSE {{failing}} END, 2,
                {time}, CASE WHEN i % 10 = 0 THEN {{order_a}} ELSE 5 END
         FROM n WHERE i % 5 = 0;
         INSERT INTO dead_letters (id, org_id, event_id, delivery_id, created_at, replayed_at, endpoint_id, reason,
                                   event_type)
         SELECT id, {of_org}, id, id, {time}, CASE WHEN i % 10 = 0 THEN {time} END, {LETTER} FROM n WHERE i % 5 = 0;
         DROP TABLE n;
         ANALYZE"
    );
    let sql = sql
        .replace("{failing}", &id(failing.uuid()))
        .replace("{working}", &id(working.uuid()))
        .replace("{order_a}", &order_a)
        .replace("{order_b}", &order_b);
    subject.raw(&sql, &sql).await;
    Filled { org, failing, working }
}

fn of_type(text: &str) -> Option<EventTypeFilter> {
    text.parse().map(Some).unwrap()
}

/// Each with the rows that a statement may read for it.
fn event_cases() -> Vec<(EventFilter, f64)> {
    let all = EventFilter::default;
    let some = |text: &str| Some(text.to_owned());
    let trace = |text: String| Some(text.parse::<TraceFilter>().unwrap());
    let mut cases: Vec<_> = ["order.a", "never", "order.*", "never.*", "rare.*"]
        .map(|text| EventFilter { event_type: of_type(text), ..all() })
        .into();
    for account in ["acct", "b7", "never"] {
        cases.push(EventFilter { account_id: some(account), ..all() });
        for event_type in ["order.a", "order.*", "rare.*", "many.*"] {
            let event_type = of_type(event_type);
            cases.push(EventFilter { account_id: some(account), event_type, ..all() });
        }
        cases.push(EventFilter { account_id: some(account), user_id: some("user"), ..all() });
    }
    for user in ["user", "u7", "never"] {
        cases.push(EventFilter { user_id: some(user), ..all() });
        cases.push(EventFilter { user_id: some(user), event_type: of_type("order.b"), ..all() });
    }
    cases.push(EventFilter { dedup_id: some("never"), ..all() });
    cases.push(EventFilter { trace: trace("never".into()), ..all() });
    cases.push(EventFilter { trace: trace("a".repeat(32)), ..all() });
    cases.push(EventFilter { since: Some(at(9 * DAY)), until: Some(at(20 * DAY)), ..all() });
    cases.push(all());
    let many = EventFilter { event_type: of_type("many.*"), ..all() };
    cases.into_iter().map(|filter| (filter, ROWS_MAX)).chain([(many, SORTED_ROWS_MAX)]).collect()
}

fn delivery_cases(filled: &Filled) -> Vec<DeliveryFilter> {
    use DeliveryStatus::{Cancelled, Dead, Delivered, Pending};
    let all = DeliveryFilter::default;
    let mut cases = vec![
        all(),
        DeliveryFilter { since: Some(at(9 * DAY)), until: Some(at(20 * DAY)), ..all() },
        DeliveryFilter { event_id: Some(EventId::mint(at(9 * DAY))), ..all() },
        DeliveryFilter { error_class: Some(ErrorClass::Timeout), status_code: Some(500), ..all() },
    ];
    for endpoint in [None, Some(filled.failing), Some(filled.working)] {
        let of_endpoint = || DeliveryFilter { endpoint_id: endpoint, ..all() };
        for status in [None, Some(Pending), Some(Delivered), Some(Dead), Some(Cancelled)] {
            cases.push(DeliveryFilter { status, ..of_endpoint() });
            for event_type in ["order.a", "order.*", "never"] {
                let event_type = of_type(event_type);
                cases.push(DeliveryFilter { status, event_type, ..of_endpoint() });
            }
        }
        for class in [ErrorClass::Status, ErrorClass::Timeout, ErrorClass::Dns] {
            cases.push(DeliveryFilter { error_class: Some(class), ..of_endpoint() });
        }
        for code in [500, 404] {
            cases.push(DeliveryFilter { status_code: Some(code), ..of_endpoint() });
        }
    }
    cases
}

fn letter_cases(filled: &Filled) -> Vec<DeadLetterFilter> {
    let all = || ALL_LETTERS;
    let mut cases = vec![
        all(),
        DeadLetterFilter { since: Some(at(9 * DAY)), until: Some(at(20 * DAY)), ..all() },
        DeadLetterFilter { event_id: Some(EventId::mint(at(9 * DAY))), ..all() },
        DeadLetterFilter { error_class: Some(ErrorClass::Dns), ..all() },
        DeadLetterFilter { status_code: Some(404), ..all() },
    ];
    let reasons = [None, Some(DeadReason::Gone), Some(DeadReason::Unstorable)];
    for endpoint in [None, Some(filled.failing)] {
        let of_endpoint = || DeadLetterFilter { endpoint_id: endpoint, ..all() };
        for reason in reasons {
            cases.push(DeadLetterFilter { reason, ..of_endpoint() });
            for event_type in ["order.a", "order.*", "never"] {
                let event_type = of_type(event_type);
                cases.push(DeadLetterFilter { reason, event_type, ..of_endpoint() });
            }
        }
        for replayed in [Some(false), Some(true)] {
            cases.push(DeadLetterFilter { replayed, ..of_endpoint() });
            cases.push(DeadLetterFilter { replayed, reason: reasons[1], ..of_endpoint() });
        }
    }
    cases
}

/// Reads the first page and one from the middle, in both orders.
async fn check<T>(
    subject: &Subject,
    what: &str,
    rows_max: f64,
    list: impl AsyncFn(Store, PageRequest) -> Result<Page<T>>,
) {
    let middle = Cursor { at: at(15 * DAY), id: Uuid::max() };
    for order in ORDERS {
        for (after, limit) in [(None, 50), (Some(middle), 100)] {
            let page = PageRequest { limit, after, order };
            let (store, plans) = subject.store.measuring_plans();
            list(store, page).await.unwrap();
            for plan in plans.take() {
                let what = format!("{what} {page:?}");
                check_work(subject, &what, &plan, rows_max);
            }
        }
    }
}

fn check_work(subject: &Subject, what: &str, plan: &str, rows_max: f64) {
    if !subject.is_postgres() {
        let instructions = number_behind(plan, "instructions: ").unwrap();
        assert!(instructions <= rows_max * INSTRUCTIONS_PER_ROW, "{what}:\n{plan}");
        return;
    }
    let buffers = plan.lines().find(|line| line.contains("Buffers: ")).unwrap_or_default();
    let buffers = ["hit=", "read="].map(|kind| number_behind(buffers, kind).unwrap_or(0.0));
    assert!(buffers.iter().sum::<f64>() <= rows_max * BUFFERS_PER_ROW, "{what}:\n{plan}");
    let lines: Vec<_> = plan.lines().collect();
    let nodes = lines.chunk_by(|_, next| !next.contains("(actual "));
    let rows: f64 = nodes.map(|node| rows_of_scan(node, what)).sum();
    assert!(rows <= rows_max, "{what}: {rows} rows in\n{plan}");
}

/// The rows that a node of a plan reads from a table. It walks none but small ones.
fn rows_of_scan(node: &[&str], what: &str) -> f64 {
    const SCANS: [&str; 3] = [" Scan on ", " Scan using ", " Scan Backward using "];
    const OF_NO_TABLE: [&str; 3] = ["CTE Scan", "Subquery Scan", "Function Scan"];
    let line = node[0];
    let has_one = |of: [&str; 3]| of.iter().any(|kind| line.contains(kind));
    // A day that has few rows is walked rather than looked up by many keys: its buffers count.
    let is_by_keys =
        node.iter().any(|line| line.contains("Filter: ") && line.contains("(id = ANY"));
    if !has_one(SCANS) || has_one(OF_NO_TABLE) || is_by_keys {
        return 0.0;
    }
    let listed = number_behind(line, "rows=").unwrap_or(0.0);
    let removed = node.iter().find_map(|line| number_behind(line, "Rows Removed by Filter: "));
    let rows = listed + removed.unwrap_or(0.0);
    assert!(
        !line.contains("Seq Scan on ") || rows <= SMALL_TABLE,
        "{what} walks a table: {node:#?}"
    );
    rows * number_behind(line, "loops=").unwrap_or(1.0)
}

/// The number behind the last of these words.
fn number_behind(text: &str, word: &str) -> Option<f64> {
    let (_, rest) = text.rsplit_once(word)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

async fn every_page_takes_a_bounded_amount_of_work(subject: &Subject) {
    let filled = filled(subject).await;
    let org = filled.org;
    for (filter, rows_max) in event_cases() {
        let list = async |store: Store, page| store.events(org, &filter, page).await;
        check(subject, &format!("{filter:?}"), rows_max, list).await;
    }
    let rows_max = if subject.is_postgres() { SORTED_ROWS_MAX } else { ROWS_MAX };
    for filter in delivery_cases(&filled) {
        let list = async |store: Store, page| store.deliveries(org, &filter, page).await;
        check(subject, &format!("{filter:?}"), rows_max, list).await;
    }
    for filter in letter_cases(&filled) {
        let list = async |store: Store, page| store.dead_letters(org, &filter, page).await;
        check(subject, &format!("{filter:?}"), ROWS_MAX, list).await;
    }
    // By their ids, however many lie between them.
    let mut edges = Vec::new();
    for seconds in [2, 29 * DAY] {
        let event = some_event(org, "edge", at(seconds));
        persist(subject, std::slice::from_ref(&event), at(seconds)).await;
        let filter = DeliveryFilter { event_id: Some(event.id), ..DeliveryFilter::default() };
        let found = subject.store.deliveries(org, &filter, PageRequest::first(1)).await.unwrap();
        edges.push(found.data[0].id);
    }
    let (store, plans) = subject.store.measuring_plans();
    assert_eq!(store.deliveries_by_id(org, &edges).await.unwrap().len(), 2);
    for plan in plans.take() {
        check_work(subject, "deliveries by id", &plan, 200.0);
    }
    for error_class in [None, Some(ErrorClass::Timeout), Some(ErrorClass::Dns)] {
        let endpoint = filled.failing;
        let filter =
            DeliveryFilter { endpoint_id: Some(endpoint), error_class, ..Default::default() };
        let list =
            async |store: Store, page| store.endpoint_attempts(org, endpoint, &filter, page).await;
        check(subject, &format!("attempts {filter:?}"), ROWS_MAX, list).await;
    }
}

/// How many pages and rows a list has, in both orders.
async fn walked<T>(list: impl AsyncFn(PageRequest) -> Result<Page<T>>) -> [(u32, usize); 2] {
    let mut all = [(0, 0); 2];
    for (order, (pages, rows)) in ORDERS.into_iter().zip(&mut all) {
        let mut after = None;
        loop {
            let page = list(PageRequest { limit: 50, after, order }).await.unwrap();
            (*pages, *rows) = (*pages + 1, *rows + page.data.len());
            after = page.next_cursor;
            if after.is_none() {
                break;
            }
        }
    }
    all
}

async fn pages_that_end_short_lead_to_every_row(subject: &Subject) {
    let Filled { org, failing, working } = filled(subject).await;
    let some = |text: &str| Some(text.to_owned());
    let (account_id, event_type) = (some("acct"), of_type("order.a"));
    let store = &subject.store;
    let both = EventFilter { account_id, event_type: event_type.clone(), ..Default::default() };
    // Ten thousand rows, of which a page examines two thousand, or on PostgreSQL so many of each of its spans.
    let pages_min = if subject.is_postgres() { 3 } else { 6 };
    let leads_to = |walked: [(u32, usize); 2], rows: usize| {
        walked.iter().all(|(pages, found)| (pages_min..=6).contains(pages) && *found == rows)
    };
    let events = walked(async |page| store.events(org, &both, page).await).await;
    assert!(leads_to(events, 7), "{events:?}");
    let status = Some(DeliveryStatus::Delivered);
    let delivered =
        DeliveryFilter { endpoint_id: Some(failing), status, ..DeliveryFilter::default() };
    let deliveries = walked(async |page| store.deliveries(org, &delivered, page).await).await;
    assert!(leads_to(deliveries, 7), "{deliveries:?}");
    // Those of one type wait for one endpoint and have failed at the other.
    let pending = DeliveryFilter { endpoint_id: Some(working), event_type, ..Default::default() };
    let list = async |page| store.deliveries(org, &pending, page).await;
    let [newest, oldest] = walked(list).await;
    assert_eq!((newest.1, oldest.1), (10_001, 10_001));
    let reason = Some(DeadReason::Gone);
    let none = DeadLetterFilter { endpoint_id: Some(failing), reason, ..ALL_LETTERS };
    let list = async |page| store.dead_letters(org, &none, page).await;
    assert_eq!(walked(list).await, [(6, 0); 2]);
}
