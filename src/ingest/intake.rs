//! Accepting events: the part of the way in that a tenant waits for.

use crate::domain::{Draft, EventId, OrgId, TraceId};
use crate::journal::{AppendError, Journal, JournalStatus};
use crate::runtime::Clock;

use super::record::{self, RecordError, Shared};

/// Takes events in. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    journal: Journal,
    clock: Clock,
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
    pub const fn new(journal: Journal, clock: Clock) -> Self {
        Self { journal, clock }
    }

    /// Takes the events of one request, all or none. They are on stable storage when this returns
    /// their ids, in the order of `drafts`.
    pub async fn accept(
        &self,
        org_id: OrgId,
        drafts: &[Draft<'_>],
        trace_id: TraceId,
    ) -> Result<Vec<EventId>, AcceptError> {
        let received_at = self.clock.now();
        let mint = |draft: &Draft<'_>| match &draft.dedup_id {
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
