//! The tracer: what parts of the server record spans with.

use std::sync::Arc;

use super::queue::ExportQueue;
use super::sampler::Sampler;
use super::span::Span;

/// Records spans, or does nothing. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<ActiveTracer>>);

#[derive(Debug)]
struct ActiveTracer {
    sampler: Sampler,
    spans: Arc<ExportQueue<Span>>,
}

impl Tracer {
    /// A tracer that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    pub(super) fn new(sampler: Sampler, spans: Arc<ExportQueue<Span>>) -> Self {
        Self(Some(Arc::new(ActiveTracer { sampler, spans })))
    }

    /// Which traces are recorded; `None` if none is, whatever callers want.
    pub fn sampler(&self) -> Option<Sampler> {
        self.0.as_ref().map(|recording| recording.sampler)
    }

    /// Whether spans of sampled traces are recorded.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records a span of a sampled trace. It is made only if spans are recorded, and dropped if too many wait.
    pub fn record(&self, span: impl FnOnce() -> Span) {
        if let Some(recording) = &self.0 {
            recording.spans.push(span());
        }
    }
}
