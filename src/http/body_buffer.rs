//! The buffer that a body is received into: bounded, and paid for as it grows.

use bytes::Bytes;

use super::byte_budget::BytePermit;
use super::error::ApiError;

/// The first size of a buffer: what a connection reads at once.
const FIRST_BYTES: usize = 64 * 1024;

/// The memory of what fills a buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Overhead {
    /// Bytes that it takes from the start.
    pub(super) fixed_bytes: usize,
    /// Bytes of its output that it keeps at most, as a window over them.
    pub(super) window_bytes_max: usize,
}

/// Bytes of a body, and what they take from the budget.
#[derive(Debug)]
pub(super) struct BodyBuffer {
    bytes: Vec<u8>,
    /// What is needed beside `bytes`.
    overhead: Overhead,
    permit: BytePermit,
    /// How long the body is expected to become.
    expected: usize,
    bytes_max: usize,
}

impl BodyBuffer {
    /// An empty buffer for a body that is `expected` to be that long, and has at most `bytes_max` bytes.
    pub(super) fn new(permit: BytePermit, expected: usize, bytes_max: usize) -> Self {
        let overhead = Overhead::default();
        Self { bytes: Vec::new(), overhead, permit, expected, bytes_max }
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
            self.pay_for(capacity)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds the memory of what fills the buffer.
    ///
    /// # Errors
    /// When the budget has no bytes for it.
    pub(super) fn add_overhead(&mut self, overhead: Overhead) -> Result<(), ApiError> {
        self.overhead = overhead;
        self.pay_for(self.bytes.capacity())
    }

    fn pay_for(&mut self, capacity: usize) -> Result<(), ApiError> {
        let Overhead { fixed_bytes, window_bytes_max } = self.overhead;
        let bytes = fixed_bytes + capacity + capacity.min(window_bytes_max);
        self.permit.grow_to(bytes).map_err(ApiError::BodyBytes)
    }

    /// The body, and what it takes from the budget.
    pub(super) fn finish(self) -> (Bytes, BytePermit) {
        (self.bytes.into(), self.permit)
    }
}
