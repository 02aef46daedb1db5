//! `GET /metrics`, for Prometheus.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;

use crate::http::error::ApiError;
use crate::http::state::AppState;

/// All metrics in Prometheus' text format, version 0.0.4.
pub(in crate::http) async fn scrape(State(app): State<AppState>) -> Result<Response, ApiError> {
    let health = app.pipeline_health().await;
    let seconds = |age: Duration| i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    let metrics = &app.metrics.http;
    let oldest_due = health.oldest_due.age().unwrap_or_default();
    metrics.oldest_due_delivery_age_seconds.set(seconds(oldest_due));
    let oldest_unplanned = health.oldest_unplanned.unwrap_or_default();
    metrics.oldest_unplanned_event_age_seconds.set(seconds(oldest_unplanned));
    metrics.dispatcher_heartbeat_age_seconds.set(seconds(health.dispatcher));
    metrics.delivery_progress_age_seconds.set(seconds(health.delivering));
    metrics.hookgate_recorder_age_seconds.set(seconds(health.recording.unwrap_or_default()));
    let text = app.metrics.registry.render().map_err(ApiError::internal)?;
    let mut response = Response::new(Body::from(text));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}
