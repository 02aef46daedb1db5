//! What a record of the journal keeps of the trace beside its id.

use serde::{Deserialize, Serialize};

use crate::domain::{SpanId, TraceId};

/// What is known of the trace beside its id.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct TraceFields<'a> {
    /// The caller's own text, if it is not the digits of the id.
    pub(super) text: Option<&'a str>,
    /// The span of the request that posted the events, the parent of all that follows; `None` unless it is recorded.
    parent_span: Option<[u8; 8]>,
    /// Whether the trace is recorded, as the caller decided or the sampler did for it. `None` counts as no, so that a
    /// record of an untraced request is no longer than its fields.
    is_sampled: Option<bool>,
}

impl<'a> TraceFields<'a> {
    /// The fields of a trace, with the span of the request if it is sampled.
    pub(super) fn of(trace_id: &'a TraceId, accept_span: Option<SpanId>) -> Self {
        let parent_span = accept_span.map(SpanId::bytes);
        Self { text: trace_id.text(), parent_span, is_sampled: parent_span.map(|_| true) }
    }

    /// The span, if the trace is sampled.
    pub(super) fn accept_span(&self) -> Option<SpanId> {
        let span = self.parent_span.filter(|_| self.is_sampled == Some(true))?;
        SpanId::from_bytes(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_counts_only_with_the_decision_to_record_it() {
        let span = SpanId::mint();
        for (parent_span, is_sampled, expected) in [
            (Some(span.bytes()), Some(true), Some(span)),
            (Some(span.bytes()), Some(false), None),
            (Some(span.bytes()), None, None),
            (Some([0; 8]), Some(true), None),
            (None, Some(true), None),
        ] {
            let fields = TraceFields { text: None, parent_span, is_sampled };
            assert_eq!(fields.accept_span(), expected, "{parent_span:?} {is_sampled:?}");
        }
    }
}
