//! How much a tenant may send.

use clap::Args;

/// How much a tenant may send.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Rate limits")]
pub struct LimitConfig {
    /// Events a minute for an organisation that has no limit of its own; a batch costs its length
    #[arg(long, env = "RATE_LIMIT_PER_MINUTE", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rate_limit_per_minute: u32,
}
