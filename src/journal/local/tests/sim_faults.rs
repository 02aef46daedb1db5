//! What the simulated disk does wrong.

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
    /// Writes to other files, that is to the checkpoint, fail with `EIO`.
    pub(super) failing_checkpoints: bool,
    /// No file grows: `ENOSPC`.
    pub(super) no_space: bool,
    /// No file and no directory can be opened: `EMFILE`.
    pub(super) no_descriptors: bool,
    /// No file can be renamed: `ENOMEM`.
    pub(super) no_memory: bool,
    /// The number of the first call that fails because the power has failed.
    pub(super) power_fails_at: Option<u64>,
}
