//! Quarantine: bytes that were synced once and are no longer readable, or that nobody can decode, are reported, copied
//! to `damaged/`, and skipped.
//!
//! Reporting and skipping always succeed. The copy is for an expert: where it is impossible, on a full disk, say, or
//! beyond the bounds of [`QuarantineCopies`], the report says that there is none. What is damaged is lost then. A record that is
//! whole and cannot be decoded is not: its segment is held for a version that can.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::QUARANTINE_DIR;
use super::file_system::{FileHandle, FileSystem, read_past_damage, write_all};
use super::format::{JournalId, parse_segment_name, segment_name};
use super::holds::Holds;
use super::quarantine_copies::{CopiedFiles, QuarantineCopies};
use crate::journal::metrics::JournalMetrics;
use crate::journal::{Place, Record};

/// Bytes copied in one call.
const COPY_BYTES: u64 = 1024 * 1024;
/// Reports of either kind that are remembered: the newest ones.
const REPORTED_MAX: usize = 1_000;

/// A range of the journal that is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The segment with the damage. For a missing segment, the one before the gap or, at the beginning, the one
    /// behind it.
    pub file: PathBuf,
    /// The offset of the damage in the file, in bytes.
    pub offset: u64,
    /// Bytes that could not be read; 0 when they are missing altogether.
    pub bytes: u64,
    /// The seqs of the lost records. Empty when only the segment's header is damaged, which costs no record.
    pub seqs: Range<u64>,
    /// The copy of the bytes, for an expert to inspect.
    pub quarantined: Option<PathBuf>,
}

/// Sets bytes aside and raises the alarm. Shared by recovery, the reader and the callers of the journal.
pub(super) struct Quarantine {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    copies: QuarantineCopies,
    pub(super) holds: Holds,
    metrics: Arc<JournalMetrics>,
    state: Mutex<State>,
}

/// The quarantine of a local journal, for its callers. Clones share it.
#[derive(Clone)]
pub(in crate::journal) struct LocalQuarantine {
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) id: JournalId,
}

impl LocalQuarantine {
    /// Reports a record that cannot be decoded, and copies it. Where that is impossible its segment is held.
    ///
    /// # Errors
    /// Only for want of file descriptors or memory: nothing is reported, and the caller waits.
    pub(in crate::journal) fn record(&self, record: &Record, reason: &str) -> io::Result<()> {
        let Place { segment, offset } = record.place;
        let name = segment_name(segment, self.id);
        let quarantined = self.quarantine.record(&format!("{name}-{offset}"), &record.payload)?;
        if quarantined.is_none() {
            self.quarantine.holds.hold(segment, self.id)?;
        }
        let seq = record.seq.get();
        let undecodable = Damage {
            file: self.quarantine.dir.join(&name),
            offset,
            bytes: record.payload.len() as u64,
            seqs: seq..seq + 1,
            quarantined: quarantined.clone(),
        };
        remember(&mut self.quarantine.lock().undecodable, undecodable);
        tracing::error!(
            file = %self.quarantine.dir.join(name).display(),
            offset,
            seq = record.seq.get(),
            reason,
            ?quarantined,
            "a record of the journal cannot be decoded, skipping it"
        );
        Ok(())
    }

    /// Copies bytes that nobody can store. Returns the copy, if one could be made.
    ///
    /// # Errors
    /// Only for want of file descriptors or memory.
    pub(in crate::journal) fn bytes(
        &self,
        name: &str,
        bytes: &[u8],
    ) -> io::Result<Option<PathBuf>> {
        self.quarantine.record(name, bytes)
    }
}

/// What the quarantine holds: the copies in `damaged/`, and what this run has reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuarantineContents {
    /// Copies.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies and reports, by file and offset.
    pub entries: Vec<QuarantineEntry>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Bytes that were set aside or reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuarantineEntry {
    /// The copy in `damaged/`; `None` if there is none.
    pub file: Option<String>,
    /// The segment that they come from, as far as it is known.
    pub segment: Option<String>,
    /// Their offset in it.
    pub offset: Option<u64>,
    /// How many they are; of a copy, its length.
    pub bytes: u64,
    /// The seqs of the records that are lost with them. Known for what this run has reported.
    pub seqs: Option<Range<u64>>,
}

/// What was set aside so far.
#[derive(Default)]
struct State {
    /// Damage, so that the reader does not report and count again what recovery has.
    damaged: VecDeque<Damage>,
    /// Records that were read and could not be decoded. They are kept apart, lest they push damage out.
    undecodable: VecDeque<Damage>,
}

impl Quarantine {
    /// The quarantine of the journal in `dir`. The copies that are there are counted before the first one is added.
    pub(super) fn new(fs: &Arc<dyn FileSystem>, dir: &Path, metrics: &Arc<JournalMetrics>) -> Self {
        Self {
            fs: Arc::clone(fs),
            dir: dir.to_owned(),
            holds: Holds::new(fs, dir),
            copies: QuarantineCopies::new(fs, &dir.join(QUARANTINE_DIR)),
            metrics: Arc::clone(metrics),
            state: Mutex::default(),
        }
    }

    /// What it holds, `max` entries of it. Blocks: it looks at every copy.
    ///
    /// # Errors
    /// When `damaged/` cannot be listed, or for want of file descriptors or memory.
    pub(super) fn contents(&self, max: usize) -> io::Result<QuarantineContents> {
        let mut copies = self.copies.list()?;
        let CopiedFiles { files, bytes } = CopiedFiles::of(&copies);
        let named = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let mut entries = Vec::new();
        let state = self.lock();
        for damage in state.damaged.iter().chain(&state.undecodable) {
            let file = damage.quarantined.as_deref().and_then(named);
            // It may have been moved away.
            let copy = file.and_then(|file| copies.remove_entry(&file));
            entries.push(QuarantineEntry {
                segment: named(&damage.file),
                offset: Some(damage.offset),
                bytes: copy.as_ref().map_or(damage.bytes, |(_, length)| *length),
                seqs: Some(damage.seqs.clone()),
                file: copy.map(|(file, _)| file),
            });
        }
        drop(state);
        entries.extend(copies.into_iter().map(|(file, bytes)| {
            let origin = origin_of(&file);
            let (segment, offset) =
                (origin.clone().map(|(segment, _)| segment), origin.map(|(_, at)| at));
            QuarantineEntry { file: Some(file), segment, offset, bytes, seqs: None }
        }));
        entries
            .sort_by(|a, b| (&a.segment, a.offset, &a.file).cmp(&(&b.segment, b.offset, &b.file)));
        let has_more = entries.len() > max;
        entries.truncate(max);
        Ok(QuarantineContents { files, bytes, entries, has_more })
    }

    /// Reports damage in the segment called `name`, and copies its bytes if `file` is given. `None` when the lost
    /// records were reported before.
    ///
    /// # Errors
    /// Only for want of file descriptors or memory: a passing condition that the caller may wait for.
    pub(super) fn damage(
        &self,
        name: &str,
        file: Option<&dyn FileHandle>,
        bytes: Range<u64>,
        seqs: Range<u64>,
    ) -> io::Result<Option<Damage>> {
        if self.is_reported(&seqs) {
            return Ok(None);
        }
        let quarantined = match file {
            Some(file) if !bytes.is_empty() => {
                let copy = |copy: &dyn FileHandle| copy_range(file, copy, bytes.clone());
                let bytes_count = bytes.end - bytes.start;
                self.copies.make(&format!("{name}-{}", bytes.start), bytes_count, copy)?
            }
            Some(_) | None => None,
        };
        let damage = Damage {
            file: self.dir.join(name),
            offset: bytes.start,
            bytes: bytes.end.saturating_sub(bytes.start),
            seqs,
            quarantined,
        };
        damage.log();
        self.metrics.hookgate_journal_damaged_bytes_total.inc_by(damage.bytes);
        let records = damage.seqs.end.saturating_sub(damage.seqs.start);
        self.metrics.hookgate_journal_lost_records_total.inc_by(records);
        remember(&mut self.lock().damaged, damage.clone());
        Ok(Some(damage))
    }

    /// Reports a segment that cannot be opened, which may have had the records of `seqs`. Those below `known_below` are
    /// known to have been there, and count as lost; the number of the others is not known.
    pub(super) fn segment(&self, name: &str, seqs: Range<u64>, known_below: u64) -> Damage {
        let moved_to = self.dir.join(QUARANTINE_DIR).join(name);
        let quarantined = self.fs.list(&self.dir.join(QUARANTINE_DIR)).ok();
        let is_moved = quarantined.is_some_and(|names| names.iter().any(|one| one == name));
        let damage = Damage {
            file: self.dir.join(name),
            offset: 0,
            bytes: 0,
            seqs,
            quarantined: is_moved.then_some(moved_to),
        };
        let records_lost = known_below.saturating_sub(damage.seqs.start);
        tracing::error!(
            file = %damage.file.display(),
            first_seq = damage.seqs.start,
            records_lost,
            quarantined = ?damage.quarantined,
            "the journal's last segment is lost, with so many records at least"
        );
        self.metrics.hookgate_journal_lost_records_total.inc_by(records_lost);
        remember(&mut self.lock().damaged, damage.clone());
        damage
    }

    /// Copies bytes. Returns the copy, if one could be made.
    ///
    /// # Errors
    /// Only for want of file descriptors or memory.
    pub(super) fn record(&self, name: &str, bytes: &[u8]) -> io::Result<Option<PathBuf>> {
        self.copies.make(name, bytes.len() as u64, |copy| write_all(copy, bytes, 0))
    }

    /// Moves a whole file to quarantine, because the journal needs its name.
    pub(super) fn whole_file(&self, name: &str) -> io::Result<()> {
        let quarantine_dir = self.dir.join(QUARANTINE_DIR);
        self.fs.create_dir(&quarantine_dir)?;
        self.fs.rename(&self.dir.join(name), &quarantine_dir.join(name))?;
        self.fs.sync_dir(&quarantine_dir)?;
        self.fs.sync_dir(&self.dir)
    }

    fn is_reported(&self, seqs: &Range<u64>) -> bool {
        let is_within =
            |damage: &Damage| damage.seqs.start <= seqs.start && seqs.end <= damage.seqs.end;
        !seqs.is_empty() && self.lock().damaged.iter().any(is_within)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a report. The oldest one may have to go.
fn remember(reports: &mut VecDeque<Damage>, damage: Damage) {
    if reports.len() == REPORTED_MAX {
        reports.pop_front();
    }
    reports.push_back(damage);
}

impl Damage {
    fn log(&self) {
        tracing::error!(
            file = %self.file.display(),
            offset = self.offset,
            bytes = self.bytes,
            first_seq = self.seqs.start,
            records_lost = self.seqs.end - self.seqs.start,
            quarantined = ?self.quarantined,
            "the journal is damaged, skipping the damaged records"
        );
    }
}

/// The segment and the offset that the name of a copy tells.
fn origin_of(copy: &str) -> Option<(String, u64)> {
    let (segment, offset) = copy.rsplit_once('-')?;
    parse_segment_name(segment)?;
    Some((segment.to_owned(), offset.parse().ok()?))
}

/// Copies bytes; those that cannot be read are 0xff in the copy.
fn copy_range(from: &dyn FileHandle, to: &dyn FileHandle, bytes: Range<u64>) -> io::Result<()> {
    let mut at = bytes.start;
    while at < bytes.end {
        let wanted = (bytes.end - at).min(COPY_BYTES);
        let mut piece = vec![0; usize::try_from(wanted).unwrap_or(0)];
        let read = read_past_damage(from, &mut piece, at)?;
        if read == 0 {
            break;
        }
        write_all(to, &piece[..read], at - bytes.start)?;
        at += read as u64;
    }
    Ok(())
}
