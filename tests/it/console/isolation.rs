//! No tenant reaches another by a page: every page and change of the console's own table, asked with another
//! organisation's ids by everybody who has no business there.

use hookgate::http::{ConsoleNeeds, console_table};
use reqwest::Method;
use serde_json::{Value, json};

use super::browser::Browser;
use super::{Console, each_store};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

/// Ids of the organisation, by what stands before them in a path.
type Ids = Vec<(&'static str, String)>;

async fn settle(console: &Console) -> Ids {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(410)]);
    let key = &console.key;
    let body = json!({"url": receiver.url("/secret-path"), "description": "acme-description"});
    let endpoint = console.api(Method::POST, "/api/endpoints", key, &body.to_string()).await;
    let event =
        json!({"type": "acme.type", "account_id": "acme-account", "payload": "acme-payload"});
    let event = console.api(Method::POST, "/api/events", key, &event.to_string()).await;
    let mut letters = Value::Null;
    until("the delivery is given up", async || {
        letters = console.api(Method::GET, "/api/dead-letters", key, "").await;
        letters["data"][0]["id"].is_string()
    })
    .await;
    let replay = console.api(Method::POST, "/api/dead-letters/replay", key, "{}").await;
    let keys = console.api(Method::GET, "/api/keys", key, "").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    vec![
        ("/console/endpoints/", text(&endpoint["id"])),
        ("/console/events/", text(&event["id"])),
        ("/console/deliveries/", text(&letters["data"][0]["delivery_id"])),
        ("/console/dead-letters/", text(&letters["data"][0]["id"])),
        ("/console/replays/", text(&replay["id"])),
        ("/console/keys/", text(&keys["data"][0]["id"])),
    ]
}

/// The answer without what differs from page to page.
pub(super) async fn told(browser: &mut Browser, method: &Method, path: &str) -> (u16, String) {
    let form = (*method == Method::POST).then(|| {
        let fields =
            [("csrf", browser.csrf.as_str()), ("name", "x"), ("since", "2020-01-01T00:00")];
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
    });
    let loaded = browser.load(method.clone(), path, form).await;
    let trace = loaded.header("x-trace-id").to_owned();
    (loaded.status, loaded.text.replace(&trace, "{trace}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_and_change_nothing_of_another_organisation() {
    for console in each_store(&[]).await {
        let ids = settle(&console).await;
        let org = console
            .api(Method::POST, "/api/admin/orgs", &console.operator, r#"{"name":"stranger"}"#)
            .await;
        let path = format!("/api/admin/orgs/{}/keys", org["id"].as_str().unwrap());
        let stranger =
            console.api(Method::POST, &path, &console.operator, r#"{"name":"stranger"}"#).await;
        let mut stranger = console.signed_in(stranger["key"].as_str().unwrap()).await;
        let mut operator = console.signed_in(&console.operator).await;
        let mut nobody = console.browser();
        let nowhere = "0190b5a7-0000-7000-8000-000000000000";
        for page in console_table() {
            let ConsoleNeeds::Tenant(_) = page.needs else { continue };
            let id = ids.iter().find(|(before, _)| page.path.starts_with(before));
            let theirs = id.map_or(nowhere, |(_, id)| id.as_str());
            let (theirs, nobodys) =
                (page.path.replace("{id}", theirs), page.path.replace("{id}", nowhere));
            let name = format!("{} {}", page.method, page.path);
            if page.path.contains("{id}") {
                let answer = told(&mut stranger, &page.method, &theirs).await;
                let same = told(&mut stranger, &page.method, &nobodys).await;
                assert_eq!(answer.0, 404, "{name}: {}", answer.1);
                assert_eq!(
                    answer.1.replace(&theirs, "{path}"),
                    same.1.replace(&nobodys, "{path}"),
                    "{name}"
                );
            } else if page.method == Method::GET && !page.path.ends_with("/stream") {
                let (status, text) = told(&mut stranger, &page.method, &theirs).await;
                assert!(matches!(status, 200 | 404), "{name}: {status}");
                for mark in ["acme", "secret-path", "first key"] {
                    assert!(!text.contains(mark), "{name} shows {mark}: {text}");
                }
            }
            // An operator's session is of no organisation, and no session at all is sent to sign in.
            let (status, _) = told(&mut operator, &page.method, &theirs).await;
            assert_eq!(status, 403, "{name} as an operator");
            let loaded = nobody.load(page.method.clone(), &theirs, None).await;
            let is_refused =
                matches!((loaded.status, page.method == Method::POST), (303, false) | (403, true));
            assert!(is_refused, "{name} as nobody: {}", loaded.status);
        }
        let accounts = stranger.get("/console/accounts/summary?account_id=acme-account").await;
        assert_eq!(accounts.status, 404);
        for filter in ["endpoint_id", "event_id"] {
            let id = &ids[usize::from(filter == "event_id")].1;
            stranger
                .get(&format!("/console/deliveries?{filter}={id}"))
                .await
                .shows("No delivery matches");
        }
        let endpoint = format!("/api/endpoints/{}", ids[0].1);
        let after = console.api(Method::GET, &endpoint, &console.key, "").await;
        assert_eq!(after["description"], "acme-description");
        let keys = console.api(Method::GET, "/api/keys", &console.key, "").await;
        assert_eq!(
            (&keys["data"][0]["name"], &keys["data"][0]["active"]),
            (&json!("first key"), &json!(true))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_pages_are_for_operators() {
    let console = Console::start(&[]).await;
    let mut tenant = console.signed_in(&console.key).await;
    for page in console_table() {
        let ConsoleNeeds::Operator(_) = page.needs else { continue };
        let path = page.path.replace("{id}", "00000000-0000-0000-0000-000000000001");
        let (status, text) = told(&mut tenant, &page.method, &path).await;
        assert_eq!(status, 403, "{} {path}: {text}", page.method);
    }
}
