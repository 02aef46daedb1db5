//! No session of the portal reaches what is not of its account: every page and change of the console's own table, asked
//! with ids of another account, of the organisation's own, and of another organisation.

use hookgate::http::{ConsoleNeeds, console_table};
use reqwest::Method;
use serde_json::{Value, json};

use super::browser::Browser;
use super::portal::{deliveries, endpoint, opened, post};
use super::{Console, each_store, isolation};
use crate::support::receiver::{Answer, Receiver};

const NOWHERE: &str = "0190b5a7-0000-7000-8000-000000000000";
/// What no page may show.
const MARKS: [&str; 6] =
    ["rival", "tenants-own", "whole.type", "first key", "left this month", "keys:manage"];

/// Ids by what stands before them in a path.
type Ids = Vec<(&'static str, String)>;

/// What an endpoint has received, given up.
async fn of_endpoint(console: &Console, endpoint: &str, event: &str) -> Ids {
    let letters = format!("/api/dead-letters?endpoint_id={endpoint}");
    let letters = console.api(Method::GET, &letters, &console.key, "").await;
    let selected = json!({"endpoint_id": endpoint, "reason": "gone"}).to_string();
    let replay =
        console.api(Method::POST, "/api/dead-letters/replay", &console.key, &selected).await;
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    vec![
        ("/console/endpoints/", endpoint.to_owned()),
        ("/console/events/", event.to_owned()),
        ("/console/deliveries/", text(&letters["data"][0]["delivery_id"])),
        ("/console/dead-letters/", text(&letters["data"][0]["id"])),
        ("/console/replays/", text(&replay["id"])),
    ]
}

/// The answer without what differs from page to page, and without its path.
async fn told(browser: &mut Browser, method: &Method, path: &str) -> (u16, String) {
    let (status, text) = isolation::told(browser, method, path).await;
    (status, text.replace(path, "{path}"))
}

/// Everything that the organisation has but of the account.
async fn state(console: &Console, endpoints: [&str; 2]) -> Value {
    let mut all = Vec::new();
    for endpoint in endpoints {
        for path in [
            format!("/api/endpoints/{endpoint}"),
            format!("/api/endpoints/{endpoint}/secret"),
            format!("/api/deliveries?endpoint_id={endpoint}"),
            format!("/api/dead-letters?endpoint_id={endpoint}"),
        ] {
            all.push(console.api(Method::GET, &path, &console.key, "").await);
        }
    }
    let keys = console.api(Method::GET, "/api/keys", &console.key, "").await;
    all.push(json!(keys["data"].as_array().unwrap().len()));
    Value::Array(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn portal_reaches_nothing_outside_of_its_account() {
    for console in each_store(&[("WRITE_RATE_LIMIT_PER_MINUTE", "100000")]).await {
        let receiver = Receiver::start().await;
        receiver.answer([Answer::status(500)]);
        let whole = endpoint(&console, &receiver.url("/tenants-own"), None).await;
        let rival = endpoint(&console, &receiver.url("/rival"), Some("rival")).await;
        let acme = endpoint(&console, &receiver.url("/acme"), Some("acme")).await;
        let event = post(&console, "acme", "acme.type").await;
        let theirs = post(&console, "rival", "rival.type").await;
        let own = json!({"type": "whole.type", "payload": 1}).to_string();
        let own = console.api(Method::POST, "/api/events", &console.key, &own).await;
        let own = own["id"].as_str().unwrap().to_owned();
        deliveries(&console, &whole, 3).await;
        deliveries(&console, &rival, 1).await;
        deliveries(&console, &acme, 1).await;
        let foreign = [
            of_endpoint(&console, &rival, &theirs).await,
            of_endpoint(&console, &whole, &own).await,
        ];
        // Of an event of its own, the delivery to the organisation's endpoint.
        let shared = format!("/api/deliveries?endpoint_id={whole}&event_id={event}");
        let shared = console.api(Method::GET, &shared, &console.key, "").await;
        let shared = shared["data"][0]["id"].as_str().unwrap().to_owned();

        let mut browser = opened(&console, &json!({"account_id": "acme"})).await;
        let before = state(&console, [&whole, &rival]).await;
        for page in console_table() {
            let name = format!("{} {}", page.method, page.path);
            if matches!(page.path, "/console/sign-out" | "/console/sign-in")
                || page.needs == ConsoleNeeds::Nothing
            {
                continue;
            }
            if page.path.contains("{id}") {
                let nobodys =
                    told(&mut browser, &page.method, &page.path.replace("{id}", NOWHERE)).await;
                assert_eq!(nobodys.0, 404, "{name}: {}", nobodys.1);
                let mut ids: Vec<&str> = foreign
                    .iter()
                    .flatten()
                    .filter(|(before, _)| page.path.starts_with(before))
                    .map(|(_, id)| id.as_str())
                    .collect();
                if page.path.starts_with("/console/deliveries/") {
                    ids.push(&shared);
                }
                for id in ids {
                    let answer =
                        told(&mut browser, &page.method, &page.path.replace("{id}", id)).await;
                    assert_eq!(answer, nobodys, "{name} {id}");
                }
            } else if page.method == Method::GET {
                let (status, text) = told(&mut browser, &page.method, page.path).await;
                assert!(matches!(status, 200 | 404), "{name}: {status}");
                for mark in MARKS {
                    assert!(!text.contains(mark), "{name} shows {mark}: {text}");
                }
            } else {
                let (status, text) = told(&mut browser, &page.method, page.path).await;
                assert!(matches!(status, 400 | 404 | 422), "{name}: {status} {text}");
            }
        }
        for (list, empty) in [
            (format!("/console/deliveries?endpoint_id={rival}"), "No delivery matches"),
            (format!("/console/deliveries?endpoint_id={whole}"), "No delivery matches"),
            (format!("/console/deliveries?event_id={theirs}"), "No delivery matches"),
            ("/console/deliveries?type=whole.*".to_owned(), "No delivery matches"),
            (format!("/console/dead-letters?endpoint_id={whole}"), "No dead letter matches"),
            ("/console/events?account_id=rival".to_owned(), "No event matches"),
            ("/console/events?type=rival.*".to_owned(), "No event matches"),
            ("/console/endpoints?account_id=rival".to_owned(), "No endpoint yet"),
        ] {
            let page = browser.get(&list).await;
            page.shows(empty).hides("tenants-own");
        }
        for target in [&rival, &whole] {
            for verb in ["replay", "discard"] {
                let path = format!("/console/dead-letters/{verb}");
                let refused = browser.post_only(&path, &[("endpoint_id", target)]).await;
                assert_eq!(refused.status, 404, "{verb} {target}");
            }
            let path = format!("/console/events/{event}/replay");
            let refused = browser.post_only(&path, &[("endpoint_id", target)]).await;
            assert!(refused.status >= 400, "{target}");
            let path = format!("/console/events/{theirs}/replay");
            assert_eq!(browser.post_only(&path, &[("endpoint_id", &acme)]).await.status, 404);
        }
        assert_eq!(state(&console, [&whole, &rival]).await, before);
        // A page of a list of the whole organisation leads on to what is of the account alone.
        let first = console.api(Method::GET, "/api/deliveries?limit=1", &console.key, "").await;
        let cursor = first["next_cursor"].as_str().unwrap();
        let page = browser.get(&format!("/console/deliveries?cursor={cursor}")).await;
        page.hides("tenants-own").hides("rival");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_another_account_never_reach_an_endpoint_of_one() {
    for console in each_store(&[]).await {
        let receiver = Receiver::start().await;
        let acme = endpoint(&console, &receiver.url("/acme"), Some("acme")).await;
        let event = post(&console, "rival", "a.b").await;
        post(&console, "acme", "a.b").await;
        deliveries(&console, &acme, 1).await;
        let replay = format!("/api/events/{event}/replay");
        let body = json!({"endpoint_id": acme}).to_string();
        let refused = console.api(Method::POST, &replay, &console.key, &body).await;
        assert_eq!(refused["errors"][0]["code"], "account", "{refused}");
        deliveries(&console, &acme, 1).await;
        let listed =
            console.api(Method::GET, "/api/endpoints?account_id=acme", &console.key, "").await;
        assert_eq!(listed["data"][0]["id"], acme.as_str());
        let none =
            console.api(Method::GET, "/api/endpoints?account_id=rival", &console.key, "").await;
        assert_eq!(none["data"], json!([]));
        let moved = json!({"account_id": "rival"}).to_string();
        let path = format!("/api/endpoints/{acme}");
        let refused = console.api(Method::PATCH, &path, &console.key, &moved).await;
        assert_eq!(refused["errors"][0]["field"], "account_id", "{refused}");
    }
}
