//! Reads the frames of one segment in order, and finds the next sound frame behind damage.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::file_system::{FileHandle, is_unreadable, read_full, read_past_damage, read_patiently};
use super::format::{FRAME_HEADER_BYTES, FrameHeader, JournalId, seq_at};

/// Bytes read from the file in one call; more only for a longer record.
const CHUNK_BYTES: u64 = 256 * 1024;

/// A position in one segment, and the bytes around it. Clones share the bytes.
#[derive(Clone)]
pub(super) struct Frames {
    file: Arc<dyn FileHandle>,
    id: JournalId,
    at: u64,
    /// Bytes that were read, up to the end given at that time.
    chunk: Bytes,
    chunk_at: u64,
    on_unreadable: OnUnreadable,
}

/// What to do about bytes that the disk cannot return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OnUnreadable {
    /// Fail: the next try may succeed.
    Fail,
    /// Count them as damage.
    Skip,
}

/// The result of reading at a position.
#[derive(Debug)]
pub(super) enum Found {
    /// The expected frame, with both checksums sound.
    Frame(FrameHeader, Bytes),
    /// A sound header with a damaged payload; the next frame begins at this offset.
    BadPayload(u64),
    /// No sound header, or the header of another frame.
    BadHeader,
    /// Too few bytes for a frame.
    End,
}

impl Found {
    /// The offset from which to search for the next sound frame when this one, at offset `at`, is not sound.
    pub(super) const fn search_from(&self, at: u64) -> u64 {
        match self {
            Self::BadPayload(next) => *next,
            Self::Frame(..) | Self::BadHeader | Self::End => at + 1,
        }
    }
}

impl Frames {
    /// Starts at offset `at`.
    pub(super) fn new(file: Arc<dyn FileHandle>, id: JournalId, at: u64) -> Self {
        let on_unreadable = OnUnreadable::Skip;
        Self { file, id, at, chunk: Bytes::new(), chunk_at: at, on_unreadable }
    }

    /// The offset at which [`Self::read`] continues.
    pub(super) const fn position(&self) -> u64 {
        self.at
    }

    /// Sets what to do about bytes that the disk cannot return. Default: skip them.
    pub(super) const fn set_on_unreadable(&mut self, on_unreadable: OnUnreadable) {
        self.on_unreadable = on_unreadable;
    }

    /// Continues at another offset.
    pub(super) const fn seek(&mut self, at: u64) {
        self.at = at;
    }

    /// Reads the frame of `seq`, which ends at offset `end` at most, and moves behind it if it is sound.
    pub(super) fn read(&mut self, seq: u64, end: u64) -> io::Result<Found> {
        if !self.load(FRAME_HEADER_BYTES, end)? {
            return Ok(Found::End);
        }
        let header = match FrameHeader::decode(self.loaded(), self.id) {
            Some(header) if header.seq == seq => header,
            Some(_) | None => return Ok(Found::BadHeader),
        };
        let next = self.at + header.frame_bytes() as u64;
        if !self.load(header.frame_bytes(), end)? {
            return Ok(Found::BadPayload(next.min(end)));
        }
        let start = self.offset_in_chunk() + FRAME_HEADER_BYTES;
        let payload = self.chunk.slice(start..start + header.payload_bytes as usize);
        if crc32c::crc32c(&payload) != header.payload_crc {
            return Ok(Found::BadPayload(next));
        }
        self.at = next;
        Ok(Found::Frame(header, payload))
    }

    /// The first sound header of a frame in `seqs` that lies between the offsets `within`.
    ///
    /// Its payload need not be sound; [`Self::read`] checks that.
    pub(super) fn find(
        &self,
        within: Range<u64>,
        seqs: &Range<u64>,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        let mut window_at = within.start;
        let mut window = vec![0; clamped(CHUNK_BYTES)];
        while within.end.saturating_sub(window_at) >= FRAME_HEADER_BYTES as u64 {
            let wanted = clamped((within.end - window_at).min(CHUNK_BYTES));
            let read = read_past_damage(&*self.file, &mut window[..wanted], window_at)?;
            if read < FRAME_HEADER_BYTES {
                return Ok(None);
            }
            let starts = read - FRAME_HEADER_BYTES + 1;
            for start in 0..starts {
                let bytes = &window[start..start + FRAME_HEADER_BYTES];
                if !seqs.contains(&seq_at(bytes)) {
                    continue;
                }
                if let Some(header) = FrameHeader::decode(bytes, self.id) {
                    return Ok(Some((window_at + start as u64, header)));
                }
            }
            window_at += starts as u64;
        }
        Ok(None)
    }

    /// Whether the disk cannot return some of these bytes.
    pub(super) fn is_unreadable(&self, within: Range<u64>) -> io::Result<bool> {
        let mut bytes = vec![0; clamped(within.end.saturating_sub(within.start))];
        match read_patiently(&*self.file, &mut bytes, within.start) {
            Err(error) if is_unreadable(&error) => Ok(true),
            read => read.map(|_| false),
        }
    }

    fn offset_in_chunk(&self) -> usize {
        clamped(self.at - self.chunk_at)
    }

    fn loaded(&self) -> &[u8] {
        &self.chunk[self.offset_in_chunk()..]
    }

    /// Loads `bytes` bytes from the position into memory; `false` when there are fewer before `end`.
    fn load(&mut self, bytes: usize, end: u64) -> io::Result<bool> {
        let chunk_end = self.chunk_at + self.chunk.len() as u64;
        let wanted_end = self.at + bytes as u64;
        if self.chunk_at <= self.at && wanted_end <= chunk_end.min(end) {
            return Ok(true);
        }
        if wanted_end > end {
            return Ok(false);
        }
        let length = clamped((end - self.at).min(CHUNK_BYTES.max(bytes as u64)));
        let mut chunk = BytesMut::zeroed(length);
        let read = match self.on_unreadable {
            OnUnreadable::Fail => read_full(&*self.file, &mut chunk, self.at)?,
            OnUnreadable::Skip => read_past_damage(&*self.file, &mut chunk, self.at)?,
        };
        chunk.truncate(read);
        self.chunk = chunk.freeze();
        self.chunk_at = self.at;
        Ok(read >= bytes)
    }
}

/// The offset behind the last byte in `within` that is not zero.
pub(super) fn end_of_bytes(file: &dyn FileHandle, within: Range<u64>) -> io::Result<u64> {
    let mut window = vec![0; clamped(CHUNK_BYTES)];
    let mut window_end = within.end;
    while window_end > within.start {
        let window_at = window_end.saturating_sub(CHUNK_BYTES).max(within.start);
        let window = &mut window[..clamped(window_end - window_at)];
        let read = read_past_damage(file, window, window_at)?;
        if let Some(last) = window[..read].iter().rposition(|byte| *byte != 0) {
            return Ok(window_at + last as u64 + 1);
        }
        window_end = window_at;
    }
    Ok(within.start)
}

/// A length as an index; it is bounded by a segment, or by memory.
fn clamped(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
