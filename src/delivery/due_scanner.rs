//! The scanner: finds endpoints with due deliveries in the store, and ends lapsed leases.
//!
//! A damaged page of deliveries that are waiting or leased must not keep those of everybody from being found. So where a
//! look at them fails although the store can be reached, the scanner does without it: it names every endpoint, and the claim
//! finds the one at fault; and it ends lapsed leases range by range.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::runtime::Stopwatch;
use crate::store::{ClaimCursor, DueEndpoints, Result, Store};

/// How often lapsed leases are ended range by range while they cannot be ended together: it takes many statements.
const RANGES_PAUSE: Duration = Duration::from_secs(30);

/// Scans the store.
#[derive(Debug)]
pub(super) struct DueScanner {
    store: Store,
    /// Where the next scan continues.
    cursor: ClaimCursor,
    /// Whether the last scan failed although the store could be reached.
    is_damaged: bool,
    /// Since lapsed leases were last ended range by range, if they had to be.
    ranges_tried: Option<Stopwatch>,
}

impl DueScanner {
    pub(super) fn new(store: Store) -> Self {
        Self { store, cursor: ClaimCursor::default(), is_damaged: false, ranges_tried: None }
    }

    /// Finds endpoints with due deliveries, from where the last scan stopped.
    ///
    /// # Errors
    /// When the store cannot be reached, or the endpoints cannot be read either.
    pub(super) async fn scan(&mut self, now: Timestamp) -> Result<DueEndpoints> {
        let system = self.store.system();
        let found = match system.due_endpoints(self.cursor, now).await {
            Err(error) if !error.is_connection() => {
                if !std::mem::replace(&mut self.is_damaged, true) {
                    tracing::error!(%error,
                        "cannot scan for due deliveries; every endpoint is looked at instead");
                }
                system.endpoints_maybe_due(self.cursor).await?
            }
            result => {
                self.is_damaged &= result.is_err();
                result?
            }
        };
        self.cursor = found.next;
        Ok(found)
    }

    /// Ends lapsed leases, and returns how many. Where some cannot be read, now and then those of the others.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub(super) async fn release_lapsed(&mut self, now: Timestamp) -> Result<u64> {
        let system = self.store.system();
        let error = match system.release_lapsed(now).await {
            Err(error) if !error.is_connection() => error,
            result => {
                if result.is_ok() {
                    self.ranges_tried = None;
                }
                return result;
            }
        };
        match self.ranges_tried {
            Some(tried) if tried.elapsed() < RANGES_PAUSE => return Ok(0),
            Some(_) => {}
            None => {
                tracing::error!(%error, "cannot end lapsed leases; those that can be read are ended");
            }
        }
        self.ranges_tried = Some(Stopwatch::start());
        system.release_lapsed_by_range(now).await
    }
}
