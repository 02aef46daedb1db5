//! The portal: opened by a link, for one account, by whoever has the link first.

use reqwest::Method;
use serde_json::{Value, json};

use super::browser::Browser;
use super::{Console, each_store};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

/// A link for an account, made with a key.
pub(super) async fn link(console: &Console, key: &str, body: &Value) -> String {
    let made = console.api(Method::POST, "/api/portal-links", key, &body.to_string()).await;
    let url = made["url"].as_str().unwrap_or_else(|| panic!("{made}"));
    url.strip_prefix(&console.server.base_url).unwrap().to_owned()
}

/// Somebody who has opened the portal of an account.
pub(super) async fn opened(console: &Console, body: &Value) -> Browser {
    let path = link(console, &console.key, body).await;
    let mut browser = console.browser();
    let overview = browser.post(&path, &[]).await;
    assert_eq!((overview.status, overview.path.as_str()), (200, "/console"), "{}", overview.text);
    browser
}

/// An endpoint that gives up at the first failure, of an account or of none.
pub(super) async fn endpoint(console: &Console, url: &str, account: Option<&str>) -> String {
    let body = json!({"url": url, "retry_schedule": [], "account_id": account});
    let made = console.api(Method::POST, "/api/endpoints", &console.key, &body.to_string()).await;
    made["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

pub(super) async fn post(console: &Console, account: &str, kind: &str) -> String {
    let event = json!({"type": kind, "account_id": account, "payload": {"of": account}});
    let event = console.api(Method::POST, "/api/events", &console.key, &event.to_string()).await;
    event["id"].as_str().unwrap().to_owned()
}

/// The deliveries to an endpoint, once there are so many finished ones.
pub(super) async fn deliveries(console: &Console, endpoint: &str, count: usize) -> Vec<Value> {
    let path = format!("/api/deliveries?endpoint_id={endpoint}");
    let mut found = Vec::new();
    until("the deliveries are finished", async || {
        let list = console.api(Method::GET, &path, &console.key, "").await;
        found.clone_from(list["data"].as_array().unwrap());
        found.len() >= count && found.iter().all(|row| row["status"] != "pending")
    })
    .await;
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn portal_is_opened_once_and_shows_and_manages_its_account() {
    for console in each_store(&[]).await {
        let receiver = Receiver::start().await;
        receiver.answer([Answer::status(500)]);
        let whole = endpoint(&console, &receiver.url("/tenants-own"), None).await;
        let acme = endpoint(&console, &receiver.url("/acme"), Some("acme")).await;
        let event = post(&console, "acme", "invoice.paid").await;
        post(&console, "rival", "secret.type").await;
        deliveries(&console, &acme, 1).await;
        deliveries(&console, &whole, 2).await;

        let back = "https://app.example.com/settings";
        let body = json!({"account_id": "acme", "return_url": back});
        let path = link(&console, &console.key, &body).await;
        let mut browser = console.browser();
        for method in [Method::HEAD, Method::GET] {
            let seen = browser.load(method, &path, None).await;
            assert_eq!((seen.status, &browser.cookie), (200, &None));
        }
        browser.headers = vec![("origin", "https://evil.example".to_owned())];
        assert_eq!(browser.post_only(&path, &[]).await.status, 403);
        browser.headers.clear();
        let overview = browser.post(&path, &[]).await;
        overview.expect(200);
        overview.shows("/acme").shows(back).shows("target=\"_top\"").hides("tenants-own");
        overview.hides("first key").hides("Audit log").hides("Accounts").hides("left this month");
        assert!(browser.cookie.as_ref().unwrap().starts_with("hookgate_portal="));
        let again = console.browser().post_only(&path, &[]).await;
        assert_eq!(again.status, 404, "it works once");

        // The event, with the delivery to the account's endpoint alone.
        browser.get("/console/events").await.shows("invoice.paid").hides("secret.type");
        let page = browser.get(&format!("/console/events/{event}")).await;
        page.shows("/acme").hides("tenants-own");
        let done = browser.post(&format!("/console/events/{event}/replay"), &[]).await;
        done.shows("Sent again");
        deliveries(&console, &acme, 2).await;
        deliveries(&console, &whole, 2).await;

        // Dead letters, one by one and those of an endpoint.
        browser
            .get("/console/dead-letters")
            .await
            .shows("/acme")
            .hides("tenants-own")
            .hides("Replay all");
        let replay = [("endpoint_id", acme.as_str())];
        browser.post("/console/dead-letters/replay", &replay).await.shows("Progress");
        let whole_replay = browser.post("/console/dead-letters/replay", &[]).await;
        assert_eq!(whole_replay.status, 422, "{}", whole_replay.text);

        // Endpoints.
        browser.get("/console/endpoints/new").await.shows("invoice.paid").hides("secret.type");
        let url = receiver.url("/new");
        let created =
            browser.post("/console/endpoints", &[("url", &url), ("kind", "webhook")]).await;
        created.shows("whsec_").hides("/console/samples");
        let id = created.between("/console/endpoints/", "/test").to_owned();
        let made =
            console.api(Method::GET, &format!("/api/endpoints/{id}"), &console.key, "").await;
        assert_eq!(made["account_id"], "acme");
        let own = format!("/console/endpoints/{id}");
        browser.post(&format!("{own}/rotate"), &[("overlap_seconds", "0")]).await.shows("whsec_");
        let tested = browser.post(&format!("{own}/test"), &[]).await;
        tested.shows("hookgate.test");
        let event = tested.between("/console/events/", "\"").to_owned();
        browser.get(&format!("/console/events/{event}")).await.expect(200);
        let form = [("url", url.as_str()), ("kind", "webhook"), ("description", "ours")];
        browser.post(&own, &form).await.shows("Saved").shows("ours");
        browser.post(&format!("{own}/enabled"), &[("enabled", "false")]).await.shows("Disabled");
        browser.post(&format!("{own}/delete"), &[]).await.shows("Deleted");
        let inbox = browser.post("/console/endpoints", &[("kind", "pull")]).await;
        assert_eq!(inbox.status, 422, "{}", inbox.text);

        // The audit log tells whose portal it was.
        let audit = console.api(Method::GET, "/api/audit", &console.key, "").await;
        let entry = |action: &str| {
            let mut entries = audit["data"].as_array().unwrap().iter();
            entries.find(|entry| entry["action"] == action).unwrap().clone()
        };
        assert_eq!(entry("endpoint.delete")["changes"]["portal_account_id"], "acme");
        assert_eq!(entry("portal.open")["changes"]["account_id"], "acme");
        assert_eq!(entry("portal_link.create")["changes"].get("portal_account_id"), None);

        let closed = browser.post_only("/console/sign-out", &[]).await;
        closed.shows(back);
        assert_eq!(browser.cookie, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn portal_that_only_reads_changes_nothing_and_shows_no_credentials() {
    for console in each_store(&[]).await {
        let receiver = Receiver::start().await;
        let url = receiver.url("/acme?token=credential");
        let acme = endpoint(&console, &url, Some("acme")).await;
        let mut browser = opened(&console, &json!({"account_id": "acme", "read_only": true})).await;
        let page = browser.get(&format!("/console/endpoints/{acme}")).await;
        page.expect(200);
        page.shows("/acme").hides("credential").hides("Delete endpoint").hides("Edit");
        for verb in ["test", "enabled", "secret", "rotate", "delete", "cancel-pending"] {
            let path = format!("/console/endpoints/{acme}/{verb}");
            assert_eq!(browser.post_only(&path, &[]).await.status, 403, "{verb}");
        }
        let made = browser.post_only("/console/endpoints", &[("url", &url)]).await;
        assert_eq!(made.status, 403);

        // Never more than the key may.
        let key = r#"{"name": "narrow", "scopes": ["endpoints:manage"]}"#;
        let narrow = console.api(Method::POST, "/api/keys", &console.key, key).await;
        let narrow = narrow["key"].as_str().unwrap();
        let body = r#"{"account_id": "acme", "scopes": ["events:read", "keys:read"]}"#;
        let refused = console.api(Method::POST, "/api/portal-links", narrow, body).await;
        let fields: Vec<_> =
            refused["errors"].as_array().unwrap().iter().map(|e| &e["field"]).collect();
        assert_eq!(fields, [&json!("scopes[0]"), &json!("scopes[1]")], "{refused}");
        let path = link(&console, narrow, &json!({"account_id": "acme"})).await;
        let mut browser = console.browser();
        browser.post(&path, &[]).await;
        assert_eq!(browser.get("/console/events").await.status, 403);
        browser.get("/console/endpoints").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn portal_ends_with_its_key_and_is_no_credential_elsewhere() {
    for console in each_store(&[]).await {
        let made = console
            .api(Method::POST, "/api/keys", &console.key, r#"{"name": "of the portal"}"#)
            .await;
        let key = made["key"].as_str().unwrap();
        let (path, unused) = (
            link(&console, key, &json!({"account_id": "acme"})).await,
            link(&console, key, &json!({"account_id": "acme"})).await,
        );
        let mut browser = console.browser();
        browser.post(&path, &[]).await.expect(200);
        let cookie = browser.cookie.clone().unwrap();
        let token = cookie.split_once('=').unwrap().1;
        for (name, value) in [
            ("x-api-key", token.to_owned()),
            ("authorization", format!("Bearer {token}")),
            ("cookie", cookie.clone()),
        ] {
            let url = format!("{}/api/events", console.server.base_url);
            let request = crate::support::client().get(url).header(name, value);
            assert_eq!(request.send().await.unwrap().status(), 401, "{name}");
        }
        // Nor is it one of the console, by whatever name.
        browser.cookie = Some(format!("hookgate_console={token}"));
        assert_eq!(browser.get("/console").await.path, "/console/sign-in");
        browser.cookie = Some(cookie);
        let id = made["id"].as_str().unwrap();
        console.api(Method::DELETE, &format!("/api/keys/{id}"), &console.key, "").await;
        let ended = browser.get("/console/events").await;
        assert_eq!(ended.status, 401);
        ended.shows("has ended");
        let refused = console.browser().post_only(&unused, &[]).await;
        assert_eq!(refused.status, 404, "the link of a key that was revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn portal_looks_as_its_organisation_wishes_and_is_framed_where_it_allows() {
    for console in each_store(&[]).await {
        let mut plain = opened(&console, &json!({"account_id": "acme"})).await;
        let page = plain.get("/console").await;
        assert!(page.header("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!(page.header("x-frame-options"), "DENY");

        let logo = "data:image/png;base64,iVBORw0KGgo=";
        let looks = json!({"name": "Acme & Co", "colour": "#ffee00", "logo": logo,
            "allowed_origins": ["https://app.example.com", "http://localhost:8080/"]});
        let set = console.api(Method::PATCH, "/api/portal", &console.key, &looks.to_string()).await;
        assert_eq!(
            set["allowed_origins"],
            json!(["https://app.example.com", "http://localhost:8080"])
        );
        let shown = console.api(Method::GET, "/api/portal", &console.key, "").await;
        assert_eq!((&shown["logo"], &shown["colour"]), (&json!(logo), &json!("#ffee00")));

        let path = link(&console, &console.key, &json!({"account_id": "acme"})).await;
        let mut browser = console.browser();
        let seen = browser.get(&path).await;
        seen.shows("Acme &#38; Co");
        let ancestors = "frame-ancestors https://app.example.com http://localhost:8080;";
        assert!(seen.header("content-security-policy").contains(ancestors), "{:?}", seen.headers);
        let opening = browser.post_only(&path, &[]).await;
        let cookie = opening.header("set-cookie");
        assert!(cookie.ends_with("HttpOnly; SameSite=None; Secure; Partitioned"), "{cookie}");
        for path in ["/console", "/console/events", "/console/endpoints/nothing", "/console/keys"] {
            let page = browser.load(Method::GET, path, None).await;
            assert!(page.header("content-security-policy").contains(ancestors), "{path}");
            assert_eq!(page.header("x-frame-options"), "", "{path}");
        }
        let overview = browser.get("/console").await;
        overview.shows("Acme &#38; Co").hides("Hookgate");
        let theme = overview.between("href=\"/console/portal/theme.css?v=", "\"").to_owned();
        let theme = browser.get(&format!("/console/portal/theme.css?v={theme}")).await;
        assert_eq!(theme.header("content-type"), "text/css; charset=utf-8");
        theme.shows("--accent: light-dark(#").hides("light-dark(#ffee00,");
        let image = browser.get("/console/portal/logo").await;
        assert_eq!(
            (image.header("content-type"), image.header("x-content-type-options")),
            ("image/png", "nosniff")
        );

        let mut tenant = console.signed_in(&console.key).await;
        for path in
            ["/console", "/console/portal/logo", "/console/sign-in", "/console/assets/console.css"]
        {
            let page = tenant.load(Method::GET, path, None).await;
            assert!(
                page.header("content-security-policy").contains("frame-ancestors 'none'"),
                "{path}"
            );
            assert_eq!(page.header("x-frame-options"), "DENY", "{path}");
        }
        for (field, value) in [
            ("colour", "red"),
            ("logo", "https://example.com/logo.png"),
            ("logo", "data:image/svg+xml;base64,PHN2Zy8+"),
            ("name", ""),
        ] {
            let body = json!({field: value}).to_string();
            let refused = console.api(Method::PATCH, "/api/portal", &console.key, &body).await;
            assert_eq!(refused["errors"][0]["field"], field, "{refused}");
        }
        for url in ["javascript:alert(1)", "http://app.example.com/", "//evil.example"] {
            let body = json!({"account_id": "acme", "return_url": url}).to_string();
            let refused = console.api(Method::POST, "/api/portal-links", &console.key, &body).await;
            assert_eq!(refused["errors"][0]["field"], "return_url", "{refused}");
        }
    }
}
