//! Which trace a request belongs to, the caller's or a new one, and whom it came from.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::error::ApiError;
use crate::domain::TraceId;
use crate::runtime::Stopwatch;

/// Carries the trace id of every answer, and of requests whose senders do not speak W3C.
pub(super) const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// When and from whom a request came, and which trace it belongs to. The envelope notes it for the handlers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) trace_id: TraceId,
    pub(super) watch: Stopwatch,
    /// Whoever is connected: the client, or a proxy; `client` knows.
    pub(super) peer: IpAddr,
}

impl Arrival {
    /// Notes the arrival of a request with these headers.
    pub(super) fn note(headers: &HeaderMap, peer: IpAddr) -> Self {
        Self { trace_id: trace_id(headers), watch: Stopwatch::start(), peer }
    }
}

impl<S: Sync> FromRequestParts<S> for Arrival {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let arrival = parts.extensions.get::<Self>().copied();
        arrival.ok_or_else(|| ApiError::internal("a request came past the envelope"))
    }
}

/// The trace id in `x-trace-id`, or else in `traceparent`, or else a new one. What is malformed is
/// as good as absent, as W3C Trace Context asks.
fn trace_id(headers: &HeaderMap) -> TraceId {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let given = text(&X_TRACE_ID).and_then(|id| id.parse().ok());
    let parent = || text(&TRACEPARENT).and_then(|header| TraceId::from_traceparent(header).ok());
    given.or_else(parent).unwrap_or_else(TraceId::mint)
}

/// The trace id as a header's value.
pub(super) fn header_value(trace_id: TraceId) -> HeaderValue {
    let mut digits = [0; 32];
    let digits = Uuid::from_bytes(*trace_id.bytes()).simple().encode_lower(&mut digits);
    // Hexadecimal digits are always a valid value; the other branch is never taken.
    HeaderValue::from_str(digits).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn headers(entries: &[(&'static str, String)]) -> HeaderMap {
        let entry = |(name, value): &(&'static str, String)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn callers_trace_is_taken_from_either_header() {
        let traceparent = format!("00-{ID}-00f067aa0ba902b7-01");
        assert_eq!(trace_id(&headers(&[("x-trace-id", ID.to_owned())])).to_string(), ID);
        assert_eq!(trace_id(&headers(&[("traceparent", traceparent.clone())])).to_string(), ID);
        let other = "1".repeat(32);
        let both = headers(&[("x-trace-id", other.clone()), ("traceparent", traceparent)]);
        assert_eq!(trace_id(&both).to_string(), other);
    }

    #[test]
    fn malformed_trace_id_is_replaced() {
        let minted = trace_id(&headers(&[("x-trace-id", "nonsense".to_owned())]));
        assert_eq!(minted.to_string().len(), 32);
        assert_ne!(minted, trace_id(&HeaderMap::new()));
    }

    #[test]
    fn header_holds_the_id_as_it_is_written() {
        let trace_id = TraceId::mint();
        assert_eq!(header_value(trace_id), trace_id.to_string());
    }
}
