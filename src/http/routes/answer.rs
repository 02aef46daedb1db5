//! How successful answers are written.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;

use super::super::error::ApiError;

/// An answer with a JSON body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response, ApiError> {
    Ok(json_bytes(status, serde_json::to_vec(body).map_err(ApiError::internal)?))
}

/// An answer with a body that is JSON already.
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

/// 201 with a JSON body and the place of what was created.
pub(super) fn created(location: &str, body: &impl Serialize) -> Result<Response, ApiError> {
    at(StatusCode::CREATED, location, body)
}

/// An answer with a JSON body and the place of what it is about.
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

/// 204.
pub(super) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
