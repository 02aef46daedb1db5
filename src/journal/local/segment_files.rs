//! The files of a journal's segments, for reading records from them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::file_system::{FileHandle, FileSystem, is_shortage, is_unreadable};
use super::format::{JournalId, segment_name};
use super::frame_scan::{Found, Frames, OnUnreadable};
use super::quarantine::{LocalQuarantine, Quarantine};
use super::segments::Position;
use crate::journal::{Place, ReadError, Record, Seq};
use crate::runtime::Backoff;

/// The first wait when a segment cannot be read; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// The longest of these waits.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often bytes that the disk cannot return are read before they count as damage.
const READ_TRIES: u32 = 4;

/// Opens and reads them.
#[derive(Clone)]
pub(super) struct SegmentFiles {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) id: JournalId,
    pub(super) quarantine: Arc<Quarantine>,
}

/// An open segment. Clones share the file and the chunk that was read of it.
#[derive(Clone)]
pub(super) struct Reading {
    quarantine: Arc<Quarantine>,
    segment: u64,
    name: String,
    file: Arc<dyn FileHandle>,
    frames: Frames,
    seq: u64,
}

/// How far one call reads: at most so many items and bytes, to an offset and a seq.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) items_max: u32,
    pub(super) bytes_max: usize,
    pub(super) end: u64,
    pub(super) seq_end: u64,
}

impl Limits {
    /// Everything up to an offset and a seq.
    pub(super) const fn until(end: u64, seq_end: u64) -> Self {
        Self { items_max: u32::MAX, bytes_max: usize::MAX, end, seq_end }
    }
}

/// Retries what may pass: want of file descriptors or memory, however long it takes, and a disk that does not return
/// some bytes, a few times.
pub(super) struct Retry {
    backoff: Backoff,
    unreadable: u32,
}

impl Retry {
    pub(super) const fn new() -> Self {
        Self { backoff: Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX), unreadable: 0 }
    }

    /// What the next try does about unreadable bytes.
    pub(super) const fn on_unreadable(&self) -> OnUnreadable {
        if self.unreadable < READ_TRIES { OnUnreadable::Fail } else { OnUnreadable::Skip }
    }

    pub(super) fn applies_to(&self, error: &ReadError) -> bool {
        let may_pass = is_unreadable(&error.source) && self.on_unreadable() == OnUnreadable::Fail;
        may_pass || is_shortage(&error.source)
    }

    pub(super) async fn wait(&mut self, error: &ReadError) {
        if self.backoff.is_first() {
            tracing::error!(%error, "cannot read the journal, retrying");
        }
        self.unreadable += u32::from(is_unreadable(&error.source));
        self.backoff.sleep().await;
    }
}

impl SegmentFiles {
    /// The quarantine for records that cannot be stored.
    pub(super) fn quarantine(&self) -> LocalQuarantine {
        LocalQuarantine { quarantine: Arc::clone(&self.quarantine), id: self.id }
    }

    /// Reads on in an open segment, or opens the one of a position. `None` if that is lost. A segment that `is_cached`
    /// is read at once, another one by a thread that may wait.
    ///
    /// # Errors
    /// When the disk does not return the bytes; the same call may be tried again.
    pub(super) async fn read(
        &self,
        reading: Option<Reading>,
        at: Position,
        limits: Limits,
        is_cached: bool,
        on_unreadable: OnUnreadable,
    ) -> Result<Option<(Reading, Vec<Record>)>, ReadError> {
        let name = segment_name(at.segment, self.id);
        let path = self.dir.join(&name);
        let failed = |source| ReadError { place: path.display().to_string(), source };
        let mut reading = match reading {
            Some(reading) => reading,
            None => match self.open(name, at) {
                Err(error) if is_lost(&error, on_unreadable) => {
                    tracing::error!(file = %path.display(), %error, "a journal segment is lost");
                    return Ok(None);
                }
                opened => opened.map_err(failed)?,
            },
        };
        reading.frames.set_on_unreadable(on_unreadable);
        let (reading, read) = if is_cached {
            let read = reading.read(limits);
            (reading, read)
        } else {
            let task = tokio::task::spawn_blocking(move || {
                let read = reading.read(limits);
                (reading, read)
            });
            task.await.map_err(|error| failed(io::Error::other(error)))?
        };
        Ok(Some((reading, read.map_err(failed)?)))
    }

    /// Gives up what a segment that is lost has from a position on.
    pub(super) fn give_up(&self, at: Position, limits: Limits) {
        let name = segment_name(at.segment, self.id);
        // Nothing is copied, so nothing can fail.
        let (bytes, seqs) = (at.offset..limits.end, at.seq..limits.seq_end);
        let _ = self.quarantine.damage(&name, None, bytes, seqs);
    }

    fn open(&self, name: String, at: Position) -> io::Result<Reading> {
        let file = self.fs.open(&self.dir.join(&name))?;
        Ok(Reading {
            quarantine: Arc::clone(&self.quarantine),
            segment: at.segment,
            name,
            frames: Frames::new(Arc::clone(&file), self.id, at.offset),
            file,
            seq: at.seq,
        })
    }
}

/// Whether a segment that cannot be opened is lost, for the error that opening it returned.
fn is_lost(error: &io::Error, on_unreadable: OnUnreadable) -> bool {
    let is_given_up = is_unreadable(error) && on_unreadable == OnUnreadable::Skip;
    is_given_up || error.kind() == io::ErrorKind::NotFound
}

impl Reading {
    /// The offset at which the next call reads.
    pub(super) const fn offset(&self) -> u64 {
        self.frames.position()
    }

    /// The seq of the record there.
    pub(super) const fn seq(&self) -> u64 {
        self.seq
    }

    fn read(&mut self, limits: Limits) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        let (mut items, mut bytes) = (0_u32, 0);
        while self.frames.position() < limits.end {
            let at = self.frames.position();
            match self.frames.read(self.seq, limits.end)? {
                Found::Frame(header, payload) => {
                    items = items.saturating_add(header.items);
                    bytes += payload.len();
                    let over = items > limits.items_max || bytes > limits.bytes_max;
                    if over && !records.is_empty() {
                        self.frames.seek(at);
                        break;
                    }
                    let place = Place { segment: self.segment, offset: at };
                    let (seq, items) = (Seq(self.seq), header.items);
                    records.push(Record { seq, items, payload, place });
                    self.seq += 1;
                }
                // Sound records are returned first; the next call continues at the damage.
                Found::BadPayload(_) | Found::BadHeader | Found::End if !records.is_empty() => {
                    break;
                }
                bad => self.skip_damage(at, bad.search_from(at), limits)?,
            }
        }
        Ok(records)
    }

    /// Skips damage at offset `at`. Everything up to the end was synced, so it is never a torn tail.
    fn skip_damage(&mut self, at: u64, from: u64, limits: Limits) -> io::Result<()> {
        let sound = self.frames.find(from..limits.end, &(self.seq + 1..limits.seq_end))?;
        let (offset, seq) =
            sound.map_or((limits.end, limits.seq_end), |(offset, header)| (offset, header.seq));
        self.quarantine.damage(&self.name, Some(&*self.file), at..offset, self.seq..seq)?;
        self.frames.seek(offset);
        self.seq = seq;
        Ok(())
    }
}
