//! Metrics of the ingest workers.

use crate::telemetry::{Counter, Gauge, GaugeBy, label, metrics};

metrics! {
    /// Metrics of the ingest workers.
    pub struct IngestMetrics {
        /// Events stored.
        @core events_stored_total: Counter,
        /// Events dropped because their dedup_id was used before.
        @core events_duplicate_total: Counter,
        /// Events that the store rejected because of their content.
        @core events_unstorable_total: Counter,
        /// Journal records that this version cannot decode; they are quarantined.
        @core hookgate_records_undecodable_total: Counter,
        /// Deliveries created for stored events.
        @core deliveries_planned_total: Counter,
        /// Events in the journal that are not stored yet, by the priority they are stored with.
        @core hookgate_journal_backlog_events: GaugeBy<BacklogPriority>,
    }
}

label! {
    /// With which priority events of the journal are stored.
    pub enum BacklogPriority by "priority" {
        /// They are not read yet, so it is not known, or have to be read again.
        Unread = "unread",
        /// Organisations with few events in a batch come first.
        Fast = "fast",
        /// Organisations with many events in a batch.
        Bulk = "bulk",
        /// Organisations with ordered endpoints wait for their earlier batches.
        Ordered = "ordered",
    }
}

impl IngestMetrics {
    /// Counts events that were read until the guard is dropped.
    pub(super) fn reading(&self, priority: BacklogPriority, events: usize) -> BacklogGuard {
        let gauge = self.hookgate_journal_backlog_events.of(priority).clone();
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        gauge.add(events);
        BacklogGuard { gauge, events }
    }

    /// Sets how many events were not read, of so many that are not stored.
    pub fn set_unread(&self, unstored: u64) {
        let of = |priority| self.hookgate_journal_backlog_events.of(priority);
        let read = [BacklogPriority::Fast, BacklogPriority::Bulk, BacklogPriority::Ordered];
        let read: i64 = read.into_iter().map(|priority| of(priority).get()).sum();
        let unstored = i64::try_from(unstored).unwrap_or(i64::MAX);
        of(BacklogPriority::Unread).set(unstored.saturating_sub(read).max(0));
    }
}

/// Events that are being stored with a priority.
pub(super) struct BacklogGuard {
    gauge: Gauge,
    events: i64,
}

impl Drop for BacklogGuard {
    fn drop(&mut self) {
        self.gauge.sub(self.events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Registry;

    #[test]
    fn backlog_is_what_is_read_and_what_is_not() {
        let metrics = IngestMetrics::register(&Registry::new()).unwrap();
        let of = |priority| metrics.hookgate_journal_backlog_events.of(priority).get();
        let fast = metrics.reading(BacklogPriority::Fast, 3);
        let bulk = metrics.reading(BacklogPriority::Bulk, 4);
        metrics.set_unread(10);
        assert_eq!((of(BacklogPriority::Unread), of(BacklogPriority::Fast)), (3, 3));
        drop(fast);
        metrics.set_unread(2);
        let found = [BacklogPriority::Unread, BacklogPriority::Fast, BacklogPriority::Bulk].map(of);
        assert_eq!(found, [0, 0, 4], "the journal may have acknowledged what is still counted");
        drop(bulk);
        assert_eq!(of(BacklogPriority::Bulk), 0);
    }
}
