//! Stores again what a server has stored since its last mark in the store, after a failover to a standby that may lack
//! it. The journal has those records still, as none is forgotten before the mark has passed it.
//!
//! # Order
//! It begins once everything that was durable when the failover was noticed is acknowledged. What was stored before the
//! failover is among that, in batches that were acknowledged out of turn or in parts, and the workers have kept the
//! order of what waited.

use std::io;

use super::event_storer::PATIENCE;
use super::journal_replay::{JournalReplay, ReplayCounts, next_records};
use crate::journal::{Journal, JournalError, Seq};
use crate::runtime::{Clock, Stopwatch};
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

/// The records that are to be stored again.
#[derive(Debug)]
pub struct StoredAgain {
    next: Seq,
    end: Seq,
    counts: ReplayCounts,
    /// Since when the next records fail.
    failing: Option<Stopwatch>,
}

impl StoredAgain {
    /// The records from `from` on that are durable now.
    pub fn since(from: Seq, journal: &Journal) -> Self {
        let end = journal.durable_below();
        Self { next: from, end, counts: ReplayCounts::default(), failing: None }
    }

    /// The position behind the last one.
    pub const fn end(&self) -> Seq {
        self.end
    }

    /// Stores what is left of them. May be cancelled, and repeated after an error: it goes on where it was.
    ///
    /// # Errors
    /// When the store fails, or the journal cannot be read.
    pub async fn store(
        &mut self,
        journal: &Journal,
        store: &Store,
        clock: Clock,
    ) -> Result<ReplayCounts, StoreAgainError> {
        let mut replay = JournalReplay::new(store.clone(), clock, None, self.next.get(), false);
        let (opened, from) = (journal.clone(), self.next);
        let mut records = blocking(move || opened.records_from(from)).await??;
        loop {
            let within = self.next.get()..self.end.get();
            let (left, step) = blocking(move || {
                let step = next_records(&mut records, within);
                (records, step)
            })
            .await?;
            records = left;
            let step = step?;
            let Some(last) = step.last() else { break };
            let failing = self.failing.as_ref();
            replay.set_failing_aside(failing.is_some_and(|since| since.elapsed() >= PATIENCE));
            let mut counts = self.counts;
            if let Err(error) = replay.store(&step, &mut counts).await {
                if error.is_connection() {
                    self.failing = None;
                } else {
                    self.failing.get_or_insert_with(Stopwatch::start);
                }
                return Err(error.into());
            }
            (self.counts, self.failing) = (counts, None);
            self.next = Seq::new(last.seq.get() + 1);
        }
        let lost = records.lost();
        if lost.stored + lost.waiting + self.counts.undecodable > 0 {
            tracing::error!(
                records = lost.stored + lost.waiting + self.counts.undecodable,
                "the database may lack events whose records in the journal are damaged"
            );
        }
        Ok(self.counts)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreAgainError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreAgainError::Stopping)
}
