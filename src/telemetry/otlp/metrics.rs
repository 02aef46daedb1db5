//! Metrics of the export of traces and logs.

use crate::telemetry::{CounterBy, label, metrics};

metrics! {
    /// Metrics of the export of traces and logs.
    pub struct OtlpMetrics {
        /// Spans by what became of them.
        hookgate_otlp_spans_total: CounterBy<ExportResult>,
        /// Log lines by what became of them at the collector.
        hookgate_otlp_log_lines_total: CounterBy<ExportResult>,
    }
}

label! {
    /// What became of a span or a line.
    pub enum ExportResult by "result" {
        /// The collector took it.
        Exported = "exported",
        /// The queue was full.
        Dropped = "dropped",
        /// The collector refused it, or did not answer in time.
        Failed = "failed",
    }
}
