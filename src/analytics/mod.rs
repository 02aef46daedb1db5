//! Analytics: keeps the store's rollups folded, and keeps answers that many ask for.
//!
//! # Operation
//! [`RollupFolder`] folds what storing and recording have appended, step by step, and leaves most of the store's time
//! to them. [`SummaryCache`] holds the summaries of accounts for at most a minute; of several who ask for one at a time,
//! one reads it.
//!
//! # Failure
//! While folding fails, reads add up more by themselves and stay exact; the number of deltas that wait is a
//! metric. A summary that cannot be read is not kept.

mod folder;
mod metrics;
mod summaries;

pub use folder::RollupFolder;
pub use metrics::AnalyticsMetrics;
pub use summaries::{KeptSummary, SummaryCache, SummaryKey};
