//! Cross-origin requests: which web pages may call the API from a browser.
//!
//! Off unless `CORS_ORIGINS` lists origins. Keys travel in `X-API-Key` or `Authorization`, which a page
//! must set itself; cookies are neither set nor read, so credentials are never allowed.
//! <https://fetch.spec.whatwg.org/#http-cors-protocol>

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
/// Headers that a page may send beside those that every page may.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-type, x-api-key, authorization, x-trace-id, traceparent, x-event-type, x-dedup-id, x-account-id, \
     x-user-id, x-event-timestamp, content-encoding, idempotency-key",
);
/// Headers that a page may read beside those that every page may.
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "x-trace-id, location, warning, retry-after, ratelimit, ratelimit-policy, allow",
);
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origin a request comes from, if it is one that may call.
pub(super) fn allowed_origin(origins: &Origins, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    origins.contain(origin.to_str().ok()?).then(|| origin.clone())
}

/// Whether a browser asks what it may send before it does.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a browser that asks what it may send.
pub(super) fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// Lets pages of `origin` read an answer. Caches on the way must not show it to others.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    headers.append(VARY, HeaderValue::from_static("origin"));
}
