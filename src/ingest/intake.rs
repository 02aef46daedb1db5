//! Accepting events: the part of the way in that a tenant waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::{EventId, NewEvent, OrgId, Timestamp, TraceId};
use crate::journal::{AppendError, Journal, JournalStatus};
use crate::runtime::Clock;

use super::record::{self, RecordError, Shared};

/// Takes events in. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    journal: Journal,
    clock: Clock,
    order: Order,
}

/// Why events were not taken. None of them was.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The journal did not take them.
    #[error(transparent)]
    Journal(#[from] AppendError),
    /// They could not be written as a record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Intake {
    /// Takes events into `journal`.
    pub fn new(journal: Journal, clock: Clock) -> Self {
        Self { journal, clock, order: Order::default() }
    }

    /// Takes the events of one request, all or none. They are on stable storage when this returns
    /// their ids, in the order of `drafts`.
    pub async fn accept(
        &self,
        org_id: OrgId,
        drafts: &[NewEvent<'_>],
        trace_id: TraceId,
    ) -> Result<Vec<EventId>, AcceptError> {
        let received_at = self.order.next(self.clock.now(), drafts.len());
        let mint = |new_event: &NewEvent<'_>| match &new_event.dedup_id {
            Some(dedup_id) => EventId::from_dedup_id(org_id, dedup_id),
            None => EventId::mint(received_at),
        };
        let ids: Vec<EventId> = drafts.iter().map(mint).collect();
        let shared = Shared { org_id, received_at, trace_id };
        let record = record::encode(&shared, drafts, &ids)?;
        let events = u32::try_from(drafts.len()).unwrap_or(u32::MAX);
        self.journal.append(&record, events).await?;
        Ok(ids)
    }

    /// How the journal stands.
    pub fn status(&self) -> JournalStatus {
        self.journal.status()
    }
}

/// Hands out the moments at which events are accepted: each once, and ever later ones, whatever the
/// clock does. So these moments tell the order of events, for endpoints that want it.
#[derive(Clone, Debug, Default)]
struct Order(Arc<AtomicI64>);

impl Order {
    /// The first of `events` moments, a microsecond apart: `now`, or as soon after it as one is free.
    fn next(&self, now: Timestamp, events: usize) -> Timestamp {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        let after = |free: i64| free.max(now.micros()).saturating_add(events);
        // Which requests this puts in order is decided by the value alone, so no other is guarded.
        let free =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| Some(after(free)));
        let free = free.unwrap_or_else(|free| free);
        Timestamp::from_micros(free.max(now.micros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_handed_out_once_and_in_order_though_the_clock_is_set_back() {
        let order = Order::default();
        let next = |now, events| order.next(Timestamp::from_micros(now), events).micros();
        assert_eq!(next(100, 3), 100);
        assert_eq!(next(100, 1), 103);
        assert_eq!(next(50, 1), 104);
        assert_eq!(next(200, 1), 200);
    }
}
