//! Recovery: restores a consistent journal from the files in its directory.
//!
//! Each segment with unacknowledged records is scanned for sound, torn and damaged ones ([`super::segment_scan`]).
//!
//! # Sound records may not be synced
//! After a crash of the process, or a restart after a failed sync, the page cache may hold records that the disk does
//! not. The last group is therefore written again and synced before anything is appended behind it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::CheckpointFile;
use super::file_system::{FileHandle, FileSystem, read_full, write_all};
use super::format::{
    Checkpoint, JournalId, SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment_header,
    parse_segment_name,
};
use super::quarantine::{Damage, quarantine_file};
use super::segment_manager::SPARES_MAX;
use super::segment_scan::{HEADER_READ_BYTES, Scanned, SegmentFile, SegmentScan};
use super::segments::{Position, Segment, Spare, State};
use super::shares::OrgBytes;
use super::{
    CHECKPOINT_NAME, JournalError, JournalOptions, LOCK_NAME, QUARANTINE_DIR, RecordOwner,
    SPARE_PREFIX,
};

/// Bytes of the last group that are written again in one call.
const REWRITE_BYTES: usize = 1024 * 1024;

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
    pub(super) next_seq: u64,
    pub(super) spare_number: u64,
    pub(super) report: RecoveryReport,
    /// Bytes of unacknowledged records, by organisation.
    pub(super) unstored: OrgBytes,
}

/// Recovers the journal in the directory of `options`.
pub(super) fn recover(
    fs: &dyn FileSystem,
    options: &JournalOptions,
) -> Result<Recovered, JournalError> {
    let (dir, segment_bytes) = (options.dir.as_path(), options.segment_bytes);
    let names = fs.list(dir).map_err(|error| JournalError::io("list", dir, error))?;
    let mut listing = Listing::new(names);
    let checkpoint_path = dir.join(CHECKPOINT_NAME);
    let (mut checkpoint_file, last) = CheckpointFile::open(fs, dir)
        .map_err(|error| JournalError::io("open", &checkpoint_path, error))?;
    let id = identity(last, &listing)
        .map_err(|error| JournalError::io("draw an id for", dir, io::Error::other(error)))?;
    let mut recovery = Recovery {
        fs,
        dir,
        id,
        owner: options.owner,
        report: RecoveryReport::default(),
        unstored: OrgBytes::new(),
    };
    let files = recovery.open_segments(&mut listing)?;
    recovery.report.unknown_files.extend(listing.unknown.iter().map(|name| dir.join(name)));

    let first_seq = files.first().map_or(1, |file| file.first_seq);
    let checkpoint =
        last.unwrap_or(Checkpoint { id, version: 0, acked: first_seq, synced: first_seq });
    if last.is_none() {
        let written = checkpoint_file.write(checkpoint);
        written.map_err(|error| JournalError::io("write", &checkpoint_path, error))?;
    }
    let scanned = recovery.scan(&files, checkpoint)?;
    let spares = keep_spares(fs, dir, &listing.spares, segment_bytes)
        .map_err(|error| JournalError::io("list the spare segments of", dir, error))?;

    let mut state = State::new(scanned.live, spares, checkpoint);
    state.synced = scanned.next_seq;
    state.items_waiting = recovery.report.items;
    state.start_at(scanned.start.seq);
    Ok(Recovered {
        id,
        checkpoint: checkpoint_file,
        state,
        start: scanned.start,
        next_seq: scanned.next_seq,
        spare_number: listing.spares.keys().next_back().copied().unwrap_or(0),
        report: recovery.report,
        unstored: recovery.unstored,
    })
}

/// The names in the directory, by kind.
struct Listing {
    /// In ascending order.
    segments: Vec<(u64, JournalId, String)>,
    spares: BTreeMap<u64, String>,
    unknown: Vec<String>,
}

impl Listing {
    fn new(mut names: Vec<String>) -> Self {
        names.sort();
        let mut listing = Self { segments: vec![], spares: BTreeMap::new(), unknown: vec![] };
        for name in names {
            if let Some((first_seq, id)) = parse_segment_name(&name) {
                listing.segments.push((first_seq, id, name));
            } else if let Some(number) = parse_spare_name(&name) {
                listing.spares.insert(number, name);
            } else if ![LOCK_NAME, CHECKPOINT_NAME, QUARANTINE_DIR].contains(&name.as_str()) {
                listing.unknown.push(name);
            }
        }
        listing
    }
}

fn parse_spare_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix(SPARE_PREFIX)?.parse().ok()?;
    (format!("{SPARE_PREFIX}{number}") == name).then_some(number)
}

/// The checkpoint's id, else that of most segments, else a new one.
fn identity(
    checkpoint: Option<Checkpoint>,
    listing: &Listing,
) -> Result<JournalId, getrandom::Error> {
    if let Some(checkpoint) = checkpoint {
        return Ok(checkpoint.id);
    }
    let mut counts = BTreeMap::new();
    for (_, id, _) in &listing.segments {
        *counts.entry(*id).or_insert(0_u64) += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map_or_else(|| getrandom::u64().map(JournalId), |(id, _)| Ok(id))
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
    owner: RecordOwner,
    report: RecoveryReport,
    unstored: OrgBytes,
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
            let opened = self.open_segment(&path);
            let (file, bytes, header) =
                opened.map_err(|error| JournalError::io("read", &path, error))?;
            let header_is_sound = match header {
                SegmentHeader::Sound(seq, id) if (seq, id) != (first_seq, self.id) => {
                    quarantine_file(self.fs, self.dir, &name)
                        .map_err(|error| JournalError::io("quarantine", &path, error))?;
                    listing.unknown.push(name);
                    continue;
                }
                SegmentHeader::Sound(..) => true,
                SegmentHeader::Damaged => false,
                SegmentHeader::Unknown { version } => {
                    return Err(JournalError::Format { path, version });
                }
            };
            files.push(SegmentFile { first_seq, name, file, bytes, header_is_sound });
        }
        Ok(files)
    }

    fn open_segment(&self, path: &Path) -> io::Result<(Arc<dyn FileHandle>, u64, SegmentHeader)> {
        let file = self.fs.open(path)?;
        let mut start = [0; HEADER_READ_BYTES];
        let read = read_full(&*file, &mut start, 0)?;
        let bytes = file.length()?;
        Ok((file, bytes, parse_segment_header(&start[..read])))
    }

    /// Scans every segment that has an unacknowledged record.
    fn scan(
        &mut self,
        files: &[SegmentFile],
        checkpoint: Checkpoint,
    ) -> Result<ScannedSegments, JournalError> {
        let unacked = files.partition_point(|file| file.first_seq <= checkpoint.acked);
        let first = unacked.saturating_sub(1);
        let mut live: VecDeque<_> = files[..first].iter().map(SegmentFile::whole).collect();
        let mut next_seq = checkpoint.acked;
        let mut start = None;
        for (index, segment) in files.iter().enumerate().skip(first) {
            let failed = |error| JournalError::io("recover", &self.dir.join(&segment.name), error);
            self.report_gap(&segment.name, next_seq..segment.first_seq);
            let next_segment = files.get(index + 1).map(|next| next.first_seq);
            let scan = SegmentScan {
                fs: self.fs,
                dir: self.dir,
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
                live.extend(self.cut(segment, &scanned).map_err(failed)?);
            }
        }
        if files.is_empty() {
            self.report_gap(CHECKPOINT_NAME, checkpoint.acked..checkpoint.synced);
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
    fn report_gap(&mut self, name: &str, seqs: Range<u64>) {
        if !seqs.is_empty() {
            let damage =
                Damage { file: self.dir.join(name), offset: 0, bytes: 0, seqs, quarantined: None };
            damage.log();
            self.report.damage.push(damage);
        }
    }

    /// Cuts the last segment behind its last sound record, durably. A segment without records is removed: the next
    /// segment needs its name.
    fn cut(&mut self, segment: &SegmentFile, scanned: &Scanned) -> io::Result<Option<Segment>> {
        let file = &*segment.file;
        if scanned.end <= SEGMENT_HEADER_BYTES {
            self.fs.remove(&self.dir.join(&segment.name))?;
            self.fs.sync_dir(self.dir)?;
            return Ok(None);
        }
        file.set_len(scanned.end)?;
        rewrite(file, scanned.last_group_at..scanned.end)?;
        file.sync_all()?;
        Ok(Some(Segment { end: scanned.end, bytes: scanned.end, ..segment.whole() }))
    }
}

/// Writes the same bytes again, so that a sync makes them durable.
fn rewrite(file: &dyn FileHandle, bytes: Range<u64>) -> io::Result<()> {
    let mut piece = vec![0; REWRITE_BYTES];
    let mut at = bytes.start;
    while at < bytes.end {
        let wanted = usize::try_from(bytes.end - at).unwrap_or(REWRITE_BYTES).min(REWRITE_BYTES);
        let read = read_full(file, &mut piece[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all(file, &piece[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

/// Keeps the spares of full length, and removes the others.
fn keep_spares(
    fs: &dyn FileSystem,
    dir: &Path,
    spares: &BTreeMap<u64, String>,
    segment_bytes: u64,
) -> io::Result<Vec<Spare>> {
    let mut kept = Vec::new();
    for name in spares.values() {
        let path = dir.join(name);
        if kept.len() < SPARES_MAX {
            let file = fs.open(&path)?;
            if file.length()? == segment_bytes {
                kept.push(Spare { name: name.clone(), file });
                continue;
            }
        }
        fs.remove(&path)?;
    }
    fs.sync_dir(dir)?;
    Ok(kept)
}
