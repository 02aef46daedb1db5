//! Writes responses: JSON answers, and errors as RFC 9457 problem details.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::ApiError;
use super::error_detail::Fault;
use super::ratelimit_headers;
use crate::domain::{TraceId, Violation};

/// The body of an error answer, RFC 9457 section 3.
#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    trace_id: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

/// An answer with a JSON body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response, ApiError> {
    Ok(json_bytes(status, serde_json::to_vec(body).map_err(ApiError::internal)?))
}

/// An answer whose body is JSON text already.
pub(super) fn json_bytes(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let media_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

/// 200 with a JSON body.
pub(super) fn ok(body: &impl Serialize) -> Result<Response, ApiError> {
    json(StatusCode::OK, body)
}

/// 201 with a JSON body and the location of the new resource.
pub(super) fn created(location: &str, body: &impl Serialize) -> Result<Response, ApiError> {
    at(StatusCode::CREATED, location, body)
}

/// An answer with a JSON body and the location of its resource.
pub(super) fn at(
    status: StatusCode,
    location: &str,
    body: &impl Serialize,
) -> Result<Response, ApiError> {
    let mut response = json(status, body)?;
    let location = HeaderValue::from_str(location).map_err(ApiError::internal)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// 204, without a body.
pub(super) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// An error as the caller gets it. Logs the error, loudly where operators should know of it.
pub(super) fn problem(error: &ApiError, trace_id: TraceId) -> Response {
    match error.fault() {
        Fault::Client => tracing::debug!(%trace_id, refusal = ?error, "request refused"),
        Fault::Dependency => tracing::warn!(%trace_id, cause = ?error, "request failed"),
        Fault::Internal => tracing::error!(%trace_id, cause = ?error, "request failed"),
    }
    let mut response = Response::new(Body::from(problem_body(error, trace_id)));
    *response.status_mut() = status(error);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(wait) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(ratelimit_headers::whole_seconds(wait)));
    }
    if let Some((counted, state)) = error.rate_limit() {
        ratelimit_headers::write_headers(headers, counted, state);
    }
    if error.problem().status == 401 {
        let challenge = HeaderValue::from_static("ApiKey realm=\"hookgate\"");
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

fn status(error: &ApiError) -> StatusCode {
    // The registry holds valid codes only; the other branch is never taken.
    StatusCode::from_u16(error.problem().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn problem_body(error: &ApiError, trace_id: TraceId) -> Vec<u8> {
    let problem = error.problem();
    let errors: &[Violation] = if let ApiError::Invalid(all) = error { all } else { &[] };
    let body = ProblemBody {
        r#type: problem.page(),
        title: problem.title,
        status: problem.status,
        detail: error.to_string(),
        code: problem.code,
        trace_id: trace_id.to_string(),
        errors,
    };
    // Strings and numbers always serialise; an empty body would still carry the status.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// Leaves the error in the response for the middleware, which writes the answer: only it knows the
/// trace id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(&self);
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}
