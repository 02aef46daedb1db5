//! Stores again what a server has stored since a position, beside its own work: after a failover to a standby that may
//! lack it. The journal has those records still, as none is forgotten before the mark in the store has passed it.

use std::io;
use std::ops::Range;

use super::journal_replay::{JournalReplay, ReplayCounts, next_records};
use crate::journal::{Journal, JournalError, Seq};
use crate::runtime::Clock;
use crate::store::{Store, StoreError};

/// Why it failed. Repeating it stores nothing twice.
#[derive(Debug, thiserror::Error)]
pub enum StoreAgainError {
    /// The journal could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// One of its records could not be read.
    #[error("cannot read the journal: {0}")]
    Read(#[from] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The process ends.
    #[error("stopping")]
    Stopping,
}

/// Stores the events of the records in a range of positions, all of them acknowledged and none confirmed.
pub async fn store_again(
    journal: &Journal,
    store: &Store,
    clock: Clock,
    within: Range<u64>,
) -> Result<ReplayCounts, StoreAgainError> {
    let mut counts = ReplayCounts::default();
    let mut replay = JournalReplay::new(store.clone(), clock, None, within.start, false);
    let (opened, from) = (journal.clone(), Seq::new(within.start));
    let mut records = blocking(move || opened.records_from(from)).await??;
    loop {
        let within = within.clone();
        let (left, step) = blocking(move || {
            let step = next_records(&mut records, within);
            (records, step)
        })
        .await?;
        records = left;
        let step = step?;
        if step.is_empty() {
            return Ok(counts);
        }
        replay.store(&step, &mut counts).await?;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreAgainError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreAgainError::Stopping)
}
