//! Cross-origin requests: which web pages may call the API from a browser.
//!
//! Off unless `CORS_ORIGINS` lists origins. Keys travel in `X-API-Key` or `Authorization`, which a page
//! must set itself; cookies are neither set nor read, so credentials are never allowed.
//! <https://fetch.spec.whatwg.org/#http-cors-protocol>

use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;

use crate::config::Origins;

/// Methods that a page may use. Routes refuse methods that they do not have.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PATCH, DELETE");
/// Headers that a page may send beside those that every page may. Credentials of a proxy or a browser are not among them.
const REQUEST_HEADERS: &[&str] = &[
    "content-type",
    "x-api-key",
    "authorization",
    "x-trace-id",
    "traceparent",
    "x-event-type",
    "x-dedup-id",
    "x-account-id",
    "x-user-id",
    "x-event-timestamp",
    "content-encoding",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "last-event-id",
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-subject",
    "ce-time",
    "ce-dataschema",
];
/// Headers that a page may read beside those that every page may.
const RESPONSE_HEADERS: &[&str] = &[
    "x-trace-id",
    "location",
    "etag",
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "idempotent-replayed",
    "warning",
    "allow",
    "accept-encoding",
    "www-authenticate",
];

static REQUEST_HEADER_LIST: LazyLock<HeaderValue> = LazyLock::new(|| list(REQUEST_HEADERS));
static RESPONSE_HEADER_LIST: LazyLock<HeaderValue> = LazyLock::new(|| list(RESPONSE_HEADERS));

/// The names as a header lists them.
fn list(names: &[&str]) -> HeaderValue {
    // Names of headers always are a value of one.
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The origin a request comes from, if it is one that may call.
pub(super) fn allowed_origin(origins: &Origins, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    origins.contain(origin.to_str().ok()?).then(|| origin.clone())
}

/// Whether a browser asks what it may send before it does.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a browser that asks what it may send, which holds for so long.
pub(super) fn preflight(max_age: Duration) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADER_LIST.clone());
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(max_age.as_secs()));
    response
}

/// Lets pages of `origin` read an answer. Caches on the way must not show it to others.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADER_LIST.clone());
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Headers that every page may read, of the Fetch Standard.
    const SAFE: &[&str] = &["cache-control", "content-type", "content-length"];

    #[test]
    fn pages_may_send_and_read_every_header_that_the_api_describes() {
        let document = crate::http::openapi_document();
        let headers = document["components"]["headers"].as_object().unwrap();
        for name in headers.keys().filter(|name| !SAFE.contains(&name.as_str())) {
            assert!(RESPONSE_HEADERS.contains(&name.as_str()), "{name} cannot be read");
        }
        let operations = document["paths"].as_object().unwrap().values();
        let operations = operations.flat_map(|path| path.as_object().unwrap().values());
        let parameters =
            operations.flat_map(|operation| operation["parameters"].as_array().unwrap());
        let inline = parameters.filter(|parameter| parameter["in"] == "header");
        let shared = document["components"]["parameters"].as_object().unwrap();
        // Those of webhooks are sent by the server.
        let shared = shared.iter().filter(|(name, _)| !name.starts_with("webhook-"));
        let all: Vec<&Value> = inline.chain(shared.map(|(_, parameter)| parameter)).collect();
        assert!(all.len() > 10, "{all:?}");
        for name in all.iter().filter_map(|parameter| parameter["name"].as_str()) {
            let name = name.to_lowercase();
            assert!(REQUEST_HEADERS.contains(&name.as_str()), "{name} cannot be sent");
        }
        assert_ne!(REQUEST_HEADER_LIST.as_bytes(), b"");
        assert_ne!(RESPONSE_HEADER_LIST.as_bytes(), b"");
    }
}
