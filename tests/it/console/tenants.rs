//! What tenants see and do, page by page.

use reqwest::Method;
use serde_json::json;

use super::browser::Browser;
use super::{Console, each_store};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

/// An event that is stored.
async fn post_event(console: &Console, event: serde_json::Value) -> String {
    let posted = console.api(Method::POST, "/api/events", &console.key, &event.to_string()).await;
    let id = posted["id"].as_str().unwrap().to_owned();
    until("the event is stored", async || {
        let path = format!("/api/events/{id}");
        console.api(Method::GET, &path, &console.key, "").await["id"].is_string()
    })
    .await;
    id
}

/// Adds an endpoint at a path of the receiver, which trusts its secret.
async fn add_endpoint(
    browser: &mut Browser,
    receiver: &Receiver,
    path: &str,
    more: &[(&str, &str)],
) -> String {
    browser.get("/console/endpoints/new").await.expect(200);
    let url = receiver.url(path);
    let mut fields = vec![("kind", "webhook"), ("url", url.as_str())];
    fields.extend_from_slice(more);
    let created = browser.post("/console/endpoints", &fields).await;
    created.expect(200);
    let secret = format!("whsec_{}", created.between("<code>whsec_", "</code>"));
    receiver.trust(&secret.parse().unwrap());
    created.between("action=\"/console/endpoints/", "/test").to_owned()
}

/// The first id of this kind that a page links to.
async fn first_link(browser: &mut Browser, page: &str, below: &str) -> String {
    let mut found = None;
    until("the page has a row", async || {
        let loaded = browser.get(page).await;
        let link = loaded.text.split_once(&format!("href=\"{below}/"));
        found = link.map(|(_, rest)| rest[..36].to_owned());
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_is_created_tested_changed_disabled_and_deleted() {
    for console in each_store(&[("RETRY_SCHEDULE", "10m")]).await {
        let receiver = Receiver::start().await;
        let mut browser = console.signed_in(&console.key).await;
        browser.get("/console").await.shows("First steps");
        browser.get("/console/endpoints").await.shows("No endpoint yet");
        let checked = browser.get("/console/endpoints/check-url?url=ftp%3A%2F%2Fx").await;
        checked.shows("Must be https");
        // What is wrong is told beside its field, and what was written is kept.
        browser.get("/console/endpoints/new").await;
        let wrong = [
            ("url", "nonsense"),
            ("description", "Keep <me>"),
            ("retry_schedule", "soon"),
            ("max_concurrency", "0"),
        ];
        let refused = browser.post("/console/endpoints", &wrong).await;
        refused.expect(422);
        refused.shows("Nothing was changed").shows("Keep &#60;me&#62;").shows("value=\"soon\"");
        refused.shows("aria-invalid=\"true\"").shows("Retry schedule: must be a duration");
        let url = receiver.url("/hook?token=<b>");
        let more = [
            ("other_types", "user.*, invoice.paid"),
            ("headers", "x-team: billing\n"),
            ("ordered", "true"),
        ];
        let id = add_endpoint(&mut browser, &receiver, "/hook?token=<b>", &more).await;
        let path = format!("/console/endpoints/{id}");
        let page = browser.get(&path).await;
        page.shows("user.*, invoice.paid").shows("x-team").hides("billing").hides("<b>");

        // The test leads to its delivery, which shows the outcome.
        let test = browser.post(&format!("{path}/test"), &[]).await;
        let delivery = test.path.clone();
        assert!(delivery.starts_with("/console/deliveries/"), "{delivery}");
        until("the test is delivered", async || {
            browser.get(&delivery).await.text.contains("badge good\">delivered")
        })
        .await;
        let shown = browser.get(&delivery).await;
        shown
            .shows("Attempt 1")
            .shows("badge good\">answered")
            .shows("webhook-id")
            .shows("hookgate.test");

        let edit = browser.get(&format!("{path}/edit")).await;
        edit.shows("x-team: billing").shows("value=\"user.*, invoice.paid\"");
        edit.shows("value=\"standard\" selected");
        // Somebody else is quicker, and what they have changed is not lost unseen.
        let revision = edit.between("name=\"revision\" value=\"", "\"").to_owned();
        let api_path = format!("/api/endpoints/{id}");
        let body = r#"{"description": "theirs"}"#;
        console.api(Method::PATCH, &api_path, &console.key, body).await;
        let fields = [("url", url.as_str()), ("description", "mine"), ("revision", &revision)];
        let refused = browser.post(&path, &fields).await;
        refused.expect(412);
        refused.shows("was changed meanwhile").shows("value=\"mine\"");
        let read = console.api(Method::GET, &api_path, &console.key, "").await;
        assert_eq!(read["description"], "theirs");
        let revision = refused.between("name=\"revision\" value=\"", "\"").to_owned();
        let fields = [
            ("url", url.as_str()),
            ("description", "CRM"),
            ("retry_schedule", "5s, 5m"),
            ("format", "cloudevents"),
            ("revision", &revision),
        ];
        let saved = browser.post(&path, &fields).await;
        saved.shows("Saved.").shows("CRM").shows("5s, 5m").hides("x-team");
        browser
            .post(&format!("{path}/enabled"), &[("enabled", "false")])
            .await
            .shows("Disabled: disabled by its owner");
        let read = console.api(Method::GET, &api_path, &console.key, "").await;
        assert_eq!(read["format"], "cloudevents");
        browser.get("/console").await.shows("disabled by its owner");
        let refused = browser.post(&format!("{path}/test"), &[]).await;
        refused.expect(409);
        refused.shows("Endpoint disabled");
        browser.post(&format!("{path}/enabled"), &[("enabled", "true")]).await.shows("Enabled.");

        let secret = browser.post(&format!("{path}/secret"), &[]).await;
        let old = secret.between("<code>whsec_", "</code>").to_owned();
        let rotated = browser.post(&format!("{path}/rotate"), &[("overlap_seconds", "600")]).await;
        rotated.shows("Signs beside it").shows(&old);
        let rotated = browser.post(&format!("{path}/rotate"), &[("overlap_seconds", "0")]).await;
        rotated.hides(&old);
        browser
            .get("/console/audit")
            .await
            .shows("endpoint.secret.rotate")
            .shows("endpoint.update");
        let deleted = browser.post(&format!("{path}/delete"), &[]).await;
        deleted.shows("Deleted.").shows("No endpoint yet");
        assert_eq!(browser.get(&path).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_found_shown_and_sent_again() {
    for console in each_store(&[]).await {
        let receiver = Receiver::start().await;
        let mut browser = console.signed_in(&console.key).await;
        browser.get("/console/events").await.shows("No event matches");
        add_endpoint(&mut browser, &receiver, "/", &[]).await;
        let event = json!({"type": "user.login", "account_id": "a&b", "payload": {"name": "<script>alert(1)</script>", "n": 1}});
        let id = post_event(&console, event).await;
        for index in 0..60 {
            post_event(&console, json!({"type": "bulk.item", "payload": index})).await;
        }
        // Pages by cursor, with the filters kept.
        let first =
            browser.get("/console/events?type=bulk.*&account_id=&since=2020-01-01T00%3A00").await;
        first.shows("bulk.item</a>").hides("user.login</a>");
        let next = first
            .between("<a href=\"/console/events?", "\" rel=\"next\"")
            .rsplit("href=\"/console/events?")
            .next()
            .unwrap()
            .replace("&#38;", "&");
        let second = browser.get(&format!("/console/events?{next}")).await;
        second.shows("First page").shows("bulk.item</a>").hides("user.login</a>");
        assert_eq!(second.text.matches("role=\"row\"").count(), 11);
        let refused = browser.get("/console/events?since=yesterday").await;
        refused.expect(422);
        refused.shows("must be an RFC 3339 date");
        browser
            .get("/console/events?account_id=a%26b")
            .await
            .shows("user.login")
            .hides("bulk.item");

        let page = browser.get(&format!("/console/events/{id}")).await;
        page.shows("&lt;script&gt;")
            .hides("<script>alert")
            .shows("As curl")
            .shows("account_id=a%26b");
        let delivery =
            first_link(&mut browser, &format!("/console/events/{id}"), "/console/deliveries").await;
        browser.get(&format!("/console/events/{id}")).await;
        browser.post(&format!("/console/events/{id}/replay"), &[]).await.shows("Sent again.");
        let replayed = browser.post(&format!("/console/deliveries/{delivery}/replay"), &[]).await;
        replayed.shows("Repeats").shows(&delivery);
        receiver.received(63).await;
        // Counts are folded a moment after their events are stored.
        until("the account is listed", async || {
            browser.get("/console/accounts").await.text.contains("a&amp;b")
        })
        .await;
        until("the account is counted", async || {
            browser
                .get("/console/accounts/summary?account_id=a%26b")
                .await
                .text
                .contains("user.login")
        })
        .await;
        let overview = browser.get("/console").await;
        overview
            .shows("Events per hour")
            .shows("As a table")
            .shows("No endpoint fails or is disabled");
        browser
            .get("/console/samples")
            .await
            .shows("curl -i http://127.0.0.1")
            .shows(&receiver.url("/"));
        browser.get("/console/live").await.shows("data-stream");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_explained_retried_and_cleared() {
    for console in each_store(&[("RETRY_SCHEDULE", "20ms")]).await {
        let receiver = Receiver::start().await;
        receiver.answer((0..4).map(|_| Answer::status(401).body("who are <you>?")));
        let mut browser = console.signed_in(&console.key).await;
        add_endpoint(&mut browser, &receiver, "/", &[]).await;
        let one = post_event(&console, json!({"type": "a", "payload": 1})).await;
        let other = post_event(&console, json!({"type": "a", "payload": 2})).await;
        until("both are given up", async || {
            browser.get("/console/dead-letters").await.text.matches("badge bad\">exhausted").count()
                == 2
        })
        .await;
        let delivery =
            first_link(&mut browser, &format!("/console/events/{one}"), "/console/deliveries")
                .await;
        let page = browser.get(&format!("/console/deliveries/{delivery}")).await;
        page.shows("refused the webhook as not authorised")
            .shows("current secret")
            .shows("who are &lt;you&gt;?");
        // Each is a region of the page, which needs a name of its own.
        for attempt in [1, 2] {
            for name in ["Answer to attempt N, its start", "Request of attempt N as it was sent"] {
                let label = format!("aria-label=\"{}\"", name.replace('N', &attempt.to_string()));
                assert_eq!(page.text.matches(&label).count(), 1, "{label}: {}", page.text);
            }
        }
        let letter =
            first_link(&mut browser, "/console/dead-letters", "/console/dead-letters").await;
        let page = browser.get(&format!("/console/dead-letters/{letter}")).await;
        page.shows("Every attempt of the retry schedule failed");
        browser.get("/console").await.shows("failing for");

        // Not the letter's: that would be gone when its delivery succeeds.
        let other = format!("/console/events/{other}");
        let retried = if page.text.contains(&delivery) {
            first_link(&mut browser, &other, "/console/deliveries").await
        } else {
            delivery
        };
        let retried = browser.post(&format!("/console/deliveries/{retried}/retry"), &[]).await;
        retried.shows("is attempted now");
        browser
            .get("/console/dead-letters?replayed=false")
            .await
            .shows("Replay all")
            .shows("Discard all");
        browser.get("/console/dead-letters?reason=exhausted").await.shows("Discard all");
        let replay = browser.post("/console/dead-letters/replay", &[("reason", "exhausted")]).await;
        replay.shows("Replay of dead letters");
        let path = replay.path.clone();
        until("the replay is done", async || browser.get(&path).await.text.contains(">finished<"))
            .await;
        browser.get("/console/dead-letters").await;
        let discarded = browser.post(&format!("/console/dead-letters/{letter}/discard"), &[]).await;
        discarded.shows("Discarded.");
        // None is replayed twice together with others.
        let refused = browser.post("/console/dead-letters/replay", &[("replayed", "true")]).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        let removal = browser.post("/console/dead-letters/discard", &[]).await;
        let path = removal.path.clone();
        until("the removal is done", async || browser.get(&path).await.text.contains(">finished<"))
            .await;
        browser.get("/console/dead-letters").await.shows("No dead letter matches");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_created_renamed_rotated_and_revoked() {
    for console in each_store(&[]).await {
        let mut browser = console.signed_in(&console.key).await;
        browser.get("/console/keys").await.shows("first key (this session");
        browser.get("/console/keys/new").await.shows("events:write");
        let refused =
            browser.post("/console/keys", &[("name", " "), ("expires_at", "2001-01-01")]).await;
        refused.expect(422);
        refused.shows("must be in the future").shows("Name: must be 1 to 128 bytes");
        let fields = [("name", "importer"), ("scopes", "events:write"), ("scopes", "events:read")];
        let created = browser.post("/console/keys", &fields).await;
        created.shows("shown only now");
        let key = format!("hg_{}", created.between("<code>hg_", "</code>"));
        assert!(console.api(Method::GET, "/api/org", &key, "").await["id"].is_string());
        let id = key[3..35].to_owned();
        let id =
            format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
        browser
            .get(&format!("/console/keys/{id}"))
            .await
            .shows("events:write, events:read")
            .hides(&key);
        browser
            .post(&format!("/console/keys/{id}/rename"), &[("name", "loader")])
            .await
            .shows("loader");
        let rotated =
            browser.post(&format!("/console/keys/{id}/rotate"), &[("grace_seconds", "60")]).await;
        rotated.shows("Key rotated").hides(&key);
        browser
            .get(&format!("/console/keys/{id}"))
            .await
            .shows("in its grace period")
            .shows("Replaced by");
        browser.post(&format!("/console/keys/{id}/revoke"), &[]).await.shows("Revoked.");
        assert_eq!(console.api(Method::GET, "/api/org", &key, "").await["status"], 401);

        // A key sees what its scopes are for, and no control that it may not use.
        let successor = format!("hg_{}", rotated.between("<code>hg_", "</code>"));
        let mut reader = console.signed_in(&successor).await;
        let page = reader.get("/console").await;
        page.shows("Events").hides("href=\"/console/keys\"").hides("href=\"/console/endpoints\"");
        reader.get("/console/keys").await.expect(403);
        reader.get("/console/endpoints").await.shows("Missing scope");
        assert_eq!(
            reader.post_only("/console/endpoints", &[("url", "https://x.example")]).await.status,
            403
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_that_only_reads_sees_endpoints_masked_and_keys() {
    for console in each_store(&[]).await {
        let body = json!({"url": "https://example.com/hooks?token=s3cret", "headers": {"x-team": "s3cret"}});
        let made =
            console.api(Method::POST, "/api/endpoints", &console.key, &body.to_string()).await;
        let path = format!("/console/endpoints/{}", made["id"].as_str().unwrap());
        let scopes = ["events:read", "endpoints:read", "keys:read"];
        let body = json!({"name": "reader", "scopes": scopes}).to_string();
        let key = console.api(Method::POST, "/api/keys", &console.key, &body).await;
        let mut reader = console.signed_in(key["key"].as_str().unwrap()).await;
        let home = reader.get("/console").await;
        home.shows("href=\"/console/endpoints\"").shows("href=\"/console/keys\"");
        for page in ["/console/endpoints", path.as_str(), "/console/samples"] {
            let page = reader.get(page).await;
            page.expect(200);
            page.shows("https://example.com/hooks").hides("s3cret").hides("Add endpoint");
            page.hides("Show secret").hides("/edit\"");
        }
        reader.get("/console/keys").await.shows("first key").hides("Create key");
        reader.get("/console/audit").await.shows("endpoint.create");
        for page in ["/console/endpoints/new", "/console/keys/new", &format!("{path}/edit")] {
            reader.get(page).await.expect(403);
        }
        reader.get("/console").await;
        for change in [format!("{path}/secret"), format!("{path}/delete")] {
            assert_eq!(reader.post_only(&change, &[]).await.status, 403, "{change}");
        }
    }
}
