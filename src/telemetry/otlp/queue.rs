//! The bounded queue between those who make spans or lines and the exporter.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::telemetry::Counter;

/// Spans or lines that wait for their export. Adding one takes a lock for a moment, and waits for nothing else.
#[derive(Debug)]
pub(super) struct ExportQueue<T> {
    items: Mutex<VecDeque<T>>,
    bounds: QueueBounds,
    batch_full: Notify,
    dropped: Counter,
}

/// How much waits, and how much is exported at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueBounds {
    pub(super) items_max: usize,
    pub(super) batch_max: usize,
}

impl<T> ExportQueue<T> {
    pub(super) fn new(bounds: QueueBounds, dropped: Counter) -> Self {
        Self { items: Mutex::default(), bounds, batch_full: Notify::new(), dropped }
    }

    /// Adds one, or drops it if the queue is full.
    pub(super) fn push(&self, item: T) {
        let waiting = {
            let mut items = self.lock();
            if items.len() >= self.bounds.items_max {
                drop(items);
                self.dropped.inc();
                return;
            }
            items.push_back(item);
            items.len()
        };
        if waiting == self.bounds.batch_max {
            self.batch_full.notify_one();
        }
    }

    /// Takes the oldest, at most as many as are exported at once.
    pub(super) fn take_batch(&self) -> Vec<T> {
        let mut items = self.lock();
        let count = items.len().min(self.bounds.batch_max);
        items.drain(..count).collect()
    }

    /// Resolves once a batch is full, or was since the last time. A hint: what waits is also exported by time.
    pub(super) async fn batch_full(&self) {
        self.batch_full.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn queue() -> (ExportQueue<u32>, Counter) {
        let dropped = Counter::new("dropped", "dropped").unwrap();
        let bounds = QueueBounds { items_max: 5, batch_max: 2 };
        (ExportQueue::new(bounds, dropped.clone()), dropped)
    }

    #[test]
    fn full_queue_drops_what_comes_and_counts_it() {
        let (queue, dropped) = queue();
        (0..7).for_each(|item| queue.push(item));
        assert_eq!(dropped.get(), 2);
        assert_eq!((queue.take_batch(), queue.take_batch()), (vec![0, 1], vec![2, 3]));
        queue.push(7);
        assert_eq!((queue.take_batch(), queue.take_batch()), (vec![4, 7], vec![]));
    }

    #[test]
    fn full_batch_is_told() {
        let (queue, _) = queue();
        queue.push(0);
        assert!(queue.batch_full().now_or_never().is_none());
        queue.push(1);
        assert!(queue.batch_full().now_or_never().is_some());
        assert!(queue.batch_full().now_or_never().is_none());
    }
}
