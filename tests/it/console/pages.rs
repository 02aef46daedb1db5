//! What holds for every page: its size, and its position in a list.

use reqwest::Method;
use serde_json::json;

use super::portal::{deliveries, endpoint, post};
use super::{Console, each_store};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

/// Bytes of a page at most, compressed.
const PAGE_BYTES_MAX: usize = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn position_of_another_list_is_refused() {
    let console = Console::start(&[]).await;
    for _ in 0..2 {
        post(&console, "acme", "a.b").await;
    }
    let mut events = serde_json::Value::Null;
    until("both events are stored", async || {
        events = console.api(Method::GET, "/api/events?limit=1", &console.key, "").await;
        events["next_cursor"].is_string()
    })
    .await;
    let cursor = events["next_cursor"].as_str().unwrap();
    let mut tenant = console.signed_in(&console.key).await;
    for list in ["events", "deliveries", "dead-letters", "endpoints", "keys", "audit", "accounts"] {
        for position in [cursor, "nonsense"] {
            let page = tenant.get(&format!("/console/{list}?cursor={position}")).await;
            assert_eq!(page.status, 422, "{list} {position}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inbox_shows_what_waits_in_it() {
    for console in each_store(&[]).await {
        let inbox = json!({"kind": "pull"}).to_string();
        let inbox = console.api(Method::POST, "/api/endpoints", &console.key, &inbox).await;
        let id = inbox["id"].as_str().unwrap();
        for _ in 0..3 {
            post(&console, "acme", "a.b").await;
        }
        let receive = format!("/api/inbox?inbox={id}&limit=1&visibility_seconds=3600&wait=10");
        let mut received = 0;
        while received == 0 {
            let page = console.api(Method::GET, &receive, &console.key, "").await;
            received = page["data"].as_array().unwrap_or_else(|| panic!("{page}")).len();
        }
        let mut tenant = console.signed_in(&console.key).await;
        let tile = |label: &str, value: &str| format!("<dt>{label}</dt><dd>{value}<");
        until("all have come", async || {
            let page = tenant.get(&format!("/console/endpoints/{id}")).await;
            page.text.contains(&tile("Waiting in the inbox", "3"))
        })
        .await;
        tenant.get(&format!("/console/endpoints/{id}")).await.shows(&tile("In flight", "1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_small() {
    let console = Console::start(&[]).await;
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(500)]);
    let endpoint = endpoint(&console, &receiver.url("/hooks"), None).await;
    // More than a page of everything that is listed.
    let events = (0..120).map(|number| {
        json!({"type": format!("type.{number}"), "account_id": format!("account-{number}"), "payload": {"number": number}})
    });
    let events = json!({"events": events.collect::<Vec<_>>()}).to_string();
    console.api(Method::POST, "/api/events/batch", &console.key, &events).await;
    let rows = deliveries_of(&console, &endpoint).await;
    let letters = console.api(Method::GET, "/api/dead-letters", &console.key, "").await;
    let event = rows[0]["event_id"].as_str().unwrap();
    let delivery = rows[0]["id"].as_str().unwrap();
    let letter = letters["data"][0]["id"].as_str().unwrap();
    let mut tenant = console.signed_in(&console.key).await;
    let mut sizes = Vec::new();
    for path in [
        "/console".to_owned(),
        "/console/events".to_owned(),
        format!("/console/events/{event}"),
        "/console/live".to_owned(),
        "/console/endpoints".to_owned(),
        format!("/console/endpoints/{endpoint}"),
        format!("/console/endpoints/{endpoint}/edit"),
        "/console/deliveries".to_owned(),
        format!("/console/deliveries/{delivery}"),
        "/console/dead-letters".to_owned(),
        format!("/console/dead-letters/{letter}"),
        "/console/accounts".to_owned(),
        "/console/keys".to_owned(),
        "/console/audit".to_owned(),
        "/console/samples".to_owned(),
        "/console/session".to_owned(),
    ] {
        let bytes = tenant.compressed_size(&path).await;
        sizes.push((path, bytes));
    }
    assert!(sizes.iter().all(|(_, bytes)| *bytes < PAGE_BYTES_MAX), "{sizes:#?}");
}

async fn deliveries_of(console: &Console, endpoint: &str) -> Vec<serde_json::Value> {
    // A list has 50 rows unless it is asked for more.
    deliveries(console, endpoint, 50).await
}
