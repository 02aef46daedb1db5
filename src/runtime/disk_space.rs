//! How much room the disks have that this server writes to, as one level that many parts read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What the free space allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskLevel {
    /// There is enough.
    Ok,
    /// Somebody should make room.
    Low,
    /// No events are taken.
    Full,
}

/// The free space, as it was found last. Clones are the same.
#[derive(Clone, Debug)]
pub struct DiskSpace(Arc<LastSeen>);

#[derive(Debug)]
struct LastSeen {
    level: AtomicU8,
    free_bytes: AtomicU64,
}

impl Default for DiskSpace {
    fn default() -> Self {
        Self(Arc::new(LastSeen { level: AtomicU8::new(0), free_bytes: AtomicU64::new(u64::MAX) }))
    }
}

impl DiskSpace {
    /// What the free space allows.
    pub fn level(&self) -> DiskLevel {
        match self.0.level.load(Ordering::Relaxed) {
            0 => DiskLevel::Ok,
            1 => DiskLevel::Low,
            _ => DiskLevel::Full,
        }
    }

    /// Free bytes of the disk that has the least; `None` before they were found.
    pub fn free_bytes(&self) -> Option<u64> {
        let free = self.0.free_bytes.load(Ordering::Relaxed);
        (free < u64::MAX).then_some(free)
    }

    /// Notes what was found.
    pub fn set(&self, level: DiskLevel, free_bytes: u64) {
        self.0.free_bytes.store(free_bytes, Ordering::Relaxed);
        self.0.level.store(level as u8, Ordering::Relaxed);
    }
}
