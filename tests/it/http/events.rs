//! Reading events back.

use std::time::Duration;

use hookgate::domain::{Event, Timestamp};
use serde_json::{Value, json};

use crate::support::server::Server;

#[tokio::test]
async fn event_is_shown_with_its_payload_as_it_came() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for payload in [
        "1e400",
        "[0.10, -0,\t1E+2, 12345678901234567890123]",
        r#""a\u0000 \ud83d\ude00 \/""#,
        "{ \"ü\" :null, \"ü\": {} }",
        "null",
    ] {
        let event = server.store_event(tenant.org_id, "a.b", payload).await;
        let answer = server.get(&format!("/api/events/{}", event.id), &tenant.key).await;
        assert_eq!(answer.status, 200);
        assert!(answer.text.contains(&format!("\"payload\":{payload},")), "{}", answer.text);
        let list = server.get("/api/events?limit=1&include=payload", &tenant.key).await;
        assert!(list.text.contains(&format!("\"payload\":{payload},")), "{}", list.text);
        let list = server.get("/api/events?limit=1", &tenant.key).await;
        assert!(!list.text.contains("\"payload\":"), "{}", list.text);
        assert!(list.text.contains(&format!("\"payload_bytes\":{},", payload.len())));
        server.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn events_show_every_field_with_null_for_absent_ones() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let bare = server.store_event(tenant.org_id, "a.b", "1").await;
    let shown = server.get(&format!("/api/events/{}", bare.id), &tenant.key).await.expect(200);
    let expected = json!({
        "id": bare.id, "type": "a.b", "payload": 1, "payload_bytes": 1, "payload_removed": false, "dedup_id": null, "account_id": null,
        "user_id": null, "timestamp": "2026-01-31T12:00:00Z",
        "received_at": "2026-01-31T12:00:00Z", "trace_id": bare.trace_id.to_string(),
        "duplicates": null, "conflicts": null,
        "deliveries": [], "deliveries_next_cursor": null,
    });
    assert_eq!(shown, expected);

    let full = Event {
        id: hookgate::domain::EventId::from_dedup_id(tenant.org_id, "d"),
        dedup_id: Some("d".to_owned()),
        account_id: Some("acme".to_owned()),
        user_id: Some("ü".to_owned()),
        occurred_at: Some(Timestamp::from_micros(1_000_000)),
        ..bare
    };
    server.store_as_it_is(&full).await;
    let shown = server.get(&format!("/api/events/{}", full.id), &tenant.key).await.expect(200);
    assert_eq!(shown["dedup_id"], "d");
    assert_eq!(shown["account_id"], "acme");
    assert_eq!(shown["user_id"], "ü");
    assert_eq!(shown["timestamp"], "1970-01-01T00:00:01Z");
    assert_eq!(shown["received_at"], "2026-01-31T12:00:00Z");
}

#[tokio::test]
async fn event_shows_its_deliveries() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for path in ["a", "b"] {
        let body = json!({"url": format!("https://example.com/{path}"), "event_types": ["a.*"]});
        server.post("/api/endpoints", &tenant.key, body.to_string()).await.expect(201);
    }
    let event = server.store_event(tenant.org_id, "a.b", "1").await;
    let shown = server.get(&format!("/api/events/{}", event.id), &tenant.key).await.expect(200);
    let deliveries = shown["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 2);
    let path = format!("/api/deliveries?event_id={}", event.id);
    assert_eq!(&server.list(&path, &tenant.key).await, deliveries);
}

#[tokio::test]
async fn page_with_payloads_ends_early_and_its_cursor_goes_on() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let mut ids = Vec::new();
    for number in 0..12 {
        // The sixth is larger than a page.
        let bytes = if number == 5 { 5_000_000 } else { 1_000_000 };
        let payload = format!("\"{}\"", "x".repeat(bytes));
        ids.insert(0, server.store_event(tenant.org_id, "a.b", &payload).await.id.to_string());
        server.clock.advance(Duration::from_secs(1));
    }
    let (mut seen, mut pages, mut next) = (Vec::new(), Vec::new(), String::new());
    loop {
        let path = format!("/api/events?limit=10&include=payload{next}");
        let page = server.get(&path, &tenant.key).await.expect(200);
        let rows = page["data"].as_array().unwrap();
        pages.push(rows.len());
        for row in rows {
            seen.push(row["id"].as_str().unwrap().to_owned());
            let payload = row["payload"].as_str().unwrap();
            assert_eq!(row["payload_bytes"], payload.len() + 2);
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        next = format!("&cursor={cursor}");
    }
    assert_eq!(pages, [4, 2, 1, 4, 1]);
    assert_eq!(seen, ids);
    // Without payloads nothing ends early.
    let page = server.get("/api/events?limit=10", &tenant.key).await.expect(200);
    assert_eq!(page["data"].as_array().unwrap().len(), 10);
    let answer = server.get("/api/events?include=all", &tenant.key).await;
    answer.expect_faults(&[("include", "format")]);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    for (number, event_type) in ["user.login", "user.logout", "invoice.paid"].iter().enumerate() {
        let event = server.store_event(tenant.org_id, event_type, "1").await;
        let labelled = Event {
            id: hookgate::domain::EventId::mint(server.clock.now()),
            account_id: Some(format!("account {number}")),
            user_id: Some("ada & co".to_owned()),
            ..event
        };
        server.store_as_it_is(&labelled).await;
        server.clock.advance(Duration::from_secs(1));
    }
    let types = async |query: &str| -> Vec<String> {
        let rows = server.list(&format!("/api/events{query}"), &tenant.key).await;
        rows.iter().map(|row: &Value| row["type"].as_str().unwrap().to_owned()).collect()
    };
    let all =
        ["invoice.paid", "invoice.paid", "user.logout", "user.logout", "user.login", "user.login"];
    assert_eq!(types("").await, all);
    assert_eq!(types("?type=user.*").await, all[2..]);
    assert_eq!(types("?type=user.login").await, all[4..]);
    assert_eq!(types("?type=*").await, all);
    assert_eq!(types("?account_id=account%201").await, ["user.logout"]);
    assert_eq!(types("?user_id=ada+%26+co&type=invoice.*").await, ["invoice.paid"]);
    assert_eq!(types("?since=2026-01-31T12:00:01Z").await, all[..4]);
    assert_eq!(types("?until=2026-01-31T12:00:01Z").await, all[4..]);
    assert_eq!(types("?since=2026-01-31T12:00:01Z&until=2026-01-31T12:00:02Z").await, all[2..4]);
    assert!(types("?account_id=nobody").await.is_empty());
}
