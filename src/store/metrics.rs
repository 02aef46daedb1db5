//! Metrics of the store.

use crate::telemetry::{Counter, CounterBy, Gauge, HistogramBy, SLOW_SECONDS, label, metrics};

metrics! {
    /// Metrics of the store.
    pub struct StoreMetrics {
        /// Duration of a store operation, in seconds.
        db_operations_latency_seconds: HistogramBy<DbOperation> = SLOW_SECONDS,
        /// Reads that were ended before their answer.
        hookgate_reads_ended_total: CounterBy<ReadEnd>,
        /// Reads that were repeated because their connection was lost.
        hookgate_reads_repeated_total: Counter,
        /// How far the replica in DATABASE_READ_URL is behind the primary, in seconds, rounded up.
        hookgate_replica_lag_seconds: Gauge,
        /// Reads that the primary got because the replica lagged, was away or failed them.
        hookgate_replica_fallbacks_total: Counter,
        /// Bytes of the database.
        hookgate_database_bytes: Gauge,
        /// Age of the oldest event in the store, in seconds; on PostgreSQL since its day began. 0 without one.
        hookgate_oldest_event_seconds: Gauge,
        /// Free bytes of the disk that has the least, of those that this server writes to.
        hookgate_disk_free_bytes: Gauge,
        /// Steps of a clock by more than a second, of this server's or of the database's.
        hookgate_clock_steps_total: Counter,
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
        /// Receiving events from an inbox.
        ReceiveEvents = "receive_events",
        /// Settling received events.
        SettleEvents = "settle_events",
        /// Finding a key for authentication.
        FindKey = "find_key",
    }
}

label! {
    /// The reason why a read was ended.
    pub enum ReadEnd by "reason" {
        /// It took longer than `READ_TIMEOUT`.
        TimedOut = "timed_out",
        /// Its caller was gone.
        Abandoned = "abandoned",
    }
}
