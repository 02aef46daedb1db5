//! The records that a journal still has although they are stored: in kept segments, and in others below the checkpoint.
//!
//! Read by commands, while no server has the journal open. Records that wait are left to the next start.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::CheckpointFile;
use super::file_system::{DirLock, FileSystem};
use super::format::{JournalId, SEGMENT_HEADER_BYTES};
use super::frame_scan::{Found, Frames};
use super::listing::Listing;
use super::{JournalError, lock};
use crate::domain::Timestamp;
use crate::journal::{Place, Record, Seq};

/// Which records a journal has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalExtent {
    /// The journal's id.
    pub id: u64,
    /// The position of the oldest record that is still there; that of the next one if there is none.
    pub oldest: u64,
    /// Every record below it is stored.
    pub stored_below: u64,
    /// Kept segments.
    pub kept_segments: usize,
    /// When the oldest kept segment was stored.
    pub kept_since: Option<Timestamp>,
    /// Other segments: those with records that wait, and the one that was written last.
    pub segments: usize,
}

/// The stored records of a journal, in order. The directory is locked until it is dropped.
pub struct StoredRecords {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    id: JournalId,
    extent: JournalExtent,
    /// Segments that were not read yet, by the seq of their first record.
    segments: VecDeque<(u64, String)>,
    current: Option<(Frames, u64, u64)>,
    lost: u64,
    _lock: Arc<dyn DirLock>,
}

/// The extent of the journal in a directory, which a server may have open.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn extent(fs: &dyn FileSystem, dir: &Path) -> Result<JournalExtent, JournalError> {
    look(fs, dir).map(|(extent, _)| extent)
}

impl StoredRecords {
    /// Locks the journal in a directory, to read its records from the one of seq `from` on.
    ///
    /// # Errors
    /// When a server has it open, there is none, or it cannot be read.
    pub fn open(fs: &Arc<dyn FileSystem>, dir: &Path, from: u64) -> Result<Self, JournalError> {
        extent(&**fs, dir)?;
        let lock = lock(&**fs, dir)?;
        let (extent, mut segments) = look(&**fs, dir)?;
        while segments.get(1).is_some_and(|(first_seq, _)| *first_seq <= from) {
            segments.pop_front();
        }
        Ok(Self {
            fs: Arc::clone(fs),
            dir: dir.to_owned(),
            id: JournalId(extent.id),
            extent,
            segments,
            current: None,
            lost: 0,
            _lock: lock,
        })
    }

    /// Which records the journal has.
    pub const fn extent(&self) -> JournalExtent {
        self.extent
    }

    /// Records that were passed over because they are damaged.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// The next stored record; `None` at the end. Damaged ones are passed over.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            if self.current.is_none() && !self.enter()? {
                return Ok(None);
            }
            let next = self.segments.front().map_or(u64::MAX, |(first_seq, _)| *first_seq);
            let end = next.min(self.extent.stored_below);
            let Some((frames, segment, seq)) = &mut self.current else { continue };
            if *seq >= end {
                self.current = None;
                continue;
            }
            let at = frames.position();
            match frames.read(*seq, u64::MAX)? {
                Found::Frame(header, payload) => {
                    let place = Place { segment: *segment, offset: at };
                    let record = Record { seq: Seq(*seq), items: header.items, payload, place };
                    *seq += 1;
                    return Ok(Some(record));
                }
                bad => {
                    let found = frames.find(bad.search_from(at)..u64::MAX, &(*seq + 1..end))?;
                    let sound = found.map_or(end, |(_, header)| header.seq);
                    self.lost += sound - *seq;
                    *seq = sound;
                    if let Some((offset, _)) = found {
                        frames.seek(offset);
                    }
                }
            }
        }
    }

    /// Opens the next segment; `false` when there is none.
    fn enter(&mut self) -> io::Result<bool> {
        let Some((first_seq, name)) = self.segments.pop_front() else { return Ok(false) };
        let file = self.fs.open(&self.dir.join(name))?;
        let frames = Frames::new(file, self.id, SEGMENT_HEADER_BYTES);
        self.current = Some((frames, first_seq, first_seq));
        Ok(true)
    }
}

/// The extent, and the segments in order.
fn look(
    fs: &dyn FileSystem,
    dir: &Path,
) -> Result<(JournalExtent, VecDeque<(u64, String)>), JournalError> {
    let failed = |error| JournalError::io("read", dir, error);
    let listing = Listing::new(fs.list(dir).map_err(failed)?);
    let checkpoint = CheckpointFile::read(fs, dir).map_err(failed)?;
    let checkpoint = checkpoint.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let is_ours = |id: &JournalId| *id == checkpoint.id;
    let kept: Vec<_> = listing.kept.into_iter().filter(|(_, id, ..)| is_ours(id)).collect();
    let live: Vec<_> = listing.segments.into_iter().filter(|(_, id, _)| is_ours(id)).collect();
    let (kept_segments, segments) = (kept.len(), live.len());
    let kept_since = kept.iter().map(|(_, _, stored_at, _)| *stored_at).min();
    let live = live.into_iter().map(|(first_seq, _, name)| (first_seq, name));
    let mut all: Vec<_> =
        kept.into_iter().map(|(first_seq, _, _, name)| (first_seq, name)).chain(live).collect();
    all.sort_unstable();
    let extent = JournalExtent {
        id: checkpoint.id.0,
        oldest: all.first().map_or(checkpoint.acked, |(first_seq, _)| *first_seq),
        stored_below: checkpoint.acked,
        kept_segments,
        kept_since,
        segments,
    };
    Ok((extent, all.into()))
}
