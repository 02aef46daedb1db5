//! Metrics of the journal.

use crate::telemetry::{COUNTS, Counter, Gauge, Histogram, SLOW_SECONDS, metrics};

metrics! {
    /// Metrics of the journal.
    pub struct JournalMetrics {
        /// Events in the journal that are not stored yet.
        @core event_queue_size: Gauge,
        /// Size of the journal's segment files, in bytes.
        @core journal_bytes: Gauge,
        /// Size of the journal's segment files that are only kept for a replay, in bytes.
        hookgate_journal_kept_bytes: Gauge,
        /// Size of the journal's segment files that are held, since a record in them could be neither decoded nor
        /// copied to the quarantine, in bytes.
        hookgate_journal_held_bytes: Gauge,
        /// Bytes of records in the journal that are not stored yet.
        @core hookgate_journal_unstored_bytes: Gauge,
        /// Bytes that the journal may have, `JOURNAL_MAX_MIB`.
        @core hookgate_journal_max_bytes: Gauge,
        /// Bytes in the journal that were skipped because they are damaged.
        hookgate_journal_damaged_bytes_total: Counter,
        /// Records in the journal that are lost to damage.
        @core hookgate_journal_lost_records_total: Counter,
        /// Servers that run on a copy of this server's data directory with the same database.
        @core hookgate_data_dir_copies: Gauge,
        /// 1 while a write or sync of the journal has not returned for more than 5 seconds, else 0.
        @core hookgate_journal_stalled: Gauge,
        /// Appends covered by one sync.
        journal_group_appends: Histogram = COUNTS,
        /// Time to write and sync a group of appends, in seconds.
        @core journal_sync_seconds: Histogram = SLOW_SECONDS,
    }
}
