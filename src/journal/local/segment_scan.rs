//! The look through one segment: what of it is sound, what is damaged, and where it ends.
//!
//! # Torn tail or damage
//! The writer starts a group only after the group before it was synced. A bad record with a record
//! of a later group behind it, or with a later segment, or below the checkpoint's synced mark, was
//! synced once: it is damage, and what is sound behind it is kept. A bad record without any of
//! these was never acknowledged: it is the torn tail, and the segment is cut there. Nothing of a
//! torn group that lies behind its first bad record is kept, so that what is recovered is always a
//! prefix of what was appended.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Recovery;
use super::file_system::{Disk, DiskFile};
use super::format::{Checkpoint, FRAME_HEADER_BYTES, FrameHeader, JournalId, SEGMENT_HEADER_BYTES};
use super::frame_scan::{Found, Frames, end_of_bytes};
use super::quarantine::keep_aside;
use super::segments::Segment;

/// Bytes of a segment's start that its header may take.
pub(super) const HEADER_READ_BYTES: usize = 64;

/// A segment file of this journal.
pub(super) struct SegmentFile {
    pub(super) first_seq: u64,
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) bytes: u64,
    pub(super) header_is_sound: bool,
}

impl SegmentFile {
    /// All of it, as a live segment.
    pub(super) fn whole(&self) -> Segment {
        Segment {
            first_seq: self.first_seq,
            name: self.name.clone(),
            end: self.bytes,
            bytes: self.bytes,
        }
    }
}

/// One segment, looked through.
pub(super) struct Scanned {
    /// The offset behind the last sound record.
    pub(super) end: u64,
    /// What the record behind it gets.
    pub(super) next_seq: u64,
    /// The offset of the last group.
    pub(super) last_group_at: u64,
    /// The place of the first record that waits.
    pub(super) first_waiting: Option<(u64, u64)>,
}

/// The look through one segment.
pub(super) struct SegmentScan<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) dir: &'a Path,
    pub(super) id: JournalId,
    pub(super) segment: &'a SegmentFile,
    /// The first seq of the segment behind it: every record below was synced.
    pub(super) behind: Option<u64>,
    /// What the checkpoint says.
    pub(super) known: Checkpoint,
    /// Where records are counted and damage is reported.
    pub(super) report: &'a mut Recovery,
}

impl SegmentScan<'_> {
    /// Looks through the segment, to its last sound record.
    pub(super) fn run(mut self) -> io::Result<Scanned> {
        self.check_header()?;
        let mut seq = self.segment.first_seq;
        let mut frames = Frames::new(Arc::clone(&self.segment.file), self.id, SEGMENT_HEADER_BYTES);
        let at = frames.position();
        let mut scanned =
            Scanned { end: at, next_seq: seq, last_group_at: at, first_waiting: None };
        while self.behind != Some(seq) {
            let at = frames.position();
            match frames.read(seq, self.segment.bytes)? {
                Found::Frame(header, _) => {
                    self.count(&header, at, &mut scanned);
                    seq += 1;
                    scanned.end = frames.position();
                }
                bad => match self.pass(&frames, seq, at, bad.search_from(at))? {
                    Passed::To { offset, seq: sound } => {
                        frames.seek(offset);
                        seq = sound;
                    }
                    Passed::End { next_seq } => {
                        seq = next_seq;
                        break;
                    }
                },
            }
        }
        scanned.next_seq = seq;
        Ok(scanned)
    }

    fn check_header(&mut self) -> io::Result<()> {
        if self.segment.header_is_sound {
            return Ok(());
        }
        let header = 0..self.segment.bytes.min(HEADER_READ_BYTES as u64);
        self.report_damage(header, self.segment.first_seq..self.segment.first_seq)
    }

    fn count(&mut self, header: &FrameHeader, at: u64, scanned: &mut Scanned) {
        if header.group_back == 0 {
            scanned.last_group_at = at;
        }
        if header.seq >= self.known.finished {
            self.report.records += 1;
            self.report.items += u64::from(header.items);
            scanned.first_waiting.get_or_insert((at, header.seq));
        }
    }

    /// Decides on a bad record of `seq` at offset `at`, with a look at what is behind offset `from`.
    fn pass(&mut self, frames: &Frames, seq: u64, at: u64, from: u64) -> io::Result<Passed> {
        let len = self.segment.bytes;
        let most = seq + 1 + len.saturating_sub(from) / FRAME_HEADER_BYTES as u64;
        let seqs = seq + 1..self.behind.unwrap_or(most).min(most + 1);
        let sound = frames.find(from..len, &seqs)?;
        let synced_below = self.behind.unwrap_or(self.known.synced);
        let was_synced =
            seq < synced_below || Self::has_later_group(frames, seq, sound, len, &seqs)?;
        match sound {
            Some((offset, header)) if was_synced => {
                self.report_damage(at..offset, seq..header.seq)?;
                Ok(Passed::To { offset, seq: header.seq })
            }
            Some(_) | None => {
                let end = end_of_bytes(&*self.segment.file, at.min(len)..len)?;
                if was_synced {
                    self.report_damage(at..end.max(at), seq..synced_below)?;
                    return Ok(Passed::End { next_seq: synced_below });
                }
                self.report.torn_bytes += end.saturating_sub(at);
                Ok(Passed::End { next_seq: seq })
            }
        }
    }

    /// Whether a record of a group that began after `seq` was written: the sync between them
    /// proves that `seq` was whole once.
    fn has_later_group(
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

    fn report_damage(&mut self, bytes: Range<u64>, seqs: Range<u64>) -> io::Result<()> {
        // What is lost of finished records is no loss.
        if !seqs.is_empty() && seqs.end <= self.known.finished {
            return Ok(());
        }
        let file = (self.segment.name.as_str(), &*self.segment.file);
        let damage = keep_aside(self.disk, self.dir, file, bytes, seqs)?;
        self.report.damage.push(damage);
        Ok(())
    }
}

/// Where the look goes on behind a bad record.
enum Passed {
    /// It was damage, and this is the next sound record.
    To { offset: u64, seq: u64 },
    /// There is nothing more in this segment.
    End { next_seq: u64 },
}
