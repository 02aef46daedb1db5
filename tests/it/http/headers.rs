//! Fields for browsers and caches: security, and cross-origin requests.

use reqwest::Method;

use crate::support::server::{self, Answer, Server};

const PAGE: &str = "https://app.example.com";

async fn from_page(server: &Server, method: Method, path: &str, origin: &str) -> Answer {
    let request = server.bare(method, path).header("origin", origin);
    server::answer(request.header("access-control-request-method", "POST")).await
}

fn cors_fields(answer: &Answer) -> Vec<&str> {
    let names = answer.headers.keys().map(reqwest::header::HeaderName::as_str);
    names.filter(|name| name.starts_with("access-control-")).collect()
}

#[tokio::test]
async fn answers_are_kept_out_of_caches_and_taken_for_what_they_are() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let event = r#"{"type":"a","payload":1}"#;
    let batch = format!("[{event}]");
    let answers = [
        server.get("/api/org", &tenant.key).await,
        server.get("/api/events", "nonsense").await,
        server.get("/nowhere", &tenant.key).await,
        server.post("/api/events", &tenant.key, "nonsense").await,
        server.post("/api/events/batch", &tenant.key, batch).await,
        server::answer(server.bare(Method::GET, "/metrics")).await,
    ];
    for answer in answers {
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    let accepted = server.post("/api/events", &tenant.key, event).await;
    accepted.expect(202);
    assert_eq!(accepted.header("content-type"), "application/json");
}

#[tokio::test]
async fn cors_is_off_without_origins() {
    let server = Server::start().await;
    for method in [Method::OPTIONS, Method::GET, Method::POST] {
        let answer = from_page(&server, method, "/api/events", PAGE).await;
        assert!(cors_fields(&answer).is_empty(), "{answer:?}");
    }
    let preflight = from_page(&server, Method::OPTIONS, "/api/events", PAGE).await;
    preflight.expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn pages_of_a_listed_origin_may_call_and_no_others() {
    let flags = ["--cors-origins=https://app.example.com", "--cors-max-age=1h"];
    let server = Server::start_with(&flags).await;
    let tenant = server.tenant("acme").await;
    for path in ["/api/events", "/api/endpoints/x"] {
        let preflight = from_page(&server, Method::OPTIONS, path, PAGE).await;
        preflight.expect(204);
        assert_eq!(preflight.header("access-control-allow-origin"), PAGE);
        assert!(preflight.header("access-control-allow-headers").contains("x-api-key"));
        assert!(preflight.header("access-control-allow-methods").contains("PATCH"));
        assert!(preflight.header("access-control-allow-headers").contains("if-match"));
        assert_eq!(preflight.header("access-control-max-age"), "3600");
        assert_eq!(preflight.header("vary"), "origin");
        let other = from_page(&server, Method::OPTIONS, path, "https://evil.example.com").await;
        other.expect_problem(405, "method_not_allowed");
        assert!(cors_fields(&other).is_empty(), "{other:?}");
    }
    let post = server.request(Method::POST, "/api/events", &tenant.key).header("origin", PAGE);
    let accepted = server::answer(server::json(post, r#"{"type":"a","payload":1}"#)).await;
    accepted.expect(202);
    assert_eq!(accepted.header("access-control-allow-origin"), PAGE);
    let exposed = accepted.header("access-control-expose-headers");
    for name in ["x-trace-id", "etag", "location", "retry-after", "ratelimit-policy"] {
        assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
    }
    assert!(!accepted.headers.contains_key("access-control-allow-credentials"));
    let preflight = from_page(&server, Method::OPTIONS, "/api/events", PAGE).await;
    assert!(!preflight.headers.contains_key("access-control-allow-credentials"));
    // Refusals too, or a page could not tell what is wrong.
    let refused = from_page(&server, Method::GET, "/api/org", PAGE).await;
    refused.expect_problem(401, "unauthorized");
    assert_eq!(refused.header("access-control-allow-origin"), PAGE);
    let stranger = from_page(&server, Method::GET, "/api/org", "https://evil.example.com").await;
    assert!(cors_fields(&stranger).is_empty(), "{stranger:?}");
}
