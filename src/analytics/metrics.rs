//! Metrics of analytics.

use crate::telemetry::{Counter, Gauge, Histogram, SLOW_SECONDS, metrics};

metrics! {
    /// Metrics of analytics.
    pub struct AnalyticsMetrics {
        /// Deltas of counts that are not folded into the rollups yet, at most 10,000 are counted.
        hookgate_rollup_deltas: Gauge,
        /// Events and outcomes that were folded into the rollups.
        hookgate_rollup_records_folded_total: Counter,
        /// Time to fold a step of deltas, in seconds.
        hookgate_rollup_fold_seconds: Histogram = SLOW_SECONDS,
    }
}
