//! Recovery: from what lies in the directory to a journal that can go on.
//!
//! Each segment is looked through for what is sound, torn and damaged ([`super::segment_scan`]).
//!
//! # What is sound may still not be synced
//! After a crash of the process, or a restart after a failed sync, the page cache may hold records
//! that the disk does not. The last group is therefore written again and synced before anything is
//! appended behind it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::CheckpointFile;
use super::file_system::{Disk, DiskFile, read_full, write_all};
use super::format::{
    Checkpoint, JournalId, SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment_header,
    parse_segment_name,
};
use super::quarantine::Damage;
use super::segment_manager::SPARES_MAX;
use super::segment_scan::{HEADER_READ_BYTES, Scanned, SegmentFile, SegmentScan};
use super::segments::{Position, Segment, State};
use super::{CHECKPOINT_NAME, DAMAGED_DIR, JournalError, LOCK_NAME, SPARE_PREFIX};

/// Bytes of the last group that are written again at once.
const REWRITE_BYTES: usize = 1024 * 1024;

/// What was found when the journal was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Records that wait to be read.
    pub records: u64,
    /// Items in them.
    pub items: u64,
    /// Bytes cut off behind the last whole record; they were never acknowledged. In a segment that
    /// was used before, leftovers of its former records count too.
    pub torn_bytes: u64,
    /// What was synced once and is lost.
    pub damage: Vec<Damage>,
    /// Files that are not of this journal. They are left alone, but for one that has the name of a
    /// segment of this journal: it is moved to `damaged/`.
    pub foreign: Vec<PathBuf>,
}

/// What the journal goes on with.
pub(super) struct Recovered {
    pub(super) id: JournalId,
    pub(super) checkpoint: CheckpointFile,
    pub(super) state: State,
    pub(super) start: Position,
    pub(super) next_seq: u64,
    pub(super) spare_number: u64,
    pub(super) report: Recovery,
}

/// Brings the journal in `dir` into order.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    segment_bytes: u64,
) -> Result<Recovered, JournalError> {
    let names = disk.list(dir).map_err(|error| JournalError::io("list", dir, error))?;
    let mut listing = Listing::new(names);
    let checkpoint_path = dir.join(CHECKPOINT_NAME);
    let (mut checkpoint, last) = CheckpointFile::open(disk, dir)
        .map_err(|error| JournalError::io("open", &checkpoint_path, error))?;
    let id = identity(last, &listing)
        .map_err(|error| JournalError::io("draw an id for", dir, io::Error::other(error)))?;
    let mut recoverer = Recoverer { disk, dir, id, report: Recovery::default() };
    let files = recoverer.open_segments(&mut listing)?;
    recoverer.report.foreign.extend(listing.foreign.iter().map(|name| dir.join(name)));

    let first_seq = files.first().map_or(1, |file| file.first_seq);
    let known =
        last.unwrap_or(Checkpoint { id, version: 0, finished: first_seq, synced: first_seq });
    if last.is_none() {
        let written = checkpoint.write(known);
        written.map_err(|error| JournalError::io("write", &checkpoint_path, error))?;
    }
    let replay = recoverer.replay(&files, known)?;
    let spares = keep_spares(disk, dir, &listing.spares, segment_bytes)
        .map_err(|error| JournalError::io("sort out the spare segments of", dir, error))?;

    let mut state = State::new(replay.live, spares, known);
    state.synced = replay.next_seq;
    state.items_waiting = recoverer.report.items;
    state.start_at(replay.start.seq);
    Ok(Recovered {
        id,
        checkpoint,
        state,
        start: replay.start,
        next_seq: replay.next_seq,
        spare_number: listing.spares.keys().next_back().copied().unwrap_or(0),
        report: recoverer.report,
    })
}

/// The names in the directory, by what they are.
struct Listing {
    /// In the order of their seqs.
    segments: Vec<(u64, JournalId, String)>,
    spares: BTreeMap<u64, String>,
    foreign: Vec<String>,
}

impl Listing {
    fn new(mut names: Vec<String>) -> Self {
        names.sort();
        let mut listing = Self { segments: vec![], spares: BTreeMap::new(), foreign: vec![] };
        for name in names {
            if let Some((first_seq, id)) = parse_segment_name(&name) {
                listing.segments.push((first_seq, id, name));
            } else if let Some(number) = parse_spare_name(&name) {
                listing.spares.insert(number, name);
            } else if ![LOCK_NAME, CHECKPOINT_NAME, DAMAGED_DIR].contains(&name.as_str()) {
                listing.foreign.push(name);
            }
        }
        listing
    }
}

fn parse_spare_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix(SPARE_PREFIX)?.parse().ok()?;
    (format!("{SPARE_PREFIX}{number}") == name).then_some(number)
}

/// The checkpoint's id, or else that of most segments, or else a new one.
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

/// What the segments come to.
struct Replay {
    live: VecDeque<Segment>,
    start: Position,
    next_seq: u64,
}

struct Recoverer<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    id: JournalId,
    report: Recovery,
}

impl Recoverer<'_> {
    fn open_segments(&mut self, listing: &mut Listing) -> Result<Vec<SegmentFile>, JournalError> {
        let mut files = Vec::new();
        for (first_seq, id, name) in std::mem::take(&mut listing.segments) {
            let path = self.dir.join(&name);
            if id != self.id {
                listing.foreign.push(name);
                continue;
            }
            let opened = self.open_segment(&path);
            let (file, bytes, header) =
                opened.map_err(|error| JournalError::io("read", &path, error))?;
            let header_is_sound = match header {
                SegmentHeader::Sound(seq, id) if (seq, id) != (first_seq, self.id) => {
                    self.move_aside(&path, &name)?;
                    listing.foreign.push(name);
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

    fn open_segment(&self, path: &Path) -> io::Result<(Arc<dyn DiskFile>, u64, SegmentHeader)> {
        let file = self.disk.open(path)?;
        let mut start = [0; HEADER_READ_BYTES];
        let read = read_full(&*file, &mut start, 0)?;
        let bytes = file.length()?;
        Ok((file, bytes, parse_segment_header(&start[..read])))
    }

    /// Clears a name that the journal may need.
    fn move_aside(&self, path: &Path, name: &str) -> Result<(), JournalError> {
        let aside = self.dir.join(DAMAGED_DIR);
        self.disk
            .create_dir(&aside)
            .and_then(|()| self.disk.rename(path, &aside.join(name)))
            .and_then(|()| self.disk.sync_dir(&aside))
            .and_then(|()| self.disk.sync_dir(self.dir))
            .map_err(|error| JournalError::io("move aside", path, error))
    }

    /// Looks through every segment that holds a record that is not finished.
    fn replay(&mut self, files: &[SegmentFile], known: Checkpoint) -> Result<Replay, JournalError> {
        let unfinished = files.partition_point(|file| file.first_seq <= known.finished);
        let first = unfinished.saturating_sub(1);
        let mut live: VecDeque<_> = files[..first].iter().map(SegmentFile::whole).collect();
        let mut next_seq = known.finished;
        let mut start = None;
        for (index, segment) in files.iter().enumerate().skip(first) {
            let failed = |error| JournalError::io("recover", &self.dir.join(&segment.name), error);
            self.report_gap(&segment.name, next_seq..segment.first_seq);
            let behind = files.get(index + 1).map(|next| next.first_seq);
            let scan = SegmentScan {
                disk: self.disk,
                dir: self.dir,
                id: self.id,
                segment,
                behind,
                known,
                report: &mut self.report,
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
            if behind.is_some() {
                live.push_back(Segment { end: scanned.end, ..segment.whole() });
            } else {
                let failed = |error| JournalError::io("cut", &self.dir.join(&segment.name), error);
                live.extend(self.cut(segment, &scanned).map_err(failed)?);
            }
        }
        if files.is_empty() {
            self.report_gap(CHECKPOINT_NAME, known.finished..known.synced);
        }
        let next_seq = next_seq.max(known.synced);
        // Nothing waits: the reader begins with the segment that the first append will make.
        let start = start.unwrap_or_else(|| Position {
            segment: live.back().map_or(0, |last| last.first_seq),
            offset: live.back().map_or(0, |last| last.end),
            seq: next_seq,
        });
        Ok(Replay { live, start, next_seq })
    }

    /// Reports records between two segments that are nowhere.
    fn report_gap(&mut self, name: &str, seqs: Range<u64>) {
        if !seqs.is_empty() {
            let damage =
                Damage { file: self.dir.join(name), offset: 0, bytes: 0, seqs, kept_aside: None };
            damage.log();
            self.report.damage.push(damage);
        }
    }

    /// Ends the last segment behind its last sound record, durably. One without any is removed:
    /// its name is that of the next.
    fn cut(&mut self, segment: &SegmentFile, scanned: &Scanned) -> io::Result<Option<Segment>> {
        let file = &*segment.file;
        if scanned.end <= SEGMENT_HEADER_BYTES {
            self.disk.remove(&self.dir.join(&segment.name))?;
            self.disk.sync_dir(self.dir)?;
            return Ok(None);
        }
        file.set_len(scanned.end)?;
        rewrite(file, scanned.last_group_at..scanned.end)?;
        file.sync_all()?;
        Ok(Some(Segment { end: scanned.end, bytes: scanned.end, ..segment.whole() }))
    }
}

/// Writes what is there once more, so that a sync takes it to the disk.
fn rewrite(file: &dyn DiskFile, bytes: Range<u64>) -> io::Result<()> {
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

/// Keeps the spares that are whole, and removes the others.
fn keep_spares(
    disk: &dyn Disk,
    dir: &Path,
    spares: &BTreeMap<u64, String>,
    segment_bytes: u64,
) -> io::Result<Vec<String>> {
    let mut kept = Vec::new();
    for name in spares.values() {
        let path = dir.join(name);
        if kept.len() < SPARES_MAX && disk.open(&path)?.length()? == segment_bytes {
            kept.push(name.clone());
        } else {
            disk.remove(&path)?;
        }
    }
    disk.sync_dir(dir)?;
    Ok(kept)
}
