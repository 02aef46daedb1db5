//! The exporter of one signal: takes batches from its queue and gives them to the collector.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::collector::{Collector, CollectorError};
use super::queue::ExportQueue;
use crate::runtime::{Backoff, Stopwatch};
use crate::telemetry::Counter;

/// The first wait before an export is repeated, doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(500);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);
/// The log tells at most once in this time that exports fail.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Exports one signal until it is stopped.
pub(super) struct Exporter<T> {
    /// What is exported, in the log.
    pub(super) items: &'static str,
    pub(super) queue: Arc<ExportQueue<T>>,
    pub(super) collector: Collector,
    /// Makes the message of a batch.
    pub(super) encode: Box<dyn Fn(Vec<T>) -> Vec<u8> + Send + Sync>,
    /// The longest wait from one export to the next.
    pub(super) delay: Duration,
    /// The longest time of one export, repetitions included.
    pub(super) timeout: Duration,
    pub(super) stop: CancellationToken,
    pub(super) exported: Counter,
    pub(super) failed: Counter,
    pub(super) failures: FailureReport,
}

/// What the log is told of failed exports.
#[derive(Debug, Default)]
pub(super) struct FailureReport {
    told: Option<Stopwatch>,
    /// Items lost since it was told.
    lost: usize,
    /// Whether the last that was told is a failure.
    is_failing: bool,
}

impl<T> Exporter<T> {
    /// Exports whenever a batch is full or the delay is over. At the stop, exports what waits, once.
    pub(super) async fn run(mut self) {
        loop {
            let is_last = tokio::select! {
                biased;
                () = self.stop.cancelled() => true,
                () = self.queue.batch_full() => false,
                () = sleep(self.delay) => false,
            };
            self.export_waiting().await;
            if is_last {
                return;
            }
        }
    }

    async fn export_waiting(&mut self) {
        loop {
            let batch = self.queue.take_batch();
            if batch.is_empty() {
                return;
            }
            let count = batch.len();
            let body = self.collector.body((self.encode)(batch));
            let exported = self.export(body).await;
            let counter = if exported.is_ok() { &self.exported } else { &self.failed };
            counter.inc_by(count as u64);
            self.failures.note(self.items, count, exported.err().as_deref());
        }
    }

    /// Exports one batch, with repetitions until its time is over.
    async fn export(&self, body: Bytes) -> Result<(), String> {
        let mut last = "no answer in time".to_owned();
        let repeated = async {
            let mut backoff = Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX);
            loop {
                let wait = match self.collector.post(body.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(CollectorError::Final(error)) => return Err(error),
                    Err(CollectorError::Temporary(error, wait)) => {
                        last = error;
                        wait.unwrap_or_else(|| backoff.next_wait())
                    }
                };
                tokio::select! {
                    () = self.stop.cancelled() => return Err(last.clone()),
                    () = sleep(wait) => {}
                }
            }
        };
        match timeout(self.timeout, repeated).await {
            Ok(ended) => ended,
            Err(_) => Err(last),
        }
    }
}

impl FailureReport {
    /// Notes the end of an export of so many items.
    fn note(&mut self, items: &'static str, count: usize, error: Option<&str>) {
        if let Some(error) = error {
            self.lost += count;
            if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                let lost = std::mem::take(&mut self.lost);
                tracing::warn!(items, lost, error, "the OpenTelemetry collector takes nothing");
                (self.told, self.is_failing) = (Some(Stopwatch::start()), true);
            }
        } else if self.is_failing {
            self.is_failing = false;
            tracing::info!(items, "the OpenTelemetry collector takes exports again");
        }
    }
}
