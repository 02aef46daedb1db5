//! The records that a journal has: stored ones, in kept segments and in others below the checkpoint, and those that wait.
//!
//! Read by commands, while no server has the journal open; and by the server that has.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::CheckpointFile;
use super::file_system::{DirLock, FileSystem};
use super::format::{Checkpoint, JournalId, SEGMENT_HEADER_BYTES, is_held_name};
use super::frame_scan::{Found, Frames};
use super::listing::Listing;
use super::segment_scan::{has_later_group, seqs_behind};
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
    /// Every record below it is stored. Those from it on wait.
    pub stored_below: u64,
    /// Kept segments.
    pub kept_segments: usize,
    /// When the oldest kept segment was stored.
    pub kept_since: Option<Timestamp>,
    /// Other segments: those with records that wait, and the one that was written last.
    pub segments: usize,
}

/// The records of a journal, in order.
pub struct JournalRecords {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    checkpoint: Checkpoint,
    extent: JournalExtent,
    /// Segments that were not read yet, by the seq of their first record.
    segments: VecDeque<(u64, String)>,
    current: Option<CurrentSegment>,
    /// The position behind what was read.
    position: u64,
    lost: Lost,
    /// Held until it is dropped, unless the server has it that reads its own journal.
    _lock: Option<Arc<dyn DirLock>>,
}

/// Records that are damaged or missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Below the checkpoint.
    pub stored: u64,
    /// Above it.
    pub waiting: u64,
}

/// The segment that is read.
struct CurrentSegment {
    frames: Frames,
    first_seq: u64,
    bytes: u64,
    /// Whether it is held: those behind it may have been given up.
    is_held: bool,
}

/// The extent of the journal in a directory, which a server may have open.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn extent(fs: &dyn FileSystem, dir: &Path) -> Result<JournalExtent, JournalError> {
    look(fs, dir).map(|(extent, ..)| extent)
}

impl JournalRecords {
    /// Locks the journal in a directory, to read its records from the one of seq `from` on, and those that wait.
    ///
    /// # Errors
    /// When a server has it open, there is none, or it cannot be read.
    pub fn open(fs: &Arc<dyn FileSystem>, dir: &Path, from: u64) -> Result<Self, JournalError> {
        extent(&**fs, dir)?;
        let lock = lock(&**fs, dir)?;
        Self::read(fs, dir, from, Some(lock))
    }

    /// The records from the one of seq `from` on of a journal that this process has open. Nothing at or above it may be
    /// freed meanwhile.
    pub(super) fn beside_server(
        fs: &Arc<dyn FileSystem>,
        dir: &Path,
        from: u64,
    ) -> Result<Self, JournalError> {
        Self::read(fs, dir, from, None)
    }

    fn read(
        fs: &Arc<dyn FileSystem>,
        dir: &Path,
        from: u64,
        lock: Option<Arc<dyn DirLock>>,
    ) -> Result<Self, JournalError> {
        let (extent, checkpoint, mut segments) = look(&**fs, dir)?;
        let wanted = from.min(extent.stored_below);
        while segments.get(1).is_some_and(|(first_seq, _)| *first_seq <= wanted) {
            segments.pop_front();
        }
        Ok(Self {
            fs: Arc::clone(fs),
            dir: dir.to_owned(),
            checkpoint,
            extent,
            segments,
            current: None,
            // Those that wait are read in any case.
            position: wanted,
            lost: Lost::default(),
            _lock: lock,
        })
    }

    /// Which records the journal has.
    pub const fn extent(&self) -> JournalExtent {
        self.extent
    }

    /// Records that were passed over.
    pub const fn lost(&self) -> Lost {
        self.lost
    }

    /// The position behind the last record, once every one was read.
    pub fn end(&self) -> u64 {
        self.position.max(self.checkpoint.acked)
    }

    /// The next record; `None` at the end. Damaged ones are passed over, and a torn tail is left out, as at a start.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            if self.current.is_none() && !self.enter()? {
                let behind = self.position.max(self.checkpoint.acked);
                self.lose(behind..self.checkpoint.synced);
                return Ok(None);
            }
            let next_segment = self.segments.front().map(|(first_seq, _)| *first_seq);
            let seq = self.position;
            let Some(CurrentSegment { frames, first_seq, bytes, is_held }) = &mut self.current
            else {
                continue;
            };
            if next_segment.is_some_and(|next| next <= seq) {
                self.current = None;
                continue;
            }
            let at = frames.position();
            match frames.read(seq, u64::MAX)? {
                Found::Frame(header, payload) => {
                    let place = Place { segment: *first_seq, offset: at };
                    self.position += 1;
                    return Ok(Some(Record { seq: Seq(seq), items: header.items, payload, place }));
                }
                bad => {
                    let from = bad.search_from(at);
                    let seqs = seqs_behind(seq, from, *bytes, next_segment);
                    let sound = frames.find(from..*bytes, &seqs)?;
                    let synced_below = next_segment.unwrap_or(self.checkpoint.synced);
                    let was_synced =
                        seq < synced_below || has_later_group(frames, seq, sound, *bytes, &seqs)?;
                    match sound {
                        Some((offset, header)) if was_synced => {
                            frames.seek(offset);
                            self.lose(seq..header.seq);
                        }
                        None if *is_held && seq <= self.checkpoint.acked => {
                            self.current = None;
                            self.position = synced_below.min(self.checkpoint.acked).max(seq);
                        }
                        Some(_) | None => {
                            let from = at..from.max(at + 1).min(*bytes);
                            let is_lost = !was_synced && frames.is_unreadable(from)?;
                            self.current = None;
                            // Without a sync before it, how many records there were is not known.
                            self.lose(seq..if is_lost { seq + 1 } else { synced_below });
                        }
                    }
                }
            }
        }
    }

    /// Moves the checkpoint: every record below a position is stored.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn confirm(&mut self, below: u64) -> Result<(), JournalError> {
        let failed = |error| JournalError::io("write the checkpoint of", &self.dir, error);
        let (mut file, _) = CheckpointFile::open(&*self.fs, &self.dir).map_err(failed)?;
        let Checkpoint { acked, synced, .. } = self.checkpoint;
        let (acked, synced) = (acked.max(below), synced.max(below));
        file.write(Checkpoint { acked, synced, ..self.checkpoint }).map_err(failed)
    }

    /// Opens the next segment; `false` when there is none.
    fn enter(&mut self) -> io::Result<bool> {
        let Some((first_seq, name)) = self.segments.pop_front() else { return Ok(false) };
        let file = self.fs.open(&self.dir.join(&name))?;
        let bytes = file.length()?;
        // Older segments may have been given up, those with records that wait not.
        self.lose(self.position.max(self.checkpoint.acked)..first_seq);
        self.position = first_seq;
        let frames = Frames::new(file, self.checkpoint.id, SEGMENT_HEADER_BYTES);
        let is_held = is_held_name(&name);
        self.current = Some(CurrentSegment { frames, first_seq, bytes, is_held });
        Ok(true)
    }

    /// Passes records over.
    fn lose(&mut self, seqs: Range<u64>) {
        let acked = self.checkpoint.acked;
        self.lost.stored += seqs.end.min(acked).saturating_sub(seqs.start);
        self.lost.waiting += seqs.end.saturating_sub(seqs.start.max(acked));
        self.position = self.position.max(seqs.end);
    }
}

/// The extent, the checkpoint, and the segments in order.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
fn look(
    fs: &dyn FileSystem,
    dir: &Path,
) -> Result<(JournalExtent, Checkpoint, VecDeque<(u64, String)>), JournalError> {
    let failed = |error| JournalError::io("read", dir, error);
    let listing = Listing::new(fs.list(dir).map_err(failed)?);
    let checkpoint = CheckpointFile::read(fs, dir).map_err(failed)?;
    let checkpoint = checkpoint.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let checkpoint = Checkpoint { synced: checkpoint.synced.max(checkpoint.acked), ..checkpoint };
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
    Ok((extent, checkpoint, all.into()))
}
