//! Who may ask what.

use std::time::Duration;

use reqwest::Method;

use crate::support::forged_key;
use crate::support::server::{self, Server};

#[tokio::test]
async fn a_missing_key_is_told_from_an_invalid_one() {
    let server = Server::start().await;
    let answer = server::answer(server.bare(Method::GET, "/api/org")).await;
    let missing = answer.expect_problem(401, "unauthorized");
    assert_eq!(answer.header("www-authenticate"), "ApiKey realm=\"hookgate\"");
    assert!(missing["detail"].as_str().unwrap().contains("X-API-Key"));
    let invalid = server.get("/api/org", "nonsense").await.expect_problem(401, "unauthorized");
    assert_ne!(invalid["detail"], missing["detail"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_not_told() {
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
async fn an_expired_key_is_invalid() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let end = server.clock.now().plus(Duration::from_mins(1));
    let now = server.clock.now();
    assert!(server.store.expire_key_across_orgs(tenant.key_id, end, now).await.unwrap());
    server.get("/api/org", &tenant.key).await.expect(200);
    server.clock.advance(Duration::from_mins(1));
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn refused_keys_are_counted() {
    let server = Server::start().await;
    server.get("/api/org", "nonsense").await;
    server::answer(server.bare(Method::GET, "/api/org")).await;
    let text = String::from_utf8(server.metrics.render().unwrap()).unwrap();
    assert!(text.contains("rejected_requests_total{reason=\"unauthorized\"} 2"), "{text}");
    assert_eq!(server.metrics.auth_latency_seconds.get_sample_count(), 1);
}
