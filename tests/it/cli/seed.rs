//! `hookgate seed`: into the store, on both engines, and through the API.

use serde_json::Value;

use super::{Place, text};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::postgres;
use crate::support::wait::until;

const FEW: [&str; 7] =
    ["seed", "--events", "12000", "--accounts", "50", "--until", "2026-11-20T10:00:30Z"];

impl Place {
    async fn seed(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Value {
        let arguments = [&FEW[..], arguments, &["--output", "json"]].concat();
        let said = self.run_with(&arguments, settings).await;
        assert_eq!(said.code, 0, "{}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seeded_events_are_stored_once_on_both_engines() {
    let url = postgres::fresh_database().await;
    for settings in [&[][..], &[("DATABASE_URL", url.as_str())]] {
        let place = Place::new();
        let seeded = place.seed(&[], settings).await;
        assert_eq!((&seeded["events"], &seeded["stored"]), (&12_000.into(), &12_000.into()));
        assert_eq!(seeded["from"], "2026-11-13T10:00:00Z");
        assert_eq!(seeded["until"], "2026-11-20T10:00:00Z");
        let org = text(&seeded, "org_id");
        let again = place.seed(&["--org", org], settings).await;
        assert_eq!(again["stored"], 0, "the same seed makes the same events");
        let other = place.seed(&["--org", org, "--seed", "2"], settings).await;
        assert_eq!(other["stored"], 12_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_exports_have_every_seeded_event() {
    const EVENTS: usize = 1_200;
    let url = postgres::fresh_database().await;
    for settings in [&[][..], &[("DATABASE_URL", url.as_str())]] {
        let place = Place::new();
        let arguments = ["seed", "--events", "1200", "--days", "30", "--output", "json"];
        let said = place.run_with(&arguments, settings).await;
        assert_eq!(said.code, 0, "{}", said.err);
        let seeded: Value = serde_json::from_str(&said.out).unwrap();
        let org = text(&seeded, "org_id");
        let create = ["key", "create", "--org", org, "--name", "a", "--output", "json"];
        let said = place.run_with(&create, settings).await;
        let created: Value = serde_json::from_str(&said.out).unwrap();
        let server = Binary::start(&place.data_dir(), settings).await;
        let get = async |path: &str| {
            let url = format!("{}{path}", server.base_url);
            let answer = client().get(url).header("x-api-key", text(&created, "key"));
            answer.send().await.unwrap().text().await.unwrap()
        };
        for order in ["asc", "desc"] {
            let (mut listed, mut cursor) = (0, String::new());
            loop {
                let page = get(&format!("/api/events?limit=500&order={order}{cursor}")).await;
                let page: Value = serde_json::from_str(&page).unwrap();
                listed += page["data"].as_array().unwrap().len();
                let Some(next) = page["next_cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(listed, EVENTS, "{order} {settings:?}");
        }
        let exported = get("/api/events/export").await;
        let events = exported.lines().filter(|line| line.contains("\"received_at\""));
        assert_eq!(events.count(), EVENTS);
        let from = text(&seeded, "from").trim_end_matches('Z');
        let since = get(&format!("/api/events?limit=1&order=asc&since={from}Z")).await;
        assert!(since.contains("\"received_at\""), "{since}");
        let org: Value = serde_json::from_str(&get("/api/org").await).unwrap();
        assert!(text(&org, "created_at").starts_with(from), "{org}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn organisation_with_endpoints_is_not_seeded() {
    let place = Place::new();
    let org = place.json(&["org", "create", "--name", "a"]).await;
    let org = text(&org, "id");
    place.json(&["endpoint", "add", "--org", org, "--url", "https://example.com/"]).await;
    let said = place.run(&["seed", "--events", "10", "--org", org]).await;
    said.failed(1, "org must be an organisation without endpoints");
    let nobody = "01890000-0000-7000-8000-000000000000";
    place.run(&["seed", "--events", "10", "--org", nobody]).await.failed(1, "there is no");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_a_line_every_so_many_events_where_there_is_no_terminal() {
    let place = Place::new();
    let said = place.run(&["seed", "--events", "110000"]).await;
    assert_eq!(said.code, 0, "{}", said.err);
    let lines: Vec<&str> = said.err.lines().filter(|line| line.contains("per second")).collect();
    assert_eq!(lines.len(), 2, "{}", said.err);
    assert!(lines[0].starts_with("50000 of 110000 events"), "{lines:?}");
    assert!(said.out.starts_with("110000 events of organisation"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_posted_to_a_server_at_the_rate_that_it_allows() {
    let place = Place::new();
    let settings = [("RATE_LIMIT_PER_MINUTE", "60000")];
    let mut server = Binary::start(&place.data_dir(), &settings).await;
    let (key, _) = server.first_keys().await;
    let posted = ["seed", "--events", "2500", "--url", &server.base_url, "--api-key", &key];
    let said = place.run(&posted).await;
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.starts_with("2500 events from"), "{}", said.out);
    let url = format!("{}/api/events?limit=500", server.base_url);
    until("the first events are stored", async || {
        let list = client().get(&url).header("x-api-key", &key).send().await.unwrap();
        let list: Value = serde_json::from_str(&list.text().await.unwrap()).unwrap();
        list["data"].as_array().is_some_and(|events| events.len() == 500)
    })
    .await;

    let wrong = ["seed", "--events", "10", "--url", &server.base_url, "--api-key", "hg_wrong"];
    place.run(&wrong).await.failed(1, "refuses the events with 401");
    let without = place.run(&["seed", "--url", &server.base_url]).await;
    without.failed(2, "--api-key");
    server.stop().await;
}
