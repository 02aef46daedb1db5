//! The reader: returns synced records, in order, from the segment files.
//!
//! It reads records that were written a moment ago, records that waited through an outage of the store, and records
//! that a crash left, all in the same way. Payloads are slices of the chunk they were read in, so a batch takes no
//! copy and at most about a chunk more memory than its records.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::RecordOwner;
use super::file_system::{FileHandle, FileSystem, is_shortage};
use super::format::{FRAME_HEADER_BYTES, JournalId, SEGMENT_HEADER_BYTES, segment_name};
use super::frame_scan::{Found, Frames};
use super::in_flight::InFlight;
use super::quarantine::quarantine;
use super::segments::{Position, Readable, Segment, Segments};
use super::shares::{OrgBytes, add_frame};
use crate::journal::{Batch, ReadError, Record, Seq};
use crate::runtime::Backoff;

/// The first wait when a segment cannot be opened for want of file descriptors; doubled up to
/// [`SHORTAGE_WAIT_MAX`].
const SHORTAGE_WAIT: Duration = Duration::from_millis(50);
/// The longest of these waits.
const SHORTAGE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Reads a local journal from the first record that is not acknowledged.
pub(in crate::journal) struct LocalReader {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) id: JournalId,
    pub(super) segments: Arc<Segments>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) owner: RecordOwner,
    pub(super) position: Position,
    /// The segment of the position, once it is open.
    pub(super) reading: Option<Reading>,
}

/// An open segment. Clones share the file and the chunk that was read of it.
#[derive(Clone)]
pub(super) struct Reading {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
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

/// Waits for file descriptors or memory.
struct Shortage(Backoff);

impl Shortage {
    async fn wait(&mut self, error: &ReadError) {
        if self.0.is_first() {
            tracing::error!(%error, "cannot read the journal, retrying");
        }
        self.0.sleep().await;
    }
}

impl LocalReader {
    /// Waits for the next batch, as [`crate::journal::JournalReader::next_batch`] describes.
    pub(in crate::journal) async fn next_batch(
        &mut self,
        items_max: u32,
        bytes_max: usize,
    ) -> Result<Option<Batch>, ReadError> {
        self.in_flight.wait_for_capacity().await;
        let mut shortage = Shortage(Backoff::new(SHORTAGE_WAIT, SHORTAGE_WAIT_MAX));
        loop {
            match self.segments.readable(self.position) {
                Readable::Here { end, seq_end, is_cached } => {
                    let limits = Limits { items_max, bytes_max, end, seq_end };
                    let records = match self.read(limits, is_cached).await {
                        Err(error) if is_shortage(&error.source) => {
                            shortage.wait(&error).await;
                            continue;
                        }
                        read => read?,
                    };
                    if let Some(last) = records.last() {
                        let items = records.iter().map(|record| u64::from(record.items)).sum();
                        let below = last.seq.get() + 1;
                        let ack = self.in_flight.add(below, items, self.bytes_by_org(&records));
                        let has_more = self.position.offset < end;
                        return Ok(Some(Batch { records, has_more, ack }));
                    }
                }
                Readable::Next(segment) => self.enter(&segment),
                Readable::Nothing => self.segments.wait_readable().await,
                Readable::Ended => return Ok(None),
            }
        }
    }

    fn bytes_by_org(&self, records: &[Record]) -> OrgBytes {
        let mut bytes = OrgBytes::new();
        for Record { payload, .. } in records {
            add_frame(&mut bytes, (self.owner)(payload), FRAME_HEADER_BYTES + payload.len());
        }
        bytes
    }

    fn enter(&mut self, segment: &Segment) {
        self.reading = None;
        self.position = Position {
            segment: segment.first_seq,
            offset: SEGMENT_HEADER_BYTES,
            seq: segment.first_seq,
        };
    }

    async fn read(&mut self, limits: Limits, is_cached: bool) -> Result<Vec<Record>, ReadError> {
        let name = segment_name(self.position.segment, self.id);
        let path = self.dir.join(&name);
        let failed = |source| ReadError { place: path.display().to_string(), source };
        let mut reading = match &self.reading {
            Some(reading) => reading.clone(),
            None => self.open(name).map_err(failed)?,
        };
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

    fn open(&self, name: String) -> io::Result<Reading> {
        let file = self.fs.open(&self.dir.join(&name))?;
        Ok(Reading {
            fs: Arc::clone(&self.fs),
            dir: self.dir.clone(),
            name,
            frames: Frames::new(Arc::clone(&file), self.id, self.position.offset),
            file,
            seq: self.position.seq,
        })
    }
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
                    records.push(Record { seq: Seq(self.seq), items: header.items, payload });
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
        let file = (self.name.as_str(), &*self.file);
        quarantine(&*self.fs, &self.dir, file, at..offset, self.seq..seq)?;
        self.frames.seek(offset);
        self.seq = seq;
        Ok(())
    }
}
