//! What holds for every page: its size, its position in a list, and the live tail.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::timeout;

use super::portal::{deliveries, endpoint, post};
use super::{Console, each_store};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::{PATIENCE, until};

/// Bytes of a page at most, compressed.
const PAGE_BYTES_MAX: usize = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn live_tail_shows_the_own_organisation_alone_and_ends_with_its_key() {
    for console in each_store(&[]).await {
        let tail = Box::pin(live_tail(&console));
        timeout(PATIENCE, tail).await.expect("the tail shows what happens, and ends");
    }
}

async fn live_tail(console: &Console) {
    let operator = &console.operator;
    let org = r#"{"name":"stranger"}"#;
    let org = console.api(Method::POST, "/api/admin/orgs", operator, org).await;
    let keys = format!("/api/admin/orgs/{}/keys", org["id"].as_str().unwrap());
    let made = console.api(Method::POST, &keys, operator, r#"{"name":"stranger"}"#).await;
    let key = made["key"].as_str().unwrap();
    let stranger = console.signed_in(key).await;
    assert_eq!(console.browser().stream("/console/live/stream").await.status(), 303);
    let mut stream = stranger.stream("/console/live/stream").await;
    assert_eq!(stream.status(), 200);
    let mut text = String::new();
    while !text.contains("stranger.type") {
        for (key, name) in [(console.key.as_str(), "acme.type"), (key, "stranger.type")] {
            let event = json!({"type": name, "payload": 1}).to_string();
            console.api(Method::POST, "/api/events", key, &event).await;
        }
        // What is stored before the server follows changes is not shown.
        if let Ok(chunk) = timeout(Duration::from_millis(500), stream.chunk()).await {
            text.push_str(&String::from_utf8_lossy(&chunk.unwrap().unwrap()));
        }
    }
    let revoke = format!("/api/admin/keys/{}", made["id"].as_str().unwrap());
    console.api(Method::DELETE, &revoke, operator, "").await;
    while let Some(chunk) = stream.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(!text.contains("acme"), "{text}");
    assert_eq!(stranger.stream("/console/live/stream").await.status(), 303);
}

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
