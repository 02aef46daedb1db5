//! Scans one segment for sound, damaged and torn records.
//!
//! # Torn tail or damage
//! The writer starts a group only after the previous group was synced. A bad record was synced once when a record
//! of a later group or a later segment follows it, or when it is below the checkpoint's synced mark: it is damage,
//! and sound records behind it are kept. Any other bad record was never acknowledged: it is the torn tail, and the
//! segment is cut there. A bad record that the disk cannot return is damage in any case: a torn one can be read. Of a torn group, nothing behind its first bad record is kept, so that the recovered
//! records are always a prefix of the appended ones.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::file_system::FileHandle;
use super::format::{Checkpoint, FRAME_HEADER_BYTES, FrameHeader, JournalId, SEGMENT_HEADER_BYTES};
use super::frame_scan::{Found, Frames, end_of_bytes};
use super::quarantine::Quarantine;
use super::segment_summary::SegmentSummary;
use super::segments::Segment;
use super::shares::{OrgBytes, add_frame};
use super::{RecordOwner, RecoveryReport};

/// Bytes that are quarantined of a damaged header.
const HEADER_BYTES: u64 = 64;

/// A segment file of this journal.
pub(super) struct SegmentFile {
    pub(super) first_seq: u64,
    pub(super) name: String,
    pub(super) file: Arc<dyn FileHandle>,
    pub(super) bytes: u64,
    pub(super) header_is_sound: bool,
    /// Its summary, if it has a sound one.
    pub(super) summary: Option<SegmentSummary>,
}

impl SegmentFile {
    /// The whole file as a live segment.
    pub(super) fn whole(&self) -> Segment {
        Segment {
            first_seq: self.first_seq,
            name: self.name.clone(),
            end: self.bytes,
            bytes: self.bytes,
            summary: None,
        }
    }
}

/// The result of scanning one segment.
pub(super) struct Scanned {
    /// The offset behind the last sound record.
    pub(super) end: u64,
    /// The seq of the record behind it.
    pub(super) next_seq: u64,
    /// The offset of the last group.
    pub(super) last_group_at: u64,
    /// The offset and seq of the first record that waits.
    pub(super) first_waiting: Option<(u64, u64)>,
    /// What it holds.
    pub(super) summary: SegmentSummary,
}

/// The scan of one segment.
pub(super) struct SegmentScan<'a> {
    pub(super) quarantine: &'a Quarantine,
    pub(super) id: JournalId,
    pub(super) segment: &'a SegmentFile,
    /// The first seq of the next segment: every record below it was synced.
    pub(super) next_segment: Option<u64>,
    /// The checkpoint.
    pub(super) checkpoint: Checkpoint,
    /// Counts records and lists damage.
    pub(super) report: &'a mut RecoveryReport,
    /// Tells whose record it is.
    pub(super) owner: RecordOwner,
    /// Adds up the bytes of unacknowledged records.
    pub(super) unstored: &'a mut OrgBytes,
}

impl SegmentScan<'_> {
    /// Scans the segment up to its last sound record.
    pub(super) fn run(mut self) -> io::Result<Scanned> {
        self.check_header()?;
        let mut seq = self.segment.first_seq;
        let mut frames = Frames::new(Arc::clone(&self.segment.file), self.id, SEGMENT_HEADER_BYTES);
        let at = frames.position();
        let mut scanned = Scanned {
            end: at,
            next_seq: seq,
            last_group_at: at,
            first_waiting: None,
            summary: SegmentSummary::new(seq),
        };
        while self.next_segment != Some(seq) {
            let at = frames.position();
            match frames.read(seq, self.segment.bytes)? {
                Found::Frame(header, payload) => {
                    self.count(&header, &payload, at, &mut scanned);
                    seq += 1;
                    scanned.end = frames.position();
                }
                bad => match self.resync(&frames, seq, at, bad.search_from(at))? {
                    Resync::Damage { offset, seq: sound } => {
                        frames.seek(offset);
                        seq = sound;
                    }
                    Resync::End { next_seq } => {
                        seq = next_seq;
                        break;
                    }
                },
            }
        }
        scanned.next_seq = seq;
        scanned.summary.next_seq = seq;
        Ok(scanned)
    }

    fn check_header(&mut self) -> io::Result<()> {
        if self.segment.header_is_sound {
            return Ok(());
        }
        let header = 0..self.segment.bytes.min(HEADER_BYTES);
        self.report_damage(header, self.segment.first_seq..self.segment.first_seq)
    }

    fn count(&mut self, header: &FrameHeader, payload: &[u8], at: u64, scanned: &mut Scanned) {
        if header.group_offset == 0 {
            scanned.last_group_at = at;
        }
        let owner = (self.owner)(payload);
        let end = at + header.frame_bytes() as u64;
        scanned.summary.add((header.seq, end), header.items, owner, header.frame_bytes());
        if header.seq >= self.checkpoint.acked {
            self.report.records += 1;
            self.report.items += u64::from(header.items);
            add_frame(self.unstored, owner, header.frame_bytes());
            scanned.first_waiting.get_or_insert((at, header.seq));
        }
    }

    /// Decides whether a bad record of `seq` at offset `at` is damage or the torn tail, by the records behind offset
    /// `from`.
    fn resync(&mut self, frames: &Frames, seq: u64, at: u64, from: u64) -> io::Result<Resync> {
        let len = self.segment.bytes;
        let seqs = seqs_behind(seq, from, len, self.next_segment);
        let sound = frames.find(from..len, &seqs)?;
        let synced_below = self.next_segment.unwrap_or(self.checkpoint.synced);
        let was_synced = seq < synced_below || has_later_group(frames, seq, sound, len, &seqs)?;
        match sound {
            Some((offset, header)) if was_synced => {
                self.report_damage(at..offset, seq..header.seq)?;
                Ok(Resync::Damage { offset, seq: header.seq })
            }
            Some(_) | None => {
                let end = end_of_bytes(&*self.segment.file, at.min(len)..len)?;
                if was_synced {
                    self.report_damage(at..end.max(at), seq..synced_below)?;
                    return Ok(Resync::End { next_seq: synced_below });
                }
                if frames.is_unreadable(at..from.max(at + FRAME_HEADER_BYTES as u64).min(len))? {
                    // How many records there were is not known.
                    self.report_damage(at..end.max(at), seq..seq + 1)?;
                    return Ok(Resync::End { next_seq: seq + 1 });
                }
                self.report.torn_bytes += end.saturating_sub(at);
                Ok(Resync::End { next_seq: seq })
            }
        }
    }

    fn report_damage(&mut self, bytes: Range<u64>, seqs: Range<u64>) -> io::Result<()> {
        // Damage to acknowledged records costs nothing.
        if !seqs.is_empty() && seqs.end <= self.checkpoint.acked {
            return Ok(());
        }
        let file = Some(&*self.segment.file);
        self.report.damage.extend(self.quarantine.damage(&self.segment.name, file, bytes, seqs)?);
        Ok(())
    }
}

/// The seqs that records behind a bad one of `seq` may have, in the bytes `from..len`.
pub(super) fn seqs_behind(seq: u64, from: u64, len: u64, next_segment: Option<u64>) -> Range<u64> {
    let most = seq + 1 + len.saturating_sub(from) / FRAME_HEADER_BYTES as u64;
    seq + 1..next_segment.unwrap_or(most).min(most + 1)
}

/// Whether a record of a group that began after `seq` was written: the sync between them proves that `seq` was sound
/// once.
pub(super) fn has_later_group(
    frames: &Frames,
    seq: u64,
    first: Option<(u64, FrameHeader)>,
    len: u64,
    seqs: &Range<u64>,
) -> io::Result<bool> {
    let mut found = first;
    while let Some((offset, header)) = found {
        if header.group_first() > seq {
            return Ok(true);
        }
        let behind = offset + header.frame_bytes() as u64;
        found = frames.find(behind..len, &(header.seq + 1..seqs.end))?;
    }
    Ok(false)
}

/// Where the scan continues behind a bad record.
enum Resync {
    /// The record is damaged, and this is the next sound one.
    Damage { offset: u64, seq: u64 },
    /// The segment has no further record.
    End { next_seq: u64 },
}
