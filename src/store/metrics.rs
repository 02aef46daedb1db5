//! Metrics of the store.

use crate::telemetry::{HistogramBy, SLOW_SECONDS, label, metrics};

metrics! {
    /// Metrics of the store.
    pub struct StoreMetrics {
        /// Duration of a store operation, in seconds.
        db_operations_latency_seconds: HistogramBy<DbOperation> = SLOW_SECONDS,
    }
}

label! {
    /// A timed operation of the store.
    pub enum DbOperation by "operation" {
        /// Writing a batch of events with their deliveries.
        PersistEvents = "persist_events",
        /// Claiming due deliveries.
        ClaimDeliveries = "claim_deliveries",
        /// Recording the outcomes of attempts.
        RecordOutcomes = "record_outcomes",
        /// Finding a key for authentication.
        FindKey = "find_key",
    }
}
