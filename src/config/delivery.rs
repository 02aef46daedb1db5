//! How webhooks are sent.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{DestinationConfig, parse_wait};
use crate::domain::RetrySchedule;

/// How webhooks are sent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct DeliveryConfig {
    /// Where they may go.
    #[command(flatten)]
    pub destinations: DestinationConfig,
    /// A PEM file of certificates that receivers are trusted by beside the system's, as of a private CA
    #[arg(long, env = "WEBHOOK_CA_FILE", value_name = "FILE")]
    pub webhook_ca_file: Option<PathBuf>,
    /// Waits between the attempts of a delivery; after the last one it becomes a dead letter
    #[arg(
        long,
        env = "RETRY_SCHEDULE",
        value_name = "DURATIONS",
        default_value = "5s,5m,30m,2h,5h,10h,14h,20h,24h"
    )]
    pub retry_schedule: RetrySchedule,
    /// A receiver that is not connected by then, TLS included, has failed
    #[arg(long, env = "DELIVERY_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_wait)]
    pub delivery_connect_timeout: Duration,
    /// A receiver that has not answered by then has failed
    #[arg(long, env = "DELIVERY_TIMEOUT", value_name = "DURATION", default_value = "15s", value_parser = parse_wait)]
    pub delivery_timeout: Duration,
    /// Webhooks in flight at once, all endpoints together
    #[arg(long, env = "DELIVERY_CONCURRENCY", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub delivery_concurrency: u32,
    /// Webhooks in flight at once to one endpoint, unless it has a max_concurrency of its own
    #[arg(long, env = "ENDPOINT_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub endpoint_concurrency: u32,
    /// An endpoint whose attempts have all failed for so long is disabled
    #[arg(long, env = "DISABLE_AFTER", value_name = "DURATION", default_value = "5d", value_parser = parse_wait)]
    pub disable_after: Duration,
    /// Deliveries held in memory at most; the others wait in the store
    #[arg(long, env = "DELIVERY_QUEUE_CAPACITY", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub delivery_queue_capacity: u32,
    /// How long before other servers take over what one that died held; at least four DELIVERY_TIMEOUTs
    #[arg(long, env = "DELIVERY_LEASE", value_name = "DURATION", default_value = "5m", value_parser = parse_wait)]
    pub delivery_lease: Duration,
    /// How often due retries are looked for
    #[arg(long, env = "DELIVERY_POLL_INTERVAL", value_name = "DURATION", default_value = "500ms", value_parser = parse_wait)]
    pub delivery_poll_interval: Duration,
    /// Readiness turns red when due deliveries or accepted events wait and nothing got on for so long
    #[arg(long, env = "DELIVERY_STALL_AFTER", value_name = "DURATION", default_value = "1m", value_parser = parse_wait)]
    pub delivery_stall_after: Duration,
}
