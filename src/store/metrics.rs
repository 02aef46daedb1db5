//! Metrics of the store.

use crate::telemetry::{
    Counter, CounterBy, Gauge, GaugeBy, HistogramBy, SLOW_SECONDS, label, metrics,
};

metrics! {
    /// Metrics of the store.
    pub struct StoreMetrics {
        /// Duration of a store operation, in seconds.
        @core db_operations_latency_seconds: HistogramBy<DbOperation> = SLOW_SECONDS,
        /// Reads that were ended before their answer.
        hookgate_reads_ended_total: CounterBy<ReadEnd>,
        /// Reads that were repeated because their connection was lost.
        hookgate_reads_repeated_total: Counter,
        /// How far the replica in DATABASE_READ_URL is behind the primary, in seconds, rounded up.
        @core hookgate_replica_lag_seconds: Gauge,
        /// Reads that the primary got because the replica lagged, was away or failed them.
        hookgate_replica_fallbacks_total: Counter,
        /// Bytes of the database.
        @core hookgate_database_bytes: Gauge,
        /// Age of the oldest event in the store, in seconds; on PostgreSQL since its day began. 0 without one.
        hookgate_oldest_event_seconds: Gauge,
        /// Free bytes of the disk that has the least, of those that this server writes to.
        @core hookgate_disk_free_bytes: Gauge,
        /// Steps of a clock by more than a second, of this server's or of the database's.
        hookgate_clock_steps_total: Counter,
        /// Deliveries of the whole store that are not finished, and dead letters that were not replayed, by state; of
        /// each state at most 100,000 are counted, every 30 seconds.
        @core hookgate_deliveries: GaugeBy<DeliveryState>,
        /// Connections to the database that may be open, by pool.
        @core hookgate_db_connections_max: GaugeBy<ConnectionPool>,
        /// Connections to the database that are open, by pool.
        hookgate_db_connections_open: GaugeBy<ConnectionPool>,
        /// Connections to the database that are in use, by pool.
        @core hookgate_db_connections_in_use: GaugeBy<ConnectionPool>,
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
    /// What an unfinished delivery waits for, or how it ended.
    pub enum DeliveryState by "state" {
        /// It is due, and no server holds it.
        Due = "due",
        /// It waits for the time of its next attempt.
        Scheduled = "scheduled",
        /// It goes to an ordered endpoint, and waits for its turn or its time.
        Ordered = "ordered",
        /// A server holds it, to attempt it.
        Leased = "leased",
        /// It waits in an inbox.
        Inbox = "inbox",
        /// It is a dead letter that was not replayed.
        Dead = "dead",
    }
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Due, Self::Scheduled, Self::Ordered, Self::Leased, Self::Inbox, Self::Dead];
}

label! {
    /// Connections to the database for a kind of work.
    pub enum ConnectionPool by "pool" {
        /// For storing and changes.
        General = "general",
        /// For key look-ups, the watch for revoked keys, and readiness.
        Keys = "keys",
        /// For claims and outcomes.
        Delivery = "delivery",
        /// For lists and look-ups.
        Reads = "reads",
        /// For lists and look-ups on the replica in `DATABASE_READ_URL`.
        Replica = "replica",
        /// SQLite's only connection that writes.
        Writer = "writer",
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
