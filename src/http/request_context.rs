//! Request context: the trace id (the caller's or a new one), the start time and the peer.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::error::ApiError;
use super::server_span::{ServerSpan, TRACEPARENT};
use crate::domain::{ClientNetwork, TraceId};
use crate::runtime::{Clock, Stopwatch};
use crate::telemetry::LineLimit;

/// The trace id of every answer; in requests, for senders that do not use W3C Trace Context.
pub(super) const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// When and from where a request came, and which trace it belongs to. The middleware makes it.
#[derive(Clone, Debug)]
pub(super) struct RequestContext {
    pub(super) trace_id: TraceId,
    /// Its span, if it posts events and its trace is sampled.
    pub(super) span: Option<ServerSpan>,
    /// Runs since the head of the request arrived.
    pub(super) watch: Stopwatch,
    /// The other end of the connection: the client, or a proxy; see [`client_ip`](super::client_ip).
    pub(super) peer: IpAddr,
}

impl RequestContext {
    /// The context of a request with these headers that arrives now.
    pub(super) fn new(headers: &HeaderMap, peer: IpAddr, clock: &Clock) -> Self {
        let (trace_id, replaced) = trace_id(headers, || TraceId::mint_at(clock.now()));
        if let Some(bytes) = replaced {
            log_replaced(peer, bytes, &trace_id);
        }
        Self { trace_id, span: None, watch: Stopwatch::start(), peer }
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let context = parts.extensions.get::<Self>().cloned();
        context.ok_or_else(|| ApiError::internal("the request bypassed the middleware"))
    }
}

/// Trace ids that were replaced. Whose key it is is not known yet, so the lines are limited by where requests come from.
static REPLACED: LineLimit<ClientNetwork> = LineLimit::new();

/// Tells that a trace id was replaced. Its text is anybody's, so only its length is logged.
fn log_replaced(peer: IpAddr, bytes: usize, trace_id: &TraceId) {
    if let Some(unlogged) = REPLACED.due(ClientNetwork::of(peer)) {
        tracing::warn!(
            %peer, %trace_id, bytes, unlogged,
            "replaced an x-trace-id that is not 1 to 128 visible ASCII characters"
        );
    }
}

/// The trace id in `x-trace-id`, or else in `traceparent`, or else a new one. A malformed one is replaced, as W3C Trace
/// Context requires; its length in bytes comes with the one instead.
fn trace_id(headers: &HeaderMap, mint: impl Fn() -> TraceId) -> (TraceId, Option<usize>) {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let parent = text(&TRACEPARENT).and_then(|header| TraceId::from_traceparent(header).ok());
    if !headers.contains_key(&X_TRACE_ID) {
        return (parent.unwrap_or_else(mint), None);
    }
    let given = TraceId::from_header(text(&X_TRACE_ID).unwrap_or_default(), parent.clone());
    match given {
        Ok(given) => (given, None),
        Err(_) => (parent.unwrap_or_else(mint), Some(headers[&X_TRACE_ID].len())),
    }
}

/// The trace id as a header's value.
pub(super) fn header_value(trace_id: &TraceId) -> HeaderValue {
    if let Some(Ok(text)) = trace_id.text().map(HeaderValue::from_str) {
        return text;
    }
    let mut digits = [0; 32];
    let digits = Uuid::from_bytes(*trace_id.bytes()).simple().encode_lower(&mut digits);
    // Hexadecimal digits are always a valid header value; the other branch is never taken.
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

    fn of(headers: &HeaderMap) -> TraceId {
        trace_id(headers, TraceId::mint).0
    }

    #[test]
    fn callers_trace_is_taken_from_either_header() {
        let traceparent = format!("00-{ID}-00f067aa0ba902b7-01");
        assert_eq!(of(&headers(&[("x-trace-id", ID.to_owned())])).to_string(), ID);
        assert_eq!(of(&headers(&[("traceparent", traceparent.clone())])).to_string(), ID);
        let other = "1".repeat(32);
        let both = headers(&[("x-trace-id", other.clone()), ("traceparent", traceparent)]);
        assert_eq!(of(&both).to_string(), other);
    }

    #[test]
    fn malformed_trace_id_is_replaced() {
        for nonsense in [String::new(), "a b".to_owned(), "x".repeat(129)] {
            let minted = of(&headers(&[("x-trace-id", nonsense.clone())]));
            assert_eq!(minted.to_string().len(), 32);
            assert_ne!(minted, of(&HeaderMap::new()));
            let parent = ("traceparent", format!("00-{ID}-00f067aa0ba902b7-01"));
            let replaced = of(&headers(&[("x-trace-id", nonsense), parent]));
            assert_eq!(replaced.to_string(), ID);
        }
    }

    #[test]
    fn header_holds_the_id_as_it_is_written() {
        for trace_id in [TraceId::mint(), TraceId::from_header("demo-123", None).unwrap()] {
            assert_eq!(header_value(&trace_id), trace_id.to_string());
        }
    }
}
