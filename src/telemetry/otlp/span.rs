//! A span that has ended, as it is exported.

use std::time::Duration;

use super::messages::{KeyValue, KindMessage, LinkMessage, Scalar, SpanMessage, SpanStatus};
use crate::domain::{SpanId, Timestamp, TraceId};

/// Maximum links of a span, as the specification has it; further ones are counted.
const LINKS_MAX: usize = 128;
/// The flag of a recorded trace.
const SAMPLED: u32 = 1;
/// The code of a failed span.
const STATUS_ERROR: i32 = 2;

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Work within this server.
    Internal,
    /// A request to this server.
    Server,
    /// A request of this server.
    Client,
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Span(pub(super) SpanMessage);

impl Span {
    /// A span of a trace. It lasts no time until [`Self::lasted`] says how long.
    pub fn new(kind: SpanKind, name: impl Into<String>, trace_id: &TraceId, id: SpanId) -> Self {
        let kind = match kind {
            SpanKind::Internal => KindMessage::Internal,
            SpanKind::Server => KindMessage::Server,
            SpanKind::Client => KindMessage::Client,
        };
        Self(SpanMessage {
            trace_id: trace_id.bytes().to_vec(),
            span_id: id.bytes().to_vec(),
            name: name.into(),
            kind: kind.into(),
            flags: SAMPLED,
            ..SpanMessage::default()
        })
    }

    /// Its parent in the trace.
    #[must_use]
    pub fn child_of(mut self, parent: SpanId) -> Self {
        self.0.parent_span_id = parent.bytes().to_vec();
        self
    }

    /// When it started, and how long it lasted.
    #[must_use]
    pub fn lasted(mut self, started_at: Timestamp, took: Duration) -> Self {
        let start = nanos(started_at);
        self.0.start_time_unix_nano = start;
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.end_time_unix_nano = start.saturating_add(took);
        self
    }

    /// An attribute with a text.
    #[must_use]
    pub fn text(mut self, key: &str, text: impl AsRef<str>) -> Self {
        self.0.attributes.push(KeyValue::new(key, text.as_ref()));
        self
    }

    /// An attribute with a text, if there is one.
    #[must_use]
    pub fn text_if(self, key: &str, text: Option<impl AsRef<str>>) -> Self {
        match text {
            Some(text) => self.text(key, text),
            None => self,
        }
    }

    /// An attribute with a number.
    #[must_use]
    pub fn number(mut self, key: &str, number: impl TryInto<i64>) -> Self {
        let number = number.try_into().unwrap_or(i64::MAX);
        self.0.attributes.push(KeyValue::new(key, Scalar::Int(number)));
        self
    }

    /// Links to spans of other traces.
    #[must_use]
    pub fn linked_to<'a>(mut self, spans: impl Iterator<Item = (&'a TraceId, SpanId)>) -> Self {
        for (trace_id, span) in spans {
            if self.0.links.len() == LINKS_MAX {
                self.0.dropped_links_count += 1;
                continue;
            }
            self.0.links.push(LinkMessage {
                trace_id: trace_id.bytes().to_vec(),
                span_id: span.bytes().to_vec(),
                flags: SAMPLED,
            });
        }
        self
    }

    /// It failed, by an error of this type.
    #[must_use]
    pub fn failed(mut self, error_type: &str) -> Self {
        self.0.status = Some(SpanStatus { message: error_type.to_owned(), code: STATUS_ERROR });
        self.text("error.type", error_type)
    }
}

pub(super) fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.micros()).unwrap_or(0).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_beyond_the_bound_are_counted() {
        let spans: Vec<_> = (0..130).map(|_| (TraceId::mint(), SpanId::mint())).collect();
        let span = Span::new(SpanKind::Internal, "a", &spans[0].0, spans[0].1);
        let Span(message) = span.linked_to(spans.iter().map(|(trace, span)| (trace, *span)));
        assert_eq!((message.links.len(), message.dropped_links_count), (LINKS_MAX, 2));
        assert_eq!(message.links[127].span_id, spans[127].1.bytes());
    }

    #[test]
    fn times_are_nanoseconds() {
        let span = Span::new(SpanKind::Server, "a", &TraceId::mint(), SpanId::mint());
        let Span(message) = span.lasted(Timestamp::from_micros(3), Duration::from_nanos(1_500));
        assert_eq!((message.start_time_unix_nano, message.end_time_unix_nano), (3_000, 4_500));
    }
}
