//! How keys are verified.

use std::time::Duration;

use clap::Args;

use super::{parse_duration, parse_wait};

/// How keys are verified.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API keys")]
pub struct AuthConfig {
    /// A verified key is taken from the cache for this long before its row is read again
    #[arg(long, env = "AUTH_CACHE_TTL", value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub auth_cache_ttl: Duration,
    /// Keys in the cache at most
    #[arg(long, env = "AUTH_CACHE_CAPACITY", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub auth_cache_capacity: u64,
    /// How often changed keys are looked for: how long a revoked key may still work elsewhere
    #[arg(long, env = "AUTH_POLL_INTERVAL", value_name = "DURATION", default_value = "500ms", value_parser = parse_wait)]
    pub auth_poll_interval: Duration,
    /// Unknown or wrong keys that an address may present in a minute; more get 429 unless they are
    /// known to be good
    #[arg(long, env = "FAILED_KEYS_PER_MINUTE", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub failed_keys_per_minute: u32,
}
