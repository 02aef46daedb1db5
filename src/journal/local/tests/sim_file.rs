//! A file on the simulated disk.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::sim_disk::{SECTOR_BYTES, SimDisk, State, is_segment};
use super::sim_faults::Faults;
use crate::journal::local::FileHandle;

/// An error of the device.
pub(super) fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// An open file.
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) file: usize,
    pub(super) is_segment: bool,
}

impl SimFile {
    /// How many of `bytes` bytes one call may transfer.
    fn moved(state: &State, bytes: usize) -> io::Result<usize> {
        if state.faults.interrupted && state.calls.is_multiple_of(2) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(state.faults.short.map_or(bytes, |short| short.min(bytes)))
    }
}

impl FileHandle for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.call()?;
        let count = Self::moved(&state, bytes.len())?;
        let Faults { failing_writes, failing_checkpoints, .. } = state.faults;
        let fails = if self.is_segment { failing_writes } else { failing_checkpoints };
        if fails {
            return Err(eio());
        }
        let start = usize::try_from(offset).unwrap();
        let mut end = start + count;
        if let Some(full_from) = state.faults.full_from.filter(|_| self.is_segment) {
            if start >= full_from {
                return Err(io::ErrorKind::StorageFull.into());
            }
            end = end.min(full_from);
        }
        if let Some(part) = state.faults.full_beside
            && state.names.keys().any(|path| path.to_str().unwrap().contains(part))
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let count = end - start;
        if state.faults.no_space && end > state.files[self.file].cached.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if end > state.files[self.file].cached.len() {
            state.files[self.file].cached.resize(end, 0);
            state.growths += 1;
            self.disk.0.grown.notify_all();
        }
        let file = &mut state.files[self.file];
        file.cached[start..end].copy_from_slice(&bytes[..count]);
        file.dirty.extend(start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
        Ok(count)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.call()?;
        let bytes = &state.files[self.file].cached;
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        let count = Self::moved(&state, buffer.len().min(bytes.len() - start))?;
        let Faults { unreadable, unreadable_checkpoint, flaky_reads, .. } = &state.faults;
        let touches = |range: &Range<usize>| start < range.end && range.start < start + count;
        let fails = if self.is_segment {
            unreadable.as_ref().is_some_and(touches)
        } else {
            *unreadable_checkpoint
        };
        if fails || flaky_reads.is_some_and(|one_in| state.calls.is_multiple_of(one_in)) {
            return Err(eio());
        }
        state.read_bytes += count as u64;
        let bytes = &state.files[self.file].cached;
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.call()?;
        while self.is_segment && state.faults.hanging_syncs {
            state.hanging += 1;
            self.disk.0.changed.notify_all();
            state = self.disk.0.changed.wait(state).unwrap();
            state.hanging -= 1;
        }
        let named = |(path, file): (&PathBuf, &usize)| *file == self.file && is_segment(path);
        state.syncs += u64::from(state.names.iter().any(named));
        let fails = self.is_segment && state.faults.failing_syncs;
        let file = &mut state.files[self.file];
        let dirty = std::mem::take(&mut file.dirty);
        if fails {
            return Err(eio());
        }
        file.durable.resize(file.cached.len(), 0);
        for sector in dirty {
            let start = (sector * SECTOR_BYTES).min(file.cached.len());
            let end = (start + SECTOR_BYTES).min(file.cached.len());
            file.durable[start..end].copy_from_slice(&file.cached[start..end]);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.call()?;
        let length = usize::try_from(bytes).unwrap();
        state.files[self.file].cached.resize(length, 0);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.disk.call()?;
        Ok(state.files[self.file].cached.len() as u64)
    }
}
