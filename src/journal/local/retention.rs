//! Retention: segments whose records are all stored are kept for a while, so that a store that lost its last
//! transactions can be given them again.
//!
//! A segment is kept by renaming its file, which neither start nor reader look into. It is given up once its time is
//! over, or earlier, the oldest first, when its space is needed: for the next segment, under the journal's size, or
//! because the disk is short. What is given up becomes a spare, as without retention, unless it is the disk's space
//! that is missing.
//!
//! Within a run the time is measured by the monotonic clock: a step of the wall clock gives nothing up. How long a segment
//! was kept before the start, the wall clock alone can tell.
//!
//! The new name is not synced: a file that has its old name again after a power failure is a segment below the
//! checkpoint, and is kept once more.
//!
//! A segment with a record that could be neither decoded nor copied is held instead, whatever needs its space, until
//! somebody removes it. A replay by a version that knows the record reads it.

use std::io;
use std::time::Duration;

use super::format::{held_name, kept_name};
use super::freeing::{Freed, note_failure};
use super::segment_manager::{RETRY_INTERVAL, SegmentManager, remaining};
use super::segments::{KeptSegment, Phase, Segment, SegmentUnavailable, State};
use crate::runtime::Stopwatch;

/// Kept segments are removed while the disk has space for fewer segments than this. A store on the same disk needs
/// space, too.
const FREE_SEGMENTS_MIN: u64 = 16;
/// How often the space on the disk is looked at.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

impl SegmentManager {
    /// Keeps a segment whose records are all stored.
    pub(super) fn keep(&self, segment: &Segment) -> io::Result<Freed> {
        let Segment { first_seq, bytes, name: old_name, .. } = segment;
        let stored_at = self.clock.now();
        let name = kept_name(*first_seq, self.id, stored_at);
        match self.fs.rename(&self.dir.join(old_name), &self.dir.join(&name)) {
            Ok(()) => {}
            // Somebody has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Freed::Spare(None)),
            Err(error) => return Err(error),
        }
        let given_up_at = self.clock.monotonic().plus(self.retention);
        Ok(Freed::Kept(KeptSegment { first_seq: *first_seq, name, bytes: *bytes, given_up_at }))
    }

    /// Holds a segment with records that could be neither decoded nor copied.
    pub(super) fn hold(&self, segment: &Segment) -> io::Result<Freed> {
        let name = held_name(segment.first_seq, self.id, self.clock.now());
        match self.fs.rename(&self.dir.join(&segment.name), &self.dir.join(&name)) {
            Ok(()) => {}
            // Somebody has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Freed::Spare(None)),
            Err(error) => return Err(error),
        }
        // Under its old name it would be given up after a power failure: nothing else tells that it is held.
        if let Err(error) = self.open_dir.sync() {
            tracing::error!(file = name, %error, "cannot sync the journal's directory");
        }
        Ok(Freed::Held)
    }

    /// The time until the oldest kept segment is to be given up; `None` if none is kept.
    pub(super) fn give_up_in(&self, state: &State) -> Option<Duration> {
        let oldest = state.kept.front().filter(|_| state.phase < Phase::ManagerStops)?;
        let is_next_segment_missing = state.spares.is_empty() && !self.segments.may_grow(state);
        if is_next_segment_missing || self.needs_space || state.disk_full.is_some() {
            return Some(remaining(self.give_up_failed, RETRY_INTERVAL));
        }
        let left = oldest.given_up_at.since(self.clock.monotonic());
        Some(left.max(remaining(self.give_up_failed, RETRY_INTERVAL)))
    }

    /// Gives up the oldest kept segment, which was taken from the list.
    pub(super) fn give_up(&mut self, kept: KeptSegment) {
        let state = self.segments.lock();
        let (is_disk_full, is_spare_missing) = (state.disk_full.is_some(), state.spares.is_empty());
        drop(state);
        // Beside another spare, one more would only keep the disk's space.
        let is_short = is_disk_full || self.needs_space;
        let is_whole = kept.bytes == self.segment_bytes && (is_spare_missing || !is_short);
        match self.reuse(&kept.name, is_whole) {
            Ok(Freed::Spare(spare)) => {
                self.give_up_failed = None;
                self.needs_space = false;
                self.disk_checked = None;
                self.add_freed(spare);
                if is_disk_full {
                    self.segments.lock().disk_full = None;
                    self.queue.reopen();
                }
            }
            Ok(Freed::Kept(_) | Freed::Held) => {}
            Err(error) => {
                note_failure(&mut self.give_up_failed, &kept.name, &error);
                let mut state = self.segments.lock();
                state.kept.push_front(kept);
                let is_writer_waiting = state.spares.is_empty();
                drop(state);
                if is_writer_waiting {
                    self.segments.fail_spare(SegmentUnavailable::Unprepared);
                }
            }
        }
    }

    /// Looks, from time to time, whether the disk is short of space while segments are kept.
    pub(super) fn check_disk(&mut self) {
        let is_kept = !self.segments.lock().kept.is_empty();
        if !is_kept || !remaining(self.disk_checked, DISK_INTERVAL).is_zero() {
            return;
        }
        self.disk_checked = Some(Stopwatch::start());
        if let Ok(free) = self.fs.free_bytes(&self.dir) {
            // Only giving one up resets it: a quota may be short although the disk is not.
            self.needs_space |= free < FREE_SEGMENTS_MIN.saturating_mul(self.segment_bytes);
        }
    }
}
