//! Freeing: what becomes of a segment whose records are all stored. It is kept or held ([`super::retention`]), or its file
//! is used again.

use std::io;

use super::segment_manager::{SPARES_MAX, SegmentManager};
use super::segments::{KeptSegment, Segment, Spare};
use crate::runtime::Stopwatch;

/// What has become of a segment that was freed.
pub(super) enum Freed {
    /// It is kept for a replay.
    Kept(KeptSegment),
    /// It is held.
    Held,
    /// It is a spare now; `None` if it was removed.
    Spare(Option<Spare>),
}

impl SegmentManager {
    /// Frees a segment, which was taken from the list.
    pub(super) fn free(&mut self, segment: Segment) {
        let freed = if self.quarantine.holds.is_held(segment.first_seq) {
            self.hold(&segment)
        } else if self.retention.is_zero() {
            self.reuse(&segment.name, segment.bytes == self.segment_bytes)
        } else {
            self.keep(&segment)
        };
        match freed {
            Ok(Freed::Kept(kept)) => {
                self.free_failed = None;
                self.segments.lock().kept.push_back(kept);
            }
            Ok(Freed::Held) => {
                self.free_failed = None;
                self.quarantine.holds.end(segment.first_seq);
                self.segments.lock().held.add(segment.bytes);
            }
            Ok(Freed::Spare(spare)) => {
                self.free_failed = None;
                self.add_freed(spare);
            }
            Err(error) => {
                note_failure(&mut self.free_failed, &segment.name, &error);
                self.segments.lock().live.push_front(segment);
            }
        }
    }

    /// Makes a spare of a file that is not needed any more, or removes it.
    pub(super) fn reuse(&mut self, old_name: &str, is_whole: bool) -> io::Result<Freed> {
        let reuse = is_whole && self.segments.lock().spares.len() < SPARES_MAX;
        let path = self.dir.join(old_name);
        // A spare that could not be opened would be of no use. Removing it needs no file descriptor.
        let file = if reuse { self.fs.open(&path).ok() } else { None };
        let name = self.spare_name();
        let freed = match file {
            Some(file) => {
                let renamed = self.fs.rename(&path, &self.dir.join(&name));
                renamed.map(|()| Some(Spare { name, file }))
            }
            None => self.fs.remove(&path).map(|()| None),
        };
        match freed {
            // Somebody has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Freed::Spare(None)),
            freed => freed.map(Freed::Spare),
        }
    }

    /// Adds what has become of a freed segment, once its new name is durable. A file whose name may not be is not
    /// reused: after a power failure it is a segment again.
    pub(super) fn add_freed(&mut self, spare: Option<Spare>) {
        if let Err(error) = self.open_dir.sync() {
            tracing::error!(%error, "cannot sync the journal's directory");
            if let Some(spare) = spare {
                let _ = self.fs.remove(&self.dir.join(&spare.name));
            }
            self.segments.lock().files -= 1;
            return;
        }
        match spare {
            Some(spare) => self.add_spare(spare),
            None => self.segments.lock().files -= 1,
        }
    }
}

/// Notes in `failed` that a file could not be freed. It is tried again.
pub(super) fn note_failure(failed: &mut Option<Stopwatch>, name: &str, error: &io::Error) {
    if failed.is_none() {
        tracing::error!(file = name, %error, "cannot free a journal segment, retrying every second");
    }
    *failed = Some(Stopwatch::start());
}
