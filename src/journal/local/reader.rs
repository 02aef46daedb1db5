//! The reader: hands out what is synced, in order, from the files.
//!
//! It reads what the writer wrote a moment ago, what waited through an outage of the store, and
//! what a crash left behind, all in the same way. Payloads are slices of the chunk they were read
//! in, so a batch takes no copy and at most about a chunk more memory than its records.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::file_system::{Disk, DiskFile};
use super::format::{JournalId, SEGMENT_HEADER_BYTES};
use super::frame_scan::{Found, Frames};
use super::quarantine::keep_aside;
use super::segments::{Position, Readable, Segment, Segments};
use super::{ReadError, Seq};

/// A durable record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its place in the journal. Seqs rise by one, but for records that damage has cost.
    pub seq: Seq,
    /// Items in it, as its appender counted them.
    pub items: u32,
    /// What was appended.
    pub payload: Bytes,
}

/// Reads the journal from the first record that is not finished. There is one reader.
pub struct JournalReader {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) id: JournalId,
    pub(super) segments: Arc<Segments>,
    pub(super) position: Position,
    /// The segment of the position, once it is open.
    pub(super) reading: Option<Reading>,
    /// Whether the last batch left something behind.
    pub(super) has_more: bool,
}

/// An open segment. Clones share the file and what was read of it.
#[derive(Clone)]
pub(super) struct Reading {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    name: String,
    file: Arc<dyn DiskFile>,
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

impl JournalReader {
    /// Waits for durable records and returns those that are there: at least one, and no more than
    /// `items_max` items or `bytes_max` bytes unless the first record alone is over. `None` when
    /// the journal is closed and every record has been read.
    ///
    /// May be cancelled: what was not returned is returned by the next call. After an error the
    /// next call tries the same place again.
    pub async fn next_batch(
        &mut self,
        items_max: u32,
        bytes_max: usize,
    ) -> Result<Option<Vec<Record>>, ReadError> {
        loop {
            match self.segments.readable(self.position) {
                Readable::Here { end, seq_end, is_recent } => {
                    let limits = Limits { items_max, bytes_max, end, seq_end };
                    let records = self.read(limits, is_recent).await?;
                    if !records.is_empty() {
                        return Ok(Some(records));
                    }
                }
                Readable::Next(segment) => self.enter(&segment),
                Readable::Nothing => self.segments.wait_readable().await,
                Readable::Ended => return Ok(None),
            }
        }
    }

    /// Whether a limit ended the last batch: records behind it were durable already.
    pub const fn has_more(&self) -> bool {
        self.has_more
    }

    fn enter(&mut self, segment: &Segment) {
        self.reading = None;
        self.position = Position {
            segment: segment.first_seq,
            offset: SEGMENT_HEADER_BYTES,
            seq: segment.first_seq,
        };
    }

    async fn read(&mut self, limits: Limits, is_recent: bool) -> Result<Vec<Record>, ReadError> {
        let name = super::format::segment_name(self.position.segment, self.id);
        let path = self.dir.join(&name);
        let failed = |source| ReadError { path: path.clone(), source };
        let mut reading = match &self.reading {
            Some(reading) => reading.clone(),
            None => self.open(name).map_err(failed)?,
        };
        let (reading, read) = if is_recent {
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
        self.has_more = self.position.offset < limits.end;
        self.reading = Some(reading);
        let handed_out = records.iter().map(|record| (record.seq.0, record.items));
        self.segments.hand_out(handed_out, self.position.seq);
        Ok(records)
    }

    fn open(&self, name: String) -> io::Result<Reading> {
        let file = self.disk.open(&self.dir.join(&name))?;
        Ok(Reading {
            disk: Arc::clone(&self.disk),
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
                // What is sound goes first; the next call comes back here.
                Found::BadPayload(_) | Found::BadHeader | Found::End if !records.is_empty() => {
                    break;
                }
                bad => self.pass(at, bad.search_from(at), limits)?,
            }
        }
        Ok(records)
    }

    /// Goes behind damage at offset `at`. All up to the end was synced, so nothing here is a torn
    /// tail.
    fn pass(&mut self, at: u64, from: u64, limits: Limits) -> io::Result<()> {
        let sound = self.frames.find(from..limits.end, &(self.seq + 1..limits.seq_end))?;
        let (offset, seq) =
            sound.map_or((limits.end, limits.seq_end), |(offset, header)| (offset, header.seq));
        self.keep_aside(at..offset, self.seq..seq)?;
        self.frames.seek(offset);
        self.seq = seq;
        Ok(())
    }

    fn keep_aside(&self, bytes: Range<u64>, seqs: Range<u64>) -> io::Result<()> {
        keep_aside(&*self.disk, &self.dir, (&self.name, &*self.file), bytes, seqs).map(drop)
    }
}
