//! Who may ask what.

use std::time::Duration;

use hookgate::config::MetricsSet;
use hookgate::domain::ApiKeyId;
use reqwest::Method;

use crate::support::forged_key;
use crate::support::server::{self, Server};

#[tokio::test]
async fn missing_key_is_told_from_an_invalid_one() {
    let server = Server::start().await;
    let answer = server::answer(server.bare(Method::GET, "/api/org")).await;
    let missing = answer.expect_problem(401, "unauthorized");
    assert_eq!(answer.header("www-authenticate"), "ApiKey realm=\"hookgate\"");
    assert!(missing["detail"].as_str().unwrap().contains("X-API-Key"));
    let invalid = server.get("/api/org", "nonsense").await.expect_problem(401, "unauthorized");
    assert_ne!(invalid["detail"], missing["detail"]);
}

#[tokio::test]
async fn invalid_keys_get_the_same_answer_whatever_is_wrong() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let elsewhere = Server::start().await.tenant("elsewhere").await;
    let forged = forged_key(tenant.key_id, 7);
    let keys: [&[u8]; 5] = [
        b"nonsense",
        b"hg_\xff",
        &tenant.key.as_bytes()[..40],
        elsewhere.key.as_bytes(),
        forged.as_bytes(),
    ];
    let mut answers = Vec::new();
    // Twice, since the second time a refusal may come from a cache.
    for key in keys.into_iter().chain(keys) {
        let request = server.bare(Method::GET, "/api/org").header("x-api-key", key);
        let mut problem = server::answer(request).await.expect_problem(401, "unauthorized");
        problem["trace_id"].take();
        answers.push(problem);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    server.get("/api/org", &tenant.key).await.expect(200);
}

#[tokio::test]
async fn expired_key_is_invalid() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let end = server.clock.now().plus(Duration::from_mins(1));
    let now = server.clock.now();
    assert!(
        server
            .store
            .system()
            .expire_key(tenant.key_id, end, &hookgate::domain::Actor::CLI, now)
            .await
            .unwrap()
    );
    server.get("/api/org", &tenant.key).await.expect(200);
    server.clock.advance(Duration::from_mins(1));
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn bearer_tokens_are_accepted_like_the_api_key_header() {
    let server = Server::start().await;
    let (acme, other) = (server.tenant("acme").await, server.tenant("other").await);
    let ask = async |bearer: &str, key: Option<&str>| {
        let request = server.bare(Method::GET, "/api/org").bearer_auth(bearer);
        let request = key.iter().fold(request, |request, key| request.header("x-api-key", *key));
        server::answer(request).await
    };
    assert_eq!(ask(&acme.key, None).await.expect(200)["name"], "acme");
    assert_eq!(ask(&acme.key, Some(&acme.key)).await.expect(200)["name"], "acme");
    ask(&acme.key, Some(&other.key)).await.expect_problem(401, "unauthorized");
    ask("nonsense", None).await.expect_problem(401, "unauthorized");
    let event = r#"{"type":"a","data":1}"#;
    let post = server.bare(Method::POST, "/api/events").bearer_auth(&acme.key);
    server::answer(server::json(post, event)).await.expect(202);
}

#[tokio::test]
async fn refused_keys_are_counted() {
    let server = Server::start().await;
    server.get("/api/org", "nonsense").await;
    server::answer(server.bare(Method::GET, "/api/org")).await;
    let text = String::from_utf8(server.metrics.registry.render(MetricsSet::All).unwrap()).unwrap();
    assert!(text.contains("rejected_requests_total{reason=\"unauthorized\"} 2"), "{text}");
    assert_eq!(server.metrics.http.auth_latency_seconds.get_sample_count(), 1);
}

const FEW: &str = "--failed-keys-per-minute=5";

/// Asks with a well-formed key that nobody has, another one for each `seed`.
async fn guess(server: &Server, seed: u16, forwarded_for: &str) -> server::Answer {
    let key = forged_key(ApiKeyId::mint(server.clock.now()), seed);
    let request = server.request(Method::GET, "/api/org", &key);
    server::answer(request.header("x-forwarded-for", forwarded_for)).await
}

#[tokio::test]
async fn address_that_guesses_is_sent_away_and_who_works_from_there_goes_on() {
    let server = Server::start_with(&[FEW]).await;
    let (known, fresh) = (server.tenant("known").await, server.tenant("fresh").await);
    server.get("/api/org", &known.key).await.expect(200);
    for seed in 0..5 {
        // What is not believed: this peer is no proxy.
        guess(&server, seed, &format!("198.51.100.{seed}"))
            .await
            .expect_problem(401, "unauthorized");
    }
    let refused = guess(&server, 5, "198.51.100.5").await;
    refused.expect_problem(429, "too_many_failed_keys");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=12).contains(&wait), "{wait}");
    // A key that has been used here is known, on a new connection too.
    server.get("/api/org", &known.key).await.expect(200);
    let request = server.request(Method::GET, "/api/org", &known.key);
    server::answer(request.header("connection", "close")).await.expect(200);
    // One that is good, and is not known yet, has to wait.
    server.get("/api/org", &fresh.key).await.expect_problem(429, "too_many_failed_keys");
    // What costs no look-up is answered as ever.
    server.get("/api/org", "nonsense").await.expect_problem(401, "unauthorized");
    assert_eq!(server.metric(r#"rejected_requests_total{reason="throttled"}"#), 2);
    assert_eq!(server.metrics.auth.auth_hashes_total.get(), 1);
}

#[tokio::test]
async fn one_wrong_key_that_is_sent_again_and_again_counts_once() {
    let server = Server::start_with(&[FEW]).await;
    let fresh = server.tenant("fresh").await;
    let key = forged_key(ApiKeyId::mint(server.clock.now()), 1);
    for _ in 0..50 {
        server.get("/api/org", &key).await.expect_problem(401, "unauthorized");
    }
    server.get("/api/org", &fresh.key).await.expect(200);
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_is_counted_for_itself() {
    let server = Server::start_with(&[FEW, "--trusted-proxies=127.0.0.0/8"]).await;
    for seed in 0..5 {
        guess(&server, seed, "203.0.113.9, 198.51.100.1").await.expect_problem(401, "unauthorized");
    }
    let refused = guess(&server, 5, "203.0.113.8, 198.51.100.1").await;
    refused.expect_problem(429, "too_many_failed_keys");
    guess(&server, 6, "198.51.100.1, 203.0.113.9").await.expect_problem(401, "unauthorized");
    guess(&server, 7, "").await.expect_problem(401, "unauthorized");
}
