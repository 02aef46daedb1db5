//! Settings of rate limits.

use clap::Args;

/// Settings of rate limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Rate limits")]
pub struct LimitConfig {
    /// Events per minute for an organisation without a limit of its own; a batch counts per event
    #[arg(long, env = "RATE_LIMIT_PER_MINUTE", value_name = "EVENTS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rate_limit_per_minute: u32,
    /// Changes per minute by the management API for each organisation: endpoints, keys, secrets, retries,
    /// replays; a sixth of them at once. An operator's key may make ten times as many
    #[arg(long, env = "WRITE_RATE_LIMIT_PER_MINUTE", value_name = "WRITES", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub write_rate_limit_per_minute: u32,
    /// Lists and look-ups per minute for each organisation; a sixth of them at once. An operator's key may make
    /// ten times as many
    #[arg(long, env = "READ_RATE_LIMIT_PER_MINUTE", value_name = "READS", default_value_t = 6000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub read_rate_limit_per_minute: u32,
    /// Lists and look-ups in progress for each organisation, and for each operator's key. More wait for half a
    /// second and get 429 too_many_reads. A caller that uses connections for reads gets another one only while
    /// more than twice as many are free
    #[arg(long, env = "READS_PER_ORG", value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub reads_per_org: u32,
    /// Long polls, event streams and exports that are open at once, at most half of CONNECTIONS_MAX; further ones
    /// get 503 streams_exhausted
    #[arg(long, env = "STREAMS_MAX", value_name = "COUNT", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub streams_max: u32,
    /// The same for each organisation, and for the operators together, at most half of STREAMS_MAX; further ones
    /// get 429 too_many_streams
    #[arg(long, env = "STREAMS_PER_ORG", value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub streams_per_org: u32,
    /// Endpoints that an organisation without a limit of its own may have; one with more keeps them
    #[arg(long, env = "ENDPOINTS_MAX", value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub endpoints_max: u32,
    /// Active keys that an organisation without a limit of its own may have; one with more keeps them
    #[arg(long, env = "KEYS_MAX", value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub keys_max: u32,
}
