//! Settings of the guard of free disk space.

use clap::Args;

const MIB: u64 = 1024 * 1024;

/// Settings of the guard of free disk space: of the journal's file system and, without DATABASE_URL, of the database's.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Disk")]
pub struct DiskConfig {
    /// Free disk space, in MiB, below which the log and the health report warn; 0 for no warning
    #[arg(long, env = "DISK_FREE_WARN_MIB", value_name = "MIB", default_value_t = 2_048, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub disk_free_warn_mib: u64,
    /// Free disk space, in MiB, below which posts of events get 503 storage_low and the server is not ready, at most
    /// DISK_FREE_WARN_MIB; 0 takes events until the disk is full
    #[arg(long, env = "DISK_FREE_MIN_MIB", value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub disk_free_min_mib: u64,
}

/// Settings of the guard contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "DISK_FREE_MIN_MIB must be at most DISK_FREE_WARN_MIB, so that there is a warning before events are refused"
)]
pub struct DiskError;

impl DiskConfig {
    /// Checks that the warning comes before the stop.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), DiskError> {
        if self.disk_free_min_mib <= self.disk_free_warn_mib { Ok(()) } else { Err(DiskError) }
    }

    /// Free bytes below which there is a warning.
    pub fn warn_bytes(&self) -> u64 {
        self.disk_free_warn_mib * MIB
    }

    /// Free bytes below which no events are taken.
    pub fn min_bytes(&self) -> u64 {
        self.disk_free_min_mib * MIB
    }
}
