//! The reader: returns synced records, in order, from the segment files.
//!
//! It reads records that were written a moment ago, records that waited through an outage of the store, and records
//! that a crash left, all in the same way. Payloads are slices of the chunk they were read in, so a batch takes no
//! copy and at most about a chunk more memory than its records.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::RecordOwner;
use super::file_system::{FileHandle, FileSystem, is_shortage, is_unreadable};
use super::format::{FRAME_HEADER_BYTES, JournalId, SEGMENT_HEADER_BYTES, segment_name};
use super::frame_scan::{Found, Frames, OnUnreadable};
use super::in_flight::InFlight;
use super::quarantine::{LocalQuarantine, Quarantine};
use super::segment_summary::SegmentSummary;
use super::segments::{Position, Readable, Segment, Segments};
use super::shares::{OrgBytes, add_frame};
use crate::journal::{Batch, Place, ReadError, Record, Seq};
use crate::runtime::Backoff;

/// The first wait when a segment cannot be read; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// The longest of these waits.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often bytes that the disk cannot return are read before they count as damage.
const READ_TRIES: u32 = 4;

/// Reads a local journal from the first record that is not acknowledged.
pub(in crate::journal) struct LocalReader {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) id: JournalId,
    pub(super) segments: Arc<Segments>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) owner: RecordOwner,
    pub(super) quarantine: Arc<Quarantine>,
    /// What is left to read of the segment of the position, if recovery took it from its summary.
    pub(super) unread: Option<Unread>,
    /// What was lost since the last batch.
    pub(super) lost: Unread,
    pub(super) position: Position,
    /// The segment of the position, once it is open.
    pub(super) reading: Option<Reading>,
}

/// Items and bytes of records that recovery counted by a summary. Those that turn out to be damaged are freed with the
/// next batch.
#[derive(Default)]
pub(super) struct Unread {
    items: u64,
    orgs: OrgBytes,
}

impl Unread {
    /// What the segment at a position holds.
    pub(super) fn at(position: Position, live: &VecDeque<Segment>) -> Option<Self> {
        let segment = live.iter().find(|segment| segment.first_seq == position.segment)?;
        segment.summary.as_deref().map(Self::of)
    }

    fn of(summary: &SegmentSummary) -> Self {
        Self { items: summary.items, orgs: summary.orgs.clone() }
    }

    fn add(&mut self, other: Self) {
        self.items += other.items;
        for (org, bytes) in other.orgs {
            *self.orgs.entry(org).or_default() += bytes;
        }
    }

    fn subtract(&mut self, other: &Self) {
        self.items = self.items.saturating_sub(other.items);
        for (org, bytes) in &other.orgs {
            if let Some(left) = self.orgs.get_mut(org) {
                *left = left.saturating_sub(*bytes);
            }
        }
    }
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

/// How far one call reads.
#[derive(Clone, Copy)]
struct Limits {
    items_max: u32,
    bytes_max: usize,
    end: u64,
    seq_end: u64,
}

/// Retries what may pass: want of file descriptors or memory, however long it takes, and a disk that does not return
/// some bytes, a few times.
struct Retry {
    backoff: Backoff,
    unreadable: u32,
}

impl Retry {
    const fn new() -> Self {
        Self { backoff: Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX), unreadable: 0 }
    }

    /// What the next try does about unreadable bytes.
    const fn on_unreadable(&self) -> OnUnreadable {
        if self.unreadable < READ_TRIES { OnUnreadable::Fail } else { OnUnreadable::Skip }
    }

    fn applies_to(&self, error: &ReadError) -> bool {
        let may_pass = is_unreadable(&error.source) && self.on_unreadable() == OnUnreadable::Fail;
        may_pass || is_shortage(&error.source)
    }

    async fn wait(&mut self, error: &ReadError) {
        if self.backoff.is_first() {
            tracing::error!(%error, "cannot read the journal, retrying");
        }
        self.unreadable += u32::from(is_unreadable(&error.source));
        self.backoff.sleep().await;
    }
}

impl LocalReader {
    /// The quarantine for records that cannot be stored.
    pub(in crate::journal) fn quarantine(&self) -> LocalQuarantine {
        LocalQuarantine { quarantine: Arc::clone(&self.quarantine), id: self.id }
    }

    /// Waits for the next batch, as [`crate::journal::JournalReader::next_batch`] describes.
    pub(in crate::journal) async fn next_batch(
        &mut self,
        items_max: u32,
        bytes_max: usize,
    ) -> Result<Option<Batch>, ReadError> {
        self.in_flight.wait_for_capacity().await;
        let mut retry = Retry::new();
        loop {
            match self.segments.readable(self.position) {
                Readable::Here { end, seq_end, is_cached } => {
                    let limits = Limits { items_max, bytes_max, end, seq_end };
                    let read = self.read(limits, is_cached, retry.on_unreadable()).await;
                    let records = match read {
                        Err(error) if retry.applies_to(&error) => {
                            retry.wait(&error).await;
                            continue;
                        }
                        read => read?,
                    };
                    if let Some(last) = records.last() {
                        let below = last.seq.get() + 1;
                        let Unread { items, orgs } = self.take(&records);
                        let ack = self.in_flight.add(below, items, orgs);
                        let has_more = self.position.offset < end;
                        return Ok(Some(Batch { records, has_more, ack }));
                    }
                }
                Readable::Next(segment) => self.enter(&segment),
                Readable::Nothing => self.segments.wait_readable().await,
                Readable::Ended => {
                    self.in_flight.end_reader();
                    return Ok(None);
                }
            }
        }
    }

    /// What an acknowledgement of these records frees: they, and what was lost before them.
    fn take(&mut self, records: &[Record]) -> Unread {
        let mut taken = Unread::default();
        for Record { payload, items, .. } in records {
            taken.items += u64::from(*items);
            let owner = (self.owner)(payload);
            add_frame(&mut taken.orgs, owner, FRAME_HEADER_BYTES + payload.len());
        }
        if let Some(unread) = &mut self.unread {
            unread.subtract(&taken);
        }
        taken.add(std::mem::take(&mut self.lost));
        taken
    }

    fn enter(&mut self, segment: &Segment) {
        let Position { segment: left, offset, seq } = self.position;
        if seq < segment.first_seq {
            // Nothing is copied, so nothing can fail.
            let name = segment_name(left, self.id);
            let _ = self.quarantine.damage(&name, None, offset..offset, seq..segment.first_seq);
        }
        self.reading = None;
        self.lost.add(self.unread.take().unwrap_or_default());
        self.unread = segment.summary.as_deref().map(Unread::of);
        self.position = Position {
            segment: segment.first_seq,
            offset: SEGMENT_HEADER_BYTES,
            seq: segment.first_seq,
        };
    }

    async fn read(
        &mut self,
        limits: Limits,
        is_cached: bool,
        on_unreadable: OnUnreadable,
    ) -> Result<Vec<Record>, ReadError> {
        let name = segment_name(self.position.segment, self.id);
        let path = self.dir.join(&name);
        let failed = |source| ReadError { place: path.display().to_string(), source };
        let mut reading = match &self.reading {
            Some(reading) => reading.clone(),
            None => match self.open(&name) {
                Err(error) if is_lost(&error, on_unreadable) => {
                    tracing::error!(file = %path.display(), %error, "a journal segment is lost");
                    self.skip_segment(&name, limits);
                    return Ok(Vec::new());
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
        let records = read.map_err(failed)?;
        self.position.offset = reading.frames.position();
        self.position.seq = reading.seq;
        self.reading = Some(reading);
        Ok(records)
    }

    /// Gives up what is left of a segment that cannot be opened.
    fn skip_segment(&mut self, name: &str, limits: Limits) {
        let Position { offset, seq, .. } = self.position;
        // Nothing is copied, so nothing can fail.
        let _ = self.quarantine.damage(name, None, offset..limits.end, seq..limits.seq_end);
        self.position.offset = limits.end;
        self.position.seq = limits.seq_end;
    }

    fn open(&self, name: &str) -> io::Result<Reading> {
        let file = self.fs.open(&self.dir.join(name))?;
        Ok(Reading {
            quarantine: Arc::clone(&self.quarantine),
            segment: self.position.segment,
            name: name.to_owned(),
            frames: Frames::new(Arc::clone(&file), self.id, self.position.offset),
            file,
            seq: self.position.seq,
        })
    }
}

/// Whether a segment that cannot be opened is lost, for the error that opening it returned.
fn is_lost(error: &io::Error, on_unreadable: OnUnreadable) -> bool {
    let is_given_up = is_unreadable(error) && on_unreadable == OnUnreadable::Skip;
    is_given_up || error.kind() == io::ErrorKind::NotFound
}

impl Reading {
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
