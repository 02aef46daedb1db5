//! Settings of logs and metrics.

use clap::{Args, ValueEnum};

use super::units::parse_ratio;

/// Settings of logs, which go to standard error, and of metrics.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and metrics")]
pub struct TelemetryConfig {
    /// Log filter: a level, or levels per module, such as hookgate=debug,sqlx=warn
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Format of log lines: text, json, or auto for text on a terminal and JSON elsewhere
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// Share of requests for which a line is logged when they are answered, from 0 for none to 1 for all; its target is
    /// hookgate::access
    #[arg(long, env = "ACCESS_LOG_RATIO", value_name = "RATIO", default_value_t = 0.0, value_parser = parse_ratio)]
    pub access_log_ratio: f64,
    /// Metrics that GET /metrics shows: all, the core that the dashboards and alerts in deploy/ need, or off, with
    /// which the route answers 404
    #[arg(long, env = "METRICS", value_enum, default_value_t = MetricsSet::All)]
    pub metrics: MetricsSet,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, one JSON object per line elsewhere
    Auto,
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
