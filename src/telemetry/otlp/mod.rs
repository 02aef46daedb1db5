//! Export of traces and logs to an OpenTelemetry collector, over OTLP/HTTP.
//!
//! # Purpose
//! An operator who sets `OTEL_EXPORTER_OTLP_ENDPOINT` sees in a trace how an event was accepted, stored and attempted, and
//! finds the log lines beside it.
//!
//! # Operation
//! ```text
//! Tracer::record ─┐                        ┌─ batch full, or schedule delay over
//!                 ├─ ExportQueue (bounded) ┴─ Exporter ── gzip ── POST ── collector
//! LogExportLayer ─┘
//! ```
//! Spans are made whole, when what they tell has ended, by who knows it; there is no span in progress, no context of a
//! thread, and without an endpoint nothing but a branch. A trace is sampled where its event is accepted. The span of that
//! request travels with the event through journal and store, so that whoever delivers it, later or on another server,
//! records the attempts under it.
//!
//! # Failure
//! A collector that is slow, full or away costs spans and lines and nothing else: a queue that is full drops what comes,
//! and an export that fails is repeated until its timeout, then lost. Both are counted, and the log tells it once a minute.
//! At the stop, what waits is exported within a bound.
//!
//! The messages of the protocol are declared here ([`messages`]), a hundred lines of a format that is stable since
//! version 1.0, instead of taken from the OpenTelemetry SDK: its exporter starts two threads, reads the environment by
//! itself, cannot tell how much it drops, and brings a second version of `rand`. A test decodes what is sent with the
//! official types.
//!
//! **Invariant:** nothing of the export is exported: its own lines, and those of the HTTP libraries it uses, go to standard
//! error only.

mod collector;
mod exporter;
mod log_layer;
mod messages;
mod metrics;
mod queue;
mod sampler;
mod span;
mod start;
mod start_error;
mod tracer;

pub(super) use log_layer::LogExportLayer;
pub use metrics::{ExportResult, OtlpMetrics};
pub use sampler::Sampler;
pub use span::{Span, SpanKind};
pub use start::OtlpExport;
pub use start_error::OtlpStartError;
pub use tracer::Tracer;
