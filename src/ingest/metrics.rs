//! Metrics of the ingest workers.

use crate::telemetry::{Counter, metrics};

metrics! {
    /// Metrics of the ingest workers.
    pub struct IngestMetrics {
        /// Events stored.
        events_stored_total: Counter,
        /// Events dropped because their dedup_id was used before.
        events_duplicate_total: Counter,
        /// Events that the store rejected because of their content.
        events_unstorable_total: Counter,
        /// Journal records that this version cannot decode; they are quarantined.
        hookgate_records_undecodable_total: Counter,
        /// Deliveries created for stored events.
        deliveries_planned_total: Counter,
    }
}
