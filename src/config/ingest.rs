//! What is taken in, and by how many workers it is stored.

use clap::Args;

/// What is taken in, and by how many workers it is stored.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Ingest")]
pub struct IngestConfig {
    /// Bytes in one event's payload at most
    #[arg(long, env = "MAX_EVENT_BYTES", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub max_event_bytes: u32,
    /// Workers that move events from the journal to the store; unset: 4 x CPUs
    #[arg(long, env = "WORKERS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: Option<u32>,
    /// Events a worker stores in one transaction at most
    #[arg(long, env = "STORE_BATCH_EVENTS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub store_batch_events: u32,
}

impl IngestConfig {
    /// The number of workers: as set, or else four for every CPU.
    pub fn worker_count(&self) -> usize {
        self.workers.map_or_else(|| 4 * num_cpus::get(), |workers| workers as usize)
    }
}
