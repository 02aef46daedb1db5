//! The on-disk format, byte by byte. All numbers are little-endian.
//!
//! # Segment
//! A segment is one file, `<first seq, 20 digits>-<journal id, 16 hex digits>.segment`.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `HGJOURNL` |
//! | 8 | 4 | format version |
//! | 12 | 8 | journal id |
//! | 20 | 8 | seq of the first record |
//! | 28 | 4 | CRC32C of the above |
//! | 512 | | summary, once the segment is finished: see [`super::segment_summary`] |
//! | 3840 | | mark, if the segment is held: see [`super::holds`] |
//! | 4096 | | frames, one after the other |
//!
//! The header has a block of its own, so that no write of a record can tear it. It repeats the name, so a damaged
//! header costs no record.
//!
//! A segment that is kept after all of its records are stored is called
//! `<first seq, 20 digits>-<journal id, 16 hex digits>-<when it was stored, microseconds>.kept`. One that is held, since a
//! record of it could be neither decoded nor copied, ends in `.held`.
//!
//! # Frame
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | CRC32C of the journal id and of bytes 4 to 28 |
//! | 4 | 4 | bytes of payload |
//! | 8 | 8 | seq, one more than that of the frame before |
//! | 16 | 4 | offset in the write group: the distance back to its first seq |
//! | 20 | 4 | items in the record |
//! | 24 | 4 | CRC32C of the payload |
//! | 28 | | payload |
//!
//! - There are two checksums, so that a damaged payload behind a sound header costs one record and no search, and
//!   so that the search for the next sound header after a damaged one stays linear.
//! - The seq invalidates a frame left over in a reused segment: it is lower than the segment's first seq.
//! - The journal id is a random number that no tenant sees. A search does not mistake a payload that imitates a
//!   frame for one.
//! - The group tells a torn tail from damage: see [`super::segment_scan`].
//!
//! # Checkpoint
//! The file `checkpoint` has two slots, at 0 and 4096, written in turn, so that one of them is
//! whole whenever the power goes.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `HGJCHECK` |
//! | 8 | 8 | journal id |
//! | 16 | 8 | version: the higher one counts |
//! | 24 | 8 | acked: every record below it is acknowledged |
//! | 32 | 8 | synced: every record below it has been synced |
//! | 40 | 4 | CRC32C of the above |

use crate::domain::Timestamp;

/// Where the frames begin.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes in front of every payload.
pub(super) const FRAME_HEADER_BYTES: usize = 28;
/// From one slot of the checkpoint to the other.
pub(super) const CHECKPOINT_SLOT_BYTES: usize = 4096;

const FORMAT_VERSION: u32 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"HGJOURNL";
const SEGMENT_FIELDS_BYTES: usize = 28;
const SEGMENT_SUFFIX: &str = ".segment";
const KEPT_SUFFIX: &str = ".kept";
const HELD_SUFFIX: &str = ".held";
const CHECKPOINT_MAGIC: &[u8; 8] = b"HGJCHECK";
const CHECKPOINT_FIELDS_BYTES: usize = 40;

/// Identifies this journal's files, and its frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct JournalId(pub(super) u64);

impl JournalId {
    /// The initial value of the checksum of a frame's header.
    fn seed(self) -> u32 {
        crc32c::crc32c(&self.0.to_le_bytes())
    }
}

/// The header in front of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHeader {
    /// Bytes behind the header.
    pub(super) payload_bytes: u32,
    /// The record's seq.
    pub(super) seq: u64,
    /// The distance back to the first seq of its write group.
    pub(super) group_offset: u32,
    /// Items in the record.
    pub(super) items: u32,
    /// The payload's checksum.
    pub(super) payload_crc: u32,
}

impl FrameHeader {
    /// Header and payload together.
    pub(super) fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload_bytes as usize
    }

    /// The first seq of its write group.
    pub(super) fn group_first(&self) -> u64 {
        self.seq.saturating_sub(u64::from(self.group_offset))
    }

    /// Reads a header whose checksum holds; `None` for anything else.
    pub(super) fn decode(bytes: &[u8], id: JournalId) -> Option<Self> {
        let header: &[u8; FRAME_HEADER_BYTES] = bytes.first_chunk()?;
        let decoded = Self::decode_unchecked(header);
        (u32_at(header, 0) == crc32c::crc32c_append(id.seed(), &header[4..])).then_some(decoded)
    }

    fn decode_unchecked(header: &[u8; FRAME_HEADER_BYTES]) -> Self {
        Self {
            payload_bytes: u32_at(header, 4),
            seq: u64_at(header, 8),
            group_offset: u32_at(header, 16),
            items: u32_at(header, 20),
            payload_crc: u32_at(header, 24),
        }
    }
}

/// The bytes where a header has its seq, for a quick check before the checksum is computed.
pub(super) fn seq_at(bytes: &[u8]) -> u64 {
    u64_at(bytes, 8)
}

/// Appends a frame whose seq is not known yet; [`finalize_frame`] completes it.
pub(super) fn push_frame(buffer: &mut Vec<u8>, payload: &[u8], payload_crc: u32, items: u32) {
    let mut header = [0; FRAME_HEADER_BYTES];
    // The queue refuses records that do not fit a segment, whose size fits.
    let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    header[4..8].copy_from_slice(&bytes.to_le_bytes());
    header[20..24].copy_from_slice(&items.to_le_bytes());
    header[24..28].copy_from_slice(&payload_crc.to_le_bytes());
    buffer.reserve(FRAME_HEADER_BYTES + payload.len());
    buffer.extend_from_slice(&header);
    buffer.extend_from_slice(payload);
}

/// The length and the items of the frame at the start of `buffer`, finalized or not.
pub(super) fn peek_frame(buffer: &[u8]) -> (usize, u32) {
    (FRAME_HEADER_BYTES + u32_at(buffer, 4) as usize, u32_at(buffer, 20))
}

/// Writes seq, group offset and checksum into the frame at the start of `frame`.
pub(super) fn finalize_frame(frame: &mut [u8], id: JournalId, seq: u64, group_offset: u32) {
    frame[8..16].copy_from_slice(&seq.to_le_bytes());
    frame[16..20].copy_from_slice(&group_offset.to_le_bytes());
    let crc = crc32c::crc32c_append(id.seed(), &frame[4..FRAME_HEADER_BYTES]);
    frame[0..4].copy_from_slice(&crc.to_le_bytes());
}

/// The name of the segment that starts with `first_seq`.
pub(super) fn segment_name(first_seq: u64, id: JournalId) -> String {
    format!("{first_seq:020}-{:016x}{SEGMENT_SUFFIX}", id.0)
}

/// The first seq and journal id in a segment's name; `None` for any other name.
pub(super) fn parse_segment_name(name: &str) -> Option<(u64, JournalId)> {
    let (seq, id) = name.strip_suffix(SEGMENT_SUFFIX)?.split_once('-')?;
    let parsed = (seq.parse().ok()?, JournalId(u64::from_str_radix(id, 16).ok()?));
    // One spelling only: formatting the result must give the same name.
    (segment_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// The name under which the segment that starts with `first_seq` is kept.
pub(super) fn kept_name(first_seq: u64, id: JournalId, stored_at: Timestamp) -> String {
    format!("{first_seq:020}-{:016x}-{}{KEPT_SUFFIX}", id.0, stored_at.micros())
}

/// The same for one that is held.
pub(super) fn held_name(first_seq: u64, id: JournalId, stored_at: Timestamp) -> String {
    kept_name(first_seq, id, stored_at).replace(KEPT_SUFFIX, HELD_SUFFIX)
}

/// Whether the name is that of a segment that is held.
pub(super) fn is_held_name(name: &str) -> bool {
    name.ends_with(HELD_SUFFIX)
}

/// The first seq, the journal id and the time in the name of a kept or held segment; `None` for any other name.
pub(super) fn parse_kept_name(name: &str) -> Option<(u64, JournalId, Timestamp)> {
    let of_segment = name.strip_suffix(KEPT_SUFFIX).or_else(|| name.strip_suffix(HELD_SUFFIX))?;
    let (segment, stored_at) = of_segment.rsplit_once('-')?;
    let (seq, id) = parse_segment_name(&format!("{segment}{SEGMENT_SUFFIX}"))?;
    let stored_at = Timestamp::from_micros(stored_at.parse().ok()?);
    let names = [kept_name(seq, id, stored_at), held_name(seq, id, stored_at)];
    names.iter().any(|its| its == name).then_some((seq, id, stored_at))
}

/// The first bytes of a segment.
pub(super) fn segment_header(first_seq: u64, id: JournalId) -> Vec<u8> {
    let mut header = Vec::with_capacity(SEGMENT_FIELDS_BYTES + 4);
    header.extend_from_slice(SEGMENT_MAGIC);
    header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    header.extend_from_slice(&id.0.to_le_bytes());
    header.extend_from_slice(&first_seq.to_le_bytes());
    push_crc(&mut header);
    header
}

/// The result of reading the first bytes of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SegmentHeader {
    /// A segment of this format.
    Sound(u64, JournalId),
    /// A segment of a format that this program does not know.
    Unknown {
        /// The version it claims.
        version: u32,
    },
    /// Unreadable.
    Damaged,
}

/// Reads the first bytes of a segment.
pub(super) fn parse_segment_header(bytes: &[u8]) -> SegmentHeader {
    if bytes.len() < SEGMENT_FIELDS_BYTES + 4
        || !bytes.starts_with(SEGMENT_MAGIC)
        || !crc_holds(bytes, SEGMENT_FIELDS_BYTES)
    {
        return SegmentHeader::Damaged;
    }
    match u32_at(bytes, 8) {
        FORMAT_VERSION => SegmentHeader::Sound(u64_at(bytes, 20), JournalId(u64_at(bytes, 12))),
        version => SegmentHeader::Unknown { version },
    }
}

/// The journal's progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Checkpoint {
    /// The journal it belongs to.
    pub(super) id: JournalId,
    /// The number of the checkpoint.
    pub(super) version: u64,
    /// Every record below it is acknowledged.
    pub(super) acked: u64,
    /// Every record below it has been synced.
    pub(super) synced: u64,
}

impl Checkpoint {
    /// The bytes of its slot.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut slot = Vec::with_capacity(CHECKPOINT_FIELDS_BYTES + 4);
        slot.extend_from_slice(CHECKPOINT_MAGIC);
        for field in [self.id.0, self.version, self.acked, self.synced] {
            slot.extend_from_slice(&field.to_le_bytes());
        }
        push_crc(&mut slot);
        slot
    }

    /// Reads a slot; `None` when it is empty or torn.
    pub(super) fn decode(slot: &[u8]) -> Option<Self> {
        let whole = slot.len() >= CHECKPOINT_FIELDS_BYTES + 4 && slot.starts_with(CHECKPOINT_MAGIC);
        if !whole || !crc_holds(slot, CHECKPOINT_FIELDS_BYTES) {
            return None;
        }
        Some(Self {
            id: JournalId(u64_at(slot, 8)),
            version: u64_at(slot, 16),
            acked: u64_at(slot, 24),
            synced: u64_at(slot, 32),
        })
    }
}

pub(super) fn push_crc(fields: &mut Vec<u8>) {
    fields.extend_from_slice(&crc32c::crc32c(fields).to_le_bytes());
}

pub(super) fn crc_holds(bytes: &[u8], fields_bytes: usize) -> bool {
    u32_at(bytes, fields_bytes) == crc32c::crc32c(&bytes[..fields_bytes])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: JournalId = JournalId(0x0123_4567_89ab_cdef);

    fn frame() -> Vec<u8> {
        let mut frame = Vec::new();
        push_frame(&mut frame, b"payload", crc32c::crc32c(b"payload"), 3);
        finalize_frame(&mut frame, ID, 42, 2);
        frame
    }

    #[test]
    fn frame_header_decodes_to_its_fields() {
        let header = FrameHeader::decode(&frame(), ID).unwrap();
        assert_eq!((header.seq, header.group_first(), header.items), (42, 40, 3));
        assert_eq!(header.frame_bytes(), frame().len());
    }

    #[test]
    fn header_of_another_journal_or_with_a_flipped_bit_does_not_decode() {
        assert_eq!(FrameHeader::decode(&frame(), JournalId(1)), None);
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut frame = frame();
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&frame, ID), None, "bit {bit}");
        }
        assert_eq!(FrameHeader::decode(&[0; FRAME_HEADER_BYTES], ID), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_never_decode(
            bytes in proptest::collection::vec(any::<u8>(), FRAME_HEADER_BYTES..256),
            name in "\\PC{0,60}",
        ) {
            // Random bytes do not match a checksum.
            prop_assert_eq!(FrameHeader::decode(&bytes, ID), None);
            prop_assert_eq!(Checkpoint::decode(&bytes), None);
            prop_assert!(!matches!(parse_segment_header(&bytes), SegmentHeader::Sound(..)));
            prop_assert_eq!(parse_segment_name(&name), None);
        }

        #[test]
        fn frame_of_any_payload_round_trips(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            seq in 1_000..u64::MAX,
            items in 1..1_000_u32,
            offset in 0..1_000_u32,
        ) {
            let mut frame = Vec::new();
            push_frame(&mut frame, &payload, crc32c::crc32c(&payload), items);
            finalize_frame(&mut frame, ID, seq, offset);
            let header = FrameHeader::decode(&frame, ID).unwrap();
            prop_assert_eq!(
                (header.seq, header.group_first(), header.items),
                (seq, seq - u64::from(offset), items)
            );
            prop_assert_eq!(header.frame_bytes(), frame.len());
            prop_assert_eq!(&frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload.len()], &payload);
        }
    }

    #[test]
    fn segment_name_has_one_spelling() {
        let name = segment_name(7, ID);
        assert_eq!(parse_segment_name(&name), Some((7, ID)));
        for other in [format!("{name}.bak"), name.to_uppercase(), name.replacen('0', "+", 1)] {
            assert_eq!(parse_segment_name(&other), None, "{other}");
        }
        let at = Timestamp::from_micros(1_700_000_000_000_001);
        let name = kept_name(7, ID, at);
        assert_eq!((parse_kept_name(&name), parse_segment_name(&name)), (Some((7, ID, at)), None));
        let held = held_name(7, ID, at);
        assert_eq!((parse_kept_name(&held), is_held_name(&held)), (Some((7, ID, at)), true));
        assert!(!is_held_name(&name));
        for other in [segment_name(7, ID), format!("{name}.bak"), name.replace("-17", "-017")] {
            assert_eq!(parse_kept_name(&other), None, "{other}");
        }
    }

    #[test]
    fn headers_and_checkpoints_round_trip() {
        assert_eq!(parse_segment_header(&segment_header(9, ID)), SegmentHeader::Sound(9, ID));
        let checkpoint = Checkpoint { id: ID, version: 4, acked: 8, synced: 9 };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Some(checkpoint));
        assert_eq!(Checkpoint::decode(&[0; 64]), None);
    }
}
