//! Settings of authentication.

use std::time::Duration;

use clap::Args;

use super::{parse_duration, parse_wait};

/// Settings of authentication.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API keys")]
pub struct AuthConfig {
    /// Time after which the row of a key in use is read again, while the key is used as it was
    #[arg(long, env = "AUTH_CACHE_TTL", value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub auth_cache_ttl: Duration,
    /// The longest time for which a key is used without its row being read again, while the store is
    /// away; at least AUTH_CACHE_TTL
    #[arg(long, env = "AUTH_CACHE_STALE_MAX", value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    pub auth_cache_stale_max: Duration,
    /// Maximum keys in the cache, with 1 KiB each
    #[arg(long, env = "AUTH_CACHE_CAPACITY", value_name = "KEYS", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub auth_cache_capacity: u64,
    /// Interval of polling for changed keys: the longest time that a revoked key works on other servers
    #[arg(long, env = "AUTH_POLL_INTERVAL", value_name = "DURATION", default_value = "500ms", value_parser = parse_wait)]
    pub auth_poll_interval: Duration,
    /// Maximum invalid keys per client address and minute; beyond that, keys that are not in the cache
    /// get 429
    #[arg(long, env = "FAILED_KEYS_PER_MINUTE", value_name = "KEYS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub failed_keys_per_minute: u32,
}
