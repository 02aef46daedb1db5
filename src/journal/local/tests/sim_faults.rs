//! What the simulated disk does wrong.

use std::ops::Range;
use std::path::PathBuf;

/// No fault.
pub(super) const NO_FAULTS: Faults = Faults {
    short: None,
    interrupted: false,
    failing_writes: false,
    failing_syncs: false,
    hanging_syncs: false,
    failing_checkpoints: false,
    full_from: None,
    full_beside: None,
    unreadable: None,
    unreadable_checkpoint: false,
    unopenable: None,
    flaky_reads: None,
    failing_names: false,
    failing_frees: false,
    failing_dir_syncs: false,
    lock_is_lost: false,
    unlisted_quarantine: false,
    no_space: false,
    no_descriptors: false,
    no_memory: false,
    power_fails_at: None,
    free_bytes: None,
};

/// The faults to simulate.
#[derive(Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "faults come in any combination")]
pub(super) struct Faults {
    /// Most bytes that one call transfers.
    pub(super) short: Option<usize>,
    /// Every other read and write is interrupted by a signal.
    pub(super) interrupted: bool,
    /// Writes to segments fail with `EIO`.
    pub(super) failing_writes: bool,
    /// Syncs of segments fail with `EIO`, and claim that nothing is left to sync.
    pub(super) failing_syncs: bool,
    /// Syncs of segments do not return, as long as the fault lasts.
    pub(super) hanging_syncs: bool,
    /// Writes to other files, that is to the checkpoint, fail with `EIO`.
    pub(super) failing_checkpoints: bool,
    /// No byte of a segment from this offset on can be written: `ENOSPC`, as on a file system that never overwrites in
    /// place.
    pub(super) full_from: Option<usize>,
    /// No byte of any file can be written while there is a file with this in its name: `ENOSPC`.
    pub(super) full_beside: Option<&'static str>,
    /// Reads of segments that touch these bytes fail with `EIO`.
    pub(super) unreadable: Option<Range<usize>>,
    /// Reads of other files, that is of the checkpoint, fail with `EIO`.
    pub(super) unreadable_checkpoint: bool,
    /// Opening the file of this path fails with `EIO`.
    pub(super) unopenable: Option<PathBuf>,
    /// One in so many reads fails with `EIO`; the next try works.
    pub(super) flaky_reads: Option<u64>,
    /// Segments cannot be renamed or removed: `EIO`.
    pub(super) failing_names: bool,
    /// Segments with records cannot be renamed: `EIO`. Spares and kept ones can.
    pub(super) failing_frees: bool,
    /// Directories cannot be synced: `EIO`.
    pub(super) failing_dir_syncs: bool,
    /// Another directory has taken the name of the locked one.
    pub(super) lock_is_lost: bool,
    /// The quarantine's directory cannot be listed: `EIO`.
    pub(super) unlisted_quarantine: bool,
    /// No file grows: `ENOSPC`.
    pub(super) no_space: bool,
    /// No file and no directory can be opened: `EMFILE`.
    pub(super) no_descriptors: bool,
    /// No file can be renamed: `ENOMEM`.
    pub(super) no_memory: bool,
    /// The number of the first call that fails because the power has failed.
    pub(super) power_fails_at: Option<u64>,
    /// What the disk says it has left, if not all there is.
    pub(super) free_bytes: Option<u64>,
}
