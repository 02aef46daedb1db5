//! The buffer that a body is received into: bounded, paid for as it grows, and decompressed if need be.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;

use super::byte_budget::BytePermit;
use super::error::ApiError;

/// The first size of a buffer: what a connection reads at once.
const FIRST_BYTES: usize = 64 * 1024;
/// The state of a decompressor: a window of 32 KiB, and its tables.
const DECODER_BYTES: usize = 96 * 1024;
/// Compressed bytes between two yields to other requests. Deflate makes at most 1,032 bytes of one: 4 MiB of these
/// are written in a few milliseconds.
const STEP_BYTES: usize = 4 * 1024;

/// Bytes of a body, and what they take from the budget.
#[derive(Debug)]
pub(super) struct BodyBuffer {
    bytes: Vec<u8>,
    /// What is needed beside `bytes`.
    overhead: usize,
    permit: BytePermit,
    /// How long the body is expected to become.
    expected: usize,
    bytes_max: usize,
}

impl BodyBuffer {
    /// An empty buffer for a body that is `expected` to be that long, and has at most `bytes_max` bytes.
    pub(super) fn new(permit: BytePermit, expected: usize, bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), overhead: 0, permit, expected, bytes_max }
    }

    /// Appends bytes of the body.
    ///
    /// # Errors
    /// When the body becomes too large, or the budget has no bytes for it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let length = self.bytes.len() + bytes.len();
        if length > self.bytes_max {
            return Err(ApiError::TooLarge { what: "the body", bytes_max: self.bytes_max });
        }
        if length > self.bytes.capacity() {
            // Doubled, so that a body is copied about once; no more than is expected, since that is paid for.
            let doubled = (2 * self.bytes.capacity()).max(FIRST_BYTES).min(self.expected);
            let capacity = length.max(doubled);
            self.permit.grow_to(self.overhead + capacity).map_err(ApiError::BodyBytes)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The body, and what it takes from the budget.
    pub(super) fn finish(self) -> (Bytes, BytePermit) {
        (self.bytes.into(), self.permit)
    }
}

/// Decompresses gzip into a buffer, which bounds and pays for the decompressed bytes.
#[derive(Debug)]
pub(super) struct GzipDecoder(MultiGzDecoder<Sink>);

/// Keeps the buffer's refusal, of which an [`io::Error`] could tell only the text.
#[derive(Debug)]
struct Sink {
    buffer: BodyBuffer,
    refusal: Option<ApiError>,
}

impl GzipDecoder {
    /// A decoder into `buffer`.
    ///
    /// # Errors
    /// When the budget has no bytes for it.
    pub(super) fn new(mut buffer: BodyBuffer) -> Result<Self, ApiError> {
        buffer.permit.grow_to(DECODER_BYTES).map_err(ApiError::BodyBytes)?;
        buffer.overhead = DECODER_BYTES;
        Ok(Self(MultiGzDecoder::new(Sink { buffer, refusal: None })))
    }

    /// Decompresses the next part of the body.
    ///
    /// # Errors
    /// As [`BodyBuffer::push`], and when it is not gzip.
    pub(super) async fn push(&mut self, compressed: &[u8]) -> Result<(), ApiError> {
        for part in compressed.chunks(STEP_BYTES) {
            let written = self.0.write_all(part);
            self.checked(written)?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The buffer with all of the body.
    ///
    /// # Errors
    /// As [`Self::push`], and when the end is missing.
    pub(super) fn finish(mut self) -> Result<BodyBuffer, ApiError> {
        let finished = self.0.try_finish();
        self.checked(finished)?;
        self.0.finish().map(|sink| sink.buffer).map_err(|_| ApiError::MalformedGzip)
    }

    fn checked(&mut self, written: io::Result<()>) -> Result<(), ApiError> {
        written.map_err(|_| {
            let refusal = self.0.get_mut().refusal.take();
            refusal.unwrap_or(ApiError::MalformedGzip)
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.buffer.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(refusal) => {
                self.refusal = Some(refusal);
                Err(io::ErrorKind::OutOfMemory.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
