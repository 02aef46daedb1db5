//! Settings of logs and metrics.

use clap::{Args, ValueEnum};

/// Settings of logs, which go to standard error, and of metrics.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and metrics")]
pub struct TelemetryConfig {
    /// Log filter: a level, or levels per module, such as hookgate=debug,sqlx=warn
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Format of log lines: text or json
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Metrics that GET /metrics shows: all, the core that the dashboards and alerts in deploy/ need, or off, with
    /// which the route answers 404
    #[arg(long, env = "METRICS", value_enum, default_value_t = MetricsSet::All)]
    pub metrics: MetricsSet,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}

/// Which metrics are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricsSet {
    /// None: there is no route
    Off,
    /// Those that dashboards and alerts need
    Core,
    /// Every one
    All,
}
