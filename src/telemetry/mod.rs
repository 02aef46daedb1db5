//! Telemetry: logs, metrics and traces for operators.
//!
//! Each subsystem declares its metrics in its own `metrics.rs` and is given them when it is built;
//! the [`Registry`] here collects them for `/metrics`. New metrics begin with `hookgate_` and have a
//! base unit at the end of their names; labels have few values, and none is a tenant's. Those that are declared
//! `@core` stay with `METRICS=core`: what dashboards and alerts need.

mod declare;
mod line_limit;
mod logs;
mod metric;
mod otlp;
mod process;
mod registry;

pub(crate) use declare::{label, metrics};
pub use line_limit::{LineLimit, OrgLines};
pub use logs::{LogFilter, init_logs, log_filter, set_log_filter};
pub use metric::{
    Buckets, COUNTS, Counter, CounterBy, CounterByText, DELIVERY_SECONDS, FAST_SECONDS,
    FloatCounter, Gauge, GaugeBy, GaugeByText, Histogram, HistogramBy, Kind, Label, Metric,
    SLOW_SECONDS,
};
pub use otlp::{
    ExportResult, OtlpExport, OtlpMetrics, OtlpStartError, Sampler, Span, SpanKind, Tracer,
};
pub use process::{ProcessMetrics, process_memory_bytes};
pub use registry::{Declaration, Family, Registry};
