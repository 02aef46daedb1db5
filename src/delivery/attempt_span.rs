//! The span of an attempt, by the conventions for HTTP clients. Pure.

use std::time::Duration;

use super::webhook;
use crate::domain::{Attempt, ErrorClass, LeasedDelivery, SpanId};
use crate::telemetry::{Span, SpanKind};

/// The span of an attempt whose event was accepted in the span `parent`. Its id is the one that the request has named.
///
/// It has no `url.full`: path and query of many webhooks are credentials. The endpoint's id tells which one it is.
pub(super) fn attempt_span(
    delivery: &LeasedDelivery,
    attempt: &Attempt,
    parent: SpanId,
    took: Duration,
) -> Span {
    let (event, endpoint) = (&delivery.event, &delivery.endpoint);
    let id = webhook::span(delivery.id, Some(parent), attempt.number);
    let mut span = Span::new(SpanKind::Client, "POST", &event.trace_id, id)
        .child_of(parent)
        .lasted(attempt.started_at, took)
        .text("http.request.method", "POST")
        .text_if("server.address", endpoint.url.host_str())
        .text("hookgate.org_id", event.org_id.to_string())
        .text("hookgate.event_id", event.id.to_string())
        .text("hookgate.event_type", event.event_type.as_str())
        .text("hookgate.delivery_id", delivery.id.to_string())
        .text("hookgate.endpoint_id", endpoint.id.to_string())
        .text_if("hookgate.trace_text", event.trace_id.text());
    if let Some(port) = endpoint.url.port_or_known_default() {
        span = span.number("server.port", port);
    }
    if let Some(status) = attempt.status_code {
        span = span.number("http.response.status_code", status);
    }
    if attempt.number > 1 {
        span = span.number("http.request.resend_count", attempt.number - 1);
    }
    match (attempt.error_class, attempt.status_code) {
        (None, _) => span,
        (Some(ErrorClass::Status), Some(status)) => span.failed(&status.to_string()),
        (Some(class), _) => span.failed(class.as_str()),
    }
}
