//! The span of a batch that is stored: one transaction for events of many traces, to which it links.

use std::sync::Arc;

use crate::domain::{Event, SpanId, Timestamp, TraceId};
use crate::runtime::{Clock, Stopwatch};
use crate::store::{Persisted, StoreError};
use crate::telemetry::{Span, SpanKind, Tracer};

/// The span of a batch, until it is stored.
pub(super) struct StoreSpan {
    started_at: Timestamp,
    watch: Stopwatch,
}

impl StoreSpan {
    /// The span of a batch; `None` unless it has an event of a sampled trace.
    pub(super) fn begin(tracer: &Tracer, clock: &Clock, events: &[Arc<Event>]) -> Option<Self> {
        let is_sampled = tracer.is_on() && events.iter().any(|event| event.accept_span.is_some());
        is_sampled.then(|| Self { started_at: clock.now(), watch: Stopwatch::start() })
    }

    /// The batch was stored, or not. The span is the root of a trace of its own, since no event of a batch is more its
    /// cause than another.
    pub(super) fn ended(
        self,
        events: &[Arc<Event>],
        stored: &Result<Persisted, StoreError>,
    ) -> Span {
        let accepted =
            events.iter().filter_map(|event| event.accept_span.map(|span| (&event.trace_id, span)));
        let span = Span::new(SpanKind::Internal, "store batch", &TraceId::mint(), SpanId::mint())
            .lasted(self.started_at, self.watch.elapsed())
            .number("messaging.batch.message_count", events.len())
            .linked_to(accepted);
        match stored {
            Ok(persisted) => span
                .number("hookgate.events_stored", persisted.stored)
                .number("hookgate.events_duplicate", persisted.duplicates)
                .number("hookgate.deliveries_planned", persisted.planned),
            Err(StoreError::Refused(_) | StoreError::Corrupt(_)) => span.failed("refused"),
            Err(_) => span.failed("unavailable"),
        }
    }
}
