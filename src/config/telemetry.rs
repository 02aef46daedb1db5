//! Logs.

use clap::{Args, ValueEnum};

/// Logs, written to standard error.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct TelemetryConfig {
    /// Which log lines are written: a level, or levels by module as in hookgate=debug,sqlx=warn
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How they are written
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}
