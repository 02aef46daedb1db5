//! The admission queue for the single writer connection of SQLite.
//!
//! The connection pool serves in the order of asking. Most transactions are short: a few events, a change of an
//! endpoint. Some may be long: batches of events, batches of outcomes, claims, steps of background work. So that
//! a short transaction does not wait behind all long ones that came before it, at most one long transaction
//! queues for the connection at a time, and it lets waiting short ones go first. While it writes a batch, it
//! checks every few rows whether a short transaction waits, and if so commits early, but not before it has run as
//! long as its commit takes: where commits are slow, half of the time is still spent on rows.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::runtime::Stopwatch;

/// Rows between two checks while short transactions come: they take as long as a commit.
const ROWS_BETWEEN_CHECKS: usize = 16;
/// Rows between two checks when no short transaction came lately.
const ROWS_BETWEEN_CHECKS_IDLE: usize = 256;
/// Rows of a long transaction that is not cut short, while short transactions come and otherwise: some 5 ms and 20 ms.
const ROWS_AT_ONCE: usize = 128;
const ROWS_AT_ONCE_IDLE: usize = 512;
/// How long after a short transaction more of them are expected.
const BUSY_FOR: Duration = Duration::from_millis(100);
/// How long a long transaction lets short ones go first. After that it runs for as long itself.
const YIELD_MAX: Duration = Duration::from_millis(10);

/// The queue.
#[derive(Debug)]
pub(crate) struct WriteQueue {
    /// Held by the one large batch of events that writes or waits to: several workers write events, and
    /// the recorder of outcomes would get one turn per worker otherwise.
    events: Mutex<()>,
    long: Mutex<()>,
    /// Short transactions that wait.
    short_waiting: AtomicU32,
    no_short_waiting: Notify,
    since: Stopwatch,
    /// When a short transaction came last, in microseconds since `since`, plus one; 0 when none did.
    last_short: AtomicU64,
    /// How long the last commit of a long transaction took, in microseconds.
    last_commit: AtomicU64,
}

/// Announces a short transaction that waits for the connection.
pub(crate) struct ShortTicket<'a>(&'a WriteQueue);

/// The right to the one long transaction at a time.
#[derive(Debug)]
pub(crate) struct LongPermit<'a> {
    queue: &'a WriteQueue,
    _only: MutexGuard<'a, ()>,
    began: Stopwatch,
    /// How long it may run although short transactions wait.
    time_min: Duration,
}

impl WriteQueue {
    pub(super) fn new() -> Self {
        Self {
            events: Mutex::new(()),
            long: Mutex::new(()),
            short_waiting: AtomicU32::new(0),
            no_short_waiting: Notify::new(),
            since: Stopwatch::start(),
            last_short: AtomicU64::new(0),
            last_commit: AtomicU64::new(0),
        }
    }

    /// Announces a short transaction, until the ticket is dropped: when it has the connection.
    pub(super) fn short(&self) -> ShortTicket<'_> {
        self.short_waiting.fetch_add(1, Ordering::Relaxed);
        self.last_short.store(micros(self.since.elapsed()) + 1, Ordering::Relaxed);
        ShortTicket(self)
    }

    /// Waits until a long transaction may ask for the connection: no other one has the permit, and no short one
    /// waits, or they were let go first for long enough. Its time starts when it
    /// [has](LongPermit::begin) the connection.
    pub(super) async fn long(&self) -> LongPermit<'_> {
        let only = self.long.lock().await;
        let nobody_waits = async {
            while self.short_waiting.load(Ordering::Relaxed) > 0 {
                self.no_short_waiting.notified().await;
            }
        };
        let yielded = tokio::time::timeout(YIELD_MAX, nobody_waits).await.is_ok();
        let commit = Duration::from_micros(self.last_commit.load(Ordering::Relaxed));
        let time_min = if yielded { commit.min(YIELD_MAX) } else { YIELD_MAX };
        LongPermit { queue: self, _only: only, began: Stopwatch::start(), time_min }
    }

    /// How many rows a long transaction should write that is not cut short when others wait.
    pub(super) fn rows_at_once(&self) -> usize {
        if self.is_idle() { ROWS_AT_ONCE_IDLE } else { ROWS_AT_ONCE }
    }

    /// Whether no short transaction came lately.
    fn is_idle(&self) -> bool {
        let last = self.last_short.load(Ordering::Relaxed);
        let ago = micros(self.since.elapsed()).saturating_sub(last);
        last == 0 || Duration::from_micros(ago) > BUSY_FOR
    }

    /// Waits until no other batch of events has or awaits the long permit.
    pub(crate) async fn events(&self) -> MutexGuard<'_, ()> {
        self.events.lock().await
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX - 1)
}

impl Drop for ShortTicket<'_> {
    fn drop(&mut self) {
        if self.0.short_waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.no_short_waiting.notify_one();
        }
    }
}

impl LongPermit<'_> {
    /// Notes that the transaction has the connection.
    pub(super) fn begin(&mut self) {
        self.began = Stopwatch::start();
    }

    /// The next rows to write, of which the first `written` are; none when the transaction is to end.
    pub(crate) fn next_part<'r, T>(&self, rows: &'r [T], written: usize) -> &'r [T] {
        if written > 0 && self.short_waits() && self.began.elapsed() >= self.time_min {
            return &[];
        }
        let left = rows.get(written..).unwrap_or_default();
        &left[..left.len().min(self.rows_between_checks())]
    }

    /// Ends the transaction with its commit.
    pub(crate) async fn end<T>(self, commit: impl Future<Output = T>) -> T {
        let watch = Stopwatch::start();
        let done = commit.await;
        self.queue.last_commit.store(micros(watch.elapsed()), Ordering::Relaxed);
        done
    }

    fn short_waits(&self) -> bool {
        self.queue.short_waiting.load(Ordering::Relaxed) > 0
    }

    fn rows_between_checks(&self) -> usize {
        if self.queue.is_idle() { ROWS_BETWEEN_CHECKS_IDLE } else { ROWS_BETWEEN_CHECKS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [(); 1_000] = [(); 1_000];

    #[tokio::test]
    async fn long_transaction_goes_on_while_no_short_one_waits() {
        let queue = WriteQueue::new();
        let long = queue.long().await;
        assert_eq!(long.next_part(&ROWS, 0).len(), ROWS_BETWEEN_CHECKS_IDLE);
        assert_eq!(long.next_part(&ROWS, 900).len(), 100);
        assert!(long.next_part(&ROWS, ROWS.len()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn transaction_that_cannot_end_early_is_small_while_short_ones_come() {
        let queue = WriteQueue::new();
        assert_eq!(queue.rows_at_once(), ROWS_AT_ONCE_IDLE);
        drop(queue.short());
        assert_eq!(queue.rows_at_once(), ROWS_AT_ONCE);
    }

    #[tokio::test]
    async fn long_transaction_ends_early_for_a_short_one_but_not_without_a_row() {
        let queue = WriteQueue::new();
        let long = queue.long().await;
        let short = queue.short();
        assert_eq!(long.next_part(&ROWS, 0).len(), ROWS_BETWEEN_CHECKS);
        assert!(long.next_part(&ROWS, ROWS_BETWEEN_CHECKS).is_empty());
        drop(short);
        assert_eq!(long.next_part(&ROWS, ROWS_BETWEEN_CHECKS).len(), ROWS_BETWEEN_CHECKS);
    }

    #[tokio::test(start_paused = true)]
    async fn long_transaction_lets_short_ones_go_first_but_not_for_ever() {
        let queue = WriteQueue::new();
        let short = queue.short();
        let (long, ()) = tokio::join!(queue.long(), async {
            tokio::time::sleep(YIELD_MAX / 2).await;
            drop(short);
        });
        assert_eq!(long.time_min, Duration::ZERO, "nobody waits any more");
        drop(long);
        let _short = queue.short();
        assert_eq!(queue.long().await.time_min, YIELD_MAX, "it has waited for as long");
    }

    #[tokio::test]
    async fn long_transaction_may_take_as_long_as_its_commit() {
        let queue = WriteQueue::new();
        queue.long().await.end(tokio::time::sleep(YIELD_MAX / 2)).await;
        assert!(queue.long().await.time_min >= YIELD_MAX / 2);
        queue.long().await.end(tokio::time::sleep(2 * YIELD_MAX)).await;
        assert_eq!(queue.long().await.time_min, YIELD_MAX, "short ones wait for no longer");
    }
}
