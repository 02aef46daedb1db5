//! The durable queue in front of the store.

use clap::Args;

/// The durable queue in front of the store, at `DATA_DIR/journal`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Journal")]
pub struct JournalConfig {
    /// Requests that may wait for the journal's next sync; more get 503
    #[arg(long, env = "QUEUE_CAPACITY", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub queue_capacity: u32,
    /// Mebibytes on disk that may wait for the store, two segments at least; a full journal answers 503
    #[arg(long, env = "JOURNAL_MAX_MIB", default_value_t = 10_240, value_parser = clap::value_parser!(u64).range(32..=1_000_000_000))]
    pub journal_max_mib: u64,
    /// Mebibytes in one segment file, preallocated
    #[arg(long, env = "JOURNAL_SEGMENT_MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..=1024))]
    pub journal_segment_mib: u64,
}
