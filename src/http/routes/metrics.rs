//! `GET /metrics`, for Prometheus.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;

use super::super::error::ApiError;
use super::super::state::AppState;

/// All metrics in Prometheus' text format, version 0.0.4.
pub(in super::super) async fn scrape(State(app): State<AppState>) -> Result<Response, ApiError> {
    let text = app.metrics.render().map_err(ApiError::internal)?;
    let mut response = Response::new(Body::from(text));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}
