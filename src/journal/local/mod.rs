//! The journal: the durable queue between a `202` and the store.
//!
//! # Purpose
//! An append that returns is on stable storage, and its record is handed to the reader at least
//! once, across any crash, until [`Journal::finished`] has said that it is stored. One append is one
//! record: it is there as a whole or not at all.
//!
//! # Constraints
//! - A record's bytes are the caller's business; the journal adds a count of the items in it.
//! - One process owns the directory, by a lock on its `lock` file; one reader reads it.
//! - Memory is bounded by [`JournalOptions::queue_bytes_max`] and by what the reader has handed out;
//!   disk by [`JournalOptions::bytes_max`], and what damage was kept aside.
//!
//! # Operation
//! ```text
//! append --> queue --> writer thread --> NNN.segment --> reader --> caller --> finished
//!            (one       (one write,      (preallocated)                          |
//!            buffer)     one fdatasync                                           v
//!                        a group)             keeper thread: checkpoint, spare segments
//! ```
//! What arrives while one group is synced becomes the next group ([`append_queue`]), which is written in
//! one call, synced once and acknowledged together ([`writer`]). The reader reads the files back, up
//! to what is synced and never beyond ([`reader`]). A keeper prepares segments ahead of need, writes
//! the checkpoint and takes finished segments away ([`segment_manager`]). What the bytes are is in
//! [`format`](self::format), how they are put in order after a crash in [`recovery`]. Every call to
//! the file system goes through [`Disk`].
//!
//! # Failure
//! - A write or sync that fails poisons the journal: what waits fails, and so does every append from
//!   then on. The sync is never repeated, since after a failed one the page cache may claim what the
//!   disk does not hold. A restart recovers what the disk holds.
//! - No room for another segment, on the disk or under `bytes_max`, is no failure: appends answer
//!   [`AppendError::Full`] until there is room.
//! - A torn tail is cut. Damage before it is reported with file and offset, copied to `damaged/`,
//!   and passed by: the records behind it are recovered.
//!
//! **Invariant:** group N+1 is not written before group N is synced.
//!
//! **Invariant:** the checkpoint is durable before a segment below it is taken away.
//!
//! **Invariant:** no record lies below the first seq of the segment that holds it, so leftovers in a
//! segment that is used again are never taken for records.

mod append_queue;
mod checkpoint;
mod file_system;
mod format;
mod frame_scan;
mod group_commit;
mod quarantine;
mod reader;
mod recovery;
mod segment_manager;
mod segment_scan;
mod segments;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::domain::InstanceId;
use crate::telemetry::Metrics;

pub use file_system::{Disk, DiskFile, DiskLock, SystemDisk};
pub use quarantine::Damage;
pub use reader::{JournalReader, Record};
pub use recovery::Recovery;

use append_queue::{Gate, Queue, QueueLimits};
use format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use recovery::{Recovered, recover};
use segment_manager::Keeper;
use segments::{Segments, State};
use writer::Writer;

const LOCK_NAME: &str = "lock";
const CHECKPOINT_NAME: &str = "checkpoint";
const DAMAGED_DIR: &str = "damaged";
const SPARE_PREFIX: &str = "spare-";

/// Bytes of appends that may wait for a sync, unless set otherwise.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Segments at least: one to write to while another is read.
const SEGMENTS_MIN: u64 = 2;

/// How a journal is to be.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Where it lies; made if need be.
    pub dir: PathBuf,
    /// Bytes in one segment file; no record is longer.
    pub segment_bytes: u64,
    /// Bytes of segments on disk at most, and two segments at least.
    pub bytes_max: u64,
    /// Appends that may wait for a sync.
    pub queue_capacity: usize,
    /// Bytes that may wait for a sync. A single append may wait whatever its size.
    pub queue_bytes_max: usize,
}

/// A record's place in the journal: 1 for the first ever appended, and rising.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Seq(u64);

impl Seq {
    /// The place behind this one: what [`Journal::finished`] is told once this record is stored.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Why an append was not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// There is no room on disk; there will be when records have been stored.
    #[error("the journal is full")]
    Full,
    /// Too many appends, or bytes, wait for the next sync.
    #[error("too many appends wait for the journal")]
    Busy,
    /// A write or a sync has failed; nothing is accepted until a restart. The record may or may
    /// not be found then.
    #[error("the journal is poisoned: a write or a sync has failed")]
    Poisoned,
    /// The journal is closing.
    #[error("the journal is closed")]
    Closed,
    /// The record does not fit a segment.
    #[error("the record does not fit a journal segment")]
    TooLarge,
}

/// Why a journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("the journal {} is in use by another process", dir.display())]
    InUse {
        /// Where it lies.
        dir: PathBuf,
    },
    /// The options contradict each other.
    #[error("the journal's size must be at least {SEGMENTS_MIN} segments")]
    TooSmall,
    /// A newer program wrote it.
    #[error("{} has format version {version}, which this program does not know", path.display())]
    Format {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The file system failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

impl JournalError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// A segment could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct ReadError {
    path: PathBuf,
    source: io::Error,
}

/// How the journal is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalStatus {
    /// Whether an append may succeed now.
    pub writable: bool,
    /// Whether a write or a sync has failed.
    pub poisoned: bool,
    /// Whether there is no room on disk.
    pub full: bool,
    /// Items durable and not finished.
    pub items_waiting: u64,
    /// Bytes of segment files on disk, spare ones included.
    pub bytes: u64,
}

/// The journal's door. Clones share it; the last one dropped shuts it down.
#[derive(Clone)]
pub struct Journal(Arc<Core>);

struct Core {
    queue: Arc<Queue>,
    segments: Arc<Segments>,
    metrics: Arc<Metrics>,
    instance: InstanceId,
    segment_bytes: u64,
    /// Taken when the journal is shut down.
    running: Mutex<Option<Running>>,
}

struct Running {
    writer: JoinHandle<()>,
    keeper: JoinHandle<()>,
    /// Held until the threads have ended.
    _lock: Box<dyn DiskLock>,
}

impl Journal {
    /// Opens the journal, recovers what is in it, and starts its two threads. Blocks, for as long
    /// as it takes to read the records that wait.
    pub fn open(
        options: &JournalOptions,
        disk: &Arc<dyn Disk>,
        metrics: &Arc<Metrics>,
    ) -> Result<(Self, JournalReader, Recovery), JournalError> {
        if options.bytes_max / options.segment_bytes.max(1) < SEGMENTS_MIN {
            return Err(JournalError::TooSmall);
        }
        let lock = lock(&**disk, &options.dir)?;
        let recovered = recover(&**disk, &options.dir, options.segment_bytes)?;
        Self::start(options, disk, metrics, recovered, lock)
    }

    fn start(
        options: &JournalOptions,
        disk: &Arc<dyn Disk>,
        metrics: &Arc<Metrics>,
        recovered: Recovered,
        lock: Box<dyn DiskLock>,
    ) -> Result<(Self, JournalReader, Recovery), JournalError> {
        let JournalOptions { dir, segment_bytes, .. } = options.clone();
        let queue = Arc::new(Queue::new(queue_limits(options)));
        let segments =
            Arc::new(Segments::new(recovered.state, options.bytes_max / options.segment_bytes));
        metrics.event_queue_size.set(clamped(recovered.report.items));
        let keeper = Keeper {
            disk: Arc::clone(disk),
            dir: dir.clone(),
            id: recovered.id,
            segment_bytes,
            segments: Arc::clone(&segments),
            queue: Arc::clone(&queue),
            metrics: Arc::clone(metrics),
            checkpoint: recovered.checkpoint,
            spare_number: recovered.spare_number,
            last_checkpoint: None,
            checkpoint_failed: None,
            spare_failed: None,
        };
        let writer = Writer {
            disk: Arc::clone(disk),
            dir: dir.clone(),
            id: recovered.id,
            segment_bytes,
            queue: Arc::clone(&queue),
            segments: Arc::clone(&segments),
            metrics: Arc::clone(metrics),
            next_seq: recovered.next_seq,
            open: None,
        };
        let reader = JournalReader {
            disk: Arc::clone(disk),
            dir: dir.clone(),
            id: recovered.id,
            segments: Arc::clone(&segments),
            position: recovered.start,
            reading: None,
            has_more: false,
        };
        let failed = |error| JournalError::io("start a thread for", &dir, error);
        let writer = spawn("journal-writer", move || writer.run()).map_err(failed)?;
        let keeper = spawn("journal-keeper", move || keeper.run()).map_err(|error| {
            queue.close();
            failed(error)
        })?;
        let core = Core {
            queue,
            segments,
            metrics: Arc::clone(metrics),
            instance: InstanceId::new(recovered.id.0),
            segment_bytes,
            running: Mutex::new(Some(Running { writer, keeper, _lock: lock })),
        };
        Ok((Self(Arc::new(core)), reader, recovered.report))
    }

    /// Appends a record of `items` items. `Ok` means that it is on stable storage.
    ///
    /// A caller that gives up waiting takes nothing back: the record may be durable all the same.
    pub async fn append(&self, record: &[u8], items: u32) -> Result<Seq, AppendError> {
        self.0.queue.push(record, items)?.await
    }

    /// Notes that every record below `next` is stored and need not be read again. Moves forward
    /// only, and never past what the reader has handed out. It becomes durable within a fraction of
    /// a second: after a crash some records are read again.
    pub fn finished(&self, next: Seq) {
        let waiting = self.0.segments.finish(next.0);
        self.0.metrics.event_queue_size.set(clamped(waiting));
    }

    /// Lets no more appends in. Those in flight are finished, and the reader ends at the tail.
    pub fn close(&self) {
        self.0.queue.close();
    }

    /// Closes, waits for the threads to end and the checkpoint to be written, and lets go of the
    /// directory. Blocks, for about a sync. What is finished later is not noted.
    pub fn shut_down(&self) {
        self.0.shut_down();
    }

    /// Which server this is: drawn when the journal was first made, and kept with it. The lock on
    /// the directory sees to it that no two run under one id.
    pub fn instance(&self) -> InstanceId {
        self.0.instance
    }

    /// How the journal is now.
    pub fn status(&self) -> JournalStatus {
        let gate = self.0.queue.gate();
        let state = self.0.segments.lock();
        JournalStatus {
            writable: gate == Gate::Open,
            poisoned: gate == Gate::Poisoned,
            full: gate == Gate::Full,
            items_waiting: state.items_waiting,
            bytes: journal_bytes(&state, self.0.segment_bytes).unsigned_abs(),
        }
    }
}

impl Core {
    fn shut_down(&self) {
        self.queue.close();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { writer, keeper, _lock }) = running {
            // A thread that panicked has said so, and has failed what it left.
            let _ = writer.join();
            self.segments.stop_keeper();
            let _ = keeper.join();
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>, JournalError> {
    disk.create_dir(dir).map_err(|error| JournalError::io("create", dir, error))?;
    let path = dir.join(LOCK_NAME);
    disk.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => JournalError::InUse { dir: dir.to_owned() },
        _ => JournalError::io("lock", &path, error),
    })
}

fn queue_limits(options: &JournalOptions) -> QueueLimits {
    let room = options.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES);
    let record_bytes_max = room.saturating_sub(FRAME_HEADER_BYTES as u64).min(u64::from(u32::MAX));
    QueueLimits {
        appends: options.queue_capacity,
        bytes: options.queue_bytes_max,
        record_bytes: usize::try_from(record_bytes_max).unwrap_or(usize::MAX),
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Bytes of segment files on disk, as a gauge takes them.
fn journal_bytes(state: &State, segment_bytes: u64) -> i64 {
    let live: u64 = state.live.iter().map(|segment| segment.bytes).sum();
    clamped(live + state.spares.len() as u64 * segment_bytes)
}

fn clamped(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
