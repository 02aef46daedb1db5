//! Signing in and out, and when a session ends.

use std::fs;

use hookgate::http::{ConsoleNeeds, console_table};
use reqwest::Method;

use super::{Console, each_store};
use crate::support::binary::Binary;
use crate::support::postgres::PrivatePostgres;
use crate::support::temporary;
use crate::support::wait::until;

use super::browser::Browser;

#[tokio::test(flavor = "multi_thread")]
async fn one_signs_in_comes_back_to_where_one_was_and_signs_out() {
    for console in each_store(&[]).await {
        let mut browser = console.browser();
        let form = browser.get("/").await;
        assert_eq!(form.path, "/console/sign-in");
        form.shows("Sign in");
        let asked = browser.get("/console/events?type=user.*").await;
        assert_eq!(asked.path, "/console/sign-in?next=%2Fconsole%2Fevents%3Ftype%3Duser.*");
        let wrong = browser.post("/console/sign-in", &[("key", "hg_nonsense")]).await;
        wrong.shows("This key is not valid");
        assert_eq!((wrong.status, &browser.cookie), (422, &None));
        let next = "/console/events?type=user.*";
        let fields = [("key", console.key.as_str()), ("next", next)];
        let events = browser.post("/console/sign-in", &fields).await;
        assert_eq!((events.status, events.path.as_str()), (200, next));
        let cookie = browser.cookie.clone();
        assert!(cookie.clone().unwrap().starts_with("hookgate_console="));
        browser.get("/console/session").await.shows("first key").shows("First organisation");
        let out = browser.post("/console/sign-out", &[]).await;
        assert_eq!((out.path.as_str(), &browser.cookie), ("/console/sign-in", &None));
        // Whoever has kept the cookie has nothing of it.
        browser.cookie = cookie;
        assert_eq!(browser.get("/console").await.path, "/console/sign-in");
        let evil = [("key", console.key.as_str()), ("next", "//evil.example")];
        assert_eq!(browser.post("/console/sign-in", &evil).await.path, "/console");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_ends_with_its_key_and_by_signing_out_everywhere() {
    for console in each_store(&[]).await {
        let (mut first, mut second) =
            (console.signed_in(&console.key).await, console.signed_in(&console.key).await);
        let operator = console.operator.clone();
        let keys = console.api(Method::GET, "/api/keys", &console.key, "").await;
        let id = keys["data"][0]["id"].as_str().unwrap().to_owned();
        first.get("/console/session").await;
        first.post("/console/sign-out-everywhere", &[]).await;
        assert_eq!(second.get("/console").await.path, "/console/sign-in");

        second.sign_in(&console.key).await;
        let org = keys["data"][0]["org_id"].as_str().unwrap();
        let suspend = format!("/api/admin/orgs/{org}/suspend");
        console.api(Method::POST, &suspend, &operator, "").await;
        assert_eq!(second.get("/console").await.path, "/console/sign-in");
        let refused = second.post("/console/sign-in", &[("key", &console.key)]).await;
        refused.shows("is suspended");
        console.api(Method::POST, &format!("/api/admin/orgs/{org}/resume"), &operator, "").await;

        second.sign_in(&console.key).await;
        let rotate = format!("/api/admin/keys/{id}/rotate");
        let grace = r#"{"grace_seconds":600}"#;
        let successor = console.api(Method::POST, &rotate, &operator, grace).await;
        assert_eq!(second.get("/console").await.path, "/console/sign-in", "rotated");
        // In its grace period the old key works for the API, and opens no session.
        let own = console.api(Method::GET, "/api/org", &console.key, "").await;
        assert_eq!(own["id"], org);
        let refused = second.post("/console/sign-in", &[("key", &console.key)]).await;
        refused.shows("This key was rotated");
        assert_eq!((refused.status, refused.header("set-cookie")), (422, ""));

        let successor_key = successor["key"].as_str().unwrap();
        second.sign_in(successor_key).await;
        let successor_id = successor["id"].as_str().unwrap();
        console
            .api(Method::DELETE, &format!("/api/admin/keys/{successor_id}"), &operator, "")
            .await;
        assert_eq!(second.get("/console").await.path, "/console/sign-in", "revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_link_opens_the_console_once() {
    for console in each_store(&[("ACCESS_LOG_RATIO", "1")]).await {
        let shown = fs::read_dir(console.data_dir()).unwrap();
        let texts = shown.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
        let text = texts.into_iter().find(|text| text.contains("/console/link/")).unwrap();
        let link = text.lines().find(|line| line.contains("/console/link/")).unwrap().trim();
        let path = &link[link.find("/console").unwrap()..];
        let mut browser = console.browser();
        // Looking at it does not use it, and another site does not either.
        for method in [Method::HEAD, Method::GET] {
            let seen = browser.load(method, path, None).await;
            assert_eq!((seen.status, &browser.cookie), (200, &None));
        }
        browser.headers = vec![("origin", "https://evil.example".to_owned())];
        assert_eq!(browser.post_only(path, &[]).await.status, 403);
        browser.headers.clear();
        let opened = browser.post(path, &[]).await;
        assert_eq!((opened.status, opened.path.as_str()), (200, "/console"));
        opened.shows("<h1>Overview");
        let mut other = console.browser();
        let again = other.post(path, &[]).await;
        again.shows("was used already");
        assert_eq!((again.status, &other.cookie), (404, &None));
        let token = path.rsplit('/').next().unwrap();
        let log = console.server.stop().await;
        assert!(log.iter().any(|line| line.contains("/console/link/{token}")), "{log:#?}");
        assert!(log.iter().all(|line| !line.contains(token)), "{log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_plain_http_one_signs_in_on_this_machine_alone() {
    let trusted = [("TRUSTED_PROXIES", "127.0.0.0/8")];
    let console = Console::start(&trusted).await;
    let mut browser = console.browser();
    browser.headers =
        vec![("host", "hooks.example".to_owned()), ("origin", "http://hooks.example".to_owned())];
    browser.get("/console").await.shows("The console needs TLS");
    let refused = browser.post("/console/sign-in", &[("key", &console.key)]).await;
    refused.shows("The console needs TLS");
    assert_eq!((refused.status, &browser.cookie), (422, &None));
    // Behind a proxy that speaks https, the cookie belongs to this host and to https.
    browser.headers.push(("x-forwarded-proto", "https".to_owned()));
    let signed_in = browser.post_only("/console/sign-in", &[("key", &console.key)]).await;
    let set = signed_in.header("set-cookie");
    assert!(set.starts_with("__Host-hookgate=") && set.contains("; Secure"), "{set}");
    assert!(set.contains("; HttpOnly; SameSite=Strict"), "{set}");
    browser.get("/console").await.shows("Overview");
    browser.headers.pop();
    assert!(browser.get("/console").await.path.starts_with("/console/sign-in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_changes_are_refused() {
    let console = Console::start(&[("WRITE_RATE_LIMIT_PER_MINUTE", "1000000")]).await;
    let mut browser = console.signed_in(&console.key).await;
    let mut other = console.signed_in(&console.operator).await;
    let token = "name=\"csrf\" value=\"";
    let of_operator = other.get("/console").await.between(token, "\"").to_owned();
    let of_tenant = browser.get("/console").await.between(token, "\"").to_owned();
    let changes = console_table().into_iter().filter(|page| page.method == Method::POST);
    for change in changes.filter(|page| page.needs != ConsoleNeeds::Nothing) {
        let path = change.path.replace("{id}", "0190b5a7-0000-7000-8000-000000000000");
        // By whom it would be let through otherwise.
        let is_operators = matches!(change.needs, ConsoleNeeds::Operator(_));
        let browser = if is_operators { &mut other } else { &mut browser };
        let (own_token, foreign_token) =
            if is_operators { (&of_operator, &of_tenant) } else { (&of_tenant, &of_operator) };
        for token in ["", "x", foreign_token] {
            token.clone_into(&mut browser.csrf);
            let refused = browser.post_only(&path, &[]).await;
            assert_eq!(refused.status, 403, "{path}: {token}");
            refused.shows("Nothing was changed");
        }
        for origin in ["https://evil.example", "null"] {
            own_token.clone_into(&mut browser.csrf);
            browser.headers = vec![("origin", origin.to_owned())];
            let refused = browser.post_only(&path, &[]).await;
            assert_eq!(refused.status, 403, "{path}: {origin}");
        }
        browser.headers.clear();
        // No change is made by a GET: its path takes none, unless it is a page's, too.
        let is_page = console_table()
            .iter()
            .any(|page| page.method == Method::GET && page.path == change.path);
        let got = browser.load(Method::GET, &path, None).await;
        assert_eq!(got.status == 405, !is_page, "{path}: {}", got.status);
        // With its own token from its own page, it is another answer.
        if !change.path.starts_with("/console/sign-out") {
            own_token.clone_into(&mut browser.csrf);
            let exchanged = browser.post_only(&path, &[]).await;
            exchanged.hides("does not come from a page of this console");
        }
    }
    browser.get("/console").await.shows("Overview");
    browser.headers = vec![("origin", "https://evil.example".to_owned())];
    assert_eq!(browser.post_only("/console/sign-in", &[("key", &console.key)]).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_limited_and_sessions_of_a_key_are_few() {
    let console = Console::start(&[("FAILED_KEYS_PER_MINUTE", "3")]).await;
    let mut first = console.signed_in(&console.key).await;
    for _ in 0..20 {
        console.signed_in(&console.key).await;
    }
    assert_eq!(first.get("/console").await.path, "/console/sign-in", "the oldest session ended");
    let mut browser = console.browser();
    for seed in 0..4 {
        let id = hookgate::domain::ApiKeyId::mint(hookgate::domain::Timestamp::from_micros(1));
        let key = crate::support::forged_key(id, seed);
        browser.post("/console/sign-in", &[("key", &key)]).await;
    }
    let id = hookgate::domain::ApiKeyId::mint(hookgate::domain::Timestamp::from_micros(2));
    let key = crate::support::forged_key(id, 9);
    browser.post("/console/sign-in", &[("key", &key)]).await.shows("Too many wrong keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn known_sessions_go_on_while_the_store_is_away() {
    let postgres = PrivatePostgres::start();
    let url = postgres.fresh_database().await;
    let dir = temporary::directory();
    let settings = [("DATABASE_URL", url.as_str()), ("DATABASE_TIMEOUT", "300ms")];
    let server = Binary::start(dir.path(), &settings).await;
    let (key, _) = crate::support::binary::first_keys(dir.path()).await;
    let mut browser = Browser::new(&server.base_url);
    browser.sign_in(&key).await;
    browser.get("/console/session").await.expect(200);
    postgres.stop();
    until("the store's absence is noticed", async || {
        browser.get("/console/events").await.status == 503
    })
    .await;
    // It knows who it is, and says what is the matter.
    let session = browser.get("/console/session").await;
    session.shows("first key");
    let events = browser.get("/console/events").await;
    events.shows("database does not answer").shows("wait in the journal").shows("Trace <code>");
    assert!(events.header("content-type").starts_with("text/html"));
    // Who is not known cannot come in now, and is not told that the key is wrong.
    let mut other = Browser::new(&server.base_url);
    let refused = other.post("/console/sign-in", &[("key", &key)]).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    postgres.start_again();
    until("pages are back", async || browser.get("/console/events").await.status == 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_keep_to_themselves() {
    let console = Console::start(&[]).await;
    let mut browser = console.signed_in(&console.key).await;
    for path in ["/console", "/console/events", "/console/nothing", "/console/assets/nothing"] {
        let page = browser.load(Method::GET, path, None).await;
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'self'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(page.header("cache-control"), "no-store", "{path}");
        page.hides("<style").hides("style=").hides("onclick").hides("://");
    }
    let asset = browser.load(Method::GET, "/console/assets/htmx.min.js", None).await;
    assert_eq!((asset.status, asset.header("cache-control")), (200, "public, max-age=3600"));
    browser.headers = vec![("accept-encoding", "gzip".to_owned())];
    let page = browser.load(Method::GET, "/console/events", None).await;
    assert_eq!(page.header("content-encoding"), "gzip");
}
