//! The summary of a finished segment: what recovery would have to read the whole segment for.
//!
//! It lies in the block of the segment's header, in sectors of its own. The segment manager writes it once the writer
//! has left the segment, or recovery does for the last segment of a crashed process. It is only a short cut: recovery
//! scans a segment without a sound one. So the time of a start does not grow with the backlog, save for a few segments
//! that a power failure left without a summary.

use super::format::{JournalId, SEGMENT_HEADER_BYTES, crc_holds, push_crc, u32_at, u64_at};
use super::shares::{OrgBytes, add_frame};
use crate::domain::OrgId;

/// Where it begins in the segment. The header is in the first sector.
pub(super) const SUMMARY_OFFSET: u64 = 512;

const MAGIC: &[u8; 8] = b"HGJSUMRY";
const FIELDS_BYTES: usize = 60;
const ORG_BYTES: usize = 24;
/// Most organisations in a summary, those with the most bytes. After a restart, others hold nothing of the segment in
/// their share: each has less than a hundredth of it.
const ORGS_MAX: usize = 128;
/// Most organisations that are counted while the segment is written.
const ORGS_COUNTED_MAX: usize = 4096;

/// What a segment holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SegmentSummary {
    /// The seq of its first record.
    pub(super) first_seq: u64,
    /// The seq behind its last record.
    pub(super) next_seq: u64,
    /// The offset behind its last record.
    pub(super) end: u64,
    /// Its sound records.
    pub(super) records: u64,
    /// Items in them.
    pub(super) items: u64,
    /// Bytes of them, by organisation.
    pub(super) orgs: OrgBytes,
}

impl SegmentSummary {
    /// The summary of a segment without records.
    pub(super) fn new(first_seq: u64) -> Self {
        Self {
            first_seq,
            next_seq: first_seq,
            end: SEGMENT_HEADER_BYTES,
            records: 0,
            items: 0,
            orgs: OrgBytes::new(),
        }
    }

    /// Adds the record of `seq`, whose frame ends at `end`.
    pub(super) fn add(
        &mut self,
        (seq, end): (u64, u64),
        items: u32,
        owner: Option<OrgId>,
        frame_bytes: usize,
    ) {
        self.next_seq = seq + 1;
        self.end = end;
        self.records += 1;
        self.items += u64::from(items);
        let is_counted = |org| self.orgs.len() < ORGS_COUNTED_MAX || self.orgs.contains_key(org);
        if owner.as_ref().is_some_and(is_counted) {
            add_frame(&mut self.orgs, owner, frame_bytes);
        }
    }

    /// Its bytes on disk.
    pub(super) fn encode(&self, id: JournalId) -> Vec<u8> {
        let mut orgs: Vec<_> = self.orgs.iter().collect();
        orgs.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
        orgs.truncate(ORGS_MAX);
        let mut summary = Vec::with_capacity(FIELDS_BYTES + ORGS_MAX * ORG_BYTES + 4);
        summary.extend_from_slice(MAGIC);
        let Self { first_seq, next_seq, end, records, items, orgs: _ } = *self;
        for field in [id.0, first_seq, next_seq, end, records, items] {
            summary.extend_from_slice(&field.to_le_bytes());
        }
        let count = u32::try_from(orgs.len()).unwrap_or(0);
        summary.extend_from_slice(&count.to_le_bytes());
        for (org, bytes) in orgs {
            summary.extend_from_slice(org.uuid().as_bytes());
            summary.extend_from_slice(&bytes.to_le_bytes());
        }
        push_crc(&mut summary);
        summary
    }

    /// Reads the summary of the segment that begins with `first_seq`; `None` for anything else, such as the one of an
    /// earlier use of the file.
    pub(super) fn decode(bytes: &[u8], id: JournalId, first_seq: u64) -> Option<Self> {
        if bytes.len() < FIELDS_BYTES || !bytes.starts_with(MAGIC) {
            return None;
        }
        let orgs_count = u32_at(bytes, 56) as usize;
        let fields_bytes = FIELDS_BYTES + orgs_count.min(ORGS_MAX) * ORG_BYTES;
        if orgs_count > ORGS_MAX
            || bytes.len() < fields_bytes + 4
            || !crc_holds(bytes, fields_bytes)
        {
            return None;
        }
        let orgs = bytes[FIELDS_BYTES..fields_bytes].chunks_exact(ORG_BYTES).filter_map(|entry| {
            let org = uuid::Uuid::from_bytes(*entry.first_chunk()?);
            Some((OrgId::from_uuid(org), u64_at(entry, 16)))
        });
        let is_of_segment = u64_at(bytes, 8) == id.0 && u64_at(bytes, 16) == first_seq;
        is_of_segment.then(|| Self {
            first_seq,
            next_seq: u64_at(bytes, 24),
            end: u64_at(bytes, 32),
            records: u64_at(bytes, 40),
            items: u64_at(bytes, 48),
            orgs: orgs.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    const ID: JournalId = JournalId(7);

    fn summary_of(orgs: usize) -> SegmentSummary {
        let mut summary = SegmentSummary::new(5);
        for (seq, bytes) in (5_u64..).zip(1..=orgs) {
            let org = OrgId::mint(Timestamp::from_micros(1));
            summary.add((seq, 4096 + seq), 2, Some(org), bytes);
        }
        summary.add((99, 9_999), 1, None, 1);
        summary
    }

    #[test]
    fn summary_round_trips_with_its_largest_organisations() {
        let few = summary_of(3);
        assert_eq!(SegmentSummary::decode(&few.encode(ID), ID, 5), Some(few.clone()));
        assert_eq!((few.next_seq, few.end, few.records, few.items), (100, 9_999, 4, 7));
        let many = summary_of(ORGS_MAX + 10);
        let bytes = many.encode(ID);
        assert!(SUMMARY_OFFSET + bytes.len() as u64 <= SEGMENT_HEADER_BYTES);
        let read = SegmentSummary::decode(&bytes, ID, 5).unwrap();
        assert_eq!(read.orgs.len(), ORGS_MAX);
        assert_eq!(read.orgs.values().min(), Some(&11));
        assert_eq!(read.items, many.items);
    }

    #[test]
    fn summary_of_another_segment_or_with_a_flipped_bit_is_not_read() {
        let bytes = summary_of(2).encode(ID);
        assert_eq!(SegmentSummary::decode(&bytes, JournalId(8), 5), None);
        assert_eq!(SegmentSummary::decode(&bytes, ID, 6), None);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentSummary::decode(&flipped, ID, 5), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(SegmentSummary::decode(&bytes[..length], ID, 5), None, "cut at {length}");
        }
    }
}
