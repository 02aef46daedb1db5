//! The line for the one connection that writes, in a store that has just one.
//!
//! The pool serves in the order of asking. Most transactions are short: a few events, a change of an
//! endpoint. Some may be long, batches of events, batches of outcomes and claims, and a short one would wait
//! for those behind which it came. So there is one long one in the line at a time; it lets those pass that
//! wait. A batch looks every few rows whether another one does, and ends early then.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::runtime::Stopwatch;

/// Rows after which a long transaction looks, while short ones come: what takes as long as a commit.
const ROWS_BETWEEN_LOOKS: usize = 16;
/// The same while none comes.
const ROWS_UNDISTURBED: usize = 256;
/// What a long one may write that has let others pass for long enough.
const ROWS_AT_LAST: usize = 128;
/// How long after a short one others are expected.
const DISTURBED_FOR: Duration = Duration::from_millis(100);
/// How long a long one lets others pass.
const LET_PASS_MAX: Duration = Duration::from_millis(10);

/// Who waits, and who may be long.
#[derive(Debug)]
pub(super) struct Line {
    /// Held by the one batch of events that is long or about to be: the recorder of outcomes would get one
    /// turn for every worker's otherwise.
    events: Mutex<()>,
    long: Mutex<()>,
    /// Short ones that wait.
    waiting: AtomicU32,
    passed: Notify,
    since: Stopwatch,
    /// When a short one came last, in milliseconds since then, plus one; 0 when none did.
    last_short: AtomicU64,
}

/// A place in the line of a short transaction that waits.
pub(super) struct Short<'a>(&'a Line);

/// The turn of a long transaction.
pub(super) struct Long<'a> {
    line: &'a Line,
    _turn: MutexGuard<'a, ()>,
    /// Rows it may write whoever waits.
    rows_min: usize,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            events: Mutex::new(()),
            long: Mutex::new(()),
            waiting: AtomicU32::new(0),
            passed: Notify::new(),
            since: Stopwatch::start(),
            last_short: AtomicU64::new(0),
        }
    }

    /// A place for a short one, to be given up when it has the connection.
    pub(super) fn short(&self) -> Short<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.last_short.store(self.millis() + 1, Ordering::Relaxed);
        Short(self)
    }

    /// A turn for a long one, when no short one waits or has been let pass for long enough.
    pub(super) async fn long(&self) -> Long<'_> {
        let turn = self.long.lock().await;
        let nobody_waits = async {
            while self.waiting.load(Ordering::Relaxed) > 0 {
                self.passed.notified().await;
            }
        };
        let passed = tokio::time::timeout(LET_PASS_MAX, nobody_waits).await.is_ok();
        let rows_min = if passed { 0 } else { ROWS_AT_LAST };
        Long { line: self, _turn: turn, rows_min }
    }

    /// Lets one batch of events at a time ask for a long turn.
    pub(super) async fn events(&self) -> MutexGuard<'_, ()> {
        self.events.lock().await
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Short<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.passed.notify_one();
        }
    }
}

impl Long<'_> {
    /// Rows it should write before it looks whether to [`Self::end_after`] them.
    pub(super) fn rows_between_looks(&self) -> usize {
        let last = self.line.last_short.load(Ordering::Relaxed);
        let is_quiet = last == 0
            || Duration::from_millis(self.line.millis().saturating_sub(last)) > DISTURBED_FOR;
        if is_quiet { ROWS_UNDISTURBED } else { ROWS_BETWEEN_LOOKS.max(self.rows_min) }
    }

    /// Whether it should end, having written so many rows, since a short one waits.
    pub(super) fn ends_after(&self, rows: usize) -> bool {
        rows >= self.rows_min && self.line.waiting.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_one_that_nobody_waits_for_goes_on() {
        let line = Line::new();
        let long = line.long().await;
        assert_eq!(long.rows_between_looks(), ROWS_UNDISTURBED);
        assert!(!long.ends_after(10_000));
    }

    #[tokio::test]
    async fn a_long_one_ends_early_for_a_short_one() {
        let line = Line::new();
        let long = line.long().await;
        let short = line.short();
        assert_eq!(long.rows_between_looks(), ROWS_BETWEEN_LOOKS);
        assert!(long.ends_after(ROWS_BETWEEN_LOOKS));
        drop(short);
        assert!(!long.ends_after(ROWS_BETWEEN_LOOKS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_one_lets_short_ones_pass_but_not_for_ever() {
        let line = Line::new();
        let short = line.short();
        let (long, ()) = tokio::join!(line.long(), async {
            tokio::time::sleep(LET_PASS_MAX / 2).await;
            drop(short);
        });
        assert_eq!(long.rows_min, 0, "it found nobody there");
        drop(long);

        let _short = line.short();
        let long = line.long().await;
        assert!(!long.ends_after(ROWS_AT_LAST - 1), "it has waited for long enough");
        assert!(long.ends_after(ROWS_AT_LAST));
    }
}
