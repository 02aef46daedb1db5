//! Cursors: pages in both directions, each cursor in its own list only.

use std::time::Duration;

use hookgate::domain::{DeadReason, Decision};
use serde_json::Value;

use super::analytics::{event, fold};
use super::deliveries::{endpoint, record};
use crate::support::server::{Server, Tenant};

const EVENTS: usize = 7;
/// More pages than any list here has rows.
const PAGES_MAX: usize = 200;

/// Events, each with a dead delivery of one attempt.
async fn fill(server: &Server, tenant: &Tenant) -> String {
    let endpoint = endpoint(server, tenant).await;
    for number in 0..EVENTS {
        let kind = if number % 3 == 0 { "a" } else { "b" };
        server.store_event(tenant.org_id, kind, &number.to_string()).await;
        server.clock.advance(Duration::from_millis(1));
    }
    for leased in server.claim().await {
        record(server, &leased, 500, Decision::Dead(DeadReason::Exhausted)).await;
    }
    endpoint
}

/// The rows of a list, page by page, and the last page.
async fn pages(
    server: &Server,
    list: &str,
    (key, limit): (&str, usize),
    (direction, first): (&str, Value),
) -> (Vec<Vec<Value>>, Value) {
    let (mut pages, mut page) = (Vec::new(), first);
    while let Some(cursor) = page[direction].as_str() {
        page = server.get(&format!("{list}&limit={limit}&cursor={cursor}"), key).await.expect(200);
        pages.push(page["data"].as_array().unwrap().clone());
        assert!(pages.len() <= PAGES_MAX, "{list} does not end");
    }
    (pages, page)
}

/// Holds a list of at least four rows to its pages: whatever their length and direction, they have the same rows in the
/// same order.
async fn check_both_directions(server: &Server, list: &str, key: &str) {
    for order in ["desc", "asc"] {
        let list = format!("{list}&order={order}").replace("?&", "?");
        let all = server.get(&list, key).await.expect(200);
        assert_eq!((&all["next_cursor"], &all["prev_cursor"]), (&Value::Null, &Value::Null));
        let all = all["data"].as_array().unwrap().clone();
        assert!(all.len() >= 4, "{list}");
        for limit in [1, 2, 3] {
            let first = server.get(&format!("{list}&limit={limit}"), key).await.expect(200);
            assert_eq!(first["prev_cursor"], Value::Null);
            let mut forward = vec![first["data"].as_array().unwrap().clone()];
            let (rest, final_page) =
                pages(server, &list, (key, limit), ("next_cursor", first)).await;
            forward.extend(rest);
            assert_eq!(forward.concat(), all, "{list} {limit}");
            // Back from the last page: the same rows in the same order.
            let end = final_page["data"].as_array().unwrap().clone();
            let (mut back, first) =
                pages(server, &list, (key, limit), ("prev_cursor", final_page)).await;
            back.reverse();
            assert_eq!([back.concat(), end].concat(), all, "{list} {limit}");
            // And on again from the first page that was reached backwards.
            let reached = first["data"].as_array().unwrap().clone();
            let (rest, _) = pages(server, &list, (key, limit), ("next_cursor", first)).await;
            assert_eq!([reached, rest.concat()].concat(), all, "{list} {limit}");
        }
    }
}

#[tokio::test]
async fn pages_are_read_in_both_directions() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = fill(&server, &tenant).await;
    for list in [
        "/api/events?".to_owned(),
        "/api/events?include=payload&type=b".to_owned(),
        "/api/deliveries?".to_owned(),
        "/api/deliveries?status=dead&type=b".to_owned(),
        "/api/dead-letters?".to_owned(),
        format!("/api/endpoints/{endpoint}/attempts?"),
    ] {
        check_both_directions(&server, &list, &tenant.key).await;
    }
}

#[tokio::test]
async fn pages_of_resources_are_read_in_both_directions() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let operator = server.operator().await;
    // Changes at one time are told apart by their ids.
    for number in 0..4 {
        let at_once = if number % 2 == 0 { Duration::from_millis(1) } else { Duration::ZERO };
        server.clock.advance(at_once);
        endpoint(&server, &tenant).await;
        server.post("/api/keys", &tenant.key, r#"{"name":"ci"}"#).await.expect(201);
        server.tenant(&format!("other {number}")).await;
        server.delete(&format!("/api/accounts/a{number}/data"), &tenant.key).await.expect(202);
        let none = format!("{{\"status_code\":{}}}", 500 + number);
        server.post("/api/dead-letters/replay", &tenant.key, none).await.expect(202);
        server.run_replays().await;
    }
    for list in ["/api/endpoints?", "/api/keys?", "/api/audit?", "/api/replays?", "/api/erasures?"]
    {
        check_both_directions(&server, list, &tenant.key).await;
    }
    for list in [
        "/api/admin/orgs?".to_owned(),
        "/api/admin/keys?".to_owned(),
        "/api/admin/audit?".to_owned(),
        format!("/api/admin/audit?org_id={}", tenant.org_id),
        format!("/api/admin/orgs/{}/keys?", tenant.org_id),
    ] {
        check_both_directions(&server, &list, &operator).await;
    }
}

#[tokio::test]
async fn cursor_of_counts_is_refused_in_another_list_and_with_other_filters() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let operator = server.operator().await;
    for (kind, account) in [("a", "one"), ("b", "two"), ("c", "three")] {
        server.clock.advance(Duration::from_hours(1));
        let event = event(tenant.org_id, kind, account, "u", server.clock.now());
        server.store_as_it_is(&event).await;
    }
    let other = server.tenant("other").await;
    server.store_event(other.org_id, "a", "{}").await;
    fold(&server).await;
    let window = "from=2026-01-31T00:00:00Z&to=2026-02-01T00:00:00Z";
    let own = tenant.key.as_str();
    let lists = [
        ("/api/accounts?limit=1".to_owned(), own),
        ("/api/event-types?limit=1".to_owned(), own),
        (format!("/api/analytics/events?limit=1&group_by=type&{window}"), own),
        (format!("/api/analytics/events?limit=1&group_by=account&{window}"), own),
        (format!("/api/admin/analytics/events?limit=1&{window}"), &operator),
        ("/api/admin/usage?limit=1&month=2026-01".to_owned(), &operator),
        ("/api/admin/usage?limit=1".to_owned(), &operator),
    ];
    for (list, key) in &lists {
        let first = server.get(list, key).await.expect(200);
        assert_eq!(first.get("prev_cursor"), None, "{list}");
        let cursor = first["next_cursor"].as_str().unwrap_or_else(|| panic!("{list}: {first}"));
        let second = server.get(&format!("{list}&cursor={cursor}"), key).await.expect(200);
        assert_ne!(first["data"], second["data"], "{list}");
        for (other, key) in lists.iter().filter(|(other, _)| other != list) {
            let refused = server.get(&format!("{other}&cursor={cursor}"), key).await;
            refused.expect_faults(&[("cursor", "list")]);
        }
        // Cursors of another kind are no cursors here.
        let refused = server.get(&format!("/api/events?cursor={cursor}"), own).await;
        refused.expect_faults(&[("cursor", "format")]);
    }
}

#[tokio::test]
async fn cursor_is_refused_in_another_list_and_with_other_filters() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    fill(&server, &tenant).await;
    endpoint(&server, &tenant).await;
    let key = tenant.key.as_str();
    let next = async |list: &str| {
        let page = server.get(list, key).await.expect(200);
        page["next_cursor"].as_str().unwrap().to_owned()
    };
    let events = next("/api/events?limit=1&type=b").await;
    for list in ["/api/events?type=b&limit=3", "/api/events?include=payload&type=b"] {
        server.get(&format!("{list}&cursor={events}"), key).await.expect(200);
    }
    for list in [
        "/api/events?limit=1",
        "/api/events?type=a",
        "/api/events?type=b&user_id=u",
        "/api/deliveries?type=b",
        "/api/dead-letters?type=b",
        "/api/endpoints?limit=1",
    ] {
        let refused = server.get(&format!("{list}&cursor={events}"), key).await;
        refused.expect_faults(&[("cursor", "list")]);
    }
    let wrong_order = format!("/api/events?type=b&order=asc&cursor={events}");
    server.get(&wrong_order, key).await.expect_faults(&[("cursor", "order")]);

    // An export takes no cursor backwards.
    let second = server.get(&format!("/api/events?type=b&limit=1&cursor={events}"), key).await;
    let back = second.expect(200)["prev_cursor"].as_str().unwrap().to_owned();
    let export = format!("/api/events/export?type=b&order=desc&cursor={back}");
    server.get(&export, key).await.expect_faults(&[("cursor", "direction")]);
    let endpoints = next("/api/endpoints?limit=1").await;
    server.get(&format!("/api/endpoints?cursor={endpoints}"), key).await.expect(200);
    server
        .get(&format!("/api/keys?cursor={endpoints}"), key)
        .await
        .expect_faults(&[("cursor", "list")]);
    let operator = server.operator().await;
    let audit = server.get("/api/admin/audit?limit=1", &operator).await.expect(200);
    let audit = audit["next_cursor"].as_str().unwrap();
    let of_org = format!("/api/admin/audit?org_id={}&cursor={audit}", tenant.org_id);
    server.get(&of_org, &operator).await.expect_faults(&[("cursor", "list")]);

    // An export goes on from its list, and a list from its export.
    let text = server.get("/api/events/export?type=b", key).await.expect_text(200).to_owned();
    assert!(text.lines().last().is_some_and(|line| line == r#"{"next_cursor":null}"#));
    let ascending = next("/api/events?type=b&limit=1&order=asc").await;
    let rest = server.get(&format!("/api/events/export?type=b&cursor={ascending}"), key).await;
    assert_eq!(rest.expect_text(200).lines().count(), text.lines().count() - 1);
}
