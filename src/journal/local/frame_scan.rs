//! Walks the frames of one segment, and finds the next sound one behind damage.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::file_system::{DiskFile, read_full};
use super::format::{FRAME_HEADER_BYTES, FrameHeader, JournalId, seq_at};

/// Bytes read from the file at once; more only for a record that is longer.
const CHUNK_BYTES: u64 = 256 * 1024;

/// A place in one segment, and the bytes around it. Clones share those.
#[derive(Clone)]
pub(super) struct Frames {
    file: Arc<dyn DiskFile>,
    id: JournalId,
    at: u64,
    /// What was read, up to the end given at that time.
    chunk: Bytes,
    chunk_at: u64,
}

/// What stands at a place.
#[derive(Debug)]
pub(super) enum Found {
    /// The frame that was expected, both checksums sound.
    Frame(FrameHeader, Bytes),
    /// Its header is sound, its payload is not: the next frame begins at this offset.
    BadPayload(u64),
    /// No sound header, or that of another frame.
    BadHeader,
    /// No room for a frame.
    End,
}

impl Found {
    /// Where to look for the next sound frame when this one, at offset `at`, is none.
    pub(super) const fn search_from(&self, at: u64) -> u64 {
        match self {
            Self::BadPayload(next) => *next,
            Self::Frame(..) | Self::BadHeader | Self::End => at + 1,
        }
    }
}

impl Frames {
    /// Starts at offset `at`.
    pub(super) fn new(file: Arc<dyn DiskFile>, id: JournalId, at: u64) -> Self {
        Self { file, id, at, chunk: Bytes::new(), chunk_at: at }
    }

    /// The offset of what [`Self::read`] looks at next.
    pub(super) const fn position(&self) -> u64 {
        self.at
    }

    /// Goes on at another offset.
    pub(super) const fn seek(&mut self, at: u64) {
        self.at = at;
    }

    /// Looks for the frame of `seq` before offset `end`, and goes behind it if it is sound.
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
    /// The payload behind it need not be sound: that is for [`Self::read`] to find out.
    pub(super) fn find(
        &self,
        within: Range<u64>,
        seqs: &Range<u64>,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        let mut window_at = within.start;
        let mut window = vec![0; clamped(CHUNK_BYTES)];
        while within.end.saturating_sub(window_at) >= FRAME_HEADER_BYTES as u64 {
            let wanted = clamped((within.end - window_at).min(CHUNK_BYTES));
            let read = read_full(&*self.file, &mut window[..wanted], window_at)?;
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

    fn offset_in_chunk(&self) -> usize {
        clamped(self.at - self.chunk_at)
    }

    fn loaded(&self) -> &[u8] {
        &self.chunk[self.offset_in_chunk()..]
    }

    /// Sees to it that `bytes` bytes from the position are in memory; `false` when there are not
    /// so many before `end`.
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
        let read = read_full(&*self.file, &mut chunk, self.at)?;
        chunk.truncate(read);
        self.chunk = chunk.freeze();
        self.chunk_at = self.at;
        Ok(read >= bytes)
    }
}

/// The offset behind the last byte in `within` that is not zero.
pub(super) fn end_of_bytes(file: &dyn DiskFile, within: Range<u64>) -> io::Result<u64> {
    let mut window = vec![0; clamped(CHUNK_BYTES)];
    let mut window_end = within.end;
    while window_end > within.start {
        let window_at = window_end.saturating_sub(CHUNK_BYTES).max(within.start);
        let window = &mut window[..clamped(window_end - window_at)];
        let read = read_full(file, window, window_at)?;
        if let Some(last) = window[..read].iter().rposition(|byte| *byte != 0) {
            return Ok(window_at + last as u64 + 1);
        }
        window_end = window_at;
    }
    Ok(within.start)
}

/// A length that is bounded by a segment, or by memory, as an index.
fn clamped(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
