//! `GET /metrics`, for Prometheus.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;

use crate::config::MetricsSet;
use crate::http::error::ApiError;
use crate::http::openapi::PlainText;
use crate::http::respond::WrittenAnswer;
use crate::http::state::AppState;

/// The metrics that `METRICS` names, in Prometheus' text format, version 0.0.4.
pub(in crate::http) async fn scrape(
    State(app): State<AppState>,
) -> Result<WrittenAnswer<PlainText>, ApiError> {
    let set = app.settings().metrics_set;
    if set == MetricsSet::Off {
        return Err(ApiError::RouteNotFound(None));
    }
    let render = async || {
        refresh(&app).await;
        app.metrics.registry.render(set)
    };
    let text = app.scrapes().text(render).await.map_err(ApiError::internal)?;
    let mut response = Response::new(Body::from(text));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response.into())
}

/// Sets the gauges that are read when the metrics are. Of these, only the oldest due delivery is asked of the store, by
/// its index and at most twice a second.
async fn refresh(app: &AppState) {
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
    app.metrics.ingest.set_unread(app.intake.status().items_waiting);
    app.subsystems().store.report_connections();
    app.metrics.process.refresh();
}
