//! Recovery: restores a consistent journal from the files in its directory.
//!
//! The last segment, and the first one if some of its records are acknowledged, are scanned for sound, torn and damaged
//! records ([`super::segment_scan`]). The others have a summary ([`super::segment_summary`]); those without a sound one
//! are scanned, too. The reader meets damage in segments that were not scanned.
//!
//! # The checkpoint that is read may not be durable
//! A crash of the process may leave one that only the page cache has. It is written again and synced before any segment
//! is freed by it.
//!
//! # Sound records may not be synced
//! After a crash of the process, or a restart after a failed sync, the page cache may hold records that the disk does
//! not. The last group is therefore written again and synced before anything is appended behind it
//! ([`super::segment_tail`]).

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::CheckpointFile;
use super::file_system::{FileHandle, FileSystem, is_no_space, is_unreadable, read_past_damage};
use super::format::{
    Checkpoint, FRAME_HEADER_BYTES, JournalId, SEGMENT_HEADER_BYTES, SegmentHeader,
    parse_segment_header,
};
use super::listing::{Listing, identity, keep_spares, kept_segments};
use super::quarantine::{Damage, Quarantine};
use super::segment_scan::{Scanned, SegmentFile, SegmentScan};
use super::segment_summary::SegmentSummary;
use super::segment_tail::SegmentTail;
use super::segments::{Position, Segment, State};
use super::shares::OrgBytes;
use super::{CHECKPOINT_NAME, JournalError, JournalOptions, RecordOwner};

/// Bytes of the block with a segment's header and summary.
const HEADER_BLOCK_BYTES: usize = 4096;
/// [`SUMMARY_OFFSET`] as an index.
const SUMMARY_OFFSET_IN_BLOCK: usize = 512;

/// What recovery found when the journal was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// Records that are not acknowledged.
    pub records: u64,
    /// Items in them.
    pub items: u64,
    /// Bytes cut off behind the last sound record; their appends never returned. Leftovers in a reused segment count
    /// too.
    pub torn_bytes: u64,
    /// Records that were synced once and are lost.
    pub damage: Vec<Damage>,
    /// Files that do not belong to this journal. They are left alone, except one with the name of a segment of this
    /// journal, which is moved to `damaged/`.
    pub unknown_files: Vec<PathBuf>,
}

/// The recovered state.
pub(super) struct Recovered {
    pub(super) id: JournalId,
    pub(super) checkpoint: CheckpointFile,
    pub(super) state: State,
    pub(super) start: Position,
    /// The tail that the writer has to make durable first, if there was no space for it.
    pub(super) unsettled: Option<SegmentTail>,
    pub(super) next_seq: u64,
    pub(super) spare_number: u64,
    pub(super) report: RecoveryReport,
    /// Bytes of unacknowledged records, by organisation.
    pub(super) unstored: OrgBytes,
    /// Every record below this seq is stored, by the checkpoint.
    pub(super) acked: u64,
}

/// Recovers the journal in the directory of `options`.
pub(super) fn recover(
    fs: &dyn FileSystem,
    options: &JournalOptions,
    quarantine: &Quarantine,
) -> Result<Recovered, JournalError> {
    let (dir, segment_bytes) = (options.dir.as_path(), options.segment_bytes);
    let names = fs.list(dir).map_err(|error| JournalError::io("list", dir, error))?;
    let mut listing = Listing::new(names);
    let checkpoint_path = dir.join(CHECKPOINT_NAME);
    let (mut checkpoint_file, last) = loop {
        match CheckpointFile::open(fs, dir) {
            Err(error) if is_no_space(&error) && listing.make_space(fs, dir, None) => {}
            opened => {
                break opened.map_err(|error| JournalError::io("open", &checkpoint_path, error))?;
            }
        }
    };
    let id = identity(last, &listing)
        .map_err(|error| JournalError::io("draw an id for", dir, io::Error::other(error)))?;
    let mut recovery = Recovery {
        fs,
        dir,
        id,
        quarantine,
        owner: options.owner,
        lost: Vec::new(),
        unsettled: None,
        report: RecoveryReport::default(),
        unstored: OrgBytes::new(),
    };
    let files = recovery.open_segments(&mut listing)?;

    let first_seq = files.first().map_or(1, |file| file.first_seq);
    let checkpoint =
        last.unwrap_or(Checkpoint { id, version: 0, acked: first_seq, synced: first_seq });
    let lost_tail = recovery.lost_tail(&files, segment_bytes);
    let scanned = recovery.scan(&files, lost_tail.as_ref(), checkpoint, &mut listing)?;
    let kept = kept_segments(fs, options, id, &mut listing);
    recovery.report.unknown_files.extend(listing.unknown.iter().map(|name| dir.join(name)));
    let spares = keep_spares(fs, dir, &listing.spares, segment_bytes)
        .map_err(|error| JournalError::io("list the spare segments of", dir, error))?;

    let acked = checkpoint.acked;
    let checkpoint = Checkpoint { synced: scanned.next_seq, ..checkpoint };
    let mut state = State::new(scanned.live, spares, kept, checkpoint);
    if let Err(error) = checkpoint_file.write(checkpoint) {
        tracing::error!(%error, "cannot write the journal's checkpoint, retrying; no segment is freed before");
        state.persisted = 0;
        state.marked = 0;
    }
    state.items_waiting = recovery.report.items;
    state.start_at(scanned.start.seq);
    Ok(Recovered {
        id,
        checkpoint: checkpoint_file,
        state,
        start: scanned.start,
        unsettled: recovery.unsettled,
        next_seq: scanned.next_seq,
        spare_number: listing.spares.keys().next_back().copied().unwrap_or(0),
        report: recovery.report,
        unstored: recovery.unstored,
        acked,
    })
}

/// The result of scanning the segments.
struct ScannedSegments {
    live: VecDeque<Segment>,
    start: Position,
    next_seq: u64,
}

struct Recovery<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    id: JournalId,
    quarantine: &'a Quarantine,
    owner: RecordOwner,
    /// Segments that cannot be opened: the seqs of their first records and their names.
    lost: Vec<(u64, String)>,
    /// The tail that there was no space for.
    unsettled: Option<SegmentTail>,
    report: RecoveryReport,
    unstored: OrgBytes,
}

/// Segments at the end that cannot be opened. Nothing tells how many records they have.
struct LostTail {
    /// The name of the first one.
    name: String,
    /// The seq of its first record.
    first_seq: u64,
    /// They have no record from this seq on: it is beyond the most that fit. So no seq is given to two records.
    below: u64,
}

impl Recovery<'_> {
    fn open_segments(&mut self, listing: &mut Listing) -> Result<Vec<SegmentFile>, JournalError> {
        let mut files = Vec::new();
        for (first_seq, id, name) in std::mem::take(&mut listing.segments) {
            let path = self.dir.join(&name);
            if id != self.id {
                listing.unknown.push(name);
                continue;
            }
            let (file, bytes, block) = match self.open_segment(&path) {
                Err(error) if is_unreadable(&error) => {
                    tracing::error!(file = %path.display(), %error, "a journal segment is lost");
                    self.lost.push((first_seq, name.clone()));
                    self.set_aside(listing, name);
                    continue;
                }
                opened => opened.map_err(|error| JournalError::io("read", &path, error))?,
            };
            let header_is_sound = match parse_segment_header(&block) {
                SegmentHeader::Sound(seq, id) if (seq, id) != (first_seq, self.id) => {
                    self.set_aside(listing, name);
                    continue;
                }
                SegmentHeader::Sound(..) => true,
                SegmentHeader::Damaged => false,
                SegmentHeader::Unknown { version } => {
                    return Err(JournalError::Format { path, version });
                }
            };
            self.quarantine.holds.recover(&block, first_seq, id);
            let summary = block.get(SUMMARY_OFFSET_IN_BLOCK..).unwrap_or_default();
            let summary = SegmentSummary::decode(summary, self.id, first_seq);
            files.push(SegmentFile { first_seq, name, file, bytes, header_is_sound, summary });
        }
        Ok(files)
    }

    /// The segments at the end that cannot be opened, if there are any.
    fn lost_tail(&self, files: &[SegmentFile], segment_bytes: u64) -> Option<LostTail> {
        let last = files.last().map_or(0, |file| file.first_seq);
        let mut behind = self.lost.iter().filter(|(first_seq, _)| *first_seq > last);
        let (first_seq, name) = behind.next()?.clone();
        let last_lost = behind.next_back().map_or(first_seq, |(last, _)| *last);
        let bytes = files.iter().map(|file| file.bytes).fold(segment_bytes, u64::max);
        let below = last_lost + bytes / FRAME_HEADER_BYTES as u64;
        Some(LostTail { name, first_seq, below })
    }

    /// Moves a file to quarantine that has the name of a segment and is none. Its name may be needed.
    fn set_aside(&self, listing: &mut Listing, name: String) {
        if let Err(error) = self.quarantine.whole_file(&name) {
            tracing::error!(file = name, %error, "cannot move a file of the journal to quarantine");
        }
        listing.unknown.push(name);
    }

    /// Opens a segment and reads its first block.
    fn open_segment(&self, path: &Path) -> io::Result<(Arc<dyn FileHandle>, u64, Vec<u8>)> {
        let file = self.fs.open(path)?;
        let mut block = vec![0; HEADER_BLOCK_BYTES];
        let read = read_past_damage(&*file, &mut block, 0)?;
        block.truncate(read);
        let bytes = file.length()?;
        Ok((file, bytes, block))
    }

    /// Takes a segment from its summary, if it has one that is of use: every record waits, and none is missing.
    fn summarized(
        &mut self,
        segment: &SegmentFile,
        next_segment: Option<u64>,
        checkpoint: Checkpoint,
    ) -> Option<Arc<SegmentSummary>> {
        let summary = segment.summary.as_ref()?;
        let is_whole = next_segment == Some(summary.next_seq) && summary.end <= segment.bytes;
        if !is_whole || checkpoint.acked > segment.first_seq {
            return None;
        }
        self.report.records += summary.records;
        self.report.items += summary.items;
        for (org, bytes) in &summary.orgs {
            *self.unstored.entry(*org).or_default() += bytes;
        }
        Some(Arc::new(summary.clone()))
    }

    /// Counts what every segment has that waits, and finds the first and the last record.
    fn scan(
        &mut self,
        files: &[SegmentFile],
        lost_tail: Option<&LostTail>,
        checkpoint: Checkpoint,
        listing: &mut Listing,
    ) -> Result<ScannedSegments, JournalError> {
        let lost_from = lost_tail.map(|lost| lost.first_seq);
        let unacked = files.partition_point(|file| file.first_seq <= checkpoint.acked);
        let first = unacked.saturating_sub(1);
        let mut live: VecDeque<_> = files[..first].iter().map(SegmentFile::whole).collect();
        let mut next_seq = checkpoint.acked;
        let mut start = None;
        for (index, segment) in files.iter().enumerate().skip(first) {
            let failed = |error| JournalError::io("recover", &self.dir.join(&segment.name), error);
            self.report_gap(&segment.name, next_seq..segment.first_seq).map_err(failed)?;
            let next_segment = files.get(index + 1).map(|next| next.first_seq).or(lost_from);
            if let Some(summary) = self.summarized(segment, next_segment, checkpoint) {
                next_seq = summary.next_seq;
                start.get_or_insert(Position {
                    segment: segment.first_seq,
                    offset: SEGMENT_HEADER_BYTES,
                    seq: segment.first_seq,
                });
                let (end, summary) = (summary.end, Some(summary));
                live.push_back(Segment { end, summary, ..segment.whole() });
                continue;
            }
            let scan = SegmentScan {
                quarantine: self.quarantine,
                id: self.id,
                segment,
                next_segment,
                checkpoint,
                owner: self.owner,
                report: &mut self.report,
                unstored: &mut self.unstored,
            };
            let scanned = scan.run().map_err(failed)?;
            next_seq = next_seq.max(scanned.next_seq);
            if start.is_none() {
                start = scanned.first_waiting.map(|(offset, seq)| Position {
                    segment: segment.first_seq,
                    offset,
                    seq,
                });
            }
            if next_segment.is_some() {
                live.push_back(Segment { end: scanned.end, ..segment.whole() });
            } else {
                let failed = |error| JournalError::io("cut", &self.dir.join(&segment.name), error);
                live.extend(self.cut(segment, scanned, listing).map_err(failed)?);
            }
        }
        if let Some(LostTail { name, first_seq, below }) = lost_tail {
            let from = checkpoint.acked.max(*first_seq);
            let known_below = checkpoint.synced.max(from + 1);
            let damage =
                self.quarantine.segment(name, from..(*below).max(known_below), known_below);
            next_seq = damage.seqs.end;
            self.report.damage.push(damage);
        } else if files.is_empty() {
            let path = self.dir.join(CHECKPOINT_NAME);
            self.report_gap(CHECKPOINT_NAME, checkpoint.acked..checkpoint.synced)
                .map_err(|error| JournalError::io("recover", &path, error))?;
        }
        let next_seq = next_seq.max(checkpoint.synced);
        // No record waits: the reader begins with the segment that the first append creates.
        let start = start.unwrap_or_else(|| Position {
            segment: live.back().map_or(0, |last| last.first_seq),
            offset: live.back().map_or(0, |last| last.end),
            seq: next_seq,
        });
        Ok(ScannedSegments { live, start, next_seq })
    }

    /// Reports records that are missing between two segments.
    fn report_gap(&mut self, name: &str, seqs: Range<u64>) -> io::Result<()> {
        if !seqs.is_empty() {
            self.report.damage.extend(self.quarantine.damage(name, None, 0..0, seqs)?);
        }
        Ok(())
    }

    /// Cuts the last segment behind its last sound record, durably. A segment without records is removed: the next
    /// segment needs its name. Without space for that, files give theirs that hold nothing that waits; if that does not
    /// do, the tail is left to the writer.
    fn cut(
        &mut self,
        segment: &SegmentFile,
        scanned: Scanned,
        listing: &mut Listing,
    ) -> io::Result<Option<Segment>> {
        let end = scanned.end;
        if end <= SEGMENT_HEADER_BYTES {
            self.fs.remove(&self.dir.join(&segment.name))?;
            self.fs.sync_dir(self.dir)?;
            return Ok(None);
        }
        let tail = SegmentTail {
            file: Arc::clone(&segment.file),
            name: segment.name.clone(),
            last_group: scanned.last_group_at..end,
            summary: scanned.summary,
        };
        loop {
            match tail.settle(self.id) {
                Err(error) if is_no_space(&error) => {
                    if listing.make_space(self.fs, self.dir, Some(self.id)) {
                        continue;
                    }
                    tracing::error!(
                        file = segment.name, %error,
                        "no space to make the journal's last records durable; it is full until there is some"
                    );
                    self.unsettled = Some(tail);
                }
                settled => settled?,
            }
            return Ok(Some(Segment { end, bytes: end, ..segment.whole() }));
        }
    }
}
