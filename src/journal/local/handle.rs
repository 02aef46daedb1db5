//! The handle of an open journal: starts its threads, takes appends, and shuts it down.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::append_queue::{AppendQueue, QueueLimits, QueueState};
use super::file_system::{DirLock, FileSystem};
use super::format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::in_flight::InFlight;
use super::journal_records::JournalRecords;
use super::quarantine::{Quarantine, QuarantineContents};
use super::reader::{LocalReader, Unread};
use super::recovery::Recovered;
use super::segment_files::SegmentFiles;
use super::segment_manager::SegmentManager;
use super::segments::Segments;
use super::shares::Shares;
use super::write_watch::WriteWatch;
use super::writer::Writer;
use super::{JournalError, JournalOptions, clamped};
use crate::journal::metrics::JournalMetrics;
use crate::journal::{AppendError, JournalState, JournalStatus, Seq};
use crate::runtime::Stopwatch;

/// An open local journal. Clones share it; the last one dropped shuts it down.
#[derive(Clone)]
pub(in crate::journal) struct LocalJournal(Arc<Core>);

struct Core {
    queue: Arc<AppendQueue>,
    segments: Arc<Segments>,
    in_flight: Arc<InFlight>,
    watch: Arc<WriteWatch>,
    segment_bytes: u64,
    quarantine: Arc<Quarantine>,
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// Taken when the journal is shut down.
    running: Mutex<Option<Running>>,
}

struct Running {
    writer: JoinHandle<()>,
    segment_manager: JoinHandle<()>,
    /// Held until the threads have ended.
    _lock: Arc<dyn DirLock>,
}

/// Starts the threads of a recovered journal.
pub(super) fn start(
    options: &JournalOptions,
    fs: &Arc<dyn FileSystem>,
    metrics: &Arc<JournalMetrics>,
    recovered: Recovered,
    quarantine: Arc<Quarantine>,
    lock: Arc<dyn DirLock>,
) -> Result<(LocalJournal, LocalReader), JournalError> {
    let JournalOptions { dir, segment_bytes, .. } = options.clone();
    let files_max = options.bytes_max / segment_bytes;
    let open_dir = fs.open_dir(&dir).map_err(|error| JournalError::io("open", &dir, error))?;
    metrics.event_queue_size.set(clamped(recovered.report.items));
    let unread = Unread::at(recovered.start, &recovered.state.live);
    let segments =
        Arc::new(Segments::new(recovered.state, files_max, segment_bytes, options.confirms));
    let shares = Shares::new(options.owner, recovered.unstored, segments.free_bytes());
    metrics.hookgate_journal_unstored_bytes.set(clamped(shares.unstored()));
    let queue = Arc::new(AppendQueue::new(queue_limits(options), shares));
    if recovered.unsettled.is_some() {
        queue.set_full();
        segments.set_disk_full();
    }
    let in_flight = InFlight::new(Arc::clone(&segments), Arc::clone(&queue), Arc::clone(metrics));
    let in_flight = Arc::new(in_flight);
    let watch = Arc::new(WriteWatch::new(&options.clock, metrics));
    let segment_manager = SegmentManager {
        fs: Arc::clone(fs),
        dir: dir.clone(),
        open_dir: Arc::clone(&open_dir),
        id: recovered.id,
        segment_bytes,
        segments: Arc::clone(&segments),
        queue: Arc::clone(&queue),
        metrics: Arc::clone(metrics),
        watch: Arc::clone(&watch),
        quarantine: Arc::clone(&quarantine),
        checkpoint: recovered.checkpoint,
        spare_number: recovered.spare_number,
        last_checkpoint: None,
        checkpoint_failed: None,
        spare_failed: None,
        free_failed: None,
        give_up_failed: None,
        retention: options.retention,
        clock: options.clock.clone(),
        needs_space: false,
        disk_checked: None,
        lock: Arc::clone(&lock),
        lock_checked: Stopwatch::start(),
    };
    let writer = Writer {
        fs: Arc::clone(fs),
        dir: dir.clone(),
        open_dir,
        id: recovered.id,
        segment_bytes,
        queue: Arc::clone(&queue),
        segments: Arc::clone(&segments),
        metrics: Arc::clone(metrics),
        owner: options.owner,
        watch: Arc::clone(&watch),
        next_seq: recovered.next_seq,
        unsettled: recovered.unsettled,
        open: None,
        disk_is_full: false,
    };
    let reader = LocalReader {
        files: SegmentFiles {
            fs: Arc::clone(fs),
            dir: dir.clone(),
            id: recovered.id,
            quarantine: Arc::clone(&quarantine),
        },
        segments: Arc::clone(&segments),
        in_flight: Arc::clone(&in_flight),
        owner: options.owner,
        unread,
        lost: Unread::default(),
        position: recovered.start,
        reading: None,
    };
    let failed = |error| JournalError::io("start a thread for", &dir, error);
    let writer = spawn("journal-writer", move || writer.run()).map_err(failed)?;
    let segment_manager =
        spawn("journal-segments", move || segment_manager.run()).map_err(|error| {
            queue.close();
            failed(error)
        })?;
    let running = Mutex::new(Some(Running { writer, segment_manager, _lock: lock }));
    let fs = Arc::clone(fs);
    let core =
        Core { queue, segments, in_flight, watch, segment_bytes, quarantine, fs, dir, running };
    Ok((LocalJournal(Arc::new(core)), reader))
}

impl LocalJournal {
    /// Appends a record of `items` items, durably.
    pub(in crate::journal) async fn append(
        &self,
        record: &[u8],
        items: u32,
    ) -> Result<Seq, AppendError> {
        self.0.queue.push(record, items)?.await
    }

    /// What the quarantine holds. Blocks.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub(in crate::journal) fn quarantined(&self, max: usize) -> io::Result<QuarantineContents> {
        self.0.quarantine.contents(max)
    }

    /// The records from a seq on. Blocks.
    pub(in crate::journal) fn records_from(
        &self,
        from: Seq,
    ) -> Result<JournalRecords, JournalError> {
        JournalRecords::beside_server(&self.0.fs, &self.0.dir, from.0)
    }

    /// The seq below which all records are acknowledged, once it is above `above`.
    pub(in crate::journal) async fn acked_above(&self, above: Seq) -> Seq {
        Seq(self.0.segments.acked_above(above.0).await)
    }

    /// The seq behind the last durable record.
    pub(in crate::journal) fn durable_below(&self) -> Seq {
        Seq(self.0.segments.lock().synced)
    }

    /// Lets acknowledged records below a seq be forgotten.
    pub(in crate::journal) fn confirm(&self, below: Seq) {
        self.0.segments.confirm(below.0);
    }

    /// Refuses further appends.
    pub(in crate::journal) fn close(&self) {
        self.0.queue.close();
    }

    /// Closes, waits for the threads to end and the checkpoint to be written, and releases the directory.
    pub(in crate::journal) fn shut_down(&self) {
        self.0.shut_down();
    }

    /// Resolves once the journal is poisoned.
    pub(in crate::journal) async fn wait_poisoned(&self) {
        self.0.queue.wait_poisoned().await;
    }

    /// Resolves once the reader has reached the end and every batch is acknowledged.
    pub(in crate::journal) async fn wait_drained(&self) {
        self.0.in_flight.wait_drained().await;
    }

    /// The current state.
    pub(in crate::journal) fn status(&self) -> JournalStatus {
        let state = match self.0.queue.state() {
            QueueState::Open if self.0.watch.is_stalled() => JournalState::Stalled,
            QueueState::Open => JournalState::Open,
            QueueState::Full => JournalState::Full,
            QueueState::NoSegment => JournalState::NoSegment,
            QueueState::Closed => JournalState::Closed,
            QueueState::Poisoned => JournalState::Poisoned,
        };
        let oldest_unacked = self.0.in_flight.oldest_accepted_at();
        let segments = self.0.segments.lock();
        JournalStatus {
            state,
            items_waiting: segments.items_waiting,
            bytes: segments.bytes(self.0.segment_bytes),
            oldest_unacked,
        }
    }
}

impl Core {
    fn shut_down(&self) {
        self.queue.close();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { writer, segment_manager, _lock }) = running {
            // A thread that panicked has logged it, and has failed the appends it left.
            let _ = writer.join();
            self.segments.stop_manager();
            let _ = segment_manager.join();
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn queue_limits(options: &JournalOptions) -> QueueLimits {
    let frames_bytes = options.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES);
    let record_bytes_max =
        frames_bytes.saturating_sub(FRAME_HEADER_BYTES as u64).min(u64::from(u32::MAX));
    QueueLimits {
        appends: options.queue_capacity,
        bytes: options.queue_bytes_max,
        record_bytes: usize::try_from(record_bytes_max).unwrap_or(usize::MAX),
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}
