//! Settings of rate limits.

use clap::Args;

/// Settings of rate limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Rate limits")]
pub struct LimitConfig {
    /// Events per minute for an organisation without a limit of its own; a batch counts per event
    #[arg(long, env = "RATE_LIMIT_PER_MINUTE", value_name = "EVENTS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rate_limit_per_minute: u32,
}
