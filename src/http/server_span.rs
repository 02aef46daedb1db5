//! The span of a request that posts events: what a trace shows of accepting them.
//!
//! Reads and changes have none: their lines are in the access log.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, Method, StatusCode};

use super::paths::{BATCHES, RAW_EVENTS, SINGLE_EVENTS};
use crate::domain::{EventId, OrgId, SpanId, Timestamp, TraceId, TraceParent};
use crate::telemetry::{Span, SpanKind, Tracer};

/// The span of the caller, and of which trace it is.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The span of a request whose trace is sampled, until it is answered. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ServerSpan(Arc<OpenSpan>);

#[derive(Debug)]
struct OpenSpan {
    id: SpanId,
    /// The span of the caller.
    parent: Option<SpanId>,
    route: &'static str,
    accepted: OnceLock<AcceptedEvents>,
}

/// What the request has brought.
#[derive(Debug)]
struct AcceptedEvents {
    org_id: OrgId,
    first: Option<EventId>,
    count: usize,
}

impl ServerSpan {
    /// The span of a request to a route; `None` unless it posts events and its trace is sampled. The caller's span is its
    /// parent if it is of the same trace, which it is not if an `x-trace-id` beside it names another.
    pub(super) fn begin(
        tracer: &Tracer,
        (method, route): (&Method, &'static str),
        headers: &HeaderMap,
        trace_id: &TraceId,
    ) -> Option<Self> {
        let sampler = tracer.sampler()?;
        if *method != Method::POST || !posts_events(route) {
            return None;
        }
        let parent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let parent = parent.and_then(|header| header.parse::<TraceParent>().ok());
        let parent = parent.filter(|parent| parent.trace_id.bytes() == trace_id.bytes());
        let caller = parent.as_ref().map(|parent| parent.is_sampled);
        sampler.samples(trace_id, caller).then(|| {
            let parent = parent.map(|parent| parent.span);
            Self(Arc::new(OpenSpan {
                id: SpanId::mint(),
                parent,
                route,
                accepted: OnceLock::new(),
            }))
        })
    }

    /// Its id.
    pub(super) fn id(&self) -> SpanId {
        self.0.id
    }

    /// Events of the request were accepted.
    pub(super) fn accepted(&self, org_id: OrgId, ids: &[EventId]) {
        let accepted = AcceptedEvents { org_id, first: ids.first().copied(), count: ids.len() };
        // A request accepts once.
        let _ = self.0.accepted.set(accepted);
    }

    /// Whether a request that was answered so is recorded: its events were accepted, or the server failed. What is refused
    /// is not, or anybody without a key could fill the queue of the export.
    pub(super) fn is_of_use(&self, status: StatusCode) -> bool {
        self.0.accepted.get().is_some() || status.is_server_error()
    }

    /// The request was answered at this time, so long after it came.
    pub(super) fn ended(
        &self,
        trace_id: &TraceId,
        status: StatusCode,
        (at, took): (Timestamp, Duration),
    ) -> Span {
        let OpenSpan { id, parent, route, accepted } = &*self.0;
        let mut span = Span::new(SpanKind::Server, format!("POST {route}"), trace_id, *id)
            .lasted(at.minus(took), took)
            .text("http.request.method", "POST")
            .text("http.route", route)
            .number("http.response.status_code", status.as_u16())
            .text_if("hookgate.trace_text", trace_id.text());
        if let Some(parent) = parent {
            span = span.child_of(*parent);
        }
        if let Some(AcceptedEvents { org_id, first, count }) = accepted.get() {
            span = span
                .text("hookgate.org_id", org_id.to_string())
                .text_if("hookgate.event_id", first.map(|id| id.to_string()))
                .number("messaging.batch.message_count", *count);
        }
        // By the conventions, a refusal is no error of the server.
        if status.is_server_error() { span.failed(status.as_str()) } else { span }
    }
}

fn posts_events(route: &str) -> bool {
    route == SINGLE_EVENTS || route == BATCHES || RAW_EVENTS.contains(&route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracer_that_is_off_begins_nothing() {
        let (headers, trace) = (HeaderMap::new(), TraceId::mint());
        let begun =
            ServerSpan::begin(&Tracer::off(), (&Method::POST, SINGLE_EVENTS), &headers, &trace);
        assert!(begun.is_none());
    }

    #[test]
    fn every_route_that_posts_events_has_spans() {
        for route in crate::http::router::route_table() {
            let is_known = posts_events(route.path);
            assert_eq!(
                is_known,
                ["/api/events", "/api/events/batch", "/api/events/raw", "/api/v1/events"]
                    .contains(&route.path)
            );
        }
    }
}
