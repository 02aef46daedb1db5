//! How webhooks are sent.

use std::time::Duration;

use clap::Args;

use super::parse_wait;
use crate::domain::RetrySchedule;

/// How webhooks are sent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct DeliveryConfig {
    /// Allow endpoints with http:// URLs and at private, loopback and link-local addresses
    #[arg(long, env = "ALLOW_PRIVATE_ENDPOINTS", num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub allow_private_endpoints: bool,
    /// Waits between the attempts of a delivery; after the last one it becomes a dead letter
    #[arg(
        long,
        env = "RETRY_SCHEDULE",
        value_name = "DURATIONS",
        default_value = "5s,5m,30m,2h,5h,10h,14h,20h,24h"
    )]
    pub retry_schedule: RetrySchedule,
    /// A receiver that has not answered by then has failed
    #[arg(long, env = "DELIVERY_TIMEOUT", value_name = "DURATION", default_value = "15s", value_parser = parse_wait)]
    pub delivery_timeout: Duration,
    /// Webhooks under way at once, all endpoints together
    #[arg(long, env = "DELIVERY_CONCURRENCY", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub delivery_concurrency: u32,
    /// Webhooks under way at once to one endpoint, unless it has a max_concurrency of its own
    #[arg(long, env = "ENDPOINT_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub endpoint_concurrency: u32,
    /// An endpoint whose attempts have all failed for so long is disabled
    #[arg(long, env = "DISABLE_AFTER", value_name = "DURATION", default_value = "5d", value_parser = parse_wait)]
    pub disable_after: Duration,
    /// Deliveries held in memory at the most; the others wait in the store
    #[arg(long, env = "DELIVERY_QUEUE_CAPACITY", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub delivery_queue_capacity: u32,
    /// How often due retries are looked for
    #[arg(long, env = "DELIVERY_POLL_INTERVAL", value_name = "DURATION", default_value = "500ms", value_parser = parse_wait)]
    pub delivery_poll_interval: Duration,
}
