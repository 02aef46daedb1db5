//! Logging to standard error, so that standard output has only answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, TelemetryConfig};

/// Starts logging to standard error. Only the first call in a process has an effect.
///
/// # Errors
/// When the filter is invalid.
pub fn init_logs(config: &TelemetryConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| format!("RUST_LOG: cannot parse {:?}: {error}", config.log))?;
    // Colours are for people; in a file or a pipe they are noise.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // If standard error is closed, the subscriber would report that with `eprintln!`, which panics
        // in the task that logs. Losing the line is the lesser evil.
        .log_internal_errors(false)
        .with_ansi(colours);
    // Fails if logging was started before, which the doc above promises to ignore.
    let _ = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
