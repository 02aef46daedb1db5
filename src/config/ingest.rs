//! Settings of ingest.

use clap::Args;

/// Settings of ingest.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Ingest")]
pub struct IngestConfig {
    /// Maximum size of an event's payload, in bytes
    #[arg(long, env = "MAX_EVENT_BYTES", value_name = "BYTES", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    pub max_event_bytes: u32,
    /// Maximum size of a batch's body, in bytes
    #[arg(long, env = "MAX_BATCH_BYTES", value_name = "BYTES", default_value_t = 5_242_880, value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    pub max_batch_bytes: u32,
    /// Workers that move events from the journal to the store; unset: 4 per CPU
    #[arg(long, env = "WORKERS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: Option<u32>,
    /// Maximum events that a worker stores in one transaction
    #[arg(long, env = "STORE_BATCH_EVENTS", value_name = "EVENTS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub store_batch_events: u32,
}

impl IngestConfig {
    /// The number of workers: the setting, or else four per CPU.
    pub fn worker_count(&self) -> usize {
        self.workers.map_or_else(|| 4 * num_cpus::get(), |workers| workers as usize)
    }
}
