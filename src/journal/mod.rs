//! The journal: the durable queue between a `202` and the store.
//!
//! # Purpose
//! An append that returns is on stable storage. Its record is handed to the reader at least once, across any
//! crash, until its batch is acknowledged. One append is one record: all of it is kept, or nothing.
//!
//! # Operation
//! ```text
//! Journal::append ──> backend ──> JournalReader::next_batch ──> Batch { records, ack }
//!                        ^                                                   │
//!                        └──────────── Ack::ack, once they are stored <──────┘
//! ```
//! This file is the contract, and all that callers know. A backend is a folder of this module and a variant of
//! the private enums here; opening one returns a [`Journal`] and its [`JournalReader`], and only `app` does that.
//! There is one backend: [`local`] keeps the records in files of this server.
//!
//! # Rules for a backend
//! - Records are returned in the order in which they were appended. There is one reader.
//! - Batches may be acknowledged in any order. A record is forgotten only when its batch and every batch before
//!   it are acknowledged, and confirmed where the caller does that; after a restart the others are read again, and
//!   possibly some that were acknowledged last.
//! - A batch that is dropped without an acknowledgement is not read again before a restart.
//! - The number of unacknowledged batches is bounded: the reader waits at the bound.
//! - A failed write or sync of records poisons the journal until a restart. Durable records can still be read. Nothing
//!   else does: a disk that is full before the first byte of a group refuses appends until there is space.
//! - Want of file descriptors or memory is a passing condition: until it ends, appends are refused and the reader waits.

pub mod local;
mod metrics;

pub use metrics::JournalMetrics;

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;

use crate::domain::Timestamp;

pub use local::{
    JournalBackup, JournalError, JournalExtent, JournalRecords, QuarantineContents, QuarantineEntry,
};

/// The journal's handle for appending. Clones share it; the last one dropped shuts the journal down.
#[derive(Clone)]
pub struct Journal(Backend);

#[derive(Clone)]
enum Backend {
    Local(local::LocalJournal),
}

impl Journal {
    /// Appends a record of `items` items. `Ok` means that it is on stable storage.
    ///
    /// A caller that stops waiting does not undo the append: the record may become durable all the same.
    ///
    /// # Errors
    /// When the record was not acknowledged; see [`AppendError`].
    pub async fn append(&self, record: &[u8], items: u32) -> Result<Seq, AppendError> {
        match &self.0 {
            Backend::Local(journal) => journal.append(record, items).await,
        }
    }

    /// The position below which every record is acknowledged, once that is above `above`.
    pub async fn acked_above(&self, above: Seq) -> Seq {
        match &self.0 {
            Backend::Local(journal) => journal.acked_above(above).await,
        }
    }

    /// The position behind the last durable record.
    pub fn durable_below(&self) -> Seq {
        match &self.0 {
            Backend::Local(journal) => journal.durable_below(),
        }
    }

    /// Lets the acknowledged records below a position be forgotten, where the backend waits for that.
    pub fn confirm(&self, below: Seq) {
        match &self.0 {
            Backend::Local(journal) => journal.confirm(below),
        }
    }

    /// The journal's current state.
    pub fn status(&self) -> JournalStatus {
        match &self.0 {
            Backend::Local(journal) => journal.status(),
        }
    }

    /// Refuses further appends. Appends in flight complete, and the reader ends behind the last record.
    pub fn close(&self) {
        match &self.0 {
            Backend::Local(journal) => journal.close(),
        }
    }

    /// Resolves once the journal is poisoned; never if it is not.
    pub async fn wait_poisoned(&self) {
        match &self.0 {
            Backend::Local(journal) => journal.wait_poisoned().await,
        }
    }

    /// Reads again, for as long as they are not confirmed, the records from a position on. Blocks.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn records_from(&self, from: Seq) -> Result<JournalRecords, JournalError> {
        match &self.0 {
            Backend::Local(journal) => journal.records_from(from),
        }
    }

    /// What its quarantine holds, `max` entries of it. Blocks: it looks at every file there, a thousand at most.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn quarantined(&self, max: usize) -> io::Result<QuarantineContents> {
        match &self.0 {
            Backend::Local(journal) => journal.quarantined(max),
        }
    }

    /// Resolves once a closed or poisoned journal is drained: the reader has returned every record, and every batch is
    /// acknowledged.
    pub async fn wait_drained(&self) {
        match &self.0 {
            Backend::Local(journal) => journal.wait_drained().await,
        }
    }

    /// Closes the journal, persists the acknowledgements and releases what the backend holds. Blocks for about
    /// one sync. Later acknowledgements are ignored.
    pub fn shut_down(&self) {
        match &self.0 {
            Backend::Local(journal) => journal.shut_down(),
        }
    }
}

/// Reads records, from the first one that is not acknowledged. Each journal has one reader.
pub struct JournalReader(ReaderBackend);

enum ReaderBackend {
    Local(local::LocalReader),
}

impl JournalReader {
    /// The quarantine for records that cannot be stored.
    pub fn quarantine(&self) -> RecordQuarantine {
        match &self.0 {
            ReaderBackend::Local(reader) => {
                RecordQuarantine(QuarantineBackend::Local(reader.quarantine()))
            }
        }
    }

    /// Reads records again that this reader has returned.
    pub fn again(&self) -> ReadAgain {
        match &self.0 {
            ReaderBackend::Local(reader) => ReadAgain(ReadAgainBackend::Local(reader.again())),
        }
    }

    /// Waits for durable records and returns them: at least one, and at most `items_max` items and `bytes_max`
    /// bytes, unless the first record alone exceeds them. `None` when the journal is closed and every record has
    /// been read.
    ///
    /// May be cancelled: the next call returns what this one did not.
    ///
    /// # Errors
    /// When records cannot be read. The next call tries the same position again.
    pub async fn next_batch(
        &mut self,
        items_max: u32,
        bytes_max: usize,
    ) -> Result<Option<Batch>, ReadError> {
        match &mut self.0 {
            ReaderBackend::Local(reader) => reader.next_batch(items_max, bytes_max).await,
        }
    }
}

/// Reads records again, for who could not keep them in memory. They are there for as long as their batch is not
/// acknowledged.
pub struct ReadAgain(ReadAgainBackend);

enum ReadAgainBackend {
    Local(local::LocalReadAgain),
}

impl ReadAgain {
    /// Reads the records of an extent. Those that the disk has lost meanwhile are missing, and reported as damage.
    ///
    /// # Errors
    /// When records cannot be read. The next call tries the same ones again.
    pub async fn read(&self, extent: &Extent) -> Result<Vec<Record>, ReadError> {
        match &self.0 {
            ReadAgainBackend::Local(again) => again.read(extent).await,
        }
    }
}

/// Where the records of a batch lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    first: Place,
    /// The offset behind the last record.
    end: u64,
    seqs: Range<u64>,
}

#[cfg(test)]
impl Extent {
    /// A record of this number, wherever it lies.
    pub fn of_seq(seq: u64) -> Self {
        Self { first: Place { segment: seq, offset: 0 }, end: 1, seqs: seq..seq + 1 }
    }
}

/// Records that were read together.
pub struct Batch {
    /// The records in the order in which they were appended; at least one.
    pub records: Vec<Record>,
    /// Whether a limit ended the batch: more records were durable already.
    pub has_more: bool,
    /// Where they lie.
    pub extent: Extent,
    /// Acknowledges the batch.
    pub ack: Ack,
}

/// A durable record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its position. Positions rise by one, except where damage has cost records.
    pub seq: Seq,
    /// Items in it, as counted by its appender.
    pub items: u32,
    /// The bytes that were appended.
    pub payload: Bytes,
    /// Where it lies, for reports.
    place: Place,
}

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    /// The first seq of its segment.
    segment: u64,
    /// Its offset in the segment's file, in bytes.
    offset: u64,
}

/// Sets records aside that cannot be stored, bounded in bytes. Clones share it.
#[derive(Clone)]
pub struct RecordQuarantine(QuarantineBackend);

#[derive(Clone)]
enum QuarantineBackend {
    Local(local::LocalQuarantine),
}

impl RecordQuarantine {
    /// Copies a record that cannot be decoded, and logs where it lay, where the copy is, and the reason. Without space
    /// for a copy the record stays in the journal, acknowledged or not. Blocks for a sync.
    ///
    /// # Errors
    /// Only for want of file descriptors or memory: nothing was done, and the record must not be acknowledged yet.
    pub fn record(&self, record: &Record, reason: &str) -> io::Result<()> {
        match &self.0 {
            QuarantineBackend::Local(quarantine) => quarantine.record(record, reason),
        }
    }

    /// Copies bytes under a name. Returns the copy; `None` when there is no space for one. Blocks for a sync.
    ///
    /// # Errors
    /// Only for want of file descriptors or memory: the same call may be tried again.
    pub fn bytes(&self, name: &str, bytes: &[u8]) -> io::Result<Option<PathBuf>> {
        match &self.0 {
            QuarantineBackend::Local(quarantine) => quarantine.bytes(name, bytes),
        }
    }
}

/// The acknowledgement of one batch. Dropping it leaves the batch unacknowledged: its records, and all behind them, are
/// kept, and read again after a restart.
#[must_use = "records are kept until their batch is acknowledged"]
pub struct Ack(AckBackend);

enum AckBackend {
    Local(local::LocalAck),
}

impl Ack {
    /// Acknowledges the batch: its records are stored and need not be read again. This becomes durable within a
    /// fraction of a second; after a crash before that, the records are read again.
    pub fn ack(self) {
        match self.0 {
            AckBackend::Local(ack) => ack.ack(),
        }
    }

    /// Sets when the first record was accepted, for [`JournalStatus::oldest_unacked`]. Only the reader of records
    /// knows: to the journal they are bytes.
    pub fn set_accepted_at(&self, accepted_at: Timestamp) {
        match &self.0 {
            AckBackend::Local(ack) => ack.set_accepted_at(accepted_at),
        }
    }
}

/// A record's position in the journal: 1 for the first one ever appended, and rising.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Seq(u64);

impl Seq {
    /// The position of this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The state of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalStatus {
    /// Whether it takes appends.
    pub state: JournalState,
    /// Items that are durable and not acknowledged.
    pub items_waiting: u64,
    /// Bytes on disk, preallocated ones included.
    pub bytes: u64,
    /// When the first record of the oldest unacknowledged batch was accepted; `None` when every batch that was
    /// read is acknowledged.
    pub oldest_unacked: Option<Timestamp>,
}

/// Whether a journal takes appends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalState {
    /// It does.
    Open,
    /// Not until there is space.
    Full,
    /// Not until a segment can be prepared, for want of file descriptors, say. It is tried again.
    NoSegment,
    /// Not yet: a write or a sync has not returned for some seconds. Appends wait for it.
    Stalled,
    /// No longer: a write or a sync of records has failed, or the lock was lost.
    Poisoned,
    /// No longer: it is closing.
    Closed,
}

/// Why an append was not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// No space is left until records have been stored.
    #[error("the journal is full")]
    Full,
    /// No segment could be prepared, for want of file descriptors, say. It is tried again every second.
    #[error("the journal cannot prepare a segment")]
    NoSegment,
    /// The organisation's records that are not stored use up its share of the journal.
    #[error("the organisation's share of the journal is used up")]
    ShareUsedUp,
    /// Too many appends, or bytes, wait for the next sync, in total or of the organisation.
    #[error("too many appends wait for the journal")]
    Busy,
    /// A write or a sync has failed, or the lock was lost; nothing is accepted until a restart. The restart may or may
    /// not find the record.
    #[error("the journal is poisoned: a write or a sync has failed, or its lock was lost")]
    Poisoned,
    /// The journal is closing.
    #[error("the journal is closed")]
    Closed,
    /// The record is longer than the journal allows.
    #[error("the record does not fit a journal segment")]
    TooLarge,
}

/// Records could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {place}: {source}")]
pub struct ReadError {
    /// The file, or whatever else the backend reads from.
    place: String,
    source: io::Error,
}
