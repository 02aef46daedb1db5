//! Decoders of compressed bodies: gzip, deflate and zstd, into a buffer that bounds and pays for what comes out.
//!
//! A few kilobytes can become megabytes, so a decoder yields to other requests as it goes, and stops at the first byte
//! over the buffer's bound.

use std::fmt;
use std::io::{self, Write};

use flate2::write::{GzDecoder, ZlibDecoder};
use zstd::stream::raw::{DParameter, Decoder as ZstdStream, InBuffer, Operation, OutBuffer};

use super::body_buffer::{BodyBuffer, Overhead};
use super::error::ApiError;

/// The state of an inflater: a window of 32 KiB, and its tables.
const INFLATER_BYTES: usize = 96 * 1024;
/// The state of a zstd decoder beside its window: tables, a block of input, and [`PIECE_BYTES`].
const ZSTD_BYTES: usize = 384 * 1024;
/// The largest window of zstd, as RFC 8878, section 3.1.1.1.2, recommends: 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Decoded bytes that zstd hands over at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Compressed bytes between two yields to other requests. Deflate makes at most 1,032 bytes of one: 4 MiB of these
/// are written in a few milliseconds. Zstd makes more of one, and yields after each piece.
const STEP_BYTES: usize = 4 * 1024;

/// Members of a gzip body at most: one for each event of a batch, and some. Each costs a new inflater, whatever it
/// decodes to, and an empty one is 20 bytes.
const GZIP_MEMBERS_MAX: u32 = 1_024;

/// How a body is compressed, RFC 9110, section 8.4.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950; the name is that of the format within.
    Deflate,
    /// RFC 8878.
    Zstd,
}

/// Decompresses into a buffer.
pub(super) enum BodyDecoder {
    Gzip(GzipDecoder),
    Deflate(ZlibDecoder<Sink>),
    Zstd(Box<ZstdDecoder>),
}

/// Keeps the buffer's refusal, of which an [`io::Error`] could tell only the text.
#[derive(Debug)]
pub(super) struct Sink {
    buffer: BodyBuffer,
    refusal: Option<ApiError>,
}

/// Members of gzip, one after the other.
pub(super) struct GzipDecoder {
    /// Of the member that is read; `None` after an error.
    member: Option<GzDecoder<Sink>>,
    members: u32,
}

/// Frames of zstd, one after the other.
pub(super) struct ZstdDecoder {
    stream: ZstdStream<'static>,
    buffer: BodyBuffer,
    piece: Vec<u8>,
    /// Whether the last frame is complete.
    is_complete: bool,
}

impl Coding {
    /// The coding with this name, regardless of case.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match () {
            () if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            () if is("deflate") => Some(Self::Deflate),
            () if is("zstd") => Some(Self::Zstd),
            () => None,
        }
    }

    const fn overhead(self) -> Overhead {
        match self {
            Self::Gzip | Self::Deflate => {
                Overhead { fixed_bytes: INFLATER_BYTES, window_bytes_max: 0 }
            }
            // Of a large window only what was decoded is in memory: it is allocated and not yet written.
            Self::Zstd => {
                Overhead { fixed_bytes: ZSTD_BYTES, window_bytes_max: 1 << ZSTD_WINDOW_LOG_MAX }
            }
        }
    }
}

impl BodyDecoder {
    /// A decoder into `buffer`.
    ///
    /// # Errors
    /// When the budget has no bytes for it.
    pub(super) fn new(coding: Coding, mut buffer: BodyBuffer) -> Result<Self, ApiError> {
        buffer.add_overhead(coding.overhead())?;
        Ok(match coding {
            Coding::Gzip => Self::Gzip(GzipDecoder::new(Sink { buffer, refusal: None })),
            Coding::Deflate => Self::Deflate(ZlibDecoder::new(Sink { buffer, refusal: None })),
            Coding::Zstd => Self::Zstd(Box::new(ZstdDecoder::new(buffer)?)),
        })
    }

    /// Decompresses the next part of the body.
    ///
    /// # Errors
    /// As [`BodyBuffer::push`], and when it is not of the coding.
    pub(super) async fn push(&mut self, compressed: &[u8]) -> Result<(), ApiError> {
        for part in compressed.chunks(STEP_BYTES) {
            match self {
                Self::Gzip(decoder) => decoder.push(part)?,
                Self::Deflate(decoder) => {
                    let written = decoder.write_all(part);
                    decoder.get_mut().checked(written)?;
                }
                Self::Zstd(decoder) => decoder.push(part).await?,
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The buffer with all of the body.
    ///
    /// # Errors
    /// As [`Self::push`], and when the end is missing.
    pub(super) fn finish(self) -> Result<BodyBuffer, ApiError> {
        let malformed = |_| ApiError::MalformedEncoding;
        match self {
            Self::Gzip(mut decoder) => decoder.end_member().map(|sink| sink.buffer),
            Self::Deflate(mut decoder) => {
                let finished = decoder.try_finish();
                decoder.get_mut().checked(finished)?;
                decoder.finish().map(|sink| sink.buffer).map_err(malformed)
            }
            Self::Zstd(decoder) if decoder.is_complete => Ok(decoder.buffer),
            Self::Zstd(_) => Err(ApiError::MalformedEncoding),
        }
    }
}

impl GzipDecoder {
    fn new(sink: Sink) -> Self {
        Self { member: Some(GzDecoder::new(sink)), members: 1 }
    }

    fn push(&mut self, mut compressed: &[u8]) -> Result<(), ApiError> {
        while !compressed.is_empty() {
            let member = self.member.as_mut().ok_or(ApiError::MalformedEncoding)?;
            let taken = member.write(compressed);
            let taken = member.get_mut().checked(taken)?;
            compressed = &compressed[taken..];
            // Of what follows a whole member it takes nothing.
            if taken == 0 {
                if self.members == GZIP_MEMBERS_MAX {
                    return Err(ApiError::MalformedEncoding);
                }
                self.members += 1;
                let sink = self.end_member()?;
                self.member = Some(GzDecoder::new(sink));
            }
        }
        Ok(())
    }

    /// What the members until here were decoded into.
    fn end_member(&mut self) -> Result<Sink, ApiError> {
        let mut member = self.member.take().ok_or(ApiError::MalformedEncoding)?;
        let finished = member.try_finish();
        member.get_mut().checked(finished)?;
        member.finish().map_err(|_| ApiError::MalformedEncoding)
    }
}

impl ZstdDecoder {
    fn new(buffer: BodyBuffer) -> Result<Self, ApiError> {
        let mut stream = ZstdStream::new().map_err(ApiError::internal)?;
        let window = DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX);
        stream.set_parameter(window).map_err(ApiError::internal)?;
        Ok(Self { stream, buffer, piece: vec![0; PIECE_BYTES], is_complete: false })
    }

    async fn push(&mut self, compressed: &[u8]) -> Result<(), ApiError> {
        let mut input = InBuffer::around(compressed);
        loop {
            let mut output = OutBuffer::around(&mut self.piece[..]);
            let run = self.stream.run(&mut input, &mut output);
            // What it expects next: nothing at the end of a frame.
            self.is_complete = run.map_err(|_| ApiError::MalformedEncoding)? == 0;
            let decoded = output.as_slice();
            let may_have_more = decoded.len() == PIECE_BYTES;
            self.buffer.push(decoded)?;
            if input.pos() == compressed.len() && (!may_have_more || self.is_complete) {
                return Ok(());
            }
            if may_have_more {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Sink {
    fn checked<T>(&mut self, written: io::Result<T>) -> Result<T, ApiError> {
        written.map_err(|_| self.refusal.take().unwrap_or(ApiError::MalformedEncoding))
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

impl fmt::Debug for BodyDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Gzip(…)",
            Self::Deflate(_) => "Deflate(…)",
            Self::Zstd(_) => "Zstd(…)",
        })
    }
}
