//! Accepting events: the part of ingest that a tenant waits for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::domain::{EventId, NewEvent, OrgId, SpanId, Timestamp, TraceId};
use crate::journal::{AppendError, Journal, JournalStatus, QuarantineContents};
use crate::runtime::{Clock, DiskLevel, DiskSpace};

use super::record::{self, RecordError, RecordHeader};

/// Accepts events into the journal. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    journal: Journal,
    clock: Clock,
    disk: DiskSpace,
    timestamps: Timestamps,
}

/// Why the events of a request were not accepted; none of them was.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The journal did not accept the record.
    #[error(transparent)]
    Journal(#[from] AppendError),
    /// Too little disk space is free.
    #[error("too little disk space is free")]
    StorageLow,
    /// The events cannot be encoded as a record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Intake {
    /// Accepts events into `journal`, as long as `disk` has room.
    pub fn new(journal: Journal, clock: Clock, disk: DiskSpace) -> Self {
        Self { journal, clock, disk, timestamps: Timestamps::default() }
    }

    /// Accepts the events of one request, all or none. They are on stable storage when this returns their ids, in the
    /// order of `events`. Their trace comes with the span of the request if it is sampled.
    pub async fn accept(
        &self,
        org_id: OrgId,
        events: &[NewEvent<'_>],
        (trace_id, accept_span): (TraceId, Option<SpanId>),
    ) -> Result<Vec<EventId>, AcceptError> {
        if self.disk.level() == DiskLevel::Full {
            return Err(AcceptError::StorageLow);
        }
        let received_at = self.timestamps.next(self.clock.now(), events.len());
        let mint = |new_event: &NewEvent<'_>| match &new_event.dedup_id {
            Some(dedup_id) => EventId::from_dedup_id(org_id, dedup_id),
            None => EventId::mint(received_at),
        };
        let ids: Vec<EventId> = events.iter().map(mint).collect();
        let header = RecordHeader { org_id, received_at, trace_id, accept_span };
        let record = record::encode(&header, events, &ids)?;
        let items = u32::try_from(events.len()).unwrap_or(u32::MAX);
        self.journal.append(&record, items).await?;
        Ok(ids)
    }

    /// A time after that of every event which this server has accepted, and before that of every later one.
    pub fn now(&self) -> Timestamp {
        self.timestamps.next(self.clock.now(), 1)
    }

    /// The free disk space.
    pub const fn disk(&self) -> &DiskSpace {
        &self.disk
    }

    /// What the journal's quarantine holds, `max` entries of it.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub async fn quarantined(&self, max: usize) -> io::Result<QuarantineContents> {
        let journal = self.journal.clone();
        spawn_blocking(move || journal.quarantined(max)).await?
    }

    /// The state of the journal.
    pub fn status(&self) -> JournalStatus {
        self.journal.status()
    }
}

/// How far allocated timestamps may be ahead of the clock, as after many events at once, before the clock counts as
/// set back: then they follow it.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// Allocates the timestamps of accepted events: unique and rising, unless the clock is set back.
#[derive(Clone, Debug, Default)]
struct Timestamps(Arc<AtomicI64>);

impl Timestamps {
    /// The first of `events` timestamps, one microsecond apart: `now`, or the next free one after it.
    fn next(&self, now: Timestamp, events: usize) -> Timestamp {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        let is_free = |free: i64| {
            let is_ahead = Timestamp::from_micros(free).since(now) > AHEAD_MAX;
            if is_ahead { now.micros() } else { free.max(now.micros()) }
        };
        let after = |free: i64| is_free(free).saturating_add(events);
        // Relaxed, since the value guards no other memory.
        let free =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| Some(after(free)));
        let free = free.unwrap_or_else(|free| free);
        Timestamp::from_micros(is_free(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_unique_and_rise_and_follow_a_clock_that_is_set_back() {
        let timestamps = Timestamps::default();
        let next = |now, events| timestamps.next(Timestamp::from_micros(now), events).micros();
        assert_eq!(next(100, 3), 100);
        assert_eq!(next(100, 1), 103);
        assert_eq!(next(50, 1), 104);
        assert_eq!(next(200, 1), 200);
        let day = 86_400_000_000;
        assert_eq!(next(day, 1), day);
        assert_eq!(next(300, 1), 300);
        assert_eq!(next(300, 1), 301);
    }
}
