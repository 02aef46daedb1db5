//! Settings of the journal.

use std::time::Duration;

use clap::Args;

use super::parse_duration;

/// Settings of the journal, the durable queue in `DATA_DIR/journal`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Journal")]
pub struct JournalConfig {
    /// Maximum requests that wait for the journal's next sync; more get 503. One organisation may have four
    /// fifths of them
    #[arg(long, env = "QUEUE_CAPACITY", value_name = "REQUESTS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub queue_capacity: u32,
    /// How long events stay in the journal after they are stored, so that `hookgate journal replay` can store them
    /// again; given up early when JOURNAL_MAX_MIB or the disk needs the space; 0 keeps none
    #[arg(long, env = "JOURNAL_RETENTION", value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    pub journal_retention: Duration,
    /// Maximum size of the journal in MiB, at least two segments; when it is full, posts get 503. An
    /// organisation whose events are not stored may use four times what is then free, and gets 429 beyond it
    #[arg(long, env = "JOURNAL_MAX_MIB", value_name = "MIB", default_value_t = 10_240, value_parser = clap::value_parser!(u64).range(32..=1_000_000_000))]
    pub journal_max_mib: u64,
    /// Start although the database lacks events that the journal counts as stored, and go on without them
    #[arg(long)]
    pub accept_older_store: bool,
    /// Size of a preallocated segment file in MiB (8 to 1024)
    #[arg(long, env = "JOURNAL_SEGMENT_MIB", value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..=1024))]
    pub journal_segment_mib: u64,
}
