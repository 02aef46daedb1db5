//! The scanner: finds endpoints with due deliveries in the store, and ends lapsed leases.
//!
//! A damaged page of deliveries that are waiting or leased must not keep those of everybody from being found. So where a
//! look at them fails although the store can be reached, the scanner does without it: it names every endpoint, and the claim
//! finds the one at fault; and it ends lapsed leases range by range.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::runtime::Stopwatch;
use crate::store::{ClaimCursor, DueEndpoints, LeaseCursor, Result, Store};

/// How often lapsed leases are ended range by range while they cannot be ended together: it takes many statements.
const RANGES_PAUSE: Duration = Duration::from_secs(30);

/// Scans the store.
#[derive(Debug)]
pub(super) struct DueScanner {
    store: Store,
    /// Where the next scan continues.
    cursor: ClaimCursor,
    /// Where the next look at every endpoint continues, during a round of those looks.
    any_cursor: Option<ClaimCursor>,
    /// Whether a scan failed although the store could be reached, and no whole round has succeeded since.
    is_damaged: bool,
    /// Since lapsed leases were last ended range by range, if they had to be.
    ranges_tried: Option<Stopwatch>,
    /// Where ending them range by range goes on.
    leases_cursor: LeaseCursor,
}

impl DueScanner {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            cursor: ClaimCursor::default(),
            any_cursor: None,
            is_damaged: false,
            ranges_tried: None,
            leases_cursor: LeaseCursor::default(),
        }
    }

    /// Finds endpoints with due deliveries, from where the last scan stopped.
    ///
    /// # Errors
    /// When the store cannot be reached, or the endpoints cannot be read either.
    pub(super) async fn scan(&mut self, now: Timestamp) -> Result<DueEndpoints> {
        if let Some(from) = self.any_cursor {
            return self.look_at_any(from).await;
        }
        let error = match self.store.system().due_endpoints(self.cursor, now).await {
            Err(error) if !error.is_connection() => error,
            result => {
                let found = result?;
                self.cursor = found.next;
                self.is_damaged &= found.more;
                return Ok(found);
            }
        };
        if !std::mem::replace(&mut self.is_damaged, true) {
            tracing::error!(%error,
                "cannot scan for due deliveries; every endpoint is looked at instead");
        }
        self.cursor = ClaimCursor::default();
        self.look_at_any(ClaimCursor::default()).await
    }

    /// Names the next endpoints whether something is due or not. Such a round is completed before the scan is tried again:
    /// that may fail at its start and succeed behind it, and would then end the round.
    async fn look_at_any(&mut self, from: ClaimCursor) -> Result<DueEndpoints> {
        match self.store.system().endpoints_maybe_due(from).await {
            Ok(found) => {
                self.any_cursor = found.more.then_some(found.next);
                Ok(found)
            }
            Err(error) => {
                self.any_cursor = self.any_cursor.filter(|_| error.is_connection());
                Err(error)
            }
        }
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
        let walked = system.release_lapsed_by_range(self.leases_cursor, now).await;
        // From the end of the walk: claims wait for it.
        self.ranges_tried = Some(Stopwatch::start());
        let (released, next) = walked?;
        self.leases_cursor = next;
        Ok(released)
    }
}
