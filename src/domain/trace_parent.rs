//! The `traceparent` header of a request, <https://www.w3.org/TR/trace-context/#traceparent-header>.

use std::str::FromStr;

use super::trace::TraceIdError;
use super::{SpanId, TraceId};

/// A `traceparent` header: the span of the caller that a request belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The caller's span.
    pub span: SpanId,
    /// Whether the caller records the trace.
    pub is_sampled: bool,
}

/// Parses `00-<trace id>-<span id>-<flags>`. A later version may have more after it.
impl FromStr for TraceParent {
    type Err = TraceIdError;

    fn from_str(header: &str) -> Result<Self, Self::Err> {
        let trace_id = TraceId::from_traceparent(header)?;
        let mut parts = header.split('-').skip(2);
        let mut hex = || {
            let part = parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u64::from_str_radix(part, 16).ok()
        };
        let span = hex().and_then(|span| SpanId::from_bytes(span.to_be_bytes()));
        let (Some(span), Some(flags)) = (span, hex()) else { return Err(TraceIdError) };
        Ok(Self { trace_id, span, is_sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn header_tells_the_span_of_the_caller_and_its_decision() {
        for (flags, is_sampled) in [("01", true), ("00", false), ("03", true), ("02", false)] {
            let header = format!("00-{TRACE}-00f067aa0ba902b7-{flags}");
            let parent: TraceParent = header.parse().unwrap();
            assert_eq!(parent.trace_id.to_string(), TRACE);
            assert_eq!(parent.span.to_string(), "00f067aa0ba902b7");
            assert_eq!(parent.is_sampled, is_sampled, "{flags}");
            assert_eq!(SpanId::from_bytes(parent.span.bytes()), Some(parent.span));
        }
        for end in ["0000000000000000-01", "00f067aa0ba902b7-0g", "00f067aa0ba902+7-01", "a-01"] {
            assert!(format!("00-{TRACE}-{end}").parse::<TraceParent>().is_err(), "{end}");
        }
    }
}
