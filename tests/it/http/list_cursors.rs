//! Cursors: pages in both directions, each cursor in its own list only.

use hookgate::domain::{DeadReason, Decision};
use serde_json::Value;

use super::deliveries::{endpoint, record};
use crate::support::server::{Server, Tenant};

const EVENTS: usize = 7;

/// Events, each with a dead delivery of one attempt.
async fn fill(server: &Server, tenant: &Tenant) -> String {
    let endpoint = endpoint(server, tenant).await;
    for number in 0..EVENTS {
        let kind = if number % 3 == 0 { "a" } else { "b" };
        server.store_event(tenant.org_id, kind, &number.to_string()).await;
        server.clock.advance(std::time::Duration::from_millis(1));
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
        assert!(pages.len() <= EVENTS, "{list} does not end");
    }
    (pages, page)
}

#[tokio::test]
async fn pages_are_read_in_both_directions() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = fill(&server, &tenant).await;
    let key = tenant.key.as_str();
    for list in [
        "/api/events?".to_owned(),
        "/api/events?include=payload&type=b".to_owned(),
        "/api/deliveries?".to_owned(),
        "/api/deliveries?status=dead&type=b".to_owned(),
        "/api/dead-letters?".to_owned(),
        format!("/api/endpoints/{endpoint}/attempts?"),
    ] {
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
                    pages(&server, &list, (key, limit), ("next_cursor", first)).await;
                forward.extend(rest);
                assert_eq!(forward.concat(), all, "{list} {limit}");
                // Back from the last page: the same rows in the same order.
                let end = final_page["data"].as_array().unwrap().clone();
                let (mut back, first) =
                    pages(&server, &list, (key, limit), ("prev_cursor", final_page)).await;
                back.reverse();
                assert_eq!([back.concat(), end].concat(), all, "{list} {limit}");
                // And on again from the first page that was reached backwards.
                let reached = first["data"].as_array().unwrap().clone();
                let (rest, _) = pages(&server, &list, (key, limit), ("next_cursor", first)).await;
                assert_eq!([reached, rest.concat()].concat(), all, "{list} {limit}");
            }
        }
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

    // A list that is read forwards only, and exports, take no cursor backwards.
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
