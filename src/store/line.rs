//! The line for the one connection that writes, in a store that has just one.
//!
//! The pool serves in the order of asking. Most transactions are short: a few events, a change of an
//! endpoint. Some may be long, batches of events, batches of outcomes, claims and steps of what is done in
//! many, and a short one would wait for those behind which it came. So there is one long one in the line at a
//! time, and it lets those pass that wait. A batch looks every few rows whether another one does, and ends
//! early then, but not before it has had as much time as its commit takes: where commits are slow, half the
//! time is for rows all the same.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::runtime::Stopwatch;

/// Rows after which a long transaction looks, while short ones come: what takes as long as a commit.
const ROWS_BETWEEN_LOOKS: usize = 16;
/// The same while none comes.
const ROWS_UNDISTURBED: usize = 256;
/// How long after a short one others are expected.
const DISTURBED_FOR: Duration = Duration::from_millis(100);
/// How long a long one lets others pass. One that has waited for so long then takes as long.
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
    /// When a short one came last, in microseconds since then, plus one; 0 when none did.
    last_short: AtomicU64,
    /// How long the last commit of a long one took, in microseconds.
    last_commit: AtomicU64,
}

/// A place in the line of a short transaction that waits.
pub(super) struct Short<'a>(&'a Line);

/// The turn of a long transaction.
pub(super) struct Long<'a> {
    line: &'a Line,
    _turn: MutexGuard<'a, ()>,
    began: Stopwatch,
    /// How long it may take whoever waits.
    least: Duration,
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
            last_commit: AtomicU64::new(0),
        }
    }

    /// A place for a short one, to be given up when it has the connection.
    pub(super) fn short(&self) -> Short<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.last_short.store(micros(self.since.elapsed()) + 1, Ordering::Relaxed);
        Short(self)
    }

    /// A turn for a long one, when no short one waits or has been let pass for long enough. It begins when
    /// the long one [has](Long::begin) the connection.
    pub(super) async fn long(&self) -> Long<'_> {
        let turn = self.long.lock().await;
        let nobody_waits = async {
            while self.waiting.load(Ordering::Relaxed) > 0 {
                self.passed.notified().await;
            }
        };
        let passed = tokio::time::timeout(LET_PASS_MAX, nobody_waits).await.is_ok();
        let commit = Duration::from_micros(self.last_commit.load(Ordering::Relaxed));
        let least = if passed { commit.min(LET_PASS_MAX) } else { LET_PASS_MAX };
        Long { line: self, _turn: turn, began: Stopwatch::start(), least }
    }

    /// Lets one batch of events at a time ask for a long turn.
    pub(super) async fn events(&self) -> MutexGuard<'_, ()> {
        self.events.lock().await
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX - 1)
}

impl Drop for Short<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.passed.notify_one();
        }
    }
}

impl Long<'_> {
    /// Notes that it has the connection.
    pub(super) fn begin(&mut self) {
        self.began = Stopwatch::start();
    }

    /// The next rows to write, of which the first so many were; none when it is to end.
    pub(super) fn next_part<'r, T>(&self, rows: &'r [T], written: usize) -> &'r [T] {
        if written > 0 && self.is_waited_for() && self.began.elapsed() >= self.least {
            return &[];
        }
        let left = rows.get(written..).unwrap_or_default();
        &left[..left.len().min(self.rows_between_looks())]
    }

    /// Ends the turn with its commit.
    pub(super) async fn end<T>(self, commit: impl Future<Output = T>) -> T {
        let watch = Stopwatch::start();
        let done = commit.await;
        self.line.last_commit.store(micros(watch.elapsed()), Ordering::Relaxed);
        done
    }

    fn is_waited_for(&self) -> bool {
        self.line.waiting.load(Ordering::Relaxed) > 0
    }

    fn rows_between_looks(&self) -> usize {
        let last = self.line.last_short.load(Ordering::Relaxed);
        let ago = micros(self.line.since.elapsed()).saturating_sub(last);
        let is_quiet = last == 0 || Duration::from_micros(ago) > DISTURBED_FOR;
        if is_quiet { ROWS_UNDISTURBED } else { ROWS_BETWEEN_LOOKS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [(); 1_000] = [(); 1_000];

    #[tokio::test]
    async fn long_one_that_nobody_waits_for_goes_on() {
        let line = Line::new();
        let long = line.long().await;
        assert_eq!(long.next_part(&ROWS, 0).len(), ROWS_UNDISTURBED);
        assert_eq!(long.next_part(&ROWS, 900).len(), 100);
        assert!(long.next_part(&ROWS, ROWS.len()).is_empty());
    }

    #[tokio::test]
    async fn long_one_ends_early_for_a_short_one_but_not_without_a_row() {
        let line = Line::new();
        let long = line.long().await;
        let short = line.short();
        assert_eq!(long.next_part(&ROWS, 0).len(), ROWS_BETWEEN_LOOKS);
        assert!(long.next_part(&ROWS, ROWS_BETWEEN_LOOKS).is_empty());
        drop(short);
        assert_eq!(long.next_part(&ROWS, ROWS_BETWEEN_LOOKS).len(), ROWS_BETWEEN_LOOKS);
    }

    #[tokio::test(start_paused = true)]
    async fn long_one_lets_short_ones_pass_but_not_for_ever() {
        let line = Line::new();
        let short = line.short();
        let (long, ()) = tokio::join!(line.long(), async {
            tokio::time::sleep(LET_PASS_MAX / 2).await;
            drop(short);
        });
        assert_eq!(long.least, Duration::ZERO, "it found nobody there");
        drop(long);
        let _short = line.short();
        assert_eq!(line.long().await.least, LET_PASS_MAX, "it has waited for as long");
    }

    #[tokio::test]
    async fn long_one_takes_as_long_as_its_commit() {
        let line = Line::new();
        line.long().await.end(tokio::time::sleep(LET_PASS_MAX / 2)).await;
        assert!(line.long().await.least >= LET_PASS_MAX / 2);
        line.long().await.end(tokio::time::sleep(2 * LET_PASS_MAX)).await;
        assert_eq!(line.long().await.least, LET_PASS_MAX, "short ones wait for no longer");
    }
}
