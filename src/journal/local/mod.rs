//! The local journal: a write-ahead log in segment files of this server.
//!
//! # Constraints
//! - The bytes of a record are opaque; the journal adds the number of items in it. [`JournalOptions::owner`] tells
//!   whose record it is.
//! - One process owns the directory, by a lock on the directory itself. A directory that was replaced under the
//!   process poisons the journal.
//! - Memory is bounded by [`JournalOptions::queue_bytes_max`] and by the batches that were read; disk by
//!   [`JournalOptions::bytes_max`], and by what was quarantined.
//!
//! # Operation
//! ```text
//! append ──> queue ──> writer thread ──> NNN.segment ──> reader ──> batch ──> ack
//!            (one      (one write and    (preallocated)                        │
//!            buffer)    one fdatasync                                          v
//!                       per group)       segment manager: checkpoint, spare segments
//! ```
//! Appends that arrive while one group is synced form the next group ([`append_queue`]), which is written in one
//! call, synced once and acknowledged together ([`writer`], [`group_commit`]). The reader reads the files back, up to
//! the last synced record and never beyond ([`reader`]); the batches it returned are in [`in_flight`] until they are
//! acknowledged, and can be read once more until then ([`read_again`]). Each organisation has a share of the queue and of the disk ([`shares`]). The segment manager
//! prepares segments ahead of need, writes the checkpoint and frees acknowledged segments, or keeps them for a while,
//! for a replay ([`segment_manager`], [`retention`]). [`format`](self::format) has the bytes on disk, [`recovery`]
//! restores a consistent state after a crash. Every call to the file system goes through [`FileSystem`].
//!
//! # Failure
//! - A failed write or sync poisons the journal: waiting appends fail, and so does every later one. The sync is
//!   never repeated, since after a failed one the page cache may claim what the disk does not hold. A restart
//!   recovers what the disk holds.
//! - A disk that hangs fails nothing: appends wait. The journal is [`Stalled`](super::JournalState::Stalled) once a group
//!   takes longer than a few seconds ([`write_watch`]).
//! - No space for another segment, on the disk or under `bytes_max`, is not a failure: appends return
//!   [`AppendError::Full`] until there is space. An organisation that holds more than its share of what is not stored
//!   gets [`AppendError::ShareUsedUp`] long before, while others go on.
//! - Nor is a segment that cannot be prepared, for want of file descriptors, say: it is tried every second, and
//!   appends return [`AppendError::NoSegment`](super::AppendError::NoSegment) meanwhile. Spares and the directory are
//!   held open, so a new segment needs no file descriptor if there is a spare. The reader waits until it can open the
//!   next segment.
//! - A torn tail is cut. Damage before it, and bytes that the disk cannot return, are reported with file and offset,
//!   quarantined in `damaged/` as far as there is space, and skipped: the records behind them are read. Recovery looks
//!   at the first and the last segment; the reader meets damage in the others.
//! - A record that its reader cannot decode is copied there, too; without a copy its segment is held ([`holds`]).
//!
//! **Invariant:** group N+1 is not written before group N is synced.
//!
//! **Invariant:** the checkpoint is durable before a segment below it is freed.
//!
//! **Invariant:** no record lies below the first seq of the segment that holds it, so leftovers in a reused
//! segment are never taken for records.

mod ack_window;
mod append_queue;
mod backup;
mod checkpoint;
mod file_system;
mod format;
mod frame_scan;
mod freeing;
mod group_commit;
mod handle;
mod held_bytes;
mod holds;
mod in_flight;
mod journal_records;
mod listing;
mod quarantine;
mod quarantine_copies;
mod read_again;
mod reader;
mod recovery;
mod retention;
mod segment_files;
mod segment_manager;
mod segment_scan;
mod segment_state;
mod segment_summary;
mod segment_tail;
mod segments;
mod shares;
#[cfg(test)]
mod tests;
mod write_watch;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Backend, Journal, JournalReader, ReaderBackend, Seq};
use crate::domain::OrgId;
use crate::journal::metrics::JournalMetrics;
use crate::runtime::Clock;

use self::quarantine::Quarantine;

pub use backup::{JournalBackup, back_up};
pub use file_system::{DirHandle, DirLock, FileHandle, FileSystem, SystemFiles, is_no_space};
pub use journal_records::{JournalExtent, JournalRecords, Lost, extent};
pub use quarantine::{Damage, QuarantineContents, QuarantineEntry};
pub use recovery::RecoveryReport;

pub(super) use handle::LocalJournal;
pub(super) use in_flight::LocalAck;
pub(super) use quarantine::LocalQuarantine;
pub(super) use read_again::LocalReadAgain;
pub(super) use reader::LocalReader;

/// The lock file of earlier versions.
const OLD_LOCK_NAME: &str = "lock";
const CHECKPOINT_NAME: &str = "checkpoint";
/// The directory for quarantined bytes and files.
const QUARANTINE_DIR: &str = "damaged";
const SPARE_PREFIX: &str = "spare-";

/// Bytes of appends that may wait for a sync, unless set otherwise.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Fewest segments: one to write to while another is read.
const SEGMENTS_MIN: u64 = 2;

/// Tells whose record it is, for the shares of organisations; `None` for a record without an owner.
pub type RecordOwner = fn(&[u8]) -> Option<OrgId>;

/// Settings of a local journal.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Its directory; created if missing.
    pub dir: PathBuf,
    /// Bytes in one segment file; no record is longer.
    pub segment_bytes: u64,
    /// Most bytes of segments on disk, kept ones included; at least two segments.
    pub bytes_max: u64,
    /// How long segments are kept after all of their records are stored, while nothing else needs the space.
    pub retention: Duration,
    /// Tells how long that was.
    pub clock: Clock,
    /// Whether the caller confirms acknowledged records, by [`Journal::confirm`], before they may be forgotten.
    pub confirms: bool,
    /// Appends that may wait for a sync.
    pub queue_capacity: usize,
    /// Bytes that may wait for a sync. A single append may wait whatever its size.
    pub queue_bytes_max: usize,
    /// Tells whose record it is.
    pub owner: RecordOwner,
}

/// A journal that was opened.
pub struct Opened {
    /// For appending.
    pub journal: Journal,
    /// For reading.
    pub reader: JournalReader,
    /// What recovery found.
    pub recovery: RecoveryReport,
    /// A random number that its files carry, drawn when the journal was created.
    pub id: u64,
    /// Every record below this one was stored, by the journal's checkpoint. 1 in a journal that is new.
    pub stored_below: Seq,
}

/// Why a journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("the journal {} is in use by another process", dir.display())]
    InUse {
        /// Its directory.
        dir: PathBuf,
    },
    /// The options contradict each other.
    #[error("the journal's size must be at least {SEGMENTS_MIN} segments")]
    TooSmall,
    /// It was copied while records were stored, and the copies do not fit together.
    #[error("the journal {} changed while it was copied; try again", dir.display())]
    Changed {
        /// Its directory.
        dir: PathBuf,
    },
    /// A newer version of the program wrote it.
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
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl JournalError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Opens a journal, recovers its records, and starts its two threads. Blocks for as long as it takes to read the
/// first and the last segment with records that are not acknowledged, and the summaries of those between.
///
/// # Errors
/// When another process has it open, or it cannot be read or written.
pub fn open(
    options: &JournalOptions,
    fs: &Arc<dyn FileSystem>,
    metrics: &Arc<JournalMetrics>,
) -> Result<Opened, JournalError> {
    if options.bytes_max / options.segment_bytes.max(1) < SEGMENTS_MIN {
        return Err(JournalError::TooSmall);
    }
    let lock = lock(&**fs, &options.dir)?;
    let quarantine = Arc::new(Quarantine::new(fs, &options.dir, metrics));
    let recovered = recovery::recover(&**fs, options, &quarantine)?;
    let (id, recovery) = (recovered.id.0, recovered.report.clone());
    let stored_below = Seq(recovered.acked);
    let (journal, reader) = handle::start(options, fs, metrics, recovered, quarantine, lock)?;
    let journal = Journal(Backend::Local(journal));
    let reader = JournalReader(ReaderBackend::Local(reader));
    Ok(Opened { journal, reader, recovery, id, stored_below })
}

fn lock(fs: &dyn FileSystem, dir: &Path) -> Result<Arc<dyn DirLock>, JournalError> {
    fs.create_dir(dir).map_err(|error| JournalError::io("create", dir, error))?;
    fs.lock(dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => JournalError::InUse { dir: dir.to_owned() },
        _ => JournalError::io("lock", dir, error),
    })
}

/// Whether a process has the journal in this directory open.
pub fn is_in_use(fs: &dyn FileSystem, dir: &Path) -> bool {
    matches!(lock(fs, dir), Err(JournalError::InUse { .. }))
}

/// A count as a gauge takes it.
fn clamped(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
