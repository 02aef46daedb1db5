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
    assert!(
        server
            .store
            .expire_key_across_orgs(tenant.key_id, end, &hookgate::domain::Actor::CLI, now)
            .await
            .unwrap()
    );
    server.get("/api/org", &tenant.key).await.expect(200);
    server.clock.advance(Duration::from_mins(1));
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
}

const TENANT_ROUTES: &[(&str, &str)] = &[
    ("GET", "/api/events"),
    ("POST", "/api/events"),
    ("POST", "/api/events/batch"),
    ("POST", "/api/events/raw"),
    ("POST", "/api/v1/events"),
    ("GET", "/api/events/{id}"),
    ("POST", "/api/endpoints"),
    ("GET", "/api/endpoints"),
    ("GET", "/api/endpoints/{id}"),
    ("PATCH", "/api/endpoints/{id}"),
    ("DELETE", "/api/endpoints/{id}"),
    ("GET", "/api/endpoints/{id}/secret"),
    ("GET", "/api/deliveries"),
    ("GET", "/api/deliveries/{id}"),
    ("POST", "/api/deliveries/{id}/retry"),
    ("GET", "/api/dead-letters"),
    ("GET", "/api/org"),
    ("GET", "/api/keys"),
];

const OPERATOR_ROUTES: &[(&str, &str)] = &[
    ("POST", "/api/admin/orgs"),
    ("GET", "/api/admin/orgs"),
    ("GET", "/api/admin/orgs/{id}"),
    ("PATCH", "/api/admin/orgs/{id}"),
    ("POST", "/api/admin/orgs/{id}/keys"),
    ("GET", "/api/admin/orgs/{id}/keys"),
    ("GET", "/api/admin/keys"),
    ("POST", "/api/admin/keys"),
    ("GET", "/api/admin/keys/{id}"),
    ("DELETE", "/api/admin/keys/{id}"),
    ("POST", "/api/admin/keys/{id}/rotate"),
];

/// Every route, asked with `key` or with none, for an id that nobody has and with an empty object.
async fn ask(server: &Server, route: (&str, &str), key: Option<&str>) -> server::Answer {
    let (method, path) = route;
    let path = path.replace("{id}", "019b0000-0000-7000-8000-000000000000");
    let request = server.bare(method.parse().unwrap(), &path);
    let request = match key {
        Some(key) => request.header("x-api-key", key),
        None => request,
    };
    let request =
        if matches!(method, "POST" | "PATCH") { server::json(request, "{}") } else { request };
    server::answer(request).await
}

#[tokio::test]
async fn every_route_needs_a_key_of_the_right_kind() {
    let server = Server::start().await;
    let (tenant, operator) = (server.tenant("acme").await, server.operator().await);
    for route in TENANT_ROUTES {
        ask(&server, *route, None).await.expect_problem(401, "unauthorized");
        ask(&server, *route, Some("nonsense")).await.expect_problem(401, "unauthorized");
        ask(&server, *route, Some(&operator)).await.expect_problem(403, "tenant_key_required");
    }
    for route in OPERATOR_ROUTES {
        ask(&server, *route, None).await.expect_problem(401, "unauthorized");
        ask(&server, *route, Some("nonsense")).await.expect_problem(401, "unauthorized");
        ask(&server, *route, Some(&tenant.key)).await.expect_problem(403, "operator_key_required");
    }
}

#[tokio::test]
async fn every_route_is_reached_with_the_right_key() {
    let server = Server::start().await;
    let (tenant, operator) = (server.tenant("acme").await, server.operator().await);
    let routes = TENANT_ROUTES.iter().map(|route| (route, &tenant.key));
    for (route, key) in routes.chain(OPERATOR_ROUTES.iter().map(|route| (route, &operator))) {
        let answer = ask(&server, *route, Some(key)).await;
        // An empty object breaks rules (but is a raw event like any other), an unknown id is not
        // found: the handler has looked at both.
        let expected: &[u16] = &[200, 201, 202, 404, 422];
        assert!(expected.contains(&answer.status.as_u16()), "{route:?}: {answer:?}");
        if answer.status == 404 {
            let problem = answer.expect_problem(404, "not_found");
            assert!(problem["detail"].as_str().unwrap().contains("id"), "{route:?}: {problem}");
        }
    }
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
